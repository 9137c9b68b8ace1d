"""`cpusim compare`: two CPUs side by side. Parse, call, print; what is compared and how stands
in `cpusim.lockstep`, how it looks in `cli.comparison`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from click.core import ParameterSource
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli import comparison as view
from cli import render
from cli.group import say
from cli.options import (
    FILE,
    LENGTHS,
    STDOUT,
    cpu_model_option,
    distribution_option,
    dtype_option,
    file_word,
    length_options,
    max_steps_option,
    seed_option,
    start_options,
    start_state,
    start_words,
    write_json,
)
from cli.peers import Peer, candidate, make_peer, recording
from cpusim import lockstep
from cpusim.errors import UserError
from cpusim.files import atomic_write, entry, refuse_unwritable
from cpusim.loader import load_program, source_file
from cpusim.lockstep import Case, OracleStepper, ProgramResult, RecordedStepper

if TYPE_CHECKING:
    from cpusim.programs import Distribution

# Torch and numba are imported by what needs them: comparing a recording needs neither.

_MOST_PROGRAMS = 1_000_000
"""They and their traces are held in memory."""
_PROGRAMS = 100
_SHOWN = 3
_EMBEDDED = 20


@dataclass(frozen=True)
class Subject:
    """A program to compare, and the words that name it on the command line."""

    case: Case
    words: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """Which random programs: `count` of the sequence that the rest names, from `start` on."""

    count: int
    start: int
    seed: int
    distribution: Distribution
    min_length: int
    max_length: int


def _named(
    files: Sequence[Path], start: Callable[[bytes], bytes], words: Sequence[str], max_steps: int
) -> Iterator[Subject]:
    """The programs in files; `start` gives the initial state, `words` are its options."""
    for file in files:
        program = load_program(file)
        memory = np.frombuffer(program.memory, np.uint8)
        state = np.frombuffer(start(program.state), np.uint8)
        if program.trace is not None:
            _tell_if_wrong(recording(str(file), program.trace), max_steps)
        yield Subject(Case(str(file), memory, state[None]), (file_word(file), *words))


def _tell_if_wrong(recorded: Case, max_steps: int) -> None:
    """Say on stderr if a trace named as a program is not what the oracle does."""
    truth = lockstep.record(OracleStepper(), [recorded], max_steps=max_steps)
    recording = RecordedStepper(recorded.name, [recorded])
    found = lockstep.compare(truth, recording).results[0].difference
    if found is not None:
        say(
            f"{recorded.name}: is not what the CPU does, from record {found.step:,} on; only its"
            f" memory and first record are used (--against trace:{recorded.name} compares it)",
            sys.stderr,
        )


def _random(draw: Draw, start: Callable[[bytes], bytes], words: Sequence[str]) -> Iterator[Subject]:
    """Random programs; `start` changes the initial state, `words` are its options."""
    from cpusim.programs import generate

    programs = generate(
        draw.count,
        distribution=draw.distribution,
        seed=draw.seed,
        start=draw.start,
        min_length=draw.min_length,
        max_length=draw.max_length,
    )
    for offset in range(draw.count):
        number = draw.start + offset
        state = np.frombuffer(start(programs.states[offset].tobytes()), np.uint8)
        case = Case(f"random program {number}", programs.memories[offset], state[None])
        yield Subject(case, ("--programs", "1", *_draw_words(draw, number), *words))


def _draw_words(draw: Draw, start: int) -> tuple[str, ...]:
    """The options of random programs, but for their count."""
    words = ["--start", start, "--seed", draw.seed, "--distribution", draw.distribution]
    if (draw.min_length, draw.max_length) != LENGTHS:
        words += ["--min-length", draw.min_length, "--max-length", draw.max_length]
    return tuple(map(str, words))


def _brought(truth: Peer, peer: Peer) -> list[Subject]:
    """The programs that a recording on either side brings along; each is replayed alone."""
    for option, programs in (("--reference", truth.programs), ("--against", peer.programs)):
        if programs:
            return [Subject(case, (option, f"trace:{case.name}")) for case in programs]
    return []


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal that goes away when it is done; nothing elsewhere."""
    console = render.stderr()
    bar = Progress(
        TextColumn("comparing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda steps: bar.advance(task, steps)


@click.command()
@click.argument("files", nargs=-1, metavar="[PROGRAM|TRACE]...", type=FILE)
@cpu_model_option
@click.option("--against", metavar="PEER", help="Compare this instead of a byte model.")
@click.option(
    "--reference",
    metavar="PEER",
    default="oracle",
    show_default=True,
    help="The side that is right by definition.",
)
@click.option(
    "--programs",
    "count",
    type=click.IntRange(1, _MOST_PROGRAMS),
    metavar="N",
    help=f"Compare N random programs. Default without PROGRAM: {_PROGRAMS}.",
)
@click.option(
    "--start",
    type=click.IntRange(min=0),
    metavar="I",
    default=0,
    show_default=True,
    help="Number of the first random program.",
)
@seed_option("Same seed and options, same programs.")
@distribution_option("How random programs are drawn.")
@length_options("random program")
@start_options
@max_steps_option()
@click.option(
    "--from-step",
    type=click.IntRange(min=1),
    metavar="K",
    default=1,
    show_default=True,
    help="First step to check; up to there both go the reference's way.",
)
@click.option(
    "--rollout",
    is_flag=True,
    help="Run free step by step, as well as verifying all steps in one pass.",
)
@click.option(
    "--window",
    type=click.IntRange(min=0),
    metavar="N",
    default=5,
    show_default=True,
    help="States to show before a difference.",
)
@click.option(
    "--show",
    type=click.IntRange(min=0),
    metavar="N",
    help="Differences to show in full, the earliest first."
    f" Default: {_SHOWN}, and {_EMBEDDED} in an HTML report.",
)
@dtype_option
@click.option(
    "--json",
    "json_file",
    type=FILE,
    metavar="FILE",
    help="Write all figures; - is standard output.",
)
@click.option("--junit", type=FILE, metavar="FILE", help="Write a JUnit report.")
@click.option(
    "--html", type=FILE, metavar="REPORT", help="Write a page to look at and to step through."
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.pass_context
def compare(
    context: click.Context,
    files: tuple[Path, ...],
    model: Path | None,
    against: str | None,
    reference: str,
    count: int | None,
    start: int,
    seed: int,
    distribution: Distribution,
    min_length: int,
    max_length: int,
    acc: int | None,
    registers: dict[str, int],
    random_state: int | None,
    max_steps: int,
    from_step: int,
    rollout: bool,
    window: int,
    show: int | None,
    dtype: str,
    json_file: Path | None,
    junit: Path | None,
    html: Path | None,
    force: bool,
) -> None:
    """Compare a byte model with the CPU, state by state.

    Two answers for every program. Free-running: when does the model first leave the CPU's
    trace, the end included? Resynchronised, put back on the trace at every step: which
    steps does it get wrong? Without PROGRAM, random programs are compared.

    PEER is what else can stand on either side: oracle (this CPU), reference (the same in
    plain Python), model:CKPT, or trace:FILE, a recording from another simulator or from
    hardware (a trace or a shard).

    Exit code 0: they agree; 1: they differ; 2: bad usage or unreadable input.

    \b
    Examples:
      cpusim compare examples/sort.s
      cpusim compare --model runs/cpu/model.pt
      cpusim compare --programs 1000 --seed 7 --json figures.json
      cpusim compare --programs 1000 --html report.html
      cpusim compare --against trace:board.bin
      cpusim compare --reference model:old.pt --against model:new.pt
    """
    if model is not None and against is not None:
        raise UserError("--model CKPT is short for --against model:CKPT; use one of them")
    first_state = start_words(acc, registers, random_state)
    if random_state is not None and not files:
        raise UserError(
            "--random-state belongs to a PROGRAM, so name one; others are random anyway"
        )
    to_stdout = json_file == STDOUT
    outputs = [None if to_stdout else json_file, junit, html]
    _check_outputs(outputs, force, files)
    # Reading the files comes first: a wrong name is refused before torch is loaded.

    def begin(state: bytes) -> bytes:
        return start_state(state, acc, registers, random_state)

    subjects = list(_named(files, begin, first_state, max_steps))
    truth = make_peer(reference, dtype)
    peer = candidate(model, against, dtype)
    _check_outputs(outputs, force, [side.source for side in (truth, peer) if side.source])
    brought = _brought(truth, peer)
    draw = None
    if count is not None or not (files or brought):
        draw = Draw(count or _PROGRAMS, start, seed, distribution, min_length, max_length)
        subjects += _random(draw, begin, first_state)
    elif first_state and not files:
        raise UserError("--acc and --set would change what the recording did; leave them out")
    elif not files:
        subjects = brought

    begun = time.monotonic()
    cases = lockstep.record(truth.stepper, [s.case for s in subjects], max_steps=max_steps)
    steps = sum(max(case.steps - from_step + 1, 0) for case in cases)
    with _progress(2 * steps if rollout else steps) as progress:
        result = lockstep.compare(
            cases,
            peer.stepper,
            reference=truth.stepper.name,
            from_step=from_step,
            rollout=rollout,
            progress=progress,
        )
    seconds = time.monotonic() - begun

    options = _replay_options(context)

    def replay(program: ProgramResult) -> list[str]:
        words = list(subjects[program.index].words)
        words += [word for option in options if option[0] not in words for word in option]
        step = program.difference.step if program.difference else from_step
        return ["cpusim", "compare", *words, "--from-step", str(step)]

    if json_file is not None:
        models = [side.file for side in (peer, truth) if side.kind == "model"]
        settings = {
            "model": models[0] if models else None,
            **(vars(draw) if draw else dict.fromkeys(Draw.__dataclass_fields__)),
            "acc": acc,
            "set": registers,
            "random_state": random_state,
            "files": [str(file) for file in files],
            "max_steps": max_steps,
            "from_step": from_step,
            "dtype": dtype,
            "seconds": round(seconds, 3),
        }
        text = json.dumps(view.as_json(result, settings, replay), indent=2)
        write_json(json_file, text, force=force)
    if junit is not None:
        with atomic_write(junit, force=force) as file:
            file.write(view.as_junit(result, seconds, window, replay))
    what = list(_in_words(subjects, draw, first_state))
    if html is not None:
        from cli import html_report  # jinja2

        about = html_report.About(
            "; ".join(what),
            _settings(draw, max_steps, from_step, rollout, dtype, (peer, truth)),
            [(side.kind, side.file, side.source) for side in (peer, truth) if side.source]
            + [("Program", str(file), file) for file in files],
            _same_again(files, first_state, draw, options, from_step),
            datetime.now().astimezone(),
            seconds,
        )
        shown = html_report.embedded(result, _EMBEDDED if show is None else show)
        with _progress(sum(program.case.steps for program in shown)) as progress:
            page = html_report.page(
                *(result, peer.stepper, shown, about),
                window=window,
                replay=replay,
                progress=progress,
            )
        with atomic_write(html, force=force) as file:
            file.write(page)
    if not to_stdout:
        console = render.stdout()
        most = _SHOWN if show is None else show
        for line in view.report_lines(result, what, window=window, show=most, replay=replay):
            console.print(line)
    if not result.agree:
        context.exit(1)


def _check_outputs(outputs: Sequence[Path | None], force: bool, sources: Iterable[Path]) -> None:
    """Refuse before the comparison what could not be written after it, or would replace what is
    compared."""
    named = [output for output in outputs if output is not None]
    files = [source_file(source) for source in sources]
    for output in named:
        refuse_unwritable(output, force=force, sources=files)
    entries = [entry(output) for output in named]
    if len(entries) != len(set(entries)):
        twice = next(output for output in named if entries.count(entry(output)) > 1)
        raise UserError(f"{twice}: two reports name the same file; give each its own")


def _in_words(
    subjects: Sequence[Subject], draw: Draw | None, first_state: Sequence[str]
) -> Iterator[str]:
    """Which programs: those named, those drawn, and how their first states were changed."""
    named = len(subjects) - (draw.count if draw else 0)
    if named:
        yield subjects[0].case.name if named == 1 else f"{named:,} programs"
    if draw is not None:
        which = f" from {draw.start:,} on" if draw.start else ""
        yield (
            f"{draw.count:,} random programs{which}, seed {draw.seed}, {draw.distribution},"
            f" {draw.min_length} to {draw.max_length} instructions"
        )
    if first_state:
        yield f"first states changed by {shlex.join(first_state)}"


def _settings(
    draw: Draw | None,
    max_steps: int,
    from_step: int,
    rollout: bool,
    dtype: str,
    sides: Sequence[Peer],
) -> dict[str, str]:
    """What else decides what a comparison finds, in words."""
    settings = {}
    if draw is not None:
        settings["Random"] = (
            f"{draw.count:,} from number {draw.start:,} on, seed {draw.seed}, {draw.distribution}"
            f" distribution, {draw.min_length} to {draw.max_length} instructions"
        )
    settings["Steps"] = f"from {from_step:,} on, at most {max_steps:,} a program"
    settings["Free-running"] = (
        "by really running free" if rollout else "from the first resynchronised difference"
    )
    if any(side.kind == "model" for side in sides):
        settings["Precision"] = dtype
    return settings


def _same_again(
    files: Sequence[Path],
    first_state: Sequence[str],
    draw: Draw | None,
    options: Sequence[tuple[str, ...]],
    from_step: int,
) -> list[str]:
    """The command that makes the same comparison, without its outputs."""
    words = ["cpusim", "compare", *map(file_word, files), *first_state]
    if draw is not None:
        words += ["--programs", str(draw.count), *_draw_words(draw, draw.start)]
    words += [word for option in options for word in option]
    return words if from_step == 1 else [*words, "--from-step", str(from_step)]


def _replay_options(context: click.Context) -> list[tuple[str, ...]]:
    """The options given that change what is compared, beside the programs themselves."""
    given: list[tuple[str, ...]] = []
    for name in ("model", "reference", "against", "max_steps", "dtype", "rollout"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            flag = "--" + name.replace("_", "-")
            given.append((flag,) if value is True else (flag, str(value)))
    return given
