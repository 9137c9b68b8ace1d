"""CPU traces as training data: programs made on the fly from a seed, or read from shards.

A trace is one file: extension patch `bin`, 64 patches of memory, one patch a state, the
end patch. Its memory is random bytes that nothing could predict, so only the states
and the end are predicted. Record 0 is random too and is not a target either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bytemodel.data import Batch, collate
from bytemodel.patches import Patches, end_patch, extension_patch
from cpusim.isa import MEMORY_SIZE, SLOTS, STATE_SIZE
from cpusim.machine import run_batch
from cpusim.programs import Distribution, generate

MEMORY_PATCHES = MEMORY_SIZE // STATE_SIZE
FIRST_STATE = 1 + MEMORY_PATCHES
"""Patch index of record 0 in a trace's sequence."""

# Users name seeds below 2**32 (`cpusim compare --seed`, `cpusim generate --seed`); training and
# its evaluation draw from ranges of their own, so none of them ever meets another's programs.
_TRAINING_SEEDS = 1 << 40
_EVALUATION_SEEDS = 1 << 41


def trace_patches(memory: npt.NDArray[np.uint8], records: npt.NDArray[np.uint8]) -> Patches:
    """A trace as one sequence of patches: int64 (1 + 64 + records + 1, 16).

    `memory`: uint8[1024]; `records`: uint8[n + 1, 16].
    """
    return np.concatenate(
        [
            extension_patch("bin", STATE_SIZE),
            memory.reshape(MEMORY_PATCHES, STATE_SIZE).astype(np.int64),
            records.astype(np.int64),
            end_patch(STATE_SIZE),
        ]
    )


def sequence_length(instructions: int) -> int:
    """Patches of a halting program's trace: extension, memory, n + 1 records, end."""
    return FIRST_STATE + instructions + 2


def program_batch(
    *, count: int, distribution: Distribution, seed: int, start: int, lengths: tuple[int, int]
) -> list[Patches]:
    """The traces of `count` random programs as sequences."""
    programs = generate(
        count,
        distribution=distribution,
        seed=seed,
        start=start,
        min_length=lengths[0],
        max_length=lengths[1],
    )
    batch = run_batch(programs.memories, programs.states)
    return [
        trace_patches(memory, batch.records[first:last])
        for memory, first, last in zip(
            programs.memories, batch.offsets[:-1], batch.offsets[1:], strict=True
        )
    ]


@dataclass(frozen=True)
class Stage:
    """Part of a curriculum: programs of `lengths` instructions, `count` a batch, from which
    `targets` patches are predicted; drawn with `weight` once `since` of the run is over, until
    `until`."""

    lengths: tuple[int, int]
    count: int
    targets: int
    since: float
    until: float
    weight: float


CURRICULUM = (
    # Short programs first: few memory slots to fetch from, fresh registers, many updates.
    Stage(lengths=(16, 24), count=16, targets=256, since=0.0, until=0.12, weight=1.0),
    Stage(lengths=(16, 24), count=24, targets=512, since=0.12, until=1.0, weight=0.4),
    Stage(lengths=(1, SLOTS), count=6, targets=512, since=0.12, until=1.0, weight=0.6),
)


@dataclass(frozen=True)
class GeneratedTraces:
    """An endless stream of random programs, none of which comes twice."""

    seed: int
    distribution: Distribution = "mixed"
    curriculum: tuple[Stage, ...] = CURRICULUM
    evaluation_programs: int = 64

    def batch(self, step: int, progress: float) -> Batch:
        seed = _TRAINING_SEEDS + self.seed
        rng = np.random.default_rng((seed, step))
        stages = [stage for stage in self.curriculum if stage.since <= progress <= stage.until]
        weights = np.array([stage.weight for stage in stages])
        stage = stages[rng.choice(len(stages), p=weights / weights.sum())]
        sequences = program_batch(
            count=stage.count,
            distribution=self.distribution,
            seed=seed,
            # Steps take disjoint ranges of program numbers.
            start=step * max(stage.count for stage in self.curriculum),
            lengths=stage.lengths,
        )
        return collate(
            sequences,
            FIRST_STATE + 1,
            length=sequence_length(stage.lengths[1]),
            sample=stage.targets,
            rng=rng,
        )

    def evaluation(self) -> Sequence[Batch]:
        return evaluation_batches(self.evaluation_programs)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "generated CPU traces",
            "seed": self.seed,
            "distribution": self.distribution,
            "curriculum": [vars(stage) for stage in self.curriculum],
        }


def evaluation_batches(programs: int, *, batch: int = 8) -> list[Batch]:
    """Half published, half uniform programs of 1 to 255 instructions, every state a target."""
    batches = []
    distributions: tuple[Distribution, ...] = ("published", "uniform")
    for distribution in distributions:
        for start in range(0, programs // 2, batch):
            sequences = program_batch(
                count=batch,
                distribution=distribution,
                seed=_EVALUATION_SEEDS,
                start=start,
                lengths=(1, SLOTS - 1),
            )
            batches.append(collate(sequences, FIRST_STATE + 1))
    return batches
