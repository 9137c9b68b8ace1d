"""The compiled CPU: many programs run and traced at once, byte for byte like `reference.run`.

Everything the kernels know comes from the instruction table: `Tables` turns an
`InstructionSet` into lookup arrays, so adding an instruction adds a row there and
nothing here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    MEMORY_SIZE,
    PC,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
    InstructionSet,
    Operand,
    Place,
)
from cpusim.jit import kernel
from cpusim.reference import DEFAULT_MAX_STEPS, Stop

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

STOPS = (Stop.HALTED, Stop.STEP_LIMIT, Stop.ILLEGAL)
"""What the codes in `RunBatch.stops` mean."""
_HALTED, _STEP_LIMIT, _ILLEGAL = range(len(STOPS))

# Two bytes beside the state: one that always reads as 0, one that takes writes to nowhere.
_ZERO, _SINK = STATE_SIZE, STATE_SIZE + 1
# Columns of `Tables.forms`.
_A, _B, _DEST, _ECHO, _ALU, _HALTS, _X_LIMIT = range(7)
# Where a place is: a byte offset, or -k for the register that operand byte k names.
_OFFSET = {
    Place.ACC: ACC,
    Place.IMMEDIATE: IR + 1,
    Place.X: -1,
    Place.Y: -2,
    Place.Z: -3,
}


@dataclass(frozen=True)
class Tables:
    """An instruction set as arrays.

    `decode`: uint8[opcodes * 8], by opcode and which operand bytes are non-zero, the
    row of `forms`, or 255 where no form fits.
    `forms`: int64[forms, 7], data flow and flags.
    `results`: uint8[opcodes, 65536], `compute(a, b)` at `a << 8 | b`.
    """

    decode: Bytes
    forms: npt.NDArray[np.int64]
    results: Bytes


@lru_cache(maxsize=8)
def tables(isa: InstructionSet) -> Tables:
    """The lookup arrays of an instruction set."""
    decode = np.full(len(isa.instructions) * 8, 255, np.uint8)
    forms = np.zeros((len(isa.variants), 7), np.int64)
    for row, (instruction, form) in enumerate(isa.variants):
        immediate = form.operands == (Operand.IMMEDIATE,)
        for count in (0, 1) if immediate else (len(form.operands),):
            decode[instruction.opcode * 8 + (1 << count) - 1] = row
        forms[row] = (
            _OFFSET.get(form.a, _ZERO),
            _OFFSET.get(form.b, _ZERO),
            _OFFSET.get(form.dest, _SINK),
            _OFFSET.get(form.echo, _SINK),
            instruction.opcode,
            instruction.halts,
            255 if immediate else len(REGISTERS),
        )
    results = np.array(
        [
            [instruction.compute(a, b) for a in range(256) for b in range(256)]
            for instruction in isa.instructions
        ],
        np.uint8,
    )
    return Tables(decode, forms, results)


@dataclass(frozen=True)
class RunBatch:
    """The traces of many runs.

    `records`: uint8[T, 16], the records of all programs one after the other.
    `offsets`: int64[P + 1]; program p's records are `records[offsets[p]:offsets[p + 1]]`.
    `stops`: uint8[P], why each run ended: an index into `STOPS`.
    """

    records: Bytes
    offsets: Offsets
    stops: Bytes

    def stop(self, program: int) -> Stop:
        """Why this program's run ended."""
        return STOPS[self.stops[program]]


@kernel
def _form_of(word: Bytes, decode: Bytes, forms: npt.NDArray[np.int64]) -> int:
    """The row of `forms` for four bytes, or 255."""
    if word[0] * 8 >= decode.size:
        return 255
    x, y, z = word[1], word[2], word[3]
    row = decode[word[0] * 8 + (x != 0) + 2 * (y != 0) + 4 * (z != 0)]
    if row != 255 and (x > forms[row, _X_LIMIT] or y > len(REGISTERS) or z > len(REGISTERS)):
        return 255
    return int(row)


