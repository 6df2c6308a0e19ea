"""What the verbs' command lines share: the parser, the types of flags, and the flags that several verbs have.

A verb's file declares its flags in `make_parser()`, by argparse's own `add_argument`; values arrive typed in the
verb's `main`. Neither here nor at the top of a verb's file is JAX or NumPy imported: help and mistakes come at once.
"""

import argparse
import difflib
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from simclr_jax import base
from simclr_jax.cli import flags_outputs
from simclr_jax.run import config as config_lib
from simclr_jax.run import paths, shipped_configs

_FLAG_COLUMN = 24  # where the flags' explanations begin


DEVICE_KINDS = ("h200", "h100", "a100", "v4", "v5e", "v5p", "v6e", "cpu")


class Parser(argparse.ArgumentParser):
    """argparse's parser of one verb, of `--name=value` flags; a mistake is a `base.InputError` of one line.

    A verb may also take words without a name, one kind of them and at least one: `add_argument("runs", nargs="+")`.
    """

    def __init__(self, verb: str, *, description: str, examples: Sequence[str] = ()) -> None:
        self.names: list[str] = []
        self.required: list[str] = []
        self.words: list[str] = []
        self.outputs: dict[str, flags_outputs.Output] = {}
        self.takes_config = False
        self.default_config: str | None = None
        super().__init__(
            f"simclr-jax {verb}",
            description=description,
            epilog="\n".join(f"  simclr-jax {verb} {words}" for words in examples),
            allow_abbrev=False,
            add_help=False,  # the program answers --help itself, whatever else is on the line
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=_FLAG_COLUMN, indent_increment=2
            ),
        )

    def add_argument(self, *names: Any, required: bool = False, **how: Any) -> argparse.Action:
        """argparse's, except that `parse` looks for missing flags: after unknown ones, which may be these misspelt."""
        flags = [name for name in names if name.startswith("-")]
        self.names += flags
        self.words += [] if flags else [how["metavar"]]
        self.required += names[:1] if required else ()
        return super().add_argument(*names, **how)

    def add_output(self, name: str, *, endings: Sequence[str] = (), or_folder: bool = False, **how: Any) -> None:
        """Adds a flag that names what the verb writes: a file of one of these endings, a folder, or either.

        `parse` refuses another ending, and an output that is an input or another output.
        """
        self.outputs[name] = flags_outputs.Output(tuple(endings), or_folder)
        self.add_argument(name, type=path, metavar=how.pop("metavar", "FILE"), **how)

    def format_help(self) -> str:
        """argparse's, with a usage that says what must be given instead of all that can be."""
        given = [*(f"{name}=..." for name in self.required), *(f"{word} ..." for word in self.words)]
        self.usage = " ".join([self.prog, *given, "[--flag=value ...]"])
        return super().format_help()

    def error(self, message: str) -> Any:
        """Raises `base.InputError` in place of argparse's message on several lines."""
        message = re.sub(r"^argument (--\w+): ", r"\1 ", message)
        flag = message.partition(" ")[0]
        if message.startswith("the following arguments are required"):
            message = f"{self.words[0]} is required: one or more, beside the flags. See: {self.prog} --help"
        if message == f"{flag} expected one argument":
            message = f"{flag} must have a value; got none. Write {flag}=VALUE."
        raise base.InputError(base.one_line(message))


def parse(parser: Parser, words: Sequence[str]) -> dict[str, Any]:
    """Flag -> typed value, and "config" -> the config as a plain dict where the verb takes one.

    Raises:
        base.InputError: a config or a value that is not valid, an unknown flag, with the nearest one, or a missing one.
    """
    values: dict[str, Any] = {}
    whole = words
    if parser.takes_config:
        config, words = config_lib.parse(words, default=parser.default_config)
        values["config"] = config.to_dict()
    # One dash is as good as two, as in absl's flags.
    words = [f"-{word}" if f"-{word.partition('=')[0]}" in parser.names else word for word in words]
    empty = [word for word in words if word.partition("=")[0] in parser.names and word.endswith("=--")]
    if empty:  # of "--" argparse makes an empty list, whatever the type
        raise base.InputError(f"{empty[0].partition('=')[0]} must have a value; got '--'.")
    # Words may stand between the flags.
    found, rest = parser.parse_known_intermixed_args(words) if parser.words else parser.parse_known_args(words)
    if rest:
        raise base.InputError(_unknown(rest[0], parser.names))
    missing = [name for name in parser.required if getattr(found, name.removeprefix("--"), "") is None]
    if missing:
        raise base.InputError(f"{missing[0]} is required. See: {parser.prog} --help")
    for name, value in vars(found).items():
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str):
                paths.check_no_pipe(text.removeprefix("folder:"), flag=f"--{name}")
    values = {**vars(found), **values}
    flags_outputs.check(parser.outputs, values, whole)
    return values


def _unknown(word: str, names: Sequence[str]) -> str:
    valid = ", ".join(names)
    name, shown = word.partition("=")[0], base.one_line(word.partition("=")[0] or word, 60)
    if not word.startswith("-"):
        return f"All arguments are flags (--name=value); got '{shown}'. Valid: {valid}."
    return f"Unknown flag {shown}; valid flags: {valid}.{nearest(name[:60], names)}"


