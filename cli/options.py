"""What several commands take: files, models, --force, --json, the options of a first state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpusim.assembler import parse_number
from cpusim.errors import UserError, nearest
from cpusim.files import atomic_write
from cpusim.isa import ACC, FIRST_REGISTER, REGISTERS, SLOTS
from cpusim.reference import DEFAULT_MAX_STEPS

if TYPE_CHECKING:
    import torch

    from bytemodel.checkpoint import Checkpoint
    from bytemodel.model import ByteModel

# The same as in cpusim.programs and cpusim.dataset, which import numba: too slow for --help.
DISTRIBUTIONS = ("published", "uniform", "mixed")
LAYOUTS = ("shards", "files")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")

SEEDS = 1 << 32
"""Programs to be judged by have seeds below; training and its evaluation draw from those above."""
LENGTHS = 1, SLOTS - 1
"""Least and most instructions of a random program, unless asked otherwise."""

Command = Callable[..., None]

FILE = click.Path(path_type=Path)
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")
STDOUT = Path("-")
"""What is named to write JSON to standard output."""


def write_json(path: Path, text: str, *, force: bool) -> None:
    """Write what `--json FILE` asked for; nothing else is printed then where that is `STDOUT`."""
    if path == STDOUT:
        click.echo(text)
    else:
        with atomic_write(path, force=force) as file:
            file.write(f"{text}\n".encode())


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    help="Where to compute. auto: on the GPU if there is one.",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="auto",
    help="Precision. auto: bfloat16 where the hardware has it.",
)

model_option = click.option(
    "--model",
    type=FILE,
    metavar="CKPT",
    help="Checkpoint file or run folder. Default: the shipped one for such files, else the CPU's.",
)


cpu_model_option = click.option(
    "--model", type=FILE, metavar="CKPT", help="The byte model. Default: the shipped one."
)


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order that --help shows."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def load_model(
    path: Path | None,
    device: str,
    dtype: str,
    *,
    modality: str | None = None,
    extensions: Iterable[str] = (),
) -> tuple[Checkpoint[ByteModel], torch.dtype]:
    """The checkpoint named, or the shipped one for the modality or for files with these
    extensions, and the precision to compute in."""
    # Torch takes seconds to import, and these options stand in many a command's --help.
    from bytemodel import checkpoint
    from bytemodel.train import pick_device, pick_dtype
    from cpusim.trace import TRACE_SUFFIX
    from media import shipped

    place = pick_device(device)
    if path is None and modality is not None:
        path = shipped.for_modality(modality)
    elif path is None:
        kinds = {extension.removeprefix(".").lower() for extension in extensions}
        path = shipped.for_files(kinds)
        strange = kinds - {TRACE_SUFFIX.removeprefix(".")}
        if strange and path == shipped.for_files([TRACE_SUFFIX]):
            names = ", ".join(
                sorted(f".{kind}" if kind else "without an extension" for kind in strange)
            )
            click.echo(
                f"no checkpoint ships for files {names}, so the CPU's is taken; name another with"
                " --model",
                err=True,
            )
    return checkpoint.load(path, device=place), pick_dtype(dtype, place)


def checkpoint_file(path: Path) -> Path:
    """The file that a CKPT names: of a run folder, that which holds its newest weights.

    Raises `UserError` if there is none in the folder; a file need not be there.
    """
    if not path.is_dir():
        return path
    from bytemodel.checkpoint import newest_in_run

    return newest_in_run(path)


def checkpoint_files(model: Path | None) -> list[Path]:
    """The file of the checkpoint that was named, if one was, which nothing written may replace."""
    return [] if model is None else [checkpoint_file(model)]


def _byte(text: str) -> int:
    number = parse_number(text)
    if number is None:
        raise click.BadParameter(f"{text!r} is no number; write it as 200, 0xc8 or 0b11001000")
    if number > 255:
        raise click.BadParameter(f"{text!r} is outside 0..255")
    return number


def _byte_option(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    return None if text is None else _byte(text)


def _registers_option(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> dict[str, int]:
    """Register values from texts such as `A=1,B=0x20`; the last one of a register counts."""
    values = {}
    for part in ",".join(texts).split(",") if texts else ():
        name, equals, number = (text.strip() for text in part.partition("="))
        if not equals:
            raise click.BadParameter(f"{part!r} is no assignment; write it like A=1,B=2")
        if len(name) != 1 or name.upper() not in REGISTERS:
            close = nearest(name, REGISTERS)
            hint = f"; did you mean {close}?" if close else ""
            if name.upper() == "ACC":
                hint = "; --acc sets the accumulator"
            raise click.BadParameter(
                f"{name!r} is no register ({REGISTERS[0]}..{REGISTERS[-1]}){hint}"
            )
        values[name.upper()] = _byte(number)
    return values


def file_extension(_: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """A file extension, with or without its dot, as it is written without; None if not given."""
    if text is None:
        return None
    extension = text.removeprefix(".")
    if "/" in extension or "\0" in extension or not extension:
        raise UserError(
            f"{parameter.opts[0]} {text!r} is no file extension; write one like bin or txt"
        )
    return extension


def writing_options(*, temperature: float) -> Callable[[Command], Command]:
    """Add the options of a command by which a model writes files; `temperature`: the default."""
    return _together(
        click.option(
            "-o",
            "--output",
            type=FILE,
            metavar="DIR",
            default=".",
            help="Where to write them. Default: the current folder.",
        ),
        click.option(
            "--temperature",
            type=float,
            metavar="T",
            default=temperature,
            show_default=True,
            help="0 always takes the most probable byte.",
        ),
        click.option(
            "--top-k",
            type=int,
            metavar="K",
            default=0,
            help="Only the K most probable bytes. 0: all.",
        ),
        click.option(
            "--top-p",
            type=float,
            metavar="P",
            default=1.0,
            help="Only the most probable bytes that together have P. 1: all.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            metavar="N",
            default=0,
            show_default=True,
            help="Same seed, same bytes, on the same machine.",
        ),
        click.option(
            "--max-patches",
            type=click.IntRange(min=1),
            metavar="N",
            help="Stop there. Default: as long as the model can read.",
        ),
        device_option,
        dtype_option,
        force_option,
    )


how_to_train_options = _together(
    click.option(
        "--device",
        type=click.Choice(DEVICES),
        help="Where to compute. Default: on the GPU if there is one.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(DTYPES),
        help="Precision. Default: bfloat16 where the hardware has it.",
    ),
    click.option(
        "--no-compile",
        is_flag=True,
        help="Start at once, but run slower; needs no C compiler.",
    ),
)
"""--device, --dtype and --no-compile, as every command that trains has them."""


def seed_option(
    said: str, *, metavar: str = "S", default: int = 1, seeds: int = SEEDS
) -> Callable[[Command], Command]:
    """Add --seed, 0 to `seeds` - 1; `said`: its help."""
    return click.option(
        "--seed",
        type=click.IntRange(0, seeds - 1),
        metavar=metavar,
        default=default,
        show_default=True,
        help=said,
    )


def distribution_option(said: str) -> Callable[[Command], Command]:
    """Add --distribution; `said`: its help."""
    return click.option(
        "--distribution",
        type=click.Choice(DISTRIBUTIONS),
        default="published",
        show_default=True,
        help=said,
    )


def length_options(what: str) -> Callable[[Command], Command]:
    """Add --min-length and --max-length of a random program, as `what` calls it."""
    limits = click.IntRange(1, SLOTS)
    return _together(
        click.option(
            "--min-length",
            type=limits,
            metavar="N",
            default=LENGTHS[0],
            show_default=True,
            help=f"Shortest {what}, in instructions, HLT included.",
        ),
        click.option(
            "--max-length",
            type=limits,
            metavar="N",
            default=LENGTHS[1],
            show_default=True,
            help=f"Longest {what}.",
        ),
    )


def max_steps_option(
    said: str = "Follow a program that never halts no further.",
) -> Callable[[Command], Command]:
    """Add --max-steps; `said`: its help."""
    return click.option(
        "--max-steps",
        type=click.IntRange(1, 1_000_000),
        metavar="N",
        default=DEFAULT_MAX_STEPS,
        show_default=True,
        help=said,
    )


start_options = _together(
    click.option("--acc", metavar="0..255", callback=_byte_option, help="Initial accumulator."),
    click.option(
        "--set",
        "registers",
        metavar="R=N[,R=N...]",
        multiple=True,
        callback=_registers_option,
        help="Initial registers: A=1,B=0x20.",
    ),
    click.option(
        "--random-state",
        type=int,
        metavar="SEED",
        help="Random accumulator and registers; --acc and --set still apply.",
    ),
)
"""The options that `start_state` takes."""


def file_word(path: Path) -> str:
    """A file's name as it stands on a command line, where a `-` in front would mean an option."""
    name = str(path)
    return f"./{name}" if name.startswith("-") else name


def start_state(
    state: bytes, acc: int | None, registers: dict[str, int], random_state: int | None
) -> bytes:
    """The first state that the options ask for; where they say nothing, `state`'s."""
    start = bytearray(state)
    if random_state is not None:
        from random import Random

        values = Random(random_state).randbytes(1 + len(REGISTERS))
        start[ACC], start[FIRST_REGISTER:] = values[0], values[1:]
    if acc is not None:
        start[ACC] = acc
    for name, value in registers.items():
        start[FIRST_REGISTER + REGISTERS.index(name)] = value
    return bytes(start)


def start_words(
    acc: int | None, registers: dict[str, int], random_state: int | None
) -> tuple[str, ...]:
    """The options that `start_state` takes, as they stand on the command line."""
    words: list[str] = []
    if random_state is not None:
        words += ["--random-state", str(random_state)]
    if acc is not None:
        words += ["--acc", str(acc)]
    if registers:
        words += ["--set", ",".join(f"{name}={value}" for name, value in registers.items())]
    return tuple(words)
