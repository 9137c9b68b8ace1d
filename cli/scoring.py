"""`bgpt score` and `bgpt explain`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cli.group import say
from cli.options import (
    FILE,
    checkpoint_files,
    device_option,
    dtype_option,
    force_option,
    json_option,
    load_model,
    model_option,
)
from cpusim.errors import UserError
from cpusim.files import read_bytes, refuse_unwritable


@click.command()
@model_option
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Read the first N bytes of each file as context only.",
)
@click.option(
    "--plot",
    type=FILE,
    metavar="PNG",
    help="Draw the bits a byte costs by its position, as the mean over the files.",
)
@click.option(
    "--hex", "hexadecimal", is_flag=True, help="Show the most surprising bytes of each file."
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    default=16,
    show_default=True,
    help="How many bytes --hex shows.",
)
@device_option
@dtype_option
@json_option
@force_option
def score(
    model: Path | None,
    files: tuple[Path, ...],
    skip: int,
    plot: Path | None,
    hexadecimal: bool,
    top: int,
    device: str,
    dtype: str,
    as_json: bool,
    force: bool,
) -> None:
    """Print how many bits a byte the model needs for files.

    8 is knowing nothing, 0 is knowing all. What a file is, its name's extension says. The end
    of a file is predicted too: its cost is in the bits, its bytes are in nobody's count.

    The column "compressed" promises how many bytes `bgpt compress` would make of the file: its
    header of some 35 bytes, and then never more than the file as it is.

    \b
    Examples:
      bgpt score trace.bin
      bgpt score --model runs/cpu --skip 1040 data/test/*.bin
      bgpt score --hex trace.bin
      bgpt score --plot positions.png data/test/*.bin
      bgpt score --model runs/cpu trace.bin --json
    """
    # All files are looked at before the model is loaded, which takes a while.
    if plot is not None:
        refuse_unwritable(plot, force=force, sources=[*files, *checkpoint_files(model)])
    pipes: dict[Path, bytes] = {}  # can be read once only
    for path in files:
        data = read_bytes(path, limit=None if path.is_fifo() else skip)
        if path.is_fifo():
            pipes[path] = data
        size = len(data)
        if skip and size <= skip:
            raise UserError(
                f"{path}: --skip {skip:,} leaves nothing of its {size:,} bytes to score"
            )
    from bytemodel.compression import compressed_size
    from bytemodel.score import score_file
    from cli import hexview, render

    suffixes = [path.suffix for path in files]
    loaded, kind = load_model(model, device, dtype, extensions=suffixes)
    patch_size = loaded.config.patch_size
    rows: list[dict[str, Any]] = []
    surprisals, views = [], []
    with render.progress("scoring", "files") as progress:
        for done, path in enumerate(files):
            progress(done, len(files))
            data = pipes[path] if path in pipes else read_bytes(path)
            found = score_file(loaded.model, data, path.suffix, skip=skip, dtype=kind)
            size = len(found.surprisal)
            row = {
                "file": str(path),
                "bytes": size,
                "bits": found.bits,
                "bits_per_byte": _ratio(found.bits, size),
                # What is skipped must be compressed too, and was not scored.
                "compressed": None
                if skip
                else compressed_size(found.surprisal, path.suffix, patch_size),
            }
            if plot is not None:
                surprisals.append(found.surprisal)
            if hexadecimal and as_json:
                row["most_surprising"] = hexview.worst_json(data, found, skip, top)
            elif hexadecimal:
                views.append((path, list(hexview.worst_lines(data, found, skip, top))))
            rows.append(row)
    if plot is not None:
        from bytemodel.pictures import plot_positions

        plot_positions(plot, surprisals, first=skip, patch_size=patch_size, force=force)
    total: dict[str, Any] = {
        name: sum(row[name] for row in rows) if name != "compressed" or not skip else None
        for name in ("bytes", "bits", "compressed")
    }
    total["bits_per_byte"] = _ratio(total["bits"], total["bytes"])
    if as_json:
        report = {"model": str(loaded.path), "skip": skip, "files": rows, "total": total}
        click.echo(json.dumps(report))
        return
    console = render.stdout()
    heading = f"{'bits/byte':>9}  {'bits':>13}  {'bytes':>11}  {'compressed':>11}  file"
    console.print(heading, style=render.HEADING)
    for row in [*rows, {**total, "file": "total"}][: None if len(rows) > 1 else 1]:
        per_byte = "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.5f}"
        compressed = "-" if row["compressed"] is None else f"{row['compressed']:,}"
        console.print(
            f"{per_byte:>9}  {row['bits']:>13,.1f}  {row['bytes']:>11,}  {compressed:>11}"
            f"  {row['file']}"
        )
    for path, lines in views:
        console.print(f"\n{path}: the most surprising bytes", style=render.HEADING)
        for line in lines:
            console.print(line)
    if plot is not None:
        console.print(f"{plot}: bits per byte by position")


@click.command()
@model_option
@click.argument("file", metavar="FILE", type=FILE)
@click.option(
    "-o", "--output", type=FILE, metavar="PNG", required=True, help="Where to write the picture."
)
@device_option
@dtype_option
@force_option
def explain(
    model: Path | None, file: Path, output: Path, device: str, dtype: str, force: bool
) -> None:
    """Draw where a file's bits go.

    A map of the file is coloured by what each byte costs: dark cells surprised the model. Beside
    the map: what each row costs in all; above it: the
    mean by place in the patch. In a small file each cell shows its byte.

    \b
    Examples:
      bgpt explain trace.bin -o trace.png
      bgpt explain --model runs/text README.md -o readme.png
    """
    data = read_bytes(file)
    refuse_unwritable(output, force=force, sources=[file, *checkpoint_files(model)])
    from bytemodel.pictures import draw_bits
    from bytemodel.score import score_file

    loaded, kind = load_model(model, device, dtype, extensions=[file.suffix])
    found = score_file(loaded.model, data, file.suffix, dtype=kind)
    size = loaded.config.patch_size
    draw_bits(output, found, data, name=file.name, patch_size=size, force=force)
    say(f"{output}: where the {found.bits:,.1f} bits of {file} go")


def _ratio(bits: float, size: int) -> float | None:
    """Bits per byte; None for no bytes."""
    return bits / size if size else None
