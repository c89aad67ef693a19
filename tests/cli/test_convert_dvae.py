"""`pmae convert-dvae`: the same weights in a safetensors file, or one line and no file."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from perceptual_mae import dvae_file
from perceptual_mae.cli.convert_dvae import run
from perceptual_mae.dvae_file import Converted, open_encoder
from perceptual_mae.errors import PmaeError
from perceptual_mae.models.dvae import DvaeEncoder


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and line."""
    with pytest.raises(PmaeError) as caught:
        run([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return caught.value.exit_code, str(caught.value)


def test_the_same_weights(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "dvae.safetensors"
    run([str(golden / "dvae_encoder_small.pkl"), str(out)])
    written, reference = load_file(out), load_file(golden / "dvae_reference.safetensors")
    expected = {k.removeprefix("encoder."): t for k, t in reference.items() if k.startswith("encoder.")}
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor.float()) for name, tensor in expected.items())
    with safe_open(out, "pt") as file:
        sizes = {k: v for k, v in file.metadata().items() if k != "format"}
    with safe_open(golden / "dvae_reference.safetensors", "pt") as file:
        assert sizes == dict(word.split("=") for word in file.metadata()["config"].split())
    weights = sum(tensor.numel() for tensor in written.values())
    assert capsys.readouterr().out == (
        f"{out}: {len(written)} tensors, {weights:,} weights (another one: the published encoder has 53,786,240)\n"
    )
    assert [path.name for path in out.parent.iterdir()] == ["dvae.safetensors"]


def test_the_published_one_is_known_by_its_count() -> None:
    said = str(Converted(Path("dvae.safetensors"), 60, 53_786_240))
    assert said == "dvae.safetensors: 60 tensors, 53,786,240 weights (as many as the published encoder)"


def test_types_are_kept_and_an_encoder_without_its_head_converts(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in DvaeEncoder(8, 1, 2).state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    run([str(tmp_path / "half.safetensors"), str(tmp_path / "again.safetensors")])
    assert {tensor.dtype for tensor in load_file(tmp_path / "again.safetensors").values()} == {torch.float16}
    assert open_encoder(tmp_path / "again.safetensors").n_hid == 8


def test_the_input_is_not_overwritten(golden: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "encoder.safetensors"
    content = (golden / "dvae_encoder_small.pkl").read_bytes()
    pickled.write_bytes(content)
    (tmp_path / "link.safetensors").symlink_to(pickled)
    (tmp_path / "hard.safetensors").hardlink_to(pickled)
    for out in (pickled, tmp_path / "." / "link.safetensors", tmp_path / "hard.safetensors"):
        code, line = refused(pickled, out)
        assert code == 2
        assert "this is the file to read" in line
    assert pickled.read_bytes() == content


def test_mistakes(golden: Path, tmp_path: Path) -> None:
    pickled = golden / "dvae_encoder_small.pkl"
    for arguments, complaint in (
        ((tmp_path / "nothing.pkl", tmp_path / "out.safetensors"), "nothing.pkl: there is no such file"),
        ((tmp_path, tmp_path / "out.safetensors"), "there is no such file"),
        ((pickled, tmp_path / "out.pkl"), "ends in .safetensors"),
        ((pickled, tmp_path), "ends in .safetensors"),
        ((pickled,), "OUT is missing"),
        ((pickled, tmp_path / "out.safetensors", "--heads", "no"), "unknown flag --heads"),
    ):
        code, line = refused(*arguments)
        assert code == 2
        assert complaint in line
    assert list(tmp_path.iterdir()) == []


def test_failures_leave_no_file(golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    torch.save(nn.Sequential(nn.ReLU(), nn.Identity()), tmp_path / "other.pkl")
    torch.save(nn.Sequential(nn.GELU()), tmp_path / "gelu.pkl")
    (tmp_path / "cut.pkl").write_bytes((golden / "dvae_encoder_small.pkl").read_bytes()[:-1000])
    (tmp_path / "cut.safetensors").write_bytes((golden / "dvae_reference.safetensors").read_bytes()[:-1000])
    (tmp_path / "text.pkl").write_text("A plain text.\n")
    (tmp_path / "file").write_text("")
    for arguments, complaint in (
        ((tmp_path / "other.pkl", out), "other.pkl: these are not the weights of a dVAE encoder"),
        ((tmp_path / "gelu.pkl", out), "gelu.pkl holds torch.nn.modules.activation.GELU, which is refused"),
        ((tmp_path / "cut.pkl", out), "cut.pkl: damaged"),
        ((tmp_path / "cut.safetensors", out), "cut.safetensors: damaged"),
        ((tmp_path / "text.pkl", out), "text.pkl: no zip archive"),
        ((golden / "dvae_encoder_small.pkl", tmp_path / "file" / "out.safetensors"), "file"),
    ):
        code, line = refused(*arguments)
        assert code == 1
        assert complaint in line
    assert not out.exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left\non device")])
def test_a_failure_while_writing(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(state: object, path: Path, metadata: object) -> None:
        path.write_text("half of it")
        raise error

    out = tmp_path / "out.safetensors"
    out.write_text("what was there before")
    monkeypatch.setattr(dvae_file, "save_file", fail)
    code, line = refused(golden / "dvae_encoder_small.pkl", out)
    assert (code, line) == (1, f"{out}: No space left on device")
    assert out.read_text() == "what was there before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
