"""Files with labels: where the labels stand, which files are held out, batches of them.

Labels are the names of folders, `DATA/label/.../file.ext`, or, in a folder without folders,
stand before the first `_` of each file's name: `DATA/label_name.ext`, as bGPT publishes them.

Whether a file is held out of training is decided by its content alone, so that the same
content is never on both sides, whatever its name or folder, and more files change nothing. A
folder with folders `train` and `validation` or `test`, such as `bgpt data` makes, is used as given.
What is looked at while training goes on, to keep the weights that do best, are the files to
validate on, chosen among the others if the folder does not say; what is judged by in the end those
to test on.

Shape suffixes: B batch, P patches, S patch size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bytemodel.classifier import file_patches, window
from bytemodel.config import ModelConfig
from bytemodel.folder import files_below, given_split, is_held_out
from bytemodel.patches import PAD, Patches
from cpusim.errors import UserError
from cpusim.files import read_bytes

HELD_OUT = 0.2
"""The share of contents that training never sees."""
VALIDATED, _LEAST_VALIDATED = 0.1, 100
"""The share of the other contents that is validated on, if that many files are. Fewer would choose
by chance, so nothing is chosen by them."""
BATCH = 32
"""Files a training step."""
_MOST_EVALUATED = 512
"""Held-out files that are looked at while training goes on."""
_POOL = 16
"""Steps among whose files those of like length are put together."""
_SHAPES = 1 / 2, 7 / 8, 31 / 32, 1
"""What share of the files is no longer than each of the lengths of batches. A few long files
among many short ones are common; each length is compiled once."""

Side = Literal["train", "validation", "test"]


class LabelledFile(NamedTuple):
    """`digest`: SHA-256 of the content. `side`: where the folder says that it belongs, if so."""

    path: Path
    label: str
    digest: bytes
    side: Side | None = None

    @property
    def held_out(self) -> bool:
        """Whether it is what classifiers are judged by."""
        if self.side is None:
            return is_held_out(self.digest, HELD_OUT)
        return self.side == "test"


def find_labelled(
    folder: Path, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[LabelledFile]:
    """The labelled files of a folder, in the order of their names; hidden ones are left out.

    `progress`: called with how many of how many have been read. Raises `UserError` where a file
    has no label, or there is none at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder of labelled files; check the name")
    split = given_split(folder)
    if split is None:
        found: list[tuple[Path, str, Side | None]] = [(*one, None) for one in _labels(folder)]
    else:
        found = [(*one, "train") for one in _labels(split.train)]
        found += [(*one, "test") for one in _labels(split.test)]
        if split.validation != split.test:
            found += [(*one, "validation") for one in _labels(split.validation)]
    if not found:
        raise UserError(f"{folder}: holds no files; name a folder of labelled files")
    files = []
    for done, (path, label, side) in enumerate(found):
        progress(done, len(found))
        files.append(LabelledFile(path, label, hashlib.sha256(read_bytes(path)).digest(), side))
    return files


