"""`bgpt modalities`, `data`, `train media` and `generate --modality`, as their users meet them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bytemodel import checkpoint
from bytemodel.train import read_config
from media import packages, prepared, registry
from media.modality import Missing
from tests.bytemodel.models import random_model
from tests.cli.calls import bgpt, command, refused

ROOT = Path(__file__).parent.parent.parent
needs_tic = pytest.mark.skipif(
    shutil.which("tic") is None or shutil.which("infocmp") is None,
    reason="tic and infocmp of ncurses are not installed",
)
QUICK = ["--preset", "tiny", "--steps", 1, "--no-compile", "--dtype", "float32"]


LETTERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def letters(folder: Path) -> Path:
    """A folder of texts, to be converted."""
    folder.mkdir()
    for word in LETTERS:
        (folder / f"{word}.txt").write_bytes(f"letter number {word}\n".encode("utf-16"))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no network."""

    def unreachable(*_: object) -> None:
        raise Missing("the package cannot be fetched (no network)")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "fetch", unreachable)
    # All that is held out takes a while to evaluate.
    monkeypatch.setattr("bytemodel.files_data._MOST_EVALUATED", 40)
    return tmp_path / "cache"


# modalities ---------------------------------------------------------------------------


def test_modalities_are_listed_with_source_licence_and_how_to_get_the_data() -> None:
    text = bgpt("modalities").stdout
    for name in ("audio", "image", "music", "text"):
        assert f"{name}: {registry.load(name).summary}\n" in text
        assert f"licence  {registry.load(name).licence}\n" in text
        assert f"data missing; get it with: bgpt data {name}\n" in text
    rows = {row["name"]: row for row in json.loads(bgpt("modalities", "--json").stdout)}
    assert rows["music"]["extensions"] == ["abc", "mid"]
    assert rows["image"]["packages"] == ["dataset-fashion-mnist"]
    assert not rows["image"]["ready"]


def test_a_prepared_modality_is_ready_and_one_without_apt_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = registry.load("image")
    place = prepared.place_of(image)
    prepared.from_sample(image, place, prepared.Stages())
    assert f"state    ready, in {place}\n" in bgpt("modalities").stdout
    monkeypatch.setenv("PATH", "/nowhere")
    assert "the small sample only: the Debian package asterisk" in bgpt("modalities").stdout


# data ---------------------------------------------------------------------------------


def test_data_makes_the_sample_a_set_and_says_what_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "set"
    lines = bgpt("data", "image", "--sample", "--out", out).stdout.splitlines()
    assert lines[:2] == [
        f"{out}: 300 pictures of Fashion-MNIST",
        "licence: MIT, (c) 2017 Zalando SE",
    ]
    assert [line.split()[0] for line in lines[3:6]] == ["train", "validation", "test"]
    assert len(list((out / "test").iterdir())) == 60
    report = json.loads(bgpt("data", "image", "--sample", "--out", out, "--force", "--json").stdout)
    assert report["split"]["test"]["files"] == 60
    assert report["folder"] == str(out)


def test_data_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert refused("data", "image") == (
        "the package cannot be fetched (no network); or make the set of your own files (--data),"
        " or of the small sample that ships with this program (--sample)"
    )
    assert "did you mean audio" in refused("data", "audi")
    assert "say with --out" in bgpt("data", "image", "--sample", code=2).stderr
    bgpt("data", "image", "--sample", "--out", out)
    assert "use --force to replace it" in refused("data", "image", "--sample", "--out", out)
    assert "is no folder of files" in refused(
        "data", "image", "--data", tmp_path / "none", "--out", tmp_path / "b"
    )


def test_the_default_set_is_shown_again_without_being_built_again() -> None:
    audio = registry.load("audio")
    prepared.from_sample(audio, prepared.place_of(audio), prepared.Stages())
    assert "digits and letters" in bgpt("data", "audio").stdout


