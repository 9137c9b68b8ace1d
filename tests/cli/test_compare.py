"""`cpusim compare` as its user meets it: verdicts, diffs, reports, replays, refusals."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from bytemodel import checkpoint, cpu
from bytemodel.config import PRESETS
from bytemodel.model import ByteModel
from cli.comparison import as_junit
from cli.cpusim import main
from cpusim import lockstep
from cpusim.assembler import assemble
from cpusim.isa import ACC, FIRST_REGISTER, IR, MEMORY_SIZE, PC, STATE_SIZE
from cpusim.machine import run_batch
from cpusim.programs import generate
from cpusim.reference import run
from cpusim.trace import write_shard

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "LOADI 5\nPOP A\nADD A B\nSWAP A\nHLT\n"
START = bytes([0, 253, 0, 0, 0, 0, 63, 235, *[7] * 8])


def cpusim(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["compare", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


def refused(*words: object) -> str:
    """The sentence printed on stderr with exit code 2."""
    result = cpusim(*words, code=2)
    assert "Traceback" not in result.output
    return result.stderr.strip()


def figures(*words: object, code: int = 0) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(cpusim(*words, "--json", "-", code=code).stdout)
    return report


def same_after_replay(difference: dict[str, Any]) -> dict[str, Any]:
    """What the replay command of a difference finds; its program must be the only one."""
    program, command, *words = shlex.split(difference["replay"])
    assert (program, command) == ("cpusim", "compare")
    report = figures(*words, code=1)
    assert report["programs"] == 1
    assert report["first_difference"]["matched_steps"] == 0
    replayed: dict[str, Any] = report["first_difference"]
    return replayed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learned nothing, so that it differs at once."""
    torch.manual_seed(0)
    net = ByteModel(PRESETS["tiny"])
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("model") / "ckpt.pt"
    checkpoint.save(path, net, info={})
    return path


def trace(path: Path, *changes: tuple[int, int, int], source: str = PROGRAM) -> Path:
    """The oracle's trace of a program with bytes changed: (record, field, value)."""
    memory = assemble(source)
    data = bytearray(memory + b"".join(run(memory, START).records))
    for record, field, value in changes:
        data[MEMORY_SIZE + STATE_SIZE * record + field] = value
    path.write_bytes(data)
    return path


# Verdicts -----------------------------------------------------------------------------


def test_a_right_recording_agrees_with_exit_code_0(tmp_path: Path) -> None:
    right = trace(tmp_path / "right.bin")
    result = cpusim("--against", f"trace:{right}")
    assert result.stdout.splitlines()[-1] == "they agree"
    assert "exact programs        1 of 1" in result.stdout
    assert result.stderr == ""


def test_a_wrong_recording_differs_with_exit_code_1_and_is_shown_at_its_step(
    tmp_path: Path,
) -> None:
    wrong = trace(tmp_path / "wrong.bin", (4, FIRST_REGISTER, 249))
    lines = cpusim("--against", f"trace:{wrong}", code=1).stdout.splitlines()
    shown = lines[: lines.index("")]
    assert shown == [
        f"{wrong}: wrong state at step 4 of 6",
        "free-running: 3 steps before it match",
        "  step   PC  instruction  ACC    A    B    C    D    E    F    G    H    I    J",
        "     0    0  (start)      253   63  235    7    7    7    7    7    7    7    7",
        "     1    1  LOADI 5      253   63  235    7    7    7    7    7    7    7    7",
        "     2    2  POP A          5*  63  235    7    7    7    7    7    7    7    7",
        ">    3    3  ADD A B        5    5* 235    7    7    7    7    7    7    7    7",
        "  field  expected  predicted   after",
        "  A      240       249         ADD A B, which writes it",
        "resynchronised: 1 of 6 steps wrong: 4",
        f"replay: cpusim compare --against trace:{wrong} --from-step 4",
    ]
    assert lines[-1] == "they differ"


