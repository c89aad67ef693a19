import base64
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from html_page import Page
from PIL import Image

from perceptual_mae.errors import UsageError
from perceptual_mae.report import html
from perceptual_mae.report.curves import LINES
from perceptual_mae.report.embed import embed
from perceptual_mae.report.film import FRAMES
from perceptual_mae.report.html import write_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\n&amp; 写真 {{ 7*7 }}"


def report(run: Path, **options) -> tuple[str, Page]:
    path = write_report(run, **options)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_a_finished_run_is_told_in_full(make_run):
    _, page = report(make_run())
    for told in (
        "mine", "finished", "micro", "1.23 million parameters", "20,000 images", "./photos", "75 %",
        "200 steps", "1 min 40 s", "0.403", "0.413", "1.023", "800", "8 × 8", "cpu (2 threads)", "2.8.0",
        "k-NN of masked autoencoders is low by nature", "11.2", "46.0", "81.3", "30 %", "chance: 50 %",
        "arXiv:2212.14504", "CVPR 2023", "Tukra",
    ):  # fmt: skip
        assert told in page.seen, told
    assert "What is missing here" not in page.seen
    assert len(page.all("h1")) == 1
    assert len(page.all("svg")) == 5  # MSE, k-NN, lr, gradient norm, images a second


def test_the_page_asks_nothing_of_the_network_and_runs_only_its_own_script(make_run):
    text, page = report(make_run())
    loads = [value for _, a in page.elements for key, value in a.items() if key in ("src", "srcset", "poster", "data")]
    assert loads
    assert all(value.startswith("data:image/") for value in loads)
    assert not page.all("link")
    assert not page.all("iframe")
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)
    links = {a["href"] for a in page.all("a")}
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) == links == {"https://arxiv.org/abs/2212.14504"}
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert len(page.all("script")) == 1


def test_pictures_are_inside_the_newest_shown_first_and_described(make_run):
    run = make_run(pictures=(10, 100, 200))
    text, page = report(run)
    images = page.all("img")
    assert len(images) == 3
    for image in images:
        content = base64.b64decode(image["src"].partition("base64,")[2])
        with Image.open(io.BytesIO(content)) as opened:
            assert opened.size == (int(image["width"]), int(image["height"]))
    assert [re.search(r"after ([\d,]+) steps", image["alt"])[1] for image in images] == ["10", "100", "200"]
    radios = [a for a in page.all("input") if a["type"] == "radio"]
    assert [("checked" in radio, radio["aria-label"]) for radio in radios] == [
        (False, "Step 10"), (False, "Step 100"), (True, "Step 200"),
    ]  # fmt: skip
    # Without the script, too, each dot shows its picture.
    assert all(f"#film-{i}:checked ~ .frames > :nth-child({i + 1})" in text for i in range(3))
    assert "epoch 2.5" in page.seen


