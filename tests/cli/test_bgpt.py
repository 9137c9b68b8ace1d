"""The `bgpt` program, as its users meet it: output, exit codes, refusals."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bytemodel import checkpoint, cpu, cpu_data
from bytemodel.config import preset
from bytemodel.cpu_data import evaluation_batches
from bytemodel.metrics import read_metrics
from bytemodel.model import ByteModel
from bytemodel.train import FINE_TUNING, read_config
from cpusim.dataset import generate_set
from tests.bytemodel.models import random_model
from tests.bytemodel.test_checkpoint import Payload
from tests.cli.calls import bgpt, command, on_a_terminal, refused

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
TRACES = sorted((GOLDEN / "cpu_traces").glob("*.bin"))[:6]
RELEASED = GOLDEN / "bgpt_checkpoint" / "weights-tiny.pth"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small random model."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    random = random_model(patch_size=16, max_patches=100)
    checkpoint.save(path, random, info={"step": 12, "training": {"steps": 12}, "seconds": 3})
    return path


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of short traces."""
    out = tmp_path_factory.mktemp("traces") / "set"
    generate_set(out, count=12, test_count=3, max_length=4)
    return out


def quick(out: Path, traces: Path, *more: object) -> list[object]:
    """A training command that takes seconds."""
    options = ["--preset", "tiny", "--data", traces, "--no-compile", "--dtype", "float32"]
    return ["train", "cpu", "--out", out, *options, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, traces: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "done"
    bgpt(*quick(out, traces, "--steps", 3))
    return out


# train --------------------------------------------------------------------------------


def test_a_finished_run_says_how_good_it_is_and_where_everything_stands(
    finished: Path, traces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = bgpt(*quick(out, traces, "--steps", 3))
    lines = result.stdout.splitlines()
    assert lines[0].startswith("trained 3 steps in 0:")
    assert "bits per byte" in lines[1]
    for name in ("model.pt", "metrics.jsonl", "training.png"):
        assert str(out / name) in result.stdout
        assert (out / name).stat().st_size > 0
    assert lines[-1] == f"next: cpusim compare --model {out}"
    assert read_metrics(out)[-1]["loss"] == read_metrics(finished)[-1]["loss"]


def test_progress_in_a_pipe_is_a_line_a_record_on_stderr(traces: Path, tmp_path: Path) -> None:
    result = bgpt(*quick(tmp_path / "run", traces, "--steps", 11))
    heading, titles, *lines = result.stderr.splitlines()
    assert heading == f"{tmp_path / 'run'}: 0.5 M parameters, cpu, float32"
    assert titles.split() == ["step", "loss", "bits/byte", "bytes", "states", "states/s", "left"]
    assert [line.split()[:2] for line in lines] == [
        ["0", "evaluation"],
        ["10", "train"],
        ["11", "evaluation"],
    ]
    assert max(map(len, [titles, *lines])) <= 80
    assert "%" in lines[0]
    assert "\x1b" not in result.stderr


def test_programs_are_made_on_the_fly_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All the programs that evaluate take a while.
    monkeypatch.setattr(cpu_data, "evaluation_batches", lambda _: evaluation_batches(2))
    out = tmp_path / "deep" / "run"
    bgpt("train", "cpu", "--out", out, "--preset", "tiny", "--steps", 1, "--no-compile")
    config = read_config(out)
    assert config["data"]["kind"] == "generated CPU traces"
    assert config["data"]["distribution"] == "mixed"


def test_the_defaults_are_an_hour_of_the_small_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def train(*arguments: object, **options: object) -> object:
        seen.extend(arguments[:3])
        seen.append(options["compile_model"])
        raise KeyboardInterrupt

    seen: list[object] = []
    monkeypatch.setattr("bytemodel.train.train", train)
    assert bgpt("train", "cpu", code=130).stderr.strip() == "interrupted"
    run, config, training, compiled = seen
    assert run == Path("runs/cpu")
    assert config.patch_width == 256  # type: ignore[attr-defined]
    assert (training.minutes, training.steps) == (60, 0)  # type: ignore[attr-defined]
    assert compiled is True


def test_training_goes_on_from_the_weights_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    monkeypatch.setattr(cpu_data, "evaluation_batches", lambda _: evaluation_batches(2))
    out = tmp_path / "further"
    # Another precision, and programs of its own: what goes on is a model, not a run.
    bgpt("train", "cpu", "--out", out, "--init", finished, "--steps", 1, "--no-compile")
    before = checkpoint.load(finished / "model.pt").model.state_dict()
    after = checkpoint.load(out / "model.pt").model.state_dict()
    # One warm-up step of a fine-tuning moves no weight far.
    assert all((after[name] - before[name]).abs().max() < 0.02 for name in before)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    config = read_config(out)
    assert config["training"]["matrix_lr"] == FINE_TUNING["matrix_lr"]
    assert [stage["first"] for stage in config["data"]["curriculum"]] == [0, 0, 0]
    assert config["task"]["start"] == checkpoint.fingerprint(
        checkpoint.load(finished / "model.pt").model
    )

    bgpt("train", "cpu", "--out", out, "--resume", "--steps", 1)  # which are taken already
    assert read_config(out) == config


def test_weights_that_never_saw_a_cpu_begin_with_the_whole_curriculum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "text.pt"
    untaught = ByteModel(preset("tiny"))
    checkpoint.save(start, untaught, info={"data": {"kind": "files"}})
    seen: list[object] = []

    def train(*arguments: object, **_: object) -> object:
        seen.append(arguments[3])
        raise KeyboardInterrupt

    monkeypatch.setattr("bytemodel.train.train", train)
    bgpt("train", "cpu", "--out", tmp_path / "run", "--init", start, code=130)
    (source,) = seen
    assert source.curriculum == cpu_data.CURRICULUM  # type: ignore[attr-defined]


def test_weights_of_another_shape_are_no_beginning(finished: Path, tmp_path: Path) -> None:
    words = ["train", "cpu", "--out", tmp_path / "run", "--preset", "small", "--init", finished]
    assert "leave out --preset" in refused(*words)
    assert not (tmp_path / "run").exists()


def test_minutes_end_a_run_by_the_clock(traces: Path, tmp_path: Path) -> None:
    bgpt(*quick(tmp_path / "run", traces, "--minutes", 0.001))
    assert read_metrics(tmp_path / "run")[-1]["kind"] == "evaluation"
    assert (tmp_path / "run" / "model.pt").is_file()


def test_resume_takes_the_options_of_the_run(finished: Path, traces: Path) -> None:
    before = read_metrics(finished)
    result = bgpt("train", "cpu", "--out", finished, "--resume")
    assert f"resumed from {finished}/checkpoints/step-00000003.pt at step 3" in result.stderr
    assert [record["step"] for record in read_metrics(finished)] == [r["step"] for r in before]
    same = ["--seed", 0, "--preset", "tiny", "--steps", 3, "--data", traces, "--no-compile"]
    bgpt("train", "cpu", "--out", finished, "--resume", *same)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--seed", 5], "training.seed = 0, not 5"),
        (["--steps", 4], "training.steps = 3, not 4"),
        (["--minutes", 1], "training.steps = 3, not 0"),
        (["--preset", "small"], "model.patch_layers = 2, not 4"),
        (["--distribution", "uniform"], "data.kind = recorded CPU traces, not generated"),
        (["--dtype", "bfloat16"], "dtype = float32, not bfloat16"),
    ],
)
def test_resume_refuses_options_that_conflict(
    option: list[object], sentence: str, finished: Path
) -> None:
    found = refused("train", "cpu", "--out", finished, "--resume", *option)
    assert found.startswith(f"{finished}: was started with {sentence}")


