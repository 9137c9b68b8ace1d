"""Without --model, each kind of file is taken to the checkpoint that ships for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bytemodel import checkpoint, cpu
from media import registry, shipped
from tests.bytemodel.models import random_model
from tests.cli.calls import bgpt, refused


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that has weights for the CPU, for audio, and for a modality it lacks."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for seed, name in enumerate(("cpu-small", "media-audio", "media-smells")):
        checkpoint.save(folder / f"{name}.pt", random_model("local", seed=seed), info={})
    monkeypatch.setattr(cpu, "SHIPPED", folder / "cpu-small.pt")
    return folder


def model_of(path: Path) -> str:
    return str(json.loads(bgpt("score", path, "--json").stdout)["model"])


def test_a_file_is_scored_by_the_model_of_its_kind(weights: Path, tmp_path: Path) -> None:
    for name, model in (("a.WAV", "media-audio"), ("a.bin", "cpu-small"), ("a", "cpu-small")):
        path = tmp_path / name
        path.write_bytes(b"RIFF")
        assert model_of(path) == str(weights / f"{model}.pt")


def test_the_user_is_told_when_no_model_fits_a_file(tmp_path: Path) -> None:
    for name, told in (
        ("a.bin", ""),
        ("a.wav", ""),
        ("a.MD", ".md"),
        ("a", "without an extension"),
    ):
        path = tmp_path / name
        path.write_bytes(b"RIFF")
        notes = bgpt("score", path).stderr.splitlines()
        assert len(notes) == bool(told)
        assert all(f"no checkpoint ships for files {told}, so the CPU's is" in n for n in notes)


def test_files_that_have_different_models_are_not_scored_by_one(
    weights: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("a.wav", "a.bin")]
    for path in paths:
        path.write_bytes(b"1")
    sentence = refused("score", *paths)
    assert "different models fit files bin, wav; name one with --model" in sentence
    assert bgpt("score", *paths, "--model", weights / "cpu-small.pt").exit_code == 0


def test_files_of_a_modality_are_written_by_its_model(weights: Path, tmp_path: Path) -> None:
    words = ["generate", "--max-patches", 3, "--seed", 5]
    bgpt(*words, "--modality", "audio", "-o", tmp_path / "a")
    bgpt(*words, "--ext", "wav", "-o", tmp_path / "b")
    bgpt(*words, "--ext", "wav", "--model", weights / "media-audio.pt", "-o", tmp_path / "c")
    written = [next((tmp_path / name).iterdir()).read_bytes() for name in "abc"]
    assert written[0] == written[1] == written[2]
    sentence = refused("generate", "--modality", "image", "-o", tmp_path / "d")
    assert "no checkpoint ships for image (there are: audio)" in sentence
    assert "`bgpt train media --modality image` and name it with --model runs/image" in sentence


def test_what_was_compressed_is_restored_by_the_model_that_its_header_names(
    tmp_path: Path,
) -> None:
    pytest.importorskip("constriction")
    for name in ("a.wav", "a.bin"):
        path, packed, back = (tmp_path / (name + end) for end in ("", ".bgpt", ".back"))
        path.write_bytes(bytes(range(100)))
        bgpt("compress", path)
        bgpt("decompress", packed, "-o", back)
        assert back.read_bytes() == path.read_bytes()
    other = tmp_path / "other.pt"
    checkpoint.save(other, random_model("local", seed=9), info={})
    bgpt("compress", path, "--model", other, "-o", packed, "--force")
    assert "was compressed with the model" in refused("decompress", packed, "-o", tmp_path / "x")
    name = checkpoint.fingerprint(checkpoint.load(other).model)[:16]
    assert refused("decompress", packed, "-o", tmp_path / "x") == (
        f"{packed}: was compressed with the model {name}, which is none of those that ship; name it"
        " with --model (bgpt info prints what each is)"
    )
    packed.write_bytes(b"bg")
    assert "no file that bgpt compress wrote" in refused("decompress", packed, "-o", tmp_path / "x")


def test_files_are_converted_by_the_model_that_does_both_ways(
    weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("constriction")
    path = weights / "convert-abc-mid.pt"
    model = random_model("local", seed=7)
    info = {"data": {"convert": "abc&mid"}}
    checkpoint.save(path, model, info=info)
    for kind, other in (("ABC", "mid"), ("mid", "abc")):
        source = tmp_path / f"tune.{kind}"
        source.write_bytes(b"X:1")
        words = ["convert", source, "--to", other, "--max-patches", 2, "--json"]
        words += ["-o", tmp_path / "out", "--force"]
        report = json.loads(bgpt(*words, code=1).stdout)
        assert report["model"] == str(path)
        assert report["trained_conversions"] == ["abc->mid", "mid->abc"]
    packed = tmp_path / "tune.bgpt"
    bgpt("compress", source, "--model", path, "-o", packed)
    bgpt("decompress", packed, "-o", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"X:1"


def test_what_no_model_converts_is_refused(weights: Path, tmp_path: Path) -> None:
    sources = {kind: tmp_path / f"{kind}.{kind}" for kind in ("abc", "wav", "low")}
    for source in sources.values():
        source.write_bytes(b"1")
    words = ["--to", "mid", "-o", tmp_path / "out"]
    assert refused("convert", sources["abc"], sources["wav"], *words) == (
        "no checkpoint ships that converts abc->mid, wav->mid (there are: none); make one with"
        " bgpt train --convert and name it with --model"
    )
    for name in ("convert-abc-mid.pt", "convert-low-mid.pt"):
        checkpoint.save(weights / name, random_model("local"), info={})
    assert "converts wav->mid (there are: abc&mid, low&mid);" in refused(
        "convert", sources["wav"], *words
    )
    sentence = refused("convert", sources["abc"], sources["low"], *words)
    assert sentence.startswith("different models convert these files; name one with --model")


def test_every_checkpoint_that_really_ships_says_what_it_is_for() -> None:
    real = Path(cpu.__file__).parent / "weights"
    for path in real.glob("*.pt"):
        kind, _, name = path.stem.partition("-")
        if kind == "cpu":
            continue
        assert path.stat().st_size < 10_000_000
        data = checkpoint.load(path).info["data"]
        assert "folder" not in data
        assert data["modality"] in registry.names()
        if kind == "convert":
            assert data["convert"] == name.replace("-", "&")
        else:
            assert (kind, name) == ("media", data["modality"])


def test_without_weights_nothing_is_offered(weights: Path) -> None:
    for path in weights.iterdir():
        path.unlink()
    assert "no trained weights" in refused("score", __file__)
    assert list(shipped._modalities()) == []
