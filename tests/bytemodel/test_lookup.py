"""Guesses come from what was said, as many as were right lately, and never past the patch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bytemodel.lookup import Lookup

SIZE = 16
tokens = st.integers(0, 256)


def lookup(text: list[int], right: int = SIZE) -> Lookup:
    """One that has read `text` and guessed well so far."""
    made = Lookup(SIZE)
    made.read(text)
    made.learn(right, right)
    return made


def test_what_followed_the_last_three_bytes_before_is_guessed_again() -> None:
    text = [1, 2, 3, 50, 51, 52, 9, 9, 9, 1, 2, 3]
    assert lookup(text).guess([])[:4] == [50, 51, 52, 9]
    assert lookup(text[:-1]).guess([3])[:4] == [50, 51, 52, 9]


def test_the_latest_of_several_places_counts() -> None:
    assert lookup([1, 2, 3, 50, 1, 2, 3, 60, 1, 2, 3]).guess([])[0] == 60


def test_a_repetition_is_guessed_to_go_on() -> None:
    assert lookup([7] * 4).guess([]) == [7] * (SIZE - 1)
    assert lookup([1, 2, 1, 2, 1, 2]).guess([1])[:5] == [2, 1, 2, 1, 2]


def test_new_bytes_are_guessed_to_be_those_of_the_patch_before() -> None:
    before = list(range(100, 100 + SIZE))
    assert lookup(before).guess([]) == before[:-1]
    assert lookup(before).guess([1, 2, 3]) == before[3:-1]


def test_one_more_is_guessed_than_were_right_in_a_row() -> None:
    made = lookup([7] * 20, right=0)
    assert len(made.guess([])) == 1
    made.learn(1, 1)
    assert len(made.guess([])) == 2
    made.learn(2, 2)
    assert len(made.guess([])) == 4
    made.learn(4, 3)
    assert len(made.guess([])) == 1


def test_a_stream_that_is_not_known_is_not_guessed() -> None:
    assert Lookup(SIZE).guess([]) == []
    made = lookup([7] * 20)
    made.forget()
    assert made.guess([7, 7, 7]) == []


@given(st.lists(tokens, min_size=SIZE, max_size=60), st.lists(tokens, max_size=SIZE - 1))
def test_guesses_are_tokens_that_leave_the_patch_its_last_byte(
    text: list[int], said: list[int]
) -> None:
    guesses = lookup(text).guess(said)
    assert len(guesses) == SIZE - len(said) - 1
    assert set(guesses) <= {*text, *said}
