"""Unlimited ABC tunes, each a function of a seed and a number: what music learns conversions from.

Half of them are tunes of the training side varied: in another key, on another unit, with other
bar lines, with bars of other tunes, under another title. The others are composed: the layout of one
tune, bars with the rhythm and marks of any, pitches that walk as theirs do, or all of it by
grammar. What is frequent there is frequent here, and what is rare is a little less so.

The first ones have little in front of their notes and few of these, more and more as the numbers
grow: which note follows from which letter is learned where there are one or two of both, and hardly
at all among hundreds. Of all others a third are cut off after a few bars. In half of those that are
shortened a bar line becomes a sign of repetition, which would come late or never otherwise.

Nothing comes of the validation and test sides but what to avoid: a tune with a title or a melody
of theirs is drawn again. That the same tune comes twice is possible and does not happen: there
are more titles alone than anybody draws.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from itertools import islice, pairwise

from cpusim.errors import UserError
from media import abcmidi, abctext
from media.abctext import FIELD, LENGTH, PITCH, Key, Tune
from media.music import keys_of

RECIPE = 6
"""Raised by one whenever the same seed and number give another tune."""

_VARIED = 0.5
"""The share of tunes that are varied ones."""
_CUT = 1 / 3
"""The share of tunes that are cut off."""
_MOST_BARS = 8
"""That one that is cut off has."""
_REPEATED = 0.5
"""The share of shortened tunes whose beginning is repeated, where they have bar lines."""
_SCHOOL = 1 << 15
"""From this number on no tune is bare; the share of those that are falls evenly until then."""
_FEW, _DOUBLINGS = 3, 6
"""Notes of a bare tune: at most, of the first ones, and how often that doubles by `_SCHOOL`."""
_TEXTS = "TZNBSCORGDHA"
_TEMPO = range(40, 241)
_LOWEST, _HIGHEST = -5, 16
"""Pitches that a walk keeps to, in letters above middle C."""
_NOTE = re.compile(PITCH.pattern + LENGTH)
_WORD = re.compile(r"[^\W\d_]+", re.ASCII)
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '.,-"
_TRIES = 100
_MODES = ("", "", "", "m", " Minor", "min", "mix", " Mixolydian", "dor", " Dorian", "phr", "lyd")
_Pool = dict[tuple[Fraction, Fraction], list[str]]


class Tunes:
    """Tunes made of training tunes.

    `training`: cleaned ABC tunes. `held_out`: the keys, as `keys_of` gives them, that no made tune
    may have. Raises `UserError` where that leaves nothing to make tunes of.
    """

    def __init__(self, training: Sequence[str], held_out: Collection[str], *, seed: int) -> None:
        self.seed = seed
        self.held_out = frozenset(held_out)
        digest = hashlib.sha256(repr((RECIPE, tuple(training), sorted(held_out))).encode())
        self.sha256 = digest.hexdigest()
        """Of all that the tunes depend on, the seed apart."""
        self._tunes = []
        self._bars: _Pool = defaultdict(list)
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._steps: list[int] = []
        for text in training:
            tune = Tune.parse(text)
            for line in tune.header:
                self._texts[line[0]].append(line[2:])
            if tune.meter is None or tune.unit is None or "V:" in text:
                continue
            self._tunes.append(tune)
            pool = self._bars[tune.meter, tune.unit]
            for line in tune.body:
                if not FIELD.match(line):
                    # The first and the last may be parts of bars.
                    pool.extend(bar for bar in abctext.split_bars(line)[2:-2:2] if _plain(bar))
            places = [
                abctext.pitch_place(found[2], found[3])
                for line in tune.body
                if not FIELD.match(line)
                for found in PITCH.finditer(line)
            ]
            self._steps.extend(after - before for before, after in pairwise(places))
        if not self._tunes or not self._steps:
            raise UserError("no tune to learn from says its meter, so none can be made of them")
        self._distinct = {
            place: sorted({PITCH.sub("C", bar) for bar in bars})
            for place, bars in self._bars.items()
        }
        """Bars by their rhythm and marks alone, so that rare ones come more often."""
        self._words = sorted(
            {word for name in _TEXTS for text in self._texts[name] for word in _WORD.findall(text)}
        ) or ["Tune"]

    def tune(self, number: int, attempt: int = 0) -> str:
        """The tune of this number; `attempt`: another one in its place, where it is of no use."""
        for again in range(_TRIES):
            rng = random.Random(f"{self.seed} {number} {attempt} {again}")
            made = self._varied(rng) if rng.random() < _VARIED else self._composed(rng)
            if made is not None:
                text = str(self._shortened(rng, made, number))
                if not self.held_out.intersection(keys_of(text)):
                    return text
        raise UserError("whatever tune is made is like one held out; give more to learn from")

    def pairs(self, first: int, count: int) -> list[tuple[bytes, bytes]]:
        """Tunes by number, from `first` on, each with its MIDI file. What abc2midi refuses is drawn
        again. Raises `abcmidi.Missing`, and `UserError` if it refuses everything."""
        made: dict[int, tuple[bytes, bytes]] = {}
        waiting = list(range(first, first + count))
        for attempt in range(_TRIES):
            tunes = [self.tune(number, attempt).encode() for number in waiting]
            files = abcmidi.to_midi_many(tunes)
            made |= {
                number: (abc, midi)
                for number, abc, midi in zip(waiting, tunes, files, strict=True)
                if midi is not None
            }
            waiting = [number for number in waiting if number not in made]
            if not waiting:
                return [made[number] for number in sorted(made)]
        raise UserError("abc2midi refuses whatever tune is made; give more to learn from")

    def _shortened(self, rng: random.Random, tune: Tune, number: int) -> Tune:
        """As much of a tune as one of this number has."""
        grown = number / _SCHOOL
        if rng.random() >= grown:
            most = round(_FEW * 2 ** (_DOUBLINGS * grown))
            title = " ".join(rng.choices(self._words, k=rng.randint(1, 4)))
            made = first_notes(bare(tune, title), rng.randint(1, most))
        elif rng.random() < _CUT:
            made = cut_off(tune, rng.randint(1, _MOST_BARS))
        else:
            return tune
        return _repeated(rng, made) if rng.random() < _REPEATED else made

    # Tunes varied

    def _varied(self, rng: random.Random) -> Tune | None:
        tune = rng.choice(self._tunes)
        if rng.random() < 0.5:
            tune = self._mixed(rng, tune)
        if rng.random() < 0.5:
            tune = _nudged(rng, tune)
        if rng.random() < 0.3:
            tune = rebar(tune) or tune
        if rng.random() < 0.3:
            tune = abctext.scale(tune, rng.choice((Fraction(2), Fraction(1, 2)))) or tune
        if rng.random() < 0.85:
            moved = abctext.transpose(tune, rng.randint(-6, 6))
            tune = moved if moved is not None and _audible(moved) else tune
        return self._retitled(rng, tune)

    def _mixed(self, rng: random.Random, tune: Tune) -> Tune:
        """With bars of any tunes of the same meter and unit in place of some of its own."""
        pool = self._bars[_measure(tune)]
        share = rng.uniform(0.05, 0.6)

        def other(bar: str) -> str:
            return rng.choice(pool) if pool and rng.random() < share else bar

        return _with_inner_bars(tune, other)

    # Tunes composed

    def _composed(self, rng: random.Random) -> Tune | None:
        tune = rng.choice(self._tunes)
        key = tune.key
        if key is not None and rng.random() < 0.5:
            key = _any_key(rng)
            tune = Tune((*tune.header[:-1], f"K:{key}"), tune.body)
        place = _measure(tune)
        if rng.random() < 0.35:
            tune = Tune(tune.header, tuple(_grammar(rng, *place)))
        elif self._bars[place]:
            pools = (self._bars[place], self._distinct[place])

            def other(bar: str) -> str:
                return rng.choice(rng.choice(pools)) if rng.random() < 0.7 else bar

            tune = _with_inner_bars(tune, other)
        return self._retitled(rng, self._walked(rng, tune))

    def _walked(self, rng: random.Random, tune: Tune) -> Tune:
        """With other pitches: steps from note to note as the tunes have them, and accidentals."""
        place = rng.randint(0, 9)
        chromatic = rng.choice((0.0, 0.0, 0.01, 0.03, 0.1))

        def another(match: re.Match[str]) -> str:
            nonlocal place
            if match.string[: match.start()].endswith("-"):
                return abctext.pitch_text(place)  # a tie
            moved = place + rng.choice(self._steps)
            place = moved if _LOWEST <= moved <= _HIGHEST else place + (-1, 1)[place < 5]
            sign = rng.choices(("^", "=", "_"), (5, 3, 1))[0] if rng.random() < chromatic else ""
            return sign + abctext.pitch_text(place)

        def changed(text: str) -> str:
            return PITCH.sub(another, text)

        body = [s if FIELD.match(s) else abctext.change_notes(s, changed) for s in tune.body]
        return Tune(tune.header, tuple(body))

    # What stands in the header

    def _retitled(self, rng: random.Random, tune: Tune) -> Tune:
        lines = []
        for line in tune.header:
            name, text = line[0], line[2:]
            if name == "T" or (name in _TEXTS and rng.random() < 0.6):
                text = self._text(rng, name)
            elif name == "Q" and rng.random() < 0.6:
                text = re.sub(r"\d+(?=[^\d/]*$)", str(rng.choice(_TEMPO)), text)
            elif name == "M" and rng.random() < 0.15:
                space = text[: len(text) - len(text.lstrip())]
                spelt = {"C": "4/4", "4/4": "C", "C|": "2/2", "2/2": "C|"}
                text = space + spelt.get(text.strip(), text.strip())
            elif name == "Z" and rng.random() < 0.1:
                continue
            lines.append(f"{name}:{text}")
        if not tune.field("Q") and rng.random() < 0.15:
            beat = rng.choice(("1/4", "1/8", "1/2", "3/8"))
            lines.insert(len(lines) - 1, f"Q:{beat}={rng.choice(_TEMPO)}")
        return Tune(tuple(lines), tune.body)

    def _text(self, rng: random.Random, name: str) -> str:
        """One of a field's texts, with other words and figures in it, or letters by chance."""
        text = rng.choice(self._texts[name])
        if rng.random() < (0.02 if name == "R" else 0.1):
            letters = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(1, 30)))
            return " " * text.startswith(" ") + letters.strip()
        share = 0.8 if name == "T" else rng.choice((0.0, 0.3, 0.9))
        if name == "R" and rng.random() < 0.9:
            share = 0.0  # abc2midi plays hornpipes unevenly

        def word(match: re.Match[str]) -> str:
            if rng.random() >= share:
                return str(match[0])
            other: str = rng.choice(self._words)
            return other.upper() if len(match[0]) > 1 and match[0].isupper() else other

        text = _WORD.sub(word, text)
        return re.sub(r"\d", lambda found: str(rng.randint(0, 9)), text) if share else text


