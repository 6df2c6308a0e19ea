"""ImageNet with a ResNet-50: SimCLRv2 pretraining.

Source: arXiv 2006.10029, section 3.1, and the README of google-research/simclr: batch 4096, 800 epochs, LARS
0.1*sqrt(b) (peak 6.4), 5 % warm-up, weight decay 1e-4, temperature 0.1, 3-layer head, multiplicative brightness. The
published 71.7 % linear includes a momentum memory that was never released; without it the authors report about 71.1 %.
Command: simclr-jax train --config=imagenet_v2 --workdir=runs/imagenet_v2   (--config=imagenet_v2:epochs=100)
Larger: --config.encoder.name=resnet152 --config.encoder.width_multiplier=3.0 --config.encoder.sk_ratio=0.0625
Expected: about 8.5 hours on 8 H200 by the roofline (not measured).
"""

from ml_collections import config_dict

from configs import imagenet_resnet50


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N; the warm-up is 5 % of them."""
    config = imagenet_resnet50.get_config(arg or "epochs=800")
    config.augment.brightness = "multiply"
    config.method.num_proj_layers = 3
    config.optimizer.weight_decay = 1e-4
    config.schedule.base_learning_rate = 0.1
    config.schedule.learning_rate_scaling = "sqrt"
    config.schedule.warmup_epochs = 0.05 * config.train.num_epochs
    return config
