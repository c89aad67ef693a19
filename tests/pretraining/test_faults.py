"""Small versions of the campaign of `benchmarks/faults`: kills, damaged checkpoints, broken images, full disks."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import disk, images
from benchmarks.faults.damage import DAMAGES, look_at_damage
from benchmarks.faults.kills import kill_again_and_again
from benchmarks.faults.runs import Command, cut_short, differences, finish, make_materials, small_run, wait_until
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import load


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    make_materials(folder)
    return folder


@pytest.fixture(scope="module")
def begun(materials: Path) -> Path:
    """A run that was killed after step 8, with checkpoints of steps 3 and 6."""
    config = small_run(materials, materials / "begun", "ls-gan-p", "mae")
    cut_short(config, 8)
    return Path(config.out)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(materials: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"kills drawn from seed {seed}")
    whole, killed = (small_run(materials, tmp_path / name, "ls-gan-p", "mae") for name in ("whole", "killed"))
    found = kill_again_and_again(whole, killed, 2, random.Random(seed))
    assert len(found["kills"]) == 2
    assert (found["lost"], found["other ends"]) == ([], [])
    # That other numbers would be seen:
    path = Path(killed.out) / "checkpoints" / "step-00000014"
    assert load(path).step == 14
    content = (path / "discriminator.safetensors").read_bytes()
    (path / "discriminator.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (difference,) = differences(Path(whole.out), Path(killed.out))
    assert difference.startswith("discriminator.safetensors.")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    begun: Path, tmp_path: Path, damage: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    found = look_at_damage(run, damage, random.Random(0))
    assert found["noticed"]
    assert found["named"], found["complaint"]
    assert found["one before used"]


def test_every_good_image_is_used_once_an_epoch_and_every_broken_one_listed_once(tmp_path: Path) -> None:
    made = images.write_files(tmp_path / "images", 300, random.Random(0))
    loaded = images.loaded(tmp_path / "images", made, batch=7)
    assert loaded["good"] == 270
    assert loaded["stand-ins"] == 2 * 24
    assert loaded["good images left out"] == loaded["good images twice in their own place"] == 0
    trained = images.trained(tmp_path / "images", made, batch=98, out=tmp_path / "run")
    assert trained["skipped.txt"] == 24
    assert trained["broken images not listed"] == trained["good images listed"] == trained["listed twice"] == 0


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_one_line_and_with_space_it_goes_on(tmp_path: Path) -> None:
    (one,) = disk.fill("file size limit", tmp_path / "work", seed=1, count=1, row=("mse", "mae"))
    assert {name: one[name] for name in disk.FINE} == dict.fromkeys(disk.FINE, True), one["said"]
    assert "cannot be written: file too large; raise the limit on the size of files (ulimit -f)" in one["said"]
    assert "checkpoints/step-00000006 is whole: the same command goes on from there" in one["said"]


@pytest.fixture
def started() -> Iterator[Callable[..., Command]]:
    """Starts runs that are killed in the end."""
    commands = []

    def start(config: Any) -> Command:
        commands.append(Command(config))
        return commands[-1]

    yield start
    for command in commands:
        command.process.kill()
        command.wait()


@pytest.mark.slow
def test_the_second_of_two_runs_is_refused_until_the_first_is_gone(
    materials: Path, tmp_path: Path, started: Callable[..., Command]
) -> None:
    # No checkpoint is saved in the life of this test, and a worker of the first outlives it for a moment.
    config = small_run(materials, tmp_path / "run", "mse", "mae", save_every=10**6, max_steps=10**6, epochs=10**6)
    shorter = small_run(materials, tmp_path / "run", "mse", "mae")
    first = started(config)
    wait_until((tmp_path / "run" / ".lock").exists, first.process.is_alive)
    code, said = finish(shorter)
    assert code == 1
    assert f"--out {tmp_path / 'run'}: another process is training in this folder" in said
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    first.process.kill()
    first.process.join()
    assert finish(shorter)[0] == 0
    assert RunFolder.read(tmp_path / "run").facts()["state"] == "finished"
