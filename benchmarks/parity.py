"""`make parity`: runs the tests that compare with other implementations, and puts what they found into docs/parity.md.

    python benchmarks/parity.py                  all of it: some minutes; the exit code is 1 if anything fails
    python benchmarks/parity.py --only=WORD      the tests whose names contain WORD; writes nothing

The comparisons with the reference's recorded values and with peers are the package's own tests (`tests/parity.py`);
`tests/differences` measures the sizes of intended differences, and the words beside a size stand on the page.
"""

import argparse
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import pytest

from benchmarks import page as page_lib
from benchmarks import timing
from tests.parity import Compared

PAGE = ROOT / "docs" / "parity.md"
PACKAGES = ("jax", "flax", "optax", "numpy")
PEERS = ("torch", "torchvision", "lightly", "pytorch-metric-learning", "scikit-learn")
# Heading -> the files of tests whose comparisons stand below it.
GROUPS = {
    "Augmentation: crops and resizing": "augment/test_crop augment/test_eval_views",
    "Augmentation: colours, blur, whole views": "augment/test_color peers/test_colours augment/test_blur "
    "augment/test_views",
    "NT-Xent": "losses/test_contrastive losses/test_blockwise peers/test_nt_xent",
    "Losses of the family": "losses/test_redundancy losses/test_regression losses/test_keys losses/test_clustering "
    "losses/test_decoupled losses/test_supervised_contrastive losses/test_candidates losses/test_memory "
    "losses/test_image_text peers/test_family_losses",
    "Classification, distillation, probes": "losses/test_classification losses/test_distillation "
    "probes/test_classifier probes/test_nearest probes/test_logistic peers/test_classification",
    "Networks": "models/test_resnet models/test_heads models/test_vit models/test_efficientnet models/test_convnext "
    "interop/test_open_clip_layouts",
    "Layers and networks of torch and torchvision": "peers/test_layers",
    "Optimizers and schedules": "test_optim test_optim_live peers/test_optimizers",
    "Whole training steps, BatchNorm over replicas": "test_training_goldens",
    "Official checkpoints": "interop/test_tensorflow_names cli/test_convert",
}
DIFFERENCES = "differences/test_views differences/test_losses differences/test_networks differences/test_optimizers"


def files_of(names: str) -> list[str]:
    """The paths of files of tests, from the repository's root."""
    return [f"tests/{name}.py" for name in names.split()]


class Row(NamedTuple):
    """A line of the page: all comparisons of one component with one source, in one group."""

    group: str
    component: str
    source: str


class Found:
    """A plugin of pytest that runs what compares, and keeps what the tests recorded.

    rows: the comparisons of every row. effects: topic -> the measured difference in words. failed, not_run: name of a
    test -> why.
    """

    def __init__(self) -> None:
        self.rows: dict[Row, list[Compared]] = {}
        self.effects: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.not_run: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves the tests that compare nothing out."""
        chosen = [item for item in items if {"compare", "effect"} & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes what a test recorded, also one that failed."""
        file, _, name = report.nodeid.partition("::")
        if report.when == "call":
            for kind, values in report.user_properties:
                if kind == "effect":
                    self.effects[values[0]] = values[1]
                else:
                    found = Compared(*values)
                    group = next(heading for heading, names in GROUPS.items() if file in files_of(names))
                    self.rows.setdefault(Row(group, found.component, found.source), []).append(found)
        if report.failed:
            self.failed[name] = str(report.longrepr).strip().splitlines()[-1]
        elif report.skipped:
            self.not_run[name] = str(report.longrepr[2]).removeprefix("Skipped: ")  # type: ignore[index]


def run(words: Sequence[str]) -> Found:
    """Runs the tests of all groups, the slow ones too; `words` are further arguments of pytest."""
    found = Found()
    files = files_of(" ".join([*GROUPS.values(), DIFFERENCES]))
    # The full golden files are not everywhere: without them the page is the same on every machine.
    os.environ["SIMCLR_GOLDEN"] = "/nowhere"
    # Peers may warn; a comparison of networks in float64 takes minutes on a busy machine.
    common = ["-m", "slow or not slow", "-W", "default", "--timeout=1800", "-p", "no:cacheprovider", "-v"]
    pytest.main([*common, f"--rootdir={ROOT}", *words, *(str(ROOT / file) for file in files)], plugins=[found])
    # Those that only the full golden files could serve.
    found.not_run = {name: why for name, why in found.not_run.items() if "full golden file" not in why}
    return found


