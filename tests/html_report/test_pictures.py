"""Contact sheets, thumbnails and the map of thumbnails, looked at pixel by pixel."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base
from simclr_jax.html_report import pictures


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def decoded(uri):
    head, body = uri.split(",", 1)
    return head, Image.open(io.BytesIO(base64.b64decode(body, validate=True)))


def places_of(sheet, picture):
    """(top, left) of every place where the sheet shows the picture exactly."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(sheet), picture.shape)
    # One pixel first: comparing whole windows everywhere would take minutes.
    near = np.argwhere((windows[..., 0, 0, :] == picture[0, 0]).all(axis=(-1, -2)))
    return [(int(top), int(left)) for top, left, *_ in near if (windows[top, left, 0] == picture).all()]


@pytest.mark.parametrize("scale", [1, 2])
def test_every_cell_of_a_contact_sheet_shows_its_image(scale):
    images = noise(2, 3, 9, 14, 3)
    sheet = pictures.contact_sheet(images, scale=scale, padding=4)
    places = np.empty((2, 3, 2), int)
    for row in range(2):
        for column in range(3):
            enlarged = images[row, column].repeat(scale, axis=0).repeat(scale, axis=1)
            found = places_of(sheet, enlarged)
            assert len(found) == 1
            places[row, column] = found[0]
    # One row per example, one column per view; the original stands apart by twice the padding.
    np.testing.assert_array_equal(places[1] - places[0], [[9 * scale + 4, 0]] * 3)
    np.testing.assert_array_equal(places[:, 1] - places[:, 0], [[0, 14 * scale + 4 + 8]] * 2)
    np.testing.assert_array_equal(places[:, 2] - places[:, 1], [[0, 14 * scale + 4]] * 2)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("columns", [1, 4])
def test_width_of_a_contact_sheet_is_cells_and_white_space(columns, padding):
    sheet = pictures.contact_sheet(noise(2, columns, 20, 20, 3), scale=1, padding=padding)
    apart = 2 * padding if columns > 1 else 0
    assert sheet.width == 2 * 3 * padding + columns * 20 + (columns - 1) * padding + apart
    assert sheet.mode == "RGB"


def test_every_further_example_adds_one_row_of_the_same_height():
    heights = [pictures.contact_sheet(noise(rows, 2, 10, 10, 3), scale=2, padding=6).height for rows in (1, 2, 3)]
    assert np.diff(heights).tolist() == [26, 26]


@pytest.mark.parametrize(("side", "shown"), [(32, 128), (50, 150), (128, 128), (224, 128), (1, 128)])
def test_pictures_are_about_128_px_by_default_and_enlarged_by_whole_factors(side, shown):
    one = pictures.contact_sheet(noise(1, 1, side, side, 3), padding=0)
    assert one.width == shown


def test_a_contact_sheet_is_white_around_its_pictures():
    sheet = np.asarray(pictures.contact_sheet(np.zeros((1, 2, 10, 10, 3), np.uint8), padding=8))
    assert (sheet[:10] == 255).all() and (sheet[-24:] == 255).all()
    assert (sheet[:, :24] == 255).all() and (sheet[:, -24:] == 255).all()


def test_captions_and_title_are_drawn_above_the_pictures():
    images = noise(1, 2, 40, 40, 3)
    plain = pictures.contact_sheet(images, scale=1)
    named = pictures.contact_sheet(images, scale=1, captions=["a", "b"])
    titled = pictures.contact_sheet(images, scale=1, title="digits: images and their views, a long title")
    assert plain.size == named.size
    assert (np.asarray(plain) != np.asarray(named)).any()
    assert titled.height > plain.height and titled.width > plain.width
    assert len(places_of(titled, images[0, 1])) == 1
    default = pictures.contact_sheet(images, scale=1, captions=["original", "view 1"])
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(default))


