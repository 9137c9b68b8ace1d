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
    Operand,
    Place,
)
from cpusim.jit import kernel
from cpusim.machine import tables
from cpusim.programs import Programs

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_SEED = 1
_BYTES = 256

# Places: ACC, then the registers, so that an operand byte is its register's place.
_ACC_PLACE = 0
_PLACES = 1 + len(REGISTERS)

# Columns of the form table. Places a form reads and writes: ACC's number, or -1, -2, -3 for the
# register that operand byte x, y, z names; _OTHER for an immediate or none.
_OTHER = -9
_PLACE_NUMBER = {Place.ACC: _ACC_PLACE, Place.X: -1, Place.Y: -2, Place.Z: -3}
_OPCODE, _REGISTERS, _IMMEDIATE, _A, _B, _DEST, _ECHO = range(7)
_SECOND = 7  # b's place, or where there is none dest's
_BINARY = 8  # computes something from two values
_USES_UP = 9  # what a binary form overwrites its a in: 0 for ACC, 1 for a register, else -1

# A case is known by its form and up to three keys, numbers of flags:
#   a binary form's pair `b << 8 | a`;
#   where one register is read twice, this place and value; else of a form that is not binary
#   a's place and value, and the second place and its value (b's, or the one that is written);
#   the word.
_PAIRS = _BYTES * _BYTES
_SINGLES = _PLACES * _BYTES
_A_KEYS, _SECOND_KEYS, _TWICE_KEYS, _WORD_KEYS = (_PAIRS + _SINGLES * part for part in range(4))
_KEYS = _WORD_KEYS + _PLACES**3
_STRIDE = 48_271  # coprime to _KEYS: missing cases are looked up from all over the table
_WISHES = 30  # cases that a first state is put together from, as far as they fit

_NOTHING = -1 << 40


class _Table(NamedTuple):
    """The instruction set: `forms` int64[forms, 10]; `loader`, the row of the form that loads a
    constant; `results` and `starts` as in `machine.Tables`."""

    forms: Ints
    loader: int
    results: Bytes
    starts: npt.NDArray[np.int32]


class _Todo(NamedTuple):
    """What is still to be executed.

    `missing`: bool[forms, keys]. `totals`, `remaining`, `words`: int64[forms], how many keys a
    form had and still misses, and how many of those it misses are words. `worth`: int64[2, 256],
    how many missing pairs a value in ACC, or in a register, can start by being overwritten.
    `pointers`: int64[forms], where to look for missing keys. `random`: uint64[1].
    """

    missing: Flags
    totals: Ints
    remaining: Ints
    words: Ints
    worth: Ints
    pointers: Ints
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


@kernel
def _place(code: int, operands: Ints) -> int:
    return code if code >= 0 else operands[-1 - code]


@kernel
def _find_keys(form: Ints, operands: Ints, values: Ints, keys: Ints) -> tuple[int, int]:
    """Set `keys` to those of an instruction's case; returns the values it reads."""
    a_place = _ACC_PLACE if form[_IMMEDIATE] else _place(form[_A], operands)
    reads_b = form[_B] != _OTHER
    a = operands[0] if form[_IMMEDIATE] else values[a_place]
    b = values[_place(form[_B], operands)] if reads_b else 0
    if form[_REGISTERS] > 1 and operands[0] == operands[1]:
        keys[0] = keys[1] = _TWICE_KEYS + (a_place << 8 | a)
    elif form[_BINARY]:
        keys[0] = keys[1] = b << 8 | a
    else:
        keys[0] = _A_KEYS + (a_place << 8 | a)
        keys[1] = _SECOND_KEYS + (_place(form[_SECOND], operands) << 8 | (b if reads_b else a))
    keys[2] = _WORD_KEYS
    if not form[_IMMEDIATE]:
        keys[2] += (operands[0] * _PLACES + operands[1]) * _PLACES + operands[2]
    return a, b


@kernel
def _rate(table: _Table, todo: _Todo, row: int, operands: Ints, values: Ints, keys: Ints) -> int:
    """How good an instruction is: missing keys first, then what it does to the values' worth.

    `_NOTHING` if no key is missing.
    """
    form = table.forms[row]
    a, b = _find_keys(form, operands, values, keys)
    missing = todo.missing[row]
    gain = int(missing[keys[0]]) + int(missing[keys[1]]) + int(missing[keys[2]])
    if gain == 0:
        return _NOTHING
    dest = _place(form[_DEST], operands)
    worth = todo.worth[min(dest, 1)]
    rating = worth[table.results[table.starts[form[_OPCODE]] + (b << 8 | a)]] - worth[values[dest]]
    if form[_ECHO] != _OTHER:
        echo = _place(form[_ECHO], operands)
        worth = todo.worth[min(echo, 1)]
        rating += worth[a] - worth[values[echo]]
    return (gain << 20) + rating


