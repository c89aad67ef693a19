"""`pmae attention` on a run and on a model of timm's."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from perceptual_mae import attention_maps
from perceptual_mae.api import pretrain
from perceptual_mae.attention_maps import attention_figure, same_images
from perceptual_mae.cli.attention import run as attention
from perceptual_mae.data import Source, StreamSettings, open_validation_or_all
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.measure import pictures
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.pretraining.config import PretrainConfig


@pytest.fixture(scope="module")
def run(config_for: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps: 32 pixels, patches of 8, three heads."""
    return pretrain(config_for(tmp_path_factory.mktemp("attention") / "run", max_steps=2))


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of timm's from a file: 160 pixels, patches of 16, two heads, six blocks."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    return f"timm:test_vit:{file}"


def drawn(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[Path, np.ndarray]:
    """The path that the command prints, and the picture that lies there."""
    attention([str(argument) for argument in arguments])
    path = Path(capsys.readouterr().out.splitlines()[-1])
    with Image.open(path) as image:
        assert image.format == "PNG"
        return path, np.asarray(image)


def test_two_encoders_and_all_their_heads(run: Path, public: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, pixels = drawn(capsys, run, public, "--heads", "all", "--count", 2, "--block", -2)
    assert path == run / "figures" / "attention.png"
    assert min(pixels.shape[:2]) > 200
    one, alone = drawn(capsys, run, "--count", 2)
    assert one == path  # drawn anew
    assert alone.shape[1] < pixels.shape[1]


def test_a_run_below_the_home_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    assert drawn(capsys, f"~/{run.name}", "--count", 1)[0] == run / "figures" / "attention.png"


def test_shards_are_fetched_as_the_run_fetches_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(run, tmp_path / "mine")
    settings = yaml.safe_load((mine / "config.yaml").read_text(encoding="utf-8"))
    settings["loader"] |= {"cache": "/fast/disk", "retries": 3}
    (mine / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    asked: list[StreamSettings | None] = []

    def opened(spec: str, *, channels: int, stream: StreamSettings | None = None) -> Source:
        asked.append(stream)
        return open_validation_or_all(spec, channels=channels)

    for module in (attention_maps, pictures):
        monkeypatch.setattr(module, "open_validation_or_all", opened)
    drawn(capsys, mine, "--count", 1)
    pictures.draw_side_by_side(tmp_path, {"mine": mine}, "cpu")
    assert asked == [StreamSettings(cache="/fast/disk", retries=3)] * 3


def test_the_same_seed_draws_the_same_picture(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def picture(*more: object) -> np.ndarray:
        return drawn(capsys, run, "--count", 1, "--out", tmp_path / "new" / "a.png", *more)[1]

    first = picture()
    assert np.array_equal(picture(), first)
    for other in (["--seed", 1], ["--block", 0], ["--heads", "1"], ["--mass", 0.6], ["--image-size", 64]):
        changed = picture(*other)
        assert changed.shape != first.shape or not np.array_equal(changed, first), other


def test_without_a_run_it_lies_where_one_is(
    public: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _ = drawn(capsys, public, "--data", "photos", "--count", 1, "--heads", "1,0")
    assert path == Path("attention.png")


def test_all_see_the_same_photographs_in_their_own_size(run: Path, public: str) -> None:
    encoders = [open_encoder(str(run))[0], open_encoder(public)[0], open_encoder(str(run), 64)[0]]
    pictures, names = same_images(encoders, "photos", 3)
    assert [tuple(images.shape) for images in pictures] == [(3, 3, 32, 32), (3, 3, 160, 160), (3, 3, 64, 64)]
    assert len(set(names)) == 3
    small, large, middle = (
        torch.nn.functional.interpolate(images.float(), size=(16, 16), mode="area") for images in pictures
    )
    assert (small - large).abs().mean() < 4
    assert (middle - large).abs().mean() < 4
    assert (small - large.roll(1, dims=0)).abs().mean() > 20

    figure = attention_figure(encoders, pictures, names, heads=[1], titles=["a", "b", "c"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:4] == ["Original", "a", "b", "c"]
    assert texts.count("1") == 9  # which head it is
    assert "in the last block, head 1; each map is scaled to its own maximum" in " ".join(texts)


def test_a_network_without_cls_is_noted_under_its_title() -> None:
    network = timm.create_model("test_vit", class_token=False, global_pool="avg")
    same = Encoder(network, "net", (160, 160), [0.5] * 3, [0.25] * 3)
    images = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    figure = attention_figure([same, same], [images, images], ["black"], titles=["a/net", "b/net"])
    texts = " ".join(text.get_text() for text in figure.axes[0].texts).split()
    assert "(of all patches on average in a/net, b/net: no [CLS] there)" in " ".join(texts)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--block 6", r"--block 6: .* has blocks 0 to 5, or -1 to -6 from the end"),
        ("--block -7", r"--block -7: .* has blocks 0 to 5, or -1 to -6 from the end"),
        ("--heads 0,3", r"--heads 0,3: .*: there is no head 3: the heads are 0 to 2"),
        ("--heads most", r"--heads most: give mean, all, or numbers such as 0,3,5"),
        ("--mass 1", r"--mass 1.0: must lie between 0 and 1 \(both excluded\)"),
        ("--mass 0", r"--mass 0.0: must lie between 0 and 1 \(both excluded\)"),
        ("--count 0", r"--count 0: must be at least 1"),
        ("--data nowhere", r"--data nowhere: there is no such file or folder.*"),
        ("--out .", r"--out \.: is a folder; give a PNG file to write"),
    ],
)
def test_wrong_usage_is_one_line(run: Path, more: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$") as caught:
        attention([str(run), *more.split()])
    assert "\n" not in str(caught.value)


def test_what_cannot_be_drawn_is_said(run: Path, public: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--data is missing: timm:test_vit:\S+ is no run folder"):
        attention([public])
    with pytest.raises(UsageError, match="ENCODERS is missing"):
        attention([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty"):
        attention([str(run), "--data", str(tmp_path / "empty")])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    with pytest.raises(PmaeError, match=r"no image in .*broken could be read \(1 tried\)"):
        attention([str(run), "--data", str(tmp_path / "broken")])
    cnn = tmp_path / "cnn.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), cnn)
    with pytest.raises(UsageError, match=r"is no Vision Transformer: it has no attention to draw$"):
        attention([f"timm:test_efficientnet:{cnn}", "--data", "photos"])
