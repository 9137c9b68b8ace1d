"""The compiled kernels: the published traces, and the plain-Python reference, byte for byte."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim import reference
from cpusim.assembler import assemble, assemble_file
from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    IR,
    ISA,
    MEMORY_SIZE,
    PC,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
    Form,
    IllegalEncoding,
    Instruction,
    InstructionSet,
    Operand,
    Place,
    variant_name,
)
from cpusim.machine import STOPS, Bytes, RunBatch, run_batch
from cpusim.programs import DISTRIBUTIONS, generate
from cpusim.reference import DEFAULT_MAX_STEPS, Run, Stop
from tests.strategies import (
    endless_memories,
    extended,
    initial_states,
    memories,
    programs,
    states,
    words,
)

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "cpu_traces").glob("*.bin"))
# One-instruction programs run at a time: 16 MB of memories.
CHUNK = 1 << 14
NUMBERS = len(REGISTERS)


def rows(blocks: list[bytes]) -> Bytes:
    """Blocks of the same size as the rows of an array that may be written to."""
    return np.frombuffer(bytearray(b"".join(blocks)), np.uint8).reshape(len(blocks), -1)


def run_one(memory: bytes, state: bytes, max_steps: int = DEFAULT_MAX_STEPS) -> RunBatch:
    return run_batch(rows([memory]), rows([state]), max_steps=max_steps)


def outcome(batch: RunBatch, program: int) -> tuple[bytes, Stop]:
    first, last = batch.offsets[program : program + 2]
    return batch.records[first:last].tobytes(), batch.stop(program)


def outcome_of(run: Run) -> tuple[bytes, Stop]:
    return b"".join(run.records), run.stop


def assert_like_reference(
    memories: list[bytes], states: list[bytes], max_steps: int, isa: InstructionSet = ISA
) -> set[Stop]:
    """Compare a batch with one plain-Python run after the other; the reasons they stopped for."""
    batch = run_batch(rows(memories), rows(states), max_steps=max_steps, isa=isa)
    for program, (memory, state) in enumerate(zip(memories, states, strict=True)):
        run = reference.run(memory, state, max_steps=max_steps, isa=isa)
        assert outcome(batch, program) == outcome_of(run)
    return {batch.stop(program) for program in range(len(memories))}


# The published traces -----------------------------------------------------------------


def test_the_published_traces_are_there() -> None:
    assert len(GOLDEN) == 24


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_published_trace_is_reproduced_byte_for_byte_from_trace_and_assembly(path: Path) -> None:
    published = path.read_bytes()
    memory, state = published[:MEMORY_SIZE], published[MEMORY_SIZE : MEMORY_SIZE + STATE_SIZE]
    for image in (memory, assemble_file(path.with_suffix(".s"))):
        records, stop = outcome(run_one(image, state), 0)
        assert image + records == published
        assert stop is Stop.HALTED
        assert outcome_of(reference.run(image, state)) == (records, stop)


def test_all_published_traces_are_reproduced_in_one_batch_too() -> None:
    published = [path.read_bytes() for path in GOLDEN]
    batch = run_batch(
        rows([data[:MEMORY_SIZE] for data in published]),
        rows([data[MEMORY_SIZE : MEMORY_SIZE + STATE_SIZE] for data in published]),
    )
    assert [outcome(batch, p)[0] for p in range(len(published))] == [
        data[MEMORY_SIZE:] for data in published
    ]


# Every form, every operand value ------------------------------------------------------

A, B = np.divmod(np.arange(1 << 16), 256)
EFFECTS = {
    "HLT": 0 * A,
    "CLR": 0 * A,
    "INC": np.where(A == 255, 255, A + 1),
    "DEC": np.where(A == 0, 0, A - 1),
    "SHL": A * 2 % 256,
    "SHR": A // 2,
    "ROL": A * 2 % 256 + A // 128,
    "ROR": A // 2 + A % 2 * 128,
    "NOT": 255 - A,
    "PUSH": A,
    "POP": A,
    "LOADI": A,
    "SWAP": B,
    "ADD": np.clip(A + B, 0, 255),
    "SUB": np.clip(A - B, 0, 255),
    "MUL": np.clip(A * B, 0, 255),
    "DIV": np.where(B == 0, 255, A // np.maximum(B, 1)),
    "AND": A & B,
    "OR": A | B,
    "XOR": A ^ B,
    "MOV": A,
}
"""What each instruction makes of all pairs of bytes, written down a second time."""


@lru_cache
def results(instruction: Instruction) -> Bytes:
    """`compute` of all pairs of bytes: uint8[256, 256]."""
    return np.array([[instruction.compute(a, b) for b in range(256)] for a in range(256)], np.uint8)


@pytest.mark.parametrize("instruction", ISA.instructions, ids=lambda i: i.name)
def test_an_instruction_computes_what_its_definition_says_for_all_operand_values(
    instruction: Instruction,
) -> None:
    np.testing.assert_array_equal(results(instruction).ravel(), EFFECTS[instruction.name])


def test_the_table_has_21_instructions_and_44_forms() -> None:
    assert len(ISA.instructions) == len(EFFECTS) == 21
    assert len(ISA.variants) == 44


VARIANTS = pytest.mark.parametrize(
    ("instruction", "form"),
    ISA.variants,
    ids=[variant_name(*variant) for variant in ISA.variants],
)


def column(place: Place, words: Bytes) -> Bytes:
    """Where in its state record each program finds a place."""
    number = {Place.X: 1, Place.Y: 2, Place.Z: 3}.get(place)
    if number is not None:
        return words[:, number] + np.uint8(FIRST_REGISTER - 1)
    return np.full(len(words), ACC if place is Place.ACC else IR + 1, np.uint8)


def expected_records(instruction: Instruction, form: Form, words: Bytes, states: Bytes) -> Bytes:
    """The records of one instruction and HLT in plain array indexing: uint8[P, 3 or 2, 16]."""
    every = np.arange(len(words))
    fetched = states.copy()
    fetched[:, PC] = 1
    fetched[:, IR : IR + 4] = words
    if instruction.halts:
        return np.stack([states, fetched], axis=1)
    a, b = (
        np.zeros(len(words), np.uint8)
        if place is Place.NOWHERE
        else fetched[every, column(place, words)]
        for place in (form.a, form.b)
    )
    last = fetched.copy()
    last[every, column(form.dest, words)] = results(instruction)[a, b]
    if form.echo is not Place.NOWHERE:
        last[every, column(form.echo, words)] = a
    last[:, PC] = 2
    last[:, IR : IR + 4] = 0
    return np.stack([states, fetched, last], axis=1)


def assert_one_instruction_right(
    instruction: Instruction, form: Form, words: Bytes, states: Bytes
) -> None:
    """Run each word, then HLT, from its state; compare all records, and some with `run`."""
    for start in range(0, len(words), CHUNK):
        some, begin = words[start : start + CHUNK], states[start : start + CHUNK]
        memories = np.zeros((len(some), MEMORY_SIZE), np.uint8)
        memories[:, :4] = some
        batch = run_batch(memories, begin)
        expected = expected_records(instruction, form, some, begin)
        assert (np.diff(batch.offsets) == expected.shape[1]).all()
        np.testing.assert_array_equal(batch.records, expected.reshape(-1, STATE_SIZE))
        assert not batch.stops.any()
        for p in range(0, len(some), 1 + len(some) // 40):
            run = reference.run(memories[p].tobytes(), begin[p].tobytes())
            assert outcome_of(run) == (expected[p].tobytes(), Stop.HALTED)


def write(place: Place, values: Bytes, words: Bytes, states: Bytes) -> None:
    """Let every program find its value in this place."""
    if place is Place.IMMEDIATE:
        words[:, 1] = values
    elif place is not Place.NOWHERE:
        states[np.arange(len(words)), column(place, words)] = values


def starts(instruction: Instruction, operands: Bytes, seed: int) -> tuple[Bytes, Bytes]:
    """Words with these operand bytes (uint8[P, 0..3]) and random first states."""
    words = np.zeros((len(operands), 4), np.uint8)
    words[:, 0] = instruction.opcode
    words[:, 1 : 1 + operands.shape[1]] = operands
    states = np.random.default_rng(seed).integers(0, 256, (len(words), STATE_SIZE), np.uint8)
    states[:, PC] = 0
    states[:, IR : IR + 4] = 0
    return words, states


def register_operands(form: Form) -> int:
    return form.operands.count(Operand.REGISTER)


@VARIANTS
def test_a_form_does_what_the_table_says_for_all_operand_values(
    instruction: Instruction, form: Form
) -> None:
    a, b = (np.arange(1 << 16) >> 8).astype(np.uint8), np.arange(1 << 16).astype(np.uint8)
    if form.b is Place.NOWHERE:
        a = np.tile(np.arange(256, dtype=np.uint8), 40)
        b = 0 * a
    every = np.tile(np.arange(1, NUMBERS + 1, dtype=np.uint8), (len(a), 1))
    distinct = np.random.default_rng(1).permuted(every, axis=1)[:, : register_operands(form)]
    words, states = starts(instruction, distinct, seed=2)
    write(form.a, a, words, states)
    write(form.b, b, words, states)
    assert_one_instruction_right(instruction, form, words, states)


@VARIANTS
def test_a_form_does_what_the_table_says_for_every_choice_of_registers(
    instruction: Instruction, form: Form
) -> None:
    choices = list(itertools.product(range(1, NUMBERS + 1), repeat=register_operands(form)))
    operands = np.tile(np.array(choices, np.uint8).reshape(len(choices), -1), (20, 1))
    words, states = starts(instruction, operands, seed=3)
    assert_one_instruction_right(instruction, form, words, states)


@pytest.mark.parametrize(
    ("instruction", "form"),
    [(i, form) for i, form in ISA.variants if register_operands(form) >= 2],
    ids=[variant_name(i, form) for i, form in ISA.variants if register_operands(form) >= 2],
)
def test_a_register_may_stand_in_both_operands_with_any_value(
    instruction: Instruction, form: Form
) -> None:
    same = np.repeat(np.arange(1, NUMBERS + 1, dtype=np.uint8), 256)
    third = np.random.default_rng(4).integers(1, NUMBERS + 1, len(same), np.uint8)
    operands = np.stack([same, same, third], axis=1)[:, : register_operands(form)]
    words, states = starts(instruction, operands, seed=5)
    write(Place.X, np.tile(np.arange(256, dtype=np.uint8), NUMBERS), words, states)
    assert_one_instruction_right(instruction, form, words, states)


@pytest.mark.parametrize("isa", [ISA, extended()], ids=["the table", "one row more"])
def test_a_word_executes_exactly_if_it_is_canonical(isa: InstructionSet) -> None:
    edges = (0, 1, NUMBERS, NUMBERS + 1, 255)
    candidates = [bytes(w) for w in itertools.product(range(256), edges, edges, edges)]
    legal = []
    for word in candidates:
        try:
            isa.decode(word)
            legal.append(True)
        except IllegalEncoding:
            legal.append(False)
    batch = run_batch(
        rows([word.ljust(MEMORY_SIZE, b"\0") for word in candidates]),
        np.zeros((len(candidates), STATE_SIZE), np.uint8),
        max_steps=1,
        isa=isa,
    )
    assert (batch.stops != STOPS.index(Stop.ILLEGAL)).tolist() == legal
    # The record shows the word either way, not executed.
    shown = batch.records.reshape(-1, 2, STATE_SIZE)[:, 1]
    np.testing.assert_array_equal(shown[:, IR : IR + 4], rows(candidates))


# Whole programs against the reference -------------------------------------------------


@given(st.lists(st.tuples(programs(), initial_states()), min_size=1, max_size=4))
def test_a_random_program_runs_as_in_the_reference(cases: list[tuple[bytes, bytes]]) -> None:
    assert_like_reference([m for m, _ in cases], [s for _, s in cases], DEFAULT_MAX_STEPS)


@given(
    st.lists(st.tuples(memories() | endless_memories(), states()), min_size=1, max_size=4),
    st.integers(0, 600),
)
def test_a_hostile_memory_runs_as_in_the_reference(
    cases: list[tuple[bytes, bytes]], max_steps: int
) -> None:
    assert_like_reference([m for m, _ in cases], [s for _, s in cases], max_steps)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_long_random_programs_run_as_in_the_reference(distribution: str) -> None:
    made = generate(25, distribution=distribution, seed=6, min_length=200, max_length=256)  # type: ignore[arg-type]
    stops = assert_like_reference(
        [row.tobytes() for row in made.memories], [row.tobytes() for row in made.states], 300
    )
    assert stops == {Stop.HALTED}


def test_long_programs_with_damage_anywhere_run_as_in_the_reference() -> None:
    made = generate(120, seed=7, min_length=256, max_length=256)
    random = np.random.default_rng(8)
    for memory in made.memories:
        hits = random.integers(0, MEMORY_SIZE, random.integers(0, 6))
        memory[hits] = random.integers(0, 256, len(hits), np.uint8)
        # Half of them have no HLT at the end.
        memory[-4] = random.choice([0, 8])
    states = random.integers(0, 256, (len(made.memories), STATE_SIZE), np.uint8)
    states[::2, PC] //= 8
    stops = assert_like_reference(
        [row.tobytes() for row in made.memories], [row.tobytes() for row in states], 280
    )
    assert stops == set(Stop)


# The limits of a run ------------------------------------------------------------------


def test_the_program_counter_saturates_and_the_last_slot_repeats_until_the_step_limit() -> None:
    memory = assemble("NOT A\n" * (SLOTS - 1) + "INC B")
    batch = run_one(memory, bytes(STATE_SIZE))
    assert batch.stop(0) is Stop.STEP_LIMIT
    assert len(batch.records) == DEFAULT_MAX_STEPS + 1
    steps = np.arange(DEFAULT_MAX_STEPS + 1)
    np.testing.assert_array_equal(batch.records[:, PC], np.minimum(steps, 255))
    np.testing.assert_array_equal(
        batch.records[:, FIRST_REGISTER + 1], np.clip(steps - SLOTS, 0, 255)
    )
    assert (batch.records[SLOTS:, IR] == ISA.by_name["INC"].opcode).all()


@pytest.mark.parametrize("pc", [0, 1, 254, 255])
@pytest.mark.parametrize("end", ["HLT", "INC", ".byte 99 0 0 0"])
def test_a_run_may_start_anywhere_and_treats_the_last_slot_like_any_other(
    pc: int, end: str
) -> None:
    memory = assemble("INC A\n" * (SLOTS - 1) + end)
    stops = assert_like_reference([memory], [bytes([pc, *range(15)])], 300)
    kinds = {"HLT": Stop.HALTED, "INC": Stop.STEP_LIMIT, ".byte 99 0 0 0": Stop.ILLEGAL}
    assert stops == {kinds[end]}


def test_no_step_leaves_the_first_record_alone_and_one_step_adds_one() -> None:
    state = bytes(range(STATE_SIZE))
    memory = assemble("INC\n" * SLOTS)
    assert outcome(run_one(memory, state, 0), 0) == (state, Stop.STEP_LIMIT)
    assert outcome(run_one(memory, state, 1), 0) == (
        state + bytes([1, state[ACC], 2, 0, 0, 0, *state[FIRST_REGISTER:]]),
        Stop.STEP_LIMIT,
    )


@pytest.mark.parametrize(("last", "stop"), [("HLT", Stop.HALTED), (".byte 0 0 0 1", Stop.ILLEGAL)])
def test_what_happens_at_the_very_last_step_counts_before_the_limit(last: str, stop: Stop) -> None:
    memory = assemble(f"INC\nINC\n{last}")
    assert run_one(memory, bytes(STATE_SIZE), 3).stop(0) is stop
    assert run_one(memory, bytes(STATE_SIZE), 2).stop(0) is Stop.STEP_LIMIT


def test_each_program_may_have_a_limit_of_its_own() -> None:
    memory = rows([assemble("INC\n" * SLOTS)] * 5)
    limits = np.array([3, 0, 700, 1, 256])
    batch = run_batch(memory, np.zeros((5, STATE_SIZE), np.uint8), max_steps=limits)
    np.testing.assert_array_equal(np.diff(batch.offsets), limits + 1)
    for program, limit in enumerate(limits.tolist()):
        run = reference.run(memory[program].tobytes(), bytes(STATE_SIZE), max_steps=limit)
        assert outcome(batch, program) == outcome_of(run)


# The shape of a batch -----------------------------------------------------------------


def test_no_program_at_all_is_an_empty_batch() -> None:
    batch = run_batch(np.empty((0, MEMORY_SIZE), np.uint8), np.empty((0, STATE_SIZE), np.uint8))
    assert batch.records.shape == (0, STATE_SIZE)
    assert batch.offsets.tolist() == [0]
    assert len(batch.stops) == 0


GOOD_MEMORIES = np.zeros((2, MEMORY_SIZE), np.uint8)
GOOD_STATES = np.zeros((2, STATE_SIZE), np.uint8)


@pytest.mark.parametrize(
    ("memories", "states"),
    [
        (GOOD_MEMORIES[0], GOOD_STATES),
        (GOOD_MEMORIES[:, :-1], GOOD_STATES),
        (GOOD_MEMORIES[:, :, None], GOOD_STATES),
        (GOOD_MEMORIES.astype(np.int64), GOOD_STATES),
        (GOOD_MEMORIES.view(np.int8), GOOD_STATES),
        (GOOD_MEMORIES[:1], GOOD_STATES),
        (GOOD_MEMORIES, GOOD_STATES[0]),
        (GOOD_MEMORIES, GOOD_STATES[:1]),
        (GOOD_MEMORIES, GOOD_STATES[:, 1:]),
        (GOOD_MEMORIES, GOOD_STATES.astype(float)),
    ],
)
def test_any_other_shape_or_type_is_refused(memories: Bytes, states: Bytes) -> None:
    with pytest.raises(ValueError, match=r"not uint8\[P, (1024|16)\]"):
        run_batch(memories, states)


def test_limits_of_another_count_than_the_programs_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        run_batch(GOOD_MEMORIES, GOOD_STATES, max_steps=np.array([1, 2, 3]))


def test_strided_input_gives_the_same_bytes_and_stays_as_it_was() -> None:
    made = generate(40, seed=9)
    plain = run_batch(made.memories[::2].copy(), made.states[::2].copy())
    before = made.memories.copy(), made.states.copy()
    strided = run_batch(made.memories[::2], np.asfortranarray(made.states)[::2])
    assert strided.records.tobytes() == plain.records.tobytes()
    np.testing.assert_array_equal(made.memories, before[0])
    np.testing.assert_array_equal(made.states, before[1])


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_the_number_of_threads_changes_no_byte(threads: int) -> None:
    made = generate(50, seed=10)
    one = run_batch(made.memories, made.states)
    many = run_batch(made.memories, made.states, threads=threads)
    assert many.records.tobytes() == one.records.tobytes()
    np.testing.assert_array_equal(many.offsets, one.offsets)
    np.testing.assert_array_equal(many.stops, one.stops)


# One row more in the table ------------------------------------------------------------


@given(st.lists(st.tuples(endless_memories(extended()), states()), min_size=1, max_size=3))
def test_a_new_row_runs_in_the_kernel_as_in_the_reference(
    cases: list[tuple[bytes, bytes]],
) -> None:
    isa = extended()
    assert_like_reference([m for m, _ in cases], [s for _, s in cases], 300, isa)


def test_a_new_row_computes_its_function_and_is_illegal_without_it() -> None:
    isa = extended()
    memory = assemble("NAND A B C\nNAND A B\nNAND A", isa=isa)
    state = bytes([0, 0b1001, 0, 0, 0, 0, 0b1100, 0b1010]) + bytes(8)
    batch = run_batch(rows([memory]), rows([state]), isa=isa)
    assert batch.records[-1, [ACC, FIRST_REGISTER, FIRST_REGISTER + 2]].tolist() == [
        0b11111110,
        0b11110111,
        0b11110111,
    ]
    assert run_one(memory, state).stop(0) is Stop.ILLEGAL


@given(words(extended()), initial_states())
def test_the_old_rows_are_what_they_were_beside_a_new_one(word: bytes, state: bytes) -> None:
    memory = word.ljust(MEMORY_SIZE, b"\0")
    new = run_batch(rows([memory]), rows([state]), isa=extended())
    if word[0] < len(ISA.instructions):
        assert outcome(run_one(memory, state), 0) == outcome(new, 0)
    else:
        assert run_one(memory, state).stop(0) is Stop.ILLEGAL
        assert new.stop(0) is Stop.HALTED


# Memory for the records ----------------------------------------------------------------


@pytest.mark.parametrize("records", [0, 1, 200, 257 * 30 + 16])
def test_memory_for_the_records_is_used_if_large_enough_and_changes_no_byte(records: int) -> None:
    made = generate(30, seed=11)
    out = np.full((records, STATE_SIZE), 99, np.uint8)
    batch = run_batch(made.memories, made.states, out=out)
    plain = run_batch(made.memories, made.states)
    assert batch.records.tobytes() == plain.records.tobytes()
    np.testing.assert_array_equal(batch.offsets, plain.offsets)
    assert np.shares_memory(batch.records, out) == (records > 200)


def test_memory_for_the_records_is_never_written_past_its_end() -> None:
    made = generate(30, seed=12)
    guarded = np.full((257 * 30 + 16 + 100, STATE_SIZE), 99, np.uint8)
    for records in range(len(run_batch(made.memories, made.states).records), 257 * 30, 7):
        run_batch(made.memories, made.states, out=guarded[:records])
        assert (guarded[records:] == 99).all()


@pytest.mark.parametrize(
    "out", [np.empty((9, 8), np.uint8), np.empty((9, 16)), np.empty((9, 32), np.uint8)[:, ::2]]
)
def test_memory_for_the_records_of_another_shape_is_refused(out: Bytes) -> None:
    with pytest.raises(ValueError, match="out"):
        run_batch(GOOD_MEMORIES, GOOD_STATES, out=out)


def test_without_a_byte_shuffle_the_kernel_gives_the_same_bytes(tmp_path: Path) -> None:
    made = generate(300, distribution="mixed", seed=13)
    expected = run_batch(made.memories, made.states)
    script = (
        "import sys, numpy, cpusim.machine as machine\n"
        "from cpusim.programs import generate\n"
        "machine._HAS_BYTE_SHUFFLE &= False\n"
        "made = generate(300, distribution='mixed', seed=13)\n"
        "sys.stdout.buffer.write(machine.run_batch(made.memories, made.states).records.tobytes())\n"
    )
    # Its machine code must not be taken for the usual one, nor the other way round.
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True
    )
    assert found.stdout == expected.records.tobytes()
