"""Command lines of all verbs with something wrong in them, drawn from a seed: flags, config keys, files, variables.

What is drawn is wrong in most cases and right in some: whoever runs them looks at how they end, and `refuses` says
which cannot end well.
"""

import functools
import importlib
import json
import math
import os
import pathlib
import random
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from simclr_jax import __main__ as cli
from simclr_jax import base
from simclr_jax.run import config as config_lib

JUNK_WORDS = (
    *("", " ", "None", "True", "nan", "-inf", "inf", "1e400", "-1", "0", "1.5", "9" * 30, "1" * 5000, "0x10", "1e999"),
    *("()", "(1,)", "[1", "{'a': 1}", "(0.5, 'x')", "((1,),)", "x" * 3000, "é", "²", "a b", "--", "=", "%s", "{0}"),
    *("\x00", "a\nb", "\udcff", "\u2028", "~no.body/x", "gs://b/a", "http://h/x", "file:///etc/passwd", "/dev/null"),
    *(".", "..", "/", "../" * 700, "a" * 300, "/proc/self/mem", "'; rm -rf x", "-", "+", "1,2", "1_000", "٣", "\t"),
)
JUNK_VALUES: tuple[Any, ...] = (
    *(None, True, False, math.nan, math.inf, -math.inf, -1, 0, 1.5, -0.5, 10**30, 10**5000, 1e300, 2**31, 2**63, b"x"),
    *("", "x", "1", "nan", "x" * 9000, "a\nb", "\x00", "\udcff", [], [1], ["x"], (), (1,), ("x",), (None,), ((1,),)),
    *({}, {"a": 1}, {1: 2}, {"a": {"b": 1}}, 1 + 2j, object, len, [math.nan], [-1.0], (0.5,) * 100, [[[[]]]]),
)
VARIABLES = {
    "train": (
        *(
            "SLURM_JOB_ID",
            "SLURM_PROCID",
            "SLURM_NTASKS",
            "SLURM_STEP_NODELIST",
            "SLURM_LOCALID",
            "SLURM_STEP_NUM_TASKS",
        ),
        *(
            "SLURM_NNODES",
            "SLURM_STEP_NUM_NODES",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_RANK",
            "JOB_COMPLETION_INDEX",
        ),
        *("SIMCLR_STUCK_SECONDS", "SIMCLR_LAUNCH_TIMEOUT", "SIMCLR_STOP_SECONDS", "KUBERNETES_SERVICE_HOST"),
        *("TPU_WORKER_HOSTNAMES", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "COLUMNS"),
    ),
}
VERBS = tuple(cli.VERBS)


class Case(NamedTuple):
    """words: of the command line. named: one of these is in the message, if it is refused. environment: variables.

    must_fail: whether it cannot end well.
    """

    words: tuple[str, ...]
    named: tuple[str, ...] = ()
    environment: Mapping[str, str] = types.MappingProxyType({})
    must_fail: bool = False


