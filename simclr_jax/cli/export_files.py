"""The work of `simclr-jax export`: the encoder of a run as files for other programs, and a card."""

import contextlib
import hashlib
import importlib.util
import inspect
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax import export as jax_export

from simclr_jax import atomic_files, base, models, units
from simclr_jax.augment import eval_view
from simclr_jax.cli import export_hub, export_torch
from simclr_jax.interop import card, onnx_graph, variables
from simclr_jax.methods import clip
from simclr_jax.models import norms
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, identity, paths, progress
from simclr_jax.run import workdir as workdir_lib

USUAL = ("torch", "flax", "stablehlo", "onnx")
FORMATS = (*USUAL, "hub", "detection", "open_clip")
HEADS = {
    "none": (),
    "projection": ("projection_head",),
    "classifier": ("supervised_head",),
    "all": ("projection_head", "supervised_head"),
}
PLATFORMS = ("cpu", "cuda", "tpu")
# A serialized export is one flatbuffer and an ONNX file one message, which end at 2 GiB; the program itself takes less
# than a hundredth.
_WHOLE_LIMIT = int(1.9 * 2**30)


class _Exported(NamedTuple):
    """What is about to be written: weights by name, the network, and the run's own settings."""

    by_name: variables.ByName
    encoder: nn.Module
    arguments: dict[str, Any]
    selector: int
    size: int
    # Of a run that reads texts: all that belongs to these, and its section `method`.
    of_texts: variables.ByName
    method: Mapping[str, Any]


def export(*, workdir: str, output: str, checkpoint: str = "latest", format: str = "all", head: str = "none") -> int:
    """Writes the encoder of the run in `workdir` to the folder `output`; returns the exit status.

    Args:
        workdir: of a run made by train.
        output: a folder that does not exist, is empty, or holds an earlier export, which is then replaced.
        checkpoint: "latest", "best" or a step number.
        format: some of FORMATS with commas between, or "all" for those of USUAL; "all" leaves out, with a word, what
            this encoder has no form for.
        head: which heads go with the encoder: "none", "projection", "classifier" or "all" (those the run has).

    Raises:
        base.InputError: no run or checkpoint, an unknown value, a format or head that this run has no form for, or
            a folder that cannot be written or holds something else.
    """
    progress.quiet_libraries()
    formats = _parse_formats(format)
    base.check_choice(head, HEADS, name="--head")
    # Absolute, so that "." and ".." have a name that a folder beside them can be called after.
    folder, target = workdir_lib.require_run(workdir), pathlib.Path(os.path.abspath(output))
    _check_target(target)
    atomic_files.check_folder(target, flag="--output")
    config, results = identity.read_config(folder), workdir_lib.read_results(folder)
    step, by_name, of_texts = _load(folder, which=checkpoint, head=head)
    exported = _Exported(
        by_name,
        config_lib.call(models.make_encoder, config, "encoder"),
        encoder_arguments(config),
        config["method"].get("ft_proj_selector", 0),  # runs of methods without a classifier have none
        config["augment"]["image_size"],
        of_texts,
        config["method"],
    )
    writers = _choose_writers(exported, formats, strict=format != "all")
    with atomic_files.replacing_folder(target, flag="--output") as fresh:
        files = {}
        for kind, write in writers.items():
            for path in write(fresh, exported):
                files[path.name] = _file_entry(kind, path, exported)
        told = export_hub.without_paths(config) if "hub" in writers else config
        training = {"config": told, "step": step, "checkpoint": checkpoint}
        # A converted run was trained elsewhere; its record says where from.
        training |= {key: results[key] for key in ("environment", "converted") if key in results}
        content = _make_card(exported, files=files, training=training, results=results)
        if "hub" in writers:
            for path in export_hub.write_words(fresh, content, by_name):
                content["files"][path.name] = _file_entry("hub", path, exported)
        workdir_lib.write_json(fresh / card.CARD, content)
    print(_summary(output, content, workdir=workdir))
    return 0


def encoder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `models.make_encoder` for a run: the config's, and the defaults of those that it predates."""
    parameters = inspect.signature(models.make_encoder).parameters
    return {name: config["encoder"].get(name, parameter.default) for name, parameter in parameters.items()}


def serialize_encoder(encoder: nn.Module, encoder_variables: base.PyTree, *, size: int) -> bytes:
    """The frozen encoder as a serialized `jax.export.Exported` with its weights inside.

    Its function: images float32 [b, size, size, 3] in [0, 1] -> h float32 [b, D], moving BatchNorm statistics, any
    b >= 1, on the platforms PLATFORMS.

    Raises:
        base.InputError: the package flatbuffers is missing.
    """
    frozen = jax.tree.map(np.asarray, encoder_variables)
    (batch,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), np.float32)
    encode = jax.jit(lambda images: encoder.apply(frozen, images, train=False))
    try:
        return bytes(jax_export.export(encode, platforms=PLATFORMS)(images).serialize())
    except ImportError as error:
        raise base.InputError(
            f"The stablehlo format needs flatbuffers ({error}). Install it: pip install flatbuffers"
        ) from error


