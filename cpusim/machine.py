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

# Instructions decoded at once, programs executed in turns, programs decoded before
# they execute (their records, half a megabyte, are then still in a cache).
_BLOCK = 16
_LANES = 8
_CHUNK = 256

# Scratch memory of a run: the entries of a program and the indices of a block, a copy of a
# memory's end, 257 records of zeros. It starts with a cache line, as vectors that straddle
# lines are slow to read back.
_LINE = 64
_SCRATCH_SIZE = (
    _LINE
    + (8 * SLOTS + 4 * _BLOCK)
    + (MEMORY_SIZE + INSTRUCTION_SIZE * _BLOCK)
    + STATE_SIZE * (SLOTS + 1)
)

# An entry: bytes 0..3 are the offsets in the state of a, b, dest and echo, bytes 4.. where the
# results of its operation begin, and two flags on top.
_OFFSET_BITS = 0x1F
_ADD_OPERAND = (0x20, 0x40, 0x80)  # this offset has operand byte x, y, z added to it
_ZERO = STATE_SIZE  # as offset of a or b: reads as 0
_NO_PLACE = 0  # as offset of dest or echo: nothing is written (nothing ever writes PC)
_RESULTS_SHIFT = 32
_STOPS = 1 << 62
_IS_ILLEGAL = 1 << 61
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

    `decode`: int64[4096], an entry for each opcode and classes of z, y, x (see above).
    `results`: uint8[N], the operations' results at `start + (b << 8 | a)`; operations that
    read no b need 256 bytes, and equal ones share theirs.
    `masks`: uint8[16, 16], row d has 255 at byte d, but row 0 nowhere.
    """

    decode: Ints
    results: Bytes
    masks: Bytes


@lru_cache(maxsize=8)
def tables(isa: InstructionSet) -> Tables:
    """The lookup arrays of an instruction set. Raises ValueError if it has over 63 instructions."""
    if len(isa.instructions) >= _MAX_OPCODES:
        raise ValueError(f"{len(isa.instructions)} instructions, at most {_MAX_OPCODES - 1} fit")
    register = FIRST_REGISTER - 1
    offsets = {
        Place.ACC: ACC,
        Place.X: register | _ADD_OPERAND[0],
        Place.Y: register | _ADD_OPERAND[1],
        Place.Z: register | _ADD_OPERAND[2],
        Place.IMMEDIATE: IR + 1,
    }
    decode = np.full((_MAX_OPCODES, _CLASSES, _CLASSES, _CLASSES), _STOPS | _IS_ILLEGAL, np.int64)
    starts: dict[bytes, int] = {}
    end = 0
    # Immediates come last: where both fit, `InstructionSet.decode` prefers them.
    immediate = (Operand.IMMEDIATE,)
    for instruction, form in sorted(isa.variants, key=lambda v: v[1].operands == immediate):
        a_values = range(1 if form.a is Place.NOWHERE else 256)
        b_values = range(1 if form.b is Place.NOWHERE else 256)
        computed = np.zeros((len(b_values), 256), np.uint8)
        computed[:, : len(a_values)] = [
            [instruction.compute(a, b) for a in a_values] for b in b_values
        ]
        start = starts.setdefault(computed.tobytes(), end)
        end += computed.size if start == end else 0
        entry = (
            offsets.get(form.a, _ZERO)
            | offsets.get(form.b, _ZERO) << 8
            | offsets.get(form.dest, _NO_PLACE) << 16
            | offsets.get(form.echo, _NO_PLACE) << 24
            | start << _RESULTS_SHIFT
            | (_STOPS if instruction.halts else 0)
        )
        if form.operands == immediate:
            decode[instruction.opcode, 0, 0, : _NOT_A_REGISTER + 1] = entry
        else:
            x, y, z = (int(len(form.operands) > operand) for operand in range(3))
            decode[instruction.opcode, z, y, x] = entry
    masks = np.diag(np.full(STATE_SIZE, 255, np.uint8))
    masks[_NO_PLACE] = 0
    return Tables(decode.ravel(), np.frombuffer(b"".join(starts), np.uint8), masks)


# --- vector operations -------------------------------------------------------------------------

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_STATE = ir.VectorType(_I8, STATE_SIZE)
_WORDS = ir.VectorType(_I32, _BLOCK)
_QUADS = ir.VectorType(_I64, _BLOCK)


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
    # For reading, into all caches, data.
    builder.call(function, [builder.inttoptr(address, pointer), _I32(0), _I32(3), _I32(1)])


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

    Such a record has PC and IR in place; its upper half is the entry of the instruction
    *before* it, with the operands added to the offsets: what makes this record from the last.
    `counter`: the PC of the first; `carry`: the entry before it. Returns the last entry.
    """
    word = builder.zext(_load(builder, words, _WORDS), _QUADS)
    counters = builder.add(_splat(builder, counter, _BLOCK), _constant(_QUADS, range(_BLOCK)))
    most = _constant(_QUADS, [SLOTS - 1] * _BLOCK)
    counters = builder.select(builder.icmp_unsigned("<", counters, most), counters, most)
    lower = builder.or_(builder.shl(word, _constant(_QUADS, [8 * IR] * _BLOCK)), counters)

    kind = ir.VectorType(_I8, 8 * _BLOCK)
    quads = range(_BLOCK)
    zero = _constant(kind, [0] * 8 * _BLOCK)
    code = builder.bitcast(word, kind)
    entry = offset = builder.bitcast(_load(builder, entries, _QUADS), kind)
    for operand, flag in enumerate(_ADD_OPERAND):
        # The operand byte four times, below four zeros.
        wanted = [
            8 * q + 1 + operand if byte < 4 else 8 * _BLOCK for q in quads for byte in range(8)
        ]
        register = _rearrange(builder, code, zero, wanted)
        flagged = builder.and_(entry, _constant(kind, [flag] * 8 * _BLOCK))
        adds = builder.icmp_unsigned("!=", flagged, zero)
        offset = builder.select(adds, builder.add(offset, register), offset)
    offset = builder.and_(offset, _constant(kind, ([_OFFSET_BITS] * 4 + [255] * 4) * _BLOCK))
    offset = builder.add(offset, _constant(kind, ([_SHUFFLE_ZERO] * 2 + [0] * 6) * _BLOCK))
    resolved = builder.bitcast(offset, _QUADS)
    before = _rearrange(
        builder, resolved, _splat(builder, carry, _BLOCK), [_BLOCK, *range(_BLOCK - 1)]
    )
    both = _rearrange(builder, lower, before, (i for q in quads for i in (q, _BLOCK + q)))
    _store(builder, both, records)
    return builder.extract_element(resolved, _I32(_BLOCK - 1))


