"""Finding the files below a folder, whatever is in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from bytemodel.folder import files_below, is_held_out, scan


def names(folder: Path, unreadable: list[str] | None = None) -> list[str]:
    refused: list[str] = [] if unreadable is None else unreadable
    found = list(scan(folder, lambda path, _: refused.append(path)))
    assert unreadable is not None or not refused
    return [os.fsdecode(os.fsencode(path)).removeprefix(f"{folder}/") for path in found]


def touch(folder: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_files_come_in_the_order_of_their_names_and_hidden_ones_not_at_all(tmp_path: Path) -> None:
    touch(tmp_path, ["b/2", "b/10", "b.txt", "a/z/y", "a/b", "c", ".hidden", ".git/config", "d/.x"])
    assert names(tmp_path) == ["a/b", "a/z/y", "b/10", "b/2", "b.txt", "c"]
    assert names(tmp_path) == [
        path.relative_to(tmp_path).as_posix()
        for path in sorted(tmp_path.rglob("*"))
        if path.is_file() and "/." not in str(path.relative_to(tmp_path.parent))
    ]


def test_links_are_followed_and_loops_of_them_end(tmp_path: Path) -> None:
    touch(tmp_path, ["data/a", "far/b"])
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/far").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "data")
    (tmp_path / "data/link").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "data/itself").symlink_to(tmp_path / "data/itself")
    assert names(tmp_path / "data") == ["a", "far/b", "link"]


def test_runs_are_left_out_but_for_the_one_that_is_asked_for(tmp_path: Path) -> None:
    run = ["config.json", "metrics.jsonl", "training.png", "checkpoints/a"]
    touch(tmp_path, ["a", *(f"b/run/{name}" for name in run), "b/config.json"])
    assert names(tmp_path) == ["a", "b/config.json"]
    assert names(tmp_path / "b/run") == sorted(run)


def test_a_folder_that_is_being_made_of_the_others_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ["a", "out/b", "c/d"])
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for without in (tmp_path / "out", tmp_path / "c" / ".." / "out"):
        assert list(files_below(tmp_path, without=without)) == [tmp_path / "a", tmp_path / "c/d"]
    assert len(list(files_below(tmp_path, without=tmp_path / "none"))) == 3


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ["a"])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    assert names(tmp_path) == ["a"]


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe.bin")).write_bytes(b"1")
    (tmp_path / "new\nline").write_bytes(b"2")
    found = names(tmp_path)
    assert sorted(map(os.fsencode, found)) == [b"new\nline", b"\xff\xfe.bin"]


def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, ["a/1", "b/2", "c/3"])
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    refused: list[str] = []
    assert names(tmp_path, refused) == ["a/1", "c/3"]
    assert refused == [f"{tmp_path}/b"]


def test_the_share_held_out_is_that_of_the_hashes() -> None:
    digests = [number.to_bytes(1, "big") * 32 for number in range(256)]
    assert sum(is_held_out(digest, 0.25) for digest in digests) == 64
    assert not any(is_held_out(digest, 0.0) for digest in digests)
