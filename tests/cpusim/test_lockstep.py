"""The comparison: planted faults are found at their step and field, and tallied rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim.assembler import assemble
from cpusim.isa import ACC, FIELDS, FIRST_REGISTER, IR, ISA, PC, STATE_SIZE, IllegalEncoding
from cpusim.lockstep import (
    END,
    END_TOKEN,
    FETCH,
    ILLEGAL,
    NO_TOKEN,
    Bounded,
    Bytes,
    Case,
    Comparison,
    Difference,
    Guesser,
    Kind,
    NoNextState,
    OracleStepper,
    Predictions,
    ProgramResult,
    RecordedStepper,
    ReferenceStepper,
    Rollout,
    Runner,
    Stepper,
    StepperError,
    Tokens,
    Verifier,
    compare,
    extend,
    record,
    run_free,
    verify,
)
from cpusim.programs import generate
from cpusim.reference import Stop, run
from cpusim.trace import read_trace
from tests.strategies import initial_states, memories, programs, words

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "cpu_traces").glob("*.bin"))
STEP_LIMIT = 300


def case(memory: bytes, state: bytes = bytes(STATE_SIZE), name: str = "prog") -> Case:
    return Case(name, np.frombuffer(memory, np.uint8), np.frombuffer(state, np.uint8)[None])


def traced(source: str, state: bytes = bytes(STATE_SIZE), name: str = "prog") -> Case:
    return record(OracleStepper(), [case(assemble(source), state, name)])[0]


def cases() -> st.SearchStrategy[Case]:
    """Traces of programs that may or may not halt, as the oracle runs them."""
    starts = st.builds(case, programs(), initial_states())
    return starts.map(lambda start: record(OracleStepper(), [start], max_steps=STEP_LIMIT)[0])


@dataclass
class Planted:
    """The oracle, but for `alter` on what it says at step `at`; counts how often it was asked."""

    at: int
    alter: Callable[[Tokens], Tokens]
    name: str = "planted"
    asked: int = 0

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        self.asked += 1
        said = OracleStepper().step(memory, states)
        return self.alter(said.copy()) if len(states) == self.at else said


class ShortSighted(Planted):
    """Follows three records and no more."""

    max_records = 3

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        assert len(states) <= self.max_records
        return super().step(memory, states)


class PlantedInBulk(Planted):
    """The same with the optional methods, answering in reverse order."""

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        for index in reversed(range(len(cases))):
            tokens = np.full(cases[index].records.shape, NO_TOKEN, np.int16)
            for known in range(1, len(tokens) + 1):
                try:
                    states = cases[index].records[:known]
                    tokens[known - 1] = self.step(cases[index].memory, states)
                except NoNextState:
                    pass
            yield index, Predictions(tokens)

    def run(self, prompts: Sequence[Case], limits: Sequence[int]) -> Iterator[tuple[int, Rollout]]:
        plain = Planted(self.at, self.alter)
        yield from reversed(list(run_free(plain, prompts, limits)))


def flip(*fields: int) -> Callable[[Tokens], Tokens]:
    def alter(said: Tokens) -> Tokens:
        said[list(fields)] ^= 1
        return said

    return alter


def always(said: Tokens) -> Callable[[Tokens], Tokens]:
    return lambda _: said.copy()


def only(comparison: Comparison) -> ProgramResult:
    assert len(comparison.results) == 1
    return comparison.results[0]


def first(comparison: Comparison) -> Difference:
    difference = only(comparison).difference
    assert difference is not None
    return difference


def wrong_forms(comparison: Comparison) -> dict[str, int]:
    return {name: tally.wrong for name, tally in comparison.by_form.items() if tally.wrong}


# ---- The oracle as a Stepper


def test_oracle_agrees_with_every_published_trace_in_both_roles() -> None:
    recorded = [
        Case(path.name, np.frombuffer(trace.memory, np.uint8), trace.records)
        for path in GOLDEN
        for trace in [read_trace(path)]
    ]
    assert len(recorded) == 24
    oracle, recording = OracleStepper(), RecordedStepper("recording", recorded)
    for reference, candidate in ((oracle, recording), (recording, oracle)):
        result = compare(record(reference, recorded), candidate, reference=reference.name)
        assert result.agree
        assert result.exact_programs == result.programs == 24
        assert all(one.case.ends for one in result.results)


@given(cases(), st.data())
def test_a_trace_cut_anywhere_is_extended_to_what_it_was(trace: Case, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, len(trace.records)))
    cut = Case(trace.name, trace.memory, trace.records[:kept])
    (whole,) = extend(OracleStepper(), [cut], max_steps=STEP_LIMIT)
    np.testing.assert_array_equal(whole.records, trace.records)
    assert (whole.ends, whole.open_because) == (trace.ends, trace.open_because)


@given(programs(), initial_states())
def test_oracle_says_the_records_of_a_run_and_then_the_end(memory: bytes, state: bytes) -> None:
    outcome = run(memory, state, max_steps=STEP_LIMIT)
    trace = record(OracleStepper(), [case(memory, state)], max_steps=STEP_LIMIT)[0]
    assert [row.tobytes() for row in trace.records] == list(outcome.records)
    assert trace.ends == (outcome.stop is Stop.HALTED)


@given(st.lists(st.tuples(memories() | programs(), initial_states()), min_size=1, max_size=4))
def test_oracle_runs_in_bulk_as_it_steps(starts: list[tuple[bytes, bytes]]) -> None:
    whole = record(OracleStepper(), [case(*start) for start in starts], max_steps=40)
    # Prompts of every length, as resuming in the middle of a trace gives them, and enough of
    # them that the compiled kernels are used.
    prompts = [
        replace(trace, records=trace.records[:known])
        for trace in whole
        for known in range(1, len(trace.records) + 1)
    ]
    prompts = (prompts * 64)[: max(64, len(prompts))]
    limits = [1 + index % 50 for index in range(len(prompts))]
    bulk = dict(OracleStepper().run(prompts, limits))
    stepwise = dict(run_free(Planted(0, flip()), prompts, limits))
    assert bulk.keys() == stepwise.keys()
    for index in bulk:
        np.testing.assert_array_equal(bulk[index].tokens, stepwise[index].tokens)
        assert bulk[index].refusal == stepwise[index].refusal


@given(cases())
def test_reference_and_oracle_verify_as_they_step(trace: Case) -> None:
    stepwise = dict(verify(Planted(0, flip()), [trace]))[0]
    for stepper in (ReferenceStepper(), OracleStepper()):
        np.testing.assert_array_equal(dict(verify(stepper, [trace]))[0].tokens, stepwise.tokens)
        assert compare([trace], stepper).agree


def test_what_has_no_next_state_is_no_token_in_a_verification() -> None:
    words = case(assemble("INC\n.byte 0xff,0,0,0\nHLT"))
    (trace,) = record(OracleStepper(), [words])
    tokens = dict(ReferenceStepper().verify([trace]))[0].tokens
    assert (tokens[-1] == NO_TOKEN).all()
    np.testing.assert_array_equal(tokens[:-1], trace.expected_steps())


# ---- Planted faults


@given(cases(), st.data())
def test_planted_fault_is_found_at_its_step_and_fields(trace: Case, data: st.DataObject) -> None:
    states = len(trace.records) - 1
    step = data.draw(st.integers(1, states))
    fields = data.draw(st.sets(st.integers(0, STATE_SIZE - 1), min_size=1))
    alter = flip(*fields)
    for candidate in (Planted(step, alter), PlantedInBulk(step, alter)):
        for rollout in (False, True):
            result = compare([trace], candidate, rollout=rollout)
            difference = first(result)
            assert (difference.step, difference.kind) == (step, Kind.STATE)
            assert set(difference.fields) == fields
            assert only(result).matched == step - 1
            assert only(result).wrong_steps == (step,)
            assert result.by_field == {
                name: int(field in fields) for field, name in enumerate(FIELDS)
            }
            assert result.instructions == trace.steps
            assert result.wrong_bytes == len(fields)
            assert not result.unconfirmed
            assert not result.agree


@given(cases(), st.data())
def test_fault_is_blamed_on_what_executed_in_the_record_before(
    trace: Case, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, len(trace.records) - 1))
    field = data.draw(st.sampled_from(range(STATE_SIZE)))
    result = compare([trace], Planted(step, flip(field)))
    (name,) = wrong_forms(result)
    if step == 1:
        assert name == FETCH
    else:
        word = trace.records[step - 1, IR : IR + 4].tobytes()
        instruction, _ = ISA.decode(word)
        assert name.split()[0] == instruction.name
    tally = result.by_form[name]
    fetched = field == PC or IR <= field < IR + 4
    assert (tally.wrong_result, tally.wrong_fetch, tally.wrong_end) == (not fetched, fetched, 0)
    assert sum(tally.count for tally in result.by_form.values()) == result.instructions


def test_a_wrong_register_and_a_wrong_fetch_in_one_step_are_both_counted() -> None:
    trace = traced("LOADI 5\nADD A B\nHLT")
    result = compare([trace], Planted(2, flip(ACC, IR + 1)))
    tally = result.by_form["LOADI imm"]
    assert (tally.count, tally.wrong, tally.wrong_result, tally.wrong_fetch) == (1, 1, 1, 1)


def test_resynchronised_errors_after_the_first_are_found_too() -> None:
    trace = traced("LOADI 5\nPOP A\nADD A A\nINC A\nHLT")

    class ForgetsRegisterA:
        name = "forgetful"

        def step(self, memory: Bytes, states: Bytes) -> Tokens:
            said = OracleStepper().step(memory, states).copy()
            if said[FIRST_REGISTER] != END_TOKEN:
                said[FIRST_REGISTER] = 0
            return said

    result = compare([trace], ForgetsRegisterA())
    # A becomes 5, 10, 11: shown by the records after POP, ADD and INC.
    assert only(result).wrong_steps == (3, 4, 5)
    assert wrong_forms(result) == {"INC R": 1, "POP R": 1, "ADD R R": 1}
    assert first(result).step == 3
    assert result.instruction_accuracy == 0.5
    assert result.byte_accuracy == 1 - 3 / 96


def test_running_free_feeds_on_its_own_output() -> None:
    trace = traced("LOADI 5\nPOP A\nADD A A\nADD A A\nHLT")
    fed: list[int] = []

    class SpoilsOnce(Planted):
        def step(self, memory: Bytes, states: Bytes) -> Tokens:
            fed.append(int(states[-1, FIRST_REGISTER]))
            return super().step(memory, states)

    rollouts = dict(
        run_free(SpoilsOnce(3, flip(FIRST_REGISTER)), [case(trace.memory.tobytes())], [6])
    )
    assert fed == [0, 0, 0, 4, 8, 16]
    assert rollouts[0].tokens[:, FIRST_REGISTER].tolist() == [0, 0, 4, 8, 16, END_TOKEN]


@given(st.integers(0, 2**32 - 1))
def test_an_adder_off_by_one_is_found_where_it_first_matters(seed: int) -> None:
    made = generate(4, seed=seed, min_length=2, max_length=60)
    starts = [
        Case(str(i), memory, state[None])
        for i, (memory, state) in enumerate(zip(made.memories, made.states, strict=True))
    ]
    broken_add = replace(ISA.by_name["ADD"], compute=lambda a, b: min(a + b + 1, 255))
    broken = replace(
        ISA,
        instructions=tuple(broken_add if i.name == "ADD" else i for i in ISA.instructions),
    )

    class OffByOne:
        name = "off by one"

        def step(self, memory: Bytes, states: Bytes) -> Tokens:
            if len(states) == 1 or ISA.decode(states[-1, IR : IR + 4].tobytes())[0].name != "ADD":
                return OracleStepper().step(memory, states)
            start = states[-1].copy()
            start[PC] -= 1
            # Runs the fetched instruction again, on the broken machine.
            outcome = run(memory.tobytes(), start.tobytes(), max_steps=2, isa=broken)
            return np.array(list(outcome.records[2]), np.int16)

    result = compare(record(OracleStepper(), starts), OffByOne())
    for form, tally in result.by_form.items():
        assert form.startswith("ADD") or tally.wrong == 0
        assert tally.wrong_fetch == tally.wrong_end == 0
    for one, start in zip(result.results, starts, strict=True):
        truth = run(start.memory.tobytes(), start.records[0].tobytes()).records
        false = run(start.memory.tobytes(), start.records[0].tobytes(), isa=broken).records
        parted = next(
            (k for k, pair in enumerate(zip(truth, false, strict=True)) if pair[0] != pair[1]), None
        )
        assert (one.difference.step if one.difference else None) == parted


# ---- The end


def test_early_end_is_a_difference_of_its_own_kind() -> None:
    trace = traced("INC\nINC\nHLT")
    for rollout in (False, True):
        result = compare([trace], Planted(3, always(END)), rollout=rollout)
        assert (first(result).step, first(result).kind) == (3, Kind.EARLY_END)
        assert result.by_form["INC"].wrong_end == 1
        assert result.by_form["INC"].wrong_result == result.by_form["INC"].wrong_fetch == 0


def test_missing_end_is_a_difference_tallied_under_hlt() -> None:
    trace = traced("INC\nHLT")
    once_more = always(trace.records[-1].astype(np.int16))
    for rollout in (False, True):
        result = compare([trace], Planted(3, once_more), rollout=rollout)
        assert (first(result).step, first(result).kind) == (3, Kind.MISSING_END)
        assert wrong_forms(result) == {"HLT": 1}
        assert result.by_form["HLT"].wrong_end == 1
        assert result.instructions == 3
        assert result.by_field == dict.fromkeys(FIELDS, 1)


@pytest.mark.parametrize("step", [2, 3], ids=["instead of a state", "instead of the end"])
def test_a_patch_that_mixes_bytes_and_padding_is_neither_state_nor_end(step: int) -> None:
    trace = traced("INC\nHLT")
    mixed = np.array([*range(8), *[END_TOKEN] * 8], np.int16)
    for rollout in (False, True):
        difference = first(compare([trace], Planted(step, always(mixed)), rollout=rollout))
        assert (difference.step, difference.kind) == (step, Kind.MIXED)
        np.testing.assert_array_equal(difference.predicted, mixed)


def test_running_free_stops_at_the_end_and_at_a_mix_but_not_beyond_its_limit() -> None:
    start = case(assemble("INC\nINC\nINC\nHLT"))
    mixed = np.array([*range(8), *[END_TOKEN] * 8], np.int16)
    for candidate, limit, length in (
        (Planted(0, flip()), 100, 5),
        (Planted(0, flip()), 2, 2),
        (Planted(2, always(END)), 100, 2),
        (Planted(2, always(mixed)), 100, 2),
    ):
        ((_, rollout),) = run_free(candidate, [start], [limit])
        assert len(rollout.tokens) == length


def test_a_candidate_without_a_next_state_is_a_difference_that_says_why() -> None:
    memory = assemble("INC\nINC\nHLT")
    recorded = record(OracleStepper(), [case(memory)])[0]
    foreign = recorded.records.copy()
    foreign[2, IR] = 99  # another CPU, with an instruction of its own, that goes on
    recording = RecordedStepper("board", [replace(recorded, records=foreign)])
    for rollout in (False, True):
        result = compare(record(recording, [recorded]), OracleStepper(), rollout=rollout)
        assert only(result).wrong_steps == (2, 3)
        # Running free, the oracle never meets the foreign instruction.
        assert (first(result).step, first(result).kind) == (2, Kind.STATE)
        assert result.by_form[ILLEGAL].wrong == 1
    result = compare(record(recording, [recorded]), OracleStepper(), from_step=3)
    assert first(result).kind is Kind.REFUSED
    assert "opcode 99" in first(result).refusal
    assert (first(result).predicted == NO_TOKEN).all()


@given(programs(), initial_states(), st.integers(0, 60))
def test_nothing_is_asked_beyond_an_illegal_instruction(
    memory: bytes, state: bytes, slot: int
) -> None:
    broken = memory[: 4 * slot] + b"\xff\0\0\0" + memory[4 * slot + 4 :]
    trace = record(OracleStepper(), [case(broken, state)])[0]
    if trace.ends:
        return  # halted before
    assert "slot" in trace.open_because
    assert "ff 00 00 00" in trace.open_because
    assert trace.steps == len(trace.records) - 1 == slot + 1
    beyond = Planted(len(trace.records), always(END))
    assert compare([trace], beyond).agree
    assert compare([trace], beyond, rollout=True).agree


def test_nothing_is_asked_beyond_the_step_limit() -> None:
    start = case(assemble("INC\n" * 256))
    trace = record(OracleStepper(), [start], max_steps=300)[0]
    assert trace.steps == 300
    assert not trace.ends
    assert trace.open_because == "step limit of 300 reached"
    assert compare([trace], Planted(301, always(END))).agree
    assert first(compare([trace], Planted(300, always(END)))).kind is Kind.EARLY_END


def test_a_reference_with_a_limit_is_asked_for_no_more() -> None:
    reference = ShortSighted(0, flip())
    sources = ["INC\n" * 9 + "HLT", "INC\nHLT", "INC\nINC\nHLT"]
    starts = [case(assemble(source), name=str(place)) for place, source in enumerate(sources)]
    long, short, just_too_long = record(reference, starts)
    assert (len(long.records), long.ends) == (4, False)
    assert long.open_because == "planted can follow 3 records"
    assert (short.steps, short.ends, short.open_because) == (3, True, "")
    assert (len(just_too_long.records), just_too_long.ends) == (4, False)
    assert record(reference, starts, max_steps=2)[0].open_because == "step limit of 2 reached"
    assert record(reference, starts, max_steps=3)[0].steps == 3
    (prompted,) = extend(reference, [traced("INC\n" * 9 + "HLT")])
    assert (len(prompted.records), prompted.ends) == (4, False)
    assert compare([long], OracleStepper()).agree


@pytest.mark.parametrize(("max_steps", "ends", "steps"), [(3, True, 4), (2, False, 2)])
def test_a_program_that_halts_exactly_at_the_limit_has_ended(
    max_steps: int, ends: bool, steps: int
) -> None:
    start = case(assemble("INC\nINC\nHLT"))
    for count in (1, 64):  # stepwise, and in bulk
        for trace in record(OracleStepper(), [start] * count, max_steps=max_steps):
            assert (trace.ends, trace.steps) == (ends, steps)


# ---- Recordings


@given(cases(), st.data())
def test_a_recording_is_compared_record_by_record_and_its_length_counts(
    trace: Case, data: st.DataObject
) -> None:
    records = trace.records
    kept = data.draw(st.integers(1, len(records)))
    cut = compare([trace], RecordedStepper("cut", [replace(trace, records=records[:kept])]))
    if kept == len(records):
        assert cut.agree
    else:
        assert (first(cut).step, first(cut).kind) == (kept, Kind.EARLY_END)
        assert only(cut).wrong_steps == tuple(range(kept, len(records)))
    longer = np.concatenate([records, records[-1:]])
    result = compare([trace], RecordedStepper("long", [replace(trace, records=longer)]))
    if trace.ends:
        assert (first(result).step, first(result).kind) == (len(records), Kind.MISSING_END)
    else:
        assert result.agree


@given(cases(), st.data())
def test_a_damaged_recording_differs_at_the_damaged_record(
    trace: Case, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, len(trace.records) - 1))
    field = data.draw(st.integers(0, STATE_SIZE - 1))
    damaged = trace.records.copy()
    damaged[step, field] ^= 0x40
    recording = RecordedStepper("damaged", [replace(trace, records=damaged)])
    for rollout in (False, True):
        difference = first(compare([trace], recording, rollout=rollout))
        assert (difference.step, difference.fields) == (step, (field,))
    # In bulk it answers as it does step by step.
    stepwise = Planted(0, flip())
    stepwise.step = recording.step  # type: ignore[method-assign]
    ((_, bulk),) = verify(recording, [trace])
    ((_, single),) = verify(stepwise, [trace])
    np.testing.assert_array_equal(bulk.tokens, single.tokens)


def test_a_recording_of_something_else_is_refused_with_the_way_out() -> None:
    one, other = traced("INC\nHLT"), traced("DEC\nHLT")
    recording = RecordedStepper("trace:one.bin", [one])
    with pytest.raises(StepperError, match=r"trace:one\.bin: holds other programs; name no"):
        compare([other], recording)
    started = traced("INC\nHLT", bytes([0, 9, *[0] * 14]))
    with pytest.raises(StepperError, match="from another initial state"):
        compare([started], recording)


def test_two_recordings_that_contradict_each_other_are_refused() -> None:
    one = traced("INC\nHLT", name="a.bin")
    other = replace(one, name="b.bin", records=one.records[:2])
    RecordedStepper("set", [one, one])
    with pytest.raises(StepperError, match=r"b\.bin: set holds another recording"):
        RecordedStepper("set", [one, other])


# ---- Many programs


def test_every_program_is_compared_whatever_went_wrong_before() -> None:
    sources = ["INC\nHLT", "DEC\nINC\nHLT", "LOADI 7\nPOP B\nINC B\nHLT", "HLT"]
    starts = [case(assemble(source), name=f"p{i}") for i, source in enumerate(sources)]
    traces = record(OracleStepper(), starts)
    done: list[int] = []
    result = compare(traces, PlantedInBulk(3, flip(FIRST_REGISTER)), progress=done.append)
    # Step 3 is the end of p0: flipping one of its 256 makes a 257 there, no token of a state.
    assert [one.case.name for one in result.results] == ["p0", "p1", "p2", "p3"]
    assert [one.index for one in result.results] == [0, 1, 2, 3]
    assert [one.case.name for one in result.differing] == ["p0", "p1", "p2"]
    assert result.exact_programs == 1
    assert sum(done) == result.instructions == 3 + 4 + 5 + 2


def test_summary_figures_count_what_they_say() -> None:
    # 2 + 2, 3 + 2, ... predictions a program: records 1..n and the end.
    sources = ["INC\n" * length + "HLT" for length in (1, 2, 3)]
    traces = record(OracleStepper(), [case(assemble(source)) for source in sources])

    class WrongAtTwoAndFour:
        name = "wrong"

        def step(self, memory: Bytes, states: Bytes) -> Tokens:
            said = OracleStepper().step(memory, states).copy()
            if len(states) in (2, 4) and said[0] != END_TOKEN:
                said[ACC] += 1
            return said

    result = compare(traces, WrongAtTwoAndFour())
    assert result.instructions == 3 + 4 + 5
    assert result.byte_count == 16 * 12
    assert result.wrong_instructions == result.wrong_bytes == 4
    assert result.instruction_accuracy == 1 - 4 / 12
    assert result.byte_accuracy == 1 - 4 / 192
    assert result.median_first_difference == 2.0
    assert result.exact_programs == 0
    assert {name: (t.count, t.wrong) for name, t in result.by_form.items()} == {
        FETCH: (3, 0),
        "HLT": (3, 0),
        "INC": (6, 4),
    }
    assert result.by_form["INC"].accuracy == 1 - 4 / 6


def test_median_and_earliest_are_taken_over_the_programs_that_differ() -> None:
    sources = ["HLT", "INC\nHLT", "DEC\n" * 3 + "HLT", "DEC\n" * 9 + "HLT"]
    traces = record(OracleStepper(), [case(assemble(s), name=s[:3]) for s in sources])

    class NeverEnds:
        name = "endless"

        def step(self, memory: Bytes, states: Bytes) -> Tokens:
            said = OracleStepper().step(memory, states)
            return states[-1].astype(np.int16) if said[0] == END_TOKEN else said

    result = compare(traces, NeverEnds())
    assert [one.difference.step for one in result.results if one.difference] == [2, 3, 5, 11]
    assert result.median_first_difference == 4.0
    earliest = result.earliest
    assert earliest is not None
    assert earliest.case.name == "HLT"


def test_comparison_without_differences_has_no_first_one() -> None:
    result = compare([traced("INC\nHLT")], OracleStepper())
    assert result.agree
    assert result.earliest is None
    assert result.median_first_difference is None
    assert result.instruction_accuracy == result.byte_accuracy == 1.0


# ---- Starting late, and candidates with limits


@given(cases(), st.data())
def test_from_step_checks_what_comes_from_there_on_and_gives_the_rest(
    trace: Case, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, trace.steps))
    fault = data.draw(st.integers(1, len(trace.records) - 1))
    for rollout in (False, True):
        candidate = PlantedInBulk(fault, flip(ACC))
        result = compare([trace], candidate, from_step=step, rollout=rollout)
        assert result.instructions == trace.steps - step + 1
        if fault < step:
            assert result.agree
        else:
            assert (first(result).step, only(result).matched) == (fault, fault - step)


def test_programs_without_the_step_are_left_out_by_name_and_all_of_them_is_an_error() -> None:
    traces = [traced("HLT", name="short"), traced("INC\nINC\nHLT", name="long")]
    result = compare(traces, OracleStepper(), from_step=4)
    assert result.left_out == ("short",)
    assert [(one.case.name, one.index) for one in result.results] == [("long", 1)]
    with pytest.raises(StepperError, match="no program has a step 5; the longest has 4"):
        compare(traces, OracleStepper(), from_step=5)


def test_a_candidate_with_a_limit_gets_traces_cut_to_it_and_the_report_says_so() -> None:
    long, short = traced("INC\n" * 9 + "HLT"), traced("INC\nHLT")
    for rollout in (False, True):
        result = compare([long, short], ShortSighted(0, flip()), rollout=rollout)
        cut, whole = (one.case for one in result.results)
        assert result.agree
        assert (cut.steps, cut.ends) == (2, False)
        assert "3 records" in cut.open_because
        assert (whole.steps, whole.ends) == (3, True)


# ---- Verification in one pass


class ByteByByte:
    """Verifies like a byte model: each token is predicted from the *expected* ones before it."""

    name = "byte by byte"

    def __init__(self, answers: Tokens, alone: Tokens, at: int) -> None:
        self.answers, self.alone, self.at = answers, alone, at

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        return self.alone if len(states) == self.at else OracleStepper().step(memory, states)

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        for index, (_, predictions) in enumerate(verify(Planted(0, flip()), cases)):
            predictions.tokens[self.at - 1] = self.answers
            count = len(predictions.tokens)
            expected_p = np.linspace(0, 0.5, count * 16, dtype=np.float32).reshape(count, 16)
            yield index, Predictions(predictions.tokens, expected_p, 1 - expected_p)


def test_an_end_that_verification_shows_as_a_mix_is_asked_for_again() -> None:
    trace = traced("INC\nINC\nHLT")
    # Told the right bytes after its wrong 256, the model goes on rightly; alone it ends.
    answers = trace.expected(2)
    answers[0] = END_TOKEN
    result = compare([trace], ByteByByte(answers, END, at=2))
    assert first(result).kind is Kind.EARLY_END
    np.testing.assert_array_equal(first(result).predicted, END)
    # What it said resynchronised still counts byte by byte.
    assert result.wrong_bytes == 1


def test_probabilities_come_with_a_difference_where_they_belong_to_its_tokens() -> None:
    trace = traced("INC\nINC\nHLT")
    answers = trace.expected(2)
    answers[ACC] = 77
    # What `ByteByByte` claims for row 1 of 4, token 1.
    of_expected = pytest.approx(0.5 * 17 / 63)
    difference = first(compare([trace], ByteByByte(answers, answers, at=2)))
    assert difference.expected_probability is not None
    assert difference.predicted_probability is not None
    assert difference.expected_probability[ACC] == of_expected
    assert difference.predicted_probability[ACC] == pytest.approx(1 - 0.5 * 17 / 63)
    # Alone it says another byte later in the patch, of which verification knows nothing.
    alone = answers.copy()
    alone[FIRST_REGISTER] = 78
    rolled = first(compare([trace], ByteByByte(answers, alone, at=2), rollout=True))
    assert rolled.fields == (ACC, FIRST_REGISTER)
    assert rolled.expected_probability is not None
    assert rolled.expected_probability[ACC] == of_expected
    assert np.isnan(rolled.expected_probability[FIRST_REGISTER])


def test_answers_that_name_different_steps_are_reported() -> None:
    trace = traced("INC\nINC\nHLT")
    wrong = trace.expected(2)
    wrong[ACC] += 1
    rounded_otherwise = ByteByByte(wrong, trace.expected(2), at=2)
    assert not compare([trace], rounded_otherwise).unconfirmed
    result = compare([trace], rounded_otherwise, rollout=True)
    assert result.exact_programs == 1
    assert [one.case.name for one in result.unconfirmed] == ["prog"]
    assert not result.agree


def test_a_peer_that_verifies_a_wrong_number_of_steps_is_named() -> None:
    class Lazy(Planted):
        def verify(self, _: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
            yield 0, Predictions(np.zeros((1, STATE_SIZE), np.int16))

    with pytest.raises(ValueError, match="planted: verify gave"):
        compare([traced("INC\nHLT")], Lazy(0, flip()))


def test_a_reference_that_says_no_state_cannot_be_measured_against() -> None:
    mixed = np.array([*range(8), *[END_TOKEN] * 8], np.int16)
    with pytest.raises(StepperError, match="planted says neither a state nor the end at step 2"):
        record(Planted(2, always(mixed)), [case(assemble("INC\nHLT"))])


def test_any_stepper_can_be_the_reference() -> None:
    start = case(assemble("INC\nINC\nHLT"))
    wrong = Planted(2, flip(ACC))
    result = compare(record(wrong, [start]), OracleStepper(), reference=wrong.name)
    assert (result.reference, result.candidate) == ("planted", "oracle")
    assert first(result).step == 2
    assert compare(record(wrong, [start]), Planted(2, flip(ACC))).agree


@given(words(), st.binary(min_size=4, max_size=4))
def test_every_word_is_tallied_under_a_form(word: bytes, other: bytes) -> None:
    from cpusim.lockstep import form_name

    assert form_name(word).split()[0] in ISA.by_name
    try:
        ISA.decode(other)
    except IllegalEncoding:
        assert form_name(other) == ILLEGAL
    assert form_name(None) == FETCH


def test_the_peers_here_have_the_optional_methods_that_make_them_quick() -> None:
    peers: dict[Stepper, set[type]] = {
        OracleStepper(): {Verifier, Runner},
        ReferenceStepper(): {Verifier},
        RecordedStepper("r", []): {Verifier},
    }
    for peer, wanted in peers.items():
        found = {kind for kind in (Verifier, Runner, Guesser, Bounded) if isinstance(peer, kind)}
        assert found == wanted, peer.name
