"""The readers of files that somebody else may have made: a good file for each, how it is mutated, and how it is read.

A reader that gives something back has its result looked at: what comes through must be of use, not only be readable.
"""

import contextlib
import gzip
import io
import json
import pathlib
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from simclr_jax import base, probes
from simclr_jax.cli import evaluate_text, explore_fields, probe_features
from simclr_jax.data import decode, pairs, tokens
from simclr_jax.data.prepare import archives, binary
from simclr_jax.interop import card, files, open_clip_layouts, opening, variables
from simclr_jax.run import (
    checkpoint_files,
    classifier_file,
    config_json,
    feature_file,
    frozen,
    identity,
    parts,
    search_index,
    small_files,
    texts,
)
from simclr_jax.run import config as config_lib
from tests.hostile import mutations

META = {"fingerprint": "f", "class_names": ["a", "b"], "layer": "h", "protocol": "p", "images": "x", "skipped": []} | {
    "encoder": {"source": "/x", "step": 1, "mean": [0.5], "std": [0.5], "size": 32, "resize": "tf2"},
    "num_views": 1,
}


class Reader(NamedTuple):
    """A file with its good content, how a stranger changes it, and what reads it."""

    path: pathlib.Path
    good: bytes
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[], Any]


def rows(count: int = 12) -> feature_file.Rows:
    """Rows of a file of features."""
    rng = np.random.default_rng(0)
    return feature_file.Rows(
        features=rng.normal(size=(count, 4)).astype(np.float32),
        names=np.array([f"{number}.png" for number in range(count)]),
        labels=np.arange(count, dtype=np.int32) % 2,
        paths=np.array([""] * count),
        sizes=np.full((count, 2), 8, np.int32),
        digests=np.arange(count, dtype=np.uint64),
    )


