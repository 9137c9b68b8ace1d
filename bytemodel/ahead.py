"""The batches of a run, one after the other; on a GPU made ahead of time by other processes.

A GPU takes a step in the time that one core needs to read files, or to make them, for a batch.
Since a batch is a function of its step, others can make it; who does changes nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bytemodel.data import AdaptiveSource, SizedBatch, Source
from cpusim.errors import UserError

_MOST_WORKERS = 8
_STEPS = 64
"""Of so many steps in a row, or a few more, one process makes the batches."""


@runtime_checkable
class MakesTogether(Protocol):
    """A source that makes the batches of several steps at once."""

    def made_together(self, step: int) -> int:
        """The first step behind those whose batches are made with that of `step`."""
        ...


def workers_for(device: torch.device) -> int:
    """How many processes should make batches: none for training on the cores themselves, nor
    where a process cannot begin as a copy of this one."""
    if device.type == "cpu" or not hasattr(os, "fork"):
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_MOST_WORKERS, max(cores - 1, 0))


def batches(source: Source, step: int, workers: int) -> Generator[SizedBatch]:
    """The batches from that step on, without end.

    Those of an `AdaptiveSource` depend on the answers to the ones before, so they are drawn when
    they are asked for. What a source notes in other processes is told here, each thing once.
    """
    if not workers or isinstance(source, AdaptiveSource):
        yield from map(source.batch, count(step))
        return
    loader: DataLoader[Any] = DataLoader(
        _Stretches(source),
        batch_size=None,
        sampler=_InARow(source, step),
        num_workers=workers,
        multiprocessing_context="fork",  # a source cannot be sent, nor need it be
        worker_init_fn=_let_main_process_decide,
        collate_fn=_as_it_is,
    )
    told: set[str] = set()
    for made, notes, error in loader:
        for sentence in notes:
            if sentence not in told:
                told.add(sentence)
                source.note(sentence)  # type: ignore[attr-defined]
        for batch in made:
            yield type(batch)(*map(torch.from_numpy, batch))
        if error is not None:
            raise error


class _Stretches(Dataset[Any]):
    """The batches of several steps, what the source noted meanwhile, and why it had to end, if it
    had to.

    Batches are handed on as arrays: tensors would take shared memory, of which containers often
    have less than a few batches need.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, steps: range) -> tuple[list[Any], list[str], UserError | None]:
        notes: list[str] = []
        if hasattr(self._source, "note"):
            self._source.note = notes.append
        made: list[Any] = []
        try:
            for step in steps:
                batch = self._source.batch(step)
                made.append(type(batch)(*(tensor.numpy() for tensor in batch)))
        except UserError as error:
            return made, notes, error
        return made, notes, None


class _InARow(Sampler[range]):
    """Steps by the stretch, from one on; what is made together stays together."""

    def __init__(self, source: Source, step: int) -> None:
        self._source, self._step = source, step

    def __iter__(self) -> Iterator[range]:
        first = self._step
        while True:
            stop = first + _STEPS
            if isinstance(self._source, MakesTogether):
                stop = first
                while stop < first + _STEPS:
                    stop = self._source.made_together(stop)
            yield range(first, stop)
            first = stop


def _as_it_is(made: Any) -> Any:
    return made


def _let_main_process_decide(_worker: int) -> None:
    """Ctrl-C reaches all processes; a run that ends so still needs its batches to be whole."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
