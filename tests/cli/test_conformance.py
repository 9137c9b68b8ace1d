"""`cpusim conformance` as its user meets it: verdicts, reports, pictures, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.image import imread

import cli.conformance
import cpusim.sweep
from bytemodel import checkpoint
from bytemodel.config import PRESETS
from bytemodel.model import ByteModel
from cli import heatmaps, render
from cli.cpusim import main
from cpusim.conformance import BINARY_FORMS, FORMS, Report, check
from cpusim.errors import UserError
from cpusim.isa import ACC, IR, ISA, PC
from cpusim.lockstep import Stepper
from cpusim.programs import Programs, generate
from cpusim.trace import open_shard, write_shard
from tests.cli.calls import ReaderGone

ROOT = Path(__file__).parent.parent.parent
SMALL = 100


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A few programs instead of the sweep."""
    programs = generate(SMALL, distribution="uniform", seed=5, max_length=40)
    monkeypatch.setattr(cpusim.sweep, "sweep", lambda: programs)
    return programs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learned nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "ckpt.pt"
    checkpoint.save(path, ByteModel(PRESETS["tiny"]), info={})
    return path


def cpusim_(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["conformance", *map(str, words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def figures(*words: object, code: int = 0) -> dict[str, Any]:
    result = cpusim_(*words, "--no-plots", "--json", "-", code=code)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def wrong_shard(path: Path, *forms: str) -> Path:
    """A recording of the exported programs; what these forms leave in ACC has a bit flipped."""
    cpusim_("--export", "right.shard")
    shard = open_shard(Path("right.shard"))
    records = np.array(shard.records)
    opcodes = [ISA.by_name[form].opcode for form in forms]
    chosen = np.isin(records[:-1, IR], opcodes) & (records[:-1, PC] > 0)
    records[1:][chosen, ACC] ^= 1
    with write_shard(path) as out:
        out.add(shard.memories(0, len(shard)), records, shard.offsets)
    return path


def test_the_plain_python_reference_passes_on_programs_of_the_very_sweep() -> None:
    report = figures("--against", "reference", "--sample", 30)
    assert {"cases", "wrong", "accuracy", "by_form"} < set(report)
    assert (report["wrong"], report["accuracy"]) == (0, 1.0)
    assert report["programs"] == 30
    assert not report["complete"]
    assert report["cases"] == sum(form["count"] for form in report["by_form"].values())
    assert report["programs_in_sweep"] > 20_000
    assert report["cases_in_sweep"] > 21 * 256 * 256


def test_all_right_is_exit_code_0_and_says_what_was_checked(small: Programs) -> None:
    lines = cpusim_("--against", "oracle", "--no-plots").stdout.splitlines()
    assert lines[-1] == "nothing is wrong"
    assert "oracle" in lines
    assert any(line == f"  the whole sweep, {SMALL} programs" for line in lines)
    cases = int((small.lengths + 1).sum())
    assert f"  cases right           100.00 %  {cases:,} of {cases:,}" in lines
    assert not Path("runs").exists()


def test_a_sample_says_that_it_is_one(small: Programs) -> None:
    out = cpusim_("--against", "oracle", "--no-plots", "--sample", 25).stdout
    assert f"a sample of 25 of {SMALL} programs (" in out
    report = figures("--against", "oracle", "--sample", 25)
    assert not report["complete"]
    assert report["cases"] == int((small.lengths[:25] + 1).sum()) < report["cases_in_sweep"]
    assert figures("--against", "oracle", "--sample", 10**6)["complete"]


def test_what_is_wrong_is_told_in_table_json_and_pictures(
    small: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = ("fetch", "HLT", "DEC R", "ADD R R R", "MUL R", "MUL R R", "MUL R R R")
    monkeypatch.setattr(heatmaps, "FORMS", drawn)  # all of them take long
    # A name that no formula and no font knows must not spoil the pictures.
    board = wrong_shard(Path("$\\frac$_\udcff.shard"), "MUL")
    words = ["--against", f"trace:{board}", "--plots", "maps", "--json", "figures.json"]
    out = cpusim_(*words, code=1).stdout
    assert "it does not conform" in out
    assert "heat maps: maps/overview.png and one of each form beside it" in out
    assert max(map(len, out.splitlines())) <= 80
    report = json.loads(Path("figures.json").read_text())
    wrong_forms = {name for name, form in report["by_form"].items() if form["wrong"]}
    assert wrong_forms == {"MUL R", "MUL R R", "MUL R R R"}
    assert report["wrong"] == report["by_field"]["ACC"] > 0
    assert report["accuracy"] == 1 - report["wrong"] / report["cases"]
    for form in wrong_forms:
        figure = report["by_form"][form]
        assert figure["count"] == figure["wrong"] == figure["wrong_result"]
        assert 0 < figure["wrong_pairs"] == figure["pairs"]
    assert len(report["wrong_cases"]) == report["wrong"]
    for case in report["wrong_cases"]:
        assert case["form"] in wrong_forms
        assert case["instruction"].startswith("MUL ")
        assert len(case["operands"]) == 2
        assert case["predicted"]["ACC"] == case["expected"]["ACC"] ^ 1
        assert int(small.lengths[case["program"]]) >= case["step"]
    assert sum(line.startswith("  MUL ") for line in out.splitlines()) == 10

    made = {path.name for path in Path("maps").iterdir()}
    assert made == set(heatmaps.file_names())
    assert len(made) == 1 + len(drawn)
    for form in drawn:
        picture = imread(Path("maps") / (form.replace(" ", "_") + ".png"))[..., :3]
        # The panel alone: legend and title have the colour of a wrong result too.
        panel = picture[int(0.16 * len(picture)) : int(0.8 * len(picture))]
        red = (np.abs(panel - np.array([0xB2, 0x18, 0x2B]) / 255) < 0.02).all(axis=-1)
        assert red.any() == (form in wrong_forms), form
        if form in wrong_forms:
            # Each wrong pair is a square of pixels that is there in full.
            assert red.sum() > 8 * report["by_form"][form]["wrong_pairs"]


@pytest.mark.usefixtures("small")
def test_json_has_an_end_where_one_is_expected_or_predicted() -> None:
    cpusim_("--export", "right.shard")
    shard = open_shard(Path("right.shard"))
    offsets, records = shard.offsets, np.array(shard.records)
    # Every recording says its last record twice, so no end comes where it should.
    longer = np.insert(records, offsets[1:] - 1, records[offsets[1:] - 1], axis=0)
    with write_shard(Path("late.shard")) as out:
        out.add(shard.memories(0, SMALL), longer, offsets + np.arange(SMALL + 1))
    report = figures("--against", "trace:late.shard", code=1)
    assert report["wrong"] == report["by_form"]["HLT"]["wrong_end"] == SMALL
    case = report["wrong_cases"][0]
    assert (case["instruction"], case["operands"], case["expected"]) == ("HLT", [], "end")
    assert set(case["predicted"]) >= {"PC", "ACC", "IR0", "A", "J"}
    assert sum(report["lengths"]["wrong"]) == SMALL
    out_text = cpusim_("--against", "trace:late.shard", "--no-plots", code=1).stdout
    assert f"  {'HLT':<25}a state, not the end" in out_text


@pytest.mark.usefixtures("small")
def test_a_byte_model_is_checked_by_its_parallel_pass(model: Path) -> None:
    report = figures("--model", model, "--sample", 8, "--dtype", "float32", code=1)
    assert report["model"] == str(model)
    assert report["candidate"] == f"model:{model}"
    assert report["wrong"] > 0
    assert report["programs"] == 8


@pytest.mark.usefixtures("small")
def test_the_heat_maps_go_to_runs_conformance_by_default_and_are_not_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Path] = []

    def draw(_report: Report, title: str, folder: Path, **_: Any) -> None:
        assert title == f"oracle: the whole sweep, {SMALL} programs"
        drawn.append(folder)

    monkeypatch.setattr(heatmaps, "draw", draw)
    cpusim_("--against", "oracle")
    assert drawn == [Path("runs/conformance")]
    Path("runs/conformance").mkdir(parents=True)
    Path("runs/conformance/ADD_R.png").write_bytes(b"old")
    told = cpusim_("--against", "oracle", code=2).stderr
    assert told == "runs/conformance/ADD_R.png: already exists; use --force to replace it\n"
    cpusim_("--against", "oracle", "--force")
    assert len(drawn) == 2


@pytest.mark.parametrize("name", ["overview.png", "../maps/ADD_R.png"])
def test_figures_are_not_lost_under_a_heat_map_of_their_name(name: str) -> None:
    Path("maps").mkdir()
    words = ["--against", "oracle", "--plots", "maps", "--json", f"maps/{name}", "--force"]
    told = cpusim_(*words, code=2).stderr
    assert told == f"maps/{name}: a heat map has this very name; give --json another\n"
    assert list(Path("maps").iterdir()) == []


def test_interrupted_it_reports_on_what_was_checked_until_then(
    small: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(candidate: Stepper, programs: Programs, count: int) -> Iterator[Report]:
        yield next(check(candidate, programs, count))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.conformance, "check", cut_off)
    words = ["--against", "oracle", "--no-plots", "--json", "figures.json"]
    result = cpusim_(*words, code=130)
    assert result.stderr == "interrupted: the report is about 64 programs only\n"
    assert f"a sample of 64 of {SMALL} programs (" in result.stdout
    report = json.loads(Path("figures.json").read_text())
    assert (report["complete"], report["programs"]) == (False, 64)
    assert report["cases"] == int((small.lengths[:64] + 1).sum())


@pytest.mark.usefixtures("small")
def test_interrupted_before_anything_was_checked_there_is_no_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut_off(*_: object) -> Iterator[Report]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.conformance, "check", cut_off)
    result = cpusim_("--against", "oracle", "--json", "figures.json", code=130)
    assert (result.stdout, result.stderr) == ("", "interrupted\n")
    assert list(Path().iterdir()) == []


def test_exported_programs_are_valid_traces_in_the_order_of_the_sweep(small: Programs) -> None:
    told = cpusim_("--export", "sweep.shard").stderr
    assert told == f"wrote sweep.shard: {SMALL} traces, {int((small.lengths + 1).sum()):,} cases\n"
    verified = CliRunner().invoke(main, ["verify", "sweep.shard"])
    assert verified.exit_code == 0
    assert f"{SMALL} of {SMALL} traces right" in verified.stdout
    shard = open_shard(Path("sweep.shard"))
    np.testing.assert_array_equal(shard.memories(0, SMALL), small.memories)
    assert figures("--against", "trace:sweep.shard")["wrong"] == 0


@pytest.mark.usefixtures("small")
def test_a_recording_of_other_programs_is_refused() -> None:
    Path("inc.s").write_text("INC\nHLT")
    ran = CliRunner().invoke(main, ["run", "inc.s", "--trace", "inc.bin"])
    assert ran.exit_code == 0
    told = cpusim_("--against", "trace:inc.bin", "--no-plots", code=2).stderr
    assert told == (
        "trace:inc.bin: holds other programs than the sweep's;"
        " record the ones that --export writes\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "a.pt", "--against", "oracle"], "--model CKPT is short for"),
        (["--against", "orcale"], "did you mean oracle?"),
        (["--against", "refrence"], "did you mean reference?"),
        (["--against", "reference:x"], "the reference takes no file; write just reference"),
        (["--model", "none.pt"], "none.pt: no such checkpoint"),
        (["--against", "oracle", "--sample", "0"], "--sample"),
        (["--against", "oracle", "--json", "no/where.json"], "the folder no does not exist"),
        (
            ["--against", "oracle", "--plots", "file"],
            "file: is a file where a folder is to be made",
        ),
        (
            ["--against", "oracle", "--plots", "x/maps", "--json", "x"],
            "x: is named as a file and as a folder of heat maps",
        ),
        (["--against", "oracle", "--plots", "/proc/maps"], "/proc/overview.png: cannot be written"),
        (["--against", "oracle", "--plots", "file/a/b"], "file: is a file where a folder is"),
        (["--against", "oracle", "--json", "file"], "file: already exists; use --force"),
        (["--export", "file"], "file: already exists; use --force"),
        (["--export", "no/where.shard"], "the folder no does not exist; create it"),
        (["--export", "x", "--against", "oracle"], "checks nothing; leave out --against"),
        (["--export", "x", "--no-plots", "--sample", "3"], "leave out --sample, --no-plots"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_refused_in_one_sentence_before_anything_runs(
    words: Sequence[str], told: str
) -> None:
    Path("file").write_text("old")
    assert told in cpusim_(*words, code=2).stderr
    assert [path.name for path in Path().iterdir()] == ["file"]
    assert Path("file").read_text() == "old"


def test_heat_maps_that_a_broken_link_would_lose_are_refused_before_the_check() -> None:
    Path("maps").symlink_to("nowhere")
    told = cpusim_("--against", "oracle", "--plots", "maps", code=2)
    assert told.stderr == "maps: is a file where a folder is to be made; name another\n"
    assert told.stdout == ""


@pytest.mark.usefixtures("small")
def test_a_reader_that_goes_away_still_leaves_the_heat_maps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(heatmaps, "draw", lambda _report, _title, folder, **_: drawn.append(folder))
    monkeypatch.setattr(render, "stdout", ReaderGone)
    cpusim_("--against", "oracle", "--plots", "maps", code=141)
    assert drawn == [Path("maps")]


@pytest.mark.usefixtures("small")
def test_the_report_is_told_even_if_the_heat_maps_cannot_be_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(*_: Any, **__: Any) -> None:
        raise UserError("maps/overview.png: already exists; use --force to replace it")

    monkeypatch.setattr(heatmaps, "draw", draw)
    result = cpusim_("--against", "oracle", "--plots", "maps", code=2)
    assert result.stdout.splitlines()[-1] == "nothing is wrong"
    assert result.stderr.startswith("maps/overview.png: already exists")


def test_help_loads_neither_torch_nor_numba_nor_matplotlib() -> None:
    code = (
        "import sys; from cli.cpusim import main\n"
        "main(['conformance', '--help'], standalone_mode=False)\n"
        "print({'torch', 'numba', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_form_has_a_picture_and_binary_ones_show_pairs() -> None:
    names = heatmaps.file_names()
    assert len(names) == len(set(names)) == 1 + len(FORMS)
    assert {form.replace(" ", "_") + ".png" for form in BINARY_FORMS} < set(names)
