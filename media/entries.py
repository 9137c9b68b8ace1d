"""Unlimited terminfo entries, each a function of a seed and a number: what terminfo learns
conversions from.

An entry has the capabilities of one to four training entries, mixed, or any that occur, as often as
they do; as many of them as some training entry has. Some of its strings and numbers are changed, a
few have names that nobody uses, and its own names are new. So where a string stands in the table of
strings, which is a sum over all before it, is something else in every entry.

Nothing comes of the validation and test sides but what to avoid: an entry with a name of theirs, or
with most of the capabilities of one, is drawn again.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from cpusim.errors import UserError
from media import tic
from media.capabilities import Capability, Entry, HeldOut

RECIPE = 1
"""Raised by one whenever the same seed and number give another entry."""

_TRIES = 100
_SIGNS = "", "#", "="
"""Kinds of capabilities in infocmp's order: booleans, numbers, strings."""
_GRAPHICS = frozenset(("smacs", "rmacs"))
_ANY = 0.2
"""The share of entries whose capabilities are of no entries in particular."""
_TOKEN = re.compile(
    r"\\[0-7]{3}|\\.|\^.|\$<[^>]*>|%p.|%[Pg].|%'.[^']*'|%\{\d+\}|%[:# 0-9.+-]*[doxXs]|%.|.",
    re.DOTALL,
)
"""What a string is made of: escapes, delays and parameters, and single characters."""
_PLAIN = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "[]()<>?;=~")
_LETTERS = _PLAIN[1] + _PLAIN[0]
_PARTS = (r"\E", r"\E[", r"\EO", "^A", "^X", r"\200", r"\n", r"\r", r"\s", r"\,", r"\\", r"\^")
_WORD = re.compile(r"[A-Za-z]+")
_SEPARATORS = "-+."


class Entries:
    """Entries made of training entries.

    `training`: as infocmp prints them. `held_out`: those that nothing made may be like. Raises
    `UserError` where that leaves nothing to make entries of, and `Missing`.
    """

    def __init__(self, training: Sequence[bytes], held_out: Sequence[bytes], *, seed: int) -> None:
        self.seed = seed
        digest = hashlib.sha256(repr((RECIPE, tuple(training), tuple(held_out))).encode())
        self.sha256 = digest.hexdigest()
        """Of all that the entries depend on, the seed apart."""
        self._held_out = HeldOut(held_out)
        self._entries = [entry for entry in map(Entry.parse, training) if entry.capabilities]
        if not self._entries:
            raise UserError("no entry to learn from has a capability; give more to learn from")
        self._all = [one for entry in self._entries for one in entry.capabilities]
        self._values: dict[str, list[Capability]] = defaultdict(list)
        for one in self._all:
            if one.sign != "@":
                self._values[one.name].append(one)
        self._signs = {name: values[0].sign for name, values in self._values.items()}
        self._standard = _standard(self._signs)
        names = [re.split(r"[-+.]", name) for entry in self._entries for name in entry.names]
        self._stems = sorted({parts[0] for parts in names if parts[0]})
        self._suffixes = sorted({part for parts in names for part in parts[1:] if part}) or ["m"]
        self._abouts = [entry.about for entry in self._entries if " " in entry.about] or ["a tty"]
        self._words = sorted({word for about in self._abouts for word in _WORD.findall(about)})

    def entry(self, number: int, attempt: int = 0) -> bytes:
        """The entry of this number, before tic has looked at it; `attempt`: another one in its
        place, where it is of no use."""
        rng = random.Random(f"{self.seed} {number} {attempt}")
        chosen = self._mixed(rng)
        share = rng.choice((0.0, 0.02, 0.1, 0.3))
        made = {
            name: self._changed(rng, one) if rng.random() < share else one
            for name, one in chosen.items()
        }
        if rng.random() < 0.1:
            for _ in range(rng.randint(1, 3)):
                own = _new_capability(rng)
                if own.name not in self._signs:
                    made[own.name] = own
        names = {self._name(rng): None for _ in range(len(rng.choice(self._entries).names))}
        return bytes(Entry(tuple(names), self._about(rng), self._sorted(made.values())))

    def pairs(self, first: int, count: int) -> list[tuple[bytes, bytes]]:
        """Entries by number, from `first` on, each as infocmp prints it and compiled. What tic
        finds anything wrong with, and what is like one held out, is drawn again. Raises
        `UserError` if that is so of everything, and `Missing`."""
        made: dict[int, tuple[bytes, bytes]] = {}
        waiting = list(range(first, first + count))
        for attempt in range(_TRIES):
            drawn = [self.entry(number, attempt) for number in waiting]
            spelt = {
                number: self._in_order(text)
                for number, text in zip(waiting, tic.to_plain_many(drawn), strict=True)
                if text is not None
            }
            spelt = {
                number: text
                for number, text in spelt.items()
                if self._fits(text) and not self._held_out.is_like(text)
            }
            compiled = tic.to_compiled_many(list(spelt.values()))
            made |= {
                number: (text, data)
                for (number, text), data in zip(spelt.items(), compiled, strict=True)
                if data is not None
            }
            waiting = [number for number in waiting if number not in made]
            if not waiting:
                return [made[number] for number in sorted(made)]
        raise UserError(
            "whatever entry is made is refused by tic or like one held out; give more to learn from"
        )

    def _mixed(self, rng: random.Random) -> dict[str, Capability]:
        """Capabilities by name, as many as one of the entries has, or fewer."""
        size = len(rng.choice(self._entries).capabilities)
        if rng.random() < _ANY:
            drawn = [rng.choice(self._all) for _ in range(2 * size)]
        else:
            sources = rng.sample(
                self._entries, min(rng.choice((1, 1, 2, 2, 3, 4)), len(self._entries))
            )
            drawn = [one for entry in sources for one in entry.capabilities]
            rng.shuffle(drawn)
        # Of which kind a cancelled one is, only others of its name tell.
        found = {one.name: one for one in drawn if one.name in self._signs}
        if rng.random() < 0.5:
            size = rng.randint(1, size)
        kept = {name: found[name] for name in rng.sample(sorted(found), min(size, len(found)))}
        if kept.keys() >= _GRAPHICS and "acsc" not in kept:
            # tic would make up a list of graphic characters, and the text would not say so.
            del kept[min(_GRAPHICS)]
        return kept

    def _changed(self, rng: random.Random, one: Capability) -> Capability:
        if one.sign == "#":
            if one.name in self._standard and rng.random() < 0.05:
                return one._replace(value=str(rng.randrange(1 << 24)))
            return one._replace(value=_number(rng))
        if one.sign != "=":
            return one
        if rng.random() < 0.4 or one.name == "acsc":  # which is a list of pairs
            return rng.choice(self._values[one.name])
        return one._replace(value=_string(rng) if rng.random() < 0.1 else _altered(rng, one.value))

    def _name(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.3:
            stem = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 9)))
        else:
            stem = rng.choice(self._stems)
            stem = re.sub(r"\d", lambda _: str(rng.randint(0, 9)), stem)
            if draw < 0.6:
                stem += rng.choice(_LETTERS)
        for _ in range(rng.choice((0, 1, 1, 2))):
            suffix = rng.choice(self._suffixes)
            suffix = re.sub(r"\d", lambda _: str(rng.randint(0, 9)), suffix)
            stem += rng.choice(_SEPARATORS) + suffix
        return stem

    def _about(self, rng: random.Random) -> str:
        """A description, with other words and figures in it."""
        share = rng.choice((0.2, 0.5, 0.9))

        def word(match: re.Match[str]) -> str:
            return rng.choice(self._words) if rng.random() < share else str(match[0])

        text = _WORD.sub(word, rng.choice(self._abouts))
        return re.sub(r"\d", lambda _: str(rng.randint(0, 9)), text)

    def _in_order(self, text: bytes) -> bytes:
        entry = Entry.parse(text)
        return bytes(Entry(entry.names, entry.about, self._sorted(entry.capabilities)))

    def _fits(self, text: bytes) -> bool:
        """Whether tic keeps all of its numbers: they become 32 bits wide for the standard ones'
        sake alone, and else those of 16 bits are cut."""
        wide = {
            one.name in self._standard
            for one in Entry.parse(text).capabilities
            if one.sign == "#" and int(one.value, 0) >= 1 << 15
        }
        return wide != {False}

    def _sorted(self, capabilities: Iterable[Capability]) -> tuple[Capability, ...]:
        """As infocmp sorts them: kind by kind, the standard ones first."""

        def rank(one: Capability) -> tuple[int, bool, str]:
            sign = self._signs.get(one.name, one.sign)
            return _SIGNS.index(sign), one.name not in self._standard, one.name

        return tuple(sorted(capabilities, key=rank))


