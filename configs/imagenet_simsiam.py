"""ImageNet with a ResNet-50: SimSiam.

Source: arXiv 2011.10566 and its released code: batch 512, SGD 0.05 b/256, momentum 0.9, weight decay 1e-4 on
everything, cosine by epoch without warm-up and a constant rate for the predictor, head 2048-2048-2048, predictor 512.
Linear accuracy 68.1 % after 100 epochs.
Command: simclr-jax train --config=imagenet_simsiam:epochs=100 --workdir=runs/imagenet_simsiam
Expected: 68.1 % (linear, 100 epochs); not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=100)["epochs"]
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    config.augment.crop_min_scale = 0.2
    config.augment.color_jitter_strength = 0.5
    config.method = config_dict.ConfigDict()
    config.method.name = "simsiam"
    config.method.num_proj_layers = 3
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 2048
    config.method.pred_hidden_dim = 512
    config.method.bn_per = "view"
    config.method.dtype = "float32"  # of the heads' activations; "bfloat16" is faster, with other roundings
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decayed = "all"
    config.optimizer.constant_rate_for = "predictor"
    config.schedule.base_learning_rate = 0.05
    config.schedule.warmup_epochs = 0.0
    config.schedule.decay = "cosine_by_epoch"
    config.train.batch_size = 512
    return config
