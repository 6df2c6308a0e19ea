"""SimCLR on stained tissue: views that differ as slides and laboratories do.

Tissue has no up and no left, so that views are mirrored and turned by right angles. Stains differ between laboratories
and within a slide: their amounts change (stain jitter), and the colour jitter of photographs is light, as colour tells
nuclei from their surroundings.

Source: stain jitter of Tellez et al. 2018 (arXiv 1808.05896); turns, flips and a light colour jitter as in Ciga et al.
2022 (arXiv 2011.13971). Reproduces no published table: images, network and budget are of one computer.

Command: simclr-jax train --workdir=runs/histology --config=histology --config.data.name=folder:PATCHES

Expected: not measured yet at full length; `simclr-jax evaluate` shows kNN and linear probe beside an untrained network.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N. Patches of about 32 pixels, a ResNet-18."""
    epochs = default.number_arguments(arg, epochs=100)["epochs"]
    config = default.get_config()
    config.data.name = "folder:patches"
    config.data.canvas_size = 32
    config.augment.turn_probability = 1.0
    config.augment.stain_strength = 0.05
    config.augment.color_jitter_strength = 0.25
    config.augment.grayscale_probability = 0.0
    config.augment.blur_probability = 0.1
    config.augment.crop_min_scale = 0.25
    config.method.temperature = 0.2
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 1e-2
    config.schedule.base_learning_rate = 1e-3
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = max(epochs / 10, 0.1)
    config.train.batch_size = 256
    config.train.num_epochs = float(epochs)
    config.train.evaluate_every_epochs = float(max(epochs // 10, 1))
    return config
