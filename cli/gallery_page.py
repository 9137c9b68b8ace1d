"""A gallery as a folder: index.html, which needs no network, and the files that it shows.

    DIR/index.html      the page, its style and its scripts
    DIR/gallery.json    the figures, for programs
    DIR/ROOM/*          each file, a tune's sound as WAV, and whose a sample is

Files may hold anything at all, the written ones above all: the template escapes what it is given,
and the page's own policy lets only its own scripts run and loads nothing but files beside it.
Scores are drawn in the browser by abcjs, a copy of which lies in `gallery_assets`.
"""

from __future__ import annotations

import io
import json
import math
import shlex
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cli import html_report
from cli.comparison import percent
from cpusim import __version__
from cpusim.errors import UserError
from media import synthesizer
from media.gallery import CpuRoom, Exhibit, Room, Settings, Shelf, Writer
from media.modality import Missing

PAGE = "index.html"
MANIFEST = "gallery.json"
_ASSETS = "gallery_assets"
_ATTRIBUTION = "ATTRIBUTION.md"
_ABCJS = "abcjs-basic-min.js"
_PICTURES = ("png", "jpg", "jpeg", "gif", "webp", "bmp")
_SOUNDS = ("wav", "mp3", "ogg", "flac")
_HEX_BYTES = 128
_COLUMNS = 240
"""Of a waveform: half as many as its card has pixels, at most."""
_NOTES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")


@dataclass(frozen=True)
class About:
    """How the gallery was made: the words that make it again, when, and in how many seconds."""

    command: Sequence[str]
    made: datetime
    seconds: float


@dataclass(frozen=True)
class Card:
    """How an exhibit is shown.

    `kind`: picture, sound, score, roll, text or bytes. `file`: its place below the folder;
    `source`: that of what an <img> or <audio> loads. `text`: what stands in a <pre>. `drawing`:
    SVG. `title`: of a tune. `says`: what the picture or drawing shows, for those who do not see it.
    """

    exhibit: Exhibit
    kind: str
    file: str
    source: str = ""
    text: str = ""
    drawing: Markup | str = ""
    title: str = ""
    says: str = ""


@dataclass
class _Wall:
    """One side of a shelf."""

    cards: list[Card] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        known = [card.exhibit.bits_per_byte for card in self.cards]
        found = [value for value in known if value is not None]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class _ShelfView:
    shelf: Shelf
    written: _Wall
    real: _Wall

    @property
    def layout(self) -> str:
        """The kind of card that decides how wide all of them are."""
        kinds = [card.kind for wall in (self.written, self.real) for card in wall.cards]
        return min(kinds, key=lambda kind: (kind == "bytes") + (kind in ("bytes", "text")))


def write(
    folder: Path, rooms: Sequence[Room], cpu: CpuRoom | None, settings: Settings, about: About
) -> dict[str, Any]:
    """Write the gallery into an empty folder; returns what its manifest says."""
    hung = [(room, [_hang(folder, room, shelf) for shelf in room.shelves]) for room in rooms]
    kinds = {
        card.kind
        for _, shelves in hung
        for view in shelves
        for card in (*view.written.cards, *view.real.cards)
    }
    page = _page(hung, cpu, settings, about, scores="score" in kinds)
    (folder / PAGE).write_bytes(page)
    for room in rooms:
        if room.attribution:
            (folder / room.name / _ATTRIBUTION).write_text(room.attribution, encoding="utf-8")
    manifest = _manifest(hung, cpu, settings, about)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _page(
    hung: Sequence[tuple[Room, Sequence[_ShelfView]]],
    cpu: CpuRoom | None,
    settings: Settings,
    about: About,
    *,
    scores: bool,
) -> bytes:
    scripts = [html_report.asset("gallery.js", _ASSETS)]
    if scores:
        scripts.insert(0, html_report.asset(_ABCJS, _ASSETS))
    data: Mapping[str, Any] | None = None
    if cpu is not None:
        scripts.append(html_report.asset("viewer.js"))
        data = html_report.viewer_data(cpu.comparison, cpu.stepper, cpu.comparison.results)
    # A browser takes 'self' for this folder only where a server gives it.
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline';"
        " img-src 'self' file: data:; media-src 'self' file:;"
        f" script-src {' '.join(map(html_report.script_source, scripts))}"
    )
    environment = html_report.template_environment(_ASSETS)
    environment.filters.update(share=percent, bits=_bits)
    text = environment.get_template("gallery.html").render(
        about=about,
        attribution=_ATTRIBUTION,
        abcjs_licence=html_report.asset("abcjs-LICENSE.md", _ASSETS) if scores else "",
        command=shlex.join(about.command),
        cpu=cpu,
        data=data,
        facts=_facts,
        hung=hung,
        policy=policy,
        same_again=_same_again,
        scripts=[Markup(script) for script in scripts],
        settings=settings,
        sides=html_report.sides(cpu.comparison) if cpu is not None else None,
        style=Markup(html_report.asset("style.css") + html_report.asset("gallery.css", _ASSETS)),
        version=__version__,
    )
    return text.encode()


