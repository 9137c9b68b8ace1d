"""Faulty machines: how faults are written, what each does to a run, where it first shows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpusim.assembler import assemble
from cpusim.errors import UserError
from cpusim.faults import (
    BOUNDS,
    KINDS,
    BitFlip,
    Fault,
    NoSaturation,
    OffByOne,
    StuckBit,
    SwappedOpcode,
    every_fault,
    faulty_table,
    inject,
    parse_fault,
    run_faulty,
)
from cpusim.isa import (
    ACC,
    FIELDS,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    MEMORY_SIZE,
    PC,
    STATE_SIZE,
    IllegalEncoding,
    Operand,
)
from cpusim.reference import Stop, execute, fetch, run
from tests.strategies import initial_states, programs

A, B, C = FIRST_REGISTER, FIRST_REGISTER + 1, FIRST_REGISTER + 2
PROGRAM = assemble(
    "LOADI 200\nPOP A\nLOADI 77\nPOP B\nADD A B C\nSUB C B\nMUL B C D\nXOR A D\nROL C\nSWAP A B\n"
    "INC\nDEC D\nDIV A B E\nNOT E\nHLT"
)
START = bytes([0, 9, 0, 0, 0, 0, *range(3, 253, 25)])
EVERY = [fault for kind in KINDS for fault in every_fault(kind, steps=(1, 7, 300))]


def state(**values: int) -> bytes:
    return bytes(values.get(name, 0) for name in FIELDS)


def result(source: str, start: bytes, *faults: Fault) -> bytes:
    """The state after a program of one instruction on a faulty machine."""
    return run_faulty(assemble(f"{source}\nHLT"), start, faults).records[2]


def healthy_step(memory: bytes, record: bytes, step: int) -> bytes | None:
    """What a healthy machine makes of record number `step`; None if it stops there."""
    if step == 0:
        return fetch(memory, record)
    try:
        instruction, form = ISA.decode(record[IR : IR + INSTRUCTION_SIZE])
    except IllegalEncoding:
        return None
    return None if instruction.halts else fetch(memory, execute(record, instruction, form))


# How they are written -----------------------------------------------------------------


def test_every_fault_is_read_back_from_its_own_text_in_either_case() -> None:
    assert {fault.kind for fault in EVERY} == set(KINDS)
    assert len(EVERY) == 16 * 8 * 2 + 3 * 16 * 8 + 21 * 20 + 20 * 2 + 5
    for fault in EVERY:
        assert parse_fault(str(fault)) == fault
        assert parse_fault(f" {str(fault).lower()} ") == fault
        assert parse_fault(str(fault).upper()) == fault


def test_off_by_one_means_one_more_unless_said_otherwise() -> None:
    assert parse_fault("off-by-one:MUL") == OffByOne("MUL", 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is no kind of fault; the kinds are stuck:PLACE.BIT=0|1, flip:"),
        ("stuk:C.3=1", "'stuk' is no kind of fault; did you mean stuck? the kinds are stuck:"),
        ("stuck", "write stuck:PLACE.BIT=0|1, such as stuck:C.3=1; bits count from 0"),
        ("stuck:C.8=1", "write stuck:PLACE.BIT=0|1"),
        ("stuck:C.3=2", "write stuck:PLACE.BIT=0|1"),
        ("stuck:C.3=1x", "write stuck:PLACE.BIT=0|1"),
        ("stuck:AC.3=1", "'AC' is no byte of the state; did you mean ACC?"),
        ("flip:Q.3@1", "'Q' is no byte of the state; write one of PC, ACC, IR0"),
        ("flip:C.3@0", "write flip:PLACE.BIT@STEP, such as flip:B.7@12; bits count from 0"),
        ("flip:C.3", "steps from 1"),
        ("swap-opcode:ADD", "write swap-opcode:OP=OP, such as swap-opcode:ADD=SUB"),
        ("swap-opcode:ADD=SUBB", "'SUBB' is no instruction; did you mean SUB?"),
        ("swap-opcode:ADD=add", "ADD executes as ADD anyway; name two"),
        ("off-by-one:MUL=2", "write off-by-one:OP=+1|-1, such as off-by-one:MUL=-1"),
        ("off-by-one:HLT", "HLT has no result that could be off by one"),
        ("no-saturation:", "write no-saturation:OP"),
        ("no-saturation:QQQQ", "'QQQQ' is no instruction; `cpusim isa` lists them all"),
        ("no-saturation:AND", "AND never saturates; INC, DEC, ADD, SUB, MUL do"),
    ],
)
def test_a_bad_fault_is_refused_in_a_sentence_that_shows_how_it_is_written(
    text: str, told: str
) -> None:
    with pytest.raises(UserError) as error:
        parse_fault(text)
    assert str(error.value).startswith(f"fault {text!r}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=12), st.sampled_from(["", *(f"{kind}:" for kind in KINDS)]))
def test_any_text_is_a_fault_or_refused(text: str, kind: str) -> None:
    try:
        fault = parse_fault(kind + text)
    except UserError as error:
        said = str(error)
    else:
        assert parse_fault(str(fault)) == fault
        return
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("stuck:A.0=1", "stuck:A.0=0"),
        ("flip:A.0@3", "flip:A.0@3"),
        ("swap-opcode:ADD=SUB", "swap-opcode:ADD=MUL"),
        ("off-by-one:ADD=+1", "off-by-one:ADD=-1"),
    ],
)
def test_faults_that_contradict_each_other_are_refused(first: str, second: str) -> None:
    faults = [parse_fault(first), parse_fault("stuck:B.0=1"), parse_fault(second)]
    with pytest.raises(UserError, match="a machine has one of them, not both") as error:
        run_faulty(PROGRAM, START, faults)
    assert first in str(error.value)
    assert second in str(error.value)


# What they do -------------------------------------------------------------------------


@given(programs(), initial_states())
@settings(max_examples=30)
def test_a_machine_without_faults_is_the_healthy_one(memory: bytes, start: bytes) -> None:
    assert run_faulty(memory, start, []) == run(memory, start)


@pytest.mark.parametrize("field", range(STATE_SIZE), ids=FIELDS)
def test_a_stuck_bit_never_changes_and_everything_else_goes_on_from_it(field: int) -> None:
    for fault in every_fault("stuck"):
        if not isinstance(fault, StuckBit) or fault.field != field:
            continue
        records = run_faulty(PROGRAM, START, [fault], max_steps=40).records
        assert records[0] == START
        for step, (before, after) in enumerate(itertools.pairwise(records)):
            should = bytearray(healthy_step(PROGRAM, before, step) or b"")
            should[field] = should[field] & ~(1 << fault.bit) | fault.value << fault.bit
            assert after == bytes(should)


@pytest.mark.parametrize("field", range(STATE_SIZE), ids=FIELDS)
def test_a_flip_turns_one_bit_over_in_one_record_and_everything_else_goes_on_from_it(
    field: int,
) -> None:
    for step, bit in itertools.product((1, 2, 9), range(8)):
        records = run_faulty(PROGRAM, START, [BitFlip(field, bit, step)], max_steps=40).records
        assert len(records) > step
        for place, (before, after) in enumerate(itertools.pairwise(records)):
            should = bytearray(healthy_step(PROGRAM, before, place) or b"")
            should[field] ^= (place + 1 == step) << bit
            assert after == bytes(should)


def test_a_flip_after_the_end_never_shows() -> None:
    assert inject(PROGRAM, START, [BitFlip(A, 0, 16)]).first_visible is None
    assert inject(PROGRAM, START, [BitFlip(A, 0, 15)]).first_visible == 15


def test_a_bit_that_is_stuck_does_not_flip() -> None:
    faults = [StuckBit(A, 0, 1), BitFlip(A, 0, 3)]
    assert run_faulty(PROGRAM, START, faults) == run_faulty(PROGRAM, START, faults[:1])


def test_a_swapped_opcode_does_the_other_instruction_with_its_operands_or_stops() -> None:
    for (name, form), other in itertools.product(
        [(i.name, form) for i, form in ISA.variants], ISA.instructions
    ):
        if name == other.name:
            continue
        operands = [
            3 if kind is Operand.IMMEDIATE else 2 + n for n, kind in enumerate(form.operands)
        ]
        word = bytes([ISA.by_name[name].opcode, *operands]).ljust(4, b"\0")
        memory = word.ljust(MEMORY_SIZE, b"\0")
        faulty = run_faulty(memory, START, [SwappedOpcode(name, other.name)], max_steps=2)
        first, shown = faulty.records[:2]
        assert shown == fetch(memory, first)
        assert shown[IR:FIRST_REGISTER] == word
        try:
            executed, as_form = ISA.decode(bytes([other.opcode, *word[1:]]))
        except IllegalEncoding:
            assert (faulty.stop, faulty.steps) == (Stop.ILLEGAL, 1)
            continue
        if executed.halts:
            assert (faulty.stop, faulty.steps) == (Stop.HALTED, 1)
            continue
        after = execute(shown, executed, as_form)
        assert faulty.records[2][ACC] == after[ACC]
        assert faulty.records[2][FIRST_REGISTER:] == after[FIRST_REGISTER:]


def test_relabelling_a_swapped_opcode_in_memory_and_trace_gives_a_healthy_trace() -> None:
    faulty = run_faulty(PROGRAM, START, [SwappedOpcode("XOR", "ADD")])
    xor, add = ISA.by_name["XOR"].opcode, ISA.by_name["ADD"].opcode
    memory = bytearray(PROGRAM)
    memory[::4] = bytes(add if byte == xor else byte for byte in memory[::4])
    records = tuple(
        record[:IR] + bytes([add]) + record[IR + 1 :] if record[IR] == xor else record
        for record in faulty.records
    )
    assert run(bytes(memory), START).records == records


@pytest.mark.parametrize("name", [i.name for i in ISA.instructions if not i.halts])
def test_off_by_one_changes_every_result_by_one_modulo_256(name: str) -> None:
    edges = (0, 1, 2, 15, 16, 127, 128, 254, 255)
    for by, form in itertools.product((1, -1), ISA.by_name[name].forms):
        operands = "ABC"[: len(form.operands)]
        source = f"{name} {' '.join(operands)}" if form.operands != (Operand.IMMEDIATE,) else ""
        word = assemble(source or f"{name} 7")[:INSTRUCTION_SIZE]
        dest, *others = ISA.written(word)
        for a, b in itertools.product(edges, edges):
            start = state(ACC=a ^ 77, A=a, B=b, C=5)
            healthy = result(source or f"{name} 7", start)
            faulty = result(source or f"{name} 7", start, OffByOne(name, by))
            assert faulty[dest] == (healthy[dest] + by) % 256
            rest = [f for f in range(STATE_SIZE) if f != dest]
            assert [faulty[f] for f in rest] == [healthy[f] for f in rest]
            assert dest not in others


def test_off_by_one_does_not_show_where_swap_covers_its_own_result() -> None:
    start = state(A=9)
    assert result("SWAP A A", start, OffByOne("SWAP", 1)) == result("SWAP A A", start)


@pytest.mark.parametrize("name", BOUNDS)
def test_without_saturation_every_pair_of_operands_wraps_modulo_256(name: str) -> None:
    healthy = ISA.by_name[name].compute
    wrapping = faulty_table([NoSaturation(name)]).by_name[name].compute
    exact = {
        "INC": lambda a, b: a + 1,
        "DEC": lambda a, b: a - 1,
        "ADD": lambda a, b: a + b,
        "SUB": lambda a, b: a - b,
        "MUL": lambda a, b: a * b,
    }[name]
    wraps = 0
    for a, b in itertools.product(range(256), range(256)):
        value = exact(a, b)
        assert wrapping(a, b) == value % 256
        assert healthy(a, b) == min(max(value, 0), 255)
        if not 0 <= value <= 255:
            wraps += 1
            assert healthy(a, b) == BOUNDS[name]
    assert wraps


def test_a_swapped_opcode_uses_the_other_unit_with_its_faults() -> None:
    start = state(A=250, B=3)
    swap = SwappedOpcode("ADD", "SUB")
    assert result("ADD A B", start, swap)[A] == 247
    assert result("ADD A B", start, swap, OffByOne("SUB", -1))[A] == 246
    assert result("ADD A B", start, swap, OffByOne("ADD", 1))[A] == 247
    both = [swap, SwappedOpcode("SUB", "ADD")]
    assert result("ADD A B", start, *both)[A] == 247
    assert result("SUB A B", start, *both)[A] == 253


def test_a_result_can_wrap_and_be_off_by_one() -> None:
    faults = [NoSaturation("ADD"), OffByOne("ADD", 1)]
    assert result("ADD A B", state(A=250, B=10), *faults)[A] == 5


# Where they first show ----------------------------------------------------------------


@given(programs(), initial_states(), st.lists(st.sampled_from(EVERY), min_size=1, max_size=3))
@settings(max_examples=60)
def test_the_first_visible_record_is_where_faulty_and_clean_traces_part(
    memory: bytes, start: bytes, faults: list[Fault]
) -> None:
    try:
        found = inject(memory, start, faults, max_steps=300)
    except UserError:
        return
    clean, faulty = found.clean.records, found.faulty.records
    assert clean == run(memory, start, max_steps=300).records
    step = found.first_visible
    if step is None:
        assert clean == faulty
        assert (found.fields, found.executed) == ((), None)
        return
    assert clean[:step] == faulty[:step]
    assert clean[step : step + 1] != faulty[step : step + 1]
    assert step >= 1
    if step < min(len(clean), len(faulty)):
        assert found.fields
        assert all(clean[step][f] != faulty[step][f] for f in found.fields)
    else:
        assert not found.fields
    if step > 1:
        assert found.executed == faulty[step - 1][IR : IR + INSTRUCTION_SIZE]


def test_an_early_stop_shows_in_the_record_that_is_missing() -> None:
    found = inject(PROGRAM, START, [SwappedOpcode("ADD", "HLT")])
    assert found.first_visible == len(found.faulty.records) == 6
    assert (found.fields, found.faulty.stop) == ((), Stop.ILLEGAL)
    assert found.executed == assemble("ADD A B C")[:INSTRUCTION_SIZE]


def test_a_stuck_program_counter_repeats_until_the_limit() -> None:
    found = inject(PROGRAM, START, [StuckBit(PC, 0, 0)], max_steps=50)
    assert (found.faulty.stop, found.faulty.steps) == (Stop.STEP_LIMIT, 50)
    assert (found.first_visible, found.fields) == (1, (PC,))


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        (
            bytes([99]).ljust(MEMORY_SIZE, b"\0"),
            "slot 0 holds 63 00 00 00, which is no instruction",
        ),
        (bytes([2, 0, 0, 0]) * 256, "there is no HLT within 4,096 steps"),
    ],
)
def test_a_program_that_does_not_halt_on_a_healthy_machine_is_refused(
    memory: bytes, why: str
) -> None:
    with pytest.raises(UserError, match="does not halt on a healthy machine either") as error:
        inject(memory, START, [OffByOne("ADD", 1)], name="prog.bin")
    assert str(error.value).startswith("prog.bin: ")
    assert why in str(error.value)
