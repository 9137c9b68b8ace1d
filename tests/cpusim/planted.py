"""A CPU with one planted fault, for those who must find it, and a collection of faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cpusim.assembler import assemble
from cpusim.isa import ACC, FIRST_REGISTER, IR, PC, STATE_SIZE
from cpusim.lockstep import (
    END,
    FETCH,
    NO_TOKEN,
    Bytes,
    Case,
    NoNextState,
    OracleStepper,
    Predictions,
    ProgramResult,
    Stepper,
    Tokens,
    compare,
    form_name,
    record,
)

NOTHING: Tokens = np.full(STATE_SIZE, NO_TOKEN, np.int16)
Fault = Callable[[Bytes, Bytes, Tokens], Tokens | None]
"""What the CPU says wrongly: from memory [1024], the states so far [k, 16] and a copy of the
right answer [16], which it may change and return; None where it is right."""


@dataclass
class Planted:
    """The oracle with faults; `asked` counts the traces it was asked to verify."""

    faults: tuple[Fault, ...]
    name: str = "planted"
    asked: int = 0

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        said = self._say(memory, states, OracleStepper().step(memory, states))
        if np.array_equal(said, NOTHING):
            raise NoNextState("planted")
        return said

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        for index, case in enumerate(cases):
            self.asked += 1
            right = case.expected_steps()
            if not case.ends:
                try:
                    last = OracleStepper().step(case.memory, case.records)
                except NoNextState:
                    last = NOTHING
                right = np.concatenate([right, last[None]])
            states = case.records
            tokens = [self._say(case.memory, states[: k + 1], right[k]) for k in range(len(states))]
            yield index, Predictions(np.stack(tokens))

    def _say(self, memory: Bytes, states: Bytes, right: Tokens) -> Tokens:
        for fault in self.faults:
            said = fault(memory, states, right.copy())
            if said is not None:
                return said
        return right


def results(
    programs: Iterable[tuple[str, Sequence[int]]], candidate: Stepper
) -> list[ProgramResult]:
    """How programs (assembly, ACC and registers) do."""
    starts = []
    for source, values in programs:
        state = np.zeros((1, STATE_SIZE), np.uint8)
        for field, value in zip((ACC, *range(FIRST_REGISTER, STATE_SIZE)), values, strict=False):
            state[0, field] = value
        starts.append(Case("program", np.frombuffer(assemble(source), np.uint8), state))
    return list(compare(record(OracleStepper(), starts), candidate).results)


def word(states: Bytes) -> bytes | None:
    """The instruction that executes after the last state; None at the start."""
    return states[-1, IR : IR + 4].tobytes() if len(states) > 1 else None


def form(states: Bytes) -> str:
    return form_name(word(states))


def place(name: int) -> int:
    """The field of the register that an operand byte names."""
    return FIRST_REGISTER - 1 + name


def product_of_256(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """MUL R R that overflows by one gives 0."""
    if form(states) != "MUL R R":
        return None
    _, x, y, _ = word(states) or b""
    if int(states[-1, place(x)]) * int(states[-1, place(y)]) != 256:
        return None
    said[place(x)] = 0
    return said


def division_by_zero(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """DIV R R by zero gives 0."""
    if form(states) != "DIV R R":
        return None
    _, x, y, _ = word(states) or b""
    if states[-1, place(y)]:
        return None
    said[place(x)] = 0
    return said


def slot_200_is_72(memory: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """The fetch from slot 200 returns slot 72."""
    if states[-1, PC] != 200 or np.array_equal(said, END):
        return None
    said[IR : IR + 4] = memory[4 * 72 : 4 * 73]
    return said


def swap_with_itself(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """A register swapped with itself is 0."""
    if form(states) != "SWAP R R":
        return None
    _, x, y, _ = word(states) or b""
    if x != y:
        return None
    said[place(x)] = 0
    return said


def no_end_at_256(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """HLT in the last slot does not end."""
    if len(states) == 257 and np.array_equal(said, END):
        return states[-1].astype(np.int16)
    return None


def inc_spills(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """INC of a register that holds 127 changes ACC too."""
    at = place((word(states) or bytes(2))[1])
    if form(states) != "INC R" or states[-1, at] != 127:
        return None
    said[ACC] ^= 128
    return said


def rol_clears_j(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """ROL (of ACC) clears register J."""
    if form(states) != "ROL" or not states[-1, place(10)]:
        return None
    said[place(10)] = 0
    return said


def counter_sticks(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """PC does not get beyond 128."""
    if states[-1, PC] < 128 or np.array_equal(said, END):
        return None
    said[PC] = 128
    return said


def ends_early(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """After 20 states it says that the trace ends."""
    return END.copy() if len(states) == 21 and not np.array_equal(said, END) else None


def refuses_xor(_: Bytes, states: Bytes, __: Tokens) -> Tokens | None:
    """XOR of ACC with an equal register has no next state."""
    if form(states) != "XOR R" or states[-1, ACC] != states[-1, place((word(states) or b"")[1])]:
        return None
    return NOTHING.copy()


def add_after_swap(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """ADD R directly after a SWAP gives what is one too few."""
    if form(states) != "ADD R" or not form(states[:-1]).startswith("SWAP") or not said[ACC]:
        return None
    said[ACC] -= 1
    return said


def first_step(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
    """ACC 255 is lost at the start."""
    if form(states) != FETCH or states[-1, ACC] != 255:
        return None
    said[ACC] = 0
    return said
