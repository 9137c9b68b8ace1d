"""Make the samples that ship with the package, from the packages that hold their sources.

python media/samples/make.py     needs apt-get, pip and a network; the result stands beside it

Where each sample is from, and under what licence, stands in ATTRIBUTION.md.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import re
import shutil
import tempfile
import wave
from pathlib import Path

import numpy as np

from media import abcmidi, packages
from media.modality import Debian, Item
from media.music import clean, split_tunes
from media.terminfo import TERMINFO

HERE = Path(__file__).parent
PICTURES = {"train": 240, "t10k": 60}
VOICES = ("en", "es", "fr", "it", "ru")
PROMPTS = ("digits/?.wav", "letters/[a-j].wav")
TEXT_BYTES = 400_000
TUNES = 120
TERMINAL_BYTES = 95_000


def fetch(name: str, folder: Path) -> Path:
    packages.fetch([Debian(name)], folder, lambda _done, _total: None)
    return folder / name


def pictures(folder: Path, out: Path) -> None:
    """As many pictures of each kind, spread over the whole, in the files' own format."""
    root = fetch("dataset-fashion-mnist", folder)
    for part, count in PICTURES.items():
        images, labels = (
            gzip.decompress(next(root.rglob(f"{part}-{kind}-ubyte.gz")).read_bytes())
            for kind in ("images-idx3", "labels-idx1")
        )
        values = np.frombuffer(labels, np.uint8, offset=8)
        each = count // 10
        chosen = np.sort(
            np.concatenate(
                [
                    np.flatnonzero(values == kind)[:: int((values == kind).sum()) // each][:each]
                    for kind in range(10)
                ]
            )
        )
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)[chosen]
        number = len(chosen).to_bytes(4, "big")
        for kind, content in (
            ("images-idx3", images[:4] + number + images[8:16] + pixels.tobytes()),
            ("labels-idx1", labels[:4] + number + values[chosen].tobytes()),
        ):
            packed = gzip.compress(content, 9, mtime=0)
            (out / f"{part}-{kind}-ubyte.gz").write_bytes(packed)


def prompts(folder: Path, out: Path) -> None:
    """Digits and letters in all voices, rounded to 8 bits."""
    for language in VOICES:
        (sounds,) = fetch(f"asterisk-core-sounds-{language}-wav", folder).rglob("sounds")
        for path in sorted(path for glob in PROMPTS for path in sounds.glob(f"*/{glob}")):
            with wave.open(str(path)) as file:
                samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int32)
            target = out / "sounds" / path.relative_to(sounds)
            target.parent.mkdir(parents=True, exist_ok=True)
            rounded = np.clip((samples + 128 >> 8) + 128, 0, 255).astype(np.uint8)
            with wave.open(str(target), "wb") as file:
                file.setparams((1, 1, 8000, 0, "NONE", ""))
                file.writeframes(rounded.tobytes())


def jargon(folder: Path, out: Path) -> None:
    """Entries of the Jargon File, chosen by a hash, in their order, as a fortune file."""
    (path,) = fetch("dict-jargon", folder).rglob("jargon.dict.dz")
    text = gzip.decompress(path.read_bytes()).decode()
    entries = [
        entry.strip("\n") + "\n"
        for entry in re.split(r"\n\n+(?=\S)", text)
        if entry.strip() and not entry.startswith("00-database")
    ]
    rank = {entry: hashlib.sha256(entry.encode()).digest() for entry in entries}
    chosen, size = set(), 0
    for entry in sorted(entries, key=rank.__getitem__):
        size += len(entry.encode())
        if size > TEXT_BYTES:
            break
        chosen.add(entry)
    target = out / "games" / "fortunes" / "jargon"
    target.parent.mkdir(parents=True)
    target.write_text("%\n".join(entry for entry in entries if entry in chosen))


# Tunes: two parts of eight bars, phrases that come back, chords under the strong beats.

RHYTHMS = {
    # Metre: unit, title, rhythms of a bar, in units.
    "4/4": ("1/8", "Reel", ((1,) * 8, (2, 1, 1, 2, 1, 1), (2, 2, 1, 1, 1, 1), (3, 1, 2, 2))),
    "6/8": ("1/8", "Jig", ((1,) * 6, (2, 1, 1, 1, 1), (2, 1, 2, 1), (1, 1, 1, 3))),
    "3/4": ("1/8", "Waltz", ((2, 2, 2), (4, 2), (3, 1, 2), (2, 1, 1, 2), (1,) * 6)),
    "2/4": ("1/16", "March", ((2, 2, 2, 2), (3, 1, 2, 2), (1, 1, 2, 2, 2), (2, 1, 1, 4))),
}
KEYS = ("C", "G", "D", "A", "F", "Am", "Em", "Dm")
PROGRESSIONS = ((0, 0, 3, 4, 0, 5, 4, 0), (0, 3, 0, 4, 0, 3, 4, 0), (0, 4, 5, 3, 0, 3, 4, 0))
ADJECTIVES = (
    *("Amber", "Bright", "Crooked", "Early", "Fallen", "Gentle"),
    *("Hidden", "Idle", "Lonely", "Merry", "Quiet", "Silver"),
)
NOUNS = (
    *("Anchor", "Bellows", "Candle", "Drummer", "Engine", "Ferry"),
    *("Garden", "Harbour", "Ladder", "Miller", "Orchard", "Weir"),
)


