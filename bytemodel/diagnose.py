"""A byte model as the diagnostician of a machine that nobody can open.

The model has learned what a healthy machine does. It reads a trace, all steps in one parallel
pass, each predicted from the records before it, and says how surprising every byte is. A
byte above the threshold is *impossible*: the model gives it less than a blind guess among
256 would. The CPU itself is not asked; of the instruction table only the encoding is used
(which instruction four bytes are, which fields it writes), never what it computes.

Blame
    Record k shows the k-th fetched instruction with ACC and registers from before it
    executes. An impossible PC or IR in record k is a wrong *fetch*, an impossible ACC or register
    was made by the instruction in record k-1.

Suspects
    Each step is predicted from what the machine really did before it, so a fault shows as a
    separate impossible byte each time it acts, and its pattern tells what kind it is. Every
    fault that could explain an impossible byte is tried on the whole trace: it says what it
    makes of the bytes that the model expects, and is held against what is there. It costs

    - log2 of how many faults of its kind there are (naming it),
    - for each byte that it predicts as it is: that byte's surprisal, about 0 bits,
    - for each byte where it should show and does not: the bits of the model's certainty,
    - for each impossible byte that it leaves unexplained: `UNEXPLAINED` bits; but a blind
      guess's 8 behind another one in the record: the model, which reads a record byte by
      byte, has never seen what it predicts those from.

    The cheapest is the suspect (minimum description length: Rissanen 1978). If impossible bytes
    remain, the search goes on with what it says taken for granted. A wrong PC, or a fetch that
    misses HLT, leads to where the model has never seen a machine: that it is surprised by what is
    fetched there, or by the end, follows from the first fault and is no evidence of a second one.

    A swapped opcode is tested by the model too: in memory and trace ADD is relabelled to
    what it might execute as. If ADD really does SUB, the relabelled trace is a healthy one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cpusim.faults import (
    BOUNDS,
    BitFlip,
    Fault,
    NoSaturation,
    OffByOne,
    StuckBit,
    SwappedOpcode,
)
from cpusim.isa import (
    FIELDS,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    PC,
    STATE_SIZE,
    IllegalEncoding,
)
from cpusim.lockstep import (
    END_TOKEN,
    FETCH,
    RESULT_FIELDS,
    Bounded,
    Case,
    Predictions,
    Tokens,
    Verifier,
    shortened,
)

Bits = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

THRESHOLD = 10.0
"""Bits from which on a byte is impossible; a blind guess among 256 costs 8."""
UNEXPLAINED = 40.0
"""Bits that an impossible byte costs a hypothesis that does not explain it."""
_MOST_BITS = 126.0  # float32 probabilities end there
_MOST_CERTAIN = 24.0  # 1 - p is 0 in float32 beyond
_WORKING = [i for i in ISA.instructions if not i.halts]
_PRIOR = {
    "stuck": math.log2(2 * 8 * STATE_SIZE),
    "flip": math.log2(8 * STATE_SIZE),  # at each step
    "swap-opcode": math.log2(len(ISA.instructions) * (len(ISA.instructions) - 1)),
    "off-by-one": math.log2(2 * len(_WORKING)),
    "no-saturation": math.log2(len(BOUNDS)),
}
_PRIOR_UNKNOWN = 8.0 + math.log2(len(ISA.instructions) + 1)  # a known kind is likelier
_ANY_BYTE = 8.0  # bits of a byte that a hypothesis knows to be wrong, but not how
_ELSEWHERE = 12.0  # the same, in a field that the instruction does not even write
_MOST_SUSPECTS = 8
_NOTHING = -1  # no instruction executed, or none that writes


@dataclass(frozen=True, eq=False)
class ImpossibleRecord:
    """A record with at least one impossible byte; the end of the trace is one as well.

    `step`: its number. `observed`, `expected`: int16 [16], what is there and what the model
    finds most probable (256: the end). `probability`: float32 [16], of what it expects;
    `bits`: float32 [16], surprisal of what is there; `fields`: which of them are impossible.
    `executed`: the instruction in the record before; None at step 1.
    """

    step: int
    fields: tuple[int, ...]
    observed: Tokens
    expected: Tokens
    probability: npt.NDArray[np.float32]
    bits: npt.NDArray[np.float32]
    executed: bytes | None

    @property
    def at_end(self) -> bool:
        """Whether only one of the two, trace and model, ends here."""
        return 0 in self.fields and (self.observed[0] == END_TOKEN) != (
            self.expected[0] == END_TOKEN
        )

    @property
    def wrong_fetch(self) -> bool:
        """Whether PC or IR is impossible, in a record that should be there."""
        return not self.at_end and any(not RESULT_FIELDS[field] for field in self.fields)


@dataclass(frozen=True)
class Suspect:
    """What may be wrong with the machine.

    `fault`: as `cpusim inject` takes it; None if it is of no known kind, and `instruction` (or
    FETCH) is all that is known. `records`: how many impossible records it explains. `bits`: what
    it costs to describe the trace with it. `rivals`: the other explanations, cheapest first.
    """

    fault: Fault | None
    instruction: str | None
    records: int
    bits: float
    rivals: tuple[Suspect, ...] = ()

    @property
    def blames(self) -> str:
        """The part to exchange: an instruction's name, `bit 3 of C`, or FETCH."""
        if isinstance(self.fault, StuckBit | BitFlip):
            return f"bit {self.fault.bit} of {FIELDS[self.fault.field]}"
        return self.instruction or FETCH

    @property
    def in_words(self) -> str:
        if self.fault is not None:
            return self.fault.in_words
        return f"{self.instruction} goes wrong" if self.instruction else "fetches go wrong"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What a model makes of one trace.

    `case`: the trace, as far as the model could follow it. `bits`: float32 [steps, 16], the
    surprisal of every byte of records 1..n, and of the end if it was checked, as in `Case`.
    `impossible`: in order. `suspects`: the main one first; none if the machine is healthy.
    """

    case: Case
    threshold: float
    bits: npt.NDArray[np.float32]
    impossible: tuple[ImpossibleRecord, ...]
    suspects: tuple[Suspect, ...]

    @property
    def faulty(self) -> bool:
        return bool(self.impossible)

    @property
    def largest(self) -> tuple[int, int, float]:
        """Step, field and bits of the most surprising byte; (0, 0, 0.0) if there is none."""
        if not self.bits.size:
            return 0, 0, 0.0
        row, field = np.unravel_index(int(self.bits.argmax()), self.bits.shape)
        return int(row) + 1, int(field), float(self.bits[row, field])


def diagnose(
    model: Verifier, cases: Sequence[Case], *, threshold: float = THRESHOLD
) -> Iterator[tuple[int, Diagnosis]]:
    """Diagnose many traces: yields (index into `cases`, diagnosis), each once, in any order.

    `model` must give probabilities. Where `Case.ends` is set, the end of the trace is checked
    like a record. Traces beyond the model's `max_records` are cut, and their end is left out.
    Memory beyond the traces themselves stays that of a few batches of `model.verify`.
    """
    if isinstance(model, Bounded):
        name = getattr(model, "name", "the model")
        cases = [shortened(case, model.max_records, name) for case in cases]
    for index, predictions in model.verify(cases):
        yield index, _diagnosis(model, cases[index], predictions, threshold)


def _diagnosis(
    model: Verifier, case: Case, predictions: Predictions, threshold: float
) -> Diagnosis:
    reading = _read(case, predictions, threshold)
    of_expected = predictions.predicted_probability
    assert of_expected is not None  # `_read` refuses
    impossible = tuple(
        ImpossibleRecord(
            int(row) + 1,
            tuple(int(field) for field in np.flatnonzero(reading.impossible[row])),
            reading.observed[row].copy(),
            reading.expected[row].copy(),
            of_expected[row].copy(),
            reading.bits[row].astype(np.float32),
            case.executed(int(row) + 1),
        )
        for row in np.flatnonzero(reading.impossible.any(axis=1))
    )
    suspects = tuple(_suspects(model, reading, threshold))
    return Diagnosis(case, threshold, reading.bits.astype(np.float32), impossible, suspects)


# --- what the model makes of a trace -------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Reading:
    """A trace as model and accepted suspects see it; row i is step i + 1, m rows.

    `observed`, `expected`: int16 [m, 16]. `bits`: surprisal of what is observed; `best_bits`: of
    what is expected; `doubt_bits`: of anything but that. `impossible`: [m, 16]. `cost`: what each
    byte costs now. `opcodes`: int64 [m], what executed before each record, or `_NOTHING`.
    `results`: int64 [m], the field with its result; `_NOTHING` if none, or if it is overwritten.
    """

    case: Case
    observed: Tokens
    expected: Tokens
    bits: Bits
    best_bits: Bits
    doubt_bits: Bits
    impossible: Mask
    cost: Bits
    opcodes: Ints
    results: Ints

    @property
    def total(self) -> float:
        return float(self.cost.sum())

    @property
    def are_bytes(self) -> Mask:
        """Where both, what is observed and what is expected, are bytes: bool [m, 16]."""
        both: Mask = (
            (self.observed < END_TOKEN) & (self.expected < END_TOKEN) & (self.expected >= 0)
        )
        return both

    @property
    def ends_wrong(self) -> Mask:
        """Rows where only one of the two, trace and model, ends: bool [m]."""
        differ = (self.observed[:, 0] == END_TOKEN) != (self.expected[:, 0] == END_TOKEN)
        wrong: Mask = differ & self.impossible[:, 0]
        return wrong


def _read(case: Case, predictions: Predictions, threshold: float) -> _Reading:
    observed = case.expected_steps()
    steps = len(observed)
    p_observed, p_best = predictions.expected_probability, predictions.predicted_probability
    if p_observed is None or p_best is None:
        raise ValueError("a diagnosis needs the probabilities of a model that has them")
    bits = _bits(p_observed[:steps])
    impossible = bits > threshold
    if (
        case.ends
        and steps > 1
        and not _is_instruction(case.records[-1, IR:FIRST_REGISTER].tobytes())
    ):
        # Healthy programs, all that the model knows, have no such instruction to stop at.
        impossible[-1], bits[-1] = False, 0.0
    behind = np.cumsum(impossible, axis=1) > 1
    executed = [_executed(case.executed(step)) for step in range(1, steps + 1)]
    return _Reading(
        case,
        observed,
        predictions.tokens[:steps].astype(np.int16),
        bits,
        _bits(p_best[:steps]),
        np.minimum(_bits(1.0 - p_best[:steps].astype(np.float64)), _MOST_CERTAIN),
        impossible,
        np.where(impossible, np.where(behind, _ANY_BYTE, UNEXPLAINED), bits),
        np.array([opcode for opcode, _ in executed], np.int64),
        np.array([result for _, result in executed], np.int64),
    )


def _bits(probability: npt.NDArray[np.floating]) -> Bits:
    bits: Bits = -np.log2(np.maximum(probability.astype(np.float64), 2.0**-_MOST_BITS))
    return bits


@lru_cache(maxsize=1 << 14)
def _executed(word: bytes | None) -> tuple[int, int]:
    """An instruction's opcode and the field that has its result (see `_Reading`)."""
    if word is None:
        return _NOTHING, _NOTHING
    try:
        instruction, _ = ISA.decode(word)
    except IllegalEncoding:
        return _NOTHING, _NOTHING
    fields = ISA.written(word)
    # SWAP A A: the second write covers the first.
    visible = fields and fields[0] not in fields[1:]
    return instruction.opcode, fields[0] if visible else _NOTHING


