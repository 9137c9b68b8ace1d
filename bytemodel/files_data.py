"""Any files as training data: each whole, or conversions of one kind of file into another.

A file is a sequence of patches: its extension, its bytes, the end. A conversion is one
sequence too: the extension and the bytes of the source, then the target as a whole file; what is
learned are the bytes of the target and its end, the source and the target's extension are
only read.

A file longer than the model's sequence is cut into windows. Each starts with the
extension patch, as every file does. One in the middle goes on with the last patch of the window
before, which is read and not learned: nothing should teach that a file may begin there. The end
is learned with the last window alone. So every byte is learned once an epoch; where the cuts are
differs by epoch. A conversion that is too long is left out, since half of one teaches nothing.

Held out are a tenth of the contents, chosen by their hash, so that the same content is never
on both sides; or what the items themselves say.

A batch holds windows of a like length, few of those that ask for much and more of those that ask
for little, so that all predict about as many patches and have one of a few shapes.

Shape suffixes: B batch, P patches, S patch size, N predicted patches, R predicted patches of a row
at most.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bytemodel.config import TARGETS, ModelConfig
from bytemodel.data import share_targets
from bytemodel.folder import given_split, is_held_out, scan
from bytemodel.patches import (
    PAD,
    Patches,
    end_patch,
    extension_patch,
    fitting_extension,
    pad_to_patches,
    reading_windows,
)
from cpusim.errors import UserError
from cpusim.files import describe_os_error

Part = Literal["train", "test"]

HELD_OUT = 0.1
"""The share of contents that training never sees."""
_SHAPES = 8
"""Batch shapes of each direction at most, each of which a GPU records once."""
_WORTH = 1.03
"""Fewer shapes are taken where an epoch then takes no more than so many times as long."""
PREDICTED = 5
"""Patches that are read in the time in which one is predicted, about, in any preset."""
_MOST_READ = 3
"""Patches of a batch for each that it may predict, unless one row has more. What reads much for
little, as the way back of some conversions, would else get few updates, each of many rows."""
_A_STEP = 0.1
"""Of the time in which a step's patches are predicted: what a step costs besides."""
_LONGER = 1.05
"""By so much lengths differ, where one of them may be that of a shape."""
_MOST_EVALUATED = 8192
"""Held-out patches that are predicted at every evaluation."""
_EVALUATED_AT_ONCE = 2048
_MOST_NOTES = 10