@kernel
def _choose(
    table: _Table, todo: _Todo, row: int, values: Ints, keys: Ints, operands: Ints, best: Ints
) -> bool:
    """Set `best` to the operands of a form's best instruction; returns whether one is any good."""
    form = table.forms[row]
    registers = _PLACES - 1
    count = form[_REGISTERS]
    words_missing = todo.words[row] > 0
    # Whatever the operands of a form with a third one, that may be any register.
    cheapest = 1
    for place in range(2, _PLACES):
        if todo.worth[1, values[place]] < todo.worth[1, values[cheapest]]:
            cheapest = place
    turn = _below(todo.random, registers)
    top = _NOTHING
    operands[:] = 0
    for x in range(_BYTES if form[_IMMEDIATE] else registers if count > 0 else 1):
        if form[_IMMEDIATE]:
            operands[0] = x
        elif count > 0:
            operands[0] = 1 + (turn + x) % registers
        for y in range(registers if count > 1 else 1):
            if count > 1:
                operands[1] = 1 + (turn + y) % registers
            if form[_BINARY] and not words_missing and operands[0] != operands[1]:
                # The same as below, for the loop where all the time goes.
                a = values[_place(form[_A], operands)]
                if not todo.missing[row, values[_place(form[_B], operands)] << 8 | a]:
                    continue
            for z in range(registers if count > 2 and words_missing else 1):
                if count > 2:
                    operands[2] = 1 + (turn + z) % registers if words_missing else cheapest
                rating = _rate(table, todo, row, operands, values, keys)
                if rating > top:
                    top = rating
                    best[:] = operands
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
def _constant(table: _Table, todo: _Todo, order: Ints, values: Ints) -> int:
    """The constant that serves ACC best, for the first of the forms in `order` that has a use
    for any; -1 if none has."""
    for row in order:
        if table.forms[row, _USES_UP] != 0:
            continue
        found, top = -1, -1
        for value in range(_BYTES):
            if todo.worth[0, value] > top:
                for place in range(1, _PLACES):
                    if todo.missing[row, values[place] << 8 | value]:
                        found, top = value, todo.worth[0, value]
                        break
        if found >= 0:
            return found
    return -1


@kernel
def _next(
    table: _Table, todo: _Todo, order: Ints, values: Ints, keys: Ints, operands: Ints, best: Ints
) -> int:
    """The form of the next instruction, its operands in `best`; -1 if the values serve none."""
    count = _rank(todo, order)
    waiting = 0  # forms that use up ACC
    for row in order[:count]:
        waiting += table.forms[row, _USES_UP] == 0
    for place in range(count):
        row = order[place]
        if _choose(table, todo, row, values, keys, operands, best):
            return row
        if table.forms[row, _USES_UP] == 0:
            waiting -= 1
            # Whatever follows, ACC would have to be loaded sooner or later.
            constant = _constant(table, todo, order[:count], values) if waiting == 0 else -1
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
        a, b = key % _BYTES, key // _BYTES
    elif key < _WORD_KEYS:
        part, place = (key - _PAIRS) // _SINGLES, (key - _PAIRS) % _SINGLES // _BYTES
        second = part == 1
        if second and form[_B] != _OTHER:
            b = (key - _PAIRS) % _BYTES
        else:
            a = (key - _PAIRS) % _BYTES
        code = form[_SECOND] if second else form[_A]
        if code < 0 and code != _OTHER:
            operands[-1 - code] = place
        if part == 2:
            operands[0] = operands[1] = place
    else:
        word = key - _WORD_KEYS
        operands[0] = word // _PLACES**2
        operands[1] = word // _PLACES % _PLACES
        operands[2] = word % _PLACES
    registers = _PLACES - 1
    for number in range(form[_REGISTERS]):
        if operands[number] == 0:
            turn = _below(todo.random, registers)
            for i in range(registers):
                place = 1 + (turn + i) % registers
                if number == 2 or not (
                    known[place] or place == operands[0] or place == operands[1]
                ):
                    operands[number] = place
                    break
            else:
                operands[number] = 1 + turn
    if form[_IMMEDIATE]:
        operands[0] = max(a, 0)
        return
    for code, value in ((form[_A], a), (form[_B], b)):
        if value >= 0:
            place = _place(code, operands)
            if not known[place]:
                values[place] = value
                known[place] = True


@kernel
def _begin(table: _Table, todo: _Todo, values: Ints, operands: Ints) -> int:
    """Choose a program's first values, and the form and operands of its first instruction.

    Returns -1 if nothing is missing.
    """
    order = np.zeros(len(table.forms), np.int64)
    positions = todo.pointers.copy()
    known = np.zeros(_PLACES, np.bool_)
    unused = np.zeros(3, np.int64)
    count = _rank(todo, order)
    for number in range(_WISHES if count else 0):
        row = order[number % count]
        at = positions[row]
        while at < _KEYS and not todo.missing[row, at * _STRIDE % _KEYS]:
            at += 1
        if positions[row] == todo.pointers[row]:
            todo.pointers[row] = at
        positions[row] = at + 1
        if at < _KEYS:
            wished = operands if number == 0 else unused
            _wish(table.forms[row], at * _STRIDE % _KEYS, values, known, todo, wished)
    for place in range(_PLACES):
        if not known[place]:
            values[place] = _below(todo.random, _BYTES)
    return order[0] if count else -1


