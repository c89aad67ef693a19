"""Random streams: the same for the same numbers, unrelated for neighbouring ones."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from perceptual_mae.seeds import Stream, generator, mixed, permutation

numbers = st.lists(st.integers(-(2**40), 2**40), max_size=3)


@given(st.integers(-(2**40), 2**40), st.sampled_from(Stream), numbers)
def test_seeds_are_what_pytorch_takes_and_repeat(seed: int, stream: Stream, place: list[int]) -> None:
    made = mixed(seed, stream, *place)
    assert 0 <= made < 2**63
    assert mixed(seed, stream, *place) == made
    torch.Generator().manual_seed(made)


def test_every_step_and_stream_of_every_seed_is_different() -> None:
    seeds = {mixed(seed, stream, step) for seed in range(20) for stream in Stream for step in range(100)}
    assert len(seeds) == 20 * len(Stream) * 100


def test_neighbouring_streams_are_not_correlated() -> None:
    streams = torch.stack([torch.rand(4000, generator=generator(0, Stream.MASKS, step)) for step in range(20)])
    off_diagonal = torch.corrcoef(streams) - torch.eye(20)
    assert off_diagonal.abs().max() < 5 / 4000**0.5


def test_generators_leave_the_global_stream_alone() -> None:
    state = torch.get_rng_state()
    torch.rand(3, generator=generator(0, Stream.CROPS))
    assert torch.equal(torch.get_rng_state(), state)


def test_permutations_hold_every_number_once() -> None:
    assert sorted(permutation(100, 3, Stream.PERMUTATION, 1)) == list(range(100))
    assert permutation(100, 3, Stream.PERMUTATION, 1).tolist() != permutation(100, 3, Stream.PERMUTATION, 2).tolist()
