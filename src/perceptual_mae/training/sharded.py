"""A network whose tensors are cut over the processes (PyTorch's FSDP2), and checkpoints that each writes its share of.

Everything that is saved comes back as whole tensors, whatever the number of processes that saved it: a checkpoint of
eight is read by three, by one, or by `pmae evaluate`, as if it had never been cut.
"""

import functools
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from perceptual_mae.errors import PmaeError

FOLDER = "sharded"
"""Where in a checkpoint the processes put their shares."""
_OPTIMIZERS = "optimizers"


def cut(network: nn.Module, blocks: Iterable[nn.Module], methods: Iterable[str], accelerator: Accelerator) -> None:
    """Cut the parameters of a network on its device over all processes, in place; make its optimiser after this.

    Parameters, gradients and the optimiser's moments then take a share of the memory each; a block is put together when
    it is needed and let go again. The forward pass is in the accelerator's precision.

    Args:
        network: on the device.
        blocks: the parts that are put together one at a time.
        methods: of `network`, beside `forward`, that use its parameters and are called from outside.
        accelerator: devices, precision and processes.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    forward = network.forward

    @functools.wraps(forward)
    def in_precision(*inputs: Any, **named: Any) -> Any:
        with accelerator.autocast():
            return forward(*inputs, **named)

    network.forward = in_precision
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(network, method)


def is_cut(module: nn.Module) -> bool:
    """Whether a network's tensors are cut over processes."""
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its shares; all processes must ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network with whole tensors on the CPU; all processes must ask for it together."""
    return {name: whole(tensor.detach()).cpu() for name, tensor in module.state_dict().items()}


def as_held(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor that all have, cut as another one is; all of it if that one is not."""
    if not isinstance(like, DTensor):
        return tensor
    there = tensor.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def load_network(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors into a network that may be cut."""
    if is_cut(module):
        held = module.state_dict()
        state = {name: as_held(tensor, held[name]) for name, tensor in state.items()}
    module.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """`load_state_dict` of whole tensors into the optimiser of a network that may be cut."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots = {
        index: {
            # Moments are cut as their parameter is; a step is a number.
            name: as_held(value, parameters[index]) if isinstance(value, Tensor) and value.ndim else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": slots})


# -- checkpoints -------------------------------------------------------------------------------------------------------


def shares_of(networks: Mapping[str, dict[str, Tensor]], optimizers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take the tensors that are cut out of state dicts, under names that tell where they belong.

    They are missing from the state dicts after that; `load_shares` puts them back.
    """
    shares: dict[str, Tensor] = {}
    for name, state in networks.items():
        for key in [key for key, tensor in state.items() if isinstance(tensor, DTensor)]:
            shares[f"{name}/{key}"] = state.pop(key)
    for name, state in optimizers.items():
        for index, slots in state["state"].items():
            for slot in [slot for slot, value in slots.items() if isinstance(value, DTensor)]:
                shares[f"{_OPTIMIZERS}/{name}/{index}/{slot}"] = slots[slot]
        # A copy: the optimiser goes on with what it has.
        state["state"] = {
            index: {slot: value for slot, value in slots.items() if not isinstance(value, DTensor)}
            for index, slots in state["state"].items()
        }
    return shares


def save_shares(folder: Path, shares: dict[str, Tensor]) -> None:
    """Write tensors that are cut, each process its own, as safetensors into a folder on a disk that all of them share.

    All processes must do so together.

    Raises:
        OSError: a disk is full or broken, on any process.
        PmaeError: this PyTorch is too old for it.
    """
    if not hasattr(dcp, "HuggingFaceStorageWriter"):
        raise PmaeError(
            f"--sharding fsdp needs PyTorch 2.9 or newer to save its checkpoints; this is {torch.__version__}"
        )
    try:
        dcp.save(dict(shares), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise OSError(getattr(first, "errno", None), str(first)) from error


def load_shares(folder: Path, networks: dict[str, dict[str, Tensor]], optimizers: Mapping[str, Any]) -> None:
    """Put what `save_shares` wrote back into state dicts, as whole tensors on the CPU; needs no other process."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    found = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in reader.read_metadata().state_dict_metadata.items()
        if isinstance(facts, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant to be
        dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    for name, tensor in found.items():
        owner, rest = name.split("/", 1)
        if owner == _OPTIMIZERS:
            optimizer, index, slot = rest.split("/")
            optimizers[optimizer]["state"].setdefault(int(index), {})[slot] = tensor
        else:
            networks.setdefault(owner, {})[rest] = tensor
