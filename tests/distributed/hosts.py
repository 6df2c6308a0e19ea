"""Two hosts on one machine for tests: network namespaces with names of their own, joined by a line that can fail.

The line is two TUN devices and a thread that carries packets between them, so that it delays, loses and cuts in the
same way on every kernel. (Of Linux' own means, netem is not in every kernel.)
"""

import contextlib
import fcntl
import heapq
import os
import pathlib
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

NAMES = ("simclrhost0", "simclrhost1")
_SUBNET = "10.213.77"
_TUNSETIFF, _IFF_TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_MTU = 9000


def why_not() -> str:
    """Why there can be no such hosts here, "" where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    try:
        _ip("netns", "add", "simclrtry")
        _ip("netns", "del", "simclrtry")
    except (OSError, subprocess.CalledProcessError):
        return "`ip netns add` does not work here"
    return ""


class Line:
    """The line between the hosts. May be changed while it carries.

    seconds: that a packet takes. loss: the part of packets that is lost. is_cut: nothing arrives, and nobody is told.
    """

    def __init__(self) -> None:
        self.seconds, self.loss, self.is_cut = 0.0, 0.0, False
        self.carried, self.lost = 0, 0

    def carry(self, ends: tuple[int, int], done: threading.Event) -> None:
        """Moves packets from each end to the other until `done`."""
        other, draw = {ends[0]: ends[1], ends[1]: ends[0]}, random.Random(0)
        on_the_way: list[tuple[float, int, int, bytes]] = []
        while not done.is_set():
            wait = on_the_way[0][0] - time.monotonic() if on_the_way else 0.1
            for end in select.select(ends, [], [], min(max(wait, 0.0), 0.1))[0]:
                packet = os.read(end, 65536)
                if self.is_cut or draw.random() < self.loss:
                    self.lost += 1
                    continue
                self.carried += 1
                heapq.heappush(on_the_way, (time.monotonic() + self.seconds, self.carried, other[end], packet))
            while on_the_way and on_the_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(on_the_way)
                with contextlib.suppress(OSError):  # the other host's end is down
                    os.write(end, packet)


@contextlib.contextmanager
def two_hosts() -> Iterator[Line]:
    """The hosts NAMES, which know each other by name; removed at the end whatever happens."""
    line, done = Line(), threading.Event()
    with contextlib.ExitStack() as stack:
        ends = tuple(stack.enter_context(_host(index)) for index in (0, 1))
        thread = threading.Thread(target=line.carry, args=(ends, done), name="line", daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(done.set)
        yield line


def command(index: int, words: list[str]) -> list[str]:
    """The command that runs `words` on a host, in the process that it is started as."""
    named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', NAMES[index]]
    return ["ip", "netns", "exec", NAMES[index], *named, *words]


@contextlib.contextmanager
def _host(index: int) -> Iterator[int]:
    """Makes a host; yields the end of its network device at which the line takes hold."""
    name, etc = NAMES[index], pathlib.Path("/etc/netns") / NAMES[index]
    _remove(name, etc)  # left by a test that was killed
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, name, etc)
        _ip("netns", "add", name)
        etc.mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{_SUBNET}.{i + 1} {other}" for i, other in enumerate(NAMES))]
        (etc / "hosts").write_text("\n".join(lines) + "\n")
        end = os.open("/dev/net/tun", os.O_RDWR)
        stack.callback(os.close, end)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", f"simclr{index}".encode(), _IFF_TUN_WITHOUT_HEADER))
        _ip("link", "set", f"simclr{index}", "netns", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "addr", "add", f"{_SUBNET}.{index + 1}/24", "dev", f"simclr{index}")
        _ip("-n", name, "link", "set", f"simclr{index}", "mtu", str(_MTU), "up")
        yield end


def _remove(name: str, etc: pathlib.Path) -> None:
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip("netns", "del", name)
    (etc / "hosts").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        etc.rmdir()
    with contextlib.suppress(OSError):  # unless others use it, too
        etc.parent.rmdir()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
