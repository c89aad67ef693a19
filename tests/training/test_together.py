"""What processes agree on."""

from collections.abc import Callable

import pytest

from perceptual_mae.api import pretrain
from perceptual_mae.errors import PmaeError
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.training import together

MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have another process that has found the checkpoint of a step."""

    def begin(elsewhere: int) -> None:
        monkeypatch.setattr(together, "largest", lambda _, step, same: [max(step, elsewhere), max(same, -elsewhere)])

    return begin


@pytest.mark.parametrize("elsewhere", [0, 2])
def test_processes_that_see_different_checkpoints_do_not_go_on(
    make_config: MakeConfig, beside: Callable[[int], None], elsewhere: int
) -> None:
    """As where `--out` is a disk of each machine's own, or one of them cannot read the newest."""
    pretrain(make_config(max_steps=3))
    beside(elsewhere)
    with pytest.raises(PmaeError, match=rf"checkpoints in .* \(of step {elsewhere} and 3\): it must be one folder"):
        pretrain(make_config(max_steps=6))


def test_processes_that_see_the_same_do(make_config: MakeConfig, beside: Callable[[int], None]) -> None:
    pretrain(make_config(max_steps=3))
    beside(3)
    pretrain(make_config(max_steps=6))
