"""The package from Python: runs and evaluations as objects, which a notebook shows as what they are."""

import dataclasses
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from perceptual_mae import api, attention_maps
from perceptual_mae.encoders import load_encoder
from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.measure import evaluation
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.report import curves
from perceptual_mae.report import evaluation as tables
from perceptual_mae.report.embed import embed
from perceptual_mae.settings import from_dict, to_dict
from perceptual_mae.terminal import messages


@dataclass(frozen=True)
class Run:
    """A pre-training run, of any state; also one that `pmae pretrain` made.

    Attributes:
        path: its folder.
    """

    path: Path

    def __init__(self, path: Path | str) -> None:
        """Open a run.

        Raises:
            UsageError: `path` is no run folder.
        """
        object.__setattr__(self, "path", user_path(path))
        RunFolder.read(self.path)

    @property
    def config(self) -> PretrainConfig:
        """Its settings."""
        return RunFolder.read(self.path).config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: a dict a line, ready for `pandas.DataFrame`."""
        return RunFolder.read(self.path).records()

    @property
    def report(self) -> Path:
        """The page with everything that is known of the run."""
        return self.path / "report.html"

    def encoder(self, image_size: int | str | tuple[int, int] | None = None, device: str = "cpu") -> Encoder:
        """What was trained, see `load_encoder`."""
        return load_encoder(self.path, image_size, device)

    def reconstructions(
        self,
        data: str | None = None,
        count: int = 8,
        mask_ratio: float | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> Figure:
        """Original, masked, reconstruction and pasted of some images, see `api.draw_reconstructions`."""
        return api.draw_reconstructions(self.path, data, count, mask_ratio, seed, device)

    def attention(
        self, data: str | None = None, block: int = -1, heads: str = "mean", count: int = 6, seed: int = 0
    ) -> Figure:
        """Where the encoder looks, see `attention_maps.draw_attention`."""
        return attention_maps.draw_attention([str(self.path)], data, block, heads, count=count, seed=seed)

    def curves(self) -> dict[str, Figure]:
        """A figure for each subject of the log: losses, validation errors, learning rate, ..."""
        expected = RunFolder.read(self.path).facts().get("expected")
        return curves.curves(self.metrics, expected)

    def __repr__(self) -> str:
        config, facts = self.config, RunFolder.read(self.path).facts()
        done = next((record["step"] for record in reversed(self.metrics)), 0)
        words = [
            f"{config.model} / {config.method}",
            f"step {done:,} of {facts['steps']:,}" if "steps" in facts else "",
        ]
        return f"Run({str(self.path)!r}: {', '.join([*filter(None, words), facts.get('state', 'not begun')])})"

    def _repr_html_(self) -> str:
        """What it says of itself and, below, its newest reconstructions."""
        drawn = sorted((self.path / "figures").glob("reconstruction-*.png"))
        picture = embed(drawn[-1]) if drawn else None
        shown = f'<br><img src="{picture.uri}" width="{picture.width // 2}" alt="reconstructions">' if picture else ""
        return f"<code>{html.escape(repr(self))}</code>{shown}"


@dataclass(frozen=True)
class Evaluation:
    """What was measured of an encoder.

    Attributes:
        folder: with `results.json`, `results.md` and pictures.
    """

    folder: Path

    @property
    def results(self) -> dict[str, Any]:
        """Everything: the content of `results.json`."""
        content: dict[str, Any] = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
        return content

    @property
    def scores(self) -> dict[str, float]:
        """The numbers that encoders are compared by: `linear/mean/top1`, `knn/cls/top1`, `l1`, ..."""
        return tables.headline(self.results)

    def __str__(self) -> str:
        rows = tables.summary(self.results)
        wide = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        return "\n".join(f"{name:<{wide[0]}}  {value:>{wide[1]}}  {of}" for name, value, of in rows)

    def _repr_markdown_(self) -> str:
        return tables.markdown(self.results)


def pretrain(config: PretrainConfig | None = None, *, progress: bool = True, **settings: Any) -> Run:
    """Pre-train a Vision Transformer on your images, or go on with the run that is in `out`.

    Args:
        config: settings; default: those of `PretrainConfig`.
        progress: show a bar, or lines where there is no terminal.
        **settings: in place of those of `config`, by name: `data="./images"`, `model="small"`; nested ones as a dict
            of those that differ from the default: `optimizer={"weight_decay": 0.1}`.

    Raises:
        UsageError: settings that cannot be right, or a folder that belongs to another run.
        PmaeError: data that cannot be read, a loss that is not finite, an interruption (everything is saved).
    """
    chosen = _configured(PretrainConfig, config, settings)
    return Run(api.pretrain(chosen, messages() if progress else None))


def evaluate(encoder: "Run | Path | str", *, progress: bool = True, **settings: Any) -> Evaluation:
    """Measure an encoder: reconstructions, k-NN, linear probe. What was measured before is not measured again.

    Args:
        encoder: a run, or whatever `load_encoder` takes.
        progress: show how far it is.
        **settings: of `EvaluateConfig`, by name: `data="./labelled"`, `parts=["knn"]`.

    Raises:
        UsageError: settings that cannot be right.
        PmaeError: an encoder or images that cannot be had.
    """
    spec = str(encoder.path if isinstance(encoder, Run) else encoder)
    config = _configured(EvaluateConfig, None, {"encoder": spec, **settings})
    return Evaluation(evaluation.evaluate(config, messages() if progress else None))


def _configured(kind: Any, given: Any, settings: dict[str, Any]) -> Any:
    """Settings by name on top of an object of them, with the same checks and words as those of a file."""
    plain = {name: _plain(value) for name, value in settings.items()}
    if given is None:
        return from_dict(kind, plain)
    if not isinstance(given, kind):
        raise UsageError(f"the settings are a {kind.__name__} or go by name, such as data='./images'")
    base = to_dict(given)
    return from_dict(
        kind, base | {n: base[n] | v if isinstance(v, dict) and n in base else v for n, v in plain.items()}
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return str(value) if isinstance(value, Path) else value
