"""`cpusim fuzz`: parse, call, print. How it searches and shrinks stands in `cpusim.fuzz`."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli import render
from cli.group import Interrupted
from cli.options import (
    FILE,
    cpu_model_option,
    dtype_option,
    file_word,
    json_option,
    seed_option,
    start_words,
)
from cli.peers import candidate
from cpusim.corpus import ASSEMBLY_SUFFIX, open_corpus
from cpusim.errors import UserError
from cpusim.failures import Failure
from cpusim.isa import ACC, FIRST_REGISTER, REGISTERS

if TYPE_CHECKING:
    from cpusim.fuzz import Example, Known, Report, Tally

# What needs numba or torch is imported by the command itself.

_MINUTES = 1.0
_LISTED = 20


@click.command()
@cpu_model_option
@click.option("--against", metavar="PEER", help="Fuzz this instead of a byte model.")
@click.option(
    "--minutes",
    type=float,
    metavar="M",
    help=f"Search and shrink for that long. Default: {_MINUTES:g}.",
)
@click.option(
    "--programs",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Search N programs instead: the same seed then finds the same.",
)
@seed_option("Other seeds search other programs.")
@click.option(
    "--out",
    type=FILE,
    metavar="FOLDER",
    default="fuzz",
    show_default=True,
    help="The corpus: its failures are replayed first, new ones are added.",
)
@dtype_option
@json_option
@click.pass_context
def fuzz(
    context: click.Context,
    model: Path | None,
    against: str | None,
    minutes: float | None,
    count: int | None,
    seed: int,
    out: Path,
    dtype: str,
    as_json: bool,
) -> None:
    """Search for programs on which a byte model is wrong.

    Programs are drawn where mistakes are likely: operands 0, 1, 127, 128, 255 and at the
    edge of saturation, one register as both operands, division by 0, all of memory full. Wrong
    steps are sorted into buckets by instruction form and field, and failures of each bucket are
    shrunk to a minimal program that still fails in the same way.

    The corpus in FOLDER gets each as a trace (.bin), which `cpusim compare` replays, and as
    assembly (.s) with the expected and the predicted state as comments. Nothing in it is ever
    overwritten. The failures that it already holds are replayed first.

    With --programs all that is found is shrunk to the end. With --minutes the second half of the
    time is for shrinking, if there is anything to shrink; what is not minimal by then is saved as
    it is, and so it is on Ctrl-C. PEER is oracle, reference or model:CKPT.

    Exit code 0: no failure; 1: a failure, new or from the corpus; 2: bad usage or
    unreadable input; 130: stopped by Ctrl-C, whatever was found.

    \b
    Examples:
      cpusim fuzz --model runs/cpu/model.pt --minutes 10
      cpusim fuzz --programs 1000 --seed 7 --out corpus
      cpusim compare --model runs/cpu/model.pt fuzz/*.bin
    """
    if model is not None and against is not None:
        raise UserError("--model CKPT is short for --against model:CKPT; use one of them")
    if minutes is not None and count is not None:
        raise click.UsageError("--minutes and --programs exclude each other; give one")
    if minutes is not None and not 0 < minutes * 60 < math.inf:
        raise click.UsageError(f"--minutes {minutes:g} is no time to search; give more than 0")
    if count is None and minutes is None:
        minutes = _MINUTES
    # Reading the corpus comes first: what is wrong with it is refused before torch is loaded.
    corpus = open_corpus(out)
    peer = candidate(model, against, dtype)
    if peer.programs:
        raise UserError(
            f"{peer.text}: a recording knows no program but its own, so there is nothing to"
            " search; name oracle, reference or model:CKPT"
        )
    options = [] if against is None else ["--against", against]
    options += [] if model is None else ["--model", str(model)]
    options += [] if dtype == "auto" else ["--dtype", dtype]

    def commands(path: Path, failure: Failure) -> list[str]:
        state = failure.case.records[0]
        values = zip(REGISTERS, state[FIRST_REGISTER:].tolist(), strict=True)
        start = start_words(
            int(state[ACC]) or None, {name: value for name, value in values if value}, None
        )
        here = [] if failure.free_running else ["--from-step", str(failure.step)]
        trace = path.with_suffix(".bin")
        return [
            shlex.join(["cpusim", "compare", file_word(path), *start, *options, *here]),
            shlex.join(["cpusim", "compare", file_word(trace), *options, *here]),
        ]

    from cpusim.fuzz import fuzz as run_fuzzing

    with _Display(minutes, count) as display:
        report = run_fuzzing(
            peer.stepper,
            corpus,
            seed=seed,
            replays=commands,
            programs=count,
            seconds=None if minutes is None else minutes * 60,
            progress=display.progress,
            found=display.found,
        )
    if as_json:
        click.echo(json.dumps(_as_json(report, out), indent=2))
    else:
        console = render.stdout()
        for line in _report_lines(report, out, options):
            console.print(line)
    if report.interrupted:
        told = "what was found is saved" if report.failed else "no failure was found until then"
        raise Interrupted(f"interrupted: {told}")
    if report.failed:
        context.exit(1)


class _Display:
    """A bar on the terminal, and a line for each failure saved; in a pipe the lines alone."""

    def __init__(self, minutes: float | None, programs: int | None) -> None:
        self._programs = programs
        self._seconds = None if minutes is None else minutes * 60
        console = render.stderr()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[counted]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("fuzzing", total=self._seconds or programs, counted="")

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def progress(self, report: Report) -> None:
        speed = report.programs / report.seconds if report.seconds else 0.0
        self._bar.update(
            self._task,
            description="fuzzing" if report.searching else "shrinking",
            completed=report.programs if self._programs else report.seconds,
            counted=f"{report.programs:,} programs, {speed:,.0f}/s, {_found(report)}",
        )

    def found(self, example: Example) -> None:
        if example.new:
            name = example.path.with_suffix(ASSEMBLY_SUFFIX)
            size = render.count(example.length, "instruction")
            self._bar.console.print(f"{example.failure.bucket}: {name}, {size}")


def _report_lines(report: Report, out: Path, options: Sequence[str]) -> Iterator[Text]:
    if report.known:
        yield from _known_lines(report.known, out)
        yield Text()
    if report.tallies:
        yield Text(
            f"{'form':<10} {'field':<15} {'wrong steps':>11}  {'length':>6}  example",
            style=render.HEADING,
        )
        worst_first = sorted(report.tallies.items(), key=lambda item: (-item[1].steps, item[0]))
        for bucket, tally in worst_first:
            head = f"{bucket.form:<10} {bucket.field:<15} {tally.steps:>11,}"
            yield from _example_lines(head, tally)
        yield Text()
    yield Text(f"{report.candidate} against oracle", style="bold")
    seconds = f"{report.seconds:,.1f} s"
    yield Text(
        f"  {render.count(report.programs, 'program')} and"
        f" {render.count(report.steps, 'step')} searched, seed {report.seed}, in {seconds}"
    )
    if report.interrupted and report.failed:
        yield Text("  interrupted: what was found is saved as far as it was shrunk")
    elif report.shrinking:
        yield Text("  time is up: what was found is saved as far as it was shrunk")
    if report.tallies:
        yield Text(f"  {_found(report)}")
    if report.failed:
        replay = shlex.join(["cpusim", "compare", *options])
        yield Text(f"replay all: {replay} {shlex.quote(file_word(out))}/*.bin")
        yield Text("failures were found", style=render.WRONG)
    else:
        yield Text("no failure was found", style="bold green")


def _found(report: Report) -> str:
    buckets = render.count(len(report.tallies), "bucket")
    return f"{render.count(report.wrong_steps, 'wrong step')} in {buckets}"


def _example_lines(head: str, tally: Tally) -> Iterator[Text]:
    if not tally.examples:
        why = "does not show alone" if tally.unsteady else "not saved"
        yield Text(f"{head}  {'-':>6}  {why}")
    for example in sorted(tally.examples, key=lambda example: example.length):
        line = Text(f"{head}  {example.length:>6}  ")
        line.append(example.path.with_suffix(ASSEMBLY_SUFFIX).name)
        notes = [] if example.minimal else ["not minimal"]
        notes += [] if example.new else ["known"]
        if notes:
            line.append(f" ({', '.join(notes)})", style=render.QUIET)
        yield line
        head = " " * len(head)


def _known_lines(known: Sequence[Known], out: Path) -> Iterator[Text]:
    """How the programs of the corpus do now: those that fail first, then those mended."""
    failing = [one for one in known if one.failure is not None]
    fixed = [one for one in known if one.failure is None and one.checked]
    others = len(known) - len(failing) - len(fixed)
    yield Text(
        f"corpus {out}: {render.count(len(known), 'program')} replayed,"
        f" {len(failing):,} still fail, {len(fixed):,} fixed"
        + (f", {others:,} not checked" if others else ""),
        style=render.HEADING,
    )
    lines = []
    for one in failing:
        assert one.failure is not None
        lines.append(Text(f"  still fails  {one.path.name}  {one.failure.bucket}"))
        lines[-1].stylize(render.WRONG, 2, 13)
    for one in fixed:
        lines.append(Text(f"  fixed        {one.path.name}"))
        lines[-1].stylize(render.CHANGED, 2, 7)
    yield from lines[:_LISTED]
    if len(lines) > _LISTED:
        yield Text(f"  and {len(lines) - _LISTED:,} more; --json lists all of them")


def _as_json(report: Report, out: Path) -> dict[str, Any]:
    def status(known: Known) -> str:
        if known.failure is not None:
            return "still fails"
        return "fixed" if known.checked else "not checked"

    return {
        "candidate": report.candidate,
        "seed": report.seed,
        "programs": report.programs,
        "steps": report.steps,
        "wrong_steps": report.wrong_steps,
        "seconds": round(report.seconds, 3),
        "interrupted": report.interrupted,
        "failed": report.failed,
        "folder": str(out),
        "corpus": [
            {
                "file": known.path.name,
                "status": status(known),
                "bucket": str(known.failure.bucket) if known.failure is not None else None,
            }
            for known in report.known
        ],
        "buckets": [
            {
                "form": bucket.form,
                "field": str(bucket.field),
                "wrong_steps": tally.steps,
                "minimal_length": tally.minimal_length,
                "unsteady": tally.unsteady,
                "examples": [_example_json(example) for example in tally.examples],
            }
            for bucket, tally in sorted(report.tallies.items())
        ],
    }


def _example_json(example: Example) -> dict[str, Any]:
    return {
        "assembly": example.path.with_suffix(ASSEMBLY_SUFFIX).name,
        "trace": example.path.name,
        "length": example.length,
        "step": example.failure.step,
        "free_running": example.failure.free_running,
        "minimal": example.minimal,
        "new": example.new,
        "found_in": example.found,
        "found_length": example.found_length,
    }