def draw(seed: int, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """The command line of a seed; files that it needs are made in `folder`.

    good: verb -> flags that make it a good command line, to which something wrong is added.
    """
    rng = random.Random(seed)
    kinds = [wrong_flag] * 4 + [wrong_override] * 4 + [wrong_key_in_file] * 5 + [wrong_path] * 3
    kinds += [wrong_word, wrong_variable, missing_flag, wrong_config]
    return rng.choice(kinds)(rng, folder, good)


@functools.cache
def parser_of(verb: str) -> Any:
    """The parser of a verb's flags."""
    return importlib.import_module(f"simclr_jax.cli.{verb}").make_parser()


def with_config(rng: random.Random) -> str:
    """A verb that takes a config."""
    return rng.choice([verb for verb in VERBS if parser_of(verb).takes_config and verb != "convert"])


def words_of(verb: str, flags: dict[str, str]) -> tuple[str, ...]:
    """The command line."""
    return verb, *(f"{name}={value}" if name.startswith("-") else value for name, value in flags.items())


def wrong_flag(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """One flag with a value of another kind."""
    verb = rng.choice(VERBS)
    names = [
        name for name in parser_of(verb).names if name not in ("--config", "--config_json", "--config.SECTION.KEY")
    ]
    name, junk = rng.choice(names), rng.choice(JUNK_WORDS)
    if name in ("--input", "--images") and set(junk) <= {".", "/"}:
        junk = ""  # all of the disk, otherwise
    return Case(
        words_of(verb, {**good[verb], name: junk}),
        (name, name.strip("-"), "image", "path", "--input", "features", *good[verb].values()),
    )


def wrong_override(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """One key of the config with a value of another kind, on the command line."""
    verb = with_config(rng)
    key = rng.choice(sorted(base.flat(load("smoke"))))
    return Case(words_of(verb, {**good[verb], f"--config.{key}": rng.choice(JUNK_WORDS)}), _names(key))


def wrong_key_in_file(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """One key of a config file, Python or JSON, with a value of another type; now and then a section."""
    verb, junk = with_config(rng), rng.choice(JUNK_VALUES)
    config = load(rng.choice(["smoke", "smoke", "cifar10_byol", "cifar10_swav", "cifar10_moco"]))
    flat = sorted(base.flat(config))
    key = rng.choice([*flat, *config]) if rng.random() < 0.9 else rng.choice(["extra", "train.extra", "a.b"])
    section, _, name = key.rpartition(".")
    if rng.random() < 0.5:
        path = folder / "drawn.json"
        try:
            text = json.dumps({section: {name: junk}} if section else {name: junk})
        except (TypeError, ValueError):
            text = json.dumps({section: {name: str(type(junk))}} if section else {name: [junk == 0]})
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        flag = rng.choice(["--config", "--config_json"])
    else:
        path, flag = folder / f"drawn{rng.randrange(10**9)}.py", "--config"
        _write_python(path, config, key, junk, loose=rng.random() < 0.7)
    flags = {flag: str(path), **{flag: value for flag, value in good[verb].items() if flag != "--config"}}
    return Case(words_of(verb, flags), (*_names(key), "drawn"))


@functools.cache
def load(name: str) -> dict[str, Any]:
    """A shipped config as plain dicts."""
    return config_lib.load_file(name, "--config.data.name=digits", "--config.train.batch_size=64").to_dict()


def _write_python(path: pathlib.Path, config: Any, key: str, junk: Any, *, loose: bool) -> None:
    import pickle

    recorded = pickle.dumps((config, key, junk))  # read by the test's own file alone
    strict = "" if loose else "    place[name] = junk\n"
    path.write_text(
        "import pickle\nfrom ml_collections import config_dict\n"
        f"def get_config():\n    values, key, junk = pickle.loads({recorded!r})\n"
        "    config = config_dict.ConfigDict(values)\n    section, _, name = key.rpartition('.')\n"
        f"    place = config[section] if section in config else config\n{strict}"
        "    with config.ignore_type():\n        place[name] = junk\n    return config\n"
    )


def _names(key: str) -> tuple[str, ...]:
    # Of a name that is no data set and of a run that is not there, what was asked for is said in words.
    words = {
        "data.name": ("data set", "tfds:", "folder:"),
        "init.workdir": ("workdir",),
        "teacher.workdir": ("workdir",),
        "split.": ("split",),
    }
    section = f"{key.partition('.')[0]}." if "." in key else key  # of two keys that do not go together one is named
    return (key, section, *(word for start, said in words.items() if key.startswith(start) for word in said))


def wrong_path(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """One flag that names a file or folder with something else in its place."""
    verb = rng.choice(VERBS)
    flags = (
        "--workdir",
        "--output",
        "--input",
        "--images",
        "--features",
        "--query",
        "--classifier",
        "--labels",
        "--json",
        "--page",
    )
    flags += ("--config", "--config_json", "--data_dir", "--cache_dir", "--data", "--table", "--weights", "--others")
    name = rng.choice([name for name in parser_of(verb).names if name in flags])
    path = str(rng.choice(list(make_places(folder).values())))
    if name == "--data":
        path = f"folder:{path}"
    return Case(words_of(verb, {**good[verb], name: path}))


def make_places(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What may lie where a file or folder is expected, by its kind."""
    places = {name: folder / "places" / name for name in ("missing", "empty", "binary", "fifo", "folder", "text.csv")}
    places |= {name: folder / "places" / name for name in ("a.json", "a.npz", "a.safetensors", "a.png", "link", "a.py")}
    places["photo.jpg"] = folder / "places" / "photo.jpg"
    places["long"] = folder / ("x" * 5000)
    places["deep"] = folder / "/".join(["d" * 200] * 30)
    places["no_utf8"] = folder / "places" / os.fsdecode(b"caf\xe9")
    places["newline"] = folder / "a\nb"
    places["below_a_file"] = folder / "places" / "empty" / "x"
    places["config"] = folder / "places" / "run"
    if (folder / "places").exists():
        return places
    (folder / "places" / "folder").mkdir(parents=True)
    places["config"].mkdir()
    (places["config"] / "config.json").write_text('{"data": {"name": 3}, "train": {"batch_size": "x"}}')
    places["empty"].write_bytes(b"")
    places["text.csv"].write_text("path,label\na,b\n")
    for name in ("binary", "a.npz", "a.safetensors", "a.png", "a.json", "a.py"):
        places[name].write_bytes(random.Random(name).randbytes(3000))
    os.mkfifo(places["fifo"])
    Image.new("RGB", (16, 12), (200, 90, 40)).save(places["photo.jpg"])
    places["link"].symlink_to(folder / "nowhere")
    return places


def read_files(case: Case, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> dict[pathlib.Path, bytes]:
    """The content of every file that a command may only read: pictures, and what its flags for inputs name."""
    outputs = parser_of(case.words[0]).outputs if case.words[0] in VERBS else ()
    values = [word.partition("=")[2] or word for word in case.words if word.partition("=")[0] not in outputs]
    named = [pathlib.Path(value) for value in values if value.startswith("/") and "\0" not in value]
    named += [*pathlib.Path(good["prepare"]["--input"]).iterdir(), make_places(folder)["photo.jpg"]]
    roots = {folder, pathlib.Path(good["prepare"]["--input"]).parent}
    return {
        path: path.read_bytes()
        for path in named
        if len(str(path)) < 1000 and roots.intersection(path.parents) and path.is_file()
    }


def wrong_word(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """An unknown verb or flag, or a word that is no flag."""
    verb = rng.choice([*VERBS, *VERBS, "trian", "", "--workdir=a", "x" * 4000, "é", "\udcff", "a\nb", "-", "help "])
    flags = good.get(verb, {})
    junk = rng.choice(
        ["--nothing", "--work=a", "-x", "word", "--config.a.b=1", "--=", "--", "--nothing=\n", "--\udcff"]
    )
    words = [*words_of(verb, flags)]
    words.insert(rng.randrange(1, len(words) + 1), junk)
    return Case(tuple(words))


def wrong_config(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """A name or an argument of a config that there is not."""
    verb, junk = with_config(rng), rng.choice(JUNK_WORDS)
    name = rng.choice(
        [junk, f"cifar10:{junk}", f"finetune:{junk}", f"distill:{junk}", f"folder:{junk}", f"smoke:{junk}"]
    )
    return Case(words_of(verb, {**good[verb], "--config": name}))


def missing_flag(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """A flag that must be given is not there, or has no value."""
    verb = rng.choice(VERBS)
    flags = dict(good[verb])
    if not flags or not parser_of(verb).required:
        return Case((verb, "--nothing"), must_fail=True)
    name = rng.choice(parser_of(verb).required)
    del flags[name]
    words = [*words_of(verb, flags), *([name] if rng.random() < 0.5 else [])]
    return Case(tuple(words), (name,), must_fail=True)


def wrong_variable(rng: random.Random, folder: pathlib.Path, good: dict[str, dict[str, str]]) -> Case:
    """Variables of a cluster's launcher or of ours with values that they cannot have."""
    junk = [word for word in JUNK_WORDS if "\x00" not in word and "\udcff" not in word]
    drawn = {name: rng.choice(junk) for name in rng.sample(VARIABLES["train"], rng.randint(1, 3))}
    if rng.random() < 0.5:
        drawn |= {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": rng.choice(["2", "x", "-1"]), "SLURM_PROCID": "0"}
    return Case(words_of("train", good["train"]), environment=drawn)
