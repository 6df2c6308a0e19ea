"""A disk without room, a real one of a megabyte: every verb that writes refuses in one line and leaves nothing behind.

The disk is a tmpfs in a namespace of its own, which needs no root where the system lets users have namespaces.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.run import feature_file

ROOT = pathlib.Path(__file__).parents[2]
_MOUNT = 'mkdir -p "$0" && mount -t tmpfs -o size=1m none "$0" && exec "$@"'
_SCRIPT = """
import contextlib, io, json, pathlib, sys
from simclr_jax import __main__ as cli

disk, features, found = pathlib.Path(sys.argv[1]), sys.argv[2], {}
with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))
for verb, flags in {
    "select": ["--features=" + features, "--size=2", f"--output={disk}/chosen.csv"],
    "cluster": ["--features=" + features, "--clusters=2", f"--output={disk}/groups.csv"],
    "explore": ["--features=" + features, f"--output={disk}/map"],
    "probe": ["--features=" + features, f"--classifier={disk}/c.npz"],
    "plan": ["--config=smoke", f"--output={disk}/plan.json"],
    "train": ["--config=smoke", f"--workdir={disk}/run"],
}.items():
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        status = cli.main([verb, *flags])
    found[verb] = [status, said.getvalue()]
files = [str(path) for path in disk.rglob("*") if path.is_file() and path.stat().st_size]
print(json.dumps({"found": found, "files": files}))
"""


@pytest.mark.slow
def test_verbs_on_a_full_disk_refuse_in_one_line_and_leave_no_file(tmp_path):
    disk = tmp_path / "disk"
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, str(disk)]
    try:
        may = subprocess.run([*inside, "true"], capture_output=True, timeout=30).returncode == 0
    except OSError:
        may = False
    if not may:
        pytest.skip("the system lets users have no file systems of their own")
    rng, count = np.random.default_rng(0), 12
    names, sizes = np.array([f"{number}.png" for number in range(count)]), np.full((count, 2), 8, np.int32)
    rows = feature_file.Rows(
        rng.normal(size=(count, 4)).astype(np.float32), names, np.arange(count, dtype=np.int32) % 2, names, sizes,
        np.arange(count, dtype=np.uint64),
    )  # fmt: skip
    meta = {"fingerprint": "f", "class_names": ["a", "b"], "layer": "h", "protocol": "p", "images": "x"}
    feature_file.save(tmp_path / "f.npz", [rows], meta=meta, num_rows=count)
    words = [sys.executable, "-c", _SCRIPT, str(disk), str(tmp_path / "f.npz")]
    done = subprocess.run([*inside, *words], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for verb, (status, said) in report["found"].items():
        line = said.strip().splitlines()[-1]
        assert status == 2 and "Traceback" not in said, f"{verb}: {said}"
        assert line.startswith(f"simclr-jax {verb}:") and "Make room" in line, f"{verb}: {said}"
    assert report["files"] == [f"{disk}/filler"], report["files"]
