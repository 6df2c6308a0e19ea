"""Your own folder of images (docs/data.md says which), any sizes, with class folders or without labels.

Reproduces no paper: a ResNet-18 at 64 pixels that learns in minutes on a GPU and in an hour or so on two CPU cores.
Command: simclr-jax train --config=folder:PHOTOS --workdir=runs/photos
Expected: depends on the images; the report shows what the encoder finds alike.
For better features on a GPU:
    --config.augment.image_size=128 --config.data.canvas_size=192 --config.train.num_epochs=200
"""

from ml_collections import config_dict

from configs import default


def get_config(path: str = "photos") -> config_dict.ConfigDict:
    """`path` is the folder, written behind the colon: --config=folder:PHOTOS."""
    config = default.get_config()
    config.data.name = f"folder:{path}"
    config.data.canvas_size = 96
    config.augment.image_size = 64
    config.encoder.stem = "imagenet"
    config.method.num_proj_layers = 2
    config.method.temperature = 0.2
    config.optimizer.name = "adamw"
    config.schedule.base_learning_rate = 1e-3
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = 2.0
    config.train.batch_size = 128
    config.train.num_epochs = 40.0
    config.train.log_every_steps = 10
    config.train.checkpoint_every_steps = 100
    return config
