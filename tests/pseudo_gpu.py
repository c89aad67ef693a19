"""A second device for machines that have none: memory and arithmetic are the CPU's, the rules are a GPU's.

Tensors on `gpu` and on `cpu` do not mix, random numbers of one do not come from a generator of the other, and what is
saved or shown has to be fetched first. So whatever forgets to move a tensor fails here as it would on a GPU, and all
else computes the same numbers as on the CPU. Under autocast the same operations as with CUDA take bf16, fp32, or the
widest type of what they are given. What it cannot show: CUDA's kernels, their speed and their memory.

    python tests/pseudo_gpu.py pretrain --data photos ... then embed ...     # commands of `pmae`, on that device

PyTorch lets a backend be written in Python (`torch.utils.backend_registration`). Each operation on the device arrives
in `_compute`, which looks at the same memory through tensors of the CPU, lets the CPU compute, and hands the results
back as tensors of the device. Memory changes hands by DLPack, whose `kDLExtDev` is PyTorch's device of this kind.
"""

import ctypes
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, library
from torch.storage import _StorageBase
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "gpu"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""Whether this version of PyTorch has it."""
_MIXED = ("aten::copy_", "aten::_copy_from", "aten::index", "aten::index_put_", "aten::_index_put_impl_")
"""What takes tensors of the CPU beside those of a GPU: copies, and indices."""

# -- memory: https://dmlc.github.io/dlpack/latest/c_api.html -----------------------------------------------------------

_ON_CPU, _ON_DEVICE = 1, 12
_TYPES = {
    # code and bits
    torch.int8: (0, 8),
    torch.int16: (0, 16),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
    torch.uint8: (1, 8),
    torch.float16: (2, 16),
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.bfloat16: (4, 16),
    torch.complex64: (5, 64),
    torch.complex128: (5, 128),
    torch.bool: (6, 8),
}


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Managed(ctypes.Structure):
    """`DLManagedTensor`; without a deleter, since who made it sees to its memory."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def _seen_from(device: int, tensor: Tensor) -> Tensor:
    """The memory of a tensor as a tensor of another device."""
    sizes = ctypes.c_int64 * max(1, tensor.dim())
    shape, strides = sizes(*tensor.shape), sizes(*tensor.stride())
    dtype = _DataType(*_TYPES[tensor.dtype], 1)
    managed = _Managed(tensor.data_ptr() or None, device, 0, tensor.dim(), dtype, shape, strides)
    with torch.inference_mode(False):  # in which a view of a tensor from outside would be another kind of tensor
        made = torch._C._from_dlpack(_capsule(ctypes.addressof(managed), b"dltensor", None))
    # All of this is needed for as long as anything holds the new tensor's memory.
    weakref.finalize(made.untyped_storage(), _let_go, tensor, managed, shape, strides).atexit = False
    return made


def _let_go(*_: object) -> None:
    """What is passed is not needed any more."""


def _on_cpu(tensor: Tensor) -> Tensor:
    return _seen_from(_ON_CPU, tensor) if tensor.device.type == NAME else tensor


def _on_device(tensor: Tensor) -> Tensor:
    return _seen_from(_ON_DEVICE, tensor)


# -- operations --------------------------------------------------------------------------------------------------------