# --- what could explain it -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Hypothesis:
    """A suspect with `left`, which makes the reading that takes it for granted."""

    suspect: Suspect
    left: Callable[[], _Reading]


def _suspects(model: Verifier, reading: _Reading, threshold: float) -> Iterator[Suspect]:
    accepted: list[Suspect] = []
    while reading.impossible.any() and len(accepted) < _MOST_SUSPECTS:
        found = sorted(_hypotheses(reading), key=lambda h: h.suspect.bits)
        found += _swapped_opcodes(model, reading, threshold, accepted, found[0].suspect.bits)
        found.sort(key=lambda h: h.suspect.bits)
        best = found[0]
        if not best.suspect.records:
            return
        yield replace(best.suspect, rivals=tuple(h.suspect for h in found[1:]))
        accepted.append(best.suspect)
        reading = best.left()


def _granted(reading: _Reading, suspect: Suspect) -> _Reading:
    """Another reading of the trace with an accepted suspect taken for granted in it."""
    match suspect.fault:
        case SwappedOpcode():
            return reading  # it was relabelled, and so is what is made of it
        case None:
            name = suspect.instruction
            return _unknown(reading, ISA.by_name[name].opcode if name else None).left()
        case fault:
            return _supposing(reading, fault).left()


def _hypotheses(reading: _Reading) -> Iterator[_Hypothesis]:
    """Everything but swapped opcodes that explains at least one impossible byte."""
    rows, fields = np.nonzero(reading.impossible & reading.are_bytes)
    observed = reading.observed[rows, fields].astype(int)
    expected = reading.expected[rows, fields].astype(int)
    seen: set[Fault] = set()
    for row, field, is_, should in zip(
        rows.tolist(), fields.tolist(), observed.tolist(), expected.tolist(), strict=True
    ):
        differ = is_ ^ should
        if differ.bit_count() == 1:
            bit = differ.bit_length() - 1
            seen.add(StuckBit(field, bit, is_ >> bit & 1))
            seen.add(BitFlip(field, bit, row + 1))
        if field == reading.results[row]:
            name = ISA.instructions[reading.opcodes[row]].name
            if (is_ - should) % 256 in (1, 255):
                seen.add(OffByOne(name, 1 if (is_ - should) % 256 == 1 else -1))
            if should == BOUNDS.get(name):
                seen.add(NoSaturation(name))
    for fault in sorted(seen, key=str):
        yield _supposing(reading, fault)
    opcodes = set(reading.opcodes[reading.impossible.any(axis=1)].tolist())
    for opcode in sorted(opcodes - {_NOTHING}):
        yield _unknown(reading, opcode)
    yield _unknown(reading, None)


