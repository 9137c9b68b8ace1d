"""tic and infocmp of ncurses: the oracles between terminfo text and compiled entries.

They come with the system (ncurses-bin on Debian). They are run without a shell, in an empty folder
under constant file names, with that folder as their only database by name, and what they say is
no more than lines of text: any bytes may be handed to them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cpusim.errors import UserError
from media.capabilities import names_of
from media.modality import Missing

_SECONDS = 60
_MOST_COMPILED = 1 << 16
_MOST_TEXT = 1 << 22
"""Of a whole terminfo.src, with all terminals there are, a third is enough."""
_HARMLESS = "older tic versions may treat the description field as an alias"
_SAID = re.compile(r'^"[^"]*", ')
MAGIC = (b"\x1a\x01", b"\x1e\x02")
"""What a compiled entry begins with: numbers of 16 and of 32 bits; see term(5)."""


class Refused(UserError):
    """What they find wrong with an entry."""


def program(name: str) -> str:
    """The path of `tic` or `infocmp`. Raises `Missing`."""
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is missing; install ncurses, as with apt-get install ncurses-bin")
    return found


def to_text(compiled: bytes) -> bytes:
    """A compiled entry as `infocmp -1 -x` prints it, without the comment that names the file.

    Raises `Refused`, and `Missing`.
    """
    if not compiled.startswith(MAGIC):
        raise Refused("no compiled terminfo entry")
    if len(compiled) > _MOST_COMPILED:
        raise Refused(f"has {len(compiled):,} bytes, more than an entry has")
    with tempfile.TemporaryDirectory() as folder:
        for place in _places(Path(folder), "entry"):
            place.parent.mkdir()
            place.write_bytes(compiled)
        done = _run(["infocmp", "-1", "-x", "-A", folder, "entry"], folder)
    text = b"".join(
        line for line in done.stdout.splitlines(keepends=True) if not line.startswith(b"#")
    )
    if done.returncode or done.stderr or not text:
        raise Refused("infocmp cannot read it")
    if not names_of(text)[0]:
        raise Refused("has no name")
    return text


def to_compiled(text: bytes) -> bytes:
    """The one entry of a text, compiled by `tic -x`. Raises `Refused`, and `Missing`."""
    made = compile_all(text)
    if len(made) != 1:
        raise Refused(f"has {len(made):,} entries, where one is expected")
    return made[0]


def compile_all(text: bytes) -> list[bytes]:
    """All entries of a text, compiled, in their order. Raises `Refused` with the first thing that
    tic finds wrong, and `Missing`.

    What the text leaves to others (`use=`) is looked up in it, then in the system's entries.
    """
    if len(text) > _MOST_TEXT:
        raise Refused(f"has {len(text):,} bytes, more than a file of entries has")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "entry.ti").write_bytes(text)
        # Only looked at, at first: tic takes the names for those of files to write.
        looked = _run(["tic", "-I", "-1", "-x", "entry.ti"], folder)
        _raise_first(looked)
        names = [names_of(entry)[0] for entry in split_entries(looked.stdout)]
        if not all(names):
            raise Refused("holds an entry without a name")
        if not names:
            raise Refused("holds no entry")
        _raise_first(_run(["tic", "-x", "-o", "made", "entry.ti"], folder))
        made = [_made(Path(folder) / "made", name) for name in names]
    if None in made:
        raise Refused("tic makes nothing of it")
    return [data for data in made if data is not None]


def to_compiled_many(texts: Sequence[bytes]) -> list[bytes | None]:
    """What `to_compiled` makes of each text, None where that raises `Refused`: in one process,
    which costs far less than two for each.

    Only for texts that were printed by infocmp or `to_plain_many`, each a single entry.
    """

    def together(some: Sequence[bytes], folder: str) -> list[bytes | None] | None:
        done = _run(["tic", "-x", "-o", "made", "entry.ti"], folder, len(some))
        if _complaint(done) is not None:
            return None
        return [_made(Path(folder) / "made", names_of(text)[0]) for text in some]

    return _many(texts, together)


def to_plain_many(texts: Sequence[bytes]) -> list[bytes | None]:
    """Each entry with its numbers and strings spelt as infocmp spells them, in whatever order; None
    where tic finds something wrong. In one process."""

    def together(some: Sequence[bytes], folder: str) -> list[bytes | None] | None:
        done = _run(["tic", "-I", "-1", "-x", "entry.ti"], folder, len(some))
        made = split_entries(done.stdout)
        if _complaint(done) is not None or [*map(names_of, made)] != [*map(names_of, some)]:
            return None
        return list(made)

    return _many(texts, together)


def without_extensions(text: bytes) -> bytes:
    """An entry with the standard capabilities alone. Raises `Refused`, and `Missing`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "entry.ti").write_bytes(text)
        done = _run(["tic", "-I", "-1", "entry.ti"], folder)
    made = split_entries(done.stdout)
    if len(made) != 1:
        raise Refused("tic makes nothing of it")
    return made[0]


