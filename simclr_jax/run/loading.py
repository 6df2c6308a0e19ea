"""From what lies on a disk to an encoder to use: the folder of a run, an export, or weights of another program."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from simclr_jax import base, models
from simclr_jax.augment import eval_views
from simclr_jax.interop import card, detect, foreign, hub, timm_layouts, torchvision, variables
from simclr_jax.models import heads
from simclr_jax.run import config as config_lib
from simclr_jax.run import embedding, feature_file, features, identity, paths
from simclr_jax.run import encoder as encoder_lib
from simclr_jax.run import workdir as workdir_lib

# Of an export, the file with most in it first.
_WEIGHTS = ("variables.safetensors", hub.WEIGHTS, "encoder.safetensors")
_NORMALIZATIONS = foreign.NORMALIZATIONS
_MOST_PIXELS = 4096  # of a side
_CLASSIFIER = {"weight": "kernel", "bias": "bias"}
NORMALIZE = ("auto", *_NORMALIZATIONS)


def load(
    path: str | os.PathLike[str],
    *,
    checkpoint: str = "latest",
    image_size: int | None = None,
    resize: str | None = None,
    crop_fraction: float | None = None,
    normalize: str = "auto",
    network: str = "",
    flag: str = "path",
) -> encoder_lib.Encoder:
    """The encoder of a trained run, of what `simclr-jax export` wrote, or of a file of another program.

    Args:
        path: the workdir of a run, the folder of an export, or what `simclr-jax convert` reads: official checkpoints, a
            ResNet of torchvision, timm and other programs of PyTorch (`.safetensors`; `.pth` and others need torch).
            "hf://user/model" or "hf://user/model@revision" is one of these on the Hugging Face hub (needs
            huggingface_hub).
        checkpoint: of a run: "latest", "best" (by kNN while training) or a step number.
        image_size: pixels that every image is brought to; None for those of the run or export, 224 for other files (32
            for a network with a stem for small images).
        resize: how: "tf2" or "tf1" (the reference's bicubic), or "bilinear" or "bicubic" as programs of PyTorch do with
            Pillow; None for that of the run, "tf1" for official checkpoints and "bilinear" for PyTorch's.
        crop_fraction: of Pillow's resizing: share of the shorter side that is kept; None for 0.875. timm's crop_pct.
        normalize: what images are normalised by in front of the network: "imagenet", "half" (mean and deviation 0.5,
            as for many of timm's transformers), "clip", "none", or "auto" for what the run or the export has, CLIP's
            for CLIPs, ImageNet's for the others of PyTorch, and none for official checkpoints.
        network: which of several networks in a file of PyTorch, see docs/weights.md.
        flag: how messages call `path`.

    Raises:
        InputError: nothing of this is there, no such checkpoint, an unknown value, one that has no effect here, or the
            hub cannot be reached.

    Example::

        encoder = simclr_jax.load("runs/demo")
        features = encoder(images)
    """
    base.check_choice(normalize, NORMALIZE, name="normalize")
    text = os.fspath(path)
    where = hub.download(text) if text.startswith(hub.ADDRESS) else pathlib.Path(paths.typed(text, flag=flag))
    is_export, is_run = (where / card.CARD).is_file(), workdir_lib.has_config(where)
    if network and (is_export or is_run):
        kind = "an export" if is_export else "the folder of a run"
        raise base.InputError(f"network is for a file of PyTorch with several; {where} is {kind}. Leave it out.")
    if checkpoint != "latest" and (is_export or not is_run):
        raise base.InputError(
            f"checkpoint is for the folder of a run; {where} is none, got {checkpoint}. Leave it out."
        )
    if is_export:
        found = _load_export(where)
    elif is_run:
        found = _load_run(where, checkpoint)
    elif where.is_file() or (where.is_dir() and _holds_weights(where)):
        found = _load_file(where, network, flag)
    else:
        raise base.InputError(
            f"{flag} must be the folder of a run (it holds config.json) or of an export ({card.CARD}), or a file of "
            f"weights; got {where}. Check the path."
        )
    return _changed(found, image_size, resize, crop_fraction=crop_fraction, normalize=normalize)


def reload(settings: Mapping[str, Any], *, fingerprint: str) -> encoder_lib.Encoder:
    """The encoder whose `Encoder.settings` these are.

    Raises:
        InputError: it is not there any more, or has other weights.
    """
    source = settings["source"]
    is_run = workdir_lib.has_config(pathlib.Path(source))
    found = load(source, checkpoint=str(settings["step"]) if is_run else "latest")
    if found.fingerprint != fingerprint:
        raise base.InputError(
            f"The encoder must be the one that made the features; the weights in {source} have changed since. Embed "
            "the pictures again."
        )
    own = {name: settings[name] for name in ("size", "resize", "crop_fraction", "canvas_size")}
    return dataclasses.replace(_normalizing(found, settings["mean"], settings["std"]), **own)


def embed_alike(
    meta: Mapping[str, Any], images: str | os.PathLike[str], *, show: bool = False
) -> feature_file.Embedding:
    """Features of other pictures by the encoder, layer and preparation of some that are there, whose `meta` this is.

    Damaged pictures are left out and named on stderr.

    Raises:
        InputError: that encoder is not there any more, or nothing can be read.
    """
    encoder = reload(meta["encoder"], fingerprint=meta["fingerprint"])
    how = {name: meta[name] for name in ("layer", "num_views", "canvas_size")}
    if encoder.resize in eval_views.FILTERS:
        how["canvas_size"] = None  # of no effect, where an older version has taken it
    found = encoder.embed(images, show=show, **how)
    embedding.tell_skipped(found.meta["skipped"])
    return found


def _changed(
    found: encoder_lib.Encoder, size: int | None, resize: str | None, *, crop_fraction: float | None, normalize: str
) -> encoder_lib.Encoder:
    """The encoder with what was asked for in place of its own."""
    if resize is not None:
        base.check_choice(resize, encoder_lib.RESIZES, name="resize")
    if size is not None and not 8 <= size <= _MOST_PIXELS:
        raise base.InputError(f"image_size must be 8 to {_MOST_PIXELS} pixels; got {size}. Use for example 224.")
    if crop_fraction is not None and not 0 < crop_fraction <= 1:
        raise base.InputError(f"crop_fraction must lie in (0, 1]; got {crop_fraction:g}. Use for example 0.875.")
    resized = resize or found.resize
    if crop_fraction is not None and resized not in eval_views.FILTERS:
        raise base.InputError(
            f"crop_fraction is for Pillow's resizing, {' or '.join(eval_views.FILTERS)}; the resizing is {resized}. "
            "Leave it out, or give resize."
        )
    asked = {"size": size, "resize": resize, "crop_fraction": crop_fraction}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if normalize != "auto":
        found = _normalizing(found, *_NORMALIZATIONS[normalize])
    return dataclasses.replace(found, **changes)


def _normalizing(found: encoder_lib.Encoder, mean: Sequence[float], std: Sequence[float]) -> encoder_lib.Encoder:
    """The encoder with another normalisation of images in front of its network."""
    if not hasattr(found.module, "mean") and not mean:
        return found
    changes: dict[str, Any] = {"mean": tuple(mean), "std": tuple(std)}
    return dataclasses.replace(found, module=found.module.clone(**changes))


def _load_run(folder: pathlib.Path, checkpoint: str) -> encoder_lib.Encoder:
    config = identity.read_config(folder)
    step, params, method_state = features.load_variables(folder, which=checkpoint)
    module = config_lib.call(models.make_encoder, config, "encoder")
    head, head_variables = _make_head(params, method_state["batch_stats"], module)
    return encoder_lib.Encoder(
        module,
        features.encoder_variables(params, method_state),
        size=config["augment"]["image_size"],
        resize=config["augment"]["resize"],
        step=step,
        source=str(folder),
        head=head,
        head_variables=head_variables,
        canvas_size=config["data"]["canvas_size"] or 256,
    )


def _load_export(folder: pathlib.Path) -> encoder_lib.Encoder:
    content = card.read_card(folder)
    found = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if content.get("format") != card.FORMAT or not found:
        raise base.InputError(
            f"An export holds {card.CARD} of the format {card.FORMAT} with one of {', '.join(_WEIGHTS)}; {folder} does "
            "not. Export again, with --format=flax."
        )
    card.check_file(content, found[0])
    by_name = variables.load(found[0])
    if not variables.only(by_name, "encoder"):
        by_name = _from_torch(by_name)
    told = _read_card(content, folder)
    if told.positions == "sincos":
        by_name.pop("encoder/positions", None)  # written out for other programs; the network has them by itself
    params, batch_stats = variables.unflatten(by_name)
    module = told.module
    if not isinstance(params.get("encoder"), Mapping):
        raise base.InputError(f"An export holds the variables of an encoder; {found[0]} has none. Export again.")
    head, head_variables = _make_head(params, batch_stats, module)
    return encoder_lib.Encoder(
        module,
        features.encoder_variables(params, {"batch_stats": batch_stats}),
        size=told.size,
        resize=told.resize,
        step=told.step,
        source=str(folder),
        head=head,
        head_variables=head_variables,
        canvas_size=told.canvas_size,
    )


class _Told(NamedTuple):
    """What the card of an export says of its encoder, and of how pictures come to it."""

    module: nn.Module
    positions: str
    size: int
    resize: str
    step: int
    canvas_size: int


def _read_card(content: Mapping[str, Any], folder: pathlib.Path) -> _Told:
    """Raises InputError where a card lacks what all cards of its format have, or has something else in its place."""
    try:
        arguments, how, training = content["encoder"]["arguments"], content["preprocessing"], content["training"]
        canvas_size = training.get("config", {}).get("data", {}).get("canvas_size") or 256
        numbers = {"step": training["step"], "size": how["size"], "canvas_size": canvas_size}
        for name, value in numbers.items():
            most = 2**62 if name == "step" else _MOST_PIXELS
            if type(value) is not int or not 0 <= value <= most or (name != "step" and not value):
                raise ValueError(f"{name} is {base.one_line(value, 40)}")
        base.check_choice(how["resize"], encoder_lib.RESIZES, name="resize")
        module = models.make_encoder(**arguments)
        return _Told(module, str(arguments.get("positions")), how["size"], how["resize"], training["step"], canvas_size)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else base.one_line(error, 120)
        raise base.InputError(
            f"The card of an export must be the one that was written; {folder / card.CARD}: {what}. Export again."
        ) from error


def _from_torch(state: Mapping[str, np.ndarray]) -> variables.ByName:
    """Our variables of an export in the layout of torchvision's ResNets, or of timm's other networks."""
    for found in timm_layouts.find(state):
        heads_of = {f"{found.heads[0]}.{leaf}": f"supervised_head/dense/{ours}" for leaf, ours in _CLASSIFIER.items()}
        names = {**heads_of, **found.net.names}
        return {names[name]: timm_layouts.from_torch_array(names[name], value) for name, value in state.items()}
    return torchvision.from_torchvision(state)


def _holds_weights(folder: pathlib.Path) -> bool:
    """Whether a folder may hold weights of another program, by the names in it."""
    endings = (".safetensors", ".pth", ".pt", ".bin", ".index", ".json", ".pb", ".ckpt")
    return any(path.name.endswith(endings) or "ckpt" in path.name for path in folder.iterdir())


def _load_file(path: pathlib.Path, network: str, flag: str) -> encoder_lib.Encoder:
    try:
        read = foreign.read(path, network=network)
    except base.InputError as error:  # which names the flag of convert
        raise base.InputError(str(error).replace("--input", flag)) from error
    found = detect.find_architecture(read.by_name, padding=read.padding)
    arguments: dict[str, Any] = {**found.encoder, **read.encoder, "mean": read.mean, "std": read.std}
    module = models.make_encoder(**arguments)
    params, batch_stats = variables.unflatten(read.by_name)
    _check_shapes(module, params["encoder"], path)
    head, head_variables = _make_head(params, batch_stats, module)
    ours, official = "variables of this project", read.padding == "reference"
    return encoder_lib.Encoder(
        module,
        features.encoder_variables(params, {"batch_stats": batch_stats}),
        size=usual_size(arguments),
        # All released SimCLR checkpoints were trained with TF1's bicubic, CLIP's with Pillow's and whole squares.
        resize="tf2" if read.layout == ours else "tf1" if official else "bicubic" if read.text else "bilinear",
        crop_fraction=1.0 if read.text else 0.875,
        step=read.step or 0,
        source=str(path),
        head=head,
        head_variables=head_variables,
    )


def usual_size(arguments: Mapping[str, Any]) -> int:
    """The side in pixels of the images that a network is most likely made for."""
    if str(arguments["name"]).startswith("clip_resnet"):
        return 32 * int(arguments["position_grid"])
    if str(arguments["name"]).startswith("vit") and arguments["positions"] == "learned":
        return int(arguments["position_grid"] * arguments["patch_size"])
    return 32 if arguments.get("stem") == "cifar" else 224


def _check_shapes(module: nn.Module, params: base.PyTree, path: pathlib.Path) -> None:
    """Raises InputError unless the parameters are those of the network that they were recognised as."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)  # a multiple of every patch's side
    expected = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)["params"]
    of = [
        {
            jax.tree_util.keystr(where, simple=True, separator="/"): np.shape(leaf)
            for where, leaf in jax.tree.leaves_with_path(tree)
        }
        for tree in (expected, params)
    ]
    wrong = sorted(name for name in of[0].keys() | of[1].keys() if of[0].get(name) != of[1].get(name))
    if wrong:
        raise base.InputError(
            f"The variables of a file must be those of a known encoder; in {path} {foreign.shortened(wrong)} are "
            "missing, unknown, or of another shape."
        )


def _is_dense(layer: Any) -> bool:
    """Whether these are the variables of a dense layer."""
    return isinstance(layer, Mapping) and "kernel" in layer and np.ndim(layer["kernel"]) == 2


def _make_head(
    params: Mapping[str, Any], batch_stats: Mapping[str, Any], module: nn.Module
) -> tuple[heads.ProjectionHead | heads.LinearHead | None, dict[str, Any]]:
    """The projection head that these variables are; (None, {}) if there is none, or not all of it."""
    if _is_dense(params.get("image_projection")):
        linear = params["image_projection"]
        return heads.LinearHead(np.shape(linear["kernel"])[1], use_bias="bias" in linear), {"params": linear}
    own = params.get("projection_head", {})
    own = own if isinstance(own, Mapping) else {}
    num = sum(name.startswith("dense") for name in own)
    names = {f"{kind}{layer}" for layer in range(1, num + 1) for kind in ("dense", "bn")}
    # Only the last layer has no bias in its BatchNorm; where all have one, the later layers were cut off.
    if not num or set(own) != names or not all(isinstance(part, Mapping) for part in own.values()):
        return None, {}
    if not all(_is_dense(own[f"dense{layer}"]) for layer in range(1, num + 1)):
        return None, {}
    if "bias" in own[f"bn{num}"] or "bias" in own["dense1"]:
        return None, {}
    widths = [own[f"dense{layer}"]["kernel"].shape[-1] for layer in (1, num)]
    head = heads.ProjectionHead(num, widths[1], width=widths[0] if num > 1 else None)
    trees = {"params": own, "batch_stats": batch_stats.get("projection_head", {})}
    return heads.with_norm_of(head, module), trees
