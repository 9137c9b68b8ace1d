"""The check: what is counted, mapped and listed, against a plain recount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cpusim.conformance import (
    BINARY_FORMS,
    FORMS,
    LISTED,
    PLACES,
    RIGHT,
    UNCHECKED,
    WRONG_FETCH,
    WRONG_RESULT,
    Report,
    case_count,
    check,
    export,
    traces,
)
from cpusim.isa import ACC, FIRST_REGISTER, IR, ISA, PC, SLOTS, Place, variant_name
from cpusim.lockstep import (
    END,
    Bytes,
    Case,
    OracleStepper,
    RecordedStepper,
    ReferenceStepper,
    Stepper,
    Tokens,
    compare,
)
from cpusim.programs import Programs, generate
from cpusim.sweep import sweep
from cpusim.trace import open_shard

Alter = Callable[[Tokens, Bytes], Tokens]


@dataclass
class Faulty:
    """The CPU, but for `alter(what it says, the state before)`."""

    alter: Alter
    name: str = "faulty"

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        return self.alter(ReferenceStepper().step(memory, states).copy(), states[-1])


def last(stepper: Stepper, programs: Programs, count: int | None = None) -> Report:
    *_, report = check(stepper, programs, count)
    return report


def some(count: int = 40, longest: int = 60) -> Programs:
    return generate(count, distribution="uniform", seed=11, min_length=1, max_length=longest)


def all_sorts_of_faults(said: Tokens, before: Bytes) -> Tokens:
    """A pure function of the state, as any fault is; wrong in every kind of way."""
    dice = (int(before.astype(np.int64).sum()) * 2_654_435_761 >> 7) % 100
    if np.array_equal(said, END):
        return said if dice < 70 else np.zeros(16, np.int16)
    if dice < 6:
        said[FIRST_REGISTER + dice] ^= 1
    if 4 <= dice < 9:
        said[PC] ^= 1
    if 8 <= dice < 10:
        said[:] = 256
    if dice == 10:
        said[ACC], said[IR] = 256, (said[IR] + 1) % 21
    return said


def verdict(expected: Tokens, said: Tokens) -> int:
    wrong = {field for field in range(16) if expected[field] != said[field]}
    fetch = {PC, IR, IR + 1, IR + 2, IR + 3}
    if not wrong:
        return RIGHT
    only_bytes = all((expected[f] < 256) and (said[f] < 256) for f in wrong)
    return WRONG_FETCH if wrong <= fetch and only_bytes else WRONG_RESULT


def cells(word: bytes, state: bytes) -> tuple[str, set[tuple[int, int]]]:
    """The form of an instruction and its cells in the form's map."""
    instruction, form = ISA.decode(word)
    where = {Place.ACC: ACC, Place.IMMEDIATE: IR + 1}
    where |= {p: 5 + o for p, o in zip((Place.X, Place.Y, Place.Z), word[1:], strict=True)}
    name = variant_name(instruction, form)
    if form.a is Place.NOWHERE:
        return name, set()
    a = state[where[form.a]]
    if name in BINARY_FORMS:
        return name, {(a, state[where[form.b]])}
    second = form.dest if form.b is Place.NOWHERE else form.b
    value = a if form.b is Place.NOWHERE else state[where[form.b]]
    rows = [max(where[place] - 5, 0) for place in (form.a, second)]
    return name, {(rows[0], a), (rows[1], value)}


def test_tallies_are_those_of_lockstep() -> None:
    programs = some()
    report = last(Faulty(all_sorts_of_faults), programs)
    told = compare(traces(programs, 0, 40), Faulty(all_sorts_of_faults))
    assert report.by_form == told.by_form
    assert report.by_field.tolist() == list(told.by_field.values())
    assert (report.cases, report.wrong) == (told.instructions, told.wrong_instructions)
    assert report.cases == case_count(programs)
    assert report.accuracy == told.instruction_accuracy
    assert report.programs == 40
    kinds = report.tallies.sum(axis=0)
    assert (kinds > 0).all()


def test_maps_slots_and_lengths_are_those_of_a_plain_recount() -> None:
    programs = some()
    faulty = Faulty(all_sorts_of_faults)
    report = last(faulty, programs)
    maps = {form: np.zeros((256 if form in BINARY_FORMS else 11, 256), int) for form in FORMS}
    slots, lengths = np.zeros((2, SLOTS), int), np.zeros((2, SLOTS), int)
    for case in traces(programs, 0, 40):
        for step in range(1, case.steps + 1):
            said, state = faulty.step(case.memory, case.records[:step]), case.records[step - 1]
            found = verdict(case.expected(step), said)
            if step == case.steps:
                lengths[:, len(case.records) - 2] += 1, found != RIGHT
            else:
                fetch_fields = [PC, IR, IR + 1, IR + 2, IR + 3]
                expected, given = case.expected(step)[fetch_fields], said[fetch_fields]
                slots[:, state[PC]] += 1, ((expected != given) & (given < 256)).any()
            word = case.executed(step)
            if word is not None:
                form, marked = cells(word, state.tobytes())
                for cell in marked:
                    maps[form][cell] = max(maps[form][cell], found)
    for form in FORMS:
        np.testing.assert_array_equal(report.map(form), maps[form], form)
    np.testing.assert_array_equal(report.slots, slots)
    np.testing.assert_array_equal(report.lengths, lengths)
    assert {UNCHECKED, RIGHT, WRONG_FETCH, WRONG_RESULT} == set(np.unique(report.maps).tolist())
    checked, wrong = report.pairs("DIV R R R")
    assert checked == (maps["DIV R R R"] > 0).sum()
    assert wrong == (maps["DIV R R R"] > RIGHT).sum()


