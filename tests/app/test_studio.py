"""What the page asks for, without the page: images of every kind, paintings against the models' own, neighbours."""

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from odd_files import broken_files, encode, good_files, photograph

from perceptual_mae.app.looking import heads_of
from perceptual_mae.app.masks import from_text, to_text
from perceptual_mae.app.painting import Painting, open_runs
from perceptual_mae.app.studio import RefusedError, Studio, open_studio
from perceptual_mae.cli.main import main
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.attention import cls_attention, patch_attention


def picked(name: str, content: bytes) -> str:
    return json.dumps({"name": name, "size": len(content), "data": base64.b64encode(content).decode()})


@pytest.mark.parametrize("name", good_files())
def test_any_image_is_painted(studio: Studio, name: str) -> None:
    image = studio.take(picked(name, good_files()[name]))
    shown = studio.show_paintings(image, studio.draw_mask(image, 0.75, 0))
    assert shown.count("<img") == 10
    assert 'role="alert"' not in shown


@pytest.mark.parametrize("name", broken_files())
def test_whatever_is_no_image_is_refused_in_a_line(studio: Studio, name: str) -> None:
    with pytest.raises(RefusedError, match=f"^{name}: ") as refused:
        studio.take(picked(name, broken_files()[name]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *["", "null", "3", "[]", "{}", "[" * 100_000, '{"example": 99}', '{"example": -1}', '{"name": "a", "size": 1}'],
        *['{"name": "a", "size": 1, "data": "/"}', '{"name": "a", "size": null, "data": ""}'],
    ],
)
def test_nonsense_is_refused(studio: Studio, text: str) -> None:
    with pytest.raises(RefusedError, match="pick an example, or drop an image"):
        studio.take(text)


@pytest.mark.parametrize("words", [{"size": 2_000_001}, {"size": 3, "data": "A" * 3_000_000}])
def test_large_files_are_refused_unread(studio: Studio, words: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match=r"^big: larger than 2 MB \(see --max-upload\)$"):
        studio.take(json.dumps({"name": "big", **words}))


def test_a_painting_is_what_the_model_draws(studio: Studio) -> None:
    image = studio.take('{"example": 0}')
    mask = studio.draw_mask(image, 0.75, 5)
    hidden = from_text(mask, (4, 4))
    assert hidden is not None
    found = studio.paintings(image, mask)[0]
    assert isinstance(found, Painting)
    run = studio.runs[0]
    original = image.crops[run.view][None].float() / 255  # type: ignore[index]
    # The same mask by way of the model's own noise: the hidden patches have the highest.
    noise = torch.rand(1, 16, generator=torch.Generator().manual_seed(1)) + 2 * hidden.flatten()
    with torch.no_grad():
        expected = run.model(original, 0.75, noise).images.clamp(0, 1)[0]
    torch.testing.assert_close(found.reconstruction, expected, atol=1e-5, rtol=0)
    pixels = hidden.repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert torch.equal(found.hidden[0], pixels)
    assert torch.equal(found.pasted[:, ~pixels], original[0][:, ~pixels])
    away = (expected - original[0])[:, pixels].double()
    assert found.l1 == pytest.approx(float(away.abs().mean()), rel=1e-4)
    assert found.psnr == pytest.approx(float(-10 * (away**2).mean().log10()), rel=1e-4)
    assert found.difference[~pixels].eq(0).all()


def test_a_hidden_pixel_changes_nothing_but_itself(studio: Studio) -> None:
    image = studio.take('{"example": 0}')
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[0, 0] = True
    first = studio.paintings(image, to_text(hidden))[0]
    assert isinstance(first, Painting)
    crops = {view: crop.clone() for view, crop in image.crops.items() if isinstance(crop, torch.Tensor)}
    crops[studio.runs[0].view][:, :8, :8] = 0
    other = studio.paintings(replace(image, crops=crops), to_text(hidden))[0]
    assert isinstance(other, Painting)
    assert torch.equal(first.reconstruction, other.reconstruction)  # the model has not seen what is hidden
    assert first.l1 != other.l1


@pytest.mark.parametrize("mask", ["", "0101", "0000,0000,0000", "0000,0000,0000,000x"])
def test_a_mask_of_another_image_is_refused(studio: Studio, mask: str) -> None:
    with pytest.raises(RefusedError, match="pick the image again"):
        studio.show_paintings(studio.take('{"example": 0}'), mask)


def test_attention_is_refused_where_there_is_none(studio: Studio) -> None:
    image = studio.take('{"example": 0}')
    with pytest.raises(RefusedError, match="no such encoder"):
        studio.show_attention(image, "nobody", "", 0)
    with pytest.raises(RefusedError, match="has blocks 0 to 5"):
        studio.show_attention(image, "fine", "", 6)
    assert studio.show_attention(image, "fine", "99,99", 5) == studio.show_attention(image, "fine", "", 5)
    assert studio.show_attention(image, "fine", "1,2", 5) != studio.show_attention(image, "fine", "", 5)


def test_a_patch_looks_for_itself(studio: Studio) -> None:
    image, looker = studio.take('{"example": 0}'), studio.lookers[0]
    crop = image.crops[looker.view]
    assert isinstance(crop, torch.Tensor)
    images = crop[None].float() / 255
    with torch.no_grad():
        for block in (0, 5):
            torch.testing.assert_close(
                heads_of(looker, image, (1, 2), block), patch_attention(looker.encoder, images, (1, 2), block)[0]
            )
            torch.testing.assert_close(
                heads_of(looker, image, None, block), cls_attention(looker.encoder, images, block)[0]
            )


