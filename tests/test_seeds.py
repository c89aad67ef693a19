"""Random streams: the same for the same numbers, unrelated for neighbouring ones."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from perceptual_mae.seeds import generator, mixed

numbers = st.lists(st.integers(0, 2**40), min_size=1, max_size=4)


@given(numbers)
def test_seeds_are_what_pytorch_takes_and_repeat(parts: list[int]) -> None:
    seed = mixed(*parts)
    assert 0 <= seed < 2**63
    assert mixed(*parts) == seed
    torch.Generator().manual_seed(seed)


def test_every_step_and_stream_of_every_seed_is_different() -> None:
    seeds = {mixed(seed, stream, step) for seed in range(20) for stream in range(5) for step in range(100)}
    assert len(seeds) == 20 * 5 * 100
    assert mixed(1, 2) != mixed(2, 1)


def test_neighbouring_streams_are_not_correlated() -> None:
    streams = torch.stack([torch.rand(4000, generator=generator(0, 2, step)) for step in range(20)])
    off_diagonal = torch.corrcoef(streams) - torch.eye(20)
    assert off_diagonal.abs().max() < 5 / 4000**0.5


def test_generators_leave_the_global_stream_alone() -> None:
    state = torch.get_rng_state()
    torch.rand(3, generator=generator(0, 1))
    assert torch.equal(torch.get_rng_state(), state)