@kernel
def _execute(
    table: _Table, todo: _Todo, row: int, operands: Ints, values: Ints, keys: Ints
) -> None:
    """Change the values as the instruction does, and tick its case off."""
    form = table.forms[row]
    a, b = _find_keys(form, operands, values, keys)
    for key in keys:
        if todo.missing[row, key]:
            todo.missing[row, key] = False
            todo.remaining[row] -= 1
            todo.words[row] -= key >= _WORD_KEYS
            if key < _PAIRS and form[_USES_UP] >= 0:
                todo.worth[form[_USES_UP], a] -= 1
    result = table.results[table.starts[form[_OPCODE]] + (b << 8 | a)]
    values[_place(form[_DEST], operands)] = result
    if form[_ECHO] != _OTHER:
        values[_place(form[_ECHO], operands)] = a


@kernel
def _write(table: _Table, todo: _Todo, most: int, memory: Bytes, first: Ints) -> int:
    """Write a program of at most `most` instructions before its HLT to zeroed memory, and the
    values it starts from to `first`; returns how many instructions there are."""
    values = np.zeros(_PLACES, np.int64)
    operands, best, keys = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.int64)
    order = np.zeros(len(table.forms), np.int64)
    row = _begin(table, todo, values, best)
    first[:] = values
    for slot in range(most):
        if slot > 0:
            row = _next(table, todo, order, values, keys, operands, best)
        if row < 0:
            return slot
        memory[INSTRUCTION_SIZE * slot] = table.forms[row, _OPCODE]
        for operand in range(3):
            memory[INSTRUCTION_SIZE * slot + 1 + operand] = best[operand]
        _execute(table, todo, row, best, values, keys)
    return most


def _describe(instruction: Instruction, form: Form) -> list[int]:
    """A row of the form table."""
    immediate = form.operands == (Operand.IMMEDIATE,)
    a, b, dest, echo = (
        _PLACE_NUMBER.get(place, _OTHER) for place in (form.a, form.b, form.dest, form.echo)
    )
    binary = b != _OTHER and echo == _OTHER
    uses_up = -1
    if binary and dest == a:
        uses_up = 0 if a == _ACC_PLACE else 1
    return [
        instruction.opcode,
        0 if immediate else len(form.operands),
        immediate,
        *(a, b, dest, echo),
        dest if b == _OTHER else b,
        binary,
        uses_up,
    ]


def _required(forms: Ints) -> Flags:
    """The keys of everything that the sweep must execute: bool[forms, keys]."""
    required = np.zeros((len(forms), _KEYS), np.bool_)
    every, only_acc = slice(1, None), slice(_ACC_PLACE, _ACC_PLACE + 1)
    for form, keys in zip(forms, required, strict=True):
        singles = keys[_PAIRS:_WORD_KEYS].reshape(3, _PLACES, _BYTES)
        if form[_BINARY]:
            keys[:_PAIRS] = True
        else:
            for part, code in enumerate((form[_A], form[_SECOND])):
                singles[part, every if -3 <= code < 0 else only_acc] = True
        singles[2, every] = form[_REGISTERS] > 1
        words = keys[_WORD_KEYS:].reshape(_PLACES, _PLACES, _PLACES)
        named = (every if number < form[_REGISTERS] else only_acc for number in range(3))
        words[tuple(named)] = True
    return required


@cache
def sweep() -> Programs:
    """The programs of the sweep, in an order of which any first part is a random sample.

    The same on every machine. Takes some seconds.
    """
    forms = np.array([_describe(*v) for v in ISA.variants if not v[0].halts], np.int64)
    compiled = tables(ISA)
    loader = int(np.flatnonzero(forms[:, _IMMEDIATE])[0])
    table = _Table(forms, loader, compiled.results, compiled.starts)
    missing = _required(forms)
    todo = _Todo(
        missing,
        missing.sum(axis=1),
        missing.sum(axis=1),
        missing[:, _WORD_KEYS:].sum(axis=1),
        np.array([[_BYTES * int((forms[:, _USES_UP] == kind).sum())] * _BYTES for kind in (0, 1)]),
        np.zeros(len(forms), np.int64),
        np.array([_SEED], np.uint64),
    )
    memories: list[Bytes] = []
    firsts: list[Ints] = []
    lengths: list[int] = []
    # Lengths take turns. No program ends before its time while much is missing, so all occur.
    while todo.remaining.any():
        most = SLOTS - 1 - len(lengths) % SLOTS
        # HLT is all zero.
        memory, first = np.zeros(MEMORY_SIZE, np.uint8), np.zeros(_PLACES, np.int64)
        lengths.append(_write(table, todo, most, memory, first) + 1)
        memories.append(memory)
        firsts.append(first)
    values = np.array(firsts, np.uint8)
    states = np.zeros((len(values), STATE_SIZE), np.uint8)
    states[:, ACC], states[:, FIRST_REGISTER:] = values[:, _ACC_PLACE], values[:, 1:]
    # The old generator, because its numbers are promised never to change.
    order = np.random.RandomState(_SEED).permutation(len(values))
    return Programs(np.array(memories)[order], states[order], np.array(lengths)[order])