def test_a_caption_too_long_for_its_column_is_cut():
    images = noise(1, 2, 60, 60, 3)
    long = pictures.contact_sheet(images, scale=1, captions=["W" * 200, "b"])
    assert long.size == pictures.contact_sheet(images, scale=1).size
    top, left = places_of(long, images[0, 1])[0]
    assert (np.asarray(long)[:top, left - 16 : left] == 255).all()


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "$x_{", "日本"])
def test_strange_text_on_a_contact_sheet_is_only_text(text):
    images = noise(1, 2, 32, 32, 3)
    assert len(places_of(pictures.contact_sheet(images, scale=1, captions=[text, text], title=text), images[0, 0])) == 1


@pytest.mark.parametrize("captions", [["only one"], ["a", "b", "c"]])
def test_captions_that_do_not_fit_are_an_input_error(captions):
    with pytest.raises(base.InputError, match=rf"captions must name every column; got {len(captions)} for 2\."):
        pictures.contact_sheet(noise(1, 2, 8, 8, 3), captions=captions)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 2, 8, 8, 3), np.float32),
        np.zeros((2, 2, 8, 8, 3), np.int32),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((2, 2, 8, 8, 1), np.uint8),
        np.zeros((0, 2, 8, 8, 3), np.uint8),
    ],
    ids=["float32", "int32", "four axes", "one channel", "empty"],
)
def test_a_contact_sheet_of_anything_but_uint8_colour_images_is_an_input_error(images):
    with pytest.raises(base.InputError) as caught:
        pictures.contact_sheet(images)
    message = str(caught.value)
    assert f"got {images.dtype} {images.shape}" in message and "\n" not in message


@pytest.mark.parametrize("shape", [(1, 1, 3), (32, 32, 3), (64, 20, 3)])
def test_a_small_image_comes_back_from_its_data_address_unchanged(shape):
    image = noise(*shape)
    head, picture = decoded(pictures.data_uri(image))
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(picture), image)


def test_data_address_of_a_part_of_an_array_shows_that_part():
    image = noise(40, 40, 3)[::-2, 5:35]
    np.testing.assert_array_equal(np.asarray(decoded(pictures.data_uri(image))[1]), image)


def test_a_large_image_becomes_a_small_jpeg_that_looks_the_same():
    ramp = np.linspace(20, 230, 224)[:, None, None] * np.ones((1, 112, 3))
    head, picture = decoded(pictures.data_uri(ramp.astype(np.uint8), max_side=112))
    assert head == "data:image/jpeg;base64"
    assert picture.size == (56, 112)
    # Within four grey levels: JPEG at quality 85 on a smooth ramp.
    np.testing.assert_allclose(np.asarray(picture), ramp[::2, ::2], atol=4)


def test_image_map_puts_thumbnails_where_their_points_are():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (4, 5, 5, 3))
    # Lower left, upper left, lower right, upper right: upwards on the plane is up on the picture.
    sheet = np.asarray(
        pictures.image_map(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float), images, width=100, cell=20)
    )
    assert sheet.shape == (60, 100, 4)
    corners = sheet[[-10, 10, -10, 10], [10, 10, -10, -10]]
    np.testing.assert_array_equal(corners, np.c_[colours, np.full(4, 255)])
    assert (sheet[:, 20:80, 3] == 0).all()


def test_image_map_of_one_point_or_many_at_one_place_shows_one_thumbnail():
    for count in (1, 7):
        sheet = np.asarray(pictures.image_map(np.zeros((count, 2)), noise(count, 4, 4, 3), width=80, cell=20))
        assert (sheet[..., 3] > 0).sum() == 18 * 18


def test_a_stray_point_does_not_squeeze_the_others_into_a_corner():
    points = np.random.default_rng(0).uniform(size=(300, 2))
    images = noise(300, 4, 4, 3)
    seen = [
        np.asarray(pictures.image_map(p, images, width=200, cell=20))[..., 3].sum() for p in (points, points.copy())
    ]
    points[0] = 1e6
    stray = np.asarray(pictures.image_map(points, images, width=200, cell=20))[..., 3].sum()
    assert seen[0] == seen[1]
    assert stray > 0.8 * seen[0]
