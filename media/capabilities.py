"""Terminfo entries as infocmp prints them: names, capabilities, and how alike two entries are.

vt52|DEC vt52,
<tab>OTbs,
<tab>cols#80,
<tab>cup=\\EY%p1%' '%+%c%p2%' '%+%c,
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

ALIKE = 0.75
"""The share of the capabilities of either of two entries that both have, values included, from
which on they are the same thing in two forms.

Entries are written in terms of each other (`use=`), so that one is often another with a few lines
changed. Of the 1,754 in Debian's ncurses-term this puts 1,250 into groups with others, the largest
of 69. Families by name (xterm, xterm-256color) say less: terminals of one name may share little,
and with names as links as well a fifth of all would become one group."""
_BANDS, _IN_A_BAND = 6, 5
_LINE = re.compile(r"([^=#@,\s]+)(?:([=#])(.*)|(@))?", re.DOTALL)


class Capability(NamedTuple):
    """`sign`: '' of a boolean, '#' of a number, '=' of a string, '@' of one that is cancelled.
    `value`: as it is spelt."""

    name: str
    sign: str
    value: str

    def __str__(self) -> str:
        return f"\t{self.name}{self.sign}{self.value},\n"


@dataclass(frozen=True)
class Entry:
    """`names`: the first is the entry's own, the others are aliases. `about`: what a
    terminal it is; may be empty."""

    names: tuple[str, ...]
    about: str
    capabilities: tuple[Capability, ...]

    @classmethod
    def parse(cls, text: bytes) -> Entry:
        head, *lines = text.decode("latin-1").split("\n")
        *names, last = head.removesuffix(",").split("|")
        found = [_LINE.fullmatch(line.strip().removesuffix(",")) for line in lines]
        return cls(
            tuple(names) or (last,),
            last if names else "",
            tuple(
                Capability(match[1], match[2] or match[4] or "", match[3] or "")
                for match in found
                if match is not None
            ),
        )

    def __bytes__(self) -> bytes:
        head = "|".join((*self.names, self.about) if self.about else self.names)
        return (f"{head},\n" + "".join(map(str, self.capabilities))).encode("latin-1")


def names_of(text: bytes) -> tuple[str, ...]:
    """The names of an entry, its own and its aliases."""
    *names, last = text.decode("latin-1").partition("\n")[0].removesuffix(",").split("|")
    return tuple(names) or (last,)


def _lines(text: bytes) -> frozenset[bytes]:
    return frozenset(text.split(b"\n")[1:-1])


def alike(texts: Sequence[bytes]) -> list[list[int]]:
    """Of each entry, the places of all that are like it."""
    lines = [_lines(text) for text in texts]
    numbers: dict[bytes, int] = {}
    masks = [sum(1 << numbers.setdefault(line, len(numbers)) for line in own) for own in lines]
    by_size = sorted(range(len(texts)), key=lambda place: len(lines[place]))
    found: list[list[int]] = [[] for _ in texts]
    for rank, one in enumerate(by_size):
        size = len(lines[one])
        for other in by_size[rank + 1 :]:
            if size < ALIKE * len(lines[other]):
                break
            shared = (masks[one] & masks[other]).bit_count()
            if shared >= ALIKE * (size + len(lines[other]) - shared):
                found[one].append(other)
                found[other].append(one)
    return found


class HeldOut:
    """Entries that nothing may be like."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._names = {name for text in texts for name in names_of(text)}
        self._numbers: dict[bytes, int] = {}
        self._masks = []
        for text in texts:
            own = _lines(text)
            self._masks.append((self._mask(own, learn=True), len(own)))

    def _mask(self, lines: Collection[bytes], *, learn: bool = False) -> int:
        if learn:
            return sum(1 << self._numbers.setdefault(one, len(self._numbers)) for one in lines)
        return sum(1 << self._numbers[one] for one in lines if one in self._numbers)

    def is_like(self, text: bytes) -> bool:
        """Whether one of them shares a name with an entry, or most capabilities."""
        if not self._names.isdisjoint(names_of(text)):
            return True
        lines = _lines(text)
        mask, size = self._mask(lines), len(lines)
        return any(
            (shared := (mask & other).bit_count()) >= ALIKE * (size + count - shared)
            for other, count in self._masks
        )


def name_keys(text: bytes) -> Iterator[str]:
    """What an entry is, by its names."""
    return (f"name {name}" for name in names_of(text))


def sketch_keys(text: bytes) -> Iterator[str]:
    """Keys that entries that are alike probably share, though neither is known to the other:
    min-hashes of the capabilities, some in a key (Broder 1997; bands as in Leskovec et al.)."""
    lines = _lines(text)
    for band in range(_BANDS):
        digest = hashlib.sha256()
        for row in range(_IN_A_BAND):
            salt = b"%d " % (band * _IN_A_BAND + row)
            hashes = (hashlib.blake2b(salt + line, digest_size=8).digest() for line in lines)
            digest.update(min(hashes, default=b""))
        yield f"sketch {band} {digest.hexdigest()[:16]}"
