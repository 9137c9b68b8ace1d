"""Assembly text <-> the 1024-byte memory image.

One instruction a line: a mnemonic, then its operands separated by blanks, by one
comma, or by both. Mnemonics and registers are written in either case; an immediate
is decimal, `0x` or `0b`. A comment runs from `;` or `#` to the end of the line.
`.byte b,b,b,b` places any four bytes, so that every memory has a text.

Memory the text does not reach is zero, and a zero slot is HLT. Disassembly never
fails, and assembling its output gives back the same memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cpusim.errors import UserError, nearest
from cpusim.files import read_bytes
from cpusim.isa import (
    INSTRUCTION_SIZE,
    ISA,
    MEMORY_SIZE,
    REGISTERS,
    SLOTS,
    IllegalEncoding,
    Instruction,
    InstructionSet,
    Operand,
    variant_name,
)

SUFFIXES = (".s", ".asm")
"""File names that end so are assembly text."""

_DIRECTIVE = ".byte"
_SOURCE_LIMIT = 1 << 20  # 256 instructions leave ample room for comments in 1 MiB
_REPORTED = 20  # more errors than this say nothing new
_TOKEN = re.compile(r",|[^\s,]+")
_COMMENT = re.compile(r"[;#].*")
_LINE_END = re.compile(r"\r\n|\r|\n")  # what editors count; str.splitlines knows eight more
_NUMBER = re.compile(r"0x([0-9a-f]+)|0b([01]+)|([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Diagnostic:
    """One error in a source text; `line` and `column` count characters from 1."""

    line: int
    column: int
    message: str


class AssemblyError(UserError):
    """A source text that does not assemble: every error in it, the first 20 spelt out."""

    def __init__(self, name: str, diagnostics: list[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        lines = [f"{name}:{d.line}:{d.column}: {d.message}" for d in diagnostics[:_REPORTED]]
        if len(diagnostics) > _REPORTED:
            lines.append(f"{name}: {len(diagnostics) - _REPORTED} more errors; mend these first")
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class _Token:
    text: str
    column: int


class _LineError(Exception):
    """The first error in a line, and where."""

    def __init__(self, token: _Token, message: str) -> None:
        super().__init__(message)
        self.token = token


def parse_number(text: str) -> int | None:
    """The value of a decimal, 0x or 0b literal, or None if `text` is none.

    Whoever calls checks the range: a literal may be far above 255.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    hexadecimal, binary, decimal = match.groups()
    digits, base = (hexadecimal, 16) if hexadecimal else (binary, 2) if binary else (decimal, 10)
    # A literal of thousands of digits is too large whatever it says exactly, and
    # int() refuses to read it.
    return int(digits.lstrip("0")[:64] or "0", base)


def assemble(source: str, *, name: str = "<source>", isa: InstructionSet = ISA) -> bytes:
    """The 1024-byte memory image of a source text; `name` stands in the errors.

    Raises `AssemblyError` with every error in the text.
    """
    words: list[bytes] = []
    errors: list[Diagnostic] = []
    for number, line in enumerate(_LINE_END.split(source), start=1):
        tokens = [
            _Token(match.group(), match.start() + 1)
            for match in _TOKEN.finditer(_COMMENT.sub("", line))
        ]
        if not tokens:
            continue
        try:
            if len(words) == SLOTS:
                raise _LineError(
                    tokens[0],
                    f"{_quote(tokens[0])} is instruction {SLOTS + 1}, and memory holds {SLOTS};"
                    " shorten the program",
                )
            words.append(_encode(tokens, isa))
        except _LineError as error:
            errors.append(Diagnostic(number, error.token.column, str(error)))
            if len(words) == SLOTS:
                break  # every later line would say the same
    if errors:
        raise AssemblyError(name, errors)
    if not words:
        raise AssemblyError(
            name,
            [Diagnostic(1, 1, "no instruction in the whole text; the shortest is HLT")],
        )
    return b"".join(words).ljust(MEMORY_SIZE, b"\0")


def assemble_file(path: Path, *, isa: InstructionSet = ISA) -> bytes:
    """The 1024-byte memory image of an assembly file.

    Raises `UserError` if it cannot be read or is not UTF-8, `AssemblyError` if it
    does not assemble.
    """
    data = read_bytes(path, limit=_SOURCE_LIMIT)
    if not data:
        raise UserError(f"{path}: is empty; the shortest program is HLT")
    if len(data) > _SOURCE_LIMIT:
        raise UserError(
            f"{path}: is longer than {_SOURCE_LIMIT:,} bytes, too long for"
            f" {SLOTS} instructions; check that it is assembly"
        )
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise UserError(
            f"{path}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8;"
            " save the file as UTF-8 text"
        ) from None
    return assemble(source, name=str(path), isa=isa)


def disassemble_word(word: bytes, isa: InstructionSet = ISA) -> str:
    """The text of four bytes: `ADD A B`, or `.byte` if they are no instruction."""
    try:
        instruction, form = isa.decode(word)
    except IllegalEncoding:
        return f"{_DIRECTIVE} " + ",".join(f"0x{byte:02x}" for byte in word)
    operands = (
        str(byte) if kind is Operand.IMMEDIATE else REGISTERS[byte - 1]
        for kind, byte in zip(form.operands, word[1:], strict=False)
    )
    return " ".join((instruction.name, *operands))