def test_ctrl_c_while_data_are_made_leaves_nothing(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "sets" / "photos"
    photos.mkdir()
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 256, (900, 900, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{number}.bmp")
    with subprocess.Popen(
        command("data", "image", "--data", photos, "--out", out),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # It has begun when its temporary folder holds a picture.
        while process.poll() is None and not list(tmp_path.glob("sets/.*/unsorted/*")):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")
    assert list((tmp_path / "sets").iterdir()) == []


def test_users_files_become_a_set_and_the_unusable_are_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(6):
        with wave.open(str(mine / f"beep{number}.wav"), "wb") as file:
            file.setparams((2, 2, 8000, 0, "NONE", ""))
            values = 20_000 * np.sin(np.arange(16_000) * (number + 1) / 9)
            file.writeframes(values.astype("<i2").tobytes())
    (mine / "notes.txt").write_text("no sound")
    result = bgpt("data", "audio", "--data", mine, "--out", tmp_path / "set")
    assert result.stderr.startswith(f"left out: {mine / 'notes.txt'}: cannot be read as sound")
    assert "left out: 1 unusable" in result.stdout


def test_a_set_within_the_folder_that_it_is_made_of_is_the_same_twice(tmp_path: Path) -> None:
    mine, out = letters(tmp_path / "mine"), tmp_path / "mine" / "set"
    words = ["data", "text", "--data", mine, "--out", out]
    bgpt(*words)
    before = (out / "SHA256SUMS").read_text()
    assert len(before.splitlines()) == len(LETTERS)
    assert "left out" not in bgpt(*words, "--force").stderr
    assert (out / "SHA256SUMS").read_text() == before


def test_linked_folders_are_part_of_a_users_files(tmp_path: Path) -> None:
    (mine := tmp_path / "mine").mkdir()
    (mine / "far").symlink_to(letters(tmp_path / "far"))
    bgpt("data", "text", "--data", mine, "--out", tmp_path / "set")
    assert len((tmp_path / "set" / "SHA256SUMS").read_text().splitlines()) == len(LETTERS)


# train media --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "image", "audio", "music", "terminfo"])
def test_a_name_is_all_that_training_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = bgpt("train", "media", "--modality", name, *QUICK, "--max-patches", 24)
    modality = registry.load(name)
    first, second, *_ = result.stderr.splitlines()
    assert first.endswith("so the small sample that ships with this program is used")
    assert second.startswith(f"{name}: {modality.sample_source} ({modality.sample_licence}); ")
    assert "bits per byte" in result.stdout
    assert result.stdout.endswith(f"--model runs/{name} --modality {name} -n 8 -o samples\n")
    config = read_config(Path("runs") / name)
    assert config["data"]["kind"] == "media"
    assert config["data"]["modality"] == name
    counts = prepared.read(Path(config["data"]["folder"])).manifest["split"]
    assert config["data"]["training"] == counts["train"]["files"]
    assert config["data"]["held_out"] == counts["validation"]["files"]


@needs_tic
def test_an_exact_conversion_is_learned_from_made_pairs_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--modality", "terminfo", "--convert", "tisrc&tibin", *QUICK, "--max-patches", 100]
    bgpt("train", "media", *words)
    data = read_config(Path("runs/terminfo"))["data"]
    assert data["convert"] == "tisrc&tibin"
    assert data["made"]["share"] == 0.75
    entry = min(registry.load("terminfo").sample.glob("*.tisrc"), key=lambda p: p.stat().st_size)
    bgpt(
        *("convert", "--model", "runs/terminfo", entry, "--to", "tibin", "-o", "made"),
        *("--max-patches", 2),
        code=1,
    )
    assert [path.name for path in Path("made").iterdir()] == [f"{entry.stem}.tibin"]


@needs_tic
def test_files_are_learned_beside_made_ones_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "media", "--modality", "terminfo", *QUICK]
    bgpt(*words, "--max-patches", 200, "--made", 0.25, "--out", tmp_path / "mixed")
    assert read_config(tmp_path / "mixed")["data"]["made"]["share"] == 0.25
    bgpt(*words, "--max-patches", 200, "--out", tmp_path / "real")
    assert "made" not in read_config(tmp_path / "real")["data"]
    asked = ["--max-patches", 5, "--made", 0.5, "--out", tmp_path / "asked"]
    assert "hardly anything made fits into 5" in bgpt(*words, *asked, code=2).stderr
    image = ["train", "media", "--modality", "image", "--made", 0.5, *QUICK]
    assert "there is no program that makes files" in bgpt(*image, code=2).stderr

    def missing(name: str) -> Path:
        raise Missing(f"{name} is missing")

    monkeypatch.setattr("media.abcmidi.program", missing)
    words[3] = "music"
    words += ["--max-patches", 200, "--made", 0.5, "--out", tmp_path / "music"]
    assert "abc2midi is missing" in bgpt(*words, code=2).stderr


def test_all_modalities_are_trained_in_the_same_way(tmp_path: Path) -> None:
    found = []
    for name in ("image", "music"):
        out = tmp_path / name
        options = [*QUICK, "--max-patches", 24, "--out", out]
        bgpt("train", "media", "--modality", name, *options)
        config = read_config(out)
        training = {k: v for k, v in config["training"].items() if k != "evaluate_every"}
        found.append((config["model"], training, config["task"]))
    assert found[0] == found[1]


def test_a_run_on_users_files_goes_on_without_naming_them_again(tmp_path: Path) -> None:
    mine, out = letters(tmp_path / "mine"), tmp_path / "run"
    options = [*QUICK, "--max-patches", 24, "--out", out]
    bgpt("train", "media", "--modality", "text", "--data", mine, *options)
    assert read_config(out)["data"]["data"] == str(mine)
    result = bgpt("train", "media", "--resume", "--out", out)
    assert "resumed from" in result.stderr
    assert f"text: the files in {mine}" in result.stderr
    assert "is no run of bgpt train media" in refused_run(tmp_path, mine)


def test_a_run_among_the_files_that_it_learns_goes_on_whatever_comes_to_them(
    tmp_path: Path,
) -> None:
    mine = letters(tmp_path / "mine")
    out = mine / "run"
    options = [*QUICK, "--max-patches", 24, "--out", out]
    bgpt("train", "media", "--modality", "text", "--data", mine, *options)
    before = read_config(out)["data"]
    assert before["training"] + before["held_out"] <= len(LETTERS)
    (mine / "later.txt").write_text("one more letter\n")
    assert "resumed from" in bgpt("train", "media", "--resume", "--out", out).stderr
    assert read_config(out)["data"] == before


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_where_no_run_can_be_is_said_before_anything_is_fetched(
    resume: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "default_set", pytest.fail)
    (place := tmp_path / "file").write_text("mine")
    words = ["train", "media", "--modality", "audio", *QUICK, "--out"]
    told = "is a file and no run; name the folder of one" if resume else "is a file where a folder"
    assert refused(*words, place, *resume).startswith(f"{place}: {told}")
    if not resume:
        assert refused(*words, place / "run").startswith(f"{place}: {told}")
    assert place.read_text() == "mine"
    if not resume:
        assert "already exists; use --resume" in refused(*words, tmp_path)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--convert", "abc"], "'abc' names no conversion"),
        (["--convert", ""], "'' names no conversion"),
        (
            ["--convert", "abc->wav"],
            "modality music: has files .abc and .mid only, so --convert abc->wav leaves nothing to"
            " train on; name two of its kinds, or leave out --convert",
        ),
        (["--made", 0.5, "--convert", "abc->txt"], "leaves nothing to train on"),
    ],
)
def test_what_cannot_be_converted_is_said_before_anything_is_fetched(
    asked: list[object], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "default_set", pytest.fail)
    words = ["train", "media", "--modality", "music", *QUICK, "--out", tmp_path / "run"]
    assert sentence in refused(*words, *asked)


