"""The `bgpt` program: parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.group import CommandGroup
from cli.options import FILE, device_option, dtype_option, force_option, json_option
from cpusim import __version__
from cpusim.errors import UserError
from cpusim.files import atomic_write, read_bytes, refuse_existing

if TYPE_CHECKING:
    import torch

    from bytemodel.checkpoint import Checkpoint

# Torch takes seconds to import: the commands that use it import it themselves.

model_option = click.option(
    "--model",
    type=FILE,
    metavar="CKPT",
    help="Checkpoint file or run folder. Default: the shipped one.",
)


@click.group(
    cls=CommandGroup,
    lazy={"train": "cli.training:train"},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="bgpt")
def main() -> None:
    """A byte model: train it, look into it, score files and write new ones.

    The model reads and writes raw bytes and is never told what they mean.

    \b
    Examples:
      bgpt train cpu                            learn the CPU, for an hour
      bgpt info runs/cpu                        what came of it
      bgpt score --model runs/cpu trace.bin     bits per byte of a file
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
    loaded, _ = _load(path, "cpu", "float32")
    size = loaded.path.stat().st_size
    report = {
        "file": str(loaded.path),
        "bytes": size,
        "parameters": loaded.model.parameter_count,
        "resumable": loaded.training is not None,
        "config": loaded.config.to_dict(),
        "info": loaded.info,
    }
    if as_json:
        click.echo(json.dumps(report, default=str))
        return
    from cli import render

    console = render.stdout()
    console.print(
        f"{loaded.path}: {loaded.model.parameter_count:,} parameters, {size / 1e6:.1f} MB"
    )
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
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Read the first N bytes of each file as context only.",
)
@device_option
@dtype_option
@json_option
def score(
    model: Path | None,
    files: tuple[Path, ...],
    skip: int,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Print how many bits a byte the model needs for files.

    8 is knowing nothing, 0 is knowing all. What a file is, its name's extension says. The end
    of a file is predicted too: its cost is in the bits, its bytes are in nobody's count.

    \b
    Examples:
      bgpt score trace.bin
      bgpt score --model runs/cpu --skip 1040 data/test/*.bin
      bgpt score --model runs/cpu trace.bin --json
    """
    # All files are looked at before the model is loaded, which takes a while.
    for path in files:
        size = len(read_bytes(path, limit=skip))
        if skip and size <= skip:
            raise UserError(
                f"{path}: --skip {skip:,} leaves nothing of its {size:,} bytes to score"
            )
    from bytemodel.score import score_file
    from cli import render

    loaded, kind = _load(model, device, dtype)
    scores = []
    with render.progress("scoring", "files") as progress:
        for done, path in enumerate(files):
            progress(done, len(files))
            data = read_bytes(path)
            try:
                found = score_file(loaded.model, data, path.suffix, skip=skip, dtype=kind)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
            scores.append((path, len(found.surprisal), found.bits))
    rows: list[dict[str, Any]] = [
        {"file": str(path), "bytes": size, "bits": bits, "bits_per_byte": _ratio(bits, size)}
        for path, size, bits in scores
    ]
    size, bits = sum(row["bytes"] for row in rows), sum(row["bits"] for row in rows)
    total = {"bytes": size, "bits": bits, "bits_per_byte": _ratio(bits, size)}
    if as_json:
        report = {"model": str(loaded.path), "skip": skip, "files": rows, "total": total}
        click.echo(json.dumps(report))
        return
    console = render.stdout()
    console.print(f"{'bits/byte':>9}  {'bits':>13}  {'bytes':>13}  file", style=render.HEADING)
    for row in [*rows, {**total, "file": "total"}][: None if len(rows) > 1 else 1]:
        per_byte = "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.5f}"
        console.print(f"{per_byte:>9}  {row['bits']:>13,.1f}  {row['bytes']:>13,}  {row['file']}")


@main.command()
@model_option
@click.option("--ext", metavar="EXT", required=True, help="What to write: bin, txt, wav, ...")
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
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="DIR",
    default=".",
    help="Where to write them. Default: the current folder.",
)
@click.option(
    "--temperature",
    type=float,
    metavar="T",
    default=1.0,
    show_default=True,
    help="0 always takes the most probable byte.",
)
@click.option(
    "--top-k", type=int, metavar="K", default=0, help="Only the K most probable bytes. 0: all."
)
@click.option(
    "--top-p",
    type=float,
    metavar="P",
    default=1.0,
    help="Only the most probable bytes that together have P. 1: all.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    default=0,
    show_default=True,
    help="Same seed, same bytes, on the same machine.",
)
@click.option(
    "--max-patches",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop there. Default: as long as the model can read.",
)
@device_option
@dtype_option
@force_option
def generate(
    model: Path | None,
    ext: str,
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

    \b
    Examples:
      bgpt generate --ext bin --prefix start.bin --temperature 0
      bgpt generate --model runs/text --ext txt -n 4 -o samples --top-p 0.9
    """
    extension = ext.removeprefix(".")
    stem = prefix.stem if prefix is not None else "generated"
    if "/" in extension or "\0" in extension or not extension:
        raise UserError(f"--ext {ext!r} is no file extension; write one like bin or txt")
    digits = max(3, len(str(count)))
    paths = [output / f"{stem}-{i:0{digits}d}.{extension}" for i in range(1, count + 1)]
    for path in paths:
        refuse_existing(path, force=force)
    data = b"" if prefix is None else read_bytes(prefix)
    from bytemodel.decoding import prepare
    from bytemodel.generate import Sampling
    from bytemodel.generate import generate as generate_files
    from cli import render

    sampling = Sampling(temperature, top_k, top_p)
    loaded, kind = _load(model, device, dtype)
    made = generate_files(
        prepare(loaded.model, kind),
        extension,
        prefix=data,
        count=count,
        max_patches=max_patches,
        sampling=sampling,
        seed=seed,
        dtype=kind,
    )
    output.mkdir(parents=True, exist_ok=True)
    console = render.stdout()
    for path, file in zip(paths, made, strict=True):
        with atomic_write(path, force=force) as out:
            out.write(file.data)
        end = "the model ended it" if file.ended else "cut off at the limit"
        console.print(f"{path}: {len(file.data):,} bytes, {end}")


@main.command("import")
@click.argument("weights", metavar="WEIGHTS.pth", type=FILE)
@click.option("-o", "--output", type=FILE, metavar="CKPT.pt", required=True, help="Checkpoint.")
@force_option
def import_(weights: Path, output: Path, force: bool) -> None:
    """Turn a checkpoint that the bGPT authors released into one of ours.

    What is read are tensors alone: no code in the file is run.

    \b
    Examples:
      bgpt import weights-cpu.pth -o published-cpu.pt
    """
    refuse_existing(output, force=force)
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
    """Turn a checkpoint of ours into one that the bGPT authors' code reads.

    CKPT is a checkpoint file or a run folder, of the published family. What `bgpt import` read
    comes back tensor for tensor.

    \b
    Examples:
      bgpt export runs/published -o weights.pth
    """
    refuse_existing(output, force=force)
    from bytemodel import checkpoint
    from bytemodel.published import save_published

    loaded = checkpoint.load(path)
    save_published(output, loaded, force=force)
    click.echo(f"wrote {output}: {loaded.model.parameter_count:,} parameters", err=True)


def _load(path: Path | None, device: str, dtype: str) -> tuple[Checkpoint, torch.dtype]:
    """The checkpoint named, or the shipped one, and the precision to compute in."""
    from bytemodel import checkpoint
    from bytemodel.cpu import shipped_checkpoint
    from bytemodel.train import pick_device, pick_dtype

    place = pick_device(device)
    return checkpoint.load(path or shipped_checkpoint(), device=place), pick_dtype(dtype, place)


def _ratio(bits: float, size: int) -> float | None:
    """Bits per byte; None for no bytes."""
    return bits / size if size else None


def _tree(values: Mapping[str, Any], depth: int = 1) -> Iterator[str]:
    """Nested values, a line each, indented."""
    indent = "  " * depth
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}"
            yield from _tree(value, depth + 1)
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            yield f"{indent}{name}"
            for item in value:
                yield f"{indent}  " + ", ".join(f"{key} {entry}" for key, entry in item.items())
        else:
            yield f"{indent}{name:<16} {value}"
