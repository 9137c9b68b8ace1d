"""`cpusim fuzz` as its user meets it: what it finds, keeps, replays and refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from bytemodel import checkpoint, cpu
from bytemodel.config import PRESETS
from bytemodel.model import ByteModel
from cli.cpusim import main
from cpusim.assembler import assemble, assemble_file
from cpusim.dataset import verify as verify_traces
from cpusim.isa import FIELDS
from cpusim.lockstep import OracleStepper, Stepper
from cpusim.trace import read_trace
from tests.cpusim import planted
from tests.cpusim.planted import Fault, Planted

ROOT = Path(__file__).parent.parent.parent
FAULTS = planted.division_by_zero, planted.product_of_256, planted.slot_200_is_72


def cpusim(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def refused(*words: object) -> str:
    result = cpusim("fuzz", *words, code=2)
    assert "Traceback" not in result.output
    return result.stderr.strip()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes whatever --model names a CPU with these faults, or another Stepper."""

    def be(*faults: Fault, stepper: Stepper | None = None) -> None:
        monkeypatch.setattr(cpu, "load_stepper", lambda *_: stepper or Planted(faults))

    return be


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_failures_are_listed_saved_and_announced_with_exit_code_1(model: Any) -> None:
    model(*FAULTS)
    result = cpusim("fuzz", "--model", "m.pt", "--programs", 64, code=1)
    lines = result.stdout.splitlines()
    assert lines[0] == "form       field           wrong steps  length  example"
    rows = [line.split() for line in lines[1 : lines.index("")]]
    assert [row[-2] for row in rows] == ["2", "201", "2"]
    assert re.search(r"^fetch +IR +\d+ +201  fetch-ir-\w{8}\.s$", result.stdout, re.MULTILINE)
    assert re.search(r"^MUL R R +target register +\d+ +2  mul-r-r-target-", result.stdout, re.M)
    assert "planted against oracle" in lines
    assert lines[-2:] == [
        "replay all: cpusim compare --model m.pt fuzz/*.bin",
        "failures were found",
    ]
    assert max(map(len, lines)) <= 80
    names = {path.name for path in Path("fuzz").glob("*.s")}
    assert {row[-1] for row in rows} == names
    for name in names:
        assert f": fuzz/{name}, " in result.stderr


def test_a_corpus_whose_name_looks_like_an_option_can_be_replayed(model: Any) -> None:
    model(planted.division_by_zero)
    words = ["--model", "m.pt", "--programs", 10, "--out", "-my corpus"]
    (line,) = [
        line
        for line in cpusim("fuzz", *words, code=1).stdout.splitlines()
        if line.startswith("replay all: cpusim ")
    ]
    assert line == "replay all: cpusim compare --model m.pt './-my corpus'/*.bin"


def test_compare_replays_the_corpus_and_each_command_shows_its_failure(model: Any) -> None:
    model(*FAULTS, planted.swap_with_itself)
    cpusim("fuzz", "--model", "m.pt", "--programs", 64, "--out", "a corpus", code=1)
    folder = Path("a corpus")
    traces = sorted(folder.glob("*.bin"))
    assert len(traces) == 4
    report = json.loads(cpusim("compare", "--model", "m.pt", *traces, "--json", "-", code=1).stdout)
    assert (report["programs"], report["exact_programs"]) == (len(traces), 0)
    assert not verify_traces([folder]).failures
    for path in traces:
        text = path.with_suffix(".s").read_text()
        assert assemble_file(path.with_suffix(".s")) == read_trace(path).memory
        step = int(re.search(r"^; step (\d+) of", text, re.M)[1])  # type: ignore[index]
        expected = re.search(r"^; expected +(.*)", text, re.M)[1].split()  # type: ignore[index]
        predicted = re.search(r"^; predicted +(.*)", text, re.M)[1].split()  # type: ignore[index]
        commands = re.findall(r"^; cpusim (compare .*)$", text, re.M)
        assert len(commands) == 2
        for command in commands:
            shown = cpusim(*shlex.split(command), "--json", "-", code=1).stdout
            difference = json.loads(shown)["first_difference"]
            assert difference["step"] == step
            for field, values in difference["fields"].items():
                place = FIELDS.index(field)
                assert values["expected"] == int(expected[place])
                assert values["predicted"] == int(predicted[place])


