"""CIFAR-10 with a ResNet-18: VICReg.

Source: views, head and weights of the CIFAR-10 recipe of solo-learn: crops from 20 % of the image, solarisation 0.1,
no blur, head 2048-2048-2048, terms 25, 25, 1, batch 256, 10 epochs of warm-up, weight decay 1e-4, 1000 epochs. It
reports 92.07 % (linear, trained alongside). Its LARS has another trust coefficient (0.02, clipped); the rate here is
that of the SimCLR recipe for CIFAR-10 (1.0 b/256). No official CIFAR score exists.
Command: simclr-jax train --config=cifar10_vicreg --workdir=runs/cifar10_vicreg
Expected: near the figure above if the rate suits; not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=1000)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.solarize_probability = 0.1
    config.augment.crop_min_scale = 0.2
    config.augment.crop_sampler = "torchvision"
    with config.ignore_type():  # one strength for all operations in the default
        config.augment.color_jitter_strength = (0.4, 0.4, 0.2, 0.1)
    config.method = config_dict.ConfigDict()
    config.method.name = "vicreg"
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 2048
    config.method.invariance_weight = 25.0
    config.method.variance_weight = 25.0
    config.method.covariance_weight = 1.0
    config.method.bn_per = "view"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.rate_place = "outside"
    config.schedule.base_learning_rate = 1.0
    config.train.batch_size = 256
    return config
