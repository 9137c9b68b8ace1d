"""The files below a folder: found in a fixed order, and split by what they hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_VALIDATION = ("validation", "valid", "val", "dev")


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


def scan(folder: Path, unreadable: Callable[[str, OSError], None]) -> Iterator[str]:
    """The paths of all files below a folder, in the order of their names.

    Links are followed, into each folder once, so that a loop of them ends. Hidden files and
    folders are left out, and so are pipes, sockets and devices. `unreadable` is told of what
    the operating system refuses to show.
    """
    entered: set[tuple[int, int]] = set()
    # Last in, first out; the names of a folder are put on it in reverse.
    waiting = [(str(folder), True)]
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
            continue
        try:
            status = os.stat(path)  # noqa: PTH116 (millions of names: no object for each)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                names = sorted(
                    (entry.name, entry.is_dir())
                    for entry in entries
                    if not entry.name.startswith(".") and _is_either(entry, unreadable)
                )
        except OSError as error:
            unreadable(path, error)
            continue
        for name, is_below in reversed(names):
            waiting.append((os.path.join(path, name), is_below))  # noqa: PTH118


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
