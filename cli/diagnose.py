"""`cpusim diagnose`: a byte model as the diagnostician of a machine. Parse, call, print; how it
finds faults stands in `bytemodel.diagnose`, how they look in `cli.diagnosis`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.text import Text

from cli import render
from cli.options import (
    FILE,
    STDOUT,
    checkpoint_file,
    cpu_model_option,
    dtype_option,
    write_json,
)
from cli.peers import model_stepper, recordings
from cpusim.errors import UserError
from cpusim.files import atomic_write, entry, refuse_unwritable
from cpusim.loader import source_file
from cpusim.lockstep import Case

if TYPE_CHECKING:
    from bytemodel.cpu import ByteModelStepper
    from bytemodel.diagnose import Diagnosis
    from cpusim.lockstep import Verifier

# Torch is imported by what needs it: --help is quick, and a wrong name is refused at once.

_TOGETHER = 256
"""Traces diagnosed at a time; what was found is then taken in the order given."""
_HEALTHY = 4
"""Programs whose healthy traces a model must know before it may judge others."""
_KNOWS = 1.0
"""Bits that a byte of them may cost it: a model that learned the CPU needs hardly any, a blind
guess 8."""


def _number(_: click.Context, __: click.Parameter, bits: float | None) -> float | None:
    if bits is not None and not math.isfinite(bits):
        raise click.BadParameter("is no number of bits; write one such as 12.5")
    return bits


@click.command()
@click.argument("traces", nargs=-1, metavar="TRACE|SHARD...", type=FILE, required=True)
@cpu_model_option
@click.option(
    "--open",
    "is_open",
    is_flag=True,
    help="The recordings may have been stopped, so where they end says nothing.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, min_open=True),
    metavar="BITS",
    callback=_number,
    help="Surprisal above which a byte is impossible. Default: 10 bits; a blind guess among 256"
    " costs 8.",
)
@click.option(
    "--show",
    type=click.IntRange(min=0),
    metavar="N",
    default=3,
    show_default=True,
    help="Faulty traces to show in full; the others in a line each.",
)
@dtype_option
@click.option(
    "--plot", type=FILE, metavar="FILE.png", help="Draw the surprisal of every byte of one trace."
)
@click.option(
    "--json",
    "json_file",
    type=FILE,
    metavar="FILE",
    help="Write everything, the bits of every byte included; - is standard output.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.pass_context
def diagnose(
    context: click.Context,
    traces: tuple[Path, ...],
    model: Path | None,
    is_open: bool,
    threshold: float | None,
    show: int,
    dtype: str,
    plot: Path | None,
    json_file: Path | None,
    force: bool,
) -> None:
    """Find out from its traces what is wrong with a machine.

    Nobody has to open it: a byte model that learned the healthy CPU reads each TRACE (or one of a
    packed shard's, 'SHARD[17]', or all of a SHARD) and says how surprising every byte is. Records
    that it finds impossible are listed with what it expects instead; from their pattern follow the
    instruction or the bit to blame and the kind of fault (see `cpusim inject`). The CPU itself is
    not asked.

    Where a recording ends counts as something that the machine did: one that ends before HLT, or
    goes on after it, is faulty. --open leaves the end out, for recordings that somebody stopped,
    such as `cpusim inject` does at --max-steps.

    Exit code 0: all are healthy; 1: a fault was found; 2: bad usage or unreadable input.

    \b
    Examples:
      cpusim diagnose board.bin
      cpusim diagnose board.bin --model runs/cpu --plot board.png
      cpusim diagnose --open first-seconds.bin
      cpusim diagnose data/test/00000.shard --json report.json
      cpusim diagnose 'data/test/00000.shard[17]' --threshold 14
    """
    to_stdout = json_file == STDOUT
    outputs = [path for path in (plot, None if to_stdout else json_file) if path is not None]
    sources = [*map(source_file, traces), *([] if model is None else [checkpoint_file(model)])]
    for output in outputs:
        refuse_unwritable(output, force=force, sources=sources)
    if len(outputs) != len({entry(output) for output in outputs}):
        raise UserError(f"{plot}: --plot and --json name the same file; give each its own")
    why = "--open says that the recording may have been stopped" if is_open else ""
    cases = [
        replace(case, ends=not is_open, open_because=why)
        for path in traces
        for case in recordings(path)
    ]
    for case in cases:
        if not case.steps:
            raise UserError(
                f"{case.name}: holds nothing but a first state, which tells nothing with --open;"
                " leave that out, or name a longer recording"
            )
    if plot is not None and len(cases) != 1:
        raise UserError(f"--plot draws one trace, and these are {len(cases):,}; name one of them")

    from bytemodel.diagnose import THRESHOLD
    from cli import diagnosis as view

    stepper = model_stepper(model, dtype)
    _refuse_ignorant(stepper)
    limit = THRESHOLD if threshold is None else threshold
    lines: list[Text] = []
    faulty: list[Diagnosis] = []
    report: list[dict[str, Any]] = []
    try:
        for found in _diagnoses(stepper, cases, limit):
            if json_file is not None:
                report.append(view.as_json(found))
            if plot is not None:
                with atomic_write(plot, force=force) as file:
                    view.plot(found).savefig(file, format="png", dpi=120)
            if len(cases) == 1 or (found.faulty and len(faulty) < show):
                lines += view.report_lines(found)
                if len(cases) > 1:
                    lines.append(Text())
            if found.faulty:
                # What was measured byte by byte is told in lines and figures by now.
                faulty.append(replace(found, bits=found.bits[:0]))
        if len(cases) > 1:
            if len(faulty) > show:
                lines += [*view.trace_lines(faulty[show:]), Text()]
            healthy = len(cases) - len(faulty)
            total = f"{len(cases):,} traces: {len(faulty):,} faulty, {healthy:,} healthy"
            lines.append(Text(total))
        if json_file is not None:
            settings = {
                "model": stepper.name.removeprefix("model:"),
                "threshold": limit,
                "traces": len(cases),
                "faulty": len(faulty),
            }
            text = json.dumps({**settings, "diagnoses": report})
            write_json(json_file, text, force=force)
    finally:
        # Last, so that a reader who goes away costs no file; after Ctrl-C it is what was found.
        if not to_stdout:
            console = render.stdout()
            for line in lines:
                console.print(line)
    if faulty:
        context.exit(1)


def _refuse_ignorant(model: ByteModelStepper) -> None:
    """A model that never learned the CPU finds every machine impossible, and would blame it."""
    from bytemodel.diagnose import diagnose as diagnose_traces
    from cpusim.lockstep import OracleStepper, record
    from cpusim.programs import generate

    programs = generate(_HEALTHY, seed=0, min_length=4, max_length=16)
    starts = [
        Case("a healthy trace", memory, state[None])
        for memory, state in zip(programs.memories, programs.states, strict=True)
    ]
    bits = [found.bits for _, found in diagnose_traces(model, record(OracleStepper(), starts))]
    cost = np.concatenate(bits).mean()
    if cost > _KNOWS:
        raise UserError(
            f"{model.name.removeprefix('model:')}: has not learned the CPU, since a byte of"
            f" healthy traces costs it {cost:.1f} bits, so it can judge none; name another with"
            " --model, or train one (bgpt train cpu)"
        )


def _diagnoses(model: Verifier, cases: Sequence[Case], threshold: float) -> Iterator[Diagnosis]:
    """Diagnoses in the order of `cases`, with a progress bar."""
    from bytemodel.diagnose import diagnose as diagnose_traces

    with render.progress("diagnosing", "traces") as progress:
        for first in range(0, len(cases), _TOGETHER):
            some = cases[first : first + _TOGETHER]
            found: dict[int, Diagnosis] = {}
            for index, diagnosis in diagnose_traces(model, some, threshold=threshold):
                found[index] = diagnosis
                progress(first + len(found), len(cases))
            yield from (found[index] for index in range(len(some)))