def with_dashes(message: str, names: Sequence[str]) -> str:
    """A message of the library that begins with one of its arguments, with the flag that people gave in its place."""
    return re.sub(
        r"^[a-z_]+(?= must )", lambda found: f"--{found[0]}" if f"--{found[0]}" in names else found[0], message
    )


def nearest(name: str, names: Sequence[str]) -> str:
    """ " Did you mean ...?" with the nearest of the names, or "" where none is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def path(text: str) -> str:
    """The type of a flag that names a file or folder; see `paths.typed`."""
    try:
        return paths.typed(text, flag="")
    except base.InputError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from error


def weights(text: str) -> str:
    """The type of a flag that names weights: a path, or hf://user/model on the Hugging Face hub."""
    return text if text.startswith("hf://") else path(text)


def one_of(*choices: str) -> dict[str, Any]:
    """The `type` and `choices` of a flag that takes one of these words: `add_argument(..., **one_of("a", "b"))`."""

    def check(text: str) -> str:
        try:
            base.check_choice(text, choices, name="")
        except base.InputError as error:
            raise argparse.ArgumentTypeError(str(error).strip() + nearest(text[:60], choices)) from error
        return text

    return {"type": check, "choices": choices}


def whole_number(low: int, high: int | None = None, *, such_as: int) -> Callable[[str], int]:
    """The type of a flag that takes a whole number from `low` to `high`; None for no bound."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < low or (high is not None and int(text) > high):
            bounds = f"from {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(
                f"must be a whole number {bounds}; got {base.one_line(text, 40)!r}. Use for example {such_as}."
            )
        return int(text)

    return convert


def positive_number(what: str, *, such_as: float, high: float | None = None) -> Callable[[str], float]:
    """The type of a flag that takes a number above 0, at most `high`; `what` says of what, in messages."""

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number < 1e6 or (high is not None and number > high):
            bound = "" if high is None else f" and at most {high:g}"
            raise argparse.ArgumentTypeError(
                f"must be {what}, above 0{bound}; got {base.one_line(text, 40)!r}. Use for example {such_as:g}."
            )
        return number

    return convert


def add_config(parser: Parser, *, default: str | None = None) -> None:
    """Adds `--config` and its overrides, of which `parse` makes "config"; without `default` it must be given."""
    parser.takes_config, parser.default_config = True, default
    fallback = "" if default is None else f"; default {default}"
    # For the help and the list of valid flags: `config_lib.parse` takes these words away before argparse sees them.
    parser.add_argument(
        "--config",
        required=default is None,
        metavar="NAME[:ARG]",
        default=argparse.SUPPRESS,
        help=f"{shipped_configs.listing()}, or the path of your own file with get_config(){fallback}",
    )
    parser.add_argument(
        "--config_json",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="in its place a JSON file of values, which is never run as Python is",
    )
    parser.add_argument(
        "--config.SECTION.KEY",
        metavar="VALUE",
        default=argparse.SUPPRESS,
        help="change one value; configs/default.py explains every key",
    )


def add_workdir(parser: Parser, what: str = "the folder of a run made by train", *, default: str | None = None) -> None:
    """Adds `--workdir`, which must be given where it has no default."""
    what = what if default is None else f"{what}; default {default}"
    parser.add_argument("--workdir", type=path, required=default is None, default=default, metavar="FOLDER", help=what)


def add_checkpoint(parser: Parser) -> None:
    """Adds `--checkpoint`: which state of a run."""
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="WHICH",
        help="latest, best (by kNN while training) or a step number; default %(default)s",
    )


def add_processes(parser: Parser) -> None:
    """Adds the flags that say which process of which job this is, as `distributed.join` takes them."""
    parser.add_argument("--coordinator", metavar="ADDR", help="HOST:PORT of process 0, in a job of several processes")
    parser.add_argument(
        "--num_processes",
        type=whole_number(1, such_as=2),
        metavar="N",
        help="in how many processes the same command is started",
    )
    parser.add_argument(
        "--process_id",
        type=whole_number(0, such_as=0),
        metavar="I",
        help="which one this is, from 0; on TPU pods, SLURM, Kubernetes and Open MPI all three are found "
        "(docs/scaling.md)",
    )


def add_devices(parser: Parser, what: str) -> None:
    """The flags --device_kind and --devices, of hardware that need not be here; `what` explains the number."""
    kinds = "%(choices)s; default %(default)s"
    parser.add_argument("--device_kind", default="h200", metavar="KIND", help=kinds, **one_of(*DEVICE_KINDS))
    number = whole_number(1, 65536, such_as=8)
    parser.add_argument("--devices", type=number, default=8, metavar="N", help=f"{what}; default %(default)s")


def add_data(parser: Parser) -> None:
    """Adds the flags that say where a run's data are now, as `config_lib.with_data` takes them."""
    parser.add_argument("--data", metavar="NAME", help="where the images are now, if they have moved: folder:PATH")
    parser.add_argument("--data_dir", metavar="FOLDER", help="where tfds sets or folders of a relative name are now")
    parser.add_argument("--cache_dir", metavar="FOLDER", help="for decoded images; empty for none")
