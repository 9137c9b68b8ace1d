"""What is saved comes back; what was cut, altered or is hostile is refused with a sentence."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bytemodel import checkpoint
from bytemodel.checkpoint import CheckpointError, find_resumable, load, save, save_step
from bytemodel.classifier import Classifier
from bytemodel.model import ByteModel
from cpusim.errors import UserError
from tests.bytemodel.models import FAMILIES, SMALLEST, random_model

Content = dict[str, Any]


def same(one: ByteModel, other: ByteModel) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@functools.cache
def saved() -> bytes:
    """A checkpoint file's bytes, of `random_model()`."""
    file = io.BytesIO()
    model = random_model()
    torch.save(
        {
            "format": checkpoint.FORMAT,
            "version": checkpoint.VERSION,
            "config": model.config.to_dict(),
            "model": model.state_dict(),
            "info": {"step": 7},
        },
        file,
    )
    return file.getvalue()


def altered(folder: Path, change: Callable[[Content], object]) -> Path:
    """A checkpoint whose content went through `change`."""
    content = torch.load(io.BytesIO(saved()), weights_only=True)
    change(content)
    path = folder / "altered.pt"
    torch.save(content, path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(path)
    sentence = str(error.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    return sentence


# ---- Round trips


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_bit_for_bit(family: Any, tmp_path: Path) -> None:
    model = random_model(family)
    save(tmp_path / "a.pt", model, info={"step": 3}, training={"step": 3, "optimizers": []})
    loaded = load(tmp_path / "a.pt")
    assert same(loaded.model, model)
    assert loaded.config == model.config
    assert not loaded.model.training
    assert (loaded.info, loaded.training) == ({"step": 3}, {"step": 3, "optimizers": []})


def test_a_model_saved_in_bfloat16_takes_half_the_space_and_comes_back_rounded(
    tmp_path: Path,
) -> None:
    model = random_model(patch_width=64)
    save(tmp_path / "whole.pt", model, info={})
    save(tmp_path / "half.pt", model, info={}, dtype=torch.bfloat16)
    assert (tmp_path / "half.pt").stat().st_size < 0.6 * (tmp_path / "whole.pt").stat().st_size
    loaded = load(tmp_path / "half.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor.bfloat16().float())
    assert loaded.training is None


def test_saving_refuses_to_replace_a_file_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(path, random_model(seed=1), info={})
    with pytest.raises(UserError, match="already exists; use --force"):
        save(path, random_model(seed=2), info={})
    assert same(load(path).model, random_model(seed=1))
    save(path, random_model(seed=2), info={}, force=True)
    assert same(load(path).model, random_model(seed=2))


def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    save(path, random_model(seed=1), info={})

    def disk_full(content: object, file: io.BufferedWriter) -> None:
        file.write(pickle.dumps(str(content))[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(UserError, match=r"a\.pt: cannot be written \(no space left on device\)"):
        save(path, random_model(seed=2), info={}, force=True)
    assert list(tmp_path.iterdir()) == [path]
    assert same(load(path).model, random_model(seed=1))


# ---- Hostile and damaged files


class Payload:
    """Unpickled carelessly, this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def torch_load(data: bytes) -> object:
    return torch.load(io.BytesIO(data), weights_only=False)


@pytest.mark.parametrize("place", ["format", "model", "info", "training", "alone", "plain pickle"])
def test_code_in_a_checkpoint_is_never_run(place: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    if place == "plain pickle":
        path = tmp_path / "altered.pt"
        path.write_bytes(pickle.dumps(Payload(trap)))
    elif place == "alone":
        path = tmp_path / "altered.pt"
        torch.save(Payload(trap), path)
    else:
        path = altered(tmp_path, lambda content: content.update({place: Payload(trap)}))
    assert "objects other than tensors" in refused(path)
    assert not trap.exists()
    careless = pickle.loads if place == "plain pickle" else torch_load
    careless(path.read_bytes())
    assert trap.exists()  # the trap does work


@given(st.integers(0, len(saved()) - 1))
def test_a_checkpoint_cut_anywhere_is_refused(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.pt"
        path.write_bytes(saved()[:size])
        refused(path)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_checkpoint_are_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.pt"
        path.write_bytes(data)
        refused(path)


def test_other_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    assert "no such checkpoint; check the name" in refused(tmp_path / "missing.pt")
    assert "folder without a checkpoint" in refused(tmp_path)
    (tmp_path / "empty.pt").touch()
    assert "not a checkpoint, or was cut short" in refused(tmp_path / "empty.pt")
    (tmp_path / "trace.bin").write_bytes(bytes(1040))
    refused(tmp_path / "trace.bin")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("data", "x")
    assert "not a checkpoint, or was cut short" in refused(tmp_path / "some.zip")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    assert "not a checkpoint of this program" in refused(tmp_path / "tensor.pt")
    torch.save({"model": random_model().state_dict()}, tmp_path / "other.pt")
    assert "not a checkpoint of this program" in refused(tmp_path / "other.pt")


def first_key(content: Content) -> str:
    return next(iter(content["model"]))


CHANGES: dict[str, tuple[Callable[[Content], object], str]] = {
    "a newer version": (lambda c: c.update(version=2), "format version 2, newer than 1; update"),
    "no version": (lambda c: c.pop("version"), "format version None"),
    "no configuration": (lambda c: c.pop("config"), "no usable model configuration"),
    "a configuration of numbers": (lambda c: c.update(config=[1]), "no usable model configuration"),
    "an unknown key": (
        lambda c: c["config"].update(patch_widht=3),
        "ModelConfig has no key 'patch_widht'; did you mean 'patch_width'?",
    ),
    "a text for a number": (lambda c: c["config"].update(patch_width="64"), "patch_width is '64'"),
    "a size of zero": (lambda c: c["config"].update(byte_layers=0), "byte_layers is 0"),
    "another width": (
        lambda c: c["config"].update(byte_width=32),
        "has shape .* where its configuration says",
    ),
    "more layers than weights": (lambda c: c["config"].update(patch_layers=3), "is missing"),
    "fewer layers than weights": (
        lambda c: c["config"].update(patch_layers=1),
        r"holds the tensor 'patch_decoder\.blocks\.1",
    ),
    "a size beyond any memory": (
        lambda c: c["config"].update(patch_width=1 << 24),
        "has shape .* where its configuration says",
    ),
    "a size beyond any number": (
        lambda c: c["config"].update(patch_width=1 << 40),
        "no usable model configuration",
    ),
    "a size that takes more than 64 bits": (
        lambda c: c["config"].update(patch_width=1 << 70),
        r"no usable model configuration \(its sizes are beyond any memory\)$",
    ),
    "more layers than there is time": (
        lambda c: c["config"].update(patch_layers=1 << 40),
        "holds .* tensors where its configuration has 1,099,511,627,778 layers",
    ),
    "patches beyond any memory": (
        lambda c: c["config"].update(patch_size=1 << 31),
        "too few for the patches of 2,147,483,648 bytes",
    ),
    "no weights": (lambda c: c.pop("model"), "holds no weights"),
    "weights in a list": (lambda c: c.update(model=[1]), "holds no weights"),
    "a missing tensor": (lambda c: c["model"].pop(first_key(c)), "is missing"),
    "a number for a tensor": (lambda c: c["model"].update({first_key(c): 3}), "is missing"),
    "an unknown tensor": (
        lambda c: c["model"].update(extra=torch.zeros(1)),
        "holds the tensor 'extra', which no model here has",
    ),
    "a tensor that claims to be huge": (
        lambda c: c["model"].update({first_key(c): torch.zeros(1).expand(1 << 40)}),
        "is missing",
    ),
    "a transposed tensor": (
        lambda c: c["model"].update({first_key(c): c["model"][first_key(c)].T}),
        "has shape",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_checkpoint_that_was_altered_is_refused_with_the_place(what: str, tmp_path: Path) -> None:
    change, sentence = CHANGES[what]
    with pytest.raises(CheckpointError, match=sentence):
        load(altered(tmp_path, change))


def test_to_load_a_checkpoint_takes_no_compiler(tmp_path: Path) -> None:
    models = {"model": random_model("local"), "classifier": Classifier(SMALLEST, ["a", "b"])}
    for name, model in models.items():
        save(tmp_path / f"{name}.pt", model, info={})
    code = (
        "import sys; from bytemodel.checkpoint import load_any\n"
        f"for name in {list(models)}: load_any({str(tmp_path)!r} + f'/{{name}}.pt')\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_checkpoint_with_odd_extras_still_loads(tmp_path: Path) -> None:
    loaded = load(altered(tmp_path, lambda c: c.update(info=3, training="x", more=[1], unused=[2])))
    assert (loaded.info, loaded.training, loaded.unused) == ({}, None, {})
    assert same(loaded.model, random_model())


# ---- A run's folder


def fill(run: Path, *steps: int) -> list[Path]:
    """Checkpoints of a run, the model of each with its step as seed."""
    return [
        save_step(run, step, random_model(seed=step), info={}, training={"step": step})
        for step in steps
    ]


def test_the_newest_checkpoint_of_a_run_is_found_and_old_ones_go(tmp_path: Path) -> None:
    paths = fill(tmp_path, 1, 20, 300)
    assert find_resumable(tmp_path) == (paths[-1], [])
    assert same(load(tmp_path).model, random_model(seed=300))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}.{end}" for step in (20, 300) for end in ("json", "pt")]


def test_a_run_that_began_again_keeps_what_it_saves(tmp_path: Path) -> None:
    for path in fill(tmp_path, 100, 200):
        cut(path)
    for step in (3, 4, 5):
        assert find_resumable(tmp_path)[0] == (None if step == 3 else path)
        (path,) = fill(tmp_path, step)
        assert same(load(path).model, random_model(seed=step))
    assert len(list((tmp_path / "checkpoints").glob("step-0000000*.pt"))) == 2


def test_a_finished_model_is_what_a_run_folder_means(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    save(tmp_path / "model.pt", random_model(seed=9), info={})
    assert same(load(tmp_path).model, random_model(seed=9))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


SPOIL: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "one bit flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "without marker": lambda path: path.with_suffix(".json").unlink(),
    "with a cut marker": lambda path: cut_marker(path.with_suffix(".json")),
    "with another's marker": lambda path: path.with_suffix(".json").write_text("[1]"),
}


def cut_marker(path: Path) -> None:
    path.write_text(path.read_text()[:10])


@pytest.mark.parametrize("how", SPOIL)
def test_a_checkpoint_cut_short_is_passed_over_for_the_last_good_one_with_a_note(
    how: str, tmp_path: Path
) -> None:
    good, bad = fill(tmp_path, 1, 2)
    SPOIL[how](bad)
    found, passed_over = find_resumable(tmp_path)
    assert found == good
    assert len(passed_over) == 1
    assert passed_over[0].startswith(f"{bad}: was cut short or altered")
    assert same(load(tmp_path).model, random_model(seed=1))


def test_a_run_without_a_whole_checkpoint_has_none(tmp_path: Path) -> None:
    (path,) = fill(tmp_path, 1)
    cut(path)
    found, passed_over = find_resumable(tmp_path)
    assert (found, len(passed_over)) == (None, 1)
    assert "is a folder without a checkpoint" in refused(tmp_path)


def test_the_marker_is_written_last_and_names_what_it_marks(tmp_path: Path) -> None:
    (path,) = fill(tmp_path, 4)
    marker = json.loads(path.with_suffix(".json").read_text())
    assert marker == {
        "step": 4,
        "size": path.stat().st_size,
        "sha256": checkpoint.file_hash(path),
    }


def test_a_save_that_dies_before_its_marker_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (good,) = fill(tmp_path, 1)

    def dies(_: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "file_hash", dies)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, 2)
    monkeypatch.undo()
    assert find_resumable(tmp_path)[0] == good


def test_a_save_that_fails_leaves_the_checkpoint_of_the_same_step_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (good,) = fill(tmp_path, 1)

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(UserError, match="cannot be written"):
        fill(tmp_path, 1)
    monkeypatch.undo()
    assert find_resumable(tmp_path) == (good, [])


def test_what_a_killed_save_left_behind_is_removed_by_the_next(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    stray = tmp_path / "checkpoints" / ".step-00000002.pt.abc123.tmp"
    stray.write_bytes(b"half")
    fill(tmp_path, 3)
    assert not stray.exists()
