"""Music: tunes as ABC text and as the MIDI that abc2midi makes of them, both files of one set.

Default: the Irish, Scottish, American and English tunes in the corpus of music21. A tune stands
on one side of the split under all its titles and in all its copies, in both forms.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media import abcmidi
from media.abctext import FIELD, PITCH, SILENT, pitch_place
from media.modality import Debian, Item, LeftOut, Missing, Progress, PyPI
from media.notes import (
    LONGEST_DELTA,
    MIDI_SUFFIXES,
    Unreadable,
    compare,
    in_words,
    mend_track_length,
    tune_of,
    unwrapped,
    whole_midi,
)
from media.split import beside
from media.text import TEXT, decode

_DROPPED = re.compile(rf'"[^"]*"|(?P<kept>{SILENT})|[uvkH~]')
_UNSUNG = re.compile(rf"{SILENT}|\{{[^{{}}\n]*\}}")
_RUN = 16
"""Steps from note to note that two tunes share only if they are versions of one."""
_FEWEST = 3
"""Different steps in such a run; scales and trills are in many tunes."""
_VERSION = re.compile(r"\s+--?\s+|\s*[(\[;]")
"""What follows a title's own words, as in "X -- Jig" and "X (2nd setting)"."""
_EVENT = re.compile(
    rb"[\x80-\xff]{0,3}[\x00-\x7f]"  # ticks since the one before
    rb"(?:[\x80-\xbf\xe0-\xef][\x00-\x7f]{2}|[\xc0-\xdf][\x00-\x7f]|(?P<text>\xff[\x01-\x07])"
    rb"|\xff(?:\x2f\x00|[\x20\x21]\x01.|\x51\x03...|\x54\x05.{5}|\x58\x04.{4}|\x59\x02..))",
    re.DOTALL,
)
_LETTERS = re.compile(rb".([\x20-\x7e]{0,127})", re.DOTALL)
"""A length, which may be wrong, and a text."""
_CHUNK = re.compile(rb"[\x20-\x7e]{4}.{4}", re.DOTALL)
"""How a chunk of a MIDI file begins: with its kind and its length."""
_TRACK, _TRACK_END = b"MTrk", b"\xff\x2f\x00"
_MOST_MIDI = 1 << 20


