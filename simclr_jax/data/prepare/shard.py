"""One shard: its examples are read, checked, shrunk if asked, written, read back, and only then given its name.

Beside a finished shard lies a small JSON file of what it holds. A later run that finds both, made of the same files in
the same way, does not make it again.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from simclr_jax import base
from simclr_jax.data import decode, extras, imageset, records, strict
from simclr_jax.data.prepare import plan as plan_lib
from simclr_jax.data.prepare import tfds_layout

FORMAT = 1
Tick = Callable[[int, str], None]
_SHRUNK_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class Settings:
    """How examples are checked and stored.

    check: "strict" refuses what `strict.decode_image` refuses, "lenient" only what cannot be decoded at all.
    short_side: larger images are shrunk to this short side once, as JPEGs of quality 90; None = bytes are kept.
    rules: how files are decoded.
    """

    check: str = "strict"
    short_side: int | None = None
    rules: imageset.Rules = imageset.DEFAULT_RULES


@dataclasses.dataclass
class Summary:
    """What one shard holds.

    counts: class -> number of its examples (of the first label).
    refused: "name: reason" of each example that was left out.
    changed: "name: how" of each image that is not stored as it was.
    total: fingerprint of its records, see `records.add_digest`.
    """

    num_examples: int = 0
    num_bytes: int = 0
    counts: dict[int, int] = dataclasses.field(default_factory=dict)
    refused: list[str] = dataclasses.field(default_factory=list)
    changed: list[str] = dataclasses.field(default_factory=list)
    total: int = 0


def make(
    path: pathlib.Path,
    items: Sequence[plan_lib.Item],
    plan: plan_lib.Plan,
    *,
    split: str,
    settings: Settings,
    key: str,
    tick: Tick,
) -> Summary:
    """Makes the shard `path`, unless it is there already; returns what it holds.

    `key` is what `key_of` says of it. `tick` is called with (1, "") for every example, and (1, "name: reason") for one
    that is refused; what it raises stops the work, and nothing of the shard remains.

    Raises:
        base.InputError: what was written cannot be read back.
        OSError: the shard cannot be written.
    """
    done = _load(path, key)
    if done is not None:
        tick(done.num_examples, "")
        for line in done.refused:
            tick(1, line)
        return done
    summary = Summary()
    part = path.with_name(f"{path.name}.part")
    try:
        encoded = _encoded(items, plan, split=split, settings=settings, summary=summary, tick=tick)
        with contextlib.closing(encoded):
            records.write_records(part, encoded)
        if digest_file(part, split=split) != summary.total:
            raise base.InputError(f"a shard must read back as it was written; {path} does not. Check the disk.")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    tfds_layout.write_json(summary_path(path), {"key": key} | dataclasses.asdict(summary))
    return summary


def _encoded(
    items: Sequence[plan_lib.Item],
    plan: plan_lib.Plan,
    *,
    split: str,
    settings: Settings,
    summary: Summary,
    tick: Tick,
) -> Generator[bytes, None, None]:
    """The records of the good examples; `summary` is filled on the way."""
    for item in items:
        try:
            image = prepare_image(plan_lib.read_item(item), plan, settings=settings)
        except (decode.DamagedImage, OSError) as error:
            summary.refused.append(f"{imageset.printable(item.name)}: {decode.reason(error)}")
            tick(1, summary.refused[-1])
            continue
        if image.change:
            summary.changed.append(f"{imageset.printable(item.name)}: {image.change}")
        values: dict[str, bytes | int] = {"image": image.data, **dict(zip(plan.labels, item.labels, strict=True))}
        if plan.name_feature:
            values[plan.name_feature] = item.name.encode("utf-8", "replace")
        record = records.encode_example(values)
        summary.total = records.add_digest(summary.total, record, prefix=split)
        summary.num_examples += 1
        summary.num_bytes += len(record)
        for label in item.labels[:1]:
            summary.counts[label] = summary.counts.get(label, 0) + 1
        yield record
        tick(1, "")


def prepare_image(data: bytes, plan: plan_lib.Plan, *, settings: Settings) -> plan_lib.Image:
    """The image to be stored for the bytes of an example, checked by decoding it.

    Raises:
        decode.DamagedImage: it is refused.
    """
    image = plan.to_image(data)
    if image.change and settings.check == "strict":  # a fresh file is whole, whatever it was made from
        strict.check(data, settings.rules)
    if settings.short_side is None and settings.check == "strict":
        strict.check(image.data, settings.rules)
        return image
    look = strict.decode_image if settings.check == "strict" else decode.decode_image
    if settings.short_side is None:
        look(image.data, long_side=decode.DEFAULT_CANVAS_SIZE, rules=settings.rules)
        return image
    pixels = look(image.data, long_side=decode.WHOLE, rules=settings.rules).pixels
    return _shrink(image, pixels, settings.short_side)


def _shrink(image: plan_lib.Image, pixels: Any, short_side: int) -> plan_lib.Image:
    height, width = pixels.shape[:2]
    if min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    pillow = extras.require("PIL.Image")
    small = pillow.fromarray(pixels).resize((round(scale * width), round(scale * height)), pillow.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_SHRUNK_QUALITY)
    return plan_lib.Image(stream.getvalue(), image.change)


def digest_file(path: pathlib.Path, *, split: str) -> int:
    """The fingerprint of a shard's records by its file, see `records.add_digest`; -1 if it cannot be read."""
    total = 0
    try:
        for record in records.read_records(path):
            total = records.add_digest(total, record, prefix=split)
    except (RuntimeError, ValueError, OSError):
        return -1
    return total


def key_of(items: Sequence[plan_lib.Item], plan: plan_lib.Plan, *, split: str, settings: Settings) -> str:
    """A hash of all that a shard depends on, by names, sizes and times of its files."""
    stamp = [FORMAT, split, plan_lib.full_name(plan), dict(plan.labels), dataclasses.astuple(settings)]
    digest = hashlib.sha256(json.dumps(stamp).encode())
    for item in items:
        digest.update(json.dumps(item).encode())
    for path in sorted({item.path for item in items if not item.mtime_ns}):  # archives
        digest.update(str(os.stat(path).st_mtime_ns).encode())
    return digest.hexdigest()


def summary_path(path: pathlib.Path) -> pathlib.Path:
    """Where it is kept what a shard holds."""
    return path.with_name(f"{path.name}.json")


def _load(path: pathlib.Path, key: str) -> Summary | None:
    try:
        values = base.parse_json(summary_path(path).read_text(encoding="utf-8"))
        if values.pop("key") != key or not path.is_file():
            return None
        values["counts"] = {int(label): count for label, count in values["counts"].items()}
        return Summary(**values)
    except (OSError, ValueError, KeyError, TypeError):
        return None
