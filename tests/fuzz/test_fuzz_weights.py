"""Files of weights that lie: encoders, fine-tuned networks, loss networks, checkpoints."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import HOSTILE, damaged, fuzz, mutated, outcome
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from perceptual_mae import dvae_file, weight_files
from perceptual_mae.encoders.open import open_encoder
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.training import checkpoint
from perceptual_mae.transfer.saved import load_finetuned

MODEL = MaskedAutoencoder.from_size("micro", image_size=16, patch_size=8, depth=2, decoder_depth=1)
ENCODER = {name: tensor.detach().clone() for name, tensor in MODEL.encoder_state_dict().items()}
METADATA = {"format": "pt", "mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]", "image_size": "[16, 16]"}


def saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


SAFETENSORS, PICKLE = save(ENCODER, METADATA), saved({"model": ENCODER, "epoch": 3})


def with_header(data: bytes, header: Any) -> bytes:
    """A safetensors file with another header before the same numbers."""
    text = json.dumps(header).encode("utf-8", "surrogatepass") if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :]


HEADER = json.loads(SAFETENSORS[8 : 8 + int.from_bytes(SAFETENSORS[:8], "little")])
SMALL_HEADER = {name: HEADER[name] for name in ("__metadata__", "cls_token", "patch_embed.proj.weight", "norm.weight")}


@st.composite
def zip_with_lies(draw: st.DrawFn, data: bytes) -> bytes:
    """An archive of `torch.save` with one of its files damaged, dropped or doubled; the sums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    name = draw(st.sampled_from(sorted(files, key=lambda name: not name.endswith("data.pkl"))))
    action = draw(st.sampled_from(["damage", "damage", "damage", "drop", "compress"]))
    if action == "damage":
        files[name] = draw(damaged(files[name]))
    elif action == "drop":
        del files[name]
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED if action == "compress" else zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return result.getvalue()


FILES = st.one_of(
    damaged(SAFETENSORS),
    mutated(HEADER).map(lambda header: with_header(SAFETENSORS, header)),
    mutated(SMALL_HEADER).map(lambda header: with_header(SAFETENSORS, header)),
    zip_with_lies(PICKLE),
    zip_with_lies(PICKLE),
    damaged(PICKLE),
    st.binary(max_size=40),
)


@fuzz(30)
@given(data=FILES, suffix=st.sampled_from([".safetensors", ".pth", ".pt", ""]))
@example(data=with_header(SAFETENSORS, b"{" * 100_000), suffix=".safetensors")
@example(data=(2**62).to_bytes(8, "little") + b"{", suffix=".pth")
@example(data=b"", suffix=".safetensors")
def test_files_of_weights(data: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("weights") / f"encoder{suffix}"
    file.write_bytes(data)
    outcome(lambda: weight_files.read(file), ValueError)
    outcome(lambda: open_encoder(file))
    outcome(lambda: open_encoder(f"timm:vit_tiny_patch16_224:{file}"))
    outcome(lambda: dvae_file.open_encoder(file))
    outcome(lambda: load_finetuned(file))


SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (96,), (0, 0), (1, 0, 96), (1, 5), (1, 5, 0), (5, 5, 5), (96, 3, 8, 8)]
SHAPES += [(96, 3, 0, 0), (0, 3, 8, 8), (96, 0, 8, 8), (96, 3, 8, 4), (64, 3, 8, 8), (7, 3, 8, 8), (1, 1, 1, 1, 1)]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64, torch.int64]
EXTRAS = ("reg_token", "register_tokens", "mean", "std", "blocks.0.ls1.gamma", "blocks.x.y", "blocks.", "dist_token")
ODD_TENSORS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(3, 3, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "enormous": lambda: torch.zeros(1).expand(2**40),
    "none": lambda: None,
    "text": lambda: "text",
    "dict": lambda: {"a": torch.ones(1)},
}


