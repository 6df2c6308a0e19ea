"""Features of a folder of pictures, from their files to numbers, beside timm's; see `PROGRAM.words`."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import bench_input, harness, peers

FOLDER, FILE = "SIMCLR_BENCH_EMBED_IMAGES", "SIMCLR_BENCH_EMBED_WEIGHTS"
BATCH, COUNT, QUICK = 16, 48, 4
# Of the largest feature: two float32 libraries through fifty layers.
TOLERANCE = 1e-4
# Rows whose features are compared number by number; of all others, how long they are.
SHOWN = 8


def write_weights(path: pathlib.Path) -> None:
    """A ResNet-50 of random weights under torchvision's and timm's names, its BatchNorms' statistics at rest."""
    import jax

    from simclr_jax import models
    from simclr_jax.interop import torchvision, variables

    encoder, image = models.make_encoder("resnet50", padding="torchvision"), np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, train=False))
    rng = np.random.default_rng(0)
    by_name = {}
    for name, leaf in _named(shapes):
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if name.endswith("kernel") else 0.0
        level = 1.0 if name.endswith(("scale", "var")) else 0.0
        by_name[name] = (level + spread * rng.normal(size=leaf.shape)).astype(np.float32)
        if name.endswith("bn3/scale"):
            by_name[name] *= 0.2  # or the features grow with every block
    variables.save(path, torchvision.to_torchvision(by_name))


def _named(shapes: Any) -> list[tuple[str, Any]]:
    import jax

    leaves = jax.tree.leaves_with_path(shapes)
    # The first part of a path is its collection.
    return [(f"encoder/{jax.tree_util.keystr(path[1:], simple=True, separator='/')}", leaf) for path, leaf in leaves]


def setup(quick: bool, folder: pathlib.Path) -> dict[str, str]:
    """Makes the pictures and the weights."""
    photographs = pathlib.Path(os.environ.get(FOLDER) or folder / "photographs")
    if not os.environ.get(FOLDER):
        bench_input.write_photographs(photographs, count=QUICK if quick else COUNT)
    write_weights(folder / "resnet50.safetensors")
    return {FOLDER: str(photographs), FILE: str(folder / "resnet50.safetensors")}


def facts(features: np.ndarray) -> dict[str, Any]:
    """The first rows, and the length of all."""
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    return {"rows": features[:SHOWN].astype(float).tolist(), "lengths": lengths.tolist()}


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The same features to TOLERANCE of the largest, and as many rows of the same lengths."""
    for name in ("rows", "lengths"):
        found, own = np.asarray(theirs[name]), np.asarray(ours[name])
        if found.shape != own.shape:
            return f"{name} of shape {found.shape} are not {own.shape}"
        worst = float(np.abs(found - own).max() / np.abs(own).max())
        if worst > TOLERANCE:
            return f"{name} differ by {worst:.1e} of the largest"
    return ""


def _work(call: Callable[[], np.ndarray]) -> harness.Work:
    features = call()
    return harness.Work(facts(features), call, calls=1, amount=len(features))


def _ours(case: str) -> harness.Work:
    del case
    import simclr_jax

    encoder = simclr_jax.load(os.environ[FILE])
    return _work(lambda: encoder.embed(os.environ[FOLDER], batch_size=BATCH).features)


def _timm(case: str) -> harness.Work:
    """timm's model and transform, ImageFolder and a DataLoader without worker processes."""
    del case
    torchvision = peers.load_torchvision()
    import safetensors.torch
    import timm
    import torch

    torch.set_num_threads(1)
    model = timm.create_model("resnet50", num_classes=0).eval()
    model.load_state_dict(safetensors.torch.load_file(os.environ[FILE]))
    transform = timm.data.create_transform((3, 224, 224), interpolation="bilinear", crop_pct=0.875)
    dataset = torchvision.datasets.ImageFolder(os.environ[FOLDER], transform=transform)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([model(images).numpy() for images, _ in loader])

    return _work(call)


PROGRAM = harness.Program(
    cases=("ResNet-50, 224 px",),
    quick=["ResNet-50, 224 px"],
    implementations={
        "simclr_jax (embed)": harness.Implementation(_ours),
        "timm, torchvision ImageFolder": harness.Implementation(_timm, ("timm", "torchvision"), "peers"),
    },
    compare=compare,
    packages=("jax", "pillow", "timm", "torch", "torchvision"),
    number="ms",
    unit="CPU milliseconds a picture",
    words=f"""What `simclr-jax embed` does: pictures are read, decoded, resized by Pillow (bilinear, 256 pixels),
    cropped to 224, normalised, and pass through a ResNet-50 of random weights under timm's names in batches of
    {BATCH}; ours also takes digests of the files. {COUNT} generated photographs of 500 x 375 pixels, or those of the
    folder of class folders that {FOLDER} names. Before any timing timm's features must be ours to
    {TOLERANCE:g} of the largest.""",
    repeats=1,
    setup=setup,
)
