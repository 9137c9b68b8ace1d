"""Random programs: a pure function of seed and number, with the frequencies they promise."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim.errors import UserError
from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    IR,
    ISA,
    PC,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
    Form,
    Instruction,
    InstructionSet,
    Operand,
    Place,
    variant_name,
)
from cpusim.machine import run_batch
from cpusim.programs import (
    DISTRIBUTIONS,
    Bytes,
    Distribution,
    Ints,
    Programs,
    generate,
    generate_numbered,
)
from tests.strategies import extended

NUMBERS = len(REGISTERS)
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
distributions = st.sampled_from(DISTRIBUTIONS)
seeds = st.integers(0, 2**64 - 1)


def content(made: Programs) -> list[tuple[bytes, bytes, int]]:
    return [
        (memory.tobytes(), state.tobytes(), length)
        for memory, state, length in zip(
            made.memories, made.states, made.lengths.tolist(), strict=True
        )
    ]


def tail(distance: float, freedom: int) -> float:
    """The probability that chi-square exceeds this, to tell 0.001 from 1e-9.

    Wilson and Hilferty's normal approximation.
    """
    spread = 2 / (9 * freedom)
    normal = ((distance / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(normal / math.sqrt(2)) / 2


def chance(counts: npt.NDArray[Any]) -> float:
    """The probability that equally likely outcomes have counts at least this far from equal.

    Pearson's chi-square test: the outcomes must be independent of one another.
    """
    counts = np.asarray(counts, float).ravel()
    assert counts.mean() >= 5, "too few for a chi-square test"
    return tail(((counts - counts.mean()) ** 2).sum() / counts.mean(), len(counts) - 1)


def chance_by_program(outcomes: Ints, programs: Ints) -> float:
    """The same for outcomes 0..255 that depend on others of the same program, but no other's.

    A value that stays in a register is read again and again: fair, yet counts of reads are
    further from equal than independent draws. So the variance is taken between programs.
    """
    counts = np.bincount(programs * 256 + outcomes, minlength=256 * (programs.max() + 1))
    table = counts.reshape(-1, 256)
    excess = table - table.sum(axis=1, keepdims=True) / 256
    return tail((excess.sum(axis=0) ** 2 / (excess**2).sum(axis=0)).sum(), 255)


# A right generator with a fixed seed fails one such test in a million; a wrong one fails
# with all the samples that are drawn here.
UNLIKELY = 1e-6


def test_the_chance_of_a_fair_sample_is_fair_and_that_of_a_bent_one_nil() -> None:
    random = np.random.default_rng(0)
    fair = [chance(np.bincount(random.integers(0, 256, 5_000), minlength=256)) for _ in range(400)]
    assert 0.4 < np.mean(fair) < 0.6
    bent = random.integers(0, 256, 5_000)
    bent[:250] = 0
    assert chance(np.bincount(bent, minlength=256)) < UNLIKELY


def test_the_chance_by_program_is_fair_where_values_repeat_and_nil_where_they_are_bent() -> None:
    random = np.random.default_rng(1)
    programs = np.repeat(np.arange(2_000), 60)
    repeated = [random.integers(0, 256, (2_000, 20)).repeat(3, axis=1) for _ in range(50)]
    fair = [chance_by_program(values.ravel(), programs) for values in repeated]
    assert 0.35 < np.mean(fair) < 0.65
    bent = repeated[0].copy()
    bent[:100, :30] = 0
    assert chance_by_program(bent.ravel(), programs) < UNLIKELY


# A program is a function of its number -------------------------------------------------


@given(
    seed=seeds,
    distribution=distributions,
    lengths=st.tuples(st.integers(1, SLOTS), st.integers(1, SLOTS)).map(sorted),
    cuts=st.lists(st.integers(0, 12), max_size=3).map(sorted),
    start=st.integers(0, 2**50),
)
def test_any_split_of_the_work_gives_the_same_programs(
    seed: int, distribution: Distribution, lengths: list[int], cuts: list[int], start: int
) -> None:
    def make(first: int, last: int) -> list[tuple[bytes, bytes, int]]:
        return content(
            generate(
                last - first,
                start=start + first,
                seed=seed,
                distribution=distribution,
                min_length=lengths[0],
                max_length=lengths[1],
            )
        )

    bounds = [0, *cuts, 12]
    parts = [make(first, last) for first, last in itertools.pairwise(bounds)]
    assert [program for part in parts for program in part] == make(0, 12)


@every_distribution
def test_programs_may_be_had_by_number_in_any_order(distribution: Distribution) -> None:
    straight = content(generate(30, seed=1, distribution=distribution))
    numbers = np.random.default_rng(2).permutation(30).astype(np.uint64)
    jumbled = content(generate_numbered(numbers, seed=1, distribution=distribution))
    assert jumbled == [straight[number] for number in numbers.tolist()]


@every_distribution
def test_numbers_and_seeds_all_give_different_programs(distribution: Distribution) -> None:
    found = [
        program
        for seed in (0, 1, 2, 2**32, 2**63, 2**64 - 1)
        for start in (0, 2**32, 2**40)
        for program in content(generate(200, seed=seed, start=start, distribution=distribution))
    ]
    assert len(set(found)) == len(found)
    assert len({state for _, state, _ in found}) == len(found)


def test_the_first_state_and_length_do_not_depend_on_the_distribution() -> None:
    made = [generate(50, seed=3, distribution=distribution) for distribution in DISTRIBUTIONS]
    for other in made[1:]:
        np.testing.assert_array_equal(other.states, made[0].states)
        np.testing.assert_array_equal(other.lengths, made[0].lengths)


def test_a_mixed_program_is_the_published_or_the_uniform_one_by_a_coin() -> None:
    published, uniform, mixed = (
        generate(4_000, seed=4, distribution=distribution, min_length=20).memories
        for distribution in DISTRIBUTIONS
    )
    is_published = (mixed == published).all(axis=1)
    is_uniform = (mixed == uniform).all(axis=1)
    assert (is_published != is_uniform).all()
    assert chance(np.bincount(is_published)) > UNLIKELY
    # The coin does not follow from the number of its own: runs are as short as a coin's.
    assert chance(np.bincount(2 * is_published[::2] + is_published[1::2])) > UNLIKELY


def test_no_program_is_asked_for_and_none_is_made() -> None:
    assert content(generate(0, seed=0)) == []


# Every program is canonical and ends with its only HLT ----------------------------------


@every_distribution
@pytest.mark.parametrize("lengths", [(1, 255), (1, 1), (2, 2), (256, 256), (100, 101)])
def test_lengths_are_in_range_and_the_only_halt_is_the_last_instruction(
    distribution: Distribution, lengths: tuple[int, int]
) -> None:
    least, most = lengths
    made = generate(3_000, seed=5, distribution=distribution, min_length=least, max_length=most)
    assert (made.lengths.min(), made.lengths.max()) == lengths
    opcodes = made.memories[:, ::4]
    working = np.arange(SLOTS) < made.lengths[:, None] - 1
    np.testing.assert_array_equal(opcodes != ISA.by_name["HLT"].opcode, working)
    # From HLT on memory is zero.
    assert not made.memories.reshape(-1, SLOTS, 4)[~working].any()


@every_distribution
@pytest.mark.parametrize("isa", [ISA, extended()], ids=["the table", "one row more"])
def test_all_instructions_are_canonical_and_every_form_occurs(
    distribution: Distribution, isa: InstructionSet
) -> None:
    made = generate(1_000, seed=6, distribution=distribution, isa=isa)
    words = {bytes(word) for word in np.unique(made.memories.reshape(-1, 4), axis=0)}
    # Raises IllegalEncoding if one is not.
    forms = {variant_name(*isa.decode(word)) for word in words}
    assert forms == {variant_name(*variant) for variant in isa.variants}


@every_distribution
def test_every_program_runs_to_its_halt(distribution: Distribution) -> None:
    made = generate(1_000, seed=7, distribution=distribution, max_length=256)
    batch = run_batch(made.memories, made.states)
    assert not batch.stops.any()
    np.testing.assert_array_equal(np.diff(batch.offsets), made.lengths + 1)


@every_distribution
def test_first_states_have_uniform_values_and_pc_and_ir_zero(distribution: Distribution) -> None:
    states = generate(20_000, seed=8, distribution=distribution).states
    assert not states[:, [PC, *range(IR, IR + 4)]].any()
    for field in (ACC, *range(FIRST_REGISTER, STATE_SIZE)):
        assert chance(np.bincount(states[:, field], minlength=256)) > UNLIKELY
    # Neighbours are independent of one another.
    for field in range(FIRST_REGISTER, STATE_SIZE - 1):
        a, b = (states[:, place].astype(int) for place in (field, field + 1))
        for pairs in nibbles(a, b):
            assert chance(np.bincount(pairs, minlength=256)) > UNLIKELY


@every_distribution
def test_lengths_are_uniform(distribution: Distribution) -> None:
    lengths = generate(20_000, seed=9, distribution=distribution).lengths
    assert chance(np.bincount(lengths, minlength=256)[1:]) > UNLIKELY
    few = generate(5_000, seed=9, distribution=distribution, min_length=7, max_length=11).lengths
    assert chance(np.bincount(few, minlength=12)[7:]) > UNLIKELY


# The published frequencies --------------------------------------------------------------


@lru_cache
def sample(distribution: Distribution, isa: InstructionSet = ISA) -> tuple[Programs, Bytes]:
    """4,000 programs of 256 instructions and their words without HLT: uint8[4000, 255, 4]."""
    made = generate(
        4_000, seed=10, distribution=distribution, min_length=SLOTS, max_length=SLOTS, isa=isa
    )
    return made, made.memories.reshape(-1, SLOTS, 4)[:, :-1]


def operand_counts(words: Bytes) -> Ints:
    """How many operands instructions (uint8[..., 4]) have; LOADI's immediate may be 0."""
    counts = np.count_nonzero(words[..., 1:], axis=-1)
    return np.where(words[..., 0] == ISA.by_name["LOADI"].opcode, 1, counts)


