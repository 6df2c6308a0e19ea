"""`simclr-jax preview`: a picture of the views that a config trains on, before anything is trained."""

import io
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simclr_jax import atomic_files, base
from simclr_jax.cli import flags

if TYPE_CHECKING:
    from PIL import Image

_NUM_VIEWS = 6
# Ending of the file's name -> format and how it is written: a sheet is for looking, so lossy forms stay close to it.
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {"lossless": True}),
}


def make_parser() -> flags.Parser:
    """The flags of `preview`."""
    parser = flags.Parser(
        "preview",
        description="Draws the augmented views that a config would train on, before training.",
        examples=("--config=demo --config.augment.color_jitter_strength=1.0",),
    )
    parser.add_output(
        "--output",
        endings=tuple(_FORMATS),
        default="views.png",
        help="the picture: .png, .jpg or .webp; default %(default)s",
    )
    parser.add_argument(
        "--num_images",
        type=flags.whole_number(1, 64, such_as=8),
        default=8,
        metavar="N",
        help="rows of the picture, up to 64; default %(default)s",
    )
    flags.add_config(parser)
    return parser


def main(*, config: Mapping[str, Any], output: str = "views.png", num_images: int = 8) -> int:
    """Writes the picture `output` with `num_images` rows: the image and views of it; returns the exit status.

    The ending of `output` is the format: .png, .jpg, .jpeg or .webp.

    Raises:
        base.InputError: `output` or a value of the config is not valid.
    """
    import jax

    from simclr_jax import augment, data
    from simclr_jax.html_report import pictures
    from simclr_jax.run import config as config_lib
    from simclr_jax.run import features, pretrained, progress

    _check_output(output)
    config = pretrained.inherit(config)
    image_set = config_lib.call(data.load_split, config, "data", split=config["split"]["train"])
    views = {"augment": {**config["augment"], "num_views": _NUM_VIEWS}}
    make_views = config_lib.call(augment.make_simclr_views, views, "augment")
    samples = features.view_samples(
        make_views,
        image_set,
        size=config["augment"]["image_size"],
        num_images=num_images,
        key=jax.random.key(config["seed"]),
    )
    sheet = pictures.contact_sheet(samples, title=f"{config['data']['name']}: images and views of them")
    atomic_files.write_bytes(output, _encode(sheet, pathlib.Path(output).suffix.lower()))
    progress.say(f"Wrote {output}: {len(samples)} images, each with {samples.shape[1] - 1} views.")
    return 0


def _check_output(output: str) -> None:
    ending = pathlib.Path(output).suffix.lower()
    if ending not in _FORMATS and not output.endswith("/") and not pathlib.Path(output).is_dir():
        raise base.InputError(
            f"--output must end in one of {', '.join(_FORMATS)}; got {output}. Use for example views.png."
        )
    atomic_files.check_target(output)


def _encode(sheet: "Image.Image", ending: str) -> bytes:
    name, options = _FORMATS[ending]
    encoded = io.BytesIO()
    try:
        sheet.save(encoded, name, **options)
    except (OSError, ValueError) as error:  # WebP ends at 16383 pixels a side, JPEG at 65500
        raise base.InputError(
            f"{name} holds no picture of {sheet.width}x{sheet.height} pixels. Use .png, or a lower --num_images."
        ) from error
    return encoded.getvalue()