# Cards ---------------------------------------------------------------------------------


def _hang(folder: Path, room: Room, shelf: Shelf) -> _ShelfView:
    (folder / room.name).mkdir(exist_ok=True)
    view = _ShelfView(shelf, _Wall(), _Wall())
    for wall, side, exhibits in (
        (view.written, "written", shelf.written),
        (view.real, "real", shelf.real),
    ):
        for number, exhibit in enumerate(exhibits, 1):
            # Real names may be anything; these are the same in every file system and URL.
            stem = f"{room.name}/{f'from-{shelf.source}-' * bool(shelf.source)}{side}-{number:03d}"
            wall.cards.append(_card(folder, stem, exhibit))
    return view


def _card(folder: Path, stem: str, exhibit: Exhibit) -> Card:
    """The best way to show a file: as what it is, in another form, as text or as bytes."""
    file = f"{stem}.{exhibit.extension}"
    (folder / file).write_bytes(exhibit.data)
    shown = exhibit.data if exhibit.wrong is None else exhibit.mended
    if shown is not None:
        for extension, data in {exhibit.extension: shown, **exhibit.forms}.items():
            make = _show_as(extension)
            if make is None:
                continue
            source = file
            if data is not exhibit.data:
                source = f"{file}.{extension}"
                (folder / source).write_bytes(data)
            card = make(folder, exhibit, file, source)
            if card is not None:
                return card
    for data in (exhibit.data, *(exhibit.forms.values() if exhibit.wrong is None else ())):
        text = _as_text(data)
        if text is not None:
            return Card(exhibit, "text", file, text=text, says=f"text of {exhibit.name}")
    return Card(exhibit, "bytes", file, text=_hexadecimal(exhibit.data))


_Make = Callable[[Path, Exhibit, str, str], Card | None]
"""Of the folder, the exhibit, its file and the file to show; None if it cannot be shown so."""


def _show_as(extension: str) -> _Make | None:
    if extension in _PICTURES:
        return _picture
    if extension in _SOUNDS:
        return _sound
    return {"abc": _score, "mid": _roll}.get(extension)


def _picture(_: Path, exhibit: Exhibit, file: str, source: str) -> Card:
    return Card(exhibit, "picture", file, source, says=f"picture {_called(exhibit)}")


def _sound(folder: Path, exhibit: Exhibit, file: str, source: str) -> Card:
    drawing = _waveform((folder / source).read_bytes())
    return Card(exhibit, "sound", file, source, drawing=drawing, says=f"sound {_called(exhibit)}")


def _score(folder: Path, exhibit: Exhibit, file: str, source: str) -> Card | None:
    text = _as_text((folder / source).read_bytes())
    if text is None:
        return None
    title = next((line[2:].strip() for line in text.splitlines() if line.startswith("T:")), "")
    says = f"score of {title or _called(exhibit)}"
    tune = _notes(exhibit.forms.get("mid", b""))
    sound = f"{file}.wav" if tune else ""
    if tune:
        (folder / sound).write_bytes(synthesizer.wav(tune))
    return Card(exhibit, "score", file, sound, text=text, title=title, says=says)


