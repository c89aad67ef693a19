"""Who started this process, and which one of several it is. Imports no torch.

`torchrun` and `accelerate launch` say so in the environment, in words that accelerate reads: RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT. `srun` says it in words of its own, which are translated here.
"""

import re
from collections.abc import Mapping, MutableMapping

from perceptual_mae.errors import UsageError

_FIRST_PORT, _PORTS = 20_000, 10_000


def adopt_slurm(environment: MutableMapping[str, str]) -> None:
    """Let a process that `srun` has started, one of several, know what `torchrun` would have told it.

    A process that knows already is left alone, and so is one that is alone.

    Raises:
        UsageError: Slurm does not say where the first process is.
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    if not nodes:
        raise UsageError("Slurm started several processes, but SLURM_STEP_NODELIST is not set: use `srun`, or torchrun")
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    told = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": _tasks_on(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"), environment),
        "MASTER_ADDR": first_host(nodes),
        # The same number in all processes, and another in the next job on the same machine.
        "MASTER_PORT": str(_FIRST_PORT + (job * 31 + step) % _PORTS),
    }
    for name, value in told.items():
        environment.setdefault(name, value)


def is_main(environment: Mapping[str, str]) -> bool:
    """Whether this process speaks for all."""
    return environment.get("RANK", "0") == "0"


def processes_sharing(environment: Mapping[str, str], cores: int, processes: int) -> int:
    """How many processes of a run share the CPU cores that this one may use.

    Those on this machine; but a task that `srun` has bound to cores of its own shares them with no other.

    Args:
        environment: of this process.
        cores: that it may use.
        processes: of the run; taken where nobody says how many are on this machine.
    """
    here = int(environment.get("LOCAL_WORLD_SIZE", processes))
    tasks = _tasks_on(environment.get("SLURM_STEP_TASKS_PER_NODE", ""), environment)
    bound = tasks == str(here) and cores <= int(environment.get("SLURM_CPUS_PER_TASK", "0"))
    return 1 if bound else here


def first_host(nodes: str) -> str:
    """The first of the hosts that Slurm writes as `gpu[003-005,9],login1` or `rack[1-2]-gpu[1-4]`.

    Raises:
        UsageError: it is no such list.
    """
    first, depth = "", 0
    for character in nodes:  # up to the first comma outside of brackets
        depth += (character == "[") - (character == "]")
        if character == "," and not depth:
            break
        first += character
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)
    if not host or re.search(r"[\[\]]", host):
        raise UsageError(f"SLURM_STEP_NODELIST {nodes}: this is no list of hosts; use torchrun")
    return host


def _tasks_on(tasks_per_node: str, environment: Mapping[str, str]) -> str:
    """Processes on this node, of what Slurm writes as `4(x2),3`."""
    counts: list[str] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks_per_node):
        counts += [count] * int(times or 1)
    node = int(environment.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else "1"
