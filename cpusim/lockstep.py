"""Two CPUs side by side: the Stepper contract, the comparison, the first divergence, the tallies.

A Stepper is anything that, given memory and a sequence of states, says what the next
state is. The comparison knows Steppers only: the emulator, a byte model, a recorded trace
and somebody else's simulator all stand on either side. The first part of this file is the
contract, and enough to write a new peer from.

One Stepper is the reference: `record` lets it run programs on its own and keeps the
traces. The other is the candidate: `compare` asks it two questions about each trace.

- **Free-running**: fed on its own output, when does it first leave the trace?
- **Resynchronised**: put back on the trace at every step, which steps does it get wrong?

A Stepper is a function: the same memory and states give the same answer. Up to its
first mistake it has therefore been fed exactly what the reference said, so the first
free-running difference *is* the first resynchronised one, and one pass over the
reference's trace (`verify`, which a byte model does in parallel) answers both. With
`rollout=True` the first answer comes from really running free instead.

What is counted
    A *step* is numbered by the record it produces: step k is the prediction of record k,
    made from records 0..k-1 (k >= 1). In a trace of n + 1 records the steps 1..n are
    records, and, if the reference said that the trace ends there, step n + 1 is the end.
    Each of these predictions counts as one instruction and as 16 bytes, the end included,
    and is right only if all 16 tokens are. Everything is counted resynchronised; only
    `exact_programs` and the steps of first differences speak of free running.

Who is to blame
    Record k shows the k-th fetched instruction with ACC and registers from *before* it
    executes. So a wrong ACC or register in record k was computed by the instruction in
    record k-1, the *executed* one, while a wrong PC or IR in record k is a wrong *fetch*.
    Step k is tallied under the form executed (the end therefore under HLT); step 1 follows
    the initial state, which executes nothing, and is tallied as `FETCH`.

Where the reference makes no claim
    After its step limit or an illegal instruction (the record that shows the illegal bytes is
    its last) a reference says neither a state nor the end. The trace stops there, `ends` is
    False, and what the candidate says next is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from statistics import median
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cpusim.errors import UserError
from cpusim.isa import (
    FIELDS,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    PC,
    STATE_SIZE,
    VALUE_FIELDS,
    IllegalEncoding,
    variant_name,
)
from cpusim.reference import DEFAULT_MAX_STEPS, Stop, execute, fetch

Bytes = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int16]
"""What a Stepper says: 16 tokens. All 0..255: a state. All 256: the trace ends here. A mix
of both is neither, and a difference of its own kind."""

END_TOKEN = 256
NO_TOKEN = -1
END: Tokens = np.full(STATE_SIZE, END_TOKEN, np.int16)
END.flags.writeable = False

# --------------------------------------------------------------------------------------
# The contract
# --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """One program and its trace so far; with a single record, a program about to start.

    `name`: how reports call it. `memory`: uint8 [1024]. `records`: uint8 [n+1, 16], the
    initial state (PC 0, IR 0 0 0 0) first. `ends`: whether the end of the trace comes
    after the last record; if not, `open_because` says why nothing is known of what comes next.
    """

    name: str
    memory: Bytes
    records: Bytes
    ends: bool = False
    open_because: str = ""

    @property
    def steps(self) -> int:
        """Predictions that can be checked: every record after the first, and the end."""
        return len(self.records) - 1 + self.ends

    def expected(self, step: int) -> Tokens:
        """What step `step` (1..`steps`) must say: int16 [16]."""
        return self.records[step].astype(np.int16) if step < len(self.records) else END

    def expected_steps(self) -> Tokens:
        """What steps 1..`steps` must say: int16 [steps, 16]."""
        tail = [END[None]] if self.ends else []
        return np.concatenate([self.records[1:].astype(np.int16), *tail])

    def executed(self, step: int) -> bytes | None:
        """The instruction whose result step `step` shows; None at step 1, which only fetches."""
        if step == 1:
            return None
        return self.records[step - 1, IR : IR + INSTRUCTION_SIZE].tobytes()


class NoNextState(Exception):
    """Raised by `step`: this Stepper has no next state, and the trace does not end either.

    Its text is the reason, such as the illegal instruction that the last state shows.
    """


class StepperError(UserError):
    """A Stepper that cannot be asked this at all; the comparison stops, exit code 2."""


class Stepper(Protocol):
    """Required of every peer."""

    @property
    def name(self) -> str:
        """How reports call it, on one line: `oracle`, `trace:board.bin`."""

    # What comes after `states[-1]`?
    #
    # memory: uint8 [1024], read only.
    # states: uint8 [k, 16], k >= 1, oldest first; states[0] is the initial state. They are
    #   the Stepper's own earlier answers (free-running) or the reference's (resynchronised):
    #   it must not care, nor remember anything between calls that changes an answer. It
    #   may keep a cache, since most calls extend the one before by one state.
    #
    # Returns int16 [16]: the next state, `END`, or whatever mix of both it believes in.
    # Raises `NoNextState` if it knows that there is no answer (an illegal instruction):
    #   on the reference's side the trace stops there, on the candidate's it is a difference.
    # Raises `StepperError` (or any UserError) if it cannot be asked about this program.
    def step(self, memory: Bytes, states: Bytes) -> Tokens: ...


@dataclass(frozen=True, eq=False)
class Predictions:
    """A Stepper's resynchronised answers for one trace of n + 1 records.

    Row i is the answer after record i, so row i is step i + 1; the last row is what comes
    after the last record, wanted even where `Case.ends` is False.

    `tokens`: int16 [n+1, 16]. A Stepper that works byte by byte predicts each token from
    the *expected* tokens before it in the same patch, so that one wrong byte does not spoil
    the rest. A row of `NO_TOKEN` says "no next state".
    `expected_probability`, `predicted_probability`: float32 [n+1, 16], the probability it
    gave to the expected token (after the last record: to `END_TOKEN`) and to its own; None if
    it has no such notion.
    """

    tokens: Tokens
    expected_probability: npt.NDArray[np.float32] | None = None
    predicted_probability: npt.NDArray[np.float32] | None = None


@runtime_checkable
class Verifier(Protocol):
    """Optional: answers every step of many traces at once."""

    # Yields (index into `cases`, Predictions) once for each trace, in any order, as soon
    # as it is known: sort and batch as you like, hold no more than you must.
    #
    # The first token that differs from the trace must be the one with which `step`, fed the
    # same states, would differ. Raises as `step` does, but never `NoNextState`.
    # Without this method the comparison calls `step` on every prefix of every trace.
    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]: ...


@dataclass(frozen=True, eq=False)
class Rollout:
    """What a Stepper said while it ran free: int16 [m, 16], and why it had no next state."""

    tokens: Tokens
    refusal: str = ""


@runtime_checkable
class Runner(Protocol):
    """Optional: runs many programs free at once."""

    # For each prompt, continues from `records` on its own answers until it says anything
    # but a state, has no next state, or has answered `limits[i]` times.
    # Yields (index into `prompts`, Rollout) once for each, in any order.
    # Must give what repeated calls of `step` give. Without it, that is what is done.
    def run(
        self, prompts: Sequence[Case], limits: Sequence[int]
    ) -> Iterator[tuple[int, Rollout]]: ...


Probabilities = npt.NDArray[np.float32]
"""Of every token 0..256 at each place of a patch: float32 [16, 257], rows sum to 1."""


@runtime_checkable
class Guesser(Protocol):
    """Optional: knows how probable it holds each token."""

    # What `step` returns or raises, and how sure it is: row i has the probabilities of all tokens
    # at place i, given its own answer's tokens at the places before. The answer's token
    # is the most probable one, but for places behind a 256, which can only be 256.
    def guess(self, memory: Bytes, states: Bytes) -> tuple[Tokens, Probabilities]: ...


@runtime_checkable
class Bounded(Protocol):
    """Optional: cannot follow a trace of any length."""

    @property
    def max_records(self) -> int:
        """The most records that `step`, `verify`, `run` and `guess` can be given or reach.

        `compare` cuts longer traces, leaves their end unchecked, and says so.
        """


# --------------------------------------------------------------------------------------
# Peers
# --------------------------------------------------------------------------------------


class ReferenceStepper:
    """The plain-Python CPU. Ends after HLT; has no next state after an illegal instruction.

    It looks at the last state alone: any bytes are a state it can go on from.
    """

    name = "reference"

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        """The exact next state (see `Stepper`)."""
        state = self._executed(states)
        return END if state is None else _tokens(fetch(memory.tobytes(), state))

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        """Every step by itself (see `Verifier`)."""
        for index, case in enumerate(cases):
            memory = case.memory.tobytes()
            tokens = np.full(case.records.shape, NO_TOKEN, np.int16)
            for place in range(len(tokens)):
                try:
                    state = self._executed(case.records[: place + 1])
                except NoNextState:
                    continue
                tokens[place] = END if state is None else list(fetch(memory, state))
            yield index, Predictions(tokens)

    def _executed(self, states: Bytes) -> bytes | None:
        """The last state after its instruction; None after HLT. Raises `NoNextState`."""
        state: bytes = states[-1].tobytes()
        if len(states) == 1:
            return state  # The initial state has fetched nothing that could execute.
        try:
            instruction, form = ISA.decode(state[IR : IR + INSTRUCTION_SIZE])
        except IllegalEncoding:
            raise NoNextState(_why_illegal(states)) from None
        return None if instruction.halts else execute(state, instruction, form)


class OracleStepper(ReferenceStepper):
    """The emulator: steps like the plain-Python CPU, and runs many programs compiled."""

    name = "oracle"

    def run(self, prompts: Sequence[Case], limits: Sequence[int]) -> Iterator[tuple[int, Rollout]]:
        """Runs all prompts in one batch (see `Runner`)."""
        if len(prompts) < _WORTH_COMPILED:
            for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
                yield index, _step_repeatedly(self, prompt, limit)
            return
        from cpusim.machine import run_batch  # numba

        states: dict[int, bytes] = {}
        for index, prompt in enumerate(prompts):
            try:
                state = self._executed(prompt.records)
            except NoNextState as error:
                yield index, Rollout(np.empty((0, STATE_SIZE), np.int16), str(error))
                continue
            if state is None:
                yield index, Rollout(END[None][: limits[index]])
            else:
                states[index] = state
        if not states:
            return
        batch = run_batch(
            np.stack([prompts[index].memory for index in states]),
            np.array([list(state) for state in states.values()], np.uint8),
            max_steps=max(limits[index] for index in states),
        )
        for place, index in enumerate(states):
            # The run's first record is the state it started from, which the prompt holds.
            records = batch.records[batch.offsets[place] + 1 : batch.offsets[place + 1]]
            said = records.astype(np.int16)[: limits[index]]
            refusal = ""
            if len(said) < limits[index]:
                if batch.stop(place) is Stop.HALTED:
                    said = np.concatenate([said, END[None]])
                else:
                    whole = batch.records[batch.offsets[place] : batch.offsets[place + 1]]
                    refusal = _why_illegal(whole)
            yield index, Rollout(said, refusal)


_WORTH_COMPILED = 64
"""From this many programs on, loading the compiled kernels pays."""


def _why_illegal(states: Bytes) -> str:
    """Why the instruction that the last of at least two states shows cannot execute."""
    word = states[-1, IR : IR + INSTRUCTION_SIZE].tobytes()
    try:
        ISA.decode(word)
    except IllegalEncoding as error:
        return f"slot {states[-2, PC]} holds {word.hex(' ')}, which is no instruction: {error}"
    raise ValueError(f"{word.hex(' ')} is an instruction")


def _tokens(state: bytes) -> Tokens:
    return np.array(list(state), np.int16)


class RecordedStepper:
    """Recordings, such as other simulators or hardware leave behind.

    A recording cannot react: after k states it says its own k-th record, whatever those
    states were, and `END` after its last. Running free and resynchronised are therefore the
    same here, and every record that differs counts, also those that merely carry an earlier
    error along. Where a file stops its recording ends; if only a step limit stopped it, give
    the comparison the same limit. A program is found by its memory and initial state.

    Raises `StepperError` if two recordings of the same start differ, or if it is asked about
    a program that it does not hold.
    """

    def __init__(self, name: str, recordings: Iterable[Case]) -> None:
        self.name = name
        self._records: dict[bytes, Bytes] = {}
        for case in recordings:
            key = case.memory.tobytes() + case.records[0].tobytes()
            known = self._records.setdefault(key, case.records)
            if not np.array_equal(known, case.records):
                raise StepperError(
                    f"{case.name}: {name} holds another recording of the same program and"
                    " initial state; give one of them"
                )

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        """Its own record number `len(states)`, or `END` (see `Stepper`)."""
        records = self._find(memory, states[0])
        return _tokens(records[len(states)].tobytes()) if len(states) < len(records) else END

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        """The recordings, each cut or filled with `END` to the length asked (see `Verifier`)."""
        for index, case in enumerate(cases):
            own = self._find(case.memory, case.records[0])[1 : len(case.records) + 1]
            tokens = np.full(case.records.shape, END_TOKEN, np.int16)
            tokens[: len(own)] = own
            yield index, Predictions(tokens)

    def _find(self, memory: Bytes, initial: Bytes) -> Bytes:
        program = memory.tobytes()
        records = self._records.get(program + initial.tobytes())
        if records is None:
            same_memory = any(key.startswith(program) for key in self._records)
            what = "this program from another initial state" if same_memory else "other programs"
            raise StepperError(
                f"{self.name}: holds {what}; name no program, and its own will be compared"
            )
        return records


# --------------------------------------------------------------------------------------
# Asking a Stepper, with or without its optional methods
# --------------------------------------------------------------------------------------


def is_state(said: Tokens) -> bool:
    """Whether 16 tokens are a state: bytes, all of them."""
    return bool(((said >= 0) & (said < END_TOKEN)).all())


def run_free(
    stepper: Stepper, prompts: Sequence[Case], limits: Sequence[int]
) -> Iterator[tuple[int, Rollout]]:
    """`Runner.run` for any Stepper."""
    if isinstance(stepper, Runner):
        yield from stepper.run(prompts, limits)
        return
    for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        yield index, _step_repeatedly(stepper, prompt, limit)


def _step_repeatedly(stepper: Stepper, prompt: Case, limit: int) -> Rollout:
    states = np.empty((len(prompt.records) + limit, STATE_SIZE), np.uint8)
    states[: len(prompt.records)] = prompt.records
    said: list[Tokens] = []
    refusal = ""
    while len(said) < limit:
        known = len(prompt.records) + len(said)
        try:
            said.append(stepper.step(prompt.memory, states[:known]))
        except NoNextState as error:
            refusal = str(error)
            break
        if not is_state(said[-1]):
            break
        states[known] = said[-1]
    return Rollout(np.array(said, np.int16).reshape(-1, STATE_SIZE), refusal)


def verify(stepper: Stepper, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
    """`Verifier.verify` for any Stepper."""
    if isinstance(stepper, Verifier):
        yield from stepper.verify(cases)
        return
    for index, case in enumerate(cases):
        tokens = np.full(case.records.shape, NO_TOKEN, np.int16)
        for known in range(1, len(case.records) + 1):
            try:
                tokens[known - 1] = stepper.step(case.memory, case.records[:known])
            except NoNextState:
                continue
        yield index, Predictions(tokens)


def record(
    reference: Stepper, programs: Sequence[Case], *, max_steps: int = DEFAULT_MAX_STEPS
) -> list[Case]:
    """The traces of `programs` (only their first record is used) as `reference` runs them.

    A trace that reaches `max_steps` fetched instructions without an end, or what the reference
    can follow, is left open. Raises `StepperError` if the reference says something that is
    neither a state nor the end.
    """
    starts = [Case(p.name, p.memory, p.records[:1]) for p in programs]
    return extend(reference, starts, max_steps=max_steps)


def extend(
    reference: Stepper, prompts: Sequence[Case], *, max_steps: int = DEFAULT_MAX_STEPS
) -> list[Case]:
    """The traces that begin with the prompts' records, as many as it can follow, and go on as
    `reference` does.

    `max_steps` counts a prompt's own steps too. Otherwise as `record`.
    """
    most = reference.max_records if isinstance(reference, Bounded) else None
    prompts = [shortened(prompt, most, reference.name) for prompt in prompts]
    cases: list[Case | None] = [None] * len(prompts)
    rooms = [max(0, max_steps + 1 - len(prompt.records)) for prompt in prompts]
    # One answer more than there are steps: the end after the last one.
    limits = [room + 1 for room in rooms]
    if most is not None:
        limits = [
            min(limit, most + 1 - len(prompt.records))
            for limit, prompt in zip(limits, prompts, strict=True)
        ]
    for index, rollout in run_free(reference, prompts, limits):
        start, said = prompts[index], rollout.tokens
        open_because, ends = rollout.refusal, False
        if len(said) and not is_state(said[-1]):
            if not np.array_equal(said[-1], END):
                raise StepperError(
                    f"{start.name}: {reference.name} says neither a state nor the end at step"
                    f" {len(start.records) - 1 + len(said)}, so nothing can be measured against"
                    " it; swap the two sides"
                )
            said, ends = said[:-1], True
        elif len(said) > rooms[index]:
            said, open_because = said[: rooms[index]], f"step limit of {max_steps:,} reached"
        elif most is not None and len(said) == limits[index]:
            open_because = _follows(reference.name, most)
        records = np.concatenate([start.records, said.astype(np.uint8)])
        cases[index] = Case(start.name, start.memory, records, ends, open_because)
    return [case for case in cases if case is not None]


# --------------------------------------------------------------------------------------
# The comparison
# --------------------------------------------------------------------------------------

FETCH = "fetch"
"""The form under which step 1 is tallied: no instruction has executed yet."""
ILLEGAL = "illegal"
"""The form of bytes that are no instruction; only foreign references go on after them."""


class Kind(StrEnum):
    """In what way a step is wrong."""

    STATE = "wrong state"
    EARLY_END = "early end"
    MISSING_END = "late or missing end"
    MIXED = "neither a state nor the end"
    REFUSED = "no next state"


@dataclass(frozen=True, eq=False)
class Difference:
    """Where candidate and reference first part.

    `step`: number of the record, or of the end. `expected`, `predicted`: int16 [16];
    `predicted` is all `NO_TOKEN` if the candidate had no next state, for the reason `refusal`.
    Probabilities are float32 [16], NaN where unknown; None if the candidate has none.
    """

    step: int
    kind: Kind
    expected: Tokens
    predicted: Tokens
    expected_probability: npt.NDArray[np.float32] | None = None
    predicted_probability: npt.NDArray[np.float32] | None = None
    refusal: str = ""

    @property
    def fields(self) -> tuple[int, ...]:
        """Indexes (into `isa.FIELDS`) of the tokens that differ."""
        return tuple(int(i) for i in np.flatnonzero(self.expected != self.predicted))


@dataclass(frozen=True, eq=False)
class ProgramResult:
    """Both answers for one program.

    `case`: the reference's trace; `index`: its place among those given to `compare`.
    `from_step`: the first step that was checked.
    `said`: int16 [checked, 16], the candidate's resynchronised answers to the steps checked.
    `difference`: the first free-running difference, or None if the program is exact.
    """

    case: Case
    index: int
    from_step: int
    said: Tokens
    difference: Difference | None

    @property
    def exact(self) -> bool:
        """Whether running free gives the reference's trace, its end included."""
        return self.difference is None

    @property
    def checked(self) -> int:
        """Steps that were checked."""
        return len(self.said)

    @property
    def prompt(self) -> Case:
        """What a free run starts from: the reference's records before `from_step`."""
        return Case(self.case.name, self.case.memory, self.case.records[: self.from_step])

    @property
    def matched(self) -> int:
        """Free-running steps that match before the first difference."""
        return self.checked if self.difference is None else self.difference.step - self.from_step

    @property
    def _expected(self) -> Tokens:
        return self.case.expected_steps()[self.from_step - 1 :]

    @cached_property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """Which resynchronised tokens are wrong: bool [checked, 16]."""
        return np.not_equal(self.said, self._expected)

    @cached_property
    def misfits(self) -> npt.NDArray[np.bool_]:
        """Which of them are no byte for a byte, or the other way round: bool [checked, 16]."""
        no_byte = (self.said < 0) | (self.said >= END_TOKEN)
        no_byte |= self._expected == END_TOKEN
        return self.wrong & no_byte

    @cached_property
    def wrong_steps(self) -> tuple[int, ...]:
        """The steps that the resynchronised candidate gets wrong."""
        return tuple(int(i) + self.from_step for i in np.flatnonzero(self.wrong.any(axis=1)))