class Item(Protocol):
    """Something to learn: bytes with a name, which are never kept in memory.

    `name`: for the user. `extension`: the kind of file. `part`: the side it belongs to, or
    None: its content decides.
    """

    @property
    def name(self) -> str: ...

    @property
    def extension(self) -> str: ...

    @property
    def part(self) -> Part | None: ...

    def measure(self) -> tuple[int, bytes]:
        """How many bytes it has, and their SHA-256. Raises `UserError` if it cannot be read."""
        ...

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Its bytes, or some of them. Raises `UserError` if they are no longer those measured."""
        ...


@dataclass(slots=True)
class StoredFile:
    """A file on disk as an `Item`; only what is asked for is read of it."""

    path: str
    extension: str
    part: Part | None = None
    _digest: bytes = field(default=b"", init=False)
    _size: int = field(default=0, init=False)
    _changed: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        return self.path

    def measure(self) -> tuple[int, bytes]:
        if not self._digest:
            with _readable(self.path), open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                self._size, self._changed = status.st_size, status.st_mtime_ns
                self._digest = hashlib.file_digest(file, "sha256").digest()
        return self._size, self._digest

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        with _readable(self.path), open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) == (self._size, self._changed):
                file.seek(start)
                return file.read(-1 if stop is None else stop - start)
        raise UserError(f"{self.path}: was changed while it was being learned")


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn the operating system's refusal to read a file into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({describe_os_error(error)})") from None


@dataclass(slots=True)
class MadeFile:
    """An `Item` whose bytes are made anew whenever they are needed, by `make`, which raises
    `UserError` if it cannot."""

    name: str
    extension: str
    make: Callable[[], bytes]
    part: Part | None = None
    _digest: bytes = field(default=b"", init=False)
    _size: int = field(default=0, init=False)

    def measure(self) -> tuple[int, bytes]:
        if not self._digest:
            data = self.make()
            self._size, self._digest = len(data), hashlib.sha256(data).digest()
        return self._size, self._digest

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        data = self.make()
        if hashlib.sha256(data).digest() != self._digest:
            raise UserError(f"{self.name}: was changed while it was being learned")
        return data[start:stop]


class Pair(NamedTuple):
    """A conversion to learn. `decides`: the item whose content decides whether it is held out
    (by default the source); with it, two directions of one pair stay together."""

    source: Item
    target: Item
    decides: Item | None = None

    @property
    def name(self) -> str:
        return f"{self.source.name} -> {self.target.name}"

    @property
    def part(self) -> Part | None:
        return self.source.part


@dataclass(frozen=True)
class Conversion:
    """From files with one extension to files with another; `both`: and back."""

    source: str
    target: str
    both: bool

    @classmethod
    def parse(cls, text: str, patch_size: int) -> Conversion:
        """Read `abc->mid` or, both ways, `abc&mid`. Raises `UserError` for anything else."""
        for sign in ("->", "&"):
            source, found, target = (
                part.strip().removeprefix(".") for part in text.partition(sign)
            )
            if found and source and target and source.lower() != target.lower():
                for extension in (source, target):
                    extension_patch(extension, patch_size)  # raises if it is too long
                return cls(source, target, sign == "&")
        raise UserError(
            f"{text!r} names no conversion; write two different extensions, such as 'abc->mid', or"
            " 'abc&mid' for both ways"
        )

    def __str__(self) -> str:
        return f"{self.source}{'&' if self.both else '->'}{self.target}"

    def pairs(self, items: Iterable[Item], skip: Skip) -> Iterator[Pair]:
        """The conversions among items of the two kinds: of those whose names differ in nothing but
        the extension."""
        by_stem: dict[str, dict[str, Item]] = {}
        for item in items:
            stem = item.name[: len(item.name) - len(item.extension)]
            found = by_stem.setdefault(stem, {})
            if item.extension in found:
                skip("of the same name as another", item.name)
            found.setdefault(item.extension, item)
        for found in by_stem.values():
            if len(found) < 2:
                skip("without a partner", next(iter(found.values())).name)
                continue
            source, target = found[self.source], found[self.target]
            yield Pair(source, target)
            if self.both:
                yield Pair(target, source, decides=source)


Skip = Callable[[str, str], None]
"""Told why something is left out, and its name."""


class Skipped:
    """What was left out, counted by reason, with the first name of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def __call__(self, reason: str, name: str) -> None:
        count, first = self._found.get(reason, (0, name))
        self._found[reason] = count + 1, first

    def sentences(self) -> Iterator[str]:
        for reason, (count, first) in self._found.items():
            others = "" if count == 1 else f" and {count - 1:,} more"
            yield f"left out, {reason}: {first}{others}"


def find_items(data: Path, extensions: Sequence[str], skip: Skip) -> Iterator[StoredFile]:
    """The files to learn: those below a folder, or a single one.

    A folder with a folder `train` and one such as `validation` or `test` in it says itself what
    to learn and what to evaluate on. `extensions`: the kinds to take, as they are to be spelt
    whether a name has them in upper or lower case; none: all, as they are. Raises `UserError` if
    there is no such file or folder.
    """
    parts: list[tuple[Path, Part | None]] = [(data, None)]
    if not data.exists():
        raise UserError(f"{data}: no such file or folder; check the name")
    if (split := given_split(data)) is not None:
        parts = [(split.train, "train"), (split.validation, "test")]
    spelling = {wanted.lower(): wanted for wanted in (e.removeprefix(".") for e in extensions)}
    for place, part in parts:
        names = scan(place, lambda name, _: skip("unreadable", name))
        for path in [str(data)] if data.is_file() else names:
            extension = os.path.splitext(path)[1].removeprefix(".")  # noqa: PTH122
            if not spelling:
                yield StoredFile(path, extension, part)
            elif extension.lower() in spelling:
                yield StoredFile(path, spelling[extension.lower()], part)


