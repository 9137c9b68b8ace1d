"""Random programs, each from a seed and its own number alone.

Program i is a pure function of the seed, i and the options, through a counter-based
generator (SplitMix64: Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number
Generators"), so any split of the work over processes gives the same bytes.

`published` is the recipe of the authors of arXiv 2402.19155: instruction type uniform,
then the number of operands uniform over that type's forms, then registers, immediates and
the first state uniform. Its values soon saturate at 0 and 255.

`uniform` draws the same instructions but keeps the values they read uniform over 0..255
and independent of one another, at any depth. It follows each place (ACC and registers)
symbolically: a place is fresh if it holds a uniform byte that no other fresh value depends
on. First states and immediates are fresh; copies and exchanges carry freshness along, a
bijection in place keeps it, anything else ends it. Only fresh places are read, and
when they run out, constants are loaded and moved to registers. The choice never looks at a
value, so it cannot bias one. A pair of operands is one register twice in one case out of ten.
In programs of 256 instructions 23 % are LOADI, 14 % POP, and 3.5 % each of the other types,
shared equally by its forms.

`mixed` takes each program from one or the other, by a coin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from cpusim.errors import UserError
from cpusim.forms import DEST, ECHO, IMMEDIATE, OPCODE, OTHER, REGISTER_COUNT, A, B, describe
from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    ISA,
    MEMORY_SIZE,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
    Form,
    Instruction,
    InstructionSet,
    Operand,
    Place,
)
from cpusim.jit import kernel

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.uint64]

Distribution = Literal["published", "uniform", "mixed"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("published", "uniform", "mixed")
_PUBLISHED, _UNIFORM, _MIXED = range(len(DISTRIBUTIONS))

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_LOW32 = np.uint64(0xFFFFFFFF)

_REGISTERS = len(REGISTERS)
_ALL_REGISTERS = (1 << _REGISTERS) - 1
# Place numbers of the uniform generator: registers 0..9 (their bit in a mask), then ACC.
_ACC_PLACE = _REGISTERS
_PLACES = _REGISTERS + 1
# Below this many fresh registers a constant is loaded or moved every other step.
_POOL = 5

# Further columns of the form table.
_READS_A, _READS_B, _COPIES_A, _COPIES_B, _BIJECTS_A, _BIJECTS_B, _LOADS = range(7, 14)


@dataclass(frozen=True)
class Programs:
    """Programs and their first states.

    `memories`: uint8[N, 1024]; `states`: uint8[N, 16]; `lengths`: int64[N], instructions
    with HLT, which is the last.
    """

    memories: Bytes
    states: Bytes
    lengths: Ints


@dataclass(frozen=True)
class _Tables:
    """What the generator knows of an instruction set.

    `buckets`: the form for each of equally likely draws; `forms`: int64[forms, 14];
    `parts`: uint32[draws, 3], instructions as little-endian words: the opcode, the mask of
    register bytes, the mask of immediate bytes; `register_triples`: uint32[1000], all
    choices of three registers, in the places of x, y and z;
    `nth_bit`: uint8[1024, 10], the place of the n-th set bit of a mask;
    `halt`: the opcode that ends programs; `loader`, `mover`: forms that put a constant in
    ACC, and ACC in a register.
    """

    buckets: Ints
    forms: Ints
    parts: Words
    register_triples: Words
    nth_bit: Bytes
    halt: int
    loader: int
    mover: int


def _describe(instruction: Instruction, form: Form) -> list[int]:
    """A row of the form table; what the semantics do to freshness is found by trying all bytes."""
    a_values = range(1 if form.a is Place.NOWHERE else 256)
    b_values = range(1 if form.b is Place.NOWHERE else 256)
    result = np.array([[instruction.compute(a, b) for b in b_values] for a in a_values])
    echoes = form.echo is not Place.NOWHERE
    writes = form.dest is not Place.NOWHERE
    reads_a = echoes or (writes and bool((result != result[:1]).any()))
    reads_b = writes and bool((result != result[:, :1]).any())
    ordered = np.arange(256)
    bijects_a = len(a_values) == 256 and bool((np.sort(result, 0) == ordered[:, None]).all())
    bijects_b = len(b_values) == 256 and bool((np.sort(result, 1) == ordered).all())
    loads = form.a is Place.IMMEDIATE and bijects_a and not reads_b
    return [
        *describe(instruction, form, {Place.ACC: _ACC_PLACE}),
        reads_a,
        reads_b,
        len(a_values) == 256 and bool((result == ordered[:, None]).all()),
        len(b_values) == 256 and bool((result == ordered).all()),
        bijects_a,
        bijects_b,
        loads,
    ]


@lru_cache(maxsize=8)
def _tables(isa: InstructionSet) -> _Tables:
    forms = np.array([_describe(*variant) for variant in isa.variants], np.int64)
    working = [i for i in isa.instructions if not i.halts]
    share = math.lcm(*(len(i.forms) for i in working))
    rows = {(i.opcode, form): row for row, (i, form) in enumerate(isa.variants)}
    buckets = [
        rows[i.opcode, form]
        for i in working
        for form in i.forms
        for _ in range(share // len(i.forms))
    ]
    parts = [
        [
            forms[row, OPCODE],
            *(
                sum(0xFF00 << 8 * at for at, kind in enumerate(operands) if kind is wanted)
                for wanted in (Operand.REGISTER, Operand.IMMEDIATE)
            ),
        ]
        for row in buckets
        for operands in [isa.variants[row][1].operands]
    ]
    numbers = range(1, _REGISTERS + 1)
    triples = [x << 8 | y << 16 | z << 24 for x in numbers for y in numbers for z in numbers]
    nth_bit = np.zeros((1 << _REGISTERS, _REGISTERS), np.uint8)
    for mask in range(1 << _REGISTERS):
        bits = [bit for bit in range(_REGISTERS) if mask >> bit & 1]
        nth_bit[mask, : len(bits)] = bits
    copies = forms[:, _COPIES_A] == 1
    loaders = np.flatnonzero((forms[:, _LOADS] == 1) & (forms[:, DEST] == _ACC_PLACE))
    movers = np.flatnonzero(copies & (forms[:, A] == _ACC_PLACE) & (forms[:, DEST] == -1))
    if not (len(loaders) and len(movers)):
        raise ValueError("the instruction set needs a load of a constant and a copy of ACC")
    halt = next(i.opcode for i in isa.instructions if i.halts)
    return _Tables(
        np.array(buckets),
        forms,
        np.array(parts, np.uint32),
        np.array(triples, np.uint32),
        nth_bit,
        halt,
        int(loaders[0]),
        int(movers[0]),
    )


@kernel
def _mix(z: np.uint64) -> np.uint64:
    """SplitMix64's finaliser: a bijection of 64 bits that spreads every bit."""
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@kernel
def _draw(key: np.uint64, counter: int) -> np.uint64:
    return _mix(key + np.uint64(counter + 1) * _GAMMA)