@dataclass
class FormTally:
    """Resynchronised results of one instruction form.

    A step is `wrong` if any of its tokens is. The other three say which, and a step can be in
    several: `wrong_result` a wrong byte in ACC or a register, `wrong_fetch` one in PC or IR,
    `wrong_end` a 256 (or nothing) where a byte is due, or a byte where a 256 is.
    """

    count: int = 0
    wrong: int = 0
    wrong_result: int = 0
    wrong_fetch: int = 0
    wrong_end: int = 0

    @property
    def accuracy(self) -> float:
        return 1 - self.wrong / self.count if self.count else 1.0


def form_name(word: bytes | None) -> str:
    """The form that four bytes execute, such as `ADD R R`; `FETCH` for None."""
    if word is None:
        return FETCH
    try:
        return variant_name(*ISA.decode(word))
    except IllegalEncoding:
        return ILLEGAL


_FORM_ORDER = (FETCH, *(variant_name(*variant) for variant in ISA.variants), ILLEGAL)
RESULT_FIELDS: npt.NDArray[np.bool_] = np.isin(np.arange(STATE_SIZE), VALUE_FIELDS)
"""Which tokens the executed instruction answers for: bool[16]; the others are the fetch's."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found; see the module's text for what is counted.

    `results`: one a program, in the order given. `left_out`: names of programs that have no
    step to check (shorter than `from_step`, or the reference made no claim at all).
    `rollout`: whether the free-running answers come from running free.
    """

    reference: str
    candidate: str
    results: tuple[ProgramResult, ...]
    left_out: tuple[str, ...] = ()
    rollout: bool = False

    @property
    def agree(self) -> bool:
        """Whether every program is exact, and every resynchronised step right."""
        return self.exact_programs == self.programs and not self.wrong_instructions

    @property
    def programs(self) -> int:
        return len(self.results)

    @property
    def exact_programs(self) -> int:
        return sum(result.exact for result in self.results)

    @property
    def differing(self) -> tuple[ProgramResult, ...]:
        """The programs that are not exact."""
        return tuple(result for result in self.results if not result.exact)

    @property
    def earliest(self) -> ProgramResult | None:
        """The program whose first difference comes at the lowest step."""
        return min(self.differing, key=lambda result: result.matched, default=None)

    @property
    def median_first_difference(self) -> float | None:
        """Median step of the first difference, over the programs that differ."""
        steps = [result.difference.step for result in self.results if result.difference]
        return float(median(steps)) if steps else None

    @property
    def unconfirmed(self) -> tuple[ProgramResult, ...]:
        """Programs whose two answers name different first steps.

        Always empty, unless a candidate's `run` and `verify` round differently (a byte model
        in low precision, where two bytes are almost equally probable).
        """
        return tuple(
            result
            for result in self.results
            if (result.difference.step if result.difference else None)
            != next(iter(result.wrong_steps), None)
        )

    @property
    def instructions(self) -> int:
        return sum(result.checked for result in self.results)

    @property
    def wrong_instructions(self) -> int:
        return sum(len(result.wrong_steps) for result in self.results)

    @property
    def instruction_accuracy(self) -> float:
        return 1 - self.wrong_instructions / self.instructions if self.instructions else 1.0

    @property
    def byte_count(self) -> int:
        return self.instructions * STATE_SIZE

    @property
    def wrong_bytes(self) -> int:
        return sum(self.by_field.values())

    @property
    def byte_accuracy(self) -> float:
        return 1 - self.wrong_bytes / self.byte_count if self.byte_count else 1.0

    @cached_property
    def by_field(self) -> dict[str, int]:
        """Wrong tokens by field, in the order of a state."""
        counts = sum((result.wrong.sum(axis=0) for result in self.results), np.zeros(STATE_SIZE))
        return {field: int(count) for field, count in zip(FIELDS, counts, strict=True)}

    @cached_property
    def by_form(self) -> dict[str, FormTally]:
        """Tallies by executed form, in table order, for the forms that occur."""
        tallies: dict[str, FormTally] = {}
        names: dict[bytes | None, str] = {}
        for result in self.results:
            end = _rows_with_any(result.misfits)
            wrong_bytes = result.wrong & ~result.misfits
            in_result = _rows_with_any(wrong_bytes[:, RESULT_FIELDS])
            in_fetch = _rows_with_any(wrong_bytes[:, ~RESULT_FIELDS])
            for row, any_wrong in enumerate(_rows_with_any(result.wrong)):
                word = result.case.executed(result.from_step + row)
                name = names.get(word) or names.setdefault(word, form_name(word))
                tally = tallies.setdefault(name, FormTally())
                tally.count += 1
                if any_wrong:
                    tally.wrong += 1
                    tally.wrong_result += in_result[row]
                    tally.wrong_fetch += in_fetch[row]
                    tally.wrong_end += end[row]
        return {name: tallies[name] for name in _FORM_ORDER if name in tallies}


