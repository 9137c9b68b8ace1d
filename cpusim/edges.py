"""Random programs that go where machines and models go wrong: the edges.

Three of four programs are made here by a generator that knows the value in every place. Part
of their instructions come in *scenes*: constants are loaded into the places that an instruction
reads, and then it executes. They are edge values (0, 1, 127, 128, 255), values beside a *corner*
of its results, or any, and sometimes one register serves as both operands. A corner is where a
step in either operand decides whether the result is 0 or 255: the last product that
fits, the first that saturates, the least sum that does, a difference of 1. Between the scenes
any instructions follow, which prefer registers whose values are at an edge; some programs
repeat one of them, or calculate until everything saturates. Some have instructions behind
their HLT, which must not matter. The fourth program is drawn from `programs` (`mixed`).
Lengths favour long programs: one in eight fills all 256 slots.

Batch b of a seed is a function of both alone. It is drawn with numpy's generator, whose
stream may change between releases of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cpusim.forms import ECHO, IMMEDIATE, OPCODE, REGISTER_COUNT, A, describe
from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    ISA,
    MEMORY_SIZE,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
    Place,
)
from cpusim.machine import tables
from cpusim.programs import Programs, generate

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

BATCH = 64
"""Programs in a batch: from 64 on, the oracle runs them compiled."""
EDGE_VALUES = (0, 1, 127, 128, 255)

_DRAWN = 4  # every 4th program comes from `programs`
_SCENE = 0.15  # how often a scene begins where none is going on: they fill 4 slots of 10
_BINARY_SCENE = 0.6  # how often it is about an instruction with two operands
_EAGER = 0.7  # how often operands at an edge are preferred
_SAME = 0.15  # how often one register must serve as both operands
_DEAD_CODE = 1 / 8

_VALUES = 256
_REGISTERS = len(REGISTERS)
# Columns of the table of values: the registers, then these.
_ACC, _NOWHERE, _IMMEDIATE = range(_REGISTERS, _REGISTERS + 3)
_COLUMN = {Place.ACC: _ACC, Place.NOWHERE: _NOWHERE, Place.IMMEDIATE: _IMMEDIATE}
# Steps of a scene.
_LOAD_A, _LOAD_B, _TO_X, _TO_Y, _ACT = range(5)
# All choices of the first two operands.
_PAIRS_X, _PAIRS_Y = np.divmod(np.arange(_REGISTERS**2), _REGISTERS)


@dataclass(frozen=True)
class _Forms:
    """The forms that do not halt, V of them; a pair of values is the number b << 8 | a.

    `opcodes`, `counts`, `immediate`: [V], opcode, register operands, whether it takes a constant;
    `places`: [V, 4], the columns that a, b, dest and echo stand for, negative for an operand;
    `plans`: [V, 5], the steps of a scene, after its last _ACT; `calculates`: [V], whether results
    pile up at 0 and 255. `results`, `edges`: [opcodes, 65536], what an instruction makes of a
    pair, and whether the pair is at an edge. `corners`: by opcode, the pairs beside a
    corner. `binary`: the opcodes that read two values. `loader`, `mover`: the forms that load
    a constant into ACC, and copy ACC to a register.
    """

    opcodes: Ints
    counts: Ints
    immediate: Flags
    places: Ints
    plans: Ints
    calculates: Flags
    results: Bytes
    edges: Flags
    corners: tuple[Ints, ...]
    binary: Ints
    loader: int
    mover: int


@lru_cache(maxsize=1)
def _forms() -> _Forms:
    variants = [(i, form) for i, form in ISA.variants if not i.halts]
    rows = np.array([describe(i, form, _COLUMN) for i, form in variants])
    compiled = tables(ISA)
    results = np.zeros((len(ISA.instructions), _VALUES**2), np.uint8)
    edges = np.zeros(results.shape, np.bool_)
    corners, binary = [], []
    for instruction in ISA.instructions:
        opcode, unary = instruction.opcode, all(f.b is Place.NOWHERE for f in instruction.forms)
        size = _VALUES if unary else _VALUES**2
        start = compiled.starts[opcode]
        results[opcode, :size] = compiled.results[start : start + size]
        beside = _beside_corners(results[opcode, :size].reshape(-1, _VALUES))
        edge = beside.copy()
        edge[np.ix_([b for b in EDGE_VALUES if b < len(edge)], list(EDGE_VALUES))] = True
        edges[opcode, :size] = edge.ravel()
        corners.append(np.flatnonzero(beside if beside.any() else edge))
        if not unary:
            binary.append(opcode)
    extreme = np.isin(results, (0, 255)).mean(axis=1)
    names = [(i.name, len(form.operands)) for i, form in variants]
    return _Forms(
        rows[:, OPCODE],
        rows[:, REGISTER_COUNT],
        rows[:, IMMEDIATE] == 1,
        rows[:, A : ECHO + 1],
        np.array([_plan(form.a, form.b) for _, form in variants]),
        np.array([i.opcode in binary and extreme[i.opcode] > 1 / 4 for i, _ in variants]),
        results,
        edges,
        tuple(corners),
        np.array(binary),
        names.index(("LOADI", 1)),
        names.index(("POP", 1)),
    )


def _beside_corners(results: Bytes) -> Flags:
    """Which pairs (rows: b, columns: a) are at a corner or one step from it."""
    extreme = (results == 0) | (results == 255)
    corner = _differs(extreme, axis=1)
    if len(results) > 1:
        corner &= _differs(extreme, axis=0)
    beside = corner.copy()
    for axis in (0, 1):
        beside |= _differs(corner, axis)
    return beside


def _differs(flags: Flags, axis: int) -> Flags:
    """Which flags differ from a neighbour along an axis."""
    steps = np.diff(flags, axis=axis)
    none = np.zeros_like(flags.take([0], axis=axis))
    differs: Flags = np.concatenate([none, steps], axis=axis)
    differs |= np.concatenate([steps, none], axis=axis)
    return differs


def _plan(a: Place, b: Place) -> list[int]:
    """The steps of a scene: registers are loaded by way of ACC, then ACC itself, then it acts."""
    loads = {a: _LOAD_A, b: _LOAD_B}
    steps = []
    for place, to_place in ((Place.X, _TO_X), (Place.Y, _TO_Y)):
        if place in loads:
            steps += [loads[place], to_place]
    if Place.ACC in loads:
        steps.append(loads[Place.ACC])
    return steps + [_ACT] * (5 - len(steps))


class _Scenes:
    """The scene that each program is in, if it is in one."""

    def __init__(self, rng: np.random.Generator, forms: _Forms) -> None:
        self._rng = rng
        self._forms = forms
        self._binary = np.flatnonzero(np.isin(forms.opcodes, forms.binary))
        self._busy = np.zeros(BATCH, np.bool_)
        self._step = np.zeros(BATCH, np.int64)
        self._form = np.zeros(BATCH, np.int64)
        self._values = np.zeros((BATCH, 2), np.int64)  # a and b
        self._operands = np.zeros((BATCH, 3), np.int64)

    def go_on(self) -> tuple[Flags, Ints, Ints, Ints]:
        """Which programs are in a scene, and their next form, constant and operands."""
        self._begin()
        forms, busy = self._forms, self._busy.copy()
        step = forms.plans[self._form, self._step]
        chosen = np.select([step == _ACT, step >= _TO_X], [self._form, forms.mover], forms.loader)
        constants = np.where(step == _LOAD_B, self._values[:, 1], self._values[:, 0])
        operands = self._operands.copy()
        operands[:, 0] = np.where(step == _TO_Y, operands[:, 1], operands[:, 0])
        self._busy &= step != _ACT
        self._step = np.where(self._busy, self._step + 1, 0)
        return busy, chosen, constants, operands

    def _begin(self) -> None:
        """Let scenes begin in some programs that are in none."""
        rng, forms = self._rng, self._forms
        starts = np.flatnonzero(~self._busy & (rng.random(BATCH) < _SCENE))
        count = len(starts)
        chosen = np.where(
            rng.random(count) < _BINARY_SCENE,
            rng.choice(self._binary, count),
            rng.integers(len(forms.opcodes), size=count),
        )
        corners = [forms.corners[opcode] for opcode in forms.opcodes[chosen]]
        corner = np.array([rng.choice(pairs) for pairs in corners], int)
        kind = rng.random((count, 1))
        values = np.select(
            [kind < 0.3, kind < 0.7],
            [rng.choice(EDGE_VALUES, (count, 2)), np.stack([corner & 255, corner >> 8], axis=1)],
            rng.integers(_VALUES, size=(count, 2)),
        )
        operands = np.argsort(rng.random((count, _REGISTERS)), axis=1)[:, :3]
        operands[:, 2] = rng.integers(_REGISTERS, size=count)
        same = rng.random(count) < _SAME
        values[same, 1] = values[same, 0]
        same = (values[:, 0] == values[:, 1]) & (rng.random(count) < 0.5)
        operands[same, 1] = operands[same, 0]
        self._busy[starts] = True
        self._form[starts] = chosen
        self._values[starts] = values
        self._operands[starts] = operands


def edge_programs(seed: int, batch: int) -> Programs:
    """The 64 programs of a batch, all of which halt; `seed`, `batch` >= 0."""
    forms = _forms()
    rng = np.random.default_rng((seed, batch))
    rows = np.arange(BATCH)
    lengths = _lengths(rng)
    weights = _weights(rng, forms)
    values = np.zeros((BATCH, _IMMEDIATE + 1), np.uint8)
    values[:, : _ACC + 1] = _first_values(rng)
    states = np.zeros((BATCH, STATE_SIZE), np.uint8)
    states[:, ACC] = values[:, _ACC]
    states[:, FIRST_REGISTER:] = values[:, :_REGISTERS]
    words = np.zeros((BATCH, SLOTS, INSTRUCTION_SIZE), np.uint8)
    scenes = _Scenes(rng, forms)
    for slot in range(int(lengths.max()) - 1):
        in_scene, chosen, constants, operands = scenes.go_on()
        free = (rng.random((BATCH, 1)) > weights).sum(axis=1)
        chosen = np.where(in_scene, chosen, free)
        operands = np.where(in_scene[:, None], operands, _free_operands(rng, forms, chosen, values))
        values[:, _IMMEDIATE] = np.where(in_scene, constants, _free_constants(rng))
        opcodes = forms.opcodes[chosen]
        used = np.arange(3) < forms.counts[chosen, None]
        words[:, slot, 0] = opcodes
        words[:, slot, 1:] = np.where(used, operands + 1, 0)
        loads = forms.immediate[chosen]
        words[loads, slot, 1] = values[loads, _IMMEDIATE]
        a, b, dest, echo = (
            np.where(place < 0, operands[rows, np.maximum(-place - 1, 0)], place)
            for place in forms.places[chosen].T
        )
        read_a = values[rows, a]
        values[rows, dest] = forms.results[opcodes, values[rows, b].astype(int) << 8 | read_a]
        values[rows, echo] = read_a
        values[:, _NOWHERE] = 0
    words[np.arange(SLOTS) >= lengths[:, None] - 1] = 0
    for row in np.flatnonzero(rng.random(BATCH) < _DEAD_CODE):
        words[row, rng.integers(lengths[row])] = 0
    memories = words.reshape(BATCH, MEMORY_SIZE)
    drawn = np.arange(_DRAWN - 1, BATCH, _DRAWN)
    others = generate(
        len(drawn), distribution="mixed", seed=seed, start=batch * len(drawn), max_length=SLOTS
    )
    memories[drawn], states[drawn], lengths[drawn] = (
        others.memories,
        others.states,
        others.lengths,
    )
    return Programs(memories, states, lengths)


def _lengths(rng: np.random.Generator) -> Ints:
    """Instructions with the HLT at the end: long ones more often than short ones."""
    kinds = rng.choice(4, BATCH, p=(1 / 4, 1 / 2, 1 / 8, 1 / 8))
    lowest = np.array([1, 64, 250, SLOTS])[kinds]
    highest = np.array([63, 255, SLOTS, SLOTS])[kinds]
    return rng.integers(lowest, highest + 1)


def _weights(rng: np.random.Generator, forms: _Forms) -> npt.NDArray[np.float64]:
    """Each program's taste in instructions: cumulative probabilities [BATCH, V]."""
    weights = np.ones((BATCH, len(forms.opcodes)))
    weights[:, forms.immediate] = 3  # fresh values, or everything ends up 0 or 255
    kinds = rng.integers(3, size=BATCH)
    weights[np.ix_(kinds == 1, forms.calculates)] = 6
    favourites = rng.integers(weights.shape[1], size=BATCH)
    repeats = np.flatnonzero(kinds == 2)
    weights[repeats, favourites[repeats]] = weights.shape[1]
    cumulative = weights.cumsum(axis=1)
    cumulative /= cumulative[:, -1:]
    cumulative[:, -1] = 1
    return cumulative


