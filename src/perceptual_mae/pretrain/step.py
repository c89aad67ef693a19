"""One step of training: reconstruct, judge, step."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from perceptual_mae.losses.term import LossTerm
from perceptual_mae.methods import Term
from perceptual_mae.pretrain.schedule import Clock


@dataclass
class Player:
    """A network that learns, with an optimiser of its own. The generator is one; an adversary is another.

    Attributes:
        module: the network as it is saved.
        network: the network as it is called: the same one, spread over processes and in mixed precision.
        optimizer: of the module's parameters.
    """

    module: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def prepare(cls, accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer) -> "Player":
        """Hand a network on its device, and its optimiser, to accelerate."""
        network, _ = accelerator.prepare(module, optimizer)
        return cls(module, network, optimizer)


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's batch that is on the device.

    Attributes:
        images: `(b, C, H, W)` in [0, 1].
        noise: `(b, N)`, which decides what is masked.
    """

    images: Tensor
    noise: Tensor


class NonFinite(Exception):  # noqa: N818  (a finding, told to the user by the loop)
    """A loss or the gradient is not finite. Raised before any weight has changed.

    Attributes:
        values: those that are not, by name.
    """

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__(", ".join(f"{name} is {value}" for name, value in values.items()))
        self.values = values


@dataclass
class TrainingStep:
    """Improves the generator by one step of its loss (eq. 1 of the paper).

    Attributes:
        accelerator: devices, precision and processes.
        generator: the masked autoencoder and its optimiser.
        terms: the loss, term by term, as the method's row has it.
        mask_ratio: share of patches removed.
        clip_grad: largest norm of the gradient, or None.
    """

    accelerator: Accelerator
    generator: Player
    terms: Sequence[tuple[Term, LossTerm]]
    mask_ratio: float
    clip_grad: float | None

    def __call__(self, batch: Sequence[MicroBatch], clock: Clock) -> dict[str, float]:
        """Take a step.

        Args:
            batch: this process's share of the batch, in as many parts as gradients are accumulated over.
            clock: when this is.

        Returns:
            `loss/total`, `loss/<term>`, `loss/<term>/<part>` and `grad_norm`, means over the whole batch.

        Raises:
            NonFinite: a value is not finite; no weight has changed.
        """
        network, optimizer = self.generator.network, self.generator.optimizer
        sums: dict[str, Tensor] = {}
        for i, micro in enumerate(batch):
            last = i == len(batch) - 1
            with nullcontext() if last else self.accelerator.no_sync(network):
                reconstruction = network(micro.images, self.mask_ratio, micro.noise)
                values = self.judge(reconstruction, micro.images, clock)
                self.accelerator.backward(values["loss/total"] / len(batch))
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / len(batch)
        sums["grad_norm"] = self.gradient_norm()
        log = self.reduced(sums)
        broken = {name: value for name, value in log.items() if not math.isfinite(value)}
        if broken:
            raise NonFinite(broken)
        optimizer.step()
        optimizer.zero_grad()
        return log

    def judge(self, reconstruction: object, images: Tensor, clock: Clock) -> dict[str, Tensor]:
        """Eq. 1: the weighted sum of the terms that act now, with each term and its parts by name."""
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=images.device)
        for term, loss in self.terms:
            if not clock.acts(term):
                continue
            value, parts = loss(reconstruction, images)  # type: ignore[arg-type]
            total = total + term.weight * term.every_steps * value
            values[f"loss/{term.name}"] = value
            values |= {f"loss/{term.name}/{part}": scalar for part, scalar in parts.items()}
        return {"loss/total": total} | values

    def gradient_norm(self) -> Tensor:
        """Norm of the generator's gradient, which is then clipped if that is asked for."""
        parameters = [p for p in self.generator.network.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_grad, norm)
        return norm

    def reduced(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Means over processes, as numbers: one transfer for all of them."""
        stacked = self.accelerator.reduce(torch.stack(list(values.values())), "mean")
        return dict(zip(values, stacked.tolist(), strict=True))
