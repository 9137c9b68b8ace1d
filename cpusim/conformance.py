"""Conformance: a Stepper put through the whole sweep, and a map of where it is wrong.

A *case* is a step, counted as in `cpusim.lockstep`: the record that follows an executed
instruction, the first record (nothing has executed yet: `fetch`), or the end after HLT. The
candidate is put back on the CPU's trace at every step, so no mistake causes another. A case
is wrong if any of its 16 tokens is; a wrong ACC or register is the mistake of the instruction that
executed, a wrong PC or IR one of the fetch, and both are counted apart.

What the sweep executes stands in `cpusim.sweep`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cpusim.isa import (
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    PC,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
    Place,
    source_field,
    variant_name,
)
from cpusim.lockstep import (
    FETCH,
    RESULT_FIELDS,
    Bounded,
    Case,
    FormTally,
    ProgramResult,
    Stepper,
    Tokens,
    shortened,
    verify,
)
from cpusim.trace import write_shard

if TYPE_CHECKING:
    from cpusim.programs import Programs

# What runs or makes programs is imported where it is used: it needs numba.

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

UNCHECKED, RIGHT, WRONG_FETCH, WRONG_RESULT = range(4)
"""What a cell of a map says of its cases: the worst of them. An end is part of the result."""

FORMS = (FETCH, *(variant_name(*variant) for variant in ISA.variants))
"""The names that cases are tallied under, in table order."""
BINARY_FORMS = tuple(
    variant_name(instruction, form)
    for instruction, form in ISA.variants
    if form.b is not Place.NOWHERE and form.echo is Place.NOWHERE
)
"""The forms that compute something from two values."""
PAIRS = 256 * 256
PLACES = ("ACC", *REGISTERS)

LISTED = 100
"""Wrong cases of a form that are kept."""
_CHUNK = 64  # programs: their traces are all that is held at once
_EXPORTED = 1024  # programs whose traces are written at once
_TALLIES = 5  # count, wrong, wrong result, wrong fetch, wrong end


@dataclass(frozen=True, eq=False)
class WrongCase:
    """A case that is wrong.

    `program`: its number in the sweep. `word`: the instruction that executed, None if none has.
    `operands`: the values it read. `expected`, `predicted`: int16[16].
    """

    form: str
    program: int
    step: int
    word: bytes | None
    operands: tuple[int, ...]
    expected: Tokens
    predicted: Tokens


@dataclass(frozen=True, eq=False)
class Report:
    """What has been checked so far.

    `programs`: how many. `cut`: how many of these only up to the candidate's limit.
    `tallies`: int64[forms, 5], the fields of `FormTally`; `by_field`: int64[16], wrong tokens.
    `maps`: uint8[forms, 256, 256]; of a binary form [a, b], the values it reads; of others
    [place, value], for the places and values they read or write (`PLACES`).
    `slots`, `lengths`: int64[2, 256], how many and how many wrong: fetches from each slot, and
    ends of programs of 1 to 256 instructions.
    `wrong_cases`: at most `LISTED` of each form.
    """

    candidate: str
    programs: int = 0
    cut: int = 0
    tallies: Ints = field(default_factory=lambda: np.zeros((len(FORMS), _TALLIES), np.int64))
    by_field: Ints = field(default_factory=lambda: np.zeros(STATE_SIZE, np.int64))
    maps: Bytes = field(default_factory=lambda: np.zeros((len(FORMS), 256, 256), np.uint8))
    slots: Ints = field(default_factory=lambda: np.zeros((2, SLOTS), np.int64))
    lengths: Ints = field(default_factory=lambda: np.zeros((2, SLOTS), np.int64))
    wrong_cases: tuple[WrongCase, ...] = ()

    @property
    def by_form(self) -> dict[str, FormTally]:
        """Tallies of the forms that occurred, in table order."""
        return {
            name: FormTally(*row)
            for name, row in zip(FORMS, self.tallies.tolist(), strict=True)
            if row[0]
        }

    @property
    def cases(self) -> int:
        return int(self.tallies[:, 0].sum())

    @property
    def wrong(self) -> int:
        return int(self.tallies[:, 1].sum())

    @property
    def accuracy(self) -> float:
        return 1 - self.wrong / self.cases if self.cases else 1.0

    def map(self, form: str) -> Bytes:
        """uint8[256, 256] of a binary form, uint8[11, 256] of another (see the class)."""
        cells: Bytes = self.maps[FORMS.index(form)]
        return cells if form in BINARY_FORMS else cells[: len(PLACES)]

    def pairs(self, form: str) -> tuple[int, int]:
        """How many operand pairs of a binary form were checked, and how many are wrong."""
        cells = self.map(form)
        return int((cells > UNCHECKED).sum()), int((cells > RIGHT).sum())


def check(candidate: Stepper, programs: Programs, count: int | None = None) -> Iterator[Report]:
    """Check the first `count` programs (default: all), some at a time.

    Yields a report of all that has been checked after each lot, the last of everything;
    each one stands for itself, so stop where you like. Raises as the candidate's `verify` does.
    """
    most = candidate.max_records if isinstance(candidate, Bounded) else None
    report = Report(candidate.name)
    total = len(programs.lengths) if count is None else min(count, len(programs.lengths))
    for first in range(0, total, _CHUNK):
        whole = traces(programs, first, min(first + _CHUNK, total))
        cases = [shortened(case, most, candidate.name) for case in whole]
        results = [
            ProgramResult(
                cases[index],
                first + index,
                from_step=1,
                said=predictions.tokens[: cases[index].steps].astype(np.int16),
                difference=None,
            )
            for index, predictions in verify(candidate, cases)
        ]
        report = _with(report, results)
        yield report


def case_count(programs: Programs, count: int | None = None) -> int:
    """The cases of the first `count` programs (default: all): every record but a program's first,
    and every end."""
    return int((programs.lengths[:count] + 1).sum())


def traces(programs: Programs, first: int, last: int) -> list[Case]:
    """What the CPU makes of programs `first` to `last - 1`."""
    from cpusim.machine import run_batch

    memories = programs.memories[first:last]
    batch = run_batch(memories, programs.states[first:last])
    return [
        Case(f"sweep program {first + i}", memory, batch.records[start:stop], ends=True)
        for i, (memory, start, stop) in enumerate(
            zip(memories, batch.offsets[:-1], batch.offsets[1:], strict=True)
        )
    ]


def export(
    path: Path,
    programs: Programs,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write programs and traces to a packed shard. Raises `UserError` like `atomic_write`."""
    from cpusim.machine import run_batch

    total = len(programs.lengths)
    with write_shard(path, force=force) as out:
        for first in range(0, total, _EXPORTED):
            lot = slice(first, first + _EXPORTED)
            batch = run_batch(programs.memories[lot], programs.states[lot])
            out.add(programs.memories[lot], batch.records, batch.offsets)
            progress(min(first + _EXPORTED, total), total)


