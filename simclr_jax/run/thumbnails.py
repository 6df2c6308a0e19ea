"""Small pictures for pages, read again from where the features came from."""

from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax import data
from simclr_jax.data import decode
from simclr_jax.run import feature_file

SIDE = 160
_GONE = 224  # the grey of a picture that is not there any more


def make_thumbnails(embedding: feature_file.Embedding, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Pictures of at most 160 px, uint8 [h, w, 3], for some rows; a grey square for one that cannot be read now."""
    draw = open_thumbnails(embedding)
    found = [draw(row) for row in map(int, rows)]
    return [gone(SIDE) if picture is None else picture for picture in found]


def gone(side: int) -> np.ndarray:
    """What is shown in place of a picture that cannot be read now."""
    return np.full((side, side, 3), _GONE, np.uint8)


def open_thumbnails(embedding: feature_file.Embedding, *, side: int = SIDE) -> Callable[[int], np.ndarray | None]:
    """row -> its picture, uint8 [h, w, 3] of at most `side` px, or None if it cannot be read now; from any thread."""
    pictures: data.Pictures | None = None
    places: dict[str, int] = {}
    if any(not path for path in embedding.paths):  # of a data set, whose pictures have no paths
        try:
            pictures = open_source(embedding)
            places = {name: index for index, name in enumerate(pictures.ids)}
        except (OSError, ValueError, KeyError):
            pictures = None

    def draw(row: int) -> np.ndarray | None:
        try:
            path = embedding.paths[row]
            if path:
                return _small(data.open_pictures(path), 0, side)
            return None if pictures is None else _small(pictures, places[embedding.names[row]], side)
        except (decode.DamagedImage, OSError, ValueError, KeyError):
            return None

    return draw


def squeeze(picture: np.ndarray, *, side: int) -> np.ndarray:
    """The averages of a picture's parts, float32 [side * side * 3] in [0, 1], whatever its shape."""
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(picture)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / np.float32(255)


def open_source(embedding: feature_file.Embedding) -> data.Pictures:
    """The pictures that features are of.

    Raises:
        base.InputError: they are not there any more.
    """
    meta = embedding.meta
    return data.open_pictures(meta["images"], split=meta["split"], data_dir=meta.get("data_dir"))


def _small(pictures: data.Pictures, index: int, side: int) -> np.ndarray:
    pixels = data.decode_picture(pictures, index, long_side=side).pixels
    canvas, (height, width) = data.fit_to_canvas(pixels, min(max(pixels.shape[:2]), side))
    return canvas[:height, :width]
