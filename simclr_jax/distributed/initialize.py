"""Connecting the processes of a job, with a message of one line for everything that can go wrong.

JAX aborts the process with a stack of C++ when a process is missing or there twice. Where the address is known
beforehand, process 0 therefore first waits for all others itself (the roll call), on the port that JAX uses afterwards.
"""

import ipaddress
import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable

import jax

from simclr_jax import base
from simclr_jax.distributed import cluster
from simclr_jax.distributed.peers import Peers

# Seconds to wait for the other processes at the start; in a cluster they may come minutes apart.
TIMEOUT_VARIABLE = "SIMCLR_LAUNCH_TIMEOUT"
_DEFAULT_TIMEOUT = 300.0
_HEARTBEAT_SECONDS = 60  # a process that is silent as long counts as lost; JAX's default is 100
_SPARE_SECONDS = 60  # that JAX waits longer than the roll call, so that the user sees our message


def join(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    say: Callable[[str], None] = print,
) -> Peers:
    """Connects this process with the others of its job, before any device is touched; alone it does nothing.

    Args:
        coordinator: flag, HOST:PORT of process 0.
        num_processes: flag.
        process_id: flag.
        say: shows a line to the user, for `Peers`.

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
        _initialize_by_jax(job, seconds)
    else:
        host, port = _split(job.coordinator)
        bind = f"{'[::1]' if ':' in host else '127.0.0.1'}:{port}" if _is_loopback(host, job) else None
        call_roll((host, port), num_processes=job.num_processes, process_id=job.process_id, seconds=seconds)
        _initialize(job, seconds, bind=bind)
    return Peers(jax.process_index(), jax.process_count(), say=say)


def call_roll(address: tuple[str, int], *, num_processes: int, process_id: int, seconds: float) -> list[str]:
    """Waits until all processes have said who they are: the names of their hosts, by process.

    Process 0 listens at `address`; the others send it their number and host, and all get the same answer.

    Raises:
        base.InputError: in every process the same line: who is missing after `seconds`, there twice, or counts
            otherwise; or, where process 0 is not reached, that.
    """
    if num_processes == 1:
        return [platform.node()]
    mine = {"index": process_id, "count": num_processes, "host": platform.node()}
    answer = _listen(address, mine, seconds) if process_id == 0 else _report(address, mine, seconds)
    if answer.get("refused"):
        raise base.InputError(str(answer["refused"]))
    return list(answer["hosts"])


def _listen(address: tuple[str, int], mine: dict, seconds: float) -> dict:
    """In process 0: waits until all have come or one is wrong, and answers all that have come."""
    deadline, hosts, waiting = time.monotonic() + seconds, {0: mine["host"]}, list[socket.socket]()
    try:
        server = _server(address)
    except OSError as error:
        raise base.InputError(
            f"coordinator must be a free port of this host, where process 0 runs; {address[0]}:{address[1]}: "
            f"{error.strerror}. Use another port."
        ) from error
    refused = ""
    with server:
        while len(hosts) < mine["count"] and not refused:
            try:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                connection, _ = server.accept()
            except TimeoutError:
                missing = [str(i) for i in range(mine["count"]) if i not in hosts]
                names = f"process{'es' * (len(missing) > 1)} {', '.join(missing[:8])}{' ...' * (len(missing) > 8)}"
                refused = (
                    f"All {mine['count']} processes must start within {seconds:.0f} s; {names} did not reach "
                    f"{address[0]}:{address[1]}. Look at their output, or set {TIMEOUT_VARIABLE}."
                )
                continue
            message = _receive(connection)
            if message is None:
                connection.close()  # a stranger, such as a port scan
                continue
            waiting.append(connection)
            refused = _objection(message, mine, hosts)
            hosts[int(message["index"])] = str(message["host"])
        answer = {"refused": refused} if refused else {"hosts": [hosts[i] for i in range(mine["count"])]}
        for connection in waiting:
            _answer(connection, answer)
    return answer


def _objection(message: dict, mine: dict, hosts: dict[int, str]) -> str:
    """Why a process cannot take part, empty if it can."""
    index, count, host = message["index"], message["count"], message["host"]
    if count != mine["count"]:
        return (
            f"num_processes must be the same everywhere; got {mine['count']} in process 0 on {mine['host']} and "
            f"{count} in process {index} on {host}."
        )
    if index in hosts:
        return (
            f"process_id must be another one in every process; got {index} from {hosts[index]} and again from {host}. "
            f"Use 0 to {count - 1}, each once."
        )
    return ""


def _report(address: tuple[str, int], mine: dict, seconds: float) -> dict:
    """In any other process: sends process 0 its number and host, and waits for the answer."""
    deadline, problem = time.monotonic() + seconds, "nobody answered"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.1)) as connection:
                connection.sendall(json.dumps(mine).encode() + b"\n")
                # Process 0 may have started much later than this one: it gets as long again to wait for all others.
                connection.settimeout(seconds + _SPARE_SECONDS)
                answer = _read_line(connection)
            if answer:
                return answer
        except OSError as error:
            problem = (error.strerror or str(error) or type(error).__name__).lower()
        time.sleep(0.2)
    raise base.InputError(
        f"Process {mine['index']} must reach process 0 at {address[0]}:{address[1]} within {seconds:.0f} s; {problem}. "
        f"Start process 0 there, open the port, or set {TIMEOUT_VARIABLE}."
    )


def _server(address: tuple[str, int]) -> socket.socket:
    """A listening socket: on this host only if the address means this host, else on all of its networks."""
    host, port = address
    if _only_loopback(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(("::1" if ":" in host else "127.0.0.1", port), family=family, backlog=1024)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def _receive(connection: socket.socket) -> dict | None:
    """What a process says of itself; None if it is not one of ours."""
    try:
        connection.settimeout(10)
        message = _read_line(connection)
    except OSError:
        return None
    keys = {"index": int, "count": int, "host": str}
    good = isinstance(message, dict) and all(type(message.get(key)) is kind for key, kind in keys.items())
    return message if good else None


def _answer(connection: socket.socket, answer: dict) -> None:
    try:
        with connection:
            connection.sendall(json.dumps(answer).encode() + b"\n")
            connection.recv(1)  # the other side closes first: the port must be free at once for JAX
    except OSError:
        pass  # it has ended; JAX's connection will report it


def _read_line(connection: socket.socket) -> dict:
    content = b""
    while not content.endswith(b"\n") and len(content) < 2**24:
        piece = connection.recv(65536)
        if not piece:
            break
        content += piece
    try:
        return json.loads(content or b"{}")
    except ValueError:
        return {}


def _initialize(job: cluster.Job, seconds: float, *, bind: str | None) -> None:
    """Starts JAX's connection where everything is known; after the roll call, so that all processes run."""
    jax.distributed.initialize(
        coordinator_address=job.coordinator,
        num_processes=job.num_processes,
        process_id=job.process_id,
        local_device_ids=job.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=int(seconds) + _SPARE_SECONDS,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        coordinator_bind_address=bind,
    )


def _initialize_by_jax(job: cluster.Job, seconds: float) -> None:
    """Starts JAX's connection with JAX's own detection, for launchers whose answer needs the network."""
    timer = threading.Timer(seconds, _give_up, (job.launcher, seconds))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator_address=job.coordinator,
            num_processes=job.num_processes,
            process_id=job.process_id,
            cluster_detection_method=job.launcher,
            initialization_timeout=int(seconds) + _SPARE_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except Exception as error:  # whatever an HTTP library or Kubernetes' client raises
        reason = " ".join(str(error).split())[:200]
        raise base.InputError(
            f"The processes of this job could not be found by {job.launcher}: {reason}. Give --coordinator, "
            "--num_processes and --process_id; --num_processes=1 if this process is on its own."
        ) from error
    finally:
        timer.cancel()


def _give_up(launcher: str, seconds: float) -> None:
    """Ends a process that hangs in JAX's connection, as nothing else can interrupt it."""
    print(
        f"simclr-jax train: The processes of this job ({launcher}) did not all come within {seconds:.0f} s. Look at "
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
