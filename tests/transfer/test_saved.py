"""Files of fine-tuned networks: what of a description is believed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from perceptual_mae import load_encoder, load_finetuned
from perceptual_mae.errors import PmaeError
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.transfer.saved import save_finetuned
from perceptual_mae.transfer.task import Learnt


def saved(folder: Path, **described: Any) -> Path:
    torch.manual_seed(0)
    network = Classifier.of(load_encoder("random:micro/8", 32), 2)
    learnt = Learnt("classification", network, ("a", "b"), network.describe() | described)
    return save_finetuned(learnt, folder / "model.safetensors", {})


@pytest.mark.parametrize("described", [{"category_ids": [1, 100_001, 2**62]}, {"max_pixels": 10**9}])
def test_numbers_of_which_nothing_is_built_may_be_large(tmp_path: Path, described: dict[str, Any]) -> None:
    assert described.items() <= load_finetuned(saved(tmp_path, **described)).description.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("category_ids", [2**63]),
        ("category_ids", [1.5]),
        ("category_ids", ["1"]),
        ("max_pixels", [5]),
        ("max_pixels", "many"),
        ("classes", 100_001),
    ],
)
def test_what_is_no_number_of_a_network_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(PmaeError, match=r"model\.safetensors is damaged: .* in its description "):
        load_finetuned(saved(tmp_path, **{name: value}))