def program_slots(memory: bytes) -> int:
    """How many slots the program fills: up to the last that is not zero, and one HLT.

    A program that fills memory to the brim has no slot left for that HLT.
    """
    filled = len(memory.rstrip(b"\0"))
    return min(-(-filled // INSTRUCTION_SIZE) + 1, SLOTS)


def disassemble(memory: bytes, isa: InstructionSet = ISA) -> list[str]:
    """The text of the program's slots, one line each; never fails.

    `memory`: up to 1024 bytes, zero-filled to that. Everything after the program is
    zero (HLT), which assembling brings back by itself. Raises ValueError on more bytes.
    """
    if len(memory) > MEMORY_SIZE:
        raise ValueError(f"memory of {len(memory)} bytes")
    padded = memory.ljust(MEMORY_SIZE, b"\0")
    return [
        disassemble_word(padded[slot * INSTRUCTION_SIZE : (slot + 1) * INSTRUCTION_SIZE], isa)
        for slot in range(program_slots(padded))
    ]


def _encode(tokens: list[_Token], isa: InstructionSet) -> bytes:
    mnemonic, *rest = tokens
    if mnemonic.text == ",":
        raise _LineError(mnemonic, "a comma stands where an instruction is expected")
    operands = _without_commas(mnemonic, rest)
    if mnemonic.text.lower() == _DIRECTIVE:
        if len(operands) != INSTRUCTION_SIZE:
            raise _LineError(
                _extra(mnemonic, operands, INSTRUCTION_SIZE),
                f"{_DIRECTIVE} takes {INSTRUCTION_SIZE} values, not {len(operands)}",
            )
        return bytes(_byte(operand, _DIRECTIVE) for operand in operands)
    # Only ASCII: str.upper() would turn a dotless i into the register I.
    instruction = isa.by_name.get(mnemonic.text.upper()) if mnemonic.text.isascii() else None
    if instruction is None:
        raise _LineError(mnemonic, _unknown_instruction(mnemonic, isa))
    form = instruction.form_for(len(operands))
    if form is None:
        raise _LineError(*_wrong_count(mnemonic, instruction, operands))
    word = bytearray(INSTRUCTION_SIZE)
    word[0] = instruction.opcode
    for position, (kind, operand) in enumerate(zip(form.operands, operands, strict=True), start=1):
        if kind is Operand.IMMEDIATE:
            word[position] = _byte(operand, instruction.name)
        else:
            word[position] = _register(operand, instruction.name)
    return bytes(word)


def _without_commas(mnemonic: _Token, tokens: list[_Token]) -> list[_Token]:
    """The operands. A comma must stand between two of them."""
    operands: list[_Token] = []
    before = mnemonic
    for token in tokens:
        if token.text == ",":
            if before is mnemonic or before.text == ",":
                raise _LineError(token, "a comma without an operand before it")
        else:
            operands.append(token)
        before = token
    if before.text == ",":
        raise _LineError(before, "a comma without an operand after it")
    return operands


def _byte(token: _Token, owner: str) -> int:
    value = parse_number(token.text)
    if value is None:
        if parse_number(token.text.removeprefix("-")) is not None:
            raise _LineError(token, f"{_quote(token)} is outside 0..255")
        raise _LineError(
            token,
            f"{_quote(token)} is no number; {owner} takes 0..255,"
            " in decimal, 0x hexadecimal or 0b binary",
        )
    if value > 255:
        raise _LineError(token, f"{_quote(token)} is outside 0..255")
    return value


def _register(token: _Token, owner: str) -> int:
    name = token.text.upper()
    if len(token.text) == 1 and token.text.isascii() and name in REGISTERS:
        return REGISTERS.index(name) + 1
    said = f"{_quote(token)} is no register ({REGISTERS[0]}..{REGISTERS[-1]})"
    if parse_number(token.text) is not None:
        raise _LineError(token, f"{said}; {owner} takes no numbers: LOADI and POP bring one in")
    if name == "ACC":
        raise _LineError(token, f"{said}; PUSH and POP copy to and from the accumulator")
    close = nearest(token.text, REGISTERS)
    raise _LineError(token, f"{said}; did you mean {close}?" if close else said)


def _unknown_instruction(token: _Token, isa: InstructionSet) -> str:
    said = f"{_quote(token)} is no instruction"
    if token.text.endswith(":"):
        return f"{said}; labels have no use, as the CPU has no jumps"
    close = nearest(token.text, [*isa.by_name, _DIRECTIVE])
    return f"{said}; did you mean {close}?" if close else f"{said}; `cpusim isa` lists them all"


def _extra(mnemonic: _Token, operands: list[_Token], most: int) -> _Token:
    """Where a wrong count shows: the first operand too many, or the mnemonic."""
    return operands[most] if len(operands) > most else mnemonic


def _wrong_count(
    mnemonic: _Token, instruction: Instruction, operands: list[_Token]
) -> tuple[_Token, str]:
    most = max(len(form.operands) for form in instruction.forms)
    *others, last = (variant_name(instruction, form) for form in instruction.forms)
    known = f"{', '.join(others)} or {last}" if others else last
    return (
        _extra(mnemonic, operands, most),
        f"{instruction.name} with {len(operands) or 'no'}"
        f" operand{'' if len(operands) == 1 else 's'}: write {known}",
    )


def _quote(token: _Token) -> str:
    """The offending text, with control characters escaped, cut if it is very long."""
    return repr(token.text if len(token.text) <= 40 else token.text[:39] + "…")
