"""Sound of every kind that users have becomes 8-bit WAV, or is refused by name."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from cpusim.errors import UserError
from media.audio import AUDIO
from media.split import groups

RATE = 8000


def tone(seconds: float = 1.0, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def write(path: Path, samples: np.ndarray, rate: int = RATE, kind: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=kind)
    return path


def heard(data: bytes) -> np.ndarray:
    """The samples of a clip, from -1 to 1."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 1, RATE)
        raw = np.frombuffer(file.readframes(RATE), np.uint8)
    return (raw.astype(float) - 128) / 128


@pytest.mark.parametrize("kind", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_width_sounds_the_same(kind: str, tmp_path: Path) -> None:
    (clip,) = AUDIO.read(write(tmp_path / "tone.wav", tone(), kind=kind))
    assert clip.name == "tone-000.wav"
    assert len(clip.data) == 8044
    assert AUDIO.judge(clip.data, "wav") is None
    assert np.abs(heard(clip.data) - tone()).max() < 1.6 / 128


def test_stereo_is_mixed_and_other_rates_are_changed(tmp_path: Path) -> None:
    left = tone(rate=44100)
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    (clip,) = AUDIO.read(write(tmp_path / "stereo.wav", stereo, 44100, "PCM_24"))
    # The filter needs a moment at both ends.
    assert np.abs(heard(clip.data) - tone() / 2)[100:-100].max() < 2 / 128


@pytest.mark.parametrize("form", ["flac", "ogg", "aiff"])
def test_other_containers_are_read(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"tone.{form}"
    soundfile.write(path, tone(), RATE)
    (clip,) = AUDIO.read(path)
    assert np.abs(heard(clip.data) - tone())[400:-400].max() < 0.1


def test_a_recording_becomes_its_seconds_and_silence_is_dropped(tmp_path: Path) -> None:
    parts = [tone(1), np.zeros(RATE), tone(0.5), np.zeros(RATE // 2), tone(0.1)]
    clips = AUDIO.read(write(tmp_path / "long.wav", np.concatenate(parts)))
    assert [clip.name for clip in clips] == ["long-000.wav", "long-002.wav"]
    assert len({clip.keys[0] for clip in clips}) == 1
    (short,) = AUDIO.read(write(tmp_path / "short.wav", tone(0.05)))
    assert (heard(short.data)[401:] == 0).all()


def test_the_prompts_of_all_languages_share_a_key(tmp_path: Path) -> None:
    for voice in ("en_US_f_One", "fr_CA_m_Two"):
        folder = tmp_path / voice / "sounds" / voice / "digits"
        folder.mkdir(parents=True)
        write(folder / "1.wav", tone())
        (folder / "none.wav").write_bytes(write(tmp_path / "none.wav", np.zeros(0)).read_bytes())
        write(folder / "silence.wav", np.zeros(RATE))
    found = list(AUDIO.items(tmp_path, lambda _done, _total: None))
    assert [getattr(item, "name", None) or item[0] for item in found] == [
        *("en_digits-1-000.wav", "without a sample", "silent"),
        *("fr_digits-1-000.wav", "without a sample", "silent"),
    ]
    assert [found[place][2][0] for place in (0, 3)] == ["prompt digits/1"] * 2  # type: ignore[misc]


def test_pieces_of_one_recording_share_a_key_wherever_they_are_cut(tmp_path: Path) -> None:
    def keys(name: str, samples: np.ndarray) -> set[str]:  # type: ignore[type-arg]
        folder = tmp_path / f"{name}" / "sounds" / "en"
        folder.mkdir(parents=True)
        write(folder / f"{name}.wav", samples)
        items = AUDIO.items(tmp_path / name, lambda _done, _total: None)
        return {key for item in items for key in item[2]}  # type: ignore[misc]

    rng = np.random.default_rng(1)
    whole, other = rng.uniform(-0.5, 0.5, (2, 3 * RATE))
    assert keys("whole", whole) & keys("part", whole[RATE // 3 :][:RATE])
    assert not keys("one", whole) & keys("other", other)
    assert not keys("quiet", whole / 10) & keys("noise", other / 10)


def test_a_recording_stands_with_its_lossy_form_beside_it(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    noise = np.random.default_rng(2).uniform(-0.5, 0.5, 3 * RATE)
    names = ("rec05.wav", "rec05.ogg", "rec05.mp3", "rec06.ogg", "other/rec05.ogg")
    for name in names:
        soundfile.write(tmp_path / name, noise, RATE)
    clips = [clip for name in names[:3] for clip in AUDIO.read(tmp_path / name)]
    assert len(clips) >= 9
    assert len(set(groups([clip.keys for clip in clips]))) == 1
    apart = [AUDIO.read(tmp_path / name)[0].keys for name in (names[0], *names[3:])]
    assert not set(apart[0]) & {*apart[1], *apart[2]}


def header_says(data: bytes, rate: int) -> bytes:
    return data[:24] + rate.to_bytes(4, "little") + data[28:]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: data[:30], "cannot be read as sound"),
        (lambda data: data[:3000], "was cut short: 2,956 bytes of sound where its header says"),
        (lambda _: b"", "cannot be read as sound"),
        (lambda _: b"RIFF\xff\xff\xff\xffWAVEjunk", "cannot be read as sound"),
        (lambda _: b"hello", "cannot be read as sound"),
        (lambda data: header_says(data, 0), "says 0 samples a second"),
        (lambda data: header_says(data, 2**31), "samples a second, which no recording has"),
        (lambda data: data[:44] + bytes(len(data) - 44), "is empty, or silent"),
    ],
)
def test_damaged_and_silent_recordings_are_refused_in_one_sentence(
    spoil: object, sentence: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "bad.wav", tone())
    assert callable(spoil)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        AUDIO.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("width", [5, 8])
def test_samples_too_wide_are_read_by_the_library_or_refused(width: int, tmp_path: Path) -> None:
    path = tmp_path / "wide.wav"
    size, rate = RATE * width, RATE.to_bytes(4, "little")
    form = b"fmt \x10\0\0\0\1\0\1\0" + rate + (RATE * width).to_bytes(4, "little")
    form += width.to_bytes(2, "little") + (8 * width).to_bytes(2, "little")
    sound = b"data" + size.to_bytes(4, "little") + bytes(range(200)) * (size // 200)
    path.write_bytes(b"RIFF" + (size + 36).to_bytes(4, "little") + b"WAVE" + form + sound)
    with pytest.raises(UserError, match=f"^{path}: "):
        AUDIO.read(path)


@pytest.mark.parametrize("place", range(4, 44))
@pytest.mark.parametrize("value", [0, 1, 17, 127, 255])
def test_a_header_that_lies_is_judged_and_read_or_refused(
    place: int, value: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "lie.wav", tone())
    (clip,) = AUDIO.read(path)
    data = bytearray(clip.data)
    data[place] = value
    verdict = AUDIO.judge(bytes(data), "wav")
    assert verdict is None or verdict
    path.write_bytes(data)
    refused = f"{path}: "
    try:
        clips = AUDIO.read(path)
    except UserError as error:
        clips, refused = [], str(error)
    assert clips or refused.startswith(f"{path}: ")


@pytest.mark.parametrize("place", range(44))
def test_a_header_is_valid_as_it_is_and_in_no_other_way(place: int, tmp_path: Path) -> None:
    (clip,) = AUDIO.read(write(tmp_path / "tone.wav", tone()))
    data = bytearray(clip.data)
    assert AUDIO.judge(bytes(data), "wav") is None
    data[place] ^= 1
    assert AUDIO.judge(bytes(data), "wav") is not None


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36, 0xFFFFFFFF])
def test_a_recording_written_to_a_pipe_is_as_long_as_it_is(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "whole.wav", tone())
    data, piped = path.read_bytes(), tmp_path / "piped.wav"
    sizes = size.to_bytes(4, "little")
    piped.write_bytes(data[:4] + sizes + data[8:40] + sizes + data[44:] + b"\0")
    found, expected = AUDIO.read(piped), AUDIO.read(path)
    assert [item.data for item in found] == [item.data for item in expected]


@given(st.binary(max_size=80), st.integers(0, 8044))
def test_any_bytes_are_judged(tail: bytes, cut: int) -> None:
    form = b"fmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0"
    good = b"RIFF\x64\x1f\0\0WAVE" + form + b"data\x40\x1f\0\0" + bytes(RATE)
    assert AUDIO.judge(good, "wav") is None
    for data in (tail, b"RIFF" + tail, good[:44] + tail, good + tail[:1]):
        verdict = AUDIO.judge(data, "wav")
        assert verdict is None or verdict
    assert (AUDIO.judge(good[:cut], "wav") is None) == (cut == len(good))
