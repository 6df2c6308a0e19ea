"""The card of an exported encoder: all that someone needs who has the files and not the run, as plain JSON values.

What belongs here: what the card says and in which words. Who measures or reads the facts hands them in.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from simclr_jax import base

CARD = "card.json"
FORMAT = "simclr-jax.encoder.v1"
OWN_LOADER = "load_encoder of docs/weights.md"

_BASIC = ("resnet10", "resnet18", "resnet34")  # networks of basic blocks; the others have bottlenecks
_IN_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2")

_RESIZE = {
    "tf2": "bicubic, a = -0.5, half-pixel centres, no antialiasing "
    "(jax.image.resize 'cubic' with antialias=False; torch's bicubic has a = -0.75)",
    "tf1": "bicubic, a = -0.75, source coordinate i * in / out without half-pixel centres, no antialiasing",
}
_NORMALIZE = (
    "flax, stablehlo and onnx subtract mean and divide by std themselves; for torch images must be normalised before: "
    "(image - mean) / std"
)
_LOADERS = {
    "card": "json.load",
    "torch": "safetensors.torch.load_file, then load_state_dict; docs/weights.md shows it",
    "flax": "safetensors.numpy.load_file, then nest the names at '/'; mean and var are batch_stats",
    "stablehlo": "h = jax.export.deserialize(bytes).call(images), images float32 [b, {size}, {size}, 3] in [0, 1]",
    "onnx": "h = onnxruntime.InferenceSession(path).run(None, {{'images': images}})[0], images float32 [b, 3, h, w]",
    "hub": "simclr_jax.load(folder or 'hf://user/model'); README.md has the lines for torch",
    "open_clip": "open_clip.create_model('local-dir:FOLDER')",
    "detection": "load_state_dict(..., strict=False) into a detector of torchvision or Detectron2; docs/weights.md",
}


def preprocessing(
    *, size: int, center_crop: float, resize: str, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> dict[str, Any]:
    """How an image becomes the encoder's input: the rules of `augment.make_eval_view` in words and numbers.

    Args:
        size: side of the input, pixels.
        center_crop: share of the shorter side that is kept.
        resize: the bicubic's variant, "tf2" or "tf1".
        mean, std: of the encoder's arguments: what it normalises images by, three numbers each; empty for nothing.

    Raises:
        base.InputError: unknown `resize`.
    """
    base.check_choice(resize, _RESIZE, name="resize")
    return {
        "size": size,
        "center_crop": center_crop,
        "center_crop_rule": "a square of round(center_crop * shorter side) pixels, its offsets (side - crop + 1) // 2; "
        "an image of size x size pixels is taken as it is where center_crop is 1",
        "resize": resize,
        "resize_rule": _RESIZE[resize],
        "range": [0.0, 1.0],
        "range_rule": "uint8 / 255 before the resize, clip after it",
        "mean_and_std": {"mean": list(mean), "std": list(std), "rule": _NORMALIZE} if mean else None,
        "channels": "RGB",
        "layout": {"torch": "NCHW", "flax": "NHWC", "stablehlo": "NHWC", "onnx": "NCHW"},
    }


def family(arguments: Mapping[str, Any]) -> str:
    """Of an encoder, by its name: "resnet", "vit", "efficientnet", "convnext" or "clip" (CLIP's ResNets)."""
    return str(arguments["name"]).removeprefix("wide_").partition("_")[0].rstrip("0123456789")


def is_clips(arguments: Mapping[str, Any]) -> bool:
    """Whether an encoder is built as an image tower of CLIP."""
    return family(arguments) == "clip" or (family(arguments) == "vit" and arguments.get("design", "timm") != "timm")


def torch_layout(arguments: Mapping[str, Any]) -> str | None:
    """Whose names `encoder.safetensors` has, as `timm_layouts.to_torch` takes it; None for torchvision's ResNets."""
    if family(arguments) == "resnet":
        return None
    is_torchvisions = str(arguments["name"]).startswith("efficientnet_b") and arguments["padding"] == "torchvision"
    return "torchvision" if is_torchvisions else "timm"


def _timm_call(arguments: Mapping[str, Any]) -> str:
    """What builds the network of an encoder that is no ResNet in timm; num_classes is the classifier's or 0."""
    name = str(arguments["name"])
    if family(arguments) == "efficientnet":
        return f'timm.create_model("{"tf_" * (arguments["padding"] == "reference")}{name}", num_classes=0)'
    if family(arguments) == "convnext":
        return f'timm.create_model("{name}", num_classes=0)'
    size = arguments["patch_size"]
    words = [f'"{name}_patch16_224"', f"img_size={size * arguments['position_grid']}", f"patch_size={size}"]
    words += [f"num_heads={arguments['num_heads']}"] if arguments["num_heads"] else []
    words += ['global_pool="avg"', "class_token=False"] if arguments["pool"] == "mean" else []
    return f"timm.create_model({', '.join([*words, 'num_classes=0'])})"


def torch_class(arguments: Mapping[str, Any]) -> str | None:
    """What `encoder.safetensors` loads into: a class of torchvision or timm, docs/weights.md's loader, or None.

    Args:
        arguments: all arguments of `models.make_encoder`.
    """
    if is_clips(arguments):
        return None
    if family(arguments) != "resnet":
        is_timms = torch_layout(arguments) == "timm"
        return _timm_call(arguments) if is_timms else f"torchvision.models.{arguments['name']}"
    sizes = arguments.get("group_sizes", ())
    if arguments["sk_ratio"] or arguments["se_ratio"] or len(sizes) not in (0, 4):
        return None
    name, stem = arguments["name"], arguments["stem"]
    # A max-pool is what padding changes in a bottleneck network, and the cifar stem has none.
    same = arguments["padding"] == "torchvision" or (stem == "cifar" and name not in _BASIC)
    if same and not sizes and arguments["width_multiplier"] == 1 and name in _IN_TORCHVISION:
        changed = " with conv1 3x3 of stride 1 and no maxpool" if stem == "cifar" else ""
        return f"torchvision.models.{name}{changed}"
    return OWN_LOADER


def accuracy(results: Mapping[str, Any], *, step: int) -> dict[str, Any]:
    """The probe rows, and the scores of the run's own classifier, measured on these very weights; or none and why.

    Args:
        results: the run's results.json.
        step: the step whose weights are exported.
    """
    rows, measured = list(results.get("probes", [])), results.get("evaluated_step")
    if rows and measured == step:
        note = "Every row names its protocol; docs/numbers.md explains them."
        return {"rows": rows, "classifier": results.get("classifier"), "note": note}
    note = "No accuracy was measured on this run."
    if rows:
        note = f"The run's accuracies are those of step {measured}, not of step {step}."
    return {"rows": [], "classifier": None, "note": note}


def head_entry(part: str, names: Sequence[str], *, selector: int) -> dict[str, Any]:
    """What the card says about a head.

    Args:
        part: "projection_head" or "supervised_head".
        names: of all exported variables.
        selector: the activation under the classifier, see `models.heads.select`.
    """
    if part == "supervised_head":
        stands_on = f"activation {selector} of the projection head" if selector else "h"
        return {"part": part, "input": stands_on, "selector": selector}
    kernels = [name for name in names if name.startswith(f"{part}/dense") and name.endswith("/kernel")]
    return {"part": part, "input": "h", "layers": len(kernels)}


def file_entry(kind: str, *, size: int, num_bytes: int, sha256: str) -> dict[str, Any]:
    """What the card says about one file of the export; `kind` is a format, `size` the image size."""
    return {"format": kind, "bytes": num_bytes, "sha256": sha256, "load": _LOADERS[kind].format(size=size)}


def make_card(
    *,
    encoder: Mapping[str, Any],
    heads: Sequence[Mapping[str, Any]],
    preprocess: Mapping[str, Any],
    training: Mapping[str, Any],
    accuracies: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    files: Mapping[str, Mapping[str, Any]],
    exported_with: Mapping[str, str],
) -> dict[str, Any]:
    """The card: one JSON object whose first key is its format. The sections are those of the arguments."""
    return {
        "format": FORMAT,
        "fingerprint": fingerprints["encoder"],
        "encoder": dict(encoder),
        "preprocessing": dict(preprocess),
        "files": {name: dict(entry) for name, entry in files.items()},
        "heads": [dict(head) for head in heads],
        "head_fingerprints": {part: value for part, value in fingerprints.items() if part != "encoder"},
        "accuracy": dict(accuracies),
        "training": dict(training),
        "exported_with": dict(exported_with),
        "documentation": "docs/weights.md of simclr_jax",
    }


def read_card(folder: pathlib.Path) -> dict[str, Any]:
    """The card of an export; {} where the folder has none. Its "format" says whether it is one of ours.

    Raises:
        base.InputError: it is one of ours by its name and cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        return {}
    try:
        content = base.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or base.one_line(error, 80)
        raise base.InputError(f"The card of an export must be readable; {path}: {reason}. Export again.") from error
    return content if isinstance(content, dict) else {}


def check_file(content: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises base.InputError unless a file is byte for byte the one that the card beside it describes.

    Args:
        content: of the card; nothing is checked where it is not one of ours.
        path: of the file; one that the card does not name is not checked.
    """
    files = content.get("files")
    if content.get("format") != FORMAT or not isinstance(files, Mapping) or path.name not in files:
        return
    entry = files[path.name]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not isinstance(entry, Mapping) or digest != entry.get("sha256"):
        raise base.InputError(
            f"A file of an export must be the one that its {CARD} describes; {path} has another SHA-256: it "
            "or the card is damaged. Copy or export it again."
        )
