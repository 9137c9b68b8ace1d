"""Where training batches come from: the contract, and collation.

A source is a function of the step, and, if it learns from the answers, of a state that is saved
with the weights, so a resumed run sees exactly the batches that a straight run would have seen.

Shape suffixes: B batch, P patches, S patch size, N predicted patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bytemodel.patches import PAD, Patches
from cpusim.errors import UserError


class Batch(NamedTuple):
    """`patches_BPS`: int64 tokens, padded with 256. `targets_N`: flat indexes b * P + p of
    the patches whose bytes are to be predicted, ascending, each p >= 1. `weights_S`: how much each
    byte place of a patch counts in the loss that is minimised (the reported loss weighs all
    alike)."""

    patches_BPS: Tensor
    targets_N: Tensor
    weights_S: Tensor

    @property
    def size(self) -> int:
        """How many patches its mean loss is a mean of."""
        return len(self.targets_N)

    def share(self, rank: int, ranks: int) -> Batch:
        """The part of one of several processes."""
        _, patches_BPS, targets_N = share_targets(self.patches_BPS, self.targets_N, rank, ranks)
        return Batch(patches_BPS, targets_N, self.weights_S)

    def answers(self, hits: Tensor) -> Tensor:
        return hits


def share_targets(
    patches_BPS: Tensor, targets_N: Tensor, rank: int, ranks: int
) -> tuple[slice, Tensor, Tensor]:
    """Of the targets of a batch, which follow its rows, one of `ranks` equal parts.

    Returns which those are, the rows that they are in, and their indexes there. Raises
    `UserError` if there are more parts than targets.
    """
    count, length = len(targets_N), patches_BPS.shape[1]
    refuse_more_than(count, ranks)
    part = slice(rank * count // ranks, (rank + 1) * count // ranks)
    targets = targets_N[part]
    first, last = int(targets[0]) // length, int(targets[-1]) // length
    return part, patches_BPS[first : last + 1], targets - first * length


def refuse_more_than(targets: int, ranks: int) -> None:
    """Raise `UserError` if there are more processes than patches to predict."""
    if ranks > targets:
        raise UserError(
            f"{ranks} processes are more than the {targets} patches that a step predicts; start"
            " fewer"
        )


class SizedBatch(Protocol):
    """A tuple of tensors, as the loss of the task takes them."""

    @property
    def size(self) -> int:
        """How many things its mean loss is a mean of."""
        ...

    def share(self, rank: int, ranks: int) -> SizedBatch:
        """The part of process `rank` of `ranks`; all together they are the batch."""
        ...

    def answers(self, hits: Tensor) -> Tensor:
        """Of what the loss says is right or wrong, on a CPU: that which was asked."""
        ...

    def __iter__(self) -> Iterator[Tensor]: ...


class Source(Protocol):
    """What the training loop asks of its data."""

    def batch(self, step: int) -> SizedBatch:
        """The batch of this step."""
        ...

    def evaluation(self) -> Sequence[SizedBatch]:
        """Batches that training never draws, the same at every call."""
        ...

    def groups(self, batch: Any, hits: npt.NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
        """How many answers of each named group are right, and how many there are.

        `batch`: one of `evaluation`. `hits`: which of its answers are right, a row for each
        patch or file. What the groups are is up to the source; none is a good answer.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values that say what the data are; equal values mean equal batches."""
        ...


@runtime_checkable
class AdaptiveSource(Source, Protocol):
    """A source whose next batches depend on how the model answered the last ones."""

    def note(self, batch: Any, hits: npt.NDArray[np.bool_]) -> None:
        """Take down which answers of a batch were right, as `hits` of `groups` says."""
        ...

    def state(self) -> Tensor:
        """What was taken down."""
        ...

    def restore(self, state: Tensor) -> None:
        """Go on from a `state`."""
        ...


def collate(
    sequences: Sequence[Patches],
    first_target: int,
    *,
    length: int | None = None,
    sample: int | None = None,
    rng: np.random.Generator | None = None,
    byte_weights: Sequence[float] = (),
) -> Batch:
    """Pad sequences on the right to `length` patches (default: the longest) and choose targets.

    Targets are the patches from `first_target` to each sequence's end. With `sample`, exactly
    that many of them are drawn with `rng` (with repetition only if there are fewer), so that
    shapes stay static and the byte level costs the same at every step. `byte_weights`: the
    weight of each byte place of a patch in the loss (default: all 1).
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    longest = int(lengths.max()) if length is None else length
    patches = np.full((len(sequences), longest, sequences[0].shape[1]), PAD, np.int64)
    for row, sequence in zip(patches, sequences, strict=True):
        row[: len(sequence)] = sequence
    places = np.arange(longest)
    targets = np.flatnonzero((places >= first_target) & (places < lengths[:, None]))
    if sample is not None and rng is not None:
        if sample <= len(targets):
            targets = rng.choice(targets, sample, replace=False)
        else:
            targets = np.concatenate(
                [targets, rng.choice(targets, sample - len(targets), replace=True)]
            )
        targets.sort()
    weights = torch.tensor(byte_weights) if byte_weights else torch.ones(patches.shape[2])
    return Batch(torch.from_numpy(patches), torch.from_numpy(targets), weights)
