"""BLIP's image-text matching on pictures with captions: `clip_captions` with a matching head and hard negatives.

Reproduces no published table: it is one of BLIP's three objectives (Li et al. 2022, arXiv 2201.12086) beside CLIP's, at
the size of one computer.

Command: simclr-jax train --workdir=runs/blip --config=blip_captions --config.data.name=pairs:captions.csv

Expected: not measured; the cost of a step is that of clip_captions.
"""

from ml_collections import config_dict

from configs import clip_captions, default


def get_config() -> config_dict.ConfigDict:
    """The same data, views and optimizer."""
    config = clip_captions.get_config()
    config.method = default.blip_method()
    return config
