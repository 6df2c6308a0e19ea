"""Reading and decoding of pictures, beside torchvision and Pillow; see `PROGRAM.words`.

The pictures are generated; where SIMCLR_BENCH_IMAGES names a folder of class folders, its JPEG files are read instead.
"""

import functools
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness, peers

CANVAS, BATCH = 256, 32
FOLDER, TFDS_FOLDER = "SIMCLR_BENCH_IMAGES", "SIMCLR_BENCH_TFDS"
# Levels of 255 that the mean of a quarter of a picture may differ by: the decoders' rounding.
QUARTER_LEVELS = 1.0
DECODE, ROWS = "JPEG files to 256 px", "decoded rows to batches"


def write_photographs(folder: pathlib.Path, *, count: int) -> None:
    """JPEG files of 500 x 375 and 375 x 500 pixels, quality 90, in two class folders: gradients, shapes and noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        width, height = (500, 375) if number % 3 else (375, 500)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        picture = picture + rng.normal(scale=8, size=(height, width, 1))
        target = folder / ("land", "water")[number % 2] / f"{number:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(target, quality=90)


def write_tfds(photographs: pathlib.Path, folder: pathlib.Path) -> None:
    """The same files as a TFDS data set in array_record, without TensorFlow."""
    import tensorflow_datasets as tfds

    class BenchPhotos(tfds.core.GeneratorBasedBuilder):
        """The files of one folder."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=1)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for path in files_in(photographs):
                yield path, {"image": pathlib.Path(path).read_bytes(), "label": 0}

    tfds.disable_progress_bar()
    BenchPhotos(data_dir=folder, file_format="array_record").download_and_prepare()


