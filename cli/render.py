"""How states and tables look: on a terminal of 80 columns, without colour, in a pipe, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from cpusim.assembler import disassemble_word
from cpusim.files import visible
from cpusim.isa import (
    ACC,
    FIRST_REGISTER,
    INSTRUCTION_SIZE,
    IR,
    ISA,
    PC,
    REGISTERS,
    Form,
    IllegalEncoding,
    InstructionSet,
    Operand,
    Place,
)

HEADING = "bold"
CHANGED = "bold green"
WRONG = "bold red"
QUIET = "dim"

_VALUES = {"ACC": ACC} | {name: FIRST_REGISTER + i for i, name in enumerate(REGISTERS)}
"""The fields that instructions compute, each with its byte offset in a state."""
_ALIKE = 3  # this many equal states in a row or more are shown as one


class _Console(Console):
    """Rich's, but that a terminal is steered by no file's name."""

    def on_broken_pipe(self) -> None:
        """Rich would end the program here; `CommandGroup` knows the exit code."""
        raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        shown = list(objects)
        for place, given in enumerate(objects):
            if self.is_terminal and isinstance(given, Text):
                shown[place] = given.copy()
                shown[place].plain = visible(given.plain)
        super().print(*shown, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text) if self.is_terminal else text, **options)


def stdout() -> Console:
    """The console for results: plain text in a pipe and with NO_COLOR."""
    return _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def stderr() -> Console:
    """The console for notices and progress, so that stdout holds results alone."""
    return _Console(highlight=False, soft_wrap=True, markup=False, emoji=False, stderr=True)


@contextmanager
def progress(doing: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if that is a terminal: call it with how many of how many."""
    console = stderr()
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(doing),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[counted]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=None, counted="")

        def update(done: int, total: int) -> None:
            counted = f"{done:,} of {total:,} {unit}"
            speed = bar.tasks[task].speed
            if speed:
                counted += f", {speed:,.0f}/s"
            bar.update(task, completed=done, total=total, counted=counted)

        yield update


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 step`, `2,000 steps`; `plural` where an s is not enough."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def instruction_text(record: bytes, isa: InstructionSet = ISA) -> Text:
    """The instruction in a record's IR; four hexadecimal bytes if it is none."""
    word = record[IR : IR + INSTRUCTION_SIZE]
    try:
        isa.decode(word)
    except IllegalEncoding:
        return Text(word.hex(" "), style=WRONG)
    return Text(disassemble_word(word, isa))


def changed_fields(before: bytes, after: bytes) -> list[str]:
    """ACC and the registers that differ between two states."""
    return [name for name, offset in _VALUES.items() if before[offset] != after[offset]]


def state_lines(
    records: Sequence[bytes], isa: InstructionSet = ISA, *, first: int = 0
) -> Iterator[Text]:
    """A table of a run's states, a line each, 77 columns wide; `first` numbers the first.

    What differs from the state above is bold and marked `*`, so that it shows without
    colour too. Equal states in a row, as a program without HLT gives, become one line.
    """
    digits = max(4, len(str(first + len(records) - 1)))
    columns = "".join(f"{name:>4} " for name in _VALUES)
    yield Text(f"{'step':>{digits}}   PC  {'instruction':<12}{columns}".rstrip(), style=HEADING)
    step = first
    before = records[0]
    for record, group in groupby(records):
        count = sum(1 for _ in group)
        for _ in range(1 if count >= _ALIKE else count):
            yield _state_line(step, digits, before, record, isa)
            before = record
            step += 1
        if count >= _ALIKE:
            step += count - 1
            yield Text(
                f"{'...':>{digits}}  the same {count - 1:,} times more, up to step {step - 1:,}",
                style=QUIET,
            )


def _state_line(step: int, digits: int, before: bytes, record: bytes, isa: InstructionSet) -> Text:
    line = Text()
    line.append(f"{step:>{digits}}", style=QUIET)
    line.append(f"  {record[PC]:>3}  ")
    instruction = instruction_text(record, isa) if step else Text("(start)", style=QUIET)
    instruction.align("left", 12)
    line.append_text(instruction)
    changed = changed_fields(before, record)
    for name, offset in _VALUES.items():
        value = record[offset]
        if name in changed:
            line.append(f"{value:>4}*", style=CHANGED)
        else:
            line.append(f"{value:>4} ", style="" if value else QUIET)
    line.rstrip()
    return line


STATE_LEGEND = "* changed by the instruction in the line above"


def states_json(records: Sequence[bytes], isa: InstructionSet = ISA) -> list[dict[str, Any]]:
    """The same states as JSON values."""
    states = []
    before = records[0]
    for step, record in enumerate(records):
        ir = record[IR : IR + INSTRUCTION_SIZE]
        states.append(
            {
                "step": step,
                "pc": record[PC],
                "ir": list(ir),
                "instruction": disassemble_word(ir, isa) if step else None,
                "acc": record[ACC],
                "registers": {name: record[_VALUES[name]] for name in REGISTERS},
                "changed": changed_fields(before, record),
            }
        )
        before = record
    return states


def isa_lines(isa: InstructionSet = ISA) -> Iterator[Text]:
    """The instruction table: a line for each form."""
    yield Text(f"{'opcode':>6}   {'instruction':<11}   {'reads -> writes':<16}   effect", HEADING)
    for instruction in isa.instructions:
        for row, form in enumerate(instruction.forms):
            opcode = "" if row else str(instruction.opcode)
            effect = "" if row else instruction.doc
            written = " ".join((instruction.name, *_operands(form)))
            flow = f"{', '.join(_reads(form))} -> {', '.join(_writes(form))}"
            if not _writes(form):
                flow = ""
            yield Text(f"{opcode:>6}   {written:<11}   {flow:<16}   {effect}".rstrip())


ISA_LEGEND = f"""\
x, y, z   registers {REGISTERS[0]}..{REGISTERS[-1]}, encoded 1..{len(REGISTERS)}
imm       a number from 0 to 255, in decimal, 0x hexadecimal or 0b binary
An instruction is four bytes [opcode, x, y, z]; a byte its form leaves out is 0."""


def isa_json(isa: InstructionSet = ISA) -> list[dict[str, Any]]:
    """The instruction table as JSON values."""
    return [
        {
            "opcode": instruction.opcode,
            "name": instruction.name,
            "effect": instruction.doc,
            "halts": instruction.halts,
            "forms": [
                {
                    "operands": list(form.operands),
                    "reads": list(_reads(form)),
                    "writes": list(_writes(form)),
                }
                for form in instruction.forms
            ],
        }
        for instruction in isa.instructions
    ]


def _operands(form: Form) -> list[str]:
    return [
        "imm" if kind is Operand.IMMEDIATE else name
        for kind, name in zip(form.operands, "xyz", strict=False)
    ]


def _reads(form: Form) -> list[str]:
    return [place.value for place in (form.a, form.b) if place is not Place.NOWHERE]


def _writes(form: Form) -> list[str]:
    return [place.value for place in (form.dest, form.echo) if place is not Place.NOWHERE]