def test_a_failure_that_never_comes_first_is_replayed_from_its_step(model: Any) -> None:
    def off(memory: Any, states: Any, said: Any) -> Any:
        if len(states) == 1:
            said[0] = 7
            return said
        return planted.division_by_zero(memory, states, said)

    model(off)
    cpusim("fuzz", "--model", "m.pt", "--programs", 10, code=1)
    (path,) = Path("fuzz").glob("div*.s")
    for command in re.findall(r"^; cpusim (compare .*)$", path.read_text(), re.M):
        assert command.endswith(" --from-step 2")
        shown = json.loads(cpusim(*shlex.split(command), "--json", "-", code=1).stdout)
        assert shown["first_difference"]["fields"] == {
            "A": {
                "expected": 255,
                "predicted": 0,
                "expected_probability": None,
                "predicted_probability": None,
            }
        }


def test_the_next_run_says_which_failures_are_fixed_and_overwrites_nothing(model: Any) -> None:
    model(*FAULTS)
    cpusim("fuzz", "--model", "m.pt", "--programs", 64, code=1)
    before = contents(Path("fuzz"))
    count = len(before) // 2
    model(*FAULTS[1:])
    again = cpusim("fuzz", "--model", "m.pt", "--programs", 64, code=1).stdout
    assert f"corpus fuzz: {count} programs replayed, {count - 1} still fail, 1 fixed\n" in again
    assert re.search(r"^  fixed        div-r-r-target-\w+\.bin$", again, re.M)
    assert re.search(r"^  still fails  fetch-ir-\w+\.bin  fetch, IR$", again, re.M)
    assert re.search(r"fetch-ir-\w+\.s \(known\)$", again, re.M)
    model(stepper=OracleStepper())
    mended = cpusim("fuzz", "--model", "m.pt", "--programs", 1).stdout
    assert f"0 still fail, {count} fixed" in mended
    assert mended.splitlines()[-1] == "no failure was found"
    assert contents(Path("fuzz")) == before


def test_json_holds_what_the_table_does(model: Any) -> None:
    model(*FAULTS)
    result = cpusim("fuzz", "--model", "m.pt", "--programs", 64, "--json", code=1)
    report = json.loads(result.stdout)
    assert (report["programs"], report["seed"], report["candidate"]) == (64, 1, "planted")
    assert report["failed"]
    assert not report["interrupted"]
    buckets = {(b["form"], b["field"]): b for b in report["buckets"]}
    assert set(buckets) == {
        ("DIV R R", "target register"),
        ("MUL R R", "target register"),
        ("fetch", "IR"),
    }
    assert sum(b["wrong_steps"] for b in buckets.values()) == report["wrong_steps"]
    assert buckets["fetch", "IR"]["minimal_length"] == 201
    for bucket in buckets.values():
        for example in bucket["examples"]:
            assert example["minimal"]
            assert example["new"]
            assert example["length"] == bucket["minimal_length"]
            assert (Path(report["folder"]) / example["assembly"]).is_file()
            assert (Path(report["folder"]) / example["trace"]).is_file()
    again = json.loads(cpusim("fuzz", "--programs", 64, "--json", code=1).stdout)
    assert {entry["status"] for entry in again["corpus"]} == {"still fails"}
    assert len(again["corpus"]) == len(list(Path("fuzz").glob("*.bin")))


def test_the_oracle_has_no_failure() -> None:
    result = cpusim("fuzz", "--against", "oracle", "--programs", 3)
    assert result.stdout.splitlines()[-1] == "no failure was found"
    assert result.stderr == ""
    assert json.loads(cpusim("fuzz", "--against", "oracle", "--programs", 1, "--json").stdout) | {
        "seconds": 0,
        "steps": 0,
    } == {
        "candidate": "oracle",
        "seed": 1,
        "programs": 1,
        "steps": 0,
        "wrong_steps": 0,
        "seconds": 0,
        "interrupted": False,
        "failed": False,
        "folder": "fuzz",
        "corpus": [],
        "buckets": [],
    }


def test_a_byte_model_is_fuzzed(tmp_path: Path) -> None:
    """One that has learned nothing: every step of its programs is wrong."""
    torch.manual_seed(0)
    net = ByteModel(PRESETS["tiny"])
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path / "ckpt.pt"
    checkpoint.save(path, net, info={})
    # Program 0 of this seed has 3 instructions.
    words = ["--model", path, "--dtype", "float32", "--programs", 1, "--seed", SHORT]
    report = json.loads(cpusim("fuzz", *words, "--json", code=1).stdout)
    assert report["steps"] < 6
    assert report["wrong_steps"] == report["steps"]
    assert any(example["free_running"] for b in report["buckets"] for example in b["examples"])
    result = cpusim("compare", *words[:4], *Path("fuzz").glob("*.bin"), code=1)
    assert "exact programs        0 of" in result.stdout


SHORT = 295


