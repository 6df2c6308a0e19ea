"""A file that a stranger has changed is read rightly, or refused in one line of ours, in little time and memory.

`SIMCLR_GENERATED=3000 pytest tests/hostile` draws as many for every reader; SIMCLR_GENERATED_FROM is the first seed.
"""

import io
import os
import pathlib
import random
import struct
import time
import zipfile

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.run import array_files, feature_checks
from tests.hostile import mutations, readers

COUNT = int(os.environ.get("SIMCLR_GENERATED", "12"))
FIRST = int(os.environ.get("SIMCLR_GENERATED_FROM", "0"))
MOST_SECONDS, MOST_MEGABYTES = 2.0, 300.0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return readers.make(tmp_path_factory.mktemp("strangers"))


def peak_megabytes():
    """The most memory of this process since `forget_peak`."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def problem_of(reader):
    """What is wrong with how a reader takes the file that is there, "" if nothing is."""
    forget_peak()
    before, begin, refusal = peak_megabytes(), time.process_time(), ""
    try:
        reader.read()
    except base.InputError as error:
        refusal = str(error)
        if "\n" in refusal or not refusal:
            return f"no line: {refusal[:200]!r}"
    except BaseException as error:  # also what Rust panics with
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds, megabytes = time.process_time() - begin, peak_megabytes() - before
    costly = seconds > MOST_SECONDS or megabytes > MOST_MEGABYTES
    return f"{seconds:.1f} s, {megabytes:.0f} MB" if costly else ""


def test_every_good_file_is_read(made):
    for name, reader in made.items():
        reader.path.write_bytes(reader.good)
        assert not problem_of(reader), name
        reader.read()


@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_read_or_refused_in_one_line(made, capfd):
    problems, changed = [], 0
    for name, reader in made.items():
        for seed in range(FIRST, FIRST + COUNT):
            content = reader.mutate(reader.good, random.Random(f"{name}{seed}"))
            changed += content != reader.good
            reader.path.write_bytes(content)
            problem = problem_of(reader)
            problems += [f"{name} {seed}: {problem}"] if problem else []
        reader.path.write_bytes(reader.good)
    assert not problems, f"{len(problems)} of {COUNT * len(made)}:\n" + "\n".join(problems)
    assert changed > 0.8 * COUNT * len(made)


def with_member(content, name, data, *, how=zipfile.ZIP_STORED):
    """An archive with other bytes for a member."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w", how) as target:
        for member in source.namelist():
            target.writestr(member, data if member == name else source.read(member))
    return out.getvalue()


@pytest.mark.parametrize("where", [("features", "labels.npy"), ("classifier", "bias.npy"), ("part", "labels.npy")])
def test_no_array_of_an_archive_is_made_that_is_not_there(made, where):
    reader = made[where[0]]
    for number, array in enumerate(mutations.ARRAYS):
        reader.path.write_bytes(with_member(reader.good, where[1], array))
        assert not problem_of(reader), number
        if where[0] != "part":  # which is made again
            with pytest.raises(base.InputError, match="must be a file that simclr-jax"):
                reader.read()
    # Zeros without end in a few bytes: nothing compressed is unpacked, whatever its length.
    bomb = mutations.npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000,), }\n", bytes(4 * 10**6))
    reader.path.write_bytes(with_member(reader.good, where[1], bomb, how=zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="is compressed"):
        array_files.read_arrays(reader.path, [where[1].removesuffix(".npy")])
    assert not problem_of(reader)
    reader.path.write_bytes(reader.good)


def test_a_safetensors_header_of_100_megabytes_in_50_bytes_is_refused(made):
    for name in ("safetensors", "foreign weights"):
        reader = made[name]
        for length in (10**8, 2**62, 2**64 - 1):
            reader.path.write_bytes((struct.pack("<Q", length) + b"{" + b" " * 41)[:50])
            assert not problem_of(reader)
            with pytest.raises(base.InputError):
                reader.read()
        reader.path.write_bytes(reader.good)


def test_parquet_that_says_in_few_bytes_that_all_rows_are_alike_is_refused(made, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    reader = made["parquet"]
    table = pyarrow.parquet.read_table(io.BytesIO(reader.good))
    count = 40_000
    monkeypatch.setattr(feature_checks, "_MOST_BYTES", 2**20)
    flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(16 * count, np.float32)), 16)
    columns = {name: pyarrow.repeat(table[name][0], count) for name in table.column_names if name != "feature"}
    large = pyarrow.table({**columns, "feature": flat}).cast(
        pyarrow.schema([*list(table.schema)[:-1], pyarrow.field("feature", flat.type)]).with_metadata(
            table.schema.metadata
        )
    )
    pyarrow.parquet.write_table(large, reader.path)
    del large, flat, columns
    assert reader.path.stat().st_size < 25_000
    assert not problem_of(reader)
    with pytest.raises(base.InputError, match=r"would unpack to 5 MB"):
        reader.read()
    reader.path.write_bytes(reader.good)