def test_wrong_cases_name_what_executed_on_what_and_who_said_what() -> None:
    opcode = ISA.by_name["SUB"].opcode

    def no_saturation(said: Tokens, before: Bytes) -> Tokens:
        """SUB R R R wraps around."""
        if before[IR] == opcode and before[IR + 3] and said[PC] < 256:
            x, y, z = (int(before[IR + i]) + 5 for i in (1, 2, 3))
            said[z] = (int(before[x]) - int(before[y])) % 256
        return said

    programs = some(400)
    report = last(Faulty(no_saturation), programs)
    assert {case.form for case in report.wrong_cases} == {"SUB R R R"}
    assert 0 < len(report.wrong_cases) == min(report.wrong, LISTED)
    whole = traces(programs, 0, 400)
    for case in report.wrong_cases:
        a, b = case.operands
        assert a < b
        trace = whole[case.program]
        assert case.word == trace.executed(case.step)
        np.testing.assert_array_equal(case.expected, trace.expected(case.step))
        (field,) = np.flatnonzero(case.expected != case.predicted)
        assert (case.expected[field], case.predicted[field]) == (0, a - b + 256)
    wrong = np.argwhere(report.map("SUB R R R") == WRONG_RESULT)
    assert (wrong[:, 0] < wrong[:, 1]).all()
    assert report.tallies[:, 3:].sum() == 0


def test_at_most_so_many_wrong_cases_of_a_form_are_listed() -> None:
    report = last(Faulty(lambda said, _: np.zeros_like(said)), some(60))
    listed = Counter(case.form for case in report.wrong_cases)
    assert listed == {name: min(t.wrong, LISTED) for name, t in report.by_form.items()}
    assert max(listed.values()) == LISTED
    start = next(case for case in report.wrong_cases if case.form == "fetch")
    assert (start.word, start.operands, start.step) == (None, (), 1)


def test_every_report_on_the_way_stands_for_itself() -> None:
    programs = some(150, longest=12)
    reports = list(check(ReferenceStepper(), programs))
    assert [report.programs for report in reports] == [64, 128, 150]
    again = last(ReferenceStepper(), programs, 64)
    assert reports[0].cases == again.cases == int((programs.lengths[:64] + 1).sum())
    np.testing.assert_array_equal(reports[0].maps, again.maps)
    assert last(ReferenceStepper(), programs, 1000).programs == 150


@pytest.mark.parametrize("stepper", [ReferenceStepper(), OracleStepper()], ids=lambda s: s.name)
def test_the_cpu_itself_is_right_everywhere(stepper: Stepper) -> None:
    report = last(stepper, sweep(), 64)
    assert report.wrong == 0
    assert report.accuracy == 1.0
    assert set(np.unique(report.maps).tolist()) == {UNCHECKED, RIGHT}
    assert not report.wrong_cases


def test_a_candidate_with_a_limit_is_checked_up_to_it() -> None:
    class ShortSighted(ReferenceStepper):
        max_records = 20

    programs = some()
    report = last(ShortSighted(), programs)
    assert report.cut == int((programs.lengths + 1 > 20).sum()) > 0
    assert report.cases == int(np.where(programs.lengths < 20, programs.lengths + 1, 19).sum())
    assert report.lengths[0].sum() == 40 - report.cut


def test_recordings_of_exported_programs_can_be_checked(tmp_path: Path) -> None:
    programs = some()
    export(tmp_path / "sweep.shard", programs)
    shard = open_shard(tmp_path / "sweep.shard")
    cases = [
        Case(str(i), np.frombuffer(shard.trace(i).memory, np.uint8), shard.trace(i).records.copy())
        for i in range(len(shard))
    ]
    assert last(RecordedStepper("board", cases), programs).wrong == 0
    cases[7].records[-1, ACC] ^= 1
    report = last(RecordedStepper("board", cases), programs)
    assert [(case.program, case.step) for case in report.wrong_cases] == [
        (7, len(cases[7].records) - 1)
    ]


def test_forms_and_places_have_the_names_that_reports_use() -> None:
    assert len(FORMS) == 45  # 43 forms, HLT, and the first fetch
    assert len(BINARY_FORMS) == 21
    assert "".join(PLACES) == "ACCABCDEFGHIJ"
