"""A network that learns, and what it is given in a step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from perceptual_mae.data import to_float
from perceptual_mae.losses.precision import full
from perceptual_mae.training.sharded import is_cut, whole

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Player(Generic[Network]):
    """A network with an optimiser of its own. The generator is one; the discriminator is another.

    Attributes:
        module: the network as it is saved.
        network: the network as it is called: the same one, spread over processes and in mixed precision.
        optimizer: of the module's parameters.
        lr: the optimiser's learning rate at the peak of the schedule.
    """

    module: Network
    network: nn.Module
    optimizer: torch.optim.Optimizer
    lr: float

    @classmethod
    def prepare(cls, accelerator: Accelerator, module: Network, optimizer: torch.optim.Optimizer) -> "Player[Network]":
        """Hand a network on its device, and its optimiser at its peak rate, to accelerate.

        One that is cut over the processes (`training.sharded.cut`) sees to everything by itself.
        """
        lr = optimizer.param_groups[0]["lr"]
        network = module if is_cut(module) else accelerator.prepare(module, optimizer)[0]
        return cls(module, network, optimizer, lr)

    @contextmanager
    def alone(self, accelerator: Accelerator) -> Iterator[None]:
        """Within, each process adds up gradients for itself; the next backward pass outside brings them together."""
        if is_cut(self.module):
            self.module.set_requires_gradient_sync(False)  # type: ignore[operator]
            try:
                yield
            finally:
                self.module.set_requires_gradient_sync(True)  # type: ignore[operator]
        else:
            with accelerator.no_sync(self.network):
                yield

    def gradient_norm(self, clip: float | None = None) -> Tensor:
        """Norm of the network's gradient, which is then clipped if that is asked for."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        return norm

    @contextmanager
    def past_network(self, accelerator: Accelerator) -> Iterator[None]:
        """Within, gradients are collected that are not taken through `network`, which would bring them together.

        Their mean over processes is added to what was there, of the weights that they reach, in one transfer.
        """
        if accelerator.num_processes == 1 or is_cut(self.module):
            yield
            return
        parameters = list(self.module.parameters())
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        yield
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        together = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
        for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        for parameter, old in zip(parameters, before, strict=True):
            if old is not None:
                parameter.grad = old if parameter.grad is None else old.add_(parameter.grad)

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Within, nothing that is made with the network gives it a gradient."""
        self.module.requires_grad_(False)
        try:
            yield
        finally:
            self.module.requires_grad_(True)

    def improve(self) -> None:
        """Step along the gradient, which begins anew."""
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's batch that is on the device.

    Attributes:
        images: `(b, C, H, W)` in [0, 1], or as they were read, uint8.
        noise: `(b, N)`, which decides what is masked.
        augmentation: `(b, K)`, which decides how the discriminator's view of each image is augmented, if it is.
        seeds: `(b,)` int64 on the CPU, for whatever else is random about an image.
    """

    images: Tensor
    noise: Tensor
    augmentation: Tensor | None = None
    seeds: Tensor | None = None

    def as_floats(self) -> "MicroBatch":
        """The same with images in [0, 1]: four times as large, so each part is turned when its turn comes."""
        return replace(self, images=to_float(self.images)) if self.images.dtype == torch.uint8 else self


def norm_of(gradients: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all of them together, in float32 at least."""
    return nn.utils.get_total_norm([full(gradient) for gradient in gradients])
