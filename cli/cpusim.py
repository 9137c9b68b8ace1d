"""The `cpusim` program: parse, call, print."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.group import CommandGroup, say
from cli.options import (
    FILE,
    LAYOUTS,
    distribution_option,
    force_option,
    json_option,
    length_options,
    max_steps_option,
    seed_option,
    start_options,
    start_state,
)
from cpusim import __version__
from cpusim.assembler import assemble_file, disassemble, program_slots
from cpusim.errors import UserError
from cpusim.files import atomic_write, refuse_existing
from cpusim.isa import SLOTS
from cpusim.loader import load_program, load_trace, source_file
from cpusim.reference import Run, Stop
from cpusim.reference import run as run_reference

if TYPE_CHECKING:
    from cpusim.dataset import Layout
    from cpusim.programs import Distribution

# Only what is cheap stands above: rich, numpy, numba and torch are imported by the
# commands that use them, so that the others start at once.


@click.group(
    cls=CommandGroup,
    lazy={
        "compare": "cli.compare:compare",
        "debug": "cli.debug:debug",
        "inject": "cli.inject:inject",
        "diagnose": "cli.diagnose:diagnose",
        "fuzz": "cli.fuzz:fuzz",
        "conformance": "cli.conformance:conformance",
    },
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
    """Assemble text into a memory image.

    The image is the whole memory, 1,024 bytes. One instruction a line; commas between
    operands are optional; a comment starts with ; or #. `cpusim isa` lists the instructions.

    \b
    Examples:
      cpusim asm examples/sort.s -o sort.bin
      cpusim asm examples/sort.s -o sort.bin --force
    """
    refuse_existing(output, force=force, sources=[source])
    memory = assemble_file(source)
    with atomic_write(output, force=force) as file:
        file.write(memory)
    _notice(f"wrote {output}: {_count(program_slots(memory), 'instruction')}")


@main.command()
@click.argument("file", type=FILE)
def disasm(file: Path) -> None:
    """Print the program that a file holds.

    FILE is a memory image, a trace, or assembly (.s), which is tidied. The output assembles
    back to the same memory. Four bytes that are no instruction print as .byte; the zeros
    after the program, which are HLT, print as one HLT.

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
    "--format",
    "style",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print the states.",
)
@click.option("--trace", type=FILE, metavar="OUT.bin", help="Also write memory and all states.")
@start_options
@max_steps_option("Give up on a program that has not stopped by then.")
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
        refuse_existing(trace, force=force, sources=[source_file(file)])
    program = load_program(file)
    state = start_state(program.state, acc, registers, random_state)
    result = run_reference(program.memory, state, max_steps=max_steps)
    halted = result.stop is Stop.HALTED
    if halted and trace is not None:
        # Before the states are printed: their reader may go away after a few.
        with atomic_write(trace, force=force) as out:
            out.write(program.memory + b"".join(result.records))
    _print_run(file, result, style)
    if not halted:
        raise UserError(_why_stopped(file, result))
    if trace is not None:
        _notice(f"wrote {trace}: {_count(len(result.records), 'state')}")


