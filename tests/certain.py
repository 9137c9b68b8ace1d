"""A model that has learned the CPU to perfection: the plain oracle, with probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cpusim import lockstep
from cpusim.isa import STATE_SIZE
from cpusim.lockstep import END, NO_TOKEN, Case, OracleStepper, Predictions


@dataclass
class CertainModel:
    """Gives the right byte of every step all probability but `doubt`, which the others share.

    `name`, `max_records`: as a byte model's. `asked`: how many traces it has read.
    """

    name: str = "certain"
    max_records: int = 1 << 20
    doubt: float = 1e-6
    asked: int = field(default=0)

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        """See `lockstep.Verifier`; after an illegal instruction it expects the end."""
        for index, predictions in lockstep.verify(OracleStepper(), cases):
            self.asked += 1
            tokens = predictions.tokens.copy()
            tokens[(tokens == NO_TOKEN).any(axis=1)] = END
            records = cases[index].records[1:].astype(np.int16)
            observed = np.concatenate([records, END[None]])
            best = np.full((len(observed), STATE_SIZE), 1 - self.doubt, np.float32)
            other = np.float32(self.doubt / 256)
            yield index, Predictions(tokens, np.where(tokens == observed, best, other), best)
