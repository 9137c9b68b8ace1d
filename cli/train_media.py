"""`bgpt train media`: parse, call, print."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli import render
from cli.media import Bars, note
from cli.options import FILE
from cli.train_files import TrainOptions, learn, train_options
from cpusim.errors import UserError
from media import prepared, registry

if TYPE_CHECKING:
    from bytemodel.config import ModelConfig
    from bytemodel.files_data import FileSource

# Torch is imported by what needs it, so that --help is quick.


@click.command()
@click.option("--modality", metavar="NAME", help="What to learn; see bgpt modalities.")
@click.option(
    "--data",
    type=FILE,
    metavar="DIR",
    help="Your own files, or a set that bgpt data made. Default: the modality's default data,"
    " fetched if need be.",
)
@train_options("MODALITY")
@click.pass_context
def media(
    context: click.Context, /, modality: str | None, data: Path | None, **values: Any
) -> None:
    """Learn text, images, audio, music, or another modality that is installed.

    Nothing but the name need be given: the data are fetched, converted and kept in a cache folder.
    The model, the objective and how it is trained are those of `bgpt train files`; of your own
    files, what can be converted is, and what cannot is named and left out.

    Ctrl-C saves the run and ends with exit code 130; --resume goes on as if nothing had
    happened. Options not given are then the run's own.

    \b
    Examples:
      bgpt train media --modality audio
      bgpt train media --modality image --minutes 30 --out runs/shoes
      bgpt train media --modality music --data tunes --init runs/music
      bgpt train media --modality audio --resume
    """
    options = TrainOptions(**values)
    if context.get_parameter_source("out") is ParameterSource.DEFAULT:
        if modality is None:
            raise click.UsageError("say what to learn: --modality NAME; see bgpt modalities")
        options = dataclasses.replace(options, out=Path("runs") / modality)
    elif modality is None and not options.resume:
        raise click.UsageError("say what to learn: --modality NAME; see bgpt modalities")
    learned = ""

    def source(config: ModelConfig, seed: int, before: dict[str, Any]) -> FileSource:
        from bytemodel.distributed import leads
        from bytemodel.files_data import FileSource, Skipped, find_items

        nonlocal learned
        if before and before.get("kind") != "media":
            raise UserError(f"{options.out}: is no run of bgpt train media; name one with --out")
        learned = modality or before["modality"]
        chosen = registry.load(learned)
        folder = data or (Path(before["data"]) if before.get("data") else None)
        if folder is None:
            found = prepared.default_set(chosen, Bars(), note)
        else:
            found = prepared.user_set(chosen, folder, Bars(), note)
        if leads():
            note(found.sentence())
        skipped = Skipped()
        with render.progress("reading", "files") as progress:
            return FileSource(
                find_items(found.folder, (), skipped),
                config,
                seed=seed,
                about={
                    "kind": "media",
                    "modality": learned,
                    "folder": str(found.folder),
                    "data": None if folder is None else str(folder),
                    "set": found.manifest["sha256"],
                    "licence": found.manifest["licence"],
                },
                skipped=skipped,
                progress=progress,
            )

    learn(options, "media", source)
    from bytemodel.distributed import leads

    if leads():
        click.echo(
            f"or:   bgpt generate --model {options.out} --modality {learned} -n 8 -o samples"
        )
