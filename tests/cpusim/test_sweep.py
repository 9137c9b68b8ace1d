"""The sweep, proved by plain enumeration of what its programs' traces execute."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    IR,
    ISA,
    PC,
    REGISTERS,
    SLOTS,
    Form,
    Instruction,
    Operand,
    Place,
    variant_name,
)
from cpusim.machine import RunBatch, run_batch
from cpusim.programs import Programs
from cpusim.reference import Stop, run
from cpusim.sweep import sweep

Bytes = npt.NDArray[np.uint8]
WORKING = [variant for variant in ISA.variants if not variant[0].halts]
COMPUTING = ("ADD", "SUB", "MUL", "DIV", "AND", "OR", "XOR")
BINARY = [(i, form) for i, form in WORKING if i.name in COMPUTING]
OTHERS = [variant for variant in WORKING if variant not in BINARY]
ALL_PAIRS = set(range(256 * 256))
ALL_VALUES = set(range(256))


def names(variants: list[tuple[Instruction, Form]]) -> list[str]:
    return [variant_name(*variant) for variant in variants]


@pytest.fixture(scope="module")
def programs() -> Programs:
    return sweep()


@pytest.fixture(scope="module")
def batch(programs: Programs) -> RunBatch:
    return run_batch(programs.memories, programs.states)


@pytest.fixture(scope="module")
def executed(batch: RunBatch) -> dict[str, Bytes]:
    """By form: the records that show it, fetched, just before it executes: uint8 [N, 16]."""
    records = np.delete(batch.records, batch.offsets[:-1], axis=0)  # the first show no instruction
    operands = (records[:, IR + 1 : IR + 4] != 0).sum(axis=1)
    found = {}
    for instruction, form in ISA.variants:
        chosen = records[:, IR] == instruction.opcode
        if form.operands != (Operand.IMMEDIATE,):
            chosen &= operands == len(form.operands)
        found[variant_name(instruction, form)] = records[chosen]
    return found


def places(records: Bytes, place: Place) -> npt.NDArray[np.int64]:
    """Which byte of each state a form's place is."""
    if place is Place.ACC:
        return np.full(len(records), ACC)
    if place is Place.IMMEDIATE:
        return np.full(len(records), IR + 1)
    operand = records[:, IR + 1 + [Place.X, Place.Y, Place.Z].index(place)]
    return operand.astype(np.int64) + FIRST_REGISTER - 1


