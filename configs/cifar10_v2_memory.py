"""CIFAR-10 with a ResNet-18: the recipe of cifar10 with SimCLRv2's memory.

Reproduces no paper: the rows of the memory (4096) and the decay of its network (0.99) are MoCo's for CIFAR-10.
Command: simclr-jax train --config=cifar10_v2_memory --workdir=runs/cifar10_v2_memory
Expected: about what cifar10 gives; not measured here.
"""

from ml_collections import config_dict

from configs import cifar10


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    config = cifar10.get_config(arg)
    config.method = config_dict.ConfigDict()
    config.method.name = "simclr_v2"
    config.method.num_proj_layers = 3
    config.method.proj_out_dim = 128
    config.method.proj_hidden_dim = config_dict.placeholder(int)  # None = as wide as the encoder's output
    config.method.temperature = 0.5
    config.method.loss_scale = 2.0
    config.method.queue_length = 4096
    config.method.target_decay = 0.99
    return config
