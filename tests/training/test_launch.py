"""What `srun` tells its processes, in the words of `torchrun`."""

import pytest

from perceptual_mae.errors import UsageError
from perceptual_mae.training.launch import adopt_slurm, first_host, is_main, processes_sharing

STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def test_a_process_of_several_is_told_who_it_is() -> None:
    environment = dict(STEP)
    adopt_slurm(environment)
    told = {name: environment[name] for name in environment.keys() - STEP.keys()}
    port = told.pop("MASTER_PORT")
    assert told == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "7",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu003",
    }
    assert 20_000 <= int(port) < 30_000
    assert not is_main(environment)
    first = {**STEP, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    adopt_slurm(first)
    assert first["MASTER_PORT"] == port
    assert first["LOCAL_WORLD_SIZE"] == "4"
    assert is_main(first)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # a batch script, not under srun
        {**STEP, "SLURM_STEP_NUM_TASKS": "1"},  # `srun --pty bash`
        {**STEP, "RANK": "0", "WORLD_SIZE": "2"},  # torchrun under srun
    ],
)
def test_others_are_left_alone(environment: dict[str, str]) -> None:
    before = dict(environment)
    adopt_slurm(environment)
    assert environment == before


def test_an_address_that_was_given_stays() -> None:
    environment = {**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    adopt_slurm(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.1", "29500")


@pytest.mark.parametrize(
    ("environment", "cores", "sharing"),
    [
        ({}, 96, 32),  # nobody says how many there are here
        ({"LOCAL_WORLD_SIZE": "8"}, 96, 8),  # torchrun
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_CPUS_PER_TASK": "12"}, 12, 1),  # bound to its own
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_CPUS_PER_TASK": "12"}, 96, 8),  # not bound
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "8(x4)"}, 12, 8),
        # torchrun, a task a node: its processes share the task's cores
        ({"LOCAL_WORLD_SIZE": "8", "SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_CPUS_PER_TASK": "96"}, 96, 8),
    ],
)
def test_processes_that_share_cores(environment: dict[str, str], cores: int, sharing: int) -> None:
    environment = dict(environment)
    adopt_slurm(environment)
    assert processes_sharing(environment, cores, processes=32) == sharing


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[003-005,9],login1", "gpu003"),
        ("gpu[7,9-12]", "gpu7"),
        ("rack[1-2]-gpu[1-4]", "rack1-gpu1"),
        ("a-b.cluster.example,c", "a-b.cluster.example"),
    ],
)
def test_the_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", ",a", "gpu[1-", "]"])
def test_no_list_of_hosts(nodes: str) -> None:
    with pytest.raises(UsageError):
        first_host(nodes)


def test_a_step_without_hosts_is_told_so() -> None:
    with pytest.raises(UsageError, match="SLURM_STEP_NODELIST is not set"):
        adopt_slurm({**STEP, "SLURM_STEP_NODELIST": ""})