def _measure(tune: Tune) -> tuple[Fraction, Fraction]:
    """Meter and unit of a tune that says them, as all that are made use of do."""
    return tune.meter or Fraction(1), tune.unit or Fraction(1, 8)


def _plain(bar: str) -> bool:
    """Whether a bar may stand anywhere."""
    return bool(bar.strip()) and not re.search(r"\\|\[[A-Za-z]:|[{(\[]\s*$|[-<>]\s*$", bar)


def _with_inner_bars(tune: Tune, other: Callable[[str], str]) -> Tune:
    """With `other` in place of whole bars: not of those that a line begins or ends with."""
    body = []
    for line in tune.body:
        if not FIELD.match(line):
            parts = abctext.split_bars(line)
            for place in range(2, len(parts) - 2, 2):
                if _plain(parts[place]):
                    parts[place] = other(parts[place])
            line = "".join(parts)
        body.append(line)
    return Tune(tune.header, tuple(body))


def bare(tune: Tune, title: str) -> Tune:
    """Under another title, with no more in front of its notes than they need."""
    needed = [line for line in tune.header if line[0] in "MLK"]
    return Tune(("X:1", f"T:{title}", *needed), tune.body)


def first_notes(tune: Tune, notes: int) -> Tune:
    """The first few notes, as they stand."""
    body: list[str] = []
    for line in tune.body:
        if not FIELD.match(line):
            found = list(islice(_NOTE.finditer(line), notes))
            if len(found) == notes:
                end = line[: found[-1].end()]
                return _without_open_repeats(Tune(tune.header, (*body, end)))
            notes -= len(found)
        body.append(line)
    return tune


