"""Loading weights: what matches is loaded, what does not is named, and a file of another model is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.errors import PmaeError
from perceptual_mae.models import MaskedAutoencoder

Side = int | tuple[int, int]


def model(image_size: Side = 32, size: str = "micro", seed: int = 0, **more: object) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    return MaskedAutoencoder.from_size(size, image_size=image_size, patch_size=8, **more)


def published(source: MaskedAutoencoder) -> dict[str, Tensor]:
    """The weights as public MAE files have them: without mean and std."""
    return {name: t.clone() for name, t in source.state_dict().items() if name not in ("mean", "std")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_model() -> None:
    source, target = model(seed=1), model(seed=2)
    report = target.load_mae_state_dict(published(source) | {"head.weight": torch.zeros(3, 96)})
    assert same(target.state_dict(), source.state_dict())
    assert set(report.used) == set(published(source))
    assert (report.ignored, report.missed, report.resampled) == (("head.weight",), (), ())
    assert str(report) == f"{len(published(source))} tensors loaded; 1 ignored (head.weight)"


def test_an_encoder_alone_leaves_the_decoder_as_it_was() -> None:
    source, target = model(seed=1), model(seed=2)
    before = {name: t.clone() for name, t in target.state_dict().items()}
    report = target.load_mae_state_dict(source.encoder_state_dict())
    assert same(target.encoder_state_dict(), source.encoder_state_dict())
    decoder = {name for name in before if name.startswith(("decoder", "mask_token"))}
    assert set(report.missed) == decoder
    assert all(torch.equal(target.state_dict()[name], before[name]) for name in decoder)
    assert ", ..." in str(report)
    assert f"{len(decoder)} missed" in str(report)


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module._orig_mod."])
def test_names_under_a_prefix(prefix: str) -> None:
    source, target = model(seed=1), model(seed=2)
    report = target.load_mae_state_dict({prefix + name: t for name, t in published(source).items()} | {"step": 3})
    assert same(target.state_dict(), source.state_dict())
    assert report.missed == ()


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", "model_state_dict"])
def test_the_dict_around_a_state_dict(wrapper: str) -> None:
    source, target = model(seed=1), model(seed=2)
    report = target.load_mae_state_dict({wrapper: published(source), "optimizer": {"state": {}}, "epoch": 3})
    assert same(target.state_dict(), source.state_dict())
    assert report.ignored == report.missed == ()


def test_the_teacher_of_dino_and_the_base_encoder_of_moco_v3() -> None:
    source = model(seed=1)
    encoder = {name: t.clone() for name, t in source.encoder_state_dict().items()}
    other = {name: torch.zeros_like(t) for name, t in encoder.items()}
    dino = {
        "student": {"module.backbone." + name: t for name, t in other.items()},
        "teacher": {"backbone." + name: t for name, t in encoder.items()} | {"head.mlp.0.weight": torch.ones(2)},
    }
    moco = {"state_dict": {"module.momentum_encoder." + name: t for name, t in other.items()}}
    moco["state_dict"] |= {"module.base_encoder." + name: t for name, t in encoder.items()}
    for state, beside in ((dino, 1), (moco, len(encoder))):
        target = model(seed=2)
        report = target.load_mae_state_dict(state)
        assert same(target.encoder_state_dict(), source.encoder_state_dict())
        assert len(report.ignored) == beside


def test_half_precision_weights_are_loaded_in_the_models_precision() -> None:
    source, target = model(seed=1), model(seed=2)
    target.load_mae_state_dict({name: t.half() for name, t in published(source).items()})
    assert target.norm.weight.dtype == torch.float32
    torch.testing.assert_close(target.decoder_pred.weight, source.decoder_pred.weight, atol=1e-3, rtol=0)


def test_mean_and_std_come_from_the_file_in_any_shape() -> None:
    target = model()
    target.load_mae_state_dict(published(model(seed=1)) | {"mean": torch.tensor([0.1, 0.2, 0.3])})
    assert target.mean.shape == (1, 3, 1, 1)
    assert target.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("old", "new"),
    [(32, 64), (64, 32), (32, (32, 64)), ((32, 64), (48, 96)), ((64, 32), (32, 16))],
    ids=["larger", "smaller", "square to oblong", "oblong to larger", "oblong to smaller"],
)
def test_another_grid_is_resampled(old: Side, new: Side) -> None:
    source, target = model(old, seed=1), model(new, seed=2)
    # Learnt embeddings, as timm's supervised models have them.
    source.pos_embed.normal_(generator=torch.Generator().manual_seed(3))
    report = target.load_mae_state_dict(published(source))
    assert set(report.resampled) == {"pos_embed", "decoder_pos_embed"}
    assert report.missed == ()
    image = source.pos_embed[0, 1:].T.reshape(1, 96, *source.grid)
    expected = F.interpolate(image, target.grid, mode="bicubic", antialias=True)[0].flatten(1).T
    torch.testing.assert_close(target.pos_embed[0, 1:], expected)
    assert torch.equal(target.pos_embed[0, 0], source.pos_embed[0, 0])
    assert torch.equal(target.patch_embed.proj.weight, source.patch_embed.proj.weight)


@pytest.mark.parametrize("tokens", [1, 2, 18, 38, 198])
def test_a_position_embedding_that_is_no_grid_is_missed_not_fatal(tokens: int) -> None:
    # DeiT's distilled models have a second token: 14 x 14 patches and two more.
    source, target = model(32, seed=1), model(32, seed=2)
    state = published(source) | {"pos_embed": torch.randn(1, tokens, 96)}
    before = target.pos_embed.clone()
    report = target.load_mae_state_dict(state)
    if tokens == 2:  # one patch is a grid
        assert report.resampled == ("pos_embed",)
        return
    assert report.resampled == ()
    assert report.missed == (f"pos_embed (file 1x{tokens}x96, model 1x17x96)",)
    assert torch.equal(target.pos_embed, before)
    assert torch.equal(target.cls_token, source.cls_token)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": 3},
        {"head.weight": torch.zeros(3, 4)},
        {f"encoder.layer.{i}.weight": torch.zeros(96, 96) for i in range(80)},
        # DINO's training checkpoints.
        {"student": {"module.backbone.cls_token": torch.zeros(1, 1, 96)}, "teacher": {"x": torch.zeros(2)}},
    ],
    ids=["empty", "no tensors", "a head", "another naming", "dino"],
)
def test_a_file_of_another_model_is_refused(state: dict[str, object]) -> None:
    target = model()
    before = {name: t.clone() for name, t in target.state_dict().items()}
    with pytest.raises(PmaeError, match=r"weights are of another model: 0 of 77 encoder tensors match"):
        target.load_mae_state_dict(state)
    assert same(target.state_dict(), before)


def test_another_width_is_refused_with_both_shapes_and_nothing_is_loaded() -> None:
    target = model()
    before = {name: t.clone() for name, t in target.state_dict().items()}
    with pytest.raises(PmaeError, match=r"0 of 77 .* for instance cls_token \(file 1x1x192, model 1x1x96\)"):
        target.load_mae_state_dict(published(model(size="tiny")))
    assert same(target.state_dict(), before)


def test_half_is_the_border() -> None:
    target = model()
    encoder = [name for name in target.encoder_state_dict() if name != "pos_embed"]
    state = published(model(seed=1))
    assert len(encoder) == 77
    report = target.load_mae_state_dict({name: state[name] for name in encoder[:39]})
    assert len(report.used) == 39
    before = {name: t.clone() for name, t in target.state_dict().items()}
    with pytest.raises(PmaeError, match="38 of 77 encoder tensors match"):
        target.load_mae_state_dict({name: state[name] for name in encoder[39:77]} | {"pos_embed": state["pos_embed"]})
    assert same(target.state_dict(), before)


def test_other_channels_miss_the_projection_alone() -> None:
    target = model(in_channels=4)
    report = target.load_mae_state_dict(published(model(seed=1)))
    assert any(name.startswith("patch_embed.proj.weight (file 96x3x8x8, model 96x4x8x8)") for name in report.missed)
    assert {name.split()[0] for name in report.missed} == {
        "patch_embed.proj.weight",
        "decoder_pred.weight",
        "decoder_pred.bias",
    }