def test_what_nothing_makes_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "default_set", pytest.fail)
    words = ["train", "media", "--modality", "image", *QUICK, "--out", tmp_path / "run"]
    assert "there is no program that makes files; leave out --made" in refused(
        *words, "--made", 0.5
    )


def test_a_run_is_not_gone_on_with_under_the_name_of_another_modality(tmp_path: Path) -> None:
    mine, out = letters(tmp_path / "mine"), tmp_path / "run"
    options = [*QUICK, "--max-patches", 24, "--out", out]
    bgpt("train", "media", "--modality", "text", "--data", mine, *options)
    before = (out / "config.json").read_bytes()
    words = ["train", "media", "--resume", "--out", out]
    assert refused(*words, "--modality", "audio") == (
        f"{out}: is a run on text, not on audio; leave out --modality, or name another run with"
        " --out"
    )
    assert (out / "config.json").read_bytes() == before
    assert "resumed from" in bgpt(*words, "--modality", "text").stderr


def refused_run(tmp_path: Path, mine: Path) -> str:
    other = tmp_path / "other"
    bgpt("train", "files", "--data", mine, *QUICK, "--max-patches", 24, "--out", other)
    return bgpt("train", "media", "--resume", "--out", other, code=2).stderr


def test_what_to_learn_must_be_said(tmp_path: Path) -> None:
    for words in ([], ["--resume"], ["--out", tmp_path / "run"], ["--modality", ""]):
        assert "say what to learn: --modality NAME" in bgpt("train", "media", *words, code=2).stderr
    sentence = bgpt("train", "media", "--modality", "sound", *QUICK, code=2).stderr
    assert "there is no modality 'sound'" in sentence


