"""Sound: one second, 8 bits, one channel, 8,000 samples a second, as WAV, 8,044 bytes.

Default: the prompts that people recorded for the Asterisk telephone exchange in five languages.
What was said, in whichever language, stands on one side of the split, and so does what was cut
out of the same recording.
"""

from __future__ import annotations

import hashlib
import io
import struct
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media.modality import Debian, Item, LeftOut, Missing, Progress, PyPI
from media.split import beside

RATE = 8000
"""Samples a second, and a clip."""
_RATES = 1_000, 400_000
_SILENT = 0.02
"""A clip whose loudest sample is below this share of the loudest possible is dropped."""
_SHORTEST = RATE // 8
"""A rest of fewer samples than this, behind the last whole second, is dropped."""
_MIDDLE = 128
"""The sample of silence."""
_RUN = 64
"""Samples in a row by which pieces of one recording know each other."""
_RUNS = 256
"""One of so many runs is looked at: which it is depends on its samples alone."""
_LOUD = 16
"""Runs whose samples lie closer together than this may be alike by chance."""
_FACTOR = 6364136223846793005
"""Of the polynomial, modulo 2^64, that a run's hash is; Knuth's MMIX."""
_HEADER = 44
"""Bytes of a WAV file before its samples."""
_FORM = struct.pack("<8sIHHIIHH4s", b"WAVEfmt ", 16, 1, 1, RATE, RATE, 1, 8, b"data")
"""What its header says but for two sizes: PCM, one channel, a byte a sample."""
_WIDEST = 4
"""Bytes of a sample that are read here."""
_UNKNOWN = 0x7FFF0000
"""Programs that write to a pipe, and so cannot know how long the sound will be, say some size from
here on: 0x7FFFFFFF, 0x80000000 and 0xFFFFFFFF, less a header, are all in use."""
_NO_WAV = wave.Error, EOFError, RuntimeError
"""What `wave` raises for what is none; the last where a size leads out of the file."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Audio:
    name: str = "audio"
    summary: str = "one second of 8-bit mono WAV at 8 kHz, 8,044 bytes"
    extensions: tuple[str, ...] = ("wav",)
    shown_as: tuple[str, ...] = ()
    packages: tuple[Debian | PyPI, ...] = tuple(
        Debian(f"asterisk-core-sounds-{language}-wav")
        for language in ("en", "es", "fr", "it", "ru")
    )
    source: str = "spoken prompts of Asterisk in English, Spanish, French, Italian and Russian"
    licence: str = "en, es, fr: CC-BY-SA 3.0; it, ru: CC-BY 3.0"
    sample: Path = Path(__file__).parent / "samples" / "audio"
    sample_source: str = "digits and letters of Asterisk's prompts"
    sample_licence: str = "en, es, fr: CC-BY-SA 3.0; it, ru: CC-BY 3.0"
    recipe: int = 2

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        """Clips of the prompts, `sounds/VOICE/PROMPT.wav`; a voice begins with its language."""
        paths = [path for path in sorted(folder.rglob("*.wav")) if "sounds" in path.parts]
        for done, path in enumerate(paths):
            progress(done, len(paths))
            below = path.parts.index("sounds") + 1
            language = path.parts[below].split("_")[0]
            prompt = "/".join(path.parts[below + 1 :]).removesuffix(".wav")
            stem = f"{language}_{prompt.replace('/', '-')}"
            samples = _samples(path)
            if not len(samples):
                yield LeftOut("without a sample")
            for item in _clips(samples, stem, f"prompt {prompt}"):
                yield item or LeftOut("silent")
        progress(len(paths), len(paths))

    def read(self, path: Path) -> Sequence[Item]:
        """The seconds of a recording; `path` may be of any kind that libsndfile reads."""
        key = f"recording {hashlib.sha256(read_bytes(path)).hexdigest()}"
        # A lossy form of it has hardly a sample in common with it.
        clips = [clip for clip in _clips(_samples(path), path.stem, key, beside(path)) if clip]
        if not clips:
            raise UserError(f"{path}: is empty, or silent from beginning to end; leave it out")
        return clips

    def show(self, data: bytes, extension: str) -> Mapping[str, bytes]:  # noqa: ARG002
        return {}

    def judge(self, data: bytes, extension: str) -> str | None:  # noqa: ARG002
        try:
            with wave.open(io.BytesIO(data)) as file:
                form = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
                count = file.getnframes()
        except _NO_WAV:
            return "no WAV that opens"
        if form != (1, 8, RATE):
            return f"{form[0]} channels, {form[1]} bits, {form[2]:,} samples a second"
        if int.from_bytes(data[4:8], "little") != len(data) - 8 or data[8:40] != _FORM:
            return "its header contradicts itself"
        # A chunk of an odd length is followed by a byte that says nothing.
        if len(data) - _HEADER not in (count, count + count % 2) or not count:
            return f"{len(data) - _HEADER:,} samples where its header says {count:,}"
        return None


AUDIO = Audio()


def _clips(samples: Samples, stem: str, *keys: str) -> Iterator[Item | None]:
    """A recording second by second, the last one filled with silence; None for a silent one."""
    for number, start in enumerate(range(0, len(samples), RATE)):
        second = samples[start : start + RATE]
        if number and len(second) < _SHORTEST:
            return
        if np.abs(second).max() < _SILENT:
            yield None
            continue
        whole = np.zeros(RATE, np.float32)
        whole[: len(second)] = second
        values = np.clip(np.floor(whole * _MIDDLE + 0.5) + _MIDDLE, 0, 255).astype(np.uint8)
        yield Item(f"{stem}-{number:03d}.wav", _wav(values), (*keys, *_sounds(values)))


def _sounds(values: npt.NDArray[np.uint8]) -> list[str]:
    """Some runs of samples, the same ones wherever they stand: one recording may be a part of
    another, or have two names."""
    runs = np.lib.stride_tricks.sliding_window_view(values.astype(np.uint64), _RUN)
    # Sums in place of a matrix product, which numpy would do bit by bit for whole numbers.
    hashes = np.zeros(len(runs), np.uint64)
    for place in range(_RUN):
        hashes = hashes * np.uint64(_FACTOR) + runs[:, place]
    # The lowest bits depend on the last few samples alone.
    chosen = np.flatnonzero((hashes >> np.uint64(32)) % np.uint64(_RUNS) == 0)
    loud = [place for place in chosen if np.ptp(runs[place]) >= _LOUD]
    return sorted({f"sound {hashes[place]:016x}" for place in loud})


def _wav(values: npt.NDArray[np.uint8]) -> bytes:
    """Samples of 8 bits as WAV."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(RATE)
        file.writeframes(values.tobytes())
    return out.getvalue()


