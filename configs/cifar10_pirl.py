"""CIFAR-10 with a ResNet-18: PIRL, a memory of all 50,000 images and shuffled tiles.

Source: arXiv 1912.01991 and the recipe of VISSL, for ImageNet: SGD 0.12 at batch 1024, cosine, weight decay 1e-4, K
32000, temperature 0.07; of its later recipe with an MLP head: cross entropy, temperature 0.1. Differs: no recipe for
CIFAR-10 was published; the head is linear, K is 4096, batch, weight decay and views are those of the other recipes for
CIFAR-10, tiles are 9 of 32 pixels.
Command: simclr-jax train --config=cifar10_pirl --workdir=runs/cifar10_pirl
Expected: not measured here; docs/history.md has a run with a small network.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.augment.crop_min_scale = 0.2
    config.method = config_dict.ConfigDict()
    config.method.name = "pirl"
    config.method.objective = "cross_entropy"
    config.method.temperature = 0.1
    config.method.num_negatives = 4096
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 5e-4
    config.schedule.base_learning_rate = 0.12
    config.schedule.learning_rate_scaling = "linear"
    config.schedule.warmup_epochs = 0.0
    config.schedule.final_fraction = 0.001
    config.train.batch_size = 512
    return config