@dataclass(frozen=True)
class Music:
    name: str = "music"
    summary: str = "tunes as ABC text, and as MIDI"
    extensions: tuple[str, ...] = ("abc", "mid")
    shown_as: tuple[str, ...] = ("mid", "abc")
    packages: tuple[Debian | PyPI, ...] = (
        PyPI("music21", "10.5.1", "music21/corpus/*.abc"),
        abcmidi.PACKAGE,
    )
    source: str = "O'Neill's, Ryan's, Aird's and Nottingham tunes in music21's corpus"
    licence: str = "the transcribers' terms, see corpus/license.txt in music21"
    sample: Path = Path(__file__).parent / "samples" / "music"
    sample_source: str = "tunes that everybody knows, and some that this project generated"
    sample_licence: str = "MIT, as this program"
    recipe: int = 2
    pair: tuple[str, str] = ("abc", "mid")
    collections: tuple[str, ...] = (
        *("airdsAirs", "miscFolk", "nottingham-dataset"),
        *("oneills1850", "ryansMammoth"),
    )
    """Folders of the corpus."""

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        """The tunes of every ABC file, without repeats and what abc2midi finds errors in.

        A MIDI file of the same name beside an ABC file of one tune is its other form; else
        abc2midi makes it.
        """
        paths = [
            path
            for path in sorted(folder.rglob("*.abc"))
            if "corpus" not in path.parts or path.parent.name in self.collections
        ]
        seen: set[bytes] = set()
        for done, path in enumerate(paths):
            progress(done, len(paths))
            for number, tune in enumerate(split_tunes(decode(read_bytes(path), str(path))), 1):
                stem = f"{path.parent.name}_{path.stem}-{number:03d}"
                abc = clean(tune).encode()
                if abc in seen:
                    yield LeftOut("the same tune again")
                    continue
                seen.add(abc)
                beside = path.with_suffix(".mid")
                try:
                    midi = beside.read_bytes() if beside.is_file() else abcmidi.to_midi(abc)
                except abcmidi.Refused:
                    yield LeftOut("abc2midi finds errors")
                    continue
                keys = keys_of(tune) or (_own_key(abc),)
                yield Item(f"{stem}.abc", abc, keys)
                yield Item(f"{stem}.mid", midi, keys)
        progress(len(paths), len(paths))

    def read(self, path: Path) -> Sequence[Item | LeftOut]:
        """The tunes of an ABC file, cleaned, with their MIDI; or a MIDI file, rewritten plainly.

        In a book of many tunes, those without notes and those that abc2midi finds errors in are
        left out.
        """
        data = unwrapped(read_bytes(path))
        # A MIDI file beside an ABC file of its name is the same tune.
        file = beside(path)
        if path.suffix.lower() in MIDI_SUFFIXES or data.startswith(b"MThd"):
            return [Item(f"{path.stem}.mid", plain_midi(data, str(path)), (file,))]
        items: list[Item | LeftOut] = []
        text = decode(data, str(path))
        tunes = split_tunes(text)
        if not tunes:
            raise UserError(
                f"{path}: holds no ABC tune (one begins with X: and has K:) and is no MIDI file;"
                " leave it out"
            )
        for number, tune in enumerate(tunes, 1):
            abc = clean(tune).encode()
            stem = path.stem if len(tunes) == 1 else f"{path.stem}-{number:03d}"
            keys = (*keys_of(tune), *((file,) if len(tunes) == 1 else ())) or (_own_key(abc),)
            reason = ""
            try:
                midi = abcmidi.to_midi(abc)
            except abcmidi.Refused as error:
                reason, wrong = "abc2midi finds errors", f"is no clean ABC ({error})"
            else:
                if not PITCH.search(_sung(tune)):
                    reason, wrong = "without notes", "has no notes"
            if reason:
                title = next(iter(_titles(tune)), "without a title")
                sentence = f"{path}: tune {number} ({title}) {wrong}; mend it"
                if len(tunes) == 1:
                    raise UserError(f"{sentence} or leave it out")
                items.append(LeftOut(reason, sentence))
                continue
            items += [Item(f"{stem}.abc", abc, keys), Item(f"{stem}.mid", midi, keys)]
        return items

    def pairs(
        self, training: Sequence[bytes], held_out: Sequence[bytes], seed: int
    ) -> tuple[Callable[[int, int], Sequence[tuple[bytes, bytes]]], str]:
        """Made tunes and their MIDI; `media.tunes` says of what."""
        from media.tunes import Tunes

        abcmidi.program("abc2midi")  # raises if it is missing
        keys = {key for tune in held_out for key in keys_of(tune.decode(errors="replace"))}
        tunes = Tunes([tune.decode(errors="replace") for tune in training], keys, seed=seed)
        return tunes.pairs, tunes.sha256

    def show(self, data: bytes, extension: str) -> Mapping[str, bytes]:
        """The other form of a tune."""
        try:
            if extension == "abc":
                return {"mid": abcmidi.to_midi(data)}
            return {"abc": abcmidi.to_abc(data)}
        except (Missing, abcmidi.Refused):
            return {}

    def judge(self, data: bytes, extension: str) -> str | None:
        if extension == "mid":
            try:
                plain_midi(data, "it")
            except Missing:
                raise
            except UserError:
                return "no whole MIDI file"
            there, said = _tracks(data), int.from_bytes(data[10:12], "big")
            if there is None:
                return "not as long as its tracks say"
            if there != said or (there > 1 and data[8:10] == b"\0\0"):
                return f"{there:,} tracks where its header says {said:,} of format {data[9]}"
            return None
        wrong = TEXT.judge(data, "txt")
        if wrong is not None:
            return wrong
        if not split_tunes(data.decode()):
            return "no ABC tune"
        if not data.lstrip().startswith((b"X:", b"%")):
            return "something else before the tune"
        try:
            midi = abcmidi.to_midi(data)
            played = tune_of(midi, "mid")
        except (abcmidi.Refused, Unreadable) as error:
            return str(error)
        return None if played.notes else "a tune without notes"

    def mend(self, data: bytes, extension: str) -> bytes | None:
        """A MIDI file whose tracks and texts are as long as they say: tracks up to the event that
        ends them, texts as far as there are letters."""
        if extension != "mid":
            return None
        head, *tracks = data.split(_TRACK)
        made = head
        for track in tracks:
            events = _with_lengths_of_texts(track[4:])
            made += _TRACK + len(events).to_bytes(4, "big") + events
        return made if self.judge(made, extension) is None else None

    def compare(self, expected: bytes, found: bytes, extension: str) -> str:
        try:
            tunes = tune_of(expected, extension), tune_of(found, extension)
        except Unreadable:
            return "its notes cannot be read"
        return in_words(compare(*tunes))


