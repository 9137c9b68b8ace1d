"""A candidate for tests of the debugger: it knows the CPU, but for the faults planted in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Event

import numpy as np

from cpusim.isa import STATE_SIZE
from cpusim.lockstep import (
    END_TOKEN,
    Bytes,
    Case,
    NoNextState,
    OracleStepper,
    Predictions,
    Probabilities,
    Tokens,
)
from cpusim.lockstep import verify as verify_by_steps

OWN, RIGHT = 0.625, 0.25
"""The probability of its own token, and where that is wrong, of the right one."""


class Pupil:
    """The oracle, but that it says `faults[step][field]` instead of what is right.

    `asked`: the steps it was asked for one by one; `passes`: how often for all at once.
    `may_answer`: cleared, it thinks until it is set.
    """

    name = "pupil"

    def __init__(
        self, faults: Mapping[int, Mapping[int, int]] | None = None, max_records: int = 1000
    ) -> None:
        self.faults = faults or {}
        self.max_records = max_records
        self.asked: list[int] = []
        self.passes = 0
        self.may_answer = Event()
        self.may_answer.set()

    def _say(self, memory: Bytes, states: Bytes) -> tuple[Tokens, Tokens]:
        """What it says, and what is right."""
        assert len(states) <= self.max_records
        right = OracleStepper().step(memory, states)
        said = right.copy()
        for field, value in self.faults.get(len(states), {}).items():
            said[field] = value
        return said, right

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        return self._say(memory, states)[0]

    def guess(self, memory: Bytes, states: Bytes) -> tuple[Tokens, Probabilities]:
        assert self.may_answer.wait(60)
        self.asked.append(len(states))
        said, right = self._say(memory, states)
        places = np.arange(STATE_SIZE)
        probabilities = np.zeros((STATE_SIZE, END_TOKEN + 1), np.float32)
        probabilities[places, right] = RIGHT
        probabilities[places, said] = OWN
        others = probabilities == 0
        rest = (1 - probabilities.sum(axis=1)) / others.sum(axis=1)
        return said, np.where(others, rest[:, None], probabilities)

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        self.passes += 1
        yield from verify_by_steps(_Stepwise(self), cases)


class _Stepwise:
    """The required part of the contract alone."""

    name = "pupil"

    def __init__(self, pupil: Pupil) -> None:
        self.pupil = pupil

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        return self.pupil.step(memory, states)


class Refuser:
    """A candidate with nothing but the required method, which knows of no next state."""

    name = "refuser"

    def step(self, memory: Bytes, states: Bytes) -> Tokens:  # noqa: ARG002
        raise NoNextState("its battery is empty")
