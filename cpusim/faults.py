"""Faulty machines: the CPU with faults put into it, and where they first show.

A fault is written `KIND:WHAT`. PLACE is a byte of the state, by its name in `isa.FIELDS`;
BIT 0 is its lowest. OP is the name of an instruction, all of its forms.

`stuck:PLACE.BIT=0|1`
    The bit cannot change: whatever is written to the place, what is stored, recorded and later
    read has this bit. It acts from record 1 on. Record 0 is the state that the machine is
    given, so the clean and the faulty run always start alike.
`flip:PLACE.BIT@STEP`
    Once, just before record STEP (1, 2, ...) is recorded, the bit turns over. The instruction
    in that record, and all after it, read the flipped value.
`swap-opcode:OP=OP2`
    The decoder takes OP for OP2: records and memory show OP, but OP2 is done with its operands.
    Where OP2 has no form for them, that is an illegal instruction, and the machine stops. For
    an exchange of both, give `swap-opcode:OP2=OP` as well.
`off-by-one:OP=+1|-1` (`off-by-one:OP` is `=+1`)
    The result is one more or one less, modulo 256. SWAP's other operand is not touched.
`no-saturation:OP`
    The result of INC, DEC, ADD, SUB or MUL is taken modulo 256 instead of kept within 0..255.

A swapped opcode chooses the unit that computes, the last two kinds sit in a unit: if ADD is
taken for SUB, `off-by-one:SUB` spoils both and `off-by-one:ADD` none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from cpusim.errors import UserError, nearest
from cpusim.isa import (
    FIELDS,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    Instruction,
    InstructionSet,
)
from cpusim.reference import DEFAULT_MAX_STEPS, Run, Stop, run

# --- the faults ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StuckBit:
    """`field`: offset in a state. `bit`: 0 (lowest) to 7. `value`: 0 or 1."""

    kind: ClassVar[str] = "stuck"
    field: int
    bit: int
    value: int

    def __str__(self) -> str:
        return f"{self.kind}:{FIELDS[self.field]}.{self.bit}={self.value}"

    @property
    def in_words(self) -> str:
        return f"bit {self.bit} of {FIELDS[self.field]} is stuck at {self.value}"

    def apply(self, byte: int) -> int:
        """What the place holds after `byte` was written to it."""
        mask = 1 << self.bit
        return byte | mask if self.value else byte & ~mask


@dataclass(frozen=True)
class BitFlip:
    """`field`, `bit` as in `StuckBit`. `step`: the first record that shows it, 1 or more."""

    kind: ClassVar[str] = "flip"
    field: int
    bit: int
    step: int

    def __str__(self) -> str:
        return f"{self.kind}:{FIELDS[self.field]}.{self.bit}@{self.step}"

    @property
    def in_words(self) -> str:
        return f"bit {self.bit} of {FIELDS[self.field]} flipped before record {self.step:,}"


@dataclass(frozen=True)
class SwappedOpcode:
    """`name`: the instruction that is taken for `executes`."""

    kind: ClassVar[str] = "swap-opcode"
    name: str
    executes: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}={self.executes}"

    @property
    def in_words(self) -> str:
        return f"{self.name} executes as {self.executes}"


@dataclass(frozen=True)
class OffByOne:
    """`by`: +1 or -1."""

    kind: ClassVar[str] = "off-by-one"
    name: str
    by: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}={self.by:+}"

    @property
    def in_words(self) -> str:
        return f"{self.name} gives one {'more' if self.by > 0 else 'less'}"


@dataclass(frozen=True)
class NoSaturation:
    """`name`: one of `BOUNDS`."""

    kind: ClassVar[str] = "no-saturation"
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def in_words(self) -> str:
        return f"{self.name} does not saturate"


Fault = StuckBit | BitFlip | SwappedOpcode | OffByOne | NoSaturation
KINDS = tuple(kind.kind for kind in (StuckBit, BitFlip, SwappedOpcode, OffByOne, NoSaturation))

_UNBOUNDED: Mapping[str, Callable[[int, int], int]] = {
    "INC": lambda a, b: a + 1,
    "DEC": lambda a, b: a - 1,
    "ADD": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "MUL": lambda a, b: a * b,
}
BOUNDS: Mapping[str, int] = {"INC": 255, "DEC": 0, "ADD": 255, "SUB": 0, "MUL": 255}
"""The instructions that saturate, and the value at which they do."""


def every_fault(kind: str, *, steps: Iterable[int] = (), isa: InstructionSet = ISA) -> list[Fault]:
    """Every fault of a kind; flips at these steps only."""
    bits = [(field, bit) for field in range(len(FIELDS)) for bit in range(8)]
    working = [i.name for i in isa.instructions if not i.halts]
    faults: dict[str, Iterator[Fault]] = {
        "stuck": (StuckBit(*place, value) for place in bits for value in (0, 1)),
        "flip": (BitFlip(*place, step) for step in steps for place in bits),
        "swap-opcode": (
            SwappedOpcode(name, executes)
            for name in isa.by_name
            for executes in isa.by_name
            if name != executes
        ),
        "off-by-one": (OffByOne(name, by) for name in working for by in (1, -1)),
        "no-saturation": (NoSaturation(name) for name in BOUNDS),
    }
    return list(faults[kind])


# --- how they are written ------------------------------------------------------------------------

_SYNTAX = {
    "stuck": ("PLACE.BIT=0|1", "C.3=1", r"(?P<place>\w+)\.(?P<bit>[0-7])=(?P<value>[01])"),
    "flip": (
        "PLACE.BIT@STEP",
        "B.7@12",
        r"(?P<place>\w+)\.(?P<bit>[0-7])@(?P<step>[1-9]\d{0,8})",
    ),
    "swap-opcode": ("OP=OP", "ADD=SUB", r"(?P<op>\w+)=(?P<op2>\w+)"),
    "off-by-one": ("OP=+1|-1", "MUL=-1", r"(?P<op>\w+)(=(?P<by>[+-]1))?"),
    "no-saturation": ("OP", "ADD", r"(?P<op>\w+)"),
}
GRAMMAR = ", ".join(f"{kind}:{syntax}" for kind, (syntax, _, _) in _SYNTAX.items())


def parse_fault(text: str, *, isa: InstructionSet = ISA) -> Fault:
    """The fault that a text such as `stuck:C.3=1` names; names in either case.

    Raises `UserError` that shows how faults are written.
    """
    kind, _, what = text.strip().partition(":")
    kind = kind.lower()
    if kind not in _SYNTAX:
        close = nearest(kind, _SYNTAX)
        hint = f"did you mean {close}? " if close else ""
        raise UserError(
            f"fault {text!r}: {kind!r} is no kind of fault; {hint}the kinds are {GRAMMAR}"
        )
    syntax, example, pattern = _SYNTAX[kind]
    match = re.fullmatch(pattern, what, re.ASCII | re.IGNORECASE)
    if match is None:
        raise UserError(
            f"fault {text!r}: write {kind}:{syntax}, such as {kind}:{example}"
            + ("; bits count from 0, the lowest, to 7" if "BIT" in syntax else "")
            + ("; steps from 1" if "STEP" in syntax else "")
        )
    parts = match.groupdict()
    if kind in ("stuck", "flip"):
        field, bit = _field(text, parts["place"]), int(parts["bit"])
        if kind == "stuck":
            return StuckBit(field, bit, int(parts["value"]))
        return BitFlip(field, bit, int(parts["step"]))
    name = _instruction(text, parts["op"], isa)
    if kind == "swap-opcode":
        executes = _instruction(text, parts["op2"], isa)
        if executes == name:
            raise UserError(f"fault {text!r}: {name} executes as {name} anyway; name two")
        return SwappedOpcode(name, executes)
    if kind == "off-by-one":
        if isa.by_name[name].halts:
            raise UserError(f"fault {text!r}: {name} has no result that could be off by one")
        return OffByOne(name, int(parts["by"] or 1))
    if name not in BOUNDS:
        raise UserError(f"fault {text!r}: {name} never saturates; {', '.join(BOUNDS)} do")
    return NoSaturation(name)


def _field(text: str, name: str) -> int:
    if name.upper() in FIELDS:
        return FIELDS.index(name.upper())
    close = nearest(name, FIELDS)
    hint = f"did you mean {close}?" if close else f"write one of {', '.join(FIELDS)}"
    raise UserError(f"fault {text!r}: {name!r} is no byte of the state; {hint}")


def _instruction(text: str, name: str, isa: InstructionSet) -> str:
    if name.upper() in isa.by_name:
        return name.upper()
    close = nearest(name, isa.by_name)
    hint = f"did you mean {close}?" if close else "`cpusim isa` lists them all"
    raise UserError(f"fault {text!r}: {name!r} is no instruction; {hint}")


# --- the machine that has them -------------------------------------------------------------------


def run_faulty(
    memory: bytes,
    state: bytes,
    faults: Sequence[Fault],
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
    isa: InstructionSet = ISA,
) -> Run:
    """Run a program as `reference.run` does, on a machine with these faults.

    Raises `UserError` if two of them contradict each other or are the same.
    """
    _refuse_contradictions(faults)
    return run(
        memory,
        state,
        max_steps=max_steps,
        isa=faulty_table(faults, isa),
        disturb=_disturbance(faults),
    )


def _refuse_contradictions(faults: Sequence[Fault]) -> None:
    known: dict[tuple[object, ...], Fault] = {}
    for fault in faults:
        match fault:
            case StuckBit(field, bit):
                what: tuple[object, ...] = (fault.kind, field, bit)
            case BitFlip(field, bit, step):
                what = (fault.kind, field, bit, step)
            case _:
                what = (fault.kind, fault.name)
        if what in known:
            raise UserError(
                f"faults {known[what]} and {fault}: a machine has one of them, not both"
            )
        known[what] = fault


def faulty_table(faults: Sequence[Fault], isa: InstructionSet = ISA) -> InstructionSet:
    """The instruction table of a machine with these faults; stuck bits and flips are not in it."""
    units = {i.name: _faulty_unit(i, faults) for i in isa.instructions}
    decoder = {f.name: f.executes for f in faults if isinstance(f, SwappedOpcode)}
    rows = []
    for instruction in isa.instructions:
        unit = units[decoder.get(instruction.name, instruction.name)]
        rows.append(replace(instruction, forms=unit.forms, compute=unit.compute, halts=unit.halts))
    return InstructionSet(tuple(rows))


def _faulty_unit(instruction: Instruction, faults: Sequence[Fault]) -> Instruction:
    compute = instruction.compute
    if NoSaturation(instruction.name) in faults:
        compute = _UNBOUNDED[instruction.name]
    by = sum(f.by for f in faults if isinstance(f, OffByOne) and f.name == instruction.name)
    return replace(instruction, compute=lambda a, b: compute(a, b) + by & 0xFF)


def _disturbance(faults: Sequence[Fault]) -> Callable[[int, bytes], bytes]:
    flips: dict[int, list[BitFlip]] = {}
    for fault in faults:
        if isinstance(fault, BitFlip):
            flips.setdefault(fault.step, []).append(fault)
    stuck = [fault for fault in faults if isinstance(fault, StuckBit)]

    def disturb(step: int, record: bytes) -> bytes:
        state = bytearray(record)
        for flip in flips.get(step, ()):
            state[flip.field] ^= 1 << flip.bit
        for bit in stuck:
            state[bit.field] = bit.apply(state[bit.field])
        return bytes(state)

    return disturb


# --- what it shows -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Injection:
    """A program run on a faulty machine, and on a healthy one.

    `first_visible`: the first record that differs, which may be the one where only one of the
    two goes on; None if the runs are the same, and the faults never show.
    """

    faults: tuple[Fault, ...]
    clean: Run
    faulty: Run
    first_visible: int | None

    @property
    def fields(self) -> tuple[int, ...]:
        """What differs in the first visible record; nothing if one of the runs has ended."""
        step, runs = self.first_visible, (self.clean.records, self.faulty.records)
        if step is None or step >= min(map(len, runs)):
            return ()
        clean, faulty = runs[0][step], runs[1][step]
        return tuple(f for f in range(len(FIELDS)) if clean[f] != faulty[f])

    @property
    def executed(self) -> bytes | None:
        """The instruction before the first visible record, whose result that record shows."""
        if self.first_visible is None or self.first_visible == 1:
            return None
        return self.faulty.records[self.first_visible - 1][IR : IR + INSTRUCTION_SIZE]


def inject(
    memory: bytes,
    state: bytes,
    faults: Sequence[Fault],
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
    isa: InstructionSet = ISA,
    name: str = "the program",
) -> Injection:
    """Run a program on a machine with these faults, and find where they first show.

    Raises `UserError` if the program, called `name`, does not halt on a healthy machine, or as
    `run_faulty` does.
    """
    clean = run(memory, state, max_steps=max_steps, isa=isa)
    if clean.stop is not Stop.HALTED:
        why = clean.reason or f"there is no HLT within {max_steps:,} steps"
        raise UserError(f"{name}: does not halt on a healthy machine either: {why}")
    faulty = run_faulty(memory, state, faults, max_steps=max_steps, isa=isa)
    first = next(
        (
            step
            for step, (a, b) in enumerate(zip(clean.records, faulty.records, strict=False))
            if a != b
        ),
        None,
    )
    if first is None and len(clean.records) != len(faulty.records):
        first = min(len(clean.records), len(faulty.records))
    return Injection(tuple(faults), clean, faulty, first)