def form_codes(words: Bytes) -> Ints:
    """A number 0..255 for the form of each instruction (uint8[..., 4]); see `form_code`."""
    return 4 * words[..., 0].astype(int) + operand_counts(words)


def form_code(instruction: Instruction, form: Form) -> int:
    return 4 * instruction.opcode + len(form.operands)


@pytest.mark.parametrize("isa", [ISA, extended()], ids=["the table", "one row more"])
def test_published_types_are_uniform(isa: InstructionSet) -> None:
    opcodes = sample("published", isa)[1][:, :, 0]
    types = len(isa.instructions) - 1
    assert opcodes.min() == 1
    for place in (opcodes, opcodes[:, 0], opcodes[:, 100], opcodes[:, -1]):
        counts = np.bincount(place.ravel(), minlength=types + 1)[1:]
        assert len(counts) == types
        assert chance(counts) > UNLIKELY
    # One type says nothing about the next.
    pairs = opcodes[:, :-1].astype(int) * (types + 1) + opcodes[:, 1:]
    table = np.bincount(pairs.ravel(), minlength=(types + 1) ** 2).reshape(types + 1, -1)
    assert chance(table[1:, 1:]) > UNLIKELY


@pytest.mark.parametrize("instruction", ISA.instructions[1:], ids=lambda i: i.name)
def test_published_operands_are_uniform(instruction: Instruction) -> None:
    words = sample("published")[1]
    words = words[words[..., 0] == instruction.opcode]
    counts = operand_counts(words)
    by_form = [np.count_nonzero(counts == len(form.operands)) for form in instruction.forms]
    assert sum(by_form) == len(words)
    if len(by_form) > 1:
        assert chance(np.array(by_form)) > UNLIKELY
    for form in instruction.forms:
        its = words[counts == len(form.operands), 1:].astype(int)
        if form.operands == (Operand.IMMEDIATE,):
            assert chance(np.bincount(its[:, 0], minlength=256)) > UNLIKELY
        elif form.operands:
            # All combinations of registers are equally likely.
            numbers = (its[:, : len(form.operands)] - 1) @ NUMBERS ** np.arange(len(form.operands))
            found = np.bincount(numbers, minlength=NUMBERS ** len(form.operands))
            assert chance(found) > UNLIKELY


