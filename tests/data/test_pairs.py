"""Pictures with texts: tables and folders, splits, tokens, and which text a step sees."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data, train_step
from simclr_jax.data import tokens

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "white": (250, 250, 250)}


def make_pictures(folder, names=tuple(COLOURS)):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full((10, 12, 3), COLOURS[name], np.uint8)).save(folder / "images" / f"{name}.png")


def make_table(folder, rows, header=("filename", "caption", "split"), name="captions.csv"):
    make_pictures(folder)
    with open(folder / name, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return folder / name


ROWS = [
    ("images/red.png", "a red, red square", "train"),
    ("images/red.png", "it is red", "train"),
    ("images/green.png", "a green square", "train"),
    ("images/blue.png", "a blue square", "test"),
    ("images/red.png", "it is red", "train"),
    ("images/white.png", "", "train"),
]


def test_a_table_gives_every_picture_its_texts_once_and_the_splits_of_its_column(tmp_path):
    table = make_table(tmp_path, ROWS)
    train = data.load_split(f"pairs:{table}", "train", cache_dir="", progress=False)
    assert train.ids == ("images/green.png", "images/red.png")
    assert train.texts == (("a green square",), ("a red, red square", "it is red"))
    assert (train.images[1, 0, 0] == COLOURS["red"]).all() and (train.labels == -1).all()
    test = data.load_split(f"pairs:{tmp_path}", "test", cache_dir="", progress=False)
    assert test.texts == (("a blue square",),)
    assert len(data.load_split(f"pairs:{table}", "all", cache_dir="", progress=False).ids) == 3
    kept = data.subset(train, np.asarray([1]))
    assert kept.texts == train.texts[1:]


def test_another_text_is_other_data(tmp_path):
    first = data.load_split(f"pairs:{make_table(tmp_path, ROWS)}", "train", cache_dir="", progress=False)
    changed = [(name, text.replace("it is", "this is"), split) for name, text, split in ROWS]
    second = data.load_split(f"pairs:{make_table(tmp_path, changed)}", "train", cache_dir="", progress=False)
    assert first.fingerprint != second.fingerprint


def test_parquet_and_files_beside_pictures_hold_the_same(tmp_path):
    import pyarrow
    import pyarrow.parquet

    make_pictures(tmp_path / "table")
    columns = dict(zip(("image", "text", "split"), map(list, zip(*ROWS, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "table" / "some.parquet")
    table = data.load_split(f"pairs:{tmp_path}/table/some.parquet", "train", cache_dir="", progress=False)
    make_pictures(tmp_path / "files" / "train", ("red", "green"))
    for name, lines in {"red": "a red, red square\nit is red\n", "green": "a green square"}.items():
        (tmp_path / "files" / "train" / "images" / f"{name}.txt").write_text(lines)
    files = data.load_split(f"pairs:{tmp_path}/files", "train", cache_dir="", progress=False)
    assert files.texts == table.texts == (("a green square",), ("a red, red square", "it is red"))


def test_without_a_column_a_tenth_is_held_out(tmp_path):
    make_pictures(tmp_path)
    names = [f"images/{number}.png" for number in range(20)]
    for name in names:
        (tmp_path / name).write_bytes((tmp_path / "images" / "red.png").read_bytes())
    table = make_table(tmp_path, [(name, f"text {name}") for name in names], header=("path", "title"))
    splits = [data.load_split(f"pairs:{table}", which, cache_dir="", progress=False).ids for which in ("train", "test")]
    assert len(splits[1]) == 2 and set(splits[0]) | set(splits[1]) == set(names)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("filename", "words"), ROWS, "needs a column for the text, called caption or text"),
        (("filename", "caption", "split"), [("images/none.png", "none", "train")], "No such file"),
        (("filename", "caption", "split"), ROWS[3:4], "must hold at least one picture with a text"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, header, rows, message):
    table = make_table(tmp_path, rows, header=header)
    with pytest.raises(base.InputError, match=message):
        data.load_split(f"pairs:{table}", "train", cache_dir="", progress=False)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(base.InputError, match="needs a table"):
        data.load_split(f"pairs:{tmp_path}/none.csv", "train")
    make_pictures(tmp_path)
    with pytest.raises(base.InputError, match=r"needs texts: a table captions.csv .* got 4 pictures and neither"):
        data.load_split(f"pairs:{tmp_path}", "train")


TEXTS = ["A red square", "a green square", "it is blue: über"]


def test_tokens_are_a_function_of_the_texts_with_begin_end_and_padding():
    trained = data.make_tokenizer(TEXTS, vocab_size=320, length=10)
    rows = trained.encode(["a red square", "A RED SQUARE", "unseen äö", "a red square " * 9])
    assert rows.dtype == np.int32 and (rows[:, 0] == 318).all() and (rows < 320).all()
    np.testing.assert_array_equal(rows[0], rows[1])
    assert rows[3, -1] == 319 and (np.argmax(rows, axis=1) < 10).all()
    end = int(np.argmax(rows[0]))
    assert rows[0, end] == 319 and (rows[0, end + 1 :] == 0).all()
    kept = data.make_tokenizer(kept=trained.content, vocab_size=320, length=10)
    np.testing.assert_array_equal(kept.encode(TEXTS), trained.encode(TEXTS))
    assert data.make_tokenizer(TEXTS, vocab_size=320).content == trained.content


def test_clips_own_vocabulary_is_made_from_its_merges(tmp_path):
    """By hand: 512 letters, then merges in the order of the file; r+e, re+d</w> and s+q."""
    path = tmp_path / "merges.txt"
    path.write_text("#version: 0.2\nr e\nre d</w>\ns q\n", encoding="utf-8")
    clip = data.make_tokenizer(tokenizer=str(path), vocab_size=517, length=12)
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letter = {chr(byte): number for number, byte in enumerate(order)}
    expected = [515, 513, 514, *(letter[c] for c in "uar"), letter["e"] + 256, letter["!"] + 256, 516]
    assert clip.encode(["RED  square!"])[0].tolist() == [*expected, 0, 0, 0]
    with pytest.raises(base.InputError, match=r"text.vocab_size must be above all tokens, begin and end; got 400"):
        data.make_tokenizer(tokenizer=str(path), vocab_size=400)
    with pytest.raises(base.InputError, match=r"text.tokenizer must be a .json"):
        data.make_tokenizer(tokenizer=str(tmp_path / "none.txt"))


def test_all_texts_of_an_example_are_drawn_alike_and_only_its_own():
    trained = data.make_tokenizer(TEXTS, vocab_size=320, length=6)
    padded = tokens.pad_texts(trained, [TEXTS[:2], TEXTS[2:], TEXTS])
    assert padded.shape == (3, 3, 6) and (padded[0, 2] == -1).all() and (padded[1, 1:] == -1).all()
    draw = jax.jit(train_step.choose_texts)
    rows = jnp.asarray(np.repeat(padded, 300, axis=0))
    drawn = np.asarray(draw(jax.random.key(0), rows, jnp.arange(900, dtype=jnp.int32)))
    for number, own in enumerate((TEXTS[:2], TEXTS[2:], TEXTS)):
        part = drawn[300 * number : 300 * number + 300]
        counts = [int((part == row).all(axis=1).sum()) for row in trained.encode(own)]
        assert sum(counts) == 300 and min(counts) > 300 / len(own) - 45, "five standard deviations"
    # A row alone, as a device or a chunk has it, draws what it draws in the batch.
    some = jnp.asarray([7, 650], jnp.int32)
    np.testing.assert_array_equal(draw(jax.random.key(0), rows[some], some), drawn[np.asarray(some)])


def test_an_example_without_a_text_is_refused():
    with pytest.raises(base.InputError, match="Every picture needs a text"):
        tokens.pad_texts(data.make_tokenizer(TEXTS, vocab_size=300), [TEXTS, []])


def test_streamed_pictures_come_with_their_own_texts(tmp_path):
    """Row by row the text belongs to the picture, which its colour tells; also of one that stands in for a damaged."""
    from simclr_jax.distributed import sharding
    from simclr_jax.run import config as config_lib
    from simclr_jax.run import input_pipeline

    pytest.importorskip("cv2")
    rows = [(f"images/{name}.png", name, "train") for name in COLOURS]
    make_table(tmp_path, rows)
    content = (tmp_path / "images" / "green.png").read_bytes()
    (tmp_path / "images" / "green.png").write_bytes(content[: len(content) // 2])
    streamed = data.load_split(f"pairs:{tmp_path}", "train", cache_dir="", progress=False, stream_above=-1)
    assert data.is_encoded(streamed) and streamed.texts == tuple((name.split("/")[1][:-4],) for name in streamed.ids)
    tokenizer = data.make_tokenizer(COLOURS, vocab_size=300, length=10)
    streamed = streamed._replace(tokens=tokens.pad_texts(tokenizer, streamed.texts))
    config = config_lib.load_file("clip_captions", "--config.augment.image_size=8").to_dict()
    feed = input_pipeline.make_streamed_feed(
        streamed,
        sharding.make_mesh(1),
        input_pipeline.make_cuts(config),
        settings=config_lib.call(input_pipeline.make_settings, config, "feed").workers._replace(num=0),
        batch_size=4,
        num_steps=1,
        max_corrupt_fraction=0.5,
    )
    source, _ = feed.draw(0)
    feed.close()
    codes = {name: tokenizer.encode([name])[0] for name in COLOURS}
    for crop, text in zip(np.asarray(source.images), np.asarray(source.texts), strict=True):
        (name,) = [name for name, code in codes.items() if (code == text[0]).all()]
        assert np.abs(crop[0, 4, 4].astype(int) - COLOURS[name]).max() <= 2 and name != "green"
