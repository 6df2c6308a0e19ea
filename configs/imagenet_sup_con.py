"""ImageNet with a ResNet-50: the loss and the head of SupCon in SimCLR's recipe.

Reproduces no published run: the released code of SupCon (arXiv 2004.11362) has ImageNet with a momentum encoder only
(linear 79.1 %). Loss, temperature 0.1 and head 2048-128 are the paper's; batch 4096, LARS 0.3 b/256, 10 epochs of
warm-up, weight decay 1e-6 and the views are those of SimCLR (arXiv 2002.05709).
Command: simclr-jax train --config=imagenet_sup_con:epochs=100 --workdir=runs/imagenet_sup_con
Expected: not measured.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=100)["epochs"]
    config = default.get_imagenet(epochs)
    config.augment.color_jitter_strength = 1.0
    config.encoder.padding = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "sup_con"
    config.method.proj_hidden_dim = config_dict.placeholder(int)  # None = as wide as the encoder's output
    config.method.proj_out_dim = 128
    config.method.temperature = 0.1
    config.method.base_temperature = config_dict.placeholder(float)  # None = the paper's loss
    config.method.bn_per = "batch"
    config.optimizer.weight_decay = 1e-6
    config.train.batch_size = 4096
    return config
