"""Which modalities there are: the entry points of the group `bgpt.modalities`."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from cpusim.errors import UserError, nearest
from media.modality import Debian, Modality, PyPI

GROUP = "bgpt.modalities"


def _found() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def names() -> list[str]:
    """The modalities that installed packages bring, in alphabetical order."""
    return sorted(_found())


def load(name: str) -> Modality:
    """The modality of this name.

    Raises `UserError` if there is none, if two packages bring it, or if it cannot be used.
    """
    found = _found()
    if name not in found:
        close = nearest(name, found)
        hint = f"did you mean {close}?" if close else f"known: {', '.join(sorted(found)) or 'none'}"
        raise UserError(f"there is no modality {name!r}; {hint}")
    points = found[name]
    if len(points) > 1:
        packages = " and ".join(sorted(_package(point) for point in points))
        raise UserError(f"modality {name}: is brought by {packages}; uninstall all but one")
    (point,) = points
    try:
        modality = point.load()
    except Exception as error:
        # Another package's code can raise anything at all.
        raise UserError(
            f"modality {name}: {_package(point)} cannot load it from {point.value}"
            f" ({type(error).__name__}: {error}); repair or uninstall that package"
        ) from None
    reason = _breach(modality, name)
    if reason is not None:
        raise UserError(
            f"modality {name}: {point.value} of {_package(point)} {reason}; update that package"
        )
    return modality  # type: ignore[no-any-return]


def _breach(found: object, name: str) -> str | None:
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


def _is_tuple_of(values: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, kinds) for value in values)


def _are_extensions(values: Any) -> bool:
    return _is_tuple_of(values, str) and all(re.fullmatch(r"[^./]+", value) for value in values)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
