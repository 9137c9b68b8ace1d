"""`cpusim conformance`: every case a CPU can get wrong, put to a model. Parse, call, print; what is
checked stands in `cpusim.conformance` and `cpusim.sweep`, the pictures in `cli.heatmaps`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.text import Text

from cli import comparison as view
from cli import heatmaps, render
from cli.group import Interrupted
from cli.options import FILE, STDOUT, cpu_model_option, dtype_option, write_json
from cli.peers import Peer, candidate
from cpusim.assembler import disassemble_word
from cpusim.conformance import BINARY_FORMS, LISTED, PAIRS, Report, WrongCase, case_count, check
from cpusim.conformance import export as export_traces
from cpusim.errors import UserError
from cpusim.files import refuse_existing, refuse_file, refuse_unwritable
from cpusim.isa import FIELDS, SLOTS
from cpusim.loader import source_file
from cpusim.lockstep import END_TOKEN, StepperError, Tokens

if TYPE_CHECKING:
    from cpusim.programs import Programs

# `cpusim.sweep` needs numba; it is imported by what makes the programs, so that --help is quick.

_SHOWN = 10
_PLOTS = Path("runs/conformance")


@click.command()
@cpu_model_option
@click.option("--against", metavar="PEER", help="Check this instead of a byte model.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Check only N random programs of the sweep.",
)
@dtype_option
@click.option(
    "--plots",
    type=FILE,
    metavar="DIR",
    default=_PLOTS,
    show_default=True,
    help="Folder for the heat maps (PNG).",
)
@click.option("--no-plots", is_flag=True, help="Draw no heat maps.")
@click.option(
    "--json",
    "json_file",
    type=FILE,
    metavar="FILE",
    help="Write all figures; - is standard output.",
)
@click.option(
    "--export",
    type=FILE,
    metavar="SHARD",
    help="Write the sweep's programs and traces to a packed shard, and check nothing.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.pass_context
def conformance(
    context: click.Context,
    model: Path | None,
    against: str | None,
    sample: int | None,
    dtype: str,
    plots: Path,
    no_plots: bool,
    json_file: Path | None,
    export: Path | None,
    force: bool,
) -> None:
    """Check a byte model on every case that a CPU can get wrong.

    The sweep is some 26,000 programs that between them execute every instruction form on
    every operand value (the 21 binary forms on all 65,536 pairs), every register in every
    operand, one register twice, a fetch from every slot, and HLT after every length. The
    model is put back on the CPU's trace at each of the 1.7 million steps. What is wrong is
    told in a table, in heat maps and as JSON. With --sample only part of it is checked, and
    Ctrl-C reports on what was checked until then.

    PEER is whoever else can be checked: oracle (this CPU), reference (the same in plain
    Python), model:CKPT, or trace:FILE, recordings of the programs that --export writes.

    Exit code 0: all right; 1: something is wrong; 2: bad usage or unreadable input.

    \b
    Examples:
      cpusim conformance --model runs/cpu/model.pt
      cpusim conformance --sample 300 --no-plots
      cpusim conformance --against reference --json figures.json
      cpusim conformance --export sweep.shard
      cpusim conformance --against trace:board.shard --plots board
    """
    if model is not None and against is not None:
        raise UserError("--model CKPT is short for --against model:CKPT; use one of them")
    if export is not None:
        unused = ("model", "against", "sample", "dtype", "plots", "no_plots", "json_file")
        given = [
            option.opts[0]
            for option in context.command.params
            if option.name in unused
            and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        ]
        if given:
            raise UserError(f"--export checks nothing; leave out {', '.join(given)}")
        _export(export, force)
        return
    to_stdout = json_file == STDOUT
    _refuse(None if to_stdout else json_file, None if no_plots else plots, force)
    peer = candidate(model, against, dtype)
    if json_file is not None and not to_stdout and peer.source is not None:
        refuse_existing(json_file, force=force, sources=[source_file(peer.source)])

    report = Report(peer.stepper.name)
    interrupted = False
    begun = time.monotonic()
    with render.progress("checking", "cases") as progress:
        try:
            from cpusim.sweep import sweep

            programs = sweep()
            chosen = min(sample or len(programs.lengths), len(programs.lengths))
            total = case_count(programs, chosen)
            begun = time.monotonic()
            for report in check(peer.stepper, programs, chosen):
                progress(report.cases, total)
        except StepperError:
            if peer.kind != "trace":
                raise
            raise UserError(
                f"{peer.text}: holds other programs than the sweep's; record the ones that"
                " --export writes"
            ) from None
        except KeyboardInterrupt:
            if not report.programs:
                raise
            interrupted = True
    seconds = time.monotonic() - begun

    what = _in_words(report, programs)
    lines = list(_report_lines(report, what, seconds))
    try:
        if json_file is not None:
            text = json.dumps(_as_json(report, programs, peer, seconds), indent=2)
            write_json(json_file, text, force=force)
        if not no_plots:
            title = f"{report.candidate}: {what}"
            with render.progress("drawing", "heat maps") as progress:
                heatmaps.draw(report, title, plots, force=force, progress=progress)
            where = plots / heatmaps.OVERVIEW
            lines.append(Text(f"heat maps: {where} and one of each form beside it"))
    finally:
        # Last, so that a reader who goes away costs no file; and whatever became of the files.
        if not to_stdout:
            console = render.stdout()
            for line in lines:
                console.print(line)
    if interrupted:
        raise Interrupted(f"interrupted: the report is about {report.programs:,} programs only")
    if report.wrong:
        context.exit(1)


def _refuse(json_file: Path | None, plots: Path | None, force: bool) -> None:
    """Refuse before the check what could not be written after it."""
    if json_file is not None:
        refuse_unwritable(json_file, force=force)
    if plots is not None:
        refuse_file(plots)
        there = next(place for place in (plots, *plots.parents) if place.is_dir())
        if json_file is not None and json_file.absolute() in (
            plots.absolute(),
            *plots.absolute().parents,
        ):
            raise UserError(f"{json_file}: is named as a file and as a folder of heat maps")
        if (
            json_file is not None
            and plots.is_dir()
            and json_file.name in heatmaps.file_names()
            and json_file.parent.samefile(plots)
        ):
            raise UserError(f"{json_file}: a heat map has this very name; give --json another")
        refuse_unwritable(there / heatmaps.OVERVIEW, force=force)
        for name in heatmaps.file_names():
            refuse_existing(plots / name, force=force)


def _export(path: Path, force: bool) -> None:
    from cpusim.sweep import sweep

    refuse_unwritable(path, force=force)
    with render.progress("exporting", "traces") as progress:
        programs = sweep()
        export_traces(path, programs, force=force, progress=progress)
    total = len(programs.lengths)
    click.echo(f"wrote {path}: {total:,} traces, {case_count(programs):,} cases", err=True)


def _in_words(report: Report, programs: Programs) -> str:
    total = len(programs.lengths)
    if report.programs == total:
        return f"the whole sweep, {total:,} programs"
    share = view.percent(report.cases, case_count(programs))
    return f"a sample of {report.programs:,} of {total:,} programs ({share} of the cases)"


def _report_lines(report: Report, what: str, seconds: float) -> Iterator[Text]:
    """The forms, some wrong cases, the summary: at most 80 columns but for long names."""
    yield from view.form_lines(report.by_form)
    yield Text()
    if report.wrong_cases:
        shown = _spread(report.wrong_cases, _SHOWN)
        yield Text(f"wrong cases ({len(shown)} of {report.wrong:,})", style="bold")
        for case in shown:
            yield Text(_case_text(case))
        yield Text()
    yield Text(report.candidate, style="bold")
    yield Text(f"  {what}")
    rate = report.cases / max(seconds, 1e-9)
    yield view.figure("time", f"{seconds:,.0f} s, {rate:,.0f} cases/s")
    yield view.figure("cases right", view.share(report.cases - report.wrong, report.cases))
    pairs = [report.pairs(form) for form in BINARY_FORMS]
    checked, wrong = (sum(counts) for counts in zip(*pairs, strict=True))
    yield view.figure("operand pairs right", view.share(checked - wrong, checked))
    if checked < PAIRS * len(BINARY_FORMS):
        yield view.figure("pairs not checked", f"{PAIRS * len(BINARY_FORMS) - checked:,}")
    for label, counts in (("slots fetched from", report.slots), ("lengths", report.lengths)):
        yield view.figure(label, f"{int((counts[0] > 0).sum())} of {SLOTS}")
    if report.wrong:
        tallies = report.by_form.values()
        for kind in ("result", "fetch", "end"):
            count = sum(getattr(tally, f"wrong_{kind}") for tally in tallies)
            yield view.figure(f"with a wrong {kind}", f"{count:,}")
        fields = Counter(dict(zip(FIELDS, report.by_field.tolist(), strict=True))).most_common(3)
        worst = ", ".join(f"{field} {count:,}" for field, count in fields if count)
        yield view.figure("most wrong fields", worst)
    if report.cut:
        yield Text(f"{report.cut:,} programs are longer than it can follow: their ends unchecked")
    if report.wrong:
        yield Text("it does not conform", style=render.WRONG)
    else:
        yield Text("nothing is wrong", style="bold green")


def _spread(cases: tuple[WrongCase, ...], most: int) -> list[WrongCase]:
    """At most so many, of as many forms as there are: the first one of each, then the second."""
    turn: Counter[str] = Counter()
    turns = []
    for case in cases:
        turns.append((turn[case.form], case))
        turn[case.form] += 1
    return [case for _, case in sorted(turns, key=lambda entry: entry[0])[:most]]


def _case_text(case: WrongCase) -> str:
    executed = "(start)" if case.word is None else disassemble_word(case.word)
    expected, predicted = _side(case.expected, case), _side(case.predicted, case)
    if isinstance(expected, dict) and isinstance(predicted, dict):
        pairs = [f"{name} {predicted[name]}, not {value}" for name, value in expected.items()]
        what = "; ".join(pairs[:2]) + (f" and {len(pairs) - 2} more" if len(pairs) > 2 else "")
    else:
        what = f"{_said(predicted)}, not {_said(expected)}"
    read = ", ".join(map(str, case.operands))
    return f"  {executed:<12} {f'of {read}' if read else '':<12}{what}"


def _said(side: dict[str, int | None] | str) -> str:
    return "a state" if isinstance(side, dict) else "the end"


def _side(tokens: Tokens, case: WrongCase) -> dict[str, int | None] | str:
    """What one side says, as far as the two differ: values by field (None: nothing), or `end`."""
    if (tokens == END_TOKEN).all():
        return "end"
    differing = case.expected != case.predicted
    return {
        FIELDS[at]: int(tokens[at]) if tokens[at] >= 0 else None
        for at in differing.nonzero()[0].tolist()
    }


def _as_json(report: Report, programs: Programs, peer: Peer, seconds: float) -> dict[str, Any]:
    """The whole report as JSON values; `wrong_cases` are at most 100 of each form."""
    by_form: dict[str, dict[str, Any]] = {}
    for name, tally in report.by_form.items():
        by_form[name] = view.tally_json(tally)
        if name in BINARY_FORMS:
            by_form[name]["pairs"], by_form[name]["wrong_pairs"] = report.pairs(name)
    return {
        "model": peer.file if peer.source else None,
        "candidate": report.candidate,
        "complete": report.programs == len(programs.lengths) and not report.cut,
        "programs": report.programs,
        "programs_in_sweep": len(programs.lengths),
        "cases_in_sweep": case_count(programs),
        "seconds": round(seconds, 3),
        "cases": report.cases,
        "wrong": report.wrong,
        "accuracy": report.accuracy,
        "by_form": by_form,
        "by_field": dict(zip(FIELDS, report.by_field.tolist(), strict=True)),
        "slots": {"count": report.slots[0].tolist(), "wrong": report.slots[1].tolist()},
        "lengths": {"count": report.lengths[0].tolist(), "wrong": report.lengths[1].tolist()},
        "wrong_cases_listed_per_form": LISTED,
        "wrong_cases": [
            {
                "form": case.form,
                "instruction": None if case.word is None else disassemble_word(case.word),
                "operands": list(case.operands),
                "expected": _side(case.expected, case),
                "predicted": _side(case.predicted, case),
                "program": case.program,
                "step": case.step,
            }
            for case in report.wrong_cases
        ],
    }
