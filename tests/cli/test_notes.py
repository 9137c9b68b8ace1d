"""`bgpt compare`, and `bgpt train media --convert`, as their users meet them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from bytemodel.train import read_config
from media import abcmidi, prepared
from media.music import MUSIC
from tests.cli.calls import bgpt, refused

ONE, OTHER = (MUSIC.sample / f"tune00{number}" for number in (1, 2))
QUICK = ["--preset", "tiny", "--max-patches", 200, "--no-compile", "--dtype", "float32"]


def low_by_an_octave(midi: bytes, number: int) -> bytes:
    """The file with one of its notes an octave lower."""
    place = [at for at in range(len(midi)) if midi[at : at + 2] == b"\x01\x90"][number]
    pitch = midi[place + 2]
    end = midi.index(bytes([0x80, pitch, 0]), place)
    changed = bytearray(midi)
    changed[place + 2] = changed[end + 1] = pitch - 12
    return bytes(changed)


def test_the_same_tune_is_the_same_in_both_forms() -> None:
    midi, abc = ONE.with_suffix(".mid"), ONE.with_suffix(".abc")
    result = bgpt("compare", midi, midi)
    assert result.stdout.startswith("tune001.mid: all ")
    assert result.stdout.endswith(" notes are right\n")
    assert bgpt("compare", abc, midi).stdout.startswith("tune001.abc: all ")


def test_the_first_wrong_note_is_shown_with_bar_and_beat(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.mid"
    wrong.write_bytes(low_by_an_octave(ONE.with_suffix(".mid").read_bytes(), 6))
    result = bgpt("compare", wrong, ONE.with_suffix(".mid"), code=1)
    first, titles, expected, found = result.stdout.splitlines()
    # |:G2AAc2|G4G2|B2...: the seventh note is the third bar's first.
    assert first.startswith("wrong.mid: ")
    assert first.endswith(" notes right; they part at bar 3, beat 1")
    assert titles.split() == ["note", "pitch", "onset", "duration"]
    assert expected.split()[:3] == ["expected", "B4", "71"]
    assert found.split()[:3] == ["found", "B3", "59"]
    assert max(map(len, result.stdout.splitlines())) <= 80
    record = json.loads(bgpt("compare", "--json", wrong, ONE.with_suffix(".mid"), code=1).stdout)[0]
    assert record["first"]["bar"] == 3
    assert record["first"]["found"]["pitch"] == 59
    assert record["right"] == record["expected"] - 1


def test_folders_are_compared_by_name(tmp_path: Path) -> None:
    found, expected = tmp_path / "found", tmp_path / "expected"
    for folder in (found, expected):
        (folder / "deep").mkdir(parents=True)
        shutil.copy(ONE.with_suffix(".mid"), folder / "deep" / "one.mid")
        shutil.copy(OTHER.with_suffix(".mid"), folder / "other.mid")
    shutil.copy(ONE.with_suffix(".abc"), expected / "deep" / "one.abc")
    assert "2 of 2 tunes have every note right" in bgpt("compare", found, expected).stdout
    shutil.copy(ONE.with_suffix(".mid"), found / "other.mid")
    result = bgpt("compare", found, expected, code=1)
    assert result.stdout.splitlines()[-1].startswith("1 of 2 tunes have every note right; ")
    (found / "other.mid").write_bytes(b"MThd no more")
    result = bgpt("compare", found, expected, code=2)
    assert f"{found}/other.mid: is no whole MIDI file" in result.stderr
    assert "1 of 2 tunes could not be compared" in result.stderr
    records = json.loads(bgpt("compare", found, expected, "--json", code=2).stdout)
    assert [sorted(record)[0] for record in records] == ["expected", "error"]
    (found / "more.mid").write_bytes(b"")
    sentence = refused("compare", found, expected)
    assert sentence.startswith(f"{found}/more.mid: {expected} has no tune of that name")


def test_a_tune_that_was_not_converted_counts_as_wrong(tmp_path: Path) -> None:
    found, expected = tmp_path / "found", tmp_path / "expected"
    for folder, tunes in ((found, (ONE,)), (expected, (ONE, OTHER))):
        folder.mkdir()
        for tune in tunes:
            shutil.copy(tune.with_suffix(".mid"), folder)
    told = bgpt("compare", found, expected, code=1).stdout
    assert f"  {found} has no tune of that name" in told.splitlines()
    assert "1 of 2 tunes have every note right; " in told
    there, missing = json.loads(bgpt("compare", found, expected, "--json", code=1).stdout)
    assert there["same"]
    assert (missing["name"], missing["right"], missing["found"]) == (OTHER.name, 0, 0)
    assert missing["expected"] > 0


def test_every_form_of_a_tune_in_a_folder_is_compared(tmp_path: Path) -> None:
    found, expected = tmp_path / "found", tmp_path / "expected"
    for folder in (found, expected):
        folder.mkdir()
        shutil.copy(ONE.with_suffix(".abc"), folder / "tune.abc")
    shutil.copy(ONE.with_suffix(".mid"), expected / "tune.mid")
    assert "all" in bgpt("compare", found, expected).stdout
    shutil.copy(OTHER.with_suffix(".mid"), found / "tune.MID")
    wrong, right = json.loads(bgpt("compare", found, expected, "--json", code=1).stdout)
    assert (right["name"], right["same"]) == ("tune.abc", True)
    assert (wrong["name"], wrong["same"]) == ("tune.MID", False)


def test_a_wait_longer_than_midi_can_say_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.mid"
    data = ONE.with_suffix(".mid").read_bytes()
    length = int.from_bytes(data[18:22], "big")
    wait = b"\xff" * 160
    wrong.write_bytes(data[:18] + (length + 160).to_bytes(4, "big") + wait + data[22:])
    for words in ((wrong, ONE.with_suffix(".mid")), (ONE.with_suffix(".mid"), wrong)):
        assert refused("compare", *words).startswith(f"{wrong}: is no whole MIDI file")


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    tune = ONE.with_suffix(".mid")
    assert "one is a folder" in refused("compare", tmp_path, tune)
    assert "holds no MIDI and no ABC" in refused("compare", tmp_path, tmp_path)
    assert "nowhere.mid" in refused("compare", tmp_path / "nowhere.mid", tune)
    for words in (["compare"], ["compare", tune]):
        assert "Usage" in bgpt(*words, code=2).stderr


def test_a_file_with_a_wrong_track_length_alone_has_right_notes(tmp_path: Path) -> None:
    tune, wrong = ONE.with_suffix(".mid"), tmp_path / "wrong.mid"
    data = tune.read_bytes()
    wrong.write_bytes(data[:18] + b"\0\0\0\7" + data[22:])
    result = bgpt("compare", wrong, tune)
    assert "the length of its track is wrong; the notes were read all the same" in result.stdout


def test_training_mixes_made_pairs_and_goes_on_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def to_midi_many(tunes: Sequence[bytes]) -> list[bytes | None]:
        asked.append(len(tunes))
        return [b"MThd" + tune[4:] for tune in tunes]

    monkeypatch.setattr(abcmidi, "to_midi_many", to_midi_many)
    monkeypatch.setattr(abcmidi, "program", lambda _: Path("abc2midi"))
    monkeypatch.setattr("bytemodel.files_data._MOST_EVALUATED", 40)
    monkeypatch.setattr("bytemodel.files_data.TARGETS", 60)
    folder, out = tmp_path / "set", tmp_path / "run"
    prepared.from_sample(MUSIC, folder, prepared.Stages(), force=False)
    words = ["train", "media", "--modality", "music", "--data", folder, *QUICK, "--out", out]
    result = bgpt(*words, "--convert", "mid&abc", "--made", 0.5, "--steps", 2)
    assert "bits per byte" in result.stdout
    config = read_config(out)
    assert config["data"]["convert"] == "mid&abc"
    assert config["data"]["made"]["share"] == 0.5
    assert sum(asked) >= 128
    asked.clear()
    assert "resumed from" in bgpt("train", "media", "--resume", "--out", out).stderr
    assert sum(asked) >= 128
    real = [*words, "--convert", "abc->mid", "--made", 0, "--steps", 1, "--out", tmp_path / "real"]
    asked.clear()
    bgpt(*real)
    assert not asked
    assert "made" not in read_config(tmp_path / "real")["data"]


def test_pairs_are_made_of_the_kinds_that_a_program_converts(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    prepared.from_sample(MUSIC, folder, prepared.Stages(), force=False)
    words = ["train", "media", "--modality", "music", "--data", folder, *QUICK, "--steps", 1]
    words += ["--out", tmp_path / "run"]
    stderr = bgpt(*words, "--convert", "abc->txt", "--made", 0.5, code=2).stderr
    assert "leaves nothing to train on" in stderr or "no program that makes" in stderr
    assert "--made" in bgpt(*words, "--convert", "abc->mid", "--made", 1, code=2).stderr
