"""The work of `data`: the splits of a config described, a contact sheet, and this host measured."""

import io
import json as json_lib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax import atomic_files, base, data, units
from simclr_jax.data import full_decode, host_crop, host_draws, imageset, look, sources
from simclr_jax.html_report import pictures
from simclr_jax.planning import feeding, plan, text
from simclr_jax.run import config as config_lib
from simclr_jax.run import input_pipeline, pretrained, progress

_ROWS, _COLUMNS, _CELL = 5, 8, 128
_NUM_CROPPED = 50  # pictures held in memory, whole
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {}),
}


def look_at(
    *,
    config: Mapping[str, Any],
    output: str = "data.png",
    json: str | None = None,
    device_kind: str = "h200",
    devices: int = 8,
) -> int:
    """Prints what the splits of `config` hold, writes a contact sheet, and measures this host; returns the exit status.

    Args:
        config: of a run.
        output: file of the contact sheet.
        json: file for the same as JSON.
        device_kind: a key of `hardware.DEVICES`.
        devices: how many, at least 1.

    Raises:
        base.InputError: a flag or a value of the config is not valid, or the data cannot be read.
    """
    ending = pathlib.Path(output).suffix.lower()
    base.check_choice(ending, _FORMATS, name="the ending of --output")
    for flag, path in (("--output", output), ("--json", json)):
        if path is not None:
            atomic_files.check_target(path, flag=flag)
    config = pretrained.inherit(config)
    planned = plan.make_plan(config, kind=device_kind, devices=devices, compiler="none")
    splits = {name: _load(config, split) for name, split in config["split"].items() if name in ("train", "test")}
    found: dict[str, Any] = {name: _describe(image_set) for name, image_set in splits.items() if image_set is not None}
    train_set = splits["train"]
    assert train_set is not None
    found["host"] = _measure_host(config, planned)
    print(as_text(found, name=config["data"]["name"]))
    stream = io.BytesIO()
    kind, options = _FORMATS[ending]
    contact_sheet(train_set, title=config["data"]["name"]).save(stream, kind, **options)
    atomic_files.write_bytes(output, stream.getvalue())
    progress.say(f"Wrote {output}.")
    if json is not None:
        atomic_files.write_text(json, json_lib.dumps(found, indent=1) + "\n")
    return 0


def _load(config: Mapping[str, Any], split: str) -> data.ImageSet | None:
    if split != config["split"]["train"] and not config_lib.call(data.has_split, config, "data", split=split):
        return None
    image_set: data.ImageSet = config_lib.call(data.load_split, config, "data", split=split)
    return image_set


def _describe(image_set: data.ImageSet) -> dict[str, Any]:
    return {
        "num_images": len(image_set.ids),
        "canvas": image_set.images.shape[1],
        "classes": look.count_classes(image_set),
        "pixels": look.measure_pixels(image_set)._asdict(),
        "fingerprint": image_set.fingerprint,
        "skipped": list(image_set.skipped),
        "warnings": list(image_set.warnings),
    }


def _measure_host(config: Mapping[str, Any], planned: Mapping[str, Any]) -> dict[str, Any]:
    """What the files are, seconds of one core for each stage of reading them, and what the planned devices ask for."""
    host: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    }
    host["planned"] = planned["modelled"]["feeding"]
    section = config["data"]
    encoded = sources.open_split(
        section["name"],
        config["split"]["train"],
        data_dir=section["data_dir"],
        canvas_size=section["canvas_size"],
        rules=imageset.Rules(section["sixteen_bit_range"], section["max_megapixels"]),
    )
    sample = {} if encoded is None else look.sample(encoded)
    if encoded is None or not sample:
        return host
    contents, rules = list(sample.values()), encoded.rules
    host["files"] = look.describe_files(contents, rules=rules)._asdict()
    # Small views are the device's; the others tell what the host could do.
    views = {**config["augment"], "num_small_views": 0}
    cuts = input_pipeline.make_cuts({**config, "augment": views})
    crops = np.empty(cuts.row_shape, np.uint8)

    def cut(pixels: np.ndarray) -> None:
        size = np.asarray([pixels.shape[:2]])
        drawn = host_draws.draw_boxes(
            cuts.seed,
            0,
            positions=np.zeros(1, int),
            sizes=size,
            num_views=cuts.num_views,
            min_scale=cuts.min_scale,
            sampler=cuts.sampler,
        )
        for view, box in enumerate(np.stack(drawn, axis=-1)[0].tolist()):
            host_crop.crop(pixels, tuple(box), out=crops[view], method=cuts.method, resize=cuts.resize)

    def decode(content: bytes) -> np.ndarray:
        return full_decode.decode_full(content, size=full_decode.picture_size(content, rules), rules=rules)

    def load(content: bytes) -> np.ndarray:
        return decode(content).copy()  # the array of a plain JPEG is the next one's too

    pictures_ = [load(content) for content in contents[:_NUM_CROPPED]]
    host["seconds"] = {
        **look.measure_rates({"read": encoded.read}, list(sample)),
        **look.measure_rates({"decode": decode}, contents),
        **look.measure_rates({f"cut {cuts.num_views} crops": cut}, pictures_),
    }
    return host


