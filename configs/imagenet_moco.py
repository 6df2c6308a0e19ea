"""ImageNet with a ResNet-50: MoCo v2, or v1.

Source: arXiv 1911.05722 and 2003.04297 and their released code: batch 256, SGD 0.03, momentum 0.9, weight decay 1e-4 on
everything, queue of 65536, key network's decay 0.999. v2: hidden layer, temperature 0.2, blur, cosine by epoch. v1: one
dense layer, temperature 0.07, a tenth of the rate at 60 % and 80 % of the epochs. Linear accuracy after 200 epochs:
67.5 % (v2), 60.8 % (v1); v2 after 800: 71.1 %.
Command: simclr-jax train --config=imagenet_moco:epochs=200 --workdir=runs/imagenet_moco   (:epochs=200,version=1)
Expected: the figures above; not measured here. Deliberate differences: the last BatchNorm scale of a residual block
starts at 0, there at 1; v1's jitter comes before the grey, there after it.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N and version=1 or 2, with a comma between them."""
    given = default.number_arguments(arg, epochs=200, version=2)
    epochs, is_v1 = given["epochs"], given["version"] == 1
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    config.augment.crop_min_scale = 0.2
    config.augment.color_jitter_strength = 0.5
    if is_v1:
        config.augment.color_jitter_probability = 1.0
        config.augment.blur_probability = 0.0
        with config.ignore_type():  # one number in the default, here of each operation
            config.augment.color_jitter_strength = (0.4, 0.4, 0.4, 0.4)
    config.method = config_dict.ConfigDict()
    config.method.name = "moco"
    config.method.num_proj_layers = 1 if is_v1 else 2
    config.method.proj_hidden_dim = config_dict.placeholder(int)  # None = as wide as the encoder's output
    config.method.proj_out_dim = 128
    config.method.temperature = 0.07 if is_v1 else 0.2
    config.method.queue_length = 65536
    config.method.target_decay = 0.999
    config.method.bn_splits = 8
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decayed = "all"
    config.schedule.base_learning_rate = 0.03
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = 0.0
    config.schedule.decay = "drops" if is_v1 else "cosine_by_epoch"
    config.schedule.drop_epochs = (0.6 * epochs, 0.8 * epochs) if is_v1 else ()
    config.train.batch_size = 256
    return config
