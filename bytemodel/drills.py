"""Drills: training programs that start anywhere in memory and keep their operands random.

A program as `cpusim.programs` draws it starts at slot 0, so far slots are rarely fetched, and
its values soon saturate. A drill starts at a random slot of a memory full of instructions, so
that every slot is as likely as any other in a short trace, and what is hard is drawn more
often. Each instruction reads places that nothing was computed into yet, mostly, and writes where
something was, so that pairs of operands stay independent and uniform.

It may begin with cases that it is given, what a model got wrong before: each reads registers
of its own, which hold the case's values.

Its traces are valid (re-running one from its first record gives the same bytes) but no program
of `cpusim.programs` is among them, since those begin at slot 0 and end in an empty memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bytemodel.mistakes import FORMS, Case
from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    MEMORY_SIZE,
    PC,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
    Operand,
    Place,
)

Bytes = npt.NDArray[np.uint8]

TYPE_WEIGHTS = {"DIV": 5.0, "MUL": 3.0, "SUB": 2.0, "ADD": 2.0, "LOADI": 2.0, "POP": 2.0}
"""How often an instruction type is drawn, where not once; its forms share that equally."""
_EDGES = np.array([0, 1, 127, 128, 255], np.uint8)
_EDGE_SHARE = 0.1
# Small values: most quotients and products of uniform bytes are 0, 1 or 255.
_SMALL_SHARE = 0.3
# Values next to another register's: where a difference begins to be above 0.
_NEAR_SHARE = 0.1
_BLANK_SHARE = 0.3
_FRESH_SHARE = 0.85
_EMPTY_SHARE = 0.4

CASES = 5
"""How many given cases a drill holds at most: each may read two of the ten registers."""
HEAD = 2 * CASES
"""How many instructions those take at most."""

_WEIGHTS = np.array([TYPE_WEIGHTS.get(i.name, 1.0) / len(i.forms) for i, _ in FORMS])
_SHARES = _WEIGHTS / _WEIGHTS.sum()
_OPCODES = np.array([i.opcode for i, _ in FORMS], np.uint8)
_IS_REGISTER, _IS_IMMEDIATE = (
    np.array([[o < len(f.operands) and f.operands[o] is kind for o in range(3)] for _, f in FORMS])
    for kind in (Operand.REGISTER, Operand.IMMEDIATE)
)
_OPERAND_PLACES = (Place.X, Place.Y, Place.Z)
_HELD = (Place.ACC, *_OPERAND_PLACES)
_IS_READ = np.array([[p in (f.a, f.b, f.echo) for p in _OPERAND_PLACES] for _, f in FORMS])
# What is computed from two values is no longer random; what is loaded, copied, exchanged is.
_COMPUTES = np.array([f.b is not Place.NOWHERE and f.echo is Place.NOWHERE for _, f in FORMS])
# Copies a register to ACC.
_PUSH = next(n for n, (_, f) in enumerate(FORMS) if (f.a, f.dest) == (Place.X, Place.ACC))
# The operand that names the register written to; 3: ACC is.
_DESTINATIONS = np.array([(*_OPERAND_PLACES, Place.ACC).index(f.dest) for _, f in FORMS])


def draw(
    rng: np.random.Generator,
    count: int,
    lengths: tuple[int, int],
    last_entry: int,
    cases: Sequence[Case] = (),
) -> tuple[Bytes, Bytes]:
    """Memories, uint8[count, 1024], and first states, uint8[count, 16], of `count` drills.

    Each has `lengths` instructions, HLT included, and starts at a slot up to `last_entry`. If
    that leaves part of the memory out of reach, the rest is empty; else it is full, or in two
    cases out of five empty behind the program. `cases`: at most `CASES` for each drill, which has
    more than `HEAD` instructions then.
    """
    sizes = rng.integers(lengths[0], lengths[1] + 1, count)
    entries = (rng.random(count) * (np.minimum(SLOTS - sizes, last_entry) + 1)).astype(np.int64)
    kinds = rng.choice(len(FORMS), (count, SLOTS), p=_SHARES)
    shape = count, SLOTS, 3
    operands = np.where(_IS_REGISTER[kinds], rng.integers(1, len(REGISTERS) + 1, shape), 0)
    operands += np.where(_IS_IMMEDIATE[kinds], rng.integers(0, 256, shape), 0)
    memory = np.concatenate([_OPCODES[kinds][..., None], operands.astype(np.uint8)], axis=2)
    rows = np.arange(count)
    values = _values(rng, count)
    blank(rng, values)
    heads = np.zeros(count, np.int64)
    for row in range(count if cases else 0):
        words = _head(rng, cases[row::count], values[row])
        heads[row] = len(words)
        for slot, (kind, *registers) in enumerate(words, start=int(entries[row])):
            kinds[row, slot] = kind
            memory[row, slot] = _OPCODES[kind], *registers

    # Follow which places still hold what nothing was computed into, ACC in column 0.
    fresh = np.ones((count, len(REGISTERS) + 1), bool)
    for step in range(int(sizes.max()) - 1):
        slots = np.minimum(entries + step, SLOTS - 1)
        kind = kinds[rows, slots]
        chosen = memory[rows, slots, 1:].astype(np.int64)
        noise = rng.random((count, 3, len(REGISTERS)))
        for operand in range(3):
            wants = np.where(_IS_READ[kind, operand][:, None], fresh[:, 1:], ~fresh[:, 1:])
            best = (wants + noise[:, operand]).argmax(1) + 1
            follow = _IS_REGISTER[kind, operand] & (rng.random(count) < _FRESH_SHARE)
            follow &= step >= heads
            chosen[:, operand] = np.where(follow, best, chosen[:, operand])
        memory[rows, slots, 1:] = chosen
        with_acc = np.concatenate([chosen, np.zeros((count, 1), np.int64)], axis=1)
        fresh[rows, with_acc[rows, _DESTINATIONS[kind]]] = ~_COMPUTES[kind]

    memory[rows, entries + sizes - 1] = 0
    slots = np.arange(SLOTS)
    ends = (entries + sizes)[:, None]
    reach = last_entry + lengths[1]
    empty = (slots >= np.maximum(ends, reach)) | (
        (slots >= ends) & (rng.random((count, 1)) < _EMPTY_SHARE)
    )
    memory[empty] = 0
    states = np.zeros((count, STATE_SIZE), np.uint8)
    states[:, PC] = entries
    states[:, ACC] = values[:, 0]
    states[:, FIRST_REGISTER:] = values[:, 1:]
    return memory.reshape(count, MEMORY_SIZE), states


def blank(rng: np.random.Generator, values: Bytes) -> None:
    """Let some traces begin as programs do that people write, with zeros, where all others begin
    with random bytes: three in ten, half of those with nothing else, half with some.

    `values`: uint8[count, N], what ACC and the registers hold at first; changed in place.
    """
    count = len(values)
    share = np.where(rng.random(count) < 0.5, 1, rng.random(count))
    share = np.where(rng.random(count) < _BLANK_SHARE, share, 0)
    values[rng.random(values.shape) < share[:, None]] = 0


def _values(rng: np.random.Generator, count: int) -> Bytes:
    """What ACC (column 0) and the registers hold at first: uint8[count, 11]."""
    shape = count, len(REGISTERS) + 1
    values = rng.integers(0, 256, shape)
    share = rng.random(shape)
    small = np.exp2(8 * rng.random(shape)).astype(np.int64)
    values = np.where(share < _SMALL_SHARE, small, values)
    near = np.clip(np.roll(values, 1, axis=1) + rng.integers(-2, 3, shape), 0, 255)
    values = np.where(share > 1 - _NEAR_SHARE, near, values)
    edges = rng.choice(_EDGES, shape)
    return np.where(rng.random(shape) < _EDGE_SHARE, edges, values).astype(np.uint8)


def _head(rng: np.random.Generator, cases: Sequence[Case], values: Bytes) -> list[tuple[int, ...]]:
    """Instructions, as form and three operand bytes, that run the cases one after another.

    Puts into `values`, uint8[11], what they are to read.
    """
    free = rng.permutation(np.arange(1, len(values))).tolist()
    used: list[int] = []
    words: list[tuple[int, ...]] = []
    for kind, a, b in cases:
        form = FORMS[kind][1]
        read = {form.a: a, form.b: b}
        registers = {place: free.pop() for place in read if place in _HELD}
        for place, register in registers.items():
            values[register] = read[place]
        used += registers.values()
        if Place.ACC in registers:
            words.append((_PUSH, registers[Place.ACC], 0, 0))
        operands = [0, 0, 0]
        for place, _ in zip(_OPERAND_PLACES, form.operands, strict=False):
            # What is only written to must be nothing that is yet to be read.
            target = registers.get(place) or int(rng.choice(used or free[:1]))
            operands[_OPERAND_PLACES.index(place)] = target
        if Place.IMMEDIATE in read:
            operands[0] = read[Place.IMMEDIATE]
        words.append((kind, *operands))
    return words
