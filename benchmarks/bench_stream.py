"""The streamed feed's host work beside other loaders of photographs; see `PROGRAM.words`.

The pictures are generated; where SIMCLR_BENCH_IMAGES names a folder, its JPEG files are read instead, as often as it
takes.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import bench_input, harness, peers

SIZE, BATCH, COUNT = 224, 50, 2000
FOLDER = bench_input.FOLDER
# Levels of 255 that the mean of all crops may differ by: samplers and kernels differ between packages.
MEAN_LEVELS = 15.0
CASE, RESIDENT = "two 224 px crops of every JPEG", "resident: a step's rows"
# Bicubic without antialiasing, where a package offers it.
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def setup(quick: bool, folder: pathlib.Path) -> dict[str, str]:
    """A folder of links to the pictures, as often as it takes."""
    originals = os.environ.get(FOLDER, "")
    if not originals:
        originals = str(folder / "originals")
        bench_input.write_photographs(pathlib.Path(originals), count=8 if quick else 200)
    files, links = bench_input.files_in(originals), folder / "pictures" / "all"
    links.mkdir(parents=True)
    for number in range(16 if quick else COUNT):
        (links / f"{number:05d}.jpg").symlink_to(files[number % len(files)])
    return {FOLDER: str(links.parent)}


def files() -> list[str]:
    """The pictures' paths."""
    return bench_input.files_in(os.environ[FOLDER])


Seen = list[tuple[int, float]]


def seen(batch: np.ndarray) -> tuple[int, float]:
    """(crops, mean level of some) of a batch, which is let go: a training keeps none."""
    crops = batch.reshape(-1, *batch.shape[-3:])
    return len(crops), float(crops[:6].mean())


def facts(batches: Seen) -> dict[str, float]:
    """How many crops, and their mean level."""
    return {"crops": sum(count for count, _ in batches), "mean": round(float(np.mean([m for _, m in batches])), 2)}


def compare(theirs: dict[str, float], ours: dict[str, float]) -> str:
    """As many crops of about the same mean."""
    if theirs["crops"] != ours["crops"]:
        return f"{theirs['crops']} crops are not {ours['crops']}"
    return "" if abs(theirs["mean"] - ours["mean"]) <= MEAN_LEVELS else f"mean {theirs['mean']} is not {ours['mean']}"


def _work(call: Callable[[], Seen]) -> harness.Work:
    found = facts(call())
    return harness.Work(found, call, calls=1, amount=found["crops"] / 2)


def _pass(streams: Any, image_set: Any, method: str) -> Seen:
    from simclr_jax.data import cutting, order, workers

    count = len(image_set.images)
    size = min(BATCH, count)
    stream = streams.open_stream(
        image_set,
        cutting.Cuts(size=SIZE, method=method),
        examples_of=lambda step: order.stream_indices(0, step * size, size, num_examples=count),
        positions=np.arange(size),
        settings=workers.WorkerSettings("threads", 1),
        max_corrupt_fraction=0.0,
        warn=print,
        num_batches=count // size,
    )
    try:
        return [seen(stream.read(step).crops) for step in range(count // size)]
    finally:
        stream.close()


def _ours(method: str, case: str) -> harness.Work:
    from simclr_jax import data
    from simclr_jax.data import streaming

    if case == RESIDENT:
        return _resident()
    image_set = data.load_split(f"folder:{os.environ[FOLDER]}", "all", stream_above=-1, progress=False)
    return _work(functools.partial(_pass, streaming, image_set, method))


def _resident() -> harness.Work:
    """What the host does for a step of the resident feed at CIFAR's size: indices, and their way to the device."""
    import jax

    from simclr_jax import data
    from simclr_jax.distributed import sharding
    from simclr_jax.run import input_pipeline

    shape = (1, 4096)
    count = 50_000
    zeros, labels = np.zeros((count, 32, 32, 3), np.uint8), np.zeros(count, np.int32)
    image_set = data.ImageSet(zeros, np.zeros((count, 2), np.int32), labels, (), tuple(map(str, range(count))), "", ())
    feed = input_pipeline.make_feed(image_set, sharding.make_mesh(), seed=0, shape=shape, max_resident_gigabytes=None)
    steps = iter(range(10**9))

    def call() -> list[np.ndarray]:
        return [jax.block_until_ready(feed.draw(next(steps)))[1] for _ in range(24)]

    return harness.Work({"crops": 0, "mean": 0.0}, call, calls=0, amount=24 * shape[1])


def _decoder(case: str) -> harness.Work:
    """simplejpeg alone, with the settings of ours; the crop of the facts is a part of the picture."""
    del case
    import simplejpeg

    paths = files()

    def call() -> list[np.ndarray]:
        for path in paths:
            with open(path, "rb") as stream:
                simplejpeg.decode_jpeg(stream.read(), "RGB", fastdct=False, fastupsample=False)
        return []

    call()
    return harness.Work(None, call, calls=1, amount=len(paths))


def _torchvision(decoder: str, case: str) -> harness.Work:
    """ImageFolder and a DataLoader without worker processes, whose CPU time would not be this process's."""
    del case
    torchvision = peers.load_torchvision()
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    crop = v2.RandomResizedCrop(
        SIZE, scale=SCALE, ratio=RATIO, interpolation=v2.InterpolationMode.BICUBIC, antialias=decoder == "pillow"
    )

    def load(path: str) -> Any:
        if decoder == "pillow":
            return torchvision.datasets.folder.default_loader(path)
        return torchvision.io.decode_jpeg(torchvision.io.read_file(path), mode=torchvision.io.ImageReadMode.RGB)

    def transform(picture: Any) -> Any:
        return torch.stack(
            [v2.functional.pil_to_tensor(c) if decoder == "pillow" else c for c in (crop(picture), crop(picture))]
        )

    dataset = torchvision.datasets.ImageFolder(os.environ[FOLDER], loader=load, transform=transform)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)

    def call() -> Seen:
        # Channels come first here; for a mean any order will do.
        return [seen(views.numpy()) for views, _ in loader]

    return _work(call)


def _grain(case: str) -> harness.Work:
    """Grain's MapDataset, an element a picture, with Pillow; read in this thread, which was its fastest way here."""
    del case
    import grain
    from PIL import Image

    paths, rng = files(), np.random.default_rng(0)

    def load(path: str) -> np.ndarray:
        picture = Image.open(path).convert("RGB")
        views = []
        for _ in range(2):
            width, height = (int(rng.uniform(0.3, 1.0) * side) for side in picture.size)
            x, y = rng.integers(0, picture.size[0] - width + 1), rng.integers(0, picture.size[1] - height + 1)
            views.append(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(x, y, x + width, y + height)))
        return np.stack([np.asarray(view) for view in views])

    dataset = grain.MapDataset.source(paths).seed(0).shuffle().map(load).batch(min(BATCH, len(paths)))

    def call() -> Seen:
        reading = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        return [seen(batch) for batch in reading]

    return _work(call)


