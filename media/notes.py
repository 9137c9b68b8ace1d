"""What a tune sounds like: its note events, read from MIDI or, by abc2midi, from ABC; and where two
tunes part.

Times are in quarter notes, so that files of other resolutions compare.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media import abcmidi
from media.text import decode

MOST_BYTES = 1 << 20
MIDI_SUFFIXES = (".mid", ".midi", ".rmi")
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


class Note(NamedTuple):
    """A note event. `onset`, `duration`: in quarter notes. `pitch`: a MIDI key number, 60 is C4."""

    onset: Fraction
    pitch: int
    duration: Fraction

    @property
    def name(self) -> str:
        return f"{_NAMES[self.pitch % 12]}{self.pitch // 12 - 1}"


@dataclass(frozen=True)
class Tune:
    """`notes`: in the order of onset, then pitch. `meters`: from which quarter note on, numerator
    and denominator. `fault`: what is wrong with the file though it could be read."""

    notes: tuple[Note, ...]
    meters: tuple[tuple[Fraction, int, int], ...] = ()
    fault: str | None = None

    def place(self, onset: Fraction) -> tuple[int, Fraction]:
        """Bar and beat at a time, both from 1, by the meters; bars are counted from the beginning,
        so that an upbeat fills a part of bar 1."""
        bars, start, length, beat = 0, Fraction(0), Fraction(4), Fraction(1)
        for since, above, below in self.meters:
            if since > onset:
                break
            bars += -((start - since) // length)  # rounded up: a meter begins a bar
            start, length, beat = since, Fraction(4 * above, below), Fraction(4, below)
        whole = (onset - start) // length
        return bars + whole + 1, (onset - start - whole * length) / beat + 1


LONGEST_DELTA = (1 << 28) - 1
"""Ticks between two events, as many as a MIDI file can say; mido reads more."""


def read_tune(path: Path) -> Tune:
    """The notes of a MIDI file, or of the ABC tune in a file: what can be learned can be compared.

    Raises `UserError` if it is neither, or is damaged.
    """
    data = unwrapped(read_bytes(path))
    kind = "mid" if data.startswith(b"MThd") else "abc"
    if kind == "abc" and path.suffix.lower() in MIDI_SUFFIXES:
        raise UserError(f"{path}: is no MIDI file; restore it or leave it out")
    try:
        return _midi(data, path) if kind == "mid" else tune_of(_abc(data, path), kind)
    except Unreadable as error:
        raise UserError(f"{path}: {error}") from None


def unwrapped(data: bytes) -> bytes:
    """The MIDI file in a RIFF file of the form `RMID`; anything else as it is."""
    place = 12
    if data.startswith(b"RIFF") and data[8:place] == b"RMID":
        while place < len(data):
            stop = place + 8 + int.from_bytes(data[place + 4 : place + 8], "little")
            if data[place : place + 4] == b"data":
                return data[place + 8 : stop]
            place = stop + stop % 2  # Chunks begin at even places.
    return data


def _midi(data: bytes, path: Path) -> Tune:
    """Of a MIDI file, with what is wrong with one whose notes can be read all the same."""
    try:
        return tune_of(data, "mid")
    except Unreadable:
        from media.music import MUSIC, plain_midi

        tune = tune_of(plain_midi(data, str(path)), "mid")
        return replace(tune, fault=MUSIC.judge(data, "mid"))


def _abc(data: bytes, path: Path) -> bytes:
    """As UTF-8. What is of an older encoding stays as it is: its notes are in ASCII."""
    try:
        return decode(data, str(path)).encode()
    except UserError:
        if b"\0" in data:
            raise
        return data


class Unreadable(UserError):
    """What is wrong with bytes that should be a tune, in a sentence that names no file."""


def tune_of(data: bytes, kind: str) -> Tune:
    """The notes in a file's bytes; `kind`: `mid` or `abc`. Raises `Unreadable`."""
    if kind == "abc":
        if len(re.findall(rb"^X:", data, re.MULTILINE)) > 1:
            raise Unreadable("holds several tunes, where one is compared; make a file of each")
        try:
            data = abcmidi.to_midi(data)
        except abcmidi.Refused as error:
            raise Unreadable(f"is no clean ABC ({error}); mend it or leave it out") from None
    if len(data) > MOST_BYTES:
        raise Unreadable(f"has {len(data):,} bytes, more than a tune has; leave it out")
    file = whole_midi(data)
    if file is not None:
        return _tune(file, None)
    # A model may write every note right and be wrong about how long the track is, which
    # stands before it.
    mended = mend_track_length(data)
    file = None if mended is None else whole_midi(mended)
    if file is None:
        raise Unreadable("is no whole MIDI file; restore it or leave it out")
    return _tune(file, "the length of its track is wrong")


