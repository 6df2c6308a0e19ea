"""Where images come from: named data sets decoded once into uint8 arrays, and the order in which they are visited.

A source (`folder`, `tfds_source`) says what a split holds and hands out encoded bytes; `decode` turns bytes into
canvases; `cache` keeps the result on disk; `photo_patches` and `digits` are built in. Everything is a pure function
of (name, split, settings); `order` is a pure function of (seed, position).

Long decoding shows one progress bar on stderr; nothing else is printed.
"""

from simclr_jax.data.imageset import ImageSet, fit_to_canvas, take
from simclr_jax.data.sources import DATASETS, describe_split, load_split

__all__ = ["DATASETS", "ImageSet", "describe_split", "fit_to_canvas", "load_split", "take"]
