"""The work of `simclr-jax demo`: the verbs one after the other, each in a process of its own, and a page of links."""

import os
import pathlib
import shlex
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from simclr_jax import base, html_report
from simclr_jax.run import config as config_lib
from simclr_jax.run import feature_file, identity, progress, stopping, workdir

_CONFIG = "demo"


class _Step(NamedTuple):
    """A verb with its words, and the page that it writes into the workdir: file, title, what it shows; "" for none."""

    words: list[str]
    page: str = ""
    title: str = ""
    shows: str = ""


def tour(*, workdir: str) -> int:
    """Runs the steps and writes index.html into `workdir`; returns the exit status, that of a step that failed.

    Args:
        workdir: for the run of the config "demo"; the folder of another run is shown without training on.

    Raises:
        base.InputError: the run has no test split to show.
    """
    folder = pathlib.Path(workdir)
    done: list[_Step] = []
    for step in _steps_to_features(folder):
        if status := _run(step):
            return status
        done.append(step)
    for step in _steps_with_features(folder):
        if status := _run(step):
            return status
        done.append(step)
    links = [html_report.Link(step.title, step.shows, step.page, _written(step)) for step in done if step.page]
    others = [_written(step) for step in done if not step.page]
    page = folder / "index.html"
    html_report.write_links("What has been made", links, page, commands=others)
    print(f"Open {page} in a browser.")
    print("Next, your own folder of images:  simclr-jax train --config=folder:PHOTOS --workdir=runs/photos")
    return 0


def _steps_to_features(folder: pathlib.Path) -> list[_Step]:
    config, steps = _own_config(folder), []
    if config is None:
        steps.append(_Step(["train", f"--config={_CONFIG}", f"--workdir={folder}"]))
        config = config_lib.load_file(_CONFIG).to_dict()
    steps.append(_Step(["evaluate", f"--workdir={folder}"]))
    shows = "curves of the training, scores beside baselines, nearest neighbours, what is confused"
    steps.append(_Step(["report", f"--workdir={folder}"], "report.html", "The run", shows))
    data = config["data"]
    is_folder, place = data["name"].startswith("folder:"), data["data_dir"]
    where = [f"--data_dir={place}"] if place and not is_folder else []
    if config["split"]["test"] is None:
        raise base.InputError(f"--workdir must be a run with a test split to show; {folder} has none.")
    path = os.path.join(place or "", data["name"].removeprefix("folder:"))
    images = [f"--images={path}"] if is_folder else [f"--images={data['name']}", f"--split={config['split']['test']}"]
    steps.append(_Step(["embed", f"--workdir={folder}", *images, *where, f"--output={folder / 'features.npz'}"]))
    return steps


def _steps_with_features(folder: pathlib.Path) -> list[_Step]:
    features = folder / "features.npz"
    first = feature_file.load(features).names[0]
    given = f"--features={features}"

    def made(verb: str, page: str, title: str, shows: str, *words: str) -> _Step:
        return _Step([verb, given, *words, f"--output={folder / page}"], page, title, shows)

    like, groups = "the pictures most like one", "groups of like pictures, without labels"
    look = "all test pictures on a plane: click, search, select, compare, save selections"
    return [
        made("search", "search.html", "Search", like, f"--query={first}"),
        _Step(
            ["cluster", given, f"--output={folder / 'clusters.csv'}", f"--page={folder / 'clusters.html'}"],
            "clusters.html",
            "Groups",
            groups,
        ),
        made("explore", "explore.html", "The map", look),
    ]


def _own_config(folder: pathlib.Path) -> Mapping[str, Any] | None:
    """The config of a run that is there and is not the demo's own, which goes on or is found to be done."""
    if not workdir.has_config(folder):
        return None
    try:
        identity.check_config(folder, config_lib.load_file(_CONFIG).to_dict())
    except base.InputError:
        progress.say(f"There is another run in {folder}: it is shown as it is.")
        return identity.read_config(folder)
    return None


def _written(step: _Step) -> str:
    return shlex.join(["simclr-jax", *step.words])


def _run(step: _Step) -> int:
    progress.say(f"\n$ {_written(step)}")
    return stopping.call([sys.executable, "-m", "simclr_jax", *step.words])