def _without_open_repeats(tune: Tune) -> Tune:
    """Without a sign that a repeat begins where none ends any more."""
    if any(":|" in line for line in tune.body):
        return tune
    return Tune(tune.header, tuple(line.replace("|:", "|") for line in tune.body))


def cut_off(tune: Tune, bars: int) -> Tune:
    """The first few bars, as they stand."""
    body: list[str] = []
    for line in tune.body:
        if not FIELD.match(line):
            parts = abctext.split_bars(line)
            whole = sum(bool(bar.strip()) for bar in parts[::2])
            if whole >= bars:
                places = [place for place in range(0, len(parts), 2) if parts[place].strip()]
                end = "".join(parts[: places[bars - 1] + 2])
                return _without_open_repeats(Tune(tune.header, (*body, end)))
            bars -= whole
        body.append(line)
    return tune


def _repeated(rng: random.Random, tune: Tune) -> Tune:
    """With a sign that what comes before is repeated, in place of a plain bar line."""
    if any(":|" in line or "::" in line for line in tune.body):
        return tune
    repeated: list[tuple[str, ...]] = []
    something = False
    for number, line in enumerate(tune.body):
        if FIELD.match(line):
            continue
        parts = abctext.split_bars(line)
        for place in range(1, len(parts), 2):
            before, behind = "".join(parts[:place]), "".join(parts[place + 1 :])
            ended = f"{before}:|{behind}"
            # A line that begins with "D:" would be a field.
            if (
                parts[place] == "|"
                and (something or PITCH.search(before))
                and not FIELD.match(ended)
            ):
                repeated.append((*tune.body[:number], ended, *tune.body[number + 1 :]))
        something = something or bool(PITCH.search(line))
    return Tune(tune.header, rng.choice(repeated)) if repeated else tune