def files_in(folder: str | pathlib.Path) -> list[str]:
    """All JPEG files below the folder, sorted."""
    return sorted(str(path) for path in pathlib.Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def setup(quick: bool, folder: pathlib.Path) -> dict[str, str]:
    """Makes the pictures, and the TFDS data set where tensorflow_datasets is installed."""
    photographs = pathlib.Path(os.environ.get(FOLDER) or folder / "photographs")
    if not os.environ.get(FOLDER):
        write_photographs(photographs, count=8 if quick else 200)
    environment = {FOLDER: str(photographs)}
    try:
        write_tfds(photographs, folder / "tfds")
        environment[TFDS_FOLDER] = str(folder / "tfds")
    except ModuleNotFoundError as error:
        print(f"no TFDS data set: {error}", file=sys.stderr)
    return environment


def quarters(pictures: list[np.ndarray]) -> list[list[float]]:
    """Mean level of the four quarters of every picture, sorted by picture, as the order of files may differ."""
    rows = []
    for picture in pictures:
        y, x = picture.shape[0] // 2, picture.shape[1] // 2
        parts = picture[:y, :x], picture[:y, x:], picture[y:, :x], picture[y:, x:]
        rows.append([round(float(part.mean()), 3) for part in parts])
    return sorted(rows)


def compare(theirs: list[list[float]], ours: list[list[float]]) -> str:
    """As many pictures, and their quarters within QUARTER_LEVELS."""
    if len(theirs) != len(ours):
        return f"{len(theirs)} pictures are not {len(ours)}"
    # Sorted by the first quarter, two nearly equal pictures may change places: every one needs one of ours near it.
    own = np.asarray(ours)
    worst = max(float(np.abs(own - row).max(axis=1).min()) for row in np.asarray(theirs))
    return "" if worst <= QUARTER_LEVELS else f"a quarter of a picture differs by {worst:.1f} levels of 255"


def _trimmed(image_set: Any) -> list[np.ndarray]:
    pairs = zip(image_set.images, image_set.sizes, strict=True)
    return [canvas[: size[0], : size[1]] for canvas, size in pairs]


def _load(name: str, split: str, data_dir: str | None = None) -> Any:
    from simclr_jax import data

    # "" = no cache: every call decodes.
    return data.load_split(name, split, data_dir=data_dir, cache_dir="", canvas_size=CANVAS, progress=False)


def _set_work(load: Callable[[], Any]) -> harness.Work:
    image_set = load()
    return harness.Work(quarters(_trimmed(image_set)), load, calls=1, amount=len(image_set.images))


def _folder(case: str) -> harness.Work:
    """The folder source into memory; for the other case the streamed feed's batches out of that memory."""
    if case == DECODE:
        return _set_work(lambda: _load(f"folder:{os.environ[FOLDER]}", "all"))
    import jax

    from simclr_jax.distributed import sharding
    from simclr_jax.run import input_pipeline

    image_set, mesh, epoch = _load(f"folder:{os.environ[FOLDER]}", "all"), sharding.make_mesh(), iter(range(10**9))
    steps = max(len(image_set.images) // BATCH, 1)
    stream = input_pipeline.make_canvas_feed(image_set, mesh, seed=0, batch_size=min(BATCH, len(image_set.images)))

    def call() -> Any:
        first = next(epoch) * steps
        return [jax.block_until_ready(stream.draw(first + step)) for step in range(steps)]

    pictures = [picture for source, _ in call() for picture in _trimmed(jax.device_get(source))]
    return harness.Work(quarters(pictures), call, calls=1, amount=len(pictures))


def _tfds(case: str) -> harness.Work:
    del case
    if TFDS_FOLDER not in os.environ:
        raise ModuleNotFoundError("tensorflow_datasets is not installed")
    return _set_work(lambda: _load("tfds:bench_photos", "train", os.environ[TFDS_FOLDER]))


def _shrunk(picture: Any) -> Any:
    """A PIL image with its long side at CANVAS, by the filter that ours has."""
    from PIL import Image

    picture.thumbnail((CANVAS, CANVAS), Image.Resampling.LANCZOS, reducing_gap=None)
    return picture


def _pillow(case: str) -> harness.Work:
    """One file after the other."""
    del case
    from PIL import Image

    files = files_in(os.environ[FOLDER])
    call = lambda: [np.asarray(_shrunk(Image.open(file).convert("RGB"))) for file in files]  # noqa: E731
    return harness.Work(quarters(call()), call, calls=1, amount=len(files))


def _torchvision(case: str) -> harness.Work:
    """ImageFolder and a DataLoader without worker processes, whose CPU time would not be this process's.

    Pictures of two shapes do not stack, so they are laid on a canvas, as ours are.
    """
    del case
    torchvision = peers.load_torchvision()
    import torch
    from torchvision.transforms.functional import pil_to_tensor

    torch.set_num_threads(1)

    def transform(picture: Any) -> Any:
        pixels = pil_to_tensor(_shrunk(picture))
        canvas = torch.zeros((3, CANVAS, CANVAS), dtype=torch.uint8)
        canvas[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return canvas, torch.tensor(pixels.shape[1:])

    dataset = torchvision.datasets.ImageFolder(os.environ[FOLDER], transform=transform)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH)
    call = functools.partial(list, loader)
    pictures = [
        canvas.permute(1, 2, 0).numpy()[: size[0], : size[1]]
        for (canvases, sizes), _ in call()
        for canvas, size in zip(canvases, sizes, strict=True)
    ]
    return harness.Work(quarters(pictures), call, calls=1, amount=len(dataset))


PROGRAM = harness.Program(
    cases=(DECODE, ROWS),
    quick=[DECODE, ROWS],
    implementations={
        "simclr_jax (folder)": harness.Implementation(_folder),
        "simclr_jax (TFDS)": harness.Implementation(_tfds),
        "torchvision ImageFolder + DataLoader": harness.Implementation(_torchvision, ("torchvision",), "peers"),
        "Pillow": harness.Implementation(_pillow, ("PIL",), "peers"),
    },
    compare=compare,
    packages=("jax", "pillow", "tensorflow-datasets", "array-record", "torch", "torchvision"),
    number="per second",
    unit="images per CPU second",
    words=f"""{DECODE!r}: every file is read, decoded, shrunk to a long side of {CANVAS} pixels (Lanczos) and kept
    as uint8, by all threads together; files lie in the page cache. Ours also hashes the pixels, as in training;
    the TFDS row reads the same files out of array_record. {ROWS!r}: batches of {BATCH} that the canvas feed puts on
    the device, one epoch. 200 generated photographs of 500 x 375 pixels, or those of the folder that {FOLDER} names.
    Before any timing everybody's pictures must be ours: as many, the mean of each quarter within {QUARTER_LEVELS:g}
    level of 255.""",
    setup=setup,
    applies=lambda case, name: case == DECODE or name == "simclr_jax (folder)",
)