def _samples(path: Path) -> Samples:
    """A recording as one channel of 8,000 samples a second, from -1 to 1.

    Raises `UserError` for what is no recording, or was cut short.
    """
    data = read_bytes(path)
    try:
        frames, rate = _pcm(data, path)
    except _NO_WAV:
        frames, rate = _other(data, path)
    if not _RATES[0] <= rate <= _RATES[1]:
        raise UserError(f"{path}: says {rate:,} samples a second, which no recording has")
    mono: Samples = frames.mean(axis=1, dtype=np.float32)
    if rate == RATE:
        return mono
    try:
        import soxr
    except ImportError:
        raise Missing(
            f"{path}: has {rate:,} samples a second, not {RATE:,}; install what converts it with"
            " pip install 'neural-cpu-lab[media]'"
        ) from None
    changed: Samples = soxr.resample(mono, rate, RATE).astype(np.float32)
    return changed


def _pcm(data: bytes, path: Path) -> tuple[Samples, int]:
    """Frames (N, channels) and rate of a plain WAV file of 8 to 32 bits."""
    with wave.open(io.BytesIO(data)) as file:
        channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
        count = file.getnframes()
        if width > _WIDEST:
            raise wave.Error("what libsndfile is for")
        raw = np.frombuffer(file.readframes(count), np.uint8)
    frame = channels * width
    if count * frame >= _UNKNOWN:
        raw = raw[: len(raw) // frame * frame]
    elif len(raw) < count * frame:
        raise UserError(
            f"{path}: was cut short: {len(raw):,} bytes of sound where its header says"
            f" {count * frame:,}; restore it or leave it out"
        )
    if width == 1:
        values: Samples = np.asarray((raw - float(_MIDDLE)) / _MIDDLE, np.float32)
    else:
        # As the upper bytes of 32-bit numbers, so that each width is of one scale.
        wide = np.zeros((len(raw) // width, 4), np.uint8)
        wide[:, 4 - width :] = raw.reshape(-1, width)
        values = np.asarray(wide.view("<i4")[:, 0] / 2**31, np.float32)
    return values.reshape(-1, channels), rate


def _other(data: bytes, path: Path) -> tuple[Samples, int]:
    """The same of what libsndfile reads: WAV of floats, FLAC, Ogg, MP3, AIFF and more."""
    try:
        import soundfile
    except ImportError:
        raise Missing(
            f"{path}: is no plain WAV file; if it is another kind of sound, install what reads it"
            " with pip install 'neural-cpu-lab[media]'"
        ) from None
    try:
        read: tuple[npt.NDArray[Any], int] = soundfile.read(
            io.BytesIO(data), dtype="float32", always_2d=True
        )
    except (RuntimeError, TypeError, ValueError):
        raise UserError(
            f"{path}: cannot be read as sound; it is damaged or of another kind, so restore it"
            " or leave it out"
        ) from None
    frames, rate = read
    sound: Samples = np.nan_to_num(frames).astype(np.float32)
    return sound, rate
