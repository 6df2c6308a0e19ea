"""Where images come from: named data sets decoded once into uint8 arrays, and the order in which they are visited.

A source (`folder`, with `scan` and `layout`; `tfds_source`; `pairs` with texts; `mixture` of several) says what a
split holds and hands out encoded bytes.
`kinds` tells files apart, `decode` turns bytes into pixels, `blocks` a whole split, `content` finds pictures without
information; `cache` keeps the result on disk, within `bound`; `photo_patches` and `digits` are built in; `pictures`
hands out any number of pictures one by one. A split too large for that stays `encoded`: `streaming` hands out crops,
which `workers` cut (`cutting`, with `full_decode`, `host_draws` and `host_crop`). Everything is a pure function of
(name, split, settings); `order` is a pure function of (seed, position). `tokens` turns
texts into numbers.

What was understood, one progress bar and what is odd go to stderr; nothing else is printed.
"""

from simclr_jax.data.encoded import decoded, is_encoded
from simclr_jax.data.imageset import ImageSet, epoch_size, fit_to_canvas, subset
from simclr_jax.data.mixture import mix_name
from simclr_jax.data.pictures import Pictures, decode_picture, open_pictures
from simclr_jax.data.sources import DATASETS, describe_split, has_split, ids_tell_images, load_split, parts_of
from simclr_jax.data.tokens import Tokenizer, make_tokenizer

__all__ = [
    "DATASETS",
    "ImageSet",
    "Pictures",
    "Tokenizer",
    "decode_picture",
    "decoded",
    "describe_split",
    "epoch_size",
    "fit_to_canvas",
    "has_split",
    "ids_tell_images",
    "is_encoded",
    "load_split",
    "make_tokenizer",
    "mix_name",
    "open_pictures",
    "parts_of",
    "subset",
]
