"""What a reader sees of a round: the table, the goals and what they say of it, and the page of all rounds.

A round is a dict of JSON values: "about" (date, commit, versions, "device", "tiny") and "rows", by name: "seconds" and
"figures", with "error" or "left_out" where a row has one. Shares and ratios are computed here, from figures of one
round.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks import page as page_lib
from benchmarks.gpu_rows import figures
from benchmarks.gpu_rows.figures import Figure

Round = Mapping[str, Any]

# Figure -> (the step it is a part or a form of, how its share is taken).
SHARES = {
    "views 224": ("resnet50", "alone"),
    "loss of the step": ("resnet50", "alone"),
    "LARS ours": ("resnet50", "alone"),
    "resnet50 without views": ("resnet50", "saved"),
    # Frozen BatchNorm is not folded, so the step that is not either is the one to set it beside.
    "resnet50, BatchNorm frozen": ("resnet50, BatchNorm not folded", "saved"),
    "resnet50, BatchNorm not folded": ("resnet50", "slower"),
    "resnet50, deterministic": ("resnet50", "slower"),
    "resnet50, by excluded kernels": ("resnet50", "slower"),
    "resnet50, batch 4096 in chunks": ("resnet50", "slower"),
    "views 32": ("cifar 512", "alone"),
    "cifar 512, deterministic": ("cifar 512", "slower"),
}
_WORDS = {"alone": "{:.1%} of the step", "saved": "{:.1%} of the step saved", "slower": "{:+.1%} time a view"}


def _forms(name: str) -> tuple[str, str]:
    return name, f"{name}, torch.compile"


# Our figure -> who it is compared with -> the figures of theirs, of which the fastest counts.
PEERS: dict[str, dict[str, tuple[str, ...]]] = {
    "resnet50": {kind: _forms(f"torch {kind} ResNet-50") for kind in ("SimCLR", "supervised")},
    "cifar 512": {kind: _forms(f"torch {kind} CIFAR ResNet-18") for kind in ("SimCLR", "supervised")},
    **{f"views {size}": {"torch": (f"torch views {size}",), "Kornia": (f"Kornia views {size}",)} for size in (224, 32)},
    **{
        f"loss {rows} {form}": {"torch": (f"torch loss {rows}",), "lightly": (f"lightly loss {rows}",)}
        for rows in (8192, 16384, 65536)
        for form in ("blockwise", "dense")
    },
    "LARS ours": {"optax's LARS": ("LARS optax, masked",), "SGD": ("SGD optax",)},
    "max-pool ours": {"Flax": ("max-pool Flax",)},
}


class Goal(NamedTuple):
    """What is wanted of one figure: `of` a measured value, at least or at most `limit`; the best of `names` counts."""

    words: str
    names: tuple[str, ...]
    of: str
    limit: float
    at_least: bool
    shown: str = "{:.2f}"


_CIFAR = ("cifar 512", "cifar 1024", "cifar 4096")
_RESNET50, _CIFAR_512 = "resnet50, deterministic", "cifar 512, deterministic"
GOALS = (
    Goal("ResNet-50 step, of the ceiling, at least 0.75", ("resnet50",), "fraction", 0.75, True),
    Goal("ResNet-50 step, times torch's SimCLR step, at least 1.5", ("resnet50",), "SimCLR", 1.5, True),
    Goal("CIFAR ResNet-18, best batch, of the ceiling, at least 0.60", _CIFAR, "fraction", 0.60, True),
    Goal("CIFAR ResNet-18, 1000 epochs, at most 20 minutes", _CIFAR, "minutes", 20.0, False, "{:.1f}"),
    Goal("views of 224 pixels, at most 3 % of the step", ("views 224",), "share", 0.03, False, "{:.1%}"),
    Goal("views of 32 pixels, at most 10 % of the step", ("views 32",), "share", 0.10, False, "{:.1%}"),
    Goal("views of 224 pixels, times Kornia's, at least 20", ("views 224",), "Kornia", 20.0, True, "{:.1f}"),
    Goal("deterministic ResNet-50 step, at most 10 % slower", (_RESNET50,), "share", 0.10, False, "{:.1%}"),
    Goal("deterministic CIFAR step, at most 10 % slower", (_CIFAR_512,), "share", 0.10, False, "{:.1%}"),
    Goal("deterministic ResNet-50, two runs, same bits", (_RESNET50,), "same_bits", 1, True, "{:d}"),
    Goal("deterministic CIFAR, two runs, same bits", (_CIFAR_512,), "same_bits", 1, True, "{:d}"),
)


def measured(result: Round) -> dict[str, Figure]:
    """Name -> figure, those that have a value."""
    return {figure["name"]: figure for figure in _all(result) if "value" in figure}


def _all(result: Round) -> Iterator[Figure]:
    for row in result["rows"].values():
        yield from row.get("figures", [])


def derive(result: Round) -> dict[str, dict[str, Any]]:
    """Name of a figure -> what follows from it and others: "fraction", "mfu", "share", "minutes", ratios by peer."""
    known = measured(result)
    peak = result["about"].get("device", {}).get("peak_flops")
    told = {"minutes_for_1000_epochs": ("minutes", float), "same_bits": ("same_bits", int)}
    derived: dict[str, dict[str, Any]] = {}
    for name, figure in known.items():
        facts: dict[str, Any] = {word: kind(figure[key]) for key, (word, kind) in told.items() if key in figure}
        if "ceiling" in figure:
            facts["fraction"] = figure["value"] / figure["ceiling"]
        if "flops" in figure and peak:
            facts["mfu"] = figure["value"] * figure["flops"] / peak
        step, how = SHARES.get(name, ("", ""))
        if step in known:
            facts["share"] = _share(figure, known[step], how)
        for peer, theirs in PEERS.get(name, {}).items():
            ratios = [_ratio(figure, known[other]) for other in theirs if other in known]
            facts |= {peer: min(ratios)} if ratios else {}
        derived[name] = facts
    return derived


def _share(figure: Figure, step: Figure, how: str) -> float:
    """Of the time of the step for as many views as the figure has, or of one update if it has no views."""
    if figure["unit"] == "views/s":
        share = float(step["value"] / figure["value"])
    else:
        share = figures.seconds_of(figure) / (figures.seconds_of(step) / step.get("steps_per_dispatch", 1))
    return {"alone": share, "saved": 1 - share, "slower": share - 1}[how]


def _ratio(ours: Figure, theirs: Figure) -> float:
    """How many times as fast ours is."""
    if ours["unit"] == "views/s":
        return float(ours["value"] / theirs["value"])
    return figures.seconds_of(theirs) / figures.seconds_of(ours)


def goals(result: Round) -> Iterator[tuple[str, str, str]]:
    """(the goal, what was measured, "met", "missed" or "not measured") of every goal; tiny results are not judged."""
    derived = derive(result)
    for goal in GOALS:
        values = [derived[name][goal.of] for name in goal.names if goal.of in derived.get(name, {})]
        if not values:
            yield goal.words, "-", "not measured"
            continue
        best = max(values) if goal.at_least else min(values)
        is_met = best >= goal.limit if goal.at_least else best <= goal.limit
        verdict = "not judged" if result["about"]["tiny"] else "met" if is_met else "missed"
        yield goal.words, goal.shown.format(best), verdict


def text(result: Round) -> str:
    """The round as Markdown: the line about it, the table, the goals."""
    tables = page_lib.table(_HEAD.split(" | "), _lines(result)), page_lib.table(("goal", "measured", ""), goals(result))
    return "\n\n".join([about(result), *tables])


def about(result: Round) -> str:
    """One line: date, commit, hardware, versions."""
    device = result["about"].get("device", {})
    memory = f", {device['memory_bytes'] / 1e9:.0f} GB for the program" if device.get("memory_bytes") else ""
    hardware = f"{device.get('kind', 'unknown device')}{memory}"
    tiny = "TINY sizes, a test of the rows: no figure below means anything. " if result["about"]["tiny"] else ""
    return tiny + page_lib.about(result["about"], hardware=hardware)


_HEAD = "figure | median (smallest to largest) | of ceiling | MFU | peak memory | share | ours is faster | notes"


def _lines(result: Round) -> Iterator[tuple[str, ...]]:
    derived = derive(result)
    for name, row in result["rows"].items():
        for figure in row.get("figures", []):
            if "value" in figure:
                yield _line(figure, derived[figure["name"]])
            elif "left_out" in figure:
                yield figure["name"], f"left out: {figure['left_out']}", *[""] * 6
        for word in ("error", "left_out"):
            if word in row:
                yield f"row {name}", f"{word.replace('_', ' ')}: {row[word]}", *[""] * 6


def _line(figure: Figure, facts: Mapping[str, Any]) -> tuple[str, ...]:
    value, low, high = (page_lib.short(figure[end]) for end in ("value", "low", "high"))
    share = _WORDS[SHARES[figure["name"]][1]].format(facts["share"]) if "share" in facts else ""
    ratios = [f"x{facts[peer]:.2f} {peer}" for peer in PEERS.get(figure["name"], {}) if peer in facts]
    compiling = f"compiled in {figure['compile_seconds']:.0f} s" if "compile_seconds" in figure else ""
    return (
        figure["name"],
        f"{value} {figure['unit']} ({low} to {high})",
        f"{facts['fraction']:.2f}" if "fraction" in facts else "",
        f"{facts['mfu']:.1%}" if "mfu" in facts else "",
        _memory(figure),
        share,
        ", ".join(ratios),
        "; ".join(filter(None, [figure.get("note", ""), compiling])),
    )


def _memory(figure: Figure) -> str:
    """What the runtime held at most, or in brackets what XLA's analysis says of the program; and what `plan` says."""
    planned = f"({figure['planned_bytes'] / 1e9:.2f} GB)" if "planned_bytes" in figure else ""
    held = f"{figure['peak_bytes'] / 1e9:.2f} GB" if "peak_bytes" in figure else planned
    return held + (f", plan {figure['modelled_bytes'] / 1e9:.2f}" if "modelled_bytes" in figure else "")


def why_no_round(result: Round) -> str:
    """Why this result must not be committed as a round, in one line; "" if it may."""
    facts = result["about"]
    platform = facts.get("device", {}).get("platform", "unknown")
    if facts["tiny"]:
        return "A round is measured at full size; got a --tiny result. Run the suite without --tiny on a GPU."
    if platform not in ("gpu", "cuda", "rocm"):
        return f"A round is measured on a GPU; got {platform}. Run the suite where JAX sees a GPU."
    if not re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", str(facts["commit"])):
        return f"A round names its commit; got {str(facts['commit'])[:40]!r}. Add --commit=HASH."
    if not measured(result):
        return "A round has figures; got none. Run the suite again."
    return ""


def page(rounds: Mapping[str, Round]) -> str:
    """The part of benchmarks/README.md that shows all rounds, newest last."""
    if not rounds:
        return "No round has been measured: **no GPU figure exists yet.**"
    parts = [f"#### {name}\n\n{text(result)}" for name, result in rounds.items()]
    return "\n\n".join(parts)
