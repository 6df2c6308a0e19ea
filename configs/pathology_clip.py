"""CLIP on pathology pictures with captions, the recipe of PLIP and PathCLIP: an encoder that was trained before, tuned.

Pictures of a book or an atlas with their captions, or patches with sentences made of their labels, in a table that
`pairs:` reads. The image encoder starts from a run of this program on tissue (`configs/histology.py`, or weights of
`convert`); `locked=1` keeps it as it is (LiT), which suits a few thousand pairs.

Source: PLIP (Huang et al. 2023, Nature Medicine 29) and PathCLIP (Sun et al. 2024, arXiv 2305.15072) fine-tune OpenAI's
ViT-B/32 at 224 pixels with batch 128 and learning rates of 1e-5; here the encoder is a ResNet, the text tower is
trained from the start, and the rate is higher. LiT: Zhai et al. 2022 (arXiv 2111.07991).

Command: simclr-jax train --workdir=runs/plip --config=pathology_clip:runs/histology --config.data.name=pairs:atlas.csv

Expected: not measured, as no such table is at hand.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` is the run whose encoder is tuned, "" for none, and may end in ,locked=1."""
    workdir, locked = default.run_and_number(arg, "locked", highest=1)
    config = default.get_config()
    config.init.workdir = workdir or None
    default.train_on_pairs(config)
    config.data.canvas_size = 256
    config.text.length = 64
    config.augment.image_size = 224
    config.augment.crop_min_scale = 0.5
    config.augment.turn_probability = 1.0
    config.augment.stain_strength = 0.05
    config.encoder.name = "resnet50"
    config.encoder.stem = "imagenet"
    config.encoder.dtype = "bfloat16"
    config.encoder.norm = "frozen" if locked else "batch"
    config.method.text_width = 256
    config.method.text_num_layers = 6
    config.method.text_num_heads = 4
    config.method.proj_out_dim = 256
    config.optimizer.weight_decay = 0.1
    config.schedule.base_learning_rate = 1e-4
    config.schedule.warmup_epochs = 1.0
    config.train.freeze_encoder = bool(locked)
    config.train.batch_size = 128
    config.train.num_epochs = 20.0
    return config