def _nudged(rng: random.Random, tune: Tune) -> Tune:
    """With some notes a little higher or lower."""
    share = rng.choice((0.01, 0.05, 0.2))

    def other(match: re.Match[str]) -> str:
        if rng.random() >= share:
            return match[0]
        place = abctext.pitch_place(match[2], match[3]) + rng.choice((-7, -2, -1, 1, 2, 7))
        return (match[1] or "") + abctext.pitch_text(min(max(place, _LOWEST - 3), _HIGHEST + 3))

    def changed(text: str) -> str:
        return PITCH.sub(other, text)

    body = [s if FIELD.match(s) else abctext.change_notes(s, changed) for s in tune.body]
    return Tune(tune.header, tuple(body))


def _audible(tune: Tune) -> bool:
    """Whether its notes stay where such tunes are written."""
    places = [
        abctext.pitch_place(found[2], found[3])
        for line in tune.body
        if not FIELD.match(line)
        for found in PITCH.finditer(line)
    ]
    return bool(places) and min(places) >= _LOWEST - 3 and max(places) <= _HIGHEST + 3


def _any_key(rng: random.Random) -> Key:
    while True:
        text = rng.choice("CDEFGAB") + rng.choice(("", "", "", "b", "#")) + rng.choice(_MODES)
        key = Key.parse(" " * (rng.random() < 0.2) + text)
        if key is not None and abs(key.sharps) <= abctext.MOST_SHARPS:
            return key


def rebar(tune: Tune) -> Tune | None:
    """The same notes in bars half as long (4/4 to 2/4), or twice (2/4 to 4/4).

    None if the meter is another, or a note lies across a new bar line.
    """
    meter, unit = tune.meter, tune.unit
    if meter == Fraction(1) and tune.field("M") in ("C", "4/4"):
        change, said = _split_bars, "2/4"
    elif meter == Fraction(1, 2) and tune.field("M") == "2/4":
        change, said = _join_bars, "4/4"
    else:
        return None
    if unit is None or not tune.field("L") or meter is None:
        return None
    body = []
    for line in tune.body:
        changed = line if FIELD.match(line) else change(line, meter / unit)
        if changed is None:
            return None
        body.append(changed)
    header = tuple(f"M:{said}" if line.startswith("M:") else line for line in tune.header)
    return Tune(header, tuple(body))


def _split_bars(line: str, bar: Fraction) -> str | None:
    parts = abctext.split_bars(line)
    for place in range(0, len(parts), 2):
        groups = list(abctext.groups_of(parts[place]))
        if sum(length for _, length in groups) != bar:
            continue
        made, length = "", Fraction(0)
        for text, more in groups:
            made += "|" * (length == bar / 2) + text
            length += more
        if made.count("|") != 1:
            return None
        parts[place] = made
    return "".join(parts)


def _join_bars(line: str, bar: Fraction) -> str | None:
    parts = abctext.split_bars(line)
    waiting = False
    for place in range(0, len(parts) - 1, 2):
        whole = sum(length for _, length in abctext.groups_of(parts[place])) == bar
        if waiting and not whole:
            return None
        waiting = whole and not waiting
        if waiting:
            if parts[place + 1] != "|" or place + 2 >= len(parts) or not parts[place + 2].strip():
                return None
            parts[place + 1] = " "
    return "".join(parts)


