"""`simclr-jax cache`: what the program keeps in the user's cache folder, and emptying it."""

import pathlib

from simclr_jax import base, units
from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `cache`."""
    parser = flags.Parser(
        "cache",
        description="""\
Lists what is kept between runs, with its size: decoded splits and compiled
programs. Decoded splits stay within config.data.max_cache_gigabytes, compiled
programs within 2 GB.""",
        examples=("--empty=decoded",),
    )
    parser.add_argument(
        "--cache_dir",
        type=flags.path,
        metavar="FOLDER",
        help="of decoded splits; default: where config.data.cache_dir puts them",
    )
    parser.add_argument(
        "--empty",
        default="none",
        metavar="WHAT",
        help="%(choices)s: what to remove; it is made again when needed; default %(default)s",
        **flags.one_of("none", "decoded", "compiled", "all"),
    )
    return parser


def main(*, cache_dir: str | None = None, empty: str = "none") -> int:
    """Lists decoded splits and compiled programs with their sizes, or removes them; returns the exit status.

    Only what this program made is listed and removed; splits that a running process uses stay.

    Args:
        cache_dir: the folder that `data.cache_dir` names; None for the user's cache folder.
        empty: "none" to list, "decoded", "compiled" or "all" to remove.

    Raises:
        base.InputError: `cache_dir` is no folder.
    """
    from simclr_jax.data import bound
    from simclr_jax.data import cache as decoded_cache
    from simclr_jax.run import compilation_cache, progress

    folder = decoded_cache.default_folder() if cache_dir is None else pathlib.Path(cache_dir).expanduser()
    if cache_dir is not None and not folder.is_dir():
        raise base.InputError(f"--cache_dir must be an existing folder; got {cache_dir!r}.")
    if empty in ("decoded", "all"):
        num_entries, num_bytes = bound.empty(folder)
        progress.say(f"Removed {num_entries} decoded splits, {units.size(num_bytes)}.")
    if empty in ("compiled", "all"):
        progress.say(f"Removed compiled programs, {units.size(compilation_cache.empty())}.")
    entries = bound.list_entries(folder)
    total = sum(entry.num_bytes for entry in entries)
    print(f"{units.size(total):>10}  {len(entries)} decoded splits in {folder}")
    for entry in entries:
        print(f"{units.size(entry.num_bytes):>10}    {entry.title or 'unfinished'} ({entry.path.name[-32:][:8]})")
    print(f"{units.size(compilation_cache.num_bytes()):>10}  compiled programs in {compilation_cache.root()}")
    return 0