@kernel
def _below(fraction: np.uint64, bound: int) -> tuple[int, np.uint64]:
    """A number below `bound` from a 32-bit fraction, and what is left of the fraction."""
    scaled = fraction * np.uint64(bound)
    return int(scaled >> np.uint64(32)), scaled & _LOW32


@kernel
def _published_body(
    words: Words, count: int, key: np.uint64, parts: Words, register_triples: Words
) -> None:
    """The first `count` instructions of a program, the authors' way."""
    # Unsigned indices: numba need not ask whether they count from the end.
    kinds = np.uint64(parts.shape[0])
    triples = np.uint64(register_triples.size)
    half = np.uint64(32)
    for slot in range(count):
        random = _draw(key, 3 + slot)
        kind = ((random >> half) * kinds) >> half
        fraction = random & _LOW32
        registers = register_triples[(fraction * triples) >> half]
        # The top byte of the fraction, where operand x has its place.
        immediate = np.uint32(fraction >> np.uint64(16))
        words[slot] = parts[kind, 0] | (parts[kind, 1] & registers) | (parts[kind, 2] & immediate)


@kernel
def _popcount(mask: int) -> int:
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@kernel
def _place(code: int, memory: Bytes, at: int) -> int:
    """The place number of a form's place in the instruction at `at`."""
    return code if code >= 0 or code == OTHER else int(memory[at - code]) - 1


@kernel
def _hold(place: int, value: int, values: Ints, holders: Ints) -> None:
    """Place `place` now holds fresh value `value`, or none (-1)."""
    if values[place] >= 0:
        holders[values[place]] &= ~(1 << place)
    values[place] = value
    if value >= 0:
        holders[value] |= 1 << place