def test_a_wrong_fetch_is_told_from_a_wrong_result(tmp_path: Path) -> None:
    wrong = trace(tmp_path / "wrong.bin", (4, PC, 9), (4, IR + 1, 2), (4, ACC, 6))
    out = cpusim("--against", f"trace:{wrong}", code=1).stdout
    assert "  PC       4         9         fetch from slot 3: SWAP A\n" in out
    assert "  IR1      1         2         fetch from slot 3: SWAP A\n" in out
    assert "  ACC      5         6         ADD A B, which leaves it\n" in out
    assert "1, in 1 result, 1 fetch, 0 ends" in out


def test_a_recording_that_stops_early_or_late_differs_there(tmp_path: Path) -> None:
    whole = trace(tmp_path / "whole.bin").read_bytes()
    (tmp_path / "short.bin").write_bytes(whole[:-STATE_SIZE])
    (tmp_path / "long.bin").write_bytes(whole + whole[-STATE_SIZE:])
    short = cpusim("--against", f"trace:{tmp_path}/short.bin", code=1).stdout
    assert "short.bin: early end at step 5 of 6" in short
    assert "after SWAP A: expected a state, predicted the end of the trace" in short
    long = cpusim("--against", f"trace:{tmp_path}/long.bin", code=1).stdout
    assert "long.bin: late or missing end at step 6 of 6" in long
    assert "after HLT: expected the end of the trace, predicted a state" in long


def test_what_differs_at_the_first_step_has_nothing_that_executed(tmp_path: Path) -> None:
    wrong = trace(tmp_path / "wrong.bin", (1, ACC, 1))
    out = cpusim("--against", f"trace:{wrong}", code=1).stdout
    assert "free-running: 0 steps before it match" in out
    assert ">    0    0  (start)" in out
    assert "  ACC    253         1         (start), nothing changes it" in out


@pytest.mark.parametrize(("window", "first"), [(0, None), (1, "     3"), (3, "     1")])
def test_the_window_bounds_the_states_before_a_difference(
    tmp_path: Path, window: int, first: str | None
) -> None:
    wrong = trace(tmp_path / "wrong.bin", (4, ACC, 6))
    lines = cpusim("--against", f"trace:{wrong}", "--window", window, code=1).stdout.splitlines()
    table = lines[2 : lines.index("  field  expected  predicted   after")]
    assert len(table) == (window + 1 if window else 0)
    if first is not None:
        assert table[1][1:6] == first[1:]
        assert table[-1].startswith(">    3")


def test_either_side_can_be_the_reference(tmp_path: Path) -> None:
    wrong = trace(tmp_path / "wrong.bin", (4, ACC, 6))
    report = figures("--reference", f"trace:{wrong}", "--against", "oracle", code=1)
    assert (report["reference"], report["candidate"]) == (f"trace:{wrong}", "oracle")
    # Put back on the recording, the oracle also disagrees with what follows from the error.
    assert report["first_difference"]["step"] == 4
    assert report["first_difference"]["fields"]["ACC"]["expected"] == 6
    assert report["first_difference"]["wrong_steps"] == [4, 5]
    assert same_after_replay(report["first_difference"])["step"] == 4


def test_a_shard_is_compared_trace_by_trace_to_the_last(tmp_path: Path) -> None:
    made = generate(6, seed=4, min_length=5, max_length=9)
    batch = run_batch(made.memories, made.states)
    records = batch.records.copy()
    for index in (1, 4):
        records[batch.offsets[index] + 3, ACC] ^= 1
    shard = tmp_path / "runs.shard"
    with write_shard(shard) as writer:
        writer.add(made.memories, records, batch.offsets)
    report = figures("--against", f"trace:{shard}", code=1)
    assert (report["programs"], report["exact_programs"]) == (6, 4)
    assert [d["program"] for d in report["differences"]] == [f"{shard}[1]", f"{shard}[4]"]
    for difference in report["differences"]:
        replayed = same_after_replay(difference)
        assert replayed["program"] == difference["program"]
        assert (replayed["step"], replayed["fields"]) == (3, difference["fields"])
    # The first program named is not the last one shown.
    out = cpusim("--against", f"trace:{shard}", "--show", 1, code=1).stdout
    assert f"{shard}[1]: wrong state at step 3" in out
    assert "other programs that differ: 1\n" in out
    assert f"ACC                         {shard}[4]\n" in out


