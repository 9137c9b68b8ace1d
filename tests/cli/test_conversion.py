"""`bgpt convert`, as its users meet it: files, names, confidence, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bytemodel import checkpoint
from bytemodel import conversion as library
from bytemodel.conversion import Converted
from cli.bgpt import main
from tests.bytemodel.toy import LEARNT, trained
from tests.cli.calls import bgpt, refused

MOST = (LEARNT.max_patches - 3) * LEARNT.patch_size
"""Bytes of the longest source."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows how to make `.up` of `.low`."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    loaded = trained()
    checkpoint.save(path, loaded.model, info=loaded.info)
    return path


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A folder of files with a folder in it."""
    folder = tmp_path / "words"
    contents = {"one.low": b"hello", "two.low": b"worldly", "deep/one.low": b"oracles"}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def convert(model: Path, *words: object) -> list[object]:
    return ["convert", "--model", model, "--dtype", "float32", "--to", "up", *words]


def written(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- Files and names


def test_files_are_converted_and_each_output_says_how_sure_the_model_was(
    model: Path, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    result = bgpt(*convert(model, words / "two.low", words / "one.low", "-o", out))
    assert written(out) == {"one.up": b"HELLO", "two.up": b"WORLDLY"}
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["bytes", "bits/byte", "probability", "least", "certain", "file"]
    for row, (name, size) in zip(rows, {"two.up": 7, "one.up": 5}.items(), strict=True):
        assert row.endswith(f" %  {out / name}")
        length, per_byte, share, percent, kind, *_ = row.split()
        assert int(length) == size
        assert 0 < float(per_byte) < 0.05
        assert 80 < float(share) < 100
        assert (percent, kind in ("byte", "the")) == ("%", True)
        assert len(row) - len(str(out / name)) == 57
    assert result.stderr == ""


def test_without_a_folder_for_the_output_it_is_the_current_one(
    model: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(words)
    bgpt(*convert(model, "deep/one.low"))
    assert (words / "one.up").read_bytes() == b"ORACLES"


def test_a_folder_is_converted_with_all_below_it_in_the_same_folders(
    model: Path, words: Path, tmp_path: Path
) -> None:
    (words / ".hidden.low").write_bytes(b"secrets")
    (words / "done.up").write_bytes(b"DONE")
    (words / "plain").write_bytes(b"naming")
    (words / "BIG.LOW").write_bytes(b"letters")
    bgpt(*convert(model, words, "-o", tmp_path / "out"))
    made = written(tmp_path / "out")
    assert sorted(made) == ["BIG.up", "deep/one.up", "one.up", "plain.up", "two.up"]
    assert made["BIG.up"] == b"LETTERS"
    assert made["deep/one.up"] == b"ORACLES"
    # Beside the sources is a place too, and done once more there is nothing to take for a source.
    bgpt(*convert(model, words, "-o", words))
    assert (words / "deep" / "one.up").read_bytes() == b"ORACLES"
    bgpt(*convert(model, words, "-o", words, "--force"))
    assert "up.up" not in " ".join(written(words))


def test_json_has_the_figures_of_every_file(model: Path, words: Path, tmp_path: Path) -> None:
    report = json.loads(bgpt(*convert(model, words, "-o", tmp_path / "out", "--json")).stdout)
    assert list(report) == ["model", "to", "trained_conversions", "files", "left_out"]
    assert (report["model"], report["to"]) == (str(model), "up")
    assert (report["trained_conversions"], report["left_out"]) == (["low->up"], [])
    names = ["deep/one", "one", "two"]
    assert [file["file"] for file in report["files"]] == [str(words / f"{n}.low") for n in names]
    for file in report["files"]:
        source = Path(file["file"]).read_bytes()
        found = library.convert(trained().model, source, "low", "up")
        assert Path(file["output"]).read_bytes() == found.data == source.upper()
        assert (file["bytes"], file["ended"]) == (len(source), True)
        # The model was stored in bfloat16 by the training, so nothing was lost since.
        assert file["bits"] == pytest.approx(found.bits, abs=1e-4)
        assert file["bits_per_byte"] == pytest.approx(found.bits / len(source), abs=1e-4)
        assert file["probability"] == pytest.approx(2**-found.bits, abs=1e-4)
        least = file["least_certain"]
        assert least["is_end"] == (least["offset"] == len(source))
        assert least["bits"] == pytest.approx(max(found.surprisal), abs=1e-4)
        assert least["probability"] == pytest.approx(2 ** -least["bits"])


def test_sampling_is_reproducible_by_seed(model: Path, words: Path, tmp_path: Path) -> None:
    def sample(folder: str, seed: int) -> dict[str, bytes]:
        hot = ["--temperature", 6, "--top-k", 50, "--seed", seed, "--max-patches", 2]
        out = tmp_path / folder
        command = [str(word) for word in convert(model, words, "-o", out, *hot, "--json")]
        result = CliRunner().invoke(main, command)
        files = json.loads(result.stdout)["files"]
        assert result.exit_code == (not all(file["ended"] for file in files))
        assert max(file["bits"] for file in files) > 5
        return written(out)

    assert sample("a", 1) == sample("b", 1) != sample("c", 2)


# ---- What is not finished, left out or interrupted


def test_an_output_that_did_not_end_is_called_unfinished_with_exit_code_one(
    model: Path, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = bgpt(*convert(model, words, "-o", out, "--max-patches", 1), code=1)
    assert written(out) == {"deep/one.up": b"ORAC", "one.up": b"HELL", "two.up": b"WORL"}
    *rows, last = result.stdout.splitlines()[1:]
    assert [row.endswith(".up (unfinished)") for row in rows] == [True] * 3
    assert last == "3 of 3 unfinished: cut off at the limit"
    result = bgpt(*convert(model, words, "-o", out, "--max-patches", 2, "--json", "--force"))
    assert [file["ended"] for file in json.loads(result.stdout)["files"]] == [True] * 3


def test_what_the_model_has_no_room_for_is_left_out_and_named_with_exit_code_two(
    model: Path, words: Path, tmp_path: Path
) -> None:
    (words / "long.low").write_bytes(bytes(MOST + 1))
    (words / "huge.low").write_bytes(bytes(10**6))
    (words / "a.longer").write_bytes(b"words")
    out = tmp_path / "out"
    result = bgpt(*convert(model, words, "-o", out), code=2)
    assert sorted(written(out)) == ["deep/one.up", "one.up", "two.up"]
    assert len(result.stdout.splitlines()) == 4
    untrained, *left_out = result.stderr.splitlines()
    assert "expect nothing of longer->up" in untrained
    room = "patches, and this model takes 16; shorten it or use a model with a larger max_patches"
    assert left_out == [
        f"{words}/a.longer: the file extension 'longer' has 6 bytes; a patch holds 4",
        f"{words}/huge.low: the source is too long: a conversion of it takes at least 20 {room}",
        f"{words}/long.low: the source is too long: a conversion of it takes at least 17 {room}",
    ]
    both = bgpt(*convert(model, words / "long.low", "-o", tmp_path / "none", "--json"), code=2)
    report = json.loads(both.stdout)
    assert report["files"] == []
    assert report["left_out"][0]["file"] == str(words / "long.low")
    assert report["left_out"][0]["reason"].startswith("the source is too long")
    assert not (tmp_path / "none").exists()


def test_an_interruption_keeps_what_is_finished_and_reports_it(
    model: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = library.convert_prompts

    def interrupted(*arguments: Any, **options: Any) -> Iterator[tuple[int, Converted]]:
        yield next(whole(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "convert_prompts", interrupted)
    result = bgpt(*convert(model, words, "-o", tmp_path / "out"), code=130)
    assert written(tmp_path / "out") == {"deep/one.up": b"ORACLES"}
    assert result.stdout.splitlines()[1].endswith(f"{tmp_path / 'out' / 'deep' / 'one.up'}")
    assert result.stderr == "interrupted: 1 of 3 files were converted\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_wrong_in_its_lengths_alone_is_mended_beside_it(
    as_json: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = bytes.fromhex("00ff03024142 00903c50 60803c00 00ff2f00")
    head = b"MThd" + bytes.fromhex("00000006 0000 0001 0060") + b"MTrk"
    right = head + bytes([0, 0, 0, len(events)]) + events
    made = [right, right.replace(b"\3\2AB", b"\3\5AB"), right[:30]]

    def converted(*_: Any, **__: Any) -> Iterator[tuple[int, Converted]]:
        for number, data in enumerate(made):
            yield number, Converted(data, True, np.zeros(len(data) + 1, np.float32))

    monkeypatch.setattr(library, "convert_prompts", converted)
    sources = [tmp_path / f"{name}.low" for name in ("good", "near", "torn")]
    for source in sources:
        source.write_bytes(b"tune")
    out = tmp_path / "out"
    words = ["convert", "--model", model, *sources, "--to", "mid", "-o", out]
    words += ["--modality", "music", *["--json"] * as_json]
    result = bgpt(*words)
    if as_json:
        found = [
            (file["valid"], file["wrong"] is None, file["also"])
            for file in json.loads(result.stdout)["files"]
        ]
        assert found == [(True, True, []), (False, False, ["mended.mid"]), (False, False, [])]
    else:
        lines = result.stdout.splitlines()
        assert lines[1].endswith("good.mid; valid")
        assert "near.mid; not valid: " in lines[2]
        assert lines[2].endswith(", also .mended.mid")
        assert "torn.mid; not valid: " in lines[3]
        assert lines[-1] == "1 of 3 valid music files, and 1 once mended"
    names = ("good.mid", "near.mid", "torn.mid")
    assert written(out) == {**dict(zip(names, made, strict=True)), "near.mended.mid": right}
    assert "near.mid: already exists" in refused(*words[:2], model, sources[1], *words[6:])
    (out / "near.mid").unlink()
    taken = refused(*words[:2], model, sources[1], *words[6:])
    assert taken == f"{out / 'near.mended.mid'}: already exists; use --force to replace it"
    made[:] = [right]
    bgpt(*words[:2], model, sources[1], *words[6:], "--force")
    assert not (out / "near.mended.mid").exists()


def test_a_kind_that_the_modality_does_not_have_is_refused(
    model: Path, words: Path, tmp_path: Path
) -> None:
    sentence = refused(*convert(model, words, "-o", tmp_path / "out", "--modality", "music"))
    assert sentence == "music has files abc and mid, none called .up; name one of them"


# ---- What the model was trained for


def test_a_conversion_that_the_model_did_not_learn_is_said_to_be_none(
    model: Path, words: Path, tmp_path: Path
) -> None:
    (words / "three.txt").write_bytes(b"notable")
    result = bgpt(*convert(model, words, "-o", tmp_path / "a"))
    assert result.stderr == (f"{model}: it was trained on low->up; expect nothing of txt->up\n")
    none = tmp_path / "none.pt"
    checkpoint.save(none, trained().model, info={"data": {"kind": "files"}})
    result = bgpt(*convert(none, words / "one.low", "-o", tmp_path / "b"))
    assert result.stderr == (f"{none}: its record names no conversion; expect nothing of low->up\n")
    silent = tmp_path / "silent.pt"
    checkpoint.save(silent, trained().model, info={})
    result = bgpt(*convert(silent, words / "one.low", "-o", tmp_path / "c", "--json"))
    assert result.stderr == ""
    assert json.loads(result.stdout)["trained_conversions"] is None


# ---- Refusals


def test_nothing_that_exists_is_replaced_without_force(
    model: Path, words: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "out" / "two.up"
    taken.parent.mkdir()
    taken.write_bytes(b"mine")
    sentence = refused(*convert(model, words, "-o", taken.parent))
    assert sentence == f"{taken}: already exists; use --force to replace it"
    assert written(taken.parent) == {"two.up": b"mine"}
    bgpt(*convert(model, words, "-o", taken.parent, "--force"))
    assert taken.read_bytes() == b"WORLDLY"


def test_two_sources_of_one_output_and_a_source_as_output_are_refused_even_with_force(
    model: Path, words: Path, tmp_path: Path
) -> None:
    one, other, out = words / "one.low", words / "deep" / "one.low", tmp_path / "out"
    force = ["-o", out, "--force"]
    assert refused(*convert(model, one, other, *force)) == (
        f"{other}: would be written to {out / 'one.up'}, as {one} would; convert them into"
        " different folders with -o"
    )
    assert refused(*convert(model, one, one, *force)) == f"{one}: is named twice; name it once"
    assert "is named twice" in refused(*convert(model, words, one, *force))
    upper = words / "one.up"
    upper.write_bytes(b"SOURCE")
    for sources in ([words / "two.low", upper], [upper]):
        sentence = refused(*convert(model, *sources, "-o", words, "--force"))
        assert "is one of the files to convert; choose another folder with -o" in sentence
    (tmp_path / "link").symlink_to(words)
    sentence = refused(*convert(model, upper, "-o", tmp_path / "link", "--force"))
    assert "is one of the files to convert" in sentence
    assert upper.read_bytes() == b"SOURCE"
    assert not out.exists()


def test_convert_refuses_what_cannot_be(model: Path, words: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = words / "one.low"
    assert "no such file" in refused(*convert(model, words / "none.low", "-o", out))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no file to convert to up" in refused(*convert(model, empty, "-o", out))
    assert "temperature -1.0" in refused(*convert(model, one, "-o", out, "--temperature", -1))
    for extension in ("", ".", "a/b", "../../x"):
        words_ = ["convert", "--model", model, one, "-o", out, "--to", extension]
        assert refused(*words_).startswith(f"--to {extension!r} is no file extension")
    assert "a patch holds 4" in refused(
        "convert", "--model", model, one, "-o", out, "--to", "longer"
    )
    assert "no checkpoint ships that converts low->up (there are: " in refused(
        "convert", one, "-o", out, "--to", "up"
    )
    assert "Missing option '--to'" in refused("convert", "--model", model, one)
    assert not out.exists()
    out.touch()
    said = f"{out}: is a file where a folder is to be made; choose another folder with -o"
    assert refused(*convert(model, one, "-o", out)) == said
    assert refused(*convert("no model", one, "-o", out / "deep" / "er")) == said
    assert out.read_bytes() == b""


def test_a_run_on_conversions_is_recognised_both_ways(words: Path, tmp_path: Path) -> None:
    for source in list(words.rglob("*.low")):
        source.with_suffix(".up").write_bytes(source.read_bytes().upper())
    run = tmp_path / "run"
    train = ["train", "files", "--data", words, "--convert", "low&up", "--out", run]
    bgpt(*train, "--preset", "tiny", "--max-patches", 16, "--steps", 1, "--no-compile")
    for way in ("up", "low"):
        source = words / f"one.{'low' if way == 'up' else 'up'}"
        options = ["-o", tmp_path / way, "--to", way.upper(), "--max-patches", 1, "--json"]
        result = CliRunner().invoke(
            main, [*map(str, ["convert", "--model", run, source, *options])]
        )
        assert result.exit_code in (0, 1)
        assert result.stderr == ""
        assert json.loads(result.stdout)["trained_conversions"] == ["low->up", "up->low"]
        assert (tmp_path / way / f"one.{way.upper()}").is_file()
