"""`bgpt train media`: parse, call, print."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.media import Bars, note
from cli.options import FILE
from cli.train_files import TrainOptions, learn, train_options
from cpusim.errors import UserError
from media import prepared, registry
from media.conversions import makes_pairs, pairs_of

if TYPE_CHECKING:
    from bytemodel.config import ModelConfig
    from bytemodel.files_data import FileSource
    from bytemodel.made_data import MixedSource
    from media.modality import MakesPairs

# Torch is imported by what needs it, so that --help is quick.

MADE_CONVERSIONS = 0.75


@click.command()
@click.option("--modality", metavar="NAME", help="What to learn; see bgpt modalities.")
@click.option(
    "--data",
    type=FILE,
    metavar="DIR",
    help="Your own files, or a set that bgpt data made, or hf:NAME, a data set of the Hugging Face"
    " Hub. Default: the modality's default data, fetched if need be.",
)
@click.option(
    "--convert",
    metavar="A->B",
    help="Learn to turn files .A into the files .B of the same name; 'A&B': and back.",
)
@click.option(
    "--made",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="How many of all updates learn from files made without end, where there is an exact"
    f" program to make them. Default: there {MADE_CONVERSIONS:g} with --convert, else 0.",
)
@train_options("MODALITY")
@click.pass_context
def media(
    context: click.Context,
    /,
    modality: str | None,
    data: Path | None,
    convert: str | None,
    made: float | None,
    **values: Any,
) -> None:
    """Learn text, images, audio, music or another modality.

    Nothing but the name need be given: the data are fetched, converted and kept in a cache folder.
    The model, the objective and how it is trained are those of `bgpt train files`; of your own
    files, what can be converted is, and what cannot is named and left out.

    With --convert "abc&mid", music is taught to make MIDI of ABC tunes and ABC of MIDI. Beside real
    tunes it then learns made ones: variations of those it learns from and new ones like
    them, each converted by abc2midi. None is like a tune that is held out, and it is on
    real tunes that the model is evaluated. So with terminfo, by tic, and "tisrc&tibin".
    With --made they are learned without --convert too, each file for itself.

    Ctrl-C saves the run and ends with exit code 130; --resume goes on as if nothing had
    happened. Options not given are then the run's own.

    \b
    Examples:
      bgpt train media --modality audio
      bgpt train media --modality image --minutes 30 --out runs/shoes
      bgpt train media --modality music --convert "abc&mid" --out runs/tunes
      bgpt train media --modality terminfo --convert "tisrc&tibin" --minutes 60
      bgpt train media --modality music --data tunes --init runs/music
      bgpt train media --modality text --data hf:stanfordnlp/imdb
      bgpt train media --modality audio --resume
    """
    options = TrainOptions(**values)
    if context.get_parameter_source("out") is ParameterSource.DEFAULT:
        if not modality:
            raise click.UsageError("say what to learn: --modality NAME; see bgpt modalities")
        options = dataclasses.replace(options, out=Path("runs") / modality)
    elif not modality and not options.resume:
        raise click.UsageError("say what to learn: --modality NAME; see bgpt modalities")
    learned = ""
    converts: tuple[str, str] | None = None

    def source(config: ModelConfig, seed: int, before: dict[str, Any]) -> FileSource | MixedSource:
        from bytemodel.distributed import leads
        from bytemodel.files_data import Conversion, Skipped, find_items
        from bytemodel.made_data import MixedSource

        nonlocal learned, converts
        if before and before.get("kind") != "media":
            raise UserError(f"{options.out}: is no run of bgpt train media; name one with --out")
        learned = modality or before["modality"]
        if before and learned != before["modality"]:
            raise UserError(
                f"{options.out}: is a run on {before['modality']}, not on {learned}; leave out"
                " --modality, or name another run with --out"
            )
        chosen = registry.load(learned)
        # What cannot be is refused before anything is fetched.
        text = before.get("convert") if convert is None else convert
        conversion = None if text is None else Conversion.parse(text, config.patch_size)
        if conversion is not None:
            converts = (conversion.source, conversion.target)
            held = {extension.lower() for extension in chosen.extensions}
            if not held.issuperset(kind.lower() for kind in converts):
                known = " and ".join(f".{extension}" for extension in chosen.extensions)
                raise UserError(
                    f"modality {learned}: has files {known} only, so --convert {conversion} leaves"
                    " nothing to train on; name two of its kinds, or leave out --convert"
                )
        maker: MakesPairs | None = chosen if makes_pairs(chosen, converts) else None
        share = 0.0
        if before:
            share = before.get("made", {}).get("share", 0.0)
        elif conversion is not None and maker is not None:
            share = MADE_CONVERSIONS
        share = share if made is None else made
        if share and maker is None:
            kinds = "files" if converts is None else " and ".join(f".{kind}" for kind in converts)
            raise UserError(
                f"modality {learned}: there is no program that makes {kinds}; leave out --made"
            )
        folder = data or (Path(before["data"]) if before.get("data") else None)
        if data is None and before and prepared.is_prepared(Path(before["folder"])):
            # As it was, whatever has become of what it was made of.
            found = prepared.read(Path(before["folder"]))
        elif folder is None:
            found = prepared.default_set(chosen, Bars(), note)
        else:
            found = prepared.user_set(chosen, folder, Bars(), note)
        if leads():
            note(found.sentence())
        about = {
            "kind": "media",
            "modality": learned,
            "folder": str(found.folder),
            "data": None if folder is None else str(folder),
            "set": found.manifest["sha256"],
            "licence": found.manifest["licence"],
        }
        skipped = Skipped()
        if conversion is None:
            entries: Any = find_items(found.folder, (), skipped)
        else:
            both = (conversion.source, conversion.target)
            entries = conversion.pairs(find_items(found.folder, both, skipped), skipped)
            about["convert"] = str(conversion)
        real = options.source(
            entries, config, seed=seed, before=before, about=about, skipped=skipped
        )
        if maker is None or not share:
            return real
        make, digest = pairs_of(maker, found, seed=seed)
        about = {"sha256": digest}
        return MixedSource(real, make, maker.pair, conversion, share=share, about=about)

    learn(options, "media", source, converts=convert is not None)
    from bytemodel.distributed import leads

    if leads() and converts is None:
        out = shlex.quote(str(options.out))
        click.echo(f"or:   bgpt generate --model {out} --modality {learned} -n 8 -o samples")
