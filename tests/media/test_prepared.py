"""Prepared sets: whole or not at all, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bytemodel.labelled import find_labelled
from cpusim.errors import UserError
from media import packages, prepared, registry
from media.modality import SIDES, Debian, Item, LeftOut
from media.prepared import Stages, from_files, from_sample, place_of, read
from tests.media.toys import EMPTY, TOY, Toy

QUIET = Stages()
OWN = ("audio", "image", "music", "text")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def interrupted(_: Path) -> Iterator[Item | LeftOut]:
    yield Item("first.toy", b"1", ("1",))
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", OWN)
def test_the_shipped_sample_gives_the_same_set_twice(name: str, tmp_path: Path) -> None:
    modality = registry.load(name)
    one = from_sample(modality, tmp_path / "one", QUIET)
    from_sample(modality, tmp_path / "two", QUIET)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    for side in SIDES:
        assert one.files(side)
        assert {path.suffix[1:] for path in one.files(side)} == set(modality.extensions)
        for path in one.files(side):
            assert modality.judge(path.read_bytes(), path.suffix[1:]) is None, path


@pytest.mark.parametrize("name", OWN)
def test_the_sample_is_small_and_its_licence_is_told(name: str) -> None:
    sample = registry.load(name).sample
    assert sum(path.stat().st_size for path in sample.rglob("*") if path.is_file()) < 1_000_000
    assert f"`{name}" in (sample.parent / "ATTRIBUTION.md").read_text()


def test_the_manifest_says_what_there_is_and_the_sums_are_right(tmp_path: Path) -> None:
    out = tmp_path / "set"
    manifest = from_sample(TOY, out, QUIET).manifest
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert (manifest["kind"], manifest["licence"]) == ("sample", "free as well")
    assert manifest["left_out"] == {"too dull": 1}
    assert sum(manifest["split"][side]["files"] for side in SIDES) == 20
    sums = (out / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == manifest["sha256"]
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=out, check=True)
    assert sorted(tree(out)) == sorted(
        ["SHA256SUMS", "manifest.json"] + [line.split()[1].decode() for line in sums.splitlines()]
    )


def test_an_interruption_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "set"
    stopped = dataclasses.replace(TOY, make=interrupted)
    with pytest.raises(KeyboardInterrupt):
        from_sample(stopped, out, QUIET)
    assert list(tmp_path.iterdir()) == []
    from_sample(TOY, out, QUIET)
    before = tree(out)
    with pytest.raises(KeyboardInterrupt):
        from_sample(stopped, out, QUIET, force=True)
    assert tree(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_force_replaces_a_set_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "set"
    from_sample(TOY, out, QUIET)
    with pytest.raises(UserError, match="already exists; use --force"):
        from_sample(TOY, out, QUIET)
    less = dataclasses.replace(TOY, make=lambda f: (item for item in list(TOY.make(f))[:12]))
    changed = from_sample(less, out, QUIET, force=True)
    assert sum(len(changed.files(side)) for side in SIDES) == 12
    (added := out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt: is no part of a prepared set; move it away"):
        from_sample(TOY, out, QUIET, force=True)
    assert added.read_text() == "mine"
    added.unlink()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="something other than a prepared set"):
        from_sample(TOY, mine, QUIET, force=True)
    with pytest.raises(UserError, match="is a file where a folder"):
        from_sample(TOY, mine / "letter.txt", QUIET, force=True)
    assert tree(mine) == {"letter.txt": b"dear"}
    (tmp_path / "empty").mkdir()
    assert from_sample(TOY, tmp_path / "empty", QUIET).files("train")


def test_too_little_to_learn_from_is_refused(tmp_path: Path) -> None:
    for modality in (EMPTY, dataclasses.replace(TOY, make=lambda _: iter([Item("a", b"a", ())]))):
        with pytest.raises(UserError, match="is too little: nothing is left for"):
            from_sample(modality, tmp_path / "set", QUIET)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda out: (out / "manifest.json").write_text("{"), "is damaged"),
        (lambda out: (out / "manifest.json").write_text("[]"), "is damaged"),
        (lambda out: (out / "manifest.json").write_text('{"format": 99}'), "newer version"),
        (lambda out: (out / "manifest.json").unlink(), "holds no prepared set"),
        (lambda out: next((out / "train").iterdir()).unlink(), "where manifest.json says"),
    ],
)
def test_a_damaged_set_is_refused(spoil: object, sentence: str, tmp_path: Path) -> None:
    from_sample(TOY, tmp_path / "set", QUIET)
    assert callable(spoil)
    spoil(tmp_path / "set")
    with pytest.raises(UserError, match=sentence):
        read(tmp_path / "set")


def test_a_damaged_default_set_is_made_again_as_the_error_says(empty_cache: Path) -> None:
    assert place_of(TOY).is_relative_to(empty_cache)
    folder = prepared.default_set(TOY, QUIET, [].append).folder
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=f"; delete {folder} and make the set again with bgpt data"):
        prepared.default_set(TOY, QUIET, [].append)
    shutil.rmtree(folder)
    assert prepared.default_set(TOY, QUIET, [].append).files("train")


def test_users_files_keep_their_folders_in_their_names_and_bad_ones_are_named(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine"
    for number in range(8):
        (mine / f"dog{number}").mkdir(parents=True)
        (mine / f"dog{number}" / "a.toy").write_bytes(b"bark %d" % number)
    (mine / "dog0_a.toy").write_bytes(b"howl")
    (mine / "bad.toy").write_bytes(b"broken")
    (mine / ".hidden").write_bytes(b"broken")
    notes: list[str] = []
    made = from_files(TOY, mine, tmp_path / "set", QUIET, notes.append)
    names = sorted(path.name for side in SIDES for path in made.files(side))
    assert names[:3] == ["dog0_a-2.toy", "dog0_a.toy", "dog1_a.toy"]
    assert notes == [f"left out: {mine / 'bad.toy'}: is broken; mend it"]
    assert made.manifest["left_out"] == {"unusable": 1}
    with pytest.raises(UserError, match="is no folder of files"):
        from_files(TOY, mine / "none", tmp_path / "other", QUIET, notes.append)


@pytest.mark.parametrize("judged", [("test",), ("val",), ("val", "test")])
def test_users_files_that_are_split_already_stay_so_and_keep_their_labels(
    judged: tuple[str, ...], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    for side in ("train", *judged):
        for number in range(40 if side == "train" else 9):
            path = mine / side / ("cat" if number % 2 else "dog") / f"{number}.toy"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{side} {number}".encode())
    (mine / "stray.toy").write_bytes(b"stray")
    notes: list[str] = []
    made = from_files(TOY, mine, tmp_path / "set", QUIET, notes.append)
    assert notes[0].startswith(f"left out: {mine / 'stray.toy'}: is in none of ")
    found = {
        side: {path.read_bytes().decode().split()[0] for path in made.files(side)} for side in SIDES
    }
    assert found["train"] == {"train"}
    assert found["validation"] == {"val" if "val" in judged else "train"}
    assert found["test"] == ({"test"} if "test" in judged else set())
    assert len(made.files("test")) == (9 if "test" in judged else 0)
    assert {file.label for file in find_labelled(made.folder)} == {"cat", "dog"}


def test_folders_with_underscores_are_labels_as_they_are_apart(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for label in ("black_cats", "black_dogs", "black-dogs"):
        for number in range(9):
            path = mine / label / f"in_{number}" / "it_is.toy"
            path.parent.mkdir(parents=True)
            path.write_bytes(f"{label} {number}".encode())
    made = from_files(TOY, mine, tmp_path / "set", QUIET, pytest.fail)
    found = {
        file.path.read_bytes().split()[0].decode(): file.label
        for file in find_labelled(made.folder)
    }
    assert found == {
        "black_cats": "black-cats",
        "black-dogs": "black-dogs",
        "black_dogs": "black-dogs-2",
    }


def two_forms(path: Path) -> list[Item]:
    data = path.read_bytes()
    return [Item(f"{path.stem}.{end}", data, (path.name,)) for end in ("toy", "box")]


def test_the_forms_of_a_file_share_a_name_that_no_other_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "read", lambda _, path: two_forms(path))
    mine = tmp_path / "mine"
    places = ["a/b_c.x", "a_b/c.x", "a-b/c.x", "c-2.x", "c.x", "c.y", *(f"{n}.x" for n in range(9))]
    for place in places:
        (mine / place).parent.mkdir(parents=True, exist_ok=True)
        (mine / place).write_text(place)
    made = from_files(TOY, mine, tmp_path / "set", QUIET, pytest.fail)
    forms: dict[str, list[bytes]] = {}
    for side in SIDES:
        for path in made.files(side):
            forms.setdefault(path.stem, []).append(path.read_bytes())
    assert len(forms) == len(places)
    for one, other in forms.values():
        assert one == other


def test_names_too_long_for_a_file_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "short.toy").write_bytes(b"short")
    for number in range(9):
        deep = mine.joinpath("label", *["\u00e4" * 90] * 3)
        deep.mkdir(parents=True, exist_ok=True)
        (deep / f"{number}.toy").write_bytes(b"%d" % number)
    made = from_files(TOY, mine, tmp_path / "set", QUIET, pytest.fail)
    names = {path.name for side in SIDES for path in made.files(side)} - {"short.toy"}
    assert len(names) == 9
    assert all(name.startswith("label_\u00e4") for name in names)
    assert max(len(name.encode()) for name in names) < 210


def test_the_same_content_under_two_names_stands_on_one_side(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(60):
        (mine / f"{number}.toy").write_bytes(b"content %d" % (number // 2))
    made = from_files(TOY, mine, tmp_path / "set", QUIET, lambda _: None)
    found = [{path.read_bytes() for path in made.files(side)} for side in SIDES]
    assert all(found)
    assert not found[0] & found[1]
    assert not (found[0] | found[1]) & found[2]


def test_the_default_set_is_built_once_and_kept(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = dataclasses.replace(TOY, packages=(Debian("toys"),))
    calls: list[str] = []

    def fetch(*_: object) -> list[dict[str, str]]:
        calls.append("fetch")
        return [{"package": "toys", "version": "7"}]

    monkeypatch.setattr(packages, "fetch", fetch)
    for _ in range(2):
        made = prepared.default_set(toy, QUIET, pytest.fail)
        assert made.folder == empty_cache / "neural-cpu-lab" / "media" / "toy-1"
        assert made.manifest["sources"] == [{"package": "toys", "version": "7"}]
        assert made.sentence().startswith("toy: a toy shop (free); ")
    assert calls == ["fetch"]
    newer = dataclasses.replace(toy, recipe=2)
    assert prepared.default_set(newer, QUIET, pytest.fail).folder.name == "toy-2"


def test_where_packages_cannot_be_had_the_sample_serves_and_this_is_said(empty_cache: Path) -> None:
    notes: list[str] = []
    for _ in range(2):
        made = prepared.default_set(TOY, QUIET, notes.append)
        assert made.kind == "sample"
        assert empty_cache in made.folder.parents
    sentence = "no package holds data for toy; so the small sample that ships with this program"
    assert notes == [f"{sentence} is used"] * 2


def test_users_files_are_converted_again_only_when_they_change(
    empty_cache: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(9):
        (mine / f"{number}.toy").write_bytes(b"%d" % number)
    first = prepared.user_set(TOY, mine, QUIET, pytest.fail)
    assert prepared.user_set(TOY, mine, QUIET, pytest.fail).folder == first.folder
    (mine / "more.toy").write_bytes(b"more")
    second = prepared.user_set(TOY, mine, QUIET, pytest.fail)
    assert second.folder != first.folder
    assert empty_cache in second.folder.parents
    assert prepared.user_set(TOY, second.folder, QUIET, pytest.fail).folder == second.folder
    with pytest.raises(UserError, match="is a set of toy, not of box; use --modality toy"):
        prepared.user_set(Toy(name="box"), second.folder, QUIET, pytest.fail)
    (mine / "bad.toy").write_bytes(b"broken")
    notes: list[str] = []
    for _ in range(2):
        prepared.user_set(TOY, mine, QUIET, notes.append)
    assert notes == [
        f"left out: {mine / 'bad.toy'}: is broken; mend it",
        "left out when the set was made: 1 unusable",
    ]


def test_of_processes_that_make_the_same_set_the_first_one_wins(empty_cache: Path) -> None:
    place = prepared.place_of(TOY)

    def made_meanwhile(folder: Path) -> Iterator[Item | LeftOut]:
        yield from TOY.make(folder)
        if not place.exists():
            from_sample(TOY, place, QUIET)
            first.append((place / "manifest.json").stat().st_ino)

    first: list[int] = []
    slow = dataclasses.replace(TOY, make=made_meanwhile)
    from_sample(slow, place, QUIET, force=True, shared=True)
    assert [(place / "manifest.json").stat().st_ino] == first
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert empty_cache in place.parents
