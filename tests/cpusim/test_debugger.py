"""The debugger without a screen: moving, differences, breakpoints, edits, running free."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpusim.assembler import assemble
from cpusim.debugger import EDITABLE, Answer, Debugger, Halt, differing
from cpusim.errors import UserError
from cpusim.isa import ACC, FIRST_REGISTER, IR, PC, STATE_SIZE
from cpusim.lockstep import END, NO_TOKEN, OracleStepper, Stepper, compare
from cpusim.reference import run
from tests.pupil import OWN, RIGHT, Pupil, Refuser
from tests.strategies import endless_memories, initial_states, programs

A, B, C = FIRST_REGISTER, FIRST_REGISTER + 1, FIRST_REGISTER + 2
SOURCE = """
LOADI 200
POP A
LOADI 7
POP B
DIV A B C
MUL B C D
SUB A D E
HLT
"""
STEPS = 8  # and step 9 is the end
ENDLESS = "INC A\n" * 256


def debugger(
    candidate: Stepper, source: str = SOURCE, state: bytes = bytes(STATE_SIZE), **options: int
) -> Debugger:
    return Debugger(candidate, "prog", assemble(source), state, **options)


def tokens(answer: Answer) -> list[int]:
    assert answer.tokens is not None
    return answer.tokens.tolist()


def visit_all(session: Debugger, tick: Callable[[int], None] = lambda _: None) -> list[int]:
    """The records that one running from difference to difference stops at."""
    found: list[int] = []
    while (at := session.path.next_difference(found[-1] if found else -1, tick)) is not None:
        assert session.run(at) is Halt.DIFFERENCE
        found.append(session.position)
    return found


# ---- Moving


@settings(max_examples=30)
@given(programs(), initial_states())
def test_the_records_it_goes_through_are_those_of_a_run(memory: bytes, state: bytes) -> None:
    session = Debugger(Pupil(), "prog", memory, state, max_steps=300)
    expected = run(memory, state, max_steps=300)
    seen = [session.record.tobytes()]
    while not session.at_last:
        session.go(session.position + 1)
        seen.append(session.record.tobytes())
    assert tuple(seen) == expected.records


def test_moving_never_asks_the_candidate() -> None:
    pupil = Pupil()
    session = debugger(pupil)
    session.go(5)
    session.go(4)
    session.breakpoints.add(6)
    session.run()
    session.edit(A, 3)
    session.undo()
    assert (pupil.asked, pupil.passes) == ([], 0)


def test_it_goes_no_further_than_the_first_and_the_last_record() -> None:
    session = debugger(Pupil())
    session.go(-3)
    assert (session.position, session.slot, session.at_last) == (0, None, False)
    session.go(99)
    assert (session.position, session.slot, session.at_last) == (STEPS, 7, True)
    np.testing.assert_array_equal(session.expected, END)


def test_a_breakpoint_stops_before_its_slot_executes_and_again_at_each_return() -> None:
    session = debugger(Pupil(), ENDLESS, max_steps=300)
    assert session.toggle_breakpoint(255)
    stops = [session.run()]
    assert session.slot == 255
    first = session.position
    stops.append(session.run())
    assert (stops, session.position) == ([Halt.BREAKPOINT] * 2, first + 1)
    assert not session.toggle_breakpoint(255)
    assert session.run() is Halt.LAST
    assert session.position == 300


def test_a_step_limit_and_an_illegal_instruction_leave_the_cpu_without_a_claim() -> None:
    endless = debugger(Pupil(), ENDLESS, max_steps=10)
    endless.go(10)
    assert endless.expected is None
    assert endless.timeline.case.open_because == "step limit of 10 reached"
    illegal = debugger(Pupil(), "INC A\n.byte 255,0,0,0")
    illegal.run()
    assert illegal.expected is None
    assert "opcode 255 is above 20" in illegal.timeline.case.open_because


# ---- What the candidate says


def test_an_answer_comes_with_the_probability_of_every_token() -> None:
    session = debugger(Pupil({6: {C: 18}}))
    session.go(5)
    answer = session.path.answer(5)
    assert differing(session.expected, answer) == (C,)
    assert tokens(answer)[C] == 18
    assert answer.probabilities is not None
    assert answer.probabilities.shape == (STATE_SIZE, 257)
    assert answer.probabilities[C, 18] == pytest.approx(OWN, abs=1e-3)
    assert answer.probabilities[C, 28] == pytest.approx(RIGHT, abs=1e-3)


def test_a_candidate_is_asked_once_after_each_record() -> None:
    pupil = Pupil()
    session = debugger(pupil)
    assert session.path.known(3) is None
    first = session.path.answer(3)
    assert session.path.answer(3) is session.path.known(3) is first
    assert pupil.asked == [4]


def test_a_candidate_without_probabilities_or_without_a_next_state_is_shown_too() -> None:
    oracle = debugger(OracleStepper()).path.answer(0)
    assert (oracle.probabilities, tokens(oracle)[PC]) == (None, 1)
    session = debugger(Refuser())
    refused = session.path.answer(0)
    assert tokens(refused) == [NO_TOKEN] * STATE_SIZE
    assert refused.because == "its battery is empty"
    assert len(differing(session.expected, refused)) == STATE_SIZE


def test_beyond_its_longest_sequence_a_candidate_is_not_asked() -> None:
    pupil = Pupil(max_records=4)
    session = debugger(pupil)
    assert tokens(session.path.answer(3))
    beyond = session.path.answer(4)
    assert beyond.tokens is None
    assert "4 states, is full" in beyond.because
    assert session.timeline.horizon == 3
    assert differing(session.timeline.expected(4), beyond) == ()
    session.go(2)
    session.toggle_free()
    assert "is full" in session.path.answer(8).because


# ---- Differences


def test_differences_are_visited_in_turn_by_one_pass() -> None:
    pupil = Pupil({3: {ACC: 9}, 6: {C: 18, PC: 0}, STEPS + 1: {ACC: 1}})
    session = debugger(pupil)
    assert visit_all(session) == [2, 5, STEPS]
    assert (session.timeline.wrong_steps(), pupil.passes) == ((3, 6, 9), 1)
    assert pupil.asked == [3, 6, 9]
    assert session.run() is Halt.LAST


def test_a_breakpoint_on_the_way_to_a_difference_stops_first() -> None:
    session = debugger(Pupil({6: {C: 18}}))
    session.breakpoints = {2, 4}
    at = session.path.next_difference(0)
    assert [session.run(at), session.slot] == [Halt.BREAKPOINT, 2]
    # The difference is at slot 4, and that is what it is called there.
    assert [session.run(at), session.slot] == [Halt.DIFFERENCE, 4]


def test_differences_beyond_the_longest_sequence_are_not_known_but_the_last_inside_is() -> None:
    session = debugger(Pupil({4: {ACC: 1}, 5: {ACC: 2}}, max_records=4))
    assert session.timeline.wrong_steps() == (4,)


@settings(max_examples=40)
@given(
    endless_memories() | programs(),
    initial_states(),
    st.dictionaries(
        st.integers(1, 40), st.dictionaries(st.integers(0, 15), st.integers(0, 256), max_size=2)
    ),
)
def test_wrong_steps_are_those_of_a_comparison(
    memory: bytes, state: bytes, faults: dict[int, dict[int, int]]
) -> None:
    session = Debugger(Pupil(faults), "prog", memory, state, max_steps=40)
    if session.timeline.case.steps:
        (result,) = compare([session.timeline.case], Pupil(faults)).results
        assert session.timeline.wrong_steps() == result.wrong_steps


# ---- Edits


def test_both_sides_go_on_from_an_edited_register_and_what_came_before_stays() -> None:
    session = debugger(Pupil({6: {C: 18}}))
    before = session.timeline.case.records[:5].copy()
    session.go(5)
    session.edit(B, 10)
    expected = session.expected
    assert expected is not None
    assert expected[C] == 20
    assert tokens(session.path.answer(5))[B] == 10
    np.testing.assert_array_equal(session.timeline.case.records[:5], before)
    # 200 - 10 * 20 = 0
    session.run()
    assert session.record[FIRST_REGISTER + 4] == 0


def test_the_step_to_an_edited_record_is_measured_against_what_the_cpu_does() -> None:
    session = debugger(Pupil())
    session.go(5)
    session.edit(B, 10)
    assert session.timeline.wrong_steps() == ()
    session.go(4)
    expected = session.expected
    assert expected is not None
    assert expected[B] == 7
    assert differing(expected, session.path.answer(4)) == ()
    session.go(5)
    assert session.record[B] == 10
    wrong = debugger(Pupil({5: {B: 10}}))
    wrong.go(5)
    wrong.edit(B, 10)
    assert wrong.timeline.wrong_steps() == (5,)


def test_answers_from_before_an_edit_are_kept_and_later_ones_are_not() -> None:
    pupil = Pupil()
    session = debugger(pupil)
    for record in range(STEPS + 1):
        session.path.answer(record)
    session.go(3)
    session.edit(A, 1)
    assert [session.path.known(record) is not None for record in range(5)] == [True] * 3 + [
        False
    ] * 2


def test_edits_are_taken_back_one_by_one_with_all_that_followed() -> None:
    session = debugger(Pupil())
    original = session.timeline
    session.go(5)
    session.edit(B, 10)
    session.edit(A, 50)
    assert session.timeline.edits == {5: {B: 10, A: 50}}
    session.go(2)
    session.edit(ACC, 1)
    assert session.timeline.edits == {2: {ACC: 1}}
    session.run()
    positions = []
    while session.undo():
        positions.append(session.position)
    assert positions == [2, 5, 5]
    assert session.timeline is original


def test_an_edit_of_the_first_record_is_another_initial_state() -> None:
    session = debugger(Pupil(), "INC A\nHLT")
    session.edit(A, 41)
    fresh = debugger(Pupil(), "INC A\nHLT", bytes(A) + bytes([41]) + bytes(9))
    np.testing.assert_array_equal(session.timeline.case.records, fresh.timeline.case.records)


def test_an_edit_of_the_last_record_changes_nothing_that_ends_there() -> None:
    session = debugger(Pupil())
    session.run()
    session.edit(A, 9)
    np.testing.assert_array_equal(session.expected, END)
    assert tokens(session.path.answer(session.position)) == END.tolist()
    limited = debugger(Pupil(), ENDLESS, max_steps=5)
    limited.run()
    limited.edit(A, 9)
    assert (limited.expected, limited.at_last) == (None, True)
    assert "step limit" in limited.timeline.case.open_because


@pytest.mark.parametrize("field", [PC, *range(IR, IR + 4)])
def test_what_comes_from_the_program_cannot_be_edited(field: int) -> None:
    assert field not in EDITABLE
    with pytest.raises(UserError, match="comes from the program"):
        debugger(Pupil()).edit(field, 1)


def test_a_value_that_is_no_byte_is_refused_and_changes_nothing() -> None:
    session = debugger(Pupil())
    with pytest.raises(UserError, match="256 is outside"):
        session.edit(ACC, 256)
    assert not session.undo()


# ---- Running free


def test_left_to_itself_the_candidate_goes_on_with_its_own_mistake() -> None:
    session = debugger(Pupil({6: {C: 18}}))
    session.toggle_free()
    assert session.path.next_difference(-1) == 5
    session.run(5)
    # MUL B C D of its own C: 7 * 18.
    session.go(6)
    assert tokens(session.path.answer(6))[FIRST_REGISTER + 3] == 126
    own = session.path.state(6)
    assert own is not None
    assert (own[C], session.record[C]) == (18, 28)
    assert differing(session.expected, session.path.answer(6)) == (C, FIRST_REGISTER + 3)
    session.toggle_free()
    assert differing(session.expected, session.path.answer(6)) == ()


def test_up_to_its_first_mistake_a_free_run_costs_one_pass() -> None:
    pupil = Pupil({200: {ACC: 1}})
    session = debugger(pupil, ENDLESS, max_steps=255)
    session.toggle_free()
    assert session.path.next_difference(0) == 199
    assert (pupil.asked, pupil.passes) == ([200], 1)
    assert session.path.next_difference(199) == 200
    session.path.answer(255)
    assert pupil.asked == list(range(200, 202)) + list(range(202, 257))
    faultless = debugger(Pupil(), ENDLESS, max_steps=255)
    faultless.toggle_free()
    assert faultless.path.next_difference(0) is None


def test_a_free_run_is_what_repeated_steps_give() -> None:
    faults = {3: {ACC: 9}, 5: {A: 77}}
    session = debugger(Pupil(faults))
    session.toggle_free()
    session.path.answer(STEPS)
    states = [session.timeline.case.records[0]]
    for _ in range(STEPS):
        states.append(
            Pupil(faults).step(session.timeline.case.memory, np.array(states)).astype(np.uint8)
        )
    for record, state in enumerate(states):
        np.testing.assert_array_equal(session.path.state(record), state)


def test_a_free_run_begins_where_it_was_let_go() -> None:
    session = debugger(Pupil({3: {ACC: 9}, 6: {C: 18}}))
    session.go(4)
    session.toggle_free()
    answer = session.path.answer(7)
    assert [differing(session.timeline.expected(7), answer)] == [
        (C, FIRST_REGISTER + 3, FIRST_REGISTER + 4)
    ]
    # Before that it reads the CPU's records.
    assert session.path.answer(3) is session.timeline.known(3)


def test_a_free_run_that_says_no_state_is_over() -> None:
    session = debugger(Pupil({4: dict.fromkeys(range(STATE_SIZE), 256)}))
    session.toggle_free()
    assert tokens(session.path.answer(3)) == END.tolist()
    over = session.path.answer(6)
    assert (over.tokens, over.because) == (None, "on its own it said no state after step 3")
    assert session.path.state(4) is None
    assert session.path.next_difference(3) is None


def test_an_edit_repairs_a_free_run_and_its_undoing_brings_the_mistake_back() -> None:
    session = debugger(Pupil({6: {C: 18}}))
    session.toggle_free()
    session.go(6)
    session.path.answer(6)
    session.edit(C, 28)
    assert differing(session.expected, session.path.answer(6)) == ()
    assert session.path.next_difference(6) is None
    assert session.path.next_difference(0) == 5
    assert session.undo()
    assert differing(session.expected, session.path.answer(6)) == (C, FIRST_REGISTER + 3)


def test_an_edit_made_before_the_free_run_got_there_is_made_in_its_states_too() -> None:
    session = debugger(Pupil({3: {A: 1}}))
    session.toggle_free()
    session.go(5)
    session.edit(B, 10)
    session.path.answer(5)
    own = session.path.state(5)
    assert own is not None
    assert (own[A], own[B]) == (1, 10)
    session.go(2)
    session.edit(A, 60)
    assert session.free is not None
    assert session.free.start == 0


def test_undoing_an_edit_while_running_free_again_stays_free() -> None:
    session = debugger(Pupil())
    session.edit(A, 1)
    session.toggle_free()
    assert session.undo()
    assert session.free is not None
    assert session.free.timeline is session.timeline
    session.edit(A, 1)
    session.toggle_free()
    assert session.undo()
    assert session.free is None


@pytest.mark.parametrize("free", [False, True])
def test_a_long_search_tells_where_it_is_and_can_be_left(free: bool) -> None:
    class Left(Exception):
        pass

    def tick(record: int) -> None:
        ticks.append(record)
        if record == 6:
            raise Left

    ticks: list[int] = []
    session = debugger(Pupil({2: {A: 3}, 7: {A: 3}, 8: {B: 3}}))
    if free:
        session.toggle_free()
    with pytest.raises(Left):
        visit_all(session, tick)
    assert ticks[-1] == 6
    assert session.path.known(6) is None
    assert session.path.next_difference(5) == 6
