"""ABC text taken apart as far as varying a tune needs: header, bars, pitches, lengths, keys.

Notation: the ABC standard 2.1, as abc2midi reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

FIELD = re.compile(r"^[A-Za-z+]:")
PITCH = re.compile(r"(\^\^?|__?|=)?([A-Ga-g])([,']*)")
LENGTH = r"\d*/*\d*"
NOTE = re.compile(rf"((?:\^\^?|__?|=)?[A-Ga-g][,']*|\[[^\]:]*\]|[zx])({LENGTH})")
BAR_LINE = re.compile(r"(\[\||:*\|[\|\]:]*(?:\[?[1-9])?|::|\[[1-9])")
SILENT = r"![^!\n]*!|\[[A-Za-z]:[^\]\n]*\]"
"""Marks and fields within a line of music."""
_SILENT_PARTS = re.compile(rf"({SILENT})")
_KEY = re.compile(r"^(\s*)([A-G])([#b]?)(\s*)([A-Za-z]*)(\s*)$")
_LETTERS = "CDEFGAB"
_SEMITONES = (0, 2, 4, 5, 7, 9, 11)
_FIFTHS = dict(zip("FCGDAEB", range(-1, 6), strict=True))
_MODES = {"": 0, "maj": 0, "ion": 0, "m": -3, "min": -3, "aeo": -3}
_MODES |= {"mix": -1, "dor": -2, "phr": -4, "loc": -5, "lyd": 1}
_ACCIDENTALS = {"__": -2, "_": -1, "=": 0, "^": 1, "^^": 2}
_SIGNS = {value: sign for sign, value in _ACCIDENTALS.items()}
MOST_SHARPS = 7


@dataclass(frozen=True)
class Tune:
    """A tune's lines: `header` up to its first `K:`, and `body`."""

    header: tuple[str, ...]
    body: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Tune:
        """Of a tune that has a line `K:`."""
        lines = text.splitlines()
        first = next(place for place, line in enumerate(lines) if line.startswith("K:"))
        return cls(tuple(lines[: first + 1]), tuple(lines[first + 1 :]))

    def __str__(self) -> str:
        # An empty line would end the tune.
        return "\n".join((*self.header, *filter(str.strip, self.body))) + "\n"

    def field(self, name: str) -> str:
        """What the header's first such line says; nothing if there is none."""
        return next((line[2:].strip() for line in self.header if line.startswith(f"{name}:")), "")

    @property
    def meter(self) -> Fraction | None:
        """How long a bar is, in whole notes; None if it is free or not said plainly."""
        said = {"C": "4/4", "C|": "2/2"}.get(self.field("M"), self.field("M"))
        found = re.fullmatch(r"([1-9]\d?)/([1-9]\d?)", said)
        return Fraction(int(found[1]), int(found[2])) if found else None

    @property
    def unit(self) -> Fraction | None:
        """How long a note without a number is, in whole notes."""
        found = re.fullmatch(r"1/([1-9]\d?)", self.field("L"))
        if found:
            return Fraction(1, int(found[1]))
        if self.field("L") or self.meter is None:
            return None
        return Fraction(1, 8) if self.meter >= Fraction(3, 4) else Fraction(1, 16)

    @property
    def key(self) -> Key | None:
        """None for keys of bagpipes, with accidentals of their own, or none at all."""
        return Key.parse(self.header[-1][2:])


class Key(NamedTuple):
    """`letter`: its place in CDEFGAB. `alteration`: of the tonic, in semitones. `sharps`: of the
    signature; flats are negative. `shape`: how it is written, with a place for the tonic."""

    letter: int
    alteration: int
    sharps: int
    shape: str

    @classmethod
    def parse(cls, text: str) -> Key | None:
        found = _KEY.match(text)
        if found is None or found[5][:3].lower() not in _MODES:
            return None
        alteration = {"#": 1, "b": -1, "": 0}[found[3]]
        offset = _MODES[found[5][:3].lower()]
        sharps = _FIFTHS[found[2]] + 7 * alteration + offset
        shape = f"{found[1]}{{}}{found[4]}{found[5]}{found[6]}"
        return cls(_LETTERS.index(found[2]), alteration, sharps, shape)

    def __str__(self) -> str:
        sign = {1: "#", -1: "b", 0: ""}[self.alteration]
        return self.shape.format(_LETTERS[self.letter] + sign)

    def altered(self, letter: int) -> int:
        """By how many semitones the signature alters a letter."""
        place = "FCGDAEB".index(_LETTERS[letter])
        return (place < self.sharps) - (6 - place < -self.sharps)

    def moved(self, steps: int, semitones: int) -> Key | None:
        """The key that many letters and semitones higher; None if it cannot be written so."""
        octaves, letter = divmod(self.letter + steps, 7)
        before = _SEMITONES[self.letter] + self.alteration
        alteration = before + semitones - _SEMITONES[letter] - 12 * octaves
        if not -1 <= alteration <= 1:
            return None
        # A semitone up on the same letter adds seven sharps, as circles of fifths go.
        tonic, own = _FIFTHS[_LETTERS[letter]], _FIFTHS[_LETTERS[self.letter]]
        sharps = self.sharps - own - 7 * self.alteration + tonic + 7 * alteration
        if abs(sharps) > MOST_SHARPS:
            return None
        return Key(letter, alteration, sharps, self.shape)


def pitch_place(letter: str, octave: str) -> int:
    """How many letters a note lies above middle C."""
    place = _LETTERS.index(letter.upper()) + 7 * letter.islower()
    return place + 7 * (octave.count("'") - octave.count(","))


