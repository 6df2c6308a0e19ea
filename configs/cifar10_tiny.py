"""CIFAR-10 with a quarter-width ResNet-18, sized for an hour on two CPU cores.

Reproduces no paper: it shows on a well-known data set, and with no accelerator, that features beat raw pixels.
Command: simclr-jax train --config=cifar10_tiny --workdir=runs/cifar10_tiny --config.data.data_dir=TFDS_FOLDER
Expected: see benchmarks/README.md for the recorded run.
"""

from ml_collections import config_dict

from configs import cifar10


def get_config(arg: str = "epochs=7") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    config = cifar10.get_config(arg)
    config.encoder.width_multiplier = 0.25
    config.encoder.dtype = "float32"
    config.method.num_proj_layers = 2
    config.method.temperature = 0.2
    config.optimizer.name = "adamw"
    config.schedule.base_learning_rate = 2e-3
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = 0.5
    config.train.batch_size = 256
    config.train.log_every_steps = 20
    config.train.checkpoint_every_steps = 200
    config.train.evaluate_every_epochs = 3.5
    return config
