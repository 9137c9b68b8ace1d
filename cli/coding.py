"""`bgpt compress` and `bgpt decompress`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.group import say
from cli.options import FILE, checkpoint_files, force_option, load_model, model_option
from cpusim.errors import UserError
from cpusim.files import atomic_write, read_bytes, refuse_unwritable

if TYPE_CHECKING:
    from bytemodel.model import ByteModel

_SUFFIX = ".bgpt"

output_option = click.option("-o", "--output", type=FILE, metavar="OUT", help="Where to write it.")


@click.command()
@model_option
@click.argument("file", metavar="FILE", type=FILE)
@output_option
@force_option
def compress(model: Path | None, file: Path, output: Path | None, force: bool) -> None:
    """Compress a file by what the model knows of such files.

    FILE stays as it is. Without -o the output is FILE.bgpt. Decompressing takes the same model, and
    a machine of the same kind: the same torch on a CPU that adds up in the same order. Whatever is
    different or damaged is noticed and refused, never decoded to something else.

    Every byte is computed on its own, on one CPU thread in float32: slow, but the same
    everywhere. `bgpt score` says beforehand what comes out.

    \b
    Examples:
      bgpt compress trace.bin -o trace.bgpt
      bgpt compress --model runs/text README.md
    """
    data = read_bytes(file)
    output = output or file.with_name(file.name + _SUFFIX)
    refuse_unwritable(output, force=force, sources=[file, *checkpoint_files(model)])
    from bytemodel import compression
    from cli import render

    loaded, _ = load_model(model, "cpu", "float32", extensions=[file.suffix])
    with render.progress("compressing", "bytes") as progress:
        packed = compression.compress(loaded.model, data, file.suffix, progress=progress)
    with atomic_write(output, force=force) as out:
        out.write(packed)
    ratio = f", {len(packed) / len(data):.1%} of it" if data else ""
    say(f"{output}: {len(data):,} bytes of {file} in {len(packed):,}{ratio}")


@click.command()
@click.option(
    "--model",
    type=FILE,
    metavar="CKPT",
    help="Checkpoint file or run folder. Default: of the shipped ones, that which compressed FILE.",
)
@click.argument("file", metavar="FILE", type=FILE)
@output_option
@force_option
def decompress(model: Path | None, file: Path, output: Path | None, force: bool) -> None:
    """Restore exactly a file that `bgpt compress` wrote.

    FILE stays as it is. Without -o the output is FILE without .bgpt. Nothing is written unless the
    content's checksum is right.

    \b
    Examples:
      bgpt decompress trace.bgpt -o trace.bin
      bgpt decompress --model runs/text README.md.bgpt
    """
    if output is None:
        if file.suffix != _SUFFIX or not file.stem.strip("."):
            raise UserError(f"{file}: does not end in {_SUFFIX}; say with -o where to write")
        output = file.with_suffix("")
    packed = read_bytes(file)
    refuse_unwritable(output, force=force, sources=[file, *checkpoint_files(model)])
    from bytemodel import compression
    from cli import render

    decoder = _writer_of(packed) if model is None else None
    if decoder is None:
        decoder = load_model(model, "cpu", "float32")[0].model
    try:
        with render.progress("decompressing", "bytes") as progress:
            data = compression.decompress(decoder, packed, progress=progress)
    except compression.OtherModelError as error:
        if model is not None:
            raise UserError(f"{file}: {error}") from None
        raise UserError(
            f"{file}: was compressed with the model {error.written_by}, which is none of those that"
            " ship; name it with --model (bgpt info prints what each is)"
        ) from None
    except compression.CompressionError as error:
        raise UserError(f"{file}: {error}") from None
    with atomic_write(output, force=force) as out:
        out.write(data)
    say(f"{output}: {len(data):,} bytes, checked")


def _writer_of(packed: bytes) -> ByteModel | None:
    """The model that a compressed file's header names, if it ships."""
    from bytemodel import checkpoint, compression
    from media import shipped

    for path in shipped.every():
        model = checkpoint.load(path).model
        if compression.is_written_by(model, packed):
            return model
    return None
