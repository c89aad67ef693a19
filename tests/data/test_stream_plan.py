"""The order of a stream: each sample once, a function of (seed, step), few shards at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptual_mae.data import SamplePlan, StreamPlan, plan_for
from perceptual_mae.data.choice import UNITS_TOGETHER, seeded_order
from perceptual_mae.errors import UsageError
from perceptual_mae.seeds import Stream

UNITS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def epoch_of(plan: StreamPlan, epoch: int) -> torch.Tensor:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return torch.cat([plan.indices(step) for step in steps])


def units_of(plan: StreamPlan, samples) -> set[int]:
    return set((np.searchsorted(np.cumsum(plan.counts), np.asarray(samples), side="right")).tolist())


@settings(max_examples=150, deadline=None)
@given(UNITS, st.integers(1, 50), st.integers(1, 9), st.integers(1, 200), st.integers(0, 3))
def test_an_epoch_sees_each_sample_once_but_for_less_than_a_batch(counts, batch_size, lanes, buffer, epoch):
    plan = StreamPlan.of(np.array(counts), batch_size, 5, lanes, buffer)
    seen = epoch_of(plan, epoch).tolist()
    assert len(seen) == len(set(seen)) == plan.images_per_step * plan.steps_per_epoch
    assert set(seen) <= set(range(sum(counts)))
    assert sum(counts) - len(seen) < batch_size


@settings(max_examples=100, deadline=None)
@given(UNITS, st.integers(1, 50), st.integers(1, 9), st.integers(1, 200), st.integers(0, 60), st.integers(1, 5))
def test_what_a_piece_needs_is_expected(counts, batch_size, lanes, buffer, step, pieces):
    plan = StreamPlan.of(np.array(counts), batch_size, 5, lanes, buffer)
    pieces = min(pieces, plan.images_per_step)
    for piece in range(pieces):
        places = plan.piece(piece, pieces)
        expected = plan.units_at(step, places)
        assert len(expected) == len(set(expected))
        assert units_of(plan, plan.indices(step)[places.start : places.stop]) <= set(expected)


@settings(max_examples=60, deadline=None)
@given(UNITS, st.integers(1, 30), st.integers(1, 5), st.integers(1, 100), st.integers(0, 30))
def test_what_comes_next_was_expected_before(counts, batch_size, lanes, buffer, step):
    """At the first step of a window the thread has had the whole window before it to fetch this one."""
    plan = StreamPlan.of(np.array(counts), batch_size, 5, lanes, buffer)
    everything = range(plan.images_per_step)
    width = -(-plan.images_per_step // plan.lane_count)
    if plan.window >= width:  # a step does not jump over a window
        assert units_of(plan, plan.indices(step + 1)) <= set(plan.units_at(step, everything))


@settings(max_examples=60, deadline=None)
@given(UNITS, st.integers(1, 50), st.integers(1, 9), st.integers(1, 200), st.integers(0, 40), st.data())
def test_stand_ins_come_from_near_and_in_the_end_from_everywhere(counts, batch_size, lanes, buffer, step, data):
    plan = StreamPlan.of(np.array(counts), batch_size, 5, lanes, buffer)
    place = data.draw(st.integers(0, plan.images_per_step - 1))
    index = int(plan.indices(step)[place])
    found = list(plan.candidates(index, step, place))
    assert found[0] == index
    needed = set(plan.units_at(step, range(place, place + 1)))
    assert units_of(plan, found[:9]) <= needed
    assert set(found) == set(range(plan.length))


def test_any_order_of_asking_gives_the_same():
    plan = StreamPlan.of(np.array([30, 7, 55, 8]), 6, 1, 3, 20)
    forward = [plan.indices(step).tolist() for step in range(40)]
    for step in np.random.default_rng(0).permutation(40).tolist():
        fresh = StreamPlan.of(np.array([30, 7, 55, 8]), 6, 1, 3, 20)
        assert fresh.indices(step).tolist() == plan.indices(step).tolist() == forward[step]


def test_epochs_seeds_and_settings_differ():
    counts = np.full(10, 20)
    plans = [StreamPlan.of(counts, 8, seed, lanes, buffer) for seed in (0, 1) for lanes in (2, 4) for buffer in (8, 80)]
    assert len({tuple(epoch_of(plan, epoch).tolist()) for plan in plans for epoch in range(3)}) == 24


def test_every_sample_is_left_out_at_some_time():
    plan = StreamPlan.of(np.array([7, 7, 6]), 16, 0)
    left = [set(range(20)) - set(epoch_of(plan, epoch).tolist()) for epoch in range(60)]
    assert set.union(*left) == set(range(20))


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_a_process_reads_only_the_shards_of_its_lanes(world):
    plan = StreamPlan.of(np.full(64, 100), 64, 3, lanes=8, shuffle_buffer=800)
    for rank in range(world):
        read = set()
        for step in range(plan.steps_per_epoch):
            places = plan.piece(rank, world)
            read |= units_of(plan, plan.indices(step)[places.start : places.stop])
        # The shards of its stretch of the epoch, those at its edges shared with the neighbours.
        assert len(read) <= 64 // world + 2


def test_few_units_are_needed_at_a_time():
    plan = StreamPlan.of(np.full(1000, 100), 32, 3, lanes=4, shuffle_buffer=400)
    needed = [len(plan.units_at(step, range(32))) for step in range(plan.steps_per_epoch)]
    assert max(needed) <= 4 * 5


def test_memory_does_not_grow():
    plan = StreamPlan.of(np.full(50, 100), 32, 3, lanes=4, shuffle_buffer=64)
    for step in range(3 * plan.steps_per_epoch):
        plan.indices(step)
    assert len(plan._windows) <= 2 * 4 + 1
    assert len(plan._epochs) <= 2


def test_a_billion_samples_cost_what_their_units_cost():
    plan = StreamPlan.of(np.full(100_000, 10_000), 4096, 0, lanes=64, shuffle_buffer=65536)
    assert plan.steps_per_epoch == 10**9 // 4096
    indices = plan.indices(123_456)
    assert len(set(indices.tolist())) == 4096
    assert len(units_of(plan, indices)) <= 3 * 64


def test_wrong_plans():
    with pytest.raises(UsageError, match="there is no image"):
        StreamPlan.of(np.array([], np.int64), 4, 0)
    with pytest.raises(UsageError, match="0 lanes with a shuffle buffer of 5"):
        StreamPlan.of(np.array([3]), 4, 0, 0, 5)


class Units:
    """What of a stream a plan and a choice look at."""

    name, classes = "units", ()

    def __init__(self, counts):
        self.counts = np.array(counts)

    def __len__(self):
        return int(self.counts.sum())

    def expect(self, units):
        pass


def test_the_plan_that_suits_a_source():
    stream = plan_for(Units([5, 5]), 2, 0, lanes=2, shuffle_buffer=4)
    assert isinstance(stream, StreamPlan)
    assert (stream.lanes, stream.shuffle_buffer, stream.length) == (2, 4, 10)
    assert type(plan_for([1, 2, 3], 2, 0)) is SamplePlan


def test_a_choice_from_a_stream_touches_few_units():
    source = Units(np.full(500, 40))
    order = list(seeded_order(source, 7, Stream.PICTURES))
    assert sorted(order) == list(range(len(source)))
    plan = StreamPlan.of(source.counts, 4, 0)
    assert len(units_of(plan, order[: 4 * 40])) == UNITS_TOGETHER
    assert order != list(seeded_order(source, 8, Stream.PICTURES))