def _compute(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on tensors of the device.

    Raises:
        RuntimeError: tensors or random numbers of the CPU are among them.
    """
    _check(operation, args, kwargs)
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    cpu_args, cpu_kwargs = tree_map_only(Tensor, _on_cpu, (args, kwargs))
    seen = [leaf for leaf in tree_leaves((cpu_args, cpu_kwargs)) if isinstance(leaf, Tensor)]
    if cpu_kwargs.get("device") is not None:
        cpu_kwargs["device"] = torch.device("cpu")
    cpu_kwargs.pop("pin_memory", None)
    targets = [argument.name for argument in operation._schema.arguments if argument.is_out]
    if targets:
        return _compute_into({name: kwargs[name] for name in targets}, operation, cpu_args, cpu_kwargs)
    result = operation(*cpu_args, **cpu_kwargs)
    same = {id(on_cpu): own for own, on_cpu in zip(given, seen, strict=True)}  # what is changed in place comes back
    return tree_map_only(Tensor, lambda one: same[id(one)] if id(one) in same else _on_device(one), result)


def _compute_into(targets: dict[str, Tensor], operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that writes into tensors which are there, and may make them larger."""
    fresh = {name: torch.empty(0, dtype=target.dtype) for name, target in targets.items()}
    operation(*args, **kwargs | fresh)
    for name, target in targets.items():
        if target.shape == fresh[name].shape:
            kwargs[name].copy_(fresh[name])
        else:
            target.data = _on_device(fresh[name])
    return tuple(targets.values()) if len(targets) > 1 else next(iter(targets.values()))


def _check(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    name = operation._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = any(one.device.type == NAME for one in tensors)
    # One without dimensions is a number, which goes along.
    alien = [tuple(one.shape) for one in tensors if one.device.type != NAME and one.dim()]
    if alien and on_device and name not in _MIXED:
        raise RuntimeError(f"{name}: tensors of the CPU, of shapes {alien}, among those of the device")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: a generator of the CPU makes no random numbers on the device")


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Between devices, in either direction."""
    _on_cpu(target).copy_(_on_cpu(source))
    return target


def _convolution(*args: Any) -> Any:
    return _compute(torch.ops.aten.convolution.default, *args)


def _convolution_backward(gradient: Tensor, maps: Tensor, weight: Tensor, *settings: Any) -> Any:
    """PyTorch asks for three gradients, that of the bias among them, and does not tell its size."""
    *rest, asked = settings
    backward = torch.ops.aten.convolution_backward.default
    return _compute(backward, gradient, maps, weight, [gradient.shape[1]], *rest, asked)


_OWN = {
    "_copy_from": _copy,
    "convolution_overrideable": _convolution,
    "convolution_backward_overrideable": _convolution_backward,
}
"""What PyTorch leaves to a device, where it has another name or none on the CPU."""

_storage_on_cpu = _StorageBase.cpu


def _fetch(storage: Any) -> Any:
    """`UntypedStorage.cpu`, by which PyTorch saves tensors."""
    if storage.device.type != NAME:
        return _storage_on_cpu(storage)
    fetched = torch.UntypedStorage(storage.nbytes())
    ctypes.memmove(fetched.data_ptr(), storage.data_ptr(), storage.nbytes())
    return fetched


# -- autocast: https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior ---------------------------------

_IN_BF16 = """
    _convolution addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution linalg_multi_dot linear matmul mm mv prelu
    scaled_dot_product_attention
"""
_IN_FP32 = """
    acos asin binary_cross_entropy_with_logits cdist cosh cosine_embedding_loss cosine_similarity cumprod cumsum dist
    erfinv exp expm1 group_norm hinge_embedding_loss kl_div l1_loss layer_norm log log10 log1p log2 log_softmax
    logsumexp mse_loss nll_loss nll_loss2d norm pdist poisson_nll_loss pow prod reciprocal renorm rsqrt sinh
    smooth_l1_loss soft_margin_loss softmax softplus sum tan triplet_margin_loss
"""
_IN_THE_WIDEST = "addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot"


def _cast_all_to(choose: Callable[[list[Tensor]], torch.dtype], operation: Any) -> Callable[..., Any]:
    """An operation that takes its floating-point tensors in the type that is chosen for them."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and _casts(leaf)]
            dtype = choose(given) if given else None
            args, kwargs = tree_map_only(Tensor, lambda one: one.to(dtype) if _casts(one) else one, (args, kwargs))
            return operation(*args, **kwargs)

    return run


def _casts(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64 and tensor.device.type == NAME


def _widest(tensors: list[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (one.dtype for one in tensors))


def _autocast() -> list[library.Library]:
    everything, own = (library.Library(name, "IMPL", "AutocastPrivateUse1") for name in ("_", "aten"))
    everything.fallback(library.fallthrough_kernel)
    kinds = (
        (_IN_BF16, lambda _: torch.get_autocast_dtype(NAME)),
        (_IN_FP32, lambda _: torch.float32),
        (_IN_THE_WIDEST, _widest),
    )
    for names, choose in kinds:
        for name in names.split():
            packet = getattr(torch.ops.aten, name)
            for operation in (getattr(packet, overload) for overload in packet.overloads()):
                if not operation._schema.is_mutable:
                    own.impl(operation, _cast_all_to(choose, operation))
    return [everything, own]


def install() -> list[library.Library]:
    """Make `gpu` a device of this process, for good; for as long as what is returned is held."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float32]
    everything, own = (library.Library(name, "IMPL", "PrivateUse1") for name in ("_", "aten"))
    everything.fallback(_compute)
    for name, implementation in _OWN.items():
        own.impl(name, implementation)
    _StorageBase.cpu = _fetch
    return [everything, own, *_autocast()]


def main() -> int:
    """`pmae`, with this device in the place of CUDA's."""
    warnings.simplefilter("ignore")
    os.environ["ACCELERATE_TORCH_DEVICE"] = f"{NAME}:0"
    held = install()
    from perceptual_mae.training import device

    device.choose_device = lambda asked: "cpu" if asked == "cpu" else NAME
    from perceptual_mae.cli.main import main as pmae

    commands = [command.split() for command in " ".join(sys.argv[1:]).split(" then ")]
    code = next(filter(None, map(pmae, commands)), 0)
    held.clear()
    return code


if __name__ == "__main__":
    sys.exit(main())
