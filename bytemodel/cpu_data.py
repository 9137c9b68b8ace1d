"""CPU traces as training data: programs made on the fly from a seed, or read from a set on disk.

A trace is one file: extension patch `bin`, 64 patches of memory, one patch a state, the
end patch. Its memory is random bytes that nothing could predict, so only the states
and the end are predicted. Record 0 is random too and is not a target either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bytemodel import drills
from bytemodel.data import Batch, collate
from bytemodel.mistakes import Mistakes
from bytemodel.patches import PAD, Patches, end_patch, extension_patch
from cpusim.errors import UserError
from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    MEMORY_SIZE,
    PC,
    SLOTS,
    STATE_SIZE,
)
from cpusim.lockstep import form_name
from cpusim.machine import run_batch
from cpusim.programs import Distribution, generate
from cpusim.trace import (
    SHARD_SUFFIX,
    TRACE_SUFFIX,
    Trace,
    count_records,
    open_shard,
    read_trace,
)

MEMORY_PATCHES = MEMORY_SIZE // STATE_SIZE
FIRST_STATE = 1 + MEMORY_PATCHES
"""Patch index of record 0 in a trace's sequence."""

# Users name seeds below 2**32 (`cpusim compare --seed`, `cpusim generate --seed`); training and
# its evaluation draw from ranges of their own, so none of them ever meets another's programs.
_TRAINING_SEEDS = 1 << 40
_EVALUATION_SEEDS = 1 << 41


_KIND = "CPU traces"


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


def sequence_of(trace: Trace) -> Patches:
    """A recorded trace as one sequence of patches."""
    return trace_patches(np.frombuffer(trace.memory, np.uint8), trace.records)


def _run(memories: npt.NDArray[np.uint8], states: npt.NDArray[np.uint8]) -> list[Patches]:
    """The traces of programs as sequences."""
    batch = run_batch(memories, states)
    return [
        trace_patches(memory, batch.records[first:last])
        for memory, first, last in zip(memories, batch.offsets[:-1], batch.offsets[1:], strict=True)
    ]


@dataclass(frozen=True)
class Stage:
    """Part of a curriculum, drawn with `weight` from step `first` until before step `last`.

    A batch is `count` programs of `lengths` instructions, padded to what the longest program
    of `padded_for` instructions needs; `targets` of its patches are predicted,
    the bytes of a patch weighted by `byte_weights` (default: alike). They are drills
    (`bytemodel.drills`) with entries up to slot `last_entry`, or, if that is negative, programs
    of the source's distribution, which start at slot 0.
    """

    first: int
    last: int
    lengths: tuple[int, int]
    count: int
    targets: int
    padded_for: int
    weight: float = 1.0
    byte_weights: tuple[float, ...] = ()
    last_entry: int = -1


# The four bytes of a state that only the patch level can supply, since they are fetched.
_FETCH_FIRST = (1.0,) * 2 + (6.0,) * 4 + (1.0,) * 10
_ALWAYS = 1 << 62


def _drill(first: int, last: int, lengths: tuple[int, int], last_entry: int) -> Stage:
    return Stage(
        first, last, lengths, 16, 192, 16, byte_weights=_FETCH_FIRST, last_entry=last_entry
    )


CURRICULUM = (
    # The reachable memory grows, so that what to copy is learned before where it stands.
    _drill(0, 130, (1, 4), 0),
    _drill(130, 200, (2, 8), 4),
    _drill(200, 260, (4, 12), 12),
    _drill(260, 310, (8, 16), 16),
    _drill(310, 370, (8, 16), 48),
    _drill(370, 440, (8, 16), 112),
    _drill(440, 900, (8, 16), SLOTS - 1),
    Stage(900, _ALWAYS, (12, 32), 24, 512, 32, weight=0.6, last_entry=SLOTS - 1),
    Stage(900, _ALWAYS, (1, SLOTS), 6, 512, SLOTS, weight=0.4),
    # What people write is short. Little tells then where the memory ends and the run begins.
    Stage(900, _ALWAYS, (1, 16), 16, 192, 16, weight=0.2),
)
FURTHER = tuple(replace(stage, first=0) for stage in CURRICULUM if stage.last == _ALWAYS)
"""For a model that has learned something already: its last part alone."""


