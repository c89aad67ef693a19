"""Fine-tuning runs from end to end: they learn, go on exactly after a cut, and keep the best network."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from perceptual_mae import load_encoder, load_finetuned
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.task_network import TaskNetwork
from perceptual_mae.pretraining.folder import is_run
from perceptual_mae.training.config import CheckpointConfig, SpikeConfig
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.transfer.config import ClassificationConfig, FinetuneOptimizerConfig, MixConfig
from perceptual_mae.transfer.folder import MODEL, FinetuneFolder
from perceptual_mae.transfer.loop import FinetuneLoop
from perceptual_mae.transfer.task import Task
from perceptual_mae.transfer.tasks import open_task

Make = Callable[..., ClassificationConfig]


def train(config: ClassificationConfig, change: Callable[[Task], None] = lambda task: None) -> FinetuneLoop:
    """A run from where it stands to its end."""
    accelerator = make_accelerator(config.device, config.precision)
    task, _ = open_task(config)
    change(task)
    run = FinetuneFolder.claim(config)
    try:
        loop = FinetuneLoop(run, task, accelerator)
        loop.resume()
        loop.fit()
    finally:
        run.close()
    return loop


def weights(config: ClassificationConfig) -> dict[str, torch.Tensor]:
    """Those of the newest checkpoint."""
    newest = max((Path(config.out) / "checkpoints").iterdir())
    return load_file(newest / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(config: ClassificationConfig) -> list[dict[str, float]]:
    """What a run has logged but for its speed."""
    timed = {"seconds", "images_per_second"}
    return [{k: v for k, v in r.items() if k not in timed} for r in FinetuneFolder.read(config.out).records()]


def test_a_run_learns_to_tell_two_kinds_apart(make_classification: Make) -> None:
    config = make_classification(epochs=12, mix=MixConfig(auto_augment=None, mixup=0, cutmix=0, erasing=0))
    loop = train(config)
    assert loop.best >= 0.9
    records = loop.run.records()
    assert records[-1]["loss/total"] < 0.8 * records[0]["loss/total"]
    assert [r["epoch"] for r in records if "validation/top1" in r] == list(range(1, 13))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_that_was_cut_goes_on_exactly(make_classification: Make, ema: float) -> None:
    whole = make_classification("whole", max_steps=7, ema=ema)
    loop = train(whole)
    cut = make_classification(
        "cut", max_steps=7, ema=ema, save_every=1, checkpoint=CheckpointConfig(minutes=1e9, keep=9)
    )

    class KilledLoop(FinetuneLoop):
        def improve(self, batches):  # type: ignore[no-untyped-def]
            if self.step == 4:
                raise KeyboardInterrupt
            return super().improve(batches)

    run = FinetuneFolder.claim(cut)
    with pytest.raises(KeyboardInterrupt):
        KilledLoop(run, open_task(cut)[0], loop.accelerator).fit()
    run.close()
    train(cut)
    assert same(weights(cut), weights(whole))
    metrics = [
        [{**r, "seconds": 0, "images_per_second": 0} for r in FinetuneFolder.read(c.out).records()]
        for c in (cut, whole)
    ]
    assert metrics[0] == metrics[1]
    assert same(*(load_file(Path(c.out) / MODEL) for c in (cut, whole)))


def test_micro_batches_change_nothing_but_rounding(make_classification: Make) -> None:
    """Without mixing, which pairs the images of a micro-batch, and dropping, which draws for each of them."""
    plain = {"max_steps": 3, "drop_path": 0.0, "mix": MixConfig(None, 0.0, 0.0, 0.0, 0.1)}
    one = make_classification("one", **plain)
    four = make_classification("four", **plain, optimizer=FinetuneOptimizerConfig(accumulate=4))
    train(one)
    train(four)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(four)[name], tensor, rtol=2e-3, atol=2e-5, msg=name)


@contextmanager
def opened(config: ClassificationConfig) -> Iterator[FinetuneLoop]:
    """A run before its first step."""
    run = FinetuneFolder.claim(config)
    try:
        yield FinetuneLoop(run, open_task(config)[0], make_accelerator(config.device, config.precision))
    finally:
        run.close()


def one_step(config: ClassificationConfig) -> tuple[float, dict[str, torch.Tensor]]:
    """What a first step logs as the norm of the gradient, and the gradient that the optimiser gets."""
    got: dict[str, torch.Tensor] = {}

    def look(*given: object) -> None:
        got.update({n: p.grad.clone() for n, p in loop.modules["model"].named_parameters() if p.grad is not None})

    with opened(config) as loop:
        loop.optimizer.register_step_pre_hook(look)
        return loop.learn_from(next(loop.batches()))["grad_norm"], got


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_clipped_to_the_norm_that_was_asked_for(make_classification: Make, accumulate: int) -> None:
    def clipped(name: str, clip: float | None) -> tuple[float, dict[str, torch.Tensor]]:
        optimizer = FinetuneOptimizerConfig(accumulate=accumulate, clip_grad=clip)
        return one_step(make_classification(name, optimizer=optimizer))

    norm, whole = clipped("free", None)
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in whole.values()]).norm()), rel=1e-4)
    for name, share in {"held": 0.25, "loose": 4.0}.items():
        logged, gradient = clipped(name, share * norm)
        assert logged == pytest.approx(norm, rel=1e-5), "before clipping"
        assert gradient.keys() == whole.keys()
        for layer, expected in whole.items():
            torch.testing.assert_close(gradient[layer], min(1.0, share) * expected, rtol=1e-4, atol=1e-8, msg=layer)


def test_what_is_mixed_differs_from_place_to_place(make_classification: Make) -> None:
    """In steps, micro-batches, processes and seeds, of images that are the same; and it is the same again."""
    seen: list[tuple[torch.Tensor, ...]] = []
    settings = {"mix": MixConfig(auto_augment=None, erasing=0.9), "drop_path": 0.0}

    def mixed(loop: FinetuneLoop, step: int, parts: int = 1, process: int = 0) -> list[tuple[torch.Tensor, ...]]:
        """Images and labels that the network gets."""
        seen.clear()
        loop.step = step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(loop.accelerator), "process_index", process)
            loop.improve([examples] * parts)
        return list(seen)

    with (
        opened(make_classification("one", **settings)) as loop,
        opened(make_classification("two", seed=1, **settings)) as other,
    ):
        (examples,) = next(loop.batches())
        for network in (loop.network, other.network):
            network.register_forward_pre_hook(lambda _, given: seen.append((given[0], torch.stack(given[1]))))
        first, second = mixed(loop, 3, parts=2)
        places = [first, second, *mixed(loop, 4), *mixed(loop, 3, process=1), *mixed(other, 3)]
        again = mixed(loop, 3, parts=2)
    for one, two in combinations(places, 2):
        assert not torch.equal(one[0], two[0])
        assert not torch.equal(one[1], two[1])
    for one, two in zip(again, (first, second), strict=True):
        assert all(map(torch.equal, one, two))


def test_layers_learn_at_their_own_rates(make_classification: Make) -> None:
    """AdamW's first step moves every weight by its rate: the encoder's first block by decay ** 6 of the head's."""
    config = make_classification(
        max_steps=1, layer_decay=0.5, drop_path=0.0, optimizer=FinetuneOptimizerConfig(weight_decay=0.0)
    )
    before = {name: tensor.clone() for name, tensor in open_task(config)[0].network.state_dict().items()}
    loop = train(config)
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in weights(config).items()}
    peak = loop.rate(0, config.learning_rate)
    assert moved["encoder.head.weight"] == pytest.approx(peak, rel=1e-2)
    assert moved["encoder.blocks.0.mlp.fc1.weight"] == pytest.approx(peak * 0.5**6, rel=1e-2)
    assert moved["encoder.blocks.5.mlp.fc1.weight"] == pytest.approx(peak * 0.5, rel=1e-2)


