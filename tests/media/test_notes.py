"""Note events read from MIDI, and where two tunes part."""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import mido
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim.errors import UserError
from media import abcmidi
from media.modality import Item
from media.music import MUSIC
from media.notes import Note, Tune, Unreadable, compare, mend_track_length, read_tune, tune_of

SAMPLE = sorted(MUSIC.sample.glob("*.mid"))


def midi(*messages: mido.Message | mido.MetaMessage, ticks: int = 480) -> bytes:
    file = mido.MidiFile(ticks_per_beat=ticks, type=0)
    file.tracks.append(mido.MidiTrack(messages))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def on(pitch: int, time: int = 0, velocity: int = 80, channel: int = 0) -> mido.Message:
    return mido.Message("note_on", note=pitch, velocity=velocity, time=time, channel=channel)


def off(pitch: int, time: int = 0, channel: int = 0) -> mido.Message:
    return mido.Message("note_off", note=pitch, time=time, channel=channel)


def tune(*notes: tuple[int, int, int]) -> Tune:
    """Of (onset, pitch, duration), in quarter notes."""
    return Tune(tuple(Note(Fraction(o), p, Fraction(d)) for o, p, d in notes))


def test_a_note_lasts_until_it_is_let_go_in_quarter_notes() -> None:
    data = midi(
        *(on(60), on(64, 240), off(60, 240), on(64, 0, 0), on(72, 120), off(71), off(72, 60))
    )
    assert tune_of(data, "mid").notes == (
        Note(Fraction(0), 60, Fraction(1)),
        Note(Fraction(1, 2), 64, Fraction(1, 2)),
        Note(Fraction(5, 4), 72, Fraction(1, 8)),
    )
    slower = midi(on(60), off(60, 96), ticks=96)
    assert compare(tune_of(slower, "mid"), tune_of(midi(on(60), off(60, 480)), "mid")).same


def test_repeated_keys_channels_and_notes_never_let_go() -> None:
    data = midi(on(60), on(60, 10), off(60, 10), off(60, 10), ticks=10)
    assert [tuple(note) for note in tune_of(data, "mid").notes] == [(0, 60, 2), (1, 60, 2)]
    data = midi(on(60), on(60, 0, 80, 1), off(60, 10, 1), on(61, 10), ticks=10)
    end = mido.MetaMessage("end_of_track", time=10)
    data = midi(on(60), on(60, 0, 80, 1), off(60, 10, 1), on(61, 10), end, ticks=10)
    assert [tuple(note) for note in tune_of(data, "mid").notes] == [
        (0, 60, 1),
        (0, 60, 3),
        (2, 61, 1),
    ]


def test_bar_and_beat_follow_the_meters() -> None:
    def meter(above: int, below: int, time: int = 0) -> mido.MetaMessage:
        return mido.MetaMessage("time_signature", numerator=above, denominator=below, time=time)

    read = tune_of(midi(meter(6, 8), on(60), meter(2, 4, 60), off(60, 60), ticks=10), "mid")
    places = [read.place(Fraction(at)) for at in (0, Fraction(5, 2), 3, 6, 7, 9)]
    assert places == [(1, 1), (1, 6), (2, 1), (3, 1), (3, 2), (4, 2)]
    assert tune().place(Fraction(9, 2)) == (2, Fraction(3, 2))


def test_the_first_place_where_tunes_part_is_named() -> None:
    expected = tune((0, 60, 1), (1, 62, 1), (4, 64, 2))
    result = compare(expected, tune((0, 60, 1), (1, 62, 2), (4, 64, 2)))
    assert (result.right, result.expected, result.found) == (2, 3, 3)
    assert result.first == (1, 2, expected.notes[1], Note(Fraction(1), 62, Fraction(2)))
    shorter = compare(expected, tune((0, 60, 1), (1, 62, 1)))
    assert shorter.first == (2, 1, expected.notes[2], None)
    longer = compare(tune((0, 60, 1)), expected)
    assert longer.first == (1, 2, None, expected.notes[1])
    assert (longer.right, longer.same) == (1, False)
    assert compare(expected, expected).same
    assert compare(tune(), tune()).same


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(60, 62), st.integers(1, 2)), max_size=6),
    st.lists(st.tuples(st.integers(0, 3), st.integers(60, 62), st.integers(1, 2)), max_size=6),
)
def test_tunes_are_the_same_just_if_they_have_the_same_notes(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    result = compare(tune(*sorted(one)), tune(*sorted(other)))
    left = list(one)
    for note in other:
        if note in left:
            left.remove(note)
    assert result.right == len(one) - len(left)
    assert result.same == (sorted(one) == sorted(other))


def test_a_track_whose_length_alone_is_wrong_is_read_and_said_to_be_faulty() -> None:
    data = SAMPLE[0].read_bytes()
    whole = tune_of(data, "mid")
    assert whole.fault is None
    assert len(whole.notes) > 20
    for length in (0, 5, len(data) - 23, len(data), 1 << 20):
        wrong = data[:18] + length.to_bytes(4, "big") + data[22:]
        read = tune_of(wrong, "mid")
        assert read.fault == "the length of its track is wrong"
        assert read.notes == whole.notes
        assert mend_track_length(wrong) == data


@given(st.data())
def test_damaged_files_are_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    whole = SAMPLE[0].read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] = data.draw(st.integers(0, 255))
    for hostile in (bytes(damaged), whole[:place], whole[place:], whole + bytes(damaged[:place])):
        try:
            read = tune_of(hostile, "mid")
        except Unreadable:
            continue
        assert all(note.duration >= 0 for note in read.notes)