def _roll(folder: Path, exhibit: Exhibit, file: str, source: str) -> Card | None:
    tune = _notes((folder / source).read_bytes())
    if not tune:
        return None
    sound = f"{file}.wav"
    (folder / sound).write_bytes(synthesizer.wav(tune))
    low, high = (choose(note.pitch for note in tune) for choose in (min, max))
    says = (
        f"piano roll {_called(exhibit)}: {len(tune):,} notes from {_pitch(low)} to {_pitch(high)}"
    )
    return Card(exhibit, "roll", file, sound, drawing=_piano_roll(tune, low, high), says=says)


def _called(exhibit: Exhibit) -> str:
    return exhibit.name if exhibit.seed is None else f"written from seed {exhibit.seed}"


def _notes(midi: bytes) -> list[synthesizer.Note]:
    """The notes of a tune; none if it cannot be read, or not here."""
    try:
        return synthesizer.notes(midi) if midi else []
    except (Missing, UserError):
        return []


def _as_text(data: bytes) -> str | None:
    """UTF-8 as it may stand on a page, printable; None for what is no text."""
    if b"\0" in data:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    text = text.replace("\r\n", "\n").expandtabs(4)
    return str(html_report.printable(text)) if text.strip() else None


def _hexadecimal(data: bytes) -> str:
    """The first bytes, eight a line, in hexadecimal and in ASCII."""
    lines = []
    for start in range(0, min(len(data), _HEX_BYTES), 8):
        part = data[start : start + 8]
        signs = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:04x}  {part.hex(' '):<23}  {signs}")
    if len(data) > _HEX_BYTES:
        lines.append(f"and {len(data) - _HEX_BYTES:,} bytes more")
    return "\n".join(lines) or "no bytes"


def _waveform(data: bytes) -> Markup:
    """The extremes of each part of a plain WAV's first channel, as one shape."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            kind, middle, most = {1: ("<u1", 128, 128), 2: ("<i2", 0, 32768)}[width]
            raw = np.frombuffer(file.readframes(file.getnframes()), kind)[::channels]
    except (wave.Error, EOFError, KeyError, ValueError):
        return Markup()
    if not len(raw):
        return Markup()
    values = (raw.astype(np.float32) - middle) / most
    parts = np.array_split(values, min(_COLUMNS, len(values)))
    upper = [f"{x} {-100 * part.max() - 1:.0f}" for x, part in enumerate(parts)]
    lower = [f"{x} {-100 * part.min() + 1:.0f}" for x, part in enumerate(parts)]
    path = "M" + "L".join([*upper, *reversed(lower)]) + "z"
    return Markup(
        f'<svg class="wave" viewBox="0 -102 {max(1, len(parts) - 1)} 204"'
        f' preserveAspectRatio="none" aria-hidden="true"><path d="{path}"/></svg>'
    )


def _piano_roll(tune: Sequence[synthesizer.Note], low: int, high: int) -> Markup:
    """Time to the right, pitch upwards; the lines are the Cs."""
    end = max(note.start + note.length for note in tune)
    low, high = low - 1, high + 1
    lines = "".join(
        f'<path d="M0 {high - pitch + 0.5:g}H{end:.2f}"/>'
        for pitch in range(low, high)
        if pitch % 12 == 0
    )
    bars = "".join(
        f'<rect x="{note.start:.3f}" y="{high - note.pitch}" width="{note.length * 0.94:.3f}"'
        ' height="1"/>'
        for note in tune
    )
    return Markup(
        f'<svg class="roll" viewBox="0 0 {end:.2f} {high - low}" preserveAspectRatio="none"'
        f' aria-hidden="true">{lines}{bars}</svg>'
    )


def _pitch(number: int) -> str:
    """A note's name, middle C being C4."""
    return f"{_NOTES[number % 12]}{number // 12 - 1}"


# Facts ---------------------------------------------------------------------------------


