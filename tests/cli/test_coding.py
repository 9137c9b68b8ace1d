"""`bgpt compress` and `bgpt decompress`, as their users meet them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bytemodel import checkpoint
from tests.bytemodel.models import random_model
from tests.bytemodel.test_compression import likely, model_of
from tests.cli.calls import bgpt, command, refused

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    checkpoint.save(path, model_of(), info={})
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(likely(240))
    return path


def test_a_file_comes_back_from_processes_of_other_thread_counts(
    model: Path, file: Path, tmp_path: Path
) -> None:
    packed, out = tmp_path / "packed", tmp_path / "out"
    for threads, words in (
        ("2", ["compress", "--model", model, file, "-o", packed]),
        ("1", ["decompress", "--model", model, packed, "-o", out]),
    ):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run(command(*words), cwd=ROOT, env=environment, check=True, capture_output=True)
    assert packed.stat().st_size < file.stat().st_size
    assert out.read_bytes() == file.read_bytes()


def test_the_size_is_the_one_that_score_promises(model: Path, file: Path) -> None:
    words = ["--model", model, file]
    report = json.loads(bgpt("score", *words, "--dtype", "float32", "--json").stdout)
    line = bgpt("compress", *words).stdout
    packed = file.with_name("data.bin.bgpt")
    size = packed.stat().st_size
    assert line == f"{packed}: 240 bytes of {file} in {size}, {size / 240:.1%} of it\n"
    assert size == pytest.approx(report["total"]["compressed"], rel=0.02, abs=8)


def test_without_o_the_names_follow_from_each_other(model: Path, file: Path) -> None:
    data = file.read_bytes()
    bgpt("compress", "--model", model, file)
    packed = file.with_name("data.bin.bgpt")
    assert file.read_bytes() == data
    restored = ["decompress", "--model", model, packed]
    assert refused(*restored) == f"{file}: already exists; use --force to replace it"
    file.unlink()
    assert bgpt(*restored).stdout == f"{file}: 240 bytes, checked\n"
    assert file.read_bytes() == data
    assert "say with -o where to write" in refused("decompress", "--model", model, file)
    bare = file.with_name(".bgpt")
    assert "say with -o where to write" in refused("decompress", "--model", model, bare)


@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 2])
def test_empty_and_random_files_come_back(model: Path, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    packed = file.with_name("p")
    bgpt("compress", "--model", model, file, "-o", packed)
    bgpt("decompress", "--model", model, packed, "-o", file, "--force")
    assert file.read_bytes() == content


def test_nothing_is_replaced_without_force(model: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"mine")
    for words in (["compress", file, "-o", out], ["decompress", file, "-o", out]):
        sentence = refused(*words, "--model", model)
        assert sentence == f"{out}: already exists; use --force to replace it"
    assert out.read_bytes() == b"mine"
    bgpt("compress", "--model", model, file, "-o", out, "--force")
    assert out.read_bytes().startswith(b"bgpt")


def test_what_is_read_is_not_replaced_even_with_force(
    model: Path, file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    for output in (file, link, model):
        for word in ("compress", "decompress", "explain"):
            said = refused(word, "--model", model, file, "-o", output, "--force")
            assert said == f"{output}: is the very file that is read; name another to write to"
        said = refused("score", "--model", model, file, "--plot", output, "--force")
        assert said.startswith(f"{output}: is the very file that is read")


def test_a_missing_folder_is_noticed_before_the_work_is_done(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "none" / "out"
    for name in ("compress", "decompress"):
        sentence = refused(name, "--model", tmp_path / "none.pt", file, "-o", out)
        assert sentence == f"{out}: the folder {out.parent} does not exist; create it"


def test_a_damaged_file_and_a_wrong_model_are_refused_and_nothing_is_written(
    model: Path, file: Path, tmp_path: Path
) -> None:
    packed, out, other = tmp_path / "packed", tmp_path / "out", tmp_path / "other.pt"
    bgpt("compress", "--model", model, file, "-o", packed)
    checkpoint.save(other, random_model(seed=9), info={})
    sentence = refused("decompress", "--model", other, packed, "-o", out)
    assert sentence.startswith(f"{packed}: was compressed with the model ")
    name = json.loads(bgpt("info", model, "--json").stdout)["fingerprint"][:16]
    assert name in sentence
    good = packed.read_bytes()
    for bad in (good[:-1], good[:30] + b"?" + good[31:], b"", b"hello"):
        packed.write_bytes(bad)
        sentence = refused("decompress", "--model", model, packed, "-o", out)
        assert sentence.startswith(f"{packed}: ")
        assert len(sentence.splitlines()) == 1
    assert not out.exists()
    assert "no such file" in refused("compress", "--model", model, tmp_path / "none")
    assert "is a directory" in refused("compress", "--model", model, tmp_path, "-o", out)


def test_a_folder_is_not_compressed() -> None:
    assert refused("compress", ".").startswith(".: is a directory where a file is expected")
