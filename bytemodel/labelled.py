"""Files with labels: where the labels stand, which files are held out, batches of them.

Labels are the names of folders, `DATA/label/.../file.ext`, or, in a folder without folders,
stand before the first `_` of each file's name: `DATA/label_name.ext`, as bGPT publishes them.

Whether a file is held out of training is decided by its content alone, so that the same
content is never on both sides, whatever its name or folder, and more files change nothing.

Shape suffixes: B batch, P patches, S patch size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bytemodel.classifier import file_patches, window
from bytemodel.config import ModelConfig
from bytemodel.folder import is_held_out, scan
from bytemodel.patches import PAD, Patches
from cpusim.errors import UserError
from cpusim.files import describe_os_error, read_bytes

HELD_OUT = 0.2
"""The share of contents that training never sees."""
BATCH = 16
"""Files a training step."""
_MOST_EVALUATED = 512
"""Held-out files that are looked at while training goes on."""


class LabelledFile(NamedTuple):
    """`digest`: SHA-256 of the content."""

    path: Path
    label: str
    digest: bytes

    @property
    def held_out(self) -> bool:
        return is_held_out(self.digest, HELD_OUT)


def find_labelled(folder: Path) -> list[LabelledFile]:
    """The labelled files of a folder, in the order of their names; hidden ones are left out.

    Raises `UserError` where a file has no label, or there is none at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder of labelled files; check the name")

    def refuse(name: str, error: OSError) -> None:
        raise UserError(f"{name}: cannot be read ({describe_os_error(error)})")

    paths = [Path(name) for name in scan(folder, refuse)]
    flat = [path for path in paths if path.parent == folder]
    if flat and len(flat) < len(paths):
        raise UserError(
            f"{folder}: holds files beside folders, such as {flat[0].name}, so where the labels"
            " stand is unclear; move each file into the folder of its label"
        )
    files = []
    for path in paths:
        label, mark, _ = path.name.partition("_")
        if not flat:
            label = path.relative_to(folder).parts[0]
        elif not (mark and label):
            raise UserError(
                f"{path}: has no label in its name; name it label_name.ext or make a folder a label"
            )
        files.append(LabelledFile(path, label, hashlib.sha256(read_bytes(path)).digest()))
    if not files:
        raise UserError(f"{folder}: holds no files; name a folder of labelled files")
    return files


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


class LabelledSource:
    """Batches of a folder's files, each file once an epoch, in another order each time.

    Of a file longer than the model's sequence a training batch holds a random window.
    Raises `UserError` if the folder has less than two labels, or no file on one side.
    """

    def __init__(self, folder: Path, config: ModelConfig, *, seed: int) -> None:
        files = find_labelled(folder)
        self.folder, self.config, self.seed = folder, config, seed
        self.labels = tuple(sorted({file.label for file in files}))
        self.training = [file for file in files if not file.held_out]
        self.held_out = [file for file in files if file.held_out]
        if len(self.labels) < 2:
            raise UserError(f"{folder}: has {self.labels[0]!r} as its only label; two are needed")
        if not self.training or not self.held_out:
            side = "train on" if self.held_out else "hold out"
            raise UserError(
                f"{folder}: leaves nothing of its {len(files)} files to {side}, since a fifth is"
                " held out by a hash of the content; add files"
            )
        self._digest = hashlib.sha256(
            b"".join(file.digest + file.label.encode(errors="surrogateescape") for file in files)
        ).hexdigest()
        self._order = cache(self._shuffled)
        # One shape for all batches, so that a compiled step is compiled once.
        size = config.patch_size
        longest = max(-(-file.path.stat().st_size // size) + 2 for file in files)
        self._length = min(longest, config.max_patches)

    def _shuffled(self, epoch: int) -> list[int]:
        rng = np.random.default_rng((self.seed, 0, epoch))
        order: list[int] = rng.permutation(len(self.training)).tolist()
        return order

    def batch(self, step: int) -> LabelledBatch:
        """The files of this step."""
        rng = np.random.default_rng((self.seed, 1, step))
        chosen = [
            self.training[self._order(number // len(self.training))[number % len(self.training)]]
            for number in range(step * BATCH, (step + 1) * BATCH)
        ]
        return self._collate(chosen, rng)

    def evaluation(self) -> Sequence[LabelledBatch]:
        """Held-out files, each by its beginning."""
        step = -(-len(self.held_out) // _MOST_EVALUATED)
        chosen = self.held_out[::step]
        return [self._collate(chosen[i : i + BATCH], None) for i in range(0, len(chosen), BATCH)]

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
            "held_out": len(self.held_out),
            "sha256": self._digest,
            "seed": self.seed,
            "batch": BATCH,
        }

    def _collate(
        self, files: Sequence[LabelledFile], rng: np.random.Generator | None
    ) -> LabelledBatch:
        size = self.config.patch_size
        patches = np.full((len(files), self._length, size), PAD, np.int64)
        lengths = []
        for row, file in zip(patches, files, strict=True):
            read = self._window(file, rng)
            row[: len(read)] = read
            lengths.append(len(read))
        labels = [self.labels.index(file.label) for file in files]
        return LabelledBatch(torch.from_numpy(patches), torch.tensor(lengths), torch.tensor(labels))

    def _window(self, file: LabelledFile, rng: np.random.Generator | None) -> Patches:
        patches = file_patches(read_bytes(file.path), file.path.suffix, self.config.patch_size)
        room = max(len(patches) - self._length, 0)
        start = int(rng.integers(room + 1)) if rng is not None else 0
        return window(patches, start, self._length)