def test_what_there_was_no_time_to_shrink_is_saved_as_it_is_and_said_to_be(model: Any) -> None:
    model(planted.no_end_at_256, planted.slot_200_is_72)
    # Time is up once the first programs have been searched.
    result = cpusim("fuzz", "--model", "m.pt", "--minutes", "1e-9", code=1)
    lines = result.stdout.splitlines()
    assert "  time is up: what was found is saved as far as it was shrunk" in lines
    rows = [line for line in lines if " (not minimal)" in line]
    assert {line.split()[0] for line in rows} >= {"HLT", "fetch"}
    assert len(rows) == len(list(Path("fuzz").glob("*.s")))
    assert "64 programs" in result.stdout
    for path in Path("fuzz").glob("*.s"):
        assert "not shrunk to the end" in path.read_text()


def test_ctrl_c_ends_a_real_run_with_its_findings_saved(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal, sys, types\n"
        "from cli.cpusim import main\n"
        "from tests.cpusim.planted import Planted, division_by_zero\n"
        "class Interrupts(Planted):\n"
        "    def verify(self, cases):\n"
        "        yield from super().verify(cases)\n"
        "        if self.asked > int(sys.argv[1]):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "make = lambda *_: Interrupts((division_by_zero,))\n"
        "fake = types.SimpleNamespace(load_stepper=make, shipped_checkpoint=None)\n"
        "fake.display_name = str\n"
        "sys.modules['bytemodel.cpu'] = fake\n"
        "main(['fuzz', '--model', 'm.pt', '--minutes', '1000'])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(after: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), str(after)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )

    done = run(70)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("interrupted: what was found is saved\n")
    assert "  interrupted: what was found is saved as far as it was shrunk\n" in done.stdout
    assert "Traceback" not in done.stderr
    assert list(Path("fuzz").glob("div-r-r-target-*.s"))
    assert list(Path("fuzz").glob("div-r-r-target-*.bin"))
    for path in Path("fuzz").iterdir():
        path.unlink()
    nothing = run(0)
    assert nothing.returncode == 130
    assert nothing.stderr.endswith("interrupted: no failure was found until then\n")
    assert list(Path("fuzz").iterdir()) == []


# Refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "a.pt", "--against", "oracle"], "use one of them"),
        (["--minutes", "1", "--programs", "1"], "exclude each other"),
        (["--minutes", "0"], "no time to search"),
        (["--minutes", "nan"], "no time to search"),
        (["--minutes", "inf"], "no time to search"),
        (["--minutes", "1e307"], "no time to search"),
        (["--programs", "0"], "Invalid value for '--programs'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--model", "missing.pt", "--programs", "1"], "missing.pt: no such checkpoint"),
        (["--against", "orakel"], "did you mean oracle?"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], told: str, tmp_path: Path) -> None:
    assert told in refused(*words, "--out", "a/corpus")
    assert list(tmp_path.iterdir()) == []


def test_a_recording_cannot_be_fuzzed() -> None:
    Path("t.bin").write_bytes(assemble("HLT") + bytes(16))
    assert "knows no program but its own" in refused("--against", "trace:t.bin")
    assert not Path("fuzz").exists()


@pytest.mark.parametrize("name", ["a" * 256, "/proc/no/corpus"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_search(name: str) -> None:
    told = refused("--against", "oracle", "--minutes", 1000, "--out", name)
    assert told.startswith(f"{name}: cannot be ")
    assert told.endswith("; choose another name with --out")


def test_a_hostile_corpus_is_refused_before_torch_is_loaded_and_stays_as_it_is() -> None:
    Path("file").write_text("mine")
    bad = Path("bad")
    bad.mkdir()
    (bad / "a.bin").write_bytes(bytes(1041))
    code = (
        "import sys; from cli.cpusim import main\n"
        "for out in ('file', 'bad'):\n"
        "    try: main(['fuzz', '--out', out])\n"
        "    except SystemExit as end: print(end.code, {'torch', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "2 set()\n2 set()\n"
    first, second = done.stderr.splitlines()
    assert first.startswith("file: is no folder")
    assert second.startswith("bad/a.bin: 1,041 bytes")
    assert Path("file").read_text() == "mine"
    assert contents(bad) == {"a.bin": bytes(1041)}


def test_a_folder_with_a_name_of_many_lines_does_not_break_the_assembly(model: Any) -> None:
    model(planted.division_by_zero)
    out = Path("a\nHLT x\udcff")
    cpusim("fuzz", "--model", "m\n.pt", "--out", out, "--programs", 10, code=1)
    (path,) = out.glob("*.s")
    assert assemble(path.read_text()) == read_trace(path.with_suffix(".bin")).memory
