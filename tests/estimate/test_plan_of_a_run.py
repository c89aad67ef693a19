"""Plans: that they are monotone, that what fits fits, what they warn of, and the command."""

import functools
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from perceptual_mae.cli.main import main
from perceptual_mae.errors import UsageError
from perceptual_mae.estimate.config import PlanConfig
from perceptual_mae.estimate.cost import Line, StepCost, count
from perceptual_mae.estimate.hardware import GPUS
from perceptual_mae.estimate.machine import Range, fits, largest, memory
from perceptual_mae.estimate.measured import Calibration, Images
from perceptual_mae.estimate.plan import Given, Plan, machine_of, make
from perceptual_mae.estimate.table import show, value
from perceptual_mae.pretraining.config import OptimizerConfig, PathConfig, PretrainConfig
from perceptual_mae.settings import to_dict

RUN = PretrainConfig(data="", model="micro", image_size=64, patch_size=8, batch_size=512)


@functools.cache
def cost(method: str = "mse", model: str = "micro") -> StepCost:
    return count(replace(RUN, method=method, model=model), "bf16")


def given_for(config: PlanConfig, cost_: StepCost | None = None, images: int = 100_000, decode: float = 1e6) -> Given:
    machine, basis, words = machine_of(config, None)
    found = Images(images, 1e5, "x")
    return Given(
        cost_ or cost(), machine, basis, words, found, decode, config.cores or 12, "assumed", config.gpu is None
    )


def planned(config: PlanConfig, **given_: Any) -> Plan:
    return make(config, given_for(config, **given_))


def plan_config(**values: Any) -> PlanConfig:
    run = {name: values.pop(name) for name in ("batch_size", "method", "model", "lr", "epochs") if name in values}
    pieces = OptimizerConfig(accumulate=values.pop("accumulate", 1))
    return PlanConfig(**({"pretrain": replace(RUN, **run, optimizer=pieces), "gpu": "a100-80"} | values))


gpus, names = st.integers(1, 256), st.sampled_from(sorted(GPUS))
shardings = st.sampled_from(["ddp", "fsdp"])
costs = st.builds(
    StepCost,
    flop=st.builds(Line, st.just(0.0), st.floats(1e6, 1e12)),
    traffic=st.builds(Line, st.floats(0, 1e11), st.floats(0, 1e10)),
    operations=st.floats(100, 50_000),
    peaks=st.lists(st.builds(Line, st.floats(1e6, 1e11), st.floats(2e4, 1e9)), min_size=1, max_size=3).map(tuple),
    weights=st.builds(lambda a, b: {"model": a, "discriminator": b}, *[st.integers(1, 10**10)] * 2),
    moments=st.builds(lambda a, b: {"model": a, "discriminator": b}, *[st.integers(1, 10**10)] * 2),
    saved=st.integers(1, 10**11),
    block=st.integers(1, 10**9),
    image=st.integers(1, 10**7),
)


@settings(deadline=None, max_examples=30)
@given(few=gpus, more=gpus, name=names, batch=st.integers(1, 8192), of=costs)
def test_more_gpus_are_never_slower_where_gradients_travel_at_once(
    few: int, more: int, name: str, batch: int, of: StepCost
) -> None:
    hours = []
    for number in sorted((few, more)):
        config = plan_config(gpu=name, gpus=number, batch_size=batch, sharding="ddp")
        given_ = given_for(config, of)
        machine = replace(given_.machine, link=float("inf"), network=float("inf"))
        hours.append(make(config, replace(given_, machine=machine)).figure("hours"))
    assert hours[1].low <= hours[0].low * (1 + 1e-9)
    assert hours[1].high <= hours[0].high * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(number=st.integers(2, 256), name=names, batch=st.integers(256, 8192), of=costs)
def test_where_more_gpus_are_slower_it_is_said(number: int, name: str, batch: int, of: StepCost) -> None:
    config = plan_config(gpu=name, gpus=number, batch_size=batch, sharding="ddp")
    one, many = planned(replace(config, gpus=1), cost_=of), planned(config, cost_=of)
    if many.figure("hours").low > one.figure("hours").low * 1.001:
        assert any("Gradients travel" in warning for warning in many.warnings)


