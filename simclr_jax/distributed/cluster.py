"""Which process of a job this is, and how to reach the others: from flags and the variables that launchers set.

Pure: the environment comes in as a mapping. JAX's own detection (`jax.distributed.initialize`) returns nothing before
it connects, so it is used only where the answer needs the network (TPU on Compute Engine, Kubernetes' API). For SLURM
and Open MPI the address must be known earlier, for the roll call of `initialize`, and four things differ from JAX 0.10:

- A process that is alone on its host has all GPUs of it, not one: https://github.com/jax-ml/jax/issues/16788; one that
  is given a single GPU has that one: https://github.com/jax-ml/jax/issues/23452.
- The number of processes is that of the SLURM step, not of the whole job, of which the step may be a part.
- Open MPI 5 is known by its variables, on one host: https://github.com/jax-ml/jax/issues/14576.
- No launcher at all is no error: the process is on its own.
"""

import glob
import importlib.util
import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from simclr_jax import base

_STEP = 61  # between the ports of two steps of a job: jobs side by side have numbers side by side


class Job(NamedTuple):
    """A process within its job.

    launcher: "flags", "slurm", "openmpi", "gketpu", "gcetpu" or "k8s".
    coordinator: HOST:PORT of process 0. None = JAX asks the launcher for it, and for the two numbers.
    num_processes, process_id: None = JAX asks the launcher.
    local_device_ids: the GPUs of this process; None = all that it sees.
    num_hosts: None = not known.
    """

    launcher: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None
    num_hosts: int | None = None


def find_job(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    on_tpu: bool = False,
) -> Job | None:
    """The job that this process belongs to; None where it is on its own.

    Args:
        environment: such as `os.environ`.
        coordinator: flag, HOST:PORT of process 0.
        num_processes: flag; 1 alone says that this process is on its own, whatever the environment says.
        process_id: flag.
        on_tpu: whether this machine has a TPU of Google's cloud; see `has_tpu`.

    Raises:
        base.InputError: flags that contradict each other or are half given, a number out of range, or an environment
            that says too little.
    """
    count, index = _number(num_processes, "num_processes", low=1), _number(process_id, "process_id", low=0)
    if count == 1 and coordinator is None and not index:
        return None
    if coordinator is not None:
        _check_address(coordinator)
    found = None if None not in (coordinator, count, index) else _from_environment(environment, on_tpu=on_tpu)
    known = (coordinator, count, index) != (None, None, None)
    if found is None and not known:
        return None
    job = found or Job("flags")
    job = job._replace(
        coordinator=job.coordinator if coordinator is None else coordinator,
        num_processes=job.num_processes if count is None else count,
        process_id=job.process_id if index is None else index,
    )
    missing = [f"--{name}" for name in ("coordinator", "num_processes", "process_id") if getattr(job, name) is None]
    if missing and (found is None or known or found.launcher == "openmpi"):
        where = f", and the environment of {found.launcher} does not tell" if found else ""
        raise base.InputError(
            "--coordinator, --num_processes and --process_id are given together; got no "
            f"{' and no '.join(missing)}{where}. Give all three."
        )
    _check_range(job)
    return job


