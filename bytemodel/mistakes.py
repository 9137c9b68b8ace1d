"""What a model computed wrongly of late, to be drawn again: the form and the values it read.

Random programs soon hold little that the model does not know. Since the CPU can run any case at any
time, training asks again for those that were wrong, and for their neighbours, until they
have been right several times.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from cpusim.isa import ACC, FIRST_REGISTER, INSTRUCTION_SIZE, IR, ISA, Form, Operand, Place

FORMS = [(i, form) for i in ISA.instructions if not i.halts for form in i.forms]
"""The forms that compute, numbered: a case is such a number and the bytes `a` and `b` read."""
Case = tuple[int, int, int]

_CAPACITY = 4096
_TIMES = 4
"""How often a case has to be right until it is forgotten."""
_NEIGHBOUR_SHARE = 0.5

_PLACES = (Place.ACC, Place.X, Place.Y, Place.Z, Place.IMMEDIATE, Place.NOWHERE)
_READS_A, _READS_B = (
    np.array([_PLACES.index(place) for place in places])
    for places in ([form.a for _, form in FORMS], [form.b for _, form in FORMS])
)


def _takes(form: Form, count: int) -> bool:
    """Whether a word of that form may have `count` operand bytes that are not zero."""
    return len(form.operands) == count or form.operands == (Operand.IMMEDIATE,)


# The number of a form by opcode and count of nonzero operand bytes, -1 where there is none.
_NUMBERS = np.array(
    [
        [
            next((n for n, (i, f) in enumerate(FORMS) if i is row and _takes(f, count)), -1)
            for count in range(INSTRUCTION_SIZE)
        ]
        for row in ISA.instructions
    ]
)


def cases_of(states: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """What each state is about to compute: int64 (N, 3), form, a, b; the form is -1 for none.

    `states`: uint8 (N, 16), with canonical instructions.
    """
    words = states[:, IR : IR + INSTRUCTION_SIZE].astype(np.int64)
    operands = words[:, 1:]
    forms = _NUMBERS[words[:, 0], (operands > 0).sum(1)]
    # An immediate is any byte, and no register is asked for then.
    fields = FIRST_REGISTER - 1 + np.where(operands < states.shape[1], operands, 0)
    fields = np.minimum(fields, states.shape[1] - 1)
    registers = np.take_along_axis(states, fields, 1)
    nothing = np.zeros(len(states), np.int64)
    values = np.stack([states[:, ACC], *registers.T, operands[:, 0], nothing])
    rows = np.arange(len(states))
    return np.stack([forms, values[_READS_A[forms], rows], values[_READS_B[forms], rows]], axis=1)


class Mistakes:
    """The latest cases that were wrong, at most 4,096, each until it has been right four times."""

    def __init__(self) -> None:
        # In the order in which they were wrong; the value counts how often still to ask.
        self._asks: dict[Case, int] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def note(self, states: npt.NDArray[np.uint8], right: npt.NDArray[np.bool_]) -> None:
        """Take down how the model continued `states`, uint8 (N, 16): `right`, bool (N)."""
        for (form, a, b), good in zip(cases_of(states).tolist(), right.tolist(), strict=True):
            case = form, a, b
            if form < 0 or (good and case not in self._asks):
                continue
            asks = self._asks.pop(case, 0) - 1 if good else _TIMES
            if asks > 0:
                self._asks[case] = asks
        for case in list(self._asks)[: max(0, len(self._asks) - _CAPACITY)]:
            del self._asks[case]

    def draw(self, rng: np.random.Generator, count: int) -> list[Case]:
        """At most `count` different cases, half of them moved to a neighbour's operands."""
        known = list(self._asks)
        chosen = rng.permutation(len(known))[:count]
        moves = rng.integers(-1, 2, (len(chosen), 2))
        moves[rng.random(len(chosen)) >= _NEIGHBOUR_SHARE] = 0
        cases = np.array([known[place] for place in chosen], np.int64).reshape(-1, 3)
        # What a form does not read stays 0.
        reads = np.stack([_READS_A, _READS_B], axis=1) != _PLACES.index(Place.NOWHERE)
        operands = np.clip(cases[:, 1:] + moves * reads[cases[:, 0]], 0, 255)
        return [
            (int(form), int(a), int(b)) for form, (a, b) in zip(cases[:, 0], operands, strict=True)
        ]

    def state(self) -> torch.Tensor:
        """All there is to know, for a checkpoint: int64 (cases, 4)."""
        rows = [[*case, asks] for case, asks in self._asks.items()]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)

    def restore(self, rows: Iterable[Iterable[int]]) -> None:
        """Go on from what `state` gave."""
        self._asks = {(form, a, b): asks for form, a, b, asks in rows}