@main.command()
@click.argument("file", metavar="TRACE", type=FILE)
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Print the states that a trace recorded.

    TRACE is a trace file, or one of a packed shard's traces, such as '00000.shard[17]'.
    Nothing is run: `cpusim verify` says whether the CPU goes through the same states.

    \b
    Examples:
      cpusim inspect trace.bin
      cpusim inspect 'data/train/00000.shard[17]'
      cpusim inspect trace.bin --json
    """
    trace = load_trace(file)
    from cli import render

    records = [bytes(record) for record in trace.records]
    program = disassemble(trace.memory)
    if as_json:
        report = {
            "file": str(file),
            "steps": len(records) - 1,
            "program": program,
            "states": render.states_json(records),
        }
        click.echo(json.dumps(report))
        return
    console = render.stdout()
    console.print(
        f"{file}: {_count(len(program), 'instruction')} in memory,"
        f" {_count(len(records) - 1, 'step')} recorded\n"
    )
    for line in render.state_lines(records):
        console.print(line)
    console.print(render.STATE_LEGEND, style=render.QUIET)


@main.command()
@click.argument("paths", metavar="PATH...", type=FILE, nargs=-1, required=True)
@json_option
def verify(paths: tuple[Path, ...], as_json: bool) -> None:
    """Run every trace again from its first state, and compare.

    PATH is a trace file, a packed shard, or a folder with all below it. For each trace that
    differs, its first wrong record and field are printed; a length that differs counts too.

    Exit code: 0 all are right, 1 some differ, 2 some could not be read.

    \b
    Examples:
      cpusim verify trace.bin
      cpusim verify data --json
    """
    from cli import render
    from cpusim.dataset import verify as verify_traces

    with render.progress("verifying", "files") as progress:
        report = verify_traces(paths, progress=progress)
    if as_json:
        totals = {
            "files": report.files,
            "traces": report.traces,
            "records": report.records,
            "failures": [asdict(failure) for failure in report.failures],
            "errors": report.errors,
        }
        click.echo(json.dumps(totals, default=str))
    else:
        console = render.stdout()
        for failure in report.failures:
            console.print(str(failure), style=render.WRONG)
        right = report.traces - len(report.failures)
        console.print(
            f"{right:,} of {_count(report.traces, 'trace')} right:"
            f" {_count(report.records, 'state')} in {_count(report.files, 'file')}"
        )
    if report.errors:
        raise UserError("\n".join(report.errors))
    if report.failures:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("out", metavar="OUT", type=FILE)
@click.option(
    "--count",
    type=click.IntRange(min=0),
    metavar="N",
    default=10_000,
    show_default=True,
    help="Training traces.",
)
@click.option(
    "--test-count",
    type=click.IntRange(min=0),
    metavar="N",
    default=100,
    show_default=True,
    help="Test traces.",
)
@length_options("program")
@distribution_option(
    "published: the recipe of the bGPT authors, whose values soon saturate."
    " uniform: operands stay uniform at every depth. mixed: half of each.",
)
@seed_option("Same seed and options, same bytes.", metavar="N", default=0, seeds=2**64)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="shards",
    show_default=True,
    help="A few packed shards, or one .bin file a trace, as published.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes; changes the time, never the bytes. Default: one a core.",
)
@click.option("--force", is_flag=True, help="Replace another set in OUT.")
@json_option
def generate(
    out: Path,
    count: int,
    test_count: int,
    min_length: int,
    max_length: int,
    distribution: Distribution,
    seed: int,
    layout: Layout,
    workers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Generate random programs and their traces.

    They are written to OUT/train and OUT/test, which share no instance. Interrupted, it
    leaves no half-written file, and the same command goes on where it stopped.

    \b
    Examples:
      cpusim generate data
      cpusim generate data --count 2100000 --test-count 21000 --workers 2
      cpusim generate data --distribution uniform --max-length 24 --seed 7
      cpusim generate data --count 100 --layout files
    """
    from cli import render
    from cpusim.dataset import generate_set

    with render.progress("generating", "traces") as progress:
        report = generate_set(
            out,
            count=count,
            test_count=test_count,
            min_length=min_length,
            max_length=max_length,
            distribution=distribution,
            seed=seed,
            layout=layout,
            workers=workers or _cores(),
            force=force,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    console = render.stdout()
    console.print(
        f"{out}: {report.train:,} train and {_count(report.test, 'test trace')},"
        f" {_count(report.records, 'state')}, {report.bytes / 1e6:,.1f} MB,"
        f" in {report.seconds:,.1f} s"
    )
    if report.resumed:
        console.print(f"{_count(report.resumed, 'trace')} of them were there already")
    console.print(f"train and test share {_count(report.overlap, 'instance')}")
    if report.duplicates:
        console.print(f"{_count(report.duplicates, 'instance')} of a part occur in it before")


@main.command()
@click.argument("source", metavar="SHARD|FOLDER", type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
@force_option
def export(source: Path, out: Path, force: bool) -> None:
    """Unpack shards into one .bin file a trace.

    The files are named by number, in folders like those of the shards.

    \b
    Examples:
      cpusim export data data-files
      cpusim export data/test/00000.shard test-files --force
    """
    from cli import render
    from cpusim.dataset import export as export_traces

    with render.progress("exporting", "traces") as progress:
        written = export_traces(source, out, force=force, progress=progress)
    _notice(f"wrote {_count(written, 'trace')} to {out}")


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


def _cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _notice(text: str) -> None:
    """What was done, on stderr: stdout holds results alone."""
    say(text, sys.stderr)
