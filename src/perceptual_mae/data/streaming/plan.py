"""The order in which a stream is read: a function of (seed, step), like that of `SamplePlan`, but shard by shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from perceptual_mae.data.plan import SamplePlan
from perceptual_mae.data.types import Source, Streamed
from perceptual_mae.errors import UsageError
from perceptual_mae.seeds import Stream, mixed, permutation

LANES = 16
SHUFFLE_BUFFER = 16384
_NEAR_TRIES = 8
_FAR_TRIES = 64
_SMALL = 4096
"""Stand-ins for a broken image: drawn from its window first, in the end from anywhere; all of a small stream's."""


def plan_for(
    source: Source, batch_size: int, seed: int, lanes: int = LANES, shuffle_buffer: int = SHUFFLE_BUFFER
) -> SamplePlan:
    """The plan that suits a source: any order for one whose images are at hand, shard by shard for a stream.

    Raises:
        UsageError: there is no image, or a number below 1.
    """
    if isinstance(source, Streamed):
        return StreamPlan.of(source.counts, batch_size, seed, lanes, shuffle_buffer)
    return SamplePlan(len(source), batch_size, seed)


@dataclass(frozen=True)
class StreamPlan(SamplePlan):
    """Which sample each place of each step's batch gets, such that few shards are read at a time.

    A stream is made of units (a tar file, a row group of a parquet file), whose samples are numbered one unit after the
    other. An epoch puts the units in a new order, and cuts the sequence of their samples, from a random place in it on,
    into `lanes` stretches: each fills its own places of every batch, and is as long as that takes. So an epoch sees
    each sample once, but for fewer than a batch, which wait for another epoch. Within a lane, stretches of
    `shuffle_buffer / lanes` samples are shuffled: these windows are all that has to be at hand.

    All of it is computed from (seed, epoch, lane, window): nothing is kept but the order of the units and the windows
    of now. Where the number of processes divides that of lanes, a process reads only the shards of its own lanes.

    Attributes:
        counts: samples of each unit, `(units,)` int64.
        lanes: stretches of an epoch; a batch smaller than that has as many as it has places.
        shuffle_buffer: samples among which the next is drawn, over all lanes.
    """

    counts: np.ndarray = field(compare=False, repr=False)
    lanes: int = LANES
    shuffle_buffer: int = SHUFFLE_BUFFER
    _epochs: dict[int, "_Epoch"] = field(default_factory=dict, init=False, compare=False, repr=False)
    _windows: dict[tuple[int, int, int], np.ndarray] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @classmethod
    def of(
        cls, counts: np.ndarray, batch_size: int, seed: int, lanes: int = LANES, shuffle_buffer: int = SHUFFLE_BUFFER
    ) -> "StreamPlan":
        """A plan for units with so many samples each.

        Raises:
            UsageError: there is no sample, or a number below 1.
        """
        if lanes < 1 or shuffle_buffer < 1:
            raise UsageError(f"{lanes} lanes with a shuffle buffer of {shuffle_buffer} samples: give 1 or more of each")
        counts = np.asarray(counts, np.int64)
        return cls(int(counts.sum()), batch_size, seed, counts, lanes, shuffle_buffer)

    @property
    def lane_count(self) -> int:
        """Lanes there really are."""
        return min(self.lanes, self.images_per_step)

    @property
    def window(self) -> int:
        """Samples of a lane that are shuffled together."""
        return max(1, self.shuffle_buffer // self.lane_count)

    def indices(self, step: int) -> Tensor:
        """The samples of one step (from 0), in the order of their places: `(images_per_step,)` int64."""
        epoch, at = divmod(step, self.steps_per_epoch)
        lanes = [self._positions(epoch, lane, at) for lane in range(self.lane_count)]
        return torch.from_numpy(self._epoch(epoch).samples(np.concatenate(lanes)))

    def candidates(self, index: int, step: int, place: int) -> Iterator[int]:
        """A sample and, for as long as what is given is broken, others in its place.

        These come from its window, then from the batch, and only then from far away: a broken image is no reason to
        fetch shards.
        """
        yield index
        epoch, at = divmod(step, self.steps_per_epoch)
        lane = self._lane_of(place)
        start, width = self._lane(lane)
        window = (at * width + place - self._places(lane).start) // self.window * self.window
        length = min(self.window, width * self.steps_per_epoch - window)
        draws = [mixed(self.seed, Stream.STAND_INS, step, place, attempt) % length for attempt in range(_NEAR_TRIES)]
        yield from self._epoch(epoch).samples(start + window + np.array(draws)).tolist()
        batch = self.indices(step).tolist()
        yield from batch[place + 1 :] + batch[:place]
        stride = 1 if self.length <= _SMALL else self.length // _FAR_TRIES
        yield from ((index + far) % self.length for far in range(0, self.length, stride))

    def units_at(self, step: int, places: range) -> list[int]:
        """The units that these places of a step's batch need, those of their windows first, then those of the next."""
        epoch, at = divmod(step, self.steps_per_epoch)
        now: list[int] = []
        soon: list[int] = []
        for lane in range(self._lane_of(places.start), self._lane_of(places.stop - 1) + 1) if places else ():
            width = self._lane(lane)[1]
            first = at * width // self.window * self.window
            after = -(-(at + 1) * width // self.window) * self.window
            now += self._units(epoch, lane, first, after)
            soon += self._units(epoch, lane, after, after + self.window, beyond=1)
        return list(dict.fromkeys(now + soon))

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def _places(self, lane: int) -> range:
        return range(*(self.images_per_step * edge // self.lane_count for edge in (lane, lane + 1)))

    def _lane_of(self, place: int) -> int:
        return ((place + 1) * self.lane_count - 1) // self.images_per_step

    def _lane(self, lane: int) -> tuple[int, int]:
        """Where a lane starts in the sequence of an epoch, and how many samples it gives to a step."""
        places = self._places(lane)
        return places.start * self.steps_per_epoch, len(places)

    def _positions(self, epoch: int, lane: int, at: int) -> np.ndarray:
        """What a lane gives to batch `at` of an epoch: positions in the epoch's sequence."""
        start, width = self._lane(lane)
        first, last = at * width, (at + 1) * width
        parts = []
        for window in range(first // self.window, (last - 1) // self.window + 1):
            edge = window * self.window
            order = self._order(epoch, lane, window)
            parts.append(edge + order[max(first - edge, 0) : last - edge])
        return start + np.concatenate(parts)

    def _order(self, epoch: int, lane: int, window: int) -> np.ndarray:
        """The order within a window: a permutation of its positions."""
        key = epoch, lane, window
        if key not in self._windows:
            whole = self._lane(lane)[1] * self.steps_per_epoch
            length = min(self.window, whole - window * self.window)
            while len(self._windows) > 2 * self.lane_count:  # those of now, and of the step before
                self._windows.pop(next(iter(self._windows)))
            self._windows[key] = permutation(length, self.seed, Stream.WINDOWS, *key)
        return self._windows[key]

    def _units(self, epoch: int, lane: int, first: int, last: int, beyond: int = 0) -> list[int]:
        """The units of a stretch of a lane and `beyond` more; what lies after the lane is in the next epoch."""
        start, width = self._lane(lane)
        whole = width * self.steps_per_epoch
        units: list[int] = []
        if first < whole:
            units = self._epoch(epoch).units(start + first, start + min(last, whole), start + whole, beyond)
        if last > whole and first < 2 * whole:
            units += self._units(epoch + 1, lane, max(first - whole, 0), min(last - whole, whole))
        return units

    def _epoch(self, epoch: int) -> "_Epoch":
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = _Epoch.draw(self.counts, self.seed, epoch)
        return self._epochs[epoch]


@dataclass(frozen=True)
class _Epoch:
    """The units of an epoch in their order.

    Attributes:
        order: unit at each place, `(units,)`.
        edges: where each place starts in the sequence, and its end, `(units + 1,)`.
        firsts: the number of each place's first sample, `(units,)`.
        turn: where in that sequence the epoch starts; it goes round.
    """

    order: np.ndarray
    edges: np.ndarray
    firsts: np.ndarray
    turn: int

    @classmethod
    def draw(cls, counts: np.ndarray, seed: int, epoch: int) -> "_Epoch":
        order = permutation(len(counts), seed, Stream.UNITS, epoch)
        edges = np.concatenate([[0], np.cumsum(counts[order])])
        firsts = (np.cumsum(counts) - counts)[order]
        return cls(order, edges, firsts, mixed(seed, Stream.UNITS, epoch, 1) % int(edges[-1]))

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """The samples at positions of the epoch's sequence."""
        turned = (positions + self.turn) % self.edges[-1]
        places = np.searchsorted(self.edges, turned, side="right") - 1
        return self.firsts[places] + turned - self.edges[places]

    def units(self, first: int, last: int, end: int, beyond: int) -> list[int]:
        """The units of positions `first .. last - 1`, and up to `beyond` more before position `end`."""
        return [int(unit) for place in self._around(first, last, end, beyond) for unit in self.order[place : place + 1]]

    def _around(self, first: int, last: int, end: int, beyond: int) -> Sequence[int]:
        total = int(self.edges[-1])
        places = []
        at = first
        while at < end and (at < last or beyond > 0):
            beyond -= at >= last
            place = int(np.searchsorted(self.edges, (at + self.turn) % total, side="right")) - 1
            places.append(place)
            at += int(self.edges[place + 1]) - (at + self.turn) % total
        return places
