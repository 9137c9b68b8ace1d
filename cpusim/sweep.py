"""The sweep: programs that between them execute every case a CPU can get wrong.

What is executed
    - every binary form (`OP R`, `OP R R`, `OP R R R`) on all 65,536 pairs of operand values,
      from two places; and, where it names both operands, on one register twice: each register
      with each value;
    - every other form on each value in each place (ACC or register) that it reads, and what
      copies also to each place; where it names two registers, also on one register twice;
    - every instruction word that can execute (of LOADI every value), so every register in
      every operand of every form;
    - from every slot, and behind 0 to 255 instructions the HLT that ends the program.

How so few steps do it
    Nearly every step executes a case that no other has executed. A program's first state is
    free: any ACC and any registers, and it is put together from cases that are still missing.
    From there on values are used as long as they are good for something. At each step, of the form
    that is furthest behind, the instruction is taken that destroys the least and leaves
    the most behind, measured in missing cases that a value in ACC or a register can start. So
    results of three-operand forms go to a register that is worth nothing any more, where
    they feed the two-operand forms. Only when ACC is worth nothing is it loaded with a constant,
    which costs a step. A program ends where its values serve no missing case.

    The first instruction of a program always executes a missing case. So this ends.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
    Place,
)
from cpusim.jit import kernel
from cpusim.machine import tables
from cpusim.programs import Programs

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Starts = npt.NDArray[np.int32]

_SEED = 1
_BYTES = 256

# Places: ACC, then the registers, so that an operand byte is its register's place.
_ACC_PLACE = 0
_PLACES = 1 + len(REGISTERS)

# Further columns of the form table.
_SECOND = 7  # b's place, or where there is none dest's
_BINARY = 8  # computes something from two values
_USES_UP = 9  # what a binary form overwrites its a in: 0 for ACC, 1 for a register, else -1

# A case is known by its form and up to three keys, numbers of flags:
#   a binary form's pair `a << 8 | b`;
#   where one register is read twice, this place and value; else of a form that is not binary
#   a's place and value, and the second place and its value (b's, or the one that is written);
#   the word.
_PAIRS = _BYTES * _BYTES
_SINGLES = _PLACES * _BYTES
_A_KEYS, _SECOND_KEYS, _TWICE_KEYS, _WORD_KEYS = (_PAIRS + _SINGLES * part for part in range(4))
_KEYS = _WORD_KEYS + _PLACES**3
_WISHES = 30  # cases that a first state is put together from, as far as they fit

_NOTHING = -1 << 40


class _Table(NamedTuple):
    """The instruction set: `forms` int64[forms, 10]; `loader`, the row of the form that loads a
    constant; `results` and `starts` as in `machine.Tables`."""

    forms: Ints
    loader: int
    results: Bytes
    starts: Starts


class _Todo(NamedTuple):
    """What is still to be executed.

    `missing`: uint8[forms, keys / 8], a bit for each key. `totals`, `remaining`, `words`:
    int64[forms], how many keys a form had and still misses, and how many of these are words.
    `worth`: int64[2, 256], how many missing pairs a value in ACC, or in a register, can start by
    being overwritten.
    `wishes`: int64[totals.sum()], the keys of each form, shuffled, form after form; `wished`:
    int64[forms], up to where in there none is missing. `random`: uint64[1].
    """

    missing: Bytes
    totals: Ints
    remaining: Ints
    words: Ints
    worth: Ints
    wishes: Ints
    wished: Ints
    random: npt.NDArray[np.uint64]


@kernel
def _below(random: npt.NDArray[np.uint64], bound: int) -> int:
    """A random number below `bound` (Marsaglia 2003, "Xorshift RNGs")."""
    bits = random[0]
    bits ^= bits << np.uint64(13)
    bits ^= bits >> np.uint64(7)
    bits ^= bits << np.uint64(17)
    random[0] = bits
    return int((bits >> np.uint64(32)) % np.uint64(bound))


# What runs in the inner loop takes numbers, no arrays: numba counts references to each array
# that a function is given, which would take forty times as long as the rest.


@kernel
def _place(code: int, x: int, y: int, z: int) -> int:
    """The place that a form's place is in an instruction (ACC's if it is an immediate)."""
    if code >= 0:
        return code
    return x if code == -1 else y if code == -2 else z if code == -3 else _ACC_PLACE


@kernel
def _first_key(binary: int, twice: bool, place: int, a: int, b: int) -> int:
    """The key of the values read; `place`: a's."""
    if twice:
        return _TWICE_KEYS + (place << 8 | a)
    return a << 8 | b if binary else _A_KEYS + (place << 8 | a)


