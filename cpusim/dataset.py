"""Sets of traces on disk: made in parallel, resumable, split for good, and verified.

A set is a folder:

    set.json   the parameters, and, once everything is there, the report
    train/     00000.shard, 00001.shard, ... or one .bin a trace
    test/      the same

Train and test can share no instance, whatever the seed: which part an instance may
belong to is a function of its content, the hash of memory and first state. Place i
of a part takes the first of the candidates i, i + 2**40, i + 2 * 2**40, ... that belongs
there, so each place depends on nothing but the parameters, and any number of workers
gives the same bytes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cpusim.assembler import disassemble_word
from cpusim.errors import UserError
from cpusim.files import atomic_write, describe_os_error, read_bytes, refuse_existing
from cpusim.isa import FIELDS, INSTRUCTION_SIZE, IR, MEMORY_SIZE, PC, STATE_SIZE
from cpusim.machine import RunBatch, run_batch
from cpusim.programs import Distribution, Programs, generate_numbered
from cpusim.reference import DEFAULT_MAX_STEPS
from cpusim.trace import (
    MUST_BE_ZERO,
    SHARD_SUFFIX,
    TRACE_SUFFIX,
    Hashes,
    Shard,
    Trace,
    impossible_start,
    instance_hashes,
    is_shard,
    open_shard,
    read_trace,
    write_shard,
)

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

Layout = Literal["shards", "files"]
LAYOUTS: tuple[Layout, ...] = ("shards", "files")
PARTS = ("train", "test")
MANIFEST = "set.json"

_SHARD_TRACES = 100_000
# Traces made, run or compared at a time: a few MB, which the caches hold.
_CHUNK = 2_000
# One hash in so many belongs to test.
_TEST_SHARE = 16
_CANDIDATES = 1 << 40
# The limit of a published file: names have as many digits as the largest set needs.
_DIGITS = 7

Progress = Callable[[int, int], None]
"""Called with the number done so far and the number there is."""


def _quiet(_done: int, _total: int) -> None:
    """The progress of callers that do not want to know."""


@dataclass(frozen=True)
class SetReport:
    """What a set holds.

    `train`, `test`: traces. `records`: states, first ones included. `bytes`: size of the
    trace files. `duplicates`: instances that also stand earlier in their part; `overlap`:
    instances of test that also stand in train; both by the hashes of all instances.
    `resumed`: traces that were there already.
    """

    train: int
    test: int
    records: int
    bytes: int
    duplicates: int
    overlap: int
    resumed: int
    seconds: float


@dataclass(frozen=True)
class _Parameters:
    """What the bytes of a set depend on."""

    count: int
    test_count: int
    min_length: int
    max_length: int
    distribution: Distribution
    seed: int
    layout: Layout


@dataclass(frozen=True)
class _Task:
    """Places `first` to `last - 1` of a part: one shard, or that many files."""

    parameters: _Parameters
    folder: Path
    part: str
    first: int
    last: int

    @property
    def shard(self) -> Path:
        return self.folder / f"{self.first // _SHARD_TRACES:05d}{SHARD_SUFFIX}"

    def file(self, index: int) -> Path:
        return self.folder / f"{index:0{_DIGITS}d}{TRACE_SUFFIX}"


@dataclass(frozen=True)
class _Done:
    """What a finished task reports."""

    hashes: Hashes
    records: int
    bytes: int
    resumed: int


class _Stopped(Exception):
    """A worker was told to stop."""


def _belongs_to_test(hashes: Hashes) -> npt.NDArray[np.bool_]:
    return np.isin(hashes % np.uint64(_TEST_SHARE), 0)


def _instances(
    parameters: _Parameters, part: str, first: int, last: int
) -> tuple[Programs, Hashes]:
    """Places `first` to `last - 1` of a part, and their hashes."""
    numbers = np.arange(first, last, dtype=np.uint64)
    open_places = np.arange(last - first)
    found = Programs(
        np.empty((last - first, MEMORY_SIZE), np.uint8),
        np.empty((last - first, STATE_SIZE), np.uint8),
        np.empty(last - first, np.int64),
    )
    found_hashes = np.empty(last - first, np.uint64)
    while len(open_places):
        candidates = generate_numbered(
            numbers,
            distribution=parameters.distribution,
            seed=parameters.seed,
            min_length=parameters.min_length,
            max_length=parameters.max_length,
        )
        hashes = instance_hashes(candidates.memories, candidates.states)
        right = _belongs_to_test(hashes) == (part == "test")
        places = open_places[right]
        found.memories[places] = candidates.memories[right]
        found.states[places] = candidates.states[right]
        found.lengths[places] = candidates.lengths[right]
        found_hashes[places] = hashes[right]
        open_places = open_places[~right]
        numbers = numbers[~right] + np.uint64(_CANDIDATES)
    return found, found_hashes


def _chunks(first: int, last: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last, _CHUNK):
        yield start, min(start + _CHUNK, last)


def _do(task: _Task, tell: Callable[[int], None]) -> _Done:
    """Make what the task names, unless it is there; `tell` gets the traces made, bit by bit."""
    return _do_shard(task, tell) if task.parameters.layout == "shards" else _do_files(task, tell)


def _do_shard(task: _Task, tell: Callable[[int], None]) -> _Done:
    resumed = task.shard.exists()
    if not resumed:
        with write_shard(task.shard) as writer:
            for first, last in _chunks(task.first, task.last):
                programs, hashes = _instances(task.parameters, task.part, first, last)
                batch = run_batch(programs.memories, programs.states)
                writer.add(programs.memories, batch.records, batch.offsets, hashes)
                tell(last - first)
    shard = open_shard(task.shard)
    count = task.last - task.first
    if len(shard) != count:
        raise UserError(
            f"{task.shard}: holds {len(shard):,} traces where {count:,} belong;"
            " delete it and resume"
        )
    if resumed:
        tell(count)
    return _Done(
        shard.hashes, len(shard.records), task.shard.stat().st_size, count if resumed else 0
    )


def _do_files(task: _Task, tell: Callable[[int], None]) -> _Done:
    all_hashes = []
    records = resumed = 0
    for first, last in _chunks(task.first, task.last):
        programs, hashes = _instances(task.parameters, task.part, first, last)
        batch = run_batch(programs.memories, programs.states)
        for index in range(last - first):
            path = task.file(first + index)
            own = batch.records[batch.offsets[index] : batch.offsets[index + 1]]
            # A power cut may have kept a name and lost what was written under it.
            if path.is_file() and path.stat().st_size == MEMORY_SIZE + own.nbytes:
                resumed += 1
            else:
                with atomic_write(path, force=True, durable=False) as file:
                    file.write(programs.memories[index].data)
                    file.write(own.data)
        all_hashes.append(hashes)
        records += len(batch.records)
        tell(last - first)
    size = MEMORY_SIZE * (task.last - task.first) + STATE_SIZE * records
    return _Done(np.concatenate(all_hashes), records, size, resumed)


# What a worker process shares with its parent: set once, when it starts.
_done_counter: Synchronized[int] | None = None
_stop: Event | None = None


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, which would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _start_worker(counter: Synchronized[int], stop: Event) -> None:
    global _done_counter, _stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _done_counter, _stop = counter, stop


def _work(task: _Task) -> _Done:
    assert _done_counter is not None
    assert _stop is not None
    counter, stop = _done_counter, _stop

    def tell(count: int) -> None:
        with counter.get_lock():
            counter.value += count
        if stop.is_set():
            raise _Stopped

    return _do(task, tell)


def _do_all(tasks: list[_Task], workers: int, progress: Progress) -> list[_Done]:
    total = sum(task.last - task.first for task in tasks)
    if workers == 1:
        made = 0

        def tell(count: int) -> None:
            nonlocal made
            made += count
            progress(made, total)

        return [_do(task, tell) for task in tasks]
    # Fork would copy locks that other threads hold; spawn starts clean everywhere.
    context = multiprocessing.get_context("spawn")
    counter: Synchronized[int] = context.Value("q", 0)
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _start_worker, (counter, stop)) as pool:
        futures: list[Future[_Done]] = [pool.submit(_work, task) for task in tasks]
        waiting: Iterable[Future[_Done]] = futures
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.1)
                for future in done:
                    future.result()
                progress(counter.value, total)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _prepare(out: Path, parameters: _Parameters, force: bool) -> dict[str, Any]:
    """Make the folder ready and return its manifest."""
    manifest_path = out / MANIFEST
    folders = [out / part for part in PARTS]
    fresh: dict[str, Any] = {"format": "cpusim set 1", **asdict(parameters), "report": None}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stray in out.glob(f".{MANIFEST}.*.tmp"):
            stray.unlink()
        there = _read_manifest(manifest_path) if manifest_path.exists() else None
        if there is None:
            problem = "is not empty and holds no set" if any(out.iterdir()) else ""
        else:
            differing = ", ".join(
                f"{key} {there.get(key)!r} there, {value!r} asked for"
                for key, value in fresh.items()
                if key != "report" and there.get(key) != value
            )
            problem = f"holds another set ({differing})" if differing else ""
        if problem and not force:
            raise UserError(f"{out}: {problem}; choose another folder or use --force to replace it")
        # Of this very set whole files are kept; a killed process may have left halves.
        unwanted = (f"*{SHARD_SUFFIX}", f"*{TRACE_SUFFIX}", ".*.tmp") if problem else (".*.tmp",)
        for folder in folders:
            for pattern in unwanted:
                for old in folder.glob(pattern):
                    old.unlink()
        manifest = fresh | there if there is not None and not problem else fresh
        # First the manifest: interrupted here or later, what is in the folder is known as this set.
        if manifest != there:
            _write_manifest(manifest_path, manifest)
        for folder in folders:
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be prepared ({describe_os_error(error)})") from None
    return manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: is damaged; choose another folder or delete this one")
    return manifest


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    with atomic_write(path, force=True) as file:
        file.write(json.dumps(manifest, indent=2).encode() + b"\n")


def generate_set(
    out: Path,
    *,
    count: int,
    test_count: int = 0,
    min_length: int = 1,
    max_length: int = 255,
    distribution: Distribution = "published",
    seed: int = 0,
    layout: Layout = "shards",
    workers: int = 1,
    force: bool = False,
    progress: Progress = _quiet,
) -> SetReport:
    """Generate programs, run them and write their traces to `out`/train and `out`/test.

    What is there already of the very same set is kept, so an interrupted call, made again,
    goes on where it stopped. Every file appears under its name whole or not at all.

    Raises `UserError` for impossible parameters, if `out` holds anything else and `force` is
    not set, if it cannot be written, or if a worker is killed. KeyboardInterrupt passes after
    workers have stopped.
    """
    if count < 0 or test_count < 0 or count + test_count == 0:
        raise UserError(f"a set of {count} + {test_count} traces is empty; ask for at least 1")
    if workers < 1:
        raise UserError(f"{workers} workers cannot work; use at least 1")
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} does not exist; choose {' or '.join(LAYOUTS)}")
    parameters = _Parameters(count, test_count, min_length, max_length, distribution, seed, layout)
    # Nothing of a set that cannot be is left on disk.
    _instances(parameters, "train", 0, 1)
    begun = time.monotonic()
    manifest = _prepare(out, parameters, force)
    tasks = [
        _Task(parameters, out / part, part, first, min(first + _SHARD_TRACES, size))
        for part, size in zip(PARTS, (count, test_count), strict=True)
        for first in range(0, size, _SHARD_TRACES)
    ]
    try:
        done = _do_all(tasks, workers, progress)
    except BrokenProcessPool:
        raise UserError(
            f"{out}: a worker process was ended from outside, perhaps for lack of memory; the same"
            " call with fewer workers goes on where this one stopped"
        ) from None
    hashes = {
        part: np.concatenate(
            [np.empty(0, np.uint64)]
            + [d.hashes for task, d in zip(tasks, done, strict=True) if task.part == part]
        )
        for part in PARTS
    }
    unique = {part: np.unique(hashes[part]) for part in PARTS}
    report = SetReport(
        train=count,
        test=test_count,
        records=sum(d.records for d in done),
        bytes=sum(d.bytes for d in done),
        duplicates=sum(len(hashes[part]) - len(unique[part]) for part in PARTS),
        overlap=int(np.isin(hashes["test"], unique["train"]).sum()),
        resumed=sum(d.resumed for d in done),
        seconds=round(time.monotonic() - begun, 3),
    )
    if manifest["report"] is None:
        _write_manifest(out / MANIFEST, manifest | {"report": asdict(report)})
    return report


@dataclass(frozen=True)
class Failure:
    """A trace that is not what its program does.

    `trace`: its number in the shard, None in a file of its own. `record` and `field`: the
    first record and field that differ; `expected` and `found`: their bytes. If all common
    records agree, `field` is "length", `expected` and `found` are the counts of records, and
    `record` is the first that only one of the two has. `computed_by`: the instruction whose
    result the field is, which stands in the record before; empty for PC, IR and a length.
    """

    path: Path
    trace: int | None
    record: int
    field: str
    expected: int
    found: int
    computed_by: str = ""

    def __str__(self) -> str:
        name = str(self.path) if self.trace is None else f"{self.path}[{self.trace}]"
        if self.field == "length":
            return f"{name}: {self.found:,} records where the program gives {self.expected:,}"
        return (
            f"{name}: record {self.record:,}, {self.field}: {self.found} where the program"
            f" gives {self.expected}" + (f" ({self.computed_by})" if self.computed_by else "")
        )


@dataclass
class VerifyReport:
    """Totals of a verification; `errors` are sentences about inputs that could not be read."""

    files: int = 0
    traces: int = 0
    records: int = 0
    failures: list[Failure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def verify(
    paths: Iterable[Path],
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
    progress: Progress = _quiet,
) -> VerifyReport:
    """Re-run every trace in files, shards and folders (with all below them) from record 0.

    In folders, what ends in `.bin` or `.shard` counts; a named file counts always. A trace of
    a program that never halts is right if it ends at `max_steps`. `progress` counts files.
    Bad input is never raised: it is listed in the report, and the rest is still verified.
    """
    report = VerifyReport()
    files = _trace_files(paths, report.errors)
    batch: list[tuple[Path, Trace]] = []
    records = 0
    for done, path in enumerate(files):
        progress(done, len(files))
        try:
            if is_shard(path):
                _verify_shard(path, report, max_steps)
            else:
                trace = read_trace(path)
                batch.append((path, trace))
                records += len(trace.records)
            report.files += 1
        except UserError as error:
            report.errors.append(str(error))
        if len(batch) >= _CHUNK or records >= _CHUNK * DEFAULT_MAX_STEPS:
            _verify_files(batch, report, max_steps)
            batch, records = [], 0
    _verify_files(batch, report, max_steps)
    progress(len(files), len(files))
    return report


def _trace_files(paths: Iterable[Path], errors: list[str]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(
                file
                for file in path.rglob("*")
                if file.suffix in (TRACE_SUFFIX, SHARD_SUFFIX) and not file.is_dir()
            )
            if not below:
                errors.append(
                    f"{path}: holds no traces (no file below it ends in {TRACE_SUFFIX} or"
                    f" {SHARD_SUFFIX})"
                )
            files.extend(below)
        else:
            files.append(path)
    return files


def _verify_files(batch: list[tuple[Path, Trace]], report: VerifyReport, max_steps: int) -> None:
    if not batch:
        return
    traces = [trace for _, trace in batch]
    memories = np.frombuffer(b"".join(t.memory for t in traces), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(t.records) for t in traces])])
    found = RunBatch(np.concatenate([t.records for t in traces]), offsets, np.empty(0, np.uint8))
    for index, failure in _compare(memories.reshape(-1, MEMORY_SIZE), found, max_steps):
        report.failures.append(Failure(batch[index][0], None, *failure))
    report.traces += len(traces)
    report.records += len(found.records)


def _verify_shard(path: Path, report: VerifyReport, max_steps: int) -> None:
    shard = open_shard(path)
    try:
        shard.check()
    except UserError as error:
        # Which traces it hit is what the user wants to know next.
        report.errors.append(str(error))
    for first, last in _chunks(0, len(shard)):
        memories, states = shard.memories(first, last), shard.states(first, last)
        hashes = instance_hashes(memories, states)
        for index in np.flatnonzero(hashes != shard.hashes[first:last]).tolist():
            report.errors.append(
                f"{path}[{first + index}]: memory or first state do not fit the hash"
            )
        for index in np.flatnonzero(states[:, MUST_BE_ZERO].any(axis=1)).tolist():
            report.errors.append(f"{path}[{first + index}]: {impossible_start(states[index])}")
        start, end = shard.offsets[first], shard.offsets[last]
        found = RunBatch(
            shard.records[start:end], shard.offsets[first : last + 1] - start, np.empty(0, np.uint8)
        )
        for index, failure in _compare(memories, found, max_steps):
            report.failures.append(Failure(path, first + index, *failure))
    report.traces += len(shard)
    report.records += len(shard.records)


def _compare(
    memories: Bytes, found: RunBatch, max_steps: int
) -> Iterator[tuple[int, tuple[int, str, int, int, str]]]:
    """The traces that differ from what their programs do: number, and the rest of a `Failure`."""
    states = found.records[found.offsets[:-1]]
    sizes = np.diff(found.offsets)
    # One step more than there should be is enough to see that a trace is too short.
    expected = run_batch(memories, states, max_steps=np.minimum(sizes, max_steps))
    if np.array_equal(expected.offsets, found.offsets) and np.array_equal(
        expected.records, found.records
    ):
        return
    for index in range(len(memories)):
        one = found.records[found.offsets[index] : found.offsets[index + 1]]
        other = expected.records[expected.offsets[index] : expected.offsets[index + 1]]
        common = min(len(one), len(other))
        differs = one[:common] != other[:common]
        if differs.any():
            record, place = np.argwhere(differs)[0].tolist()
            values = int(other[record, place]), int(one[record, place])
            word = other[record - 1, IR : IR + INSTRUCTION_SIZE].tobytes()
            fetched = place == PC or IR <= place < IR + INSTRUCTION_SIZE
            # Record 1 shows the first fetch: nothing has executed yet.
            computed_by = "" if fetched or record < 2 else disassemble_word(word)
            yield index, (record, FIELDS[place], *values, computed_by)
        elif len(one) != len(other):
            whole = run_batch(
                memories[index : index + 1], states[index : index + 1], max_steps=max_steps
            )
            yield index, (common, "length", len(whole.records), len(one), "")


def export(
    source: Path,
    out: Path,
    *,
    force: bool = False,
    progress: Progress = _quiet,
) -> int:
    """Write every trace of a shard, or of all shards below a folder, to a `.bin` file of its own.

    The folders below `source` are kept, the shards of a folder are numbered through. Returns
    the number of files. Raises `UserError` if there is none, a shard is damaged, a file exists
    (unless `force`; no other is written then) or cannot be written.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the name")
    paths = [source] if source.is_file() else sorted(source.rglob(f"*{SHARD_SUFFIX}"))
    if not paths:
        raise UserError(f"{source}: holds no shards (no file below it ends in {SHARD_SUFFIX})")
    shards = [open_shard(path) for path in paths]
    total = sum(map(len, shards))
    numbered: Counter[Path] = Counter()
    plan: list[tuple[Shard, Path, range]] = []
    for shard in shards:
        below = Path() if source.is_file() else shard.path.parent.relative_to(source)
        plan.append((shard, out / below, range(numbered[below], numbered[below] + len(shard))))
        numbered[below] += len(shard)
    for shard, folder, numbers in plan:
        for number in numbers:
            refuse_existing(_file_of(folder, number), force=force, sources=[shard.path])
    written = 0
    for shard, folder, numbers in plan:
        shard.check()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: cannot be made ({describe_os_error(error)})") from None
        for index, number in enumerate(numbers):
            with atomic_write(_file_of(folder, number), force=force, durable=False) as file:
                file.write(shard.trace(index).to_bytes())
            written += 1
            progress(written, total)
    return written


def _file_of(folder: Path, number: int) -> Path:
    """Where the trace with this number is exported to."""
    return folder / f"{number:0{_DIGITS}d}{TRACE_SUFFIX}"
