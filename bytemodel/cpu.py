"""The byte model as a CPU: a `cpusim.lockstep.Stepper`.

A CPU trace is a file like any other: extension patch `bin`, 64 patches of memory, one
patch a state, the end patch. To say what comes after some states, the model reads memory and
states and writes one more patch: a state, or the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bytemodel import checkpoint
from bytemodel.cpu_data import FIRST_STATE, trace_patches
from bytemodel.data import collate
from bytemodel.model import ByteModel
from bytemodel.train import pick_device, pick_dtype
from cpusim.errors import UserError
from cpusim.isa import STATE_SIZE
from cpusim.lockstep import Case, Predictions

_PATCHES_PER_BATCH = 2048
"""Patches verified at once: keeps the logits, 16 KB a state, in tens of MB."""

SHIPPED = Path(__file__).parent / "weights" / "cpu-small.pt"


def shipped_checkpoint() -> Path:
    """The checkpoint that comes with the package. Raises `UserError` if this copy has none."""
    if not SHIPPED.is_file():
        raise UserError(
            f"{SHIPPED}: this installation has no trained weights; make some with"
            " `bgpt train cpu --minutes 60 --out runs/cpu` and name them with --model runs/cpu"
        )
    return SHIPPED


def load_stepper(path: Path, dtype: str = "auto") -> ByteModelStepper:
    """The byte model in a checkpoint, on the GPU if there is one.

    `dtype`: `float32`, `bfloat16`, or `auto` for the faster of the two on this machine.
    Raises `UserError` if the file is no checkpoint, or its model cannot hold CPU states.
    """
    device = pick_device("auto")
    model = checkpoint.load(path, device=device).model
    return ByteModelStepper(model, name=f"model:{path}", dtype=pick_dtype(dtype, device))


class ByteModelStepper:
    """A byte model that continues CPU traces, greedily: each byte is the most probable one.

    Raises `UserError` if the model's patches are not the size of a state.
    """

    def __init__(
        self, model: ByteModel, *, name: str = "model", dtype: torch.dtype = torch.float32
    ) -> None:
        if model.config.patch_size != STATE_SIZE:
            raise UserError(
                f"{name}: has patches of {model.config.patch_size} bytes, and a CPU state has"
                f" {STATE_SIZE}; use a model with patch_size {STATE_SIZE}"
            )
        self.name = name
        self.model = model.eval()
        self.dtype = dtype
        self.device = next(model.parameters()).device

    @property
    def max_records(self) -> int:
        """What the model's longest sequence leaves for states, the end patch kept free."""
        return self.model.config.max_patches - FIRST_STATE - 1

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        """All steps in parallel, each from the trace itself (see `lockstep.Verifier`)."""
        for indexes in _batches([len(case.records) for case in cases]):
            sequences = [trace_patches(cases[i].memory, cases[i].records) for i in indexes]
            # The targets are records 1..n and the end, sequence after sequence.
            batch = collate(sequences, FIRST_STATE + 1)
            said, expected_p, predicted_p = self._answers(batch.patches_BPS, batch.targets_N)
            start = 0
            for index in indexes:
                stop = start + len(cases[index].records)
                yield (
                    index,
                    Predictions(said[start:stop], expected_p[start:stop], predicted_p[start:stop]),
                )
                start = stop

    @torch.inference_mode()
    def _answers(
        self, patches_BPS: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Most probable tokens, the probability of the expected ones, and of these: all (N, S)."""
        patches_BPS, targets_N = patches_BPS.to(self.device), targets_N.to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits_NSV = self.model(patches_BPS, targets_N)
        probabilities_NSV = logits_NSV.float().softmax(-1)
        predicted_p_NS, said_NS = probabilities_NSV.max(-1)
        expected_NS = patches_BPS.flatten(0, 1)[targets_N]
        expected_p_NS = probabilities_NSV.gather(-1, expected_NS[..., None])[..., 0]
        return (
            said_NS.to("cpu", torch.int16).numpy(),
            expected_p_NS.cpu().numpy(),
            predicted_p_NS.cpu().numpy(),
        )


def _batches(records: Sequence[int]) -> Iterator[list[int]]:
    """Indexes in batches of traces of about equal length: little padding, bounded memory."""
    batch: list[int] = []
    for index in sorted(range(len(records)), key=lambda index: records[index]):
        if batch and (len(batch) + 1) * (FIRST_STATE + records[index] + 1) > _PATCHES_PER_BATCH:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
