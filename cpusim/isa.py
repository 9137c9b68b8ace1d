"""The instruction table: the one place that says what the CPU can do.

Assembler, disassembler, the plain-Python reference, the compiled kernels, the
program generator, `cpusim isa` and the tests all derive from `ISA` below. Adding an
instruction means adding one row.

An instruction is four bytes `[opcode, x, y, z]`. An operand byte is 0 (absent) or
1..10 (registers A..J); an immediate is any byte. What an instruction does in one
of its forms is data flow: read two places `a` and `b`, write `compute(a, b)` to
`dest`, and, if `echo` is set, write the old `a` to `echo` (an exchange).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

MEMORY_SIZE = 1024
INSTRUCTION_SIZE = 4
SLOTS = MEMORY_SIZE // INSTRUCTION_SIZE
REGISTERS = "ABCDEFGHIJ"
STATE_SIZE = 16
# Byte offsets in a state record.
PC, ACC, IR, FIRST_REGISTER = 0, 1, 2, 6
FIELDS = ("PC", "ACC", "IR0", "IR1", "IR2", "IR3", *REGISTERS)
VALUE_FIELDS = (ACC, *range(FIRST_REGISTER, STATE_SIZE))
"""The fields that instructions compute, ACC and the registers; a fetch sets the others."""


class Operand(StrEnum):
    """What an operand byte of a form means."""

    REGISTER = "R"
    IMMEDIATE = "imm"


class Place(StrEnum):
    """Where a form reads or writes. X, Y, Z: the register that this operand byte names."""

    ACC = "ACC"
    X = "x"
    Y = "y"
    Z = "z"
    IMMEDIATE = "imm"
    """The value of operand byte x itself (read only)."""
    NOWHERE = "-"
    """Reads as 0; a write to it does nothing."""


@dataclass(frozen=True)
class Form:
    """One way to write an instruction: its operands and its data flow."""

    operands: tuple[Operand, ...]
    a: Place
    b: Place
    dest: Place
    echo: Place = Place.NOWHERE


def _form(operands: str, a: str, b: str, dest: str, echo: str = "-") -> Form:
    return Form(
        tuple(Operand(kind) for kind in operands.split()),
        Place(a),
        Place(b),
        Place(dest),
        Place(echo),
    )


_ACC_OR_REGISTER = (_form("", "ACC", "-", "ACC"), _form("R", "x", "-", "x"))
_BINARY = (
    _form("R", "ACC", "x", "ACC"),
    _form("R R", "x", "y", "x"),
    _form("R R R", "x", "y", "z"),
)
_HALT = (_form("", "-", "-", "-"),)


@dataclass(frozen=True)
class Instruction:
    """One row of the table.

    `compute(a, b)` is the pure function of the two bytes read; its result is a byte.
    """

    opcode: int
    name: str
    forms: tuple[Form, ...]
    doc: str
    compute: Callable[[int, int], int]
    halts: bool = False

    def form_for(self, operand_count: int) -> Form | None:
        """The form with this number of operands, or None."""
        return next((f for f in self.forms if len(f.operands) == operand_count), None)


def variant_name(instruction: Instruction, form: Form) -> str:
    """The name of a form in tables and reports, such as `ADD R R`."""
    return " ".join((instruction.name, *form.operands))


@dataclass(frozen=True)
class InstructionSet:
    """An ordered table of instructions; row i has opcode i."""

    instructions: tuple[Instruction, ...]

    def __post_init__(self) -> None:
        for row, instruction in enumerate(self.instructions):
            if instruction.opcode != row:
                raise ValueError(f"{instruction.name}: opcode {instruction.opcode} in row {row}")
            counts = [len(form.operands) for form in instruction.forms]
            if len(set(counts)) != len(counts):
                raise ValueError(f"{instruction.name}: two forms with the same operand count")
        if len(self.by_name) != len(self.instructions):
            raise ValueError("two instructions have the same name")

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @cached_property
    def variants(self) -> tuple[tuple[Instruction, Form], ...]:
        """Every form of every instruction, in table order (43 and HLT)."""
        return tuple((i, form) for i in self.instructions for form in i.forms)

    def decode(self, word: bytes) -> tuple[Instruction, Form]:
        """The instruction and form of four bytes. Raises `IllegalEncoding` unless canonical."""
        opcode, *operands = word
        if opcode >= len(self.instructions):
            raise IllegalEncoding(f"opcode {opcode} is above {len(self.instructions) - 1}")
        instruction = self.instructions[opcode]
        for form in instruction.forms:
            if form.operands == (Operand.IMMEDIATE,) and not any(operands[1:]):
                return instruction, form
        count = sum(1 for byte in operands if byte)
        for position, byte in enumerate(operands):
            most = max(len(form.operands) for form in instruction.forms)
            if byte and position >= most:
                raise IllegalEncoding(
                    f"{instruction.name} has no operand {'xyz'[position]}, yet that byte is {byte}"
                )
            if byte and position >= count:
                raise IllegalEncoding(f"operand {'xyz'[operands.index(0)]} is missing")
            if byte > len(REGISTERS):
                raise IllegalEncoding(
                    f"operand {'xyz'[position]} is {byte}, above the last register"
                    f" {len(REGISTERS)} ({REGISTERS[-1]})"
                )
        found = instruction.form_for(count)
        if found is None:
            known = " or ".join(str(len(form.operands)) for form in instruction.forms)
            raise IllegalEncoding(f"{instruction.name} takes {known} operands, not {count}")
        return instruction, found

    def written(self, word: bytes) -> tuple[int, ...]:
        """The fields (offsets in a state) that an instruction writes, the last write last.

        Empty for four bytes that are no instruction.
        """
        return self._fields(word, lambda form: (form.dest, form.echo))

    def read(self, word: bytes) -> tuple[int, ...]:
        """The fields that an instruction reads as operands; none if it is no instruction."""
        return self._fields(word, lambda form: (form.a, form.b))

    def _fields(self, word: bytes, places: Callable[[Form], Iterable[Place]]) -> tuple[int, ...]:
        try:
            _, form = self.decode(word)
        except IllegalEncoding:
            return ()
        fields = (place_field(word, place) for place in places(form))
        return tuple(field for field in fields if field is not None)


def place_field(word: bytes, place: Place) -> int | None:
    """The field of a state (its offset) that a place is in an instruction, if it is one."""
    if place is Place.ACC:
        return ACC
    operands = dict(zip((Place.X, Place.Y, Place.Z), word[1:], strict=True))
    return FIRST_REGISTER - 1 + operands[place] if place in operands else None


def source_field(word: bytes, place: Place) -> int | None:
    """The field from which an instruction in IR reads a place: as `place_field`, or IR1, where
    a constant stands."""
    return IR + 1 if place is Place.IMMEDIATE else place_field(word, place)


class IllegalEncoding(ValueError):
    """Four bytes that are no canonical instruction; the text is the reason."""


def _rotate_left(a: int, _: int) -> int:
    return (a << 1 | a >> 7) & 0xFF


def _rotate_right(a: int, _: int) -> int:
    return (a >> 1 | a << 7) & 0xFF


def _build() -> InstructionSet:
    rows: list[tuple[str, Iterable[Form], str, Callable[[int, int], int]]] = [
        ("HLT", _HALT, "stop", lambda a, b: 0),
        ("CLR", _ACC_OR_REGISTER, "set to 0", lambda a, b: 0),
        ("INC", _ACC_OR_REGISTER, "add 1, at most 255", lambda a, b: min(a + 1, 255)),
        ("DEC", _ACC_OR_REGISTER, "subtract 1, at least 0", lambda a, b: max(a - 1, 0)),
        ("SHL", _ACC_OR_REGISTER, "shift left one bit", lambda a, b: a << 1 & 0xFF),
        ("SHR", _ACC_OR_REGISTER, "shift right one bit", lambda a, b: a >> 1),
        ("ROL", _ACC_OR_REGISTER, "rotate left one bit", _rotate_left),
        ("ROR", _ACC_OR_REGISTER, "rotate right one bit", _rotate_right),
        ("NOT", _ACC_OR_REGISTER, "complement every bit", lambda a, b: a ^ 0xFF),
        ("PUSH", (_form("R", "x", "-", "ACC"),), "copy register to ACC", lambda a, b: a),
        ("POP", (_form("R", "ACC", "-", "x"),), "copy ACC to register", lambda a, b: a),
        ("LOADI", (_form("imm", "imm", "-", "ACC"),), "load a constant", lambda a, b: a),
        (
            "SWAP",
            (_form("R", "ACC", "x", "ACC", echo="x"), _form("R R", "x", "y", "x", echo="y")),
            "exchange two places",
            lambda a, b: b,
        ),
        ("ADD", _BINARY, "add, at most 255", lambda a, b: min(a + b, 255)),
        ("SUB", _BINARY, "subtract, at least 0", lambda a, b: max(a - b, 0)),
        ("MUL", _BINARY, "multiply, at most 255", lambda a, b: min(a * b, 255)),
        ("DIV", _BINARY, "divide, rounding down; by 0: 255", lambda a, b: a // b if b else 255),
        ("AND", _BINARY, "bitwise and", lambda a, b: a & b),
        ("OR", _BINARY, "bitwise or", lambda a, b: a | b),
        ("XOR", _BINARY, "bitwise exclusive or", lambda a, b: a ^ b),
        ("MOV", (_form("R R", "y", "-", "x"),), "copy second to first", lambda a, b: a),
    ]
    return InstructionSet(
        tuple(
            Instruction(opcode, name, tuple(forms), doc, compute, halts=name == "HLT")
            for opcode, (name, forms, doc, compute) in enumerate(rows)
        )
    )


ISA = _build()
"""The CPU's instruction set: 21 types, 43 forms beside HLT."""
