"""`bgpt gallery`: parse, call, print."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import render
from cli.group import say
from cli.options import FILE, device_option, dtype_option, force_option, json_option
from cpusim.errors import UserError
from cpusim.files import FolderKind, atomic_folder, refuse_folder
from media import registry
from media.breaches import Broken

if TYPE_CHECKING:
    from media.gallery import Settings, Writer
    from media.modality import Modality

# Torch is imported by what needs it, so that --help is quick.


@click.command()
@click.option("-o", "--output", type=FILE, metavar="DIR", required=True, help="The folder to make.")
@click.option(
    "--model",
    "models",
    metavar="[NAME=]CKPT",
    multiple=True,
    help="Let this checkpoint or run write the files of modality NAME, or cpu, or convert them, if"
    " it learned to; may be given more than once. NAME may be left out if it learned one by name."
    " Default: the shipped ones.",
)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=4,
    show_default=True,
    help="How many files of each kind, written and real.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62),
    metavar="N",
    default=0,
    show_default=True,
    help="Of the first file; each has the next one. Same seed, same files, on the same machine.",
)
@click.option(
    "--temperature",
    type=float,
    metavar="T",
    default=1.0,
    show_default=True,
    help="0 always takes the most probable byte.",
)
@device_option
@dtype_option
@json_option
@force_option
@click.pass_context
def gallery(
    context: click.Context,
    output: Path,
    models: tuple[str, ...],
    count: int,
    seed: int,
    temperature: float,
    device: str,
    dtype: str,
    as_json: bool,
    force: bool,
) -> None:
    """Make a page of what models write beside real files.

    Pictures to see, sounds to play, scores, text, real tunes converted, and a CPU run to step
    through by keyboard; with the bits per byte of each file, and how it was made. DIR/index.html
    needs no network, and DIR/gallery.json has the figures.

    Of a modality without a checkpoint, only real files are shown. They are of the set that the
    checkpoint learned from, its held-out side, or of the default set if it is here, or else of
    the small sample that ships; nothing is fetched.

    Exit code 1: a modality that another package brought is broken; its room is left out.

    \b
    Examples:
      bgpt gallery -o gallery
      bgpt gallery -o gallery -n 8 --temperature 0.8 --force
      bgpt gallery -o gallery --model runs/image --model audio=voices.pt
    """
    from cli.gallery_page import MANIFEST, PAGE, About, write

    names = registry.names()
    kind = FolderKind("a gallery", [MANIFEST], [PAGE, *names])
    refuse_folder(output, kind, force=force)
    begun, made = time.monotonic(), datetime.now().astimezone()
    from bytemodel.generate import Sampling
    from bytemodel.train import pick_device, pick_dtype
    from media import gallery as halls
    from media.prepared import Stages

    Sampling(temperature)  # refuses what is none
    place = pick_device(device)
    settings = halls.Settings(count, seed, temperature, place, pick_dtype(dtype, place))
    writers, converters = _writers(models, settings)
    for name in (halls.CPU, *names):
        path = halls.writer_of(name)
        if name not in writers and path.is_file():
            writers[name] = halls.load_writer(path, path.name, settings)
    modalities: dict[str, Modality] = {}
    left_out: list[str] = []
    # What models wrote comes before what is real alone.
    for name in sorted(names, key=lambda name: name not in writers):
        try:
            modalities[name] = registry.load(name)
        except UserError as error:
            left_out.append(str(error))
            continue
        ships = halls.converter_of(modalities[name])
        if name not in converters and name in writers and ships is not None:
            converters[name] = halls.load_writer(ships, ships.name, settings)
    cpu_writer = writers.get(halls.CPU)
    total = sum(
        halls.samples(modality, writers.get(name), converters.get(name), settings)
        for name, modality in modalities.items()
    ) + (count if cpu_writer else 0)
    done = 0
    with (
        atomic_folder(output, kind, force=force) as folder,
        render.progress("making", "samples") as progress,
    ):

        def tell() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        progress(0, total)
        cpu = halls.build_cpu(cpu_writer, settings, tell) if cpu_writer else None
        rooms = []
        for name, modality in modalities.items():
            try:
                who = writers.get(name), converters.get(name)
                rooms.append(halls.build(modality, *who, settings, Stages(), tell))
            except Broken as error:
                left_out.append(str(error))
        about = About(
            _words(output, models, settings, device, dtype), made, time.monotonic() - begun
        )
        manifest = write(folder, rooms, cpu, settings, about)
    for sentence in left_out:
        say(f"{sentence}; its room is left out", sys.stderr)
    if as_json:
        click.echo(json.dumps({"folder": str(output), "left_out": left_out, **manifest}))
    else:
        _report(output, manifest, cpu is not None)
    if left_out:
        context.exit(1)


def _report(output: Path, manifest: dict[str, Any], with_cpu: bool) -> None:
    console = render.stdout()
    if with_cpu:
        found = manifest["cpu"]
        console.print(f"cpu: {found['exact']:,} of {found['programs']:,} programs exact")
    for room in manifest["rooms"]:
        for kind in room["kinds"]:
            console.print(f"{room['name']} {kind['title']}: {_counts(kind)}")
        for note in room["notes"]:
            console.print(f"  {note}", style=render.QUIET)
    console.print(f"{output / 'index.html'}: open it in a browser")


def _writers(
    models: tuple[str, ...], settings: Settings
) -> tuple[dict[str, Writer], dict[str, Writer]]:
    """The checkpoints named that write, and those that convert, by the room they belong to.

    Raises `UserError`.
    """
    from media import gallery as halls

    writers: dict[str, Writer] = {}
    converters: dict[str, Writer] = {}
    for text in models:
        name, equals, rest = text.partition("=")
        named = bool(equals) and name in (halls.CPU, *registry.names())
        path = Path(rest if named else text)
        writer = halls.load_writer(path, "/".join(path.parts[-2:]), settings)
        if not named:
            name = halls.room_of(path, writer.info)
        there, do = (converters, "convert") if writer.conversions else (writers, "write")
        if name in there:
            raise UserError(
                f"--model: {there[name].path} and {path} both {do} {name}; leave one out"
            )
        there[name] = writer
    return writers, converters


def _words(
    output: Path, models: tuple[str, ...], settings: Settings, device: str, dtype: str
) -> list[str]:
    words = ["bgpt", "gallery", "-o", str(output), "-n", str(settings.count)]
    words += ["--seed", str(settings.seed), "--temperature", f"{settings.temperature:g}"]
    for model in models:
        words += ["--model", model]
    for option, value in (("--device", device), ("--dtype", dtype)):
        if value != "auto":
            words += [option, value]
    return words


def _counts(kind: dict[str, object]) -> str:
    """How many files, and their mean bits per byte, in a line."""
    parts = []
    for side in ("written", "real"):
        files, means = kind[side], kind["bits_per_byte"]
        assert isinstance(files, list)
        assert isinstance(means, dict)
        part = f"{len(files):,} {side}"
        if side == "written" and files and kind["valid"] is not None:
            part += f" ({kind['valid']:,} valid)"
        if means[side] is not None:
            part += f", {means[side]:.3f} bits per byte"
        parts.append(part)
    return "; ".join(parts)
