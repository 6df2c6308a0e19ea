"""Trains with this program, with the official TF2 code and with lightly, and writes how far they agree.

    SIMCLR_TF2_FOLDER=FOLDER python benchmarks/training_parity.py --data_dir FOLDER --tf_python PYTHON \\
        --peers_python PYTHON                      # trainings that are missing; docs/training_parity.md; its pictures
    python benchmarks/training_parity.py --seeds 1 --only own                          # a part of it
    python benchmarks/training_parity.py --tiny --rows FILE --output PAGE          # proves all of it, in minutes
    python benchmarks/training_parity.py --page                                        # the page alone

Every training is a process of one thread and is kept in --rows as soon as it is done; it is not made again while its
settings stay the same. The exit status is 1 if one of our means is further from the other program's than the page
allows, 0 otherwise, also where trainings are missing.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks import children, kept_rows, timing, training_page
from benchmarks.training_rows import settings
from simclr_jax import base

KEPT, PAGE = ROOT / "benchmarks" / "training_parity.json", ROOT / "docs" / "training_parity.md"
KEYS = ("comparison", "program", "seed")  # of which there is one row
COMPARISONS = ("own", "follow", "lightly")
# Of our config, what decides over a training.
SECTIONS = ("data", "split", "augment", "encoder", "method", "optimizer", "schedule", "train", "follow")


class Training(NamedTuple):
    """One process: which comparison, whose program and seed it is, its script, its Python and what it is given."""

    comparison: str
    program: str
    seed: int
    script: str
    python: str
    given: dict[str, Any]

    @property
    def what(self) -> Any:
        """What its row depends on, as it comes back from a file."""
        given = {"comparison": self.comparison, "program": self.program, "seed": self.seed, **self.given}
        if "config" in given:
            given["config"] = {name: section for name, section in given["config"].items() if name in SECTIONS}
        return json.loads(json.dumps(given))

    @property
    def stem(self) -> str:
        """Of its file of arrays."""
        return f"{self.comparison}_{self.program}_{self.seed}".replace(" ", "_")


class Place(NamedTuple):
    """Where trainings run: a folder for their files, where the data are, and the Pythons of the other programs."""

    folder: pathlib.Path
    data_dir: str | None
    tf_python: str
    peers_python: str


def plan(size: settings.Size, place: Place, *, seeds: int, only: Sequence[str]) -> list[Training]:
    """The trainings in the order that leaves whole comparisons of fewer seeds if time runs out."""
    trainings = []
    for seed in range(seeds):
        own = [
            Training("own", "official", seed, "official.py", place.tf_python, settings.official(size)),
            Training("own", "ours", seed, "ours.py", sys.executable, settings.ours(size)),
        ]
        lightly = [
            Training("lightly", "lightly", seed, "of_lightly.py", place.peers_python, settings.lightly(size)),
            Training("lightly", "ours", seed, "ours.py", sys.executable, settings.ours_as_lightly(size)),
        ]
        trainings += [*own, *(follow(size, place) if seed == 0 else []), *lightly]
    return [training for training in trainings if training.comparison in only]


def follow(size: settings.Size, place: Place) -> list[Training]:
    """The trainings on given views: the official one first, whose weights before its first update the others take."""
    given = {
        "ours float32": settings.ours_follow(size, "float32"),
        "ours float64": settings.ours_follow(size, "float64"),
    }
    given["ours rounded"] = settings.ours_follow(size, "float64", rounding=settings.ROUNDING)
    ours = [Training("follow", name, 0, "ours.py", sys.executable, words) for name, words in given.items()]
    return [Training("follow", "official", 0, "official.py", place.tf_python, settings.official_follow(size)), *ours]


def run(training: Training, place: Place) -> dict[str, Any]:
    """The row of a training, made now. Raises RuntimeError with the reason if it fails."""
    files = {"data": place.folder / "data.npz", "out": place.folder / f"{training.stem}.npz"}
    if training.comparison == "follow":
        files |= {"views": place.folder / "views.npz", "first": place.folder / "follow_official_0.npz"}
    given = {"seed": training.seed, **training.given, **{name: str(path) for name, path in files.items()}}
    if "config" in given:
        # The row does not depend on where the data are.
        data = {**given["config"]["data"], "data_dir": place.data_dir}
        given["config"] = {**given["config"], "data": data}
    script = ROOT / "benchmarks" / "training_rows" / training.script
    environment = children.environment({**timing.ONE_THREAD, "TF_USE_LEGACY_KERAS": "1"})
    command = [training.python, str(script), json.dumps(given)]
    ended = children.run(command, children.Clock(24 * 60), environment=environment)
    if ended.reason or not ended.lines:
        raise RuntimeError(ended.reason or "no output")
    row = {"what": training.what, **ended.lines[-1]}
    with np.load(files["out"]) as arrays:
        return row if training.comparison == "follow" else {**row, "knn": knn(arrays, files["data"])}


def knn(features: Mapping[str, np.ndarray], data: pathlib.Path) -> float:
    """The accuracy of the one probe that all programs' features get."""
    from simclr_jax import probes

    with np.load(data) as labels:
        train, test = labels["train_labels"], labels["test_labels"]
    found = probes.knn_accuracy(features["train"], train, features["test"], test_labels=test, k=settings.KNN_K)
    assert found is not None
    return found