def _supposing(reading: _Reading, fault: Fault) -> _Hypothesis:
    """A fault that changes single bytes of what a healthy machine does."""
    match fault:
        case StuckBit(field):
            made = np.array([fault.apply(int(byte)) for byte in reading.expected[:, field]])
            rows = np.flatnonzero(reading.are_bytes[:, field])
            rows = rows[made[rows] != reading.expected[rows, field]]
            return _of_cells(reading, fault, _PRIOR["stuck"], rows, field, made[rows])
        case BitFlip(field, bit, step):
            rows = np.array([step - 1])
            prior = _PRIOR["flip"] + math.log2(len(reading.observed))
            made = reading.expected[rows, field].astype(np.int64) ^ 1 << bit
            return _of_cells(reading, fault, prior, rows, field, made)
        case OffByOne(name, by):
            rows = _executions(reading, name)
            fields = reading.results[rows]
            made = (reading.expected[rows, fields].astype(np.int64) + by) % 256
            return _of_cells(reading, fault, _PRIOR["off-by-one"], rows, fields, made)
        case NoSaturation(name):
            rows = _executions(reading, name)
            rows = rows[reading.expected[rows, reading.results[rows]] == BOUNDS[name]]
            return _of_bounds(reading, fault, rows)
    raise ValueError(f"{fault} changes more than single bytes")