def split_entries(text: bytes) -> list[bytes]:
    """The entries of a text that infocmp or tic printed, without comments."""
    kept = b"".join(
        line for line in text.splitlines(keepends=True) if line.strip() and line[:1] != b"#"
    )
    return [part for part in re.split(rb"^(?=\S)", kept, flags=re.MULTILINE) if part]


def _many(
    texts: Sequence[bytes],
    together: Callable[[Sequence[bytes], str], list[bytes | None] | None],
) -> list[bytes | None]:
    """What `together` makes of texts in a folder's `entry.ti`, if tic has nothing to say. Else it
    does not say reliably of which, so that they are halved until it is one.

    Entries with names that others have too, which would be mixed up, wait for another turn.
    """
    made: dict[int, bytes | None] = {}

    def make(places: Sequence[int]) -> None:
        some = [texts[place] for place in places]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "entry.ti").write_bytes(b"".join(some))
            try:
                found = together(some, folder)
            except Refused:
                found = None
        if found is not None:
            made.update(zip(places, found, strict=True))
        elif len(places) == 1:
            made[places[0]] = None
        else:
            make(places[: len(places) // 2])
            make(places[len(places) // 2 :])

    waiting = list(range(len(texts)))
    while waiting:
        taken: set[str] = set()
        turn = []
        for place in waiting:
            names = names_of(texts[place])
            if taken.isdisjoint(names):
                taken.update(names)
                turn.append(place)
        make(turn)
        waiting = [place for place in waiting if place not in made]
    return [made[place] for place in range(len(texts))]


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str | None:
    """The first thing that tic says, but for what is harmless."""
    for line in done.stderr.decode(errors="replace").splitlines():
        if line.strip() and _HARMLESS not in line:
            return _SAID.sub("", line)
    return "tic fails" if done.returncode else None


def _raise_first(done: subprocess.CompletedProcess[bytes]) -> None:
    complaint = _complaint(done)
    if complaint is not None:
        raise Refused(complaint)


def _made(folder: Path, name: str) -> bytes | None:
    for place in _places(folder, name):
        if place.is_file():
            return place.read_bytes()
    return None


def _places(folder: Path, name: str) -> list[Path]:
    """Where a database has an entry: some systems do not tell upper from lower case."""
    return [folder / name[0] / name, folder / f"{ord(name[0]):02x}" / name]


def _run(words: Sequence[str], folder: str, entries: int = 1) -> subprocess.CompletedProcess[bytes]:
    """Raises `Refused` if the program crashes or does not end."""
    name, *rest = words
    path = program(name)
    places = dict.fromkeys(("HOME", "TERMINFO", "TERMINFO_DIRS"), folder)
    try:
        done = subprocess.run(
            [path, *rest],
            cwd=folder,
            env={**os.environ, **places, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS + entries / 10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"{name} does not come to an end") from None
    if done.returncode < 0:
        raise Refused(f"{name} crashes")
    return done
