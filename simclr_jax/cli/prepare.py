"""`simclr-jax prepare`: a data set, or a folder of pictures, to files that are read fast, once."""

import contextlib
import sys
import time
from typing import Any

from simclr_jax import base
from simclr_jax.data import extras
from simclr_jax.data import prepare as prepare_lib
from simclr_jax.run import progress

_NUM_SHOWN = 10


def main(
    *,
    input: str,
    output: str,
    source: str,
    variant: str,
    name: str,
    short_side: str | None,
    check: str,
    max_corrupt_fraction: str,
    num_threads: str | None,
) -> int:
    """Prepares a data set and says what came of it; returns the exit status.

    Args:
        input: the name of a data set, or a folder; all arguments are those of `data.prepare.prepare`, as text.
        output: folder of prepared data sets.
        source: folder of the official archives.
        variant: of a data set that has some.
        name: of the data set made from a folder.
        short_side: pixels.
        check: "strict" or "lenient".
        max_corrupt_fraction: a share.
        num_threads: a number.

    Raises:
        base.InputError: a flag is not valid, or see `data.prepare.prepare`.
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        bars: list[Any] = []  # made when work begins: a mistake is one line

        def show(done: int, total: int) -> None:
            if not bars:
                interval = 0.5 if sys.stderr.isatty() else 30.0
                bar = extras.require("tqdm").tqdm(
                    total=total, desc=f"prepare {input}", unit=" images", mininterval=interval, file=sys.stderr
                )
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].n)

        prepared = prepare_lib.prepare(
            input,
            output,
            source=source,
            variant=variant,
            set_name=name,
            short_side=None if short_side is None else _whole_number("--short_side", short_side),
            check=check,
            max_corrupt_fraction=_share("--max_corrupt_fraction", max_corrupt_fraction),
            num_threads=None if num_threads is None else _whole_number("--num_threads", num_threads),
            progress=show,
        )
    _tell(prepared, output, seconds=time.monotonic() - start)
    return 0


def _tell(prepared: prepare_lib.Prepared, output: str, *, seconds: float) -> None:
    """The result as lines: sizes, what was left out or changed and why, and how to use it."""
    progress.say(f"{prepared.understood} ({seconds:.0f} s)")
    print(f"{prepared.folder}")
    for split, count in prepared.splits.items():
        classes = prepared.class_counts[split]
        smallest, largest = min(classes.values(), default=0), max(classes.values(), default=0)
        of_classes = f", {len(classes)} classes of {smallest} to {largest}" if classes else ", without labels"
        print(f"  {split:<12}{count:>9,} images{of_classes}")
    print(f"  fingerprint {prepared.fingerprint}; every image was decoded, every record read back")
    for title, lines in (("left out", prepared.refused), ("stored in another form", prepared.changed)):
        if lines:
            print(f"  {len(lines)} {title}; all of them are in prepared.json:")
        for line in lines[:_NUM_SHOWN]:
            print(f"    {line}")
    for remark in prepared.remarks:
        print(f"  note: {remark}")
    print(f"  use: --config.data.name=tfds:{prepared.name} --config.data.data_dir={output}")


def _whole_number(flag: str, value: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 65536:
        raise base.InputError(f"{flag} must be a whole number from 1 to 65536; got {value[:40]!r}. Use for example 8.")
    return int(value)


def _share(flag: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise base.InputError(
            f"{flag} must be a share from 0 to 1; got {value[:40]!r}. Use for example 0.01."
        ) from error
