"""Batches from worker processes, in order."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader

from perceptual_mae.errors import PmaeError

Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)


class Maker(Protocol[Made_co]):
    """Makes the batch of a request; returns (not raises) an error that is meant for the user."""

    def __getitem__(self, request: Any) -> Made_co | PmaeError: ...


class Requests(Protocol):
    """What to ask a `Maker` for, in order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class BatchStream(Generic[Made]):
    """The batches of `requests`, in their order, whatever the number of workers. Each `iter` starts from the front.

    Attributes:
        maker: makes the batch of a request.
        requests: one for each batch.
        workers: processes that make batches ahead of time; 0 makes each when it is asked for.
        pin_memory: put batches where a GPU copies them from fastest.
        ahead: batches each worker makes ahead of time.
    """

    maker: Maker[Made]
    requests: Requests
    workers: int = 0
    pin_memory: bool = False
    ahead: int = 2

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Made]:
        loader: DataLoader[Made | PmaeError] = DataLoader(
            self.maker,  # type: ignore[arg-type]  # a Dataset in all but name
            batch_size=None,
            sampler=self.requests,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            prefetch_factor=self.ahead if self.workers else None,
            pin_memory=self.pin_memory,
            worker_init_fn=_settle,
            multiprocessing_context=_start_method() if self.workers else None,
            generator=torch.Generator(),  # its own: else each pass would draw a number from the trainer's stream
        )
        batches = iter(loader)
        try:
            while (batch := _next(batches)) is not None:
                yield batch
        finally:
            # Now, and not when the last traceback that knows the iterator is forgotten: by then another stream may
            # have forked, and its workers would try to end these.
            getattr(batches, "_shutdown_workers", _nothing)()


def _next(batches: Iterator[Made | PmaeError]) -> Made | None:
    """The next batch, None at the end. Raises PmaeError: one that was made instead, or a worker died."""
    try:
        batch = next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" in str(error) and "exited unexpectedly" in str(error):
            raise PmaeError(
                "a data worker died, most often for lack of (shared) memory: lower --workers, 0 for none"
            ) from error
        raise
    if isinstance(batch, PmaeError):
        raise batch
    return batch


def choose_workers(asked: int | Literal["auto"], on_gpu: bool, processes: int = 1) -> int:
    """So many workers as are asked for, or suit a training process that is one of `processes` on the same cores.

    A GPU wants every core but one. Where the training step runs on the cores itself and they are few, a worker would
    only take turns with it, and each turn stalls all of the step's threads: none is faster (2 cores, 64-pixel JPEGs,
    bare step 780 images/s: 0 workers keep 92 %, 1 worker 88 %). With more cores the step is done so soon that making
    the batch on one of them, while the others wait, would count.
    """
    if asked != "auto":
        return asked
    own = max(1, cores() // processes)
    if on_gpu:
        return max(1, min(16, own - 1))
    return 0 if own <= 4 else min(4, own // 4)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_method() -> Any:
    """Fork where that is usual: a worker is there in milliseconds, shares the source's memory and needs no
    `if __name__ == "__main__"` in the caller's script, where spawn imports PyTorch again (seconds a worker). The known
    danger of fork, threads that the child does not have, is kept away by one thread a worker and no CUDA in it."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def _settle(worker: int) -> None:
    """In a worker: leave Ctrl-C and signals to the group to the main process, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    torch.set_num_threads(1)
    sys.excepthook = _unless_main_left


def _unless_main_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A main process that is interrupted while it takes over a batch needs no second report from the worker."""
    if not issubclass(kind, (EOFError, ConnectionError, multiprocessing.AuthenticationError)):
        sys.__excepthook__(kind, error, trace)


def _nothing() -> None:
    pass


def _as_it_is(batch: Any) -> Any:
    return batch
