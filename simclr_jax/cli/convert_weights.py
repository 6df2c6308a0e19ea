"""The work of `simclr-jax convert`: weights of other programs -> a run to evaluate, fine-tune and export."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from simclr_jax import atomic_files, base, models
from simclr_jax.cli import convert_texts
from simclr_jax.interop import detect, foreign, torch_side, variables
from simclr_jax.models import heads
from simclr_jax.run import checkpoint, paths, progress, texts
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

PADDINGS = ("auto", "reference", "torchvision")
NORMALIZATIONS = foreign.NORMALIZATIONS
# Steps at which the released SimCLRv2 models were saved, by what they were trained for, and that of SimCLR's.
_FEW_LABELS = {751: "1 %", 3754: "10 %"}
_ALL_LABELS = {37535: "fine-tuned with all labels", 28151: "trained with labels"}
_PRETRAINED = (250228, 225206)


class _Role(NamedTuple):
    """What the network was trained for: the method, the layer under its classifier, and how that is known."""

    method: str
    selector: int
    reason: str


def convert(
    *,
    config: Mapping[str, Any],
    workdir: str,
    input: str,
    weights: str = "model",
    selector: str = "auto",
    padding: str = "auto",
    ignore: str = "",
    network: str = "",
    normalize: str = "auto",
    activation: str = "auto",
    tokenizer: str | None = None,
) -> int:
    """Writes the weights in `input` as a run to the folder `workdir`; returns the exit status.

    The sections encoder and method of the config become what the file holds (the encoder's dtype stays), the others are
    kept with the run: evaluate and fine-tuning take the data and the image size from there. results.json gets
    "converted": where the weights come from.

    Args:
        config: a config; its data are what the weights are to be evaluated on.
        workdir: a folder that does not exist or is empty.
        input: what `foreign.read` takes.
        weights: "model", or "ema" for the moving averages in checkpoints of SimCLRv2 pretraining.
        selector: the activation under the classifier, 0 for h, 1 for the first layer of the head ...; "auto" uses the
            step number or the name of the folder.
        padding: "reference" or "torchvision", what the weights were trained with; "auto" uses the layout.
        ignore: names of variables to leave out, as shell patterns with commas between.
        network: which of several networks in a file of PyTorch, as `foreign.read` takes it.
        normalize: what the weights want images normalised by: "imagenet" (mean and deviation of ImageNet), "half" (both
            0.5), "clip" (those of CLIP), "none", or "auto" by the layout.
        activation: of a CLIP: "gelu", "quick_gelu" or "auto", as `foreign.read` takes it.
        tokenizer: of a CLIP: the file of its tokenizer, as `data.make_tokenizer` takes it; None for none, so that the
            run embeds pictures and no texts.

    Raises:
        base.InputError: an unknown value, a file that cannot be read or is of another network, or a workdir in use.
    """
    progress.quiet_libraries()
    base.check_choice(padding, PADDINGS, name="--padding")
    base.check_choice(normalize, ("auto", *NORMALIZATIONS), name="--normalize")
    if not re.fullmatch(r"auto|\d", selector):
        raise base.InputError(f"--selector must be auto or a layer of the head, 0 for none; got {selector!r}.")
    folder, source = pathlib.Path(workdir), pathlib.Path(input)
    _check_workdir(folder)
    left_out = tuple(filter(None, ignore.split(",")))
    read = foreign.read(source, weights=weights, ignore=left_out, network=network, activation=activation)
    convert_texts.check_flag(read, tokenizer)
    mean, std = NORMALIZATIONS.get(normalize, (read.mean, read.std))
    found = _find_network(read, padding=read.padding if padding == "auto" else padding)
    _check_padding(source, found, padding)
    role = _find_role(source, read, found, selector=selector)
    resolved = _resolve_config(config, found, role)
    if read.text:
        resolved |= convert_texts.sections(read, resolved, tokenizer=tokenizer)
    resolved["encoder"] |= {"mean": mean, "std": std}
    encoder = config_lib.call(models.make_encoder, resolved, "encoder")
    of_texts = convert_texts.expected_shapes(encoder, resolved, found) if read.text else None
    _check_shapes(source, read.by_name, of_texts or _expected_shapes(encoder, found, role))
    with atomic_files.replacing_folder(folder, flag="--workdir") as fresh:
        _write_run(fresh, resolved, read, _make_record(source, read, found, role))
    print(_summary(workdir, resolved, read, found, role))
    print(_compare(read, found))
    return 0


def _check_workdir(folder: pathlib.Path) -> None:
    paths.check_plain(folder, flag="--workdir")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise base.InputError(
            f"--workdir must be a new folder or an empty one; {folder} holds something else. Choose another folder."
        )
    atomic_files.check_folder(folder, flag="--workdir")


def _check_padding(source: pathlib.Path, found: detect.Architecture, padding: str) -> None:
    if padding not in ("auto", found.encoder.get("padding", padding)):
        raise base.InputError(
            f"The shapes in {source} are those of a network with padding {found.encoder['padding']!r}; got --padding="
            f"{padding}. Leave it out."
        )


def _find_network(read: foreign.Foreign, *, padding: str) -> detect.Architecture:
    found = detect.find_architecture(read.by_name, padding=padding)
    return found._replace(encoder={**found.encoder, **read.encoder})


def _find_role(source: pathlib.Path, read: foreign.Foreign, found: detect.Architecture, *, selector: str) -> _Role:
    """What the network was trained for, by the flag, the step number, or the names of its folders."""
    if read.text:
        return _Role("clip", 0, "both towers of a CLIP")
    place = str(source.absolute())
    few_labels = re.search(r"finetuned?_(1|10)pct", place)
    with_labels = re.search(r"finetuned?_\d+pct|/supervised/", place)
    pretrained = read.pretrained or read.step in _PRETRAINED
    chosen, reason = 0, "nothing says that the network was fine-tuned" if found.head_stored else "no projection head"
    if not found.num_classes:
        reason = "the file has no classifier"
    elif read.selector is not None:
        chosen, reason = read.selector, "by the card of the export"
    elif read.step in _FEW_LABELS:
        chosen, reason = 1, f"step {read.step}: fine-tuned with {_FEW_LABELS[read.step]} of the labels"
    elif few_labels:
        chosen, reason = 1, f"the folder name {few_labels[0]}"
    elif read.step in _ALL_LABELS:
        reason = f"step {read.step}: {_ALL_LABELS[read.step]}"
    elif with_labels:
        reason = f"the folder name {with_labels[0].strip('/')}"
    elif read.step in _PRETRAINED:
        reason = f"step {read.step}: pretrained, with a linear classifier"
    # What was trained with labels is known by its selector, its step or its folder, or by having no projection head.
    supervised = chosen > 0 or read.step in _ALL_LABELS or with_labels is not None
    supervised |= not found.head_stored and not pretrained
    if not found.head_stored and chosen:
        chosen, reason = 0, f"{reason}; the file has no projection head"
    if selector != "auto" and not found.num_classes:
        raise base.InputError(f"--selector says what a classifier stands on; {source} has none. Leave it out.")
    if selector != "auto":
        chosen, reason, supervised = int(selector), "by --selector", supervised or selector != "0"
    layers = found.head_stored
    if chosen > layers:
        raise base.InputError(f"--selector must be 0 to {layers}, the layers of the head in the file; got {chosen}.")
    return _Role("supervised" if supervised and found.num_classes else "simclr", chosen, reason)


def _resolve_config(config: Mapping[str, Any], found: detect.Architecture, role: _Role) -> dict[str, Any]:
    """The config with the encoder and the method that the file holds."""
    head = {"num_proj_layers": found.num_proj_layers, "proj_out_dim": found.proj_out_dim or 128}
    method: dict[str, Any] = {"name": role.method, **head, "ft_proj_selector": role.selector}
    if role.method == "simclr" and config["method"]["name"] == "simclr":
        method = {**config["method"], **method, "supervised_weight": 0.0}
    encoder = {**config["encoder"], **models.unused_arguments(str(found.encoder["name"])), **found.encoder}
    return {**config, "encoder": encoder, "method": method}


def _expected_shapes(encoder: nn.Module, found: detect.Architecture, role: _Role) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all variables that the network has once it is built."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    h, encoder_tree = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x, train=False), image)
    head = heads.ProjectionHead(found.num_proj_layers, found.proj_out_dim or 1)
    activations, head_tree = jax.eval_shape(lambda x: head.init_with_output(jax.random.key(0), x, train=False), h)
    shapes = {
        "/".join([part, *path]): leaf.shape
        for part, tree in (("encoder", encoder_tree), ("projection_head", head_tree))
        for (_, *path), leaf in traverse_util.flatten_dict(tree).items()
        if part == "encoder" or int(re.sub(r"\D", "", path[0])) <= found.head_stored
    }
    if found.num_classes:
        width = heads.select(activations, role.selector).shape[-1]
        shapes["supervised_head/dense/kernel"] = (width, found.num_classes)
        shapes["supervised_head/dense/bias"] = (found.num_classes,)
    return shapes


def _check_shapes(
    source: pathlib.Path, by_name: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises InputError that lists all that is missing, too many, or of another shape."""
    problems = [f"{name} is missing" for name in expected if name not in by_name]
    problems += [f"{name} is unknown" for name in by_name if name not in expected]
    problems += [
        f"{name} has shape {list(by_name[name].shape)} and not {list(shape)}"
        for name, shape in expected.items()
        if name in by_name and by_name[name].shape != shape
    ]
    if problems:
        raise base.InputError(
            f"The variables of a file must be those of the network they were recognised as; in {source} "
            f"{foreign.shortened(problems)}. Its network is not among those of models.ENCODERS."
        )


def _compare(read: foreign.Foreign, found: detect.Architecture) -> str:
    """How far the features of both sides are apart on one batch, or why that is not known, as a readable line."""
    if not read.torchvision:
        return f"Not compared with the other program: {read.layout} has no network here that could be run."
    arguments = {**found.encoder, "padding": "torchvision", "dtype": "float32"}
    side = 32 if arguments["stem"] == "cifar" else 64
    images = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    theirs, obstacle = torch_side.torchvision_features(read.torchvision, images, structure=detect.structure(arguments))
    if theirs is None:
        return f"Not compared with torchvision: {obstacle}."
    encoder = config_lib.call(models.make_encoder, {"encoder": arguments}, "encoder")
    params, batch_stats = variables.unflatten(variables.only(read.by_name, "encoder"))
    tree = {"params": params["encoder"], "batch_stats": batch_stats.get("encoder", {})}
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(lambda v, x: encoder.apply(v, x, train=False))(tree, images))
    distance = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    pool = "" if found.encoder["padding"] == "torchvision" else " (both with torchvision's padding)"
    verdict = "" if distance < 1e-3 else " This is more than rounding: do not trust the conversion."
    return f"Largest difference to torchvision's features on one batch{pool}: {distance:.1e} of the largest.{verdict}"