def mend_track_length(data: bytes) -> bytes | None:
    """A MIDI file of one track with the track's length made to fit; None if it is none such."""
    if len(data) < 22 or data[:8] != b"MThd\0\0\0\x06" or data[14:18] != b"MTrk":
        return None
    return data[:18] + (len(data) - 22).to_bytes(4, "big") + data[22:]


def whole_midi(data: bytes) -> Any:
    """mido's file; None if it reads none, a track lacks its end, or something stands behind it."""
    try:
        import mido
    except ImportError:
        raise UserError(
            "MIDI files are read by mido; install it with pip install 'neural-cpu-lab[media]'"
        ) from None
    stream = io.BytesIO(data)
    try:
        file = mido.MidiFile(file=stream)
    except Exception:
        # mido's reader raises anything at all for damaged files.
        return None
    if stream.read(1) or not file.tracks or not 0 < file.ticks_per_beat < 1 << 15:
        return None
    if not all(track and track[-1].type == "end_of_track" for track in file.tracks):
        return None
    if any(message.time > LONGEST_DELTA for track in file.tracks for message in track):
        return None
    return file


def _tune(file: Any, fault: str | None) -> Tune:
    notes: list[Note] = []
    meters: dict[Fraction, tuple[int, int]] = {}
    for track in file.tracks:
        ticks = 0
        sounding: dict[tuple[int, int], list[int]] = defaultdict(list)
        ended: list[tuple[int, int, int]] = []
        for message in track:
            ticks += message.time
            if message.type == "time_signature":
                at = Fraction(ticks, file.ticks_per_beat)
                meters[at] = (max(1, message.numerator), message.denominator)
            elif message.type == "note_on" and message.velocity:
                sounding[message.channel, message.note].append(ticks)
            elif message.type in ("note_on", "note_off"):
                began = sounding[message.channel, message.note]
                if began:
                    ended.append((began.pop(0), message.note, ticks))
        # What is never let go sounds to the end.
        left = [(on, pitch, ticks) for (_, pitch), began in sounding.items() for on in began]
        for on, pitch, off in ended + left:
            onset, duration = (Fraction(time, file.ticks_per_beat) for time in (on, off - on))
            notes.append(Note(onset, pitch, duration))
    return Tune(tuple(sorted(notes)), tuple((at, *meters[at]) for at in sorted(meters)), fault)


class Difference(NamedTuple):
    """The first place where two tunes part. `bar`, `beat`: by the expected tune's meters, from 1.
    `expected`, `found`: the notes there; None where there is none."""

    bar: int
    beat: Fraction
    expected: Note | None
    found: Note | None


@dataclass(frozen=True)
class Comparison:
    """`right`: how many note events both tunes have. `expected`, `found`: how many each has."""

    right: int
    expected: int
    found: int
    first: Difference | None

    @property
    def same(self) -> bool:
        return self.first is None


def compare(expected: Tune, found: Tune) -> Comparison:
    """Every note event of two tunes: pitch, onset and duration must be equal."""
    right = (Counter(expected.notes) & Counter(found.notes)).total()
    first = None
    for place in range(max(len(expected.notes), len(found.notes))):
        one, other = _at(expected.notes, place), _at(found.notes, place)
        if one != other:
            onset = min(note.onset for note in (one, other) if note is not None)
            first = Difference(*expected.place(onset), one, other)
            break
    return Comparison(right, len(expected.notes), len(found.notes), first)


def in_words(result: Comparison) -> str:
    """How many notes are right, and where the tunes part."""
    if result.first is None:
        return f"all {result.expected:,} notes are right"
    first = result.first
    more = result.found - result.expected
    count = f", {abs(more):,} too {'many' if more > 0 else 'few'}" if more else ""
    return (
        f"{result.right:,} of {result.expected:,} notes right{count};"
        f" they part at bar {first.bar}, beat {number(round(first.beat, 2))}"
    )


def number(value: Fraction) -> str:
    """As a decimal number of up to four digits behind the point."""
    return f"{float(value):.4f}".rstrip("0").rstrip(".")


def _at(notes: Sequence[Note], place: int) -> Note | None:
    return notes[place] if place < len(notes) else None
