"""`photo-patches`: grey 32x32 windows of 18 photographs and textures which come inside two wheels. No download.

The class of a patch is the picture it was cut from: these are texture and scene patches, not kinds of things. They
are grey because colour alone tells most of the pictures apart, which contrastive training is taught to ignore.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.data import extras, imageset

PATCH = 32
STRIDE = 16
CELL = 96
MAX_PER_PICTURE = {"train": 400, "test": 150}


class Picture(NamedTuple):
    """A source picture: class name, package, file below the package's picture folder, (height, width)."""

    name: str
    package: str
    file: str
    shape: tuple[int, int]


_FOLDERS = {"skimage": ("data",), "sklearn": ("datasets", "images")}

PICTURES = (
    Picture("astronaut", "skimage", "astronaut.png", (512, 512)),
    Picture("brick", "skimage", "brick.png", (512, 512)),
    Picture("camera man", "skimage", "camera.png", (512, 512)),
    Picture("cat", "skimage", "chelsea.png", (300, 451)),
    Picture("coffee", "skimage", "coffee.png", (400, 600)),
    Picture("coins", "skimage", "coins.png", (303, 384)),
    Picture("flower", "sklearn", "flower.jpg", (427, 640)),
    Picture("grass", "skimage", "grass.png", (512, 512)),
    Picture("gravel", "skimage", "gravel.png", (512, 512)),
    Picture("Hubble field", "skimage", "hubble_deep_field.jpg", (872, 1000)),
    Picture("moon", "skimage", "moon.png", (512, 512)),
    Picture("motorcycle", "skimage", "motorcycle_left.png", (500, 741)),
    Picture("page", "skimage", "page.png", (191, 384)),
    Picture("retina", "skimage", "retina.jpg", (1411, 1411)),
    Picture("rocket", "skimage", "rocket.jpg", (427, 640)),
    Picture("stained tissue", "skimage", "ihc.png", (512, 512)),
    Picture("temple", "sklearn", "china.jpg", (427, 640)),
    Picture("text", "skimage", "text.png", (172, 448)),
)


def load_photo_patches(split: str) -> imageset.ImageSet:
    """ "train" (6,344 patches) or "test" (2,365): uint8 [N, 32, 32, 3], three equal channels, 18 classes.

    Windows start every 16 pixels. Each picture is divided into cells of 96 pixels; the cells of every fourth diagonal
    are test, the others train; a window which crosses a cell border is dropped, so that train and test share no
    pixel. At most 400 train and 150 test windows per picture, evenly spaced in reading order. Ids are
    "picture@top,left".

    Raises:
        base.InputError: a package or a picture is missing, or a picture has another size.
    """
    images, labels, ids = [], [], []
    for label, picture in enumerate(PICTURES):
        grey = _read_grey(picture)
        for top, left in window_corners(picture.shape, split):
            images.append(grey[top : top + PATCH, left : left + PATCH])
            labels.append(label)
            ids.append(f"{picture.name}@{top},{left}")
    rgb = np.repeat(np.stack(images)[..., None], 3, axis=-1)
    names = tuple(picture.name for picture in PICTURES)
    return imageset.make_image_set(rgb, np.asarray(labels), class_names=names, ids=tuple(ids))


def window_corners(shape: tuple[int, int], split: str) -> list[tuple[int, int]]:
    """(top, left) of the windows of one picture of `shape` (height, width), in reading order."""
    corners = []
    for top in range(0, shape[0] - PATCH + 1, STRIDE):
        for left in range(0, shape[1] - PATCH + 1, STRIDE):
            inside = top % CELL + PATCH <= CELL and left % CELL + PATCH <= CELL
            is_test = (top // CELL + left // CELL) % 4 == 0
            if inside and is_test == (split == "test"):
                corners.append((top, left))
    if len(corners) <= MAX_PER_PICTURE[split]:
        return corners
    kept = np.arange(MAX_PER_PICTURE[split]) * len(corners) // MAX_PER_PICTURE[split]
    return [corners[i] for i in kept]


def _read_grey(picture: Picture) -> np.ndarray:
    path = pathlib.Path(extras.package_folder(picture.package), *_FOLDERS[picture.package], picture.file)
    if not path.is_file():
        raise base.InputError(
            f"photo-patches needs {picture.file} inside the package {picture.package}; this installation has no such "
            "file. Install the tested versions with: pip install 'simclr-jax[data]'"
        )
    with extras.require("PIL.Image").open(path) as image:
        grey = np.asarray(image.convert("L"))
    if grey.shape != picture.shape:
        raise base.InputError(
            f"photo-patches needs {picture.file} of {picture.package} with {picture.shape} pixels; got {grey.shape}. "
            "Install the tested versions with: pip install 'simclr-jax[data]'"
        )
    return grey