class FileBatch(NamedTuple):
    """`patches_BPS`: int64 tokens, padded with 256. `targets_N`: flat indexes b * P + p of the
    patches to predict, row by row, each p >= 1. `asked_NS`: bool, which of their bytes count: the
    file's, and one 256 where it ends. `grid_BR`: which of the N are of each row, in their order;
    N where there are no more."""

    patches_BPS: Tensor
    targets_N: Tensor
    asked_NS: Tensor
    grid_BR: Tensor

    @property
    def size(self) -> int:
        """How many bytes its mean loss is a mean of."""
        return int(self.asked_NS.sum())

    def share(self, rank: int, ranks: int) -> FileBatch:
        """The part of one of several processes."""
        count = len(self.targets_N)
        if count < ranks:
            # A few short files may ask for less than one patch of each: some ask for nothing.
            targets_N = torch.cat((self.targets_N, self.targets_N[-1:].expand(ranks - count)))
            asked_NS = torch.nn.functional.pad(self.asked_NS, (0, 0, 0, ranks - count))
            grid_BR = self.grid_BR.masked_fill(self.grid_BR == count, ranks)
            return FileBatch(self.patches_BPS, targets_N, asked_NS, grid_BR).share(rank, ranks)
        part, patches_BPS, targets_N = share_targets(self.patches_BPS, self.targets_N, rank, ranks)
        first = int(self.targets_N[part.start]) // self.patches_BPS.shape[1]
        grid_BR = self.grid_BR[first : first + len(patches_BPS)] - part.start
        outside_BR = (grid_BR < 0) | (grid_BR >= len(targets_N))
        # Its own first, as in every row.
        grid_BR = grid_BR.masked_fill(outside_BR, len(targets_N)).sort(1).values
        return FileBatch(patches_BPS, targets_N, self.asked_NS[part], grid_BR)

    def answers(self, hits: Tensor) -> Tensor:
        return hits[self.asked_NS]


class Window(NamedTuple):
    """Some patches of an entry, and the place of the first one to predict."""

    patches: Patches
    first: int


class Shape(NamedTuple):
    """Of a batch: rows of `length` patches, of which up to `targets` are predicted, of each up to
    `per_row`."""

    length: int
    rows: int
    targets: int
    per_row: int

    @property
    def cost(self) -> int:
        """How long a batch takes, in patches that are read."""
        return self.rows * self.length + PREDICTED * self.targets