@settings(deadline=None, max_examples=30)
@given(of=costs, images=st.integers(1, 4096), pieces=st.integers(1, 8), name=names, number=gpus, how=shardings)
def test_memory_grows_with_the_batch_and_the_largest_fits(
    of: StepCost, images: int, pieces: int, name: str, number: int, how: Any
) -> None:
    machine = given_for(plan_config(gpu=name, gpus=number)).machine
    assert memory(of, machine, how, images + 1, pieces) > memory(of, machine, how, images, pieces)
    most = largest(of, machine, how, pieces)
    assert most == 0 or fits(of, machine, how, most, pieces)
    assert not fits(of, machine, how, most + 1, pieces)


@settings(deadline=None, max_examples=30)
@given(of=costs, images=st.integers(1, 4096), few=st.integers(2, 64), more=st.integers(2, 64))
def test_cut_over_more_gpus_takes_less_of_each(of: StepCost, images: int, few: int, more: int) -> None:
    held = [
        memory(of, given_for(plan_config(gpus=number)).machine, "fsdp", images, 1) for number in sorted((few, more))
    ]
    assert held[1] <= held[0] * (1 + 1e-12)


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 2048), number=gpus)
def test_ranges_are_ranges_and_numbers_fit_each_other(batch: int, number: int) -> None:
    config = plan_config(batch_size=batch, gpus=number, epochs=3)
    made = planned(config)
    assert all(figure.low <= figure.high for figure in made.figures)
    rate, hours = made.figure("images_per_second"), made.figure("hours")
    seen = 3 * (100_000 // batch) * batch
    assert hours.low * 3600 * rate.high == pytest.approx(seen)
    assert made.figure("read").high == pytest.approx(rate.high * 0.1)


def test_a_model_that_is_too_large_is_cut() -> None:
    config = plan_config(gpu="rtx4090", gpus=8, model="huge", batch_size=64)
    huge = count(replace(RUN, model="huge"), "bf16")
    tight = replace(huge, peaks=tuple(Line(20.5e9, line.per_image) for line in huge.peaks))
    assert planned(plan_config(gpu="h200", gpus=8, model="huge"), cost_=huge).figure("sent").how.startswith("ddp")
    assert planned(config, cost_=tight).figure("sent").how.startswith("fsdp")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"compile": True}, "--compile true: not with --sharding fsdp"),
        ({"path": PathConfig(estimator="exact")}, "--path.estimator exact: not with --sharding fsdp"),
    ],
)
def test_what_a_run_refuses_is_not_recommended(changes: dict[str, Any], refused: str) -> None:
    config = plan_config(gpu="rtx4090", gpus=8, model="huge", batch_size=64)
    config = replace(config, pretrain=replace(config.pretrain, **changes))
    huge = count(replace(RUN, model="huge"), "bf16")
    tight = replace(huge, peaks=tuple(Line(30e9, line.per_image) for line in huge.peaks))
    made = planned(config, cost_=tight)
    assert made.figure("sent").how.startswith("ddp")
    (warning,) = [one for one in made.warnings if "It does not fit" in one]
    assert refused in warning
    assert "--sharding fsdp, or" not in warning
    asked = planned(replace(config, sharding="ddp"), cost_=tight)
    assert "take another --gpu" in next(one for one in asked.warnings if "It does not fit" in one)