# Models -------------------------------------------------------------------------------


def test_a_model_alone_is_compared_on_100_random_programs(model: Path) -> None:
    report = figures("--model", model, code=1)
    assert {"programs", "exact_programs", "instructions", "instruction_accuracy", "bytes"} < set(
        report
    )
    assert {"byte_accuracy", "by_form", "first_difference", "model", "seed"} < set(report)
    assert report["programs"] == 100
    assert (report["seed"], report["distribution"]) == (1, "published")
    assert report["model"] == str(model)
    assert report["bytes"] == 16 * report["instructions"]
    # Every program: its records, and the end. Each step stands under one form.
    made = generate(100, seed=1)
    assert report["instructions"] == int(made.lengths.sum()) + 100
    assert sum(form["count"] for form in report["by_form"].values()) == report["instructions"]
    assert (
        sum(form["wrong"] for form in report["by_form"].values()) == (report["wrong_instructions"])
    )
    assert report["by_form"]["fetch"]["count"] == 100
    assert report["by_form"]["HLT"]["count"] >= 100


def test_a_models_difference_shows_probabilities_and_replays(model: Path) -> None:
    words = ["--model", model, "--programs", 3, "--seed", 9, "--max-length", 12]
    words += ["--distribution", "uniform", "--dtype", "float32"]
    report = figures(*words, code=1)
    assert len(report["differences"]) == 3
    for number, difference in enumerate(report["differences"]):
        assert f"--start {number} --seed 9 --distribution uniform" in difference["replay"]
        assert "--max-length 12" in difference["replay"]
        replayed = same_after_replay(difference)
        assert replayed["program"] == difference["program"] == f"random program {number}"
        assert replayed["step"] == difference["step"]
        field = next(iter(difference["fields"]))
        assert 0 < replayed["fields"][field]["predicted_probability"] < 1
        assert replayed["fields"][field] == pytest.approx(difference["fields"][field], rel=1e-3)
    out = cpusim(*words, code=1).stdout
    assert "  field  expected          predicted           after\n" in out
    assert " p 0." in out


def test_rollout_names_the_same_first_differences(model: Path) -> None:
    words = ["--model", model, "--programs", 4, "--max-length", 20, "--dtype", "float32"]
    verified, rolled = figures(*words, code=1), figures(*words, "--rollout", code=1)
    assert rolled["rollout"]
    for one, other in zip(verified["differences"], rolled["differences"], strict=True):
        assert (one["program"], one["step"], one["wrong_steps"]) == (
            other["program"],
            other["step"],
            other["wrong_steps"],
        )
        assert other["replay"] == one["replay"].replace(" --from-step", " --rollout --from-step")


def test_models_can_be_compared_with_each_other(model: Path) -> None:
    # Its own reference, a model is exact, if it says states at all; this one does.
    report = figures(
        *("--reference", f"model:{model}", "--against", f"model:{model}", "--programs", 2),
        *("--max-steps", 10, "--dtype", "float32"),
    )
    assert report["agree"]
    assert report["model"] == str(model)
    assert set(report["unchecked_ends"].values()) == {"step limit of 10 reached"}


