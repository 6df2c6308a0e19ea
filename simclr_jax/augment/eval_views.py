"""Several views without anything random, for features that are averaged over them; and those views by Pillow."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from simclr_jax import base
from simclr_jax.augment import crop, eval_view, loops, pixels, resizing

# Where the crop lies among those of its size, down and across: the centre, then the four corners.
PLACES = ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
MAX_VIEWS = 2 * len(PLACES)
FILTERS = ("bilinear", "bicubic")


def make_eval_views(*, image_size: int, resize: str = "tf2", num_views: int = 1) -> Callable[..., base.Array]:
    """Deterministic views of evaluation: uint8 or float [B, H, W, 3] -> float32 [B, V, h, w, 3] in [0, 1].

    The first view is that of `make_eval_view`, the second one its mirror image, then come the crops of the same size
    at the four corners, each followed by its mirror image. The result is called with images and `sizes` int32 [B, 2],
    or without sizes where images fill their canvas.

    Args:
        image_size: h = w, pixels. resize: see `make_eval_view`.
        num_views: V, from 1 to 10.

    Raises:
        InputError: a value out of range, or an unknown `resize`.

    Reference: the ten crops of Krizhevsky et al. 2012, in torchvision's TenCrop. Difference: the centre comes first,
    and a crop is followed by its own mirror image, so that any number of views is of use.

    Example:
        >>> augment.make_eval_views(image_size=6, num_views=2)(images).shape
        (4, 2, 6, 6, 3)
    """
    eval_view.make_eval_view(image_size=image_size, resize=resize)  # for what it refuses
    check_num_views(num_views)
    fraction = eval_view.center_fraction(image_size)
    product = loops.RESIZE_PRODUCTS[loops.resolve_loop("auto")]

    def views_one(example: tuple[base.Array, base.Array]) -> base.Array:
        image, valid = example
        planes = loops.unit_planes(image, loop="auto")
        found: list[base.Array] = []
        for number in range(num_views):
            if number % 2:
                found.append(found[-1][:, ::-1])
                continue
            box = _placed(crop.center_crop_box(valid[0], valid[1], fraction=fraction), valid, PLACES[number // 2])
            view = crop.crop_planes(planes, box, out_size=(image_size, image_size), resize=resize, product=product)
            found.append(jnp.clip(resizing.from_planes(view), 0.0, 1.0))
        return jnp.stack(found)

    def eval_views(images: base.Array, sizes: base.Array | None = None) -> base.Array:
        pixels.check_images(images)
        valid = pixels.full_sizes(images) if sizes is None else sizes
        return loops.over_examples(views_one, (images, valid), loop="auto")

    return eval_views


def pillow_views(
    image: np.ndarray, *, size: int, resize: str = "bilinear", crop_fraction: float = 0.875, num_views: int = 1
) -> np.ndarray:
    """The same views as programs of PyTorch make them, by Pillow: uint8 [h, w, 3] -> uint8 [V, size, size, 3].

    The shorter side becomes floor(size / crop_fraction) pixels, with antialiasing, and a square of `size` is cut out of
    it. Centre, mirror image and corners follow each other as in `make_eval_views`.

    Args:
        image: uint8 [h, w, 3].
        size: side of the views, pixels.
        resize: Pillow's filter, "bilinear" (torchvision) or "bicubic" (timm for most of its networks).
        crop_fraction: share of the shorter side that the square keeps, in (0, 1].
        num_views: V, from 1 to 10.

    Raises:
        InputError: another type of image, or a value out of range.

    Reference: torchvision's Resize, CenterCrop and TenCrop on Pillow images; timm's crop_pct. No difference in pixels.

    Example:
        >>> augment.pillow_views(np.zeros((20, 30, 3), np.uint8), size=8).shape
        (1, 8, 8, 3)
    """
    from PIL import Image

    base.check_choice(resize, FILTERS, name="resize", remedy="Use bilinear.")
    check_num_views(num_views)
    if image.dtype != np.uint8 or image.ndim != 3 or not 0 < crop_fraction <= 1 or size < 1:
        raise base.InputError(
            f"Pillow's views need images uint8 [h, w, 3], a size of at least 1 and a crop_fraction in (0, 1]; got "
            f"{image.dtype} {list(image.shape)}, {size} and {crop_fraction:g}. Scale floats by 255 and round them."
        )
    short = int(size / crop_fraction)
    height, width = image.shape[:2]
    wide = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    scaled = np.asarray(Image.fromarray(image).resize(wide, Image.Resampling[resize.upper()]))
    found: list[np.ndarray] = []
    for number in range(num_views):
        if number % 2:
            found.append(found[-1][:, ::-1])
            continue
        top, left = (round((n - size) * place) for n, place in zip(scaled.shape[:2], PLACES[number // 2], strict=True))
        found.append(scaled[top : top + size, left : left + size])
    return np.stack(found)


def check_num_views(num_views: int) -> None:
    """Raises InputError unless there are that many different views."""
    if not 1 <= num_views <= MAX_VIEWS:
        raise base.InputError(
            f"num_views must be from 1 to {MAX_VIEWS}, the centre, the corners and their mirror images; got "
            f"{num_views}. Use 1 or 2."
        )


def _placed(box: crop.CropBox, valid: base.Array, place: tuple[float, float]) -> crop.CropBox:
    """The crop of the same size at another place; at the centre the box itself, whose rounding is the reference's."""
    if place == PLACES[0]:
        return box
    down, across = (int(share) for share in place)
    return box._replace(y=(valid[0] - box.height) * down, x=(valid[1] - box.width) * across)
