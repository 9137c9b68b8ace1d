"""`bgpt convert`: parse, call, print. How files are converted stands in `bytemodel.conversion`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bytemodel.folder import files_below
from cli.group import Interrupted, say
from cli.options import (
    FILE,
    checkpoint_files,
    file_extension,
    json_option,
    load_model,
    writing_options,
)
from cpusim.errors import UserError
from cpusim.files import atomic_write, read_bytes, refuse_existing, refuse_file

if TYPE_CHECKING:
    from bytemodel.conversion import Converted
    from bytemodel.patches import Patches
    from cli.media import Judgement

# Torch is imported by what needs it, so that --help is quick.


@click.command()
@click.option(
    "--model",
    type=FILE,
    metavar="CKPT",
    help="Checkpoint file or run folder. Default: the one that ships for such files.",
)
@click.argument("inputs", metavar="IN...", type=FILE, nargs=-1, required=True)
@click.option(
    "--to",
    "ext",
    metavar="EXT",
    required=True,
    callback=file_extension,
    help="What to make of them: mid, abc, ...",
)
@click.option(
    "--modality",
    metavar="NAME",
    help="Judge what is made as files of this modality, and mend what can be.",
)
@writing_options(temperature=0.0)
@json_option
@click.pass_context
def convert(
    context: click.Context,
    model: Path | None,
    inputs: tuple[Path, ...],
    ext: str,
    modality: str | None,
    output: Path,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    max_patches: int | None,
    device: str,
    dtype: str,
    force: bool,
    as_json: bool,
) -> None:
    """Convert files to another kind, by a model that was trained to.

    IN is a file, or a folder with all files below it that are not EXT already; hidden ones are
    left out. The model reads each file and writes its counterpart: DIR/name.EXT, in the same
    folders below DIR as below IN. A file that the model has no room for is left out and named.

    How sure the model was is printed of each output. Bits/byte: what it cost the model, end
    included, over its bytes; 0 is sure, 8 a blind guess. Probability: of the whole output, end
    included (2^-bits). Least certain: the byte of lowest probability, by its offset, or
    the end. All by what the model says at temperature 1, however the bytes were chosen. It is no
    promise: a model can be sure and wrong. With --modality it is said which files an ordinary
    program would open; one of which nothing but the lengths that it says are wrong is also written
    with those set right, as DIR/name.mended.EXT. See bgpt modalities.

    Exit code 0: the model ended every output; 1: some it did not, which were cut off at
    --max-patches or at the longest sequence that it reads; 2: bad usage, or files were left out.
    Ctrl-C keeps what is finished.

    \b
    Examples:
      bgpt convert tune.abc --to mid --modality music
      bgpt convert --model runs/music songs --to mid -o midi --modality music
      bgpt convert --model runs/music tune.mid --to abc --temperature 0.8 --seed 2
      bgpt convert --model runs/music *.abc --to mid -o midi --json
    """
    targets = _targets(inputs, output, ext, model, force=force)
    show = None
    if modality is not None:
        from cli.media import Show

        show = Show(modality, ext, forms=False)
        kept = [*targets, *checkpoint_files(model)]
        for target in targets.values():
            for form in show.other_forms(target):
                refuse_existing(form, force=force, sources=kept)
    from bytemodel.conversion import as_trained, convert_prompts, prompt, trained_conversions
    from bytemodel.cpu import display_name
    from bytemodel.decoding import prepare
    from bytemodel.generate import Sampling
    from cli import render
    from media import shipped

    sampling = Sampling(temperature, top_k, top_p)
    ways = {path: (path.suffix.removeprefix("."), ext) for path in targets}
    loaded, kind = load_model(model or shipped.for_conversions(ways.values()), device, dtype)
    trained = trained_conversions(loaded)
    if trained is not None:
        known = ", ".join(map("->".join, trained))
        record = f"it was trained on {known}" if known else "its record names no conversion"
        for asked in sorted(set(ways.values())):
            if as_trained(trained, *asked) is None:
                name = display_name(loaded.path)
                sentence = f"{name}: {record}; expect nothing of {'->'.join(asked)}"
                say(sentence, sys.stderr)
    left_out: dict[Path, str] = {}
    prompts: dict[Path, Patches] = {}
    for path in targets:
        # Of a file far too long, no more is read than shows that.
        data = read_bytes(path, limit=loaded.config.max_patches * loaded.config.patch_size)
        try:
            way = as_trained(trained or (), *ways[path]) or ways[path]
            prompts[path] = prompt(loaded.config, data, *way)
        except UserError as error:
            left_out[path] = str(error)
    sources = list(prompts)
    found: dict[Path, Converted] = {}
    judged: dict[Path, Judgement] = {}
    interrupted = False
    try:
        with render.progress("converting", "files") as progress:
            progress(0, len(sources))
            for number, converted in convert_prompts(
                prepare(loaded.model, kind),
                list(prompts.values()),
                max_patches=max_patches,
                sampling=sampling,
                seed=seed,
                dtype=kind,
            ):
                path = sources[number]
                targets[path].parent.mkdir(parents=True, exist_ok=True)
                if show is None:
                    with atomic_write(targets[path], force=force) as out:
                        out.write(converted.data)
                else:
                    judged[path] = show.file(targets[path], converted.data, force=force)
                found[path] = converted
                progress(len(found), len(sources))
    except KeyboardInterrupt:
        interrupted = True
    # In the order given, not in that of their ends.
    done = [path for path in sources if path in found]
    if as_json:
        report = {
            "model": str(loaded.path),
            "to": ext,
            "trained_conversions": None if trained is None else list(map("->".join, trained)),
            "files": [
                _as_json(path, targets[path], found[path], judged.get(path)) for path in done
            ],
            "left_out": [{"file": str(path), "reason": why} for path, why in left_out.items()],
        }
        click.echo(json.dumps(report))
    elif done:
        console = render.stdout()
        console.print(
            f"{'bytes':>9}  {'bits/byte':>9}  {'probability':>11}  {'least certain':>20}  file",
            style=render.HEADING,
        )
        for path in done:
            console.print(_row(targets[path], found[path]) + str(judged.get(path, "")))
        unfinished = sum(not found[path].ended for path in done)
        if unfinished:
            console.print(
                f"{unfinished:,} of {len(done):,} unfinished: cut off at the limit",
                style=render.WRONG,
            )
        if show is not None:
            console.print(show.total())
    if interrupted:
        raise Interrupted(f"interrupted: {len(done):,} of {len(sources):,} files were converted")
    if left_out:
        raise UserError("\n".join(f"{path}: {why}" for path, why in left_out.items()))
    if not all(converted.ended for converted in found.values()):
        context.exit(1)


def _targets(
    inputs: Sequence[Path], output: Path, ext: str, model: Path | None, *, force: bool
) -> dict[Path, Path]:
    """Where each source's counterpart is to be written.

    Raises `UserError` where something would be lost, or a source cannot be read.
    """
    pairs: list[tuple[Path, Path]] = []
    for named in inputs:
        if named.is_dir():
            done = f".{ext}".lower()
            below = [path for path in files_below(named) if path.suffix.lower() != done]
            if not below:
                raise UserError(f"{named}: holds no file to convert to {ext}; check the name")
            pairs += [(path, path.relative_to(named).parent) for path in below]
        else:
            pairs.append((named, Path()))
    targets: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for source, folder in pairs:
        if not source.is_fifo():
            read_bytes(source, limit=0)  # raises if it cannot be
        target = output / folder / f"{source.stem}.{ext}"
        if source in targets:
            raise UserError(f"{source}: is named twice; name it once")
        if target in taken:
            raise UserError(
                f"{source}: would be written to {target}, as {taken[target]} would; convert them"
                " into different folders with -o"
            )
        taken[target] = source
        targets[source] = target
    for folder in dict.fromkeys(target.parent for target in taken):
        refuse_file(folder, "choose another folder with -o")
    originals = {source.resolve() for source in targets}
    for source, target in targets.items():
        if target.resolve() in originals:
            raise UserError(
                f"{source}: its counterpart {target} is one of the files to convert; choose"
                " another folder with -o"
            )
        refuse_existing(target, force=force, sources=checkpoint_files(model))
    return targets


def _row(target: Path, converted: Converted) -> str:
    per_byte = f"{converted.bits_per_byte:.5f}" if converted.data else "-"
    place = converted.least_certain
    least = "the end" if place == len(converted.data) else f"byte {place:,}"
    least += f": {_percent(_probability(converted, place))}"
    whole = _percent(converted.probability)
    if whole.startswith("0.00"):
        whole = f"2^-{converted.bits:,.0f}"
    unfinished = "" if converted.ended else " (unfinished)"
    return (
        f"{len(converted.data):>9,}  {per_byte:>9}  {whole:>11}  {least:>20}  {target}{unfinished}"
    )


def _as_json(
    source: Path, target: Path, converted: Converted, judged: Judgement | None
) -> dict[str, Any]:
    place = converted.least_certain
    more = {} if judged is None else {**judged._asdict(), "also": list(judged.also)}
    return {
        "file": str(source),
        "output": str(target),
        "bytes": len(converted.data),
        "ended": converted.ended,
        "bits": converted.bits,
        "bits_per_byte": converted.bits_per_byte if converted.data else None,
        "probability": converted.probability,
        "least_certain": {
            "offset": place,
            "is_end": place == len(converted.data),
            "bits": float(converted.surprisal[place]),
            "probability": _probability(converted, place),
        },
        **more,
    }


def _probability(converted: Converted, place: int) -> float:
    return math.exp2(-float(converted.surprisal[place]))


def _percent(share: float) -> str:
    """Rounded down, so that 100 % is certain."""
    return f"{math.floor(share * 10_000) / 100:.2f} %"
