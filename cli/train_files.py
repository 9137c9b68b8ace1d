"""`bgpt train files`, and what every command that trains on files has: parse, call, print."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bytemodel.config import MOST_TARGETS, PRESETS, TARGETS, ModelConfig
from cli import render
from cli.group import Interrupted
from cli.options import FILE, how_to_train_options
from cli.training import (
    CONVERSION_PRESET,
    FILES_PRESET,
    MINUTES,
    MOST_SEEDS,
    Column,
    beginning,
    clock,
    listener_for,
    parameters,
    percent,
    speed_text,
)
from cpusim.errors import UserError

if TYPE_CHECKING:
    from bytemodel.files_data import FileSource, Item, Pair, Skipped
    from bytemodel.made_data import MixedSource
    from bytemodel.train import Outcome

# Torch is imported by what needs it, so that --help is quick.


@dataclass(frozen=True)
class TrainOptions:
    """The values of `train_options`."""

    out: Path
    resume: bool
    minutes: float | None
    steps: int | None
    epochs: int | None
    preset: str | None
    init: Path | None
    max_patches: int | None
    batch: int | None
    patience: int | None
    seed: int | None
    device: str | None
    dtype: str | None
    no_compile: bool
    tensorboard: bool

    def source(
        self,
        entries: Iterable[Item | Pair],
        config: ModelConfig,
        *,
        seed: int,
        before: dict[str, Any],
        about: dict[str, Any],
        skipped: Skipped,
    ) -> FileSource:
        """The files to learn, read under a progress bar; `before`: what the run to go on with says
        of its data."""
        from bytemodel.files_data import FileSource

        with render.progress("reading", "files") as progress:
            return FileSource(
                entries,
                config,
                seed=seed,
                about=about,
                targets=self.batch or before.get("targets"),
                skipped=skipped,
                progress=progress,
            )


def train_options(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of how to train on files; a run goes to `runs/name` by default."""
    options = (
        click.option(
            "-o",
            "--out",
            type=FILE,
            metavar="RUN",
            default=f"runs/{name}",
            help=f"Folder of the run. Default: runs/{name}.",
        ),
        click.option(
            "--resume", is_flag=True, help="Go on with the run in --out, with its options."
        ),
        click.option(
            "--minutes", type=float, metavar="M", help=f"Train for that long. Default: {MINUTES:g}."
        ),
        click.option(
            "--steps",
            type=click.IntRange(min=1),
            metavar="N",
            help="Train for that many updates instead: the same seed then gives the same weights.",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            metavar="N",
            help="Or learn everything that many times.",
        ),
        click.option(
            "--preset",
            metavar="NAME",
            help=f"Size of the model: {', '.join(PRESETS)}. Default: that of --init, else"
            f" {FILES_PRESET}, or {CONVERSION_PRESET} with --convert.",
        ),
        click.option(
            "--init",
            type=FILE,
            metavar="CKPT",
            help="Go on from these weights (fine-tuning), with lower learning rates.",
        ),
        click.option(
            "--max-patches",
            type=click.IntRange(min=3),
            metavar="N",
            help="Longest sequence that the model reads. Default: the preset's, or that of --init.",
        ),
        click.option(
            "--batch",
            type=click.IntRange(1, MOST_TARGETS),
            metavar="N",
            help="Predict about N patches at each update; a GPU has room for more than the default"
            f" of {TARGETS}.",
        ),
        click.option(
            "--patience",
            type=click.IntRange(min=1),
            metavar="N",
            help="Stop after N evaluations in a row without a better one. Default: never.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, MOST_SEEDS - 1),
            metavar="N",
            help="Of the first weights and of the order. Default: 0.",
        ),
        how_to_train_options,
        click.option("--tensorboard", is_flag=True, help="Also write TensorBoard event files."),
    )

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command()
@click.option("--data", type=FILE, metavar="DIR", help="Folder of files, or a single file.")
@click.option(
    "--ext",
    "extensions",
    metavar="EXT",
    multiple=True,
    help="Learn only files with this extension; may be given more than once.",
)
@click.option(
    "--convert",
    metavar="A->B",
    help="Learn to turn files .A into the files .B of the same name; 'A&B': and back.",
)
@train_options("files")
def files(
    data: Path | None, extensions: tuple[str, ...], convert: str | None, **options: Any
) -> None:
    """Learn files of any kind, byte by byte.

    A tenth of the files is held out, by a hash of their content, and evaluated on. If DIR has a
    folder train and one named validation or test, those are used as they are. Files longer than
    the model's sequence are learned in windows; conversions that long are left out.

    The best weights so far are kept, and go into model.pt at the end. Ctrl-C saves the run and
    ends with exit code 130; --resume goes on as if nothing had happened. Options not given are
    then the run's own.

    \b
    Examples:
      bgpt train files --data corpus
      bgpt train files --data corpus --ext txt --epochs 10 --patience 5
      bgpt train files --data tunes --convert "abc&mid" --out runs/tunes
      bgpt train files --data more --init runs/files --minutes 10 --out runs/more
      bgpt train files --resume
    """
    if extensions and convert is not None:
        raise click.UsageError("--convert names its own extensions, so leave out --ext")
    chosen = TrainOptions(**options)
    if data is None and not chosen.resume:
        raise click.UsageError("say what to learn: --data DIR")

    def source(config: ModelConfig, seed: int, before: dict[str, Any]) -> FileSource:
        from bytemodel.files_data import Conversion, Skipped, find_items

        folder = data or Path(before["folder"])
        kinds = list(extensions or before.get("extensions", ()))
        text = before.get("convert") if convert is None else convert
        conversion = None if text is None else Conversion.parse(text, config.patch_size)
        skipped = Skipped()
        if conversion is None:
            entries: Any = find_items(folder, kinds, skipped)
        else:
            both = (conversion.source, conversion.target)
            entries = conversion.pairs(find_items(folder, both, skipped), skipped)
        about = {"kind": "files", "folder": str(folder), "extensions": kinds}
        if conversion is not None:
            about["convert"] = str(conversion)
        return chosen.source(
            entries, config, seed=seed, before=before, about=about, skipped=skipped
        )

    learn(chosen, "files", source, converts=convert is not None)


