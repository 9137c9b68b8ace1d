"""Drills: training programs that start anywhere in memory and keep their operands random.

A program as `cpusim.programs` draws it starts at slot 0, so far slots are rarely fetched, and
its values soon saturate. A drill starts at a random slot of a memory full of instructions, so
that every slot is as likely as any other in a short trace, and what is hard is drawn more
often. Each instruction reads places that nothing was computed into yet, mostly, and writes where
something was, so that pairs of operands stay independent and uniform.

Its traces are valid (re-running one from its first record gives the same bytes) but no program
of `cpusim.programs` is among them, since those begin at slot 0 and end in an empty memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    ISA,
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
_FRESH_SHARE = 0.85
_EMPTY_SHARE = 0.4

_FORMS = [(i, form) for i in ISA.instructions if not i.halts for form in i.forms]
_WEIGHTS = np.array([TYPE_WEIGHTS.get(i.name, 1.0) / len(i.forms) for i, _ in _FORMS])
_SHARES = _WEIGHTS / _WEIGHTS.sum()
_OPCODES = np.array([i.opcode for i, _ in _FORMS], np.uint8)
_IS_REGISTER, _IS_IMMEDIATE = (
    np.array([[o < len(f.operands) and f.operands[o] is kind for o in range(3)] for _, f in _FORMS])
    for kind in (Operand.REGISTER, Operand.IMMEDIATE)
)
_OPERAND_PLACES = (Place.X, Place.Y, Place.Z)
_IS_READ = np.array([[p in (f.a, f.b, f.echo) for p in _OPERAND_PLACES] for _, f in _FORMS])
# What is computed from two values is no longer random; what is loaded, copied, exchanged is.
_COMPUTES = np.array([f.b is not Place.NOWHERE and f.echo is Place.NOWHERE for _, f in _FORMS])
# The operand that names the register written to; 3: ACC is.
_DESTINATIONS = np.array([(*_OPERAND_PLACES, Place.ACC).index(f.dest) for _, f in _FORMS])


def draw(
    rng: np.random.Generator, count: int, lengths: tuple[int, int], last_entry: int
) -> tuple[Bytes, Bytes]:
    """Memories, uint8[count, 1024], and first states, uint8[count, 16], of `count` drills.

    Each has `lengths` instructions, HLT included, and starts at a slot up to `last_entry`. If
    that leaves part of the memory out of reach, the rest is empty; else it is full, or in two
    cases out of five empty behind the program.
    """
    sizes = rng.integers(lengths[0], lengths[1] + 1, count)
    entries = (rng.random(count) * (np.minimum(SLOTS - sizes, last_entry) + 1)).astype(np.int64)
    kinds = rng.choice(len(_FORMS), (count, SLOTS), p=_SHARES)
    shape = count, SLOTS, 3
    operands = np.where(_IS_REGISTER[kinds], rng.integers(1, len(REGISTERS) + 1, shape), 0)
    operands += np.where(_IS_IMMEDIATE[kinds], rng.integers(0, 256, shape), 0)
    memory = np.concatenate([_OPCODES[kinds][..., None], operands.astype(np.uint8)], axis=2)
    rows = np.arange(count)

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
    values = rng.integers(0, 256, (count, len(REGISTERS) + 1), dtype=np.uint8)
    edges = rng.choice(_EDGES, values.shape)
    values = np.where(rng.random(values.shape) < _EDGE_SHARE, edges, values)
    states[:, PC] = entries
    states[:, ACC] = values[:, 0]
    states[:, FIRST_REGISTER:] = values[:, 1:]
    return memory.reshape(count, MEMORY_SIZE), states
