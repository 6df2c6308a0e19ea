"""CoCa on pictures with captions: `clip_captions` with a decoder that writes the captions.

Reproduces no published table: it is CoCa (Yu et al. 2022, arXiv 2205.01917) at the size of one computer.

Command: simclr-jax train --workdir=runs/coca --config=coca_captions --config.data.name=pairs:captions.csv

Expected: not measured; the cost of a step is that of clip_captions and of two layers more, twice over.
"""

from ml_collections import config_dict

from configs import clip_captions, default


def get_config() -> config_dict.ConfigDict:
    """The same data, views and optimizer."""
    config = clip_captions.get_config()
    config.method = default.coca_method()
    return config
