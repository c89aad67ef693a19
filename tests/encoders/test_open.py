"""ENCODER arguments: runs, files and random weights give the tokens that they should, mistakes one line."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_networks import images, refused, same_tokens, small_vit, whole
from timm.models import VisionTransformer

import perceptual_mae
from perceptual_mae.data import MAX_PIXELS
from perceptual_mae.encoders import open_encoder
from perceptual_mae.encoders.open import open_whole
from perceptual_mae.errors import UsageError
from perceptual_mae.methods import METHODS
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.models.cost import count_parameters
from perceptual_mae.models.positions import resample, sincos_2d
from perceptual_mae.pretraining.build import build_model
from perceptual_mae.pretraining.config import PixelConfig, PretrainConfig
from perceptual_mae.settings import to_dict
from perceptual_mae.training.checkpoint import Checkpoint, save
from perceptual_mae.training.config import LoaderConfig
from perceptual_mae.transfer.saved import save_finetuned
from perceptual_mae.transfer.task import Learnt
from perceptual_mae.weight_files import encoder_metadata

MakeConfig = Callable[..., PretrainConfig]


# -- runs --------------------------------------------------------------------------------------------------------------


def write_run(config: PretrainConfig, step: int = 3) -> tuple[Path, MaskedAutoencoder]:
    """A run folder with a checkpoint, as the trainer writes them, and its model, with weights of its own."""
    model, run = build_model(config).eval(), Path(config.out)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    save(run / "checkpoints", Checkpoint(step, {"model": model.state_dict()}, {}), keep=2)
    return run, model


def generators() -> dict[str, dict[str, Any]]:
    """A method and architecture for every kind of generator."""
    return {
        row.generator: {"method": name, "architecture": architecture}
        for name, method in METHODS.items()
        for architecture, row in method.rows.items()
    }


@pytest.mark.parametrize("generator", generators())
def test_a_run_of_every_generator(make_config: MakeConfig, generator: str) -> None:
    settings = generators()[generator] | {"image_size": "32x48", "pixels": PixelConfig(mean=(0.4, 0.5, 0.6))}
    run, model = write_run(make_config(generator, **settings))
    encoder, text = open_encoder(str(run))
    pixels = images(3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), model.encode(pixels), atol=1e-5, rtol=1e-5)
    assert (encoder.image_size, encoder.grid, encoder.patch_size) == ((32, 48), (4, 6), 8)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert (encoder.name, encoder.depth, encoder.embed_dim) == (run.name, 6, 96)
    assert isinstance(encoder.network, VisionTransformer)
    assert text == "vit 96/6/3, patch 8, 32 x 48: step 3 of the run; 78 of 78 tensors matched"


def test_a_run_that_was_trained_and_its_encoder_file(make_config: MakeConfig) -> None:
    from perceptual_mae.api import pretrain

    run = pretrain(make_config("run", max_steps=2, image_size="32x16", pixels=PixelConfig(channels=1, mean=(0.3,))))
    whole, (alone, text) = perceptual_mae.load_encoder(run), open_encoder(str(run / "encoder.safetensors"))
    for encoder in (whole, alone):
        assert encoder.image_size == (32, 16)
        assert encoder.mean.flatten().tolist() == pytest.approx([0.3])
        assert encoder.std.flatten().tolist() == pytest.approx([0.25])
    pixels = images(1, 32, 16)
    assert torch.equal(whole(pixels), alone(pixels))
    assert alone.name == "run/encoder.safetensors"
    assert text == "vit 96/6/3, patch 8, 32 x 16: 78 of 78 tensors matched"


def test_the_newest_whole_checkpoint(make_config: MakeConfig) -> None:
    run, model = write_run(make_config("run"))
    (run / "checkpoints" / "step-00000009").mkdir()
    (run / "checkpoints" / "step-00000009" / "model.safetensors").write_bytes(b"cut off")
    encoder, text = open_encoder(str(run))
    assert "step 3 of the run" in text
    with torch.no_grad():
        torch.testing.assert_close(encoder(images(3, 32, 32)), model.encode(images(3, 32, 32)), atol=1e-5, rtol=1e-5)


def test_a_checkpoint_knows_the_size_of_its_runs_images(make_config: MakeConfig, tmp_path: Path) -> None:
    """4 x 16 patches are as many as 8 x 8."""
    pixels = PixelConfig(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    run, model = write_run(make_config("run", image_size="32x128", pixels=pixels))
    file = run / "checkpoints" / "step-00000003" / "model.safetensors"
    without = {name: tensor for name, tensor in model.state_dict().items() if name not in ("mean", "std")}
    for state in (model.state_dict(), without):
        save_file(state, file)
        encoder, _ = open_encoder(file)
        assert encoder.image_size == (32, 128)
        shown = images(3, 32, 128)
        with torch.no_grad():
            torch.testing.assert_close(encoder(shown), model.encode(shown), atol=1e-5, rtol=1e-5)
        larger = open_encoder(file, (32, 256))[1]
        assert "position embeddings resampled from 4 x 16 patches to 4 x 32" in larger


def test_a_checkpoint_opens_without_the_settings_of_its_run(make_config: MakeConfig) -> None:
    """They may be of a later version; whoever uses the file is told what is unknown."""
    run, model = write_run(make_config("run"))
    file = run / "checkpoints" / "step-00000003" / "model.safetensors"
    usual = open_encoder(file)[1]
    for damage, said in (("later: 1", "config.yaml: unknown setting later"), ("[", "config.yaml cannot be read")):
        with (run / "config.yaml").open("a") as settings:
            settings.write(f"\n{damage}\n")
        encoder, text = open_encoder(file)
        assert text.startswith(f"{usual}; the settings of its run are unknown ({run}/{said}")
        shown = images(3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(encoder(shown), model.encode(shown), atol=1e-5, rtol=1e-5)


def test_the_largest_image_is_that_of_the_run(make_config: MakeConfig, tmp_path: Path) -> None:
    """Of a fine-tuned one and of a file of a checkpoint, too."""
    run, _ = write_run(make_config("run", loader=LoaderConfig(max_pixels=5000)))
    file = run / "checkpoints" / "step-00000003" / "model.safetensors"
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    save_file(small_vit().state_dict(), tuned / "encoder.safetensors")
    (tuned / "config.yaml").write_text("task: detection\nloader: {max_pixels: 5000}\n")
    for spec in (run, file, tuned):
        assert open_whole(spec).max_pixels == 5000
    for settings in ("task: detection", "task: detection\nloader: {max_pixels: many}", "task: detection\nloader: 3"):
        (tuned / "config.yaml").write_text(settings)
        assert open_whole(tuned).max_pixels == MAX_PIXELS


def test_a_checkpoint_of_a_fine_tuning_is_described_by_its_best_network(tmp_path: Path) -> None:
    """33 positions are no square of patches, and twelve heads of 8 numbers are not usual for the width."""
    network = small_vit(img_size=(32, 64), embed_dim=96, num_heads=12)
    save_file(network.state_dict(), tmp_path / "encoder.safetensors", {"image_size": "[32, 64]", "num_heads": "12"})
    learner = Classifier.of(given := perceptual_mae.load_encoder(tmp_path / "encoder.safetensors"), 2)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors"
    checkpoint.parent.mkdir(parents=True)
    save_file(learner.state_dict(), checkpoint)
    assert "no square of patches" in refused(checkpoint)[1]
    description = learner.describe() | {"max_pixels": 5000}
    best = Learnt("classification", learner, ("a", "b"), description)
    for path in (checkpoint, save_finetuned(best, tmp_path / "run" / "model.safetensors", {})):
        opened = open_whole(path)
        assert (opened.encoder.image_size, opened.max_pixels) == ((32, 64), 5000)
        shown = images(3, 32, 64)
        torch.testing.assert_close(opened.encoder(shown, -1), given(shown, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_fine_tuned_network_says_what_its_encoder_takes(tmp_path: Path, task: str) -> None:
    """2 x 8 patches are as many as 4 x 4; twelve heads of 8 numbers are not usual for the width."""
    network = small_vit(img_size=(16, 64), embed_dim=96, num_heads=12, depth=4)
    facts = encoder_metadata((16, 64), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 12)
    save_file(network.state_dict(), tmp_path / "encoder.safetensors", facts)
    given = perceptual_mae.load_encoder(tmp_path / "encoder.safetensors")
    learner: Any
    if task == "classification":
        learner = Classifier.of(given, 2)
    else:
        pytest.importorskip("transformers")
        from perceptual_mae.models.segmenter import Segmenter

        learner = Segmenter.of(perceptual_mae.load_encoder(tmp_path / "encoder.safetensors"), 2, width=16)
    path = save_finetuned(Learnt(task, learner, ("a", "b"), learner.describe()), tmp_path / "model.safetensors", {})
    encoder, text = open_encoder(path)
    assert (encoder.image_size, encoder.network.blocks[0].attn.num_heads) == ((16, 64), 12)
    assert torch.equal(encoder.mean, given.mean)
    assert torch.equal(encoder.std, given.std)
    assert "the file does not say" not in text
    shown = images(3, 16, 64)
    torch.testing.assert_close(encoder(shown, -1), given(shown, -1), atol=1e-5, rtol=1e-5)
    save_file(learner.state_dict(), path)  # as a checkpoint has it, without a description
    assert torch.equal(open_encoder(path, (16, 64))[0].mean, given.mean)


def test_a_run_at_another_size(make_config: MakeConfig) -> None:
    run, model = write_run(make_config("run", image_size="32x48"))
    encoder, text = open_encoder(str(run), image_size=(64, 32))
    larger = MaskedAutoencoder.from_size("micro", image_size=(64, 32), patch_size=8).eval()
    larger.load_state_dict(
        model.state_dict()
        | {name: resample(model.state_dict()[name], (8, 4), (4, 6)) for name in ("pos_embed", "decoder_pos_embed")}
    )
    with torch.no_grad():
        expected = larger.encode(images(3, 64, 32))
    torch.testing.assert_close(encoder(images(3, 64, 32)), expected, atol=1e-5, rtol=1e-5)
    assert text.endswith("position embeddings resampled from 4 x 6 patches to 8 x 4")
    code, line = refused(run, image_size=36)
    assert (code, line) == (2, f"--image-size 36: ENCODER {run}: 36 x 36 is not a multiple of its patch size, 8")


@pytest.mark.parametrize("size", [None, (64, 64), (32, 64)])
def test_fixed_positions_are_no_parameters_at_any_size(
    make_config: MakeConfig, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    """They are computed, and resampled for other sizes; those that were learnt count."""
    run, model = write_run(make_config("run"))
    counted = count_parameters(model) - sum(
        parameter.numel() for name, parameter in model.named_parameters() if name not in model.encoder_state_dict()
    )
    fixed = sincos_2d(64, (10, 10))
    save_file(whole("test_vit").state_dict() | {"pos_embed": fixed}, tmp_path / "timm.safetensors")
    timms = sum(parameter.numel() for parameter in whole("test_vit", num_classes=0).parameters()) - fixed.numel()
    checkpoint = run / "checkpoints" / "step-00000003" / "model.safetensors"
    for spec, expected in {
        run: counted,
        checkpoint: counted,
        "random:micro/8": counted,
        f"timm:test_vit:{tmp_path / 'timm.safetensors'}": timms,
        "pixels:4": 0,
    }.items():
        assert perceptual_mae.load_encoder(spec, size).parameter_count == expected

    network = small_vit(embed_dim=64)
    save_file(network.state_dict(), tmp_path / "learnt.safetensors")
    learnt = perceptual_mae.load_encoder(tmp_path / "learnt.safetensors", size)
    assert learnt.parameter_count == sum(parameter.numel() for parameter in learnt.network.parameters())


def test_runs_that_have_no_encoder(make_config: MakeConfig, tmp_path: Path) -> None:
    run, _ = write_run(make_config("run"))
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"model": "tiny"}))
    assert refused(run) == (1, f"ENCODER {run}: its checkpoint is not of the model that its config.yaml describes")
    (run / "config.yaml").write_text("model: [")
    assert refused(run)[1].startswith(f"ENCODER {run}: config.yaml cannot be read")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text(yaml.safe_dump(settings))
    code, line = refused(tmp_path / "new")
    assert (code, line) == (1, f"ENCODER {tmp_path / 'new'}: has no checkpoint yet: train it with `pmae pretrain`")


# -- what is no encoder -----------------------------------------------------------------------------------------------


def test_files_of_something_else(tmp_path: Path) -> None:
    for name, content in (("text.safetensors", b"A text.\n"), ("text.pth", b"A text.\n"), ("empty.bin", b"")):
        (tmp_path / name).write_bytes(content)
    save_file({"conv.weight": torch.ones(3)}, tmp_path / "conv.safetensors")
    torch.save({"epoch": 3, "model": {"lr": 0.1}}, tmp_path / "nothing.pth")
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    torch.save(itself := {"model": {"x": torch.ones(2)}}, tmp_path / "plain.pth")
    itself["model"]["me"] = itself  # type: ignore[assignment]
    torch.save(itself, tmp_path / "itself.pth")
    for name, complaint in {
        "text.safetensors": "damaged, or no safetensors file",
        "text.pth": "no file of weights that can be read safely",
        "empty.bin": "no file of weights that can be read safely",
        "conv.safetensors": "patch_embed.proj.weight is not among its 1 tensors (conv.weight, ...)",
        "nothing.pth": "it holds no weights by name",
        "list.pth": "it holds no weights by name",
        "itself.pth": "patch_embed.proj.weight is not among its 1 tensors",
    }.items():
        code, line = refused(tmp_path / name)
        assert code == 1
        assert complaint in line


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    network = small_vit()
    save_file(network.state_dict(), tmp_path / "weights.bin")
    same_tokens(perceptual_mae.load_encoder(tmp_path / "weights.bin"), network)


def test_a_hostile_pickle_executes_nothing(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> object:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"cls_token": Touch()}, 2))
    torch.save({"model": small_vit().state_dict(), "args": Touch()}, tmp_path / "zip.pth")
    for spec in (str(tmp_path / "plain.pth"), str(tmp_path / "zip.pth"), f"timm:test_vit:{tmp_path / 'zip.pth'}"):
        code, line = refused(spec)
        assert code == 1
        assert "no file of weights that can be read safely" in line
    assert not (tmp_path / "executed").exists()


def test_encoders_that_there_are_not(tmp_path: Path) -> None:
    (tmp_path / "encoder.safetensors").touch()
    forms = "a run folder, a weights file, timm:NAME, timm:NAME:FILE, hub:USER/NAME, random:SIZE/PATCH or pixels:SIDE"
    for spec, complaint in {
        f"{tmp_path}/encodr.safetensors": "there is no such file or folder; did you mean encoder.safetensors?",
        f"{tmp_path}/no/x.pth": f"there is no such file or folder; give {forms}",
        "vit_base_patch16_224": "there is no such file or folder; did you mean timm:vit_base_patch16_224?",
        "tim:resnet50": f"there is no such file or folder; give {forms}",
        "timm:": f"there is no such file or folder; give {forms}",
        str(tmp_path): f"this folder holds no run (there is no config.yaml in it); give {forms}",
        "timm:resnet5": "timm has no model resnet5; did you mean resnet50?",
        "timm:resnet50.a1_in1": "Invalid pretrained tag (a1_in1) for resnet50; did you mean resnet50.a1_in1k?",
        f"timm:test_vit:{tmp_path}/encodr.safetensors": f"no file {tmp_path}/encodr.safetensors; did you mean",
        "random:macro": "there are micro, tiny, small, base, large, huge; did you mean micro?",
        "random:micro/": "the patch size is a number, such as random:micro/8",
        "random:micro/0": "the patch size is a number",
        "pixels:x": "the side is a number of pixels up to 224, such as pixels:16",
        "pixels:225": "the side is a number of pixels up to 224",
    }.items():
        code, line = refused(spec)
        assert code == 2
        assert line.startswith(f"ENCODER {spec}: ")
        assert complaint in line
    assert refused("") == (2, f"ENCODER is missing; give {forms}")


# -- the floor, and the public door -----------------------------------------------------------------------------------


def test_random_weights() -> None:
    encoder, text = open_encoder("random:micro/8", image_size=32)
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size("micro", image_size=32, patch_size=8).eval()
    with torch.no_grad():
        torch.testing.assert_close(encoder(images(3, 32, 32)), model.encode(images(3, 32, 32)), atol=1e-5, rtol=1e-5)
    assert text == "vit 96/6/3, patch 8, 32 x 32: random weights (seed 0)"
    encoder = perceptual_mae.load_encoder("random:tiny")
    assert (encoder.image_size, encoder.patch_size, encoder.name) == ((224, 224), 16, "random:tiny")


def test_raw_pixels() -> None:
    encoder, text = open_encoder("pixels:4", image_size="8x16")
    assert text == "the images themselves, 4 x 4 pixels of 8 x 16"
    pixels = images(3, 8, 16)
    normalised = (pixels - encoder.mean) / encoder.std
    expected = normalised.reshape(2, 3, 4, 2, 4, 4).mean(dim=(3, 5)).flatten(1)  # the mean of 2 x 4 pixels each
    tokens = encoder(pixels)
    assert tokens.shape == (2, 2, 48)
    torch.testing.assert_close(tokens.sort(dim=2).values, expected[:, None].expand(2, 2, 48).sort(dim=2).values)


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    save_file(whole("test_vit").state_dict(), tmp_path / "weights.safetensors")
    before = torch.get_rng_state()
    for spec in ("random:micro", f"timm:test_vit:{tmp_path / 'weights.safetensors'}"):
        perceptual_mae.load_encoder(spec)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_package_imports_without_torch() -> None:
    code = "import sys, perceptual_mae; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert callable(perceptual_mae.load_encoder)
    with pytest.raises(AttributeError, match="no attribute 'load_encodr'"):
        perceptual_mae.load_encodr  # noqa: B018


def test_mistakes_are_usage_errors() -> None:
    with pytest.raises(UsageError):
        perceptual_mae.load_encoder("nothing")