# The uniform operands -------------------------------------------------------------------


def reads(instruction: Instruction, form: Form) -> list[Place]:
    """The places whose values decide what this form does (CLR names one and reads none)."""
    compute = instruction.compute
    every = range(256)
    found = []
    if form.echo is not Place.NOWHERE or (
        form.a is not Place.NOWHERE
        and any(compute(a, b) != compute(0, b) for b in (0, 1, 255) for a in every)
    ):
        found.append(form.a)
    if form.b is not Place.NOWHERE and any(
        compute(a, b) != compute(a, 0) for a in (0, 1, 255) for b in every
    ):
        found.append(form.b)
    return [place for place in found if place is not Place.IMMEDIATE]


@dataclass(frozen=True)
class Reads:
    """What the instructions of the sample read as they execute.

    `programs`, `depths` (0..254) and `values`: of all bytes read, one that is read
    twice by the same instruction but once. `pair_programs`, `pair_depths`, `a`, `b`: of the
    instructions that read two places; `same`: whether both are the same register.
    """

    programs: Ints
    depths: Ints
    values: Ints
    pair_programs: Ints
    pair_depths: Ints
    a: Ints
    b: Ints
    same: npt.NDArray[np.bool_]


@lru_cache
def reads_of(distribution: Distribution, isa: InstructionSet = ISA) -> Reads:
    """All operand bytes of the sample's programs, from their traces."""
    made, _ = sample(distribution, isa)
    batch = run_batch(made.memories, made.states, isa=isa)
    executed = batch.records.reshape(-1, SLOTS + 1, STATE_SIZE)[:, 1:-1].reshape(-1, STATE_SIZE)
    codes = form_codes(executed[:, IR : IR + 4])
    single: list[tuple[Ints, Ints]] = []
    double: list[tuple[Any, ...]] = []
    for instruction, form in isa.variants:
        steps = np.flatnonzero(codes == form_code(instruction, form))
        columns = [
            np.full(len(steps), ACC)
            if place is Place.ACC
            else executed[steps, IR + 1 + "xyz".index(place)].astype(int) + FIRST_REGISTER - 1
            for place in reads(instruction, form)
        ]
        values = [executed[steps, column].astype(int) for column in columns]
        if len(values) == 2:
            same = columns[0] == columns[1]
            double.append((steps, *values, same))
            single.append((steps[~same], values[1][~same]))
        if values:
            single.append((steps, values[0]))
    steps, bytes_read = (np.concatenate(part) for part in zip(*single, strict=True))
    pair_steps, a, b, same = (np.concatenate(part) for part in zip(*double, strict=True))
    return Reads(
        *np.divmod(steps, SLOTS - 1), bytes_read, *np.divmod(pair_steps, SLOTS - 1), a, b, same
    )


