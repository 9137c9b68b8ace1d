"""Which side of the split things stand on: near-duplicates together, the rest by a hash.

The side of a group follows from its smallest key alone, so more data elsewhere change nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from media.modality import SIDES, Item, LeftOut, Side

VALIDATION, TEST = 0.05, 0.10
"""The shares of groups on these sides; the rest is learned from."""


def groups(keys: Sequence[Iterable[str]]) -> list[str]:
    """The group of each thing, named after the smallest key in it.

    Things are in one group if they share a key, or are linked by things that do. Each has at
    least one key.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    firsts = []
    for own in keys:
        first, *rest = own
        parent.setdefault(first, first)
        for key in rest:
            parent.setdefault(key, key)
            least, other = sorted((root(first), root(key)))
            parent[other] = least
        firsts.append(first)
    return [root(first) for first in firsts]


def side_of(group: str) -> Side:
    """The side that a group's name gives it."""
    place = _place(group)
    if place < VALIDATION:
        return "validation"
    return "test" if place < VALIDATION + TEST else "train"


def beside(path: Path) -> str:
    """A key that files share that lie in one folder and differ in their extensions alone, as one
    thing in two forms does. What follows a point and is a number is no extension."""
    return f"without extension {path.with_suffix('') if path.suffix[1:2].isalpha() else path}"


def given_side(found: Sequence[Item | LeftOut], side: Side, there: Collection[Side]) -> Side | None:
    """The side of what a file became, of a set that is split into `there`, on `side`.

    One side alone is no split. Where only the validation side is missing, chance decides which
    training files go there.
    """
    if len(there) == 1:
        return None
    if side == "train" and "validation" not in there:
        items = [item for item in found if isinstance(item, Item)]
        keys = [key for item in items for key in item.keys] or [item.name for item in items]
        return "validation" if keys and side_of(min(keys)) == "validation" else "train"
    return side


def _place(group: str) -> float:
    """From 0 to 1, by a hash of the name."""
    digest = hashlib.sha256(group.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign(
    keys: Sequence[Iterable[str]], fixed: Sequence[Side | None]
) -> tuple[list[Side | None], list[str]]:
    """The side of each thing, and its group. None: it must be left out.

    `fixed`: the side where a thing must stand, if it must. A group with things fixed on two sides
    keeps those on the one furthest from training, and things that may stand anywhere go there.
    Where chance leaves a side empty, a group that can be spared goes there; training comes first,
    then validation.
    """
    names = groups(keys)
    chosen: dict[str, Side] = {}
    for name, side in zip(names, fixed, strict=True):
        if side is not None:
            chosen[name] = max(side, chosen.get(name, side), key=SIDES.index)
    free = sorted(set(names) - set(chosen), key=_place)
    chosen |= {name: side_of(name) for name in free}
    if free and "train" not in chosen.values():
        chosen[free[-1]] = "train"
    for empty in SIDES:
        counts = Counter(chosen.values())
        spare = [
            name
            for name in free
            if counts[chosen[name]] > 1 or SIDES.index(chosen[name]) > SIDES.index(empty)
        ]
        if not counts[empty] and spare:
            chosen[spare[0]] = empty
    sides = [
        chosen[name] if side in (None, chosen[name]) else None
        for name, side in zip(names, fixed, strict=True)
    ]
    return sides, names
