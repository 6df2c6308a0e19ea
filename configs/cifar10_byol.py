"""CIFAR-10 with a ResNet-18: BYOL in the benchmark setting of lightly.

Source: CIFAR-10 benchmark of lightly: SGD 0.06 b/128, momentum 0.9, weight decay 5e-4 on everything, cosine by epoch
without warm-up, heads 1024-256, target decay 0.99 all the time, colour strength 0.5, no blur; its loss is a quarter of
the published one. kNN (k 200, T 0.1, best epoch on the test set): 86.9 % after 200 epochs of batch 128; 86.8 % with
batch 512 (91.0 % after 800). No official CIFAR score exists; solo-learn has 92.6 % (linear, 1000 epochs, LARS).
Command: simclr-jax train --config=cifar10_byol --workdir=runs/cifar10_byol
Expected: the figures above; not measured here. Deliberate difference: which layers of the heads have a bias.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "byol"
    config.method.proj_hidden_dim = 1024
    config.method.proj_out_dim = 256
    config.method.pred_hidden_dim = 1024
    config.method.target_decay = 0.99
    config.method.target_decay_schedule = "constant"
    config.method.loss_scale = 0.25
    config.method.bn_per = "view"
    default.train_as_lightly(config)
    return config
