"""Packages with data are fetched by apt and pip, which these tests play, and never imported."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from media import abcmidi, packages
from media.modality import Debian, Missing, PyPI

APT = """#!/bin/sh
[ "$1" = download ] || exit 9
[ "$2" = gone ] && { echo "E: Unable to locate package gone" >&2; exit 100; }
echo "$2" > "$2_1.2-3_all.deb"
"""
DPKG = """#!/bin/sh
case "$1" in
--extract) mkdir -p "$3/usr/share" && cp "$2" "$3/usr/share/data.txt" ;;
--field) echo 1.2-3 ;;
esac
"""


def quiet(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that comes first on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return programs


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip that finds one wheel; the words it was called with go into a file."""
    wheel = tmp_path / "data_only-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("data_only/__init__.py", "raise SystemExit('was imported')")
        archive.writestr("data_only/corpus/a.abc", "X:1\n")
        archive.writestr("data_only/corpus/deep/b.abc", "X:2\n")
        archive.writestr("../../outside.abc", "X:3\n")
    script = tmp_path / "pip.py"
    script.write_text(
        "import shutil, sys\n"
        f"open({str(tmp_path / 'words')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "if 'missing' in sys.argv[-1]: sys.exit('ERROR: No matching distribution')\n"
        f"shutil.copy({str(wheel)!r}, '.')\n"
    )
    monkeypatch.setattr(packages, "_pip", lambda: [sys.executable, str(script)])
    return tmp_path / "words"


def test_a_debian_package_is_unpacked_and_its_version_told(system: Path, tmp_path: Path) -> None:
    assert system.is_dir()
    out = tmp_path / "out"
    out.mkdir()
    (got,) = packages.fetch([Debian("pictures")], out, quiet)
    assert (got["kind"], got["package"], got["version"]) == ("Debian", "pictures", "1.2-3")
    assert (out / "pictures" / "usr" / "share" / "data.txt").read_text() == "pictures\n"
    assert [path.name for path in out.iterdir()] == ["pictures"]
    again = tmp_path / "again"
    again.mkdir()
    assert packages.fetch([Debian("pictures")], again, quiet) == [got]


def test_what_apt_says_and_what_helps_stand_in_the_sentence(system: Path, tmp_path: Path) -> None:
    assert system.is_dir()
    with pytest.raises(Missing, match=r"gone cannot be fetched.*apt-get update.*Unable to locate"):
        packages.fetch([Debian("gone")], tmp_path, quiet)


def test_without_apt_it_is_said_that_apt_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packages.obstacle([Debian("pictures")]) == (
        "the Debian package pictures needs apt-get, which is not here"
    )
    with pytest.raises(Missing, match="needs apt-get"):
        packages.fetch([Debian("pictures")], tmp_path, quiet)


def test_of_a_wheel_only_the_wanted_members_are_unpacked_and_none_outside(
    pip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    packages.fetch([PyPI("data-only", "1.0", "*.abc")], out, quiet)
    found = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.abc"))
    assert len(found) == 3
    assert all(path.parts[:3] == ("deep", "out", "data-only") for path in found)
    assert pip.read_text().startswith("download --quiet --no-deps --only-binary=:all:")
    assert pip.read_text().endswith(" data-only==1.0")
    with pytest.raises(Missing, match=r"missing 2.0 cannot be fetched.*No matching distribution"):
        packages.fetch([PyPI("missing", "2.0", "*")], out, quiet)


def test_looking_for_pip_leaves_setuptools_usable() -> None:
    # In a process of its own: what setuptools has been told stays told.
    lines = (
        "from media import packages; from media.modality import PyPI",
        "print(packages.obstacle([PyPI('data-only', '1.0', '*')]))",
        "import setuptools",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


def test_an_installed_package_is_read_where_it_lies_and_gives_the_same(
    pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = PyPI("data-only", "1.0", "data_only/*.abc")
    fetched, installed, site = (tmp_path / name for name in ("fetched", "installed", "site"))
    for folder in (fetched, installed, site):
        folder.mkdir()
    got = packages.fetch([package], fetched, quiet)
    pip.unlink()
    with zipfile.ZipFile(tmp_path / "data_only-1.0-py3-none-any.whl") as archive:
        archive.extractall(site, [name for name in archive.namelist() if ".." not in name])
    about = site / "data_only-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: data-only\nVersion: 1.0\n")
    names = ["__init__.py", "corpus/a.abc", "corpus/deep/b.abc"]
    (about / "RECORD").write_text("".join(f"data_only/{name},,\n" for name in names))
    monkeypatch.syspath_prepend(str(site))
    assert packages.fetch([package], installed, quiet) == got
    assert not pip.exists()


def test_of_processes_that_fetch_the_same_tool_the_later_one_takes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_: object, into: Path, _tell: object) -> None:
        binary = into / "symusic" / "symusic" / "bin" / "abc2midi"
        binary.parent.mkdir(parents=True)
        binary.write_bytes(b"")

    def rename(path: Path, target: Path) -> None:
        fetch(None, target, None)  # by another process, a moment before
        os.rename(path, target)  # noqa: PTH104

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packages, "fetch", fetch)
    monkeypatch.setattr(Path, "rename", rename)
    path = abcmidi.program.__wrapped__("abc2midi")
    assert path.is_file()
    assert [found.name for found in path.parents[4].iterdir()] == [path.parents[3].name]
