"""`simclr-jax VERB ...`, the same as `python -m simclr_jax VERB ...`."""

import errno
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from simclr_jax import atomic_files, base
from simclr_jax.cli import flags, screen
from simclr_jax.run import config as config_lib
from simclr_jax.run import stopping


class _Row(NamedTuple):
    """What the overview shows of a verb, whose file is simclr_jax/cli/VERB.py: an example and what it makes."""

    example: str
    makes: str


_LONGEST_LINE = 300

VERBS = {
    "train": _Row("--config=demo --workdir=runs/demo", "pretrain from a config"),
    "demo": _Row("--workdir=runs/demo", "a tour on built-in pictures"),
    "evaluate": _Row("--workdir=runs/demo", "kNN and linear probes"),
    "compare": _Row("--output=c.html runs/a runs/b", "runs side by side"),
    "report": _Row("--workdir=runs/demo", "one HTML page about a run"),
    "preview": _Row("--config=demo --output=views.png", "a picture of the views"),
    "plan": _Row("--config=imagenet_v2 --devices=8", "memory, time, rate of a run"),
    "convert": _Row("--input=FILE --workdir=runs/r50", "published weights to a run"),
    "export": _Row("--workdir=runs/demo --output=out", "a run to torch and others"),
    "prepare": _Row("--input=PHOTOS --output=DIR", "pictures to files read fast"),
    "data": _Row("--config=folder:PHOTOS", "a look at what a run sees"),
    "embed": _Row("--workdir=R --images=A --output=F", "features of pictures"),
    "search": _Row("--features=F --query=photo.jpg", "the pictures most like one"),
    "duplicates": _Row("--features=F", "pictures there twice"),
    "select": _Row("--features=F --size=100", "pictures that stand for all"),
    "cluster": _Row("--features=F --clusters=20", "groups of like pictures"),
    "explore": _Row("--features=F", "a map to click through"),
    "probe": _Row("--features=F", "scores, and a classifier"),
    "predict": _Row("--classifier=C --images=A", "classes of pictures"),
    "cache": _Row("--empty=all", "what is kept between runs"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the status: 0 done, 2 a mistake of the user (one line on stderr), 128 + n signal n."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words else "help"
    with screen.steadfast() as out:
        try:
            with stopping.interruptible():
                status = _run(verb, words)
        except stopping.Interrupted as stopped:
            print(f"simclr-jax {verb}: stopped by {stopping.signal_name(stopped.number)}.", file=sys.stderr)
            out.flush()
            stopping.leave(stopped.number)  # threads of libraries do not outlive the interpreter's end
            raise
        out.flush()
        if out.lost and not status:
            print(f"simclr-jax {verb}: the output could not be written: {out.lost}.", file=sys.stderr)
            return 2
        return status


def _run(verb: str, words: list[str]) -> int:
    """The verb's status; what the user got wrong and what the system refuses is one line."""
    names: Sequence[str] = ()
    try:
        if verb in ("-h", "--help", "help"):
            print(_overview())
            return 0
        if verb not in VERBS:
            raise base.InputError(
                f"Unknown verb {base.one_line(verb, 60)!r}; valid verbs: {', '.join(VERBS)}."
                f"{flags.nearest(verb[:60], tuple(VERBS))}"
            )
        module = importlib.import_module(f"simclr_jax.cli.{verb}")
        parser = module.make_parser()
        names = parser.names
        if any(word in ("-h", "--help") for word in words):
            parser.print_help()
            return 0
        arguments = flags.parse(parser, words[1:])
        config_lib.mark_absl_flags()
        return module.main(**arguments)
    except base.InputError as error:
        print(_line(f"simclr-jax {verb}: {flags.with_dashes(str(error), names)}"), file=sys.stderr)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            name = base.one_line(error.filename or "", 80)
            print(
                _line(f"simclr-jax {verb}: A path must be one of this system; {name}: {error.strerror}."),
                file=sys.stderr,
            )
            return 2
        if error.errno not in (*atomic_files.NO_ROOM, *atomic_files.NO_RIGHT):
            raise  # a fault of the program, to be seen whole
        reason = atomic_files.refusal(error, error.filename or "the output", rule="The system must let files be used")
        print(_line(f"simclr-jax {verb}: {reason}"), file=sys.stderr)
    return 2


def _line(message: str) -> str:
    """A message as one line that a terminal shows whole: a list of what is valid, in its middle, is cut."""
    return base.one_line(message, _LONGEST_LINE)


def _overview() -> str:
    examples = [f"simclr-jax {verb} {row.example}" for verb, row in VERBS.items()]
    width = max(map(len, examples))
    return "\n".join(
        [
            "simclr-jax: SimCLR in JAX. Pretrain an image encoder without labels, look at",
            "it, use it.",
            "",
            "usage: simclr-jax VERB --flag=value ...   (simclr-jax VERB --help for its flags)",
            "",
            *(f"{example:<{width}}  {row.makes}" for example, row in zip(examples, VERBS.values(), strict=True)),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
