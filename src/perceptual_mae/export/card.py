"""A model card: `README.md` beside the weights, as the Hugging Face hub shows it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from perceptual_mae.errors import UsageError
from perceptual_mae.export import story
from perceptual_mae.export.check import Check
from perceptual_mae.export.program import takes_any_size
from perceptual_mae.export.source import Source
from perceptual_mae.export.usage import snippets
from perceptual_mae.report.comparison_table import escaped, markdown_table
from perceptual_mae.report.run_folder import RunRecord
from perceptual_mae.report.story import KNN_NOTE

CARD = "README.md"
PAPER = "arxiv.org/abs/2212.14504"
_LIBRARIES = {"timm": "timm", "hub": "timm", "transformers": "transformers", "onnx": "onnx"}
"""What the hub calls the library that opens a target."""
_CITATION = """\
@inproceedings{tukra2023improving,
  title     = {Improving Visual Representation Learning through Perceptual Understanding},
  author    = {Tukra, Samyakh and Hoffman, Frederick and Chatfield, Ken},
  booktitle = {CVPR},
  year      = {2023}
}"""


@dataclass(frozen=True)
class Card:
    """What a card is about.

    Attributes:
        target: name of the export.
        source: what was exported.
        record: of its run; None: it comes from none.
        place: where somebody finds it, a folder or `USER/NAME`.
        licence: as the hub calls it; None: nobody has said.
        checks: how what was written compares with ours.
        pictures: names of those beside the card, and what they show.
        notes: what is not there, and why, a sentence each.
    """

    target: str
    source: Source
    record: RunRecord | None
    place: str
    licence: str | None
    checks: Sequence[Check]
    pictures: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """The whole file."""
        name = self.place.rpartition("/")[2] if self.target == "hub" else self.source.encoder.name
        parts = [
            f"# {escaped(name)}",
            self._opening(),
            *self._pictures(),
            "## How to use it",
            *self._usage(),
            "## What it is",
            _table(story.model_rows(self.source)),
            *self._training(),
            *self._measured(),
            "## What to keep in mind",
            "\n".join(f"- {line}" for line in self._limits()),
            "## Licence",
            self._licence(),
            "## Citation",
            f"The method: [{PAPER}](https://{PAPER}).",
            f"```bibtex\n{_CITATION}\n```",
        ]
        return f"---\n{self._front()}---\n\n" + "\n\n".join(parts) + "\n"

    def _front(self) -> str:
        """What the hub reads. A licence that nobody has stated is left out: any other word would state one."""
        values: dict[str, Any] = {}
        if self.target in _LIBRARIES:
            values["library_name"] = _LIBRARIES[self.target]
        if self.licence is not None:
            values["license"] = self.licence
        values["pipeline_tag"] = "image-feature-extraction"
        library = [values["library_name"]] if "library_name" in values else []
        of_masks = ["masked-autoencoder", "self-supervised-learning"] if self.source.run is not None else []
        values["tags"] = [*library, "image-feature-extraction", *of_masks, "perceptual-mae", "arxiv:2212.14504"]
        if names := story.datasets(self.record):
            values["datasets"] = names
        return yaml.safe_dump(values, sort_keys=False)

    def _opening(self) -> str:
        if self.source.run is not None:
            what = "An image encoder, pre-trained without labels by painting what is hidden (masked autoencoding)."
        elif self.record is not None:
            what = "An image encoder that was fine-tuned on labels; without its head."
        else:
            what = "An image encoder."
        return f"{what} It gives a vector for every patch of an image, and one for all of it. No classifier is in it."

    def _pictures(self) -> list[str]:
        return [f"![{escaped(words)}]({name})\n\n*{escaped(words)}.*" for name, words in self.pictures]

    def _usage(self) -> list[str]:
        lines = [
            f"**{title}**\n\n```python\n{code}\n```" for title, code in snippets(self.target, self.source, self.place)
        ]
        checked = [f"- {escaped(str(check))}" for check in self.checks]
        return [*lines, "Compared with the original on a fixed input when it was written:\n\n" + "\n".join(checked)]

    def _training(self) -> list[str]:
        if self.record is None:
            return []
        rows = story.data_rows(self.record) + story.training_rows(self.source, self.record)
        return ["## How it was trained", _table(rows)]

    def _measured(self) -> list[str]:
        if self.record is None:
            return []
        sentence, rows = story.measured(self.source, self.record)
        if not rows:
            return ["## What was measured", "Nothing yet: `pmae evaluate` on labelled images of yours will say."]
        cells = ([escaped(cell) for cell in row] for row in rows)
        parts = ["## What was measured", escaped(sentence), markdown_table(("measure", "value", "of"), cells)]
        return [*parts, KNN_NOTE] if story.has_neighbours(rows) else parts

    def _limits(self) -> list[str]:
        height, width = self.source.encoder.image_size
        lines = [
            "What it is worth on other images than those that it has learnt from, only a measurement tells. What is "
            "wrong or one-sided in those images is in the features, too; nobody has looked for it.",
            f"It takes images of {height} × {width} pixels.{self._other_sizes()}",
        ]
        return lines + [escaped(note) for note in self.notes]

    def _other_sizes(self) -> str:
        if self.target in ("onnx", "torch-export") and takes_any_size(self.source):
            patch = self.source.encoder.patch_size
            least = f" (from two patches, {2 * patch} pixels, on)" if self.target == "torch-export" else ""
            return (
                f" Others work, multiples of {patch} pixels{least}: position embeddings are resampled in the graph. "
                "Features are the worse the further away the size is."
            )
        return " For others, export it with `--image-size`." if self.source.plain_vit is not None else ""

    def _licence(self) -> str:
        if self.licence is not None:
            return f"`{self.licence}`, says who exported it."
        return (
            "Not stated. Without a licence nobody may assume to have one: ask who published this. (Whoever did: "
            "`pmae export --licence apache-2.0`, say, writes it here. What the images permit is for you to know.)"
        )


def check_licence(licence: str | None) -> str | None:
    """A licence as the hub calls it, in small letters.

    Raises:
        UsageError: it can be no name of one.
    """
    if licence is None:
        return None
    name = licence.strip().lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", name):
        raise UsageError(f"--licence {licence[:60]}: give a name as the hub has it: apache-2.0, cc-by-4.0, other, ...")
    return name


def _table(rows: Sequence[story.Row]) -> str:
    lines = ["| | |", "| :-- | :-- |"]
    return "\n".join([*lines, *(f"| {escaped(name)} | {escaped(value)} |" for name, value in rows)])
