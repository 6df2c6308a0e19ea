"""Small pictures for pages, read again from where the features came from."""

from collections.abc import Sequence

import numpy as np

from simclr_jax import data
from simclr_jax.data import decode
from simclr_jax.run import feature_file

_SIDE = 160
_GONE = 224  # the grey of a picture that is not there any more


def make_thumbnails(embedding: feature_file.Embedding, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Pictures of at most 160 px, uint8 [h, w, 3], for some rows; a grey square for one that cannot be read now."""
    pictures: data.Pictures | None = None
    places: dict[str, int] = {}
    found = []
    for row in map(int, rows):
        try:
            path = embedding.paths[row]
            if path:
                found.append(_small(data.open_pictures(path), 0))
                continue
            if pictures is None:  # of a data set, whose pictures have no paths
                pictures = data.open_pictures(embedding.meta["images"], split=embedding.meta["split"])
                places = {name: index for index, name in enumerate(pictures.ids)}
            found.append(_small(pictures, places[embedding.names[row]]))
        except (decode.DamagedImage, OSError, ValueError, KeyError):
            found.append(np.full((_SIDE, _SIDE, 3), _GONE, np.uint8))
    return found


def _small(pictures: data.Pictures, index: int) -> np.ndarray:
    pixels = data.decode_picture(pictures, index, long_side=_SIDE).pixels
    canvas, (height, width) = data.fit_to_canvas(pixels, min(max(pixels.shape[:2]), _SIDE))
    return canvas[:height, :width]
