"""Files made without end, mixed with real ones; evaluation is on real ones alone.

Where an exact program does a conversion, as many pairs can be made as a model can learn: as
conversions, or each file for itself. They come in blocks, each a function of its number, so a
batch is a function of the step and a resumed run sees what a straight one would have seen. Batches
have the shapes of the real ones, so that little more is compiled, and others of a half and a
quarter of the size, since many of those made are short.
"""

from __future__ import annotations

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
        least = real.shapes[0]
        smaller = [
            Shape(max(1, least.length // by), max(1, least.targets // by), by * least.rows)
            for by in (4, 2)
        ]
        self._shapes = [*smaller, *real.shapes]
        self._pairs_a_time = max([BLOCK, *(_ROWS * shape.rows for shape in self._shapes)])
        self._block = lru_cache(maxsize=2)(self._made)
        self._batches_a_block = self._count() if share else 1

    def _count(self) -> int:
        """How many batches a block gives."""
        found: dict[Shape, list[Window]] = {shape: [] for shape in self._shapes}
        self._add(found, _FAR, 0)
        whole = _whole(found)
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

    def _add(self, found: dict[Shape, list[Window]], block: int, time: int) -> None:
        """Make pairs, and add them to the smallest shape that each fits into."""
        for window in self._windows(block, time):
            length = len(window.patches)
            for shape, windows in found.items():
                if length <= shape.length and length - window.first <= shape.targets:
                    windows.append(window)
                    break

    def _made(self, block: int) -> list[FileBatch]:
        """As many batches as every block has, full ones if possible, in an order of its own."""
        rng = np.random.default_rng((self.real.seed, 2, block))
        whole: list[FileBatch] = []
        rest: list[FileBatch] = []
        made: dict[Shape, list[Window]] = {shape: [] for shape in self._shapes}
        for time in range(_TIMES):
            self._add(made, block, time)
            if _whole(made) >= self._batches_a_block:
                break
        for shape, windows in made.items():
            order = rng.permutation(len(windows))
            for first in range(0, len(windows), shape.rows):
                chosen = [windows[place] for place in order[first : first + shape.rows]]
                batch = self.real.collate(chosen, shape)
                (whole if len(chosen) == shape.rows else rest).append(batch)
        found = [whole[place] for place in rng.permutation(len(whole))] + rest
        return [found[place % len(found)] for place in range(self._batches_a_block)]

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


def _whole(found: dict[Shape, list[Window]]) -> int:
    """How many full batches there are."""
    return sum(len(windows) // shape.rows for shape, windows in found.items())