MUSIC = Music()
FOLKSONG = Music(
    name="folksong",
    source="the Essen folk songs in music21's corpus",
    licence="not for commercial use: the terms of the Essen collection",
    collections=("essenFolksong",),
)
"""Apart, because of its licence: who names it has chosen it."""


def split_tunes(text: str) -> list[str]:
    """The tunes of an ABC file: each from its `X:` to an empty line, if it says its key."""
    parts = re.split(r"^(?=X:)", text, flags=re.MULTILINE)
    tunes = [re.split(r"\n[ \t]*\n", part.strip())[0] + "\n" for part in parts]
    return [tune for tune in tunes if tune.startswith("X:") and "\nK:" in tune]


def clean(tune: str) -> str:
    """A tune without what does not sound: comments, instructions to programs, quoted words and
    chords, marks for bowing and ornaments. Its number becomes 1."""
    lines, body = [], False
    for line in tune.splitlines():
        line = line.split("%")[0].rstrip() if not line.startswith("%") else ""
        if not line or line.startswith("I:"):
            continue
        if line.startswith("X:"):
            line = "X:1"
        if body and not FIELD.match(line):
            line = _DROPPED.sub(lambda found: found["kept"] or "", line)
        body = body or line.startswith("K:")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _titles(tune: str) -> list[str]:
    return [line[2:].strip() for line in tune.splitlines() if line.startswith("T:")]


def keys_of(tune: str) -> tuple[str, ...]:
    """Its titles, letters alone, up to what says which version it is; and the steps between notes
    in a row, from every note on, so that a copy in another key, or of a part, shares some."""
    keys: dict[str, None] = {}
    for title in _titles(tune):
        for text in (title, _VERSION.split(title)[0]):
            letters = "".join(sign for sign in text.casefold() if sign.isalnum())
            letters = letters.removeprefix("the").removesuffix("the")
            if letters:
                keys[f"title {letters}"] = None
    notes = PITCH.finditer(_sung(tune))
    places = [pitch_place(note[2], note[3]) for note in notes]
    steps = [after - before for before, after in pairwise(places)]
    for first in range(len(steps) - _RUN + 1):
        run = steps[first : first + _RUN]
        if len(set(run)) >= _FEWEST:
            keys["steps " + " ".join(map(str, run))] = None
    return tuple(keys)


def _sung(tune: str) -> str:
    """Its lines of music, without what is silent in them and grace notes."""
    body = "".join(line + "\n" for line in clean(tune).splitlines() if not FIELD.match(line))
    return _UNSUNG.sub("", body)


def _own_key(abc: bytes) -> str:
    """What the two forms of a tune share that shares nothing with others."""
    return f"tune {hashlib.sha256(abc).hexdigest()}"


