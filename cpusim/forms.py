"""Instruction forms as rows of numbers, which kernels and array code can read.

What makes programs numbers the places that hold values its own way, so that registers come where it
has use for them; the columns are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from cpusim.isa import Form, Instruction, Operand, Place

OPCODE, REGISTER_COUNT, IMMEDIATE, A, B, DEST, ECHO = range(7)
"""The columns: how many operands are registers; whether the only operand is a constant; and the
places that the form reads (a, b) and writes (dest, echo)."""
OTHER = -9
"""A place without a number."""

_NAMED = {Place.X: -1, Place.Y: -2, Place.Z: -3}


def describe(instruction: Instruction, form: Form, numbers: Mapping[Place, int]) -> list[int]:
    """A form's row. Its places are -1, -2, -3 for the register that operand byte x, y, z names,
    else what `numbers` says, else `OTHER`."""
    immediate = form.operands == (Operand.IMMEDIATE,)
    places = (form.a, form.b, form.dest, form.echo)
    return [
        instruction.opcode,
        0 if immediate else len(form.operands),
        immediate,
        *(_NAMED.get(place, numbers.get(place, OTHER)) for place in places),
    ]