def _first_values(rng: np.random.Generator) -> Bytes:
    """ACC and registers to start with [BATCH, 11]: most at an edge; in some programs all equal."""
    shape = BATCH, _ACC + 1
    values = np.where(
        rng.random(shape) < 0.5, rng.choice(EDGE_VALUES, shape), rng.integers(_VALUES, size=shape)
    )
    alike = rng.random(BATCH) < 1 / 8
    values[alike] = values[alike, :1]
    return values.astype(np.uint8)


def _free_constants(rng: np.random.Generator) -> Ints:
    """A constant for each program [BATCH]: an edge value, or any."""
    edge, any_value = rng.choice(EDGE_VALUES, BATCH), rng.integers(_VALUES, size=BATCH)
    return np.where(rng.random(BATCH) < 0.5, edge, any_value)


def _free_operands(rng: np.random.Generator, forms: _Forms, chosen: Ints, values: Bytes) -> Ints:
    """Registers for x, y and z [BATCH, 3], counted from 0; edges of the instruction preferred."""
    a, b = (
        np.where(
            place[:, None] == -1,
            _PAIRS_X,
            np.where(place[:, None] == -2, _PAIRS_Y, place[:, None]),
        )
        for place in forms.places[chosen, :2].T
    )
    read = np.take_along_axis(values, b, 1).astype(int) << 8 | np.take_along_axis(values, a, 1)
    score = rng.random(read.shape)
    eager = rng.random((BATCH, 1)) < _EAGER
    score += forms.edges[forms.opcodes[chosen, None], read] & eager
    same = rng.random((BATCH, 1)) < _SAME
    score += 2 * ((_PAIRS_X == _PAIRS_Y) & same)
    pair = score.argmax(axis=1)
    z = rng.integers(_REGISTERS, size=BATCH)
    return np.stack([_PAIRS_X[pair], _PAIRS_Y[pair], z], axis=1)
