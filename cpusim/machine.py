"""The compiled CPU: many programs run and traced at once, byte for byte like `reference.run`.

Everything the kernels know comes from the instruction table: `tables` turns an
`InstructionSet` into lookup arrays, so adding an instruction adds a row there and
nothing here.

What makes it fast. There are no jumps, so the instructions that a program will execute
are known before any has run: they are decoded first, sixteen at a time, into entries (see
`Tables`) that say where to read and write. Executing one is then free of branches: pick two
bytes of the state, look the result up, blend it into its place, store the record. Each
step needs the one before, so several programs take turns (lanes) and hide that wait.
Vector operations that numba has no words for are written as LLVM code below; LLVM turns
them into whatever the machine has.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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
Ints = npt.NDArray[np.int64]

STOPS = (Stop.HALTED, Stop.STEP_LIMIT, Stop.ILLEGAL)
"""What the codes in `RunBatch.stops` mean."""
_HALTED, _STEP_LIMIT, _ILLEGAL = range(len(STOPS))

_BLOCK = 16  # instructions decoded at once
_LANES = 8  # programs that take turns
_CHUNK = 64  # programs decoded before they execute: their records are still in a cache then
_IDLE = 1 << 40  # a lane without a program has more instructions left than this

# Scratch memory of a run: the entries of a program and the indices of a block, a copy of a
# memory's end, 257 records of zeros. It starts with a cache line, as vectors that straddle
# lines are slow to read back.
_LINE = 64
_SCRATCH_SIZE = (
    _LINE
    + (4 * SLOTS + 4 * _BLOCK)
    + (MEMORY_SIZE + INSTRUCTION_SIZE * _BLOCK)
    + STATE_SIZE * (SLOTS + 1)
)

# An entry: four bytes, the offsets in the state of a, b, dest and echo, and some bits beside them.
_OFFSET_BITS = 0x1F
_ADD_OPERAND = (0x20, 0x40, 0x80)  # this offset has operand byte x, y, z added to it
_ZERO = STATE_SIZE  # as offset of a or b: reads as 0
_NO_PLACE = 0  # as offset of dest or echo: nothing is written (nothing ever writes PC)
_REGISTER = FIRST_REGISTER - 1
# Free bits: no offset has bit 3 before an operand is added.
_STOPS = 0x08
_IS_ILLEGAL = 0x0800
# After the operand is added, this turns the offset of `_ZERO` into 0x80 and leaves
# the low four bits of all others: what a byte shuffle takes as "zero" and as index.
_SHUFFLE_ZERO = 0x70

# `Tables.decode` is indexed by opcode and the class (2 bits) of each operand byte: 0 if it
# is zero, 1 if it is a register, 2 otherwise.
_MAX_OPCODES = 64
_CLASSES = 4
_NOT_A_REGISTER = 2


@dataclass(frozen=True)
class Tables:
    """An instruction set as arrays.

    `decode`: int32[4096], an entry for each opcode and classes of z, y, x (see above).
    `starts`: int32[256], where in `results` each opcode's begin.
    `results`: uint8[N], what an operation makes of a and b, at its start + (b << 8 | a);
    256 of them where no form reads a b, and equal ones are shared.
    `masks`: uint8[16, 16], row d has 255 at byte d, but row 0 nowhere.
    """

    decode: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    results: Bytes
    masks: Bytes


@lru_cache(maxsize=8)
def tables(isa: InstructionSet) -> Tables:
    """The lookup arrays of an instruction set. Raises ValueError if it has over 63 instructions."""
    if len(isa.instructions) >= _MAX_OPCODES:
        raise ValueError(f"{len(isa.instructions)} instructions, at most {_MAX_OPCODES - 1} fit")
    offsets = {
        Place.ACC: ACC,
        Place.X: _REGISTER | _ADD_OPERAND[0],
        Place.Y: _REGISTER | _ADD_OPERAND[1],
        Place.Z: _REGISTER | _ADD_OPERAND[2],
        Place.IMMEDIATE: IR + 1,
    }
    decode = np.full((_MAX_OPCODES, _CLASSES, _CLASSES, _CLASSES), _STOPS | _IS_ILLEGAL, np.uint32)
    # Immediates come last: where both fit, `InstructionSet.decode` prefers them.
    immediate = (Operand.IMMEDIATE,)
    for instruction, form in sorted(isa.variants, key=lambda v: v[1].operands == immediate):
        entry = (
            offsets.get(form.a, _ZERO)
            | offsets.get(form.b, _ZERO) << 8
            | offsets.get(form.dest, _NO_PLACE) << 16
            | offsets.get(form.echo, _NO_PLACE) << 24
            | (_STOPS if instruction.halts else 0)
        )
        if form.operands == immediate:
            decode[instruction.opcode, 0, 0, : _NOT_A_REGISTER + 1] = entry
        else:
            x, y, z = (int(len(form.operands) > operand) for operand in range(3))
            decode[instruction.opcode, z, y, x] = entry
    starts = np.zeros(256, np.int32)
    start_of: dict[bytes, int] = {}
    end = 0
    for instruction in isa.instructions:
        unary = all(form.b is Place.NOWHERE for form in instruction.forms)
        computed = bytes(
            instruction.compute(a, b) for b in range(1 if unary else 256) for a in range(256)
        )
        starts[instruction.opcode] = start_of.setdefault(computed, end)
        if starts[instruction.opcode] == end:
            end += len(computed)
    masks = np.diag(np.full(STATE_SIZE, 255, np.uint8))
    masks[_NO_PLACE] = 0
    results = np.frombuffer(b"".join(start_of), np.uint8)
    return Tables(decode.ravel().view(np.int32), starts, results, masks)


# --- vector operations -------------------------------------------------------------------------

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_STATE = ir.VectorType(_I8, STATE_SIZE)
_WORDS = ir.VectorType(_I32, _BLOCK)


def _vector_operation(arguments: int, result: Any = types.void) -> Callable[[Any], Any]:
    """Make an emitter of LLVM code callable from kernels; its arguments are int64s.

    It gets the IR builder and the arguments' values, and returns the result's value.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            value = emit(builder, *values)
            return context.get_dummy_value() if value is None else value

        def typed(_context: Any, *_arguments: Any) -> Any:
            return result(*[types.int64] * arguments), generate

        # numba wants to see how many arguments there are.
        positional = inspect.Parameter.POSITIONAL_ONLY
        names = ("context", *(f"argument{i}" for i in range(arguments)))
        parameters = [inspect.Parameter(name, positional) for name in names]
        typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return intrinsic(typed)

    return decorate