def _make_record(
    source: pathlib.Path, read: foreign.Foreign, found: detect.Architecture, role: _Role
) -> dict[str, Any]:
    """Where the weights come from, for results.json."""
    return {
        "source": source.name,
        "sha256": read.files,
        "layout": read.layout,
        "step": read.step,
        "num_variables": len(read.by_name),
        "num_ignored": read.ignored,
        "num_classes": found.num_classes,
        "selector": role.selector,
        "selector_reason": role.reason,
        "fingerprint": variables.fingerprint(variables.only(read.by_name, "encoder")),
    }


def _write_run(
    folder: pathlib.Path, config: Mapping[str, Any], read: foreign.Foreign, record: Mapping[str, Any]
) -> None:
    params, batch_stats = variables.unflatten(read.by_name)
    # Every method's trees have all its parts, also where one has no variables.
    empty: dict[str, Any] = {} if read.text else {"projection_head": {}}
    state = base.TrainState(
        step=jnp.asarray(read.step or 0, jnp.int32),
        params={**empty, **params},
        method_state={"batch_stats": {"encoder": {}, **empty, **batch_stats}},
        opt_state={},
    )
    workdir_lib.write_config(folder, config)
    if read.text:
        texts.keep(folder, convert_texts.make_tokenizer(config))
    with checkpoint.open_checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoint.save(checkpoints, state, step=read.step or 0)
    workdir_lib.update_results(folder, converted=record, environment=workdir_lib.environment())


