"""The roll call: process 0 waits at the start until all others have said who they are, and answers all alike.

The port is open to everybody on the network. Whoever is not a process of this job is dropped and named once, and never
ends or delays the start: each caller has a thread and a short time, says who it is and answers a question to which only
processes of the job know the answer. What they know is `SECRET_VARIABLE`, where it is set in all of them; otherwise
only that it is this program which calls, so that a chance caller is told apart, but not one who has read this file.
"""

import contextlib
import hashlib
import hmac
import json
import os
import platform
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from simclr_jax import base

# Seconds to wait for the other processes at the start; in a cluster they may come minutes apart.
TIMEOUT_VARIABLE = "SIMCLR_LAUNCH_TIMEOUT"
SECRET_VARIABLE = "SIMCLR_JOB_SECRET"
_SPARE_SECONDS = 60  # for the answer of process 0, which may have started much later
_CALLER_SECONDS = 5.0  # for who calls to say who it is
_LOOK_SECONDS = 0.5  # between two looks whether one that has come has ended
_MOST_BYTES = 4096  # of what it says; of the answer, which lists all hosts, more
_MOST_CALLERS = 4096  # at a time


class _Caller(NamedTuple):
    """Who called: message is None for a stranger, and then why it was dropped is in `why`."""

    connection: socket.socket
    message: dict[str, Any] | None
    why: str


