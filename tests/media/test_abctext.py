"""ABC text taken apart and put together: keys, pitches, lengths, bars."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.abctext import (
    Key,
    Tune,
    groups_of,
    length_of,
    length_text,
    pitch_place,
    pitch_text,
    scale,
    transpose,
)

HEAD = "X:1\nT:The Test\nM:4/4\nL:1/8\n"
_NATURAL = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11), strict=True))


def tune(key: str, body: str) -> Tune:
    return Tune.parse(f"{HEAD}K:{key}\n{body}\n")


def semitones(made: Tune) -> list[int]:
    """What the notes of a body of single letters sound like, by key and accidentals alone."""
    key = made.key
    assert key is not None
    found = []
    for word in made.body[0].split():
        sign = word.rstrip(",'")[:-1]
        letter = word.rstrip(",'")[-1]
        octave = word[len(sign) + 1 :]
        place = pitch_place(letter, octave)
        signs = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
        altered = signs[sign] if sign else key.altered(place % 7)
        found.append(12 * (place // 7) + _NATURAL[letter.upper()] + altered)
    return found


def test_a_tune_is_put_together_again_as_it_was() -> None:
    text = f"{HEAD}K:Gm\nG2 [K:D] A|\nP:B\nB|]\n"
    made = Tune.parse(text)
    assert str(made) == text
    assert (made.meter, made.unit) == (Fraction(1), Fraction(1, 8))
    assert made.field("T") == "The Test"


@pytest.mark.parametrize(
    ("lines", "meter", "unit"),
    [
        ("M:C\n", Fraction(1), Fraction(1, 8)),
        ("M: C|\n", Fraction(1), Fraction(1, 8)),
        ("M:2/4\n", Fraction(1, 2), Fraction(1, 16)),
        ("M:6/8\nL: 1/4\n", Fraction(3, 4), Fraction(1, 4)),
        ("M:none\n", None, None),
        ("", None, None),
    ],
)
def test_meter_and_unit_are_read_as_the_standard_says(
    lines: str, meter: Fraction | None, unit: Fraction | None
) -> None:
    made = Tune.parse(f"X:1\n{lines}K:C\nC\n")
    assert (made.meter, made.unit) == (meter, unit)


@pytest.mark.parametrize(
    ("text", "sharps"),
    [
        *(("C", 0), ("G", 1), ("F# Minor", 3), ("Ador", 1), ("Bb", -2), ("Dmix", 1), ("Ephr", 0)),
        *(("Flyd", 0), ("Cm", -3), (" A Mixolydian", 2), ("Eb", -3), ("F#", 6), ("Bloc", 0)),
    ],
)
def test_signatures_of_keys_and_modes(text: str, sharps: int) -> None:
    key = Key.parse(text)
    assert key is not None
    assert key.sharps == sharps
    assert str(key) == text


@pytest.mark.parametrize("text", ["Hp", "HP", "none", "D exp ^f", "C clef=bass", ""])
def test_other_keys_are_left_alone(text: str) -> None:
    assert Key.parse(text) is None
    assert transpose(tune(text, "C"), 2) is None


def test_a_tune_in_another_key_is_spelt_as_people_would() -> None:
    moved = transpose(tune("G", "G A ^c f =f [K:Em] !trill!e ^d2|"), 2)
    assert moved == tune("A", "A B ^d g =g [K:F#m] !trill!f ^e2|")
    assert transpose(tune("C", "C E, c'"), -1) == tune("B", "B, D, b")


@given(
    st.sampled_from("CDEFGAB"),
    st.sampled_from(["", "m", "mix", "dor"]),
    st.lists(st.tuples(st.sampled_from(["", "", "^", "_", "="]), st.integers(-7, 20)), min_size=1),
    st.integers(-6, 6),
)
def test_every_note_moves_by_the_interval(
    tonic: str, mode: str, notes: list[tuple[str, int]], interval: int
) -> None:
    before = tune(tonic + mode, " ".join(sign + pitch_text(place) for sign, place in notes))
    after = transpose(before, interval)
    if after is not None:  # else it cannot be written
        assert semitones(after) == [pitch + interval for pitch in semitones(before)]


@given(st.integers(-30, 30))
def test_pitches_are_read_as_they_are_written(place: int) -> None:
    text = pitch_text(place)
    assert pitch_place(text[0], text[1:]) == place


@given(st.fractions(min_value=Fraction(1, 16), max_value=16, max_denominator=16))
def test_lengths_are_read_as_they_are_written(length: Fraction) -> None:
    assert length_of(length_text(length)) == length


@pytest.mark.parametrize(
    ("text", "length"),
    [("", 1), ("2", 2), ("/", Fraction(1, 2)), ("//", Fraction(1, 4)), ("3/2", Fraction(3, 2))],
)
def test_all_ways_to_write_a_length(text: str, length: Fraction | int) -> None:
    assert length_of(text) == length


def test_another_unit_changes_every_length_but_those_of_grace_notes() -> None:
    halved = scale(tune("C", "C2 D/ {B/}[CE]3 z !fermata!E>F|"), Fraction(2))
    assert halved is not None
    assert halved.unit == Fraction(1, 16)
    assert halved.body == ("C4 D {B/}[CE]6 z2 !fermata!E2>F2|",)
    assert scale(halved, Fraction(1, 2)) == tune("C", "C2 D/ {B/}[CE]3 z !fermata!E>F|")


def test_a_bar_falls_into_parts_that_a_bar_line_may_stand_between() -> None:
    groups = list(groups_of("{g}A>B c2 (3ded z/[ce]/"))
    assert [length for _, length in groups] == [2, 2, 2, Fraction(1, 2), Fraction(1, 2)]
    assert "".join(text for text, _ in groups) == "{g}A>B c2 (3ded z/[ce]/"
