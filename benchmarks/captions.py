"""Trains CLIP on pictures with captions, with this program and with open_clip's parts, and draws recall over epochs.

    python benchmarks/captions.py --data FOLDER --peers_python PYTHON        # trainings that are missing; the page
    python benchmarks/captions.py --data FOLDER --peers_python PYTHON --seeds 3 --only ours open_clip
    python benchmarks/captions.py --tiny --rows FILE --output PAGE ...       # proves all of it, in minutes
    python benchmarks/captions.py --page                                     # the page alone

FOLDER holds captions.csv, as for `pairs:FOLDER`. Every training is a process of one thread and is kept in --rows as
soon as it is done; it is not made again while its settings stay the same. All get the tokens of this program's
tokenizer, as the vocabulary decides over the size of the text tower, and their projections of the test split get one
measurement. The exit status is 1 where a training failed, 0 otherwise.
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

from benchmarks import captions_page, children, kept_rows, timing
from simclr_jax import base, optim, probes
from simclr_jax import data as data_lib
from simclr_jax.run import config as config_lib
from simclr_jax.run import image_text, splits, texts

KEPT, PAGE = ROOT / "benchmarks" / "captions.json", ROOT / "docs" / "image_text.md"
KEYS = ("program", "seed")  # of which there is one row
SECTIONS = ("split", "augment", "encoder", "method", "optimizer", "schedule", "text", "train")
# What is trained, and how much of a picture open_clip's crops keep; None = its default, 0.9 at least.
PROGRAMS: dict[str, tuple[float, float] | None] = {"ours": None, "open_clip": None, "open_clip_crops": (0.5, 1.0)}


class Size(NamedTuple):
    """How large all trainings are; num_points: how often recall is measured after the beginning."""

    num_epochs: float
    num_points: int
    width: float
    image_size: int
    text_width: int
    text_layers: int
    batch_size: int


FULL = Size(60.0, 12, 0.5, 64, 256, 2, 128)
TINY = Size(0.2, 2, 0.125, 32, 32, 1, 16)


def make_config(size: Size) -> dict[str, Any]:
    """The recipe `clip_captions` with what makes it shorter."""
    config = config_lib.load_file("clip_captions").to_dict()
    config["data"]["canvas_size"] = size.image_size * 3 // 2
    config["augment"]["image_size"] = size.image_size
    # The first layers of ImageNet: a quarter of the sides before the first block, and a sixteenth of the work.
    config["encoder"] |= {"stem": "imagenet", "width_multiplier": size.width}
    config["text"]["length"] = 24
    config["method"] |= {"text_width": size.text_width, "text_num_layers": size.text_layers}
    config["schedule"]["warmup_epochs"] = size.num_epochs / 12
    config["train"] |= {"batch_size": size.batch_size, "num_epochs": size.num_epochs, "evaluate_every_epochs": 0.0}
    return config


class Training(NamedTuple):
    """One process: whose program and seed it is, its script, and what it is given."""

    program: str
    seed: int
    script: str
    given: dict[str, Any]

    @property
    def what(self) -> Any:
        """What its row depends on, as it comes back from a file."""
        given = {"program": self.program, "seed": self.seed, **self.given}
        if "config" in given:
            given["config"] = {name: given["config"][name] for name in SECTIONS}
        return json.loads(json.dumps(given))


def plan(size: Size, *, seeds: int, only: Sequence[str]) -> list[Training]:
    """The trainings, all programs of a seed before the next seed."""
    config = make_config(size)
    budget = {"num_points": size.num_points}
    return [
        Training(program, seed, "ours_captions.py", {"config": config, **budget})
        if program == "ours"
        else Training(program, seed, "of_open_clip.py", {**as_open_clip(config, PROGRAMS[program]), **budget})
        for seed in range(seeds)
        for program in PROGRAMS
        if program in only
    ]


def as_open_clip(config: Mapping[str, Any], crop_scale: tuple[float, float] | None) -> dict[str, Any]:
    """The same sizes, batch, rate and decay in open_clip's words."""
    method, tower = config["method"], {"layers": "text_num_layers", "heads": "text_num_heads", "width": "text_width"}
    text = {theirs: method[ours] for theirs, ours in tower.items()}
    text |= {"context_length": config["text"]["length"], "vocab_size": config["text"]["vocab_size"]}
    sizes = {"width": config["encoder"]["width_multiplier"], "image_size": config["augment"]["image_size"]}
    return {
        "model": {**sizes, "dimension": method["proj_out_dim"], "text": text},
        "batch_size": config["train"]["batch_size"],
        "num_epochs": config["train"]["num_epochs"],
        "warmup_epochs": config["schedule"]["warmup_epochs"],
        "learning_rate": config["schedule"]["base_learning_rate"],
        "weight_decay": config["optimizer"]["weight_decay"],
        "crop_scale": crop_scale,
    }


class Place(NamedTuple):
    """Where trainings run: a folder for their files, the folder of the data, and the Python that has open_clip."""

    folder: pathlib.Path
    data: pathlib.Path
    peers_python: str