class _Bucket(NamedTuple):
    """Windows of a like length, by number, how many patches of each are predicted, most first, and
    the shape of their batches, of which there are `batches`."""

    windows: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]
    shape: Shape
    batches: int

    @classmethod
    def of(
        cls, windows: npt.NDArray[np.int64], asked: npt.NDArray[np.int64], length: int, targets: int
    ) -> _Bucket:
        """`targets`: predicted in a batch at most, or what one window asks for, if that is more."""
        order = np.argsort(-asked, kind="stable")
        batches, shape = _dealt(np.bincount(asked), length, targets)
        return cls(windows[order], asked[order], shape, batches)

    def shuffled(self, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        """The windows of each batch, in another order: one of those that ask for most, one of those
        that come next, and so on."""
        # Which of those that ask for as many come first is drawn as well.
        order = self.windows[np.lexsort((rng.random(len(self.windows)), -self.asked))]
        lots = [
            rng.permutation(order[first : first + self.batches])
            for first in range(0, len(order), self.batches)
        ]
        return [
            np.array([lot[place] for lot in lots if place < len(lot)])
            for place in range(self.batches)
        ]


class FileSource:
    """Batches of items and pairs, in another order each epoch, and those held out to evaluate on.

    `notes`: sentences on what was left out. `note`: called with such a sentence when an item
    vanishes or changes later; put a listener's there. Raises `UserError` if nothing is left to
    train on.
    """

    def __init__(
        self,
        entries: Iterable[Item | Pair],
        config: ModelConfig,
        *,
        seed: int,
        about: dict[str, Any],
        targets: int | None = None,
        skipped: Skipped | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """`about`: plain values that say where the items come from, for the run's record.
        `targets`: patches that a step predicts, about; None: `TARGETS`.
        `skipped`: what had been left out before. `progress`: called with how many entries of how
        many have been read."""
        if config.max_patches < 3:
            raise UserError(
                f"max_patches {config.max_patches} leaves no room for a window of a file; take"
                " at least 3"
            )
        self.config, self.seed, self.about = config, seed, about
        self.targets = targets or TARGETS
        skip = skipped or Skipped()
        found = list(entries)
        self._entries: list[Item | Pair] = []
        lengths: list[int] = []
        deciding: list[bytes] = []
        contents: list[bytes] = []
        for done, entry in enumerate(found):
            progress(done, len(found))
            try:
                length, content, decides = self._measure(entry)
            except UserError:
                skip("unreadable", entry.name)
                continue
            if not length:
                skip("empty", entry.name)
            elif isinstance(entry, Pair) and length > config.max_patches:
                skip(f"longer than the model's {config.max_patches:,} patches", entry.name)
            else:
                self._entries.append(entry)
                lengths.append(length)
                contents.append(content)
                deciding.append(decides)
        if not self._entries:
            why = "; ".join(skip.sentences())
            raise UserError(
                f"{about.get('folder', 'the data')}: leaves nothing to train on"
                + (f" ({why})" if why else "; name a folder with files, or other extensions")
            )
        self._lengths = np.array(lengths, np.int64)
        held_out = self._choose(deciding)
        apart = {contents[i] for i in np.flatnonzero(held_out)}
        learned = ~held_out
        for index in np.flatnonzero(learned):
            if contents[index] in apart:
                skip("the same content as one held out", self._entries[index].name)
                learned[index] = False
        self._stops = self._lengths.copy()
        """How many patches of an entry are learned from."""
        self._evaluated = [(int(i), self._first_target(int(i))) for i in np.flatnonzero(held_out)]
        alone = ""
        if not self._evaluated:
            alone = self._evaluate_on_itself(np.flatnonzero(learned))
        if not learned.any():
            raise UserError(
                f"{about.get('folder', 'the data')}: leaves nothing to train on, since all of it"
                " is held out; add files of other content"
            )
        self._kinds = {
            self._header(_first_item(entry)).tobytes(): _kind(entry) for entry in self._entries
        }
        """What kinds there are, by the patch that a sequence begins with."""
        self.notes = [*skip.sentences(), *([alone] if alone else [])]
        self.note: Callable[[str], None] = self.notes.append
        self._gone: set[int] = set()
        digest = hashlib.sha256()
        for content, entry in zip(contents, self._entries, strict=True):
            digest.update(content + entry.name.encode(errors="surrogateescape") + b"\0")
        self._digest = digest.hexdigest()
        self.training, self.held_out = int(learned.sum()), int(held_out.sum())
        self._plan(np.flatnonzero(learned))

    # What there is

    def _measure(self, entry: Item | Pair) -> tuple[int, bytes, bytes]:
        """Patches of the whole sequence (0: an empty file), the content that must not be on both
        sides, and the one that decides the side."""
        if not isinstance(entry, Pair):
            size, digest = entry.measure()
            return (2 + self._patches(size) if size else 0), digest, digest
        size, digest = entry.source.measure()
        target_size, _ = entry.target.measure()
        length = 3 + self._patches(size) + self._patches(target_size)
        decides = digest if entry.decides is None else entry.decides.measure()[1]
        return (length if size and target_size else 0), digest, decides

    def _patches(self, size: int) -> int:
        return -(-size // self.config.patch_size)

    def _choose(self, deciding: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Which entries are held out; at least one on each side if there are two contents."""
        parts = [entry.part for entry in self._entries]
        if "test" in parts:
            return np.array([part == "test" for part in parts])
        held_out = np.array([is_held_out(digest, HELD_OUT) for digest in deciding])
        if len(set(deciding)) == 1:
            return held_out & False
        if held_out.all():
            return np.array([digest != max(deciding) for digest in deciding])
        if not held_out.any():
            return np.array([digest == min(deciding) for digest in deciding])
        return held_out

    def _evaluate_on_itself(self, learned: npt.NDArray[np.int64]) -> str:
        """Without anything else to evaluate on: the last tenth of the only content, or all."""
        index = int(learned[0])
        tenth = (int(self._lengths[index]) - 1) // 10
        if isinstance(self._entries[index], Pair) or not tenth or len(learned) > 1:
            self._evaluated = [(int(i), self._first_target(int(i))) for i in learned]
            return "nothing else is there to evaluate on, so it is what is learned, and flatters"
        self._stops[index] -= tenth
        self._evaluated = [(index, int(self._stops[index]))]
        return f"{self._entries[index].name}: its last tenth is held out, as no other content is"

    def _first_target(self, index: int) -> int:
        """The first patch of an entry that is learned."""
        entry = self._entries[index]
        if not isinstance(entry, Pair):
            return 1
        return 2 + self._patches(entry.source.measure()[0])

    # What a step learns

    def _plan(self, learned: npt.NDArray[np.int64]) -> None:
        """Number the windows and sort them by length into batches of few shapes."""
        longest = self.config.max_patches
        stops = self._stops[learned]
        # The first window learns longest - 1 patches, each further one longest - 2.
        further = np.maximum(0, -(-(stops - longest) // (longest - 2)))
        self._window_entries = np.repeat(learned, further + 1)
        self._window_numbers = np.arange(len(self._window_entries)) - np.repeat(
            np.cumsum(further + 1) - further - 1, further + 1
        )
        firsts = np.array([self._first_target(int(index)) for index in learned])
        lengths = np.minimum(stops, longest)
        sizes, asked = (np.repeat(values, further + 1) for values in (lengths, lengths - firsts))
        # What is asked of the two directions of a conversion differs by far.
        directions = np.repeat([self._direction(int(i)) for i in learned], further + 1)
        self._buckets: list[_Bucket] = []
        self.shortest: list[Shape] = []
        """Of the shapes of batches, the shortest of each direction."""
        for direction in np.unique(directions):
            own = np.flatnonzero(directions == direction)
            shorter, first = 0, len(self._buckets)
            for length in _shape_lengths(sizes[own], asked[own], self.targets):
                windows = own[(sizes[own] <= length) & (sizes[own] > shorter)]
                shorter = length
                bucket = _Bucket.of(windows, asked[windows], length, self.targets)
                self._buckets.append(bucket)
            self.shortest.append(self._buckets[first].shape)
        self._batches = [
            (number, place)
            for number, bucket in enumerate(self._buckets)
            for place in range(bucket.batches)
        ]
        self._orders = lru_cache(maxsize=2)(self._shuffled)

    def _direction(self, index: int) -> str:
        entry = self._entries[index]
        return entry.target.extension if isinstance(entry, Pair) else ""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches hold every window once."""
        return len(self._batches)

    def _shuffled(
        self, epoch: int
    ) -> tuple[npt.NDArray[np.int64], list[list[npt.NDArray[np.int64]]]]:
        """The order of an epoch's batches, and the windows of each, bucket by bucket."""
        rng = np.random.default_rng((self.seed, 0, epoch))
        windows = [bucket.shuffled(rng) for bucket in self._buckets]
        return rng.permutation(len(self._batches)), windows

    def batch(self, step: int) -> FileBatch:
        """The windows of this step. What has vanished or changed is left out; where that is a
        whole batch, the next one of the epoch is taken. Raises `UserError` if all are gone."""
        count = len(self._batches)
        epoch, place = divmod(step, count)
        order, windows = self._orders(epoch)
        for further in range(count):
            number, batch = self._batches[order[(place + further) % count]]
            chosen = windows[number][batch].tolist()
            read = [w for w in (self._window(window, epoch) for window in chosen) if w is not None]
            if read:
                return self.collate(read, self._buckets[number].shape)
        raise UserError(
            f"{self.about.get('folder', 'the data')}: nothing is left to train on, since every"
            " file has vanished or was changed; restore them and resume"
        )

    def _window(self, window: int, epoch: int) -> Window | None:
        index = int(self._window_entries[window])
        number = int(self._window_numbers[window])
        longest, stop = self.config.max_patches, int(self._stops[index])
        if stop <= longest:
            return self._read(index, 0, self._first_target(index), stop)
        # Where the cuts are is drawn from what the windows hold more than there is to learn.
        last = -(-(stop - longest) // (longest - 2))
        spare = longest + last * (longest - 2) - stop
        shift = int(np.random.default_rng((self.seed, 1, epoch, index)).integers(spare + 1))
        end = longest - shift + number * (longest - 2)
        if number == 0:
            return self._read(index, 0, 1, end)
        return self._read(index, end - longest, end - longest + 2, min(end, stop))

    def _read(self, index: int, start: int, first: int, stop: int) -> Window | None:
        """The patches from `start` to `stop` of an entry's sequence, `first` being the first to
        predict; None, and a note, if they can no longer be read."""
        if index in self._gone:
            return None
        entry, size = self._entries[index], self.config.patch_size
        try:
            if isinstance(entry, Pair):
                patches = np.concatenate(
                    [
                        self._header(entry.source),
                        pad_to_patches(entry.source.read(), size),
                        self._header(entry.target),
                        pad_to_patches(entry.target.read(), size),
                        end_patch(size),
                    ]
                )
            else:
                # Patch p holds the bytes from (p - 1) * size on; the first is the extension.
                data = entry.read(start * size, (stop - 1) * size)
                patches = np.concatenate(
                    [
                        self._header(entry),
                        pad_to_patches(data, size),
                        *([end_patch(size)] if stop == self._lengths[index] else []),
                    ]
                )
        except UserError as error:
            self._gone.add(index)
            if len(self._gone) <= _MOST_NOTES:
                self.note(f"{error}; it is left out")
            if len(self._gone) == _MOST_NOTES:
                self.note("more files may be left out without a note")
            return None
        return Window(patches, first - start)

    def _header(self, item: Item) -> Patches:
        size = self.config.patch_size
        return extension_patch(fitting_extension(item.extension, size), size)

    @property
    def shapes(self) -> list[Shape]:
        """Of the batches that are learned, the shortest first."""
        return sorted(bucket.shape for bucket in self._buckets)

    def collate(self, windows: Sequence[Window], shape: Shape) -> FileBatch:
        """Windows as a batch of that shape; what they do not fill is not asked for."""
        rows, length = shape.rows, shape.length
        patches = np.full((rows, length, self.config.patch_size), PAD, np.int64)
        # What is not asked for stands behind all that is.
        targets = np.full(shape.targets, (rows - 1) * length + 1, np.int64)
        grid = np.full((rows, shape.per_row), shape.targets, np.int64)
        place = 0
        for row, window in enumerate(windows):
            stop = len(window.patches)
            patches[row, :stop] = window.patches
            own = np.arange(place, place + stop - window.first)
            targets[own] = row * length + np.arange(window.first, stop)
            grid[row, : len(own)] = own
            place += len(own)
        return _batch(patches, targets, np.arange(shape.targets) < place, grid)

    # What is held out

    def evaluation(self) -> Sequence[FileBatch]:
        """Held-out entries, as they are scored: a long file in windows that overlap by half, each
        byte once. Of many only some, the same at every call, which is noted."""
        windows: list[Window] = []
        seen: set[int] = set()
        left = _MOST_EVALUATED
        for index, span in self._evaluated_spans():
            window = self._read(index, *span)
            if window is not None:
                windows.append(window)
                seen.add(index)
                left -= len(window.patches) - window.first
            if left <= 0:
                if len(seen) < len(self._evaluated):
                    self.note(
                        f"evaluated on {len(seen):,} of the {len(self._evaluated):,} held out, the"
                        " same ones every time"
                    )
                break
        if not windows:
            raise UserError(
                f"{self.about.get('folder', 'the data')}: nothing of what is held out can be read"
                " any more; restore it"
            )
        windows.sort(key=lambda window: len(window.patches))
        batches = []
        while windows:
            length = len(windows[-1].patches)
            chosen = windows[-max(1, _EVALUATED_AT_ONCE // length) :]
            del windows[-len(chosen) :]
            asked = [len(window.patches) - window.first for window in chosen]
            shape = Shape(length, len(chosen), sum(asked), max(asked))
            batches.append(self.collate(chosen, shape))
        return batches

    def _evaluated_spans(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """Entries and what of them to read, in a fixed order that the names do not decide."""
        for place in np.random.default_rng(0).permutation(len(self._evaluated)):
            index, first = self._evaluated[place]
            stop = int(self._lengths[index])
            if isinstance(self._entries[index], Pair):
                yield index, (0, first, stop)
                continue
            for span in reading_windows(first, stop, self.config.max_patches):
                yield index, span

    def groups(self, batch: FileBatch, hits: npt.NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
        """Right and all bytes of each kind of file or direction, if there are several."""
        if len(self._kinds) < 2:
            return {}
        rows = batch.targets_N.numpy() // batch.patches_BPS.shape[1]
        owners = np.repeat(rows, batch.asked_NS.numpy().sum(1))
        counts: dict[str, tuple[int, int]] = {}
        for row in np.unique(owners):
            kind = self._kinds[batch.patches_BPS[row, 0].numpy().tobytes()]
            right, asked = counts.get(kind, (0, 0))
            chosen = hits[owners == row]
            counts[kind] = right + int(chosen.sum()), asked + len(chosen)
        return counts

    def describe(self) -> dict[str, Any]:
        return {
            **self.about,
            "targets": self.targets,
            "training": self.training,
            "held_out": self.held_out,
            "sha256": self._digest,
            "seed": self.seed,
        }


def _dealt(counts: npt.NDArray[np.int64], length: int, targets: int) -> tuple[int, Shape]:
    """How many batches windows of that length are dealt to, those that ask for most first, and the
    shape that has room for what each batch may get.

    `counts`: how many windows ask for 0, 1, 2 patches and so on. `targets`: what a batch asks for
    at most, or what one window does, if that is more.
    """
    # How many windows ask for at least as much.
    at_least = counts[::-1].cumsum()
    windows, most = int(at_least[-1]), len(counts) - 1

    def dealt(rows: int) -> tuple[int, Shape]:
        batches = -(-windows // rows)
        firsts = np.arange(0, windows, batches)
        asked = most - np.searchsorted(at_least, firsts, "right")
        return batches, Shape(length, len(asked), int(asked.sum()), int(asked[0]))

    several = range(2, min(windows, targets, _MOST_READ * targets // length) + 1)
    return dealt(1 + bisect.bisect_right(several, targets, key=lambda rows: dealt(rows)[1].targets))


def _shape_lengths(
    sizes: npt.NDArray[np.int64], asked: npt.NDArray[np.int64], targets: int
) -> list[int]:
    """The lengths of the shapes that windows go into, so that an epoch takes the shortest time.

    `sizes`: of each window, in patches. `asked`: how many of them are predicted, of about `targets`
    in a step. A few long windows get a shape of their own, since every row of a batch costs what
    its longest one does.
    """
    every = np.unique(sizes)
    steps = np.log(every / every[-1]) // np.log(_LONGER)
    lengths = every[np.append(steps[1:] != steps[:-1], True)]
    # How many windows of each length ask for how many patches.
    counts = np.zeros((len(lengths) + 1, int(asked.max()) + 1), np.int64)
    np.add.at(counts, (1 + np.searchsorted(lengths, sizes), asked), 1)
    counts = counts.cumsum(0)
    # least[k][j]: the time for the j shortest lengths in k shapes; the last begins at begun[k][j].
    least = np.full((_SHAPES + 1, len(lengths) + 1), np.inf)
    least[:, 0] = 0
    begun = np.zeros(least.shape, np.int64)
    for stop in range(1, len(lengths) + 1):
        costs = [
            _time(counts[stop] - counts[start], int(lengths[stop - 1]), targets)
            for start in range(stop)
        ]
        for shapes in range(1, _SHAPES + 1):
            totals = least[shapes - 1, :stop] + costs
            begun[shapes, stop] = totals.argmin()
            least[shapes, stop] = totals.min()
    totals = least[:, -1]
    shapes = int(np.flatnonzero(totals <= _WORTH * totals.min())[0])
    found: list[int] = []
    stop = len(lengths)
    while stop:
        found.append(int(lengths[stop - 1]))
        stop, shapes = int(begun[shapes, stop]), shapes - 1
    return found[::-1]


def _time(counts: npt.NDArray[np.int64], length: int, targets: int) -> float:
    """What batches of that length take for windows of which so many ask for so much, in patches
    that are read."""
    batches, shape = _dealt(counts, length, targets)
    return batches * (shape.cost + _A_STEP * PREDICTED * targets)


def _first_item(entry: Item | Pair) -> Item:
    return entry.source if isinstance(entry, Pair) else entry


def _kind(entry: Item | Pair) -> str:
    if isinstance(entry, Pair):
        return f"kind {entry.source.extension} -> {entry.target.extension}"
    return f"kind {entry.extension or '(none)'}"


def _batch(
    patches: Patches,
    targets: npt.NDArray[np.int64],
    learned: npt.NDArray[np.bool_],
    grid: npt.NDArray[np.int64],
) -> FileBatch:
    wanted_NS = patches.reshape(-1, patches.shape[2])[targets]
    # Behind a 256 there is nothing but more of them, which need no predicting.
    ended = np.zeros(wanted_NS.shape, bool)
    ended[:, 1:] = wanted_NS[:, :-1] == PAD
    asked = ~ended & learned[:, None]
    return FileBatch(*(torch.from_numpy(values) for values in (patches, targets, asked, grid)))
