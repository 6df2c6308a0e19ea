"""CIFAR-10 with a ResNet-18: DCL in the benchmark setting of lightly; DCLW with --config.method.name=dclw.

Source: CIFAR-10 benchmark of lightly: SGD 0.06 b/128, momentum 0.9, weight decay 5e-4 on everything, cosine by epoch
without warm-up, head 512-128, temperature 0.1, colour strength 0.5, no blur. kNN (k 200, T 0.1, best epoch on the test
set): 84.4 % after 200 epochs of batch 128; 84.0 % with batch 512 (87.4 % after 800).
The code of arXiv 2110.06848 reports, for a ResNet-50 and 100 epochs, 85.6 % (linear) at batch 64 and 128, where the
cross entropy has 81.5 % and 83.1 %.
Command: simclr-jax train --config=cifar10_dcl --workdir=runs/cifar10_dcl
Expected: the figures above; not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "dcl"
    config.method.proj_hidden_dim = 512
    config.method.proj_out_dim = 128
    config.method.temperature = 0.1
    config.method.bn_per = "view"
    default.train_as_lightly(config)
    return config