def save_data(size: settings.Size, place: Place) -> None:
    """The images and labels of both splits for the other programs, and views for the trainings on given ones."""
    from benchmarks.training_rows import views
    from simclr_jax.run import splits

    config = settings.ours(size)["config"]
    config["data"]["data_dir"] = place.data_dir
    both = splits.load(config)
    assert both.test_set is not None
    of = {"train": both.train_set, "test": both.test_set}
    arrays = {f"{name}_images": images.images for name, images in of.items()}
    np.savez(place.folder / "data.npz", **arrays, **{f"{name}_labels": images.labels for name, images in of.items()})
    views.save(place.folder / "views.npz", config, both.train_set, steps=size.follow_steps, batch=size.follow_batch)


def make(
    trainings: Sequence[Training], rows: kept_rows.Rows, place: Place, *, size: settings.Size, at_once: int
) -> None:
    """Makes the rows that are missing; a training that fails is told and left out."""
    missing = [training for training in trainings if not rows.has(training.what)]
    # Those on given views need each other's arrays.
    again = any(training.comparison == "follow" for training in missing)
    missing += [
        training for training in trainings if again and training.comparison == "follow" and rows.has(training.what)
    ]
    if not missing:
        return
    save_data(size, place)
    following = sorted((one for one in missing if one.comparison == "follow"), key=lambda one: one.program)
    queues = [[one] for one in missing if one.comparison != "follow"]
    queues.insert(2 if len(queues) > 2 else len(queues), following)

    def work(queue: Sequence[Training]) -> None:
        for training in queue:
            try:
                row = run(training, place)
            except RuntimeError as error:
                print(f"{training.stem}: {error}", file=sys.stderr, flush=True)
                return
            rows.put(row)
            print(training.stem, f"{row['cpu_seconds']:.0f} s of CPU, loss {row['curves']['loss'][-1]:.4f}", flush=True)
        if len(queue) > 1:
            rows.put(training_page.distances(queue, place.folder))

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, queues))


def main(arguments: list[str] | None = None) -> int:
    """Makes the missing rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=COMPARISONS, metavar="COMPARISON")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at_once", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--data_dir", help="where TFDS finds cifar10/jpeg")
    parser.add_argument("--tf_python", default=sys.executable, help="with TensorFlow and tf_keras")
    parser.add_argument("--peers_python", default=sys.executable, help="with torch and lightly")
    parser.add_argument("--tiny", action="store_true", help="few steps of a thin network on embedded pictures")
    parser.add_argument("--page", action="store_true", help="no trainings: write the page of the rows that are kept")
    parser.add_argument("--rows", type=pathlib.Path, default=KEPT)
    parser.add_argument("--output", type=pathlib.Path, default=PAGE, help="the page; pictures come beside it")
    options: Any = parser.parse_args(arguments)
    for name in options.only:
        base.check_choice(name, COMPARISONS, name="--only")
    kept_rows.check_tiny(options, KEPT)
    rows, size = (
        kept_rows.Rows(options.rows, KEYS),
        settings.TINY if options.tiny else settings.FULL,
    )
    if not options.page:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(pathlib.Path(folder), options.data_dir, options.tf_python, options.peers_python)
            trainings = plan(size, place, seeds=options.seeds, only=options.only)
            make(trainings, rows, place, size=size, at_once=options.at_once)
    return training_page.write(rows.rows, options.output)


if __name__ == "__main__":
    sys.exit(main())
