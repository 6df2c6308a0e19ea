"""`simclr-jax prepare`: a data set, or a folder of pictures, to files that are read fast, once."""

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from simclr_jax.cli import flags

if TYPE_CHECKING:
    from simclr_jax.data.prepare import Prepared

_NUM_SHOWN = 10


def make_parser() -> flags.Parser:
    """The flags of `prepare`."""
    parser = flags.Parser(
        "prepare",
        description="""\
Writes a data set as array_record in the layout of TensorFlow Datasets, without
TensorFlow: original bytes, every image decoded on the way, damaged ones left
out by name. A run that was stopped goes on; a finished one is verified.""",
        examples=("--input=PHOTOS --output=prepared", "--input=imagenet2012 --source=ARCHIVES --output=prepared"),
    )
    what = "cifar10, cifar100, stl10, imagenette, imagenet2012, or a folder of pictures, read as folder:PATH reads it"
    parser.add_argument("--input", type=flags.path, required=True, metavar="NAME_OR_FOLDER", help=what)
    output = "of prepared data sets; then --config.data.data_dir=FOLDER"
    parser.add_argument("--output", type=flags.path, required=True, metavar="FOLDER", help=output)
    source = "for a name, where its official archives lie; default: here"
    parser.add_argument("--source", type=flags.path, default=".", metavar="FOLDER", help=source)
    parser.add_argument("--variant", default="", metavar="NAME", help="of imagenette: full-size-v2, 320px-v2 ...")
    name = "of a data set made from a folder; default: the folder's"
    parser.add_argument("--name", default="", metavar="NAME", help=name)
    pixels = flags.whole_number(8, 4096, such_as=400)
    short_side = "shrink larger images once, as JPEGs of quality 90; usual: 400"
    parser.add_argument("--short_side", type=pixels, metavar="PIXELS", help=short_side)
    checks = "%(choices)s: lenient lets through what decoders pass over; default %(default)s"
    parser.add_argument("--check", default="strict", metavar="HOW", help=checks, **flags.one_of("strict", "lenient"))
    share = "of the images that may be left out, from 0 to 1; default %(default)s"
    parser.add_argument("--max_corrupt_fraction", type=float, default=0.01, metavar="SHARE", help=share)
    threads = flags.whole_number(1, 1024, such_as=8)
    parser.add_argument("--num_threads", type=threads, metavar="N", help="default: one a core")
    return parser


def main(
    *,
    input: str,
    output: str,
    source: str = ".",
    variant: str = "",
    name: str = "",
    short_side: int | None = None,
    check: str = "strict",
    max_corrupt_fraction: float = 0.01,
    num_threads: int | None = None,
) -> int:
    """Prepares a data set and says what came of it; returns the exit status.

    All arguments are those of `data.prepare.prepare`: `input` is its name, and `name` its set_name.

    Raises:
        base.InputError: see `data.prepare.prepare`.
    """
    from simclr_jax.data import extras
    from simclr_jax.data import prepare as prepare_lib

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
            short_side=short_side,
            check=check,
            max_corrupt_fraction=max_corrupt_fraction,
            num_threads=num_threads,
            progress=show,
        )
    _tell(prepared, output, seconds=time.monotonic() - start)
    return 0


def _tell(prepared: "Prepared", output: str, *, seconds: float) -> None:
    """The result as lines: sizes, what was left out or changed and why, and how to use it."""
    from simclr_jax.run import progress

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
