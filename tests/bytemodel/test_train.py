"""Training: resumed runs equal straight ones bit for bit, whatever stopped them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bytemodel import checkpoint, train
from bytemodel.config import ConfigError
from bytemodel.data import Batch
from bytemodel.metrics import read_metrics
from bytemodel.train import TrainConfig, pick_device, pick_dtype, read_config
from cpusim.errors import UserError
from tests.bytemodel import runs
from tests.bytemodel.models import SMALLEST, SMALLEST_PUBLISHED, random_model
from tests.bytemodel.runs import CONFIG, Adapting, Counting, Records, run

ROOT = Path(__file__).parent.parent.parent
MEASURED = ("loss", "bits_per_byte", "byte_accuracy", "exact_patches")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and all of the optimizers' state after the last step of a finished run."""
    loaded = checkpoint.load(folder / "checkpoints" / f"step-{CONFIG.steps:08d}.pt")
    assert loaded.training is not None
    found = dict(loaded.model.state_dict())
    for index, optimizer in enumerate(loaded.training["optimizers"]):
        for key, state in optimizer["state"].items():
            found |= {f"{index} {key} {name}": tensor for name, tensor in state.items()}
    return found


def assert_same_run(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert figures(one) == figures(other)


def figures(folder: Path) -> list[tuple[Any, ...]]:
    """The metrics but for what the clock says."""
    return [
        (record["kind"], record["step"], *(record[name] for name in MEASURED))
        for record in read_metrics(folder)
    ]


def process(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", runs.__name__, str(folder), json.dumps(options)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert run(folder).finished
    return folder


# ---- A run


def test_a_run_learns_and_leaves_what_the_documentation_says(straight: Path) -> None:
    records = read_metrics(straight)
    trained = [record for record in records if record["kind"] == "train"]
    evaluated = [record for record in records if record["kind"] == "evaluation"]
    assert [record["step"] for record in trained] == list(range(2, 31, 2))
    assert [record["step"] for record in evaluated] == [0, 7, 14, 21, 28, 30]
    losses = [record["loss"] for record in evaluated]
    assert losses == sorted(losses, reverse=True)
    for record in records:
        assert record["bits_per_byte"] == pytest.approx(record["loss"] / 0.693147, rel=1e-5)
    assert (straight / "training.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    loaded = checkpoint.load(straight)
    assert loaded.path == straight / "model.pt"
    assert loaded.info["step"] == CONFIG.steps
    assert loaded.info["evaluation"]["loss"] == pytest.approx(evaluated[-1]["loss"], rel=1e-6)
    assert loaded.info["training"] == CONFIG.to_dict()
    config = read_config(straight)
    assert config["model"] == SMALLEST.to_dict()
    assert config["data"] == Counting().describe()


def test_the_model_of_a_run_is_its_last_checkpoint_rounded_to_bfloat16(straight: Path) -> None:
    last = checkpoint.load(straight / "checkpoints" / f"step-{CONFIG.steps:08d}.pt").model
    for name, tensor in checkpoint.load(straight).model.state_dict().items():
        assert torch.equal(tensor, last.state_dict()[name].bfloat16().float())


def test_the_same_seed_gives_the_same_weights_and_another_others(
    straight: Path, tmp_path: Path
) -> None:
    run(tmp_path / "again")
    assert_same_run(straight, tmp_path / "again")
    run(tmp_path / "other", config=dataclasses.replace(CONFIG, seed=1))
    assert figures(tmp_path / "other") != figures(straight)


# ---- Interrupted and resumed


@pytest.mark.parametrize(
    ("name", "at_step", "saved"),
    [("SIGTERM", 12, 12), ("SIGINT", 7, 7), ("SIGKILL", 18, 15), ("SIGKILL", 2, None)],
)
def test_a_run_that_was_stopped_and_resumed_equals_a_straight_one(
    name: str, at_step: int, saved: int | None, straight: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    stopped = process(folder, signal=name, at_step=at_step)
    if name == "SIGKILL":
        assert stopped.returncode == -signal.SIGKILL
    else:
        assert json.loads(stopped.stdout) == {"finished": False, "step": saved, "notes": []}
    assert not (folder / "model.pt").exists()
    listener = Records()
    assert run(folder, listener=listener, resume=True).finished
    if saved is None:
        assert listener.notes == [
            f"{folder}: holds no whole checkpoint, so training starts from the beginning"
        ]
    else:
        path = folder / "checkpoints" / f"step-{saved:08d}.pt"
        assert listener.notes == [f"resumed from {path} at step {saved}"]
    assert_same_run(straight, folder)


def test_a_resumed_run_goes_on_with_what_its_source_has_learned(
    straight: Path, tmp_path: Path
) -> None:
    run(tmp_path / "adapting", source=Adapting())
    for resume, at_step in ((False, 12), (True, -1)):
        listener = Records(at_step, "SIGTERM")
        run(tmp_path / "resumed", source=Adapting(), listener=listener, resume=resume)
    assert_same_run(tmp_path / "adapting", tmp_path / "resumed")
    assert read_metrics(tmp_path / "adapting")[-1] != read_metrics(straight)[-1]


def stop_and_resume(folder: Path, at_steps: tuple[int, ...], **options: Any) -> None:
    """Train, and at each of these steps stop by SIGTERM and resume."""
    for number, step in enumerate(at_steps):
        outcome = run(folder, listener=Records(step, "SIGTERM"), resume=number > 0, **options)
        assert (outcome.finished, outcome.step) == (False, step)
    assert run(folder, resume=bool(at_steps), **options).finished


def test_a_run_may_be_stopped_often_and_before_its_first_step(
    straight: Path, tmp_path: Path
) -> None:
    stop_and_resume(tmp_path / "run", (0, 6, 7, 20, 28))
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"dtype": "bfloat16"}, id="bfloat16"),
        pytest.param({"model": dataclasses.replace(SMALLEST_PUBLISHED, dropout=0.3)}, id="dropout"),
    ],
)
def test_a_resumed_run_is_exact_in_other_settings_too(
    options: dict[str, Any], tmp_path: Path
) -> None:
    run(tmp_path / "straight", **options)
    stop_and_resume(tmp_path / "resumed", (10,), **options)
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="compiling needs gcc")
def test_a_resumed_run_is_exact_when_compiled(tmp_path: Path) -> None:
    # One layer a level: compiling is what takes the time.
    options = {
        "compile_model": True,
        "model": dataclasses.replace(SMALLEST, patch_layers=1, byte_layers=1),
    }
    run(tmp_path / "straight", **options)
    stop_and_resume(tmp_path / "resumed", (10,), **options)
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