def save_data(config: Mapping[str, Any], place: Place, *, num_points: int) -> None:
    """For the other program: names of pictures, tokens of both splits, the updates to measure after, the warm-up."""
    config = {**config, "data": {**config["data"], "name": f"pairs:{place.data}"}}
    both = splits.load(config)
    assert both.test_set is not None
    train_set, tokenizer = texts.with_tokens(config, both.train_set, kept=None)
    assert train_set.tokens is not None
    test_texts, owners = image_text.flat_texts(both.test_set.texts)
    encode = config_lib.call(data_lib.make_tokenizer, config, "text", kept=tokenizer).encode
    run = {"num_examples": len(train_set.images), "batch_size": config["train"]["batch_size"]}
    num_steps = optim.num_train_steps(num_epochs=config["train"]["num_epochs"], **run)
    np.savez(
        place.folder / "data.npz",
        train_names=np.asarray(train_set.ids),
        test_names=np.asarray(both.test_set.ids),
        train_tokens=train_set.tokens,
        test_tokens=encode(test_texts),
        owners=owners,
        at=np.linspace(0, num_steps, num_points + 1).round().astype(int),
        warmup_steps=optim.num_warmup_steps(warmup_epochs=config["schedule"]["warmup_epochs"], **run),
        num_pictures=len(train_set.images),
    )


def run(training: Training, place: Place) -> dict[str, Any]:
    """The row of a training, made now. Raises RuntimeError with the reason if it fails."""
    files = {"data": place.folder / "data.npz", "out": place.folder / f"{training.program}_{training.seed}.npz"}
    given = {"seed": training.seed, "folder": str(place.data), **training.given}
    given |= {name: str(path) for name, path in files.items()}
    if "config" in given:
        # The row does not depend on where the data are.
        given["config"] = {**given["config"], "data": {**given["config"]["data"], "name": f"pairs:{place.data}"}}
    python = sys.executable if training.program == "ours" else place.peers_python
    command = [python, str(ROOT / "benchmarks" / "training_rows" / training.script), json.dumps(given)]
    ended = children.run(command, children.Clock(24 * 60), environment=children.environment(timing.ONE_THREAD))
    if ended.reason or not ended.lines:
        raise RuntimeError(ended.reason or "no output")
    return {"what": training.what, **ended.lines[-1], **measured(files["data"], files["out"])}


def measured(data: pathlib.Path, features: pathlib.Path) -> dict[str, Any]:
    """{"steps", "recalls", "chance", "counts"}: the one measurement that the projections of all programs get."""
    with np.load(data) as known, np.load(features) as z:
        owners, size = known["owners"], int(known["num_pictures"])
        found = [
            probes.retrieval_recall(*of, owners, ks=captions_page.KS)
            for of in zip(z["images"], z["texts"], strict=True)
        ]
        counts = {"pictures": size, "test_pictures": len(known["test_names"]), "test_texts": len(owners)}
        return {
            "steps": known["at"].tolist(),
            "recalls": {name: [one[name] for one in found] for name in found[0]},
            "chance": probes.chance_recall(owners, ks=captions_page.KS),
            "counts": counts,
        }


def make(trainings: Sequence[Training], rows: kept_rows.Rows, place: Place, *, size: Size, at_once: int) -> int:
    """Makes the rows that are missing; 1 if a training failed, which is told and left out."""
    missing = [training for training in trainings if not rows.has(training.what)]
    if not missing:
        return 0
    save_data(make_config(size), place, num_points=size.num_points)

    def work(training: Training) -> int:
        try:
            row = run(training, place)
        except RuntimeError as error:
            print(f"{training.program}, seed {training.seed}: {error}", file=sys.stderr, flush=True)
            return 1
        rows.put(row)
        last = {name: round(100 * of[-1], 1) for name, of in row["recalls"].items()}
        print(training.program, training.seed, f"{row['cpu_seconds']:.0f} s of CPU", last, flush=True)
        return 0

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return max(pool.map(work, missing))


def main(arguments: list[str] | None = None) -> int:
    """Makes the missing rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--at_once", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--data", type=pathlib.Path, help="folder with captions.csv")
    parser.add_argument("--peers_python", default=sys.executable, help="with torch, timm and open_clip")
    parser.add_argument("--tiny", action="store_true", help="few steps of a thin network")
    parser.add_argument("--page", action="store_true", help="no trainings: write the page of the rows that are kept")
    parser.add_argument("--rows", type=pathlib.Path, default=KEPT)
    parser.add_argument("--output", type=pathlib.Path, default=PAGE, help="its part between the marks is replaced")
    options: Any = parser.parse_args(arguments)
    for name in options.only:
        base.check_choice(name, PROGRAMS, name="--only")
    kept_rows.check_tiny(options, KEPT)
    if options.data is None and not options.page:
        raise base.InputError("Trainings need --data, the folder with captions.csv; got none. Or use --page.")
    rows, size, status = kept_rows.Rows(options.rows, KEYS), TINY if options.tiny else FULL, 0
    if not options.page:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(pathlib.Path(folder), options.data.resolve(), options.peers_python)
            trainings = plan(size, seeds=options.seeds, only=options.only)
            status = make(trainings, rows, place, size=size, at_once=options.at_once)
    captions_page.write(rows.rows, options.output)
    return status


if __name__ == "__main__":
    sys.exit(main())