def learn(
    options: TrainOptions,
    command: str,
    make_source: Callable[[ModelConfig, int, dict[str, Any]], FileSource | MixedSource],
    *,
    converts: bool,
) -> None:
    """Train on files, as the command `bgpt train COMMAND` does, and say how it went.

    `make_source`: of the model's shape, the seed and, to go on with a run, its record of the data.
    `converts`: whether conversions are to be learned, which decides the model's shape if nothing
    else does.
    """
    _check_length(options)
    from bytemodel.distributed import leads
    from bytemodel.files import learning_files, training_config
    from bytemodel.train import pick_device, pick_dtype, read_config, refuse_taken
    from bytemodel.train import train as run_training

    before: dict[str, Any] = {"training": {}, "data": {}}
    if options.resume:
        before = read_config(options.out)
        if before.get("task", {}).get("kind") != "files" or "kind" not in before["data"]:
            raise UserError(f"{options.out}: is no run on files; name one with --out")
    elif leads():
        refuse_taken(options.out)
    config, task, start = beginning(
        learning_files(),
        before,
        out=options.out,
        resume=options.resume,
        preset=options.preset,
        init=options.init,
        otherwise=CONVERSION_PRESET if converts else FILES_PRESET,
        max_patches=options.max_patches,
    )
    chosen: dict[str, Any] = dict(before["training"])
    if options.seed is not None:
        chosen["seed"] = options.seed
    source = make_source(config, chosen.get("seed", 0), before["data"])
    steps = options.steps
    if options.epochs is not None:
        steps = options.epochs * source.steps_per_epoch
    if steps is not None or options.minutes is not None or not options.resume:
        minutes = options.minutes or (MINUTES if steps is None else 0.0)
        chosen |= {"steps": steps or 0, "minutes": minutes}
    if options.patience is not None:
        chosen["patience"] = options.patience
    training = training_config(source.steps_per_epoch, fine_tuning=start is not None, **chosen)
    place = pick_device(options.device or before.get("device", "auto"))
    dtype = pick_dtype(options.dtype or before.get("dtype", "auto"), place)
    kind = str(dtype).removeprefix("torch.")
    heading = (
        f"{options.out}: {parameters(config) / 1e6:.1f} M parameters, {place.type}, {kind};"
        f" {source.training:,} to learn, {source.held_out:,} held out"
    )
    with listener_for(heading, _columns(source.steps_per_epoch)) as listener:
        if leads():
            for sentence in source.notes:
                listener.note(sentence)
            source.note = listener.note
        outcome = run_training(
            options.out,
            config,
            training,
            source,
            listener,
            resume=options.resume,
            device=place.type,
            dtype=kind,
            compile_model=not options.no_compile and before.get("compile", True),
            tensorboard=options.tensorboard,
            task=task,
        )
    if not outcome.finished:
        raise Interrupted(
            f"stopped and saved at step {outcome.step:,}; go on with:"
            f" bgpt train {command} --out {shlex.quote(str(options.out))} --resume"
        )
    if leads():
        _print_end(options.out, outcome, source, config)


def _check_length(options: TrainOptions) -> None:
    given = {"--minutes": options.minutes, "--steps": options.steps, "--epochs": options.epochs}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} exclude each other; give one")
    if options.minutes is not None and not 0 < options.minutes < math.inf:
        raise click.UsageError(
            f"--minutes {options.minutes:g} is no time to train; give more than 0"
        )


def _columns(steps_per_epoch: int) -> tuple[Column, ...]:
    return (
        Column("loss", 8, lambda record: f"{record['loss']:.4f}"),
        Column("bits/byte", 9, lambda record: f"{record['bits_per_byte']:.4f}"),
        Column("bytes", 7, lambda record: percent(record["byte_accuracy"])),
        Column("epoch", 6, lambda record: f"{record['step'] / steps_per_epoch:.1f}"),
        Column("bytes/s", 9, speed_text("bytes_per_second")),
    )


def _print_end(
    out: Path, outcome: Outcome, source: FileSource | MixedSource, config: ModelConfig
) -> None:
    from bytemodel.files_data import Conversion

    console = render.stdout()
    epochs = outcome.step / source.steps_per_epoch
    console.print(
        f"trained {outcome.step:,} steps, {epochs:.1f} epochs, in {clock(outcome.elapsed)}"
    )
    found = outcome.evaluation
    console.print(
        f"on what is held out: {found['bits_per_byte']:.4f} bits per byte,"
        f" {percent(found['byte_accuracy'])} of bytes right"
    )
    size = (out / "model.pt").stat().st_size
    console.print(
        f"{out / 'model.pt'}: the best model, that of step {outcome.model_step:,},"
        f" {size / 1e6:.1f} MB"
    )
    console.print(f"{out / 'checkpoints'}: the best one in full precision, and the last ones")
    console.print(f"{out / 'metrics.jsonl'}: every figure, {out / 'training.png'}: the plot")
    command, end = "score", ""
    if text := source.describe().get("convert"):
        conversion = Conversion.parse(text, config.patch_size)
        command, end = "convert", f".{conversion.source} --to {conversion.target}"
    console.print(f"next: bgpt {command} --model {shlex.quote(str(out))} FILE{end}")