@fuzz(60)
@given(
    changes=st.dictionaries(
        st.sampled_from([*ENCODER, *EXTRAS]),
        st.one_of(
            st.none(),
            st.tuples(st.sampled_from(SHAPES), st.just(torch.float32)),
            st.tuples(st.just(None), st.sampled_from(DTYPES)),
            st.sampled_from(sorted(ODD_TENSORS)),
        ),
        min_size=1,
        max_size=3,
    ),
    metadata=st.one_of(st.just(METADATA), mutated(dict(METADATA)).filter(lambda m: isinstance(m, dict))),
    size=st.sampled_from([None, 16, 8, 24, (16, 24)]),
)
def test_encoders_of_other_shapes(
    changes: dict[str, Any], metadata: Any, size: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state: dict[str, Any] = dict(ENCODER)
    for name, change in changes.items():
        if change is None:
            state.pop(name, None)
        elif isinstance(change, str):
            state[name] = ODD_TENSORS[change]()
        elif change[0] is None:
            state[name] = state.get(name, torch.ones(3)).to(change[1])
        else:
            state[name] = torch.ones(change[0])
    file = tmp_path_factory.mktemp("weights") / "encoder.pth"
    if all(isinstance(tensor, Tensor) and tensor.layout == torch.strided for tensor in state.values()):
        texts = {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
        try:
            file.write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}, texts))
        except (RuntimeError, ValueError, NotImplementedError, TypeError, KeyError, UnicodeError):
            torch.save(state, file)
    else:
        torch.save(state, file)

    def use() -> None:
        encoder, _ = open_encoder(file, size)
        encoder(torch.rand(1, len(encoder.mean.flatten()), *encoder.image_size))

    outcome(use)


# -- networks that pmae wrote itself -----------------------------------------------------------------------------------


DESCRIPTION: dict[str, Any] = {
    "architecture": {"name": "vit_tiny_patch16_224", "options": {"img_size": [16, 16], "patch_size": 8, "depth": 1}},
    "image_size": [16, 16],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "classes": 2,
}


@fuzz(25)
@given(described=mutated({"description": DESCRIPTION, "classes": ["a", "b"], "task": "classification"}))
def test_descriptions_of_a_network(described: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    network = Classifier.from_description(DESCRIPTION)
    texts = described if isinstance(described, dict) else {}
    metadata = {
        str(name): text if isinstance(text, str) and text.isprintable() and name == "task" else json.dumps(text)
        for name, text in texts.items()
        if str(name).isprintable()
    }
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    file.write_bytes(save(network.state_dict(), metadata))
    outcome(lambda: load_finetuned(file))


# -- DALL-E's encoder --------------------------------------------------------------------------------------------------


@fuzz(60)
@given(data=zip_with_lies(saved(nn.Sequential(nn.ReLU(), nn.Identity()))))
def test_pickled_modules(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("pickle") / "encoder.pkl"
    file.write_bytes(data)
    outcome(lambda: dvae_file.read(file), OSError)


# -- checkpoints -------------------------------------------------------------------------------------------------------

TRAINING = {
    "step": 3,
    "optimizers": {"model": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}},
}


@fuzz(40)
@given(
    name=st.sampled_from(["training.pt", "model.safetensors"]),
    which=st.integers(0, 3),
    data=st.data(),
)
def test_checkpoints(name: str, which: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in (3, 6):
        checkpoint.save(folder, checkpoint.Checkpoint(step, {"model": {"w": torch.ones(4)}}, TRAINING), keep=2)
    file = sorted(folder.glob("step-*"))[-1] / name
    content = file.read_bytes()
    lie = zip_with_lies(content) if name.endswith(".pt") and which else damaged(content)
    file.write_bytes(data.draw(lie))

    def all_of_them() -> list[Any]:
        return list(checkpoint.newest(folder))

    found = outcome(all_of_them)
    assert len(found) == 2
    assert isinstance(found[1], checkpoint.Checkpoint), "the one before is whole"
    if not isinstance(found[0], checkpoint.Checkpoint):
        path, reason = found[0]
        assert path == file.parent
        assert reason.isprintable()
        assert len(reason) < 1000


ODD_TRAINING = [value for value in HOSTILE if value != "\ud800"]


def test_checkpoints_that_hold_something_else(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, checkpoint.Checkpoint(3, {"model": {"w": torch.ones(4)}}, TRAINING), keep=2)
    for value in ODD_TRAINING:
        torch.save(value, tmp_path / "step-00000003" / "training.pt")
        assert len(outcome(lambda: list(checkpoint.newest(tmp_path)))) == 1
