"""The files below a folder: found in a fixed order, and split by what they hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cpusim.errors import UserError
from cpusim.files import describe_os_error

_VALIDATION = ("validation", "valid", "val", "dev")
_RUN = frozenset({"config.json", "metrics.jsonl"})
"""Files of every run that has begun."""


class Split(NamedTuple):
    """The folders of a set that says itself what to learn from, what to look at meanwhile, and
    what to judge by; the latter two are one where it has only one of them."""

    train: Path
    validation: Path
    test: Path


def given_split(folder: Path) -> Split | None:
    """The split of a folder with a folder `train` and one such as `validation` or `test` in it."""
    validation = next((folder / n for n in _VALIDATION if (folder / n).is_dir()), None)
    test = folder / "test" if (folder / "test").is_dir() else None
    first, last = validation or test, test or validation
    if first is None or last is None or not (folder / "train").is_dir():
        return None
    return Split(folder / "train", first, last)


def scan(
    folder: Path, unreadable: Callable[[str, OSError], None], *, without: Path | None = None
) -> Iterator[str]:
    """The paths of all files below a folder, in the order of their names.

    Links are followed, into each folder once, so that a loop of them ends. Hidden files and
    folders are left out, and so are pipes, sockets and devices, `without`, a folder that is being
    made of the others, and the folders of runs, which change while they go on. `unreadable` is
    told of what the operating system refuses to show.
    """
    entered: set[tuple[int, int]] = set()
    if without is not None and without.exists():
        entered.add(_identity(without))
    # Last in, first out; the names of a folder are put on it in reverse.
    waiting = [(str(folder), True)]
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
            continue
        try:
            own = _identity(path)
            if own in entered:
                continue
            entered.add(own)
            with os.scandir(path) as entries:
                names = sorted(
                    (entry.name, entry.is_dir())
                    for entry in entries
                    if not entry.name.startswith(".") and _is_either(entry, unreadable)
                )
        except OSError as error:
            unreadable(path, error)
            continue
        if path != str(folder) and sum(name in _RUN for name, _ in names) == len(_RUN):
            continue
        for name, is_below in reversed(names):
            waiting.append((os.path.join(path, name), is_below))  # noqa: PTH118


def files_below(folder: Path, *, without: Path | None = None) -> Iterator[Path]:
    """What `scan` finds. Raises `UserError` where it may not look."""

    def refuse(name: str, error: OSError) -> None:
        raise UserError(
            f"{name}: cannot be read ({describe_os_error(error)}); change that, or move it away"
        )

    return map(Path, scan(folder, refuse, without=without))


def _identity(path: str | Path) -> tuple[int, int]:
    """Of a folder, whatever it is called."""
    status = os.stat(path)  # noqa: PTH116 (millions of names: no object for each)
    return status.st_dev, status.st_ino


def _is_either(entry: os.DirEntry[str], unreadable: Callable[[str, OSError], None]) -> bool:
    """Whether an entry is a file or a folder, by itself or by a link."""
    try:
        return entry.is_dir() or entry.is_file()
    except OSError as error:
        # A link to itself leads to no file, as one does that leads nowhere.
        if error.errno != errno.ELOOP:
            unreadable(entry.path, error)
        return False


def is_held_out(digest: bytes, share: float) -> bool:
    """Whether content is among the `share` that training never sees, by its SHA-256."""
    return int.from_bytes(digest[:8], "big") < share * 2**64
