"""`simclr-jax preview`: a picture of the views that a config trains on, before anything is trained."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from simclr_jax import augment, base, data, features, pretrained, progress
from simclr_jax import config as config_lib
from simclr_jax.page import pictures

_NUM_VIEWS = 6


def main(*, config: Mapping[str, Any], output: str, num_images: str) -> int:
    """Writes `output`, a PNG with `num_images` rows: the image and views of it; returns the exit status.

    Raises:
        base.InputError: a flag or a value of the config is not valid.
    """
    if not num_images.isdigit() or not 1 <= int(num_images) <= 64:
        raise base.InputError(f"--num_images must be a number from 1 to 64; got {num_images!r}.")
    if not pathlib.Path(output).parent.is_dir():
        raise base.InputError(f"--output must lie in an existing folder; got {output}. Create the folder first.")
    config = pretrained.inherit(config)
    image_set = config_lib.call(data.load_split, config, "data", split=config["split"]["train"])
    views = {"augment": {**config["augment"], "num_views": _NUM_VIEWS}}
    make_views = config_lib.call(augment.make_simclr_views, views, "augment")
    samples = features.view_samples(
        make_views,
        image_set,
        size=config["augment"]["size"],
        num_images=int(num_images),
        key=jax.random.key(config["seed"]),
    )
    pictures.contact_sheet(samples, title=f"{config['data']['name']}: images and views of them").save(output, "PNG")
    progress.say(f"Wrote {output}: {len(samples)} images, each with {_NUM_VIEWS} views.")
    return 0
