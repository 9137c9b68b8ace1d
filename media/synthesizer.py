"""MIDI as notes, and notes as sound: what a page needs to draw a tune and to play it.

Browsers play no MIDI. So each note becomes a sum of decaying sines, which tells pitch and rhythm
truly and is not meant to sound like any instrument. Channel 10, percussion, is left out.
"""

from __future__ import annotations

import io
import itertools
import wave
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cpusim.errors import UserError
from media.music import plain_midi

RATE = 11_025
"""Samples a second: partials up to 5.5 kHz, and 22 KB a second."""
LONGEST = 30.0
"""Seconds of a tune that are kept."""
_MOST_NOTES = 4_000
"""A tune of half a minute has hundreds; a file made to be slow may have a million."""
_PARTIALS = (1.0, 0.45, 0.22, 0.1)
"""Strengths of the fundamental and its overtones: between a flute and a harp."""
_ATTACK, _RELEASE, _HALF_LIFE = 0.006, 0.12, 0.45  # seconds
_PERCUSSION = 9
_LOUDEST = 0.8


class Note(NamedTuple):
    """`start`, `length`: seconds. `pitch`: MIDI's, 60 is middle C. `velocity`: 1 to 127."""

    start: float
    length: float
    pitch: int
    velocity: int


def notes(midi: bytes) -> list[Note]:
    """The notes that begin in a MIDI file's first `LONGEST` seconds, in order, at most 4,000.

    A note that is never released lasts to the end. Raises `UserError` if it is no whole MIDI
    file, and what `plain_midi` raises where mido is missing.
    """
    plain = plain_midi(midi, "this tune")
    import mido

    file = mido.MidiFile(file=io.BytesIO(plain))
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise UserError("this tune: has no single line of time in beats; leave it out")
    found: list[Note] = []
    sounding: dict[tuple[int, int], tuple[float, int]] = {}
    now = 0.0

    def end(key: tuple[int, int]) -> None:
        if key in sounding:
            start, velocity = sounding.pop(key)
            length = min(now, LONGEST) - start
            if length > 0:
                found.append(Note(start, length, key[1], velocity))

    for message in file:
        now += message.time
        if now >= LONGEST or len(found) + len(sounding) >= _MOST_NOTES:
            break
        if message.type not in ("note_on", "note_off") or message.channel == _PERCUSSION:
            continue
        end((message.channel, message.note))
        if message.type == "note_on" and message.velocity:
            sounding[message.channel, message.note] = now, message.velocity
    for key in list(sounding):
        end(key)
    return sorted(found)


def wav(tune: Sequence[Note]) -> bytes:
    """A tune as 16-bit mono WAV. Raises `ValueError` for no notes."""
    total = round((max(note.start + note.length for note in tune) + _RELEASE) * RATE)
    sound = np.zeros(total, np.float32)
    for (pitch, length), same in itertools.groupby(
        sorted(tune, key=lambda note: (note.pitch, note.length)),
        key=lambda note: (note.pitch, note.length),
    ):
        tone = _tone(pitch, length)
        for note in same:
            first = round(note.start * RATE)
            part = sound[first : first + len(tone)]
            part += tone[: len(part)] * (note.velocity / 127)
    peak = float(np.abs(sound).max())
    samples = (sound * (_LOUDEST * 32767 / peak if peak else 0)).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return out.getvalue()


def _tone(pitch: int, length: float) -> npt.NDArray[np.float32]:
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    at = np.arange(round((length + _RELEASE) * RATE), dtype=np.float32) / RATE
    tone = np.zeros_like(at)
    for number, strength in enumerate(_PARTIALS, 1):
        if number * frequency < RATE / 2:  # what is above would fold back as another pitch
            tone += strength * np.sin(2 * np.pi * number * frequency * at)
    envelope = np.minimum(at / _ATTACK, 1) * 0.5 ** (at / _HALF_LIFE)
    released = np.clip((at - length) / _RELEASE, 0, 1)
    return (tone * envelope * (1 - released)).astype(np.float32)
