"""`cpusim inject`: traces of faulty machines. Parse, call, print; the faults are defined in
`cpusim.faults`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cli.options import (
    FILE,
    force_option,
    json_option,
    max_steps_option,
    start_options,
    start_state,
)
from cpusim.assembler import disassemble_word
from cpusim.faults import Injection, parse_fault
from cpusim.faults import inject as run_on_faulty
from cpusim.files import atomic_write, refuse_existing
from cpusim.isa import FIELDS, FIRST_REGISTER, IR, PC
from cpusim.loader import load_program, source_file
from cpusim.reference import Stop

_FETCHED = {PC, *range(IR, FIRST_REGISTER)}
_SHOWN = 4


@click.command()
@click.argument("file", metavar="PROGRAM|TRACE", type=FILE)
@click.option(
    "--fault",
    "faults",
    metavar="FAULT",
    multiple=True,
    required=True,
    help="What is wrong with the machine; may be given several times.",
)
@click.option("-o", "--output", type=FILE, metavar="OUT.bin", required=True, help="The trace.")
@start_options
@max_steps_option("Record a machine that never halts no further.")
@json_option
@force_option
def inject(
    file: Path,
    faults: tuple[str, ...],
    output: Path,
    acc: int | None,
    registers: dict[str, int],
    random_state: int | None,
    max_steps: int,
    as_json: bool,
    force: bool,
) -> None:
    """Run a program on a faulty machine and write the trace.

    PROGRAM is assembly (.s) or a memory image; of a TRACE, memory and first record are used.
    Printed is the first record in which the fault shows, if it does.

    \b
    A FAULT is one of
      stuck:C.3=1           bit 3 of C (bit 0 is the lowest) is 1 from record 1 on
      flip:B.7@12           bit 7 of B turns over, once, before record 12
      swap-opcode:ADD=SUB   ADD executes as SUB
      off-by-one:MUL=-1     the result of MUL is one less (=+1: more), modulo 256
      no-saturation:ADD     ADD (or INC, DEC, SUB, MUL) wraps modulo 256

    Any byte of the state can be hit: PC, ACC, IR0 to IR3, A to J. Record 0 is the state
    that the machine is given, and never faulty.

    \b
    Examples:
      cpusim inject examples/divide.s --fault stuck:A.0=1 -o faulty.bin
      cpusim inject run.bin --fault flip:B.7@12 --fault off-by-one:INC -o two.bin
      cpusim inject '00000.shard[17]' --fault no-saturation:ADD -o w.bin --json
    """
    chosen = [parse_fault(text) for text in faults]
    refuse_existing(output, force=force, sources=[source_file(file)])
    program = load_program(file)
    state = start_state(program.state, acc, registers, random_state)
    result = run_on_faulty(program.memory, state, chosen, max_steps=max_steps, name=str(file))
    with atomic_write(output, force=force) as out:
        out.write(program.memory + b"".join(result.faulty.records))
    if as_json:
        click.echo(json.dumps({"file": str(file), "output": str(output), **_as_json(result)}))
    else:
        click.echo(_in_words(result))
    click.echo(f"wrote {output}: {len(result.faulty.records):,} states", err=True)


def _in_words(result: Injection) -> str:
    specs = ", ".join(map(str, result.faults))
    step = result.first_visible
    if step is None:
        return f"{specs}: never shows here, the trace is that of a healthy machine"
    said = f"{specs}: first shows in record {step:,}"
    if not result.fields:
        stops = len(result.faulty.records) == step
        said += ", which is missing" if stops else ", where the program has ended"
    else:
        clean, faulty = result.clean.records[step], result.faulty.records[step]
        changes = [f"{FIELDS[f]} is {faulty[f]}, not {clean[f]}" for f in result.fields]
        more = len(changes) - _SHOWN
        said += f": {', '.join(changes[:_SHOWN])}" + (f" and {more} more" if more > 0 else "")
    responsible = _responsible(result)
    if responsible == "fetch":
        said += ", as it is fetched"
    else:
        said += f", after {responsible}" if responsible else ", before any instruction"
    if result.faulty.stop is not Stop.HALTED:
        said += f"\nthe faulty machine does not halt; its trace ends at the {result.faulty.stop}"
        if result.faulty.stop is Stop.STEP_LIMIT:
            said += "\n`cpusim diagnose --open` does not take that for a fault"
    return said


def _responsible(result: Injection) -> str | None:
    """The instruction whose result first shows it, if it is not what was fetched that does."""
    if _FETCHED & set(result.fields):
        return "fetch"
    return disassemble_word(result.executed) if result.executed else None


def _as_json(result: Injection) -> dict[str, Any]:
    step = result.first_visible
    return {
        "faults": [str(fault) for fault in result.faults],
        "first_visible": step,
        "responsible": _responsible(result),
        "fields": {
            FIELDS[f]: {
                "healthy": result.clean.records[step][f],
                "faulty": result.faulty.records[step][f],
            }
            for f in result.fields
            if step is not None
        },
        "records": len(result.faulty.records),
        "healthy_records": len(result.clean.records),
        "stop": result.faulty.stop,
    }