def _executions(reading: _Reading, name: str) -> Ints:
    """Rows that show a result of the instruction, a byte in trace and model."""
    rows = np.flatnonzero(
        (reading.opcodes == ISA.by_name[name].opcode) & (reading.results != _NOTHING)
    )
    chosen: Ints = rows[reading.are_bytes[rows, reading.results[rows]]]
    return chosen


def _of_cells(
    reading: _Reading, fault: Fault, prior: float, rows: Ints, fields: Ints | int, made: Ints
) -> _Hypothesis:
    """A fault that makes `made` of the bytes expected at (rows, fields)."""
    observed, expected = reading.observed[rows, fields], reading.expected[rows, fields]
    before = reading.cost[rows, fields]
    hit = observed == made
    missing = (observed == expected) & ~hit
    after = np.where(hit, np.minimum(reading.best_bits[rows, fields], before), before)
    after = np.where(missing, np.maximum(reading.doubt_bits[rows, fields], before), after)
    explained = hit & reading.impossible[rows, fields]

    def left() -> _Reading:
        new, cost = reading.expected.copy(), reading.cost.copy()
        new[rows, fields], cost[rows, fields] = made, after
        accounted = np.zeros_like(reading.impossible)
        accounted[rows, fields] = explained
        return _left(reading, accounted, new, cost)

    bits = prior + reading.total + float((after - before).sum())
    name = None if isinstance(fault, StuckBit | BitFlip) else fault.name
    records = len(np.unique(rows[explained]))
    return _Hypothesis(Suspect(fault, name, records, bits), left)