def rows_part(found: Found) -> str:
    """The tables of all groups."""
    head = ("component", "reference", "cases", "abs. error", "rel. error", "tolerance", "verdict")
    tables = {
        group: page_lib.table(head, [_cells(*of) for of in found.rows.items() if of[0].group == group], right=(2, 3, 4))
        for group in GROUPS
    }
    return "\n\n".join(f"### {group}\n\n{table}" for group, table in tables.items())


def _cells(row: Row, of_row: Sequence[Compared]) -> tuple[str, ...]:
    limit, of = of_row[0].limit, of_row[0].of
    relative = [found.relative for found in of_row if math.isfinite(found.relative)]
    absolute = _number(max(found.absolute for found in of_row))
    tolerance, verdict = f"{limit:.1e} {of}" if limit else "exact", all(found.holds for found in of_row)
    errors = absolute, _number(max(relative)) if relative else "", tolerance
    return row.component, row.source, str(len(of_row)), *errors, "pass" if verdict else "**FAIL**"


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def about_part(found: Found) -> str:
    """The verdict, and the table of date, versions and counts."""
    facts = timing.describe((*PACKAGES, *PEERS))
    known = {name: f"{name} {facts['versions'].get(name, 'not installed')}" for name in (*PACKAGES, *PEERS)}
    counts = f"{len(found.rows)} with {sum(map(len, found.rows.values()))} comparisons"
    counts += f", {len(found.effects)} differences, {len(found.failed)} failures, {len(found.not_run)} tests not run"
    verdict = f"**{len(found.failed)} tests FAIL.**" if found.failed else "Everything agrees within its tolerance."
    lines = [
        ("date", f"{facts['date']}, commit {facts['commit']}"),
        ("hardware", "two shared CPU cores"),
        ("versions", ", ".join([f"python {facts['python']}", *(known[name] for name in PACKAGES)])),
        ("peers", ", ".join(known[name] for name in PEERS)),
        ("lines", counts),
        *(("FAILED", f"{name}: {why[:200]}".replace("|", "/")) for name, why in found.failed.items()),
        *(("not run", f"{name}: {why}".replace("|", "/")) for name, why in found.not_run.items()),
    ]
    return f"{verdict}\n\n{page_lib.table(('', ''), lines)}"


def _cells_of(text: str, *, count: int) -> list[list[str]]:
    """The cells of the lines of its tables that have so many, heads and rules apart."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if len(cells) == count and cells[0] not in ("topic", "component", "---")]


def topics(page: str) -> dict[str, list[str]]:
    """Topic -> the cells of its line, of the page's tables of differences."""
    return {cells[0]: cells for cells in _cells_of(page.partition("## Intended differences")[2], count=5)}


def with_effects(page: str, effects: Mapping[str, str]) -> str:
    """The page with the measured effects in the lines of their topics; of a topic that was not measured "not run"."""
    for topic, cells in topics(page).items():
        measured = [*cells[:3], effects.get(topic, "not run"), cells[4]]
        page = page.replace(f"| {' | '.join(cells)} |", f"| {' | '.join(measured)} |")
    return page


def render(page: str, found: Found) -> str:
    """The page with what was found."""
    page = page_lib.replace_part(page, "about", about_part(found))
    return with_effects(page_lib.replace_part(page, "rows", rows_part(found)), found.effects)


def rows_of(page: str) -> set[Row]:
    """The rows that a page has."""
    parts = [part.partition("\n") for part in page.partition("## Intended differences")[0].split("\n### ")[1:]]
    return {Row(group, *cells[:2]) for group, _, text in parts for cells in _cells_of(text, count=7)}


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen tests; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="run only the tests whose names contain WORD")
    parser.add_argument("--out", type=pathlib.Path, help="file to write; docs/parity.md unless --only is given")
    options: Any = parser.parse_args(arguments)
    found = run(["-k", options.only] if options.only else [])
    page, out = PAGE.read_text(), options.out or (None if options.only else PAGE)
    # A comparison that is lost must be noticed, also where all that are left hold.
    kept = {row[1:] for row in found.rows}
    gone = [] if options.only or found.not_run else [str(row) for row in rows_of(page) if row[1:] not in kept]
    unknown = set(found.effects) - set(topics(page))
    if out:
        out.write_text(render(page, found))
        print(f"wrote {out}")
    for words, names in (("failed", found.failed), ("not compared any more", gone), ("no line for it", unknown)):
        if names:
            print(f"{words}: {'; '.join(names)}")
    print(f"{len(found.rows)} rows, {len(found.effects)} differences, {len(found.failed)} failures")
    return int(bool(found.failed or gone or unknown or not (found.rows or found.effects)))


if __name__ == "__main__":
    sys.exit(main())