def test_without_a_shipped_checkpoint_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path
) -> None:
    monkeypatch.setattr(cpu, "SHIPPED", tmp_path / "cpu-small.pt")
    assert "has no trained weights; make some with `bgpt train cpu" in refused("--programs", 1)
    monkeypatch.setattr(cpu, "SHIPPED", model)
    words = ["--programs", 1, "--max-length", 3, "--dtype", "float32"]
    report = figures(*words, code=1)
    # Its name, not where this copy of the program lies.
    assert report["model"] == f"{model.stem} (shipped)"
    assert report["candidate"] == f"model:{model.stem} (shipped)"
    assert str(model.parent) not in json.dumps(report)
    assert "--model" not in report["first_difference"]["replay"]
    assert same_after_replay(report["differences"][0])["step"] == report["differences"][0]["step"]
    html = tmp_path / "report.html"
    shown = cpusim(*words, "--html", html, code=1).stdout
    assert f"\nmodel:{model.stem} (shipped) against oracle\n" in shown
    page = html.read_text()
    assert f"{model.stem} (shipped)" in page
    for text in (shown, page):
        assert str(model.parent) not in text


# Programs in files --------------------------------------------------------------------


def test_assembly_images_and_traces_are_all_programs(tmp_path: Path) -> None:
    source = tmp_path / "prog.s"
    source.write_text(PROGRAM)
    image = tmp_path / "prog.bin"
    image.write_bytes(assemble(PROGRAM))
    recorded = trace(tmp_path / "trace.bin")
    report = figures(source, image, recorded, "--against", "oracle")
    assert report["files"] == [str(source), str(image), str(recorded)]
    assert (report["programs"], report["instructions"]) == (3, 18)
    assert (report["seed"], report["distribution"]) == (None, None)


def test_files_and_random_programs_can_be_compared_together(tmp_path: Path) -> None:
    report = figures(trace(tmp_path / "t.bin"), "--programs", 2, "--against", "oracle")
    assert report["programs"] == 3
    assert report["seed"] == 1
    assert (report["acc"], report["set"], report["random_state"]) == (None, {}, None)


def test_all_reports_tell_how_programs_were_drawn_and_their_first_states_changed(
    tmp_path: Path,
) -> None:
    path, page = trace(tmp_path / "t.bin"), tmp_path / "page.html"
    words = [path, "--programs", 2, "--distribution", "uniform", "--against", "oracle"]
    words += ["--acc", 9, "--set", "A=0", "--set", "b=0x10", "--random-state", 7]
    lines = cpusim(*words, "--html", page).stdout.splitlines()
    told = lines[lines.index("oracle against oracle") + 1 :][:3]
    assert told == [
        f"  {path}",
        "  2 random programs, seed 1, uniform, 1 to 255 instructions",
        "  first states changed by --random-state 7 --acc 9 --set A=0,B=16",
    ]
    assert f"<bdi>{'; '.join(map(str.strip, told))}</bdi>" in page.read_text()
    report = figures(*words)
    assert (report["distribution"], report["random_state"]) == ("uniform", 7)
    assert (report["acc"], report["set"]) == (9, {"A": 0, "B": 16})


def test_a_named_trace_that_is_not_what_the_cpu_does_is_run_again_and_said(
    tmp_path: Path,
) -> None:
    wrong = trace(tmp_path / "wrong.bin", (4, ACC, 6))
    result = cpusim(wrong, "--against", "oracle")
    assert result.stderr == (
        f"{wrong}: is not what the CPU does, from record 4 on; only its memory and first record"
        f" are used (--against trace:{wrong} compares it)\n"
    )
    assert cpusim(trace(tmp_path / "right.bin"), "--against", "oracle").stderr == ""


