"""A folder for the Hugging Face hub: its README and config.json out of a card, and folders that come from there.

What belongs here: the hub's conventions, those of timm for networks that timm has, and the lines of code that a reader
of the README runs. Who exports writes the files.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from simclr_jax import base
from simclr_jax.interop import card, detect, files

ADDRESS = "hf://"
README, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
# Of a foreign model too, which may hold a ResNet as .safetensors; other kinds of files would be fetched for nothing.
_WANTED = ("card.json", "config.json", "*.safetensors", "*.safetensors.index.json")
_RECIPE = (
    ("method", "name"),
    ("split", "label_fraction"),
    ("augment", "image_size"),
    ("augment", "color_jitter_strength"),
    ("train", "batch_size"),
    ("train", "num_epochs"),
    ("schedule", "base_learning_rate"),
    ("optimizer", "name"),
)


def download(address: str) -> pathlib.Path:
    """The local folder of the model that `hf://user/model` or `hf://user/model@revision` names, fetched if need be.

    Only the card and files of weights are fetched, into the cache of huggingface_hub; with HF_HUB_OFFLINE=1 what lies
    there is taken.

    Raises:
        base.InputError: another form of address, huggingface_hub is not installed, or the model cannot be had.
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", address)
    if not found:
        raise base.InputError(
            f"A model of the hub must be named hf://user/model[@revision]; got {base.one_line(address, 80)}. Use for "
            "example hf://timm/resnet50.a1_in1k."
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise files.missing_library("'simclr-jax[hub]'", "huggingface_hub", "the hub") from error
    try:
        folder = huggingface_hub.snapshot_download(found[1], revision=found[2], allow_patterns=list(_WANTED))
    except Exception as error:  # the library's own, of HTTP and of the disk
        reason = base.one_line(error, 200) or type(error).__name__
        raise base.InputError(
            f"{address} cannot be had from the hub: {reason.rstrip('.')}. Check the name, the network and your token."
        ) from error
    return pathlib.Path(folder)


def timm_name(content: Mapping[str, Any]) -> str:
    """timm's name of the network that a card describes, "" where timm has none with the same features."""
    if card.family(content["encoder"]["arguments"]) != "resnet":
        return ""  # timm has it, but the folder holds these weights by our names
    name = str(content["encoder"]["torch_class"] or "")
    return name.removeprefix("torchvision.models.") if re.fullmatch(r"torchvision\.models\.\w+", name) else ""


def make_config(content: Mapping[str, Any], *, num_classes: int) -> dict[str, Any]:
    """config.json: what the network is and how to feed it, for timm too where timm has it.

    Args:
        content: of the card.
        num_classes: of the classifier that goes with the encoder, 0 for none.
    """
    encoder, preprocessing = content["encoder"], content["preprocessing"]
    config = {"library": "simclr_jax", "encoder": encoder["arguments"], "preprocessing": preprocessing}
    config |= {"num_classes": num_classes, "num_features": encoder["representation_size"]}
    if not timm_name(content):
        return config
    normal = preprocessing["mean_and_std"] or {"mean": [0.0] * 3, "std": [1.0] * 3}
    usual = {"interpolation": "bicubic", "crop_pct": preprocessing["center_crop"], "crop_mode": "center"}
    size = {"input_size": [3, preprocessing["size"], preprocessing["size"]], "fixed_input_size": False}
    layers = {"first_conv": "conv1", "classifier": "fc", "num_classes": num_classes}
    own = {**size, **usual, "mean": list(normal["mean"]), "std": list(normal["std"]), **layers}
    return {"architecture": timm_name(content), **config, "pretrained_cfg": own}


def make_readme(content: Mapping[str, Any]) -> str:
    """README.md, the model card: metadata, use in JAX and PyTorch, input, data and recipe, accuracies, files."""
    title = _title(content)
    encoder, training = content["encoder"], content["training"]
    network = f"{encoder['num_parameters']:,} parameters, h of {encoder['representation_size']:,} numbers"
    about = f"An image encoder trained for {training['step']:,} steps; {network}. Fingerprint of its weights: "
    sections = [
        _metadata(content, title),
        f"# {title}\n\n{about}`{content['fingerprint']}`.",
        f"## Use\n\nIn JAX:\n\n{_fenced(_jax_lines(content))}",
        _torch_section(content),
        _input_section(content),
        _recipe_section(content),
        _accuracy_section(content),
        "## Files\n\n" + _table(("file", "format", "bytes", "SHA-256"), _file_rows(content)),
        "## Limits\n\nFeatures show what the training images had and nothing else; measure them on your own pictures "
        "before you rely on them. The card names no licence: that is for who publishes it, with regard to the data.",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _title(content: Mapping[str, Any]) -> str:
    config, arguments = content["training"].get("config", {}), content["encoder"]["arguments"]
    width = f" x {arguments['width_multiplier']:g}" if arguments["width_multiplier"] != 1 else ""
    name = str(arguments["name"]).replace("resnet", "ResNet-")
    method, data = config.get("method", {}).get("name", "simclr"), config.get("data", {}).get("name", "")
    return f"{name}{width}, {method}" + (f", {data}" if data else "")


def _metadata(content: Mapping[str, Any], title: str) -> str:
    """The block of YAML; values are written as JSON, which YAML contains."""
    library = "timm" if timm_name(content) else "jax"
    tags = ["simclr", "self-supervised-learning", "jax", "flax", "image-feature-extraction"]
    values: dict[str, Any] = {"library_name": library, "pipeline_tag": "image-feature-extraction", "tags": tags}
    data = content["training"].get("config", {}).get("data", {}).get("name", "unknown")
    results = [
        {
            "task": {"type": "image-classification", "name": f"{row['probe']} on {row['labels']} of the labels"},
            "dataset": {"name": data, "type": re.sub(r"[^\w.-]+", "-", data)},
            "metrics": [{"type": "accuracy", "value": row["accuracy"], "name": row["protocol"]}],
        }
        for row in _own_rows(content)
    ]
    if results:
        values["model-index"] = [{"name": title, "results": results}]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _own_rows(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of the probes on the network itself; others are baselines."""
    keys = {"probe", "labels", "accuracy", "protocol"}
    own = content["training"].get("config", {}).get("method", {}).get("name", "simclr")
    return [row for row in content["accuracy"]["rows"] if keys <= row.keys() and row["features"] == own]


def _jax_lines(content: Mapping[str, Any]) -> list[str]:
    del content
    return [
        "import simclr_jax",
        'encoder = simclr_jax.load("hf://USER/MODEL")  # or the path of this folder',
        "h = encoder(images)                           # uint8 [N, H, W, 3] of any size -> float32 [N, D]",
    ]


def _torch_section(content: Mapping[str, Any]) -> str:
    arguments, name = content["encoder"]["arguments"], timm_name(content)
    if card.family(arguments) != "resnet":
        return "`simclr-jax export --format=torch` writes these weights under timm's or torchvision's names."
    if content["encoder"]["torch_class"] is None or arguments["norm"] == "group":
        return "torchvision and timm do not have this network."
    has_classes = any(head["part"] == "supervised_head" for head in content["heads"])
    if name:
        size = "num_classes=0, " if has_classes else ""
        lines = [
            "import timm",
            '# "local-dir:" and a path in place of "hf-hub:USER/MODEL" for a folder of this machine',
            f'model = timm.create_model("hf-hub:USER/MODEL", {size}pretrained=True).eval()',
            "h = model(images)  # float32 [N, 3, H, W]",
        ]
        return f"In PyTorch, with timm:\n\n{_fenced(lines)}"
    return f"In PyTorch, in this folder:\n\n{_fenced(torch_lines(arguments))}"


def torch_lines(arguments: Mapping[str, Any]) -> list[str]:
    """Code that builds the network of `arguments` out of torchvision's parts and loads WEIGHTS without its fc."""
    structure, scale = detect.structure(arguments), arguments["width_multiplier"]
    block = "Bottleneck" if structure.bottleneck else "BasicBlock"
    is_small, is_reference = arguments["stem"] == "cifar", arguments["padding"] == "reference"
    width = int(64 * scale)
    lines = ["import safetensors.torch, torch", "from torchvision.models import resnet", ""]
    if scale != 1:
        lines += [
            "class Network(resnet.ResNet):  # every layer is wider or thinner",
            "    def _make_layer(self, block, planes, blocks, **options):",
            f"        self.inplanes = {width} if planes == 64 else self.inplanes",
            f"        return super()._make_layer(block, int(planes * {scale}), blocks, **options)",
            "",
        ]
    if is_reference and not is_small:
        lines += [
            "class MaxPool(torch.nn.Module):  # an even side is padded at its end only",
            "    def forward(self, x):",
            "        height, width = x.shape[-2:]",
            "        x = torch.nn.functional.pad(x, (width % 2, 1, height % 2, 1))",
            "        return torch.nn.functional.max_pool2d(x, 3, stride=2)",
            "",
        ]
    kind = "resnet.ResNet" if scale == 1 else "Network"
    inner = f", width_per_group={64 * structure.inner_width}" if structure.inner_width > 1 else ""
    lines.append(f"model = {kind}(resnet.{block}, {list(structure.sizes)}{inner})")
    stem = "3, padding=1" if is_small else "7, stride=2, padding=3"
    lines.append(f"model.conv1 = torch.nn.Conv2d(3, {width}, {stem}, bias=False)")
    lines.append(f"model.bn1, model.fc = torch.nn.BatchNorm2d({width}), torch.nn.Identity()")
    if is_small or is_reference:
        lines.append(f"model.maxpool = {'torch.nn.Identity()' if is_small else 'MaxPool()'}")
    if is_reference and not structure.bottleneck:
        project = f"torch.nn.Conv2d({width}, {width}, 1, bias=False), torch.nn.BatchNorm2d({width})"
        lines.append(f"model.layer1[0].downsample = torch.nn.Sequential({project})")
    return [
        *lines,
        f'state = safetensors.torch.load_file("{WEIGHTS}")',
        'model.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})',
        "h = model.eval()(images)  # float32 [N, 3, H, W]",
    ]


def _input_section(content: Mapping[str, Any]) -> str:
    how = content["preprocessing"]
    normal = how["mean_and_std"]
    told = f"normalised in PyTorch by mean {normal['mean']} and std {normal['std']}" if normal else "not normalised"
    return (
        f"## Input\n\nRGB, {how['size']} x {how['size']} pixels, values from {how['range'][0]:g} to "
        f"{how['range'][1]:g}, {told}. Of a photograph: {how['center_crop_rule']} (center_crop "
        f"{how['center_crop']:g}), then {how['resize_rule']}. `simclr_jax` does all of this itself; timm's transforms "
        "come near, with another bicubic."
    )


def _recipe_section(content: Mapping[str, Any]) -> str:
    training = content["training"]
    config = training.get("config", {})
    rows = [
        (f"`{section}.{key}`", str(config[section][key]))
        for section, key in (("data", "name"), ("split", "train"), *_RECIPE)
        if key in config.get(section, {})
    ]
    origin = (
        "The weights were trained elsewhere and converted; `card.json` says from what. "
        if ("converted" in training)
        else ""
    )
    return f"## Data and recipe\n\n{origin}The whole config is in `card.json`.\n\n{_table(('key', 'value'), rows)}"


def _accuracy_section(content: Mapping[str, Any]) -> str:
    accuracy = content["accuracy"]
    rows = [
        (
            str(row["features"]),
            str(row["probe"]),
            str(row["labels"]),
            f"{100 * row['accuracy']:.1f}",
            str(row["protocol"]),
        )
        for row in accuracy["rows"]
    ]
    if not rows:
        return f"## Accuracy\n\n{accuracy['note']}"
    head = ("features", "probe", "labels", "accuracy, %", "protocol")
    return f"## Accuracy\n\nOn test images, of exactly these weights.\n\n{_table(head, rows)}"


def _file_rows(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, entry["format"], f"{entry['bytes']:,}", f"`{entry['sha256'][:16]}`")
        for name, entry in content["files"].items()
    ]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells)


def _fenced(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
