"""Mistakes: what was computed wrongly is found, asked again, and forgotten when it is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemodel import drills
from bytemodel.mistakes import FORMS, Mistakes, cases_of
from cpusim.isa import IR, ISA, STATE_SIZE, Operand, Place, place_field, variant_name
from cpusim.machine import run_batch
from tests.strategies import words


def state_of(word: bytes, values: bytes) -> npt.NDArray[np.uint8]:
    """A state that holds an instruction, ACC and registers."""
    return np.frombuffer(bytes([0, values[0]]) + word + values[1:], np.uint8)


def put(form: int, a: int, b: int) -> npt.NDArray[np.uint8]:
    """A state that is about to compute a case."""
    instruction, shape = FORMS[form]
    operands = [a if kind is Operand.IMMEDIATE else 3 + n for n, kind in enumerate(shape.operands)]
    word = bytes([instruction.opcode, *operands]).ljust(4, b"\0")
    state = np.zeros(STATE_SIZE, np.uint8)
    state[IR : IR + 4] = list(word)
    for place, value in ((shape.a, a), (shape.b, b)):
        field = place_field(word, place)
        if field is not None and place is not Place.IMMEDIATE:
            state[field] = value
    return state[None]


ADD = next(n for n, (i, f) in enumerate(FORMS) if variant_name(i, f) == "ADD R R")
WRONG, RIGHT = np.array([False]), np.array([True])


@given(word=words(), values=st.binary(min_size=11, max_size=11))
def test_a_case_is_the_form_and_the_values_that_it_reads(word: bytes, values: bytes) -> None:
    state = state_of(word, values)
    ((number, a, b),) = cases_of(state[None]).tolist()
    instruction, form = ISA.decode(word)
    if instruction.halts:
        assert number == -1
        return
    assert FORMS[number] == (instruction, form)

    def value(place: Place) -> int:
        if place is Place.IMMEDIATE:
            return word[1]
        field = place_field(word, place)
        return 0 if field is None else int(state[field])

    assert (a, b) == (value(form.a), value(form.b))


def test_what_was_wrong_is_asked_until_it_was_right_four_times() -> None:
    mistakes, rng = Mistakes(), np.random.default_rng(0)
    mistakes.note(put(ADD, 200, 100), WRONG)
    for _ in range(3):
        mistakes.note(put(ADD, 200, 100), RIGHT)
        assert len(mistakes) == 1
    mistakes.note(put(ADD, 200, 100), WRONG)
    for left in (4, 3, 2, 1):
        assert mistakes.state().tolist() == [[ADD, 200, 100, left]]
        assert mistakes.draw(rng, 9)[0][0] == ADD
        mistakes.note(put(ADD, 200, 100), RIGHT)
    assert len(mistakes) == 0
    assert mistakes.draw(rng, 9) == []


def test_what_is_right_and_what_computes_nothing_is_not_taken_down() -> None:
    mistakes = Mistakes()
    mistakes.note(put(ADD, 1, 2), RIGHT)
    mistakes.note(np.zeros((1, STATE_SIZE), np.uint8), WRONG)  # HLT
    assert len(mistakes) == 0


def test_only_the_latest_are_kept() -> None:
    mistakes = Mistakes()
    cases = [(ADD, a, b) for a in range(17) for b in range(256)]
    for case in cases:
        mistakes.note(put(*case), WRONG)
    kept = [(form, a, b) for form, a, b, _ in mistakes.state().tolist()]
    assert kept == cases[-4096:]


@pytest.mark.parametrize(("a", "b"), [(0, 255), (255, 0), (7, 8)])
def test_half_of_what_is_drawn_is_a_neighbour_with_bytes_as_operands(a: int, b: int) -> None:
    mistakes, rng = Mistakes(), np.random.default_rng(1)
    mistakes.note(put(ADD, a, b), WRONG)
    drawn = [mistakes.draw(rng, 1)[0] for _ in range(400)]
    assert 0.3 < sum(case == (ADD, a, b) for case in drawn) / 400 < 0.9
    assert all(abs(x - a) <= 1 and abs(y - b) <= 1 for _, x, y in drawn)
    assert all(0 <= x <= 255 and 0 <= y <= 255 for _, x, y in drawn)
    assert len(set(drawn)) > 3


def test_state_and_restore_go_on_alike() -> None:
    one, other = Mistakes(), Mistakes()
    for a in (5, 3, 9):
        one.note(put(ADD, a, a), WRONG)
    one.note(put(ADD, 3, 3), RIGHT)
    other.restore(one.state().tolist())
    drawn = [mistakes.draw(np.random.default_rng(2), 2) for mistakes in (one, other)]
    assert drawn[0] == drawn[1]
    other.restore(Mistakes().state().tolist())
    assert len(other) == 0


def test_drills_run_every_case_that_they_are_given() -> None:
    rng = np.random.default_rng(0)
    count = drills.CASES * 20
    forms = np.arange(count) % len(FORMS)
    values = rng.integers(0, 256, (count, 2))
    values[:, 1] *= [FORMS[form][1].b is not Place.NOWHERE for form in forms]
    cases = [(int(form), int(a), int(b)) for form, (a, b) in zip(forms, values, strict=True)]
    batch = run_batch(*drills.draw(rng, 20, (drills.HEAD + 1, 32), 255, cases))
    assert set(cases) <= set(map(tuple, cases_of(batch.records).tolist()))
    sizes = np.diff(batch.offsets) - 1
    assert sizes.min() > drills.HEAD
