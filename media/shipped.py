"""Which of the checkpoints that come with the package fits a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bytemodel import cpu
from cpusim.errors import UserError
from media import registry

_PREFIX = "media-"
_CONVERTS = "convert-"


def place_of(modality: str) -> Path:
    """Where the checkpoint of a modality lies, if one ships."""
    return cpu.SHIPPED.with_name(f"{_PREFIX}{modality}.pt")


def for_modality(name: str) -> Path:
    """Raises `UserError` if none ships."""
    path = place_of(name)
    if not path.is_file():
        known = ", ".join(sorted(_modalities())) or "none"
        raise UserError(
            f"no checkpoint ships for {name} (there are: {known}); make one with"
            f" `bgpt train media --modality {name}` and name it with --model runs/{name}"
        )
    return path


def for_files(extensions: Iterable[str]) -> Path:
    """The one that learned files with these extensions; of no modality's, the CPU's.

    Raises `UserError` if they are different ones, or if there is none.
    """
    known = {
        extension: place_of(name)
        for name in _modalities()
        for extension in registry.load(name).extensions
    }
    wanted = {extension.removeprefix(".").lower() for extension in extensions}
    found = {known.get(extension, cpu.SHIPPED) for extension in wanted}
    if len(found) > 1:
        kinds = ", ".join(sorted(wanted))
        raise UserError(
            f"different models fit files {kinds}; name one with --model, or give one kind at a time"
        )
    return cpu.shipped_checkpoint() if found <= {cpu.SHIPPED} else found.pop()


def place_of_conversion(source: str, target: str) -> Path:
    """Where the checkpoint lies that converts files with these extensions, both ways, if one
    ships."""
    return cpu.SHIPPED.with_name(f"{_CONVERTS}{source}-{target}.pt")


def for_conversions(ways: Iterable[tuple[str, str]]) -> Path:
    """The one that learned to convert files from and to these extensions, in any case.

    Raises `UserError` if there is none for all of them.
    """
    there = {
        frozenset(path.stem.removeprefix(_CONVERTS).lower().split("-")): path
        for path in _converters()
    }
    wanted = [(source.lower(), target.lower()) for source, target in ways]
    strange = sorted({"->".join(way) for way in wanted if frozenset(way) not in there})
    if strange:
        known = ", ".join(sorted("&".join(sorted(kinds)) for kinds in there)) or "none"
        raise UserError(
            f"no checkpoint ships that converts {', '.join(strange)} (there are: {known}); make one"
            " with bgpt train --convert and name it with --model"
        )
    found = {there[frozenset(way)] for way in wanted}
    if len(found) > 1:
        raise UserError(
            "different models convert these files; name one with --model, or give one kind at a"
            " time"
        )
    return found.pop()


def every() -> Iterator[Path]:
    """All that are there, the CPU's first."""
    yield cpu.shipped_checkpoint()
    yield from map(place_of, _modalities())
    yield from _converters()


def _converters() -> list[Path]:
    return sorted(cpu.SHIPPED.parent.glob(f"{_CONVERTS}*-*.pt"))


def _modalities() -> Iterator[str]:
    """Those of which a checkpoint ships, and that are installed."""
    names = set(registry.names())
    for path in sorted(cpu.SHIPPED.parent.glob(f"{_PREFIX}*.pt")):
        name = path.stem.removeprefix(_PREFIX)
        if name in names:
            yield name
