"""Learning files: the loss, the schedule, going on from checkpoints of any length."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bytemodel import checkpoint
from bytemodel.checkpoint import Checkpoint, Trainable
from bytemodel.classifier import Classifier
from bytemodel.config import ModelConfig
from bytemodel.data import SizedBatch
from bytemodel.files import (
    fitting_config,
    learning_files,
    loss_and_hits,
    measures,
    training_config,
)
from bytemodel.files_data import FileSource, Skipped, find_items
from bytemodel.metrics import read_metrics
from bytemodel.model import ByteModel
from bytemodel.patches import PAD
from bytemodel.train import Outcome, TrainConfig, read_config, train
from cpusim.errors import UserError
from tests.bytemodel.models import FAMILIES, SMALLEST, SMALLEST_PUBLISHED, random_model
from tests.bytemodel.runs import Records

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of few different letters, short ones and long ones."""
    folder, rng = tmp_path_factory.mktemp("files"), random.Random(0)
    for number in range(60):
        size = rng.randrange(1, 200)
        (folder / f"{number}.txt").write_bytes(bytes(rng.choices(b"abc", k=size)))
    return folder


def source_of(folder: Path, config: ModelConfig = SMALLEST) -> FileSource:
    items = find_items(folder, (), Skipped())
    return FileSource(items, config, seed=0, about={"kind": "files", "folder": str(folder)})


def learn(run: Path, source: FileSource, config: TrainConfig, **options: Any) -> Outcome:
    return train(
        run,
        source.config,
        config,
        source,
        options.pop("listener", Records()),
        device="cpu",
        dtype="float32",
        compile_model=options.pop("compile_model", False),
        task=options.pop("task", None) or learning_files(),
        **options,
    )


def start(model: Trainable, path: Path = Path("start.pt")) -> Checkpoint[Trainable]:
    return Checkpoint(path, model, {}, None)


# The loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_what_is_asked_for(family: Any, folder: Path) -> None:
    model = random_model(family)
    batch = source_of(folder).batch(3)
    loss, mean, right = loss_and_hits(model, *batch)
    hits = batch.answers(right)
    logits = model(batch.patches_BPS, batch.targets_N)
    wanted = batch.patches_BPS.flatten(0, 1)[batch.targets_N]
    nats = []
    for place in batch.asked_NS.nonzero().tolist():
        row, column = place
        nats.append(F.cross_entropy(logits[row, column], wanted[row, column]).item())
        assert (PAD not in wanted[row, :column].tolist()) or column == 0
    assert loss.item() == pytest.approx(sum(nats) / len(nats), rel=1e-4)
    assert mean.item() == loss.item()
    assert not mean.requires_grad
    assert hits.tolist() == (logits.argmax(-1) == wanted)[batch.asked_NS].tolist()
    assert len(hits) == batch.size == len(nats)
    figures = measures(loss.item(), hits)
    assert figures["bits_per_byte"] == pytest.approx(loss.item() / math.log(2))
    assert figures["byte_accuracy"] == pytest.approx(sum(hits.tolist()) / len(hits))


def test_a_share_without_anything_asked_for_adds_nothing(folder: Path) -> None:
    model = random_model()
    batch = source_of(folder).batch(0)
    nothing = batch._replace(asked_NS=torch.zeros_like(batch.asked_NS))
    loss, _, right = loss_and_hits(model, *nothing)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert len(nothing.answers(right)) == 0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


# Training -----------------------------------------------------------------------------


def test_files_are_learned_and_a_stopped_run_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path
) -> None:
    def config(source: FileSource) -> TrainConfig:
        return training_config(
            source.steps_per_epoch, fine_tuning=False, steps=24, evaluate_every=6, log_every=2
        )

    source = source_of(folder)
    outcome = learn(tmp_path / "straight", source, config(source))
    assert outcome.finished
    losses = [r["loss"] for r in read_metrics(tmp_path / "straight") if r["kind"] == "evaluation"]
    assert losses[-1] < 0.8 * losses[0]
    info = checkpoint.load(tmp_path / "straight").info
    assert info["data"] == {
        "kind": "files",
        "folder": str(folder),
        "targets": 512,
        "training": source.training,
        "held_out": source.held_out,
        "sha256": source.describe()["sha256"],
        "seed": 0,
    }
    assert info["task"] == {"kind": "files", "start": None, "file": None}
    assert (tmp_path / "straight" / "training.png").is_file()

    stopped = learn(
        tmp_path / "run", source_of(folder), config(source), listener=Records(10, "SIGTERM")
    )
    assert (stopped.finished, stopped.step) == (False, 10)
    assert learn(tmp_path / "run", source_of(folder), config(source), resume=True).finished
    one, other = (
        checkpoint.load(tmp_path / name / "checkpoints" / "step-00000024.pt").model.state_dict()
        for name in ("straight", "run")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)

    (folder / "new.txt").write_bytes(b"new")
    try:
        with pytest.raises(UserError, match=r"run: was started with data\.(training|held_out) = "):
            learn(tmp_path / "run", source_of(folder), config(source), resume=True)
    finally:
        (folder / "new.txt").unlink()


