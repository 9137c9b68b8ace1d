"""Tunes without end: functions of a seed and a number, like nothing that is held out."""

from __future__ import annotations

import pytest

from cpusim.errors import UserError
from media import abcmidi
from media.abctext import FIELD, PITCH, Tune
from media.music import MUSIC, clean, keys_of
from media.tunes import Tunes, cut_off, first_notes, rebar

TRAINING = [path.read_text() for path in sorted(MUSIC.sample.glob("*.abc"))[:60]]
HELD_OUT = [path.read_text() for path in sorted(MUSIC.sample.glob("*.abc"))[60:]]
KEYS = {key for tune in HELD_OUT for key in keys_of(tune)}


@pytest.fixture(scope="module")
def tunes() -> Tunes:
    return Tunes(TRAINING, KEYS, seed=5)


def test_a_tune_is_a_function_of_seed_and_number(tunes: Tunes) -> None:
    again = Tunes(TRAINING, KEYS, seed=5)
    numbers = [3, 700, 10**12]
    assert [again.tune(n) for n in reversed(numbers)] == [tunes.tune(n) for n in numbers[::-1]]
    assert again.sha256 == tunes.sha256
    other = Tunes(TRAINING, KEYS, seed=6)
    assert other.tune(3) != tunes.tune(3) != tunes.tune(3, 1)
    assert Tunes(TRAINING[1:], KEYS, seed=5).sha256 != tunes.sha256


def test_none_comes_twice_and_all_are_whole(tunes: Tunes) -> None:
    made = [tunes.tune(number) for number in range(400)]
    assert len(set(made)) == len(made)
    for text in made:
        assert clean(text) == text
        assert text.startswith("X:1\nT:")
        tune = Tune.parse(text)
        assert str(tune) == text
        assert tune.meter is not None
        assert any(line.strip() for line in tune.body)
    metres = {tune.split("\nM:")[1].split("\n")[0].strip() for tune in made}
    assert len(metres) > 3
    assert len({tune.split("\nK:")[1].split("\n")[0] for tune in made}) > 20


def test_the_first_tunes_have_few_notes_and_little_before_them(tunes: Tunes) -> None:
    def notes(number: int) -> int:
        tune = Tune.parse(tunes.tune(number))
        lines = [line for line in tune.body if not FIELD.match(line)]
        return sum(len(PITCH.findall(line)) for line in lines)

    first = [Tune.parse(tunes.tune(number)) for number in range(60)]
    assert all({line[0] for line in tune.header} <= set("XTMLK") for tune in first)
    assert {notes(number) for number in range(60)} == {1, 2, 3}
    later = sorted(notes(number) for number in range(16_000, 16_060))
    last = sorted(notes(number) for number in range(10**6, 10**6 + 60))
    assert 3 < later[30] < last[30]
    assert last[-1] > 100


def test_half_of_the_shortened_tunes_say_early_that_they_are_repeated(tunes: Tunes) -> None:
    """In place of a bar line, and so that abc2midi plays what stands before twice."""
    made = [Tune.parse(tunes.tune(number)) for number in range(8_000, 8_100)]
    said = [tune for tune in made if any(":|" in line for line in tune.body)]
    assert 20 < len(said) < 80
    longer = 0
    for tune in said:
        once = Tune(tune.header, tuple(line.replace(":|", "|") for line in tune.body))
        twice, plain = abcmidi.to_midi_many([str(tune).encode(), str(once).encode()])
        if twice is not None and plain is not None:
            assert len(twice) > len(plain)
            longer += 1
    assert longer > len(said) / 2


def test_first_notes_are_cut_behind_their_length() -> None:
    tune = Tune.parse("X:1\nT:two lines\nM:2/4\nL:1/8\nK:D\n|:(c3/2e/)c2|\nP:A\n^B,4A:|\n")
    assert [str(first_notes(tune, count)).split("K:D\n")[1] for count in (1, 2, 4, 9)] == [
        "|(c3/2\n",
        "|(c3/2e/\n",
        "|(c3/2e/)c2|\nP:A\n^B,4\n",
        "|:(c3/2e/)c2|\nP:A\n^B,4A:|\n",
    ]


def test_a_line_that_lost_all_it_held_is_left_out() -> None:
    """Else abc2midi would see two tunes, of which the second is none."""
    tune = Tune.parse("X:1\nT:two lines\nM:2/4\nL:1/8\nK:D\ncecc|\nBAGA|\n")
    assert str(Tune(tune.header, ("cecc|", " ", "BAGA|", ""))) == str(tune)


