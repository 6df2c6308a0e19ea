"""CIFAR-10 with a ResNet-18: rotation, and with another method.name the other pretext tasks of one view.

Source: arXiv 1803.07728, section 4.1 (from memory of the paper, not checked): batch 128, SGD 0.1 with Nesterov's
momentum 0.9, weight decay 5e-4, 100 epochs, crops and flips only. Differs: their network in network of four blocks is
the ResNet-18 of the other recipes, and a cosine takes the place of their drops to a fifth. They report 89.06 % for a
classifier of three layers on the second block's features, with all labels.
Command: simclr-jax train --config=cifar10_rotation --workdir=runs/cifar10_rotation
         (--config.method.name=autoencoder and --config.method.name=cpc run with the same views)
Expected: not measured here; docs/history.md has all tasks on a small network.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=100)["epochs"]
    config = default.get_cifar10(epochs)
    default.crop_and_flip(config)
    config.augment.crop_sampler = "torchvision"
    config.augment.crop_min_scale = 0.35
    config.method = config_dict.ConfigDict()
    config.method.name = "rotation"  # its other keys have the method's own defaults
    config.optimizer.name = "sgd"
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decayed = "all"
    config.schedule.base_learning_rate = 0.1
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = 0.0
    config.train.batch_size = 128
    return config
