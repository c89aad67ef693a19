"""Losses that are not finite: steps that are skipped, weights that are put back, and runs that end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from power_cut import At, pretrain_until_power_cut, watched_by
from rich.console import Console
from torch import Tensor

from perceptual_mae.api import pretrain
from perceptual_mae.errors import PmaeError
from perceptual_mae.losses.path_length import PathLength
from perceptual_mae.pretraining import regularise
from perceptual_mae.pretraining.config import LogConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig
from perceptual_mae.pretraining.step import TrainingStep
from perceptual_mae.training.checkpoint import checkpoints, load
from perceptual_mae.training.config import SpikeConfig
from perceptual_mae.training.spikes import Spikes, keep_batch
from perceptual_mae.training.tally import NonFinite, Tally

MakeConfig = Callable[..., PretrainConfig]
SameRun = Callable[[Path, Path], None]
QUIET: dict[str, Any] = {"log": LogConfig(every=1, pictures=0, validate_every=0, tensorboard=False)}


@contextmanager
def broken(steps: set[int]) -> Iterator[None]:
    """In these steps (from 1) the loss is NaN."""
    judge = TrainingStep.judge

    def instead(
        self: TrainingStep, leaf: Any, images: Tensor, seen: Any, clock: Any, tally: Any, again: bool
    ) -> list[Tensor]:
        gradient = judge(self, leaf, images, seen, clock, tally, again)
        if clock.step + 1 not in steps:
            return gradient
        tally.add({"loss/total": torch.tensor(float("nan"))})
        return [g * float("nan") for g in gradient]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "judge", instead)
        yield


def records(run: Path) -> dict[int, dict[str, Any]]:
    return {record["step"]: record for record in RunFolder.read(run).records()}


def test_one_is_skipped_and_counted(make_config: MakeConfig) -> None:
    config = make_config(max_steps=6, **QUIET)
    states: dict[int, dict[str, Tensor]] = {}

    def remember(moment: Any) -> dict[str, float]:
        states[moment.step] = {name: tensor.clone() for name, tensor in moment.model.state_dict().items()}
        return {}

    witness = At(-1, remember)
    witness.due = lambda moment: True  # type: ignore[method-assign]
    console = Console(file=StringIO(), width=200)
    with broken({3}), watched_by(witness):
        run = pretrain(config, console)
    assert all(torch.equal(states[2][name], tensor) for name, tensor in states[3].items())
    assert any(not torch.equal(states[3][name], tensor) for name, tensor in states[4].items())
    lines = records(run)
    assert sorted(lines) == [1, 2, 3, 4, 5, 6]
    assert "loss/total" not in lines[3]
    assert "skipped_steps" not in lines[2]
    assert [lines[step]["skipped_steps"] for step in (3, 6)] == [1, 1]
    assert "step 3: loss/total is nan" in console.file.getvalue()  # type: ignore[attr-defined]
    assert (run / "failed-batch-00000003.safetensors").exists()
    assert RunFolder.read(run).facts()["state"] == "finished"
    assert (run / "report.html").exists()


def test_some_in_a_row_put_the_weights_back(make_config: MakeConfig) -> None:
    config = make_config(max_steps=9, save_every=2, **QUIET)
    states: dict[int, Tensor] = {}

    def remember(moment: Any) -> dict[str, float]:
        states[moment.step] = moment.model.decoder_pred.weight.detach().clone()
        return {}

    witness = At(-1, remember)
    witness.due = lambda moment: True  # type: ignore[method-assign]
    console = Console(file=StringIO(), width=300)
    with broken({4, 5, 6}), watched_by(witness):
        run = pretrain(config, console)
    # The checkpoint of step 4 is written after a skipped step: it has the weights of step 3.
    assert torch.equal(states[3], states[6])
    assert not torch.equal(states[6], states[7])
    assert "the 3. in a row: back to the weights of step 4" in console.file.getvalue()  # type: ignore[attr-defined]
    assert records(run)[9]["skipped_steps"] == 3
    assert len(list(run.glob("failed-batch-*"))) == 1  # the batch that began it


def test_weights_that_went_wrong_are_those_put_back(make_config: MakeConfig) -> None:
    """The case that it is for: weights so large that no batch has a finite loss any more."""
    config = make_config(max_steps=10, save_every=4, **QUIET)

    def ruin(moment: Any) -> dict[str, float]:
        moment.model.decoder_pred.weight.data.fill_(1e38)
        return {}

    with watched_by(At(5, ruin)):
        run = pretrain(config)
    lines = records(run)
    assert lines[10]["skipped_steps"] == 3
    assert lines[10]["loss/total"] < 2 * lines[4]["loss/total"]


def test_a_run_that_cannot_be_saved_ends(make_config: MakeConfig) -> None:
    config = make_config(max_steps=40, save_every=2, spikes=SpikeConfig(patience=2, rollbacks=1), **QUIET)
    with broken(set(range(4, 41))), pytest.raises(PmaeError) as error:
        pretrain(config)
    # Steps 4 (whose checkpoint is one without progress) and 5: back; 6 and 7: the end.
    message = str(error.value)
    assert message.startswith("step 7: loss/total is nan")
    assert "(4 in a row)" in message
    run = Path(config.out)
    last = load(checkpoints(run / "checkpoints")[-1])
    assert all(tensor.isfinite().all() for tensor in last.networks["model"].values())
    assert RunFolder.read(run).facts()["message"] == message


def test_without_a_checkpoint_some_in_a_row_end_the_run(make_config: MakeConfig) -> None:
    config = make_config(max_steps=8, save_every=100, **QUIET)
    with broken(set(range(1, 9))), pytest.raises(PmaeError, match=r"step 3: .*\(3 in a row\); there is no checkpoint"):
        pretrain(config)


def test_a_run_that_was_cut_between_spikes_ends_as_if_it_had_not(
    make_config: MakeConfig, assert_same_run: SameRun
) -> None:
    settings = {"max_steps": 12, "save_every": 3, **QUIET}
    with broken({4, 8, 9, 10}):
        whole = pretrain(make_config("whole", **settings))
        cut = make_config("cut", **settings)
        pretrain_until_power_cut(cut, 8)
        pretrain(cut)
    assert_same_run(Path(cut.out), whole)
    assert records(whole)[12]["skipped_steps"] == 4


def test_a_skipped_step_leaves_the_state_of_the_game_alone(make_config: MakeConfig) -> None:
    def moves(module: PathLength, lengths: Tensor, mean_length: Tensor | None = None, parts: int = 1) -> Tensor:
        module.mean.fill_(float("nan"))
        return lengths.sum() * float("nan")

    config = make_config(method="stylegan2-ada-p", max_steps=5, **QUIET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PathLength, "penalty", moves)  # acts in step 4
        run = pretrain(config)
    assert records(run)[5]["skipped_steps"] == 1
    last = load(checkpoints(run / "checkpoints")[-1])
    assert all(tensor.isfinite().all() for state in last.networks.values() for tensor in state.values())
    assert last.networks["game"]["path.mean"] == 0


@pytest.mark.parametrize(
    ("rules", "verdicts"),
    [
        ((0, 2), ["stop"]),
        ((1, 0), ["stop"]),
        ((1, 2), ["roll back", "roll back", "stop"]),
        ((3, 1), ["skip", "skip", "roll back", "skip", "skip", "stop"]),
    ],
)
def test_verdicts(rules: tuple[int, int], verdicts: list[str]) -> None:
    spikes = Spikes()
    assert [spikes.another(SpikeConfig(*rules), {"loss/total"}) for _ in verdicts] == verdicts
    assert spikes.skipped == len(verdicts)


def test_a_penalty_that_is_never_finite_ends_the_run_though_the_steps_between_are(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of its own steps in a row, with ordinary ones between them."""
    settings = {"method": "stylegan2-ada-p", "discriminator": DiscriminatorConfig(channel_base=512, r1_every=4)}
    config = make_config(max_steps=40, save_every=6, ada=AdaConfig(start=0.5, every=1), **settings, **QUIET)
    console = Console(file=StringIO(), width=300)
    monkeypatch.setattr(regularise, "r1_penalty", lambda judge, real: judge(real).scores.mean() * float("nan"))
    with pytest.raises(PmaeError) as error:
        pretrain(config, console)
    assert str(error.value).startswith("step 36: loss/r1 is nan")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 4: loss/r1 is nan, grad_norm/r1 is nan; its step is skipped" in said
    assert "the 3. in a row: back to the weights of step 6" in said
    run = Path(config.out)
    assert [file.name for file in run.glob("failed-batch-*")] == ["failed-batch-00000004.safetensors"]
    lines = records(run)
    assert "loss/total" in lines[4], "the step itself was taken"
    assert lines[4]["ada_p"] != lines[5]["ada_p"], "and so was that of p"


def test_batches_do_not_fill_the_disk(tmp_path: Path) -> None:
    batch = SimpleNamespace(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), names=["a"])
    for step in range(40):
        for process in range(2):
            keep_batch(tmp_path, step, [batch], process=process)
    kept = sorted(file.name for file in tmp_path.iterdir())
    assert len(kept) == 2 * 16
    # The last ones: of them a run says, when it ends, that the batch that began it is there.
    assert kept[:2] == ["failed-batch-00000024-process-1.safetensors", "failed-batch-00000024.safetensors"]


def test_who_met_what_is_not_finite_knows_it() -> None:
    """Of two processes, whose mean is not finite on both."""
    told = {}
    for process, loss in enumerate((1.0, float("nan"))):
        accelerator = SimpleNamespace(reduce=lambda tensor, how: tensor + float("nan"))
        tally = Tally(accelerator, 1)  # type: ignore[arg-type]
        tally.add({"loss": torch.tensor(loss)})
        tally.add({"pull/pixels": torch.tensor(float("nan"))}, shared=True)
        tally.whole("grad_norm", torch.tensor(float("nan")))
        with pytest.raises(NonFinite) as found:
            tally.means()
        told[process] = found.value.here
    assert told == {0: False, 1: True}