def _rows_with_any(mask: npt.NDArray[np.bool_]) -> list[bool]:
    return [bool(row) for row in np.any(mask, axis=1)]


def compare(
    cases: Sequence[Case],
    candidate: Stepper,
    *,
    reference: str = "oracle",
    from_step: int = 1,
    rollout: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Compare `candidate` with the reference's traces, every program to its end.

    `cases`: from `record`, or your own; `reference`: the name of whoever made them.
    `from_step`: the first step checked (>= 1); the candidate is given the reference's
    records before it, in both answers. `rollout`: take the free-running answer from running
    free (`run`) instead of from `verify`.
    `progress` is called with the number of steps just done: every step once, with `rollout`
    twice. Raises `StepperError` as the candidate does, and if there is no step to check.
    """
    most = candidate.max_records if isinstance(candidate, Bounded) else None
    every = [shortened(case, most, candidate.name) for case in cases]
    left_out = tuple(case.name for case in every if case.steps < from_step)
    places = [place for place, case in enumerate(every) if case.steps >= from_step]
    usable = [every[place] for place in places]
    if not usable:
        longest = max((case.steps for case in every), default=0)
        raise StepperError(
            f"nothing to compare: no program has a step {from_step:,}; the longest has {longest:,}"
        )
    verified: dict[int, ProgramResult] = {}
    for index, predictions in verify(candidate, usable):
        case = usable[index]
        if predictions.tokens.shape != case.records.shape:
            raise ValueError(
                f"{candidate.name}: verify gave {predictions.tokens.shape} tokens for"
                f" {case.records.shape} records"
            )
        said = predictions.tokens[from_step - 1 : case.steps].astype(np.int16)
        result = ProgramResult(case, places[index], from_step, said, None)
        verified[index] = replace(result, difference=_verified_difference(result, predictions))
        progress(result.checked)
    results = [verified[index] for index in range(len(usable))]
    if rollout:
        differences = _free_differences(results, candidate, progress)
    else:
        differences = [_asked_again(result, candidate) for result in results]
    return Comparison(
        reference,
        candidate.name,
        tuple(replace(r, difference=d) for r, d in zip(results, differences, strict=True)),
        left_out,
        rollout,
    )


def shortened(case: Case, most: int | None, name: str) -> Case:
    """The case as far as a Stepper called `name` can follow it: `most` records, if not None."""
    if most is None or len(case.records) <= most:
        return case
    return replace(
        case,
        records=case.records[:most],
        ends=False,
        open_because=_follows(name, most),
    )


def _follows(name: str, most: int) -> str:
    """Why a trace is open where a Stepper that is `Bounded` stopped."""
    return f"{name} can follow {most:,} records"


def _verified_difference(result: ProgramResult, predictions: Predictions) -> Difference | None:
    """The first difference in what `verify` gave, with its probabilities."""
    if not result.wrong_steps:
        return None
    step = result.wrong_steps[0]
    found = _difference(result.case, step, predictions.tokens[step - 1])
    of_expected, of_predicted = predictions.expected_probability, predictions.predicted_probability
    if of_expected is None or of_predicted is None:
        return found
    return replace(
        found,
        expected_probability=of_expected[step - 1].copy(),
        predicted_probability=of_predicted[step - 1].copy(),
    )


def _asked_again(result: ProgramResult, candidate: Stepper) -> Difference | None:
    """The verified difference as the candidate, on its own output, would make it.

    Tokens that were predicted one by one from the expected ones can mix bytes and 256 where it
    would have said the end.
    """
    verified = result.difference
    if verified is None or verified.kind is not Kind.MIXED:
        return verified
    try:
        said = candidate.step(result.case.memory, result.case.records[: verified.step])
    except NoNextState as error:
        return _refused(result.case, verified.step, str(error))
    if np.array_equal(said, verified.expected):
        return verified
    return _with_probabilities(_difference(result.case, verified.step, said), verified)


def _free_differences(
    results: Sequence[ProgramResult], candidate: Stepper, progress: Callable[[int], None]
) -> list[Difference | None]:
    """Where each free run first leaves its trace; `results` are the verified ones."""
    differences: list[Difference | None] = [None] * len(results)
    # Where verification names a step, running on behind it would teach nothing, unless the
    # free run gets past it; then that program is run again, to its end.
    limits = {
        index: result.matched + 1 if result.difference else result.checked
        for index, result in enumerate(results)
    }
    while limits:
        chosen = list(limits)
        prompts = [results[index].prompt for index in chosen]
        again: dict[int, int] = {}
        for place, run in run_free(candidate, prompts, [limits[index] for index in chosen]):
            index = chosen[place]
            result = results[index]
            found = _free_difference(result, run, limits[index])
            if found is None and limits[index] < result.checked:
                again[index] = result.checked
                continue
            if found is not None and result.difference is not None:
                found = _with_probabilities(found, result.difference)
            differences[index] = found
            progress(result.checked)
        limits = again
    return differences


def _free_difference(result: ProgramResult, run: Rollout, limit: int) -> Difference | None:
    case, said = result.case, run.tokens
    expected = case.expected_steps()[result.from_step - 1 :]
    wrong = np.flatnonzero((said != expected[: len(said)]).any(axis=1))
    if len(wrong):
        return _difference(case, result.from_step + int(wrong[0]), said[wrong[0]])
    if len(said) < limit:
        return _refused(case, result.from_step + len(said), run.refusal)
    return None


def _refused(case: Case, step: int, reason: str) -> Difference:
    nothing: Tokens = np.full(STATE_SIZE, NO_TOKEN, np.int16)
    return Difference(step, Kind.REFUSED, case.expected(step), nothing, refusal=reason)


def _difference(case: Case, step: int, said: Tokens) -> Difference:
    expected = case.expected(step)
    if np.array_equal(said, END):
        kind = Kind.EARLY_END
    elif not is_state(said):
        kind = Kind.MIXED
    else:
        kind = Kind.STATE if is_state(expected) else Kind.MISSING_END
    return Difference(step, kind, expected, said.astype(np.int16))


def _with_probabilities(found: Difference, verified: Difference) -> Difference:
    """`found` with what `verified` knows of the same tokens; NaN for the others."""
    of_expected, of_predicted = verified.expected_probability, verified.predicted_probability
    if of_expected is None or of_predicted is None or found.step != verified.step:
        return found
    known = found.predicted == verified.predicted
    nan = np.float32(np.nan)
    return replace(
        found,
        expected_probability=np.where(known, of_expected, nan),
        predicted_probability=np.where(known, of_predicted, nan),
    )
