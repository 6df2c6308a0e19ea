"""Where compiled programs are kept, and that a second start uses them."""

import os
import pathlib
import subprocess
import sys
import zlib

import jax
import pytest

from simclr_jax.run import checkpoint, compilation_cache, tree_digests

NAMES = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_enable_compilation_cache")


@pytest.fixture
def enabled(tmp_path, monkeypatch):
    """JAX as it is outside of the tests, and an empty home for caches."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_is_the_users_and_of_this_processor(enabled):
    compilation_cache.keep()
    folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert folder == enabled / "simclr_jax" / "compiled" / compilation_cache.processor()
    assert folder.is_dir()
    assert jax.config.jax_compilation_cache_max_size == compilation_cache.MAX_BYTES


def test_a_folder_that_jax_was_told_stays(enabled):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    compilation_cache.keep()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"
    assert not any(enabled.iterdir())


def test_a_cache_that_is_switched_off_stays_off(enabled):
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.keep()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(enabled):
    (enabled / "simclr_jax").write_text("a file where the folder would be")
    compilation_cache.keep()
    assert jax.config.jax_compilation_cache_dir is None


def test_programs_that_a_kill_tore_are_removed_so_that_jax_replaces_them(tmp_path):
    from jax._src import compilation_cache as of_jax

    packed = of_jax.compress_executable(b"program" * 1000)
    entries = {"whole": packed, "torn": packed[:-9], "empty": b"", "unused": packed, "zlib": zlib.compress(b"a" * 99)}
    entries |= {"torn-zlib": zlib.compress(b"a" * 99)[:-3], "old": b"looked at before"}
    for name, content in entries.items():
        (tmp_path / f"jit_{name}-1-cache").write_bytes(content)
        if name != "unused":
            (tmp_path / f"jit_{name}-1-atime").write_bytes(bytes(8))
    os.utime(tmp_path / "jit_old-1-cache", (1e9, 1e9))
    compilation_cache.remove_torn(tmp_path, since=1.5e9)
    left = sorted(path.name for path in tmp_path.glob("*-cache"))
    assert left == ["jit_old-1-cache", "jit_whole-1-cache", "jit_zlib-1-cache"]
    assert len(list(tmp_path.glob("*-atime"))) == 3


def test_another_processor_has_another_name(monkeypatch):
    here = compilation_cache.processor()
    told = "model name\t: Another\nflags\t\t: sse2\n"
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self: told)
    monkeypatch.setattr(pathlib.Path, "exists", lambda self: True)
    assert compilation_cache.processor() != here


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_ends_with_the_same_bits(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | {
        "JAX_ENABLE_COMPILATION_CACHE": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XDG_CACHE_HOME": str(tmp_path / "home"),
    }
    folder = tmp_path / "home" / "simclr_jax" / "compiled" / compilation_cache.processor()
    entries, digests = [], []
    for name in ("first", "second"):
        workdir = tmp_path / name
        command = [sys.executable, "-m", "simclr_jax", "train", "--config=smoke", f"--workdir={workdir}"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        entries.append({path.name for path in folder.glob("*-cache")})
        with checkpoint.open_checkpoints(workdir / "checkpoints") as checkpoints:
            step = checkpoints.latest_step()
            assert step is not None
            digests.append(tree_digests.leaf_digests(checkpoint.restore_any(checkpoints, step=step)))
    assert any("train_steps" in name for name in entries[0])
    assert entries[0] == entries[1]
    assert digests[0] == digests[1]
