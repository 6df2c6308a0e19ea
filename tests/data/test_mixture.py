"""Several sets as one: every example once, with its own pixels and the mix's labels; training follows the weights."""

import collections
import hashlib
import pathlib

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data
from simclr_jax.data import cutting, order, streaming, workers
from tests.data import test_streaming, test_tfds_source

pytest.importorskip("cv2")
pytest.importorskip("simplejpeg")
BATCH, SEED = 16, 3
WEIGHTS = (2.0, 1.0, 0.5)


def fill(folder: pathlib.Path, names: list[str], side: int = 20) -> None:
    rng = np.random.default_rng(len(names))
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side + number % 3, 3), np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of cats and dogs, and of pictures without classes; a TFDS set of dogs and squares, one damaged."""
    root = tmp_path_factory.mktemp("mix")
    for split in ("train", "test"):
        test_streaming.write_pictures(root / "a,b*c" / split)
    fill(root / "flat", [f"train/{number:02}.png" for number in range(30)] + ["test/30.png", "test/31.png"])

    class TinyMix(test_tfds_source.TinyShapes):
        """The set of the other test, a class of which is called as one of the folder."""

        def _info(self):
            tfds = test_tfds_source.tfds
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["dogs", "square"])}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    TinyMix(data_dir=root, file_format="array_record").download_and_prepare()
    return root


SETS = ("folder:a,b*c", "tfds:tiny_mix", "folder:flat")


def mix_of(weights=WEIGHTS, sets=SETS):
    return "mix:" + ",".join(f"{name}*{weight:g}" for name, weight in zip(sets, weights, strict=True))


def load(place, name=None, split="train", **how):
    settings = {"cache_dir": "", "progress": False, "max_corrupt_fraction": 0.05, "canvas_size": 64} | how
    return data.load_split(name or mix_of(), split, data_dir=place, **settings)


@pytest.fixture(scope="module")
def decoded(place):
    return load(place)


@pytest.fixture(scope="module")
def streamed(place):
    return load(place, stream_above=-1)


def test_a_mix_holds_every_example_of_its_sets_once_with_its_pixels_and_class(place, decoded):
    parts = [load(place, name) for name in SETS]
    assert [len(part.images) for part in parts] == [23, 39, 30]  # one record is damaged
    np.testing.assert_array_equal(decoded.images, np.concatenate([part.images for part in parts]))
    np.testing.assert_array_equal(decoded.sizes, np.concatenate([part.sizes for part in parts]))
    expected = [f"{number}/{name}" for number, part in enumerate(parts, start=1) for name in part.ids]
    assert list(decoded.ids) == expected and len(set(expected)) == 92
    assert decoded.class_names == ("cats", "dogs", "square")  # dogs of both are one class, and the flat folder has none
    names = [part.class_names[label] if label >= 0 else "" for part in parts for label in part.labels]
    assert [decoded.class_names[label] if label >= 0 else "" for label in decoded.labels] == names
    assert collections.Counter(names) == {"cats": 12, "dogs": 11 + 20, "square": 19, "": 30}
    (damaged,) = decoded.skipped
    assert damaged.startswith("2/") and damaged.split(":")[0] not in expected


def test_a_mix_that_stays_encoded_is_the_decoded_one_and_reads_its_labels_once(place, streamed, decoded, tmp_path):
    assert data.is_encoded(streamed) and len(streamed.images) == 93
    kept = [row for row, name in enumerate(streamed.ids) if not decoded.skipped[0].startswith(f"{name}:")]
    np.testing.assert_array_equal(streamed.labels[kept], decoded.labels)
    assert [streamed.ids[row] for row in kept] == list(decoded.ids)
    shown = data.decoded(streamed, np.asarray([0, 22, 23, 70]))
    of_decoded = [decoded.ids.index(name) for name in shown.ids]
    np.testing.assert_array_equal(shown.images, decoded.images[of_decoded])
    np.testing.assert_array_equal(shown.labels, decoded.labels[of_decoded])
    again = load(place, stream_above=-1, cache_dir=tmp_path)
    assert again.fingerprint == streamed.fingerprint
    assert [file.name[:7] for file in tmp_path.iterdir()] == ["labels-"]  # of the TFDS set alone


@pytest.mark.parametrize("weights", [WEIGHTS, (1, 1, 1), (3, 0.25, 1.5)])
def test_weights_say_how_often_an_epoch_holds_each_example(place, weights, decoded):
    image_set = decoded._replace(mix=decoded.mix._replace(weights=weights))
    part_of = np.asarray([int(name[0]) - 1 for name in image_set.ids])
    counts = [np.flatnonzero(part_of == part) for part in range(3)]
    length = sum(round(weight * len(rows)) for weight, rows in zip(weights, counts, strict=True))
    assert data.epoch_size(image_set) == length
    visit = order.make_stream(SEED, num_examples=len(image_set.images), mix=image_set.mix)
    total = np.zeros(len(part_of), int)
    for epoch in range(4):
        times = np.bincount(visit(epoch * length, length), minlength=len(part_of))
        total += times
        for weight, rows in zip(weights, counts, strict=True):
            assert times[rows].sum() == round(weight * len(rows))
            assert set(times[rows]) <= {int(weight), int(np.ceil(weight))}
        for weight, rows in zip(weights, counts, strict=True):  # as evenly as can be, over epochs, too
            share = round(weight * len(rows)) * (epoch + 1) / len(rows)
            assert set(total[rows]) <= {int(share), int(np.ceil(share))}


def test_the_weights_change_neither_the_fingerprint_nor_the_cache(place, decoded, tmp_path):
    others = [load(place, mix_of(weights), cache_dir=tmp_path) for weights in (WEIGHTS, (1, 4, 1))]
    assert {other.fingerprint for other in others} == {decoded.fingerprint}
    assert len(list(tmp_path.iterdir())) == 1
    assert [other.mix.weights for other in others] == [WEIGHTS, (1.0, 4.0, 1.0)]
    reordered = load(place, mix_of(WEIGHTS, (SETS[1], SETS[0], SETS[2])))
    assert reordered.fingerprint != decoded.fingerprint


def test_a_part_of_a_mix_keeps_the_weights_of_its_examples(decoded):
    rows = np.asarray([50, 0, 91, 1])  # in any order, as a list of labels gives them
    part = data.subset(decoded, rows)
    visit = order.make_stream(SEED, num_examples=4, mix=part.mix)
    assert data.epoch_size(part) == 2 * 2 + 1 + 1  # at least one example of a set comes
    assert sorted(visit(0, 6).tolist()) == [0, 1, 1, 2, 3, 3]


def crops_of(image_set, steps, *, kind="threads", num=2):
    visit = order.make_stream(SEED, num_examples=len(image_set.images), mix=image_set.mix)
    stream = streaming.open_stream(
        image_set,
        cutting.Cuts(size=12, seed=SEED),
        examples_of=lambda step: visit(step * BATCH, BATCH),
        positions=np.arange(BATCH),
        settings=workers.WorkerSettings(kind, num),
        max_corrupt_fraction=0.05,
        warn=lambda line: None,
    )
    try:
        batches = [stream.read(step) for step in steps]
    finally:
        stream.close()
    for step, rows in zip(steps, batches, strict=True):  # another of its class stands in for the damaged one
        np.testing.assert_array_equal(rows.labels, image_set.labels[visit(step * BATCH, BATCH)])
    return [hashlib.sha256(rows.crops.tobytes() + rows.labels.tobytes()).hexdigest() for rows in batches]


def test_a_streamed_mix_is_the_same_for_any_workers_and_from_any_step_on(streamed):
    whole = crops_of(streamed, range(9), num=0)  # more than an epoch of 101 images
    assert len(set(whole)) == 9
    assert crops_of(streamed, range(9), num=3) == whole
    assert crops_of(streamed, [5, 6, 7]) == whole[5:8]
    assert crops_of(streamed, [5, 6], kind="processes", num=1) == whole[5:7]


def test_a_test_split_is_of_all_sets_that_have_it_and_numbers_classes_alike(place, decoded, capsys):
    sets = ("folder:flat/train", *SETS[:2])  # whose classes come second
    fill(place / "single", ["one.png"])  # too few to hold one out
    name = mix_of((1, 1, 3, 2), (*sets, "folder:single"))
    train_set, test_set = (load(place, name, split, progress=True) for split in ("train", "test"))
    said = capsys.readouterr().err
    assert "weight 3: 120 of 172 images of an epoch (69.8%)" in said and "weight 2: 2 of 172" in said
    assert "folder:single: no images in the split 'test'" in said
    assert train_set.class_names == test_set.class_names == decoded.class_names
    firsts = collections.Counter(name[0] for name in test_set.ids)
    assert firsts == {"1": 3, "2": 23, "3": 10}  # a tenth held out, its own, and its validation
    assert data.has_split(name, "test", data_dir=place)
    assert not data.has_split("mix:folder:single", "test", data_dir=place)
    with pytest.raises(base.InputError, match="folder:PATH must be one of train, test, all"):
        load(place, name, "train[:10%]")
    assert data.ids_tell_images("mix:folder:a*2,folder:b") and not data.ids_tell_images(name)


def test_a_mix_is_described_without_being_decoded(place):
    assert data.describe_split(mix_of(), "train", data_dir=place) == (93, 3, 256, 46 + 40 + 15)
    assert data.describe_split("mix:folder:flat*0.5", "train", data_dir=place) == (30, 0, 22, 15)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mix:folder:a*2,tfds:b/c:1.0.0", [("folder:a", 2.0), ("tfds:b/c:1.0.0", 1.0)]),
        ("mix: folder:a * 0.5 , folder:b*.25", [("folder:a", 0.5), ("folder:b", 0.25)]),
        ("mix:folder:a,b,c d*1*3,folder:digits", [("folder:a,b,c d*1", 3.0), ("folder:digits", 1.0)]),
        ("folder:a*2", [("folder:a*2", 1.0)]),
    ],
)
def test_commas_and_stars_of_paths_can_be_said(text, parts):
    found = data.parts_of(text)
    assert list(found) == parts
    if text.startswith("mix:"):
        assert data.parts_of(data.mix_name(found)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mix:", "a mix is of sets on disk (tfds:NAME[/CONFIG], folder:PATH); got ''"),
        ("mix:folder:a,digits*2", "a mix is of sets on disk (tfds:NAME[/CONFIG], folder:PATH); got 'digits'"),
        ("mix:folder:a,foldr:b", "got 'foldr:b'. Write for example mix:folder:PATH*2,tfds:NAME."),
        ("mix:mix:folder:a", "got 'mix:folder:a'"),
        (
            "mix:folder:a*2,folder:a",
            "a mix holds each set once; got folder:a*2,folder:a. Give the set a larger weight.",
        ),
        *(
            (f"mix:folder:a*{weight}", f"followed by its weight, a number above 0; got 'folder:a*{weight}'")
            for weight in ("0", "-1", "2x", "nan", "1e3", "0.0", "")
        ),
    ],
)
def test_names_of_no_mix_are_refused_in_one_line(text, said):
    with pytest.raises(base.InputError) as caught:
        data.load_split(text, "train")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_epoch_longer_than_its_order_can_be_is_refused(place):
    with pytest.raises(base.InputError, match="less than 2\\*\\*31 images; got 29999999970"):
        load(place, "mix:folder:flat*999999999")
