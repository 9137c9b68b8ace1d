"""Shrinking: what is left is the cause, fails in the same way, and cannot be simpler."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cpusim.assembler import assemble, disassemble
from cpusim.failures import Bucket, Failure, Field, failures
from cpusim.isa import FIRST_REGISTER, ISA, STATE_SIZE, variant_name
from cpusim.loader import Program
from cpusim.lockstep import Bytes, Tokens
from cpusim.shrink import FILLER, HALT, Shrinker, cost
from tests.cpusim import planted
from tests.cpusim.planted import Fault, Planted, results, word
from tests.strategies import initial_states, programs


def source(program: Program) -> tuple[str, list[int]]:
    """A program as `results` takes it."""
    state = list(program.state)
    return "\n".join(disassemble(program.memory)), [state[1], *state[FIRST_REGISTER:]]


def shrink(failure: Failure, *faults: Fault) -> Shrinker:
    """The finished shrinker, whose every question was answered, and worth asking."""
    shrinker = Shrinker(failure)
    asked: set[Program] = {failure.program}
    while not shrinker.finished:
        assert len(shrinker.batch) <= 64
        assert not asked & set(shrinker.batch)
        asked |= set(shrinker.batch)
        answers = results(map(source, shrinker.batch), Planted(faults))
        shrinker.take([failures(answer) for answer in answers])
    costs = [cost(step.program) for step in shrinker.trail]
    assert costs == sorted(costs, reverse=True)
    assert {step.way for step in shrinker.trail} == {failure.way}
    return shrinker


def shrunk(text: str, bucket: Bucket, *faults: Fault) -> Failure:
    """The minimal program for a bucket, from a program whose values count from 1."""
    (result,) = results([(text, range(1, 12))], Planted(faults))
    failure = next(found for found in failures(result) if found.bucket == bucket)
    return shrink(failure, *faults).best


def listing(failure: Failure) -> list[str]:
    return disassemble(failure.program.memory)


BODY = "MUL C D\nLOADI 9\nSWAP E F\nNOT J\nDIV I\nADD B C D\n" * 12


def test_a_wrong_result_is_down_to_one_instruction_and_the_values_it_reads() -> None:
    text = BODY + "LOADI 16\nPOP D\nPOP G\nMUL D G\n" + BODY + "HLT"
    best = shrunk(text, Bucket("MUL R R", Field.TARGET), planted.product_of_256)
    # 16 * 16 stays 16 * 16: both registers become one.
    assert listing(best) == ["MUL A A", "HLT"]
    assert list(best.program.state) == [0] * FIRST_REGISTER + [16] + [0] * 9
    assert (best.step, best.free_running) == (2, True)


def test_what_a_slot_causes_keeps_its_slot_and_nothing_else() -> None:
    text = "\n".join([BODY.strip()] * 4)[: -len("\nADD B C D")] + "\nHLT"
    text = "\n".join([*text.splitlines()[:230], "HLT"])
    best = shrunk(text, Bucket("fetch", Field.IR), planted.slot_200_is_72)
    assert listing(best) == ["MOV A A"] * 200 + ["HLT"]
    assert best.program.state == bytes(STATE_SIZE)


def test_what_the_end_of_memory_causes_keeps_all_of_it() -> None:
    text = "\n".join(["INC A", "SUB B C", "LOADI 200", "POP J", "XOR B"] * 51) + "\nHLT"
    best = shrunk(text, Bucket("HLT", Field.END), planted.no_end_at_256)
    assert listing(best) == ["MOV A A"] * 255 + ["HLT"]
    assert best.program.state == bytes(STATE_SIZE)


def test_what_two_instructions_cause_together_keeps_both() -> None:
    text = "NOT J\nSWAP B C\nADD D\n" + BODY + "HLT"
    best = shrunk(text, Bucket("ADD R", Field.ACC), planted.add_after_swap)
    assert listing(best) == ["SWAP A A", "ADD A", "HLT"]
    assert sorted(best.program.state) == [0] * 15 + [1]


def test_what_happened_long_before_is_kept_and_the_time_between_is_not() -> None:
    divide = list(assemble("DIV A")[:4])

    def remembers(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        """DEC is wrong once a DIV by A has executed."""
        if word(states) != assemble("DEC")[:4] or not (states[:-1, 2:6] == divide).all(1).any():
            return None
        said[1] ^= 1
        return said

    text = "NOT J\nADD B C\nDIV A\nMUL B C\n" * 3 + BODY + "DEC\n" + "INC B\n" * 20 + "HLT"
    best = shrunk(text, Bucket("DEC", Field.ACC), remembers)
    assert listing(best) == ["DIV A", "DEC", "HLT"]
    assert best.program.state == bytes(STATE_SIZE)


def test_what_lies_behind_the_end_is_kept_if_it_is_the_cause() -> None:
    def sees(memory: Bytes, states: Bytes, _: Tokens) -> Tokens | None:
        """HLT does not end if there is anything behind it."""
        if word(states) != HALT or not memory[4 * int(states[-1, 0]) :].any():
            return None
        return states[-1].astype("int16")

    best = shrunk(BODY + "HLT\nADD B C\n" + BODY, Bucket("HLT", Field.END), sees)
    assert listing(best) == ["HLT", "MOV A A", "HLT"]
    assert best.program.state == bytes(STATE_SIZE)


def test_a_constant_is_lowered_to_where_the_fault_begins() -> None:
    def big(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        """LOADI of 77 or more is one too few."""
        opcode, x, *_ = word(states) or bytes(2)
        if opcode != ISA.by_name["LOADI"].opcode or x < 77:
            return None
        said[1] -= 1
        return said

    best = shrunk(BODY + "LOADI 250\nPOP A\nHLT", Bucket("LOADI imm", Field.ACC), big)
    assert listing(best) == ["LOADI 77", "HLT"]


def test_a_later_mistake_becomes_the_first_one() -> None:
    text = "ROL\nINC B\nDIV C A\nHLT"  # ROL is wrong too, before

    bucket = Bucket("DIV R R", Field.TARGET)
    faults = planted.rol_clears_j, planted.division_by_zero
    (result,) = results([(text, [5, 0, *range(2, 11)])], Planted(faults))
    failure = next(found for found in failures(result) if found.bucket == bucket)
    assert not failure.free_running
    best = shrink(failure, *faults).best
    assert best.free_running
    assert listing(best) == ["DIV A A", "HLT"]


def test_a_mistake_that_needs_an_earlier_one_shows_only_when_put_back_on_the_trace() -> None:
    def wrong_not(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        if word(states) != assemble("NOT")[:4]:
            return None
        said[1] ^= 1
        return said

    def dec_after_not(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        if word(states) != assemble("DEC")[:4] or word(states[:-1]) != assemble("NOT")[:4]:
            return None
        said[1] ^= 1
        return said

    text = BODY + "NOT\nDEC\n" + BODY + "HLT"
    best = shrunk(text, Bucket("DEC", Field.ACC), wrong_not, dec_after_not)
    assert listing(best) == ["NOT", "DEC", "HLT"]
    assert (best.step, best.free_running) == (3, False)


def test_a_failure_that_shows_when_running_free_is_not_given_up_for_a_simpler_one() -> None:
    def spoiled(memory: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        """In short programs step 1 is wrong already."""
        if len(states) == 1 and not memory[4 * 4 : 4 * 5].any():
            said[1] ^= 1
            return said
        return None

    text = BODY + "DIV C A\nHLT"
    faults = spoiled, planted.division_by_zero
    (result,) = results([(text, [1, 0, *range(2, 11)])], Planted(faults))
    found = next(f for f in failures(result) if f.bucket == Bucket("DIV R R", Field.TARGET))
    assert found.free_running
    best = shrink(found, *faults).best
    assert best.free_running
    assert sorted(listing(best)) == ["DIV A A", "HLT", *["MOV A A"] * 4]


@settings(max_examples=25)
@given(
    programs(), initial_states(), st.sampled_from(ISA.variants[1:]), st.integers(0, 4), st.data()
)
def test_nothing_can_be_taken_from_what_is_left(
    memory: bytes, state: bytes, variant: object, after: int, data: st.DataObject
) -> None:
    """A form is wrong from its n-th step on, at a field that may or may not be its own."""
    name = variant_name(*variant)  # type: ignore[misc]
    field = data.draw(st.sampled_from([1, 6, 15]))

    def fault(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        if planted.form(states) != name or len(states) <= after or said[0] > 255:
            return None
        said[field] ^= 1
        return said

    def fails(program: Program, step: int) -> bool:
        (result,) = results([source(program)], Planted((fault,)))
        return any(
            (f.way, f.step, f.free_running) == (found.way, step, True) for f in failures(result)
        )

    (result,) = results([source(Program(memory, state))], Planted((fault,)))
    first = next(iter(failures(result)), None)
    if first is None:
        return
    found = first
    best = shrink(found, fault).best
    step = best.step
    assert fails(best.program, step)
    words = [best.program.memory[at : at + 4] for at in range(0, 4 * len(listing(best)), 4)]
    assert len(words) <= max(2, after + 1)
    for slot in range(len(words) - 1):
        without = b"".join(words[:slot] + words[slot + 1 :]).ljust(1024, b"\0")
        assert not fails(Program(without, best.program.state), step - (slot < step - 1))
        filled = b"".join([*words[:slot], FILLER, *words[slot + 1 :]]).ljust(1024, b"\0")
        assert words[slot] == FILLER or not fails(Program(filled, best.program.state), step)
    for place, value in enumerate(best.program.state):
        zeroed = bytearray(best.program.state)
        zeroed[place] = 0
        assert not value or not fails(Program(best.program.memory, bytes(zeroed)), step)