@kernel
def _second_key(binary: int, twice: bool, first: int, place: int, value: int) -> int:
    """The key of the second place and its value; the first key if there is none."""
    return first if binary or twice else _SECOND_KEYS + (place << 8 | value)


@kernel
def _word_key(immediate: int, x: int, y: int, z: int) -> int:
    return _WORD_KEYS + (0 if immediate else (x * _PLACES + y) * _PLACES + z)


@kernel
def _in_turn(first: int, number: int) -> int:
    """The register that comes `number` (0..9) places after register `first`, round and round."""
    place = first + number
    return place if place < _PLACES else place - (_PLACES - 1)


@kernel
def _choose(table: _Table, todo: _Todo, row: int, values: Ints, best: Ints) -> bool:
    """Set `best` to the operands of a form's best instruction; returns whether one is any good.

    The best one has the most missing keys, and of these does most for the worth of the values.
    """
    forms, results, missing, worth = table.forms, table.results, todo.missing, todo.worth
    start = table.starts[forms[row, OPCODE]]
    count, immediate = forms[row, REGISTER_COUNT], forms[row, IMMEDIATE]
    binary = forms[row, _BINARY]
    a_code, b_code, second_code = forms[row, A], forms[row, B], forms[row, _SECOND]
    dest_code, echo_code = forms[row, DEST], forms[row, ECHO]
    words_missing = todo.words[row] > 0
    registers = _PLACES - 1
    cheapest = 1  # the register to write to, if any may be
    for place in range(2, _PLACES):
        if worth[1, values[place]] < worth[1, values[cheapest]]:
            cheapest = place
    first = 1 + _below(todo.random, registers)
    top = _NOTHING
    for i in range(_BYTES if immediate else registers if count > 0 else 1):
        x = i if immediate else _in_turn(first, i) if count > 0 else 0
        for j in range(registers if count > 1 else 1):
            y = _in_turn(first, j) if count > 1 else 0
            twice = count > 1 and x == y
            a_place = _place(a_code, x, y, 0)
            a = x if immediate else values[a_place]
            b = values[_place(b_code, x, y, 0)] if b_code != OTHER else 0
            key = _first_key(binary, twice, a_place, a, b)
            second = _place(second_code, x, y, 0)
            other = _second_key(binary, twice, key, second, a if b_code == OTHER else b)
            gain = missing[row, key >> 3] >> (key & 7) & 1
            gain += missing[row, other >> 3] >> (other & 7) & 1
            if gain == 0 and not words_missing:
                continue
            result = results[start + (b << 8 | a)]
            for k in range(registers if count > 2 and words_missing else 1):
                z = 0 if count < 3 else _in_turn(first, k) if words_missing else cheapest
                key = _word_key(immediate, x, y, z)
                total = gain + (missing[row, key >> 3] >> (key & 7) & 1)
                if total == 0:
                    continue
                dest = _place(dest_code, x, y, z)
                kind = min(dest, 1)
                rating = (total << 20) + worth[kind, result] - worth[kind, values[dest]]
                if echo_code != OTHER:
                    echo = _place(echo_code, x, y, z)
                    kind = min(echo, 1)
                    rating += worth[kind, a] - worth[kind, values[echo]]
                if rating > top:
                    top = rating
                    best[0], best[1], best[2] = x, y, z
    return top > _NOTHING


@kernel
def _rank(todo: _Todo, order: Ints) -> int:
    """Fill `order` with the forms that miss keys, furthest behind first; returns how many do."""
    count = 0
    for row in range(len(order)):
        left, total = todo.remaining[row], todo.totals[row]
        if left == 0:
            continue
        at = count
        while at and todo.remaining[order[at - 1]] * total < left * todo.totals[order[at - 1]]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = row
        count += 1
    return count


@kernel
def _constant(table: _Table, todo: _Todo, order: Ints, count: int, values: Ints) -> int:
    """The constant that serves ACC best, for the first of `count` forms in `order` that has a use
    for any; -1 if none has."""
    missing, worth = todo.missing, todo.worth
    for number in range(count):
        row = order[number]
        if table.forms[row, _USES_UP] != 0:
            continue
        found, top = -1, -1
        for value in range(_BYTES):
            if worth[0, value] > top:
                for place in range(1, _PLACES):
                    key = value << 8 | values[place]
                    if missing[row, key >> 3] >> (key & 7) & 1:
                        found, top = value, worth[0, value]
                        break
        if found >= 0:
            return found
    return -1