def _of_bounds(reading: _Reading, fault: NoSaturation, rows: Ints) -> _Hypothesis:
    """Results that should stand at their bound, where some do: these may just reach it."""
    fields = reading.results[rows]
    observed = reading.observed[rows, fields]
    # INC and DEC can leave their range to one value only.
    wraps = {"INC": observed == 0, "DEC": observed == 255}
    wrong = wraps.get(fault.name, observed != reading.expected[rows, fields])
    explained = np.zeros_like(reading.impossible)
    explained[rows[wrong], fields[wrong]] = True
    explained &= reading.impossible
    prior = _PRIOR["no-saturation"] + _which(len(rows), int(explained.sum()))
    price = 0.0 if fault.name in wraps else _ANY_BYTE
    return _of_unknown_bytes(reading, fault, fault.name, prior, explained, price)


def _unknown(reading: _Reading, opcode: int | None) -> _Hypothesis:
    """An instruction that goes wrong now and then, nobody knows how; None: fetching does."""
    executed = reading.opcodes == (_NOTHING if opcode is None else opcode)
    ends = reading.ends_wrong
    explained = np.zeros_like(reading.impossible)
    if opcode is None:
        # Whatever is in a record that follows no instruction at all counts here too.
        explained |= ~RESULT_FIELDS & ~ends[:, None]
        explained |= executed[:, None]
        trials = len(reading.observed)
    else:
        explained |= executed[:, None] & (RESULT_FIELDS | ends[:, None])
        trials = int(executed.sum())
    explained &= reading.impossible
    prior = _PRIOR_UNKNOWN + _which(trials, int(explained.any(axis=1).sum()))
    name = None if opcode is None else ISA.instructions[opcode].name
    return _of_unknown_bytes(reading, None, name, prior, explained, _ANY_BYTE)


def _of_unknown_bytes(
    reading: _Reading,
    fault: Fault | None,
    name: str | None,
    prior: float,
    explained: Mask,
    bits_of_result: float,
) -> _Hypothesis:
    """Bytes that are wrong, each result at a price of its own, as nothing predicts it."""
    ends = reading.ends_wrong
    price = np.full(explained.shape, _ELSEWHERE)
    rows = np.flatnonzero(reading.results != _NOTHING)
    price[rows, reading.results[rows]] = bits_of_result
    # An end that comes, or does not, is one fact and not sixteen.
    price[ends] = _ANY_BYTE / STATE_SIZE
    # To say that a byte is wrong never costs more than to leave it unexplained.
    cost = np.where(explained, np.minimum(price, reading.cost), reading.cost)

    def left() -> _Reading:
        expected = np.where(explained, reading.observed, reading.expected)
        return _left(reading, explained, expected, cost)

    records = int(explained.any(axis=1).sum())
    return _Hypothesis(Suspect(fault, name, records, prior + float(cost.sum())), left)


def _left(reading: _Reading, explained: Mask, expected: Tokens, cost: Bits) -> _Reading:
    """The reading without what is explained, bool [m, 16], and without what follows from it."""
    follows = _led_on(reading, explained)
    return replace(
        reading,
        expected=expected,
        cost=np.where(follows, 0.0, cost),
        impossible=reading.impossible & ~explained & ~follows,
    )


