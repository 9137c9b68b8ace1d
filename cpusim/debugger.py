"""A debugger of two CPUs: the oracle's run, and what a candidate says along it, state by state.

Nothing here knows a screen. At record k the debugger shows three things: the record, which is
the present; what the CPU says comes next; and what the candidate says comes next. The CPU's whole
run is known at once. What the candidate says is asked for when it is wanted, since it
takes time: methods that ask it say so, and `known` tells what it has said already.

The candidate reads either the CPU's records (resynchronised, a `Timeline`) or, from a record on,
its own (a `FreeRun`).

Editing a register changes the present record as if the machine had been in that state, and both
sides go on from there; what came after is forgotten. The records before it stay as they
were. So the step *to* an edited record is no longer what the instruction does: there the CPU's
answer stays the true one, and the candidate is measured against that. The candidate still reads
the whole history, with a change in it that no instruction made. The alternative, to restart it
with the edited state as record 0, would be worse: record 0 of every trace has PC 0 and shows
no instruction, while a candidate that has learned the machine goes on from the last state
whatever came before (docs/experiments.md has what the shipped model makes of it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from cpusim.errors import UserError
from cpusim.isa import FIELDS, PC, STATE_SIZE, VALUE_FIELDS
from cpusim.lockstep import (
    NO_TOKEN,
    Bounded,
    Bytes,
    Case,
    Guesser,
    NoNextState,
    OracleStepper,
    Probabilities,
    Stepper,
    Tokens,
    extend,
    is_state,
    verify,
)
from cpusim.reference import DEFAULT_MAX_STEPS

EDITABLE = VALUE_FIELDS
"""The fields that can be edited; PC and IR come from the program."""

_ORACLE = OracleStepper()


@dataclass(frozen=True, eq=False)
class Answer:
    """What the candidate says comes after a record.

    `tokens`: int16 [16]; all `NO_TOKEN` if it knows that there is no next state; None if it could
    not be asked. `because`: the reason for either. `probabilities`: None if it has none.
    """

    tokens: Tokens | None
    because: str = ""
    probabilities: Probabilities | None = None


def differing(expected: Tokens | None, answer: Answer) -> tuple[int, ...]:
    """The fields in which an answer is wrong; none where either side makes no claim."""
    if expected is None or answer.tokens is None:
        return ()
    return tuple(int(field) for field in np.flatnonzero(expected != answer.tokens))


class Timeline:
    """One history: the CPU's run from its first record to its last, edits included, and what
    the candidate says after each record.

    `edits`: by record, the values that were set, by field.
    """

    def __init__(
        self, candidate: Stepper, case: Case, edits: Mapping[int, Mapping[int, int]] | None = None
    ) -> None:
        self.candidate = candidate
        self.case = case
        self.edits = dict(edits or {})
        self._answers: dict[int, Answer] = {}
        self._wrong_steps: tuple[int, ...] | None = None

    @property
    def last(self) -> int:
        """The number of the last record."""
        return len(self.case.records) - 1

    @property
    def horizon(self) -> int:
        """The last record after which the candidate can be asked."""
        if isinstance(self.candidate, Bounded):
            return min(self.last, self.candidate.max_records - 1)
        return self.last

    def slot(self, record: int) -> int | None:
        """The slot that holds the instruction a record shows; None for record 0, which has none."""
        return int(self.case.records[record - 1, PC]) if record else None

    def expected(self, record: int) -> Tokens | None:
        """What the CPU says comes after a record; None if it makes no claim (`open_because`)."""
        if record + 1 in self.edits:
            return _ORACLE.step(self.case.memory, self.case.records[: record + 1])
        return self.case.expected(record + 1) if record < self.case.steps else None

    def state(self, record: int) -> Bytes | None:
        """What the candidate takes for a record: here the CPU's."""
        state: Bytes = self.case.records[record]
        return state

    def known(self, record: int) -> Answer | None:
        """What the candidate says after a record, if it has been asked."""
        return self._answers.get(record)

    def answer(self, record: int, tick: Callable[[int], None] = lambda _: None) -> Answer:
        """What the candidate says after a record. Slow the first time.

        `tick` gets the number of each record that the candidate is about to be asked after;
        an exception of it ends the call.
        """
        found = self._answers.get(record)
        if found is None:
            tick(record)
            states = self.case.records[: record + 1]
            found = self._answers[record] = _ask(self.candidate, self.case.memory, states)
        return found

    @property
    def known_wrong_steps(self) -> tuple[int, ...] | None:
        """`wrong_steps` if it has been called."""
        return self._wrong_steps

    def wrong_steps(self) -> tuple[int, ...]:
        """The steps that the candidate, put back on these records each time, gets wrong.

        Step k comes after record k - 1. Slow the first time: one pass over all of them.
        """
        if self._wrong_steps is None:
            whole = self.horizon == self.last
            records = self.case.records[: self.horizon + 1]
            seen = replace(self.case, records=records, ends=self.case.ends and whole)
            ((_, predictions),) = verify(self.candidate, [seen])
            expected = self.case.expected_steps()[: self.horizon + 1]
            said = predictions.tokens[: len(expected)]
            wrong = set((np.flatnonzero((said != expected).any(axis=1)) + 1).tolist())
            # An edited record is not what the step before it should give.
            for step in range(1, self.horizon + 2):
                if step in self.edits:
                    wrong.discard(step)
                    if differing(self.expected(step - 1), self.answer(step - 1)):
                        wrong.add(step)
            self._wrong_steps = tuple(sorted(wrong))
        return self._wrong_steps

    def next_difference(
        self, after: int, tick: Callable[[int], None] = lambda _: None
    ) -> int | None:
        """The first record behind `after` whose next step the candidate gets wrong. Slow."""
        for step in self.wrong_steps():
            # Asked again, as it will be shown: in low precision two bytes that are almost
            # equally probable may change places.
            record = step - 1
            if record > after and differing(self.expected(record), self.answer(record, tick)):
                return record
        return None

    def edited(self, record: int, field: int, value: int, max_steps: int) -> Timeline:
        """The history that is the same up to `record`, in which `field` is `value`."""
        records = self.case.records[: record + 1].copy()
        records[record, field] = value
        prompt = Case(self.case.name, self.case.memory, records)
        (case,) = extend(_ORACLE, [prompt], max_steps=max_steps)
        edits = {at: values for at, values in self.edits.items() if at <= record}
        edits[record] = {**edits.get(record, {}), field: value}
        timeline = Timeline(self.candidate, case, edits)
        timeline._answers = {at: said for at, said in self._answers.items() if at < record}
        return timeline


