"""What an image is to this package: its shape, its range, and the mistakes that are made with both."""

import jax.numpy as jnp

from simclr_jax import base


def as_float(image: base.Array) -> base.Array:
    """An image as float: uint8 [0, 255] becomes float32 [0, 1], floats stay as they are (taken to lie in [0, 1]).

    Raises:
        InputError: another type, such as int32 or bool.
    """
    image = jnp.asarray(image)
    _check_type(image)
    return image.astype(jnp.float32) * (1 / 255) if image.dtype == jnp.uint8 else image


def _check_type(image: base.Array) -> None:
    if image.dtype != jnp.uint8 and not jnp.issubdtype(image.dtype, jnp.floating):
        raise base.InputError(f"images must be uint8 in [0, 255] or float in [0, 1]; got {image.dtype}. Convert them.")


def check_images(images: base.Array) -> None:
    """Raises InputError unless `images` is [H, W, 3] or [B, H, W, 3], uint8 or float."""
    shape, remedy = list(images.shape), "Give RGB images with the channels last."
    if len(shape) in (3, 4) and shape[-1] == 3:
        _check_type(images)
        return
    if len(shape) in (3, 4) and shape[-3] == 3:
        remedy = "Put the channels last: jnp.moveaxis(images, -3, -1)."
    elif len(shape) in (3, 4) and shape[-1] == 1:
        remedy = "Repeat the grey channel: jnp.repeat(images, 3, axis=-1)."
    elif len(shape) in (3, 4) and shape[-1] == 4:
        remedy = "Leave out the alpha channel: images[..., :3]."
    raise base.InputError(f"images must have shape [H, W, 3] or [B, H, W, 3]; got {shape}. {remedy}")


def full_sizes(images: base.Array) -> base.Array:
    """int32 [B, 2]: the images' whole canvas as their valid (height, width)."""
    return jnp.broadcast_to(jnp.asarray(images.shape[1:3], jnp.int32), (len(images), 2))


def size_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of `size`, one number meaning a square.

    Raises:
        InputError: a side below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise base.InputError(f"size must be at least 1 pixel; got {size}. Use for example 224.")
    return height, width