def _summary(
    workdir: str, config: Mapping[str, Any], read: foreign.Foreign, found: detect.Architecture, role: _Role
) -> str:
    """The lines that the user sees: what was found and written."""
    encoder = ", ".join(f"{key} {value}" for key, value in found.encoder.items() if key != "name" and value)
    counted = sum(value.size for name, value in variables.only(read.by_name, "encoder").items())
    ignored = ", ".join(f"{count} {kind}" for kind, count in read.ignored.items()) or "none"
    whole = f"{found.num_proj_layers} layers to {found.proj_out_dim}"
    head = whole if found.proj_out_dim else f"first layers: {found.head_stored}" if found.head_stored else "none"
    classifier = f"{found.num_classes} classes on {_activation(role.selector)} ({role.reason})"
    lines = [
        f"Wrote {workdir}. Source: {read.layout}" + ("" if read.step is None else f", step {read.step}") + ".",
        f"encoder          {found.encoder['name']}, {encoder}; {counted / 1e6:.1f} million parameters and statistics",
        f"projection head  {head}",
        f"classifier       {classifier if found.num_classes else 'none'}",
        f"variables        {len(read.by_name)} taken; ignored: {ignored}",
        f"images           {_normalization(config)}",
        *([f"tokenizer        {convert_texts.line(config['text']['tokenizer'])}"] if read.text else []),
        f"config           method {role.method}, encoder.dtype {config['encoder']['dtype']}, "
        f"data {config['data']['name']}",
    ]
    lines += [f"note             {read.note}"] if read.note else []
    return "\n".join([*lines, f"Next: simclr-jax evaluate {paths.as_flag('workdir', workdir)}"])


def _normalization(config: Mapping[str, Any]) -> str:
    if not config["encoder"]["mean"]:
        return "in [0, 1], not normalised, as SimCLR's weights want them (--normalize=imagenet for others)"
    numbers = (", ".join(f"{value:g}" for value in config["encoder"][name]) for name in ("mean", "std"))
    return "normalised by the encoder: mean {}, std {} (--normalize=none: not)".format(*numbers)


def _activation(selector: int) -> str:
    return f"layer {selector} of the projection head" if selector else "the representation"