def test_the_initial_state_can_be_set_and_is_part_of_the_replay(
    tmp_path: Path, model: Path
) -> None:
    source = tmp_path / "my prog.s"
    source.write_text("INC\nHLT")
    words = [source, "--model", model, "--acc", 7, "--set", "b=0x10", "--random-state", 3]
    out = cpusim(*words, "--show", 1, code=1).stdout
    (start,) = (line for line in out.splitlines() if "(start)    " in line)
    assert start.split()[4] == "7"
    assert start.split()[6] == "16"
    difference = figures(*words, code=1)["first_difference"]
    assert f"compare '{source}' --random-state 3 --acc 7 --set B=16 --model" in difference["replay"]
    assert same_after_replay(difference)["fields"].keys() == difference["fields"].keys()
    told = refused("--random-state", 7, "--against", "oracle")
    assert told.startswith("--random-state belongs to a PROGRAM, so name one")


def test_a_name_that_looks_like_an_option_can_be_replayed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-my.s").write_text("INC\nHLT")
    difference = figures("./-my.s", "--model", model, code=1)["first_difference"]
    assert "compare ./-my.s " in difference["replay"]
    assert same_after_replay(difference)["program"] == difference["program"]


def test_random_programs_can_begin_with_what_is_set(tmp_path: Path, model: Path) -> None:
    words = ["--programs", 2, "--start", 5, "--acc", 0, "--set", "A=1,B=0"]
    lines = cpusim(*words, "--model", model, code=1).stdout.splitlines()
    starts = [line.split() for line in lines if "(start)    " in line]
    assert [start[4] for start in starts] == ["0", "0"]
    assert [start[5:7] for start in starts] == [["1", "0"]] * 2
    difference = figures(*words, "--model", model, code=1)["first_difference"]
    assert "--programs 1 --start" in difference["replay"]
    assert "--acc 0 --set A=1,B=0" in difference["replay"]
    assert same_after_replay(difference)["fields"].keys() == difference["fields"].keys()
    source, trace = tmp_path / "one.s", tmp_path / "one.bin"
    source.write_text("INC\nHLT")
    CliRunner().invoke(main, ["run", str(source), "--trace", str(trace)])
    told = refused("--against", f"trace:{trace}", "--acc", 7)
    assert told == "--acc and --set would change what the recording did; leave them out"


def test_a_program_that_never_halts_is_compared_up_to_the_limit(tmp_path: Path) -> None:
    source = tmp_path / "endless.s"
    source.write_text("INC\n" * 256)
    out = cpusim(source, "--against", "oracle", "--max-steps", 300).stdout
    assert "300 of 300" in out
    assert "end not checked in 1 program: step limit of 300 reached" in out


def test_a_program_longer_than_the_model_reads_is_cut_and_that_is_said(
    tmp_path: Path, model: Path
) -> None:
    source = tmp_path / "endless.s"
    source.write_text("INC\n" * 256)
    out = cpusim(source, "--model", model, code=1).stdout
    assert f"end not checked in 1 program: model:{model} can follow 446 records" in out
    assert " of 445 steps wrong: 1, 2," in out


def test_an_illegal_instruction_ends_the_comparison_where_it_traps(tmp_path: Path) -> None:
    source = tmp_path / "illegal.s"
    source.write_text("INC\n.byte 0xff,0,0,0\nHLT")
    out = cpusim(source, "--against", "oracle").stdout
    assert "end not checked in 1 program: slot 1 holds ff 00 00 00" in out
    assert "2 of 2" in out


def test_from_step_checks_from_there_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    wrong = trace(tmp_path / "wrong.bin", (2, ACC, 9), (4, ACC, 6))
    report = figures("--against", f"trace:{wrong}", "--from-step", 3, code=1)
    assert report["instructions"] == 4
    assert report["first_difference"]["step"] == 4
    out = cpusim("--against", f"trace:{wrong}", "--from-step", 3, code=1).stdout
    assert "free-running: from step 3 on, 1 step before it match" in out
    report = figures("--programs", 30, "--from-step", 60, "--against", "oracle")
    assert report["programs"] + len(report["left_out"]) == 30
    assert len(report["left_out"]) > 0
    told = refused("--against", f"trace:{wrong}", "--from-step", 99)
    assert told == "nothing to compare: no program has a step 99; the longest has 6"


