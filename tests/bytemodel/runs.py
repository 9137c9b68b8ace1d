"""Training runs for tests, also in a process of their own, which can be stopped and killed.

`python -m tests.bytemodel.runs FOLDER '{"resume": true}'` trains there; see `main`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bytemodel.config import ModelConfig
from bytemodel.data import Batch, collate
from bytemodel.train import Outcome, TrainConfig, train
from tests.bytemodel.models import SMALLEST

CONFIG = TrainConfig(
    steps=30, warmup_steps=4, log_every=2, evaluate_every=7, save_every=5, matrix_lr=0.02
)


class Counting:
    """Files that count upwards from a random byte: easy to learn, and quick to make."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def batch(self, step: int) -> Batch:
        return self._batch(np.random.default_rng((self.seed, step)))

    def evaluation(self) -> Sequence[Batch]:
        return [self._batch(np.random.default_rng((1 << 40, number))) for number in range(2)]

    def groups(self, batch: Batch, hits: npt.NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
        assert hits.shape == (len(batch.targets_N), batch.patches_BPS.shape[2])
        return {"first bytes": (int(hits[:, 0].sum()), len(hits))}

    def describe(self) -> dict[str, Any]:
        return {"kind": "counting", "seed": self.seed}

    def _batch(self, rng: np.random.Generator) -> Batch:
        files = [(np.arange(16).reshape(4, 4) + int(rng.integers(256))) % 256 for _ in range(6)]
        return collate(files, 1, sample=12, rng=rng)


class Adapting(Counting):
    """Draws otherwise the more answers were wrong, so it has a state."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.wrong = 0

    def batch(self, step: int) -> Batch:
        return self._batch(np.random.default_rng((self.seed, step, self.wrong)))

    def note(self, batch: Batch, hits: npt.NDArray[np.bool_]) -> None:
        assert hits.shape == (len(batch.targets_N), batch.patches_BPS.shape[2])
        self.wrong += int((~hits).sum())

    def state(self) -> torch.Tensor:
        return torch.tensor(self.wrong)

    def restore(self, state: torch.Tensor) -> None:
        self.wrong = int(state)


class Records:
    """A listener that keeps what it hears, and once, at one step, sends this process a signal."""

    def __init__(self, at_step: int = -1, signal_name: str = "") -> None:
        self.records: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._at_step = at_step
        self._signal = signal.Signals[signal_name] if signal_name else None

    def logged(self, record: dict[str, Any], progress: float) -> None:
        assert 0 <= progress <= 1
        self.records.append(record)
        if record["step"] == self._at_step and self._signal is not None:
            number, self._signal = self._signal, None
            os.kill(os.getpid(), number)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def run(
    folder: Path,
    *,
    listener: Records | None = None,
    model: ModelConfig = SMALLEST,
    config: TrainConfig = CONFIG,
    source: Counting | None = None,
    compile_model: bool = False,
    **options: Any,
) -> Outcome:
    """Train the smallest model on the CPU."""
    return train(
        folder,
        model,
        config,
        source or Counting(),
        listener or Records(),
        device="cpu",
        dtype=options.pop("dtype", "float32"),
        compile_model=compile_model,
        **options,
    )


def main(folder: str, options: str) -> None:
    """Train, and print the outcome and the notes as JSON; `options` are JSON too."""
    torch.set_num_threads(1)
    chosen = json.loads(options)
    listener = Records(chosen.pop("at_step", -1), chosen.pop("signal", ""))
    outcome = run(Path(folder), listener=listener, **chosen)
    print(json.dumps({"finished": outcome.finished, "step": outcome.step, "notes": listener.notes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