@kernel
def _count(
    memories: Bytes,
    states: Bytes,
    decode: Bytes,
    forms: npt.NDArray[np.int64],
    limits: Offsets,
    steps: Offsets,
    stops: Bytes,
) -> None:
    """How many instructions each program fetches, and why it stops.

    There are no jumps, so this needs no execution.
    """
    for p in range(memories.shape[0]):
        slot = int(states[p, PC])
        fetched = 0
        stop = _STEP_LIMIT
        while fetched < limits[p]:
            word = memories[p, slot * INSTRUCTION_SIZE : (slot + 1) * INSTRUCTION_SIZE]
            row = _form_of(word, decode, forms)
            fetched += 1
            if row == 255:
                stop = _ILLEGAL
                break
            if forms[row, _HALTS]:
                stop = _HALTED
                break
            if slot == SLOTS - 1:
                fetched = limits[p]
                break
            slot += 1
        steps[p] = fetched
        stops[p] = stop


@kernel
def _trace(
    memories: Bytes,
    states: Bytes,
    decode: Bytes,
    forms: npt.NDArray[np.int64],
    results: Bytes,
    offsets: Offsets,
    records: Bytes,
) -> None:
    """Write the records of every program to their places."""
    work = np.zeros(STATE_SIZE + 2, np.uint8)
    where = np.zeros(4, np.int64)
    for p in range(memories.shape[0]):
        for i in range(STATE_SIZE):
            work[i] = states[p, i]
            records[offsets[p], i] = work[i]
        for t in range(offsets[p] + 1, offsets[p + 1]):
            slot = int(work[PC])
            for i in range(INSTRUCTION_SIZE):
                work[IR + i] = memories[p, slot * INSTRUCTION_SIZE + i]
            work[PC] = min(slot + 1, SLOTS - 1)
            for i in range(STATE_SIZE):
                records[t, i] = work[i]
            row = _form_of(work[IR : IR + INSTRUCTION_SIZE], decode, forms)
            if row == 255:
                break
            for i in range(4):
                offset = forms[row, _A + i]
                where[i] = offset if offset >= 0 else FIRST_REGISTER - 1 + work[IR - offset]
            a = work[where[_A]]
            b = work[where[_B]]
            work[where[_DEST]] = results[forms[row, _ALU], int(a) << 8 | b]
            work[where[_ECHO]] = a


def run_batch(
    memories: Bytes,
    states: Bytes,
    *,
    max_steps: int | Offsets = DEFAULT_MAX_STEPS,
    isa: InstructionSet = ISA,
    threads: int = 1,
) -> RunBatch:
    """Run every program from its state until HLT, an illegal instruction or `max_steps` fetches.

    `memories`: uint8[P, 1024]; `states`: uint8[P, 16], any bytes; `max_steps`: one limit for
    all, or int64[P]. Raises ValueError on
    any other shape or type.
    """
    if memories.shape[1:] != (MEMORY_SIZE,) or memories.dtype != np.uint8:
        raise ValueError(f"memories are {memories.dtype}{list(memories.shape)}, not uint8[P, 1024]")
    if states.shape != (len(memories), STATE_SIZE) or states.dtype != np.uint8:
        raise ValueError(f"states are {states.dtype}{list(states.shape)}, not uint8[P, 16]")
    table = tables(isa)
    count = len(memories)
    limits = np.ascontiguousarray(np.broadcast_to(np.asarray(max_steps, np.int64), count))
    steps = np.empty(count, np.int64)
    stops = np.empty(count, np.uint8)
    memories = np.ascontiguousarray(memories)
    states = np.ascontiguousarray(states)
    _count(memories, states, table.decode, table.forms, limits, steps, stops)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(steps + 1, out=offsets[1:])
    records = np.empty((int(offsets[-1]), STATE_SIZE), np.uint8)
    bounds = np.linspace(0, count, threads + 1).astype(int)

    def trace(first: int, last: int) -> None:
        _trace(
            memories[first:last],
            states[first:last],
            table.decode,
            table.forms,
            table.results,
            offsets[first : last + 1],
            records,
        )

    if threads == 1:
        trace(0, count)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(trace, bounds[:-1], bounds[1:]))
    return RunBatch(records, offsets, stops)
