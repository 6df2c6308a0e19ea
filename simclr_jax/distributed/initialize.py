"""Connecting the processes of a job, with a message of one line for everything that can go wrong.

JAX aborts the process with a stack of C++ when a process is missing or there twice. Where the address is known
beforehand, process 0 therefore first waits for all others itself (`roll_call`), on the port that JAX uses afterwards.
"""

import contextlib
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from simclr_jax import base
from simclr_jax.distributed import cluster, liveness, peers, roll_call
from simclr_jax.distributed.peers import Peers
from simclr_jax.distributed.roll_call import TIMEOUT_VARIABLE

_DEFAULT_TIMEOUT = 300.0
# JAX aborts a process with a stack of C++ once another one is silent as long; `Peers` knows it before, in one line.
_HEARTBEAT_SECONDS = 120
_SPARE_SECONDS = 60  # that JAX waits longer than the roll call, so that the user sees our message


def join(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    say: Callable[[str], None] = print,
    words: liveness.Words = liveness.TRAINING,
) -> Peers:
    """Connects this process with the others of its job, before any device is touched; alone it does nothing.

    Args:
        coordinator: flag, HOST:PORT of process 0.
        num_processes: flag.
        process_id: flag.
        say: shows a line to the user, for `Peers`.
        words: what lines call the program.

    Raises:
        base.InputError: see `find_job`; the coordinator's name means this host only though there are several; a
            process is missing, there twice, or counts the processes otherwise.
    """
    job = cluster.find_job(
        os.environ,
        coordinator=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        on_tpu=cluster.has_tpu(),
    )
    if job is None:
        return Peers(0, 1)
    seconds = _timeout()
    if job.coordinator is None or job.num_processes is None or job.process_id is None:
        _initialize_by_jax(job, seconds, words)
    else:
        host, port = _split(job.coordinator)
        bind = f"{'[::1]' if ':' in host else '127.0.0.1'}:{port}" if _is_loopback(host, job) else None
        roll_call.call_roll(
            (host, port),
            num_processes=job.num_processes,
            process_id=job.process_id,
            seconds=seconds,
            only_loopback=_only_loopback(host),
            say=lambda line: print(f"{words.program}: {line}", file=sys.stderr, flush=True),
        )
        # Everything is known, and after the roll call all processes run.
        known = {"cluster_detection_method": "deactivate", "coordinator_bind_address": bind}
        _initialize(job, seconds, words, local_device_ids=job.local_device_ids, **known)
    return Peers(jax.process_index(), jax.process_count(), say=say, words=words)


def _initialize(job: cluster.Job, seconds: float, words: liveness.Words, **detection: Any) -> None:
    """Starts JAX's connection; what is not known is found as `detection` says."""
    with _limited(job, seconds, words):
        jax.distributed.initialize(
            coordinator_address=job.coordinator,
            num_processes=job.num_processes,
            process_id=job.process_id,
            initialization_timeout=int(seconds) + _SPARE_SECONDS,
            heartbeat_timeout_seconds=_heartbeat_seconds(),
            **detection,
        )


def _initialize_by_jax(job: cluster.Job, seconds: float, words: liveness.Words) -> None:
    """Starts JAX's connection with JAX's own detection, for launchers whose answer needs the network."""
    try:
        _initialize(job, seconds, words, cluster_detection_method=job.launcher)
    except Exception as error:  # whatever an HTTP library or Kubernetes' client raises
        reason = " ".join(str(error).split())[:200]
        raise base.InputError(
            f"The processes of this job could not be found by {job.launcher}: {reason}. Give --coordinator, "
            "--num_processes and --process_id; --num_processes=1 if this process is on its own."
        ) from error


@contextlib.contextmanager
def _limited(job: cluster.Job, seconds: float, words: liveness.Words) -> Iterator[None]:
    """A context for JAX's connection, in which this process ends with our line once it lasts longer.

    JAX's handler of SIGTERM, which only notes the signal, is left out: it would take the place of ours.
    """
    jax.config.update("jax_enable_preemption_service", False)
    timer = threading.Timer(seconds, _give_up, (words.program, job.launcher, seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _heartbeat_seconds() -> int:
    return max(_HEARTBEAT_SECONDS, int(2 * (peers.stuck_limit() or 0)))


def _give_up(program: str, launcher: str, seconds: float) -> None:
    """Ends a process that hangs in JAX's connection, as nothing else can interrupt it."""
    print(
        f"{program}: The processes of this job ({launcher}) did not all come within {seconds:.0f} s. Look at "
        f"the output of the others, or set {TIMEOUT_VARIABLE}.",
        flush=True,
    )
    os._exit(2)


def _is_loopback(host: str, job: cluster.Job) -> bool:
    """Whether all processes meet on this host.

    A NAME that resolves to a loopback address is refused: /etc/hosts of many systems maps a host's own name to
    127.0.1.1, and processes elsewhere would wait for ever. "localhost" and 127.0.0.1 say that it is meant.
    """
    loopback = _only_loopback(host)
    if loopback and job.num_hosts != 1 and (not _says_loopback(host) or (job.num_hosts or 1) > 1):
        raise base.InputError(
            f"coordinator must be an address that the other hosts can reach; got {host}, which means this host "
            "itself. Use its address in the network (hostname -I), or localhost if all processes run on one host."
        )
    return loopback


def _says_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _only_loopback(host: str) -> bool:
    """Whether the name resolves to loopback addresses only; False where it does not resolve at all."""
    try:
        found = {item[4][0] for item in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in found)


def _split(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE) or str(_DEFAULT_TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise base.InputError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0; got '{text[:40]}'. Use 300.")
    return seconds
