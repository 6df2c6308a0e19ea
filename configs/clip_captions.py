"""CLIP on pictures with captions: a small ResNet and a small text transformer, from nothing.

Reproduces no published table: it is CLIP (Radford et al. 2021, arXiv 2103.00020) at the size of one computer, for a few
thousand pictures with a caption or several each. The views are crops of at least half of the picture and flips.

Command: simclr-jax train --workdir=runs/captions --config=clip_captions --config.data.name=pairs:captions.csv

Expected: on 1,216 photographs of Flickr8k with five captions each, 64 pixels, docs/image_text.md has what was measured.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """A ResNet-18 of half width and four layers of 256 channels, batches of 256 pairs."""
    config = default.get_config()
    default.train_on_pairs(config)
    config.data.canvas_size = 96
    config.text.vocab_size = 2048
    config.text.length = 32
    config.augment.image_size = 64
    config.augment.crop_min_scale = 0.5
    config.encoder.width_multiplier = 0.5
    config.method.text_width = 256
    config.method.text_num_layers = 4
    config.method.text_num_heads = 4
    config.method.proj_out_dim = 256
    config.schedule.base_learning_rate = 1e-3
    config.schedule.warmup_epochs = 5.0
    config.train.batch_size = 256
    config.train.num_epochs = 100.0
    config.train.evaluate_every_epochs = 2.0  # of a few thousand pictures an epoch is short
    config.train.log_every_steps = 10
    return config