def test_titles_and_melodies_of_what_is_held_out_never_come() -> None:
    # Everything that would be made is held out, but for what the second draw gives.
    free = Tunes(TRAINING, (), seed=1)
    first = [free.tune(number) for number in range(30)]
    avoided = {key for tune in first for key in keys_of(tune)}
    made = [Tunes(TRAINING, avoided, seed=1).tune(number) for number in range(30)]
    assert not avoided & {key for tune in made for key in keys_of(tune)}
    # A few notes under a title such as "The" are like nothing, and may come again.
    assert not {tune for tune in first if keys_of(tune)} & set(made)


def test_nothing_to_make_tunes_of_is_refused() -> None:
    with pytest.raises(UserError, match="no tune to learn from says its meter"):
        Tunes(["X:1\nT:free\nM:none\nK:C\nCDE\n"], (), seed=0)


def test_bars_are_halved_and_joined_again() -> None:
    text = "X:1\nT:Bars\nM:4/4\nL:1/8\nK:C\nG|C2DE F>GAB|{g}c4 (3cdc B2|[CE]2zD E2:|\n"
    halved = rebar(Tune.parse(text))
    assert halved is not None
    assert halved.field("M") == "2/4"
    assert halved.body == ("G|C2DE |F>GAB|{g}c4 |(3cdc B2|[CE]2zD E2:|",)
    two = Tune.parse("X:1\nM:2/4\nL:1/8\nK:C\nG|CDEF|GABc|d4|c4:|\n")
    joined = rebar(two)
    assert joined is not None
    assert joined.field("M") == "4/4"
    assert joined.body == ("G|CDEF GABc|d4 c4:|",)
    assert rebar(joined) is not None
    across = Tune.parse("X:1\nM:4/4\nL:1/8\nK:C\nC2D4E2|\n")
    assert rebar(across) is None
    assert rebar(Tune.parse("X:1\nM:6/8\nL:1/8\nK:C\nCDE FGA|\n")) is None


def test_what_the_program_refuses_is_drawn_again(
    tunes: Tunes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuses_every_third(abcs: list[bytes]) -> list[bytes | None]:
        asked.append(len(abcs))
        return [None if len(asked) == 1 and n % 3 == 0 else abc for n, abc in enumerate(abcs)]

    monkeypatch.setattr(abcmidi, "to_midi_many", refuses_every_third)
    pairs = tunes.pairs(100, 7)
    assert asked == [7, 3]
    expected = [tunes.tune(100 + n, attempt=int(n % 3 == 0)).encode() for n in range(7)]
    assert pairs == [(abc, abc) for abc in expected]
    monkeypatch.setattr(abcmidi, "to_midi_many", lambda abcs: [None] * len(abcs))
    with pytest.raises(UserError, match="refuses whatever tune is made"):
        tunes.pairs(0, 1)


def test_many_tunes_at_once_become_what_each_becomes(tunes: Tunes) -> None:
    made = [tunes.tune(number).encode() for number in range(12)]
    made.insert(5, b"X:1\nT:wrong\nM:4/4\nL:1/8\nK:C\nCDE]F|\n")
    many = abcmidi.to_midi_many(made)
    for abc, midi in zip(made, many, strict=True):
        try:
            assert midi == abcmidi.to_midi(abc)
        except abcmidi.Refused:
            assert midi is None
    assert many[5] is None
    assert sum(midi is not None for midi in many) > 8
    for hostile in (b"T:none\n", b"X:1\nK:C\nC\nX:2\nK:C\nD\n", b"X:1\nK:C\n\nC\n"):
        with pytest.raises(abcmidi.Refused):
            abcmidi.to_midi_many([made[0], hostile])
    pairs = tunes.pairs(0, 12)
    assert [pair for pair in pairs if pair[0] in made] == [
        (abc, midi) for abc, midi in zip(made, many, strict=True) if midi is not None
    ]


@pytest.mark.parametrize(
    ("bars", "body"),
    [
        (1, ["A2|"]),
        (2, ["A2|Bc d2|"]),
        (3, ["A2|Bc d2|", "M:3/4", "|e4|"]),
        (4, ["A2|Bc d2|:", "M:3/4", "|:e4|f4:|"]),
        (5, ["A2|Bc d2|:", "M:3/4", "|:e4|f4:|"]),
    ],
)
def test_a_tune_is_cut_off_behind_whole_bars(bars: int, body: list[str]) -> None:
    tune = Tune.parse("X:1\nT:One\nM:2/4\nL:1/8\nK:C\nA2|Bc d2|:\nM:3/4\n|:e4|f4:|\n")
    assert list(cut_off(tune, bars).body) == body
    assert cut_off(tune, bars).header == tune.header


def test_some_tunes_are_short(tunes: Tunes) -> None:
    sizes = sorted(len(tunes.tune(number)) for number in range(10**6, 10**6 + 60))
    assert sizes[10] < 0.6 * sizes[30]
