"""How many bits a model needs for a file: surprisal a byte, bits per byte.

A file's cost is that of everything after its extension patch: its bytes, the padding
that ends its last patch, and the end patch. Bits per byte divides by its bytes.
A file longer than the model's sequence is read in windows that overlap by half, so that
every byte has at least half a sequence of context (or all there is) before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bytemodel.model import ByteModel
from bytemodel.patches import Patches, encode_file
from cpusim.errors import UserError

TARGETS_AT_ONCE = 512
"""Patches whose byte level runs at once; bounds the memory that the logits take."""


@dataclass(frozen=True)
class Score:
    """`surprisal`: float32, bits of each byte from `skip` on. `end_bits`: padding and end patch."""

    surprisal: npt.NDArray[np.float32]
    end_bits: float

    @property
    def bits(self) -> float:
        return float(self.surprisal.sum(dtype=np.float64)) + self.end_bits

    @property
    def bits_per_byte(self) -> float:
        """Bits over bytes; infinite for no bytes, which still cost their end."""
        return self.bits / len(self.surprisal) if len(self.surprisal) else math.inf


@torch.inference_mode()
def surprisals(
    model: ByteModel, patches: Patches, targets: npt.NDArray[np.int64], dtype: torch.dtype
) -> npt.NDArray[np.float32]:
    """Bits of each byte of the target patches of one sequence: float32 (N, S)."""
    device = next(model.parameters()).device
    tokens = torch.from_numpy(patches).to(device)
    parts = []
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        conditions = model.read(tokens[None])
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            chosen = torch.from_numpy(targets[start : start + TARGETS_AT_ONCE]).to(device)
            wanted = tokens[chosen]
            logits = model.predict(conditions.at(chosen - 1), wanted)
            nats = F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none")
            parts.append(nats.view(wanted.shape) / math.log(2))
    return torch.cat(parts).float().cpu().numpy()


def score_file(
    model: ByteModel,
    data: bytes,
    extension: str,
    *,
    skip: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Score:
    """Score a file's bytes from `skip` on; those before are read as context only.

    Raises `UserError` if `skip` is beyond the end.
    """
    if skip and skip >= len(data):
        raise UserError(f"--skip {skip:,} leaves nothing of a file of {len(data):,} bytes to score")
    size = model.config.patch_size
    patches = encode_file(data, extension, size)
    longest = model.config.max_patches
    bits = np.empty((len(patches) - 1, size), np.float32)
    done, start = 1, 0
    while done < len(patches):
        stop = min(start + longest, len(patches))
        window = patches[start:stop]
        if start:
            # A window in the middle begins as every file does, with the extension patch.
            window = np.concatenate([patches[:1], patches[start + 1 : stop]])
        targets = np.arange(done - start, stop - start)
        bits[done - 1 : stop - 1] = surprisals(model, window, targets, dtype)
        done, start = stop, stop - longest // 2
    flat = bits.reshape(-1)
    return Score(flat[skip : len(data)].copy(), float(flat[len(data) :].sum(dtype=np.float64)))