def _with(report: Report, results: Sequence[ProgramResult]) -> Report:
    """The report with these programs added."""
    before = np.concatenate([result.case.records[: result.checked] for result in results])
    starts = np.cumsum([0, *(result.checked for result in results)])[:-1]
    said = np.concatenate([result.said for result in results])
    expected = np.concatenate([result.case.expected_steps() for result in results])
    wrong_tokens = np.concatenate([result.wrong for result in results])
    misfits = np.concatenate([result.misfits for result in results])

    bytes_wrong = wrong_tokens & ~misfits
    wrong: Flags = np.any(wrong_tokens, axis=1)
    wrong_result = bytes_wrong[:, RESULT_FIELDS].any(axis=1)
    wrong_fetch = bytes_wrong[:, ~RESULT_FIELDS].any(axis=1)
    wrong_end = misfits.any(axis=1)
    verdicts = np.where(wrong, WRONG_FETCH, RIGHT).astype(np.uint8)
    verdicts[wrong_result | wrong_end] = WRONG_RESULT

    words = np.ascontiguousarray(before[:, IR : IR + INSTRUCTION_SIZE]).view("<u4")[:, 0]
    distinct, inverse = np.unique(words, return_inverse=True)
    rows = np.array([_anatomy(int(word)) for word in distinct])[inverse]
    rows[starts] = _START  # the first state's IR is no instruction
    form, binary, a_at, b_at, second_at = rows.T
    every = np.arange(len(before))
    a, b = before[every, a_at].astype(np.int64), before[every, b_at].astype(np.int64)

    tallies = report.tallies.copy()
    for column, chosen in enumerate(
        (np.ones_like(wrong), wrong, wrong_result, wrong_fetch, wrong_end)
    ):
        tallies[:, column] += np.bincount(form[chosen], minlength=len(FORMS))

    maps = report.maps.copy()
    two, one = binary == 1, (binary == 0) & (a_at != PC)
    np.maximum.at(maps, (form[two], a[two], b[two]), verdicts[two])
    for at, value in ((a_at, a), (second_at, np.where(b_at != PC, b, a))):
        np.maximum.at(maps, (form[one], _PLACE_ROWS[at[one]], value[one]), verdicts[one])

    ending = expected[:, PC] >= 256
    slots, lengths = report.slots.copy(), report.lengths.copy()
    slot = before[~ending, PC].astype(np.int64)
    slots[0] += np.bincount(slot, minlength=SLOTS)
    slots[1] += np.bincount(slot[wrong_fetch[~ending]], minlength=SLOTS)
    length = np.array([len(result.case.records) - 2 for result in results if result.case.ends], int)
    lengths[0] += np.bincount(length, minlength=SLOTS)
    lengths[1] += np.bincount(length[wrong[ending]], minlength=SLOTS)

    kept = Counter(case.form for case in report.wrong_cases)
    wrong_cases = list(report.wrong_cases)
    for at in np.flatnonzero(wrong):
        name = FORMS[form[at]]
        if kept[name] < LISTED:
            kept[name] += 1
            place = int(np.searchsorted(starts, at, side="right")) - 1
            step = int(at - starts[place]) + 1
            result = results[place]
            read = [int(v) for v, off in ((a[at], a_at[at]), (b[at], b_at[at])) if off != PC]
            wrong_cases.append(
                WrongCase(
                    *(name, result.index, step, result.case.executed(step), tuple(read)),
                    *(expected[at].copy(), said[at].copy()),
                )
            )
    return replace(
        report,
        programs=report.programs + len(results),
        cut=report.cut + sum(not result.case.ends for result in results),
        tallies=tallies,
        by_field=report.by_field + wrong_tokens.sum(axis=0),
        maps=maps,
        slots=slots,
        lengths=lengths,
        wrong_cases=tuple(wrong_cases),
    )


# Places are offsets in a state; PC, which nothing reads or writes, stands for none.
_PLACE_ROWS = np.zeros(STATE_SIZE, np.int64)
_PLACE_ROWS[FIRST_REGISTER:] = np.arange(1, 1 + len(REGISTERS))
_START = (FORMS.index(FETCH), 0, PC, PC, PC)


@cache
def _anatomy(word: int) -> tuple[int, int, int, int, int]:
    """The form of an instruction word, whether it is binary, and its places: a, b and second.

    The second place is b, or where there is none the one that is written.
    """
    code = word.to_bytes(INSTRUCTION_SIZE, "little")
    name = variant_name(*(variant := ISA.decode(code)))
    form = variant[1]
    a, b, dest = (source_field(code, place) or PC for place in (form.a, form.b, form.dest))
    return FORMS.index(name), name in BINARY_FORMS, a, b, dest if b == PC else b
