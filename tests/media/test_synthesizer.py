"""MIDI becomes the notes that it holds, and notes become sound of their pitch."""

from __future__ import annotations

import io
import wave

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim.errors import UserError
from media.synthesizer import LONGEST, RATE, Note, notes, wav


def midi(*messages: mido.Message | mido.MetaMessage, kind: int = 0, ticks: int = 480) -> bytes:
    """A file of one track; times are ticks since the message before, 960 of them a second."""
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    file.tracks.append(mido.MidiTrack(messages))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def on(note: int, time: int = 0, velocity: int = 100, channel: int = 0) -> mido.Message:
    return mido.Message("note_on", note=note, time=time, velocity=velocity, channel=channel)


def off(note: int, time: int = 0) -> mido.Message:
    return mido.Message("note_off", note=note, time=time)


def test_a_note_lasts_from_its_beginning_to_its_release() -> None:
    tune = midi(on(60), on(64, 480), off(60, 480), on(64, 480, velocity=0))
    assert notes(tune) == [Note(0, 1, 60, 100), Note(0.5, 1, 64, 100)]


def test_a_change_of_tempo_changes_what_follows() -> None:
    slower = mido.MetaMessage("set_tempo", tempo=1_000_000)
    assert notes(midi(on(60), off(60, 480), slower, on(62), off(62, 480))) == [
        Note(0, 0.5, 60, 100),
        Note(0.5, 1, 62, 100),
    ]


def test_a_note_struck_again_ends_and_one_never_released_lasts_to_the_end() -> None:
    assert notes(midi(on(60), on(60, 480), on(62), on(61, 480))) == [
        Note(0, 0.5, 60, 100),
        Note(0.5, 0.5, 60, 100),
        Note(0.5, 0.5, 62, 100),
    ]


def test_percussion_is_left_out() -> None:
    assert notes(midi(on(36, channel=9), on(60), off(60, 480))) == [Note(0, 0.5, 60, 100)]


def test_what_lies_beyond_half_a_minute_is_cut_off() -> None:
    tune = notes(midi(on(60), on(62, 960 * 1000), off(60, 960), off(62, 960)))
    assert tune == [Note(0, LONGEST, 60, 100)]


@pytest.mark.parametrize("tune", [midi(on(60), kind=2), midi(on(60), ticks=-6144), b"", b"MThd"])
def test_what_has_no_line_of_time_is_refused(tune: bytes) -> None:
    with pytest.raises(UserError, match="this tune"):
        notes(tune)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_damaged_files_are_read_or_refused(junk: bytes, place: int) -> None:
    whole = midi(on(60), on(64, 480), off(60, 480), off(64, 480))
    try:
        found = notes(whole[:place] + junk + whole[place + len(junk) :])
    except UserError:
        return
    assert all(0 <= note.start < LONGEST and 0 < note.length <= LONGEST for note in found)


def heard(sound: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(sound)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)


@pytest.mark.parametrize(("pitch", "hertz"), [(69, 440), (57, 220), (60, 261.63), (84, 1046.5)])
def test_a_note_sounds_at_its_pitch_and_dies_away(pitch: int, hertz: float) -> None:
    samples = heard(wav([Note(0.25, 1, pitch, 90)]))
    strongest = np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)
    assert abs(strongest - hertz) < 2
    assert not samples[: RATE // 4].any()
    early, late = (np.abs(samples[int(at * RATE) :][:400]).max() for at in (0.3, 1.1))
    assert early > 2 * late > 0
    assert np.abs(samples).max() < 32767


def test_notes_at_once_sound_together() -> None:
    samples = heard(wav([Note(0, 1, 69, 90), Note(0, 1, 76, 90)]))
    spectrum = np.abs(np.fft.rfft(samples))
    for hertz in (440, 659.26):
        near = round(hertz * len(samples) / RATE)
        assert spectrum[near - 2 : near + 3].max() > spectrum.max() / 3
