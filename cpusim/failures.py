"""Wrong steps of a comparison, sorted into buckets: when two programs fail in the same way.

A *failure* is one wrong step of one program (steps are numbered as in `lockstep`). Its bucket
is a form and a field, found by the first of these rules that applies to its wrong tokens:

1. The candidate had no next state: the form executed, `NOTHING`.
2. The trace should have ended, and it goes on: the form executed (HLT), `END`.
3. A 256 stands where a byte is due, so that the trace ends early: `fetch`, `END`.
4. ACC or a register that the executed form writes is wrong: that form, `ACC` or `TARGET`.
5. ACC or a register that it must leave alone is wrong: that form, `ACC` or `OTHER`.
6. PC is wrong: `fetch`, `PC`. 7. The instruction register is wrong: `fetch`, `IR`.

So a step is in one bucket, named after the first mistake of the instruction that executed, and
only if that one is right after the fetch. Step 1 follows the initial state, where no
instruction has executed: its form is `fetch`.

Two failures are *of the same way* if they are in the same bucket, and, for a wrong result
(rule 4) of two operands (all binary forms but SWAP), both results or neither should have been 0
or 255, and both second operands or neither are 0. Without this a wrong quotient would shrink
to a division by 0, if that is wrong too. What else the operands are does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from cpusim.isa import (
    ACC,
    ISA,
    PC,
    VALUE_FIELDS,
    Place,
    place_field,
)
from cpusim.loader import Program
from cpusim.lockstep import (
    END_TOKEN,
    FETCH,
    NO_TOKEN,
    Case,
    ProgramResult,
    Tokens,
    form_name,
)


class Field(StrEnum):
    """What of a step is wrong."""

    ACC = "ACC"
    TARGET = "target register"
    OTHER = "other register"
    PC = "PC"
    IR = "IR"
    END = "END"
    NOTHING = "no next state"


@dataclass(frozen=True, order=True)
class Bucket:
    """Failures of one kind; see the module's text. `form`: such as `DIV R R`, or `fetch`."""

    form: str
    field: Field

    def __str__(self) -> str:
        return f"{self.form}, {self.field}"

    @property
    def slug(self) -> str:
        """The bucket as part of a file name: `div-r-r-target`."""
        return f"{self.form} {self.field.name}".lower().replace(" ", "-")


@dataclass(frozen=True, eq=False)
class Failure:
    """One wrong step of one program.

    `predicted`: int16 [16], what the candidate said at `step`. `free_running`: whether this is
    the program's first mistake, which a candidate that feeds on its own output makes too.
    """

    bucket: Bucket
    case: Case
    step: int
    predicted: Tokens
    free_running: bool

    @cached_property
    def program(self) -> Program:
        """Memory and initial state."""
        return Program(self.case.memory.tobytes(), self.case.records[0].tobytes())

    @property
    def way(self) -> tuple[Bucket, bool, bool]:
        """Equal for failures of the same way (see the module's text)."""
        word = self.case.executed(self.step)
        if word is None or self.bucket.field not in (Field.ACC, Field.TARGET):
            return self.bucket, False, False
        _, form = ISA.decode(word)
        result, second = place_field(word, form.dest), place_field(word, form.b)
        wrong = self.expected != self.predicted
        if result is None or second is None or form.echo is not Place.NOWHERE or not wrong[result]:
            return self.bucket, False, False
        before = self.case.records[self.step - 1]
        return self.bucket, int(self.expected[result]) in (0, 255), not before[second]

    @property
    def expected(self) -> Tokens:
        """What the reference says at `step`: int16 [16]."""
        return self.case.expected(self.step)


def failures(result: ProgramResult) -> list[Failure]:
    """Every wrong step of a program, in order."""
    case, first = result.case, result.difference
    found = []
    for step in result.wrong_steps:
        free = first is not None and first.step == step
        # The first difference is what it says on its own output, `said` what it says token by
        # token; they differ where a state is mixed with the end.
        answer = result.said[step - result.from_step]
        said = first.predicted if free and first is not None else answer
        found.append(Failure(_bucket(case, step, said), case, step, said, free))
    return found


def _bucket(case: Case, step: int, said: Tokens) -> Bucket:
    expected, word = case.expected(step), case.executed(step)
    wrong = {int(field) for field in np.flatnonzero(said != expected)}
    form = form_name(word)
    if np.any(said == NO_TOKEN):
        return Bucket(form, Field.NOTHING)
    if expected[0] == END_TOKEN:
        return Bucket(form, Field.END)
    if np.any((said < 0) | (said >= END_TOKEN)):
        return Bucket(FETCH, Field.END)
    values = wrong.intersection(VALUE_FIELDS)
    written = values & set(ISA.written(word) if word is not None else ())
    if written:
        return Bucket(form, Field.ACC if ACC in written else Field.TARGET)
    if values:
        return Bucket(form, Field.ACC if ACC in values else Field.OTHER)
    return Bucket(FETCH, Field.PC if PC in wrong else Field.IR)