# Reports ------------------------------------------------------------------------------


def test_json_goes_to_a_file_beside_the_report_on_the_terminal(tmp_path: Path) -> None:
    wrong, out = trace(tmp_path / "wrong.bin", (4, ACC, 6)), tmp_path / "figures.json"
    words = ["--against", f"trace:{wrong}", "--json", out]
    assert "they differ" in cpusim(*words, code=1).stdout
    report = json.loads(out.read_text())
    assert report["model"] is None
    assert not report["agree"]
    assert report["byte_accuracy"] == 1 - 1 / 96
    assert report["instruction_accuracy"] == 1 - 1 / 6
    assert report["by_form"]["ADD R R"] == {
        "count": 1,
        "wrong": 1,
        "accuracy": 0.0,
        "wrong_result": 1,
        "wrong_fetch": 0,
        "wrong_end": 0,
    }
    assert report["first_difference"] == {
        "median_step": 4.0,
        "program": str(wrong),
        "step": 4,
        "steps": 6,
        "matched_steps": 3,
        "kind": "wrong state",
        "executed": "ADD A B",
        "fields": {
            "ACC": {
                "expected": 5,
                "predicted": 6,
                "expected_probability": None,
                "predicted_probability": None,
            }
        },
        "refusal": None,
        "wrong_steps": [4],
        "replay": f"cpusim compare --against trace:{wrong} --from-step 4",
    }
    assert refused(*words) == f"{out}: already exists; use --force to replace it"
    cpusim(*words, "--force", code=1)


def test_agreement_leaves_no_first_difference_in_the_json(tmp_path: Path) -> None:
    report = figures("--against", f"trace:{trace(tmp_path / 'right.bin')}")
    assert report["agree"]
    assert report["first_difference"] is None
    assert report["differences"] == []


def test_junit_has_a_case_for_each_program_with_the_diff_of_those_that_fail(
    tmp_path: Path,
) -> None:
    made = generate(3, seed=4, min_length=4, max_length=4)
    batch = run_batch(made.memories, made.states)
    records = batch.records.copy()
    records[batch.offsets[1] + 2, ACC] ^= 1
    shard, out = tmp_path / "a<b>&\x01\n.shard", tmp_path / "report.xml"
    with write_shard(shard) as writer:
        writer.add(made.memories, records, batch.offsets)
    cpusim("--against", f"trace:{shard}", "--junit", out, code=1)
    suite = ET.fromstring(out.read_bytes())
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "3", "1")
    cases = suite.findall("testcase")
    assert [len(case.findall("failure")) for case in cases] == [0, 1, 0]
    assert (cases[1].get("name") or "").endswith(".shard[1]")
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.get("message") == "wrong state at step 2"
    assert "replay: cpusim compare" in (failure.text or "")


def test_junit_fails_a_program_that_is_wrong_only_when_put_back() -> None:
    made = generate(2, seed=4, min_length=4, max_length=4)
    oracle = lockstep.OracleStepper()
    started = [
        lockstep.Case(f"program {number}", memory, state[None])
        for number, (memory, state) in enumerate(zip(made.memories, made.states, strict=True))
    ]
    compared = lockstep.compare(lockstep.record(oracle, started), oracle)
    first = compared.results[0]
    said = first.said.copy()
    said[1, ACC] ^= 1
    results = (dataclasses.replace(first, said=said), *compared.results[1:])
    compared = dataclasses.replace(compared, results=results)
    assert not compared.agree
    suite = ET.fromstring(as_junit(compared, 1.0, 3, lambda _: ""))
    assert suite.get("failures") == "1"
    failures = suite.findall("testcase/failure")
    assert [failure.get("message") for failure in failures] == ["resynchronised, wrong at step 2"]


