"""Features of files in a stream: those of a call, whatever the batches, and the same file after a kill."""

import dataclasses
import functools
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax import base
from simclr_jax.run import embedding, feature_file, locking

RNG = np.random.default_rng(0)
SIZES = [(20, 30), (300, 25), (8, 8), (12, 40), (33, 33), (16, 16), (9, 70)]


@pytest.fixture(scope="module")
def encoder(small_run):
    return simclr_jax.load(small_run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven pictures in two class folders, two of them equal, and a damaged one."""
    root = tmp_path_factory.mktemp("embedding") / "photos"
    for number, (height, width) in enumerate(SIZES):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{number}.png")
    shutil.copy(root / "cat" / "2.png", root / "dog" / "copy.png")
    (root / "dog" / "broken.png").write_bytes((root / "dog" / "1.png").read_bytes()[:200])
    return root


def test_features_of_files_are_those_of_their_pixels(encoder, photos):
    found = encoder.embed(photos, batch_size=4)
    cats, dogs = [f"cat/{n}.png" for n in (0, 2, 4, 6)], [f"dog/{n}.png" for n in (1, 3, 5, "copy")]
    assert found.names == (*cats, *dogs)
    assert found.class_names == ("cat", "dog") and found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.sizes.tolist()[:4] == [[20, 30], [8, 8], [33, 33], [9, 70]]
    assert len(found.meta["skipped"]) == 1 and found.meta["skipped"][0].startswith("dog/broken.png: damaged")
    assert found.digests[1] == found.digests[7] and len(set(found.digests.tolist())) == 7
    assert [pathlib.Path(path).is_file() for path in found.paths] == [True] * 8
    pixels = [np.asarray(Image.open(path)) for path in found.paths]
    small = [row for row, image in enumerate(pixels) if max(image.shape) <= 256]
    expected = encoder([pixels[row] for row in small])
    np.testing.assert_allclose(found.features[small], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.features[1], found.features[7])


def part_names(target):
    return sorted(path.name for path in pathlib.Path(f"{target}.parts").glob("part-*"))


def stop_at(monkeypatch, wanted):
    """Ends a job by Ctrl-C at so many batches; gives the batches that are encoded."""
    encode, seen = embedding._encode, []

    def stop(job, prepared):
        if len(seen) == wanted:
            raise KeyboardInterrupt
        seen.append(len(prepared))
        return np.asarray(encode(job, prepared))  # as if the device were done with it

    monkeypatch.setattr(embedding, "_encode", stop)
    return seen


@pytest.mark.few(1)
@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_a_job_that_was_killed_goes_on_and_gives_the_same_file(encoder, photos, tmp_path, monkeypatch, capsys, ending):
    how = {"batch_size": 2, "dtype": "float16", "show": True}
    whole = encoder.embed(photos, output=tmp_path / f"whole{ending}", **how)
    target = tmp_path / f"target{ending}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 3)
        encoder.embed(photos, output=target, **how)
    assert not target.exists() and part_names(target) == ["part-000000000-000000006.npz"]
    assert f"6 of 9 pictures are kept in {target}.parts; the same command goes on" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_SAVE_SECONDS", 0.0)  # a part for every batch
        seen = stop_at(patch, 99)
        again = encoder.embed(photos, output=target, **how)
    assert len(seen) == 2 and "Going on: 6 of 9 pictures" in capsys.readouterr().err
    assert target.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert not pathlib.Path(f"{target}.parts").exists()
    assert whole.features.dtype == np.float16 and again.names == whole.names and again.meta == whole.meta
    for name in ("features", "labels", "sizes", "digests"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_damaged_parts_are_made_again_and_those_of_another_job_are_not_taken(
    encoder, photos, tmp_path, monkeypatch, capsys
):
    target = tmp_path / "features.npz"
    encoder.embed(photos, output=target, batch_size=2)
    expected = target.read_bytes()
    monkeypatch.setattr(embedding, "_SAVE_SECONDS", 0.0)
    save = feature_file.save
    monkeypatch.setattr(feature_file, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encoder.embed(photos, output=target, batch_size=2)
    names = part_names(target)
    assert len(names) == 5
    folder = pathlib.Path(f"{target}.parts")
    torn, flipped, empty = (folder / name for name in names[1:4])
    torn.write_bytes(torn.read_bytes()[:700])
    content = bytearray(flipped.read_bytes())
    content[400] ^= 1
    flipped.write_bytes(content)
    empty.write_bytes(b"")
    (folder / "part-mine.npz").write_text("no part")
    monkeypatch.setattr(feature_file, "save", save)
    with monkeypatch.context() as patch:
        seen = stop_at(patch, 99)
        encoder.embed(photos, output=target, batch_size=2)
    assert len(seen) == 3 and "3 parts in " in capsys.readouterr().err
    assert target.read_bytes() == expected
    monkeypatch.setattr(feature_file, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    for how in ({}, {"layer": "z"}):
        seen = stop_at(monkeypatch, 99)
        with pytest.raises(KeyboardInterrupt):
            encoder.embed(photos, output=target, batch_size=2, **how)
        assert len(seen) == 5


def test_one_process_at_a_time_writes_an_output(encoder, photos, tmp_path):
    target = tmp_path / "features.npz"
    folder = pathlib.Path(f"{target}.parts")
    folder.mkdir()
    with (
        locking.only_process(folder, flag="--output", rule="", remedy=""),
        pytest.raises(base.InputError, match=f"One process at a time may write an output; .* by process {os.getpid()}"),
    ):
        encoder.embed(photos, output=target)
    encoder.embed(photos, output=target)
    assert not folder.exists()


def test_features_that_are_not_finite_are_refused_where_they_are_made(encoder, photos, monkeypatch):
    encode = embedding._encode
    monkeypatch.setattr(embedding, "_encode", lambda *given: np.asarray(encode(*given)) * np.float32(1e9))
    assert np.isfinite(encoder.embed(photos, batch_size=2).features).all()
    with pytest.raises(base.InputError, match=r"finite numbers of float16; those of cat/0.png are not"):
        encoder.embed(photos, batch_size=2, dtype="float16")


@pytest.mark.slow
def test_views_are_averaged_and_layers_are_those_of_the_head(encoder, photos):
    images = RNG.integers(0, 256, (3, 20, 20, 3), np.uint8)
    once, mirrored = encoder(images), encoder(images[:, :, ::-1])
    np.testing.assert_allclose(encoder(images, num_views=2), (once + mirrored) / 2, rtol=1e-4, atol=1e-5)
    params, stats = (encoder.head_variables[kind] for kind in ("params", "batch_stats"))
    x, layers = once.astype(np.float64), encoder.head.num_layers
    for layer in range(1, layers + 1):
        x = x @ params[f"dense{layer}"]["kernel"]
        norm, moving = params[f"bn{layer}"], stats[f"bn{layer}"]
        x = (x - moving["mean"]) / np.sqrt(moving["var"] + 1e-5) * norm["scale"] + norm.get("bias", 0)
        x = np.maximum(x, 0) if layer < layers else x
    np.testing.assert_allclose(encoder(images, layer="z"), x, rtol=1e-3, atol=1e-4)
    with pytest.raises(base.InputError, match=r"layer must be one of h, 1, .*z; got '7'"):
        encoder(images, layer=7)


def test_pillows_preparation_takes_files_as_programs_of_pytorch_do(encoder, photos):
    theirs = dataclasses.replace(encoder, resize="bilinear", crop_fraction=0.5)
    found = theirs.embed(photos)
    image = Image.open(photos / "cat" / "0.png")
    scaled = np.asarray(image.resize((24, 16), Image.Resampling.BILINEAR))
    view = scaled[4:12, 8:16].astype(np.float32) / 255
    apply = jax.jit(functools.partial(encoder.module.apply, train=False))
    expected = apply(encoder.variables, view[None])
    np.testing.assert_allclose(found.features[0], expected[0], rtol=1e-4, atol=1e-5)
    assert found.meta["protocol"] == "pillow-bilinear.crop0.5.8.views1"


def test_data_sets_by_name_and_what_cannot_be_done(encoder, photos, tmp_path):
    with pytest.raises(base.InputError, match=r"--output must end in .npz or .parquet"):
        encoder.embed(photos, output=tmp_path / "features.csv")
    (tmp_path / "broken").mkdir()
    shutil.copy(photos / "dog" / "broken.png", tmp_path / "broken")
    with pytest.raises(base.InputError, match="at least one picture that can be read"):
        encoder.embed(tmp_path / "broken")
    (tmp_path / "other.npz").write_bytes(b"PK")
    for path, told in (("gone.npz", "there is no"), ("other.npz", "Make it again")):
        with pytest.raises(base.InputError, match=told):
            feature_file.load(tmp_path / path)
