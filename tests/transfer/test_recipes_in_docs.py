"""The table of recipes in docs/transfer.md is that of the code."""

import re
from pathlib import Path

from perceptual_mae.transfer.config import CONFIGS
from perceptual_mae.transfer.recipe import RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")


def test_every_recipe_is_listed_as_it_is() -> None:
    rows = re.findall(r"^\| (\w+), `(\w+)`[^|]*\|(.*)\|$", PAGE, flags=re.MULTILINE)
    assert {(task, name) for task, name, _ in rows} == {(task, name) for task in RECIPES for name in RECIPES[task]}
    for task, name, rest in rows:
        recipe = RECIPES[task][name]
        rate = re.sub(r"e-0", "e-", f"{recipe.lr:.0e}") + (f" x batch / {recipe.per}" if recipe.per else "")
        shown = [str(recipe.epochs), rate, ", ".join(map(str, recipe.betas)), recipe.weight_decay, recipe.layer_decay]
        shown += [recipe.drop_path, recipe.warmup_epochs]
        assert [cell.strip() for cell in rest.split("|")] == list(map(str, shown))
    batches = [CONFIGS[task].batch_size for task in ("classification", "detection", "segmentation")]
    assert batches == [256, 16, 16]