def png() -> bytes:
    """A picture."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(stream, "PNG")
    return stream.getvalue()


def tar() -> bytes:
    """A shard with four pictures, each with two texts."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(4):
            for ending, data in ((".png", png()), (".txt", b"a cat\nb"), (".json", b'{"caption": "x"}')):
                info = tarfile.TarInfo(f"{number:03d}{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _use_features(path: pathlib.Path) -> None:
    found = feature_file.load(path)
    assert all(isinstance(text, str) for text in (*found.names, *found.paths, *found.class_names))
    assert found.features.ndim == 2 and np.isfinite(found.features).all()
    lengths = {len(column) for column in (found.names, found.paths, found.labels, found.sizes, found.digests)}
    assert lengths == {len(found.features)} and found.sizes.ndim == 2
    feature_file.relabelled(found, ("a",))
    feature_file.join(found, found)
    feature_file.check_alike(found.meta, META, rule="", remedy="")


def _use_classifier(path: pathlib.Path) -> None:
    found = classifier_file.load(path)
    width, count = found.classifier.weights.shape
    assert count == len(found.class_names) == len(found.classifier.bias)
    assert width == len(found.classifier.mean) == len(found.classifier.scale)
    assert all(isinstance(name, str) for name in found.class_names)


def _use_pairs(path: pathlib.Path) -> None:
    found = pairs.open_pairs(str(path), "all", data_dir=None, canvas_size=None)
    for index in range(len(found.ids)):
        with contextlib.suppress(decode.DamagedImage, OSError):  # said and left out where pictures are decoded
            found.read(index)


def _use_archive(path: pathlib.Path, work: pathlib.Path) -> None:
    for member in archives.open_tar(path, work=work, max_bytes=10**7, tick=lambda: None):
        archives.read_member(member)
    for plain in work.iterdir():
        plain.unlink()


def _use_part(folder: pathlib.Path) -> None:
    kept = parts.Parts(folder)
    kept.take_over({"a": 1}, count=12, batch_size=12)
    assert all(len(block.features) == len(block.names) for block in kept)


def _use_data(folder: pathlib.Path) -> None:
    found = identity.read_data(folder)
    if found is not None:
        identity.check_data(folder, identity.Data("n", "f", 3, ("a",)))


def _fill(path: pathlib.Path) -> None:
    try:
        config_json.fill(config_lib.load_file("default"), str(path))
    except ValueError as error:  # which `config` gives its file's name
        raise base.InputError(base.one_line(error)) from error


def _csv(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().splitlines()
    odd = (
        "",
        ",",
        '"',
        '"' + "a" * 200_000,
        "a\x00b,c",
        "/etc/passwd,c",
        "p0.png," + "x" * 10**5,
        "/dev/zero,x",
        "~,x",
    )
    lines[rng.randrange(len(lines))] = rng.choice(odd)
    return "\n".join(lines).encode() if rng.random() < 0.6 else mutations.of_bytes(content, rng)


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutations.of_json(lines[at], rng)
    return b"\n".join(lines)


def _packed(content: bytes, rng: random.Random) -> bytes:
    changed = mutations.of_tar(content, rng)
    packed = gzip.compress(changed, 1) if rng.random() < 0.5 else changed
    return mutations.of_bytes(packed, rng) if rng.random() < 0.3 else packed


def _gzipped(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutations.of_bytes(content, rng)
    return gzip.compress(mutations.of_bytes(gzip.decompress(content), rng), 1)


def make(folder: pathlib.Path) -> Mapping[str, Reader]:
    """All readers, each with its file in the folder."""

    def at(name: str) -> pathlib.Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        return folder / name

    for name in ("f.npz", "f.parquet"):
        feature_file.save(at(name), [rows()], meta=META, num_rows=12)
    _make_others(at)
    manifest = json.dumps(checkpoint_files.make_manifest(40, {"a": "float32[3]"}, {"a": "0" * 64})).encode()
    weights = {"encoder/a/kernel": np.ones((2, 3), np.float32), "encoder/a/bias": np.ones(3, np.float32)}
    variables.save(at("v.safetensors"), weights)
    tokenizer = tokens.make_tokenizer(["a dog runs", "a cat"], vocab_size=300, length=8).content.encode()
    text = {"text": {"tokenizer": None, "vocab_size": 300, "length": 8}}
    merges = gzip.compress(b"#v\nt h\nth e</w>\na n\n")
    data = {"name": "n", "fingerprint": "f", "num_images": 3, "class_names": ["a"], "weights": []}
    js, table, log = mutations.of_json, b"filename,caption\np0.png,a cat\n", b'{"step": 1, "loss": 2.0}\n' * 4
    given: Any = {"tokenizer": str(at("merges.gz")), "vocab_size": 49408, "length": 77}
    (folder / "checkpoints" / "40").mkdir(parents=True)

    def saved(name: str, mutate: Any, read: Any) -> Reader:
        return Reader(at(name), at(name).read_bytes(), mutate, read)

    return {
        "features": saved("f.npz", mutations.of_npz, lambda: _use_features(at("f.npz"))),
        "parquet": saved("f.parquet", mutations.of_bytes, lambda: _use_features(at("f.parquet"))),
        "classifier": saved("c.npz", mutations.of_npz, lambda: _use_classifier(at("c.npz"))),
        "part": saved("job/part-000000000-000000012.npz", mutations.of_npz, lambda: _use_part(at("job"))),
        "safetensors": saved("v.safetensors", mutations.of_safetensors, lambda: variables.load(at("v.safetensors"))),
        "foreign weights": saved(
            "v.safetensors", mutations.of_safetensors, lambda: files.open_safetensors(at("v.safetensors"))
        ),
        "weights in parts": Reader(
            at("m/model.safetensors.index.json"),
            b'{"metadata": {}, "weight_map": {"a": "v.safetensors", "b": "v.safetensors"}}',
            js,
            lambda: opening.open_weights(at("m/model.safetensors.index.json")),
        ),
        "weights in a zip": Reader(at("x.pth"), _zip(), mutations.of_bytes, lambda: _refused(at("x.pth"))),
        "weights in a tar": Reader(at("y.pth"), _old_torch(), mutations.of_tar, lambda: _refused(at("y.pth"))),
        "class names": Reader(
            at("cifar/batches.meta.txt"),
            b"a\nb\nc\n",
            mutations.of_bytes,
            lambda: binary.plan_cifar10(at("cifar"), variant="", work=at("work"), tick=lambda: None),
        ),
        "manifest": Reader(
            at("checkpoints/40/digests/metadata"),
            manifest,
            js,
            lambda: checkpoint_files.read_manifest(at("checkpoints"), 40),
        ),
        "small file": saved("small.json", js, lambda: small_files.read(at("small.json"))),
        "log": Reader(at("log.jsonl"), log, _lines, lambda: small_files.read_rows(at("log.jsonl"))),
        "card": Reader(at("card.json"), b'{"format": "x", "files": {"a": {}}}', js, lambda: card.read_card(folder)),
        "config": Reader(
            at("config.json"), b'{"seed": 1, "data": {"name": "a"}}', js, lambda: _fill(at("config.json"))
        ),
        "data": Reader(at("data.json"), json.dumps(data).encode(), js, lambda: _use_data(folder)),
        "start": Reader(at("init.json"), b'{"encoder": {"weights": "a"}}', js, lambda: frozen.read_start(folder)),
        "note": Reader(at("n.json"), b'{"features": "a"}', js, lambda: search_index.read_note(at("n.json"))),
        "open_clip": Reader(
            at(open_clip_layouts.CONFIG),
            b'{"model_cfg": {"quick_gelu": true, "text_cfg": {"heads": 8}}}',
            js,
            lambda: open_clip_layouts.read_settings(folder),
        ),
        "tokenizer": Reader(
            at("t.json"),
            tokenizer,
            js,
            lambda: tokens.make_tokenizer(tokenizer=str(at("t.json")), vocab_size=300, length=8).encode(["a", ""]),
        ),
        "kept tokenizer": Reader(
            at(texts.FILE), tokenizer, js, lambda: texts.open_tokenizer(folder, text).encode(["a dog"])
        ),
        "merges": Reader(at("merges.gz"), merges, _gzipped, lambda: tokens.make_tokenizer(**given).encode(["the"])),
        "templates": Reader(
            at("t.txt"), b"a {}\n", mutations.of_bytes, lambda: evaluate_text.read_templates(str(at("t.txt")))
        ),
        "captions": Reader(at("pairs/captions.csv"), table, _csv, lambda: _use_pairs(at("pairs/captions.csv"))),
        "labels": Reader(
            at("l.csv"), b"path,label\n0.png,a\n", _csv, lambda: probe_features._read_labels(str(at("l.csv")))
        ),
        "table": Reader(at("e.csv"), b"id,x\n0.png,a\n", _csv, lambda: explore_fields.read_table(str(at("e.csv")))),
        "captions.parquet": saved("q/c.parquet", mutations.of_bytes, lambda: _use_pairs(at("q/c.parquet"))),
        "shard": Reader(at("s.tar"), tar(), mutations.of_tar, lambda: _use_pairs(at("s.tar"))),
        "archive": Reader(at("a.tar"), tar(), _packed, lambda: _use_archive(at("a.tar"), at("work"))),
    }


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", b"x")
    return out.getvalue()


def _old_torch() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return out.getvalue()


def _refused(path: pathlib.Path) -> None:
    """What only torch could read, which is not installed here or refuses it, too."""
    with contextlib.suppress(base.InputError):
        opening.open_weights(path)


def _make_others(at: Callable[[str], pathlib.Path]) -> None:
    """The good files that need a program of ours or another to be written."""
    import pyarrow
    import pyarrow.parquet

    ones = np.ones(4, np.float32)
    fitted = probes.LinearClassifier(
        weights=np.ones((4, 2), np.float32),
        bias=ones[:2],
        mean=ones,
        scale=ones,
        regularization=1.0,
        validation_accuracy=0.5,
    )
    classifier_file.save(at("c.npz"), fitted, class_names=("a", "b"), meta=META)
    at("job/x")
    kept = parts.Parts(at("job"))
    kept.take_over({"a": 1}, count=12, batch_size=12)
    kept.keep(range(12), parts.Part(rows(), []))
    small_files.write(at("small.json"), {"a": 1, "b": [1, {"c": None}]})
    variables.save(at("m/v.safetensors"), {"a": np.ones(3, np.float32)})
    for number in range(1, 6):
        at(f"cifar/data_batch_{number}.bin").write_bytes(bytes(3073))
    at("cifar/test_batch.bin").write_bytes(bytes(3073))
    for name in ("pairs/p0.png", "q/p0.png"):
        at(name).write_bytes(png())
    pyarrow.parquet.write_table(pyarrow.table({"filename": ["p0.png"], "caption": ["a"]}), at("q/c.parquet"))
    at("work/x").parent.mkdir(exist_ok=True)