def test_a_checkpoint_cut_short_is_passed_over_and_the_user_told(
    straight: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(folder, listener=Records(12, "SIGTERM"))
    newest = folder / "checkpoints" / "step-00000012.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    listener = Records()
    assert run(folder, listener=listener, resume=True).finished
    older = folder / "checkpoints" / "step-00000010.pt"
    assert listener.notes == [
        f"{newest}: was cut short or altered, so an older checkpoint is used",
        f"resumed from {older} at step 10",
    ]
    assert_same_run(straight, folder)


def test_resuming_a_finished_run_changes_nothing(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    assert run(folder, resume=True).finished
    assert_same_run(straight, folder)


def test_a_metrics_line_that_was_cut_short_is_dropped(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, listener=Records(12, "SIGTERM"))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    assert run(folder, resume=True).finished
    assert figures(folder) == figures(straight)


def test_a_second_signal_acts_at_once(tmp_path: Path) -> None:
    class Twice(Records):
        def logged(self, record: dict[str, Any], progress: float) -> None:
            super().logged(record, progress)
            if record["step"] == 8:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", listener=Twice(8, "SIGINT"))
    assert signal.getsignal(signal.SIGINT) is before
    assert not torch.are_deterministic_algorithms_enabled()


# ---- The best weights, and stopping early


class Turning(Counting):
    """What is learned from step 14 on is worse than nothing for what is evaluated."""

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        if step < 14:
            return batch
        return batch._replace(patches_BPS=torch.zeros_like(batch.patches_BPS))


BEST = dataclasses.replace(CONFIG, keep="best", warmup_steps=1)


def best_step(folder: Path) -> int:
    """The step of the least evaluation loss, which is not the last."""
    losses = {r["step"]: r["loss"] for r in read_metrics(folder) if r["kind"] == "evaluation"}
    step: int = min(losses, key=lambda step: losses[step])
    assert 0 < step < max(losses)
    return step


def test_the_weights_evaluated_best_are_kept_and_become_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = run(folder, config=BEST, source=Turning())
    step = best_step(folder)
    assert outcome.model_step == step
    best, model = checkpoint.load(folder / "checkpoints" / "best.pt"), checkpoint.load(folder)
    assert best.info["step"] == model.info["step"] == step
    assert model.info["evaluation"] == outcome.evaluation == best.info["evaluation"]
    assert min(r["loss"] for r in read_metrics(folder) if r["kind"] == "evaluation") == (
        pytest.approx(outcome.evaluation["loss"])
    )
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, best.model.state_dict()[name].bfloat16().float())
    assert checkpoint.find_resumable(folder)[0] == folder / "checkpoints" / "step-00000030.pt"


@pytest.mark.parametrize("at_steps", [(7,), (21,), (16, 22)])
def test_a_resumed_run_keeps_the_same_best_weights(
    at_steps: tuple[int, ...], tmp_path: Path
) -> None:
    for name, steps in (("straight", ()), ("resumed", at_steps)):
        stop_and_resume(tmp_path / name, steps, config=BEST, source=Turning())
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")
    best = [
        checkpoint.load(tmp_path / name / "checkpoints" / "best.pt")
        for name in ("straight", "resumed")
    ]
    assert best[0].info["step"] == best[1].info["step"] == best_step(tmp_path / "straight")
    one, other = (loaded.model.state_dict() for loaded in best)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("at_steps", [(), (14,), (22,)])
def test_a_run_stops_early_when_evaluations_get_no_better(
    at_steps: tuple[int, ...], tmp_path: Path
) -> None:
    config = dataclasses.replace(BEST, steps=100, patience=2)
    stop_and_resume(tmp_path / "run", at_steps, config=config, source=Turning())
    records = read_metrics(tmp_path / "run")
    # Two evaluations behind the best one.
    last = best_step(tmp_path / "run") + 14
    assert 22 < last < 100
    assert [r["step"] for r in records if r["kind"] == "evaluation"] == [*range(0, last + 1, 7)]
    listener = Records()
    outcome = run(tmp_path / "run", config=config, source=Turning(), listener=listener, resume=True)
    assert (outcome.finished, outcome.step, outcome.model_step) == (True, last, last - 14)
    assert listener.notes[-1] == "stopped early: 2 evaluations were not the best"
    assert read_metrics(tmp_path / "run")[-1]["step"] == last


def test_a_damaged_file_of_the_best_weights_counts_as_none(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, config=BEST, source=Turning(), listener=Records(16, "SIGTERM"))
    (folder / "checkpoints" / "best.pt").write_bytes(b"nothing")
    outcome = run(folder, config=BEST, source=Turning(), resume=True)
    assert outcome.finished
    assert checkpoint.load(folder / "checkpoints" / "best.pt").info["step"] == outcome.model_step


def test_a_run_of_a_version_without_a_setting_is_resumed(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    config = read_config(folder)
    for name in ("schedule", "keep", "patience"):
        del config["training"][name]
    (folder / "config.json").write_text(json.dumps(config))
    assert run(folder, resume=True).finished
    with pytest.raises(UserError, match=r"training\.keep = last, not best"):
        run(folder, resume=True, config=dataclasses.replace(CONFIG, keep="best"))


# ---- Refusals


CONFLICTS: dict[str, tuple[dict[str, Any], str]] = {
    "steps": (
        {"config": dataclasses.replace(CONFIG, steps=31)},
        "training.steps = 30, not 31; resume with the same options or start a new run",
    ),
    "learning rate": (
        {"config": dataclasses.replace(CONFIG, matrix_lr=0.5)},
        "training.matrix_lr = 0.02, not 0.5",
    ),
    "model": (
        {"model": dataclasses.replace(SMALLEST, patch_layers=3)},
        "model.patch_layers = 2, not 3",
    ),
    "data": ({"source": Counting(seed=5)}, "data.seed = 0, not 5"),
    "precision": ({"dtype": "bfloat16"}, "dtype = float32, not bfloat16"),
    "compilation": ({"compile_model": True}, "compile = False, not True"),
}


@pytest.mark.parametrize("what", CONFLICTS)
def test_a_run_is_not_resumed_with_other_options(what: str, straight: Path) -> None:
    options, sentence = CONFLICTS[what]
    before = figures(straight)
    with pytest.raises(UserError) as error:
        run(straight, resume=True, **options)
    assert str(error.value).startswith(f"{straight}: was started with {sentence}")
    assert figures(straight) == before


def spoiled_config(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(text)
    return folder


REFUSALS: dict[str, tuple[Callable[[Path], Path], bool, str]] = {
    "resuming nothing": (lambda path: path / "none", True, "holds no run to resume"),
    "resuming an empty folder": (lambda path: path, True, "holds no run to resume"),
    "a config that is no JSON": (
        lambda path: spoiled_config(path / "run", "{"),
        True,
        "config.json: is damaged",
    ),
    "a config of other things": (
        lambda path: spoiled_config(path / "run", '{"model": 3}'),
        True,
        "config.json: is damaged",
    ),
    "a folder in use": (
        lambda path: spoiled_config(path / "run", "{}"),
        False,
        "already exists; use --resume to go on, or another --out",
    ),
    "a file for a folder": (
        lambda path: touched(path / "file"),
        False,
        "is a file where a folder is to be made; name another --out",
    ),
}


def touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("what", REFUSALS)
def test_a_folder_that_does_not_fit_is_refused(what: str, tmp_path: Path) -> None:
    make, resume, sentence = REFUSALS[what]
    folder = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        run(folder, resume=resume)
    assert sentence in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_in_which_somebody_trains_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    class Another(Records):
        def logged(self, record: dict[str, Any], progress: float) -> None:
            super().logged(record, progress)
            with pytest.raises(UserError, match="another process is training there"):
                run(folder, resume=True)

    assert run(folder, listener=Another()).finished
    assert run(folder, resume=True).finished


def test_an_empty_folder_can_be_trained_into(tmp_path: Path) -> None:
    run(tmp_path, config=TrainConfig(steps=1))
    assert (tmp_path / "model.pt").is_file()


def test_a_loss_that_is_no_number_stops_the_run_with_a_sentence(tmp_path: Path) -> None:
    class Poisoned(Counting):
        def batch(self, step: int) -> Batch:
            return super().batch(step)._replace(weights_S=torch.full((4,), torch.nan))

    with pytest.raises(UserError, match=r"the loss is nan at step 2; begin another run"):
        run(tmp_path / "run", source=Poisoned())


def test_tensorboard_events_are_written_when_asked_for(tmp_path: Path) -> None:
    run(tmp_path / "run", config=TrainConfig(steps=2, log_every=1), tensorboard=True)
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"train/bits_per_byte" in events.read_bytes()


# ---- Settings


def test_a_run_has_steps_or_minutes_and_not_both() -> None:
    for steps, minutes in ((0, 0.0), (5, 5.0)):
        with pytest.raises(ConfigError, match="give exactly one"):
            TrainConfig(steps=steps, minutes=minutes)
    assert TrainConfig(minutes=2).progress(10**6, 30) == 0.25
    assert TrainConfig(steps=200).progress(50, 10**6) == 0.25
    assert TrainConfig(steps=200).progress(900, 0) == 1


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    config = TrainConfig(steps=1000, warmup_steps=10, cooldown=0.5)
    scales = [config.learning_rate_scale(step, step / 1000) for step in range(1001)]
    assert scales[0] == 0.1
    assert scales[:11] == sorted(scales[:11])
    assert set(scales[10:500]) == {1.0}
    assert scales[500:] == sorted(scales[500:], reverse=True)
    assert scales[1000] == 0


def test_the_learning_rate_may_fall_as_half_a_cosine() -> None:
    config = TrainConfig(steps=1000, warmup_steps=10, schedule="cosine")
    scales = [config.learning_rate_scale(step, step / 1000) for step in range(1001)]
    assert scales[:10] == sorted(scales[:10])
    assert scales[0] == pytest.approx(0.1)
    assert scales[9:] == sorted(scales[9:], reverse=True)
    assert scales[250] == pytest.approx((1 + 0.5**0.5) / 2)
    assert scales[500] == pytest.approx(0.5)
    assert scales[1000] == 0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"schedule": "linear"}, "schedule is 'linear', not 'trapezoid' or 'cosine'"),
        ({"keep": "all"}, "keep is 'all', not 'last' or 'best'"),
        ({"warmup_steps": 0}, "warmup_steps must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(steps=1, **setting)


def test_every_parameter_has_exactly_one_optimizer() -> None:
    for family in ("local", "published"):
        model = random_model(family)  # type: ignore[arg-type]
        groups = [
            parameter
            for optimizer in train.build_optimizers(model, CONFIG)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        assert len(groups) == len({id(parameter) for parameter in groups})
        assert {id(parameter) for parameter in groups} == set(map(id, model.parameters()))


def test_a_missing_device_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no usable CUDA device; use --device cpu"):
        pick_device("cuda")
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")


def test_precision_is_bfloat16_only_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda native=native: native)
        assert pick_dtype("auto", cpu) == dtype
    assert pick_dtype("float32", cpu) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16


@pytest.mark.parametrize(
    "change",
    [
        lambda training: training.pop("step"),
        lambda training: training.pop("elapsed"),
        lambda training: training.update(step="seven"),
        lambda training: training.update(step=-1),
        lambda training: training.pop("optimizers"),
        lambda training: training.update(optimizers=7),
        lambda training: training["optimizers"].pop(),
        lambda training: training["optimizers"][0].pop("state"),
        lambda training: training["optimizers"][0]["state"].update({0: {"momentum_buffer": 3}}),
    ],
)
def test_a_checkpoint_without_a_usable_state_is_refused_in_one_sentence(
    change: Callable[[dict[str, Any]], object], straight: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    last = checkpoint.find_resumable(folder)[0]
    assert last is not None
    content = torch.load(last, weights_only=True)
    change(content["training"])
    torch.save(content, last)
    record = {"size": last.stat().st_size, "sha256": checkpoint.file_hash(last)}
    last.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="holds no state that training can go on from"):
        run(folder, resume=True)
