"""The `bgpt` program: parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cli.group import CommandGroup
from cli.options import (
    FILE,
    checkpoint_file,
    file_extension,
    force_option,
    json_option,
    load_model,
    model_option,
    writing_options,
)
from cpusim import __version__
from cpusim.files import atomic_write, read_bytes, refuse_existing, refuse_file

# Torch takes seconds to import: the commands that use it import it themselves.


@click.group(
    cls=CommandGroup,
    lazy={
        "train": "cli.training:train",
        "convert": "cli.conversion:convert",
        "score": "cli.scoring:score",
        "explain": "cli.scoring:explain",
        "compress": "cli.coding:compress",
        "decompress": "cli.coding:decompress",
        "classify": "cli.classify:classify",
        "modalities": "cli.media:modalities",
        "data": "cli.media:data",
        "gallery": "cli.gallery:gallery",
        "compare": "cli.notes:compare_tunes",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="bgpt")
def main() -> None:
    """A byte model: train it, look into it, score files and write new ones.

    The model reads and writes raw bytes and is never told what they mean.

    \b
    Examples:
      bgpt train cpu                            learn the CPU, for an hour
      bgpt train files --data corpus            learn any files
      bgpt info runs/cpu                        what came of it
      bgpt score --model runs/cpu trace.bin     bits per byte of a file
      bgpt explain trace.bin -o trace.png       where its bits go
      bgpt compress trace.bin -o trace.bgpt     and the file in so many bits
    """


@main.command()
@click.argument("path", metavar="[CKPT]", type=FILE, required=False)
@json_option
def info(path: Path | None, as_json: bool) -> None:
    """Print what a checkpoint holds and how it came to be.

    CKPT is a checkpoint file or a run folder; without it, the shipped checkpoint.

    \b
    Examples:
      bgpt info
      bgpt info runs/cpu
      bgpt info model.pt --json
    """
    from bytemodel.checkpoint import fingerprint, load_any
    from bytemodel.classifier import Classifier
    from bytemodel.cpu import display_name, shipped_checkpoint

    loaded = load_any(path or shipped_checkpoint())
    labels = list(loaded.model.labels) if isinstance(loaded.model, Classifier) else None

    size = loaded.path.stat().st_size
    name = fingerprint(loaded.model)
    report = {
        "file": str(loaded.path),
        "bytes": size,
        "fingerprint": name,
        "parameters": loaded.model.parameter_count,
        "resumable": loaded.training is not None,
        "config": loaded.config.to_dict(),
        "info": loaded.info,
    }
    if labels is not None:
        report["labels"] = labels
    if as_json:
        # A file may hold anything; what is no key in JSON is left out.
        click.echo(json.dumps(report, default=str, skipkeys=True))
        return
    from cli import render

    console = render.stdout()
    console.print(
        f"{display_name(loaded.path)}: {loaded.model.parameter_count:,} parameters,"
        f" {size / 1e6:.1f} MB"
    )
    if labels is None:
        console.print(f"its name in compressed files: {name[:16]}")
    else:
        console.print(f"a classifier, labels: {', '.join(labels)}")
    if loaded.training is not None:
        console.print("holds the state that training resumes from")
    # What trained it repeats the model's configuration.
    history = {name: value for name, value in loaded.info.items() if name != "model"}
    for title, values in (("model", loaded.config.to_dict()), ("how it came to be", history)):
        console.print(f"\n{title}", style=render.HEADING)
        for line in _tree(values):
            console.print(line)


@main.command()
@model_option
@click.option(
    "--ext", metavar="EXT", callback=file_extension, help="What to write: bin, txt, wav, ..."
)
@click.option(
    "--modality",
    metavar="NAME",
    help="Write files of this modality, in forms that people open, and judge them.",
)
@click.option("--prefix", type=FILE, metavar="FILE", help="The bytes that each file begins with.")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="How many files.",
)
@writing_options(temperature=1.0)
def generate(
    model: Path | None,
    ext: str | None,
    modality: str | None,
    prefix: Path | None,
    count: int,
    output: Path,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    max_patches: int | None,
    device: str,
    dtype: str,
    force: bool,
) -> None:
    """Write new files, byte by byte.

    Each file ends where the model says so, or at the longest sequence that it can read. The
    files are named after the prefix and numbered.

    With --modality, a picture is also written as PNG and a tune as MIDI, and it is said how many
    files an ordinary program would open. See bgpt modalities.

    \b
    Examples:
      bgpt generate --ext bin --prefix start.bin --temperature 0
      bgpt generate --model runs/text --ext txt -n 4 -o samples --top-p 0.9
      bgpt generate --model runs/audio --modality audio -n 8 -o samples
    """
    refuse_file(output)
    if modality is not None:
        from cli.media import Show

        show = Show(modality, ext)
        ext = show.extension
    elif ext is None:
        raise click.UsageError("say what to write: --ext EXT, or --modality NAME")
    stem = prefix.stem if prefix is not None else "generated"
    digits = max(3, len(str(count)))
    paths = [output / f"{stem}-{i:0{digits}d}.{ext}" for i in range(1, count + 1)]
    for path in paths:
        for taken in (path, *(show.other_forms(path) if modality else ())):
            refuse_existing(taken, force=force)
    data = b"" if prefix is None else read_bytes(prefix)
    from bytemodel.decoding import prepare
    from bytemodel.generate import Sampling
    from bytemodel.generate import generate as generate_files
    from cli import render

    sampling = Sampling(temperature, top_k, top_p)
    loaded, kind = load_model(model, device, dtype, modality=modality, extensions=[ext])
    console = render.stdout()
    with render.progress("writing", "bytes") as progress:
        made = generate_files(
            prepare(loaded.model, kind),
            ext,
            prefix=data,
            count=count,
            max_patches=max_patches,
            sampling=sampling,
            seed=seed,
            dtype=kind,
            progress=progress,
        )
        output.mkdir(parents=True, exist_ok=True)
        for path, file in zip(paths, made, strict=True):
            end = "the model ended it" if file.ended else "cut off at the limit"
            if modality is not None:
                end += str(show.file(path, file.data, force=force))
            else:
                with atomic_write(path, force=force) as out:
                    out.write(file.data)
            console.print(f"{path}: {len(file.data):,} bytes, {end}")
    if modality is not None:
        console.print(show.total())


@main.command("import")
@click.argument("weights", metavar="WEIGHTS.pth", type=FILE)
@click.option("-o", "--output", type=FILE, metavar="CKPT.pt", required=True, help="Checkpoint.")
@force_option
def import_(weights: Path, output: Path, force: bool) -> None:
    """Take over a checkpoint that the bGPT authors released.

    What is read are tensors alone: no code in the file is run.

    \b
    Examples:
      bgpt import weights-cpu.pth -o published-cpu.pt
    """
    refuse_existing(output, force=force, sources=[weights])
    from bytemodel import checkpoint
    from bytemodel.published import load_published

    read = load_published(weights)
    checkpoint.save(
        output, read.model, info={"imported from": weights.name}, unused=read.unused, force=force
    )
    click.echo(f"wrote {output}: {read.model.parameter_count:,} parameters", err=True)


@main.command()
@click.argument("path", metavar="CKPT", type=FILE)
@click.option(
    "-o", "--output", type=FILE, metavar="WEIGHTS.pth", required=True, help="File to write."
)
@force_option
def export(path: Path, output: Path, force: bool) -> None:
    """Write a checkpoint so that the bGPT authors' code reads it.

    CKPT is a checkpoint file or a run folder, of the published family. What `bgpt import` read
    comes back tensor for tensor.

    \b
    Examples:
      bgpt export runs/published -o weights.pth
    """
    refuse_existing(output, force=force, sources=[checkpoint_file(path)])
    from bytemodel import checkpoint
    from bytemodel.published import save_published

    loaded = checkpoint.load(path)
    save_published(output, loaded, force=force)
    click.echo(f"wrote {output}: {loaded.model.parameter_count:,} parameters", err=True)


def _tree(values: Mapping[str, Any], depth: int = 1) -> Iterator[str]:
    """Nested values, a line each, indented."""
    indent = "  " * depth
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}"
            yield from _tree(value, depth + 1)
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            yield f"{indent}{name}"
            for item in value:
                yield f"{indent}  " + ", ".join(f"{key} {entry}" for key, entry in item.items())
        else:
            yield f"{indent}{name!s:<16} {value}"