@kernel
def _uniform_body(
    memory: Bytes,
    count: int,
    key: np.uint64,
    buckets: Ints,
    forms: Ints,
    nth_bit: Bytes,
    loader: int,
    mover: int,
    values: Ints,
    holders: Ints,
) -> None:
    """The first `count` instructions of a program whose operands stay uniform.

    `values[place]`: the number of the fresh value a place holds, or -1; places with
    the same number hold the same byte. `holders[value]`: the mask of its places.
    """
    for place in range(_PLACES):
        values[place] = place
        holders[place] = 1 << place
    pending = -1
    for slot in range(count):
        at = slot * INSTRUCTION_SIZE
        random = _draw(key, 3 + 2 * slot)
        fraction = _draw(key, 4 + 2 * slot)
        coins = int(fraction & np.uint64(0xFF))
        fraction >>= np.uint64(32)
        fresh = 0
        for value in range(_PLACES):
            fresh |= holders[value]
        stale = ~fresh & _ALL_REGISTERS
        acc_value = values[_ACC_PLACE]
        # An instruction that cannot be had now is kept until it can, so all stay equally likely.
        if pending < 0:
            pending = buckets[_below(random >> np.uint64(32), buckets.size)[0]]
        form = forms[pending]
        readable = fresh & _ALL_REGISTERS
        needs_acc = (form[_READS_A] and form[A] == _ACC_PLACE) or (
            form[_READS_B] and form[B] == _ACC_PLACE
        )
        feasible = True
        if needs_acc:
            if acc_value < 0:
                feasible = False
            else:
                readable &= ~holders[acc_value]
        operands_read = 0
        if form[_READS_A] and -3 <= form[A] < 0:
            operands_read |= 1 << (-form[A])
        if form[_READS_B] and -3 <= form[B] < 0:
            operands_read |= 1 << (-form[B])
        distinct = 0
        rest = readable
        while rest:
            rest &= ~holders[values[nth_bit[rest, 0]]]
            distinct += 1
        feasible = feasible and distinct >= _popcount(operands_read)
        if not feasible or (_popcount(stale) > _REGISTERS - _POOL and coins & 1):
            # A constant, or, once ACC holds a value of its own, a move to a stale register.
            if acc_value < 0 or holders[acc_value] & _ALL_REGISTERS:
                form = forms[loader]
            else:
                form = forms[mover]
            operands_read = 0
        else:
            pending = -1
        memory[at] = form[OPCODE]
        random &= _LOW32
        if form[IMMEDIATE]:
            memory[at + 1] = _below(random, 256)[0]
        else:
            last_read = -1
            for operand in range(form[REGISTER_COUNT]):
                if operands_read >> (operand + 1) & 1:
                    same, fraction = _below(fraction, 10)
                    if last_read >= 0 and same == 0:
                        register = last_read
                    else:
                        pick, random = _below(random, _popcount(readable))
                        register = int(nth_bit[readable, pick])
                        readable &= ~holders[values[register]]
                        last_read = register
                else:
                    # Overwriting a stale register wastes nothing; now and then any will do.
                    choice = stale if stale and coins & 6 else _ALL_REGISTERS
                    pick, random = _below(random, _popcount(choice))
                    register = int(nth_bit[choice, pick])
                memory[at + 1 + operand] = register + 1
        a = _place(form[A], memory, at)
        b = _place(form[B], memory, at)
        dest = _place(form[DEST], memory, at)
        echo = _place(form[ECHO], memory, at)
        a_value = values[a] if a >= 0 else -1
        b_value = values[b] if b >= 0 else -1
        if dest >= 0:
            value = -1
            if form[_COPIES_A]:
                value = a_value
            elif form[_COPIES_B]:
                value = b_value
            elif (
                form[_BIJECTS_A]
                and dest == a
                and a_value >= 0
                and holders[a_value] == 1 << a
                and (not form[_READS_B] or (b_value >= 0 and b_value != a_value))
            ):
                value = a_value
            elif (
                form[_BIJECTS_B]
                and dest == b
                and b_value >= 0
                and holders[b_value] == 1 << b
                and (not form[_READS_A] or (a_value >= 0 and a_value != b_value))
            ):
                value = b_value
            _hold(dest, value, values, holders)
            if form[_LOADS]:
                unused = 0
                while holders[unused]:
                    unused += 1
                _hold(dest, unused, values, holders)
        if echo >= 0:
            _hold(echo, a_value, values, holders)


