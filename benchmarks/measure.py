"""Parts that benchmarks share: the machine's own rate, and the bare training step."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from perceptual_mae.losses.pixel import masked_mse
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.pretraining.build import build_optimizer, compile_regions
from perceptual_mae.pretraining.config import OptimizerConfig
from perceptual_mae.training.memory import keep_freed_memory

GFLOP = {"base": 58.8, "micro": 0.126}
"""Forward, backward and step over one image at the sizes below; a multiply-add is two."""
SHAPES = {"base": (224, 16, 8), "micro": (64, 8, 256)}
"""Image size, patch size and batch."""


def matmul_gflops(side: int = 4096, tries: int = 4) -> float:
    """GFLOP/s of a large fp32 matrix product: what this machine can do at best, now."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    return 2 * side**3 / min(seconds(lambda: a @ b) for _ in range(tries)) / 1e9


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


class Flop(TorchDispatchMode):
    """Counts floating-point operations by PyTorch's formulas; a multiply-add is two.

    `FlopCounterMode` does the same and tells modules apart, for which it hangs on gradients in a way that
    `autograd.grad` does not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def bare_step(model_name: str, bf16: bool = False, compiled: bool = False) -> Callable[[], None]:
    """Forward, backward and optimiser step on one batch that is there already, set up as `pmae pretrain` does it."""
    keep_freed_memory()
    side, patch, batch = SHAPES[model_name]
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size(model_name, image_size=side, patch_size=patch)
    if compiled:
        compile_regions(model)
    optimizer = build_optimizer(model, OptimizerConfig(), 1e-4)
    images = torch.rand(batch, 3, side, side)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = masked_mse(model(images), images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