@dataclass(frozen=True)
class GeneratedTraces:
    """An endless stream of random programs, and of what was computed wrongly in them.

    Drills that are long enough begin with the latest mistakes (`bytemodel.mistakes`).
    """

    seed: int
    distribution: Distribution = "mixed"
    curriculum: tuple[Stage, ...] = CURRICULUM
    evaluation_programs: int = 64
    mistakes: Mistakes = field(default_factory=Mistakes, compare=False)

    def batch(self, step: int) -> Batch:
        seed = _TRAINING_SEEDS + self.seed
        rng = np.random.default_rng((seed, step))
        stages = [stage for stage in self.curriculum if stage.first <= step < stage.last]
        weights = np.array([stage.weight for stage in stages])
        stage = stages[rng.choice(len(stages), p=weights / weights.sum())]
        if stage.last_entry >= 0:
            room = drills.CASES * stage.count if stage.lengths[0] > drills.HEAD else 0
            cases = self.mistakes.draw(rng, room)
            drawn = drills.draw(rng, stage.count, stage.lengths, stage.last_entry, cases)
            sequences = _run(*drawn)
        else:
            programs = generate(
                stage.count,
                distribution=self.distribution,
                seed=seed,
                # Steps take disjoint ranges of program numbers.
                start=step * max(stage.count for stage in self.curriculum),
                min_length=stage.lengths[0],
                max_length=stage.lengths[1],
            )
            drills.blank(rng, programs.states[:, ACC:])
            sequences = _run(programs.memories, programs.states)
        return collate(
            sequences,
            FIRST_STATE + 1,
            length=sequence_length(stage.padded_for),
            sample=stage.targets,
            rng=rng,
            byte_weights=stage.byte_weights,
        )

    def note(self, batch: Batch, hits: npt.NDArray[np.bool_]) -> None:
        before, is_state = _states_before(batch)
        wrong = np.count_nonzero(~hits[is_state][:, _COMPUTED], axis=1)
        self.mistakes.note(before[is_state].astype(np.uint8), wrong == 0)

    def state(self) -> torch.Tensor:
        return self.mistakes.state()

    def restore(self, state: torch.Tensor) -> None:
        self.mistakes.restore(state.tolist())

    def evaluation(self) -> Sequence[Batch]:
        return evaluation_batches(self.evaluation_programs)

    def groups(self, batch: Batch, hits: npt.NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
        return state_groups(batch, hits)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": f"generated {_KIND}",
            "seed": self.seed,
            "distribution": self.distribution,
            "curriculum": [vars(stage) for stage in self.curriculum],
        }


class TraceFolder:
    """The traces below a folder, in shards and in files of their own, numbered in name order.

    `records`: int64[N], each trace's number of records. Raises `UserError` for a folder
    without traces, and for files that are damaged.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(folder.rglob(f"*{SHARD_SUFFIX}"))
        self.folder = folder
        self._shards = [open_shard(path) for path in shards]
        self._files = sorted(folder.rglob(f"*{TRACE_SUFFIX}"))
        # A shard's number of the first trace; single files follow the last shard.
        sizes = [len(shard) for shard in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        in_files = [count_records(path.stat().st_size, str(path)) for path in self._files]
        self.records = np.concatenate(
            [*(np.diff(shard.offsets) for shard in self._shards), np.array(in_files, np.int64)]
        )
        if not len(self):
            raise UserError(
                f"{folder}: holds no traces (no file below it ends in {SHARD_SUFFIX} or"
                f" {TRACE_SUFFIX}); make some with `cpusim generate`"
            )

    def __len__(self) -> int:
        return len(self.records)

    def longest(self, max_patches: int) -> int:
        """Patches of the longest one's sequence. Raises `UserError` if a model of so many cannot
        read it."""
        length = sequence_length(int(self.records.max()) - 1)
        if length > max_patches:
            raise UserError(
                f"{self.folder}: its longest trace is a sequence of {length:,} patches, and the"
                f" model takes {max_patches:,}; leave it out, or use a model with a larger"
                " max_patches"
            )
        return length

    def __getitem__(self, index: int) -> Trace:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        if place < len(self._shards):
            return self._shards[place].trace(index - int(self._starts[place]))
        return read_trace(self._files[index - int(self._starts[-1])])

    def fingerprint(self) -> str:
        """Hexadecimal digits that differ between sets of different traces."""
        digest = hashlib.sha256(self.records.tobytes())
        for shard in self._shards:
            digest.update(shard.hashes.tobytes())
        for path in self._files:
            digest.update(path.name.encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


_PATCHES_PER_BATCH = 2048
_TARGETS_PER_BATCH = 512


class RecordedTraces:
    """The traces of a set on disk (`cpusim generate`), each once an epoch, in random order.

    `folder` is the set, whose `train` part is drawn and whose `test` part evaluates (without
    one: generated programs do), or any folder of traces. Raises `UserError` if there are none,
    or if one is longer than `max_patches`.
    """

    def __init__(
        self, folder: Path, *, seed: int, max_patches: int, evaluation_programs: int = 64
    ) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: is no folder of traces; make one with `cpusim generate`")
        self.folder = folder
        self.seed = seed
        self.evaluation_programs = evaluation_programs
        self._traces = TraceFolder(folder / "train" if (folder / "train").is_dir() else folder)
        test = folder / "test"
        # None: generated programs evaluate.
        self._test = TraceFolder(test) if test.is_dir() and any(test.iterdir()) else None
        self._length = self._traces.longest(max_patches)
        if self._test is not None:
            self._test.longest(max_patches)
        self._count = max(1, _PATCHES_PER_BATCH // self._length)

    def batch(self, step: int) -> Batch:
        places = np.arange(step * self._count, (step + 1) * self._count)
        chosen = [
            int(_shuffled(self.seed, epoch, len(self._traces))[place])
            for epoch, place in zip(*np.divmod(places, len(self._traces)), strict=True)
        ]
        return collate(
            [sequence_of(self._traces[index]) for index in chosen],
            FIRST_STATE + 1,
            length=self._length,
            sample=_TARGETS_PER_BATCH,
            rng=np.random.default_rng((self.seed, step)),
        )

    def evaluation(self) -> Sequence[Batch]:
        if self._test is None:
            return evaluation_batches(self.evaluation_programs)
        sequences = [
            sequence_of(self._test[index])
            for index in range(min(len(self._test), self.evaluation_programs))
        ]
        return [
            collate(sequences[first : first + 8], FIRST_STATE + 1)
            for first in range(0, len(sequences), 8)
        ]

    def groups(self, batch: Batch, hits: npt.NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
        return state_groups(batch, hits)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": f"recorded {_KIND}",
            "seed": self.seed,
            "folder": str(self.folder),
            "traces": len(self._traces),
            "fingerprint": self._traces.fingerprint(),
        }


_FETCHED = [PC, *range(IR, IR + INSTRUCTION_SIZE)]
_COMPUTED = [ACC, *range(FIRST_REGISTER, STATE_SIZE)]
_SLOTS_A_GROUP = 64


def state_groups(batch: Batch, hits_NS: npt.NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
    """Right and all answers: of each form, what it computed; of each part of memory, what was
    fetched from there; of each phase of the cycle, all of it."""
    before, is_state = _states_before(batch)
    executed = before[:, IR : IR + INSTRUCTION_SIZE]
    counts: dict[str, tuple[int, int]] = {}

    def count(name: str, which: npt.NDArray[np.bool_], places: Sequence[int]) -> None:
        if which.any():
            counts[name] = int(hits_NS[which][:, places].all(1).sum()), int(which.sum())

    words, numbers = np.unique(executed, axis=0, return_inverse=True)
    names = np.array([form_name(word.astype(np.uint8).tobytes()) for word in words])[numbers]
    for name in np.unique(names):
        count(f"form {name}", is_state & (names == name), _COMPUTED)
    for slot in range(0, SLOTS, _SLOTS_A_GROUP):
        inside = (before[:, PC] >= slot) & (before[:, PC] < slot + _SLOTS_A_GROUP)
        name = f"fetch from slots {slot} to {slot + _SLOTS_A_GROUP - 1}"
        count(name, is_state & inside, _FETCHED)
    count("phase fetch", is_state, _FETCHED)
    count("phase execute", is_state, _COMPUTED)
    count("phase end", ~is_state, range(STATE_SIZE))
    return counts


def _states_before(batch: Batch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The state before each target, int64 (N, 16), and whether that is a state too: bool (N)."""
    tokens = batch.patches_BPS.flatten(0, 1).numpy()
    targets = batch.targets_N.numpy()
    return tokens[targets - 1], tokens[targets, 0] != PAD


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """The order of an epoch; two are kept, since a batch may reach into the next."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def learned_cpu(info: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's history says that it was trained on CPU traces."""
    data = info.get("data")
    return isinstance(data, Mapping) and str(data.get("kind")).endswith(_KIND)


