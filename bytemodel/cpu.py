"""The byte model as a CPU: a `cpusim.lockstep.Stepper`.

A CPU trace is a file like any other: extension patch `bin`, 64 patches of memory, one
patch a state, the end patch. To say what comes after some states, the model reads memory and
states and writes one more patch: a state, or the end.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from bytemodel import checkpoint
from bytemodel.cpu_data import FIRST_STATE, trace_patches
from bytemodel.data import collate
from bytemodel.decoding import prepare
from bytemodel.generate import Session
from bytemodel.model import ByteModel, Conditions
from bytemodel.patches import PAD, VOCABULARY, Patches
from bytemodel.train import pick_device, pick_dtype
from cpusim.errors import UserError
from cpusim.isa import STATE_SIZE
from cpusim.lockstep import (
    Bytes,
    Case,
    Predictions,
    Probabilities,
    Rollout,
    Tokens,
    is_state,
)

_PATCHES_PER_BATCH = {"cpu": 1024, "cuda": 8192}
"""Patches read at once, by device: what a CPU's caches hold, and what fills a GPU."""
_STATES_PER_PASS = {"cpu": 128, "cuda": 8192}
"""States that the byte level predicts at once, for the same reasons."""
_WORTH_COMPILING = 40_000
"""States from which on compiling the byte level, some 10 s, is made up for."""
_STREAMS = 64
"""Programs generated at once: their keys and values, about 4 MB each, stay in memory."""

SHIPPED = Path(__file__).parent / "weights" / "cpu-small.pt"


def shipped_checkpoint() -> Path:
    """The checkpoint that comes with the package. Raises `UserError` if this copy has none."""
    if not SHIPPED.is_file():
        raise UserError(
            f"{SHIPPED}: this installation has no trained weights; make some with"
            " `bgpt train cpu --minutes 60 --out runs/cpu` and name them with --model runs/cpu"
        )
    return SHIPPED


def display_name(path: Path) -> str:
    """What people read for a checkpoint: its path, or the name of the one that ships: where this
    copy of the program lies helps nobody."""
    return f"{path.stem} (shipped)" if path.parent == SHIPPED.parent else str(path)


def load_stepper(path: Path, dtype: str = "auto") -> ByteModelStepper:
    """The byte model in a checkpoint, on the GPU if there is one.

    `dtype`: `float32`, `bfloat16`, or `auto` for the faster of the two on this machine.
    Raises `UserError` if the file is no checkpoint, or its model cannot hold CPU states.
    """
    device = pick_device("auto")
    kind = pick_dtype(dtype, device)
    model = prepare(checkpoint.load(path, device=device).model, kind)
    return ByteModelStepper(model, name=f"model:{path}", dtype=kind)


