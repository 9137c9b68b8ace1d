"""Tallies by operand and depth against a plain loop over every step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim import tallies
from cpusim.assembler import assemble
from cpusim.isa import ACC, FIRST_REGISTER, IR, ISA, STATE_SIZE, Place, variant_name
from cpusim.lockstep import Case, OracleStepper, ProgramResult, form_name, record
from cpusim.tallies import BIN_WIDTH, by_depth, by_operands
from tests.strategies import initial_states, programs


def results() -> st.SearchStrategy[list[ProgramResult]]:
    """Programs checked from some step on, with answers that are wrong at random."""
    return st.lists(
        st.builds(_result, programs(), initial_states(), st.integers(1, 4), st.integers(0)),
        max_size=4,
    ).map(lambda drawn: [result for result in drawn if result.checked > 0])


def _result(memory: bytes, state: bytes, from_step: int, seed: int) -> ProgramResult:
    start = Case("prog", np.frombuffer(memory, np.uint8), np.frombuffer(state, np.uint8)[None])
    case = record(OracleStepper(), [start], max_steps=40)[0]
    said = case.expected_steps()[from_step - 1 :].copy()
    draw = np.random.default_rng(seed % 2**32)
    said[draw.random(said.shape) < 0.02] ^= 1
    return ProgramResult(case, 0, from_step, said, None)


def read(state: bytes, place: Place) -> int:
    operands = state[IR + 1 : IR + 4]
    if place is Place.ACC:
        return state[ACC]
    if place is Place.IMMEDIATE:
        return operands[0]
    return state[FIRST_REGISTER + operands["xyz".index(place)] - 1]


@given(results(), st.sampled_from([1, 100, 1 << 16]))
def test_every_executed_step_is_counted_under_the_values_it_read(
    found: list[ProgramResult], rows_at_once: int
) -> None:
    count: Counter[tuple[str, int, int]] = Counter()
    wrong: Counter[tuple[str, int, int]] = Counter()
    for result in found:
        for step in range(max(result.from_step, 2), result.from_step + result.checked):
            word = result.case.executed(step)
            assert word is not None
            if form_name(word) == "illegal":
                continue
            instruction, form = ISA.decode(word)
            state = result.case.records[step - 1].tobytes()
            values = [read(state, p) for p in (form.a, form.b) if p is not Place.NOWHERE]
            if values:
                bins = [value // BIN_WIDTH for value in values]
                cell = (variant_name(instruction, form), bins[0], bins[1] if bins[1:] else 0)
                count[cell] += 1
                wrong[cell] += step in result.wrong_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tallies, "_ROWS_AT_ONCE", rows_at_once)
        tallied = by_operands(found)
    assert {
        (name, int(a), int(b)): int(tally.count[a, b])
        for name, tally in tallied.items()
        for a, b in np.argwhere(tally.count)
    } == count
    for (name, a, b), number in wrong.items():
        assert tallied[name].wrong[a, b] == number
    assert sum(int(tally.wrong.sum()) for tally in tallied.values()) == wrong.total()


def test_forms_come_in_table_order_with_the_places_they_read() -> None:
    source = "MOV A B\nLOADI 200\nADD A\nADD A B C\nCLR\nHLT\n"
    result = _result(assemble(source), bytes([0, 7, 0, 0, 0, 0, 63, 235, *[9] * 8]), 1, 0)
    tallied = by_operands([result])
    assert {name: tally.reads for name, tally in tallied.items()} == {
        "CLR": (Place.ACC,),
        "LOADI imm": (Place.IMMEDIATE,),
        "ADD R": (Place.ACC, Place.X),
        "ADD R R R": (Place.X, Place.Y),
        "MOV R R": (Place.Y,),
    }
    assert list(tallied) == ["CLR", "LOADI imm", "ADD R", "ADD R R R", "MOV R R"]
    assert tallied["ADD R"].count[200 // BIN_WIDTH, 235 // BIN_WIDTH] == 1
    assert tallied["LOADI imm"].count[200 // BIN_WIDTH, 0] == 1


def test_bytes_that_are_no_instruction_are_left_out() -> None:
    records = np.zeros((3, STATE_SIZE), np.uint8)
    records[1, IR] = 255
    case = Case("foreign", np.zeros(1024, np.uint8), records)
    assert by_operands([ProgramResult(case, 0, 1, case.expected_steps(), None)]) == {}
    assert by_operands([]) == {}


def test_programs_in_which_nothing_executes_have_no_tallies() -> None:
    assert by_operands([_result(b"\xff".ljust(1024, b"\0"), bytes(STATE_SIZE), 1, 0)] * 2) == {}


@given(results())
def test_every_step_is_counted_at_its_depth(found: list[ProgramResult]) -> None:
    depths = by_depth(found)
    steps = Counter(step for r in found for step in range(r.from_step, r.from_step + r.checked))
    wrong = Counter(step for r in found for step in r.wrong_steps)
    assert sum(depth.count for depth in depths) == steps.total()
    assert sum(depth.wrong for depth in depths) == wrong.total()
    for depth in depths:
        inside = range(depth.first, depth.last + 1)
        assert depth.count == sum(steps[step] for step in inside) > 0
        assert depth.wrong == sum(wrong[step] for step in inside)
    edges = [(depth.first, depth.last) for depth in depths]
    assert edges == [e for e in [(1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63)] if e in edges]
