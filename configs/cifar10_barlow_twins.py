"""CIFAR-10 with a ResNet-18: Barlow Twins in the benchmark setting of lightly.

Source: CIFAR-10 benchmark of lightly: SGD 0.06 b/128, momentum 0.9, weight decay 5e-4 on everything, cosine by epoch
without warm-up, head 2048-2048, lambda 5e-3, colour strength 0.5, no blur. kNN (k 200, T 0.1, best epoch on the test
set): 84.2 % after 200 epochs of batch 128; 81.9 % with batch 512 (85.9 % after 800). No official CIFAR score exists;
solo-learn has 92.1 % (linear, 1000 epochs, LARS).
Command: simclr-jax train --config=cifar10_barlow_twins --workdir=runs/cifar10_barlow_twins
Expected: the figures above; not measured here. Deliberate difference: two hidden layers in the head, there one.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "barlow_twins"
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 2048
    config.method.redundancy_weight = 5e-3  # lambda; 0.0051 in the paper
    config.method.loss_scale = 1.0
    config.method.bn_per = "view"
    default.train_as_lightly(config)
    return config