def call_roll(
    address: tuple[str, int],
    *,
    num_processes: int,
    process_id: int,
    seconds: float,
    only_loopback: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Waits until all processes have said who they are: the names of their hosts, by process.

    Process 0 listens at `address`, with `only_loopback` on this host alone; the others send it their number and host,
    and all get the same answer.

    Raises:
        base.InputError: in every process the same line: who is missing after `seconds`, there twice, or counts
            otherwise; or, where process 0 is not reached, that.
    """
    if num_processes == 1:
        return [platform.node()]
    mine = {"index": process_id, "count": num_processes, "host": platform.node()}
    if process_id == 0:
        answer = _listen(address, mine, seconds=seconds, only_loopback=only_loopback, say=say)
    else:
        answer = _report(address, mine, seconds)
    if answer.get("refused"):
        raise base.InputError(str(answer["refused"]))
    return list(answer["hosts"])


def _listen(
    address: tuple[str, int], mine: dict[str, Any], *, seconds: float, only_loopback: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """In process 0: waits until all have come or one is wrong, and answers all that have come."""
    hosts, waiting = {0: mine["host"]}, list[tuple[int, socket.socket]]()
    callers: queue.Queue[_Caller] = queue.Queue()
    try:
        server = _server(address, only_loopback=only_loopback)
    except OSError as error:
        raise base.InputError(
            f"coordinator must be a free port of this host, where process 0 runs; {address[0]}:{address[1]}: "
            f"{error.strerror}. Use another port."
        ) from error
    done = threading.Event()
    accepting = threading.Thread(target=_let_in, args=(server, mine, callers, done), name="roll call", daemon=True)
    accepting.start()
    refused = f"Process 0 on {mine['host']} was stopped while it waited for the others."  # if a signal ends the waiting
    try:
        refused = _gather(callers, hosts, waiting, address=address, count=mine["count"], seconds=seconds, say=say)
    finally:
        done.set()
        answer = {"refused": refused} if refused else {"hosts": [hosts[i] for i in range(mine["count"])]}
        for _, connection in waiting:
            _answer(connection, answer)
        # The port is free for JAX once nobody waits in accept: a socket closed under a waiting thread stays bound.
        accepting.join()
        server.close()
        with contextlib.suppress(queue.Empty):
            while True:
                callers.get_nowait().connection.close()
    return answer


def _gather(
    callers: "queue.Queue[_Caller]",
    hosts: dict[int, str],
    waiting: list[tuple[int, socket.socket]],
    *,
    address: tuple[str, int],
    count: int,
    seconds: float,
    say: Callable[[str], None],
) -> str:
    """Waits until all have come, whose hosts and connections are filled in: why they cannot start, "" if they can."""
    deadline, named = time.monotonic() + seconds, False
    while len(hosts) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            return _missing(address, hosts, count=count, seconds=seconds)
        try:
            caller = callers.get(timeout=min(left, _LOOK_SECONDS))
        except queue.Empty:
            if gone := _who_left(waiting, hosts):
                return gone
            continue
        if caller.message is None:
            caller.connection.close()
            if not named:
                say(f"A stranger at the port of process 0 was dropped: {caller.why}.")
            named = True
            continue
        waiting.append((caller.message["index"], caller.connection))
        refused = _objection(caller.message, count=count, hosts=hosts)
        if refused:
            return refused
        hosts[caller.message["index"]] = caller.message["host"]
    return _who_left(waiting, hosts)


def _who_left(waiting: list[tuple[int, socket.socket]], hosts: dict[int, str]) -> str:
    """What to tell the others where a process has ended that had come, "" where none has."""
    for index, connection in waiting:
        connection.setblocking(False)
        try:
            has_left = not connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        except OSError:
            has_left = True
        if has_left:
            host = base.one_line(hosts[index], 80)
            return f"Process {index} on {host} ended before all others had come. Its own output says why."
    return ""


def _let_in(
    server: socket.socket, mine: dict[str, Any], callers: "queue.Queue[_Caller]", done: threading.Event
) -> None:
    """The thread that accepts connections and gives each a thread of its own, so that a slow one delays nobody."""
    room = threading.Semaphore(_MOST_CALLERS)
    server.settimeout(0.2)

    def ask(connection: socket.socket, whence: str) -> None:
        try:
            caller = _identify(connection, whence, count=mine["count"])
            if done.is_set():
                connection.close()  # nobody asks for it any more
            else:
                callers.put(caller)
        finally:
            room.release()

    while not done.is_set():
        try:
            connection, whence = server.accept()
        except TimeoutError:
            continue
        except OSError:  # closed, or there are no more file handles for a moment
            time.sleep(0.05)
            continue
        if not room.acquire(blocking=False):
            connection.close()
            continue
        threading.Thread(
            target=ask, args=(connection, whence[0].removeprefix("::ffff:")), name="caller", daemon=True
        ).start()


def _identify(connection: socket.socket, whence: str, *, count: int) -> _Caller:
    """Asks a caller who it is, and for the proof that it belongs to this job."""
    deadline = time.monotonic() + _CALLER_SECONDS
    question = secrets.token_hex(16)
    try:
        message = _read_line(connection, deadline=deadline, most=_MOST_BYTES)
        why = _oddity(message, count=count)
        if not why:
            connection.sendall(json.dumps({"question": question}).encode() + b"\n")
            proof = _read_line(connection, deadline=deadline, most=_MOST_BYTES).get("proof")
            if not (isinstance(proof, str) and hmac.compare_digest(proof.encode(), _proof(question).encode())):
                why = f"it called itself process {message['index']} and could not prove it ({SECRET_VARIABLE})"
    except OSError as error:
        message, why = {}, f"it did not say in {_CALLER_SECONDS:.0f} s who it is ({error.strerror or 'slow'})"
    return _Caller(connection, None if why else message, f"{whence}: {why}" if why else "")


def _oddity(message: dict[str, Any], *, count: int) -> str:
    """What shows that no process of any job sends such a message, "" if nothing does."""
    kinds = {"index": int, "count": int, "host": str}
    if not all(type(message.get(key)) is kind for key, kind in kinds.items()):
        return "what it sent is not of this program"
    if not 0 <= message["index"] < max(message["count"], 1) or (message["count"] == count and message["index"] == 0):
        return f"no process has the number {base.one_line(message['index'], 30)}"
    return ""


def _proof(question: str) -> str:
    secret = f"simclr-jax {os.environ.get(SECRET_VARIABLE, '')}"
    return hmac.new(secret.encode("utf-8", "surrogateescape"), question.encode(), hashlib.sha256).hexdigest()


def _missing(address: tuple[str, int], hosts: dict[int, str], *, count: int, seconds: float) -> str:
    missing = [str(i) for i in range(count) if i not in hosts]
    names = f"process{'es' * (len(missing) > 1)} {', '.join(missing[:8])}{' ...' * (len(missing) > 8)}"
    return (
        f"All {count} processes must start within {seconds:.0f} s; {names} did not reach {address[0]}:{address[1]}. "
        f"Look at their output, or set {TIMEOUT_VARIABLE}."
    )


def _objection(message: dict[str, Any], *, count: int, hosts: dict[int, str]) -> str:
    """Why a process cannot take part, empty if it can."""
    index, host = message["index"], base.one_line(message["host"], 80)
    if message["count"] != count:
        return (
            f"num_processes must be the same everywhere; got {count} in process 0 on {hosts[0]} and "
            f"{message['count']} in process {index} on {host}."
        )
    if index in hosts:
        return (
            f"process_id must be another one in every process; got {index} from {hosts[index]} and again from {host}. "
            f"Use 0 to {count - 1}, each once."
        )
    return ""


def _report(address: tuple[str, int], mine: dict[str, Any], seconds: float) -> dict[str, Any]:
    """In any other process: sends process 0 its number and host, and waits for the answer."""
    deadline, problem = time.monotonic() + seconds, "nobody answered"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.1)) as connection:
                connection.sendall(json.dumps(mine).encode() + b"\n")
                # Process 0 may have started much later than this one: it gets as long again to wait for all others.
                patience = time.monotonic() + seconds + _SPARE_SECONDS
                question = _read_line(connection, deadline=patience, most=_MOST_BYTES).get("question")
                if isinstance(question, str):
                    connection.sendall(json.dumps({"proof": _proof(question)}).encode() + b"\n")
                    answer = _read_line(connection, deadline=patience, most=2**24)
                    if answer:
                        return answer
            problem = f"process 0 did not take this one for its own ({SECRET_VARIABLE}, or another version)"
        except OSError as error:
            problem = (error.strerror or str(error) or type(error).__name__).lower()
        time.sleep(0.2)
    raise base.InputError(
        f"Process {mine['index']} must reach process 0 at {address[0]}:{address[1]} within {seconds:.0f} s; {problem}. "
        f"Start process 0 there, open the port, or set {TIMEOUT_VARIABLE}."
    )


def _server(address: tuple[str, int], *, only_loopback: bool) -> socket.socket:
    """A listening socket: on this host only if the address means this host, else on all of its networks."""
    host, port = address
    if only_loopback:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(("::1" if ":" in host else "127.0.0.1", port), family=family, backlog=1024)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def _answer(connection: socket.socket, answer: dict[str, Any]) -> None:
    try:
        with connection:
            connection.settimeout(10)
            connection.sendall(json.dumps(answer).encode() + b"\n")
            connection.recv(1)  # the other side closes first: the port must be free at once for JAX
    except OSError:
        pass  # it has ended; JAX's connection will report it


def _read_line(connection: socket.socket, *, deadline: float, most: int) -> dict[str, Any]:
    """The JSON object of one line, {} for anything else; OSError where it has not come by `deadline`."""
    content = b""
    while not content.endswith(b"\n") and len(content) < most:
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        piece = connection.recv(min(65536, most))
        if not piece:
            break
        content += piece
        if time.monotonic() > deadline:
            raise TimeoutError("slow")
    try:
        found = base.parse_json(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
