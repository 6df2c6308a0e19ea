"""ImageNet with a ResNet-50: BYOL.

Source: arXiv 2006.07733 and the released code: batch 4096, LARS with the rate outside the velocity, 10 epochs of
warm-up, cosine to 0, heads 4096-256, two distributions of views with ADDITIVE brightness. By number of epochs (rate per
b/256, weight decay, first target decay): 40 (0.45, 1e-6, 0.97), 100 (0.45, 1e-6, 0.99), 300 (0.3, 1e-6, 0.99), 1000
(0.2, 1.5e-6, 0.996). Linear accuracy 74.3 % after 1000 epochs; 72.5 % after 300, from memory of the paper, not checked.
Command: simclr-jax train --config=imagenet_byol:epochs=1000 --workdir=runs/imagenet_byol
Expected: the figures above; not measured here. Deliberate differences: windows are torchvision's and not its own; the
last BatchNorm scale of a residual block starts at 0.
"""

from ml_collections import config_dict

from configs import default

# Epochs -> (rate, weight decay, first target decay).
_PRESETS = {40: (0.45, 1e-6, 0.97), 100: (0.45, 1e-6, 0.99), 300: (0.3, 1e-6, 0.99), 1000: (0.2, 1.5e-6, 0.996)}


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=1000)["epochs"]
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    config.augment.brightness = "add"
    default.views_of_two_kinds(config)
    config.method = config_dict.ConfigDict()
    rate, weight_decay, target_decay = _PRESETS[max(n for n in _PRESETS if n <= max(epochs, 40))]
    config.method.name = "byol"
    config.method.proj_hidden_dim = 4096
    config.method.proj_out_dim = 256
    config.method.pred_hidden_dim = 4096
    config.method.target_decay = target_decay
    config.method.target_decay_schedule = "cosine"
    config.method.loss_scale = 1.0
    config.method.bn_per = "view"
    config.method.dtype = "float32"  # of the heads' activations; "bfloat16" is faster, with other roundings
    config.optimizer.weight_decay = weight_decay
    config.optimizer.rate_place = "outside"
    config.schedule.base_learning_rate = rate
    config.train.batch_size = 4096
    return config
