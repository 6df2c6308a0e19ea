"""CIFAR-10 with a ViT-Ti of patches of 4 pixels: MoCo v3.

Source: no official setting for CIFAR exists. Everything but the data and the size is that of MoCo v3's ViT
(arXiv 2104.02057 and its code, see imagenet_moco_v3_vit): AdamW at 1.5e-4 per b/256 with a decay of 0.1 on all that is
trained, 40 epochs of warm-up, temperature 0.2, fixed positions, a frozen patch projection; views without blur, as
usual for CIFAR, and batch 1024 are choices of ours.
Command: simclr-jax train --config=cifar10_moco_v3_vit --workdir=runs/cifar10_moco_v3_vit
Expected: not measured here.
"""

from ml_collections import config_dict

from configs import default, imagenet_moco_v3_vit


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=1000)["epochs"]
    config = default.get_cifar10(epochs)
    published = imagenet_moco_v3_vit.get_config()
    config.augment.crop_sampler = "torchvision"
    with config.ignore_type():  # one number for all views in the default, here of each
        config.augment.color_jitter_strength = (0.4, 0.4, 0.2, 0.1)
        config.augment.solarize_probability = (0.0, 0.2)
    for section in ("encoder", "method", "optimizer", "schedule"):
        config[section] = published[section]
    config.encoder.name = "vit_tiny"
    config.encoder.num_heads = 0
    config.encoder.patch_size = 4
    config.encoder.position_grid = 8
    config.train.batch_size = 1024
    return config
