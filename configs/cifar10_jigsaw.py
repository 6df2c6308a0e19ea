"""CIFAR-10 with a ResNet-18: the jigsaw puzzle, and with another method.name the relative location of tiles.

Source: arXiv 1603.09246, section 3 (from memory of the paper, not checked): batch 256, SGD 0.01, momentum 0.9, tiles of
64 pixels in cells of 75, on ImageNet with an AlexNet whose first layers nine tiles share. Differs: no recipe for
CIFAR-10 was published. Here a view is enlarged to 48 pixels, so that tiles of 14 are left, the optimizer and its rate
are those of `cifar10_rotation`, and a part of the views is grey, against colour fringes as a clue.
Command: simclr-jax train --config=cifar10_jigsaw --workdir=runs/cifar10_jigsaw
         (--config.method.name=patch_location runs with the same views)
Expected: not measured here; docs/history.md has all tasks on a small network.
"""

from ml_collections import config_dict

from configs import cifar10_rotation


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    config = cifar10_rotation.get_config(arg)
    config.augment.image_size = 48
    config.augment.grayscale_probability = 0.3
    config.method.name = "jigsaw"
    return config
