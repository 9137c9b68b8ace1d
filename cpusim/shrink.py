"""Shrinking: from a program that fails to a minimal one that still fails in the same way.

What "in the same way" means stands in `failures`; besides, it must be the step that failed
before, wherever it now is in the program. The shrinker asks nothing itself: it proposes
batches of simpler programs and is told how each of them fails, so that a model answers many
programs, of many shrinkers, in one parallel pass. That, and the shortcuts below, is why this is
no job for Hypothesis, which asks about one example at a time and knows no CPU.

What is simpler stands in `cost`: fewer slots; then fewer instructions that do something,
fewer values to start from, lower registers, lower values. The shrinker moves to the simplest
proposal that still fails in the same way and starts again, until none is left:

- *Bare*: the instruction alone, with the values that it reads, or nothing but its slot.
- *Cut*: drop the instructions before and behind the failure. The values that the dropped
  ones would have computed become the initial state, so that the failing instruction sees what
  it saw, and a failure that depends on it alone is down to one instruction and HLT at once.
- *Fill*: put instructions that do nothing where instructions cannot go, because the failure
  depends on the slot or on the number of steps.
- *Delete* chunks, from one half down to single instructions (delta debugging: Zeller and
  Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input").
- *Rename* registers to A, B, C; make operands equal; lower them, constants and initial values.

A failure that comes first in its program, which thus shows when the candidate runs free,
is never given up for one that shows only when it is put back on the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeVar

from cpusim.assembler import assemble, program_slots
from cpusim.failures import Failure
from cpusim.isa import (
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    MEMORY_SIZE,
    PC,
    REGISTERS,
    STATE_SIZE,
    VALUE_FIELDS,
    Operand,
)
from cpusim.loader import Program

FILLER = assemble("MOV A A")[:INSTRUCTION_SIZE]
"""An instruction that changes nothing."""

HALT = bytes(INSTRUCTION_SIZE)
_FIRST_BATCH, _LARGEST_BATCH = 8, 64
"""The simplest proposals often do: a small batch comes first."""

Words = list[bytes]
Proposal = tuple[Program, int]
"""A program, and the step of it that ought to fail."""
T = TypeVar("T")
_Questions = Generator[Sequence[Program], None, T]
"""Yields batches, whose outcomes are known when it goes on."""


class Shrinker:
    """Shrinks one failure: ask `batch`, answer with `take`, until `finished`.

    `trail`: the failures on the way, each simpler than the one before; the last is the best.
    """

    def __init__(self, failure: Failure) -> None:
        self.trail = [failure]
        self._known: dict[Program, list[Failure]] = {failure.program: [failure]}
        self._search = self._rounds()
        self.batch: Sequence[Program] = next(self._search, ())

    @property
    def best(self) -> Failure:
        return self.trail[-1]

    @property
    def finished(self) -> bool:
        """Whether nothing simpler fails in the same way."""
        return not self.batch

    def take(self, outcomes: Sequence[Sequence[Failure]]) -> None:
        """Go on, given the failures of each program in `batch`."""
        for program, outcome in zip(self.batch, outcomes, strict=True):
            self._known[program] = [f for f in outcome if f.way == self.best.way]
        self.batch = next(self._search, ())

    def _rounds(self) -> _Questions[None]:
        simplest = None
        while simplest is not self.best:
            simplest = self.best
            yield from self._improve(_bare)
            yield from self._improve(_cut)
            yield from self._improve(_filled_up)
            yield from self._sweep(len(_words(self.best.program)) - 1, _fill)
            yield from self._sweep(len(_words(self.best.program)) - 1, _delete)
            yield from self._improve(_rename)
            yield from self._improve(_only_read)
            yield from self._sweep(len(VALUE_FIELDS), _clear)
            yield from self._improve(_lower)

    def _improve(self, propose: Callable[[Failure], Iterable[Proposal]]) -> _Questions[None]:
        """Move to the simplest proposal that fails alike, again and again."""
        while True:
            most = cost(self.best.program)
            costs = {proposal: cost(proposal[0]) for proposal in propose(self.best)}
            waiting = sorted((p for p in costs if costs[p] < most), key=lambda p: (costs[p], p[1]))
            size, found = _FIRST_BATCH, False
            while waiting and not found:
                found = yield from self._move(waiting[:size])
                waiting, size = waiting[size:], 2 * size
            if not found:
                return

    def _sweep(
        self, parts: int, without: Callable[[Failure, frozenset[int]], Proposal]
    ) -> _Questions[None]:
        """Delta debugging: do without as many parts as can be.

        Chunks of a size are tried alone; then as many of the dispensable ones together as go.
        """
        base = self.best
        gone: frozenset[int] = frozenset()
        size = parts
        while size:
            starts = range(0, parts, size)
            chunks = [frozenset(range(n, min(n + size, parts))) - gone for n in starts]
            alone = [without(base, gone | chunk) for chunk in chunks]
            yield from self._ask(alone)
            chunks = [c for c, p in zip(chunks, alone, strict=True) if c and self._alike(p)]
            while chunks:
                heads = [len(chunks) >> k for k in range(len(chunks).bit_length())]
                unions = {n: gone.union(*chunks[:n]) for n in heads}
                together = {n: without(base, union) for n, union in unions.items()}
                yield from self._ask(together.values())
                fits = next((n for n in heads if self._alike(together[n])), 0)
                if fits:
                    gone = unions[fits]
                    yield from self._move([together[fits]])
                chunks = chunks[max(fits, 1) :]
            size //= 2

    def _move(self, proposals: Sequence[Proposal]) -> _Questions[bool]:
        """Make the simplest of the proposals that fail alike the best, if it is simpler."""
        yield from self._ask(proposals)
        most = cost(self.best.program)
        alike = [failure for p in proposals if cost(p[0]) < most and (failure := self._alike(p))]
        if alike:
            self.trail.append(min(alike, key=lambda f: (not f.free_running, cost(f.program))))
        return bool(alike)

    def _ask(self, proposals: Iterable[Proposal]) -> _Questions[None]:
        programs = dict.fromkeys(program for program, _ in proposals)
        waiting = [program for program in programs if program not in self._known]
        for first in range(0, len(waiting), _LARGEST_BATCH):
            yield waiting[first : first + _LARGEST_BATCH]

    def _alike(self, proposal: Proposal) -> Failure | None:
        """How a proposal, whose outcome is known, fails like the best; None if it does not."""
        program, step = proposal
        for failure in self._known[program]:
            if failure.step == step and failure.free_running >= self.best.free_running:
                return failure
        return None


def cost(program: Program) -> tuple[int, int, int, int, int, bytes, bytes]:
    """How complicated a program is; no two programs cost the same."""
    words = _words(program)
    return (
        len(words),
        sum(word != FILLER for word in words),
        sum(map(bool, program.state)),
        sum(sum(word[1:]) for word in words),
        sum(program.state),
        program.memory,
        program.state,
    )


def _words(program: Program) -> Words:
    """The instructions up to the last that is not HLT, and one HLT."""
    end = program_slots(program.memory) * INSTRUCTION_SIZE
    return [program.memory[at : at + INSTRUCTION_SIZE] for at in range(0, end, INSTRUCTION_SIZE)]


def _program(words: Iterable[bytes], state: bytes) -> Program:
    return Program(b"".join(words).ljust(MEMORY_SIZE, b"\0"), state)


def _bare(failure: Failure) -> Iterator[Proposal]:
    """What most failures come to: the instruction that executed, or the slot, and nothing else."""
    words, step = _words(failure.program), failure.step
    word = failure.case.executed(step)
    state = None if word is None else _state_before(failure, step - 2)
    if word is not None and state is not None:
        others = {field: 0 for field in VALUE_FIELDS if field not in ISA.read(word)}
        yield _program([word], _with(state, others)), 2
    for count in (step - 2, step - 1):
        if 0 <= count < len(words):
            yield _program([FILLER] * count, bytes(STATE_SIZE)), step


def _cut(failure: Failure) -> Iterator[Proposal]:
    """The failing step without what comes before it, or behind it."""
    words, step = _words(failure.program), failure.step
    for first in [0, *_before(step)]:
        state = _state_before(failure, first)
        if state is None:
            continue
        # Step k shows the fetch of word k - 1, after the execution of word k - 2.
        for end in (step - 1, step, len(words)):
            yield _program(words[first:end], state), step - first


def _filled_up(failure: Failure) -> Iterator[Proposal]:
    """Instructions that do nothing instead of those before the failure."""
    words = _words(failure.program)
    for count in _before(failure.step):
        state = _state_before(failure, count)
        if state is not None:
            yield _program([FILLER] * count + words[count:], state), failure.step


def _fill(failure: Failure, gone: frozenset[int]) -> Proposal:
    words = [FILLER if n in gone else word for n, word in enumerate(_words(failure.program))]
    return _program(words, failure.program.state), failure.step


def _delete(failure: Failure, gone: frozenset[int]) -> Proposal:
    kept = [word for n, word in enumerate(_words(failure.program)) if n not in gone]
    before = sum(n < failure.step - 1 for n in gone)
    return _program(kept, failure.program.state), failure.step - before


def _clear(failure: Failure, gone: frozenset[int]) -> Proposal:
    state = _with(failure.program.state, {VALUE_FIELDS[n]: 0 for n in gone})
    return Program(failure.program.memory, state), failure.step


def _before(step: int) -> list[int]:
    """Numbers of instructions to spare before a step, from all of them in growing strides."""
    return [step - 1] + [step - 1 - (1 << k) for k in range(step.bit_length()) if 1 << k < step]


def _state_before(failure: Failure, slot: int) -> bytes | None:
    """An initial state with the values from before the instruction in `slot` executed."""
    records = failure.case.records
    if slot + 1 >= len(records):
        return None
    state = bytearray(records[slot + 1].tobytes())
    state[PC] = 0
    state[IR : IR + INSTRUCTION_SIZE] = HALT
    return bytes(state)


def _rename(failure: Failure) -> Iterator[Proposal]:
    """Registers called A, B, C in the order in which they first occur, or two of them one."""
    words, state = _words(failure.program), failure.program.state
    live = [word for word in words if word != FILLER]
    used = list(dict.fromkeys(word[at] for word in live for at in _register_bytes(word)))
    order = [*used, *(n for n in range(1, len(REGISTERS) + 1) if n not in used)]
    values = bytes(state[FIRST_REGISTER - 1 + old] for old in order)
    names = {old: new for new, old in enumerate(order, 1)}
    yield _program(_renamed(words, names), state[:FIRST_REGISTER] + values), failure.step
    for old in used:
        for new in range(1, old):
            fields = FIRST_REGISTER - 1 + old, FIRST_REGISTER - 1 + new
            merged = _with(state, {fields[0]: 0, fields[1]: state[fields[0]]})
            yield _program(_renamed(words, {old: new}), merged), failure.step


def _renamed(words: Words, names: dict[int, int]) -> Words:
    return [
        word
        if word == FILLER
        else _with(word, {at: names.get(word[at], word[at]) for at in _register_bytes(word)})
        for word in words
    ]


def _only_read(failure: Failure) -> Iterator[Proposal]:
    """No values to start from but those that the failing instruction reads."""
    words, state = _words(failure.program), failure.program.state
    read = ISA.read(failure.case.executed(failure.step) or HALT)
    others = {field: 0 for field in VALUE_FIELDS if field not in read}
    yield _program(words, _with(state, others)), failure.step


def _lower(failure: Failure) -> Iterator[Proposal]:
    """Lower registers, constants and initial values."""
    words, state = _words(failure.program), failure.program.state
    for field in VALUE_FIELDS:
        for value in _lower_values(state[field]):
            yield _program(words, _with(state, {field: value})), failure.step
    for slot, word in enumerate(words):
        if word == FILLER:
            continue
        places = _register_bytes(word)
        options = [(at, n) for at in places for n in range(1, word[at])]
        if not places:  # a constant, if anything
            options = [(1, value) for value in _lower_values(word[1])]
        for at, value in options:
            changed = _with(word, {at: value})
            yield _program([*words[:slot], changed, *words[slot + 1 :]], state), failure.step


def _lower_values(value: int) -> set[int]:
    """Values below: 0, 1, and those that lead to any lower one in few steps."""
    return {n for n in (0, 1, *(value - (1 << k) for k in range(8))) if 0 <= n < value}


def _register_bytes(word: bytes) -> list[int]:
    """Which bytes of an instruction name registers."""
    _, form = ISA.decode(word)
    return [at for at, kind in enumerate(form.operands, 1) if kind is Operand.REGISTER]


def _with(data: bytes, changes: dict[int, int]) -> bytes:
    changed = bytearray(data)
    for at, value in changes.items():
        changed[at] = value
    return bytes(changed)
