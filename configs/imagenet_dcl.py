"""ImageNet with a ResNet-50: DCL at a small batch; DCLW with --config.method.name=dclw.

Source: arXiv 2110.06848: batch 256, 200 epochs, temperature 0.1, linear accuracy 68.2 %. Its abstract names no
optimizer; the rate is SimCLR's for small batches (LARS 0.075 sqrt(b), weight decay 1e-6, 10 epochs of warm-up), and so
are the views.
Command: simclr-jax train --config=imagenet_dcl:epochs=200 --workdir=runs/imagenet_dcl
Expected: 68.2 % (linear, 200 epochs); 65.1 % after 100 epochs of batch 256 in lightly's benchmark (DCLW 64.5 %). Not
measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_imagenet(epochs)
    config.augment.color_jitter_strength = 1.0
    config.encoder.padding = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "dcl"
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 128
    config.method.temperature = 0.1
    config.method.bn_per = "view"
    config.optimizer.weight_decay = 1e-6
    config.schedule.base_learning_rate = 0.075
    config.schedule.learning_rate_scaling = "sqrt"
    config.train.batch_size = 256
    return config
