"""A run of seconds on scikit-learn's digits, for tests and for trying an installation.

Reproduces nothing; its numbers mean nothing.
Command: simclr-jax train --config=smoke --workdir=runs/smoke
Expected: some ten seconds on two CPU cores.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One block of 32 channels, two dozen steps."""
    config = default.get_config()
    config.data.name = "digits"
    config.augment.image_size = 16
    config.augment.blur_probability = 0.0
    config.encoder.name = "resnet10"
    config.encoder.group_sizes = (1,)
    config.encoder.width_multiplier = 0.5
    config.method.num_proj_layers = 2
    config.method.proj_out_dim = 32
    config.optimizer.name = "adamw"
    config.schedule.base_learning_rate = 1e-3
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = 0.2
    config.train.batch_size = 64
    config.train.num_epochs = 1.0
    config.train.steps_per_dispatch = 2
    config.train.log_every_steps = 4
    config.train.checkpoint_every_steps = 6
    config.train.evaluate_every_epochs = 0.5
    return config