class FreeRun:
    """The candidate on its own output, from record `start` of a timeline on.

    Edits of later records are made in its own states too.
    """

    def __init__(self, timeline: Timeline, start: int) -> None:
        self.timeline = timeline
        self.start = start
        self._states: list[Bytes] = list(timeline.case.records[: start + 1])
        self._answers: dict[int, Answer] = {}

    def state(self, record: int) -> Bytes | None:
        """Its own record; None if it has none, or not yet."""
        return self._states[record] if record < len(self._states) else None

    def known(self, record: int) -> Answer | None:
        """What it says after a record, if it has been asked."""
        if record <= self.start:
            return self.timeline.known(record)
        return self._answers.get(record)

    def answer(self, record: int, tick: Callable[[int], None] = lambda _: None) -> Answer:
        """What it says after a record; slow, since it has to get there. See `Timeline.answer`."""
        if record <= self.start:
            return self.timeline.answer(record, tick)
        found = self._answers.get(record)
        if found is None:
            found = self._answers[record] = self._ask_after(record, tick)
        return found

    def next_difference(
        self, after: int, tick: Callable[[int], None] = lambda _: None
    ) -> int | None:
        """The first record behind `after` after which it does not say what the CPU says. Slow."""
        wrong = set(self.timeline.wrong_steps())
        agreed = self._agreed()
        for record in range(after + 1, self.timeline.last + 1):
            if record < agreed and record + 1 not in wrong:
                continue
            if differing(self.timeline.expected(record), self.answer(record, tick)):
                return record
        return None

    def edited(self, timeline: Timeline, record: int) -> FreeRun:
        """This run with the edits that `timeline` has at `record`, going on from there."""
        run = FreeRun(timeline, min(self.start, record))
        run._states = self._states[: record + 1]
        if record < len(run._states):
            run._states[record] = self._with_edits(timeline, record, run._states[record])
        run._answers = {at: said for at, said in self._answers.items() if at < record}
        return run

    def _agreed(self) -> int:
        """How many of its records, from 0 on, are the CPU's. Slow.

        While they are, it has read exactly what the CPU said, so one pass over the CPU's
        records tells how long they stay so (see `cpusim.lockstep`), and they need not be asked for.
        """
        records = self.timeline.case.records
        known = len(self._states)
        same = (np.array(self._states) == records[:known]).all(axis=1)
        if not same.all():
            return int(np.argmin(same))
        wrong = (step for step in self.timeline.wrong_steps() if step >= known)
        # Of what is beyond the candidate's reach, nothing is known.
        reached = min(len(records), max(known, self.timeline.horizon + 1))
        self._states += list(records[known : next(wrong, reached)])
        return len(self._states)

    def _ask_after(self, record: int, tick: Callable[[int], None]) -> Answer:
        if record > len(self._states):
            self._agreed()
        while len(self._states) <= record:
            at = len(self._states) - 1
            said = self.answer(at, tick)
            if said.tokens is None:
                return said
            if not is_state(said.tokens):
                return Answer(None, f"on its own it said no state after step {at:,}")
            state = said.tokens.astype(np.uint8)
            self._states.append(self._with_edits(self.timeline, at + 1, state))
        tick(record)
        states = np.array(self._states[: record + 1])
        return _ask(self.timeline.candidate, self.timeline.case.memory, states)

    @staticmethod
    def _with_edits(timeline: Timeline, record: int, state: Bytes) -> Bytes:
        state = state.copy()
        for field, value in timeline.edits.get(record, {}).items():
            state[field] = value
        return state