def _bits(value: float | None) -> str:
    """Bits per byte: three digits behind the point, six for a model that knows nearly all."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.6f}"


def _facts(writer: Writer, name: str = "Checkpoint") -> dict[str, str]:
    """Where a checkpoint comes from, in words; a user's file may say anything, or nothing."""
    info = writer.info
    facts = {
        name: f"{writer.shown}, {writer.parameters:,} parameters",
        "Name of its weights": writer.fingerprint[:16],
    }
    step, seconds = info.get("step"), info.get("seconds")
    if isinstance(step, int):
        trained = f"{step:,} updates"
        if isinstance(seconds, int | float) and math.isfinite(seconds):
            trained += f" in {max(1, round(seconds / 60)):,} min"
        training = info.get("training")
        if isinstance(training, dict) and isinstance(training.get("seed"), int):
            trained += f", seed {training['seed']}"
        facts["Trained"] = trained
    learned = info.get("data")
    if isinstance(learned, dict) and learned.get("kind"):
        words = [str(learned["kind"])]
        if learned.get("modality"):
            count = learned.get("training")
            count = count if isinstance(count, int) else 0
            words = [f"{learned['modality']}, {count:,} files"]
        if learned.get("licence"):
            words.append(f"licence: {learned['licence']}")
        facts["Learned from"] = "; ".join(words)
    evaluation = info.get("evaluation")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("bits_per_byte"), float):
        facts["On what was held out"] = f"{_bits(evaluation['bits_per_byte'])} bits per byte"
    facts["Precision"] = str(writer.dtype).removeprefix("torch.")
    return facts


def _same_again(room: Room, shelf: Shelf, settings: Settings) -> str:
    """The command that writes the first file of a shelf."""
    writer = room.converter if shelf.source else room.writer
    assert writer is not None
    if shelf.source:
        first = Path(shelf.real[0].name).with_suffix(f".{shelf.source}").name
        words = ["bgpt", "convert", first, "--to", shelf.extension, "--model", str(writer.path)]
        return shlex.join([*words, "--modality", room.name])
    words = ["bgpt", "generate", "--model", str(writer.path), "--ext", shelf.extension]
    words += ["--seed", str(settings.seed), "--temperature", f"{settings.temperature:g}"]
    words += ["--dtype", str(writer.dtype).removeprefix("torch.")]
    return shlex.join(words)


def _manifest(
    hung: Sequence[tuple[Room, Sequence[_ShelfView]]],
    cpu: CpuRoom | None,
    settings: Settings,
    about: About,
) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "format": 1,
        "version": __version__,
        "made": about.made.isoformat(timespec="seconds"),
        "command": list(about.command),
        "seed": settings.seed,
        "temperature": settings.temperature,
        "rooms": [
            {
                "name": room.name,
                "model": _model(room.writer),
                "converter": _model(room.converter),
                "notes": list(room.notes),
                "source": room.source,
                "licence": room.licence,
                "side": room.side,
                "kinds": [
                    {
                        "title": view.shelf.title,
                        "extension": view.shelf.extension,
                        "converted_from": view.shelf.source or None,
                        "written": [_row(card) for card in view.written.cards],
                        "real": [_row(card) for card in view.real.cards],
                        "valid": view.shelf.valid,
                        "bits_per_byte": {"written": view.written.mean, "real": view.real.mean},
                    }
                    for view in shelves
                ],
            }
            for room, shelves in hung
        ],
    }
    if cpu is not None:
        manifest["cpu"] = {
            "model": _model(cpu.writer),
            "programs": cpu.comparison.programs,
            "exact": cpu.comparison.exact_programs,
            "instructions": cpu.comparison.instructions,
            "wrong_instructions": cpu.comparison.wrong_instructions,
            "bits_per_byte": cpu.bits_per_byte,
        }
    return manifest


def _model(writer: Writer | None) -> dict[str, Any] | None:
    if writer is None:
        return None
    return {
        "checkpoint": str(writer.path),
        "fingerprint": writer.fingerprint,
        "parameters": writer.parameters,
    }


def _row(card: Card) -> dict[str, Any]:
    one = card.exhibit
    row = {
        "file": card.file,
        "name": one.name,
        "bytes": len(one.data),
        "bits_per_byte": one.bits_per_byte,
        "wrong": one.wrong,
        "mended": one.mended is not None,
        **({"compared": one.told} if one.told else {}),
    }
    return row if one.seed is None else {**row, "seed": one.seed, "ended": one.ended}