def _load(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    pointer = builder.inttoptr(builder.add(address, _I64(offset)), kind.as_pointer())
    return builder.load(pointer, align=1)


def _store(builder: Any, value: Any, address: Any, offset: int = 0) -> None:
    pointer = builder.inttoptr(builder.add(address, _I64(offset)), value.type.as_pointer())
    builder.store(value, pointer, align=1)


def _constant(kind: Any, numbers: Any) -> Any:
    return ir.Constant(kind, [int(n) for n in numbers])


def _splat(builder: Any, value: Any, count: int) -> Any:
    """A vector of `count` times the same value."""
    kind = ir.VectorType(value.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return _rearrange(builder, one, one, [0] * count)


def _rearrange(builder: Any, first: Any, second: Any, indices: Any) -> Any:
    """A vector of elements of `first`, then `second`, by their numbers."""
    indices = list(indices)
    return builder.shuffle_vector(
        first, second, _constant(ir.VectorType(_I32, len(indices)), indices)
    )


@_vector_operation(1, types.int64)
def _load32(builder: Any, address: Any) -> Any:
    return builder.zext(_load(builder, address, _I32), _I64)


@_vector_operation(1, types.int64)
def _load64(builder: Any, address: Any) -> Any:
    return _load(builder, address, _I64)


@_vector_operation(2)
def _store32(builder: Any, value: Any, address: Any) -> None:
    _store(builder, builder.trunc(value, _I32), address)


@_vector_operation(2)
def _store64(builder: Any, value: Any, address: Any) -> None:
    _store(builder, value, address)


@_vector_operation(2)
def _copy_state(builder: Any, source: Any, target: Any) -> None:
    _store(builder, _load(builder, source, _STATE), target)


@_vector_operation(1)
def _prefetch(builder: Any, address: Any) -> None:
    pointer = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0i8", (), kind)
    # For reading, soon to be forgotten, data.
    builder.call(function, [builder.inttoptr(address, pointer), _I32(0), _I32(0), _I32(1)])


@_vector_operation(2)
def _classify(builder: Any, words: Any, indices: Any) -> None:
    """For 16 instructions at `words` write their u32 index in `Tables.decode` to `indices`."""
    kind = ir.VectorType(_I8, INSTRUCTION_SIZE * _BLOCK)
    code = _load(builder, words, kind)
    most = _constant(kind, [_MAX_OPCODES - 1, 1, 1, 1] * _BLOCK)
    low = builder.select(builder.icmp_unsigned("<", code, most), code, most)
    last_register = _constant(kind, [255, *[len(REGISTERS)] * 3] * _BLOCK)
    beyond = builder.icmp_unsigned(">", code, last_register)
    classes = builder.bitcast(builder.add(low, builder.zext(beyond, kind)), _WORDS)

    def field(mask: int, to: int, source: int) -> Any:
        move = builder.shl if to > source else builder.lshr
        moved = move(classes, _constant(_WORDS, [abs(to - source)] * _BLOCK))
        return builder.and_(moved, _constant(_WORDS, [mask << to] * _BLOCK))

    x, y, z = (field(_CLASSES - 1, 2 * operand, 8 + 8 * operand) for operand in range(3))
    opcode = field(_MAX_OPCODES - 1, 6, 0)
    _store(builder, builder.or_(builder.or_(opcode, x), builder.or_(y, z)), indices)


@_vector_operation(5, types.int64)
def _resolve(builder: Any, words: Any, entries: Any, records: Any, counter: Any, carry: Any) -> Any:
    """Turn 16 instructions and their entries into records that wait to be executed.

    Such a record has PC and IR in place. Its upper half says what makes it from the record
    before: that record's entry with the operands added to the offsets, and its instruction.
    `counter`: the PC of the first. `carry`: its upper half; the one after the last is returned.
    """
    kind = ir.VectorType(_I8, 4 * _BLOCK)
    word = _load(builder, words, _WORDS)
    code = builder.bitcast(word, kind)
    entry = offset = builder.bitcast(_load(builder, entries, _WORDS), kind)
    zero = _constant(kind, [0] * 4 * _BLOCK)
    for operand, flag in enumerate(_ADD_OPERAND):
        register = _rearrange(
            builder, code, code, (4 * i + 1 + operand for i in range(_BLOCK) for _ in range(4))
        )
        flagged = builder.and_(entry, _constant(kind, [flag] * 4 * _BLOCK))
        adds = builder.icmp_unsigned("!=", flagged, zero)
        offset = builder.select(adds, builder.add(offset, register), offset)
    offset = builder.and_(offset, _constant(kind, [_OFFSET_BITS] * 4 * _BLOCK))
    offset = builder.add(offset, _constant(kind, [_SHUFFLE_ZERO, _SHUFFLE_ZERO, 0, 0] * _BLOCK))
    resolved = builder.bitcast(offset, _WORDS)

    # Four columns of 16 numbers become 16 records. Machines interleave within quarters of
    # a vector, so instruction 4 j + i goes to place j of quarter i first.
    order = [4 * j + i for i in range(4) for j in range(4)]
    ordered = _rearrange(builder, word, word, order)
    most = _constant(_WORDS, [SLOTS - 1] * _BLOCK)
    counters = _splat(builder, builder.trunc(counter, _I32), _BLOCK)
    counters = builder.add(counters, _constant(_WORDS, order))
    counters = builder.select(builder.icmp_unsigned("<", counters, most), counters, most)
    ir_at = _constant(_WORDS, [8 * IR] * _BLOCK)
    columns = [builder.or_(builder.shl(ordered, ir_at), counters), builder.lshr(ordered, ir_at)]
    for now, first in ((resolved, carry), (word, builder.lshr(carry, _I64(32)))):
        before = _splat(builder, builder.trunc(first, _I32), _BLOCK)
        columns.append(_rearrange(builder, now, before, ((i - 1) % (2 * _BLOCK) for i in order)))

    def interleave(first: Any, second: Any, width: int, upper: bool) -> Any:
        """From each quarter the lower or upper halves, `width` numbers by turns."""
        indices = [
            4 * quarter + 2 * upper + width * turn + i + source * _BLOCK
            for quarter in range(4)
            for turn in range(2 // width)
            for source in (0, 1)
            for i in range(width)
        ]
        return _rearrange(builder, first, second, indices)

    at = 0
    for half in (False, True):
        lower = interleave(columns[0], columns[1], 1, half)
        upper = interleave(columns[2], columns[3], 1, half)
        for part in (False, True):
            _store(builder, interleave(lower, upper, 2, part), records, at)
            at += 4 * STATE_SIZE
    last = _I32(_BLOCK - 1)
    after = [builder.zext(builder.extract_element(v, last), _I64) for v in (resolved, word)]
    return builder.or_(after[0], builder.shl(after[1], _I64(32)))


_HAS_BYTE_SHUFFLE = llvmlite.binding.get_process_triple().startswith("x86_64")


def _pick(builder: Any, state: Any, record: Any, entry: Any) -> tuple[Any, Any]:
    """What an entry reads: the number `b << 8 | a`, and the byte a sixteen times.

    x86 has a byte shuffle that does just this; elsewhere the bytes are loaded from the record.
    """
    if _HAS_BYTE_SHUFFLE:
        kind = ir.FunctionType(_STATE, [_STATE, _STATE])
        name = "llvm.x86.ssse3.pshuf.b.128"
        shuffle = builder.module.declare_intrinsic(name, (), kind)
        nothing = _constant(ir.VectorType(_I32, 4), [0] * 4)
        offsets = builder.insert_element(nothing, entry, _I32(0))
        picked = builder.call(shuffle, [state, builder.bitcast(offsets, _STATE)])
        pairs = builder.bitcast(picked, ir.VectorType(ir.IntType(16), STATE_SIZE // 2))
        pair = builder.zext(builder.extract_element(pairs, _I32(0)), _I64)
        return pair, _rearrange(builder, picked, picked, [0] * STATE_SIZE)
    found = []
    for shift in (0, 8):
        offset = builder.zext(builder.lshr(entry, _I32(shift)), _I64)
        address = builder.add(record, builder.and_(offset, _I64(STATE_SIZE - 1)))
        zero = builder.icmp_unsigned("!=", builder.and_(offset, _I64(0x80)), _I64(0))
        found.append(builder.select(zero, _I8(0), _load(builder, address, _I8)))
    a, b = (builder.zext(byte, _I64) for byte in found)
    return builder.or_(builder.shl(b, _I64(8)), a), _splat(builder, found[0], STATE_SIZE)


def _step(builder: Any, state: Any, record: Any, starts: Any, results: Any, masks: Any) -> Any:
    """Execute what the record after `record` waits for; `state` is `record`. Returns the next."""
    entry = _load(builder, record, _I32, STATE_SIZE + 8)
    opcode = builder.zext(_load(builder, record, _I8, STATE_SIZE + 12), _I64)
    waiting = _load(builder, record, _STATE, STATE_SIZE)
    pair, a = _pick(builder, state, record, entry)
    start = _load(builder, builder.add(starts, builder.mul(opcode, _I64(4))), _I32)
    start = builder.zext(start, _I64)
    result = _load(builder, builder.add(builder.add(results, start), pair), _I8)

    def blend(old: Any, new: Any, mask: Any) -> Any:
        return builder.or_(builder.and_(old, builder.not_(mask)), builder.and_(new, mask))

    for shift, value in ((16, _splat(builder, result, STATE_SIZE)), (24, a)):
        # A row of masks has as many bytes as a state, so the offset is scaled by 16.
        row = builder.lshr(entry, _I32(shift - 4))
        row = builder.zext(builder.and_(row, _I32(_OFFSET_BITS * STATE_SIZE)), _I64)
        state = blend(state, value, _load(builder, builder.add(masks, row), _STATE))
    fetched = (PC, *range(IR, IR + INSTRUCTION_SIZE))
    fetched_mask = [255 if place in fetched else 0 for place in range(STATE_SIZE)]
    state = blend(state, waiting, _constant(_STATE, fetched_mask))
    _store(builder, state, record, STATE_SIZE)
    return state


@_vector_operation(5)
def _advance(builder: Any, lanes: Any, steps: Any, starts: Any, results: Any, masks: Any) -> None:
    """Execute `steps` instructions in each lane; `lanes` holds the addresses of their records."""
    records = [_load(builder, lanes, _I64, 8 * lane) for lane in range(_LANES)]
    # Only what is allocated in the entry block becomes registers.
    with builder.goto_entry_block():
        states = [builder.alloca(_STATE) for _ in records]
    for record, state in zip(records, states, strict=True):
        builder.store(_load(builder, record, _STATE), state)
    with cgutils.for_range(builder, steps) as loop:
        walked = builder.mul(loop.index, _I64(STATE_SIZE))
        for record, state in zip(records, states, strict=True):
            here = builder.add(record, walked)
            after = _step(builder, builder.load(state), here, starts, results, masks)
            builder.store(after, state)
    walked = builder.mul(steps, _I64(STATE_SIZE))
    for lane, record in enumerate(records):
        _store(builder, builder.add(record, walked), lanes, 8 * lane)


# --- kernels: addresses and numbers are int64 ----------------------------------------------------


@kernel
def _address(array: npt.NDArray[Any]) -> int:
    return np.int64(array.ctypes.data)  # type: ignore[return-value]  # numba makes no difference


@kernel
def _words(memory: int, first_slot: int, copy: int) -> int:
    """Where 256 - `first_slot` instructions start that may be read in whole blocks."""
    if first_slot == 0:
        return memory
    skipped = INSTRUCTION_SIZE * first_slot
    for at in range(0, MEMORY_SIZE - skipped, INSTRUCTION_SIZE):
        _store32(_load32(memory + skipped + at), copy + at)
    return copy


@kernel
def _scan(
    words: int, slots: int, limit: int, decode: int, entries: int, indices: int
) -> tuple[int, int]:
    """How many instructions will be fetched from `words` on, and why no more.

    Writes their entries. Reads and writes whole blocks of 16. A program that runs off the
    end goes on to the limit: there is always slot 255 to fetch.
    """
    for block in range(0, slots, _BLOCK):
        _classify(words + INSTRUCTION_SIZE * block, indices)
        seen = 0
        for i in range(_BLOCK):
            entry = _load32(decode + 4 * _load32(indices + 4 * i))
            _store32(entry, entries + 4 * (block + i))
            seen |= entry
        if seen & _STOPS:
            # Counted without a branch: where in the block it stops cannot be predicted.
            fetched = block + 1
            running = 1
            for i in range(_BLOCK):
                running &= (_load32(entries + 4 * (block + i)) & _STOPS) == 0
                fetched += running
            if fetched <= min(slots, limit):
                last = _load32(entries + 4 * (fetched - 1))
                return fetched, _ILLEGAL if last & _IS_ILLEGAL else _HALTED
            break
    return limit, _STEP_LIMIT


@kernel
def _decode(words: int, first_slot: int, fetched: int, entries: int, record: int) -> None:
    """Prepare the `fetched` records after `record`, the initial state, for execution.

    Writes whole blocks of 16 records.
    """
    carry = 0
    slots = SLOTS - first_slot
    for block in range(0, min(fetched, slots), _BLOCK):
        carry = _resolve(
            words + INSTRUCTION_SIZE * block,
            entries + 4 * block,
            record + STATE_SIZE * (block + 1),
            first_slot + block + 1,
            carry,
        )
    # Nothing executes between the initial state and the first fetch.
    _store64(0, record + STATE_SIZE + 8)
    if fetched > slots:
        # PC saturates: the instruction in slot 255 again and again.
        end = record + STATE_SIZE * slots
        lower = _load64(end)
        if slots % _BLOCK:
            carry = _load64(end + STATE_SIZE + 8)
        for again in range(1, fetched - slots + 1):
            _store64(lower, end + STATE_SIZE * again)
            _store64(carry, end + STATE_SIZE * again + 8)


@kernel
def _execute(
    first: int,
    last: int,
    records: int,
    offsets: Ints,
    starts: int,
    results: int,
    masks: int,
    lanes: Ints,
    left: Ints,
    idle: int,
) -> None:
    """Execute until a lane has no program; programs `first` to `last - 1` wait to be run.

    With none waiting, execute until all lanes are through. `lanes` and `left` (addresses of
    records and the instructions yet to execute) stay as they are between calls; `idle` is the
    address of 257 records of zeros, where lanes without a program may run.
    """
    waiting = first
    while True:
        # Which lane is through next cannot be predicted: found without a branch.
        soonest = left[0] * _LANES
        for lane in range(1, _LANES):
            soonest = min(soonest, left[lane] * _LANES + lane)
        steps, free = soonest // _LANES, soonest % _LANES
        if steps > _IDLE:
            return
        if first >= last:
            steps = min(steps, SLOTS)
            for lane in range(_LANES):
                if left[lane] > _IDLE:
                    lanes[lane] = idle
        if steps:
            _advance(_address(lanes), steps, starts, results, masks)
            for lane in range(_LANES):
                left[lane] -= steps
        if left[free]:
            continue
        if waiting < last:
            lanes[free] = records + STATE_SIZE * offsets[waiting]
            left[free] = offsets[waiting + 1] - offsets[waiting] - 1
            waiting += 1
        elif first < last:
            return
        else:
            left[free] = 2 * _IDLE


@kernel
def _run(
    memories: Bytes,
    states: Bytes,
    limits: Ints,
    decode: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int32],
    results: Bytes,
    masks: Bytes,
    records: Bytes,
    offsets: Ints,
    stops: Bytes,
    scratch: Bytes,
) -> bool:
    """Run all programs; False if `records` is too short (16 of them must stay unused)."""
    entries = (_address(scratch) + _LINE - 1) & -_LINE
    indices = entries + 4 * SLOTS
    copy = indices + 4 * _BLOCK
    idle = copy + MEMORY_SIZE + INSTRUCTION_SIZE * _BLOCK
    lanes = np.empty(_LANES, np.int64)
    left = np.zeros(_LANES, np.int64)
    base = _address(records)
    used = 0
    offsets[0] = 0
    # The last round has no programs: it finishes those that still run.
    for first in range(0, len(limits) + _CHUNK, _CHUNK):
        last = min(first + _CHUNK, len(limits))
        for program in range(first, last):
            memory = _address(memories) + MEMORY_SIZE * program
            for line in range(0, MEMORY_SIZE // 2, 64):
                _prefetch(memory + 2 * MEMORY_SIZE + line)
            first_slot = int(states[program, PC])
            words = _words(memory, first_slot, copy)
            fetched, stops[program] = _scan(
                words,
                SLOTS - first_slot,
                limits[program],
                _address(decode),
                entries,
                indices,
            )
            if used + 1 + fetched + _BLOCK > len(records):
                return False
            record = base + STATE_SIZE * used
            _copy_state(_address(states) + STATE_SIZE * program, record)
            _decode(words, first_slot, fetched, entries, record)
            used += 1 + fetched
            offsets[program + 1] = used
        _execute(
            first,
            last,
            base,
            offsets,
            _address(starts),
            _address(results),
            _address(masks),
            lanes,
            left,
            idle,
        )
    return True


# --- the interface -------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunBatch:
    """The traces of many runs.

    `records`: uint8[T, 16], the records of all programs one after the other.
    `offsets`: int64[P + 1]; program p's records are `records[offsets[p]:offsets[p + 1]]`.
    `stops`: uint8[P], why each run ended: an index into `STOPS`.
    """

    records: Bytes
    offsets: Ints
    stops: Bytes

    def stop(self, program: int) -> Stop:
        """Why this program's run ended."""
        return STOPS[self.stops[program]]


def run_batch(
    memories: Bytes,
    states: Bytes,
    *,
    max_steps: int | Ints = DEFAULT_MAX_STEPS,
    isa: InstructionSet = ISA,
    threads: int = 1,
    out: Bytes | None = None,
) -> RunBatch:
    """Run every program from its state until HLT, an illegal instruction or `max_steps` fetches.

    `memories`: uint8[P, 1024]; `states`: uint8[P, 16], any bytes; `max_steps`: one limit for
    all, or int64[P]. `out`: uint8[C, 16] to hold the records, which saves asking for memory;
    used on one thread if large enough, as C >= 257 P + 16 is unless programs repeat slot 255.
    Raises ValueError on any other shape or type.
    """
    _check("memories", memories, MEMORY_SIZE, len(memories))
    _check("states", states, STATE_SIZE, len(memories))
    if out is not None:
        _check("out", out, STATE_SIZE, len(out))
        if not out.flags.c_contiguous:
            raise ValueError("out is not contiguous")
    limits = np.array(np.broadcast_to(np.asarray(max_steps, np.int64), len(memories)))
    memories = np.ascontiguousarray(memories)
    states = np.ascontiguousarray(states)
    if threads == 1:
        return _run_batch(memories, states, limits, tables(isa), out)
    bounds = np.linspace(0, len(memories), threads + 1).astype(int)
    parts = [slice(first, last) for first, last in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:
        batches = list(
            pool.map(
                lambda part: _run_batch(
                    memories[part], states[part], limits[part], tables(isa), None
                ),
                parts,
            )
        )
    sizes = np.concatenate([[0], *(np.diff(batch.offsets) for batch in batches)])
    return RunBatch(
        np.concatenate([batch.records for batch in batches]),
        np.cumsum(sizes),
        np.concatenate([batch.stops for batch in batches]),
    )


def _check(name: str, array: Bytes, width: int, count: int) -> None:
    if array.shape != (count, width) or array.dtype != np.uint8:
        raise ValueError(f"{name}: {array.dtype}{list(array.shape)}, not uint8[P, {width}]")


def _run_batch(
    memories: Bytes, states: Bytes, limits: Ints, table: Tables, out: Bytes | None
) -> RunBatch:
    count = len(memories)
    np.maximum(limits, 0, out=limits)
    offsets = np.empty(count + 1, np.int64)
    stops = np.empty(count, np.uint8)

    def fits(records: Bytes) -> bool:
        return _run(
            memories,
            states,
            limits,
            table.decode,
            table.starts,
            table.results,
            table.masks,
            records,
            offsets,
            stops,
            np.zeros(_SCRATCH_SIZE, np.uint8),
        )

    # Room for every program to its last slot: what stays unwritten costs address space only.
    room = count + _BLOCK + int(np.minimum(limits, SLOTS - states[:, PC].astype(np.int64)).sum())
    records = np.empty((room, STATE_SIZE), np.uint8) if out is None else out
    if not fits(records):
        # A program repeats its last slot, or `out` is too small.
        records = np.empty((count + _BLOCK + int(limits.sum()), STATE_SIZE), np.uint8)
        fits(records)
    return RunBatch(records[: offsets[-1]], offsets, stops)