def _grammar(rng: random.Random, meter: Fraction, unit: Fraction) -> Iterator[str]:
    """Lines of music without pitches of their own: sections, repeats, endings, bars, beats."""
    compound = meter.numerator % 3 == 0 and meter > Fraction(3, 8) and meter != Fraction(3, 4)
    beat = (Fraction(3, 8) if compound else Fraction(1, 4)) / unit
    beats = max(1, int(meter / unit / beat))
    style = _Style(rng)
    pickup = _beat(rng, rng.choice((beat / 3, beat / 2)) if compound else beat / 2, style)
    bars_a_line = rng.choice((2, 4, 4, 4, 8))
    for section in range(rng.choice((1, 2, 2, 2, 3, 4))):
        repeated = rng.random() < 0.6
        begin = "|:" if repeated and (section or rng.random() < 0.5) else ""
        if rng.random() < 0.4:
            begin += pickup + "|"
        bars = [_bar(rng, beats, beat, style) for _ in range(rng.choice((4, 4, 8)))]
        if rng.random() < 0.3:  # a phrase that comes again
            bars[len(bars) // 2 :] = bars[: len(bars) // 2]
        for first in range(0, len(bars), bars_a_line):
            chosen = bars[first : first + bars_a_line]
            last = first + bars_a_line >= len(bars)
            end = "|" if not last else ":|" if repeated else rng.choice(("||", "|]", "|"))
            if last and repeated and len(chosen) > 1 and rng.random() < 0.25:
                chosen[-1] = f"[1{chosen[-1]}:|[2{_bar(rng, beats, beat, style)}"
                end = "||"
            line = f"{style.around}|{style.around}".join(chosen)
            yield (begin if first == 0 else "") + line + style.around + end


class _Style:
    """What a composer does throughout a tune, and how often."""

    def __init__(self, rng: random.Random) -> None:
        self.around = rng.choice(("", "", " "))
        self.between = rng.choice(("", " ", " "))
        self.slashes = rng.random() < 0.5
        self.broken = rng.choice((0.0, 0.05, 0.5))
        self.marks = {
            "grace": rng.choice((0.0, 0.0, 0.03, 0.1)),
            "slur": rng.choice((0.0, 0.0, 0.1, 0.3)),
            "staccato": rng.choice((0.0, 0.0, 0.0, 0.1)),
            "tie": rng.choice((0.0, 0.0, 0.02)),
            "rest": rng.choice((0.0, 0.0, 0.03)),
            "chord": rng.choice((0.0, 0.0, 0.0, 0.05)),
            "triplet": rng.choice((0.0, 0.03, 0.1)),
            "trill": rng.choice((0.0, 0.0, 0.03)),
        }

    def length(self, length: Fraction) -> str:
        text = abctext.length_text(length)
        return text + "2" if text.endswith("/") and self.slashes else text


def _bar(rng: random.Random, beats: int, beat: Fraction, style: _Style) -> str:
    parts: list[str] = []
    left = beats
    while left:
        # A note may fill several beats.
        taken = left if rng.random() < 0.06 else 2 if left > 1 and rng.random() < 0.1 else 1
        if taken > 1:
            parts.append(_note(rng, beat * taken, style))
        else:
            parts.append(_beat(rng, beat, style))
        left -= taken
    return style.between.join(parts)


def _beat(rng: random.Random, length: Fraction, style: _Style) -> str:
    """Notes that fill so many units."""
    if length <= Fraction(1, 4) or rng.random() < (0.15 if length > 1 else 0.85):
        return _note(rng, length, style)
    if length.numerator % 3 == 0:
        third = length / 3
        pattern = rng.choice(((1, 1, 1), (1, 1, 1), (2, 1), (1, 2), (3,)))
        made = "".join(_note(rng, third * part, style) for part in pattern)
        if pattern == (1, 1, 1) and rng.random() < style.broken / 2:
            made = f"C{style.length(third)}>C{style.length(third)}C{style.length(third)}"
        return made
    half = length / 2
    if rng.random() < style.marks["triplet"]:
        return "(3" + ("C" + style.length(half)) * 3
    if rng.random() < style.broken:
        return f"C{style.length(half)}{rng.choice('>>><')}C{style.length(half)}"
    made = _beat(rng, half, style) + _beat(rng, half, style)
    return f"({made})" if "(" not in made and rng.random() < style.marks["slur"] else made


def _note(rng: random.Random, length: Fraction, style: _Style) -> str:
    size = style.length(length)
    if rng.random() < style.marks["rest"]:
        return f"z{size}"
    if rng.random() < style.marks["chord"]:
        return f"[{'C' * rng.randint(2, 3)}]{size}"
    if rng.random() < style.marks["tie"]:
        return f"C{size}-C{size}"
    before = ""
    if rng.random() < style.marks["grace"]:
        before = rng.choice(("{C}", "{C}", "{CC}", "{C/C/}"))
    if rng.random() < style.marks["trill"]:
        before += "T"
    if rng.random() < style.marks["staccato"]:
        before += "."
    return f"{before}C{size}"
