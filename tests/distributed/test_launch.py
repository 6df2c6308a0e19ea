"""Finding the other processes: flags and simulated launchers, the roll call, and what processes tell each other."""

import contextlib
import hmac
import json
import pathlib
import signal
import socket
import threading
import time
from typing import Any

import jax
import pytest

from simclr_jax import base, distributed
from simclr_jax.distributed import cluster, initialize, liveness
from simclr_jax.distributed import peers as peers_lib
from simclr_jax.distributed import roll_call as roll_call_lib
from simclr_jax.run import stopping

SLURM = {
    "SLURM_JOB_ID": "70000",
    "SLURM_STEP_NODELIST": "gpu[007-009,012],login1",
    "SLURM_STEP_NUM_TASKS": "32",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_NTASKS": "64",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
OPENMPI = {
    "OMPI_COMM_WORLD_SIZE": "16",
    "OMPI_COMM_WORLD_RANK": "9",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}
FLAGS = {"coordinator": "10.0.0.1:1234", "num_processes": 4, "process_id": 3}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_plain_machine_is_a_single_process():
    assert distributed.find_job({}) is None
    assert distributed.find_job({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None, "outside srun"
    assert distributed.find_job({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert distributed.find_job({**OPENMPI, "OMPI_COMM_WORLD_SIZE": "1"}) is None
    assert distributed.find_job({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None, "not an indexed job"
    assert distributed.find_job({"TPU_WORKER_HOSTNAMES": "localhost"}, on_tpu=True) is None, "a slice of one host"
    assert distributed.find_job({"TPU_SKIP_MDS_QUERY": "1"}, on_tpu=True) is None
    assert distributed.find_job({"JAX_PLATFORMS": "cpu"}, on_tpu=True) is None


@pytest.mark.parametrize("environment", [{}, SLURM, OPENMPI, KUBERNETES])
def test_one_process_can_be_asked_for_whatever_the_environment_says(environment):
    assert distributed.find_job(environment, num_processes=1) is None


@pytest.mark.parametrize("environment", [{}, SLURM, OPENMPI, KUBERNETES])
def test_three_flags_go_before_any_launcher(environment):
    job = distributed.find_job(environment, **FLAGS)
    assert job == distributed.Job("flags", "10.0.0.1:1234", 4, 3)


def test_slurm_gives_every_task_of_the_step_its_gpu():
    job = distributed.find_job(SLURM)
    assert job == distributed.Job("slurm", f"gpu007:{61440 + 70000 % 4096}", 32, 9, (1,), 4)
    assert distributed.find_job({**SLURM, "CUDA_VISIBLE_DEVICES": "0"}).local_device_ids is None, (
        "bound by SLURM already"
    )
    assert distributed.find_job({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).local_device_ids == (1,)
    one_each = {**SLURM, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    assert distributed.find_job(one_each).local_device_ids is None, "one task a node sees all GPUs of the node"
    assert distributed.find_job({**SLURM, "JAX_COORDINATOR_PORT": "5000"}).coordinator == "gpu007:5000"
    assert distributed.find_job(SLURM, coordinator="10.0.0.7:99").coordinator == "10.0.0.7:99"
    steps = [distributed.find_job({**SLURM, "SLURM_STEP_ID": str(step)}).coordinator for step in (0, 1, 4294967290)]
    assert steps[0] == job.coordinator and len(set(steps)) == 3, "steps beside one another have ports of their own"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("a-b-[3]", "a-b-3"),
    ],
)
def test_the_first_host_of_a_compressed_list(nodes, first):
    from jax._src.clusters import slurm_cluster

    assert cluster.first_host(nodes) == first
    with pytest.MonkeyPatch.context() as patch:  # JAX's own reading of the same list
        patch.setenv("SLURM_JOB_ID", "1")
        patch.setenv("SLURM_STEP_NODELIST", nodes)
        theirs = slurm_cluster.SlurmCluster.get_coordinator_address(None, None).rpartition(":")
    assert theirs[0] in (first, f"{first}]"), "JAX leaves the bracket of a list of one"


def test_open_mpi_meets_where_it_was_started():
    job = distributed.find_job(OPENMPI)
    assert job is not None and job.coordinator is not None
    assert job.coordinator.startswith("10.96.0.1:") and (job.num_processes, job.process_id) == (16, 9)
    assert job.local_device_ids == (1,) and job.num_hosts is None
    assert distributed.find_job({**OPENMPI, **SLURM}).launcher == "openmpi", "mpirun in a SLURM job leaves both"
    local = {**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "16", "OMPI_MCA_orte_hnp_uri": "", "PMIX_NAMESPACE": "p@1"}
    assert distributed.find_job(local).coordinator.startswith("localhost:")
    with pytest.raises(base.InputError, match="got no --coordinator, and the environment of openmpi does not tell"):
        distributed.find_job({**OPENMPI, "OMPI_MCA_orte_hnp_uri": ""})  # Open MPI 5 on two hosts


def test_kubernetes_and_tpus_are_left_to_jax():
    assert distributed.find_job(KUBERNETES) == distributed.Job("k8s", process_id=3)
    job = distributed.find_job(KUBERNETES, coordinator="job-0.svc:99", num_processes=4)
    assert job == distributed.Job("k8s", "job-0.svc:99", 4, 3)
    assert distributed.find_job({"TPU_WORKER_HOSTNAMES": "a,b"}, on_tpu=True) == distributed.Job("gketpu")
    several_slices = {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}
    assert distributed.find_job(several_slices, on_tpu=True) == distributed.Job("gketpu")
    assert distributed.find_job({}, on_tpu=True) == distributed.Job("gcetpu")


@pytest.mark.parametrize(
    ("environment", "flags", "said"),
    [
        ({}, {"coordinator": "a:1"}, "got no --num_processes and no --process_id"),
        ({}, {"num_processes": 2}, "got no --coordinator and no --process_id"),
        ({}, {"num_processes": 2, "process_id": 1}, "got no --coordinator"),
        (KUBERNETES, {"coordinator": "a:1"}, "got no --num_processes, and the environment of k8s does not tell"),
        ({}, {**FLAGS, "process_id": 4}, "process_id must be from 0 to num_processes - 1; got 4 and 4"),
        ({}, {**FLAGS, "process_id": -1}, "process_id must be a whole number from 0; got '-1'"),
        ({}, {**FLAGS, "num_processes": 0}, "num_processes must be a whole number from 1; got '0'"),
        ({}, {**FLAGS, "coordinator": "10.0.0.1"}, "coordinator must be HOST:PORT"),
        ({}, {**FLAGS, "coordinator": "10.0.0.1:0"}, "a port from 1 to 65535"),
        ({**SLURM, "SLURM_PROCID": "x"}, {}, "SLURM_PROCID must be a whole number from 0; got 'x'"),
        ({**SLURM, "SLURM_PROCID": "32"}, {}, "got 32 and 32"),
    ],
)
def test_half_given_flags_and_numbers_out_of_range_are_refused_in_one_line(environment, flags, said):
    with pytest.raises(base.InputError) as caught:
        distributed.find_job(environment, **flags)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "num_hosts", "loopback"),
    [
        ("localhost", None, True),
        ("127.0.0.1", None, True),
        ("127.0.0.1", 1, True),
        ("node1", 1, True),
        ("localhost", 2, "refused"),
        ("node1", None, "refused"),
        ("node1", 2, "refused"),
        ("10.1.2.3", 2, False),
    ],
)
def test_a_coordinator_that_means_this_host_is_refused_where_there_are_others(monkeypatch, host, num_hosts, loopback):
    """node1 resolves to 127.0.1.1, as a host's own name does on many systems."""
    known = {"localhost": "127.0.0.1", "node1": "127.0.1.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *rest, **kw: [(0, 0, 0, "", (known.get(name, name), 0))])
    job = distributed.Job("slurm", f"{host}:1", 2, 0, num_hosts=num_hosts)
    if loopback == "refused":
        with pytest.raises(base.InputError, match=f"got {host}, which means this host itself"):
            initialize._is_loopback(host, job)
    else:
        assert initialize._is_loopback(host, job) is loopback


def roll_call(*processes: tuple[int, int], seconds: float = 5.0) -> list[Any]:
    """What the processes of the given (num_processes, process_id) are told, called as threads in that order."""
    address, results = ("127.0.0.1", free_port()), [None] * len(processes)

    def take_part(job: int) -> None:
        count, index = processes[job]
        try:
            results[job] = roll_call_lib.call_roll(address, num_processes=count, process_id=index, seconds=seconds)
        except base.InputError as error:
            results[job] = str(error)

    threads = [threading.Thread(target=take_part, args=(job,)) for job in range(len(processes))]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(20)
    return results


def test_the_roll_call_lets_a_complete_job_pass_in_any_order():
    for processes in ([(3, 0), (3, 1), (3, 2)], [(3, 2), (3, 0), (3, 1)]):
        for hosts in roll_call(*processes):
            assert len(hosts) == 3 and len(set(hosts)) == 1


def test_the_port_of_the_roll_call_is_free_for_jax_afterwards():
    port = free_port()
    address = "127.0.0.1", port
    how = {"num_processes": 2, "seconds": 20.0, "only_loopback": True}
    other = threading.Thread(target=lambda: roll_call_lib.call_roll(address, process_id=1, **how))
    other.start()
    roll_call_lib.call_roll(address, process_id=0, **how)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
    other.join()


def test_all_are_told_who_is_missing():
    said = roll_call((4, 0), (4, 2), seconds=1.0)
    assert said[0] == said[1] and "within 1 s; processes 1, 3 did not reach 127.0.0.1:" in said[0]


def test_all_are_told_of_a_process_that_is_there_twice():
    said = roll_call((3, 0), (3, 1), (3, 1))
    assert said[0] == said[1] == said[2] and "process_id must be another one in every process; got 1 from" in said[0]


def test_all_are_told_of_a_process_that_counts_otherwise():
    said = roll_call((3, 0), (2, 1))
    assert said[0] == said[1] and "num_processes must be the same everywhere; got 3 in process 0" in said[0]


def test_a_coordinator_that_is_not_there_is_named_in_time():
    start = time.monotonic()
    (said,) = roll_call((2, 1), seconds=0.5)
    assert "Process 1 must reach process 0 at 127.0.0.1:" in said and "connection refused" in said
    assert time.monotonic() - start < 5


def test_a_port_that_is_taken_is_refused():
    refused = pytest.raises(base.InputError, match="coordinator must be a free port of this host")
    with socket.create_server(("127.0.0.1", 0)) as other, refused:
        roll_call_lib.call_roll(("127.0.0.1", other.getsockname()[1]), num_processes=2, process_id=0, seconds=1)


def accepting(port: int, *, seconds: float, count: int) -> tuple[str, int]:
    """The address of a process 0 of so many that waits for the others, in a thread."""

    def wait() -> None:
        with contextlib.suppress(base.InputError):
            roll_call_lib.call_roll(("127.0.0.1", port), num_processes=count, process_id=0, seconds=seconds)

    threading.Thread(target=wait, daemon=True).start()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
    return "127.0.0.1", port


STRANGERS = (
    *(b"GET / HTTP/1.1\n", b'{"index": "1"}\n', b"", b"[" * 4000 + b"\n", b"x" * 10000, b"\xff\x00\n", b"null\n"),
    *(b'{"index": %s, "count": 2, "host": "h"}\n' % number for number in (b"7", b"-1", b"0", b"1e3", b"9" * 3000)),
)


def test_a_stranger_at_the_port_is_no_process_and_is_named_once(monkeypatch):
    """Garbage, numbers that no process has, one who holds the line, one who claims the number of another."""
    monkeypatch.setattr(roll_call_lib, "_CALLER_SECONDS", 2.0)
    port, told, said = free_port(), list[Any](), list[str]()
    server = threading.Thread(
        target=lambda: told.append(
            roll_call_lib.call_roll(("127.0.0.1", port), num_processes=2, process_id=0, seconds=5, say=said.append)
        )
    )
    server.start()
    time.sleep(0.1)
    with contextlib.ExitStack() as held:
        for content in (*STRANGERS, b'{"index": 1, "cou', b'{"index": 1, "count": 2, "host": "h"}\n'):
            stranger = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            stranger.sendall(content)
        start = time.monotonic()
        roll_call_lib.call_roll(("127.0.0.1", port), num_processes=2, process_id=1, seconds=5)
        assert time.monotonic() - start < 1.5, "a stranger delays the start"
    server.join(5)
    assert len(told) == 1 and len(told[0]) == 2
    assert len(said) == 1 and said[0].startswith("A stranger at the port of process 0 was dropped: 127.0.0.1: ")
    assert "\n" not in said[0] and len(said[0]) < 200


def test_a_process_without_the_secret_of_the_job_is_no_process_of_it(monkeypatch):
    for theirs, belongs in (("abc", False), ("", True)):
        here, there = socket.socketpair()
        there.sendall(b'{"index": 1, "count": 2, "host": "h"}\n')

        def prove(there=there, theirs=theirs):
            question = json.loads(there.recv(1000))["question"]
            proof = hmac.new(f"simclr-jax {theirs}".encode(), question.encode(), "sha256").hexdigest()
            there.sendall(json.dumps({"proof": proof}).encode() + b"\n")

        caller = threading.Thread(target=prove)
        caller.start()
        found = roll_call_lib._identify(here, "10.0.0.1", count=2)
        caller.join(5)
        here.close()
        there.close()
        assert (found.message is not None) == belongs
        assert belongs or "process 1 and could not prove it (SIMCLR_JOB_SECRET)" in found.why


def test_a_process_that_ends_during_the_roll_call_ends_it_for_all():
    """Of three processes one comes and ends; the one that waits is told at once, and not after the time limit."""
    port, start = free_port(), time.monotonic()
    with contextlib.closing(socket.create_connection(accepting(port, seconds=30, count=3))) as gone:
        gone.sendall(b'{"index": 2, "count": 3, "host": "h"}\n')
        question = json.loads(gone.recv(1000))["question"]
        gone.sendall(json.dumps({"proof": roll_call_lib._proof(question)}).encode() + b"\n")
        time.sleep(0.3)
    with pytest.raises(base.InputError, match=r"Process 2 on h ended before all others had come\."):
        roll_call_lib.call_roll(("127.0.0.1", port), num_processes=3, process_id=1, seconds=30)
    assert time.monotonic() - start < 10


def test_a_process_0_that_is_stopped_during_the_roll_call_tells_the_others(monkeypatch):
    def stopped(*args, **kwargs):
        waits(*args, **{**kwargs, "seconds": 1.5})
        raise KeyboardInterrupt  # as `stopping.interruptible` does

    waits = roll_call_lib._gather
    monkeypatch.setattr(roll_call_lib, "_gather", stopped)
    said, port = list[str](), free_port()

    def call(index: int) -> None:
        try:
            roll_call_lib.call_roll(("127.0.0.1", port), num_processes=3, process_id=index, seconds=30)
        except (base.InputError, KeyboardInterrupt) as error:
            said.append(f"{type(error).__name__} {error}")

    threads = [threading.Thread(target=call, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(said)[1] == "KeyboardInterrupt "
    assert " was stopped while it waited for the others." in sorted(said)[0]


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan"])
def test_a_time_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(distributed.TIMEOUT_VARIABLE, text)
    with pytest.raises(base.InputError, match=f"{distributed.TIMEOUT_VARIABLE} must be a number of seconds"):
        initialize._timeout()


def test_alone_nothing_is_started_and_every_answer_is_ones_own(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **kw: pytest.fail("must not be called"))
    before = threading.active_count()
    with distributed.join() as peers:
        peers.agree({"seed": 0})
        with peers.waiting(3):
            assert peers.any(True) and not peers.any(False)
        assert peers.is_main and peers.count == 1
    assert threading.active_count() == before


class Store:
    """A stand-in for the key-value store of the coordination service, for processes that are threads here."""

    def __init__(self, count: int):
        self._values: dict[str, str] = {}
        self._changed = threading.Condition()
        self._count, self._arrived = count, dict[str, int]()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """As the service does."""
        with self._changed:
            assert allow_overwrite or key not in self._values, f"{key} twice"
            self._values[key] = value
            self._changed.notify_all()

    def key_value_try_get(self, key: str) -> str:
        """As the service does."""
        return self.blocking_key_value_get(key, 0)

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        """As the service does."""
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError(f"NOT_FOUND or too late: {key}")
            return self._values[key]

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """As the service does."""
        with self._changed:
            return [(name, value) for name, value in self._values.items() if name.startswith(f"{key}/")]

    def wait_at_barrier(self, key: str, milliseconds: int) -> None:
        """As the service does."""
        with self._changed:
            self._arrived[key] = self._arrived.get(key, 0) + 1
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._arrived[key] >= self._count, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")


@pytest.fixture
def pair(monkeypatch, capfd):
    """Two processes that share a store; the statuses with which they ended come into the list."""
    store, ended = Store(2), list[int]()
    monkeypatch.setattr(peers_lib, "_store", lambda: store)
    monkeypatch.setattr(peers_lib, "_end", ended.append)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(peers_lib, "_GRACE_SECONDS", 1.0)
    peers = [distributed.Peers(index, 2) for index in (0, 1)]
    yield peers, ended
    for peer in peers:
        peer._left.set()
    for thread in threading.enumerate():
        if thread.name in ("peers", "watchdog"):
            thread.join(20)  # they print, which must be while stderr is the test's


def both(peers, act):
    """Results of act(peer) of all, run side by side; exceptions as their texts."""
    results: list[Any] = [None] * len(peers)

    def run(job: int) -> None:
        try:
            results[job] = act(peers[job])
        except base.InputError as error:
            results[job] = str(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in range(len(peers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_equal_facts_pass_and_a_difference_names_value_process_and_host(pair):
    peers, _ = pair
    assert both(peers, lambda peer: peer.agree({"seed": 1, "jax": "0.10"})) == [None, None]
    said = both(peers, lambda peer: peer.agree({"seed": 1, "jax": f"0.1{peer.index}"}))
    assert said[0] == said[1]
    assert said[0].startswith("jax must be the same in all processes; got '0.11' in process 1 on ")
    said = both(peers, lambda peer: peer.agree({"seed": 1, **({"more": 2} if peer.index else {})}))
    assert (
        "more must be the same in all processes; got 2 in process 1" in said[0] and "'absent' in process 0" in said[0]
    )


def test_who_does_not_come_to_agree_is_named_in_time(pair):
    peers, _ = pair
    with pytest.raises(base.InputError, match=r"within 0 s; process 1 did not come"):
        peers[0].agree({"seed": 1}, seconds=0.2)


def test_any_is_true_in_all_if_it_is_in_one(pair):
    peers, _ = pair
    for flags in ((False, False), (False, True), (True, False), (False, False)):
        assert both(peers, lambda peer, flags=flags: peer.any(flags[peer.index])) == [any(flags)] * 2


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def test_a_mistake_in_one_process_ends_both_with_its_line(pair, capfd):
    peers, ended = pair
    with pytest.raises(base.InputError), peers[1]:
        raise base.InputError("no such folder")
    wait_until(lambda: len(ended) >= 2)
    assert ended[:2] == [2, 2]
    said = capfd.readouterr().err
    assert "simclr-jax train: no such folder" in said
    assert "ended because process 1 on " in said and "failed: simclr-jax train: no such folder" in said


def test_a_process_that_waits_for_ever_says_who_is_behind_and_ends(pair, capfd, monkeypatch):
    peers, ended = pair
    with peers[1].waiting(11):
        pass
    for peer in peers:
        peer._limit = 0.5
        peer._waits["update"] = 10
    time.sleep(1.2)  # process 1 has published that it is at update 11
    with peers[0].waiting(12):
        wait_until(lambda: distributed.EXIT_PEER_LOST in ended)
    said = capfd.readouterr().err
    assert "waited" in said and "for update 12" in said
    assert "stuck: process 1 does not wait for the others but works or sleeps, at update 11" in said
    assert "Current thread" in said or "Thread 0x" in said, "where this process waits"


def test_a_store_that_does_not_answer_keeps_nobody_from_ending(pair, capfd, monkeypatch):
    """The store is in process 0: where that is stopped, a question never returns."""
    peers, ended = pair
    awake = threading.Event()

    def sleep(self, key):
        awake.wait(20)
        raise jax.errors.JaxRuntimeError("UNAVAILABLE")

    monkeypatch.setattr(peers_lib, "_GRACE_SECONDS", 0.3)
    monkeypatch.setattr(Store, "key_value_try_get", sleep)
    monkeypatch.setattr(Store, "key_value_dir_get", sleep)
    peers[1]._limit, peers[1]._waits["update"] = 0.2, 10
    with peers[1].waiting(7):
        wait_until(lambda: distributed.EXIT_PEER_LOST in ended)
    awake.set()
    assert "for update 7" in (said := capfd.readouterr().err) and "process 0 does not answer" in said


HERE = pathlib.Path(__file__).parent
GLOO = "UNKNOWN: Gloo all-reduce failed: [pair.cc] Read error: Connection reset by peer"


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (jax.errors.JaxRuntimeError(GLOO), 4, "another process was lost"),
        (ValueError(GLOO), 4, "another process was lost"),  # found out while dispatching
        (jax.errors.JaxRuntimeError("INTERNAL: ... remote process exited or there was ..."), 4, "lost at update"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes"), 1, "Traceback"),
        (ConnectionResetError("Connection reset by peer"), 1, "Traceback"),  # of a file system, not of a process
    ],
)
def test_a_lost_connection_is_one_line_and_any_other_failure_a_traceback(pair, capfd, error, status, said):
    peers, ended = pair
    with pytest.raises(type(error)), peers[0]:
        raise error
    assert ended[0] == status
    printed = capfd.readouterr().err
    assert said in printed and ("Traceback" in printed) == (status == 1)
    ours = [line for line in printed.splitlines() if line.startswith("simclr-jax train: another")]
    assert len(ours) == (status == 4) and all("newest checkpoint" in line for line in ours)


def test_a_lost_process_ends_this_one_before_anybody_waits_for_it(pair):
    peers, ended = pair
    seen = []
    with pytest.raises(ValueError, match="Gloo"), contextlib.ExitStack() as outer:
        outer.callback(lambda: seen.extend(ended))  # as the writer of checkpoints, which would wait
        with peers[0].noticing_loss():
            raise ValueError(GLOO)
    assert seen[0] == distributed.EXIT_PEER_LOST
    with pytest.raises(RuntimeError, match="non-finite"), peers[1].noticing_loss():
        raise RuntimeError("the loss became non-finite")


def test_a_process_of_which_nothing_is_heard_ends_the_other_in_any_phase(pair, capfd, monkeypatch):
    """Without waiting for an update: as while a run starts or restores."""
    peers, ended = pair
    wait_until(lambda: {0, 1} <= peers[0]._beats._last.keys() and 0 in peers[1]._beats._last)
    for peer in peers:
        peer._limit = 1.5
    time.sleep(2.5)
    assert not ended, "both say something twice a second"
    peers[1]._left.set()
    wait_until(lambda: distributed.EXIT_PEER_LOST in ended)
    assert "simclr-jax train: nothing was heard of process 1 for " in capfd.readouterr().err


def test_a_network_that_hangs_keeps_nobody_from_ending(pair, capfd, monkeypatch):
    """No call returns, as where packets are lost."""
    peers, ended = pair
    wait_until(lambda: 0 in peers[1]._beats._last)
    monkeypatch.setattr(peers_lib, "_GRACE_SECONDS", 0.3)
    awake = threading.Event()

    def hang(self, *args, **kwargs):
        awake.wait(30)
        raise jax.errors.JaxRuntimeError("UNAVAILABLE")

    for name in ("key_value_set", "key_value_try_get", "key_value_dir_get", "wait_at_barrier"):
        monkeypatch.setattr(Store, name, hang)
    peers[1]._limit = 1.0
    wait_until(lambda: distributed.EXIT_PEER_LOST in ended)
    assert "nothing was heard of process 0 for " in capfd.readouterr().err
    with pytest.raises(ValueError, match="Gloo"), peers[0]:
        raise ValueError(GLOO)
    awake.set()
    assert "another process was lost" in capfd.readouterr().err


def test_a_signal_before_the_training_ends_all_with_its_status(pair, capfd):
    peers, ended = pair
    with pytest.raises(stopping.Interrupted), peers[1]:
        raise stopping.Interrupted(signal.SIGTERM)
    wait_until(lambda: len(ended) >= 2)
    assert ended[:2] == [143, 143]
    said = capfd.readouterr().err
    assert "Traceback" not in said and said.count("simclr-jax train: stopped by SIGTERM.") == 2
    assert "ended because process 1 on " in said and " was stopped: " in said


def test_short_waits_are_no_reason_to_end(pair):
    peers, ended = pair
    for step in range(5):
        with peers[0].waiting(step):
            time.sleep(0.01)
    time.sleep(0.8)
    assert not ended and peers[0]._patience() >= 300
    for step in range(10):
        with peers[0].waiting(step):
            pass
    assert peers[0]._patience() == 60, "once the first ones are over"
    peers[0]._lasted["update"].extend([9.0] * 50)
    assert peers[0]._patience() == 90
    peers[0]._what = "evaluation"
    assert peers[0]._patience() == 3600
    peers[0]._limit = 20.0
    assert peers[0]._patience() == 200


def test_who_is_stuck_is_told_from_two_looks():
    state, who = liveness.State, liveness.who_is_stuck
    before = {0: state(7, True, 1), 1: state(7, True, 1), 2: state(7, True, 1)}
    later = {0: state(7, True, 5), 1: state(7, True, 5), 2: state(7, True, 5)}
    assert who({}, {}, count=3, mine=0) == "process 0 does not answer"
    stopped = who(before, {**later, 2: before[2]}, count=3, mine=0)
    assert stopped == "stuck: process 2 does not answer, at update 7"
    asleep = who(before, {**later, 1: state(7, False, 5)}, count=3, mine=0)
    assert asleep.startswith("stuck: process 1 does not wait") and "process 2" not in asleep
    assert who(before, {**later, 1: state(6, True, 5)}, count=3, mine=0) == "furthest behind: process 1 at update 6"
    assert "process 1 does not answer, at update none" in who({0: before[0]}, {0: later[0]}, count=2, mine=0)


def test_the_texts_of_a_lost_process_are_known_and_other_failures_are_not():
    lines = [line for line in (HERE / "lost_peers.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(lines) >= 9
    for line in lines:
        assert liveness.is_loss(jax.errors.JaxRuntimeError(line)), line
    for line in ("INTERNAL: unhandled cuda error", "RESOURCE_EXHAUSTED: out of memory", "INVALID_ARGUMENT: shapes"):
        assert not liveness.is_loss(jax.errors.JaxRuntimeError(line)), line


def test_messages_between_processes_are_plain_json():
    """Whatever arrives is read as JSON and nothing else: no code comes over the network."""
    assert "pickle" not in roll_call_lib.__dict__ and "pickle" not in peers_lib.__dict__
    assert json.loads(json.dumps({"index": 1})) == {"index": 1}
