"""The edge generator: its programs are valid, reproducible, and reach every edge."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cpusim.assembler import program_slots
from cpusim.edges import BATCH, EDGE_VALUES, edge_programs
from cpusim.isa import ACC, FIRST_REGISTER, IR, ISA, SLOTS, Place, variant_name
from cpusim.machine import run_batch
from cpusim.reference import Stop

BATCHES = 6


@pytest.fixture(scope="module")
def executed() -> Counter[tuple[str, int, int, bool]]:
    """How often each form executed on which a and b, and whether they are one register."""
    counts: Counter[tuple[str, int, int, bool]] = Counter()
    for number in range(BATCHES):
        drawn = edge_programs(3, number)
        ran = run_batch(drawn.memories, drawn.states)
        assert {ran.stop(index) for index in range(BATCH)} == {Stop.HALTED}
        for record in np.delete(ran.records, ran.offsets[:-1], axis=0).tolist():
            instruction, form = ISA.decode(bytes(record[IR : IR + 4]))
            at = {
                place: FIRST_REGISTER - 1 + record[IR + 1 + operand]
                for operand, place in enumerate((Place.X, Place.Y, Place.Z))
            } | {Place.ACC: ACC, Place.IMMEDIATE: IR + 1}
            a = record[at[form.a]] if form.a in at else 0
            b = record[at[form.b]] if form.b in at else 0
            counts[variant_name(instruction, form), a, b, at.get(form.a) == at.get(form.b)] += 1
    return counts


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    one, same = edge_programs(1, 2), edge_programs(1, 2)
    assert one.memories.tobytes() == same.memories.tobytes()
    assert one.states.tobytes() == same.states.tobytes()
    for other in (edge_programs(1, 3), edge_programs(2, 2)):
        programs = {row.tobytes() for row in other.memories if row.any()}
        assert not programs & {row.tobytes() for row in one.memories}


def test_every_form_executes_at_its_edges(executed: Counter[tuple[str, int, int, bool]]) -> None:
    for instruction, form in ISA.variants:
        name = variant_name(instruction, form)
        if form.a is Place.NOWHERE:
            continue
        met = {(a, b) for form_name, a, b, _ in executed if form_name == name}
        assert set(EDGE_VALUES) <= {a for a, _ in met}, name
        if form.b is not Place.NOWHERE:
            assert set(EDGE_VALUES) <= {b for _, b in met}, name
            assert len({(a, b) for a, b in met if {a, b} <= set(EDGE_VALUES)}) >= 20, name
        if len(form.operands) > 1 and form.b is not Place.NOWHERE:
            assert any(same for form_name, _, _, same in executed if form_name == name), name


def test_divisions_by_zero_and_both_sides_of_saturation_are_frequent(
    executed: Counter[tuple[str, int, int, bool]],
) -> None:
    def share(name: str, condition: object) -> float:
        assert callable(condition)
        pairs = [(a, b, n) for (form, a, b, _), n in executed.items() if form.startswith(name)]
        return sum(n for a, b, n in pairs if condition(a, b)) / sum(n for *_, n in pairs)

    assert share("DIV", lambda a, b: b == 0) > 0.05
    assert share("MUL", lambda a, b: a * b == 256) > 0.003  # by chance: 0.0001
    assert share("MUL", lambda a, b: 250 < a * b < 255) > 0.003
    for total in (254, 255, 256):
        assert share("ADD", lambda a, b, total=total: a + b == total) > 0.01
    assert share("SUB", lambda a, b: a - b == 1) > 0.01
    assert share("SUB", lambda a, b: b - a == 1) > 0.01


def test_programs_fill_all_of_memory_and_some_go_on_behind_their_end() -> None:
    lengths: list[int] = []
    behind = 0
    for number in range(BATCHES):
        drawn = edge_programs(3, number)
        ran = run_batch(drawn.memories, drawn.states)
        steps = np.diff(ran.offsets) - 1
        slots = [program_slots(memory.tobytes()) for memory in drawn.memories]
        lengths += slots
        behind += int((steps < np.array(slots)).sum())
    assert lengths.count(SLOTS) > BATCHES * BATCH / 16
    assert min(lengths) < 8
    assert np.median(lengths) > SLOTS / 2
    assert behind > BATCHES * BATCH / 32
