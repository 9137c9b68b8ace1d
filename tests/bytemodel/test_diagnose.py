"""Diagnosis: with a model that knows the CPU perfectly, every fault of every kind is found."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bytemodel.diagnose
from bytemodel.cpu import load_stepper, shipped_checkpoint
from bytemodel.diagnose import THRESHOLD, Diagnosis, Suspect, diagnose
from cpusim.assembler import assemble, program_slots
from cpusim.faults import (
    BOUNDS,
    BitFlip,
    Fault,
    Injection,
    NoSaturation,
    OffByOne,
    StuckBit,
    SwappedOpcode,
    every_fault,
    faulty_table,
    inject,
    parse_fault,
    run_faulty,
)
from cpusim.isa import (
    ACC,
    FIELDS,
    FIRST_REGISTER,
    IR,
    ISA,
    MEMORY_SIZE,
    PC,
    STATE_SIZE,
    InstructionSet,
)
from cpusim.lockstep import END_TOKEN, FETCH, Case, OracleStepper, Predictions, record
from cpusim.programs import generate
from cpusim.reference import Stop, execute, fetch, run
from tests.certain import CertainModel

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PROGRAM = assemble(
    "LOADI 200\nPOP A\nLOADI 77\nPOP B\nADD A B C\nSUB C B\nMUL B C D\nXOR A D\nROL C\nSWAP A B\n"
    "INC\nDEC D\nDIV A B E\nNOT E\nHLT"
)
START = bytes([0, 9, 0, 0, 0, 0, *range(3, 253, 25)])
FIELDS_OF_RESULTS = [ACC, *range(FIRST_REGISTER, STATE_SIZE)]


def case_of(memory: bytes, records: Sequence[bytes], *, ends: bool = True) -> Case:
    table = np.frombuffer(b"".join(records), np.uint8).reshape(-1, STATE_SIZE)
    return Case("trace", np.frombuffer(memory, np.uint8), table, ends)


def diagnosis(case: Case, model: CertainModel | None = None, **options: float) -> Diagnosis:
    ((index, found),) = diagnose(model or CertainModel(), [case], **options)
    assert index == 0
    return found


def of_program(*faults: Fault, memory: bytes = PROGRAM) -> Diagnosis:
    """The diagnosis of a machine with these faults that ran `PROGRAM`."""
    return diagnosis(case_of(memory, run_faulty(memory, START, faults).records))


@cache
def drawn() -> list[tuple[bytes, bytes]]:
    """Memories and first states of random programs in which all instructions occur often."""
    programs = generate(30, distribution="uniform", seed=11, min_length=50, max_length=70)
    return [
        (memory.tobytes(), state.tobytes())
        for memory, state in zip(programs.memories, programs.states, strict=True)
    ]


def visible(faults: Sequence[Fault]) -> Iterator[tuple[Fault, bytes, Injection]]:
    """Each fault in the first program, of those drawn, in which it shows."""
    for number, fault in enumerate(faults):
        for place in range(number, number + len(drawn())):
            memory, state = drawn()[place % len(drawn())]
            found = inject(memory, state, [fault], max_steps=120)
            if found.first_visible is not None:
                yield fault, memory, found
                break
        else:
            raise AssertionError(f"{fault} shows in none of the programs")


def named(faults: Sequence[Fault]) -> Iterator[tuple[Fault, Suspect]]:
    """Each fault and the only suspect of its diagnosis, which finds it where it first shows."""
    for fault, memory, found in visible(faults):
        made = diagnosis(case_of(memory, found.faulty.records))
        assert made.faulty, fault
        assert made.impossible[0].step == found.first_visible, fault
        (suspect,) = made.suspects
        assert suspect.records == len(made.impossible)
        yield fault, suspect


def of_kind(kind: str, fields: Sequence[int], steps: Sequence[int] = ()) -> list[Fault]:
    return [
        fault
        for fault in every_fault(kind, steps=steps)
        if isinstance(fault, StuckBit | BitFlip) and fault.field in fields
    ]


# Healthy machines ---------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["published", "uniform"])
def test_traces_of_a_healthy_machine_raise_no_alarm(distribution: str) -> None:
    programs = generate(40, distribution=distribution, seed=5, max_length=60)  # type: ignore[arg-type]
    starts = [
        Case(f"{i}", memory, state[None])
        for i, (memory, state) in enumerate(zip(programs.memories, programs.states, strict=True))
    ]
    cases = record(OracleStepper(), starts)
    found = dict(diagnose(CertainModel(), cases))
    assert sorted(found) == list(range(40))
    for index, made in found.items():
        assert made.case is cases[index]
        assert (made.faulty, made.impossible, made.suspects) == (False, (), ())
        assert made.bits.shape == (cases[index].steps, STATE_SIZE)
        assert made.largest[2] < 0.001


def test_a_healthy_machine_may_stop_at_an_illegal_instruction() -> None:
    memory = bytes([2, 0, 0, 0, 99, 1, 2, 3]).ljust(MEMORY_SIZE, b"\0")
    assert not diagnosis(case_of(memory, run(memory, START).records)).faulty


def test_bytes_that_a_doubtful_model_merely_did_not_expect_are_not_impossible() -> None:
    case = case_of(PROGRAM, run_faulty(PROGRAM, START, [OffByOne("ADD", 1)]).records)
    # The wrong byte has a probability of 0.25 / 256: 10 bits, which is not above 10.
    doubtful = CertainModel(doubt=0.25)
    made = diagnosis(case, doubtful, threshold=10.0)
    assert made.largest == (6, FIRST_REGISTER + 2, 10.0)
    assert not made.faulty
    assert diagnosis(case, doubtful, threshold=9.99).faulty


def test_a_byte_above_the_threshold_is_rarer_than_a_blind_guess() -> None:
    assert THRESHOLD > 8


# Every fault of every kind ------------------------------------------------------------


def test_every_stuck_bit_of_acc_and_the_registers_is_named() -> None:
    faults = of_kind("stuck", FIELDS_OF_RESULTS)
    assert len(faults) == 11 * 16
    for fault, suspect in named(faults):
        assert suspect.fault == fault


def test_every_flip_of_acc_and_the_registers_is_named() -> None:
    faults = [fault for step in (7, 33) for fault in of_kind("flip", FIELDS_OF_RESULTS, [step])]
    assert len(faults) == 2 * 11 * 8
    wrong = [(f, s) for f, s in named(faults) if s.fault != f]
    # One wrong result, once, can look like what an instruction would do that rarely shows.
    assert len(wrong) <= len(faults) // 50, wrong


def test_every_swapped_opcode_is_blamed_and_a_fault_named_that_gives_the_very_trace() -> None:
    faults = [
        fault
        for fault in every_fault("swap-opcode")
        if isinstance(fault, SwappedOpcode) and "HLT" not in (fault.name, fault.executes)
    ]
    assert len(faults) == 380
    other_kinds = 0
    for fault, memory, found in visible(faults):
        made = diagnosis(case_of(memory, found.faulty.records))
        assert made.impossible[0].step == found.first_visible
        (suspect,) = made.suspects
        assert isinstance(fault, SwappedOpcode)
        assert suspect.blames == fault.name
        assert suspect.fault is not None
        again = run_faulty(memory, found.faulty.records[0], [suspect.fault], max_steps=120)
        assert again.records == found.faulty.records
        as_good = [rival.fault for rival in suspect.rivals if rival.bits < suspect.bits + 0.1]
        other_kinds += fault not in [suspect.fault, *as_good]
    # Where SUB executes once, and SUB and MUL differ by one, SUB may as well be off by one.
    assert other_kinds <= len(faults) // 50


def test_every_instruction_that_is_off_by_one_is_named() -> None:
    faults = every_fault("off-by-one")
    for fault, suspect in named(faults):
        assert suspect.fault == fault
        assert isinstance(fault, OffByOne)
        assert suspect.blames == fault.name


@pytest.mark.parametrize("name", BOUNDS)
def test_every_instruction_that_does_not_saturate_is_named(name: str) -> None:
    unary = name in ("INC", "DEC")
    # Two results leave 0..255, one does not.
    source = f"{name} A\n{name} B\n{name} C" if unary else f"{name} A B C\n{name} D E F\n{name} A B"
    bound = BOUNDS[name]
    values = [bound, 100, bound] if unary else [90, 140, 0, 30, 2, 0]
    start = bytes([0, 7, 0, 0, 0, 0, *values]).ljust(STATE_SIZE, b"\0")
    start = start if name != "ADD" else bytes(min(2 * b, 255) for b in start)
    memory = assemble(f"{source}\nHLT")
    (suspect,) = diagnosis(
        case_of(memory, run_faulty(memory, start, [NoSaturation(name)]).records)
    ).suspects
    assert (suspect.fault, suspect.blames) == (NoSaturation(name), name)
    assert suspect.records == 2


@pytest.mark.parametrize("kind", ["stuck", "flip"])
def test_faults_of_pc_and_ir_are_wrong_fetches(kind: str) -> None:
    fields = [f for f in range(STATE_SIZE) if f not in FIELDS_OF_RESULTS]
    for fault in of_kind(kind, fields, [5]):
        assert isinstance(fault, StuckBit | BitFlip)
        found = inject(PROGRAM, START, [fault], max_steps=60)
        if found.first_visible is None:
            continue
        made = diagnosis(case_of(PROGRAM, found.faulty.records, ends=False))
        first = made.impossible[0]
        assert (first.step, first.wrong_fetch) == (found.first_visible, True)
        assert first.fields[0] == fault.field
        assert made.suspects[0].blames in (f"bit {fault.bit} of {FIELDS[fault.field]}", FETCH)


def test_two_faults_are_both_suspects() -> None:
    faults = [parse_fault("stuck:J.0=1"), parse_fault("off-by-one:ROL=-1")]
    made = of_program(*faults)
    assert {suspect.fault for suspect in made.suspects} == set(faults)
    faults = [parse_fault("swap-opcode:XOR=ADD"), parse_fault("off-by-one:SUB=+1")]
    made = of_program(*faults, memory=assemble("XOR A B\nSUB C A\nXOR D E\nSUB B A\nXOR F G\nHLT"))
    assert {suspect.fault for suspect in made.suspects} == set(faults)


class ByPlace(CertainModel):
    """Knows the CPU, but fetches record k from slot k - 1 and ends behind the last slot in use,
    which is right of every program without jumps."""

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        for index, said in super().verify(cases):
            assert said.expected_probability is not None
            memory, records = cases[index].memory, cases[index].records.astype(np.int16)
            observed = np.concatenate([records[1:], np.full((1, STATE_SIZE), END_TOKEN)])
            length = program_slots(memory.tobytes())
            for row, tokens in enumerate(said.tokens[:length]):
                if tokens[PC] == END_TOKEN:
                    tokens[:] = records[row]
                    tokens[PC] += 1
                tokens[IR:FIRST_REGISTER] = memory.reshape(-1, 4)[row]
            said.tokens[length : length + 1] = END_TOKEN
            right = said.tokens == observed
            said.expected_probability[:] = np.where(right, 1 - self.doubt, self.doubt / 256)
            yield index, said


MISSED = assemble("INC A\nSHL B\nROL C\nINC D\nSHL E\nROL F\nHLT")
"""With bit 0 of IR0 stuck at 1 it does DEC, SHR and ROR, and CLR where HLT was."""


@pytest.mark.parametrize(
    ("memory", "spec"),
    [
        *((PROGRAM, f"stuck:PC.{bit}={value}") for bit in range(3) for value in (0, 1)),
        (PROGRAM, "flip:PC.1@7"),
        (PROGRAM, "stuck:PC.3=1"),
        (MISSED, "stuck:IR0.0=1"),
    ],
)
def test_what_surprises_a_model_where_no_machine_should_be_is_no_second_fault(
    memory: bytes, spec: str
) -> None:
    found = run_faulty(memory, START, [parse_fault(spec)], max_steps=60)
    ends = found.stop is Stop.HALTED
    made = diagnosis(case_of(memory, found.records, ends=ends), ByPlace())
    (suspect,) = made.suspects
    assert str(suspect.fault) == spec or suspect.blames == FETCH


@pytest.mark.parametrize(
    ("specs", "named"),
    [
        (["stuck:IR1.0=1", "flip:IR2.0@5"], 2),
        (["stuck:IR1.1=1", "flip:IR1.0@3"], 2),
        (["flip:IR1.1@5", "off-by-one:XOR=+1"], 2),
        (["off-by-one:SUB=-1", "flip:PC.0@3"], 1),
    ],
)
def test_a_second_fault_beside_a_wrong_fetch_is_named(specs: list[str], named: int) -> None:
    faults = [parse_fault(spec) for spec in specs]
    records = run_faulty(PROGRAM, START, faults, max_steps=60).records
    made = diagnosis(case_of(PROGRAM, records, ends=False), ByPlace())
    assert {suspect.fault for suspect in made.suspects} >= set(faults[:named])
    assert len(made.suspects) == 2


def test_two_swapped_opcodes_are_named_where_the_first_one_stops_the_machine() -> None:
    # MUL A is done as NOT A; MUL A B C cannot be done as NOT.
    memory = assemble("MUL A\nXOR B C\nMUL D\nMUL E\nXOR F G\nMUL H\nMUL A B C\nHLT")
    faults = [parse_fault("swap-opcode:MUL=NOT"), parse_fault("swap-opcode:XOR=ADD")]
    made = of_program(*faults, memory=memory)
    assert made.impossible[-1].at_end
    assert [suspect.fault for suspect in made.suspects] == faults


def test_an_instruction_that_goes_wrong_in_no_known_way_is_blamed_all_the_same() -> None:
    records = list(run(PROGRAM, START).records)
    for step in range(6, len(records)):  # C after ADD A B C, by three bits
        records[step] = bytes(b ^ 0b10101 if f == 8 else b for f, b in enumerate(records[step]))
    made = diagnosis(case_of(PROGRAM, records[:7], ends=False))
    assert [(r.step, r.fields) for r in made.impossible] == [(6, (8,))]
    assert made.suspects[0].blames == "ADD"


def spoilt(memory: bytes, step: int, faults: Sequence[Fault] = ()) -> Case:
    """A machine that goes on from a record in which ACC and all registers are garbage."""
    before = run_faulty(memory, START, faults).records[: step + 1]
    wrong = bytes(b ^ 0x55 if f in FIELDS_OF_RESULTS else b for f, b in enumerate(before[-1]))
    isa = faulty_table(faults)
    records = [*before[:-1], wrong]
    while (executed := isa.decode(records[-1][IR : IR + 4]))[0].halts is False:
        records.append(fetch(memory, execute(records[-1], *executed)))
    return case_of(memory, records)


def test_a_record_that_is_garbage_all_over_has_a_suspect_too() -> None:
    memory = assemble("XOR A B\nADD C D\n" * 60 + "HLT")
    made = diagnosis(spoilt(memory, 50))
    assert [(r.step, len(r.fields)) for r in made.impossible] == [(50, 11)]
    assert [(s.blames, s.records) for s in made.suspects] == [("XOR", 1)]


def test_a_swapped_opcode_is_found_beside_a_record_that_is_garbage() -> None:
    memory = assemble("XOR A D\nROL C\nXOR D E\nROL F\nXOR G H\nROL C\nNOT A\nINC B\nHLT")
    swapped = SwappedOpcode("XOR", "ADD")
    made = diagnosis(spoilt(memory, 8, [swapped]))
    assert {r.step for r in made.impossible} == {2, 4, 6, 8}
    assert [s.fault for s in made.suspects] == [swapped, None]


# The end of the trace -----------------------------------------------------------------


def test_a_trace_that_ends_early_is_faulty_at_the_record_that_is_missing() -> None:
    records = run(PROGRAM, START).records
    for kept in range(1, len(records)):
        made = diagnosis(case_of(PROGRAM, records[:kept]))
        (first,) = made.impossible
        assert (first.step, first.at_end, first.wrong_fetch) == (kept, True, False)
        assert set(first.observed.tolist()) == {END_TOKEN}
        assert not diagnosis(case_of(PROGRAM, records[:kept], ends=False)).faulty


def test_a_trace_that_goes_on_after_hlt_blames_hlt() -> None:
    records = [*run(PROGRAM, START).records]
    records += [bytes([16, *records[-1][1:]])]
    first = diagnosis(case_of(PROGRAM, records)).impossible[0]
    assert (first.step, first.at_end) == (len(records) - 1, True)
    swapped = inject(PROGRAM, START, [parse_fault("swap-opcode:HLT=CLR")], max_steps=40)
    made = diagnosis(case_of(PROGRAM, swapped.faulty.records, ends=False))
    assert made.suspects[0].fault == SwappedOpcode("HLT", "CLR")


# How it works -------------------------------------------------------------------------


class Recorded:
    """Replays what another model said of the cases it was asked about."""

    def __init__(self, cases: Sequence[Case], *, probabilities: bool = True) -> None:
        self.said = dict(CertainModel().verify(cases))
        self.probabilities = probabilities

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        for index in range(len(cases)):
            said = self.said[index]
            yield index, said if self.probabilities else Predictions(said.tokens)


def test_the_cpu_itself_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(PROGRAM, run_faulty(PROGRAM, START, [OffByOne("ADD", 1)]).records)
    model = Recorded([case])

    def refuse(*_: object) -> int:
        raise AssertionError("the diagnosis computed an instruction")

    mute = tuple(dataclasses.replace(i, compute=refuse) for i in ISA.instructions)
    monkeypatch.setattr(bytemodel.diagnose, "ISA", InstructionSet(mute))
    ((_, made),) = diagnose(model, [case])
    assert made.suspects[0].fault == OffByOne("ADD", 1)
    text = Path(bytemodel.diagnose.__file__).read_text()
    assert not re.search(r"cpusim\.(reference|machine)|OracleStepper|import lockstep", text)


def test_a_model_without_probabilities_is_refused() -> None:
    case = case_of(PROGRAM, run(PROGRAM, START).records)
    with pytest.raises(ValueError, match="probabilities"):
        list(diagnose(Recorded([case], probabilities=False), [case]))


def test_beyond_what_the_model_can_follow_nothing_is_said() -> None:
    records = run_faulty(PROGRAM, START, [BitFlip(FIRST_REGISTER, 3, 12)]).records
    made = diagnosis(case_of(PROGRAM, records), CertainModel(max_records=12))
    assert (made.faulty, made.case.ends, len(made.bits)) == (False, False, 11)
    assert made.case.open_because == "certain can follow 12 records"
    assert diagnosis(case_of(PROGRAM, records), CertainModel(max_records=13)).faulty


def test_the_traces_given_stay_as_they_are() -> None:
    case = case_of(PROGRAM, run_faulty(PROGRAM, START, [SwappedOpcode("XOR", "ADD")]).records)
    before = case.memory.tobytes(), case.records.tobytes()
    writable = dataclasses.replace(case, memory=case.memory.copy(), records=case.records.copy())
    assert diagnosis(writable).suspects[0].fault == SwappedOpcode("XOR", "ADD")
    assert (writable.memory.tobytes(), writable.records.tobytes()) == before


def test_many_traces_get_the_diagnoses_that_each_gets_alone() -> None:
    faults = [parse_fault(text) for text in ("stuck:B.0=0", "swap-opcode:NOT=CLR", "flip:ACC.1@4")]
    cases = [case_of(PROGRAM, run_faulty(PROGRAM, START, [f]).records) for f in faults]
    for index, made in diagnose(CertainModel(), cases):
        alone = diagnosis(cases[index])
        assert made.suspects == alone.suspects
        assert np.array_equal(made.bits, alone.bits)


@given(
    st.binary(min_size=1, max_size=40),
    st.lists(st.binary(min_size=STATE_SIZE, max_size=STATE_SIZE), min_size=1, max_size=8),
    st.booleans(),
)
@settings(max_examples=80)
def test_any_bytes_at_all_get_a_diagnosis_whose_every_record_is_explained(
    memory: bytes, records: list[bytes], ends: bool
) -> None:
    case = case_of(memory.ljust(MEMORY_SIZE, b"\0"), records, ends=ends)
    made = diagnosis(case)
    assert len(made.bits) == case.steps
    assert bool(made.suspects) == made.faulty
    for found in made.impossible:
        assert found.fields
        assert 1 <= found.step <= case.steps
        assert all(found.bits[field] > made.threshold for field in found.fields)


def test_an_empty_list_of_traces_and_a_trace_without_steps_are_fine() -> None:
    assert list(diagnose(CertainModel(), [])) == []
    made = diagnosis(case_of(PROGRAM, [START], ends=False))
    assert (made.faulty, made.largest) == (False, (0, 0, 0.0))


def test_the_shipped_model_finds_a_swapped_opcode_and_no_fault_in_a_healthy_machine() -> None:
    memory = assemble((EXAMPLES / "checksum.s").read_text())
    cases = [
        case_of(memory, run(memory, START).records),
        case_of(memory, run_faulty(memory, START, [SwappedOpcode("XOR", "ADD")]).records),
    ]
    found = dict(diagnose(load_stepper(shipped_checkpoint(), "float32"), cases))
    assert not found[0].faulty
    assert found[1].suspects[0].fault == SwappedOpcode("XOR", "ADD")
    assert PC not in found[1].impossible[0].fields
