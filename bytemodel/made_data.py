"""Files made without end, mixed with real ones; evaluation is on real ones alone.

Where an exact program does a conversion, as many pairs can be made as a model can learn: as
conversions, or each file for itself. They come in blocks, each a function of its number, so a
batch is a function of the step and a resumed run sees what a straight one would have seen. Batches
have the shapes of the real ones, so that there are few, and others of twice and four times as many
rows, since many of those made are short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bytemodel.files_data import Conversion, FileBatch, FileSource, Shape, Window
from bytemodel.patches import encode_conversion, encode_file
from cpusim.errors import UserError

BLOCK = 128
"""Pairs that are made at a time, or more where batches have many rows."""
_ROWS = 8
"""Pairs that are made at a time for each row of the largest batch."""
_FILLED = 0.75
"""The share of the batches that one time gives that every block has."""
_TIMES = 8
"""How often pairs are made for a block at most: the first ones may be short, of which more fit into
a batch."""
_FAR = 1 << 20
"""A block where what is made has become what it stays."""

_Lots = dict[Shape, list[list[Window]]]
"""The windows of the batches of each shape, of which the last is being filled."""
MakePairs = Callable[[int, int], Sequence[tuple[bytes, bytes]]]
"""Pairs by number: of the first one and how many, the two files of each."""


class MixedSource:
    """A share of made batches among those of a `FileSource`, which it is in all else.

    Raises `UserError` if hardly anything made fits into the model's sequence.
    """

    def __init__(
        self,
        real: FileSource,
        make_pairs: MakePairs,
        kinds: tuple[str, str],
        conversion: Conversion | None,
        *,
        share: float,
        about: dict[str, Any],
    ) -> None:
        """`make_pairs`: gives files with the extensions `kinds`. `conversion`: between these, what
        is learned; None: to write both. `share`: how many of all batches are made ones, from 0 up
        to less than 1. `about`: plain values that say what the pairs are made of."""
        if not 0 <= share < 1:
            raise UserError(f"a share of made files of {share:g} is not from 0 up to less than 1")
        self.real, self.conversion, self.share, self.about = real, conversion, share, about
        self._kinds = kinds
        self._make_pairs = make_pairs
        shorter = [
            Shape(length // by, rows * by, targets, max(1, per_row // by))
            for length, rows, targets, per_row in real.shortest
            for by in (4, 2)
            if length >= by
        ]
        self._shapes = [*shorter, *real.shapes]
        self._pairs_a_time = max([BLOCK, *(_ROWS * shape.rows for shape in self._shapes)])
        self._block = lru_cache(maxsize=2)(self._made)
        self._batches_a_block = self._count() if share else 1

    def _count(self) -> int:
        """How many batches a block gives."""
        lots = self._no_lots()
        self._add(lots, _FAR, 0)
        whole = _whole(lots)
        if not whole:
            longest = max(shape.length for shape in self._shapes)
            raise UserError(
                f"hardly anything made fits into {longest} patches, the longest that is learned;"
                " train on longer ones (--max-patches), or without made ones"
            )
        return max(1, int(whole * _FILLED))

    def _windows(self, block: int, time: int) -> Iterator[Window]:
        size = self.real.config.patch_size
        first = (block * _TIMES + time) * self._pairs_a_time
        for pair in self._make_pairs(first, self._pairs_a_time):
            files = list(zip(pair, self._kinds, strict=True))
            if self.conversion is None:
                for data, kind in files:
                    yield Window(encode_file(data, kind, size), 1)
                continue
            if self.conversion.source != self._kinds[0]:
                files.reverse()
            for (source, kind), (target, wanted) in (files, files[::-1])[
                : 1 + self.conversion.both
            ]:
                patches = encode_conversion(source, kind, target, wanted, size)
                yield Window(patches, 2 + -(-len(source) // size))

    def _no_lots(self) -> _Lots:
        return {shape: [[]] for shape in self._shapes}

    def _add(self, lots: _Lots, block: int, time: int) -> None:
        """Make pairs, and add each to the last lot of the shape that it costs the least in."""
        for window in self._windows(block, time):
            costs = {shape: _cost(window, shape) for shape in lots}
            shape = min(lots, key=lambda shape: costs[shape])
            if costs[shape] < math.inf:
                last = lots[shape][-1]
                asked = sum(map(_asked, (*last, window)))
                if len(last) == shape.rows or asked > shape.targets:
                    lots[shape].append([])
                lots[shape][-1].append(window)

    def _made(self, block: int) -> list[FileBatch]:
        """As many batches as every block has, full ones if possible, in an order of its own."""
        rng = np.random.default_rng((self.real.seed, 2, block))
        lots = self._no_lots()
        for time in range(_TIMES):
            self._add(lots, block, time)
            if _whole(lots) >= self._batches_a_block:
                break
        whole = [(lot, shape) for shape, of_shape in lots.items() for lot in of_shape[:-1]]
        rest = [(of_shape[-1], shape) for shape, of_shape in lots.items() if of_shape[-1]]
        found = [whole[place] for place in rng.permutation(len(whole))] + rest
        return [
            self.real.collate(*found[place % len(found)]) for place in range(self._batches_a_block)
        ]

    def _before(self, step: int) -> int:
        """How many of the batches before this step are made ones."""
        return int(step * self.share)

    def batch(self, step: int) -> FileBatch:
        made = self._before(step)
        if self._before(step + 1) == made:
            return self.real.batch(step - made)
        block, place = divmod(made, self._batches_a_block)
        return self._block(block)[place]

    def made_together(self, step: int) -> int:
        """The step behind the last that takes of the same block as this one."""
        block = self._before(step) // self._batches_a_block
        stop = step + 1
        while self.share and self._before(stop) // self._batches_a_block == block:
            stop += 1
        return stop

    @property
    def steps_per_epoch(self) -> int:
        """How many batches hold every real window once."""
        return round(self.real.steps_per_epoch / (1 - self.share))

    @property
    def training(self) -> int:
        return self.real.training

    @property
    def held_out(self) -> int:
        return self.real.held_out

    @property
    def notes(self) -> list[str]:
        return self.real.notes

    @property
    def note(self) -> Callable[[str], None]:
        return self.real.note

    @note.setter
    def note(self, listener: Callable[[str], None]) -> None:
        self.real.note = listener

    def evaluation(self) -> Sequence[FileBatch]:
        """The real ones that are held out."""
        return self.real.evaluation()

    def groups(self, batch: FileBatch, hits: npt.NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
        return self.real.groups(batch, hits)

    def describe(self) -> dict[str, Any]:
        return {**self.real.describe(), "made": {**self.about, "share": self.share}}


def _asked(window: Window) -> int:
    """How many of its patches are predicted."""
    return len(window.patches) - window.first


def _cost(window: Window, shape: Shape) -> float:
    """How much of a batch's time goes to the part of it that a window takes."""
    if len(window.patches) > shape.length or _asked(window) > shape.per_row:
        return math.inf
    return shape.cost * max(1 / shape.rows, _asked(window) / shape.targets)


def _whole(lots: _Lots) -> int:
    """How many lots are full: all but the last of each shape."""
    return sum(len(of_shape) - 1 for of_shape in lots.values())
