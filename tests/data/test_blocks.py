"""A split decoded in blocks: order, damaged files, their quota, and what is odd about the images."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base
from simclr_jax.data import blocks, imageset


def _encode(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _two_halves():
    """24x16, left half red, right half green."""
    image = Image.new("RGB", (24, 16), (200, 30, 40))
    image.paste((20, 180, 60), (12, 0, 24, 16))
    return image


def _encoded(items):
    """A split whose files are `items`: bytes, or an exception to raise."""

    def read(index):
        if isinstance(items[index], Exception):
            raise items[index]
        return items[index], index

    ids = [f"file{index}" for index in range(len(items))]
    return imageset.Encoded("test", "0" * 64, (), ids, lambda: 16, read)


def _decode(items, max_corrupt_fraction):
    rows = []
    decoded = blocks.decode_split(
        _encoded(items), rows.append, canvas_size=16, max_corrupt_fraction=max_corrupt_fraction, progress=False
    )
    return decoded, np.concatenate(rows)


def test_decoding_keeps_the_order_whatever_the_threads_do():
    items = [_encode(Image.new("RGB", (8 + i % 9, 16), (i % 256, i // 256, 0))) for i in range(700)]
    decoded, rows = _decode(items, 0)
    np.testing.assert_array_equal(rows[:, 0, 0, 0] + 256 * rows[:, 0, 0, 1].astype(int), np.arange(700))
    np.testing.assert_array_equal(decoded.labels, np.arange(700))
    np.testing.assert_array_equal(decoded.sizes, [[16, 8 + i % 9] for i in range(700)])
    assert decoded.images.shape == rows.shape


def test_damaged_files_are_named_and_left_out():
    good = _encode(_two_halves())
    decoded, rows = _decode([good, b"junk", good, good[:60], PermissionError(13, "Permission denied"), good], 0.5)
    assert decoded.ids == ("file0", "file2", "file5")
    np.testing.assert_array_equal(decoded.labels, [0, 2, 5])
    assert len(rows) == 3
    assert [line.partition(":")[0] for line in decoded.skipped] == ["file1", "file3", "file4"]
    assert decoded.skipped[2] == "file4: Permission denied"


@pytest.mark.parametrize(
    ("num_bad", "max_corrupt_fraction", "fine"),
    [
        (0, 0, True),
        (1, 0, False),
        (1, 0.01, True),
        (2, 0.01, False),
        (2, 0.02, True),
        (50, 0.5, True),
        (51, 0.5, False),
    ],
)
def test_the_quota_is_a_share_of_the_files_rounded_up(num_bad, max_corrupt_fraction, fine):
    items = [b"junk"] * num_bad + [_encode(Image.new("RGB", (8, 8)))] * (100 - num_bad)
    if fine:
        assert len(_decode(items, max_corrupt_fraction)[0].skipped) == num_bad
        return
    with pytest.raises(base.InputError, match=f"got {num_bad} among the first 100: file0: not a JPEG") as caught:
        _decode(items, max_corrupt_fraction)
    assert "\n" not in str(caught.value)


def test_a_split_of_damaged_files_only_is_refused():
    with pytest.raises(base.InputError, match="at least one readable image; got 1 damaged ones: file0: empty file"):
        _decode([b""], 1.0)