def plain_midi(data: bytes, name: str) -> bytes:
    """A MIDI file with every status byte written out, as abc2midi writes them.

    Raises `UserError` for what is no whole MIDI file.
    """
    try:
        import mido
    except ImportError:
        raise Missing(
            f"{name}: MIDI files are read by mido; install it with"
            " pip install 'neural-cpu-lab[media]'"
        ) from None
    if len(data) > _MOST_MIDI:
        raise UserError(f"{name}: has {len(data):,} bytes, more than a tune has; leave it out")
    try:
        stream = io.BytesIO(_without_unknown_chunks(data))
        file = mido.MidiFile(file=stream)
        rest = stream.read()
        if _TRACK in rest:
            raise ValueError  # mido leaves tracks unread that the header does not count.
        if rest and (mended := mend_track_length(data)):
            # The only track may say that it is shorter than it is.
            file = whole_midi(mended) or file
        tracks = [_track(track) for track in file.tracks]
        head = b"".join(
            number.to_bytes(2, "big") for number in (file.type, len(tracks), file.ticks_per_beat)
        )
    except Exception:
        # mido's reader raises anything at all for damaged files.
        tracks = []
    if not tracks or file.type > 2 or not file.ticks_per_beat:
        raise UserError(f"{name}: is no whole MIDI file; restore it or leave it out")
    return b"MThd\0\0\0\x06" + head + b"".join(tracks)


def _without_unknown_chunks(midi: bytes) -> bytes:
    """A MIDI file without what stands before its tracks and between them, which the standard says
    to skip and mido does not; from where it is no chunk on, it stays as it is."""
    place = 8 + int.from_bytes(midi[4:8], "big")
    made = midi[:place]
    while _CHUNK.match(midi, place):
        stop = place + 8 + int.from_bytes(midi[place + 4 : place + 8], "big")
        if stop > len(midi):
            break
        if midi.startswith(_TRACK, place):
            made += midi[place:stop]
        place = stop
    return made + midi[place:]


def _with_lengths_of_texts(events: bytes) -> bytes:
    """The events of a track up to the one that ends it, or to the first that is none."""
    made, place = b"", 0
    while match := _EVENT.match(events, place):
        place = match.end()
        made += match[0]
        if match[0].endswith(_TRACK_END):
            break
        if match["text"] is not None:
            text = _LETTERS.match(events, place)
            if text is None:
                break
            made += bytes([len(text[1])]) + text[1]
            place = text.end()
    return made


def _tracks(midi: bytes) -> int | None:
    """How many tracks a MIDI file has; None unless its chunks fill it, each track up to the event
    that ends it."""
    place = count = 0
    while place < len(midi):
        stop = place + 8 + int.from_bytes(midi[place + 4 : place + 8], "big")
        chunk = midi[place:stop]
        if stop > len(midi) or chunk.startswith(_TRACK) != chunk.endswith(_TRACK_END):
            return None
        count += chunk.startswith(_TRACK)
        place = stop
    return count or None


def _track(messages: Sequence[object]) -> bytes:
    """A track's chunk; `messages`: mido's, whose times are ticks since the one before."""
    events = b""
    for message in messages:
        raw = bytes(message.bytes())  # type: ignore[attr-defined]
        if raw[0] == 0xF0:
            raw = b"\xf0" + _variable_length(len(raw) - 1) + raw[1:]
        events += _variable_length(int(message.time)) + raw  # type: ignore[attr-defined]
    if not events.endswith(b"\xff\x2f\x00"):
        events += b"\0\xff\x2f\x00"
    return b"MTrk" + len(events).to_bytes(4, "big") + events


def _variable_length(number: int) -> bytes:
    """Seven bits a byte, all but the last with the eighth bit set. `ValueError` for more than 28
    bits, which MIDI cannot say and mido reads."""
    if number > LONGEST_DELTA:
        raise ValueError(number)
    digits = [number & 127]
    while number := number >> 7:
        digits.append(number & 127 | 128)
    return bytes(reversed(digits))