def nibbles(a: Ints, b: Ints) -> list[Ints]:
    """Pairs of nibbles, high and low of a against high and low of b, as numbers 0..255."""
    return [(a >> i & 15) << 4 | b >> j & 15 for i in (0, 4) for j in (0, 4)]


def test_what_an_instruction_reads_is_found_from_its_semantics() -> None:
    found = {variant_name(*variant): reads(*variant) for variant in ISA.variants}
    assert found["CLR R"] == found["HLT"] == found["LOADI imm"] == []
    assert found["POP R"] == [Place.ACC]
    assert found["MOV R R"] == [Place.Y]
    assert found["SWAP R"] == found["DIV R"] == [Place.ACC, Place.X]
    assert found["ADD R R R"] == [Place.X, Place.Y]


def test_uniform_operands_are_uniform_at_every_depth() -> None:
    found = reads_of("uniform")
    for depth in range(SLOTS - 1):
        values = found.values[found.depths == depth]
        assert chance(np.bincount(values, minlength=256)) > UNLIKELY
        # No depth does without operands: the last instructions read as many as the first.
        assert len(values) > 0.8 * len(found.values) / (SLOTS - 1)
    for first in range(0, SLOTS - 1, 16):
        near = found.depths // 16 == first // 16
        assert chance_by_program(found.values[near], found.programs[near]) > UNLIKELY
    assert chance_by_program(found.values, found.programs) > UNLIKELY


