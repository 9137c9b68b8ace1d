"""Batches made by other processes are those that the source gives."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from bytemodel import ahead
from bytemodel.config import preset
from bytemodel.cpu_data import GeneratedTraces
from bytemodel.files_data import FileSource, Skipped, find_items
from cpusim.errors import UserError

STEPS = 150


def source_of(folder: Path) -> FileSource:
    items = find_items(folder, (), Skipped())
    return FileSource(items, preset("tiny"), seed=3, about={"folder": "DATA"})


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    for side, files in (("train", 9), ("test", 1)):
        (tmp_path / side).mkdir()
        for number in range(files):
            (tmp_path / side / f"{number}").write_bytes(bytes([number]) * (500 * number + 1))
    return source_of(tmp_path)


def equal(first: Iterable[Any], second: Iterable[Any]) -> bool:
    return all(all(map(torch.equal, one, other)) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_they_come_in_the_order_of_their_steps_from_any_step_on(
    workers: int, source: FileSource
) -> None:
    expected = [source.batch(step) for step in range(7, 7 + STEPS)]
    with contextlib.closing(ahead.batches(source, 7, workers)) as found:
        assert equal(islice(found, STEPS), expected)


def test_what_is_left_out_is_told_here_and_once(source: FileSource, tmp_path: Path) -> None:
    notes: list[str] = []
    source.note = notes.append
    (tmp_path / "train" / "8").unlink()
    with contextlib.closing(ahead.batches(source, 0, 2)) as found:
        assert len(list(islice(found, STEPS))) == STEPS
    gone = f"{tmp_path}/train/8: cannot be read (no such file or directory); it is left out"
    assert notes == [gone]


def test_what_cannot_go_on_is_said_behind_the_batches_before(source: FileSource) -> None:
    expected = [source.batch(step) for step in range(140)]

    class Ending:
        """It ends in the second stretch."""

        def batch(self, step: int) -> Any:
            if step == len(expected):
                raise UserError("nothing is left")
            return expected[step]

    found = ahead.batches(Ending(), 0, 1)  # type: ignore[arg-type]
    assert equal(islice(found, len(expected)), expected)
    with pytest.raises(UserError, match=r"^nothing is left$"):
        next(found)


def test_a_source_that_learns_from_answers_is_asked_here() -> None:
    asked = []

    class Listed(GeneratedTraces):
        def batch(self, step: int) -> Any:
            asked.append((step, os.getpid()))
            return super().batch(step)

    found = ahead.batches(Listed(0), 4, 2)
    next(found)
    assert asked == [(4, os.getpid())]
    next(found)
    assert asked[-1] == (5, os.getpid())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_left_to_the_main_process(
    number: signal.Signals, source: FileSource
) -> None:
    """Ctrl-C reaches all processes of a terminal, and what ends a group all of the group."""

    class Interrupted:
        def batch(self, step: int) -> Any:
            if step == 1:
                os.kill(os.getpid(), number)
            return source.batch(step)

    with contextlib.closing(ahead.batches(Interrupted(), 0, 1)) as found:  # type: ignore[arg-type]
        assert equal(islice(found, 70), [source.batch(step) for step in range(70)])


def test_a_process_that_ends_is_told_in_a_sentence(source: FileSource) -> None:
    class Ended:
        def batch(self, step: int) -> Any:
            if step == 70:
                os.kill(os.getpid(), signal.SIGKILL)
            return source.batch(step)

    found = ahead.batches(Ended(), 0, 1)  # type: ignore[arg-type]
    assert len(list(islice(found, 64))) == 64
    with pytest.raises(UserError, match="was ended, maybe for want of memory; go on from the last"):
        next(found)


def test_no_process_outlives_the_run(source: FileSource) -> None:
    class Slow:
        def batch(self, step: int) -> Any:
            if step >= 64:
                signal.pause()
            return source.batch(step)

    found = ahead.batches(Slow(), 0, 3)  # type: ignore[arg-type]
    next(found)
    before = multiprocessing.active_children()
    assert len(before) == 3
    found.close()
    assert not any(process.is_alive() for process in before)


def test_a_stretch_is_no_longer_than_it_must_be() -> None:
    class Together:
        def made_together(self, step: int) -> int:
            return (step // 1000 + 1) * 1000

    steps = islice(ahead._stretches(Together(), 900), 4)  # type: ignore[arg-type]
    assert list(steps) == [
        range(900, 1000),
        range(1000, 1256),
        range(1256, 1512),
        range(1512, 1768),
    ]


def test_the_cores_themselves_get_no_help() -> None:
    assert ahead.workers_for(torch.device("cpu")) == 0
    cores = len(os.sched_getaffinity(0))
    assert ahead.workers_for(torch.device("cuda")) == min(8, cores - 1)


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: range(12))
    for ranks, workers in (("1", 8), ("2", 5), ("6", 1), ("12", 0), ("16", 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert ahead.workers_for(torch.device("cuda")) == workers
