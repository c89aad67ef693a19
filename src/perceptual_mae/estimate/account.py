"""Counting what a step costs without taking it: the real step of a run on tensors that have shapes and no numbers.

Every operation that PyTorch dispatches is seen: its floating-point operations by PyTorch's own formulas, the bytes that
it reads and writes, and the storages that it makes, for as long as anything holds them: weights, gradients, moments,
activations that wait for the backward pass, and temporary tensors alike. What a kernel takes within itself is not seen.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
_NUMBER = {torch.bool: True, torch.int64: 1}
"""What a tensor without numbers is taken for where the code asks for one; others: one half."""


class Accountant(TorchDispatchMode):
    """Keeps account of everything that is dispatched within.

    Attributes:
        flop: floating-point operations so far; a multiply-add is two.
        traffic: bytes read and written so far, views left out.
        operations: how many there were, views left out: each is a kernel or a few.
        live: bytes of the storages that were made within and are held.
        peak: the most that `live` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = self.traffic = self.operations = self.live = self.peak = 0
        self._held: dict[int, tuple[int, Any]] = {}

    def begin(self) -> None:
        """Begin anew with everything but what is held."""
        self.flop = self.traffic = self.operations = 0
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Do it, and take note."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return _NUMBER.get(args[0].dtype, 0.5)
        result = func(*args, **kwargs)
        self.flop += _flop(func, args, kwargs, result)
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        for tensor in made:
            self._hold(tensor.untyped_storage())
        if not func.is_view:
            given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            self.operations += 1
            self.traffic += sum(one.numel() * one.element_size() for one in (*given, *made))
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._held:
            self._held[key] = storage.nbytes(), weakref.ref(storage, partial(self._let_go, key))
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)

    def _let_go(self, key: int, _: object) -> None:
        self.live -= self._held.pop(key)[0]


@contextmanager
def accounting() -> Iterator[Accountant]:
    """Within, every tensor that is made has a shape and no numbers, and is accounted for."""
    # Moving a module is to make its tensors anew, which those without numbers do not allow; all are in one place here.
    stay = mock.patch.object(nn.Module, "to", lambda module, *_, **__: module)
    with stay, FakeTensorMode(allow_non_fake_inputs=True), Accountant() as accountant:
        yield accountant


def _flop(func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> int:
    formula = flop_registry.get(func._overloadpacket)
    if formula is not None:
        return formula(*args, **kwargs, out_val=result)
    name = func._overloadpacket.__name__
    if name == _ATTENTION:
        return sdpa_flop_count(*(one.shape for one in args[:3]))
    if name == f"{_ATTENTION}_backward":
        return sdpa_backward_flop_count(*(one.shape for one in args[:4]))
    return 0