def tune(number: int) -> str:
    """A tune in ABC; the same number gives the same one."""
    draw = random.Random(number)
    metre = draw.choice(sorted(RHYTHMS))
    unit, kind, rhythms = RHYTHMS[metre]
    key = draw.choice(KEYS)
    tonic = "CDEFGAB".index(key[0])
    home = tonic + (7 if tonic < 3 else 0)

    def bar(chord: int, place: int, rhythm: tuple[int, ...]) -> tuple[str, int]:
        notes = []
        for at, length in enumerate(rhythm):
            place += draw.choice((-2, -1, -1, 0, 1, 1, 2))
            if at == 0:
                tones = [home + chord + step for step in (-7, -5, -3, 0, 2, 4, 7)]
                place = min(tones, key=lambda tone: abs(tone - place))
            place = min(max(place, 1), 14)
            notes.append(_note(place) + (str(length) if length > 1 else ""))
        return "".join(notes), place

    def part() -> str:
        chords, place = draw.choice(PROGRESSIONS), home
        bars: list[str] = []
        for index, chord in enumerate(chords):
            if index in (4, 5):
                bars.append(bars[index - 4])
                continue
            written, place = bar(chord, place, draw.choice(rhythms))
            bars.append(written)
        whole = sum(rhythms[0])
        bars[-1] = f"{_note(home + 4)}{whole // 2}{_note(home)}{whole - whole // 2}"
        return "|:" + "|".join(bars[:4]) + "|\n" + "|".join(bars[4:]) + ":|"

    title = f"The {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}, {kind} {number}"
    head = f"X:1\nT:{title}\nM:{metre}\nL:{unit}\nK:{key}\n"
    return head + part() + "\n" + part() + "\n"


def _note(place: int) -> str:
    """Place 0 is the C below the staff's middle, 7 the one above, 14 the next."""
    name, octave = "CDEFGAB"[place % 7], place // 7
    return name if octave == 0 else name.lower() + "'" * (octave - 1)


def tunes(_: Path, out: Path) -> None:
    """Tunes and their MIDI: those that people sing, in `traditional.abc`, and generated ones."""
    sung = split_tunes((HERE / "traditional.abc").read_text())
    made = {f"traditional{number:02d}": clean(text) for number, text in enumerate(sung, 1)}
    made |= {f"tune{number:03d}": tune(number) for number in range(1, TUNES + 1)}
    for stem, text in made.items():
        abc = text.encode()
        (out / f"{stem}.abc").write_bytes(abc)
        (out / f"{stem}.mid").write_bytes(abcmidi.to_midi(abc))


# Messages: sentences of a topic's own words, in the form of the tables of Reuters R8.

MESSAGES = {"train": 240, "test": 60}
OWN_WORDS = {
    "acq": "merger takeover bidder stake shareholders tender acquire suitor offer control",
    "crude": "oil barrels refinery drilling pipeline wells petroleum tanks crude field",
    "earn": "profit quarter dividend losses revenue net earnings income payout results",
    "grain": "wheat maize harvest bushels silo barley farmers crop mill rye",
    "interest": "rate prime discount lending percent borrowers deposit bank loans cut",
    "money-fx": "currency dollar exchange dealers intervention franc markets yen cable fixing",
    "ship": "vessel port cargo freight harbour crew strike dock ferry tonnage",
    "trade": "tariff exports imports surplus quota talks duties deficit goods accord",
}
COMMON = (
    "the company said a spokesman today will its new after about in of and a two years last was"
    " statement expected officials board told further no details month plan first meeting"
)


def messages(_: Path, out: Path) -> None:
    """Made-up messages, half of their words those of their topic."""
    draw, common = random.Random(0), COMMON.split()
    for part, count in MESSAGES.items():
        lines = ["Category\tText", "d\tstring", "class\t", ""]
        for number in range(count):
            topic = sorted(OWN_WORDS)[number % len(OWN_WORDS)]
            own = OWN_WORDS[topic].split()
            words = (draw.choice(draw.choice((own, common))) for _ in range(draw.randint(20, 90)))
            lines.append(f"{topic}\t{' '.join(words)} ")
        (out / f"reuters-r8-{part}.tab").write_text("\n".join(lines) + "\n")


def terminals(folder: Path, out: Path) -> None:
    """Entries that are unlike each other, the text and the compiled form of each, by a hash."""
    fetch("ncurses-term", folder)
    items = TERMINFO.items(folder, lambda _done, _total: None)
    pairs = [item for item in items if isinstance(item, Item)]
    rank = {item.name: hashlib.sha256(item.name.encode()).digest() for item in pairs[::2]}
    chosen: set[str] = set()
    size = 0
    by_rank = sorted(zip(pairs[::2], pairs[1::2], strict=True), key=lambda pair: rank[pair[0].name])
    for text, compiled in by_rank:
        more = len(text.data) + len(compiled.data)
        if not chosen.isdisjoint(text.keys) or more > 3_000 or size + more > TERMINAL_BYTES:
            continue
        chosen.update(text.keys)
        size += more
        (out / text.name).write_bytes(text.data)
        (out / compiled.name).write_bytes(compiled.data)


def main() -> None:
    for name, make in (
        ("image", pictures),
        ("audio", prompts),
        ("text", jargon),
        ("music", tunes),
        ("reuters", messages),
        ("terminfo", terminals),
    ):
        out = HERE / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), out)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(f"{out}: {size:,} bytes")


if __name__ == "__main__":
    main()