@kernel
def _next(table: _Table, todo: _Todo, order: Ints, values: Ints, best: Ints) -> int:
    """The form of the next instruction, its operands in `best`; -1 if the values serve none."""
    count = _rank(todo, order)
    waiting = 0  # forms that use up ACC
    for number in range(count):
        waiting += table.forms[order[number], _USES_UP] == 0
    for number in range(count):
        row = int(order[number])
        if _choose(table, todo, row, values, best):
            return int(row)
        if table.forms[row, _USES_UP] == 0:
            waiting -= 1
            # Whatever follows, ACC would have to be loaded sooner or later.
            constant = _constant(table, todo, order, count, values) if waiting == 0 else -1
            if constant >= 0:
                best[:] = 0
                best[0] = constant
                return table.loader
    return -1


@kernel
def _wish(form: Ints, key: int, values: Ints, known: Flags, todo: _Todo, operands: Ints) -> None:
    """Set operands and values so that an instruction has a key; `known` values stay as they are."""
    operands[:] = 0
    a, b = -1, -1
    if key < _PAIRS:
        a, b = key // _BYTES, key % _BYTES
    elif key < _WORD_KEYS:
        part, place = (key - _PAIRS) // _SINGLES, (key - _PAIRS) % _SINGLES // _BYTES
        second = part == 1
        if second and form[B] != OTHER:
            b = (key - _PAIRS) % _BYTES
        else:
            a = (key - _PAIRS) % _BYTES
        code = form[_SECOND] if second else form[A]
        if code < 0 and code != OTHER:
            operands[-1 - code] = place
        if part == 2:
            operands[0] = operands[1] = place
    else:
        word = key - _WORD_KEYS
        operands[0] = word // _PLACES**2
        operands[1] = word // _PLACES % _PLACES
        operands[2] = word % _PLACES
    registers = _PLACES - 1
    for number in range(form[REGISTER_COUNT]):
        if operands[number] == 0:
            first = 1 + _below(todo.random, registers)
            for i in range(registers):
                place = _in_turn(first, i)
                if number == 2 or not (
                    known[place] or place == operands[0] or place == operands[1]
                ):
                    operands[number] = place
                    break
            else:
                operands[number] = first
    if form[IMMEDIATE]:
        operands[0] = max(a, 0)
        return
    for code, value in ((form[A], a), (form[B], b)):
        if value >= 0:
            place = _place(code, operands[0], operands[1], operands[2])
            if not known[place]:
                values[place] = value
                known[place] = True


@kernel
def _begin(table: _Table, todo: _Todo, values: Ints, operands: Ints) -> int:
    """Choose a program's first values, and the form and operands of its first instruction.

    Returns -1 if nothing is missing.
    """
    order = np.zeros(len(table.forms), np.int64)
    positions = todo.wished.copy()
    known = np.zeros(_PLACES, np.bool_)
    unused = np.zeros(3, np.int64)
    count = _rank(todo, order)
    for number in range(_WISHES if count else 0):
        row = order[number % count]
        end = todo.totals[: row + 1].sum()
        at = positions[row]
        while at < end:
            key = todo.wishes[at]
            if todo.missing[row, key >> 3] >> (key & 7) & 1:
                break
            at += 1
        if positions[row] == todo.wished[row]:
            todo.wished[row] = at
        positions[row] = at + 1
        if at < end:
            chosen = operands if number == 0 else unused
            _wish(table.forms[row], todo.wishes[at], values, known, todo, chosen)
    for place in range(_PLACES):
        if not known[place]:
            values[place] = _below(todo.random, _BYTES)
    return order[0] if count else -1


@kernel
def _execute(table: _Table, todo: _Todo, row: int, operands: Ints, values: Ints) -> None:
    """Change the values as the instruction does, and tick its case off."""
    form = table.forms[row]
    x, y, z = operands[0], operands[1], operands[2]
    immediate, binary, reads_b = form[IMMEDIATE], form[_BINARY], form[B] != OTHER
    twice = form[REGISTER_COUNT] > 1 and x == y
    a_place = _place(form[A], x, y, z)
    a = x if immediate else values[a_place]
    b = values[_place(form[B], x, y, z)] if reads_b else 0
    first = _first_key(binary, twice, a_place, a, b)
    second = _place(form[_SECOND], x, y, z)
    other = _second_key(binary, twice, first, second, b if reads_b else a)
    for key in (first, other, _word_key(immediate, x, y, z)):
        if todo.missing[row, key >> 3] >> (key & 7) & 1:
            todo.missing[row, key >> 3] ^= 1 << (key & 7)
            todo.remaining[row] -= 1
            todo.words[row] -= key >= _WORD_KEYS
            if key < _PAIRS and form[_USES_UP] >= 0:
                todo.worth[form[_USES_UP], a] -= 1
    values[_place(form[DEST], x, y, z)] = table.results[table.starts[form[OPCODE]] + (b << 8 | a)]
    if form[ECHO] != OTHER:
        values[_place(form[ECHO], x, y, z)] = a


