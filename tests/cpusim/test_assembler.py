"""Assembly text <-> memory: the grammar, the errors, the round trip, the published programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim.assembler import (
    AssemblyError,
    assemble,
    assemble_file,
    disassemble,
    disassemble_word,
    parse_number,
)
from cpusim.errors import UserError
from cpusim.isa import (
    ISA,
    MEMORY_SIZE,
    SLOTS,
    IllegalEncoding,
)
from cpusim.reference import Stop, run
from tests.strategies import extended, memories, programs, words

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "cpu_traces").glob("*.s"))


def words_of(source: str) -> list[list[int]]:
    """The instructions of a source, without the zeros behind them."""
    memory = assemble(source)
    count = len([line for line in source.splitlines() if line.strip()])
    assert not any(memory[4 * count :])
    return [list(memory[4 * slot : 4 * slot + 4]) for slot in range(count)]


def errors_of(source: str) -> list[tuple[int, int, str]]:
    with pytest.raises(AssemblyError) as caught:
        assemble(source, name="prog.s")
    return [(error.line, error.column, error.message) for error in caught.value.diagnostics]


def test_operands_become_register_numbers_in_the_order_written() -> None:
    assert words_of("ADD A B J\nMOV J A\nINC\nHLT") == [
        [13, 1, 2, 10],
        [20, 10, 1, 0],
        [2, 0, 0, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "ADD A B C",
        "add a b c",
        "Add A,B,C",
        "  ADD\tA , B ,C  ",
        "ADD A, B, C ; sum",
        "ADD A B C#s",
    ],
)
def test_case_blanks_commas_and_comments_do_not_matter(line: str) -> None:
    assert words_of(line) == [[13, 1, 2, 3]]


@pytest.mark.parametrize(
    "text", ["200", "0xc8", "0XC8", "0b11001000", "0B11001000", "000200", "0x000c8"]
)
def test_an_immediate_is_decimal_hexadecimal_or_binary(text: str) -> None:
    assert words_of(f"LOADI {text}") == [[11, 200, 0, 0]]


@pytest.mark.parametrize("text", ["", "x", "0x", "0b", "0b2", "1_0", "+1", "-1", "1.0", "٣", "0o7"])
def test_what_is_no_literal_has_no_value(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize("literal", ["9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 5000])
def test_a_literal_of_thousands_of_digits_is_out_of_range_not_a_crash(literal: str) -> None:
    [(line, column, message)] = errors_of(f"LOADI {literal}")
    assert (line, column) == (1, 7)
    assert "outside 0..255" in message
    assert len(message) < 100


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system_and_are_counted_alike(end: str) -> None:
    assert words_of("INC\nDEC\n") == [[2, 0, 0, 0], [3, 0, 0, 0]]
    assert assemble(f"INC{end}DEC{end}") == assemble("INC\nDEC\n")
    assert errors_of(f"INC{end}{end}; one{end}DEK{end}")[0][:2] == (4, 1)


def test_a_form_feed_is_a_blank_and_starts_no_line() -> None:
    assert errors_of("INC\x0c\x85\u2028\nDEK")[0][:2] == (2, 1)


@pytest.mark.parametrize(
    ("source", "column", "told"),
    [
        ("MVO A B", 1, "'MVO' is no instruction; did you mean MOV?"),
        ("zzzz", 1, "`cpusim isa` lists them"),
        ("loop:", 1, "the CPU has no jumps"),
        (".bite 1 2 3 4", 1, "did you mean .byte?"),
        ("\u0131NC", 1, "'\u0131NC' is no instruction"),
        ("ADD A K", 7, "'K' is no register (A..J)"),
        ("PUSH AX", 6, "did you mean A?"),
        ("PUSH \u0131", 6, "'\u0131' is no register"),
        ("MOV ACC A", 5, "PUSH and POP"),
        ("ADD A 5", 7, "ADD takes no numbers"),
        ("LOADI A", 7, "'A' is no number"),
        ("LOADI 256", 7, "'256' is outside 0..255"),
        ("LOADI -1", 7, "'-1' is outside 0..255"),
        ("ADD", 1, "ADD with no operands: write ADD R, ADD R R or ADD R R R"),
        ("MOV A", 1, "MOV with 1 operand: write MOV R R"),
        ("ADD A B C D", 11, "ADD with 4 operands"),
        ("HLT A", 5, "write HLT"),
        (".byte 1,2,3", 1, ".byte takes 4 values, not 3"),
        (".byte 1,2,3,4,5", 15, ".byte takes 4 values, not 5"),
        (".byte 1,2,3,300", 13, "outside 0..255"),
        (", A", 1, "where an instruction is expected"),
        ("ADD , A", 5, "without an operand before it"),
        ("ADD A,,B", 7, "without an operand before it"),
        ("ADD A,", 6, "without an operand after it"),
        ("ADD\x1b[31m A", 1, r"\x1b[31m"),
    ],
)
def test_an_error_names_the_place_the_text_and_the_way_out(
    source: str, column: int, told: str
) -> None:
    [(line, found, message)] = errors_of(f"; comment\n  {source}\nHLT\n")
    assert (line, found) == (2, column + 2)
    assert told in message


def test_every_error_is_reported_in_order_with_the_file_name() -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble("ADD\nHLT\nfoo\nLOADI 999\n", name="prog.s")
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert places == ["prog.s:1:1", "prog.s:3:1", "prog.s:4:7"]


def test_of_a_hundred_errors_twenty_are_spelt_out_and_the_rest_counted() -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble("BAD\n" * 100, name="prog.s")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "prog.s: 80 more errors; mend these first"
    assert len(caught.value.diagnostics) == 100


def test_memory_holds_256_instructions_and_the_257th_is_the_error() -> None:
    assert assemble("INC\n" * SLOTS) == bytes([2, 0, 0, 0]) * SLOTS
    [(line, column, message)] = errors_of("INC\n" * SLOTS + "; fine\n DEC A\nDEC B\n")
    assert (line, column) == (SLOTS + 2, 2)
    assert "'DEC' is instruction 257, and memory holds 256" in message


@pytest.mark.parametrize("source", ["", "\n\n", "; nothing\n# here\n"])
def test_a_text_without_instructions_is_an_error(source: str) -> None:
    assert "no instruction" in errors_of(source)[0][2]


def test_a_file_that_is_not_utf8_names_the_byte_and_its_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.s"
    path.write_bytes(b"INC A\n; caf\xe9\nHLT\n")
    with pytest.raises(UserError, match=r"latin\.s:2:6: byte 0xe9 is not UTF-8"):
        assemble_file(path)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "mark.s"
    path.write_bytes(b"\xef\xbb\xbfINC A\n")
    assert assemble_file(path) == assemble("INC A")


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "is empty"), (b"; " + b"x" * (1 << 20), "is longer than 1,048,576")]
)
def test_an_empty_or_huge_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "prog.s"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"prog\.s: {told}"):
        assemble_file(path)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_assembles_or_is_refused_with_a_place_inside_it(source: str) -> None:
    try:
        assert len(assemble(source)) == MEMORY_SIZE
    except AssemblyError as error:
        lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for found in error.diagnostics:
            assert 1 <= found.line <= len(lines)
            assert 1 <= found.column <= max(len(lines[found.line - 1]), 1)


@given(st.lists(st.sampled_from([*ISA.by_name, *"ABJK", "7", "256", ",", ";", ".byte", "\n"])))
def test_any_heap_of_words_assembles_or_is_refused(tokens: list[str]) -> None:
    try:
        memory = assemble(" ".join(tokens))
    except AssemblyError:
        return
    assert assemble("\n".join(disassemble(memory))) == memory


@given(programs())
def test_assemble_undoes_disassemble_on_every_program(memory: bytes) -> None:
    lines = disassemble(memory)
    assert not any(line.startswith(".byte") for line in lines)
    assert assemble("\n".join(lines)) == memory
    assert disassemble(assemble("\n".join(lines))) == lines


@given(memories())
def test_assemble_undoes_disassemble_on_any_memory_at_all(memory: bytes) -> None:
    assert assemble("\n".join(disassemble(memory))) == memory


@given(words())
def test_an_instruction_prints_as_what_assembles_to_it(word: bytes) -> None:
    assert assemble(disassemble_word(word))[:4] == word


@given(st.binary(min_size=4, max_size=4))
def test_four_bytes_print_as_byte_exactly_if_they_are_no_instruction(word: bytes) -> None:
    try:
        ISA.decode(word)
        legal = True
    except IllegalEncoding:
        legal = False
    assert disassemble_word(word).startswith(".byte") is not legal


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("HLT", ["HLT"]),
        ("INC", ["INC", "HLT"]),
        ("INC\nHLT\nHLT\nHLT", ["INC", "HLT"]),
        ("HLT\nHLT\nINC\nHLT", ["HLT", "HLT", "INC", "HLT"]),
        (".byte 255,0,0,0", [".byte 0xff,0x00,0x00,0x00", "HLT"]),
        ("INC\n" * SLOTS, ["INC"] * SLOTS),
        ("INC\n" * (SLOTS - 1), ["INC"] * (SLOTS - 1) + ["HLT"]),
    ],
)
def test_the_zeros_behind_a_program_print_as_one_halt(source: str, printed: list[str]) -> None:
    assert disassemble(assemble(source)) == printed


def test_more_than_a_memory_cannot_be_disassembled() -> None:
    with pytest.raises(ValueError, match="1025"):
        disassemble(bytes(MEMORY_SIZE + 1))


@pytest.mark.parametrize("source", GOLDEN, ids=lambda path: path.stem)
def test_a_published_program_assembles_to_its_memory_and_prints_as_its_text(source: Path) -> None:
    trace = source.with_suffix(".bin").read_bytes()
    assert assemble_file(source) == trace[:MEMORY_SIZE]
    assert "\n".join(disassemble(trace[:MEMORY_SIZE])) + "\n" == source.read_text()


def test_the_published_programs_are_there() -> None:
    assert len(GOLDEN) == 24


def test_a_new_row_in_the_table_assembles_disassembles_and_runs() -> None:
    isa = extended()
    source = ["NAND A B C", "NAND A B", "NAND A", "HLT"]
    memory = assemble("\n".join(source), isa=isa)
    assert disassemble(memory, isa) == source
    state = bytes(6) + bytes([0b1100, 0b1010]) + bytes(8)
    result = run(memory, state, isa=isa)
    assert result.stop is Stop.HALTED
    assert result.records[-1][6:9] == bytes([0b11110111, 0b1010, 0b11110111])
    assert result.records[-1][1] == 255  # ACC was 0
    # Without the row the same bytes are no instruction, and its name is unknown.
    assert disassemble(memory)[0] == ".byte 0x15,0x01,0x02,0x03"
    assert "did you mean AND?" in errors_of("NAND A B")[0][2]


@given(programs(extended()))
def test_a_new_row_takes_part_in_the_round_trip(memory: bytes) -> None:
    isa = extended()
    assert assemble("\n".join(disassemble(memory, isa)), isa=isa) == memory
