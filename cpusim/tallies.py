"""Where a candidate errs: its resynchronised steps by the values of operands, and by depth.

`lockstep.Comparison` tallies by form and by field as every report needs them; these two are
for those who look closer. What a step is and when it is wrong stands in `cpusim.lockstep`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from cpusim.isa import (
    INSTRUCTION_SIZE,
    IR,
    ISA,
    STATE_SIZE,
    IllegalEncoding,
    Place,
    source_field,
    variant_name,
)
from cpusim.lockstep import ProgramResult

Counts = npt.NDArray[np.int64]

BINS = 16
BIN_WIDTH = 256 // BINS

_ROWS_AT_ONCE = 1 << 16  # bounds the memory; more of them are no faster
_NO_VARIANT = -1
_ZERO = STATE_SIZE  # the column behind a state's, which holds what is read nowhere: 0


@dataclass(frozen=True, eq=False)
class OperandTally:
    """Steps of one form by the two values it read.

    `reads`: the places they come from, in the form's order: one or two. `count`, `wrong`:
    int64 [16, 16], by the first value (rows) and the second one, in bins of 16 values each;
    with a single value only column 0 is used.
    """

    reads: tuple[Place, ...]
    count: Counts
    wrong: Counts


def by_operands(results: Iterable[ProgramResult]) -> dict[str, OperandTally]:
    """Tallies by executed form, in table order, for the forms that occur and read something.

    A step's values are those of the reference's state before it, as the instruction read them.
    """
    tallies = np.zeros((2, len(ISA.variants), BINS, BINS), np.int64)
    for before, wrong in _executions(results):
        words = np.ascontiguousarray(before[:, IR : IR + INSTRUCTION_SIZE]).view("<u4")[:, 0]
        unique, inverse = np.unique(words, return_inverse=True)
        variant, first, second = np.array([_reads(int(word)) for word in unique]).T[:, inverse]
        legal = variant != _NO_VARIANT
        values = np.pad(before, ((0, 0), (0, 1)))
        rows = np.arange(len(values))
        cell = variant * BINS + values[rows, first] // BIN_WIDTH
        cell = cell * BINS + values[rows, second] // BIN_WIDTH
        for tally, chosen in zip(tallies, (legal, legal & wrong), strict=True):
            tally += np.bincount(cell[chosen], minlength=tally.size).reshape(tally.shape)
    found = {}
    for (instruction, form), count, wrong_count in zip(ISA.variants, *tallies, strict=True):
        reads = tuple(place for place in (form.a, form.b) if place is not Place.NOWHERE)
        if reads and count.any():
            name = variant_name(instruction, form)
            found[name] = OperandTally(reads, count, wrong_count)
    return found


def _executions(
    results: Iterable[ProgramResult],
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]:
    """The state that each step's instruction executed in, and whether the step is wrong.

    uint8 [n, 16] and bool [n], many programs at a time. Step 1 follows no instruction.
    """
    states: list[npt.NDArray[np.uint8]] = []
    wrong: list[npt.NDArray[np.bool_]] = []
    for result in results:
        skipped = int(result.from_step == 1)
        first = result.from_step - 1 + skipped
        states.append(result.case.records[first : result.from_step - 1 + result.checked])
        wrong.append(np.asarray(result.wrong[skipped:].any(axis=1)))
        if sum(map(len, states)) >= _ROWS_AT_ONCE:
            yield np.concatenate(states), np.concatenate(wrong)
            states, wrong = [], []
    if any(map(len, states)):  # in programs of one illegal instruction nothing executes
        yield np.concatenate(states), np.concatenate(wrong)


@cache
def _reads(word: int) -> tuple[int, int, int]:
    """An instruction's place among the variants, and the columns of a state that it reads."""
    encoded = word.to_bytes(INSTRUCTION_SIZE, "little")
    try:
        instruction, form = ISA.decode(encoded)
    except IllegalEncoding:
        return _NO_VARIANT, _ZERO, _ZERO
    first, second = (source_field(encoded, place) or _ZERO for place in (form.a, form.b))
    return ISA.variants.index((instruction, form)), first, second


@dataclass(frozen=True)
class DepthTally:
    """Steps `first` to `last` of all programs together."""

    first: int
    last: int
    count: int
    wrong: int


def by_depth(results: Iterable[ProgramResult]) -> list[DepthTally]:
    """Tallies by the number of the step: 1, 2 to 3, 4 to 7, and so on, where there are any."""
    count: list[int] = []
    wrong: list[int] = []
    for result in results:
        after = result.from_step + result.checked
        while 1 << len(count) < after:
            count.append(0)
            wrong.append(0)
        for power in range(len(count)):
            first, end = max(1 << power, result.from_step), min(2 << power, after)
            count[power] += max(0, end - first)
        for step in result.wrong_steps:
            wrong[step.bit_length() - 1] += 1
    return [
        DepthTally(1 << power, (2 << power) - 1, count[power], wrong[power])
        for power in range(len(count))
        if count[power]
    ]