def test_a_hostile_checkpoint_in_a_run_is_not_resumed_from(finished: Path, tmp_path: Path) -> None:
    run, trap = tmp_path / "run", tmp_path / "trap"
    shutil.copytree(finished, run)
    path = run / "checkpoints" / "step-00000003.pt"
    content = torch.load(path, weights_only=True)
    content["training"]["optimizers"].append(Payload(trap))
    torch.save(content, path)
    record = {"size": path.stat().st_size, "sha256": checkpoint.file_hash(path)}
    path.with_suffix(".json").write_text(json.dumps({"step": 3, **record}))
    for words in (["train", "cpu", "--resume", "--out"], ["export", "-o", tmp_path / "x.pth"]):
        (run / "model.pt").unlink(missing_ok=True)  # what a run's folder means, if it is there
        assert refused(*words, run).startswith(f"{path}: holds objects other than tensors")
    assert not trap.exists()


def wait_for(text: str, process: subprocess.Popen[str]) -> None:
    """Read stderr up to a line with this text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_says_how_to_go_on_and_goes_on(
    number: signal.Signals, traces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        command(*quick(out, traces, "--steps", 100_000)),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        wait_for("train", process)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == ""
    last = stderr.splitlines()[-1]
    assert last.startswith("stopped and saved at step ")
    assert last.endswith(f"; go on with: bgpt train cpu --out {out} --resume")
    step = int(last.split()[5].rstrip(";").replace(",", ""))
    path, passed_over = checkpoint.find_resumable(out)
    assert path == out / "checkpoints" / f"step-{step:08d}.pt"
    assert passed_over == []
    assert (out / "training.png").is_file()


def test_on_a_terminal_progress_is_drawn_in_place(traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, text = on_a_terminal(command(*quick(out, traces, "--steps", 12)))
    assert code == 0
    for word in ("loss", "bits/byte", "states/s", "evaluation", "100%", "step 12", "left"):
        assert word in text
    assert "\x1b[" in text
    assert text.rstrip().endswith(f"next: cpusim compare --model {out}")


def test_training_refuses_what_cannot_be(traces: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "run"]
    train = ["train", "cpu", *out]
    assert "--minutes and --steps exclude each other" in refused(
        *train, "--minutes", 1, "--steps", 2
    )
    for minutes in (0, -1, "nan", "inf"):
        assert "is no time to train" in refused(*train, "--minutes", minutes)
    assert "leave out --distribution" in refused(
        *train, "--data", traces, "--distribution", "uniform"
    )
    assert "unknown preset 'smal'; did you mean 'small'?" in refused(*train, "--preset", "smal")
    assert "none: is no folder of traces" in refused(*train, "--data", tmp_path / "none")
    assert "run: holds no run to resume" in refused(*train, "--resume")
    assert "--seed" in refused(*train, "--seed", 1 << 32)
    assert "--device" in refused(*train, "--device", "tpu")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_never_trained_into(finished: Path, tmp_path: Path) -> None:
    before = sorted(finished.rglob("*"))
    sentence = refused("train", "cpu", "--out", finished, "--steps", 1)
    assert sentence == f"{finished}: already exists; use --resume to go on, or another --out"
    assert sorted(finished.rglob("*")) == before
    (tmp_path / "file").touch()
    sentence = refused("train", "cpu", "--out", tmp_path / "file", "--steps", 1)
    assert sentence.endswith("is a file where a folder is to be made; name another --out")


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sentence = refused("train", "cpu", "--out", tmp_path / "run", "--device", "cuda")
    assert "no usable CUDA device; use --device cpu" in sentence


# info ---------------------------------------------------------------------------------


def test_info_prints_size_configuration_and_history(model: Path) -> None:
    lines = bgpt("info", model).stdout.splitlines()
    parameters = f"{checkpoint.load(model).model.parameter_count:,} parameters"
    assert lines[0].startswith(f"{model}: {parameters}, 0.")
    assert lines[0].endswith(" MB")
    name = checkpoint.fingerprint(checkpoint.load(model).model)[:16]
    assert lines[1] == f"its name in compressed files: {name}"
    words = [line.split() for line in lines]
    assert ["patch_size", "16"] in words
    assert ["step", "12"] in words
    assert ["steps", "12"] in words


def test_info_as_json_holds_the_same(model: Path) -> None:
    report = json.loads(bgpt("info", model, "--json").stdout)
    loaded = checkpoint.load(model)
    assert report == {
        "file": str(model),
        "bytes": model.stat().st_size,
        "parameters": loaded.model.parameter_count,
        "fingerprint": checkpoint.fingerprint(loaded.model),
        "resumable": False,
        "config": loaded.config.to_dict(),
        "info": {"step": 12, "training": {"steps": 12}, "seconds": 3},
    }


def test_info_prints_whatever_a_checkpoint_says(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    info = {"a": [{"x": 1}, 2], "b": {(1, 2): 3}, "step": "many"}
    checkpoint.save(path, random_model(), info=info)
    assert "[{'x': 1}, 2]" in bgpt("info", path).stdout
    assert json.loads(bgpt("info", path, "--json").stdout)["info"]["step"] == "many"


def test_info_takes_a_run_folder_and_its_checkpoints(finished: Path) -> None:
    report = json.loads(bgpt("info", finished, "--json").stdout)
    assert report["file"] == str(finished / "model.pt")
    assert report["info"]["step"] == 3
    result = bgpt("info", finished / "checkpoints" / "step-00000003.pt")
    assert "holds the state that training resumes from" in result.stdout


def test_without_a_name_the_shipped_checkpoint_is_used(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "SHIPPED", model)
    assert json.loads(bgpt("info", "--json").stdout)["file"] == str(model)
    report = json.loads(bgpt("score", TRACES[0], "--json").stdout)
    assert report["model"] == str(model)
    bgpt("generate", "--ext", "bin", "--max-patches", 1, "-o", tmp_path)
    monkeypatch.setattr(cpu, "SHIPPED", tmp_path / "none.pt")
    assert "this installation has no trained weights" in refused("info")


# generate -----------------------------------------------------------------------------


def test_generate_writes_files_and_says_what_became_of_each(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "files"
    words = ["generate", "--model", model, "--ext", ".bin", "-n", 3, "-o", out]
    result = bgpt(*words, "--max-patches", 2)
    names = [f"generated-{i:03d}.bin" for i in (1, 2, 3)]
    assert sorted(path.name for path in out.iterdir()) == names
    for line, name in zip(result.stdout.splitlines(), names, strict=True):
        size = (out / name).stat().st_size
        start = f"{out / name}: {size} bytes, "
        assert line in (f"{start}the model ended it", f"{start}cut off at the limit")
        assert size <= 32


def test_generate_continues_a_prefix_and_is_named_after_it(model: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "start.bin"
    prefix.write_bytes(bytes(range(19)))
    words = ["generate", "--model", model, "--ext", "bin", "--prefix", prefix, "-o", tmp_path]
    bgpt(*words, "--temperature", 0, "--max-patches", 2)
    written = tmp_path / "start-001.bin"
    assert written.read_bytes().startswith(prefix.read_bytes())


def test_generate_is_reproducible_by_seed(model: Path, tmp_path: Path) -> None:
    def write(folder: str, seed: int, *more: object) -> list[bytes]:
        words = ["generate", "--model", model, "--ext", "bin", "-n", 2, "--max-patches", 3]
        words += ["--dtype", "float32"]  # bfloat16 has many equally probable bytes
        bgpt(*words, "-o", tmp_path / folder, "--seed", seed, *more)
        return [path.read_bytes() for path in sorted((tmp_path / folder).iterdir())]

    one = write("a", 1)
    assert one == write("b", 1)
    assert one != write("c", 2)
    assert one[0] != one[1]
    cold = write("d", 1, "--temperature", 0)
    assert cold[0] == cold[1]
    assert cold == write("e", 2, "--top-k", 1) == write("f", 3, "--top-p", 1e-9)


def test_generate_never_replaces_a_file_without_force(model: Path, tmp_path: Path) -> None:
    taken = tmp_path / "generated-002.bin"
    taken.write_bytes(b"mine")
    words = ["generate", "--model", model, "--ext", "bin", "-n", 2, "-o", tmp_path]
    sentence = refused(*words, "--max-patches", 1)
    assert sentence == f"{taken}: already exists; use --force to replace it"
    assert list(tmp_path.iterdir()) == [taken]
    bgpt(*words, "--max-patches", 1, "--force")
    assert taken.read_bytes() != b"mine"


def test_generate_refuses_what_cannot_be(model: Path, tmp_path: Path) -> None:
    generate = ["generate", "--model", model, "-o", tmp_path / "out", "--ext"]
    assert "temperature -1.0" in refused(*generate, "bin", "--temperature", -1)
    assert "temperature nan" in refused(*generate, "bin", "--temperature", "nan")
    assert "top-k" in refused(*generate, "bin", "--top-k", -1)
    assert "top-p" in refused(*generate, "bin", "--top-p", 0)
    for extension in ("", ".", "a/b", "../../x"):
        assert "is no file extension" in refused(*generate, extension)
    assert "a patch holds 16" in refused(*generate, "seventeen-letters")
    prefix = tmp_path / "long.bin"
    assert "no such file" in refused(*generate, "bin", "--prefix", prefix)
    prefix.write_bytes(bytes(16 * 99))
    assert "leaves nothing to generate" in refused(*generate, "bin", "--prefix", prefix)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").touch()
    refused(*generate, "bin", "--max-patches", 1)


# import -------------------------------------------------------------------------------


def test_import_makes_a_checkpoint_of_a_released_one(tmp_path: Path) -> None:
    out = tmp_path / "imported.pt"
    result = bgpt("import", RELEASED, "-o", out)
    assert result.stderr.startswith(f"wrote {out}: ")
    report = json.loads(bgpt("info", out, "--json").stdout)
    assert report["config"]["family"] == "published"
    assert report["info"] == {"imported from": "weights-tiny.pth"}
    assert refused("import", RELEASED, "-o", out).endswith("use --force to replace it")
    bgpt("import", RELEASED, "-o", out, "--force")
    assert "is not one of the released" in refused("import", out, "-o", tmp_path / "again.pt")
    assert "no such checkpoint" in refused("import", tmp_path / "none", "-o", tmp_path / "n.pt")


def test_export_gives_back_what_import_took_over(tmp_path: Path, model: Path) -> None:
    ours, back = tmp_path / "imported.pt", tmp_path / "back.pth"
    bgpt("import", RELEASED, "-o", ours)
    assert bgpt("export", ours, "-o", back).stderr.startswith(f"wrote {back}: ")
    given, written = (torch.load(path, weights_only=True)["model"] for path in (RELEASED, back))
    assert given.keys() == written.keys()
    assert all(torch.equal(given[name], written[name]) for name in given)
    assert refused("export", ours, "-o", back).endswith("use --force to replace it")
    for word in ("import", "export"):
        told = refused(word, ours, "-o", ours, "--force")
        assert told == f"{ours}: is the very file that is read; name another to write to"
    assert "is of the local family" in refused("export", model, "-o", tmp_path / "none.pth")
    assert not (tmp_path / "none.pth").exists()


# The program --------------------------------------------------------------------------


def test_help_is_quick_because_torch_is_not_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cli.bgpt import main\n"
        "for words in ['--help'], ['train', 'cpu', '--help'], ['score', '--help']:\n"
        "    assert CliRunner().invoke(main, words).exit_code == 0\n"
        "print(sorted({'torch', 'numba', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_a_real_process_refuses_with_exit_code_two_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(RELEASED.read_bytes()[:1000])
    result = subprocess.run(
        command("score", "--model", path, TRACES[0]), cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{path}: is not a checkpoint, or was cut short")
    assert len(result.stderr.splitlines()) == 1
