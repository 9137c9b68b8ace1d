"""`bgpt classify`, as its users meet it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from bytemodel import checkpoint
from bytemodel.labelled import find_labelled
from bytemodel.metrics import read_metrics
from bytemodel.train import read_config
from cli.training import percent
from tests.bytemodel.models import random_model
from tests.bytemodel.test_classify import random_classifier, write_files
from tests.cli.calls import bgpt, command, refused

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("labelled") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte model to begin with."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    checkpoint.save(path, random_model(), info={})
    return path


def quick(folder: Path, model: Path, out: Path, *more: object) -> list[object]:
    options = ["--model", model, "--out", out, "--no-compile", "--dtype", "float32"]
    return ["classify", "train", folder, *options, *more]


@pytest.fixture(scope="module")
def run(folder: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    bgpt(*quick(folder, model, out, "--steps", 12))
    return out


def test_training_reports_on_the_files_held_out(folder: Path, run: Path) -> None:
    result = bgpt("classify", "train", folder, "--out", run, "--resume")  # it is finished
    held_out = [file for file in find_labelled(folder) if file.held_out]
    lines = result.stdout.splitlines()
    assert lines[0] == f"{len(held_out)} files that were held out"
    assert lines[2].startswith("accuracy ")
    assert "macro-F1 " in lines[2]
    assert lines[-1] == f"next: bgpt classify predict --model {run} FILE"
    assert max(map(len, lines[:-4])) <= 80
    report = (run / "report.txt").read_text()
    assert result.stdout.startswith(report)
    for name in ("confusion.png", "training.png"):
        with Image.open(run / name) as picture:
            assert picture.format == "PNG"
    heading, titles, *_ = bgpt_stderr = result.stderr.splitlines()[1:]
    assert "2 labels, " in heading, bgpt_stderr
    assert titles.split() == ["step", "loss", "right", "files/s", "left"]


def test_what_to_do_next_can_be_pasted_whatever_the_run_is_called(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(run, tmp_path / "my run")
    lines = bgpt("classify", "train", folder, "--out", out, "--resume").stdout.splitlines()
    assert lines[-1] == f"next: bgpt classify predict --model '{out}' FILE"


def test_a_set_that_bgpt_data_made_is_learned_validated_and_tested_as_it_says(
    tmp_path: Path,
) -> None:
    made, out = tmp_path / "set", tmp_path / "run"
    bgpt("data", "image", "--sample", "--out", made)
    words = [
        "--preset",
        "tiny",
        "--steps",
        2,
        "--patience",
        3,
        "--no-compile",
        "--dtype",
        "float32",
    ]
    result = bgpt("classify", "train", made, "--out", out, *words)
    config = read_config(out)
    assert (config["training"]["keep"], config["training"]["patience"]) == ("best", 3)
    sizes = {side: len(list((made / side).iterdir())) for side in ("train", "validation", "test")}
    known = {"training": "train", "validation": "validation", "held_out": "test"}
    assert {name: config["data"][name] for name in known} == {
        name: sizes[side] for name, side in known.items()
    }
    assert len(config["data"]["labels"]) == 10
    assert result.stdout.splitlines()[0] == f"{sizes['test']} files that were held out"
    report = json.loads(bgpt("classify", "eval", made, "--model", out, "--json").stdout)
    assert report["files"] == sizes["test"]


def test_of_many_files_the_head_is_learned_unless_it_is_all_that_is(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bytemodel.linear._MOST_FITTED", 5)
    found = []
    for name, more in (("all", ()), ("head", ("--head-only",))):
        out = tmp_path / name
        bgpt(*quick(folder, model, out, "--steps", 1, *more))
        first, *_ = read_metrics(out)
        config = read_config(out)
        assert config["task"]["mixed"] == (name == "all")
        found.append((config["training"]["matrix_lr"], first["loss"]))
    (learned, chance), (fitted, known) = found
    assert chance == pytest.approx(math.log(2))
    assert known < 0.5 * chance
    assert learned > fitted


def test_evaluation_gives_the_figures_of_the_report_as_text_as_json_and_as_a_picture(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "confusion.png"
    words = ["classify", "eval", folder, "--model", run, "--dtype", "float32"]
    text = bgpt(*words, "--plot", out).stdout
    assert text.splitlines()[2:-2] == (run / "report.txt").read_text().splitlines()[2:]
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    assert refused(*words, "--plot", out) == f"{out}: already exists; use --force to replace it"
    report = json.loads(bgpt(*words, "--json", "--plot", out, "--force").stdout)
    files = find_labelled(folder)
    assert report["files"] == report["held_out"] == sum(file.held_out for file in files)
    assert f"accuracy {100 * report['accuracy']:.2f}"[:-1] in text
    assert f"macro-F1 {report['macro_f1']:.4f}" in text
    assert [row["label"] for row in report["labels"]] == ["digits", "dna"]
    assert sum(map(sum, report["confusion"])) == report["files"]
    whole = json.loads(bgpt(*words, "--json", "--all").stdout)
    assert (whole["files"], whole["held_out"]) == (len(files), report["held_out"])
    first = bgpt(*words, "--all").stdout.splitlines()[0]
    seen = len(files) - report["held_out"]
    assert first == f"{len(files)} files, {seen} of them of the share that training learns from"


def test_a_pipe_is_classified_as_the_file_is(folder: Path, run: Path, tmp_path: Path) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(next((folder / "dna").iterdir()).read_bytes())
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()))
    writer.start()
    (tmp_path / "empty").touch()
    words = ["classify", "predict", pipe, file, tmp_path / "empty", "--model", run, "--json"]
    found = json.loads(bgpt(*words).stdout)["files"]
    writer.join()
    assert found[0]["labels"] == pytest.approx(found[1]["labels"], abs=1e-5)
    assert found[0]["labels"] != pytest.approx(found[2]["labels"], abs=1e-5)


def test_prediction_names_the_most_probable_label_of_each_file(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    files = [*sorted((folder / "dna").iterdir())[:3], tmp_path / "empty"]
    words = ["classify", "predict", *files, "--model", run, "--dtype", "float32"]
    rows = json.loads(bgpt(*words, "--json").stdout)["files"]
    lines = bgpt(*words).stdout.splitlines()
    assert lines[0].split() == ["label", "probable", "file"]
    for row, line, path in zip(rows, lines[1:], files, strict=True):
        assert row["file"] == str(path)
        assert row["label"] == max(row["labels"], key=row["labels"].get)
        assert sum(row["labels"].values()) == pytest.approx(1, abs=1e-5)
        label, probability, name = line.split()
        assert (label, name) == (row["label"], str(path))
        assert float(probability.rstrip("%")) / 100 == pytest.approx(row["labels"][label], abs=1e-4)


def test_many_labels_are_reported_by_their_confusions(tmp_path: Path) -> None:
    labels = tuple(f"label{number:02}" for number in range(40))
    checkpoint.save(tmp_path / "c.pt", random_classifier(labels), info={})
    for label in labels:
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "a.bin").write_text(label)
    words = ["classify", "eval", tmp_path / "data", "--all", "--model", tmp_path / "c.pt"]
    result = bgpt(*words, "--plot", tmp_path / "c.png")
    assert "the most frequent confusions" in result.stdout
    assert " taken for label" in result.stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 80


def test_ctrl_c_saves_and_says_how_to_go_on(folder: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        command(*quick(folder, model, out, "--steps", 100_000)),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert any("train" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1].endswith(
        f"; go on with: bgpt classify train {folder} --out {out} --resume"
    )
    assert checkpoint.find_resumable(out)[0] is not None


def test_a_share_is_rounded_down_and_no_further() -> None:
    for total in range(1, 300):
        for right in range(total + 1):
            hundredths = 10_000 * right // total
            assert percent(right / total) == f"{hundredths // 100}.{hundredths % 100:02}%"
    assert percent(1 - 1e-8) == "99.99%"


def test_random_weights_of_a_preset_can_be_the_beginning(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--preset", "tiny", "--steps", 1, "--no-compile", "--dtype", "float32"]
    bgpt("classify", "train", folder, "--out", out, *words)
    assert read_config(out)["task"]["start"] is None
    assert checkpoint.load_classifier(out).info["evaluation"]["accuracy"] == 1
    bgpt("classify", "train", folder, "--out", out, "--resume")


def test_resume_needs_the_same_beginning(
    folder: Path, model: Path, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    checkpoint.save(other, random_model(seed=5), info={})
    sentence = refused("classify", "train", folder, "--out", run, "--resume", "--model", other)
    assert sentence.startswith(f"{run}: was started with task.start = ")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    sentence = refused("classify", "train", copy, "--out", run, "--resume")
    assert sentence.startswith(f"{run}: was started with data.folder = {folder}, not {copy}")
    assert "is no run of bgpt classify train" in refused(
        "classify", "train", folder, "--resume", "--out", byte_run(tmp_path)
    )
    assert "already exists" in refused(*quick(folder, model, run, "--steps", 12))


@pytest.mark.parametrize("head_only", [False, True])
def test_a_run_goes_on_when_what_it_began_with_has_gone(
    head_only: bool, folder: Path, model: Path, tmp_path: Path
) -> None:
    start, out = tmp_path / "start.pt", tmp_path / "run"
    shutil.copy(model, start)
    options = ["--steps", 3, *(["--head-only"] if head_only else [])]
    bgpt(*quick(folder, start, out, *options))
    before = read_config(out)
    start.unlink()
    # As if it had been stopped before its end.
    (out / "model.pt").unlink()
    bgpt("classify", "train", folder, "--out", out, "--resume")
    assert read_config(out)["task"] == before["task"]
    weights = checkpoint.load_classifier(out).model.state_dict()
    began = checkpoint.load(model).model.state_dict()
    same = all(torch.equal(weights[f"model.{name}"], tensor) for name, tensor in began.items())
    assert same == head_only


def byte_run(folder: Path) -> Path:
    out = folder / "bytes"
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"model": {}, "training": {}, "data": {}}))
    return out


def test_what_cannot_be_is_refused(folder: Path, model: Path, run: Path, tmp_path: Path) -> None:
    train = ["classify", "train", folder, "--out", tmp_path / "run"]
    assert "say what to begin with" in refused(*train)
    assert "--model and --preset exclude" in refused(*train, "--model", model, "--preset", "tiny")
    assert "--minutes and --steps exclude" in refused(*train, "--minutes", 1, "--steps", 1)
    assert "is no time to train" in refused(*train, "--preset", "tiny", "--minutes", "nan")
    assert "needs a model that has learned" in refused(*train, "--preset", "tiny", "--head-only")
    assert "is a classifier, which only tells labels" in refused(*train, "--model", run)
    assert "did you mean 'tiny'" in refused(*train, "--preset", "tin")
    patient = refused(*train, "--preset", "tiny", "--patience", 2)
    assert "has too few files to validate on some" in patient
    assert not (tmp_path / "run").exists()
    none = tmp_path / "none"
    assert "is no folder of labelled files" in refused("classify", "eval", none, "--model", run)
    assert "no such file" in refused("classify", "predict", none, "--model", run)
    trace = ROOT / "README.md"
    assert "is a byte model and no" in refused("classify", "predict", trace, "--model", model)
    assert "Missing option '--model'" in refused("classify", "predict", trace)
    one = tmp_path / "few" / "digits"
    one.mkdir(parents=True)
    shutil.copy(next(f.path for f in find_labelled(folder) if not f.held_out), one)
    sentence = refused("classify", "eval", one.parent, "--model", run)
    assert sentence == f"{one.parent}: no file is left to evaluate; use --all or add files"


def test_info_shows_a_classifier_with_its_labels(run: Path) -> None:
    report = json.loads(bgpt("info", run, "--json").stdout)
    assert report["labels"] == ["digits", "dna"]
    assert "labels: digits, dna" in bgpt("info", run).stdout