def source_like(
    description: Mapping[str, Any],
    *,
    seed: int,
    max_patches: int,
    folder: Path | None = None,
    distribution: Distribution | None = None,
    further: bool = False,
) -> GeneratedTraces | RecordedTraces:
    """The source that `describe` described (empty: the default one), with what is given changed.

    `further`: the default one for a model that has learned the CPU already. Raises `UserError` if
    the description is of other data than CPU traces.
    """
    if folder is None and distribution is None and "folder" in description:
        folder = Path(description["folder"])
        if not folder.is_dir():
            raise UserError(
                f"{folder}: the traces of the run are no longer there; if the folder was moved,"
                " name it with --data as well as --resume"
            )
    if folder is not None:
        return RecordedTraces(folder, seed=seed, max_patches=max_patches)
    if max_patches < sequence_length(SLOTS):
        raise UserError(
            f"the model takes sequences of {max_patches:,} patches, and the longest program's is"
            f" {sequence_length(SLOTS):,}; use a model with a larger max_patches"
        )
    curriculum = FURTHER if further else CURRICULUM
    try:
        if "curriculum" in description:
            curriculum = tuple(Stage(**_with_tuples(stage)) for stage in description["curriculum"])
        return GeneratedTraces(
            seed, distribution or description.get("distribution", "mixed"), curriculum
        )
    except (TypeError, KeyError):
        raise UserError(
            f"the run's data ({description.get('kind')}) are not CPU traces that this version can"
            " make; start a new run"
        ) from None


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they were before JSON made lists of tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def evaluation_batches(count: int, *, batch: int = 8) -> list[Batch]:
    """Half published, half uniform programs of 1 to 255 instructions, every state a target."""
    batches = []
    distributions: tuple[Distribution, ...] = ("published", "uniform")
    for distribution in distributions:
        for start in range(0, count // 2, batch):
            programs = generate(
                min(batch, count // 2 - start),
                distribution=distribution,
                seed=_EVALUATION_SEEDS,
                start=start,
                min_length=1,
                max_length=SLOTS - 1,
            )
            sequences = _run(programs.memories, programs.states)
            batches.append(collate(sequences, FIRST_STATE + 1))
    return batches
