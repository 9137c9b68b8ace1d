"""Fuzzing: search for programs on which a candidate is wrong, and make them small.

Batches of programs (`edges`) are compared with the oracle in one pass each. Every wrong step
is counted in its bucket (`failures`). Failures of each bucket, as different as they come, are
shrunk (`shrink`) until there are three minimal programs, while the search goes on, and
many of them in one pass again. What is minimal is checked alone, since a model's rounding may
depend on what shares its batch, and then written to the corpus, whose old failures are
replayed before all else.

With the same seed and number of programs everything found is the same. A limit of time holds for
all of it: the second half is for shrinking alone, as long as anything is left to shrink, and what
is not minimal by the end is saved as it is.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np

from cpusim.assembler import program_slots
from cpusim.corpus import Corpus, Replays
from cpusim.edges import BATCH, EDGE_VALUES, edge_programs
from cpusim.failures import Bucket, Failure, failures
from cpusim.isa import ISA
from cpusim.loader import Program
from cpusim.lockstep import (
    FETCH,
    Case,
    Comparison,
    OracleStepper,
    Stepper,
    compare,
    form_name,
    record,
)
from cpusim.shrink import Shrinker

EXAMPLES = 3
"""Minimal programs kept of each bucket in a run."""
_ATTEMPTS = 16  # failures shrunk for them: some lead to the same program
_PASS = 2048  # instructions, at most, of the shrinkers that share a pass


@dataclass(frozen=True, eq=False)
class Example:
    """A failure as it was saved.

    `path`: its trace. `new`: whether this run wrote it. `minimal`: False if there was no time to
    shrink it to the end. `found`: the program that it was shrunk from; `found_length`: its slots.
    """

    failure: Failure
    path: Path
    new: bool
    minimal: bool
    found: str
    found_length: int

    @property
    def length(self) -> int:
        """Instructions, HLT included."""
        return program_slots(self.failure.case.memory.tobytes())


@dataclass
class Tally:
    """What was found of one bucket.

    `steps`: wrong steps. `examples`: distinct programs. `unsteady`: failures that did not show
    again with the program alone.
    """

    steps: int = 0
    examples: list[Example] = field(default_factory=list)
    unsteady: int = 0
    attempts: int = 0
    waiting: dict[tuple[object, ...], Failure | None] = field(default_factory=dict)
    """By variety: a failure still to be shrunk, or None once it has its turn."""

    @property
    def minimal_length(self) -> int | None:
        return min((example.length for example in self.examples), default=None)


@dataclass(frozen=True, eq=False)
class Known:
    """A program of the corpus, replayed: how it fails now, or None if it no longer does.

    `checked`: False if the oracle makes no claim about any step of it.
    """

    path: Path
    failure: Failure | None
    checked: bool = True


@dataclass
class Report:
    """What a run found, filled while it goes on.

    `programs`, `steps`: those of the search. `searching`: False while it only shrinks. `shrinking`:
    failures not minimal yet, which at the end are those that there was no time for.
    """

    candidate: str
    seed: int
    known: list[Known] = field(default_factory=list)
    programs: int = 0
    steps: int = 0
    tallies: dict[Bucket, Tally] = field(default_factory=dict)
    searching: bool = True
    shrinking: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def wrong_steps(self) -> int:
        return sum(tally.steps for tally in self.tallies.values())

    @property
    def failed(self) -> bool:
        """Whether any program fails, a new one or one of the corpus."""
        return bool(self.tallies) or any(known.failure for known in self.known)


def fuzz(
    candidate: Stepper,
    corpus: Corpus,
    *,
    seed: int,
    replays: Replays,
    programs: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Report], None] = lambda _: None,
    found: Callable[[Example], None] = lambda _: None,
) -> Report:
    """Replay a corpus, then search and shrink until `seconds` are over, or what was found in
    `programs` is minimal.

    `progress` is called whenever something was done, `found` with each failure saved.

    Time is looked at between passes. Ctrl-C ends the run sooner. Either way failures are saved as
    far as they have been shrunk, and so they are if the candidate raises an error, which
    passes. Raises `UserError` if the corpus cannot be written.
    """
    corpus.make()
    run = _Run(candidate, corpus, replays, Report(candidate.name, seed), progress, found)
    try:
        run.replay()
        run.search(programs, seconds)
    except KeyboardInterrupt:
        run.report.interrupted = True
    finally:
        run.save_unfinished()
    return run.report


@dataclass
class _Shrinking:
    shrinker: Shrinker
    found: str
    found_length: int

    @property
    def size(self) -> int:
        """Instructions in the programs asked about."""
        return sum(program_slots(program.memory) for program in self.shrinker.batch)


class _Run:
    def __init__(
        self,
        candidate: Stepper,
        corpus: Corpus,
        replays: Replays,
        report: Report,
        progress: Callable[[Report], None],
        found: Callable[[Example], None],
    ) -> None:
        self.report = report
        self._candidate = candidate
        self._corpus = corpus
        self._replays = replays
        self._progress = progress
        self._found = found
        self._queue: deque[_Shrinking] = deque()
        self._begun = monotonic()

    def replay(self) -> None:
        """How each program of the corpus does now."""
        if not self._corpus.known:
            return
        cases = record(OracleStepper(), [case for _, case in self._corpus.known])
        checked = [place for place, case in enumerate(cases) if case.steps]
        found: dict[int, Failure | None] = {}
        if checked:
            comparison = compare(
                [cases[place] for place in checked], self._candidate, progress=self._tick
            )
            for result in comparison.results:
                found[checked[result.index]] = next(iter(failures(result)), None)
        self.report.known = [
            Known(path, found.get(place), place in found)
            for place, (path, _) in enumerate(self._corpus.known)
        ]

    def search(self, programs: int | None, seconds: float | None) -> None:
        """Search and shrink by turns; at last only shrink."""
        report = self.report
        end = math.inf if seconds is None else self._begun + seconds
        half = math.inf if seconds is None else self._begun + seconds / 2
        in_time = True
        while in_time and (report.searching or self._queue):
            if report.searching:
                left = BATCH if programs is None else min(BATCH, programs - report.programs)
                self._search_batch(report.programs // BATCH, left)
            in_time = monotonic() < end
            if in_time:
                self._shrink()
            self._choose()
            report.searching = (programs is None or report.programs < programs) and (
                not self._queue or monotonic() < half
            )

    def _search_batch(self, batch: int, count: int) -> None:
        drawn = edge_programs(self.report.seed, batch)
        comparison = self._compare(
            Case(
                f"seed {self.report.seed}, program {batch * BATCH + row}",
                drawn.memories[row],
                drawn.states[row][None],
            )
            for row in range(count)
        )
        self.report.programs += count
        self.report.steps += comparison.instructions
        found = [failure for result in comparison.results for failure in failures(result)]
        for failure in found:
            self.report.tallies.setdefault(failure.bucket, Tally()).steps += 1
        # What shows when running free is sooner shrunk.
        for failure in sorted(found, key=lambda failure: not failure.free_running):
            self.report.tallies[failure.bucket].waiting.setdefault(_variety(failure), failure)

    def _choose(self) -> None:
        """Give failures of the buckets that want more examples to shrinkers."""
        shrinking = Counter(one.shrinker.best.bucket for one in self._queue)
        for bucket, tally in self.report.tallies.items():
            wanted = min(
                EXAMPLES - len(tally.examples) - shrinking[bucket], _ATTEMPTS - tally.attempts
            )
            unlike = [item for item in tally.waiting.items() if item[1] is not None]
            for variety, failure in unlike[: max(wanted, 0)]:
                assert failure is not None
                tally.waiting[variety] = None
                tally.attempts += 1
                length = program_slots(failure.case.memory.tobytes())
                self._queue.append(_Shrinking(Shrinker(failure), failure.case.name, length))
        self.report.shrinking = len(self._queue)

    def _shrink(self) -> None:
        """One pass for the shrinkers that ask least: most are soon done, some take long."""
        some: list[_Shrinking] = []
        total = 0
        for one in sorted(self._queue, key=lambda one: one.size):
            total += one.size
            if some and total > _PASS:
                break
            some.append(one)
        asked = [program for one in some for program in one.shrinker.batch]
        if asked:
            results = iter(self._compare(map(_start, asked)).results)
            for one in some:
                one.shrinker.take([failures(next(results)) for _ in one.shrinker.batch])
        for one in some:
            best = one.shrinker.best
            examples = [example.path for example in self.report.tallies[best.bucket].examples]
            if self._corpus.path(best) in examples:
                self._queue.remove(one)
            elif one.shrinker.finished:
                self._finish(one)
                self._queue.remove(one)

    def _finish(self, done: _Shrinking) -> None:
        """Save the simplest failure that shows with its program alone."""
        for failure in reversed(done.shrinker.trail):
            (result,) = self._compare([_start(failure.program)]).results
            for alone in failures(result):
                if (alone.way, alone.step, alone.free_running) == (
                    failure.way,
                    failure.step,
                    failure.free_running,
                ):
                    self._save(alone, done, minimal=failure is done.shrinker.best)
                    return
        self.report.tallies[done.shrinker.best.bucket].unsteady += 1

    def save_unfinished(self) -> None:
        """Save what is still being shrunk as it is."""
        while self._queue:
            self._save(self._queue[0].shrinker.best, self._queue[0], minimal=False)
            self._queue.popleft()

    def _save(self, failure: Failure, source: _Shrinking, *, minimal: bool) -> None:
        tally = self.report.tallies[failure.bucket]
        path = self._corpus.path(failure)
        if path in [example.path for example in tally.examples]:
            return
        size = f"{source.found_length:,} instruction{'s' if source.found_length != 1 else ''}"
        done = "nothing simpler fails in the same way" if minimal else "not shrunk to the end"
        story = [self._candidate.name, f"found in {source.found}, of {size}; {done}"]
        if not failure.free_running:
            story.append("not its first mistake: it shows when put back on the CPU's trace")
        new = self._corpus.add(failure, story, self._replays)
        example = Example(failure, path, new, minimal, source.found, source.found_length)
        tally.examples.append(example)
        self._found(example)

    def _compare(self, starts: Iterable[Case]) -> Comparison:
        cases = record(OracleStepper(), list(starts))
        comparison = compare(cases, self._candidate, progress=self._tick)
        self._tick(0)
        return comparison

    def _tick(self, _: int) -> None:
        self.report.seconds = monotonic() - self._begun
        self._progress(self.report)


def _start(program: Program) -> Case:
    state = np.frombuffer(program.state, np.uint8)
    return Case("program", np.frombuffer(program.memory, np.uint8), state[None])


def _variety(failure: Failure) -> tuple[object, ...]:
    """What makes failures of a bucket unlike one another, so that both deserve to be shrunk.

    Where in memory and after which form, for a fetch or an end; else the values read, as far as
    they are edge values, whether a register serves twice, and whether the result is 0 or 255.
    """
    word = failure.case.executed(failure.step)
    if word is None or failure.bucket.form == FETCH or not ISA.read(word):
        return failure.step // 64, form_name(word)
    before = failure.case.records[failure.step - 1]
    values = [int(before[place]) for place in sorted(set(ISA.read(word)))]
    operands = [byte for byte in word[1:] if byte]
    results = [int(failure.expected[place]) for place in ISA.written(word)]
    return (
        *(value if value in EDGE_VALUES else None for value in values),
        len(set(operands)) < len(operands),
        any(result in (0, 255) for result in results),
    )