def _led_on(reading: _Reading, explained: Mask) -> Mask:
    """Impossible bytes that follow from wrong fetches which are explained: bool [m, 16].

    An end, or none, directly behind one of them follows from what was fetched. Programs neither
    jump nor go on behind HLT, so behind a wrong PC, or where HLT was to be fetched and was not,
    the model has never seen a machine: no fetch and no end there is evidence of anything.
    """
    fetched = ~RESULT_FIELDS
    halts = [instruction.opcode for instruction in ISA.instructions if instruction.halts]
    follows = np.zeros_like(explained)
    lost = led = False
    for row, ends in enumerate(reading.ends_wrong):
        if ends:
            follows[row], lost = led, lost or led
            continue
        lost = lost or bool(explained[row, PC])
        led = lost or bool((explained[row] & fetched).any())
        follows[row] = fetched & lost
        lost = lost or bool(explained[row, IR] and reading.expected[row, IR] in halts)
    return follows & reading.impossible & ~explained


def _which(trials: int, hits: int) -> float:
    """Bits that say which of `trials` are hits, all shares of hits being equally likely."""
    return math.log2(trials + 1) + math.log2(math.comb(trials, hits))


# --- swapped opcodes -----------------------------------------------------------------------------


def _swapped_opcodes(
    model: Verifier,
    reading: _Reading,
    threshold: float,
    accepted: Sequence[Suspect],
    to_beat: float,
) -> list[_Hypothesis]:
    """What else the most suspicious opcode may execute as, the model being the judge.

    Empty if none could cost less than `to_beat` bits.
    """
    suspicious = reading.impossible & (RESULT_FIELDS | reading.ends_wrong[:, None])
    rows = np.flatnonzero(suspicious.any(axis=1) & (reading.opcodes != _NOTHING))
    if not len(rows):
        return []
    opcodes, counts = np.unique(reading.opcodes[rows], return_counts=True)
    opcode = int(opcodes[counts.argmax()])
    others = reading.impossible & (reading.opcodes != opcode)[:, None]
    least = _PRIOR["swap-opcode"] + float(reading.cost[others].sum())
    if least >= to_beat:
        return []
    relabelled = {
        other: case
        for other in range(len(ISA.instructions))
        if other != opcode and (case := _relabelled(reading.case, opcode, other))
    }
    found = []
    chosen = list(relabelled)
    for place, predictions in model.verify([relabelled[other] for other in chosen]):
        other = chosen[place]
        new_reading = _read(relabelled[other], predictions, threshold)
        for suspect in accepted:
            new_reading = _granted(new_reading, suspect)
        found.append(_swapped(reading, new_reading, opcode, other))
    return found


def _swapped(reading: _Reading, new: _Reading, opcode: int, other: int) -> _Hypothesis:
    names = ISA.instructions[opcode].name, ISA.instructions[other].name
    explained: Mask = np.any(reading.impossible, axis=1)
    explained[: len(new.impossible)] &= ~new.impossible.any(axis=1)
    bits = _PRIOR["swap-opcode"] + new.total
    suspect = Suspect(SwappedOpcode(*names), names[0], int(explained.sum()), bits)
    return _Hypothesis(suspect, lambda: new)


def _relabelled(case: Case, opcode: int, other: int) -> Case | None:
    """The trace of the program that has `other` in place of `opcode`; None if the machine could
    not have gone on where it did.

    `other` must have a form for the operands wherever `opcode` executed, except in the last
    record: there the machine stops, and no end is to be expected.
    """
    memory, records = case.memory.copy(), case.records.copy()
    words = memory.reshape(-1, INSTRUCTION_SIZE)
    for slot in np.flatnonzero(words[:, 0] == opcode):
        if _is_instruction(bytes([other, *words[slot, 1:]])):
            words[slot, 0] = other
    ends = case.ends
    for step in np.flatnonzero(records[1:, IR] == opcode) + 1:
        if _is_instruction(bytes([other, *records[step, IR + 1 : IR + INSTRUCTION_SIZE]])):
            records[step, IR] = other
        elif step == len(records) - 1 and ends:
            ends = False
        else:
            return None
    return replace(case, memory=memory, records=records, ends=ends)


@lru_cache(maxsize=1 << 14)
def _is_instruction(word: bytes) -> bool:
    try:
        ISA.decode(word)
    except IllegalEncoding:
        return False
    return True