@pytest.mark.parametrize(("size", "shown"), [((1200, 40_000), (492, 16_383)), ((60_000, 90), (1800, 3))])
def test_a_picture_of_any_shape_is_shown(tmp_path, size, shown):
    """WebP has no picture with a side of more than 16,383 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 10, size[0] // 10), np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(tmp_path / "picture.png")
    found = embed(tmp_path / "picture.png")
    assert (found.width, found.height) == pytest.approx(shown, abs=1)
    with Image.open(io.BytesIO(base64.b64decode(found.uri.partition("base64,")[2]))) as opened:
        assert opened.size == (found.width, found.height)


def test_a_picture_that_cannot_be_written_is_none(tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(tmp_path / "picture.png")
    assert embed(tmp_path / "picture.png").uri.startswith("data:image/webp")

    def refuse(*_, **__):
        raise OSError("encoding error 5")

    monkeypatch.setattr(Image.Image, "save", refuse)
    assert embed(tmp_path / "picture.png") is None


COLOURS = (Path(html.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_the_page(dark):
    """WCAG 2.1, 1.4.3: a contrast of 4.5, and 3 for large text, which is what the answer of a comparison is."""
    style = COLOURS.split("@media (prefers-color-scheme: dark)")[dark].partition("* {")[0]
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", style))

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, other):
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    assert len([name for name in colours if name.startswith("line-")]) == len(LINES)
    for ground in ("page", "card", "tint"):
        for name in ("ink", "soft", "words", "accent", "good", "bad"):
            assert contrast(name, ground) >= 4.5, (name, ground)
        for number in range(len(LINES)):
            assert contrast(f"line-{number}", ground) >= 3, (number, ground)


def test_of_many_pictures_the_first_the_newest_and_a_few_between_are_kept(make_run):
    run = make_run(pictures=(1,))
    (only,) = (run / "figures").iterdir()
    for step in range(2, 60):
        (run / "figures" / f"reconstruction-{step:08d}.png").write_bytes(only.read_bytes())
    _, page = report(run)
    steps = [int(re.search(r"after (\d+) steps", image["alt"])[1]) for image in page.all("img")]
    assert 8 <= len(steps) <= FRAMES
    assert (steps[0], steps[-1]) == (1, 59)
    assert steps == sorted(set(steps))


def test_what_comes_from_data_is_text_wherever_it_stands(make_run):
    run = make_run(
        config={"data": HOSTILE, "method": HOSTILE, "out": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}},
        info={
            "state": "stopped", "message": HOSTILE, "device": HOSTILE, HOSTILE: HOSTILE, "expected": {HOSTILE: 1.0},
            "model": {"name": HOSTILE, HOSTILE: HOSTILE}, "data": {"classes": [HOSTILE, HOSTILE], HOSTILE: HOSTILE},
        },
    )  # fmt: skip
    with (run / "metrics.jsonl").open("a") as metrics:
        line = {"step": 210, HOSTILE: 1.0, f"loss/{HOSTILE}": 2.0, f"validation/{HOSTILE}": 2.0, f"knn/{HOSTILE}": 0.5}
        metrics.write(json.dumps(line) + "\n")
    (run / "skipped.txt").write_text(f"{HOSTILE.replace(chr(10), '')}\t{HOSTILE.replace(chr(10), '')}\n")
    hostile_home = run.rename(run.parent / "<b>run &copy; 'x'")
    _, page = report(hostile_home, defaults={HOSTILE: {}})
    assert len(page.all("script")) == 1
    assert not page.all("b") or all("onerror" not in a for _, a in page.elements)
    assert all(a["src"].startswith("data:image/") for a in page.all("img"))
    assert page.seen.count("<script>alert(1)</script>") >= 12
    assert "{{ 7*7 }}" in page.seen
    assert "49" not in re.findall(r"写真 (\S+)", page.seen)
    assert "<b>run &copy; 'x'" in page.seen
    assert any(a.get("aria-label", "").count("<script>") for _, a in page.elements)


@pytest.mark.parametrize("end", ["", "/"])
def test_the_command_that_repeats_the_run_survives_a_shell(make_run, end):
    run = make_run(config={"out": f"my runs/it's $HOME{end}"})
    text, _ = report(run)
    inside = re.search(r'<pre class="command"><code>(.*?)</code>', text, re.DOTALL)[1]
    shown = Page(inside).seen
    assert shlex.split(shown) == [
        "pmae", "pretrain", "--config", "my runs/it's $HOME/config.yaml", "--out", "my runs/it's $HOME-again",
    ]  # fmt: skip


def test_settings_that_differ_from_their_default_are_marked(make_run):
    run = make_run()
    text, _ = report(run)
    assert "(changed)" not in text
    defaults = yaml.safe_load((run / "config.yaml").read_text())
    defaults["optimizer"]["base_lr"] = 1e-3
    text, _ = report(run, defaults=defaults)
    assert re.findall(r'<div class="changed"><dt>([^<]+)</dt>', text) == ["base_lr"]


def test_a_metrics_file_cut_in_its_last_line_is_used_and_said(make_run):
    run = make_run(info={"state": "running"})
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 210, "loss/to')
    _, page = report(run)
    assert "200 steps" in page.seen
    assert "last line of metrics.jsonl is cut short" in page.seen


def test_a_running_run_says_how_long_it_will_take(make_run):
    _, page = report(make_run(info={"state": "running", "steps": 400}))
    assert "Step 200 of 400; about 1 min 40 s to go" in page.seen


def test_a_run_that_stopped_says_why_and_that_its_loss_is_not_finite(make_run):
    run = make_run(info={"state": "stopped", "message": "loss/perceptual is not finite at step 210"})
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 210, "loss/total": NaN, "loss/mse": NaN}\n')
    _, page = report(run)
    assert "loss/perceptual is not finite at step 210" in page.seen
    assert "was not finite at the last logged step" in page.seen


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (["NaN", "0.5"], "and the loss, not finite at the first logged step, is 0.5."),
        (["NaN", "NaN"], "and the loss was not finite at the last logged step."),
        (["NaN"], "and the loss was not finite at the last logged step."),
        (["Infinity", "0.5"], "and the loss, not finite at the first logged step, is 0.5."),
    ],
)
def test_a_first_loss_that_is_not_finite_is_no_number(make_run, losses, said):
    run = make_run()
    lines = [f'{{"step": {step}, "epoch": 1, "loss/total": {loss}}}\n' for step, loss in enumerate(losses, 1)]
    (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    _, page = report(run)
    assert said in page.seen
    assert "(1 epoch)" in page.seen
    assert "from – " not in page.seen


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    _, page = report(tmp_path)
    for said in ("There is no run.json", "No training step has been logged yet", "no reconstruction pictures yet"):
        assert said in page.seen
    assert not page.all("svg")


@pytest.mark.parametrize("content", ["[1, 2]", "{", "a: [", "\x00", "!!python/object:os.system x", '"text"'])
def test_files_of_other_content_are_named_not_fatal(tmp_path, content):
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_text(content)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "reconstruction-00000010.png").write_bytes(b"\x89PNG half a picture")
    (tmp_path / "figures" / "before-after.png").write_bytes(b"")
    _, page = report(tmp_path)
    assert "config.yaml" in page.seen
    assert "run.json" in page.seen
    assert "reconstruction-00000010.png could not be read" in page.seen


def test_values_of_the_wrong_kind_are_not_fatal(make_run):
    run = make_run(
        config={"data": ["a", "b"], "mask_ratio": "three quarters", "optimizer": None, "out": None},
        info={
            "model": {"parameters": "many", "grid": 8, "tokens": None, "gflop_per_image": "x"}, "data": [],
            "steps": "all", "expected": {"mse": "one"}, "state": 7, "message": None, "processes": {}, "device": None,
        },
    )  # fmt: skip
    _, page = report(run)
    assert "state not known" in page.seen
    assert "None" not in page.seen


def test_skipped_files_are_counted_and_the_first_are_listed(make_run):
    run = make_run()
    (run / "skipped.txt").write_text("".join(f"file-{i}.jpg\tnot an image\n" for i in range(1234)))
    text, page = report(run)
    assert "1,234 skipped files" in page.seen
    assert text.count("<td>not an image</td>") == 200
    assert "file-199.jpg" in page.seen
    assert "file-200.jpg" not in page.seen
    assert "1,034 more" in page.seen


def test_a_long_run_has_a_small_report(make_run):
    run = make_run(pictures=())
    with (run / "metrics.jsonl").open("a") as metrics:
        for step in range(201, 100_201):
            metrics.write(f'{{"step": {step}, "loss/total": {0.4 + step % 97 / 500}, "x": {step % 89}, "lr": 1e-4}}\n')
    text, page = report(run)
    assert len(text) < 250_000
    assert "100,200 steps" in page.seen


def test_a_thousand_keys_do_not_make_a_thousand_panels(make_run):
    run = make_run(pictures=())
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 210} | {f"key/{i}": i for i in range(1000)}) + "\n")
    _, page = report(run)
    assert len(page.all("svg")) <= 40


def test_the_demo_shows_before_and_after(make_run):
    run = make_run(pictures=(200,))
    (run / "figures" / "before-after.png").write_bytes(next((run / "figures").iterdir()).read_bytes())
    _, page = report(run)
    assert "Before and after training" in page.seen
    assert len(page.all("img")) == 2


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"no config\.yaml") as caught:
            write_report(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