@kernel
def _generate(
    words: Words,
    states: Bytes,
    lengths: Ints,
    distribution: int,
    seed: np.uint64,
    numbers: Numbers,
    min_length: int,
    max_length: int,
    buckets: Ints,
    forms: Ints,
    parts: Words,
    register_triples: Words,
    nth_bit: Bytes,
    halt: int,
    loader: int,
    mover: int,
) -> None:
    """Fill memories (u32[N, 256]) and zeroed states with the programs of these numbers."""
    values = np.empty(_PLACES, np.int64)
    holders = np.empty(_PLACES, np.int64)
    seed_key = _mix(seed + _GAMMA)
    for i in range(lengths.size):
        key = _mix(seed_key ^ _mix(numbers[i]))
        first = _draw(key, 0)
        length = min_length + _below(first & _LOW32, max_length - min_length + 1)[0]
        lengths[i] = length
        random = _draw(key, 1)
        for byte in range(8):
            states[i, FIRST_REGISTER + byte] = (random >> np.uint64(8 * byte)) & np.uint64(0xFF)
        random = _draw(key, 2)
        states[i, ACC] = random & np.uint64(0xFF)
        for byte in range(8, _REGISTERS):
            states[i, FIRST_REGISTER + byte] = (random >> np.uint64(8 * (byte - 7))) & np.uint64(
                0xFF
            )
        memory = words[i]
        memory[:] = 0
        memory[length - 1] = halt
        if distribution == _PUBLISHED or (distribution == _MIXED and first >> np.uint64(63)):
            _published_body(memory, length - 1, key, parts, register_triples)
        else:
            _uniform_body(
                memory.view(np.uint8),
                length - 1,
                key,
                buckets,
                forms,
                nth_bit,
                loader,
                mover,
                values,
                holders,
            )


def generate(
    count: int,
    *,
    distribution: Distribution = "published",
    seed: int,
    start: int = 0,
    min_length: int = 1,
    max_length: int = 255,
    isa: InstructionSet = ISA,
) -> Programs:
    """Programs `start` to `start + count - 1` of the endless sequence that `seed` names.

    Lengths are uniform from `min_length` to `max_length` (1..256, HLT included). Raises
    `UserError` for lengths out of range, a seed or a number outside 0..2**64-1 or an unknown
    distribution.
    """
    if not 0 <= start <= start + count <= 1 << 64:
        raise UserError(
            f"programs {start} to {start + count - 1} are out of range; they have numbers from 0 to"
            " 2**64 - 1"
        )
    return generate_numbered(
        np.uint64(start) + np.arange(count, dtype=np.uint64) if count else np.empty(0, np.uint64),
        distribution=distribution,
        seed=seed,
        min_length=min_length,
        max_length=max_length,
        isa=isa,
    )


def generate_numbered(
    numbers: Numbers,
    *,
    distribution: Distribution = "published",
    seed: int,
    min_length: int = 1,
    max_length: int = 255,
    isa: InstructionSet = ISA,
) -> Programs:
    """The programs of these numbers (uint64[N]) in `seed`'s sequence; see `generate`."""
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise UserError(f"distribution {distribution!r} does not exist; choose one of {known}")
    if not 1 <= min_length <= max_length <= SLOTS:
        raise UserError(
            f"lengths from {min_length} to {max_length} are not possible; choose"
            f" 1 <= minimum <= maximum <= {SLOTS}"
        )
    if not 0 <= seed < 1 << 64:
        raise UserError(f"seed {seed} is out of range; choose one from 0 to 2**64 - 1")
    table = _tables(isa)
    count = len(numbers)
    programs = Programs(
        np.empty((count, MEMORY_SIZE), np.uint8),
        np.zeros((count, STATE_SIZE), np.uint8),
        np.empty(count, np.int64),
    )
    _generate(
        programs.memories.view(np.uint32),
        programs.states,
        programs.lengths,
        DISTRIBUTIONS.index(distribution),
        np.uint64(seed),
        numbers,
        min_length,
        max_length,
        table.buckets,
        table.forms,
        table.parts,
        table.register_triples,
        table.nth_bit,
        table.halt,
        table.loader,
        table.mover,
    )
    return programs