def _parse_formats(text: str) -> tuple[str, ...]:
    chosen = USUAL if text == "all" else tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise base.InputError(f"--format must be all or some of {', '.join(FORMATS)}; got {unknown[0]!r}.")
    return chosen


def _load(folder: pathlib.Path, *, which: str, head: str) -> tuple[int, variables.ByName, variables.ByName]:
    """(step, variables by name of the encoder and the chosen heads, those that belong to texts)."""
    step, params, method_state = features.load_variables(folder, which=which)
    whole = variables.flatten(params, method_state["batch_stats"])
    found = [part for part in HEADS[head] if variables.only(whole, part)]
    if head not in ("none", "all") and not found:
        raise base.InputError(
            f"--head={head} needs a run with a {HEADS[head][0]}; this one has {', '.join(variables.parts(whole))}. "
            "Use --head=none or --head=all."
        )
    kept, of_texts = (
        {name: value for part in parts for name, value in variables.only(whole, part).items()}
        for parts in (("encoder", *found), clip.OF_TEXTS)
    )
    return step, kept, of_texts


_Writer = Callable[[pathlib.Path, _Exported], list[pathlib.Path]]


def _choose_writers(exported: _Exported, formats: tuple[str, ...], *, strict: bool) -> dict[str, _Writer]:
    """Format -> what writes it. One without a form for this run is refused if `strict`, else left out."""
    writers: dict[str, _Writer] = {
        "torch": _write_torch,
        "flax": _write_flax,
        "stablehlo": _write_stablehlo,
        "onnx": _write_onnx,
        "hub": _write_hub,
        "detection": _write_detection,
        "open_clip": _write_open_clip,
    }
    obstacles = {name: _obstacle(exported, name) for name in formats}
    possible = [name for name in FORMATS if not _obstacle(exported, name)]
    for name, obstacle in obstacles.items():
        if obstacle and strict:
            raise base.InputError(f"{obstacle} Use --format={' or --format='.join(possible)}.")
        if obstacle:
            progress.say(f"Without {name}: {obstacle}")
    return {name: writers[name] for name, obstacle in obstacles.items() if not obstacle}


def _obstacle(exported: _Exported, name: str) -> str:
    """Why this run has no form in the format `name`; "" if it has one."""
    encoder_bytes = sum(value.nbytes for value in variables.only(exported.by_name, "encoder").values())
    if name in ("stablehlo", "onnx") and encoder_bytes > _WHOLE_LIMIT:
        return f"A program with its weights holds at most 2 GiB; these weights take {units.size(encoder_bytes)}."
    if name == "onnx" and importlib.util.find_spec("onnx") is None:
        return "The onnx format needs the Python package onnx; it is not installed: pip install 'simclr-jax[onnx]'."
    if name == "onnx" and card.family(exported.arguments) not in onnx_graph.FAMILIES:
        return f"The onnx format has no form of CLIP's ResNets; this encoder is {exported.arguments['name']}."
    if name == "open_clip":
        arguments, method = exported.arguments, exported.method
        return export_torch.open_clip_obstacle(exported.of_texts, arguments, method=method)
    if name in ("torch", "detection") and _no_torch(exported):
        return _no_torch(exported)
    return export_torch.detection_obstacle(exported.by_name, exported.arguments) if name == "detection" else ""


def _no_torch(exported: _Exported) -> str:
    return export_torch.obstacle(exported.by_name, exported.arguments, selector=exported.selector)


def _write_torch(folder: pathlib.Path, exported: _Exported) -> list[pathlib.Path]:
    return export_torch.write(folder, exported.by_name, exported.arguments)


def _write_flax(folder: pathlib.Path, exported: _Exported) -> list[pathlib.Path]:
    path = folder / "variables.safetensors"
    variables.save(path, exported.by_name)
    return [path]


def _write_stablehlo(folder: pathlib.Path, exported: _Exported) -> list[pathlib.Path]:
    params, batch_stats = variables.unflatten(variables.only(exported.by_name, "encoder"))
    frozen = {"params": params["encoder"], "batch_stats": batch_stats.get("encoder", {})}
    path = folder / "encoder.jax_export"
    path.write_bytes(serialize_encoder(exported.encoder, frozen, size=exported.size))
    return [path]


