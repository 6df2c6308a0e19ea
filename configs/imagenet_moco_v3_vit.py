"""ImageNet with a ViT-S of patches of 16 pixels: MoCo v3.

Source: arXiv 2104.02057 and its released code, CONFIG.md: batch 4096, AdamW at 1.5e-4 per b/256 with a decay of 0.1,
40 epochs of warm-up, cosine to 0, 300 epochs, target decay 0.99 to 1, temperature 0.2, crops of at least 0.08 of the
area, 12 heads of attention, fixed positions, a projector of three layers, a predictor that ends in BatchNorm, and a
patch projection that stays random, which the paper found to keep training stable. Like their optimizer's, the decay is
of everything that is trained: biases, normalisations and the class token too. Images are normalised by ImageNet's mean
and deviation. Linear accuracy 73.2 % in the code's table; of a ViT-B (encoder.name=vit_base, encoder.num_heads=0)
76.7 %. With less memory: --config.train.batch_size=1024, a setting of theirs too.
Command: simclr-jax train --config=imagenet_moco_v3_vit --workdir=runs/imagenet_moco_v3_vit
Expected: the figures above; not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=300)["epochs"]
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    default.views_of_two_kinds(config)
    config.encoder.name = "vit_small"
    config.encoder.num_heads = 12
    config.encoder.positions = "sincos"
    config.encoder.freeze_patches = True
    config.encoder.mean = (0.485, 0.456, 0.406)
    config.encoder.std = (0.229, 0.224, 0.225)
    config.method = config_dict.ConfigDict()
    config.method.name = "moco_v3"
    config.method.num_proj_layers = 3
    config.method.proj_hidden_dim = 4096
    config.method.proj_out_dim = 256
    config.method.pred_hidden_dim = 4096
    config.method.pred_out_norm = "plain"
    config.method.temperature = 0.2
    config.method.target_decay = 0.99
    config.method.target_decay_schedule = "cosine"
    config.method.bn_per = "view"
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.1
    config.optimizer.decayed = "all"
    config.schedule.base_learning_rate = 1.5e-4
    config.schedule.warmup_epochs = 40.0
    config.train.batch_size = 4096
    return config
