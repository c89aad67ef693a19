"""What a run comes to, in plain words and a few numbers."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perceptual_mae.pretraining.health import LONG, health
from perceptual_mae.report.panels import pretty
from perceptual_mae.report.run_folder import RunRecord
from perceptual_mae.report.words import UNKNOWN, compact, count, duration, epochs, is_number, number, percent

KNN_NOTE = (
    "k-NN of masked autoencoders is low by nature: their features are not made to lie in clusters. On ImageNet, MAE "
    "reaches 11.2 with k-NN, 46.0 with a linear probe and 81.3 fine-tuned (lightly's benchmark). Watch whether it "
    "rises; judge the encoder by a linear probe or by fine-tuning."
)
EXPECTED_NOTE = "the loss of painting everything in the mean colour of the training images"


@dataclass(frozen=True)
class Fact:
    """A number worth a place at the top: what it is, its value, and what to compare it with."""

    name: str
    value: str
    beside: str = ""


@dataclass(frozen=True)
class Setting:
    """One line of `config.yaml`; `changed` is None where the defaults are not known."""

    key: str
    value: str
    changed: bool | None


def loss_key(run: RunRecord) -> str | None:
    """The metric that stands for the training loss."""
    losses = [key for key in run.tracks if key.startswith("loss/")]
    return next((key for key in ("loss/total", "loss", *losses) if key in run.tracks), None)


def status(run: RunRecord) -> tuple[str, str]:
    """The state of the run: one of finished, running, stopped, unknown; and a sentence about it."""
    state = str(run.info.get("state", "unknown"))
    message = str(run.info.get("message") or "").strip()
    planned, last = run.info.get("steps"), run.last_step()
    if state == "finished":
        return state, message or "The run did all its steps."
    if state == "stopped":
        return state, message or "The run stopped before its last step."
    if state != "running":
        return "unknown", message
    seconds = run.latest("seconds")
    if is_number(planned) and is_number(seconds) and 0 < last < planned:
        left = duration(seconds * (planned - last) / last)
        return state, f"Step {count(last)} of {count(planned)}; about {left} to go, unless it was interrupted."
    return state, "When this page was written, the run was going on or had been interrupted."


def summary(run: RunRecord) -> list[str]:
    """The run in a few plain sentences."""
    model, data = run.section("model"), run.section("data")
    name = model.get("name", run.config.get("model"))
    size = f" of {compact(model['parameters'])} parameters" if is_number(model.get("parameters")) else ""
    images = f"{count(data['images'])} images" if is_number(data.get("images")) else "images"
    source = f" of {run.config['data']}" if run.config.get("data") else ""
    method = f" with the method {run.config['method']}" if run.config.get("method") else ""
    hidden = percent(run.config["mask_ratio"]) if is_number(run.config.get("mask_ratio")) else "most"
    sentences = [
        f"A masked autoencoder{f' “{name}”' if name else ''}{size}, pre-trained on {images}{source}{method}: {hidden} "
        "of every image is hidden, and the model learns to paint what is missing."
    ]
    sentences.append(course(run))
    return [sentence for sentence in (*sentences, comparison(run), game(run)) if sentence]


def course(run: RunRecord) -> str:
    """How long the run took, and how its loss went, in a sentence."""
    key, last = loss_key(run), run.last_step()
    if key is None:
        return "No training step has been logged yet."
    track = run.tracks[key]
    epoch, seconds = run.latest("epoch"), run.latest("seconds")
    extent = [epochs(epoch)] if is_number(epoch) else []
    extent += [duration(seconds)] if is_number(seconds) else []
    so_far = "So far it has taken" if status(run)[0] == "running" else "It took"
    first, final = track.values[0], track.latest[1]
    loss = f"the loss went from {number(first)} to {number(final)}"
    if not is_number(final):
        before = f", {number(first)} at first," if is_number(first) else ""
        loss = f"the loss{before} was not finite at the last logged step"
    elif len(track.values) == 1:
        loss = f"the loss is {number(final)}"
    elif not is_number(first):
        loss = f"the loss, not finite at the first logged step, is {number(final)}"
    took = f" ({', '.join(extent)})" if extent else ""
    steps = f"{count(last)} step" + ("" if last == 1 else "s")
    return f"{so_far} {steps}{took}, and {loss}."


def game(run: RunRecord) -> str:
    """How the game between generator and discriminator stands; empty where there is none."""
    if "d_real" not in run.tracks:
        return ""
    steps = run.tracks["d_real"].points()[0][-LONG:]
    lines = [{key: track.at(step) for key, track in run.tracks.items() if track.at(step) is not None} for step in steps]
    found = health(lines)
    return found.words if found else ""


def comparison(run: RunRecord) -> str:
    """The latest error beside the one that is to be expected; empty where either is not known."""
    for name, expected in {**run.expected(), **_logged_expectations(run)}.items():
        for key, where in ((f"validation/{name}", "On images it was not trained on"), (f"loss/{name}", "In training")):
            value = run.latest(key)
            if is_number(value):
                return (
                    f"{where} the {pretty(name)} is {number(value)}; a model that had learnt nothing but the mean "
                    f"colour would have {number(expected)}."
                )
    return ""


def _logged_expectations(run: RunRecord) -> dict[str, float]:
    keys = [key for key in run.tracks if key.startswith("expected/")]
    return {key.removeprefix("expected/"): run.tracks[key].latest[1] for key in keys}


def facts(run: RunRecord) -> list[Fact]:
    """The numbers at the top of the page; only those that are known."""
    found: list[Fact] = []
    key = loss_key(run)
    if key:
        value = run.tracks[key].latest[1]
        shown = number(value) if is_number(value) else "not finite"
        found.append(Fact("Final loss" if status(run)[0] == "finished" else "Loss", shown, _from(run, key)))
    for name, expected in {**run.expected(), **_logged_expectations(run)}.items():
        value_now = run.latest(f"validation/{name}")
        if is_number(value_now) and is_number(expected):
            found.append(Fact(f"Validation {pretty(name)}", number(value_now), f"mean colour: {number(expected)}"))
    for key in run.tracks:
        if key.startswith("knn/") and "top5" not in key:
            found.append(Fact(f"k-NN {pretty(key.removeprefix('knn/'))}", accuracy(run.latest(key)), chance(run)))
            break
    return found + cost_facts(run)


def cost_facts(run: RunRecord) -> list[Fact]:
    """Speed, time and size: what is known of them."""
    found: list[Fact] = []
    if speed := typical_speed(run):
        found.append(Fact("Images a second", number(speed), plain(run.info.get("device") or "")))
    if is_number(seconds := run.latest("seconds")):
        epoch = run.latest("epoch")
        found.append(Fact("Training time", duration(seconds), epochs(epoch) if is_number(epoch) else ""))
    if is_number(parameters := run.section("model").get("parameters")):
        encoder = run.section("model").get("encoder_parameters")
        beside = f"encoder: {_short(encoder)}" if is_number(encoder) and encoder != parameters else ""
        found.append(Fact("Parameters", _short(parameters), beside))
    return found


def _short(parameters: float) -> str:
    return compact(parameters).replace(" million", " M").replace(" billion", " G")


def accuracy(value: Any) -> str:
    """An accuracy as a percentage, whether it was logged as a fraction or in percent."""
    return percent(value if value <= 1 else value / 100) if is_number(value) else UNKNOWN


def typical_speed(run: RunRecord) -> float | None:
    """Median images a second, so that the first slow steps and the pauses for pictures do not count."""
    track = run.tracks.get("images_per_second")
    values = track.points()[1] if track else np.array([])
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def _from(run: RunRecord, key: str) -> str:
    track = run.tracks[key]
    known = len(track.values) > 1 and is_number(track.values[0])
    return f"from {number(track.values[0])} at step {count(track.steps[0])}" if known else ""


def chance(run: RunRecord) -> str:
    """What guessing comes to among so many classes; empty where there are none."""
    classes = run.section("data").get("classes")
    return f"chance: {percent(1 / len(classes))}" if isinstance(classes, list) and len(classes) > 1 else ""


def command(run: RunRecord) -> str:
    """The line that repeats the run from where it was started."""
    out = str(run.config.get("out") or run.path.resolve().name).rstrip("/")
    return f"pmae pretrain --config {shlex.quote(out + '/config.yaml')} --out {shlex.quote(out + '-again')}"


def model_rows(run: RunRecord) -> list[tuple[str, str]]:
    """The model's table."""
    model, config = dict(run.section("model")), run.config
    grid, tokens, visible = model.pop("grid", None), model.pop("tokens", None), model.pop("visible_tokens", None)
    rows = [
        ("Model", plain(model.pop("name", config.get("model")))),
        ("Method", plain(config.get("method"))),
        ("Parameters", count(model.pop("parameters", None))),
        ("of these, encoder", count(model.pop("encoder_parameters", None))),
        ("GFLOP an image", number(model.pop("gflop_per_image", None))),
        ("Image size", plain(config.get("image_size"))),
        ("Patch size", plain(config.get("patch_size"))),
        ("Patch grid", " × ".join(count(side) for side in grid) if isinstance(grid, list) else UNKNOWN),
        ("Tokens", count(tokens) + (f", of which {count(visible)} visible" if is_number(visible) else "")),
    ]
    rows += [(pretty(str(key)), plain(value)) for key, value in model.items()]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def data_rows(run: RunRecord) -> list[tuple[str, str]]:
    """The table of the images."""
    data = dict(run.section("data"))
    classes = data.pop("classes", None)
    pictures = {"validation": "validation images", "training": "training images"}
    rows = [
        ("Source", plain(run.config.get("data"))),
        ("Training images", count(data.pop("images", None))),
        ("Validation images", count(data.pop("validation_images", None))),
        ("Pictures above show", pictures.get(str(data.pop("pictures_from", "")), UNKNOWN)),
        (
            "Classes",
            f"{count(len(classes))} ({plain(classes, 12)})" if isinstance(classes, list) and classes else UNKNOWN,
        ),
        ("Skipped files", count(run.skipped_count)),
    ]
    rows += [(pretty(str(key)), plain(value)) for key, value in data.items()]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def machine_rows(run: RunRecord) -> list[tuple[str, str]]:
    """Speed, machine and versions."""
    info, config = run.info, run.config
    seconds, epoch = run.latest("seconds"), run.latest("epoch")
    speed = typical_speed(run)
    gflop = run.section("model").get("gflop_per_image")
    rows = [
        ("Images a second", number(speed) + (" (median)" if speed else "")),
        ("An epoch", duration(seconds / epoch) if is_number(seconds) and is_number(epoch) and epoch else UNKNOWN),
        ("Forward passes", f"{number(speed * gflop)} GFLOP/s" if speed and is_number(gflop) else UNKNOWN),
        ("Device", plain(info.get("device"))),
        ("Processes", count(info.get("processes"))),
        ("Precision", plain(info.get("precision", config.get("precision")))),
        ("Peak memory", _gib(info.get("peak_memory_gib"))),
        ("perceptual-mae", plain(info.get("version"))),
        ("PyTorch", plain(info.get("torch"))),
        ("Python", plain(info.get("python"))),
    ]
    told = {"device", "processes", "precision", "version", "torch", "python", "metric"}
    told |= {"steps", "state", "message", "peak_memory_gib"}
    rows += [(pretty(str(k)), plain(v)) for k, v in info.items() if k not in told and not isinstance(v, dict | list)]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def _gib(value: Any) -> str:
    return f"{value:.2f} GiB" if is_number(value) else UNKNOWN


def settings(config: Mapping[str, Any], defaults: Mapping[str, Any] | None) -> list[tuple[str, list[Setting]]]:
    """`config.yaml` in groups: first what stands at its top, under the empty name, then each nested group."""
    flat = _flat(config)
    known = None if defaults is None else _flat(defaults)
    groups: dict[str, list[Setting]] = {"": []}
    for path, value in flat.items():
        group, _, key = path.rpartition(".")
        changed = None if known is None else path not in known or known[path] != value
        groups.setdefault(group, []).append(Setting(key, plain(value), changed))
    return [(group, rows) for group, rows in groups.items() if rows]


def _flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            result |= _flat(value, f"{above}{key}.")
        else:
            result[f"{above}{key}"] = value
    return result


def plain(value: Any, most: int = 50) -> str:
    """A setting as one would type it; of a long list the first `most`."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and value:
        more = f", … {len(value) - most} more" if len(value) > most else ""
        return ", ".join(plain(item, most) for item in value[:most]) + more
    text = str(value)
    return text if len(text) <= 1000 else text[:1000] + " …"