@pytest.mark.parametrize(
    ("asked", "gpu", "has_bf16", "expected"),
    [
        ("auto", None, True, "bf16"),
        ("auto", None, False, "fp32"),
        ("fp32", None, True, "fp32"),
        ("auto", "h100", False, "bf16"),
        ("fp32", "h100", False, "fp32"),
    ],
)
def test_the_precision_is_that_of_the_run(
    monkeypatch: pytest.MonkeyPatch, asked: Any, gpu: str | None, has_bf16: bool, expected: str
) -> None:
    """Without --gpu the plan is for the device that is here, here a GPU with bf16 or an older one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    config = plan_config(gpu=gpu)
    assert replace(config, pretrain=replace(config.pretrain, precision=asked)).precision == expected
    on_cpu = replace(config, gpu=None, pretrain=replace(config.pretrain, device="cpu"))
    assert on_cpu.precision == "fp32"


def test_a_precision_that_the_gpu_here_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    config = plan_config(gpu=None)
    with pytest.raises(UsageError, match="--precision bf16: this GPU does not have it"):
        replace(config, pretrain=replace(config.pretrain, precision="bf16")).check()


@pytest.mark.parametrize(
    ("hours", "shown"),
    [
        ((7.04, 16.7), "7.04 .. 16.7 h"),
        ((0.9, 1.1), "0.9 .. 1.1 h"),
        ((0.108, 0.325), "6.48 .. 19.5 min"),
        ((4e-5, 4e-5), "0.144 s"),
    ],
)
def test_times_are_shown_in_the_unit_that_suits_them(hours: tuple[float, float], shown: str) -> None:
    time = planned(plan_config()).figure("hours")
    assert value(replace(time, low=hours[0], high=hours[1])) == shown
    assert value(replace(time, low=0.1, high=0.2, unit="s")) == "0.1 .. 0.2 s"


@pytest.mark.parametrize("name", ["D[/]x", "D[bold]x", "[red]", "D\\[x]"])
def test_brackets_are_shown_as_they_are(name: str) -> None:
    made = planned(plan_config())
    figures = tuple(replace(figure, how=f"of {name}") for figure in made.figures)
    shown = io.StringIO()
    show(replace(made, title=name, figures=figures), Console(file=shown, width=200))
    assert shown.getvalue().count(f"of {name}") == len(figures)
    assert shown.getvalue().startswith(name)


@pytest.mark.parametrize(
    ("changes", "images", "decode", "words"),
    [
        ({"gpu": "rtx4090", "batch_size": 200_000}, 10**6, 1e6, "It does not fit"),
        ({"gpu": "rtx4090", "batch_size": 200_000}, 10**6, 1e6, "--optimizer.accumulate"),
        ({"batch_size": 1024}, 100, 1e6, "fewer images (100)"),
        ({"batch_size": 8192, "gpus": 8}, 10**6, 1e6, "beyond the 4,096"),
        ({"batch_size": 500, "gpus": 64}, 10**6, 1e6, "no multiple of 64 GPUs"),
        ({"batch_size": 512, "gpus": 8}, 10**6, 1.0, "Reading holds it up"),
        ({"batch_size": 512, "gpus": 128, "network": 1.0}, 10**6, 1e6, "Gradients travel"),
        ({"batch_size": 256, "gpus": 64}, 10**6, 1e6, "only 4 images at a time"),
    ],
)
def test_warnings(changes: dict[str, Any], images: int, decode: float, words: str) -> None:
    made = planned(plan_config(**changes), images=images, decode=decode)
    assert any(words in warning for warning in made.warnings), made.warnings


def test_nothing_to_warn_of() -> None:
    assert planned(plan_config(batch_size=4096, gpus=1), images=10**6).warnings == ()
    assert planned(plan_config(batch_size=8192, lr=1e-3, gpus=1), images=10**6).warnings == ()


def test_the_advice_of_a_plan_that_does_not_fit_is_right() -> None:
    config = plan_config(gpu="rtx4090", batch_size=2**18)
    warning = next(one for one in planned(config, images=10**7).warnings if "does not fit" in one)
    pieces = int(warning.split("--optimizer.accumulate ")[1].split()[0])
    helped = planned(plan_config(gpu="rtx4090", batch_size=2**18, accumulate=pieces), images=10**7)
    assert not any("does not fit" in one for one in helped.warnings)
    batch = int(warning.split("--batch-size ")[1].rstrip("."))
    assert not any("not fit" in one for one in planned(plan_config(gpu="rtx4090", batch_size=batch)).warnings)


def test_a_measured_share_is_carried_over_and_called_an_assumption() -> None:
    config = plan_config(gpu="h100", measure=True)
    machine, basis, words = machine_of(config, Calibration(0.3, 0.29, 0.31, "mse / micro on this CPU"))
    assert machine.share == Range(0.29, 0.31)
    assert basis == "assumed"
    assert "mse / micro on this CPU" in words


@pytest.mark.parametrize("name", GPUS)
def test_the_table_of_gpus(name: str) -> None:
    gpu = GPUS[name]
    assert gpu.bf16 > gpu.fp32 > 10
    assert gpu.source
    assert 10 < gpu.memory < 1000
    assert gpu.link < gpu.bandwidth
    assert gpu.rate("bf16") == gpu.bf16 * 1e12


# -- the command -------------------------------------------------------------------------------------------------------

SMALL = ["plan", "--model", "micro", "--image-size", "32", "--patch-size", "8"]


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    flags = ["--gpu", "h100", "--gpus", "4", "--images", "1.3e6", "--json", str(file)]
    assert main([*SMALL, *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("wall time", "images/s", "memory per GPU", "largest batch", "a checkpoint", "assumed", "counted"):
        assert words in said
    assert "No NVIDIA H100 SXM was used for this" in said
    made = json.loads(file.read_text(encoding="utf-8"))
    keys = {figure["key"] for figure in made["figures"]}
    assert {"hours", "images_per_second", "memory", "largest", "read", "cores", "sent", "checkpoint"} <= keys
    assert all(figure["basis"] in {"measured", "counted", "assumed"} for figure in made["figures"])


def test_the_flags_of_a_run_are_those_of_its_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = ["--data", "photos", "--val-data", "photos", "--out", str(tmp_path / "run"), "--epochs", "3"]
    assert main([*SMALL, *run, "--gpu", "h100"]) == 0
    by_flags = capsys.readouterr().out
    assert "4,323 files" in by_flags

    config = replace(RUN, data="photos", out="run", image_size=32, epochs=3, batch_size=256)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
    assert main(["plan", "--config", str(tmp_path / "config.yaml"), "--gpu", "h100"]) == 0
    assert counted(capsys.readouterr().out) == counted(by_flags)
    assert not (tmp_path / "run").exists(), "nothing is trained"


def counted(said: str) -> list[str]:
    """The lines of a plan in which nothing is measured, without the space between columns."""
    lines = (" ".join(line.split()) for line in said.splitlines())
    return [line for line in lines if " counted " in line or line.startswith("mse")]


def test_this_machine_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--measure", "true", "--data", "photos", "--batch-size", "16", "--epochs", "1"]
    assert main([*SMALL, *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "measured" in said
    assert "4,323 files" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gpu h1000", "--gpu h1000: there are"),
        ("--gpus 8", "--gpus 8: say which with --gpu"),
        ("--gpu h100 --gpus 0", "--gpus 0: must be at least 1"),
        ("--images 0", "--images 0.0: must be at least 1"),
        ("--images nan", "--images nan"),
        ("--image-bytes -3", "--image-bytes -3.0: must be at least 1"),
        ("--network 0", "--network 0.0: must be positive"),
        ("--method timm-p", "--method timm-p needs --loss-network timm:NAME"),
        ("--method timm-p --loss-network timm:resnet1888", "--loss-network timm:resnet1888"),
        ("--method mze", "--method mze: there are"),
        ("--sharding zero", "--sharding zero"),
        ("--data ./nowhere", "--data ./nowhere: there is no such file or folder"),
        ("--image-size 33", "--image-size 33: not a multiple of --patch-size 8"),
        ("--gpu h100 --gpus 8 --sharding fsdp --compile true", "--compile true: not with --sharding fsdp"),
        ("--cores 0", "--cores 0: must be at least 1"),
    ],
)
def test_wrong_flags_are_one_line(capsys: pytest.CaptureFixture[str], flags: str, message: str) -> None:
    assert main([*SMALL, *flags.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert message in said


def test_settings_are_checked_in_python_too() -> None:
    with pytest.raises(UsageError, match="--gpu"):
        replace(plan_config(), gpu="x").check()
