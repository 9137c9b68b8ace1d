"""Reading and writing files so that nothing is ever lost or half-written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cpusim.errors import UserError


def describe_os_error(error: OSError) -> str:
    """The operating system's reason, lower-cased, without errno or path."""
    return (error.strerror or str(error)).lower()


_LONGEST = 200
"""Bytes of a name that a temporary one repeats."""


def printable_name(name: str) -> str:
    """A file name in letters that fonts may have: it holds any bytes at all."""
    return name.encode(errors="backslashreplace").decode()


_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def visible(text: str) -> str:
    """Each control character as a picture of it: in the name of a file it would steer the terminal.

    As long as before; tabs and line ends stay.
    """
    return text.translate(_PICTURES)


def read_bytes(path: Path, *, limit: int | None = None) -> bytes:
    """The whole file. Raises `UserError` if it cannot be read.

    With `limit`, at most `limit + 1` bytes are read, so that a caller can tell
    "too long" without loading a huge file.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory where a file is expected; name a file inside it")
    try:
        with open(path, "rb") as file:
            return file.read(-1 if limit is None else limit + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({describe_os_error(error)}); check its permissions"
        ) from None


def refuse_existing(path: Path, *, force: bool, sources: Iterable[Path] = ()) -> None:
    """Raise `UserError` if writing `path` would destroy something without `force`, or if there can
    be no such file.

    `sources`: what it is made of, which even `force` does not replace; they need not be files.
    """
    try:
        there = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({describe_os_error(error)})") from None
    if path.is_dir():
        raise UserError(f"{path}: is a directory where a file is expected; name a file inside it")
    if not path.is_file():
        # Renaming over /dev/null would replace the device for everybody.
        raise UserError(f"{path}: is a device or a pipe where a file is expected; name a file")
    for source in sources:
        with contextlib.suppress(OSError):
            if os.path.samestat(there, source.stat()):
                raise UserError(f"{path}: is the very file that is read; name another to write to")
    if not force:
        raise UserError(f"{path}: already exists; use --force to replace it")


def refuse_unwritable(path: Path, *, force: bool, sources: Iterable[Path] = ()) -> None:
    """Refuse before long work what could not be written after it.

    Raises `UserError` as `atomic_write` does, and as `refuse_existing` for `sources`.
    """
    refuse_existing(path, force=force, sources=sources)
    handle, temporary = _temporary(path)
    os.close(handle)
    temporary.unlink()


def entry(path: Path) -> Path:
    """The folder and the name in it that a path stands for, however it is written."""
    return path.parent.resolve() / path.name


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, open, with a name that tells whose it is."""
    # A name may be as long as a file system takes already.
    stem = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    try:
        handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        if not path.parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist; create it") from None
        raise UserError(f"{path}: cannot be written ({describe_os_error(error)})") from None
    return handle, Path(name)


@contextlib.contextmanager
def atomic_write(path: Path, *, force: bool = False, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write to a temporary name beside `path`, then rename.

    `path` either keeps its old content or gets the whole new one: an error, a full
    disk or Ctrl-C leaves no trace. Not `durable`: a power cut may still lose the file, but
    many small ones are written far faster. Raises `UserError` if the file exists (unless
    `force`) or cannot be written.
    """
    refuse_existing(path, force=force)
    handle, temporary = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        # mkstemp makes private files; give the result the mode that open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({describe_os_error(error)}); what was there is unchanged"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a program makes. `what`: its name, as in "a prepared set". `markers`:
    entries that each has. `parts`: others that it may have, hidden ones apart."""

    what: str
    markers: Collection[str]
    parts: Collection[str] = ()


def refuse_file(path: Path, way_out: str = "name another") -> None:
    """Raise `UserError` if something other than a folder stands where one is to be, or one around
    it. A link that leads nowhere is something too."""
    for place in (path, *path.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise UserError(f"{place}: is a file where a folder is to be made; {way_out}")


def refuse_folder(path: Path, kind: FolderKind, *, force: bool) -> None:
    """Raise `UserError` if making a folder there would destroy something.

    `force` replaces a folder of the same kind that holds nothing else; never another one.
    """
    refuse_file(path)
    if path.exists() and path.samefile(Path()):
        raise UserError(f"{path}: is the folder that you are in; name one that is to be made")
    if not path.exists() or not any(path.iterdir()):
        return
    if not holds(path, kind.markers):
        raise UserError(
            f"{path}: holds something other than {kind.what}; name another folder, or move this"
            " one away"
        )
    if not force:
        raise UserError(f"{path}: already exists; use --force to replace it")
    own = {*kind.markers, *kind.parts}
    for name in sorted(entry.name for entry in path.iterdir()):
        if name not in own and not name.startswith("."):
            raise UserError(f"{path / name}: is no part of {kind.what}; move it away first")


def holds(path: Path, markers: Collection[str]) -> bool:
    """Whether a folder has entries of all these names; not, where one may not look."""
    return all(os.path.exists(path / name) for name in markers)  # noqa: PTH110


@contextlib.contextmanager
def atomic_folder(
    path: Path, kind: FolderKind, *, force: bool = False, shared: bool = False
) -> Iterator[Path]:
    """A folder beside `path` that becomes `path` at the end, or is gone if that is not reached.

    What must not be replaced is refused as by `refuse_folder`. `shared`: other processes may make
    the very same folder; the first one stays. Raises `UserError` if the folder cannot be written.
    """
    refuse_folder(path, kind, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({describe_os_error(error)})") from None
    before = staging.with_suffix(".before")
    try:
        yield staging
        mask = os.umask(0)
        os.umask(mask)
        staging.chmod(0o777 & ~mask)
        if path.exists() and not (shared and holds(path, kind.markers)):
            # What was there goes only now that the new folder is whole.
            path.rename(before)
        try:
            staging.rename(path)
        except BaseException:
            if before.exists():
                before.rename(path)
            raise
    except OSError as error:
        if not (shared and holds(path, kind.markers)):
            raise UserError(f"{path}: cannot be written ({describe_os_error(error)})") from None
    finally:
        for rest in (staging, before):
            shutil.rmtree(rest, ignore_errors=True)
