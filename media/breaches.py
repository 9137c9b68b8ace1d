"""Whether modalities keep their contract: as they are loaded, and whatever they do in use.

Those of other packages are called through here, so that a fault is laid at their door.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cpusim.errors import UserError
from media.modality import SIDES, Debian, Item, LeftOut, Mends, Modality, Progress, PyPI


class Broken(UserError):
    """A modality of another package does not keep the contract; says what it did, and where."""


class Verdict(NamedTuple):
    """Of a generated file: why it is not valid, or None; what it is when mended, if it can be; and
    the other forms of the valid or mended one."""

    wrong: str | None
    mended: bytes | None
    forms: Mapping[str, bytes]


def breach(found: object, name: str) -> str | None:
    """What of the contract an object does not keep, as far as one sees before it is used."""
    if isinstance(found, type):
        return "is a class; the entry point must name an object of it"
    if not isinstance(found, Modality):
        parts = (*Modality.__annotations__, "items", "read", "show", "judge")
        lacking = ", ".join(part for part in parts if not hasattr(found, part))
        return f"lacks something that media/modality.py asks for ({lacking})"
    if found.name != name:
        return f"calls itself {found.name!r}, not as its entry point is called"
    kept = {
        part: isinstance(getattr(found, part), str)
        for part in ("summary", "source", "licence", "sample_source", "sample_licence")
    }
    kept["recipe"] = isinstance(found.recipe, int)
    kept["sample"] = isinstance(found.sample, Path)
    kept["packages"] = _is_tuple_of(found.packages, (Debian, PyPI))
    kept["shown_as"] = _are_extensions(found.shown_as)
    kept["extensions"] = _are_extensions(found.extensions) and bool(found.extensions)
    for part, right in kept.items():
        if not right:
            return (
                f"has {part} {getattr(found, part)!r:.60}, which media/modality.py does not allow"
            )
    return None


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
    """`Modality.items`, each held against the contract. Raises as it does, and `Broken`."""
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
    """`Modality.read`, held against the contract. Raises as it does, and `Broken`."""
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


def _is_tuple_of(values: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, kinds) for value in values)


def _are_extensions(values: Any) -> bool:
    return _is_tuple_of(values, str) and all(re.fullmatch(r"[^./]+", value) for value in values)
