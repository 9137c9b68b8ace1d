"""`bgpt classify`: parse, call, print."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bytemodel.config import PRESETS, ModelConfig, preset
from cli.group import CommandGroup, Interrupted
from cli.options import (
    FILE,
    checkpoint_files,
    device_option,
    dtype_option,
    force_option,
    how_to_train_options,
    json_option,
)
from cpusim.errors import UserError
from cpusim.files import atomic_write, read_bytes, refuse_unwritable

if TYPE_CHECKING:
    import torch

    from bytemodel.checkpoint import Checkpoint
    from bytemodel.classifier import Classifier
    from bytemodel.classify import Confusion

# Torch is imported by what needs it, so that --help is quick.

_MINUTES = 10.0
_WIDTH = 80
_MISTAKES = 20
"""Confusions that are listed where the matrix is too wide for a terminal."""

classifier_option = click.option(
    "--model",
    type=FILE,
    metavar="CKPT",
    required=True,
    help="Classifier: its checkpoint or its run folder.",
)


@click.group(cls=CommandGroup)
def classify() -> None:
    """Tell what files are: learn labels from examples.

    Labels are the names of folders, DATA/label/file.ext, or stand in the files' names:
    DATA/label_name.ext. DATA may have folders train, validation and test with such files, as
    those that bgpt data makes. What is read are bytes, so any kind of file will do.

    \b
    Examples:
      bgpt classify train data --model runs/text --out runs/kinds
      bgpt classify predict --model runs/kinds letter.txt
      bgpt classify eval data --model runs/kinds --plot confusion.png
    """


@classify.command()
@click.argument("data", metavar="DATA", type=FILE)
@click.option(
    "--model",
    type=FILE,
    metavar="CKPT",
    help="Byte model to begin with, such as one that was trained to write such files.",
)
@click.option(
    "--preset",
    "preset_name",
    metavar="NAME",
    help=f"Begin with random weights instead: {', '.join(PRESETS)}.",
)
@click.option("--head-only", is_flag=True, help="Leave the byte model as it is; train the head.")
@click.option(
    "-o",
    "--out",
    type=FILE,
    metavar="RUN",
    default="runs/classify",
    help="Folder of the run. Default: runs/classify.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out, with its options.")
@click.option(
    "--minutes", type=float, metavar="M", help=f"Train for that long. Default: {_MINUTES:g}."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train for that many updates instead: the same seed then gives the same weights.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop after N evaluations in a row without a better one. Default: never.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Of the first weights and of the order. Default: 0.",
)
@how_to_train_options
def train(
    data: Path,
    model: Path | None,
    preset_name: str | None,
    head_only: bool,
    out: Path,
    resume: bool,
    minutes: float | None,
    steps: int | None,
    patience: int | None,
    seed: int | None,
    device: str | None,
    dtype: str | None,
    no_compile: bool,
) -> None:
    """Learn the labels of the files in DATA.

    A fifth of the files is held out, chosen by a hash of their content; how well they are told
    apart is reported at the end, and written to RUN as report.txt and confusion.png. Of the
    others a tenth is validated on, if that is 100 or more, and the weights are kept that do
    best there. If DATA has a folder train and folders validation or test, those are used as
    they are.

    First of all a linear model is fitted to the files, to so many as two cores read in a quarter
    of an hour: to what the byte model makes of them, and, where they are few, to how often short
    runs of bytes occur in them. More than 32,768 files teach the byte model itself more than that;
    of these, 2,048 are looked at, to see what to read of a file. Where it tells more to know which
    byte stands at which place, that is learned too, by itself. All this is no part of --minutes.

    Ctrl-C saves the run and ends with exit code 130; --resume goes on as if nothing had
    happened. Options not given are then the run's own.

    \b
    Examples:
      bgpt classify train data --model runs/text
      bgpt classify train data --model runs/text --head-only --minutes 2
      bgpt classify train sets/image --model runs/image --minutes 30 --patience 5
      bgpt classify train data --preset small --steps 2000 -o runs/scratch
      bgpt classify train data --resume
    """
    if minutes is not None and steps is not None:
        raise click.UsageError("--minutes and --steps exclude each other; give one")
    if minutes is not None and not 0 < minutes < math.inf:
        raise click.UsageError(f"--minutes {minutes:g} is no time to train; give more than 0")
    if model is not None and preset_name is not None:
        raise click.UsageError("--model and --preset exclude each other; give one")
    if head_only and preset_name is not None:
        raise click.UsageError(
            "--head-only needs a model that has learned something; name one (--model)"
        )
    if model is None and preset_name is None and not resume:
        raise click.UsageError(
            "say what to begin with: --model CKPT, or --preset NAME for random weights"
        )
    from bytemodel import checkpoint
    from bytemodel.classify import classification, evaluate_files, training_config
    from bytemodel.distributed import leads
    from bytemodel.labelled import LabelledSource
    from bytemodel.linear import fitted, learns_head
    from bytemodel.train import pick_device, pick_dtype, read_config, refuse_taken
    from bytemodel.train import train as run_training
    from cli import render
    from cli.training import Column, listener_for, percent, speed_text

    before: dict[str, Any] = {"training": {}, "data": {}, "task": {}}
    if resume:
        before = read_config(out)
        if before.get("task", {}).get("kind") != "classification":
            raise UserError(f"{out}: is no run of bgpt classify train; name one with --out")
        # A run that goes on has its weights; those that it began with may have gone.
        began = before["task"].get("file") if checkpoint.find_resumable(out)[0] is None else None
        if model is None and preset_name is None and began:
            model = Path(began)
    else:
        if leads():
            refuse_taken(out)
        if minutes is None and steps is None:
            minutes = _MINUTES
    start = None if model is None else checkpoint.load(model)
    if start is not None:
        config = start.config
    elif preset_name is not None:
        config = preset(preset_name)
    else:
        config = ModelConfig.from_dict(before["model"])
    chosen: dict[str, Any] = dict(before["training"])
    if minutes is not None or steps is not None:
        chosen |= {"steps": steps or 0, "minutes": minutes or 0.0}
    if seed is not None:
        chosen["seed"] = seed
    if patience is not None:
        chosen["patience"] = patience
    with render.progress("reading", "files") as progress:
        source = LabelledSource(data, config, seed=chosen.get("seed", 0), progress=progress)
    head_only = head_only or bool(before["task"].get("head_only"))
    new_head = learns_head(source) and not head_only
    training = training_config(
        fine_tuning=start is not None, new_head=new_head, validates=source.validates, **chosen
    )
    if training.patience and not source.validates:
        raise UserError(
            f"{data}: has too few files to validate on some, so --patience would look at those that"
            " judge; leave it out, or make folders train, validation and test"
        )
    begin: Any = None if start is None else start.model
    about = {
        "file": None if model is None else str(model),
        "start": None if start is None else checkpoint.fingerprint(start.model),
    }
    if model is None and preset_name is None:
        about = before["task"]
    if checkpoint.find_resumable(out)[0] is None:
        with render.progress("a first look", "files") as progress:
            begin = fitted(begin, source, seed=training.seed, new_head=new_head, progress=progress)
    task = classification(
        begin,
        source.labels,
        head_only=head_only,
        mixed=new_head,
        about=about,
    )
    place = pick_device(device or before.get("device", "auto"))
    kind = str(pick_dtype(dtype or before.get("dtype", "auto"), place)).removeprefix("torch.")
    heading = (
        f"{out}: {len(source.labels)} labels, {len(source.training):,} files to learn from,"
        f" {len(source.held_out):,} held out, {place.type}, {kind}"
    )
    columns = (
        Column("loss", 8, lambda record: f"{record['loss']:.4f}"),
        Column("right", 8, lambda record: percent(record["accuracy"])),
        Column("files/s", 8, speed_text("files_per_second")),
    )
    with listener_for(heading, columns) as listener:
        source.note = listener.note
        outcome = run_training(
            out,
            config,
            training,
            source,
            listener,
            resume=resume,
            device=place.type,
            dtype=kind,
            compile_model=not no_compile and before.get("compile", True),
            task=task,
        )
    if not outcome.finished:
        raise Interrupted(
            f"stopped and saved at step {outcome.step:,}; go on with:"
            f" bgpt classify train {shlex.quote(str(data))} --out {shlex.quote(str(out))} --resume"
        )
    if not leads():
        return
    classifier = checkpoint.load_classifier(out, device=place).model
    with render.progress("evaluating", "files") as progress:
        confusion = evaluate_files(
            classifier, source.held_out, dtype=pick_dtype(kind, place), progress=progress
        )
    lines = [f"{confusion.files:,} files that were held out", "", *_report(confusion)]
    with atomic_write(out / "report.txt", force=True) as file:
        file.write("".join(line + "\n" for line in lines).encode(errors="backslashreplace"))
    _draw(out / "confusion.png", confusion, force=True)
    console = render.stdout()
    for line in lines:
        console.print(line)
    console.print()
    size = (out / "model.pt").stat().st_size
    console.print(f"{out / 'model.pt'}: the classifier, {size / 1e6:.1f} MB")
    console.print(f"{out / 'report.txt'}: this report, {out / 'confusion.png'}: the picture")
    console.print(f"next: bgpt classify predict --model {shlex.quote(str(out))} FILE")


@classify.command()
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@classifier_option
@device_option
@dtype_option
@json_option
def predict(files: tuple[Path, ...], model: Path, device: str, dtype: str, as_json: bool) -> None:
    """Print the most probable label of each file, and its probability.

    \b
    Examples:
      bgpt classify predict --model runs/kinds letter.txt
      bgpt classify predict --model runs/kinds --json inbox/*
    """
    for path in files:
        # All are looked at before the model is loaded; what a pipe holds can be read but once.
        if not path.is_fifo():
            read_bytes(path, limit=0)
    from bytemodel.classifier import classify_all
    from cli import render

    loaded, kind = _load(model, device, dtype)
    labels = loaded.model.labels
    with render.progress("classifying", "files") as progress:
        found = classify_all(
            loaded.model,
            ((read_bytes(path), path.suffix) for path in files),
            dtype=kind,
            progress=lambda done: progress(done, len(files)),
        )
    rows: list[dict[str, Any]] = [
        {
            "file": str(path),
            "label": labels[int(chances.argmax())],
            "labels": dict(zip(labels, chances.tolist(), strict=True)),
        }
        for path, chances in zip(files, found, strict=True)
    ]
    if as_json:
        click.echo(json.dumps({"model": str(loaded.path), "files": rows}))
        return
    from cli.training import percent

    console = render.stdout()
    width = max(5, *map(len, labels))
    console.print(f"{'label':<{width}}  {'probable':>8}  file", style=render.HEADING)
    for row in rows:
        label = row["label"]
        console.print(f"{label:<{width}}  {percent(row['labels'][label]):>8}  {row['file']}")


@classify.command("eval")
@click.argument("data", metavar="DATA", type=FILE)
@classifier_option
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Every file of DATA, also those of the share that training learns from.",
)
@click.option("--plot", type=FILE, metavar="PNG", help="Draw the confusion matrix.")
@device_option
@dtype_option
@json_option
@force_option
def evaluate(
    data: Path,
    model: Path,
    everything: bool,
    plot: Path | None,
    device: str,
    dtype: str,
    as_json: bool,
    force: bool,
) -> None:
    """Compare a classifier with the labels of files.

    Only those files are taken whose content is of the share that training holds out, unless
    --all is given, which is right for files that training never had. Reported are accuracy,
    precision, recall and F1 of each label, their mean (macro-F1) and the confusion matrix.

    \b
    Examples:
      bgpt classify eval data --model runs/kinds
      bgpt classify eval test-data --all --model runs/kinds --plot confusion.png
      bgpt classify eval data --model runs/kinds --json
    """
    if plot is not None:
        refuse_unwritable(plot, force=force, sources=checkpoint_files(model))
    from bytemodel.classify import evaluate_files
    from bytemodel.labelled import find_labelled
    from cli import render

    with render.progress("reading", "files") as progress:
        files = find_labelled(data, progress)
    chosen = files if everything else [file for file in files if file.held_out]
    if not chosen:
        raise UserError(f"{data}: no file is left to evaluate; use --all or add files")
    loaded, kind = _load(model, device, dtype)
    with render.progress("evaluating", "files") as progress:
        confusion = evaluate_files(loaded.model, chosen, dtype=kind, progress=progress)
    if plot is not None:
        _draw(plot, confusion, force=force)
    if as_json:
        report = {
            "model": str(loaded.path),
            "data": str(data),
            "files": confusion.files,
            "held_out": sum(file.held_out for file in chosen),
            "accuracy": confusion.accuracy,
            "macro_f1": confusion.macro_f1,
            "labels": [
                {"label": label, "files": int(files), "precision": p, "recall": r, "f1": f}
                for label, files, p, r, f in zip(
                    confusion.labels,
                    confusion.counts.sum(1),
                    confusion.precision.tolist(),
                    confusion.recall.tolist(),
                    confusion.f1.tolist(),
                    strict=True,
                )
            ],
            "confusion": confusion.counts.tolist(),
        }
        click.echo(json.dumps(report))
        return
    console = render.stdout()
    if everything:
        seen = sum(not file.held_out for file in chosen)
        about = (
            f"{confusion.files:,} files, {seen:,} of them of the share that training learns from"
        )
    else:
        about = f"{confusion.files:,} of {len(files):,} files: those that training holds out"
    console.print(about)
    console.print()
    for line in _report(confusion):
        console.print(line)
    if plot is not None:
        console.print(f"\n{plot}: the confusion matrix")


def _load(path: Path, device: str, dtype: str) -> tuple[Checkpoint[Classifier], torch.dtype]:
    from bytemodel import checkpoint
    from bytemodel.train import pick_device, pick_dtype

    place = pick_device(device)
    return checkpoint.load_classifier(path, device=place), pick_dtype(dtype, place)


def _report(confusion: Confusion) -> Iterator[str]:
    """Accuracy, macro-F1, a line a label and the confusion matrix."""
    from cli.training import percent

    labels = confusion.labels
    yield f"accuracy {percent(confusion.accuracy)}, macro-F1 {confusion.macro_f1:.4f}"
    yield ""
    width = max(5, *map(len, labels))
    yield f"{'':>3}  {'label':<{width}}  {'files':>7}  {'precision':>9}  {'recall':>7}  {'F1':>6}"
    for number, label in enumerate(labels):
        yield (
            f"{number + 1:>3}  {label:<{width}}  {confusion.counts[number].sum():>7,}"
            f"  {percent(confusion.precision[number]):>9}  {percent(confusion.recall[number]):>7}"
            f"  {confusion.f1[number]:>6.4f}"
        )
    yield ""
    cell = max(len(f"{confusion.counts.max():,}"), len(str(len(labels)))) + 2
    if 15 + cell * len(labels) <= _WIDTH:
        yield "true label (rows) and predicted one (columns), by their numbers above"
        yield f"{'':>3}  " + "".join(f"{number + 1:>{cell}}" for number in range(len(labels)))
        for number, row in enumerate(confusion.counts):
            cells = (f"{value:,}" if value else "." for value in row.tolist())
            yield f"{number + 1:>3}  " + "".join(f"{text:>{cell}}" for text in cells)
        return
    wrong = confusion.counts.copy()
    wrong[range(len(labels)), range(len(labels))] = 0
    yield "the most frequent confusions; the picture has the whole matrix"
    order = (-wrong).ravel().argsort(kind="stable")[:_MISTAKES]
    for row, column in (divmod(int(place), len(labels)) for place in order):
        if wrong[row, column]:
            yield f"{wrong[row, column]:>7,}  {labels[row]} taken for {labels[column]}"


def _draw(path: Path, confusion: Confusion, *, force: bool) -> None:
    from bytemodel.pictures import draw_confusion
    from cli.training import percent

    title = (
        f"{confusion.files:,} files: accuracy {percent(confusion.accuracy)},"
        f" macro-F1 {confusion.macro_f1:.3f}"
    )
    draw_confusion(path, confusion.counts, confusion.labels, title=title, force=force)
