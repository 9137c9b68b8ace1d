"""Which modalities there are: the entry points of the group `bgpt.modalities`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from cpusim.errors import UserError, nearest
from media.breaches import breach
from media.modality import Modality

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
    reason = breach(modality, name)
    if reason is not None:
        raise UserError(
            f"modality {name}: {point.value} of {_package(point)} {reason}; update that package"
        )
    return modality  # type: ignore[no-any-return]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