def test_abc_is_judged_by_what_is_played(tmp_path: Path) -> None:
    path = SAMPLE[3].with_suffix(".abc")
    assert compare(read_tune(SAMPLE[3]), read_tune(path)).same
    wrong = tmp_path / "wrong.abc"
    wrong.write_text("X:1\nM:4/4\nL:1/8\nK:C\nCDE]F|\n")
    with pytest.raises(UserError, match=r"wrong\.abc: is no clean ABC \(line 5, character "):
        read_tune(wrong)
    no_midi = tmp_path / "text.mid"
    no_midi.write_text("X:1\nK:C\nC\n")
    with pytest.raises(UserError, match=r"text\.mid: is no MIDI file"):
        read_tune(no_midi)


def test_the_kind_is_told_by_the_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def to_midi(abc: bytes) -> bytes:
        asked.append(abc)
        return midi(on(60), off(60, 480))

    monkeypatch.setattr(abcmidi, "to_midi", to_midi)
    path = tmp_path / "tune.txt"
    path.write_bytes(b"X:1\nK:C\nC4\n")
    assert read_tune(path).notes == (Note(Fraction(0), 60, Fraction(1)),)
    path.write_bytes(midi(on(61), off(61, 480)))
    assert [note.name for note in read_tune(path).notes] == ["C#4"]
    assert asked == [b"X:1\nK:C\nC4\n"]


def test_a_book_is_not_compared_by_its_first_tune(tmp_path: Path) -> None:
    path = tmp_path / "book.abc"
    path.write_text("X:1\nK:C\nCDEF|\n\nX:2\nK:C\nGABc|\n")
    with pytest.raises(UserError, match="holds several tunes, where one is compared"):
        read_tune(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_abc_of_every_encoding_sounds_the_same(encoding: str, tmp_path: Path) -> None:
    text = "X:1\nT:Grüße\nM:4/4\nL:1/8\nK:C\nCDEF GABc|\n"
    path, plain = tmp_path / "tune.abc", tmp_path / "plain.abc"
    path.write_bytes(text.encode(encoding))
    plain.write_bytes(text.replace("Grüße", "Greetings").encode())
    found = read_tune(path)
    assert len(found.notes) == 8
    assert found.notes == read_tune(plain).notes


def in_riff(midi: bytes) -> bytes:
    """As Windows wraps it, behind a chunk of an odd length."""
    other, size = b"DISP\3\0\0\0odd\0", len(midi).to_bytes(4, "little")
    form = b"RMID" + other + b"data" + size + midi + b"\0" * (len(midi) % 2)
    return b"RIFF" + len(form).to_bytes(4, "little") + form


@pytest.mark.parametrize("name", ["tune.rmi", "tune.bin"])
def test_a_riff_file_without_its_midi_is_refused(name: str, tmp_path: Path) -> None:
    path, whole = tmp_path / name, in_riff(SAMPLE[0].read_bytes())
    for damaged in (whole[:80], whole[:30], whole[:12], whole.replace(b"data", b"junk")):
        path.write_bytes(damaged)
        for read in (MUSIC.read, read_tune):
            with pytest.raises(UserError, match=f"^{path}: "):
                read(path)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda data: data, None),
        (in_riff, None),
        (lambda data: data[:14] + b"XFIH\0\0\0\3one" + data[14:], None),
        (lambda data: data + bytes(9), "not as long as its tracks say"),
        (
            lambda data: data[:18] + (len(data) - 26).to_bytes(4, "big") + data[22:-4],
            "not as long as its tracks say",
        ),
        # A note before the end is where the track should end.
        (
            lambda data: data[:18] + (len(data) - 22 - 4 - 9).to_bytes(4, "big") + data[22:],
            "the length of its track is wrong",
        ),
    ],
)
def test_what_can_be_learned_can_be_compared(
    spoil: object, fault: str | None, tmp_path: Path
) -> None:
    assert callable(spoil)
    data, path = SAMPLE[0].read_bytes(), tmp_path / "tune.mid"
    path.write_bytes(spoil(data))
    (learned,) = MUSIC.read(path)
    found = read_tune(path)
    assert isinstance(learned, Item)
    assert found.notes == tune_of(learned.data, "mid").notes == tune_of(data, "mid").notes
    assert found.fault == fault


@given(st.data())
def test_whatever_is_learned_of_a_damaged_file_can_be_compared(data: st.DataObject) -> None:
    damaged = bytearray(SAMPLE[0].read_bytes())
    place = data.draw(st.integers(14, len(damaged) - 1))
    damaged[place] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tune.mid"
        path.write_bytes(damaged)
        try:
            (learned,) = MUSIC.read(path)
        except UserError:
            return
        assert isinstance(learned, Item)
        assert read_tune(path).notes == tune_of(learned.data, "mid").notes