def scripted(values: list[float]) -> Callable[[Task], None]:
    """Let the evaluations of a task give these numbers, one after the other."""
    left = iter(values)

    def change(task: Task) -> None:
        def evaluate(network: TaskNetwork, device: torch.device) -> dict[str, float]:
            return {"top1": next(left), "top5": 1.0}

        task.evaluate = evaluate  # type: ignore[method-assign]

    return change


def test_the_best_network_is_kept_not_the_last(make_classification: Make) -> None:
    config = make_classification(epochs=3, save_every=3, checkpoint=CheckpointConfig(minutes=1e9, keep=9))
    loop = train(config, scripted([0.3, 0.6, 0.5]))
    assert loop.best == 0.6
    middle = load_file(Path(config.out) / "checkpoints" / "step-00000006" / "model.safetensors")
    assert same(load_file(Path(config.out) / MODEL), middle)
    assert not same(middle, weights(config))


def test_an_average_is_evaluated_where_one_is_asked_for(make_classification: Make) -> None:
    config = make_classification(max_steps=6, ema=0.5)
    loop = train(config)
    assert loop.ema is not None
    average = loop.ema.module.state_dict()
    assert not same(average, loop.modules["model"].state_dict())
    assert same(load_file(Path(config.out) / MODEL), dict(average))