_HAS_BYTE_SHUFFLE = llvmlite.binding.get_process_triple().startswith("x86_64")


def _pick(builder: Any, state: Any, record: Any, entry: Any) -> tuple[Any, Any]:
    """What an entry reads: the number `b << 8 | a`, and the byte a sixteen times.

    x86 has a byte shuffle that does just this; elsewhere the bytes are loaded from the record.
    """
    if _HAS_BYTE_SHUFFLE:
        kind = ir.FunctionType(_STATE, [_STATE, _STATE])
        name = "llvm.x86.ssse3.pshuf.b.128"
        shuffle = builder.module.declare_intrinsic(name, (), kind)
        offsets = builder.insert_element(_constant(ir.VectorType(_I64, 2), [0, 0]), entry, _I32(0))
        picked = builder.call(shuffle, [state, builder.bitcast(offsets, _STATE)])
        pairs = builder.bitcast(picked, ir.VectorType(ir.IntType(16), STATE_SIZE // 2))
        pair = builder.zext(builder.extract_element(pairs, _I32(0)), _I64)
        return pair, _rearrange(builder, picked, picked, [0] * STATE_SIZE)
    found = []
    for shift in (0, 8):
        offset = builder.lshr(entry, _I64(shift))
        address = builder.add(record, builder.and_(offset, _I64(STATE_SIZE - 1)))
        zero = builder.icmp_unsigned("!=", builder.and_(offset, _I64(0x80)), _I64(0))
        found.append(builder.select(zero, _I8(0), _load(builder, address, _I8)))
    a, b = (builder.zext(byte, _I64) for byte in found)
    return builder.or_(builder.shl(b, _I64(8)), a), _splat(builder, found[0], STATE_SIZE)


def _step(builder: Any, state: Any, record: Any, results: Any, masks: Any) -> Any:
    """Execute what the record after `record` waits for; `state` is `record`. Returns the next."""
    entry = _load(builder, record, _I64, STATE_SIZE + 8)
    waiting = _load(builder, record, _STATE, STATE_SIZE)
    pair, a = _pick(builder, state, record, entry)
    start = builder.lshr(entry, _I64(_RESULTS_SHIFT))
    result = _load(builder, builder.add(builder.add(results, start), pair), _I8)

    def blend(old: Any, new: Any, mask: Any) -> Any:
        return builder.or_(builder.and_(old, builder.not_(mask)), builder.and_(new, mask))

    for shift, value in ((16, _splat(builder, result, STATE_SIZE)), (24, a)):
        # A row of masks has as many bytes as a state, so the offset is scaled by 16.
        row = builder.lshr(entry, _I64(shift - 4))
        row = builder.and_(row, _I64(_OFFSET_BITS * STATE_SIZE))
        state = blend(state, value, _load(builder, builder.add(masks, row), _STATE))
    fetched = (PC, *range(IR, IR + INSTRUCTION_SIZE))
    fetched_mask = [255 if place in fetched else 0 for place in range(STATE_SIZE)]
    state = blend(state, waiting, _constant(_STATE, fetched_mask))
    _store(builder, state, record, STATE_SIZE)
    return state


@_vector_operation(4)
def _advance(builder: Any, lanes: Any, steps: Any, results: Any, masks: Any) -> None:
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
            builder.store(_step(builder, builder.load(state), here, results, masks), state)
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
    for at in range(0, MEMORY_SIZE - INSTRUCTION_SIZE * first_slot, 8):
        _store64(_load64(memory + INSTRUCTION_SIZE * first_slot + at), copy + at)
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
            entry = _load64(decode + 8 * _load32(indices + 4 * i))
            _store64(entry, entries + 8 * (block + i))
            seen |= entry
        if seen & _STOPS:
            # Counted without a branch: where in the block it stops cannot be predicted.
            fetched = block + 1
            running = 1
            for i in range(_BLOCK):
                running &= (_load64(entries + 8 * (block + i)) & _STOPS) == 0
                fetched += running
            if fetched <= min(slots, limit):
                last = _load64(entries + 8 * (fetched - 1))
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
            entries + 8 * block,
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
    results: int,
    masks: int,
    lanes: Ints,
    left: Ints,
    idle: int,
) -> None:
    """Execute programs `first` to `last - 1`, whose records are prepared.

    `idle` is the address of 257 records of zeros, where lanes without a program may run.
    """
    waiting = first
    left[:] = 0
    while True:
        steps = SLOTS
        busy = False
        for lane in range(_LANES):
            while left[lane] == 0 and waiting < last:
                lanes[lane] = records + STATE_SIZE * offsets[waiting]
                left[lane] = offsets[waiting + 1] - offsets[waiting] - 1
                waiting += 1
            if left[lane]:
                steps = min(steps, left[lane])
                busy = True
            else:
                lanes[lane] = idle
        if not busy:
            return
        _advance(_address(lanes), steps, results, masks)
        for lane in range(_LANES):
            left[lane] -= min(steps, left[lane])


@kernel
def _run(
    memories: Bytes,
    states: Bytes,
    limits: Ints,
    decode: Ints,
    results: Bytes,
    masks: Bytes,
    records: Bytes,
    offsets: Ints,
    stops: Bytes,
    scratch: Bytes,
) -> bool:
    """Run all programs; False if `records` is too short (16 of them must stay unused)."""
    entries = (_address(scratch) + _LINE - 1) & -_LINE
    indices = entries + 8 * SLOTS
    copy = indices + 4 * _BLOCK
    idle = copy + MEMORY_SIZE + INSTRUCTION_SIZE * _BLOCK
    lanes = np.empty(_LANES, np.int64)
    left = np.empty(_LANES, np.int64)
    base = _address(records)
    used = 0
    offsets[0] = 0
    for first in range(0, len(limits), _CHUNK):
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
