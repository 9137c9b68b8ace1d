"""`bgpt train files`, as its users meet it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bytemodel import checkpoint
from bytemodel.classifier import Classifier
from bytemodel.metrics import read_metrics
from bytemodel.train import read_config
from tests.bytemodel.models import random_model
from tests.cli.calls import bgpt, command, refused

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of files, the one the other in upper case, and some without a partner."""
    folder, rng = tmp_path_factory.mktemp("files"), random.Random(0)
    for number in range(40):
        text = bytes(rng.choices(b"abc", k=rng.randrange(1, 60)))
        (folder / f"{number}.low").write_bytes(text)
        if number % 10:
            (folder / f"{number}.cap").write_bytes(text.upper())
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model to go on from, so that training takes no time."""
    path = tmp_path_factory.mktemp("model") / "start.pt"
    checkpoint.save(path, random_model(max_patches=64), info={})
    return path


def quick(folder: Path, start: Path, out: Path, *more: object) -> list[object]:
    options = ["--init", start, "--out", out, "--no-compile", "--dtype", "float32"]
    return ["train", "files", "--data", folder, *options, *more]


@pytest.fixture(scope="module")
def run(folder: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    bgpt(*quick(folder, start, out, "--epochs", 2))
    return out


def test_a_run_without_a_conversion_ends_with_how_to_score(
    folder: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = bgpt(*quick(folder, start, out, "--steps", 1))
    assert result.stdout.splitlines()[-1] == f"next: bgpt score --model {out} FILE"


def test_a_run_says_what_it_learned_from_and_which_model_is_kept(
    folder: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = bgpt(*quick(folder, start, out, "--convert", "low->cap", "--steps", 10))
    note, heading, titles, *lines = result.stderr.splitlines()
    assert note == f"left out, without a partner: {folder}/0.low and 3 more"
    assert heading.startswith(f"{out}: 0.1 M parameters, cpu, float32; ")
    assert heading.endswith(" held out")
    assert titles.split() == ["step", "loss", "bits/byte", "bytes", "epoch", "bytes/s", "left"]
    kinds = [line.split()[:2] for line in lines]
    assert kinds == [["0", "evaluation"], ["10", "train"], ["10", "evaluation"]]
    assert max(map(len, [titles, *lines])) <= 80
    trained, found, model, *_, following = result.stdout.splitlines()
    assert trained.startswith("trained 10 steps, ")
    assert "bits per byte" in found
    assert f"{out / 'model.pt'}: the best model, that of step " in model
    assert following == f"next: bgpt convert --model {out} FILE.low --to cap"
    for name in ("model.pt", "metrics.jsonl", "training.png", "checkpoints/best.pt"):
        assert (out / name).stat().st_size > 0
    described = read_config(out)["data"]
    assert described["convert"] == "low->cap"
    assert described["training"] + described["held_out"] == 36
    # The checkpoint says which conversion it learned.
    assert checkpoint.load(out).info["data"]["convert"] == "low->cap"


def test_epochs_are_steps_and_resume_takes_the_options_of_the_run(run: Path, folder: Path) -> None:
    config = read_config(run)
    assert config["training"]["steps"] % 2 == 0
    assert config["training"]["schedule"] == "cosine"
    before = read_metrics(run)
    result = bgpt("train", "files", "--out", run, "--resume")
    assert f"at step {config['training']['steps']}" in result.stderr
    assert len(read_metrics(run)) == len(before)
    bgpt("train", "files", "--out", run, "--resume", "--epochs", 2, "--data", folder)
    sentence = refused("train", "files", "--out", run, "--resume", "--epochs", 3)
    assert sentence.startswith(f"{run}: was started with training.")
    sentence = refused("train", "files", "--out", run, "--resume", "--ext", "low")
    assert sentence.startswith(f"{run}: was started with data.extensions = [], not ['low']")


def test_a_run_goes_on_with_as_many_patches_as_it_began(
    folder: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    bgpt(*quick(folder, start, out, "--steps", 2, "--batch", 40))
    assert read_config(out)["data"]["targets"] == 40
    bgpt("train", "files", "--out", out, "--resume")
    sentence = refused("train", "files", "--out", out, "--resume", "--batch", 50)
    assert sentence.startswith(f"{out}: was started with data.targets = 40, not 50")


def test_a_run_from_before_there_was_a_choice_goes_on_with_the_usual_patches(
    folder: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    bgpt(*quick(folder, start, out, "--steps", 2))
    config = json.loads((out / "config.json").read_text())
    assert config["data"].pop("targets") == 512
    (out / "config.json").write_text(json.dumps(config))
    sentence = refused("train", "files", "--out", out, "--resume", "--batch", 50)
    assert sentence.startswith(f"{out}: was started with data.targets = 512, not 50")
    bgpt("train", "files", "--out", out, "--resume")
    for wrong in ("x", True, 0, 1 << 40):
        config["data"]["targets"] = wrong
        (out / "config.json").write_text(json.dumps(config))
        sentence = refused("train", "files", "--out", out, "--resume")
        assert sentence.startswith(f"{out / 'config.json'}: is damaged")


def test_a_run_goes_on_without_the_checkpoint_that_it_started_from(
    folder: Path, start: Path, tmp_path: Path
) -> None:
    gone, out = tmp_path / "gone.pt", tmp_path / "run"
    shutil.copy(start, gone)
    bgpt(*quick(folder, gone, out, "--steps", 2))
    gone.unlink()
    bgpt("train", "files", "--out", out, "--resume")
    shutil.rmtree(out / "checkpoints")
    assert "gone.pt: no such checkpoint" in refused("train", "files", "--out", out, "--resume")


def test_weights_of_every_kind_can_be_gone_on_from(
    folder: Path, start: Path, run: Path, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "c.pt", Classifier.of(random_model(), ["a"]), info={})
    checkpoint.save(tmp_path / "p.pt", random_model("published"), info={})
    for number, begin in enumerate((run, tmp_path / "c.pt", tmp_path / "p.pt")):
        out = tmp_path / f"run{number}"
        bgpt(*quick(folder, begin, out, "--steps", 1, "--max-patches", 40))
        assert read_config(out)["model"]["max_patches"] == 40
    sentence = refused(*quick(folder, start, tmp_path / "no", "--preset", "tiny"))
    assert sentence.startswith(f"{start}: its patch_size is 4, that of the model to train 16")


def test_a_preset_starts_from_random_weights(folder: Path, tmp_path: Path) -> None:
    words = ["--preset", "tiny", "--max-patches", 16, "--steps", 1, "--no-compile"]
    bgpt("train", "files", "--data", folder, "--out", tmp_path / "run", *words)
    config = read_config(tmp_path / "run")
    assert config["task"]["start"] is None
    assert config["model"]["patch_width"] == 64


def test_ctrl_c_saves_and_says_how_to_go_on(folder: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        command(*quick(folder, start, out, "--steps", 100_000)),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert any(" train " in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1].endswith(f"; go on with: bgpt train files --out {out} --resume")
    assert checkpoint.find_resumable(out)[0] is not None


def test_a_hostile_folder_is_learned_from_as_far_as_it_goes(start: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    for number in range(8):
        (data / "deep" / f"{number}").write_bytes(bytes([number]) * 20)
    (data / "empty").touch()
    (data / "deep" / "loop").symlink_to(data)
    (data / "nowhere").symlink_to(data / "none")
    os.mkfifo(data / "pipe")
    Path(os.fsdecode(os.fsencode(data) + b"/\xff\xfe.\xff")).write_bytes(b"\xff" * 30)
    result = bgpt(*quick(data, start, tmp_path / "run", "--steps", 1))
    assert result.stderr.splitlines()[0] == f"left out, empty: {data}/empty"
    described = read_config(tmp_path / "run")["data"]
    assert described["training"] + described["held_out"] == 9
    json.loads((tmp_path / "run" / "config.json").read_text())


def test_what_cannot_be_is_refused(folder: Path, start: Path, run: Path, tmp_path: Path) -> None:
    train = ["train", "files", "--out", tmp_path / "run"]
    here = [*train, "--data", folder, "--init", start]
    assert "say what to learn: --data DIR" in refused(*train)
    assert "--steps and --epochs exclude" in refused(*here, "--steps", 1, "--epochs", 1)
    assert "is no time to train" in refused(*here, "--minutes", "nan")
    assert "leave out --ext" in refused(*here, "--ext", "low", "--convert", "low->cap")
    assert "names no conversion" in refused(*here, "--convert", "low")
    assert "did you mean 'tiny'" in refused(*train, "--data", folder, "--preset", "tin")
    assert "none: no such file or folder" in refused(
        *train, "--init", start, "--data", tmp_path / "none"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: leaves nothing to train on" in refused(
        *train, "--init", start, "--data", empty
    )
    assert f"{folder}: leaves nothing to train on" in refused(*here, "--ext", "txt")
    assert "leaves nothing to train on (left out, without a partner" in refused(
        *here, "--convert", "low->txt"
    )
    assert "no such checkpoint" in refused(*train, "--data", folder, "--init", tmp_path / "no.pt")
    assert "holds no run to resume" in refused(*train, "--resume")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model": {}, "training": {}, "data": {}}')
    assert refused("train", "files", "--out", other, "--resume") == (
        f"{other}: is no run on files; name one with --out"
    )
    assert "already exists" in refused(*quick(folder, start, run, "--steps", 1))
    assert not (tmp_path / "run").exists()


def test_a_damaged_record_of_a_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    whole = json.loads((run / "config.json").read_text())
    for section, value in (
        *(("task", []), ("dtype", 3), ("dtype", None), ("model", [])),
        *(("data", {**whole["data"], "folder": wrong}) for wrong in (None, [], 3)),
        *(("data", {**whole["data"], "extensions": wrong}) for wrong in (None, 3)),
        ("data", {name: said for name, said in whole["data"].items() if name != "folder"}),
    ):
        (other / "config.json").write_text(json.dumps({**whole, section: value}))
        assert refused("train", "files", "--out", other, "--resume") == (
            f"{other / 'config.json'}: is damaged; restore it or start a new run"
        )
    (other / "config.json").write_text(json.dumps(whole))
    with (other / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b'5\n{"step": "a"}\n\xff\xfe\n[]\n')
    assert "bits per byte" in bgpt("train", "files", "--out", other, "--resume").stdout


def test_kinds_of_any_name_can_be_drawn(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for number in range(8):
        for extension in (b"$^$", b"caf\xe9", b"txt"):
            name = os.fsencode(data) + b"/f%d." % number + extension
            Path(os.fsdecode(name)).write_bytes(b"%d some text" % number)
    words = ["--preset", "tiny", "--steps", 1, "--no-compile", "--max-patches", 8]
    bgpt("train", "files", "--data", data, "--out", out, *words)
    assert (out / "training.png").stat().st_size > 1000


def test_a_missing_package_is_said_before_there_is_a_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = tmp_path / "run"
    words = ["--data", folder, "--preset", "tiny", "--steps", 1, "--out", out, "--tensorboard"]
    assert "--tensorboard: the tensorboard package is missing" in refused("train", "files", *words)
    assert not out.exists()


def test_of_several_processes_only_the_first_speaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["train", "files", "--data", tmp_path / "none", "--steps", 1]
    assert "no such file or folder" in bgpt(*words, code=2).stderr
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert bgpt(*words, code=2).output == ""
