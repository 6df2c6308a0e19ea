"""ImageNet with a ResNet-50: MoCo v3.

Source: arXiv 2104.02057 and its released code: batch 4096, LARS with the rate outside the velocity, 10 epochs of
warm-up, cosine to 0, heads 4096-256, temperature 1.0, crops of at least 0.2 of the area. By number of epochs (rate per
b/256, weight decay, first target decay): 100 (0.6, 1e-6, 0.99), 300 (0.3, 1e-6, 0.99), 1000 (0.3, 1.5e-6, 0.996).
Linear accuracy 68.9 % after 100 epochs, 72.8 % after 300, 74.6 % after 1000.
Command: simclr-jax train --config=imagenet_moco_v3:epochs=300 --workdir=runs/imagenet_moco_v3
Expected: the figures above; not measured here.
"""

from ml_collections import config_dict

from configs import default

# Epochs -> (rate, weight decay, first target decay).
_PRESETS = {100: (0.6, 1e-6, 0.99), 300: (0.3, 1e-6, 0.99), 1000: (0.3, 1.5e-6, 0.996)}


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=300)["epochs"]
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    config.augment.crop_min_scale = 0.2
    default.views_of_two_kinds(config)
    config.method = config_dict.ConfigDict()
    rate, weight_decay, target_decay = _PRESETS[max(n for n in _PRESETS if n <= max(epochs, 100))]
    config.method.name = "moco_v3"
    config.method.num_proj_layers = 2
    config.method.proj_hidden_dim = 4096
    config.method.proj_out_dim = 256
    config.method.pred_hidden_dim = 4096
    config.method.temperature = 1.0
    config.method.target_decay = target_decay
    config.method.target_decay_schedule = "cosine"
    config.method.bn_per = "view"
    config.method.dtype = "float32"  # of the heads' activations; "bfloat16" is faster, with other roundings
    config.optimizer.weight_decay = weight_decay
    config.optimizer.rate_place = "outside"
    config.schedule.base_learning_rate = rate
    config.train.batch_size = 4096
    return config
