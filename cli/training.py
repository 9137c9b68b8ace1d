"""`bgpt train`: parse, call, show how it goes.

What is trained and how stands in `bytemodel.train`.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bytemodel.config import PRESETS, ModelConfig
from bytemodel.config import preset as preset_config
from cli import render
from cli.group import CommandGroup, Interrupted
from cli.options import DISTRIBUTIONS, FILE, how_to_train_options

if TYPE_CHECKING:
    from bytemodel.checkpoint import Checkpoint, Trainable
    from bytemodel.train import Listener, Outcome, Task
    from cpusim.programs import Distribution

# Torch is imported by what needs it, so that --help is quick.

PRESET, MINUTES = "small", 60.0
FILES_PRESET, CONVERSION_PRESET = "compact", "converter"
MOST_SEEDS = 1 << 32  # the programs that training draws have seeds above
_PLAIN_SECONDS = 10
"""In a pipe, a training record is printed this often; evaluations always are."""


@click.group(
    cls=CommandGroup,
    lazy={"files": "cli.train_files:files", "media": "cli.train_media:media"},
)
def train() -> None:
    """Train a byte model.

    A run is a folder: config.json, metrics.jsonl (one JSON record a line), training.png (the
    plot), checkpoints/ (what --resume goes on from) and, at the end, model.pt.

    Several processes, on one machine or on many, train one model if torchrun starts them:
    torchrun --nproc-per-node 4 --no-python bgpt train cpu

    \b
    Examples:
      bgpt train cpu
      bgpt train cpu --minutes 5 --out runs/try
      bgpt train files --data corpus
      bgpt train media --modality audio
    """


@train.command()
@click.option(
    "-o",
    "--out",
    type=FILE,
    metavar="RUN",
    default="runs/cpu",
    help="Folder of the run. Default: runs/cpu.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out, with its options.")
@click.option("--minutes", type=float, metavar="M", help="Train for that long. Default: 60.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train for that many updates instead: the same seed then gives the same weights.",
)
@click.option(
    "--preset",
    metavar="NAME",
    help=f"Size of the model: {', '.join(PRESETS)}. Default: that of --init, else {PRESET}.",
)
@click.option(
    "--init",
    type=FILE,
    metavar="CKPT",
    help="Go on from these weights (fine-tuning), with lower learning rates.",
)
@click.option(
    "--data",
    type=FILE,
    metavar="DIR",
    help="Traces to learn from, as `cpusim generate` writes them. Default: new programs all the"
    " time, none of which comes twice.",
)
@click.option(
    "--distribution",
    type=click.Choice(DISTRIBUTIONS),
    help="Which programs are made without --data; see `cpusim generate`. Default: mixed.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, MOST_SEEDS - 1),
    metavar="N",
    help="Of the first weights and of the data. Default: 0.",
)
@how_to_train_options
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard event files.")
def cpu(
    out: Path,
    resume: bool,
    minutes: float | None,
    steps: int | None,
    preset: str | None,
    init: Path | None,
    data: Path | None,
    distribution: Distribution | None,
    seed: int | None,
    device: str | None,
    dtype: str | None,
    no_compile: bool,
    tensorboard: bool,
) -> None:
    """Learn what a CPU does from its traces.

    Shown as it goes: the loss, the bits that a byte of a state still costs, and how many
    bytes and whole states are right. The evaluation programs are never trained on.

    Ctrl-C saves the run and ends with exit code 130; --resume goes on as if nothing had
    happened. Options not given are then the run's own.

    \b
    Examples:
      bgpt train cpu
      bgpt train cpu --resume
      bgpt train cpu --preset tiny --minutes 2 --out runs/tiny
      bgpt train cpu --data data --steps 20000 --out runs/data
      bgpt train cpu --init runs/cpu --minutes 20 --out runs/longer
    """
    if minutes is not None and steps is not None:
        raise click.UsageError("--minutes and --steps exclude each other; give one")
    if minutes is not None and not 0 < minutes < math.inf:
        raise click.UsageError(f"--minutes {minutes:g} is no time to train; give more than 0")
    if data is not None and distribution is not None:
        raise click.UsageError("--data brings its own programs, so leave out --distribution")
    from bytemodel.cpu_data import learned_cpu, source_like
    from bytemodel.distributed import leads
    from bytemodel.train import (
        BYTES,
        FINE_TUNING,
        TrainConfig,
        pick_device,
        pick_dtype,
        read_config,
    )
    from bytemodel.train import train as run_training

    before: dict[str, Any] = {"model": {}, "training": {}, "data": {}}
    if resume:
        before = read_config(out)
    elif steps is None and minutes is None:
        minutes = MINUTES
    model, task, start = beginning(BYTES, before, out=out, resume=resume, preset=preset, init=init)
    chosen: dict[str, Any] = dict(FINE_TUNING if start else {})
    chosen |= before["training"]
    if steps is not None or minutes is not None:
        chosen |= {"steps": steps or 0, "minutes": minutes or 0.0}
    if seed is not None:
        chosen["seed"] = seed
    training = TrainConfig.from_dict(chosen)
    source = source_like(
        before["data"],
        further=start is not None and learned_cpu(start.info),
        seed=training.seed,
        max_patches=model.max_patches,
        folder=data,
        distribution=distribution,
    )
    place = pick_device(device or before.get("device", "auto"))
    kind = str(pick_dtype(dtype or before.get("dtype", "auto"), place)).removeprefix("torch.")
    heading = f"{out}: {parameters(model) / 1e6:.1f} M parameters, {place.type}, {kind}"
    with listener_for(heading, _BYTES) as listener:
        outcome = run_training(
            out,
            model,
            training,
            source,
            listener,
            resume=resume,
            device=place.type,
            dtype=kind,
            compile_model=not no_compile and before.get("compile", True),
            tensorboard=tensorboard,
            task=task,
        )
    if not outcome.finished:
        raise Interrupted(
            f"stopped and saved at step {outcome.step:,}; go on with:"
            f" bgpt train cpu --out {shlex.quote(str(out))} --resume"
        )
    if leads():
        _print_end(out, outcome)


def beginning(
    task: Task,
    before: dict[str, Any],
    *,
    out: Path,
    resume: bool,
    preset: str | None,
    init: Path | None,
    otherwise: str = PRESET,
    max_patches: int | None = None,
) -> tuple[ModelConfig, Task, Checkpoint[Trainable] | None]:
    """The model's shape, the task, and the checkpoint whose weights it begins with, if any.

    `before`: what the run's `config.json` says, to go on with it. `otherwise`: the preset where
    nothing says the shape.
    """
    from bytemodel import checkpoint
    from bytemodel.files import fitting_config, going_on

    known = before.get("task", {})
    shape = None if preset is None else preset_config(preset)
    if shape is None and resume:
        shape = ModelConfig.from_dict(before["model"])
    # A run that goes on has its weights; those that it began with may have gone.
    if init is None and known.get("file") and checkpoint.find_resumable(out)[0] is None:
        init = Path(known["file"])
    start = None if init is None else checkpoint.load_any(init)
    if start is None and shape is None:
        shape = preset_config(otherwise)
    config = fitting_config(start, shape, max_patches)
    if start is not None:
        task = going_on(task, start)
    elif known:
        task = dataclasses.replace(task, about=known)
    return config, task, start


def parameters(config: ModelConfig) -> int:
    """How many a model of this shape has."""
    import torch

    from bytemodel.model import ByteModel

    with torch.device("meta"):  # counted, not made
        return ByteModel(config).parameter_count


def _print_end(out: Path, outcome: Outcome) -> None:
    console = render.stdout()
    console.print(f"trained {outcome.step:,} steps in {clock(outcome.elapsed)}")
    found = outcome.evaluation
    console.print(
        f"on programs never trained on: {found['bits_per_byte']:.4f} bits per byte,"
        f" {percent(found['byte_accuracy'])} of bytes and"
        f" {percent(found['exact_patches'])} of whole states right"
    )
    size = (out / "model.pt").stat().st_size
    console.print(f"{out / 'model.pt'}: the model, {size / 1e6:.1f} MB")
    console.print(f"{out / 'metrics.jsonl'}: every figure, {out / 'training.png'}: the plot")
    console.print(f"next: cpusim compare --model {shlex.quote(str(out))}")


class Column(NamedTuple):
    """A figure of a training record: its title, its width and its text. The last one of a
    record is the speed, which evaluations lack."""

    title: str
    width: int
    text: Callable[[dict[str, Any]], str]


def speed_text(name: str) -> Callable[[dict[str, Any]], str]:
    """The text of a speed; nothing where a record has none."""
    return lambda record: f"{record[name]:,.0f}" if name in record else ""


@contextmanager
def listener_for(heading: str, columns: Sequence[Column]) -> Iterator[Listener]:
    """A live display on a terminal, plain lines in a pipe; on stderr either way."""
    console = render.stderr()
    if not console.is_terminal:
        yield _Lines(console, heading, columns)
        return
    live = Live(console=console, refresh_per_second=4)
    try:
        yield _Display(live, heading, columns)
    finally:
        live.stop()


class _Lines:
    """A line a record."""

    def __init__(self, console: Console, heading: str, columns: Sequence[Column]) -> None:
        self._console = console
        self._heading = heading
        self._columns = columns
        self._next = 0.0

    def logged(self, record: dict[str, Any], progress: float) -> None:
        if self._heading:
            self._console.print(self._heading)
            titles = "  ".join(f"{column.title:>{column.width}}" for column in self._columns)
            self._console.print(f"{'step':>9}  {'':<10}  {titles}  {'left':>7}")
            self._heading = ""
        if record["kind"] == "train":
            if record["seconds"] < self._next:
                return
            self._next = record["seconds"] + _PLAIN_SECONDS
        figures = "  ".join(f"{column.text(record):>{column.width}}" for column in self._columns)
        line = (
            f"{record['step']:>9,}  {record['kind']:<10}  {figures}  {_left(record, progress):>7}"
        )
        self._console.print(line.rstrip())

    def note(self, sentence: str) -> None:
        self._console.print(sentence)


class _Display:
    """The newest record of each kind, redrawn in place."""

    def __init__(self, live: Live, heading: str, columns: Sequence[Column]) -> None:
        self._live = live
        self._heading = heading
        self._columns = columns
        self._records: dict[str, dict[str, Any]] = {}

    def logged(self, record: dict[str, Any], progress: float) -> None:
        self._records[record["kind"]] = record
        if "train" in self._records:
            times = f"{clock(record['seconds'])} done, {_left(record, progress)} left"
            self._show(f"{progress:.0%}  step {record['step']:,}  {times}", progress)
        else:
            self._show("the first steps take a while", progress)
        self._live.start()

    def note(self, sentence: str) -> None:
        self._live.console.print(sentence)

    def _show(self, status: str, progress: float) -> None:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style=render.HEADING)
        table.add_column("")
        for column in self._columns:
            table.add_column(column.title, justify="right")
        for kind, record in self._records.items():
            *figures, speed = (column.text(record) for column in self._columns)
            table.add_row(kind, *figures, speed or f"step {record['step']:,}")
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1.0, completed=progress, width=24), status)
        self._live.update(Group(Text(self._heading, style=render.HEADING), line, table))


def percent(share: float) -> str:
    """A share as per cent, rounded down, so that 100% means all of it."""
    # 57 of 100 times 10,000 is a hair less than 5,700.
    return f"{math.floor(round(share * 10_000, 6)) / 100:.2f}%"


_BYTES = (
    Column("loss", 8, lambda record: f"{record['loss']:.4f}"),
    Column("bits/byte", 9, lambda record: f"{record['bits_per_byte']:.4f}"),
    Column("bytes", 7, lambda record: percent(record["byte_accuracy"])),
    Column("states", 7, lambda record: percent(record["exact_patches"])),
    Column("states/s", 8, speed_text("patches_per_second")),
)


def _left(record: dict[str, Any], progress: float) -> str:
    """The time that the run still takes, if it goes on as fast."""
    if progress <= 0:
        return ""
    return clock(record["seconds"] * (1 - progress) / progress)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
