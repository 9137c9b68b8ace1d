"""Data sets in the Hub's format: their splits, labels and licence, without a network."""

from __future__ import annotations

import importlib.util
import io
import sys
import wave
from pathlib import Path

import pytest
from PIL import Image as Pillow

from cpusim.errors import UserError
from media import hub, prepared, registry
from media.modality import SIDES, Missing
from media.prepared import Stages, from_files

QUIET = Stages()
WORDS = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine")


needs_library = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the extra datasets is not installed"
)


def letters(split: str, count: int) -> dict[str, list[object]]:
    return {
        "text": [
            f"{split} letter about {WORDS[n % 10]} and {WORDS[n // 10]}" for n in range(count)
        ],
        "label": [n % 2 for n in range(count)],
    }


def write(folder: Path, **splits: dict[str, list[object]]) -> None:
    import datasets

    kinds = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["so so", "good"])}
    )
    folder.mkdir()
    for name, rows in splits.items():
        datasets.Dataset.from_dict(rows, features=kinds).to_parquet(folder / f"{name}.parquet")


def names(made: prepared.Prepared, side: str) -> list[str]:
    return [path.name for path in made.files(side)]


@needs_library
def test_splits_are_kept_as_sides_and_labels_begin_the_names(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    splits = {"train": 12, "validation": 4, "test": 5}
    write(mine, **{name: letters(name, count) for name, count in splits.items()})
    (mine / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Letters\n")
    text = registry.load("text")
    made = from_files(text, Path(f"hf:{mine}"), tmp_path / "set", QUIET, pytest.fail)
    assert {side: len(made.files(side)) for side in SIDES} == splits
    assert names(made, "test")[:3] == [f"good_test-{n:06d}.txt" for n in (1, 3)] + [
        "so-so_test-000000.txt"
    ]
    assert made.files("test")[0].read_text() == "test letter about birch and ash"
    assert (made.kind, made.manifest["licence"]) == ("hub", "cc-by-4.0")
    assert f"the data set {mine} (cc-by-4.0)" in made.sentence()


@needs_library
def test_a_set_of_one_split_is_split_as_files_are(tmp_path: Path) -> None:
    write(tmp_path / "mine", train=letters("one", 60))
    file = Path(f"hf:{tmp_path / 'mine' / 'train.parquet'}")
    text = registry.load("text")
    made = from_files(text, file, tmp_path / "set", QUIET, pytest.fail)
    assert all(made.files(side) for side in SIDES)
    assert sum(len(made.files(side)) for side in SIDES) == 60


@needs_library
def test_a_missing_validation_side_is_taken_from_training_and_never_from_the_test(
    tmp_path: Path,
) -> None:
    splits = {name: letters(name, 90) for name in ("train", "test")}
    write(tmp_path / "mine", **splits)
    text = registry.load("text")
    made = from_files(text, Path(f"hf:{tmp_path / 'mine'}"), tmp_path / "set", QUIET, pytest.fail)
    assert len(made.files("test")) == 90
    assert made.files("validation")
    assert all("_train-" in name for name in names(made, "validation"))


@needs_library
def test_pictures_and_sounds_are_taken_as_their_bytes(tmp_path: Path) -> None:
    import datasets

    pictures, sounds = [], []
    for number in range(8):
        picture, sound = io.BytesIO(), io.BytesIO()
        Pillow.new("RGB", (40, 40), (number * 30, 0, 0)).save(picture, "PNG")
        with wave.open(sound, "wb") as file:
            file.setparams((1, 1, 8000, 0, "NONE", ""))
            file.writeframes(bytes([128 + 100 * (n % (number + 2) > 0) for n in range(8000)]))
        pictures.append({"bytes": picture.getvalue(), "path": None})
        sounds.append({"bytes": sound.getvalue(), "path": "a.wav"})
    outside = tmp_path / "secret.png"
    Pillow.new("RGB", (9, 9)).save(outside)
    rows = {
        "image": [*pictures, {"bytes": None, "path": str(outside)}],
        "audio": [*sounds, {"bytes": None, "path": None}],
    }
    kinds = datasets.Features({"image": datasets.Image(), "audio": datasets.Audio()})
    bare = {
        name: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")} for name in rows
    }
    held = datasets.Dataset.from_dict(rows, features=datasets.Features(bare))
    file = tmp_path / "all.parquet"
    held.cast(kinds).to_parquet(file)
    for name in ("image", "audio"):
        modality = registry.load(name)
        made = from_files(modality, Path(f"hf:{file}"), tmp_path / name, QUIET, pytest.fail)
        assert sum(len(made.files(side)) for side in SIDES) == 8
        assert made.manifest["left_out"] == {"empty": 1}
        for path in made.files("train"):
            assert modality.judge(path.read_bytes(), path.suffix[1:]) is None


@needs_library
def test_what_cannot_be_learned_says_which_columns_there_are(tmp_path: Path) -> None:
    write(tmp_path / "mine", train=letters("train", 4))
    named = f"hf:{tmp_path / 'mine'}"
    for modality, text in (("image", named), ("text", f"{named}#title")):
        with pytest.raises(UserError, match=r"has the columns text, label.*hf:NAME#COLUMN"):
            from_files(registry.load(modality), Path(text), tmp_path / "s", QUIET, pytest.fail)
    assert not (tmp_path / "s").exists()


@needs_library
def test_a_first_row_without_a_text_does_not_decide_what_is_learned(tmp_path: Path) -> None:
    import datasets

    rows = {
        "title": [f"title {n}" for n in range(60)],
        "text": [None, *(f"a letter about {WORDS[n % 10]} {n}" for n in range(59))],
    }
    file = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(file)
    text = registry.load("text")
    for name in (f"hf:{file}", f"hf:{file}#text"):
        made = from_files(text, Path(name), tmp_path / "set", QUIET, pytest.fail, force=True)
        found = [path.read_text() for side in SIDES for path in made.files(side)]
        assert len(found) == 59
        assert all(data.startswith("a letter about ") for data in found)
        assert made.manifest["left_out"] == {"empty": 1}


@needs_library
def test_only_so_many_rows_are_taken_and_this_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MOST_ROWS", 30)
    write(tmp_path / "mine", train=letters("train", 40))
    notes: list[str] = []
    text = registry.load("text")
    made = from_files(text, Path(f"hf:{tmp_path / 'mine'}"), tmp_path / "set", QUIET, notes.append)
    assert sum(len(made.files(side)) for side in SIDES) == 30
    assert len(notes) == 1
    assert notes[0].startswith("train: the first 30")


@needs_library
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(UserError, match=r"bad\.parquet") as refused:
        from_files(
            registry.load("text"),
            Path(f"hf:{tmp_path / 'bad.parquet'}"),
            tmp_path / "set",
            QUIET,
            pytest.fail,
        )
    assert "\n" not in str(refused.value)


def test_without_the_library_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Missing, match=r"pip install 'neural-cpu-lab\[datasets\]'"):
        hub.open_set("hf:owner/name")


@needs_library
def test_without_a_network_the_name_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    def unreachable(*_: object) -> None:
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(UserError, match=r"hf:owner/name: cannot be read .*\(no route to host\)"):
        hub.open_set("hf:owner/name")
    with pytest.raises(UserError, match="names no data set"):
        hub.open_set("hf:a b")