def _write_onnx(folder: pathlib.Path, exported: _Exported) -> list[pathlib.Path]:
    path, arguments = folder / "encoder.onnx", exported.arguments
    by_name = variables.only(exported.by_name, "encoder")
    by_name = export_torch.with_positions(by_name, arguments, side=exported.size // arguments["patch_size"])
    path.write_bytes(onnx_graph.make_model(by_name, arguments, channel_groups=norms.num_channel_groups))
    return [path]


def _write_hub(folder: pathlib.Path, exported: _Exported) -> list[pathlib.Path]:
    has_torch = card.family(exported.arguments) == "resnet" and not _no_torch(exported)
    return export_hub.write_weights(folder, exported.by_name, has_torch=has_torch)


def _write_detection(folder: pathlib.Path, exported: _Exported) -> list[pathlib.Path]:
    return export_torch.write_detection(folder, exported.by_name)


def _write_open_clip(folder: pathlib.Path, exported: _Exported) -> list[pathlib.Path]:
    whole = {**variables.only(exported.by_name, "encoder"), **exported.of_texts}
    return export_torch.write_open_clip(folder, whole, exported.arguments, method=exported.method)


def _file_entry(kind: str, path: pathlib.Path, exported: _Exported) -> dict[str, Any]:
    size, is_fixed = exported.size, card.family(exported.arguments) == "vit"
    entry = card.file_entry(kind, size=size, num_bytes=path.stat().st_size, sha256=_sha256(path))
    # The positions of a transformer's patches are of one size of images.
    return entry | ({"note": f"h and w are {size}, the batch is free"} if kind == "onnx" and is_fixed else {})


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_card(
    exported: _Exported, *, files: Mapping[str, Any], training: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    config, by_name = training["config"], exported.by_name
    params, batch_stats = variables.unflatten(variables.only(by_name, "encoder"))
    images = jax.ShapeDtypeStruct((1, exported.size, exported.size, 3), np.float32)
    frozen = {"params": params["encoder"], "batch_stats": batch_stats.get("encoder", {})}
    h = jax.eval_shape(lambda v, x: exported.encoder.apply(v, x, train=False), frozen, images)
    return card.make_card(
        encoder={
            "arguments": exported.arguments,
            "representation_size": h.shape[-1],
            "num_parameters": sum(value.size for value in jax.tree.leaves(params)),
            "num_statistics": sum(value.size for value in jax.tree.leaves(batch_stats)),
            "torch_class": card.torch_class(exported.arguments),
        },
        heads=[
            card.head_entry(part, list(by_name), selector=exported.selector)
            for part in variables.parts(by_name)
            if part != "encoder"
        ],
        preprocess=card.preprocessing(
            size=exported.size,
            center_crop=eval_view.center_fraction(exported.size),
            resize=config["augment"]["resize"],
            mean=exported.arguments["mean"],
            std=exported.arguments["std"],
        ),
        training=training,
        accuracies=card.accuracy(results, step=training["step"]),
        fingerprints={part: variables.fingerprint(variables.only(by_name, part)) for part in variables.parts(by_name)},
        files=files,
        exported_with=workdir_lib.environment(),
    )


# What an export may consist of: a card names files, but never which ones may be removed.
_NAMES = (
    *("encoder.safetensors", "projection_head.safetensors", "variables.safetensors", "encoder.jax_export"),
    *("encoder.onnx", "model.safetensors", "config.json", "README.md"),
    *("open_clip_model.safetensors", "open_clip_config.json"),
    *(f"backbone_{name}.safetensors" for name in ("torchvision_fpn", "detectron2")),
)


def _check_target(target: pathlib.Path) -> None:
    """Raises InputError unless `target` is free, empty, or a whole earlier export and nothing else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    ours = set()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = base.parse_json((target / card.CARD).read_text(encoding="utf-8"))
        ours = {card.CARD, *_NAMES} if content["format"] == card.FORMAT else set()
        readme = target / "README.md"
        if readme.is_file() and _sha256(readme) != content["files"]["README.md"]["sha256"]:
            ours.remove(readme.name)  # somebody has written in it since
    if not target.is_dir() or {path.name for path in target.iterdir()} - ours:
        raise base.InputError(
            f"--output must be a new folder, an empty one, or an earlier export; {target} holds something else. "
            "Choose another folder."
        )


def _summary(output: str, content: Mapping[str, Any], *, workdir: str) -> str:
    """The lines that the user sees: what was written and what to do next."""
    files = content["files"]
    width = max(map(len, [card.CARD, *files]))
    lines = [f"Wrote {output}, the encoder of step {content['training']['step']}:"]
    lines += [f"{name:<{width}}  {units.size(entry['bytes']):>9}  {entry['format']}" for name, entry in files.items()]
    lines.append(f"{card.CARD:<{width}}  {'':>9}  what it is, how to feed and to load it")
    lines.append(f"fingerprint {content['fingerprint']}")
    if "encoder.safetensors" in files:
        lines.append(f"encoder.safetensors loads into {content['encoder']['torch_class']}")
    if "README.md" in files:
        lines.append(f"README.md is the model card: add a licence, then: hf upload USER/MODEL {output}")
    if content["accuracy"]["rows"]:
        lines.append("Next: docs/weights.md has the lines that load each file")
    else:
        step = content["training"]["step"]
        lines.append(f"The card has no accuracy. {content['accuracy']['note']} To measure it, then export again:")
        lines.append(f"simclr-jax evaluate {paths.as_flag('workdir', workdir)} --checkpoint={step}")
    return "\n".join(lines)
