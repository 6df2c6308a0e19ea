"""`digits`: scikit-learn's 1,797 handwritten digits, inside its wheel. For smoke tests: raw pixels solve it."""

import numpy as np

from simclr_jax.data import extras, imageset

NUM_CLASSES = 10


def load_digits(split: str) -> imageset.ImageSet:
    """ "train" (1,348 images) or "test" (449): uint8 [N, 32, 32, 3], grey, 10 classes.

    The 8x8 images with levels 0..16 become 0..255 and are enlarged four times by repetition. Every fourth image is
    a test image. Ids are the indices in scikit-learn's order.

    Raises:
        base.InputError: scikit-learn is missing.

    Reference: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, test part).
    """
    digits = extras.require("sklearn.datasets").load_digits()
    is_test = np.arange(len(digits.target)) % 4 == 3
    chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
    # Rounds half up, in integers: 16 levels to 255.
    levels = (digits.images[chosen].astype(np.int64) * 255 + 8) // 16
    grey = levels.astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images = np.repeat(grey[..., None], 3, axis=-1)
    names = tuple(str(digit) for digit in range(NUM_CLASSES))
    return imageset.make_image_set(images, digits.target[chosen], class_names=names, ids=tuple(str(i) for i in chosen))