# generate -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    checkpoint.save(path, random_model(patch_size=16, max_patches=600), info={})
    return path


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A valid file of each kind."""
    picture, sound = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32), "green").save(picture, "BMP")
    with wave.open(sound, "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    midi = next(registry.load("music").sample.glob("*.mid")).read_bytes()
    found = {"bmp": picture.getvalue(), "wav": sound.getvalue(), "mid": midi, "txt": b"Hello.\n"}
    return {**found, "tibin": next(registry.load("terminfo").sample.glob("*.tibin")).read_bytes()}


def test_a_random_model_writes_files_that_are_judged(model: Path, tmp_path: Path) -> None:
    options = ["-n", 3, "--max-patches", 2, "-o", tmp_path / "out"]
    lines = bgpt("generate", "--model", model, "--modality", "audio", *options).stdout.splitlines()
    assert len(lines) == 4
    assert all("; not valid: no WAV that opens" in line for line in lines[:3])
    assert lines[3] == "0 of 3 valid audio files"
    assert len(list((tmp_path / "out").glob("*.wav"))) == 3


@pytest.mark.parametrize(
    ("name", "extension", "also"),
    [
        *(("image", "bmp", ".png"), ("audio", "wav", "")),
        *(("music", "mid", ".abc"), ("text", "txt", "")),
        pytest.param("terminfo", "tibin", ".tisrc", marks=needs_tic),
    ],
)
def test_valid_files_are_written_in_forms_that_people_open(
    name: str,
    extension: str,
    also: str,
    files: dict[str, bytes],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bytemodel.generate import Generated

    def wrote(*_: object, **__: object) -> Iterator[Generated]:
        return iter([Generated(files[extension], True), Generated(b"\xff", False)])

    monkeypatch.setattr("bytemodel.generate.generate", wrote)
    monkeypatch.setattr("media.abcmidi.to_abc", lambda _: b"X:1\nK:C\n")
    words = ["generate", "--model", model, "--modality", name, "--ext", extension]
    lines = bgpt(*words, "-n", 2, "-o", tmp_path).stdout.splitlines()
    shown = f", also {also}" if also else ""
    assert lines[0].endswith(f"the model ended it; valid{shown}")
    assert "; not valid: " in lines[1]
    assert lines[2] == f"1 of 2 valid {name} files"
    assert (tmp_path / f"generated-001.{extension}").read_bytes() == files[extension]
    if also:
        assert (tmp_path / f"generated-001{also}").stat().st_size
        (tmp_path / f"generated-001.{extension}").unlink()
        (tmp_path / f"generated-002.{extension}").unlink()
        again = refused(*words, "-n", 2, "-o", tmp_path)
        assert (
            again
            == f"{tmp_path / f'generated-001{also}'}: already exists; use --force to replace it"
        )
        files[extension], kept = b"\xff", files[extension]
        mine = [tmp_path / f"generated-001.{end}" for end in ("my.notes", "notes", "jpg")]
        for path in mine:
            path.write_text("mine")
        bgpt(*words, "-n", 2, "-o", tmp_path, "--force")
        files[extension] = kept
        for path in mine:
            assert path.read_text() == "mine"
            path.unlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            f"generated-00{number}.{extension}" for number in (1, 2)
        ]


def test_a_file_that_is_wrong_in_a_count_alone_is_mended_beside_it(
    files: dict[str, bytes], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bytemodel.generate import Generated

    right = files["mid"]
    wrong = right[:18] + bytes(4) + right[22:]
    monkeypatch.setattr(
        "bytemodel.generate.generate", lambda *_, **__: iter([Generated(wrong, True)])
    )
    monkeypatch.setattr("media.abcmidi.to_abc", lambda _: b"X:1\nK:C\n")
    words = ["generate", "--model", model, "--modality", "music", "--ext", "mid", "-o", tmp_path]
    lines = bgpt(*words).stdout.splitlines()
    assert lines[0].endswith("not as long as its tracks say, also .mended.mid, also .abc")
    assert lines[1] == "0 of 1 valid music files, and 1 once mended"
    assert (tmp_path / "generated-001.mid").read_bytes() == wrong
    assert (tmp_path / "generated-001.mended.mid").read_bytes() == right
    (tmp_path / "generated-001.mid").unlink()
    assert "generated-001.abc: already exists" in refused(*words)


def test_a_file_in_the_place_of_the_folder_to_write_to_is_named(tmp_path: Path) -> None:
    (place := tmp_path / "samples").write_text("mine")
    told = refused("generate", "--modality", "audio", "-o", place)
    assert told == f"{place}: is a file where a folder is to be made; name another"


def test_what_cannot_be_judged_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> Path:
        raise Missing("abc2midi is missing; install it")

    monkeypatch.setattr("media.abcmidi.program", missing)
    monkeypatch.setattr(
        "bytemodel.generate.generate", lambda *_, **__: iter([written(b"X:1\nK:C\nCDE|\n")])
    )
    words = ["generate", "--model", model, "--modality", "music", "-o", tmp_path]
    assert bgpt(*words).stdout.splitlines()[-1] == (
        "whether they are valid cannot be told: abc2midi is missing; install it"
    )


def written(data: bytes) -> object:
    from bytemodel.generate import Generated

    return Generated(data, True)


def test_an_extension_of_another_modality_is_refused(model: Path) -> None:
    words = ["generate", "--model", model, "--modality", "music", "--ext", "wav"]
    assert refused(*words) == "music has files abc and mid, none called .wav; name one of them"
    assert "say what to write" in bgpt("generate", "--model", model, code=2).stderr


def test_only_files_of_the_prefix_itself_stand_in_the_way(model: Path, tmp_path: Path) -> None:
    prefix, out = tmp_path / "a[12].txt", tmp_path / "out"
    prefix.write_text("It")
    out.mkdir()
    (out / "a1-001.txt").write_text("mine")
    words = ["generate", "--model", model, "--modality", "text", "--prefix", prefix, "-o", out]
    bgpt(*words, "--max-patches", 2)
    assert (out / "a1-001.txt").read_text() == "mine"
    assert (out / "a[12]-001.txt").read_bytes().startswith(b"It")
    assert "a[12]-001.txt: already exists" in refused(*words, "--max-patches", 2)
