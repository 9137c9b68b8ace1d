"""The batches of a run, one after the other; on a GPU made ahead of time by other processes.

A GPU takes a step in the time that one core needs to read files, or to make them, for a batch.
Since a batch is a function of its step, others can make it; who does changes nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from itertools import count, cycle
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

import torch

from bytemodel.data import AdaptiveSource, SizedBatch, Source
from cpusim.errors import UserError

_MOST_WORKERS = 8
_STEPS, _MOST_STEPS = 64, 256
"""Of so many steps in a row one process makes the batches."""


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
    Raises `UserError` as the source does, and if such a process has ended.
    """
    if not workers or isinstance(source, AdaptiveSource):
        yield from map(source.batch, count(step))
        return
    stretches = _stretches(source, step)
    told: set[str] = set()
    with contextlib.ExitStack() as held:
        links = [held.enter_context(_worker(source)) for _ in range(workers)]
        for link in links:
            link.send(next(stretches))
        # While one stretch is being learned, the others make theirs; each waits until it is asked.
        for link in cycle(links):
            try:
                made, notes, error = link.recv()
                link.send(next(stretches))
            except (EOFError, OSError):
                raise UserError(
                    "a process that makes batches was ended, maybe for want of memory; go on from"
                    " the last saved state with --resume"
                ) from None
            for sentence in notes:
                if sentence not in told:
                    told.add(sentence)
                    source.note(sentence)  # type: ignore[attr-defined]
            for batch in made:
                yield type(batch)(*map(torch.from_numpy, batch))
            if error is not None:
                raise error


def _stretches(source: Source, step: int) -> Iterator[range]:
    """Steps in a row, from one on; what is made together stays together, if it is not too much."""
    while True:
        stop = step + _STEPS
        if isinstance(source, MakesTogether):
            stop = step
            while stop < step + _STEPS:
                stop = source.made_together(stop)
        stretch = range(step, min(stop, step + _MOST_STEPS))
        yield stretch
        step = stretch.stop


@contextlib.contextmanager
def _worker(source: Source) -> Iterator[Connection]:
    """A process that makes batches, and the link to it; it lives no longer than the context."""
    # A source cannot be sent, nor need it be: the process begins as a copy of this one.
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(source, there), daemon=True)
    process.start()
    there.close()  # else it would stay open when the process ends
    try:
        yield here
    finally:
        process.kill()
        process.join()
        here.close()


def _work(source: Source, link: Connection) -> None:
    # Ctrl-C, and what ends a group of processes, reaches this one too; a run that saves itself then
    # still needs its batches. Who began this process ends it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            link.send(_made(source, link.recv()))


def _made(source: Source, steps: range) -> tuple[list[Any], list[str], UserError | None]:
    """The batches of these steps, what the source noted meanwhile, and why it had to end, if it
    had to.

    Batches are handed on as arrays: tensors would take shared memory, of which containers often
    have less than a few batches need.
    """
    notes: list[str] = []
    if hasattr(source, "note"):
        source.note = notes.append
    made: list[Any] = []
    try:
        for step in steps:
            batch = source.batch(step)
            made.append(type(batch)(*(tensor.numpy() for tensor in batch)))
    except UserError as error:
        return made, notes, error
    return made, notes, None