def _ask(candidate: Stepper, memory: Bytes, states: Bytes) -> Answer:
    if isinstance(candidate, Bounded) and len(states) > candidate.max_records:
        return Answer(None, f"its longest sequence, {candidate.max_records:,} states, is full")
    try:
        if isinstance(candidate, Guesser):
            tokens, probabilities = candidate.guess(memory, states)
            return Answer(tokens, probabilities=probabilities)
        return Answer(candidate.step(memory, states))
    except NoNextState as error:
        return Answer(np.full(STATE_SIZE, NO_TOKEN, np.int16), str(error))


class Halt(StrEnum):
    """Why `Debugger` stopped moving."""

    BREAKPOINT = "breakpoint"
    DIFFERENCE = "difference"
    LAST = "last record"


class Debugger:
    """Where a user stands, and what they have changed.

    `position`: the number of the present record. `breakpoints`: slots. `free`: the run that is
    shown instead of the timeline's answers, if the candidate runs free.
    Moving never asks the candidate.
    """

    def __init__(
        self,
        candidate: Stepper,
        name: str,
        memory: bytes,
        state: bytes,
        *,
        max_steps: int = DEFAULT_MAX_STEPS,
    ) -> None:
        self.max_steps = max_steps
        first = np.frombuffer(state, np.uint8)[None]
        prompt = Case(name, np.frombuffer(memory, np.uint8), first)
        (case,) = extend(_ORACLE, [prompt], max_steps=max_steps)
        self.timeline = Timeline(candidate, case)
        self.free: FreeRun | None = None
        self.position = 0
        self.breakpoints: set[int] = set()
        self._before: list[tuple[Timeline, FreeRun | None, int]] = []

    @property
    def path(self) -> Timeline | FreeRun:
        """What the candidate reads: ask this for its answers."""
        return self.free or self.timeline

    @property
    def record(self) -> Bytes:
        """The present: uint8 [16]."""
        record: Bytes = self.timeline.case.records[self.position]
        return record

    @property
    def slot(self) -> int | None:
        """The slot of the instruction that is about to execute; None at record 0."""
        return self.timeline.slot(self.position)

    @property
    def expected(self) -> Tokens | None:
        """What the CPU says comes next; None if it makes no claim."""
        return self.timeline.expected(self.position)

    @property
    def at_last(self) -> bool:
        return self.position == self.timeline.last

    def go(self, record: int) -> None:
        """To a record, or to the nearest there is."""
        self.position = min(max(record, 0), self.timeline.last)

    def run(self, difference: int | None = None) -> Halt:
        """On to the next breakpoint, but no further than the record of a difference behind this
        one, or than the last."""
        target = self.timeline.last if difference is None else difference
        for record in range(self.position + 1, target + 1):
            if self.timeline.slot(record) in self.breakpoints and record != difference:
                self.position = record
                return Halt.BREAKPOINT
        self.position = target
        return Halt.LAST if difference is None else Halt.DIFFERENCE

    def toggle_breakpoint(self, slot: int) -> bool:
        """Set or clear one; whether it is set now."""
        self.breakpoints ^= {slot}
        return slot in self.breakpoints

    def toggle_free(self) -> None:
        """Let the candidate go on by itself from here, or put it back on the CPU's records."""
        self.free = None if self.free else FreeRun(self.timeline, self.position)

    def edit(self, field: int, value: int) -> None:
        """Set ACC or a register of the present record; both sides go on from there.

        Raises `UserError` for PC or IR, and for a value that is no byte.
        """
        if field not in EDITABLE:
            raise UserError(
                f"{FIELDS[field]} comes from the program; ACC and the registers can be edited"
            )
        if not 0 <= value <= 255:
            raise UserError(f"{value} is outside 0..255")
        self._before.append((self.timeline, self.free, self.position))
        self.timeline = self.timeline.edited(self.position, field, value, self.max_steps)
        if self.free:
            self.free = self.free.edited(self.timeline, self.position)

    def undo(self) -> bool:
        """Take the last edit back, and go where it was made; False if there is none."""
        if not self._before:
            return False
        was_free = self.free is not None
        self.timeline, free, self.position = self._before.pop()
        self.free = (free or FreeRun(self.timeline, self.position)) if was_free else None
        return True