def test_programs_that_are_left_out_are_skipped_cases(tmp_path: Path) -> None:
    out = tmp_path / "report.xml"
    words = ["--against", "oracle", "--programs", 30, "--from-step", 60, "--junit", out]
    report = figures(*words)
    suite = ET.fromstring(out.read_bytes())
    assert suite.get("tests") == "30"
    assert len(suite.findall("testcase/skipped")) == len(report["left_out"]) > 0


def test_every_line_of_a_report_fits_80_columns(model: Path) -> None:
    out = cpusim("--model", model, "--programs", 40, "--max-length", 20, code=1).stdout
    assert "\x1b" not in out
    lines = [line for line in out.splitlines() if str(model) not in line]
    assert max(map(len, lines)) <= 80
    assert "other programs that differ: 37" in out
    assert "and 17 more; --json FILE lists all of them" in out


# Refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "a.pt", "--against", "oracle"], "--model CKPT is short for"),
        (["--against", "orcale"], "'orcale' names nothing to compare; did you mean oracle?"),
        (["--against", ""], "'' names nothing to compare; write oracle"),
        (["--against", "xyz:1"], "write oracle, reference, model:CKPT or trace:FILE"),
        (["--against", "trace:"], "'trace:' names no file"),
        (["--against", "trace"], "names no file; write trace:FILE"),
        (["--against", "oracle:x"], "the oracle takes no file"),
        (["--model", "none.pt"], "none.pt: no such checkpoint"),
        (["none.s", "--against", "oracle"], "none.s: no such file"),
        (["--against", "trace:none.bin"], "none.bin: no such file"),
        (["--against", "oracle", "--seed", "4294967296"], "--seed"),
        (["--against", "oracle", "--programs", "0"], "--programs"),
        (["--against", "oracle", "--programs", "1000000000000"], "--programs"),
        (["--against", "oracle", "--min-length", "9", "--max-length", "3"], "lengths from 9 to 3"),
        (["--against", "oracle", "--json", "no/where.json"], "the folder no does not exist"),
        (["--against", "oracle", "--json", "/proc/x.json"], "/proc/x.json: cannot be written"),
        (["--against", "oracle", "--start", str(2**64), "--programs", "1"], "are out of range"),
        (["--against", "oracle", "--start", str(2**64 - 2), "--programs", "3"], "are out of range"),
        (["--against", "oracle", "--json", "x", "--junit", "x"], "name the same file"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_usage_is_refused_in_one_sentence(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 4, 1024, 1025, 1039, 1041, 1055])
def test_a_truncated_recording_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.bin"
    path.write_bytes(trace(path).read_bytes()[:size])
    assert refused("--against", f"trace:{path}").startswith(f"{path}: ")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = trace(tmp_path / "trace.bin")
    told = refused("--model", path)
    assert told.startswith(f"{path}: holds objects other than tensors")
    assert "or is no checkpoint" in told
    assert told.endswith("; name a .pt file that bgpt wrote")


def test_a_program_that_the_recording_does_not_hold_is_refused(tmp_path: Path) -> None:
    recorded = trace(tmp_path / "trace.bin")
    source = tmp_path / "other.s"
    source.write_text("DEC\nHLT")
    assert "holds other programs; name no program" in refused(
        source, "--against", f"trace:{recorded}"
    )


def test_the_shards_trace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    made = generate(2, seed=4)
    batch = run_batch(made.memories, made.states)
    with write_shard(tmp_path / "a.shard") as writer:
        writer.add(made.memories, batch.records, batch.offsets)
    assert cpusim("--against", f"trace:{tmp_path}/a.shard[1]").exit_code == 0
    assert "holds 2 traces" in refused("--against", f"trace:{tmp_path}/a.shard[2]")


def test_comparing_a_recording_loads_neither_torch_nor_numba(tmp_path: Path) -> None:
    path = trace(tmp_path / "trace.bin")
    code = (
        "import sys; from cli.cpusim import main\n"
        f"main(['compare', '--against', 'trace:{path}'], standalone_mode=False)\n"
        "print({'torch', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "set()"
