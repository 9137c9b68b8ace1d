"""Pairs of files made without end for a modality, of the training side of a prepared set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeGuard

from cpusim.files import read_bytes
from media.breaches import blamed
from media.modality import MakesPairs, Modality
from media.prepared import Prepared

MakePairs = Callable[[int, int], Sequence[tuple[bytes, bytes]]]
"""Of the first number and how many: the pairs of those numbers."""


def makes_pairs(modality: Modality, kinds: Collection[str] | None) -> TypeGuard[MakesPairs]:
    """Whether such pairs of files can be made, in whichever order; None: pairs of any kinds."""
    return isinstance(modality, MakesPairs) and (kinds is None or set(modality.pair) == set(kinds))


def pairs_of(modality: MakesPairs, found: Prepared, *, seed: int) -> tuple[MakePairs, str]:
    """What makes pairs of files, and the SHA-256 of all they depend on.

    Only what is learned from is made use of; nothing made is like what is held out. Raises
    `UserError` if the modality cannot make them.
    """
    first = f".{modality.pair[0]}"
    training, held_out = (
        [read_bytes(path) for side in sides for path in found.files(side) if path.suffix == first]
        for sides in (("train",), ("validation", "test"))
    )
    with blamed(modality, "pairs"):
        return modality.pairs(training, held_out, seed)
