"""CIFAR-10 with a ResNet-50: SupCon, contrastive learning with labels.

Source: arXiv 2004.11362 and its released code: batch 1024, SGD 0.5, momentum 0.9, weight decay 1e-4 on everything, 10
epochs of warm-up from 0.01, cosine by epoch to 0.1 % of the rate, temperature 0.1 over a base of 0.07, head 2048-128
without BatchNorm, crops from 20 % of the image, no blur. Linear accuracy 96.0 % after 1000 epochs (100 epochs of the
classifier, rate 5).
Command: simclr-jax train --config=cifar10_sup_con --workdir=runs/cifar10_sup_con
Expected: 96.0 % (linear); not measured here. With a ResNet-18 solo-learn has 93.82 % (batch 256, SGD 0.4, T 0.2).
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=1000)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_min_scale = 0.2
    config.augment.crop_sampler = "torchvision"
    with config.ignore_type():  # one strength for all operations in the default
        config.augment.color_jitter_strength = (0.4, 0.4, 0.4, 0.1)
    config.encoder.name = "resnet50"
    config.method = config_dict.ConfigDict()
    config.method.name = "sup_con"
    config.method.proj_hidden_dim = config_dict.placeholder(int)  # None = as wide as the encoder's output
    config.method.proj_out_dim = 128
    config.method.temperature = 0.1
    config.method.base_temperature = 0.07  # multiplies the loss by temperature / base_temperature
    config.method.bn_per = "batch"
    config.optimizer.name = "sgd"
    config.optimizer.decayed = "all"
    config.schedule.base_learning_rate = 0.5
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_start = 0.01
    config.schedule.decay = "cosine_by_epoch_from_1"
    config.schedule.final_fraction = 0.001
    config.train.batch_size = 1024
    return config