def has_tpu() -> bool:
    """Whether this machine has a TPU of Google's cloud and the library to use it; uses neither network nor JAX."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    google = "0x1ae0"
    return any(_read(path).strip() == google for path in glob.glob("/sys/bus/pci/devices/*/vendor"))


def first_host(node_list: str) -> str:
    """The first host of SLURM's compressed list: node[003-015,020],login1 -> node003.

    Raises:
        base.InputError: the list does not begin with a name.
    """
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", node_list)
    if match is None:
        raise base.InputError(f"SLURM's list of nodes must begin with a name; got '{node_list}'. Use --coordinator.")
    return match[1] + (match[2] or "")


def _from_environment(environment: Mapping[str, str], *, on_tpu: bool) -> Job | None:
    """The job that the environment describes. Open MPI is read before SLURM, whose variables `mpirun` sets too."""
    for read in (_openmpi, _slurm):
        job = read(environment)
        if job is not None:
            return job
    if on_tpu and "tpu" in environment.get("JAX_PLATFORMS", "tpu"):
        workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
        if workers or environment.get("TPU_PROCESS_ADDRESSES_PATH"):
            several = "," in workers or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1 or not workers
            return Job("gketpu") if several else None
        return None if environment.get("TPU_SKIP_MDS_QUERY") else Job("gcetpu")
    if environment.get("KUBERNETES_SERVICE_HOST") and environment.get("JOB_COMPLETION_INDEX"):
        return Job("k8s", process_id=_number(environment["JOB_COMPLETION_INDEX"], "JOB_COMPLETION_INDEX", low=0))
    return None


def _slurm(environment: Mapping[str, str]) -> Job | None:
    """The job of a SLURM step of several tasks; None outside of `srun`, such as in a plain batch script."""
    if not {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys():
        return None
    count = _variable(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if count is None or count == 1:
        return None
    hosts = _variable(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    # Steps of one job may run beside one another, such as `train` and `embed`: each has a port of its own.
    step = environment.get("SLURM_STEP_ID", "")
    job = (_variable(environment, "SLURM_JOB_ID") or 0) + (_STEP * int(step) if step.isdecimal() else 0)
    local = _variable(environment, "SLURM_LOCALID") or 0
    return Job(
        "slurm",
        coordinator=f"{first_host(environment['SLURM_STEP_NODELIST'])}:{_port(environment, job)}",
        num_processes=count,
        process_id=_variable(environment, "SLURM_PROCID"),
        local_device_ids=_devices(environment, local=local, alone=count == hosts),
        num_hosts=hosts,
    )


def _openmpi(environment: Mapping[str, str]) -> Job | None:
    """The job of `mpirun`. Open MPI 5 does not say where it was started: all ranks must be on one host."""
    count = _variable(environment, "OMPI_COMM_WORLD_SIZE")
    if count is None or count == 1:
        return None
    local = _variable(environment, "OMPI_COMM_WORLD_LOCAL_RANK") or 0
    local_size = _variable(environment, "OMPI_COMM_WORLD_LOCAL_SIZE") or 1
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    job = uri.split(".")[0] or environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid") or "0"
    address = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", uri)
    host = "localhost" if local_size == count else next(filter(None, address.groups())) if address else None
    return Job(
        "openmpi",
        coordinator=host and f"{host}:{_port(environment, zlib.crc32(job.encode()))}",
        num_processes=count,
        process_id=_variable(environment, "OMPI_COMM_WORLD_RANK"),
        local_device_ids=_devices(environment, local=local, alone=local_size == 1),
        num_hosts=1 if local_size == count else None,
    )


def _devices(environment: Mapping[str, str], *, local: int, alone: bool) -> tuple[int, ...] | None:
    """The GPUs of a process: all that it sees if it is alone on its host or sees one, else the one of its rank."""
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("ROCR_VISIBLE_DEVICES")
    return None if alone or (visible is not None and "," not in visible) else (local,)


def _port(environment: Mapping[str, str], job: int) -> str:
    """A port from 61440 to 65535 that is the same in all processes of a job; without steps it is JAX's."""
    return environment.get("JAX_COORDINATOR_PORT") or str(61440 + job % 4096)


def _variable(environment: Mapping[str, str], *names: str) -> int | None:
    """The first of the variables that is set, as a number."""
    return next((_number(environment[name], name, low=0) for name in names if environment.get(name)), None)


def _number(text: str | int | None, name: str, *, low: int) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", str(text)) or int(text) < low:
        raise base.InputError(f"{name} must be a whole number from {low}; got '{str(text)[:40]}'.")
    return int(text)


def _check_address(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65536:
        raise base.InputError(
            f"coordinator must be HOST:PORT of process 0 with a port from 1 to 65535; got '{coordinator[:80]}'. "
            "Use for example 10.0.0.1:12345."
        )


def _check_range(job: Job) -> None:
    if job.num_processes is not None and job.process_id is not None and job.process_id >= job.num_processes:
        raise base.InputError(
            f"process_id must be from 0 to num_processes - 1; got {job.process_id} and {job.num_processes}."
        )


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