class ByteModelStepper:
    """A byte model that continues CPU traces, greedily: each byte is the most probable one.

    Raises `UserError` if the model's patches are not the size of a state, or its sequence is too
    short for two of them.
    """

    def __init__(
        self, model: ByteModel, *, name: str = "model", dtype: torch.dtype = torch.float32
    ) -> None:
        if model.config.patch_size != STATE_SIZE:
            raise UserError(
                f"{name}: has patches of {model.config.patch_size} bytes, and a CPU state has"
                f" {STATE_SIZE}; use a model with patch_size {STATE_SIZE}"
            )
        if model.config.max_patches < FIRST_STATE + 3:
            raise UserError(
                f"{name}: takes sequences of {model.config.max_patches} patches, and a memory with"
                f" two states and an end are {FIRST_STATE + 3}; use a model with a larger"
                " max_patches"
            )
        self.name = name
        self.model = model.eval()
        self.dtype = dtype
        self.device = next(model.parameters()).device
        self._predict: Predict = self.model.predict
        # States that `verify` was ever asked about; None once it is settled whether to compile.
        self._asked: int | None = 0
        # The prefix that the last call of `step` has read, and the session that holds it.
        self._session: Session | None = None
        self._memory: Bytes = np.empty(0, np.uint8)
        self._states: Bytes = np.empty((0, STATE_SIZE), np.uint8)

    @property
    def max_records(self) -> int:
        """What the model's longest sequence leaves for states, the end patch kept free."""
        return self.model.config.max_patches - FIRST_STATE - 1

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        """One more patch, by cached generation (see `lockstep.Stepper`).

        A call that extends the one before reads only what is new. Raises `UserError` for more
        than `max_records` states.
        """
        return _tokens(self._reading(memory, states).next_patch()).reshape(STATE_SIZE)

    def guess(self, memory: Bytes, states: Bytes) -> tuple[Tokens, Probabilities]:
        """The same, with the probabilities of all tokens (see `lockstep.Guesser`)."""
        logits: list[torch.Tensor] = []
        patch_BS = self._reading(memory, states).next_patch(logits=logits)
        # Places behind a 256 were not asked about: there is nothing but 256.
        probabilities = np.zeros((STATE_SIZE, VOCABULARY), np.float32)
        probabilities[len(logits) :, PAD] = 1
        known = torch.cat(logits).float().softmax(-1)
        probabilities[: len(logits)] = known.cpu().numpy()
        return _tokens(patch_BS).reshape(STATE_SIZE), probabilities

    def _reading(self, memory: Bytes, states: Bytes) -> Session:
        """A session that has read memory and states, the last call's if they extend it."""
        session, read = self._session, len(self._states)
        if (
            session is None
            or not np.array_equal(memory, self._memory)
            or not np.array_equal(states[:read], self._states)
        ):
            session, read = Session(self.model, dtype=self.dtype), 0
            session.append(_tensor(_start(memory))[None])
        if len(states) > read:
            session.append(_tensor(states[read:].astype(np.int64))[None])
        self._session, self._memory, self._states = session, memory.copy(), states.copy()
        return session

    def run(self, prompts: Sequence[Case], limits: Sequence[int]) -> Iterator[tuple[int, Rollout]]:
        """Cached generation of many programs in step (see `lockstep.Runner`)."""
        by_length: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt.records), []).append(index)
        for indexes in by_length.values():
            # Programs that end at about the same time share a batch.
            indexes.sort(key=lambda index: limits[index])
            for first in range(0, len(indexes), _STREAMS):
                chosen = indexes[first : first + _STREAMS]
                yield from self._run_in_step(
                    {index: prompts[index] for index in chosen},
                    {index: limits[index] for index in chosen},
                )

    def _run_in_step(
        self, prompts: dict[int, Case], limits: dict[int, int]
    ) -> Iterator[tuple[int, Rollout]]:
        """Programs with equally many records, by index."""
        session = Session(self.model, dtype=self.dtype)
        session.append(
            torch.stack(
                [
                    _tensor(np.concatenate([_start(case.memory), case.records.astype(np.int64)]))
                    for case in prompts.values()
                ]
            )
        )
        alive = list(prompts)
        said: dict[int, list[Tokens]] = {index: [] for index in alive}
        while True:
            patch_BS = session.next_patch()
            for index, tokens in zip(alive, _tokens(patch_BS), strict=True):
                said[index].append(tokens)
            goes_on = [
                is_state(said[index][-1]) and len(said[index]) < limits[index] for index in alive
            ]
            for index, more in zip(alive, goes_on, strict=True):
                if not more:
                    yield index, Rollout(np.stack(said.pop(index)))
            if not any(goes_on):
                return
            if not all(goes_on):
                rows = torch.tensor(goes_on, device=self.device)
                session.keep(rows)
                patch_BS = patch_BS[rows]
                alive = [index for index, more in zip(alive, goes_on, strict=True) if more]
            session.append(patch_BS[:, None])

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        """All steps in parallel, each from the trace itself (see `lockstep.Verifier`)."""
        lengths = [len(case.records) for case in cases]
        if self._asked is not None:
            self._asked += sum(lengths)
            if self._asked >= _WORTH_COMPILING:
                self._asked, self._predict = None, self._compiled()
        batches = list(_batches(lengths, _PATCHES_PER_BATCH[self.device.type]))
        order = list(itertools.chain.from_iterable(batches))
        read = (self._read([cases[index] for index in batch]) for batch in batches)
        if self.model.config.recall:
            # What bytes look up belongs to a batch, so each is answered by itself.
            passes = (self._answers(*batch_read) for batch_read in read)
        else:
            told = _recut(map(_rows, read), itertools.repeat(_STATES_PER_PASS[self.device.type]))
            passes = (self._answers(*self._told(some)) for some in told)
        answers = _recut(passes, (lengths[index] for index in order))
        for index, rows in zip(order, answers, strict=True):
            yield index, Predictions(*(row.numpy() for row in rows))

    @torch.inference_mode()
    def _read(self, cases: Sequence[Case]) -> Told:
        """Of each state that follows a record, and of the end: its tokens, and what the byte level
        is told (`Conditions`, `matches`); a row each, case after case."""
        batch = collate(
            [trace_patches(case.memory, case.records) for case in cases], FIRST_STATE + 1
        )
        patches_BPS, targets_N = batch.patches_BPS.to(self.device), batch.targets_N.to(self.device)
        with self._autocast():
            told = self.model.read(patches_BPS).at(targets_N - 1)
        matches = self.model.matches(patches_BPS, targets_N)
        return patches_BPS.flatten(0, 1)[targets_N], told, matches

    def _told(self, rows: Rows) -> Told:
        """What `_rows` made rows of."""
        expected_NS, features_NC, previous_NS, *more = rows
        found = more.pop(0) if self.model.config.retrieval else None
        matches = more.pop(0) if self.model.config.matching else None
        return expected_NS, Conditions(features_NC, previous_NS, found), matches

    @torch.inference_mode()
    def _answers(self, expected_NS: torch.Tensor, told: Conditions, matches: Matches) -> Rows:
        """Most probable tokens, the probability of the expected ones, and of these: all (N, S)."""
        with self._autocast():
            logits_NSV = self._predict(told, expected_NS, matches).float()
        best_NS, said_NS = logits_NSV.max(-1)
        wanted_NS = logits_NSV.gather(-1, expected_NS[..., None])[..., 0]
        # Two probabilities of each 257: cheaper than all of them.
        total_NS = logits_NSV.logsumexp(-1)
        return (
            said_NS.to("cpu", torch.int16),
            (wanted_NS - total_NS).exp().cpu(),
            (best_NS - total_NS).exp().cpu(),
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _compiled(self) -> Predict:
        """The byte level, compiled at its first call if that is possible here."""
        plain, size = self.model.predict, _STATES_PER_PASS["cpu"]
        if self.device.type != "cpu" or shutil.which("gcc") is None or self.model.config.recall:
            return plain
        compiled = torch.compile(plain, dynamic=False)

        def predict(
            conditions: Conditions, patches_NS: torch.Tensor, matches_NSK: torch.Tensor | None
        ) -> torch.Tensor:
            count = len(patches_NS)
            if 2 * count < size:
                return plain(conditions, patches_NS, matches_NSK)
            if count < size:
                # One shape for all calls, since each shape would be compiled by itself.
                rows_N = torch.arange(size).clamp(max=count - 1)
                conditions, patches_NS = conditions.at(rows_N), patches_NS[rows_N]
                matches_NSK = None if matches_NSK is None else matches_NSK[rows_N]
            try:
                return compiled(conditions, patches_NS, matches_NSK)[:count]
            except torch._dynamo.exc.TorchDynamoException:
                # A compiler that does not work: everything is as right without it.
                self._predict = plain
                return plain(conditions, patches_NS, matches_NSK)[:count]

        return predict


Predict = Callable[[Conditions, torch.Tensor, torch.Tensor | None], torch.Tensor]
Rows = tuple[torch.Tensor, ...]
"""Tensors with equally many rows, one a state."""
Matches = torch.Tensor | None
Told = tuple[torch.Tensor, Conditions, Matches]
"""The tokens of states, and what the byte level is told of each."""


def _rows(told: Told) -> Rows:
    """What can be cut anew, without what a model does not have."""
    expected_NS, conditions, matches = told
    parts = conditions.features_NC, conditions.previous_NS, conditions.found_NSE, matches
    return (expected_NS, *(part for part in parts if part is not None))


@torch.inference_mode()
def _recut(parts: Iterable[Rows], sizes: Iterable[int]) -> Iterator[Rows]:
    """The rows of all parts in lots of `sizes` rows, until there are none."""
    source = iter(parts)
    held: list[Rows] = []
    for size in sizes:
        while sum(len(part[0]) for part in held) < size:
            part = next(source, None)
            if part is None:
                break
            held.append(part)
        if not held:
            return
        rows = held[0] if len(held) == 1 else tuple(map(torch.cat, zip(*held, strict=True)))
        yield tuple(column[:size] for column in rows)
        held = [tuple(column[size:] for column in rows)] if len(rows[0]) > size else []


def _start(memory: Bytes) -> Patches:
    """What a trace's sequence holds before record 0."""
    return trace_patches(memory, np.empty((0, STATE_SIZE), np.uint8))[:FIRST_STATE]


def _tensor(patches: Patches) -> torch.Tensor:
    return torch.from_numpy(patches)


def _tokens(patches_BS: torch.Tensor) -> Tokens:
    return patches_BS.to("cpu", torch.int16).numpy()


def _batches(records: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indexes in batches of at most `most` patches (or one trace), of about equal lengths."""
    batch: list[int] = []
    for index in sorted(range(len(records)), key=lambda index: records[index]):
        if batch and (len(batch) + 1) * (FIRST_STATE + records[index] + 1) > most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
