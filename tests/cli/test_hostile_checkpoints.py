"""Whatever is handed over as a checkpoint: every command that takes one refuses what is none, in
one sentence, runs nothing in it, and leaves everything as it was."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from bytemodel import checkpoint
from bytemodel.classifier import Classifier
from bytemodel.published import load_published
from cli.bgpt import main as bgpt
from cli.cpusim import main as cpusim
from tests.bytemodel.models import random_model
from tests.bytemodel.test_checkpoint import Payload

ROOT = Path(__file__).parent.parent.parent
RELEASED = ROOT / "tests" / "golden" / "bgpt_checkpoint" / "weights-tiny.pth"
TRACE = sorted((ROOT / "tests" / "golden" / "cpu_traces").glob("*.bin"))[0]

Content = dict[str, Any]

PROGRAMS = {"bgpt": bgpt, "cpusim": cpusim}
# {} is the checkpoint, OUT a folder to write to, DATA one of labelled files.
MODEL = [
    "bgpt info {}",
    f"bgpt score --model {{}} {TRACE}",
    f"bgpt explain --model {{}} {TRACE} -o OUT/a.png",
    f"bgpt compress --model {{}} {TRACE} -o OUT/a.bgpt",
    f"bgpt decompress --model {{}} {TRACE} -o OUT/a.bin",
    "bgpt generate --model {} --ext bin -o OUT/files",
    f"bgpt convert --model {{}} {TRACE} --to txt -o OUT/files",
    "bgpt export {} -o OUT/a.pth",
    "bgpt classify train DATA --model {} --out OUT/run --steps 1",
    "bgpt train files --data DATA --init {} --out OUT/run --steps 1 --no-compile",
    "cpusim compare --model {} --json OUT/a.json",
    "cpusim compare --against model:{} --html OUT/a.html",
    "cpusim compare --reference model:{} --against oracle",
    f"cpusim debug {TRACE} --model {{}}",
    f"cpusim diagnose {TRACE} --model {{}} --plot OUT/a.png",
    "cpusim fuzz --model {} --programs 1 --out OUT",
    "cpusim conformance --model {} --sample 1 --plots OUT/plots",
]
CLASSIFIER = [
    "bgpt info {}",
    "bgpt classify predict --model {} DATA/a_1.txt",
    "bgpt classify eval DATA --all --model {} --plot OUT/a.png",
]
WEIGHTS = ["bgpt import {} -o OUT/a.pt"]
COMMANDS = [
    *((command, "a byte model") for command in MODEL),
    *((command, "a classifier") for command in CLASSIFIER),
    *((command, "a released one") for command in WEIGHTS),
]


@functools.cache
def whole(kind: str) -> bytes:
    """A checkpoint file that the commands do take."""
    if kind == "a released one":
        return RELEASED.read_bytes()
    model = random_model(patch_size=16, max_patches=400)
    content: Content = {
        "format": checkpoint.FORMAT,
        "version": checkpoint.VERSION,
        "config": model.config.to_dict(),
        "model": model.state_dict(),
        "info": {},
    }
    if kind == "a classifier":
        classifier = Classifier.of(model, ["a", "b"])
        content |= {"model": classifier.state_dict(), "labels": list(classifier.labels)}
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def first(content: Content) -> str:
    """A tensor that every model has."""
    return next(name for name in content["model"] if "patch" in name and "embedding" in name)


def rename(content: Content) -> None:
    content["model"]["other"] = content["model"].pop(first(content))


def add(content: Content) -> None:
    content["model"]["other"] = torch.zeros(3)


def contain_itself(content: Content) -> None:
    content["info"]["self"] = content["info"]


def reshape(content: Content) -> None:
    content["model"][first(content)] = torch.zeros(3, 5)


def turn(content: Content, into: Callable[[torch.Tensor], torch.Tensor]) -> None:
    content["model"][first(content)] = into(content["model"][first(content)])


CHANGES: dict[str, Callable[[Content], object]] = {
    "of a newer version": lambda c: c.update(version=checkpoint.VERSION + 1),
    "of another format": lambda c: c.update(format="something else"),
    "without weights": lambda c: c.pop("model"),
    "with a tensor renamed": rename,
    "with a tensor too many": add,
    "with a wrong shape": reshape,
    "with a text for a tensor": lambda c: c["model"].update({first(c): "weights"}),
    "with a tensor on no device": lambda c: turn(c, lambda weights: weights.to("meta")),
    "with a tensor of no numbers": lambda c: turn(
        c, lambda weights: torch.empty(weights.shape, dtype=torch.bits8)
    ),
    "with a tensor of tensors": lambda c: turn(
        c, lambda weights: torch.nested.nested_tensor([weights, weights])
    ),
    "with what is no number": lambda c: turn(c, lambda weights: weights * torch.nan),
    "with an endless history in its configuration": contain_itself,
    "with a wrong key in its configuration": lambda c: c["config"].update(patch_widht=3),
    "with a wrong size in its configuration": lambda c: c["config"].update(patch_layers=5),
}
OURS_ALONE = ("of a newer version", "of another format", "in its configuration")
FILES = {
    "empty": b"",
    "text": b"not a checkpoint at all\n" * 50,
    "a trace": TRACE.read_bytes(),
    "a picture": b"\x89PNG\r\n\x1a\n"
    + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\0\0")),
            (b"IEND", b""),
        )
    ),
}
CUTS = [1, 10, 100, 1000, -30_000, -1000, -100, -10, -1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and a terminal for the debugger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cli.debug._on_terminal", lambda: True)
    (tmp_path / "OUT").mkdir()
    (tmp_path / "DATA").mkdir()
    for label in "ab":
        for number in range(8):
            (tmp_path / "DATA" / f"{label}_{number}.txt").write_text(f"{label} {number}")
    return tmp_path


def run(command: str, path: Path) -> Result:
    program, *words = command.split()
    return CliRunner().invoke(PROGRAMS[program], [word.format(path) for word in words])


def refused(command: str, path: Path, place: Path) -> None:
    """A command refuses a checkpoint, and nothing has changed."""
    before = {file: file.is_file() and file.read_bytes() for file in place.rglob("*")}
    result = run(command, path)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith(f"{path}: ")
    assert {file: file.is_file() and file.read_bytes() for file in place.rglob("*")} == before


every_command = pytest.mark.parametrize(
    ("command", "kind"), COMMANDS, ids=[command.split(" -o")[0] for command, _ in COMMANDS]
)


@every_command
def test_code_in_a_checkpoint_is_never_run(command: str, kind: str, place: Path) -> None:
    path, trap = place / "x.pt", place / "trap"
    hidden = [
        lambda content: content.update(model=Payload(trap)),
        lambda content: content.update(info=[{"deep": Payload(trap)}]),
        lambda content: content["model"].update({first(content): Payload(trap)}),
    ]
    path.write_bytes(pickle.dumps(Payload(trap)))
    refused(command, path, place)
    for hide in hidden:
        content = torch.load(io.BytesIO(whole(kind)), weights_only=True)
        hide(content)
        torch.save(content, path)
        refused(command, path, place)
    # As the format was before it was a zip archive.
    torch.save(content, path, _use_new_zipfile_serialization=False)
    refused(command, path, place)
    assert not trap.exists()


@every_command
def test_what_was_altered_is_refused(command: str, kind: str, place: Path) -> None:
    path = place / "x.pt"
    for what, change in CHANGES.items():
        if kind == "a released one" and what.endswith(OURS_ALONE):
            continue
        content = torch.load(io.BytesIO(whole(kind)), weights_only=True)
        change(content)
        torch.save(content, path)
        refused(command, path, place)


@every_command
def test_what_was_cut_short_anywhere_is_refused(command: str, kind: str, place: Path) -> None:
    path = place / "x.pt"
    for size in CUTS:
        path.write_bytes(whole(kind)[:size])
        refused(command, path, place)


@every_command
def test_what_one_byte_was_damaged_of_is_refused(command: str, kind: str, place: Path) -> None:
    path, data = place / "x.pt", bytearray(whole(kind))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(command, path, place)


@every_command
def test_what_never_was_a_checkpoint_is_refused(command: str, kind: str, place: Path) -> None:
    path = place / "x.pt"
    refused(command, path, place)
    for data in FILES.values():
        path.write_bytes(data)
        refused(command, path, place)
    path.unlink()
    path.mkdir()
    refused(command, path, place)
    others = {"a byte model", "a classifier", "a released one"} - {kind}
    if command.startswith(("bgpt info", "bgpt train")):
        others = {"a released one"}  # they take both of ours
    path = place / "other.pt"
    for other in others:
        path.write_bytes(whole(other))
        refused(command, path, place)


@pytest.mark.parametrize("kind", ["a byte model", "a classifier", "a released one"])
def test_the_checkpoints_that_are_spoilt_here_are_good_ones(kind: str, place: Path) -> None:
    path = place / "x.pt"
    path.write_bytes(whole(kind))
    loaded = load_published(path) if kind == "a released one" else checkpoint.load_any(path)
    assert loaded.model.parameter_count > 1000