def test_the_recipe_for_files_is_a_cosine_and_keeps_the_best() -> None:
    config = training_config(3, fine_tuning=False, steps=200)
    assert (config.schedule, config.keep, config.warmup_steps) == ("cosine", "best", 10)
    assert config.evaluate_every == 50
    assert training_config(99, fine_tuning=False, minutes=1.0).evaluate_every == 99
    assert training_config(10**6, fine_tuning=False, minutes=1.0).evaluate_every == 1000
    assert training_config(9, fine_tuning=False, minutes=1.0).warmup_steps == 50
    assert training_config(9, fine_tuning=False, steps=1).warmup_steps == 1
    usual = TrainConfig(steps=1)
    assert config.matrix_lr == usual.matrix_lr
    assert training_config(9, fine_tuning=True, steps=1).matrix_lr < usual.matrix_lr
    assert training_config(9, fine_tuning=True, steps=1, matrix_lr=0.5).matrix_lr == 0.5


@pytest.mark.skipif(shutil.which("gcc") is None, reason="nothing compiles without gcc")
def test_compiled_blocks_learn_what_plain_ones_do(tmp_path: Path) -> None:
    folder = tmp_path / "of one length"
    folder.mkdir()
    rng = random.Random(0)
    for number in range(30):
        (folder / f"{number}.txt").write_bytes(bytes(rng.choices(b"abc", k=40)))
    source = source_of(folder)
    config = training_config(source.steps_per_epoch, fine_tuning=False, steps=20)
    found = [
        learn(tmp_path / str(compiled), source, config, compile_model=compiled).evaluation["loss"]
        for compiled in (False, True)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-3)


# Going on from a checkpoint -----------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("longest", [5, 24, 100])
def test_a_model_goes_on_from_one_that_reads_another_length(family: Any, longest: int) -> None:
    old = random_model(family)
    config = fitting_config(start(old), None, longest)
    assert config == dataclasses.replace(old.config, max_patches=longest)
    model = learning_files(start(old)).build(config)
    assert isinstance(model, ByteModel)
    known = old.state_dict()
    for name, tensor in model.state_dict().items():
        if name != "patch_decoder.positions.weight":
            assert torch.equal(tensor, known[name])
    ours, theirs = model.patch_decoder.positions.weight, old.patch_decoder.positions.weight
    kept = min(longest, 24)
    assert torch.equal(ours[:kept], theirs[:kept])
    for place in range(kept, longest):
        assert torch.equal(ours[place], theirs[1 + (place - 1) % 23])
    tokens = torch.randint(0, 256, (1, min(5, longest), 4))
    targets = torch.arange(1, tokens.shape[1])
    assert torch.equal(model.eval()(tokens, targets), old(tokens, targets))


def test_of_a_classifier_the_byte_model_is_taken() -> None:
    classifier = Classifier.of(random_model(), ["a", "b"])
    fitting = fitting_config(start(classifier), None, None)
    model = learning_files(start(classifier)).build(fitting)
    assert isinstance(model, ByteModel)
    known = classifier.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, known[name]), name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch_layers": 3}, "start.pt: its patch_layers is 2, that of the model to train 3"),
        ({"retrieval": False}, "start.pt: its retrieval is True, that of the model to train False"),
        ({"recall": False}, "start.pt: its recall is True, that of the model to train False"),
        ({"matching": False}, "start.pt: its matching is True, that of the model to train False"),
        ({"patch_size": 8}, "leave out --preset to train a model of its shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        fitting_config(start(random_model()), dataclasses.replace(SMALLEST, **changes), None)
    with pytest.raises(UserError, match="its family is local, that of the model to train publi"):
        fitting_config(start(random_model()), SMALLEST_PUBLISHED, None)


def test_dropout_and_length_may_differ() -> None:
    wanted = dataclasses.replace(SMALLEST_PUBLISHED, dropout=0.3, max_patches=9)
    assert fitting_config(start(random_model("published")), wanted, None) == wanted
    assert fitting_config(None, SMALLEST, 11).max_patches == 11


def test_a_run_says_what_it_started_from_and_is_ahead_at_once(folder: Path, tmp_path: Path) -> None:
    source = source_of(folder)
    config = training_config(source.steps_per_epoch, fine_tuning=False, steps=20)
    learn(tmp_path / "first", source, config)
    loaded = checkpoint.load_any(tmp_path / "first")
    longer = source_of(folder, fitting_config(loaded, None, 60))
    tuning = training_config(longer.steps_per_epoch, fine_tuning=True, steps=2)
    learn(tmp_path / "second", longer, tuning, task=learning_files(loaded))
    first, second = (read_metrics(tmp_path / name) for name in ("first", "second"))
    assert second[0]["loss"] < 0.9 * first[0]["loss"]
    assert read_config(tmp_path / "second")["task"] == {
        "kind": "files",
        "start": checkpoint.fingerprint(loaded.model),
        "file": str(tmp_path / "first" / "model.pt"),
        "seconds_before": loaded.info["seconds"],
    }
    again = checkpoint.load_any(tmp_path / "second")
    seconds = loaded.info["seconds"] + again.info["seconds"]
    assert learning_files(again).about["seconds_before"] == seconds


def test_batches_are_what_the_loop_expects(folder: Path) -> None:
    batch: SizedBatch = source_of(folder).batch(0)
    assert batch.share(0, 1).size == batch.size
