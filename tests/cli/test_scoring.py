"""`bgpt score` and `bgpt explain`, as their users meet them."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bytemodel import checkpoint
from bytemodel.score import score_file
from cli.bgpt import main
from tests.bytemodel.models import random_model
from tests.cli.calls import bgpt, refused

ROOT = Path(__file__).parent.parent.parent
TRACES = sorted((ROOT / "tests" / "golden" / "cpu_traces").glob("*.bin"))[:6]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small random model."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    checkpoint.save(path, random_model(patch_size=16, max_patches=100), info={})
    return path


def test_score_gives_bits_per_byte_of_every_file_and_in_total(model: Path) -> None:
    report = json.loads(
        bgpt("score", "--model", model, *TRACES, "--dtype", "float32", "--json").stdout
    )
    assert [row["file"] for row in report["files"]] == list(map(str, TRACES))
    loaded = checkpoint.load(model).model
    for row, path in zip(report["files"], TRACES, strict=True):
        expected = score_file(loaded, path.read_bytes(), "bin")
        assert row["bytes"] == path.stat().st_size
        assert row["bits"] == pytest.approx(expected.bits)
        assert row["bits_per_byte"] == pytest.approx(expected.bits_per_byte)
    total = report["total"]
    assert total["bits"] == pytest.approx(sum(row["bits"] for row in report["files"]))
    assert total["bits_per_byte"] == pytest.approx(total["bits"] / total["bytes"])
    table = bgpt("score", "--model", model, *TRACES, "--dtype", "float32").stdout.splitlines()
    assert table[0].split() == ["bits/byte", "bits", "bytes", "compressed", "file"]
    assert len(table) == 2 + len(TRACES)
    assert table[-1].split()[-1] == "total"
    assert float(table[-1].split()[0]) == pytest.approx(total["bits_per_byte"], abs=1e-5)


def test_score_of_one_file_has_no_total_line(model: Path) -> None:
    assert len(bgpt("score", "--model", model, TRACES[0]).stdout.splitlines()) == 2


def test_score_takes_the_kind_of_file_from_its_name(model: Path, tmp_path: Path) -> None:
    bits = []
    for name in ("a.bin", "b.txt", "none"):
        (tmp_path / name).write_bytes(b"the same bytes")
        report = bgpt("score", "--model", model, tmp_path / name, "--json").stdout
        bits.append(json.loads(report)["total"]["bits"])
    assert len(set(bits)) == 3


def test_score_skips_bytes_at_the_start(model: Path) -> None:
    words = ["score", "--model", model, TRACES[3], "--json"]
    whole, some = (json.loads(bgpt(*words, "--skip", n).stdout) for n in (0, 1040))
    assert some["skip"] == 1040
    assert some["total"]["bytes"] == whole["total"]["bytes"] - 1040
    assert some["total"]["bits"] < whole["total"]["bits"]
    sentence = refused(*words, "--skip", 5000)
    assert sentence.startswith(f"{TRACES[3]}: --skip 5,000 leaves nothing of its ")
    assert str(TRACES[3].stat().st_size) in sentence.replace(",", "")


def test_score_of_an_empty_file_has_bits_but_none_a_byte(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.bin").touch()
    words = ["score", "--model", model, tmp_path / "empty.bin"]
    report = json.loads(bgpt(*words, "--json").stdout)
    assert report["total"]["bits"] > 0
    assert report["total"]["bits_per_byte"] is None
    assert bgpt(*words).stdout.splitlines()[1].split()[0] == "-"


def test_score_refuses_files_that_it_cannot_read(model: Path, tmp_path: Path) -> None:
    score = ["score", "--model", model]
    missing = tmp_path / "missing.bin"
    assert refused(*score, TRACES[0], missing) == f"{missing}: no such file; check the name"
    assert "is a directory" in refused(*score, tmp_path)
    assert "Missing argument 'FILE...'" in refused(*score)


def test_an_extension_that_no_patch_holds_is_left_out_as_in_compression(
    model: Path, tmp_path: Path
) -> None:
    data = TRACES[0].read_bytes()
    rows = []
    for name in ("a.extension-too-long", "none"):
        (tmp_path / name).write_bytes(data)
        report = json.loads(bgpt("score", "--model", model, tmp_path / name, "--json").stdout)
        rows.append({**report["files"][0], "file": ""})
    assert rows[0] == rows[1]
    assert rows[0]["bytes"] == len(data)


def test_score_promises_the_compressed_size_of_whole_files_only(model: Path) -> None:
    words = ["score", "--model", model, *TRACES[:2], "--dtype", "float32", "--json"]
    report = json.loads(bgpt(*words).stdout)
    for row in report["files"]:
        # Never larger than the file stored as it is, with a header.
        assert 0 < row["compressed"] < row["bytes"] + 50
    assert report["total"]["compressed"] == sum(row["compressed"] for row in report["files"])
    report = json.loads(bgpt(*words, "--skip", 1040).stdout)
    assert {row["compressed"] for row in [*report["files"], report["total"]]} == {None}
    assert bgpt(*words[:-1], "--skip", 1040).stdout.splitlines()[1].split()[3] == "-"


@pytest.mark.parametrize("skip", [0, 1033])
def test_the_hex_view_lists_and_marks_the_most_surprising_bytes(model: Path, skip: int) -> None:
    path, top = TRACES[2], 5
    data = path.read_bytes()
    score = score_file(checkpoint.load(model).model, data, "bin", skip=skip)
    worst = sorted(range(len(score.surprisal)), key=lambda i: -score.surprisal[i])[:top]
    words = ["score", "--model", model, path, "--dtype", "float32", "--hex", "--top", top]
    lines = bgpt(*words, "--skip", skip).stdout.splitlines()
    start = lines.index(f"{path}: the most surprising bytes") + 2
    for line, place in zip(lines[start : start + top], worst, strict=True):
        offset, hexadecimal, byte, *rest = line.split()
        assert int(offset.replace(",", "")) == int(hexadecimal, 16) == skip + place
        assert int(byte, 16) == data[skip + place]
        bits = float(rest[1] if rest[0].startswith("'") else rest[0])
        assert bits == pytest.approx(score.surprisal[place], abs=0.01)
    marked, shown = set(), lines[start + top + 2 : -1]
    for line in shown:
        assert len(line) <= 80
        if line.strip() == "...":
            continue
        row = int(line[:8], 16)
        for column in range(16):
            cell = line[9 + 3 * column : 12 + 3 * column]
            if row + column >= len(data):
                assert cell == "   "
                continue
            assert int(cell[:2], 16) == data[row + column]
            if cell[2] == "*":
                marked.add(row + column - skip)
            elif row + column >= skip:
                assert (cell[2] == "+") == (score.surprisal[row + column - skip] >= 8)
    assert marked == set(worst)
    assert lines[-1].startswith(f"* the {top} listed")


def test_the_hex_view_has_colours_on_a_terminal_and_none_in_a_pipe(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["score", "--model", str(model), str(TRACES[0]), "--hex", "--dtype", "float32"]
    plain = bgpt(*words).stdout
    assert "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = CliRunner().invoke(main, words, color=True).stdout
    for colour in (31, 33, 41):
        assert re.search(rf"\x1b\[[\d;]*\b{colour}m", coloured)
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


def test_the_most_surprising_bytes_as_json(model: Path) -> None:
    words = ["score", "--model", model, TRACES[0], "--dtype", "float32", "--json"]
    assert "most_surprising" not in json.loads(bgpt(*words).stdout)["files"][0]
    found = json.loads(bgpt(*words, "--hex", "--top", 3).stdout)["files"][0]["most_surprising"]
    data = TRACES[0].read_bytes()
    score = score_file(checkpoint.load(model).model, data, "bin")
    assert [entry["offset"] for entry in found] == score.most_surprising(3).tolist()
    for entry in found:
        assert entry["byte"] == data[entry["offset"]]
        assert entry["bits"] == pytest.approx(score.surprisal[entry["offset"]], abs=1e-4)
        assert 0 < entry["confidence"] <= 1
        assert entry["expected"] != entry["byte"]


def test_the_hex_view_of_an_empty_file_is_empty(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.bin").touch()
    result = bgpt("score", "--model", model, tmp_path / "empty.bin", "--hex")
    assert "* the 0 listed" in result.stdout


def test_the_plot_by_position_is_a_picture_and_replaces_none_unasked(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "positions.png"
    words = ["score", "--model", model, *TRACES[:3], "--plot", out, "--skip", 1030]
    assert f"{out}: bits per byte by position" in bgpt(*words).stdout
    with Image.open(out) as picture:
        assert picture.size[0] > 800
    before = out.read_bytes()
    assert refused(*words) == f"{out}: already exists; use --force to replace it"
    assert out.read_bytes() == before
    bgpt(*words, "--force")


def test_a_missing_folder_is_noticed_before_anything_is_scored(tmp_path: Path) -> None:
    out = tmp_path / "none" / "out.png"
    for words in (["score", TRACES[0], "--plot", out], ["explain", TRACES[0], "-o", out]):
        sentence = refused(*words, "--model", tmp_path / "none.pt")
        assert sentence == f"{out}: the folder {out.parent} does not exist; create it"


def test_explain_draws_a_picture(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bits.png"
    words = ["explain", "--model", model, TRACES[0], "-o", out]
    assert bgpt(*words).stdout.startswith(f"{out}: where the ")
    with Image.open(out) as picture:
        assert np.asarray(picture).std() > 0
    assert refused(*words) == f"{out}: already exists; use --force to replace it"
    bgpt(*words, "--force")
    assert "no such file" in refused("explain", "--model", model, tmp_path / "none", "-o", "x")
    assert "Missing option '-o'" in refused("explain", TRACES[0])
    assert list(tmp_path.iterdir()) == [out]


def test_a_pipe_is_scored_as_the_file_is(model: Path, tmp_path: Path) -> None:
    file, pipe = tmp_path / "a.bin", tmp_path / "pipe.bin"
    file.write_bytes(bytes(range(60)))
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()))
    writer.start()
    words = ["score", "--model", model, "--json", "--skip", 5]
    of_pipe, of_file = (json.loads(bgpt(*words, path).stdout)["files"][0] for path in (pipe, file))
    writer.join()
    assert {**of_pipe, "file": ""} == {**of_file, "file": ""}
    assert of_file["bits"] > 0
