"""abc2midi and midi2abc, called by their paths: the oracles between ABC and MIDI.

They come in the Python package symusic, which is not imported, since only this version's
binaries give the same bytes everywhere. They are run in an empty folder under constant file
names, because they write the names into what they make.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

from cpusim.errors import UserError
from media import packages
from media.modality import Missing, PyPI

PACKAGE = PyPI("symusic", "0.6.0", "symusic/bin/*")
_SECONDS = 10
_ERROR = re.compile(r"^Error in line-char (\d+)-(\d+) : (.*)$", re.MULTILINE)


class Refused(UserError):
    """What they find wrong with a tune."""


@cache
def program(name: str) -> Path:
    """The path of `abc2midi` or `midi2abc`, fetched into the cache if need be.

    Raises `Missing`.
    """
    folder = packages.cache_folder() / "tools" / f"{PACKAGE.name}-{PACKAGE.version}"
    path = folder / PACKAGE.name / "symusic" / "bin" / name
    if not path.is_file():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
                staging = Path(temporary) / "whole"
                staging.mkdir()
                packages.fetch([PACKAGE], staging, lambda _done, _total: None)
                for binary in (staging / PACKAGE.name / "symusic" / "bin").iterdir():
                    binary.chmod(0o755)
                try:
                    staging.rename(folder)
                except OSError:
                    if not folder.exists():  # else another process was sooner
                        raise
        except (Missing, OSError) as error:
            raise Missing(
                f"{name} is missing: {error}; install it with pip install"
                f" {PACKAGE.name}=={PACKAGE.version}"
            ) from None
    if not path.is_file():
        raise Missing(f"{name} is missing from {PACKAGE.name} {PACKAGE.version} for this machine")
    return path


def to_midi(abc: bytes) -> bytes:
    """The MIDI file of one tune. Raises `Refused` with the first error that abc2midi finds."""
    made, said = _run("abc2midi", abc, "tune.abc", "tune.mid", ["tune.abc", "-o", "tune.mid"])
    found = _ERROR.search(said)
    if found is not None:
        line, place, what = found.groups()
        raise Refused(f"line {line}, character {int(place) + 1}: {what.strip()}")
    if made is None or b"MTrk" not in made:
        raise Refused("abc2midi makes nothing of it")
    return made


def to_midi_many(tunes: Sequence[bytes]) -> list[bytes | None]:
    """What `to_midi` makes of each tune, None where that raises `Refused`: in one process, which
    costs a hundredth of one for each.

    Each tune must begin with its only line `X:1`. Raises `Refused` where one does not.
    """
    for abc in tunes:
        if len(re.findall(rb"^X:", abc, re.MULTILINE)) != 1 or not abc.startswith(b"X:1\n"):
            raise Refused("a tune must begin with X:1, its only X: line")
    numbered = [b"X:%d\n" % (1 + place) + abc[4:] + b"\n" for place, abc in enumerate(tunes)]
    if any(re.search(rb"\n[ \t\r]*\n.", abc, re.DOTALL) for abc in numbered):
        raise Refused("a tune must have no empty line within")
    binary = program("abc2midi")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tune.abc").write_bytes(b"".join(numbered))
        try:
            done = subprocess.run(
                [binary, "tune.abc"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_SECONDS + len(tunes) / 10,
                check=False,
            )
            crashed = done.returncode < 0
        except subprocess.TimeoutExpired:
            crashed = True
        if crashed:
            return [_midi_or_none(abc) for abc in tunes]
        starts = list(accumulate((abc.count(b"\n") for abc in numbered), initial=1))
        said = done.stdout.decode(errors="replace")
        wrong = {bisect_right(starts, int(found[1])) - 1 for found in _ERROR.finditer(said)}
        made: list[bytes | None] = []
        for place in range(len(tunes)):
            path = Path(folder) / f"tune{place + 1}.mid"
            data = path.read_bytes() if place not in wrong and path.is_file() else b""
            made.append(data if b"MTrk" in data else None)
        return made


def _midi_or_none(abc: bytes) -> bytes | None:
    try:
        return to_midi(abc)
    except Refused:
        return None


def to_abc(midi: bytes) -> bytes:
    """The ABC of a MIDI file, without a title. Raises `Refused`."""
    made, _ = _run("midi2abc", midi, "tune.mid", "tune.abc", ["tune.mid", "-o", "tune.abc"])
    if made is None or b"K:" not in made:
        raise Refused("midi2abc makes nothing of it")
    lines = [line for line in made.splitlines() if not line.startswith((b"T:", b"%"))]
    return b"\n".join(lines) + b"\n"


def _run(
    name: str, data: bytes, source: str, target: str, words: list[str]
) -> tuple[bytes | None, str]:
    """The file that a program makes, if it does, and what it says."""
    binary = program(name)
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / source).write_bytes(data)
        done = subprocess.run(
            [binary, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
        made = folder / target
        # They may crash on hostile input; what was written before is no result.
        whole = made.read_bytes() if done.returncode >= 0 and made.is_file() else None
        return whole, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)