def test_a_loss_that_is_not_finite_stops_the_run_in_good_order(make_classification: Make) -> None:
    config = make_classification(max_steps=2, spikes=SpikeConfig(patience=1))

    def poison(task: Task) -> None:
        head: Any = task.network.encoder.head
        with torch.no_grad():
            head.bias[0] = torch.nan

    with pytest.raises(PmaeError, match=r"step 1: loss/cross_entropy is nan.*failed-batch-\*.safetensors the batch"):
        train(config, poison)
    assert load_file(Path(config.out) / "failed-batch-00000001.safetensors")["images"].shape == (16, 3, 32, 32)


def test_full_memory_is_said_in_one_line(make_classification: Make) -> None:
    def greedy(task: Task) -> None:
        def forward(images: torch.Tensor, targets: list[torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"loss": torch.empty(1 << 45)}

        task.network.forward = forward  # type: ignore[method-assign]

    with pytest.raises(PmaeError, match=r"^step 1: the memory is full: .*--optimizer.accumulate 2.*--batch-size"):
        train(make_classification(max_steps=1), greedy)


def test_a_folder_of_another_run_is_refused(make_classification: Make) -> None:
    config = make_classification(max_steps=1)
    train(config)
    with pytest.raises(UsageError, match=r"layer_decay: None, now 0\.5"):
        train(dataclasses.replace(config, layer_decay=0.5))


def test_a_finetuned_network_loads_with_one_line(make_classification: Make) -> None:
    config = make_classification(max_steps=3)
    loop = train(config)
    learnt = load_finetuned(config.out)
    assert (learnt.task, learnt.classes) == ("classification", ("astronaut", "grass"))
    images = [loop.task.validation.read(index).image for index in range(3)]
    loop.task.network.eval()
    expected = loop.task.network.predict(images)
    for one, other in zip(learnt.network.predict(images), expected, strict=True):
        torch.testing.assert_close(one["probabilities"], other["probabilities"])
        assert one["probabilities"].sum().item() == pytest.approx(1)


def test_a_finetuned_run_is_an_encoder_too(make_classification: Make) -> None:
    config = make_classification(max_steps=3)
    network: Any = train(config).task.network.eval()
    encoder = load_encoder(config.out)
    images = torch.rand(2, 3, 32, 32)
    assert encoder.name == "run"
    assert encoder.image_size == (32, 32)
    tokens = encoder(images)
    mean = network.encoder.fc_norm(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(network.encoder.head(mean), network.logits(images))
    assert not is_run(config.out)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "is no run of `pmae finetune`"),
        (lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0garbage"), "cannot be read"),
        (lambda path: torch.save({}, path), "cannot be read"),
    ],
)
def test_files_that_hold_no_network(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "file.safetensors"
    make(path)
    with pytest.raises(PmaeError, match=words):
        load_finetuned(path)


def test_runs_without_a_network_say_what_to_do(make_classification: Make, tmp_path: Path) -> None:
    config = make_classification(max_steps=1)
    train(config)
    (Path(config.out) / MODEL).unlink()
    with pytest.raises(UsageError, match="its first evaluation writes model"):
        load_finetuned(config.out)
    (tmp_path / "config.yaml").write_text("data: photos\n")
    with pytest.raises(UsageError, match="is a run of `pmae pretrain`: teach its encoder a task with `pmae finetune`"):
        load_finetuned(tmp_path)


def test_damaged_descriptions_are_named(make_classification: Make, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = make_classification(max_steps=1)
    train(config)
    with safe_open(Path(config.out) / MODEL, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(Path(config.out) / MODEL)
    for changes in ({"description": "{"}, {"description": "{}"}, {"classes": "3"}):
        damaged = tmp_path / "damaged.safetensors"
        save_file(tensors, damaged, metadata | changes)
        with pytest.raises(PmaeError, match=r"damaged.safetensors is damaged: "):
            load_finetuned(damaged)
    few = {name: tensor for name, tensor in tensors.items() if "head" not in name}
    save_file(few, damaged, metadata)
    with pytest.raises(PmaeError, match=r"damaged.safetensors is damaged: .*head"):
        load_finetuned(damaged)
    save_file(tensors, damaged, {"task": "poetry"})
    with pytest.raises(UsageError, match="holds no fine-tuned network"):
        load_finetuned(damaged)


def test_metrics_are_strict_json(make_classification: Make) -> None:
    config = make_classification(max_steps=2)
    train(config)
    for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