@kernel
def _write(table: _Table, todo: _Todo, most: int, memory: Bytes, first: Ints) -> int:
    """Write a program of at most `most` instructions before its HLT to zeroed memory, and the
    values it starts from to `first`; returns how many instructions there are."""
    values = np.zeros(_PLACES, np.int64)
    best = np.zeros(3, np.int64)
    order = np.zeros(len(table.forms), np.int64)
    row = _begin(table, todo, values, best)
    first[:] = values
    for slot in range(most):
        if slot > 0:
            row = _next(table, todo, order, values, best)
        if row < 0:
            return slot
        memory[INSTRUCTION_SIZE * slot] = table.forms[row, OPCODE]
        for operand in range(3):
            memory[INSTRUCTION_SIZE * slot + 1 + operand] = best[operand]
        _execute(table, todo, row, best, values)
    return most


@kernel
def _write_lengths(table: _Table, todo: _Todo, memories: Bytes, firsts: Ints, lengths: Ints) -> int:
    """Write a program of at most 256 instructions, one of at most 255, and so on to 1, as long as
    something is missing; returns how many."""
    for number in range(SLOTS):
        if not todo.remaining.any():
            return number
        most = SLOTS - 1 - number
        lengths[number] = 1 + _write(table, todo, most, memories[number], firsts[number])
    return SLOTS


def _describe(instruction: Instruction, form: Form) -> list[int]:
    """A row of the form table."""
    row = describe(instruction, form, {Place.ACC: _ACC_PLACE})
    a, b, dest, echo = row[A:]
    binary = b != OTHER and echo == OTHER
    uses_up = -1
    if binary and dest == a:
        uses_up = 0 if a == _ACC_PLACE else 1
    return [*row, dest if b == OTHER else b, binary, uses_up]


def _required(forms: Ints) -> Flags:
    """The keys of everything that the sweep must execute: bool[forms, keys]."""
    required = np.zeros((len(forms), _KEYS), np.bool_)
    every, only_acc = slice(1, None), slice(_ACC_PLACE, _ACC_PLACE + 1)
    for form, keys in zip(forms, required, strict=True):
        singles = keys[_PAIRS:_WORD_KEYS].reshape(3, _PLACES, _BYTES)
        if form[_BINARY]:
            keys[:_PAIRS] = True
        else:
            for part, code in enumerate((form[A], form[_SECOND])):
                singles[part, every if -3 <= code < 0 else only_acc] = True
        singles[2, every] = form[REGISTER_COUNT] > 1
        words = keys[_WORD_KEYS:].reshape(_PLACES, _PLACES, _PLACES)
        named = (every if number < form[REGISTER_COUNT] else only_acc for number in range(3))
        words[tuple(named)] = True
    return required


@cache
def sweep() -> Programs:
    """The programs of the sweep, in an order of which any first part is a random sample.

    The same on every machine. Takes some seconds.
    """
    forms = np.array([_describe(*v) for v in ISA.variants if not v[0].halts], np.int64)
    compiled = tables(ISA)
    loader = int(np.flatnonzero(forms[:, IMMEDIATE])[0])
    table = _Table(forms, loader, compiled.results, compiled.starts)
    required = _required(forms)
    totals = required.sum(axis=1)
    # The old generator, because its numbers are promised never to change.
    random = np.random.RandomState(_SEED)
    todo = _Todo(
        np.packbits(required, axis=1, bitorder="little"),
        totals,
        totals.copy(),
        required[:, _WORD_KEYS:].sum(axis=1),
        np.array([[_BYTES * int((forms[:, _USES_UP] == kind).sum())] * _BYTES for kind in (0, 1)]),
        np.concatenate([random.permutation(np.flatnonzero(row)) for row in required]),
        np.cumsum(totals) - totals,
        np.array([_SEED], np.uint64),
    )
    # While much is missing no program ends before it is as long as it may be: all lengths occur.
    lots: list[tuple[Bytes, Ints, Ints]] = []
    while todo.remaining.any():
        memories = np.zeros((SLOTS, MEMORY_SIZE), np.uint8)  # HLT is all zero
        firsts, lengths = np.zeros((SLOTS, _PLACES), np.int64), np.zeros(SLOTS, np.int64)
        count = _write_lengths(table, todo, memories, firsts, lengths)
        lots.append((memories[:count], firsts[:count], lengths[:count]))
    memories, firsts, lengths = map(np.concatenate, zip(*lots, strict=True))
    states = np.zeros((len(firsts), STATE_SIZE), np.uint8)
    states[:, ACC], states[:, FIRST_REGISTER:] = firsts[:, _ACC_PLACE], firsts[:, 1:]
    order = random.permutation(len(lengths))
    return Programs(memories[order], states[order], lengths[order])
