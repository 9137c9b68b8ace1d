"""The plain-Python CPU: short, obvious, and what the compiled kernels are proved against.

It needs neither numpy nor numba, so one program runs at once.

Cycle: fetch `IR = memory[4*PC : 4*PC+4]`; `PC = min(PC+1, 255)`; record the state;
execute; HLT stops. Record 0 is the initial state; record k >= 1 shows the k-th fetched
instruction with ACC and the registers from before it executes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    MEMORY_SIZE,
    PC,
    SLOTS,
    STATE_SIZE,
    Form,
    IllegalEncoding,
    Instruction,
    InstructionSet,
    Place,
)

DEFAULT_MAX_STEPS = 4096


class Stop(StrEnum):
    """Why a run ended."""

    HALTED = "halted"
    STEP_LIMIT = "step limit"
    ILLEGAL = "illegal instruction"


@dataclass(frozen=True)
class Run:
    """What a run left behind.

    `records`: the state records, 16 bytes each, the initial state first; after an
    illegal instruction the last record shows it, fetched but not executed.
    `steps`: instructions fetched, so `len(records) == steps + 1`.
    `reason`: for an illegal instruction the sentence that names slot, bytes and why.
    """

    records: tuple[bytes, ...]
    stop: Stop
    reason: str = ""

    @property
    def steps(self) -> int:
        return len(self.records) - 1


def fetch(memory: bytes, state: bytes) -> bytes:
    """The next record: the state with the next instruction fetched and PC advanced."""
    slot = state[PC]
    word = memory[slot * INSTRUCTION_SIZE : (slot + 1) * INSTRUCTION_SIZE]
    return bytes([min(slot + 1, SLOTS - 1), state[ACC], *word, *state[FIRST_REGISTER:]])


def execute(state: bytes, instruction: Instruction, form: Form) -> bytes:
    """The state after the instruction in IR has executed (PC and IR unchanged)."""
    x, y, z = state[IR + 1 : IR + INSTRUCTION_SIZE]
    where = {
        Place.ACC: ACC,
        Place.X: FIRST_REGISTER + x - 1,
        Place.Y: FIRST_REGISTER + y - 1,
        Place.Z: FIRST_REGISTER + z - 1,
        Place.IMMEDIATE: IR + 1,
    }
    a = 0 if form.a is Place.NOWHERE else state[where[form.a]]
    b = 0 if form.b is Place.NOWHERE else state[where[form.b]]
    after = bytearray(state)
    if form.dest is not Place.NOWHERE:
        after[where[form.dest]] = instruction.compute(a, b)
    if form.echo is not Place.NOWHERE:
        after[where[form.echo]] = a
    return bytes(after)


def run(
    memory: bytes,
    state: bytes,
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
    isa: InstructionSet = ISA,
    disturb: Callable[[int, bytes], bytes] | None = None,
) -> Run:
    """Run from `state` (16 bytes) until HLT, an illegal instruction or `max_steps` fetches.

    `memory` is the whole 1024-byte image. `disturb(step, record)` is what a faulty machine makes
    of each record (step 1, 2, ...) after its fetch: it is what gets recorded, and executed.
    Raises ValueError on any other size.
    """
    if len(memory) != MEMORY_SIZE or len(state) != STATE_SIZE:
        raise ValueError(f"memory of {len(memory)} and state of {len(state)} bytes")
    records = [bytes(state)]
    current = bytes(state)
    for step in range(1, max_steps + 1):
        slot = current[PC]
        current = fetch(memory, current)
        if disturb is not None:
            current = disturb(step, current)
        records.append(current)
        word = current[IR : IR + INSTRUCTION_SIZE]
        try:
            instruction, form = isa.decode(word)
        except IllegalEncoding as error:
            shown = " ".join(f"{byte:02x}" for byte in word)
            reason = f"slot {slot} holds {shown}, which is no instruction: {error}"
            return Run(tuple(records), Stop.ILLEGAL, reason)
        if instruction.halts:
            return Run(tuple(records), Stop.HALTED)
        current = execute(current, instruction, form)
    return Run(tuple(records), Stop.STEP_LIMIT)
