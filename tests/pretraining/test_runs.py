"""Whole runs through the Python API, on real photographs: they learn, go on exactly, and stop in good order."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from power_cut import At, pretrain_until_power_cut, watched_by
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from perceptual_mae.api import pretrain
from perceptual_mae.data import open_source
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.losses.pixel import masked_mse
from perceptual_mae.pretraining import build
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.config import LogConfig, OptimizerConfig, PixelConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import checkpoints, load
from perceptual_mae.training.config import SpikeConfig

MakeConfig = Callable[..., PretrainConfig]
SameRun = Callable[[Path, Path], None]


def losses(run: Path) -> list[float]:
    return [record["loss/total"] for record in RunFolder.read(run).records() if "loss/total" in record]


# -- learning ----------------------------------------------------------------------------------------------------------


def test_a_run_learns(uninterrupted: Path) -> None:
    facts = RunFolder.read(uninterrupted).facts()
    expected = facts["expected"]["mse"]
    values = losses(uninterrupted)
    assert values[0] > 0.9 * expected  # begins where a model that knows nothing is
    assert np.mean(values[-8:]) < 0.5 * expected
    validation = [r["validation/mse"] for r in RunFolder.read(uninterrupted).records() if "validation/mse" in r]
    assert len(validation) == 5  # every 27 steps, and at the end
    assert validation[-1] < 0.5 * expected
    assert facts["state"] == "finished"


def test_what_a_run_leaves(uninterrupted: Path) -> None:
    records = RunFolder.read(uninterrupted).records()
    per_epoch = len(open_source("photos")) // 16
    assert round(0.1 * per_epoch) == 27
    assert [r["step"] for r in records] == sorted({*range(4, 111, 4), *range(27, 111, 27), 110})
    for record in records:
        assert record["epoch"] == pytest.approx(record["step"] / per_epoch, abs=1e-4)
        assert record["loss/total"] == record["loss/mse"]
        assert record["grad_norm"] > 0
        assert record["images_per_second"] > 0
    assert [path.name for path in checkpoints(uninterrupted / "checkpoints")] == ["step-00000105", "step-00000110"]
    assert not list(uninterrupted.rglob(".tmp*")) + list(uninterrupted.rglob(".*.tmp"))
    assert "<html" in (uninterrupted / "report.html").read_text(encoding="utf-8")
    facts = RunFolder.read(uninterrupted).facts()
    assert facts["steps"] == 110
    assert facts["model"]["tokens"] == 16
    assert facts["model"]["visible_tokens"] == 4


def test_logged_rates_are_the_schedule(uninterrupted: Path) -> None:
    # 40 of 300 parts of the run are warm-up, so 14.7 of 110 steps; the line of step n shows the rate of the nth step.
    warm = 110 * 40 / 300
    for record in RunFolder.read(uninterrupted).records():
        done = record["step"] - 1
        cosine = 1e-3 * (1 + np.cos(np.pi * (done - warm) / (110 - warm)))
        expected = 2e-3 * (done + 1) / (warm + 1) if done < warm else cosine
        assert record["lr"] == pytest.approx(expected, rel=1e-6)


def test_the_encoder_loads_into_timm(uninterrupted: Path) -> None:
    path = uninterrupted / "encoder.safetensors"
    theirs = timm.models.vision_transformer.VisionTransformer(
        32, 8, embed_dim=96, depth=6, num_heads=3, num_classes=0
    ).eval()
    theirs.load_state_dict(load_file(path), strict=True)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    mean, std = (torch.tensor(json.loads(metadata[name])).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    images = torch.rand(2, 3, 32, 32)
    ours, steps = trained_model(RunFolder.read(uninterrupted))
    assert steps == 110
    assert (metadata["step"], metadata["model"], metadata["method"]) == ("110", "micro", "mse")
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.forward_features((images - mean) / std), ours.encode(images), atol=1e-5, rtol=1e-5
        )


def test_a_run_is_a_function_of_its_settings(make_config: MakeConfig, assert_same_run: SameRun) -> None:
    first, second = (pretrain(make_config(name)) for name in ("first", "second"))
    assert_same_run(first, second)
    assert losses(pretrain(make_config("other seed", seed=1))) != losses(first)


@pytest.mark.parametrize(
    "settings",
    [
        {"pixels": PixelConfig(channels=1)},
        {"pixels": PixelConfig(channels=4)},
        {"image_size": "32x48"},
        {"precision": "bf16"},
        {"pixels": PixelConfig(norm_pix_loss=True)},
        {
            "method": "ms-ssim",
            "mask_ratio": 0.0,
            "log": LogConfig(every=1, pictures=2, validate_every=0.01, validation_images=16),
        },
    ],
    ids=["grey", "rgba", "oblong", "bf16", "norm_pix", "nothing masked"],
)
def test_other_images_and_precisions_train(make_config: MakeConfig, settings: dict[str, Any]) -> None:
    run = pretrain(make_config(max_steps=3, **settings))
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert np.isfinite(record["loss/total"])
    model, _ = trained_model(RunFolder.read(run))
    channels = settings.get("pixels", PixelConfig()).channels
    assert model.decoder_pred.out_features == 8 * 8 * channels
    assert model.decoder_pred.weight.dtype == torch.float32
    if settings.get("image_size"):
        assert model.grid == (4, 6)


def test_micro_batches_change_nothing(make_config: MakeConfig) -> None:
    runs = [pretrain(make_config(f"in {parts}", optimizer=OptimizerConfig(accumulate=parts))) for parts in (1, 4, 16)]
    for name in ("loss/total", "grad_norm"):
        whole, *cut = ([record[name] for record in RunFolder.read(run).records()] for run in runs)
        assert len(whole) == 6
        assert cut[0] == pytest.approx(whole, rel=1e-4)
        assert cut[1] == pytest.approx(whole, rel=1e-4)


def test_observers_draw_validate_and_classify(make_config: MakeConfig) -> None:
    log = LogConfig(every=50, pictures=2, picture_images=3, validate_every=0.01, validation_images=20, knn_every=0.01)
    run = pretrain(make_config(log=replace(log, knn_images=40), max_steps=4))
    assert sorted(path.name for path in (run / "figures").glob("*.png")) == [
        "reconstruction-00000000.png",
        "reconstruction-00000004.png",
    ]
    records = RunFolder.read(run).records()
    assert [record["step"] for record in records] == [3, 4]  # a hundredth of 270 steps, and the end
    for record in records:
        assert 0 < record["validation/l1"] < 1
        assert record["validation/mse"] > 0
        assert 0 <= record["knn/top1"] <= 1
    assert list(run.rglob("events.out.tfevents*"))  # TensorBoard


def test_observing_changes_no_weight(make_config: MakeConfig) -> None:
    log = LogConfig(every=1, pictures=6, validate_every=0.001, validation_images=20, knn_every=0.001, knn_images=40)
    seen, unseen = pretrain(make_config("seen", log=replace(log, tensorboard=False))), pretrain(make_config("unseen"))
    assert losses(seen) == losses(unseen)


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "steps_saved"), [(3, []), (38, [28, 35]), (63, [49, 56])])
def test_a_run_goes_on_exactly(
    uninterrupted: Path, long_config: PretrainConfig, assert_same_run: SameRun, step: int, steps_saved: list[int]
) -> None:
    run = pretrain_until_power_cut(long_config, step)
    saved = [int(path.name[5:]) for path in checkpoints(run / "checkpoints")]
    assert saved == steps_saved
    pretrain(long_config)
    assert_same_run(run, uninterrupted)


def test_a_damaged_checkpoint_costs_only_its_own_steps(
    uninterrupted: Path, long_config: PretrainConfig, assert_same_run: SameRun, capsys: Any
) -> None:
    run = pretrain_until_power_cut(long_config, 45)
    *_, newest = checkpoints(run / "checkpoints")
    (newest / "training.pt").write_bytes(b"garbage")
    (run / "checkpoints" / ".tmp-step-00000099").mkdir()
    from rich.console import Console

    pretrain(long_config, Console(width=1000))
    said = capsys.readouterr().out
    assert f"checkpoint {newest.name} is damaged" in said
    assert "continuing after step 35 of 110" in said
    assert_same_run(run, uninterrupted)
    assert not list(run.rglob(".tmp*"))


def test_a_finished_run_has_nothing_left_to_do(make_config: MakeConfig) -> None:
    run = pretrain(make_config())
    before = (run / "metrics.jsonl").read_bytes(), checkpoints(run / "checkpoints")[-1].stat().st_mtime_ns
    pretrain(make_config())
    assert before == ((run / "metrics.jsonl").read_bytes(), checkpoints(run / "checkpoints")[-1].stat().st_mtime_ns)


def test_more_epochs_extend_a_run(make_config: MakeConfig, few_photos: Path) -> None:
    settings: dict[str, Any] = {"data": str(few_photos), "batch_size": 4, "max_steps": None}
    run = pretrain(make_config(epochs=2, **settings))
    first = RunFolder.read(run).records()
    assert [record["step"] for record in first] == [1, 2, 3, 4, 5, 6]
    assert first[-1]["epoch"] == 2
    pretrain(make_config(epochs=4, **settings))
    records = RunFolder.read(run).records()
    assert records[:6] == first
    assert [record["step"] for record in records] == list(range(1, 13))
    assert RunFolder.read(run).config.epochs == 4
    assert records[6]["lr"] > records[5]["lr"]  # the schedule is that of the longer run
    assert RunFolder.read(run).facts()["steps"] == 12


def test_broken_images_are_skipped_counted_and_listed(make_config: MakeConfig, few_photos: Path) -> None:
    (few_photos / "zz broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    run = pretrain(make_config(data=str(few_photos), batch_size=13, max_steps=3, epochs=3))
    assert len(losses(run)) == 3
    (line,) = (run / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert line.startswith("zz broken.png\t")


def test_broken_validation_images_are_listed_too(make_config: MakeConfig, few_photos: Path) -> None:
    (few_photos / "zz broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    log = LogConfig(pictures=0, validate_every=1.0, tensorboard=False)
    run = pretrain(make_config(val_data=str(few_photos), max_steps=2, log=log))
    (line,) = (run / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert line.startswith("zz broken.png\t")


def test_other_images_than_before_are_noticed(make_config: MakeConfig, few_photos: Path, capsys: Any) -> None:
    from rich.console import Console

    settings: dict[str, Any] = {"data": str(few_photos), "batch_size": 4, "max_steps": None}
    pretrain(make_config(epochs=1, **settings))
    (few_photos / "00.png").unlink()
    pretrain(make_config(epochs=3, **settings), Console(width=1000))
    assert "the images have changed since" in capsys.readouterr().out


def test_another_configuration_does_not_touch_the_run(make_config: MakeConfig) -> None:
    run = pretrain(make_config())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"belongs to another configuration \(seed: 0, now 7\)"):
        pretrain(make_config(seed=7))
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


# -- losses that are not finite ----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_in_good_order(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def breaks_in_step_three(reconstruction: Any, images: Tensor, seen: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        value, parts = masked_mse(reconstruction, images)
        return (value * float("nan") if calls == 3 else value), parts

    witness = At(-1, lambda moment: {})
    monkeypatch.setitem(build.LOSSES, "masked-mse", lambda settings: (breaks_in_step_three, 1.0))
    config = make_config(save_every=2, spikes=SpikeConfig(patience=0))
    with watched_by(witness), pytest.raises(PmaeError) as error:
        pretrain(config)
    assert calls == 3
    message = str(error.value)
    assert message.startswith("step 3: loss/mse is nan, loss/total is nan, grad_norm is nan")
    assert "checkpoints/step-00000002 holds the last good weights" in message
    assert "failed-batch-*.safetensors the batch" in message

    run = Path(config.out)
    kept = load_file(run / "failed-batch-00000003.safetensors")["images"]
    assert kept.shape == (16, 3, 32, 32)
    assert kept.dtype == torch.uint8
    assert kept.float().std() > 10  # pictures, not an empty buffer
    saved = load(run / "checkpoints" / "step-00000002").networks["model"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in witness.model.state_dict().items())
    assert len(checkpoints(run / "checkpoints")) == 1
    facts = RunFolder.read(run).facts()
    assert facts["state"] == "stopped"
    assert facts["message"] == message
    assert (run / "report.html").exists()

    # With the cause gone the run goes on as if nothing had been.
    monkeypatch.setitem(build.LOSSES, "masked-mse", lambda settings: (masked_mse, 1.0))
    pretrain(config)
    assert losses(run) == losses(pretrain(make_config("undisturbed", save_every=2)))