def as_text(found: Mapping[str, Any], *, name: str) -> str:
    """What was found, as a person reads it in a terminal."""
    lines = [name]
    for split in ("train", "test"):
        lines += _split_lines(split, found[split]) if split in found else [f"{split:<10}none"]
    host = found["host"]
    if "files" in host:
        lines += _host_lines(host)
    if host["planned"] is not None:
        lines.append(f"{'planned':<10}the host {text.feeding_line(host['planned'])}")
    return "\n".join(lines)


def _split_lines(split: str, found: Mapping[str, Any]) -> list[str]:
    pixels, classes = found["pixels"], dict(found["classes"])
    unlabelled = classes.pop("", 0)
    parts = [f"{found['num_images']:,} images"]
    if classes:
        shown = ", ".join(f"{imageset.printable(name)} {count:,}" for name, count in list(classes.items())[:6])
        dots = ", ..." if len(classes) > 6 else ""
        parts.append(
            f"{len(classes)} classes of {min(classes.values()):,} to {max(classes.values()):,} ({shown}{dots})"
        )
    if unlabelled:
        parts.append(f"{unlabelled:,} without a label")
    mean, std = (" ".join(f"{value:.4f}" for value in pixels[key]) for key in ("mean", "std"))
    lines = [
        f"{split:<10}{'; '.join(parts)}",
        f"{'':<10}canvas {found['canvas']} pixels; widths {_spread(pixels['widths'])}, heights "
        f"{_spread(pixels['heights'])}",
        f"{'':<10}red, green, blue: mean {mean}, standard deviation {std}",
        f"{'':<10}fingerprint {found['fingerprint']}",
    ]
    lines += [f"{'':<10}left out: {line}" for line in found["skipped"][:5]]
    if len(found["skipped"]) > 5:
        lines.append(f"{'':<10}... and {len(found['skipped']) - 5} more")
    return lines + [f"{'':<10}warning: {line}" for line in found["warnings"]]


def _host_lines(host: Mapping[str, Any]) -> list[str]:
    files, seconds = host["files"], host["seconds"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in files["kinds"].items())
    each = sum(seconds.values())
    lines = [
        f"{'files':<10}{files['num_sampled']} sampled: {kinds}; {units.size(files['num_bytes'])} and "
        f"{files['megapixels']:.3f} megapixels on average; widths {_spread(files['widths'])}, heights "
        f"{_spread(files['heights'])}",
        f"{'this host':<10}{host['cores']} cores; an image takes one of them "
        + ", ".join(f"{units.duration(value)} to {stage}" for stage, value in seconds.items())
        + f": {1 / each:,.0f} images/s and core",
    ]
    if host["planned"] is not None:
        rate = host["planned"]["images_per_second"]
        needed = feeding.describe("streamed", images_per_second=rate, seconds_per_image=each, bytes_per_image=0)
        lines.append(
            f"{'':<10}{needed['cores_needed']} such cores could do that as often as the planned devices ask for images "
            f"({rate:,.0f} a second); plan with --host_rate={1 / each:.0f}"
        )
    return lines


def _spread(values: tuple[int, int, int]) -> str:
    low, middle, high = values
    return f"{low}" if low == high else f"{low} to {high} (median {middle})"


def contact_sheet(image_set: data.ImageSet, *, title: str) -> Any:
    """A Pillow image of examples: a class a column where there are classes, else evenly taken ones."""
    labels, names = np.asarray(image_set.labels), image_set.class_names
    present = [label for label in range(len(names)) if (labels == label).any()]
    if present:
        chosen = [present[i] for i in np.unique(np.linspace(0, len(present) - 1, _COLUMNS).astype(int))]
        columns = [np.flatnonzero(labels == label) for label in chosen]
        captions = [names[label] for label in chosen]
    else:
        columns = np.array_split(np.arange(len(labels)), min(_COLUMNS, len(labels)))
        captions = [""] * len(columns)
    rows = min(_ROWS, max(len(column) for column in columns))
    cells = np.full((rows, len(columns), _CELL, _CELL, 3), 255, np.uint8)
    for place, column in enumerate(columns):
        for row, index in enumerate(np.unique(np.linspace(0, len(column) - 1, rows).astype(int))):
            cells[row, place] = _cell(image_set, int(column[index]))
    return pictures.contact_sheet(cells, scale=1, captions=captions, title=title)


def _cell(image_set: data.ImageSet, row: int) -> np.ndarray:
    """The valid part of an image in the middle of a white square; small ones are enlarged by a whole factor."""
    height, width = image_set.sizes[row]
    image = np.asarray(image_set.images[row, :height, :width])
    factor = max(1, _CELL // max(height, width))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    canvas, (height, width) = imageset.fit_to_canvas(image, _CELL)
    cell = np.full((_CELL, _CELL, 3), 255, np.uint8)
    top, left = (_CELL - height) // 2, (_CELL - width) // 2
    cell[top : top + height, left : left + width] = canvas[:height, :width]
    return cell
