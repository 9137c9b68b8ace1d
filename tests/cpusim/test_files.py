"""Files are written whole or not at all, whatever their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpusim.errors import UserError
from cpusim.files import FolderKind, atomic_folder, atomic_write, refuse_file, refuse_unwritable


@pytest.mark.parametrize("name", ["a" * 255, "\u00e4" * 127, "a\udcff"])
def test_any_name_that_a_file_may_have_can_be_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    refuse_unwritable(path, force=False)
    assert list(tmp_path.iterdir()) == []
    with atomic_write(path) as file:
        file.write(b"whole")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"whole"]


def test_where_nothing_can_be_written_is_said_beforehand(tmp_path: Path) -> None:
    for path, sentence in (
        (tmp_path / "no" / "x", f"the folder {tmp_path / 'no'} does not exist; create it"),
        (Path("/proc/x"), r"/proc/x: cannot be written"),
        (tmp_path / ("a" * 256), "cannot be written"),
    ):
        with pytest.raises(UserError, match=sentence):
            refuse_unwritable(path, force=False)


def test_no_folder_can_be_made_of_a_file_or_below_one(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(b"mine")
    kind = FolderKind("a set", ["m"])
    for place in (file, file / "a", file / "a" / "b"):
        said = f"^{file}: is a file where a folder is to be made; name another$"
        with pytest.raises(UserError, match=said):
            refuse_file(place)
        with pytest.raises(UserError, match=said), atomic_folder(place, kind, force=True):
            pytest.fail("refused too late")
    assert file.read_bytes() == b"mine"


def test_the_folder_that_one_is_in_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with (
            pytest.raises(UserError, match="is the folder that you are in"),
            atomic_folder(path, FolderKind("a set", ["m"])),
        ):
            pytest.fail("refused too late")
