"""CIFAR-10 with a ResNet-18: MoCo v3.

Source: no official setting for CIFAR exists. Heads, temperature 0.2, views and target decay 0.99 to 1 are solo-learn's,
which reports a linear accuracy of 93.1 % after 1000 epochs of batch 256 with a form of LARS that this program does not
have; SGD 0.06 b/128 with weight decay 5e-4 on everything and a cosine by epoch are those of lightly's benchmark of the
other methods, which has no warm-up. The 10 epochs of warm-up in front of it are a choice of ours.
Command: simclr-jax train --config=cifar10_moco_v3 --workdir=runs/cifar10_moco_v3
Expected: not measured here; the figure above is of another optimizer.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=1000)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    with config.ignore_type():  # one number for all views in the default, here of each
        config.augment.color_jitter_strength = (0.4, 0.4, 0.2, 0.1)
        config.augment.solarize_probability = (0.0, 0.2)
    config.method.name = "moco_v3"
    config.method.num_proj_layers = 2
    config.method.proj_hidden_dim = 4096
    config.method.proj_out_dim = 256
    config.method.pred_hidden_dim = 4096
    config.method.temperature = 0.2
    config.method.target_decay = 0.99
    config.method.target_decay_schedule = "cosine"
    config.method.bn_per = "view"
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decayed = "all"
    config.schedule.base_learning_rate = 0.12
    config.schedule.decay = "cosine_by_epoch"
    config.train.batch_size = 256
    return config
