"""The `cpusim` program: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.group import CommandGroup
from cli.options import FILE, force_option, json_option, start_options, start_state
from cpusim import __version__
from cpusim.assembler import assemble_file, disassemble, program_slots
from cpusim.errors import UserError
from cpusim.files import atomic_write, refuse_existing
from cpusim.isa import SLOTS
from cpusim.loader import load_program
from cpusim.reference import DEFAULT_MAX_STEPS, Run, Stop
from cpusim.reference import run as run_reference

# Only what is cheap stands above: rich, numpy, numba and torch are imported by the
# commands that use them, so that the others start at once.


@click.group(
    cls=CommandGroup,
    lazy={"compare": "cli.compare:compare"},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="cpusim")
def main() -> None:
    """A small, exact CPU: assemble, run, trace, verify and generate programs.

    \b
    Examples:
      cpusim isa                                the instructions it knows
      cpusim run examples/fibonacci.s           every state of a program
      cpusim generate data --count 10000        programs and their traces
    """


@main.command()
@click.argument("source", metavar="SRC.s", type=FILE)
@click.option("-o", "--output", type=FILE, metavar="OUT.bin", required=True, help="Memory image.")
@force_option
def asm(source: Path, output: Path, force: bool) -> None:
    """Assemble text into the 1,024-byte memory image.

    One instruction a line; commas between operands are optional; a comment starts with
    ; or #. `cpusim isa` lists the instructions.

    \b
    Examples:
      cpusim asm examples/sort.s -o sort.bin
      cpusim asm examples/sort.s -o sort.bin --force
    """
    refuse_existing(output, force=force)
    memory = assemble_file(source)
    with atomic_write(output, force=force) as file:
        file.write(memory)
    _notice(f"wrote {output}: {_count(program_slots(memory), 'instruction')}")


@main.command()
@click.argument("file", type=FILE)
def disasm(file: Path) -> None:
    """Print the program of a memory image, a trace or an assembly file.

    The output assembles back to the same memory. Four bytes that are no instruction print
    as .byte; the zeros after the program, which are HLT, print as one HLT.

    \b
    Examples:
      cpusim disasm sort.bin
      cpusim disasm trace.bin > program.s
    """
    click.echo("\n".join(disassemble(load_program(file).memory)))


@main.command()
@json_option
def isa(as_json: bool) -> None:
    """Print the instruction table.

    \b
    Examples:
      cpusim isa
      cpusim isa --json
    """
    from cli import render

    if as_json:
        click.echo(json.dumps(render.isa_json(), indent=2))
        return
    console = render.stdout()
    for line in render.isa_lines():
        console.print(line)
    console.print(f"\n{render.ISA_LEGEND}")


@main.command()
@click.argument("file", type=FILE)
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@click.option("--trace", type=FILE, metavar="OUT.bin", help="Also write memory and all states.")
@start_options
@click.option(
    "--max-steps",
    type=click.IntRange(1, 1_000_000),
    default=DEFAULT_MAX_STEPS,
    show_default=True,
    help="Give up on a program that has not stopped by then.",
)
@force_option
def run(
    file: Path,
    style: str,
    trace: Path | None,
    acc: int | None,
    registers: dict[str, int],
    random_state: int | None,
    max_steps: int,
    force: bool,
) -> None:
    """Run a program and print every state it goes through.

    FILE is assembly (.s), a memory image (at most 1,024 bytes) or a trace, whose memory
    and first state are used. Each line shows the instruction about to execute; what the
    one above it changed is marked with *.

    \b
    Examples:
      cpusim run examples/fibonacci.s
      cpusim run examples/checksum.s --random-state 7
      cpusim run sort.bin --set A=3,B=0x10 --acc 255
      cpusim run sort.bin --trace trace.bin --format json
    """
    if trace is not None:
        refuse_existing(trace, force=force)
    program = load_program(file)
    state = start_state(program.state, acc, registers, random_state)
    result = run_reference(program.memory, state, max_steps=max_steps)
    _print_run(file, result, style)
    if result.stop is not Stop.HALTED:
        raise UserError(_why_stopped(file, result))
    if trace is not None:
        with atomic_write(trace, force=force) as out:
            out.write(program.memory + b"".join(result.records))
        _notice(f"wrote {trace}: {_count(len(result.records), 'state')}")


@main.command()
@click.argument("file", metavar="TRACE", type=FILE)
@click.option(
    "--index", type=click.IntRange(min=0), help="Which trace of a packed shard, counting from 0."
)
@json_option
def inspect(file: Path, index: int | None, as_json: bool) -> None:
    """Print the states that a trace recorded, as they stand in the file.

    Nothing is run: `cpusim verify` says whether the CPU would go through the same states.

    \b
    Examples:
      cpusim inspect trace.bin
      cpusim inspect data/train-00000.shard --index 17
      cpusim inspect trace.bin --json
    """
    from cpusim.trace import is_shard, open_shard, read_trace

    name = str(file)
    if index is not None or (file.is_file() and is_shard(file)):
        shard = open_shard(file)
        if index is None or index >= len(shard):
            raise UserError(
                f"{file}: is a shard of {_count(len(shard), 'trace')};"
                f" choose one with --index 0 to --index {len(shard) - 1}"
            )
        trace = shard.trace(index)
        name = f"{file}[{index}]"
    else:
        trace = read_trace(file)
    from cli import render

    records = [bytes(record) for record in trace.records]
    program = disassemble(trace.memory)
    if as_json:
        states = render.states_json(records)
        report = {"file": name, "steps": len(records) - 1, "program": program, "states": states}
        click.echo(json.dumps(report))
        return
    console = render.stdout()
    console.print(
        f"{name}: {_count(len(program), 'instruction')} in memory,"
        f" {_count(len(records) - 1, 'step')} recorded\n"
    )
    for line in render.state_lines(records):
        console.print(line)
    console.print(render.STATE_LEGEND, style=render.QUIET)


def _print_run(file: Path, result: Run, style: str) -> None:
    from cli import render

    if style == "json":
        report = {
            "file": str(file),
            "stop": result.stop,
            "reason": result.reason,
            "steps": result.steps,
            "states": render.states_json(result.records),
        }
        click.echo(json.dumps(report))
        return
    console = render.stdout()
    for line in render.state_lines(result.records):
        console.print(line)
    console.print(render.STATE_LEGEND, style=render.QUIET)
    if result.stop is Stop.HALTED:
        console.print(f"halted after {_count(result.steps, 'step')}")


def _why_stopped(file: Path, result: Run) -> str:
    if result.stop is Stop.ILLEGAL:
        return f"{file}: {result.reason} (step {result.steps})"
    if result.steps > SLOTS:
        return (
            f"{file}: no HLT in any of the {SLOTS} slots, so the last one repeats for ever;"
            f" stopped after {result.steps:,} steps"
        )
    return f"{file}: no HLT within {_count(result.steps, 'step')}; allow more with --max-steps"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _notice(text: str) -> None:
    """What was done, on stderr: stdout holds results alone."""
    click.echo(text, err=True)