def test_neighbours_are_the_images_themselves(studio: Studio, pictures: Path) -> None:
    assert studio.neighbourhood is not None
    for file in pictures.rglob("*.png"):
        image = studio.take(picked(file.name, file.read_bytes()))
        nearest = studio.neighbourhood.nearest(image, 3)
        assert nearest[0].name == str(file.relative_to(pictures))
        assert nearest[0].label == file.parent.name
        assert nearest[0].similarity == pytest.approx(1, abs=1e-5)
        assert nearest[0].item is not None
        assert nearest[0].item.data == file  # found past the broken file that lies among them
        assert [each.similarity for each in nearest] == sorted((each.similarity for each in nearest), reverse=True)


def test_names_of_any_kind_are_shown_as_they_are(studio: Studio) -> None:
    image = studio.take(picked("<script>alert(1)</script>", encode(photograph(), "PNG")))
    assert studio.about(image).startswith("<script>")
    from perceptual_mae.app.markup import message, note

    assert "<script>" not in note(studio.about(image)) + message(studio.about(image))


def test_small_images_are_said_to_be_enlarged(studio: Studio) -> None:
    assert "was enlarged" in studio.about(studio.take(picked("dot.png", encode(photograph((20, 20)), "PNG"))))
    assert "enlarged" not in studio.about(studio.take(picked("cat.png", encode(photograph(), "PNG"))))


def test_a_run_that_sees_other_channels_says_what_it_cannot_read(studio: Studio) -> None:
    image = studio.take('{"example": 0}')
    blind = replace(image, crops={**image.crops, studio.runs[1].view: "it has 3 channels, not 7"})
    shown = studio.show_paintings(blind, studio.draw_mask(blind, 0.5, 0))
    assert "this run cannot read the image: it has 3 channels, not 7" in shown
    assert shown.count("<img") == 5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"runs": []}, "RUN is missing"),
        ({"runs": ["nowhere"]}, "RUN nowhere is no run folder"),
        ({"neighbours": "nowhere.parquet"}, "--neighbours nowhere.parquet: there is no such file"),
        ({"neighbours_data": "x"}, "--neighbours-data x: needs --neighbours"),
        ({"max_upload": 0.0}, "--max-upload 0: must be more than 0"),
        ({"data": "nowhere"}, "nowhere"),
        ({"encoders": ["nowhere.safetensors"]}, "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_opened_is_named(runs: list[str], words: dict[str, object], line: str) -> None:
    arguments = {"runs": runs[:1], "device": "cpu", **words}
    with pytest.raises(UsageError, match=line):
        open_studio(**arguments)  # type: ignore[arg-type]


def test_runs_of_one_name_are_told_apart(runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was typed for one may be the name of another."""
    monkeypatch.chdir(tmp_path)
    for place in ("x/fine", "y/fine", "z/linked"):
        shutil.copytree(runs[0], place)
    (tmp_path / "linked").symlink_to("x/fine")
    assert [run.name for run in open_runs(["linked", "y/fine", "z/linked"])] == ["linked", "y/fine", "linked (2)"]


def test_a_run_is_named_once(runs: list[str]) -> None:
    with pytest.raises(UsageError, match="it is named twice"):
        open_studio([runs[0], runs[0] + "/"], device="cpu")


def test_neighbours_of_another_encoder_are_refused(runs: list[str], features: str) -> None:
    with pytest.raises(UsageError, match="none of the encoders given"):
        open_studio(runs[1:], neighbours=features, device="cpu")
    assert open_studio(runs[1:], encoders=runs[:1], neighbours=features, device="cpu").neighbourhood is not None


def test_neighbours_that_have_moved(runs: list[str], features: str, pictures: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    copied = tmp_path / "features.parquet"
    copied.write_bytes(Path(features).read_bytes())
    pictures.rename(moved)
    try:
        with pytest.raises(PmaeError, match="--neighbours-data says where its images are now"):
            open_studio(runs[:1], neighbours=str(copied), device="cpu")
        found = open_studio(runs[:1], neighbours=str(copied), neighbours_data=str(moved), device="cpu")
        image = found.take(picked("piece.png", (moved / "left" / "piece 0.png").read_bytes()))
        assert "left/piece 0.png" in found.show_neighbours(image)
        (moved / "left" / "piece 0.png").unlink()
        assert "no such file or directory" in found.show_neighbours(image)
    finally:
        moved.rename(pictures)
        photograph((400, 300)).crop((0, 0, 100, 100)).save(pictures / "left" / "piece 0.png")


@pytest.mark.parametrize("content", [b"", b"no parquet", None])
def test_files_that_hold_no_neighbours(runs: list[str], content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "odd.parquet"
    if content is None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"path": ["a"], "label": ["b"], "vector": [[1.0]]}), file)
    else:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"it is no parquet file that `pmae embed` wrote"):
        open_studio(runs[:1], neighbours=str(file), device="cpu")


def test_a_run_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="pip install 'perceptual-mae[app]'")
    assert main(["app", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pmae: RUN {tmp_path} is no run folder: ")
    assert said.count("\n") == 1