def test_uniform_operands_from_two_places_are_independent_at_every_depth() -> None:
    found = reads_of("uniform")
    for first in range(0, SLOTS - 1, 16):
        near = ~found.same & (found.pair_depths // 16 == first // 16)
        for pairs in nibbles(found.a[near], found.b[near]):
            assert chance_by_program(pairs, found.pair_programs[near]) > UNLIKELY
    for pairs in nibbles(found.a[~found.same], found.b[~found.same]):
        assert chance_by_program(pairs, found.pair_programs[~found.same]) > UNLIKELY


def test_uniform_operands_are_one_register_twice_in_one_case_out_of_ten() -> None:
    found = reads_of("uniform")
    # Where ACC is one of the two, both cannot be the same.
    assert 0.05 < found.same.mean() < 0.1
    assert chance_by_program(found.a[found.same], found.pair_programs[found.same]) > UNLIKELY


def test_published_operands_saturate_so_the_tests_above_can_fail() -> None:
    found = reads_of("published")
    deep = found.depths >= 200
    assert np.isin(found.values[deep], [0, 255]).mean() > 0.4
    assert chance_by_program(found.values[deep], found.programs[deep]) < UNLIKELY
    # Its places have much to do with one another.
    pairs = nibbles(found.a, found.b)[0]
    assert chance_by_program(pairs, found.pair_programs) < UNLIKELY


def test_a_new_row_is_read_with_uniform_operands_too() -> None:
    isa = extended()
    found = reads_of("uniform", isa)
    assert chance_by_program(found.values, found.programs) > UNLIKELY
    codes = form_codes(sample("uniform", isa)[1])
    for form in isa.by_name["NAND"].forms:
        assert np.mean(codes == form_code(isa.by_name["NAND"], form)) > 0.005


def test_uniform_programs_draw_what_published_ones_do_but_for_what_renews_their_values() -> None:
    shares = {
        distribution: np.bincount(form_codes(sample(distribution)[1]).ravel(), minlength=256)
        / sample(distribution)[1][..., 0].size
        for distribution in DISTRIBUTIONS
    }
    ratios = {
        variant_name(*variant): shares["uniform"][code] / shares["published"][code]
        for variant in ISA.variants[1:]
        for code in [form_code(*variant)]
    }
    assert min(ratios.pop("LOADI imm"), ratios.pop("POP R")) > 1
    assert min(ratios.values()) > 0.5
    assert max(ratios.values()) < 1.1 * min(ratios.values())
    for operand in range(1, 4):
        words = sample("uniform")[1]
        words = words[words[..., 0] != ISA.by_name["LOADI"].opcode]
        found = np.bincount(words[:, operand], minlength=NUMBERS + 1)[1:]
        assert found.min() > 0.8 * found.mean()


# Bad options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"min_length": 0}, "lengths from 0 to 255 are not possible"),
        ({"min_length": -3}, "lengths from -3 to 255"),
        ({"max_length": 257}, "1 <= minimum <= maximum <= 256"),
        ({"min_length": 20, "max_length": 19}, "lengths from 20 to 19"),
        ({"max_length": 0}, "lengths from 1 to 0"),
        ({"seed": -1}, "seed -1 is out of range; choose one from 0 to"),
        ({"seed": 2**64}, f"seed {2**64} is out of range"),
        ({"distribution": "normal"}, "'normal' does not exist; choose one of published, uniform"),
    ],
)
def test_an_impossible_option_is_refused_in_one_sentence(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        generate(1, **({"seed": 0} | options))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_instruction_set_that_cannot_renew_its_values_is_refused() -> None:
    kept = [i for i in ISA.instructions if i.name not in ("LOADI", "POP")]
    without = InstructionSet(
        tuple(
            Instruction(n, i.name, i.forms, i.doc, i.compute, i.halts) for n, i in enumerate(kept)
        )
    )
    with pytest.raises(ValueError, match="load of a constant and a copy of ACC"):
        generate(1, seed=0, isa=without)