def _labels(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of a folder whose labels stand in folders or in names."""
    paths = list(files_below(folder))
    flat = [path for path in paths if path.parent == folder]
    if flat and len(flat) < len(paths):
        raise UserError(
            f"{folder}: holds files beside folders, such as {flat[0].name}, so where the labels"
            " stand is unclear; move each file into the folder of its label"
        )
    for path in paths:
        label, mark, _ = path.name.partition("_")
        if not flat:
            label = path.relative_to(folder).parts[0]
        elif not (mark and label):
            raise UserError(
                f"{path}: has no label in its name; name it label_name.ext or make a folder a label"
            )
        yield path, label


class LabelledBatch(NamedTuple):
    """`patches_BPS`: int64 tokens, padded with 256. `lengths_B`: the patches that are none.
    `labels_B`: int64 places in the list of labels."""

    patches_BPS: Tensor
    lengths_B: Tensor
    labels_B: Tensor

    @property
    def size(self) -> int:
        """How many files its mean loss is a mean of."""
        return len(self.labels_B)

    def share(self, rank: int, ranks: int) -> LabelledBatch:
        """The part of one of several processes."""
        if ranks > self.size:
            raise UserError(
                f"{ranks} processes are more than the {self.size} files of a step; start fewer"
            )
        part = slice(rank * self.size // ranks, (rank + 1) * self.size // ranks)
        return LabelledBatch(*(tensor[part] for tensor in self))

    def answers(self, hits: Tensor) -> Tensor:
        return hits


class LabelledSource:
    """Batches of a folder's files, each file once an epoch, in another order each time.

    Files of like length come together. Of one longer than the model's sequence a training batch
    holds a random window. `training`: what is learned. `validation`: what is looked at meanwhile.
    `held_out`: what to judge by in the end; the same, unless the folder says otherwise.
    Raises `UserError` if the folder has less than two labels, or no file on one side.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        *,
        seed: int,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        files = find_labelled(folder, progress)
        self.folder, self.config, self.seed = folder, config, seed
        self.labels = tuple(sorted({file.label for file in files}))
        self.held_out = [file for file in files if file.held_out]
        validation = [file for file in files if file.side == "validation"]
        others = [f for f in files if not f.held_out and f.side != "validation"]
        if not validation:
            # By other bits of the hash than those that say what is held out.
            drawn = {file for file in others if is_held_out(file.digest[8:], VALIDATED)}
            if len(drawn) >= _LEAST_VALIDATED:
                validation = [file for file in others if file in drawn]
                others = [file for file in others if file not in drawn]
        self.validation = validation or self.held_out
        self.training = others
        if len(self.labels) < 2:
            raise UserError(f"{folder}: has {self.labels[0]!r} as its only label; two are needed")
        if not self.training or not self.held_out:
            side = "train on" if self.held_out else "hold out"
            why = "a fifth is held out by a hash of the content"
            if files[0].side is not None:
                why = "its folders say which are which"
            raise UserError(
                f"{folder}: leaves nothing of its {len(files)} files to {side}, since {why};"
                " add files"
            )
        self.note: Callable[[str], None] = lambda _sentence: None
        """Told of each file that could not be read while training went on."""
        self._gone: set[Path] = set()
        self._digest = hashlib.sha256(
            b"".join(file.digest + file.label.encode(errors="surrogateescape") for file in files)
        ).hexdigest()
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self._pooled = lru_cache(maxsize=2)(self._pool)
        self._sizes = np.array([self._size(file) for file in self.training])
        lengths = np.unique(np.quantile(self._sizes, _SHAPES, method="higher"))
        self._lengths: list[int] = lengths.tolist()

    def _shuffled(self, epoch: int) -> list[int]:
        rng = np.random.default_rng((self.seed, 0, epoch))
        order: list[int] = rng.permutation(len(self.training)).tolist()
        return order

    @property
    def validates(self) -> bool:
        """Whether files are set aside to choose by, other than those to judge by."""
        return self.validation is not self.held_out

    def _size(self, file: LabelledFile) -> int:
        """The patches that are read of a file; of one that has vanished, what an empty one has."""
        try:
            size = file.path.stat().st_size
        except OSError:
            size = 0
        return min(-(-size // self.config.patch_size) + 2, self.config.max_patches)

    def _pool(self, number: int) -> list[list[int]]:
        """The files of each of `_POOL` steps in a row: those of like length in one step."""
        count = len(self.training)
        drawn = [
            self._order(place // count)[place % count]
            for place in range(number * _POOL * BATCH, (number + 1) * _POOL * BATCH)
        ]
        drawn.sort(key=lambda index: int(self._sizes[index]))
        steps = np.random.default_rng((self.seed, 2, number)).permutation(_POOL).tolist()
        return [drawn[step * BATCH : (step + 1) * BATCH] for step in steps]

    def batch(self, step: int) -> LabelledBatch:
        """The files of this step."""
        chosen = self._pooled(step // _POOL)[step % _POOL]
        longest = max(int(self._sizes[index]) for index in chosen)
        length = next(length for length in self._lengths if length >= longest)
        rng = np.random.default_rng((self.seed, 1, step))
        return self._collate([self.training[index] for index in chosen], length, rng)

    def evaluation(self) -> Sequence[LabelledBatch]:
        """Files to validate on, each by its beginning."""
        step = -(-len(self.validation) // _MOST_EVALUATED)
        return list(self._by_length(self.validation[::step]))

    def beginnings(self, files: range) -> Iterator[LabelledBatch]:
        """These of the files to learn from, by their beginnings, in an order that is always the
        same; as many as there are."""
        ordered = sorted(self.training, key=lambda file: file.digest)
        return self._by_length(ordered[files.start : files.stop])

    @property
    def mean_patches(self) -> float:
        """How many patches are read of a file to learn from."""
        return float(self._sizes.mean())

    @property
    def longest(self) -> int:
        """How many patches are read of the longest file to learn from."""
        return self._lengths[-1]

    def _by_length(self, files: Sequence[LabelledFile]) -> Iterator[LabelledBatch]:
        """The beginnings of files, those of like length together."""
        ranked = sorted(files, key=self._size)
        for first in range(0, len(ranked), BATCH):
            lot = ranked[first : first + BATCH]
            yield self._collate(lot, self._size(lot[-1]), None)

    def groups(
        self, batch: LabelledBatch, hits: npt.NDArray[np.bool_]
    ) -> dict[str, tuple[int, int]]:
        """Right and all answers of each label."""
        labels = batch.labels_B.numpy()
        return {
            self.labels[label]: (int(hits[labels == label].sum()), int((labels == label).sum()))
            for label in np.unique(labels)
        }

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "labelled files",
            "folder": str(self.folder),
            "labels": list(self.labels),
            "training": len(self.training),
            "validation": len(self.validation),
            "held_out": len(self.held_out),
            "sha256": self._digest,
            "seed": self.seed,
            "batch": BATCH,
        }

    def _collate(
        self,
        files: Sequence[LabelledFile],
        length: int,
        rng: np.random.Generator | None,
    ) -> LabelledBatch:
        """Files that can no longer be read are left out; in training others of the batch take their
        places, so that its shape stays. Raises `UserError` if none is left."""
        there = []
        for file in files:
            try:
                there.append((file, self._window(file, length, rng)))
            except UserError as error:
                self._leave_out(file, error)
        if not there:
            raise UserError(f"{self.folder}: none of the files that come next can be read any more")
        rows = len(there) if rng is None else len(files)
        patches = np.full((rows, length, self.config.patch_size), PAD, np.int64)
        lengths, labels = [], []
        for row, (file, read) in zip(patches, cycle(there), strict=False):
            row[: len(read)] = read
            lengths.append(len(read))
            labels.append(self.labels.index(file.label))
        return LabelledBatch(torch.from_numpy(patches), torch.tensor(lengths), torch.tensor(labels))

    def _leave_out(self, file: LabelledFile, error: UserError) -> None:
        if file.path not in self._gone:
            self._gone.add(file.path)
            self.note(f"{error}; it is left out")

    def _window(
        self,
        file: LabelledFile,
        longest: int,
        rng: np.random.Generator | None,
    ) -> Patches:
        """The patches of a file that are read, `longest` of them at most."""
        patches = file_patches(read_bytes(file.path), file.path.suffix, self.config.patch_size)
        room = max(len(patches) - longest, 0)
        start = int(rng.integers(room + 1)) if rng is not None else 0
        return window(patches, start, longest)
