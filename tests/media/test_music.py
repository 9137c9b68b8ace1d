"""Tunes that users have become clean ABC and plain MIDI, or are refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import mido
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim.errors import UserError
from media import abcmidi, prepared
from media.modality import Item, LeftOut, Mends
from media.music import MUSIC, clean, plain_midi, split_tunes
from media.split import groups

TUNE = """X: 7
T:The Lost Key
% a comment
I:speed 300
M:4/4
L:1/8
K:G
"Em"~G2 uAB vcd ef|H"D7"g4 .d4 %% and one more
w:la la~la
|:k(3gfe d2 !trill!c2 B2:|
"""


def notes(midi: bytes) -> list[tuple[int, int]]:
    """(tick, pitch) of every note that begins."""
    found = []
    for track in mido.MidiFile(file=io.BytesIO(midi)).tracks:
        time = 0
        for message in track:
            time += message.time
            if message.type == "note_on" and message.velocity:
                found.append((time, message.note))
    return found


def test_what_does_not_sound_is_cleaned_away() -> None:
    assert clean(TUNE) == (
        "X:1\nT:The Lost Key\nM:4/4\nL:1/8\nK:G\nG2 AB cd ef|g4 .d4\nw:la la~la\n"
        "|:(3gfe d2 !trill!c2 B2:|\n"
    )


def test_letters_that_mark_ornaments_stay_where_they_are_part_of_a_word() -> None:
    tune = 'X:1\nK:Hp\n[V:violin]ua"F7"b|!8va(!vcHd|[K:Hp]~e!"!f|\n'
    assert clean(tune) == 'X:1\nK:Hp\n[V:violin]ab|!8va(!cd|[K:Hp]e!"!f|\n'


def test_a_book_is_split_into_tunes_and_bad_ends_are_cut() -> None:
    text = f"% a book\n\n{TUNE}\nwords between\n\nX:8\nT:no key\nabc\n\n{TUNE.replace('7', '9')}"
    assert [tune.splitlines()[0] for tune in split_tunes(text)] == ["X: 7", "X: 9"]
    assert split_tunes("no tune at all") == []


def test_a_tune_becomes_a_pair_and_the_same_one_every_time(tmp_path: Path) -> None:
    path = tmp_path / "lost.abc"
    path.write_text(TUNE)
    abc, midi = MUSIC.read(path)
    assert (abc.name, midi.name) == ("lost.abc", "lost.mid")
    assert abc.keys == midi.keys
    assert notes(midi.data)[:3] == [(1, 67), (481, 69), (721, 71)]
    other = tmp_path / "another name.abc"
    other.write_bytes(path.read_text().encode("utf-16"))
    assert [item.data for item in MUSIC.read(other)] == [abc.data, midi.data]


def test_a_midi_file_beside_an_abc_file_stands_on_its_side(tmp_path: Path) -> None:
    (tmp_path / "lost.abc").write_text(TUNE)
    for number, name in enumerate(("lost.mid", "other.mid")):
        pitches = bytes([60 + number, 62, 64])
        events = b"".join(b"\0\x90%c\x40\x60\x80%c\0" % (pitch, pitch) for pitch in pitches)
        track = events + b"\0\xff\x2f\0"
        header = b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk"
        (tmp_path / name).write_bytes(header + len(track).to_bytes(4, "big") + track)
    names = ("lost.abc", "lost.mid", "other.mid")
    items = [item for name in names for item in MUSIC.read(tmp_path / name)]
    abc, made, own, other = groups([(*item.keys, f"content {item.data!r}") for item in items])
    assert abc == made == own != other


def test_an_error_in_a_tune_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "tune.abc"
    path.write_text("X:2\nT:The Wrong Turn\nK:C\nCDE]F|\n")
    with pytest.raises(UserError) as caught:
        MUSIC.read(path)
    assert str(caught.value).startswith(
        f"{path}: tune 1 (The Wrong Turn) is no clean ABC (line 4, character "
    )
    assert str(caught.value).endswith("; mend it or leave it out")
    for text in ("", "no tune", "X:1\nT:no key\nabc\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="holds no ABC tune"):
            MUSIC.read(path)


@pytest.mark.parametrize("body", ["", "z8|\n", '"Am"z4 !fermata!z4|\n', "[K:G]z8|\nw:A Bad Cage\n"])
def test_a_tune_without_a_note_is_left_out(body: str, tmp_path: Path) -> None:
    path, tune = tmp_path / "tune.abc", f"X:1\nT:Tacet\nM:4/4\nL:1/8\nK:C\n{body}"
    path.write_text(tune)
    with pytest.raises(UserError, match=r"tune\.abc: tune 1 \(Tacet\) has no notes; mend it or"):
        MUSIC.read(path)
    path.write_text(f"{tune}\n{TUNE}")
    silent, abc, midi = MUSIC.read(path)
    assert silent == LeftOut("without notes", f"{path}: tune 1 (Tacet) has no notes; mend it")
    for item in (abc, midi):
        assert isinstance(item, Item)
        assert MUSIC.judge(item.data, item.name[-3:]) is None


def test_of_a_book_the_tunes_without_errors_are_learned(tmp_path: Path) -> None:
    path = tmp_path / "books" / "book.abc"
    path.parent.mkdir()
    path.write_text(f"X:2\nT:The Wrong Turn\nK:C\nCDE]F|\n\n{TUNE}")
    wrong, abc, midi = MUSIC.read(path)
    assert isinstance(wrong, LeftOut)
    assert wrong.sentence.startswith(
        f"{path}: tune 1 (The Wrong Turn) is no clean ABC (line 4, character "
    )
    assert (abc.name, midi.name) == ("book-002.abc", "book-002.mid")
    others = sorted(MUSIC.sample.glob("*.abc"))[:20]
    for other in others:
        (path.parent / other.name).write_bytes(other.read_bytes())
    told: list[str] = []
    out = tmp_path / "set"
    made = prepared.from_files(MUSIC, path.parent, out, prepared.Stages(), told.append)
    assert told == [f"left out: {wrong.sentence}"]
    assert made.manifest["left_out"] == {"abc2midi finds errors": 1}
    found = [file.name for side in ("train", "validation", "test") for file in made.files(side)]
    assert len(found) == 2 * (1 + len(others))
    assert {abc.name, midi.name} <= set(found)


def test_titles_and_melodies_are_keys_whatever_the_spelling_and_the_key(tmp_path: Path) -> None:
    def keys(title: str, key: str, body: str) -> set[str]:
        path = tmp_path / f"{key}.abc"
        path.write_text(f"X:1\nT:{title}\nK:{key}\n{body}|\n")
        return set(MUSIC.read(path)[0].keys)

    one = keys("The Merry Tailor", "G", "GABc dedc BAGA BcdB GFED")
    assert one & keys("Merry Tailor, The.", "C", "CCCC DDDD")
    assert one & keys("Something else", "A", "ABcd efed cBAB cdec AGFE")
    assert not one & keys("Something else", "A", "ABcd efef cBAB cdec AGFE")
    # Under a title of its own, behind other notes.
    assert one & keys("Something else", "C", "CEGE|CDEF GAGF EDCD EFGE CB,A,G,")
    for title in ("Merry Tailor -- Reel", "The Merry Tailor (2nd setting)", "Merry Tailor; a reel"):
        assert one & keys(title, "C", "CCCC DDDD")
    # What goes up and down by steps is in many tunes.
    scale = "CDEF GABc defg abag fedc BAGF EDCD EFGA"
    assert not keys("One", "C", scale) & keys("Another", "G", scale)


def test_the_forms_of_a_tune_always_share_a_key_and_untitled_ones_share_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "book.abc"
    titles = ("", "T:\n", "T:???\n", "T:The\n")
    path.write_text(
        "\n".join(f"X:1\n{title}K:C\n{'CDEF'[n]}2|\n" for n, title in enumerate(titles))
    )
    items = MUSIC.read(path)
    keys = [{*items[n].keys, *items[n + 1].keys} for n in range(0, len(items), 2)]
    assert [set(items[n].keys) for n in range(0, len(items), 2)] == keys
    assert all(keys)
    assert len(set().union(*keys)) == len(titles)


def test_running_status_is_written_out(tmp_path: Path) -> None:
    on = b"\x00\x90\x3c\x40" + b"\x10\x40\x40" + b"\x10\x3c\x00" + b"\x00\x40\x00"
    track = on + b"\x00\xff\x2f\x00"
    path = tmp_path / "running.mid"
    head = b"MThd\0\0\0\6\0\0\0\1\0\x60"
    path.write_bytes(head + b"MTrk" + len(track).to_bytes(4, "big") + track)
    (item,) = MUSIC.read(path)
    assert item.name == "running.mid"
    assert notes(item.data) == notes(path.read_bytes()) == [(0, 60), (16, 64)]
    assert item.data.count(b"\x90") == 4
    assert plain_midi(item.data, "it") == item.data


def test_the_midi_of_abc2midi_is_plain_already() -> None:
    for path in sorted(MUSIC.sample.glob("*.mid"))[:20]:
        assert plain_midi(path.read_bytes(), "it") == path.read_bytes()


def test_system_messages_and_missing_ends_survive() -> None:
    file = mido.MidiFile()
    track = mido.MidiTrack(
        [mido.Message("sysex", data=(1, 2, 3)), mido.MetaMessage("lyrics", text="la")]
    )
    track.append(mido.Message("note_on", note=60, time=70_000))
    file.tracks.append(track)
    out = io.BytesIO()
    file.save(file=out)
    plain = plain_midi(out.getvalue(), "it")
    read = mido.MidiFile(file=io.BytesIO(plain))
    assert [message.type for message in read.tracks[0]] == [
        *("sysex", "lyrics", "note_on", "end_of_track")
    ]
    assert notes(plain) == [(70_000, 60)]


@given(st.binary(max_size=60))
def test_any_bytes_are_midi_or_refused(tail: bytes) -> None:
    for data in (tail, b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\x10" + tail):
        wrong = MUSIC.judge(data, "mid")
        if wrong != "no whole MIDI file":
            assert plain_midi(plain_midi(data, "it"), "it") == plain_midi(data, "it")
            assert MUSIC.judge(plain_midi(data, "it"), "mid") is None
        else:
            with pytest.raises(UserError, match="it: is no whole MIDI file"):
                plain_midi(data, "it")


@pytest.mark.parametrize("division", [0, 0x8000 | 25 << 8 | 40])
def test_a_midi_file_whose_ticks_are_no_part_of_a_quarter_note_is_not_valid(division: int) -> None:
    right = next(MUSIC.sample.glob("*.mid")).read_bytes()
    wrong = right[:12] + division.to_bytes(2, "big") + right[14:]
    assert MUSIC.judge(right, "mid") is None
    assert MUSIC.judge(wrong, "mid") == "no whole MIDI file"
    with pytest.raises(UserError, match="it: is no whole MIDI file"):
        plain_midi(wrong, "it")


@given(st.binary(max_size=40), st.sampled_from([b"XFIH", b"cue ", b"MTrq"]))
def test_chunks_of_unknown_kinds_are_skipped_wherever_they_stand(said: bytes, kind: bytes) -> None:
    right = next(MUSIC.sample.glob("*.mid")).read_bytes()
    said += b"."  # What ends as a track does is judged to be one.
    chunk = kind + len(said).to_bytes(4, "big") + said
    two = right[:8] + b"\0\1\0\2" + right[12:] + right[14:]
    assert plain_midi(right[:14] + chunk + chunk + right[14:], "it") == right
    assert plain_midi(right + chunk, "it") == right
    assert plain_midi(two[: len(right)] + chunk + two[len(right) :], "it") == two
    assert MUSIC.judge(right[:14] + chunk + right[14:], "mid") is None
    with pytest.raises(UserError, match="it: is no whole MIDI file"):
        plain_midi(right[:14] + chunk[:-1] + right[14:-9], "it")


def test_a_midi_file_has_as_many_tracks_as_its_header_says() -> None:
    right = next(MUSIC.sample.glob("*.mid")).read_bytes()
    head, tracks = right[:14], right[14:]
    two = head + tracks + tracks
    assert MUSIC.judge(two, "mid") == "no whole MIDI file"
    with pytest.raises(UserError, match="it: is no whole MIDI file"):
        plain_midi(two, "it")
    of_format = {kind: bytes([0, kind, 0, 2]) + two[12:] for kind in (0, 1)}
    assert MUSIC.judge(two[:8] + of_format[1], "mid") is None
    wrong = MUSIC.judge(two[:8] + of_format[0], "mid")
    assert wrong == "2 tracks where its header says 2 of format 0"


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda abc: abc.replace(b"T:", b"T:\0", 1), "holds the control character U+0000"),
        (lambda abc: abc.replace(b"T:", b"T:\xff", 1), "no UTF-8 at byte"),
        (lambda abc: b"zzz\n" + abc, "something else before the tune"),
        (lambda _: b"X:1\nT:A\nM:4/4\nL:1/8\nK:C\nz8|\n", "a tune without notes"),
        (lambda abc: b"% comment\n" + abc, None),
    ],
)
def test_what_is_no_clean_tune_is_not_valid(spoil: object, wrong: str | None) -> None:
    assert callable(spoil)
    found = MUSIC.judge(spoil(clean(TUNE).encode()), "abc")
    assert found is None if wrong is None else (found or "").startswith(wrong)


@pytest.mark.parametrize("length", [0, 17, 1 << 20])
def test_a_midi_file_that_is_not_as_long_as_it_says_is_mended(length: int) -> None:
    assert isinstance(MUSIC, Mends)
    for path in sorted(MUSIC.sample.glob("*.mid"))[:5]:
        right = path.read_bytes()
        place = right.index(b"MTrk") + 4
        wrong = right[:place] + length.to_bytes(4, "big") + right[place + 4 :]
        assert MUSIC.judge(wrong, "mid") in ("not as long as its tracks say", "no whole MIDI file")
        assert MUSIC.mend(wrong, "mid") == right
        assert MUSIC.mend(wrong[:-3], "mid") is None  # nothing ends its track
        title = wrong.index(b"\xff\x01", place) + 2
        for guess in (0, 3, 40, 127):
            worse = wrong[:title] + bytes([guess]) + wrong[title + 1 :]
            assert MUSIC.mend(worse, "mid") == right
        assert MUSIC.mend(wrong, "abc") is None


@given(st.binary(max_size=60))
def test_what_is_mended_is_valid(tail: bytes) -> None:
    for data in (tail, b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\x10" + tail + b"\xff\x2f\0"):
        better = MUSIC.mend(data, "mid")
        assert better is None or MUSIC.judge(better, "mid") is None


def test_generated_tunes_are_judged_and_shown_in_the_other_form() -> None:
    abc = clean(TUNE).encode()
    assert MUSIC.judge(abc, "abc") is None
    midi = MUSIC.show(abc, "abc")["mid"]
    assert MUSIC.judge(midi, "mid") is None
    assert b"K:" in MUSIC.show(midi, "mid")["abc"]
    assert MUSIC.judge(b"hello", "abc") == "no ABC tune"
    assert "line 3" in (MUSIC.judge(b"X:1\nK:C\nCDE]F\n", "abc") or "")
    assert MUSIC.judge(midi[:-5], "mid") == "no whole MIDI file"
    assert MUSIC.judge(b"\xff\xfe", "abc") == "no UTF-8 at byte 0"


@pytest.mark.parametrize(
    "data", [b"", b"X:1\nK:C\n" + bytes(range(256)) * 4, b"X:1\nK:\n" + b"[" * 5000]
)
def test_hostile_tunes_end_in_a_refusal_or_a_file(data: bytes) -> None:
    try:
        made = abcmidi.to_midi(data)
    except abcmidi.Refused:
        return
    assert made.startswith(b"MThd")


def test_repeats_and_tunes_with_errors_are_left_out_of_the_default_set(tmp_path: Path) -> None:
    folder = tmp_path / "music21" / "corpus" / "oneills1850"
    folder.mkdir(parents=True)
    (folder / "a.abc").write_text(f"{TUNE}\n{TUNE}\nX:2\nT:bad\nK:C\nCD]E\n")
    other = folder.parent / "essenFolksong"
    other.mkdir()
    (other / "b.abc").write_text(TUNE.replace("Lost", "Found"))
    found = list(MUSIC.items(tmp_path, lambda _done, _total: None))
    assert [item.name for item in found if isinstance(item, Item)] == [
        "oneills1850_a-001.abc",
        "oneills1850_a-001.mid",
    ]
    reasons = [item.reason for item in found if isinstance(item, LeftOut)]
    assert reasons == ["the same tune again", "abc2midi finds errors"]
