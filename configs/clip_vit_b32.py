"""CLIP at its own size: a ViT-B of patches of 32 pixels, a text tower of 12 layers of 512, batches of 32,768 pairs.

Source: Radford et al. 2021 (arXiv 2103.00020), tables 18 and 20: batch 32,768, AdamW at 5e-4 with b2 0.98, epsilon 1e-6
and a decay of 0.2 on weights, 2,000 updates of warm-up, cosine to 0, 32 epochs of 400 million pairs, square crops of
224 pixels as the only augmentation. Differs: crops are of at least 0.9 of the picture, as open_clip has them, and are
not of a resized picture; views are flipped half of the time, which `--config.augment.flip_probability=0.0` ends. The
warm-up is given in epochs of 400 million pairs: of fewer, raise it.
A batch passes the towers in parts that fit with --config.train.num_chunks, whose gradient is exact (docs/aot.md).
Command: simclr-jax train --config=clip_vit_b32 --config.data.name=pairs:shards --workdir=runs/clip_vit_b32
Expected: 63.2 % zero-shot on ImageNet in the paper; not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """The recipe of CLIP's ViT-B/32."""
    config = default.get_config()
    default.train_on_pairs(config)
    config.data.canvas_size = 256
    config.text.vocab_size = 49408
    config.text.length = 77
    config.augment.image_size = 224
    config.augment.crop_min_scale = 0.9
    config.encoder.name = "vit_base"
    config.encoder.design = "clip"
    config.encoder.patch_size = 32
    config.encoder.position_grid = 7
    config.encoder.mean = (0.48145466, 0.4578275, 0.40821073)
    config.encoder.std = (0.26862954, 0.26130258, 0.27577711)
    config.encoder.dtype = "bfloat16"
    config.method.dtype = "bfloat16"  # of the text tower's activations
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.schedule.base_learning_rate = 5e-4
    config.schedule.warmup_epochs = 0.164
    config.train.batch_size = 32768
    config.train.num_epochs = 32.0
    return config