def values(records: Bytes, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return records[np.arange(len(records)), at].astype(np.int64)


def test_the_enumeration_leaves_no_record_out(
    batch: RunBatch, executed: dict[str, Bytes], programs: Programs
) -> None:
    assert len(BINARY) == 21
    assert sum(map(len, executed.values())) == len(batch.records) - len(programs.lengths)


@pytest.mark.parametrize("variant", BINARY, ids=names(BINARY))
def test_a_binary_form_executes_every_pair_of_values_from_two_places(
    variant: tuple[Instruction, Form], executed: dict[str, Bytes]
) -> None:
    records, form = executed[variant_name(*variant)], variant[1]
    at_a, at_b = places(records, form.a), places(records, form.b)
    apart = at_a != at_b
    pairs = 256 * values(records, at_a) + values(records, at_b)
    assert set(pairs[apart].tolist()) == ALL_PAIRS


@pytest.mark.parametrize(
    "variant",
    [v for v in WORKING if len(v[1].operands) > 1],
    ids=names([v for v in WORKING if len(v[1].operands) > 1]),
)
def test_a_form_reads_every_register_twice_with_every_value(
    variant: tuple[Instruction, Form], executed: dict[str, Bytes]
) -> None:
    records = executed[variant_name(*variant)]
    same = records[records[:, IR + 1] == records[:, IR + 2]]
    at = places(same, Place.X)
    seen = set(zip(at.tolist(), values(same, at).tolist(), strict=True))
    registers = range(FIRST_REGISTER, FIRST_REGISTER + len(REGISTERS))
    assert seen == {(register, value) for register in registers for value in range(256)}


@pytest.mark.parametrize("variant", OTHERS, ids=names(OTHERS))
def test_another_form_reads_every_value_in_every_place_and_copies_it_to_every_place(
    variant: tuple[Instruction, Form], executed: dict[str, Bytes]
) -> None:
    records, form = executed[variant_name(*variant)], variant[1]
    if len(form.operands) > 1:
        records = records[records[:, IR + 1] != records[:, IR + 2]]
    read = values(records, places(records, form.a))
    checked = [(form.a, read)]
    if form.b is Place.NOWHERE:
        checked.append((form.dest, read))  # what it makes of every value
    else:
        checked.append((form.b, values(records, places(records, form.b))))
    for place, value in checked:
        at = places(records, place)
        expected = len(REGISTERS) if place in (Place.X, Place.Y, Place.Z) else 1
        assert len(set(at.tolist())) == expected
        for byte in set(at.tolist()):
            assert set(value[at == byte].tolist()) == ALL_VALUES, (place, byte)


@pytest.mark.parametrize("variant", WORKING, ids=names(WORKING))
def test_every_word_that_can_execute_does_so_every_register_is_source_and_target(
    variant: tuple[Instruction, Form], executed: dict[str, Bytes]
) -> None:
    records, operands = executed[variant_name(*variant)], variant[1].operands
    words = {record.tobytes() for record in np.unique(records[:, IR : IR + 4], axis=0)}
    immediate = operands == (Operand.IMMEDIATE,)
    assert len(words) == (256 if immediate else len(REGISTERS) ** len(operands))


def test_every_slot_is_fetched_and_hlt_ends_every_length(
    programs: Programs, batch: RunBatch
) -> None:
    assert set(programs.lengths.tolist()) == set(range(1, SLOTS + 1))
    assert (np.diff(batch.offsets) == programs.lengths + 1).all()
    last = batch.records[batch.offsets[1:] - 1]
    assert (last[:, IR : IR + 4] == 0).all()
    assert all(batch.stop(i) is Stop.HALTED for i in range(0, len(programs.lengths), 97))
    fetched_from = np.delete(batch.records[:, PC], batch.offsets[1:] - 1)
    assert set(fetched_from.tolist()) == set(range(SLOTS))


def test_programs_are_traces_that_start_as_traces_do(programs: Programs, batch: RunBatch) -> None:
    assert (programs.states[:, [PC, IR, IR + 1, IR + 2, IR + 3]] == 0).all()
    for number in range(0, len(programs.lengths), 2000):
        plain = run(programs.memories[number].tobytes(), programs.states[number].tobytes())
        traced = batch.records[batch.offsets[number] : batch.offsets[number + 1]]
        assert b"".join(plain.records) == traced.tobytes()


def test_most_steps_execute_a_case_that_no_other_does(
    programs: Programs, executed: dict[str, Bytes]
) -> None:
    # Nothing that computes from two values is ever executed twice on the same ones.
    once = 256 * 256
    for instruction, form in BINARY:
        twice = len(form.operands) > 1
        assert len(executed[variant_name(instruction, form)]) == once + 2560 * twice
    # The price: constants loaded into ACC, and a first fetch and an end a program.
    steps = int((programs.lengths + 1).sum())
    assert steps < 1.23 * sum(len(executed[name]) for name in names(BINARY))


def test_any_first_part_is_like_the_whole(programs: Programs) -> None:
    part = programs.lengths[: len(programs.lengths) // 10]
    assert part.mean() == pytest.approx(programs.lengths.mean(), rel=0.05)


def test_the_sweep_is_the_same_on_every_machine(programs: Programs) -> None:
    digest = hashlib.sha256(programs.memories.tobytes() + programs.states.tobytes())
    assert (len(programs.lengths), digest.hexdigest()[:16]) == (0, "")
