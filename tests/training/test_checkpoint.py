"""Checkpoints: whole or not there, the newest whole one is found, and nothing in them can execute."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from perceptual_mae.errors import WriteError
from perceptual_mae.training import checkpoint, manifest
from perceptual_mae.training.checkpoint import Checkpoint, checkpoints, clear_temporary, load, newest, save
from perceptual_mae.training.manifest import seal


def at(step: int) -> Checkpoint:
    """A checkpoint whose values say which step it is of."""
    networks = {
        "model": {"weight": torch.full((3, 2), float(step)), "count": torch.tensor(step)},
        "other": {"bias": torch.arange(6.0).reshape(2, 3).T},
    }
    optimizer = {"state": {0: {"exp_avg": torch.full((3, 2), step + 0.5)}}, "param_groups": [{"betas": (0.9, 0.95)}]}
    return Checkpoint(step, networks, {"optimizer": optimizer, "seconds": 1.5, "data": "digest", "empty": {}})


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoints(folder)]


def whole(folder: Path) -> list[int]:
    """Steps of the checkpoints that can be read, newest first."""
    return [found.step for found in newest(folder) if isinstance(found, Checkpoint)]


def unsealed(path: Path) -> Path:
    """Makes a checkpoint one of before there were manifests."""
    (path / "manifest.json").unlink()
    training = torch.load(path / "training.pt", weights_only=True)
    assert training.pop("sealed")
    torch.save(training, path / "training.pt")
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, at(500), keep=2)
    assert path.name == "step-00000500"
    loaded = load(path)
    assert loaded.step == 500
    assert loaded.networks.keys() == {"model", "other"}
    assert torch.equal(loaded.networks["model"]["weight"], torch.full((3, 2), 500.0))
    assert loaded.networks["model"]["count"] == 500
    assert torch.equal(loaded.training["optimizer"]["state"][0]["exp_avg"], torch.full((3, 2), 500.5))
    assert loaded.training["optimizer"]["param_groups"] == [{"betas": (0.9, 0.95)}]
    assert (loaded.training["seconds"], loaded.training["data"]) == (1.5, "digest")
    assert load_file(path / "model.safetensors").keys() == {"weight", "count"}


def test_a_checkpoint_without_a_network_that_is_needed_is_damaged(tmp_path: Path) -> None:
    save(tmp_path, at(5), keep=2)
    (unsealed(save(tmp_path, at(10), keep=2)) / "other.safetensors").unlink()
    assert whole(tmp_path) == [10, 5]
    damage, older = newest(tmp_path, needed=("model", "other"))
    assert damage == (tmp_path / "step-00000010", "other.safetensors is missing")
    assert isinstance(older, Checkpoint)
    assert older.step == 5


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save(tmp_path, at(step), keep=2)
    assert steps(tmp_path) == [15, 20]
    save(tmp_path, at(99_999_999), keep=3)
    save(tmp_path, at(100_000_000), keep=3)  # nine digits sort by number, not by name
    assert steps(tmp_path) == [20, 99_999_999, 100_000_000]
    assert whole(tmp_path) == [100_000_000, 99_999_999, 20]
    save(tmp_path, at(100_000_001), keep=1)
    assert steps(tmp_path) == [100_000_001]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, at(5), keep=2)
    again = Checkpoint(5, {"model": {"weight": torch.ones(1)}}, {"seconds": 9.0})
    save(tmp_path, again, keep=2)
    loaded = load(tmp_path / "step-00000005")
    assert loaded.networks.keys() == {"model"}
    assert loaded.training == {"seconds": 9.0}


@pytest.mark.parametrize("where", ["save_file", "torch.save", "seal", "flush_to_disk", "rename"])
def test_a_save_that_breaks_off_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    save(tmp_path, at(5), keep=1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        owner = {"torch.save": checkpoint.torch, "rename": Path}.get(where, checkpoint)
        patch.setattr(owner, where.rsplit(".", 1)[-1], full)
        if where == "flush_to_disk":  # of the files; that of the folder comes when all is done
            patch.setattr(manifest, where, full)
        with pytest.raises(WriteError) as error:
            save(tmp_path, at(10), keep=1)
    assert str(error.value) == f"{tmp_path} cannot be written: no space left on device; make space there"
    assert torch.equal(load(tmp_path / "step-00000005").networks["model"]["weight"], torch.full((3, 2), 5.0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]  # nothing half-written takes up space
    save(tmp_path, at(10), keep=1)
    assert whole(tmp_path) == [10]


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, at(5), keep=2)
    shutil.copytree(path, tmp_path / ".tmp-step-00000010")
    (tmp_path / "step-notes").mkdir()
    assert whole(tmp_path) == [5]
    save(tmp_path, at(10), keep=2)  # under the very name that is already there
    assert whole(tmp_path) == [10, 5]


@pytest.mark.parametrize("next_step", [10, 15], ids=["replaced", "pruned"])
def test_a_kill_while_an_old_one_is_deleted_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, next_step: int
) -> None:
    save(tmp_path, at(5), keep=2)
    save(tmp_path, at(10), keep=2)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / "training.pt").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, at(next_step), keep=1)
    assert all(isinstance(found, Checkpoint) for found in newest(tmp_path))
    assert whole(tmp_path)
    clear_temporary(tmp_path)
    save(tmp_path, at(next_step), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{next_step:08d}"]


def test_a_kill_while_one_replaces_another_of_the_same_step_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, at(5), keep=1)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, Checkpoint(5, {"model": {"weight": torch.ones(1)}}, {"seconds": 9.0}), keep=1)
    clear_temporary(tmp_path)
    assert load(tmp_path / "step-00000005").training == {"seconds": 9.0}


@pytest.mark.parametrize("end", ["interrupted", "killed"])
def test_an_end_between_two_names_loses_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    save(tmp_path, at(5), keep=1)
    rename = Path.rename

    def ends(path: Path, target: Path) -> Path:
        if end == "killed" and path.name.startswith((".tmp-step", ".waiting")):
            raise SystemExit  # nothing is done after it
        moved = rename(path, target)
        if end == "interrupted" and target.name.startswith(".waiting"):
            raise KeyboardInterrupt
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", ends)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            save(tmp_path, at(5), keep=1)
    assert whole(tmp_path) == ([5] if end == "interrupted" else [])
    clear_temporary(tmp_path)
    assert whole(tmp_path) == [5]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_one_that_cannot_take_its_place_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, at(5), keep=1)
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name.startswith(".tmp-step"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(WriteError):
        save(tmp_path, Checkpoint(5, {"model": {"weight": torch.ones(1)}}, {"seconds": 9.0}), keep=1)
    assert whole(tmp_path) == [5]
    assert load(tmp_path / "step-00000005").training != {"seconds": 9.0}


def test_checkpoints_of_before_there_were_manifests_still_load(tmp_path: Path) -> None:
    save(tmp_path, at(5), keep=2)
    path = unsealed(save(tmp_path, at(10), keep=2))
    assert load(path).training.keys() == at(10).training.keys()
    assert whole(tmp_path) == [10, 5]


def test_a_new_one_that_lost_its_manifest_is_not_taken_for_an_old_one(tmp_path: Path) -> None:
    path = save(tmp_path, at(10), keep=2)
    (path / "manifest.json").unlink()
    assert list(newest(tmp_path)) == [(path, "manifest.json is missing")]


def test_milestones_stay_for_ever(tmp_path: Path) -> None:
    for step in range(1, 11):
        save(tmp_path, at(step), keep=2, milestone=f"epoch {step // 3}" if step % 3 == 0 else None)
    assert steps(tmp_path) == [3, 6, 9, 10]
    assert (tmp_path / "step-00000006" / "milestone.txt").read_text() == "epoch 2\n"
    save(tmp_path, at(20), keep=1)  # also of a run that asks for none any more
    assert steps(tmp_path) == [3, 6, 9, 20]
    assert whole(tmp_path) == [20, 9, 6, 3]


def test_one_that_is_dropped_while_it_is_looked_for_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, at(5), keep=1)

    def save_meanwhile(path: Path) -> bool:
        if path.name == "step-00000005":
            save(tmp_path, at(10), keep=1)
        return manifest.verify(path)

    monkeypatch.setattr(checkpoint, "verify", save_meanwhile)
    assert whole(tmp_path) == [10]


DAMAGES = {
    "weights cut": lambda path: _cut(path / "model.safetensors"),
    "weights empty": lambda path: (path / "model.safetensors").write_bytes(b""),
    "weights garbage": lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 400),
    "weights gone": lambda path: [file.unlink() for file in path.glob("*.safetensors")],
    "training cut": lambda path: _cut(path / "training.pt"),
    "training empty": lambda path: (path / "training.pt").write_bytes(b""),
    "training garbage": lambda path: (path / "training.pt").write_bytes(b"\x00garbage" * 50),
    "training text": lambda path: (path / "training.pt").write_text("not a checkpoint\n" * 30),
    "training gone": lambda path: (path / "training.pt").unlink(),
    "empty folder": lambda path: [file.unlink() for file in path.iterdir()],
    "one bit": lambda path: _flip(path / "other.safetensors"),
    "a number of the optimiser": lambda path: _flip(path / "training.pt", 0.4),
    "one file more": lambda path: shutil.copy(path / "model.safetensors", path / "another.safetensors"),
    "a file of another": lambda path: shutil.copy(path.with_name("step-00000005") / "model.safetensors", path),
    "manifest cut": lambda path: _cut(path / "manifest.json"),
    "manifest gone": lambda path: (path / "manifest.json").unlink(),
}


def _flip(path: Path, place: float = 1.0) -> None:
    """Change one bit, at a share of the file."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_is_found(tmp_path: Path, damage: str) -> None:
    save(tmp_path, at(5), keep=2)
    DAMAGES[damage](save(tmp_path, at(10), keep=2))
    first, second = newest(tmp_path)
    assert isinstance(first, tuple)
    path, complaint = first
    assert path.name == "step-00000010"
    assert complaint
    assert "\n" not in complaint
    assert "weights_only" not in complaint  # PyTorch's own advice is to execute the file
    assert isinstance(second, Checkpoint)
    assert second.step == 5


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_never_get_past(tmp_path: Path) -> None:
    save(tmp_path, at(5), keep=2)
    path = save(tmp_path, at(10), keep=2)
    generator = torch.Generator().manual_seed(0)
    for length in (1, 2, 3, 10, 50, 1000):
        for _ in range(30):
            junk = torch.randint(0, 256, (length,), generator=generator, dtype=torch.uint8)
            (path / "training.pt").write_bytes(bytes(junk.tolist()))
            assert whole(tmp_path) == [5]
            (path / "manifest.json").unlink(missing_ok=True)
            assert whole(tmp_path) == [5]


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_nothing_in_a_checkpoint_can_execute(tmp_path: Path, how: str) -> None:
    folder, touched = tmp_path / "checkpoints", tmp_path / "touched"
    save(folder, at(5), keep=2)
    path = save(folder, at(10), keep=2) / "training.pt"
    if how == "torch":
        torch.save({"optimizer": Malicious(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(touched), protocol=2))
    seal(path.parent)  # whoever can write here can do that as well
    assert whole(folder) == [5]
    assert not touched.exists()
    # That it would execute elsewhere shows that the test can fail.
    if how == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert touched.exists()


def test_saving_after_a_fall_back_does_not_drop_what_was_saved(tmp_path: Path) -> None:
    # The newest, of step 20, is damaged; training goes on from 10 and saves at 12: that is now the one that counts.
    save(tmp_path, at(10), keep=2)
    _cut(save(tmp_path, at(20), keep=2) / "training.pt")
    save(tmp_path, at(12), keep=1)
    assert whole(tmp_path)[:1] == [12]
    save(tmp_path, at(14), keep=1)
    assert whole(tmp_path) == [14]


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path) == []
    assert list(newest(tmp_path / "not there")) == []
