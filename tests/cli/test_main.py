"""The program as a person meets it: its help, its exit status, and one line for a mistake."""

import errno
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import absl.flags
import pytest

from simclr_jax import __main__ as cli
from simclr_jax.cli import flags
from simclr_jax.planning import hardware

ROOT = pathlib.Path(__file__).parents[2]
VERBS = tuple(cli.VERBS)


def program(*words):
    return subprocess.run(
        [sys.executable, "-m", "simclr_jax", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )


def test_every_file_of_a_verb_has_a_row_and_every_row_a_file():
    shared = {"flags", "flags_outputs", "screen"}
    files = {path.stem for path in (ROOT / "simclr_jax" / "cli").glob("[a-z]*.py")} - shared
    assert {name for name in files if name.split("_")[0] not in files - {name}} == set(VERBS) >= {"train", "evaluate"}


def parser_of(verb):
    return importlib.import_module(f"simclr_jax.cli.{verb}").make_parser()


@pytest.mark.parametrize("words", [(), ("--help",), *((verb, "--help") for verb in VERBS)], ids=" ".join)
def test_help_fits_a_terminal_and_shows_an_example(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(words) == 0
    out = capsys.readouterr()
    lines = out.out.splitlines()
    assert not out.err
    assert len(lines) <= 36 and max(map(len, lines)) <= 80, max(lines, key=len)
    for verb in VERBS if words in ((), ("--help",)) else words[:1]:
        assert any(f"simclr-jax {verb} --" in line and "..." not in line for line in lines), f"no example of {verb}"


def test_help_of_a_verb_names_every_flag(capsys):
    for verb in VERBS:
        cli.main([verb, "--help"])
        usage, _, out = capsys.readouterr().out.partition("options:")
        parser = parser_of(verb)
        assert parser.names and all(re.search(rf"^  {name} \[?[A-Z]", out, re.MULTILINE) for name in parser.names)
        assert all(f"{name}=..." in usage for name in parser.required)


def test_every_example_of_a_verb_is_a_command_line_that_it_takes():
    for verb in VERBS:
        examples = re.findall(rf"^  simclr-jax {verb} (.*)$", parser_of(verb).epilog, re.MULTILINE)
        for example in [*examples, cli.VERBS[verb].example]:
            # In the overview one letter stands for a file.
            words = [word.replace("--output=F", "--output=F.npz") for word in shlex.split(example)]
            assert flags.parse(parser_of(verb), words), example
        assert examples


@pytest.mark.parametrize("page", ["use", "faq", "which"])
def test_every_command_of_a_page_for_users_is_one_that_its_verb_takes(page):
    commands = re.findall(r"^simclr-jax (.*)$", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE)
    for command in commands:
        verb, *words = shlex.split(command, comments=True)
        assert flags.parse(parser_of(verb), words), command
    assert len(commands) > 4


def test_the_kinds_of_devices_in_the_flags_are_those_that_plan_knows():
    assert set(flags.DEVICE_KINDS) == set(hardware.DEVICES)


def test_flags_are_read_before_jax_is_imported():
    """Also a config and its overrides, and what is wrong with them."""
    code = """
import sys
from simclr_jax import __main__ as cli
from simclr_jax.cli import flags, plan
assert [cli.main([verb, "--help"]) for verb in cli.VERBS] == [0] * len(cli.VERBS)
found = flags.parse(plan.make_parser(), ["--config=smoke", "--config.seed=3", "--devices=2", "--memory", "1.5"])
assert (found["config"]["seed"], found["devices"], found["memory"]) == (3, 2, 1.5)
assert cli.main(["plan", "--config=smoke", "--config.train.batch=1"]) == 2
assert not {"jax", "numpy", "flax", "optax"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_absl_knows_that_its_flags_are_read_before_a_verb_starts(monkeypatch):
    """Grain refuses to start its processes before."""
    seen = []
    monkeypatch.setattr("simclr_jax.cli.cache.main", lambda **values: seen.append(absl.flags.FLAGS.is_parsed()) or 0)
    absl.flags.FLAGS.unparse_flags()
    assert cli.main(["cache"]) == 0 and seen == [True]


def test_help_comes_at_once():
    for words in (("--help",), ("train", "--help")):
        before = os.times()
        done = program(*words)
        after = os.times()
        assert done.returncode == 0 and done.stdout
        used = after.children_user + after.children_system - before.children_user - before.children_system
        assert used < 1.5, f"{words}: {used:.2f} s of CPU time"


def mistakes(folder):
    return {
        ("tarin",): "Did you mean train?",
        ("--workdir=a", "train"): "valid verbs: train",
        ("train",): "--config is required",
        ("train", "--config=smoke"): "--workdir is required",
        ("train", "--config=smoke", "--workdir="): "--workdir must be a path; got nothing",
        ("train", "--config=smoke", "--workdir"): "--workdir must have a value",
        ("train", "--config=smoke", "--wrkdir=a"): "Did you mean --workdir?",
        ("train", "--config=smoke", "--num_processes=0"): "--num_processes must be a whole number",
        ("train", "--config=smoke", f"--workdir={folder}", "--process_id=two"): "got 'two'",
        ("train", "--config=smoke", f"--workdir={folder}", "--fast"): "Unknown flag --fast",
        ("train", "--config=smok", f"--workdir={folder}"): "Did you mean smoke?",
        ("evaluate", f"--workdir={folder}/nothing"): "folder of a run",
        ("evaluate", "--config=smoke", f"--workdir={folder}"): "Unknown flag --config",
        ("report", f"--workdir={folder}/nothing"): "folder of a run",
        ("report",): "--workdir is required",
        (
            "preview",
            "--config=smoke",
            "--num_images=many",
        ): "--num_images must be a whole number from 1 to 64; got 'many'",
        ("preview", "--config=smoke", "--num_images=65"): "from 1 to 64",
        ("preview", "--config=smoke", f"--output={folder}/no/a.png"): "output",
        ("plan",): "--config is required",
        ("plan", "--config=smoke", "--device_kind=h300"): "h200, h100",
        ("plan", "--config=smoke", "--devices=12"): "Use 8 or 16",
        ("plan", "--config=smoke", "--devices=many"): "whole number",
        ("plan", "--config=smoke", "--device_kind=v5p", "--devices=48"): "Use 32 or 64",
        ("plan", "--config=smoke", "--devices=7"): "multiple of the number of devices",
        ("plan", "--config=smoke", "--memory=-1"): "--memory must be GB of one device, above 0; got '-1'",
        ("plan", "--config=smoke", "--memory=nan"): "--memory must be GB",
        ("plan", "--config=smoke", "--compiler=gcc"): "--compiler must be one of auto, none; got 'gcc'",
        ("cache", "--empty=decode"): "Did you mean decoded?",
        ("plan", "--config=smoke", f"--output={folder}/no/plan.json"): "--output",
        ("convert", f"--input={folder}/none.safetensors"): "--workdir is required",
        ("convert", f"--input={folder}/none.safetensors", f"--workdir={folder}/new"): "none.safetensors",
        ("export", f"--workdir={folder}/nothing", f"--output={folder}/out"): "folder of a run",
        ("export", f"--workdir={folder}/nothing"): "--output is required",
    }


def test_a_mistake_exits_2_with_one_line(tmp_path, capfd):
    for words, told in mistakes(tmp_path).items():
        assert cli.main(words) == 2, words
        out = capfd.readouterr()
        assert not out.out
        assert out.err.count("\n") == 1 and out.err.startswith("simclr-jax") and told in out.err, out.err


def test_a_mistake_in_a_process_of_its_own_shows_no_traceback(tmp_path):
    start = time.perf_counter()
    for words in (("tarin",), ("train", "--config=smoke", f"--workdir={tmp_path}", "--config.encoder.name=foo")):
        done = program(*words)
        assert done.returncode == 2
        assert not done.stdout
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert time.perf_counter() - start < 60


def test_a_path_is_refused_before_anything_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    for verb in VERBS:
        parser = parser_of(verb)
        for flag in {"--workdir", "--output", "--input"} & set(parser.names):
            words = [f"{name}=smoke" for name in parser.required]
            for text in ("", "gs://b/a", "s3:/b", "a\nb", "~no.body/x"):
                assert cli.main([verb, *words, f"{flag}={text}"]) == 2
                out = capsys.readouterr().err
                assert f"{flag} must be a path" in out and out.count("\n") == 1, out
                seen.append(flag)
    assert len(seen) >= 5 * 10
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "shown"), [(errno.ENOSPC, "Make room"), (errno.EACCES, "Change the permissions")])
def test_what_the_system_refuses_anywhere_is_one_line(capsys, monkeypatch, number, shown):
    def fail(**arguments):
        raise OSError(number, os.strerror(number), "/data/x.png")

    monkeypatch.setattr("simclr_jax.cli.preview.main", fail)
    assert cli.main(["preview", "--config=smoke"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "/data/x.png" in said and shown in said
    number = errno.EBADF  # a fault of the program stays visible
    with pytest.raises(OSError):
        cli.main(["preview", "--config=smoke"])


def test_the_program_runs_without_what_only_posix_has(tmp_path):
    """Every verb's module and a lock, with the modules hidden that Windows has not."""
    code = """
import signal, sys, os, pathlib, warnings
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None
for owner, names in ((signal, ("SIGHUP", "SIGKILL", "SIGUSR1")), (os, ("sysconf", "fork", "getuid", "getpgid"))):
    for name in names:
        delattr(owner, name)
import importlib
from simclr_jax import __main__ as cli
from simclr_jax.run import workdir as workdir_lib
for verb in cli.VERBS:
    importlib.import_module("simclr_jax.cli." + verb)
    assert cli.main([verb, "--help"]) == 0
with workdir_lib.lock(pathlib.Path(sys.argv[1])):
    assert workdir_lib.lock_holder(pathlib.Path(sys.argv[1])).startswith(str(os.getpid()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["train", "--config=smoke", f"--workdir={tmp_path / 'file'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