def _official(case: str) -> harness.Work:
    """tf.data with the official code's crop; its floats are brought to levels where the mean is taken."""
    del case
    peers.official_code("data_util.py")
    import data_util
    import tensorflow as tf

    def views(path: Any) -> Any:
        picture = tf.image.convert_image_dtype(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), tf.float32)
        return tf.stack([data_util.random_crop_with_resize(picture, SIZE, SIZE) for _ in range(2)])

    paths = files()
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    batches = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).map(views).batch(BATCH)
    batches = batches.with_options(options)

    def call() -> Seen:
        return [(count, 255 * mean) for count, mean in (seen(batch.numpy()) for batch in batches)]

    return _work(call)


PROGRAM = harness.Program(
    cases=(CASE, RESIDENT),
    quick=[CASE, RESIDENT],
    implementations={
        "simclr_jax (exact)": harness.Implementation(functools.partial(_ours, "exact")),
        "simclr_jax (opencv)": harness.Implementation(functools.partial(_ours, "opencv")),
        "simplejpeg (decoding alone)": harness.Implementation(_decoder, ("simplejpeg",)),
        "torchvision + Pillow": harness.Implementation(
            functools.partial(_torchvision, "pillow"), ("torchvision",), "peers"
        ),
        "torchvision (its own decoder)": harness.Implementation(
            functools.partial(_torchvision, "own"), ("torchvision",), "peers"
        ),
        "Grain + Pillow": harness.Implementation(_grain, ("grain",), "peers"),
        "official TF2 (tf.data)": harness.Implementation(_official, ("tensorflow",), "tf"),
    },
    compare=lambda theirs, ours: "" if theirs is None else compare(theirs, ours),
    packages=(
        *("jax", "simplejpeg", "opencv-python-headless", "pillow", "grain", "torch", "torchvision"),
        *("tensorflow-cpu", "tensorflow"),
    ),
    repeats=1,
    number="ms",
    unit="CPU ms a picture",
    words=f"""{CASE!r}: every file is read, decoded once, cut twice by a random resized crop to {SIZE} x {SIZE} and
    stacked into uint8 batches of {BATCH}; files lie in the page cache, one thread, no worker processes, whose time is
    not seen. {COUNT:,} links to 200 generated photographs, or to the JPEG files of the folder that {FOLDER} names. Ours
    is the reference's sampler and its bicubic without antialiasing, by name 'exact', or OpenCV's; torchvision and
    Pillow have another sampler, and with Pillow an antialiased bicubic; the official code makes floats. {RESIDENT!r}:
    what the host does for 4096 rows of a split of 50,000 that lies on the device. Before any timing everybody's crops
    must be as many, with a mean within {MEAN_LEVELS:g} levels of 255.""",
    setup=setup,
    applies=lambda case, name: case == CASE or name == "simclr_jax (exact)",
)
