"""Pairs of files made without end for a modality, of the training side of a prepared set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media.modality import MakesPairs, Modality
from media.prepared import Prepared

MakePairs = Callable[[int, int], Sequence[tuple[bytes, bytes]]]
"""Of the first number and how many: the pairs of those numbers."""


def makes_pairs(modality: Modality, source: str, target: str) -> bool:
    """Whether such pairs of files can be made, in whichever order."""
    return isinstance(modality, MakesPairs) and set(modality.pair) == {source, target}


def pairs_of(
    modality: Modality, found: Prepared, source: str, target: str, *, seed: int
) -> tuple[MakePairs, str]:
    """What makes pairs of a source and a target, and the SHA-256 of all they depend on.

    Only what is learned from is made use of; nothing made is like what is held out. Raises
    `UserError` if the modality makes no such pairs, or cannot.
    """
    if not isinstance(modality, MakesPairs) or not makes_pairs(modality, source, target):
        raise UserError(
            f"modality {modality.name}: there is no program that makes pairs of .{source} and"
            f" .{target}; leave out --made"
        )
    first = f".{modality.pair[0]}"
    training, held_out = (
        [read_bytes(path) for side in sides for path in found.files(side) if path.suffix == first]
        for sides in (("train",), ("validation", "test"))
    )
    make, digest = modality.pairs(training, held_out, seed)
    if source == modality.pair[0]:
        return make, digest

    def turned(number: int, count: int) -> Sequence[tuple[bytes, bytes]]:
        return [(target, source) for source, target in make(number, count)]

    return turned, digest
