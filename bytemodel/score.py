"""How many bits a model needs for a file: surprisal a byte, bits per byte, the worst places.

A file's cost is that of everything after its extension patch: its bytes, the padding
that ends its last patch, and the end patch. Bits per byte divides by its bytes.
A file longer than the model's sequence is read in windows that overlap by half, so that
every byte has at least half a sequence of context (or all there is) before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bytemodel.model import ByteModel
from bytemodel.patches import Patches, encode_file, fitting_extension, reading_windows
from cpusim.errors import UserError

TARGETS_AT_ONCE = 512
"""Patches whose byte level runs at once; bounds the memory that the logits take."""


@dataclass(frozen=True)
class Predictions:
    """What a model said of bytes, one array entry a byte.

    `bits`: float32, the surprisal of the byte that came. `expected`: int16, the most probable
    token (256: the end). `confidence`: float32, that token's probability.
    """

    bits: npt.NDArray[np.float32]
    expected: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]

    def __getitem__(self, part: slice) -> Predictions:
        return Predictions(self.bits[part], self.expected[part], self.confidence[part])


@dataclass(frozen=True)
class Score:
    """`predictions`: of each byte from `skip` on. `end_bits`: padding and end patch."""

    predictions: Predictions
    end_bits: float

    @property
    def surprisal(self) -> npt.NDArray[np.float32]:
        """Bits of each byte."""
        return self.predictions.bits

    @property
    def bits(self) -> float:
        return float(self.surprisal.sum(dtype=np.float64)) + self.end_bits

    @property
    def bits_per_byte(self) -> float:
        """Bits over bytes; infinite for no bytes, which still cost their end."""
        return self.bits / len(self.surprisal) if len(self.surprisal) else math.inf

    def most_surprising(self, count: int) -> npt.NDArray[np.int64]:
        """The places of the `count` costliest bytes, the costliest first, equal ones in order."""
        return np.argsort(-self.surprisal, kind="stable")[:count]


@torch.inference_mode()
def predict_patches(
    model: ByteModel, patches: Patches, targets: npt.NDArray[np.int64], dtype: torch.dtype
) -> Predictions:
    """What the model says of each byte of the target patches of one sequence: arrays (N, S)."""
    device = next(model.parameters()).device
    tokens = torch.from_numpy(patches).to(device)
    parts = []
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        # What stands last is only predicted, so it need not be read.
        conditions = model.read(tokens[None, :-1])
        matches = model.matches(tokens[None], torch.from_numpy(targets).to(device))
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            chosen = torch.from_numpy(targets[start : start + TARGETS_AT_ONCE]).to(device)
            wanted = tokens[chosen]
            known = None if matches is None else matches[start : start + TARGETS_AT_ONCE]
            logits = model.predict(conditions.at(chosen - 1), wanted, known)
            nats_NSV = -logits.float().log_softmax(-1)
            least, expected = nats_NSV.min(-1)
            nats = nats_NSV.gather(-1, wanted[..., None])[..., 0]
            parts.append((nats / math.log(2), expected.to(torch.int16), (-least).exp()))
    return Predictions(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def predict_sequence(model: ByteModel, patches: Patches, dtype: torch.dtype) -> Predictions:
    """What the model says of each byte behind the first patch of a sequence: arrays (P-1, S).

    A sequence longer than the model reads is cut into `reading_windows`.
    """
    # A model that reads one patch predicts each of the others from the first alone.
    longest = max(model.config.max_patches, 2)
    parts = []
    for start, first, stop in reading_windows(1, len(patches), longest):
        window = patches[start:stop]
        if start:
            window = np.concatenate([patches[:1], patches[start + 1 : stop]])
        parts.append(predict_patches(model, window, np.arange(first, stop) - start, dtype))
    return Predictions(
        np.concatenate([part.bits for part in parts]),
        np.concatenate([part.expected for part in parts]),
        np.concatenate([part.confidence for part in parts]),
    )


def score_file(
    model: ByteModel,
    data: bytes,
    extension: str,
    *,
    skip: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Score:
    """Score a file's bytes from `skip` on; those before are read as context only.

    An extension that does not fit into a patch is left out, as in compression.
    Raises `UserError` if `skip` is beyond the end.
    """
    if skip and skip >= len(data):
        raise UserError(f"--skip {skip:,} leaves nothing of a file of {len(data):,} bytes to score")
    size = model.config.patch_size
    patches = encode_file(data, fitting_extension(extension, size), size)
    found = predict_sequence(model, patches, dtype)
    flat = Predictions(found.bits.ravel(), found.expected.ravel(), found.confidence.ravel())
    end_bits = float(flat.bits[len(data) :].sum(dtype=np.float64))
    return Score(flat[skip : len(data)], end_bits)


def mean_by_position(
    surprisals: Sequence[npt.NDArray[np.float32]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean bits of the n-th byte over the files that have one, and how many files those are."""
    longest = max(map(len, surprisals), default=0)
    bits, files = np.zeros(longest), np.zeros(longest, np.int64)
    for values in surprisals:
        bits[: len(values)] += values
        files[: len(values)] += 1
    return bits / np.maximum(files, 1), files
