"""CIFAR-10 with a ResNet-50: SimCLR paper, appendix B.9.

Source: arXiv 2002.05709, B.9: batch 1024 is best, up to 1000 epochs, LARS with a base rate of 0.5, 1.0 or 1.5 (linear),
temperature 0.5 best for long training, colour strength 0.5, no blur, weight decay 1e-6, 2-layer head; 94.0 % linear.
Command: simclr-jax train --config=cifar10_resnet50 --workdir=runs/cifar10_resnet50
Expected: about 80 minutes on one H200 by the roofline (not measured); 94.0 % linear in the paper.
"""

from ml_collections import config_dict

from configs import cifar10


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    config = cifar10.get_config(arg)
    config.encoder.name = "resnet50"
    config.method.num_proj_layers = 2
    config.optimizer.weight_decay = 1e-6
    config.train.batch_size = 1024
    return config