def pitch_text(place: int) -> str:
    """The note that many letters above middle C."""
    octave, letter = divmod(place, 7)
    if octave > 0:
        return _LETTERS[letter].lower() + "'" * (octave - 1)
    return _LETTERS[letter] + "," * -octave


def change_notes(line: str, change: Callable[[str], str]) -> str:
    """A line of music with `change` applied to its text, but to no `!mark!` nor `[K:field]`."""
    parts = _SILENT_PARTS.split(line)
    parts[::2] = [change(part) for part in parts[::2]]
    return "".join(parts)


def transpose(tune: Tune, semitones: int) -> Tune | None:
    """The tune that many semitones higher, its keys, notes and accidentals spelt anew.

    None if one of its keys is none that can be moved, or a note would need three accidentals.
    """
    key = tune.key
    if key is None:
        return None
    choices = []
    for steps in {(semitones * 7 + 6) // 12, (semitones * 7) // 12, (semitones * 7 + 11) // 12}:
        moved = key.moved(steps, semitones)
        if moved is not None:
            choices.append((abs(moved.sharps), steps))
    if not choices:
        return None
    steps = min(choices)[1]
    before = after = key
    possible = True

    def renamed(match: re.Match[str]) -> str:
        nonlocal possible
        sign, letter, octave = match.groups()
        place = pitch_place(letter, octave)
        if sign is None:
            return pitch_text(place + steps)
        altered = _ACCIDENTALS[sign] - before.altered(place % 7)
        altered += after.altered((place + steps) % 7)
        possible = possible and abs(altered) <= 2
        return _SIGNS.get(altered, "") + pitch_text(place + steps)

    def key_change(text: str) -> str:
        nonlocal before, after, possible
        now = Key.parse(text)
        moved = None if now is None else now.moved(steps, semitones)
        if now is None or moved is None:
            possible = False
            return text
        before, after = now, moved
        return str(moved)

    header = (*tune.header[:-1], f"K:{key_change(tune.header[-1][2:])}")
    body = []
    for line in tune.body:
        if line.startswith("K:"):
            line = f"K:{key_change(line[2:])}"
        elif not FIELD.match(line):
            parts = _SILENT_PARTS.split(line)
            for place, part in enumerate(parts):
                if place % 2 == 0:
                    parts[place] = PITCH.sub(renamed, part)
                elif part.startswith("[K:"):
                    parts[place] = f"[K:{key_change(part[3:-1])}]"
            line = "".join(parts)
        body.append(line)
    return Tune(header, tuple(body)) if possible else None


def length_of(text: str) -> Fraction:
    """What the digits and strokes behind a note make of its length."""
    above, _, below = text.partition("/")
    length = Fraction(int(above or 1))
    figures = below.lstrip("/")
    if figures:
        return length / max(1, int(figures))
    return length / (1 << text.count("/"))


def length_text(length: Fraction) -> str:
    """The shortest way to write a length."""
    above = "" if length.numerator == 1 else str(length.numerator)
    if length.denominator == 1:
        return above
    return above + "/" + ("" if length.denominator == 2 else str(length.denominator))


def scale(tune: Tune, factor: Fraction) -> Tune | None:
    """The same tune on a unit of length that many times shorter. None if it says no unit."""
    if tune.unit is None or not tune.field("L"):
        return None
    unit = tune.unit / factor
    if unit.numerator != 1:
        return None

    def longer(match: re.Match[str]) -> str:
        return match[1] + length_text(length_of(match[2]) * factor)

    def changed(text: str) -> str:
        # Grace notes have no beat of their own.
        parts = re.split(r"(\{[^}]*\})", text)
        parts[::2] = [NOTE.sub(longer, part) for part in parts[::2]]
        return "".join(parts)

    header = tuple(f"L:1/{unit.denominator}" if s.startswith("L:") else s for s in tune.header)
    body = tuple(s if FIELD.match(s) else change_notes(s, changed) for s in tune.body)
    return Tune(header, body)


def split_bars(line: str) -> list[str]:
    """A line of music: bars at even places, the bar lines between them at odd ones."""
    return BAR_LINE.split(line)


def groups_of(bar: str) -> Iterator[tuple[str, Fraction]]:
    """The parts of a bar that a bar line may stand between, each with its length in units.

    What stands before a note belongs to it. Broken rhythms and tuplets stay together.
    """
    place, waiting, length, together = 0, "", Fraction(0), 0
    ratio = Fraction(1)
    silent = re.compile(r"\{[^}]*\}|![^!]*!")
    while place < len(bar):
        mark = silent.match(bar, place) or re.compile(r"\(([2-9])(?::\d*)*").match(bar, place)
        if mark is not None:
            if mark[0][0] == "(":
                together = int(mark[1])
                ratio = {2: Fraction(3, 2), 3: Fraction(2, 3), 4: Fraction(3, 4)}.get(
                    together, Fraction(2, together)
                )
            waiting, place = waiting + mark[0], mark.end()
            continue
        note = NOTE.match(bar, place)
        if note is None:
            waiting, place = waiting + bar[place], place + 1
            continue
        length += length_of(note[2]) * (ratio if together else 1)
        waiting, place = waiting + note[0], note.end()
        together = max(0, together - 1)
        behind = re.compile(r"[-)\s]*").match(bar, place)
        if behind is not None:
            waiting, place = waiting + behind[0], behind.end()
        if place < len(bar) and bar[place] in "<>":
            together = max(together, 1)
            ratio = Fraction(1)
        if not together:
            yield waiting, length
            waiting, length, ratio = "", Fraction(0), Fraction(1)
    if waiting:
        yield waiting, length