def _standard(signs: Mapping[str, str]) -> frozenset[str]:
    """Which names are not somebody's own, of names and their signs. infocmp has those of termcap
    among them, though tic takes them for its user's."""
    # With values as short as can be: an entry has room for some thousand bytes.
    every = [
        Capability(name, sign, {"": "", "#": "1", "=": "x"}[sign]) for name, sign in signs.items()
    ]
    known = tic.without_extensions(bytes(Entry(("all",), "every capability", tuple(every))))
    names = {one.name for one in Entry.parse(known).capabilities}
    return frozenset(names | {name for name in signs if name.startswith("OT")})


def _number(rng: random.Random) -> str:
    return str(rng.randrange(rng.choice((10, 256, 1 << 15))))


def _string(rng: random.Random) -> str:
    plain = "".join(_PLAIN)
    while True:
        parts = [_PARTS[0], *(rng.choice((*_PARTS, *plain)) for _ in range(rng.randint(0, 12)))]
        if not _ambiguous(parts):
            return "".join(parts)


def _altered(rng: random.Random, value: str) -> str:
    """With other characters in it, some more or some fewer."""
    share = rng.choice((0.1, 0.3, 0.8))
    made = []
    for token in _TOKEN.findall(value):
        kind = next((kind for kind in _PLAIN if token in kind), None)
        if kind is None or rng.random() >= share:
            made.append(token)
            continue
        how = rng.random()
        if how < 0.7:
            made.append(rng.choice(kind))
        elif how < 0.85:
            made += [token, rng.choice(kind)]
    return value if _ambiguous(made) else "".join(made)


def _ambiguous(tokens: Sequence[str]) -> bool:
    """Whether infocmp prints a string so that tic reads another: of nothing, and of a null (for
    which byte 128 stands) and a digit, it does."""
    return not tokens or any(
        one in (r"\0", r"\200") and other[0].isdigit() for one, other in pairwise(tokens)
    )


def _new_capability(rng: random.Random) -> Capability:
    letters = _PLAIN[1] + _PLAIN[2]
    name = "".join(rng.choice(letters) for _ in range(rng.randint(2, 5)))
    sign = rng.choice(_SIGNS)
    return Capability(name, sign, {"": "", "#": _number(rng), "=": _string(rng)}[sign])
