"""A conversion that a model learns within seconds: lower-case letters to upper-case ones."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bytemodel import checkpoint
from bytemodel.config import ModelConfig
from bytemodel.data import Batch, collate
from bytemodel.model import ByteModel
from bytemodel.patches import encode_conversion
from bytemodel.train import TrainConfig, train
from tests.bytemodel.runs import Records

LEARNT = ModelConfig(
    patch_size=4,
    max_patches=16,
    patch_layers=1,
    patch_width=48,
    patch_heads=2,
    byte_layers=1,
    byte_width=48,
    byte_heads=2,
    retrieval=True,
    rotary_share=0.5,
)


class UpperCase:
    """Words of 5 to 8 letters, `.low`, and the same in upper case, `.up`."""

    def batch(self, step: int) -> Batch:
        return self._batch(np.random.default_rng((0, step)))

    def evaluation(self) -> Sequence[Batch]:
        return [self._batch(np.random.default_rng((1 << 40, 0)))]

    def groups(self, *_: object) -> dict[str, tuple[int, int]]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {"kind": "words", "convert": "low->up"}

    def _batch(self, rng: np.random.Generator) -> Batch:
        words = [
            rng.integers(ord("a"), ord("z") + 1, rng.integers(5, 9)).astype(np.uint8).tobytes()
            for _ in range(32)
        ]
        size = LEARNT.patch_size
        # Two patches of source and two with extensions come before what is to be learnt.
        return collate([encode_conversion(w, "low", w.upper(), "up", size) for w in words], 4)


@functools.cache
def trained() -> checkpoint.Checkpoint[ByteModel]:
    """A model that knows it."""
    config = TrainConfig(steps=200, warmup_steps=10, matrix_lr=0.03)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        train(
            Path(folder) / "run",
            LEARNT,
            config,
            UpperCase(),
            Records(),
            device="cpu",
            dtype="float32",
            compile_model=False,
        )
        return checkpoint.load(Path(folder) / "run")
