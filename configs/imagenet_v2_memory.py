"""ImageNet with a ResNet-50: SimCLRv2 pretraining with its memory.

Source: arXiv 2006.10029, sections 2 and 3.1: as imagenet_v2, and a momentum network (decay 0.999) whose last 64K
outputs are further negatives; it makes the 71.7 % (linear) out of about 71.1 %. No code was released; the docstring of
the method says what is a choice of ours.
Command: simclr-jax train --config=imagenet_v2_memory --workdir=runs/imagenet_v2_memory
Expected: 71.7 % (linear, 800 epochs) in the paper; not measured here.
"""

from ml_collections import config_dict

from configs import imagenet_v2


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N; the warm-up is 5 % of them."""
    config = imagenet_v2.get_config(arg)
    config.method = config_dict.ConfigDict()
    config.method.name = "simclr_v2"
    config.method.num_proj_layers = 3
    config.method.proj_out_dim = 128
    config.method.proj_hidden_dim = config_dict.placeholder(int)  # None = as wide as the encoder's output
    config.method.temperature = 0.1
    config.method.loss_scale = 2.0
    config.method.queue_length = 65536
    config.method.target_decay = 0.999
    return config
