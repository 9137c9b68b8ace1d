"""A CPU with one planted fault, for what must find such faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cpusim.isa import IR
from cpusim.lockstep import NO_TOKEN, Bytes, Case, NoNextState, OracleStepper, Predictions, Tokens

Fault = Callable[[Bytes, Bytes, Tokens], Tokens]
"""What the CPU says wrongly: from memory [1024], the states so far [k, 16] and the right answer
[16], which it may change. All `NO_TOKEN`: no next state."""


def word(states: Bytes) -> bytes:
    """The instruction that executes after the last state."""
    return states[-1, IR : IR + 4].tobytes()


@dataclass
class Planted:
    """The oracle with a fault; `asked` counts the traces it was asked to verify."""

    fault: Fault
    name: str = "planted"
    asked: int = 0

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        said = self._say(memory, states, OracleStepper().step(memory, states))
        if (said == NO_TOKEN).all():
            raise NoNextState("planted")
        return said

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        for index, case in enumerate(cases):
            self.asked += 1
            right = case.expected_steps()
            if not case.ends:
                last = OracleStepper().step(case.memory, case.records)
                right = np.concatenate([right, last[None]])
            tokens = [
                self._say(case.memory, case.records[:known], right[known - 1])
                for known in range(1, len(case.records) + 1)
            ]
            yield index, Predictions(np.stack(tokens))

    def _say(self, memory: Bytes, states: Bytes, right: Tokens) -> Tokens:
        return self.fault(memory, states, right.copy())
