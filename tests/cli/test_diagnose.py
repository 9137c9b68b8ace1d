"""`cpusim diagnose` as its user meets it, with a model that knows the CPU perfectly."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import bytemodel.cpu
import cli.diagnose
from bytemodel.config import preset
from bytemodel.cpu import ByteModelStepper
from bytemodel.diagnose import Diagnosis
from bytemodel.model import ByteModel
from cli import render
from cli.cpusim import main
from cpusim.assembler import assemble
from cpusim.faults import parse_fault, run_faulty
from cpusim.isa import FIELDS, STATE_SIZE
from cpusim.trace import write_shard
from tests.certain import CertainModel
from tests.cli.calls import ReaderGone

ROOT = Path(__file__).parent.parent.parent
MEMORY = assemble("LOADI 5\nPOP A\nADD A B\nXOR C A\nADD C B D\nROL C\nSWAP A\nHLT\n")
START = bytes([0, 253, 0, 0, 0, 0, 63, 135, *range(7, 15)])


@pytest.fixture(autouse=True)
def certain(monkeypatch: pytest.MonkeyPatch) -> CertainModel:
    """The only model there is."""
    model = CertainModel()
    monkeypatch.setattr(bytemodel.cpu, "load_stepper", lambda *_: model)
    return model


def diagnose(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["diagnose", *map(str, words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def records(*faults: str) -> list[bytes]:
    return list(run_faulty(MEMORY, START, [parse_fault(fault) for fault in faults]).records)


def trace(path: Path, *faults: str) -> Path:
    path.write_bytes(MEMORY + b"".join(records(*faults)))
    return path


def shard(path: Path, *machines: tuple[str, ...]) -> Path:
    """A shard with the trace of each machine, given by its faults."""
    runs = [records(*faults) for faults in machines]
    table = np.frombuffer(b"".join(b"".join(run) for run in runs), np.uint8)
    with write_shard(path) as writer:
        writer.add(
            np.tile(np.frombuffer(MEMORY, np.uint8), (len(runs), 1)),
            table.reshape(-1, STATE_SIZE),
            np.concatenate([[0], np.cumsum([len(run) for run in runs])]),
        )
    return path


def test_a_healthy_machine_has_exit_code_0(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.bin")
    out = diagnose(path).stdout
    assert out == f"{path}: healthy, 9 records, at most 0.0 bits a byte (record 1, PC)\n"


def test_a_faulty_machine_is_shown_with_what_the_model_expects_and_who_is_to_blame(
    tmp_path: Path,
) -> None:
    path = trace(tmp_path / "t.bin", "off-by-one:ADD=+1")
    lines = diagnose(path, code=1).stdout.splitlines()
    assert lines == [
        f"{path}: faulty, 2 of 9 records impossible",
        "  record  after         field  observed   expected            bits",
        "       4  ADD A B       A      141        140  p 1.0000       27.9",
        "       6  ADD C B D     D        0        255  p 1.0000       27.9",
        "every record's most surprising byte: . up to 1 bit, - more, # above 10",
        "       1  ...#.#...",
        "first: record 4, by ADD A B",
        "blamed: ADD gives one more; explains 2 records",
        f"  reproduce: cpusim inject {path} --fault off-by-one:ADD=+1 -o again.bin",
        "  next: bit 0 of A is stuck at 1, 43 bits worse",
    ]


@pytest.mark.parametrize(
    ("fault", "blamed"),
    [
        ("stuck:H.0=1", "blamed: bit 0 of H is stuck at 1; explains 1 record"),
        ("flip:B.7@5", "blamed: bit 7 of B flipped before record 5; explains 1 record"),
        ("swap-opcode:ADD=SUB", "blamed: ADD executes as SUB; explains 2 records"),
        ("flip:IR1.4@5", "blamed: bit 4 of IR1 flipped before record 5; explains 1 record"),
    ],
)
def test_the_fault_is_named_in_words(tmp_path: Path, fault: str, blamed: str) -> None:
    assert blamed in diagnose(trace(tmp_path / "t.bin", fault), code=1).stdout.splitlines()


@pytest.mark.parametrize("name", ["t.bin", "-t.bin", "a b.bin"])
def test_reproducing_the_fault_it_names_gives_the_same_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = trace(Path(name), "swap-opcode:XOR=MOV")
    (line,) = [
        line
        for line in diagnose("--", path, code=1).stdout.splitlines()
        if "reproduce: cpusim" in line
    ]
    words = shlex.split(line.split("cpusim ")[1])
    assert CliRunner().invoke(main, words).exit_code == 0
    assert Path("again.bin").read_bytes() == path.read_bytes()


def test_a_trace_that_stops_early_says_that_its_end_is_impossible(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.bin", "swap-opcode:ADD=INC")
    out = diagnose(path, code=1).stdout
    assert "       4  ADD A B       -      end        a state  p 1.0000   27.9" in out
    assert "  explained as well by: ADD executes as " in out


def test_where_a_recording_was_stopped_is_no_fault_if_it_is_open(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.bin")
    path.write_bytes(path.read_bytes()[: len(MEMORY) + 5 * STATE_SIZE])
    assert "blamed: " in diagnose(path, code=1).stdout
    assert diagnose("--open", path).stdout.splitlines() == [
        f"{path}: healthy, 4 records, at most 0.0 bits a byte (record 1, PC)",
        "its end is not checked: --open says that the recording may have been stopped",
    ]
    (found,) = json.loads(diagnose("--open", path, "--json", "-").stdout)["diagnoses"]
    assert (found["faulty"], found["end_checked"], found["records"]) == (False, False, 4)


@pytest.mark.parametrize("fault", ["swap-opcode:HLT=CLR", "stuck:PC.0=0"])
def test_a_machine_that_was_stopped_at_the_step_limit_has_one_fault_if_it_is_open(
    tmp_path: Path, fault: str
) -> None:
    healthy, path = trace(tmp_path / "h.bin"), tmp_path / "t.bin"
    words = ["inject", healthy, "--fault", fault, "--max-steps", 40, "-o", path]
    told = CliRunner().invoke(main, list(map(str, words))).stdout
    assert "`cpusim diagnose --open` does not take that for a fault" in told
    (found,) = json.loads(diagnose("--open", path, "--json", "-", code=1).stdout)["diagnoses"]
    assert [suspect["fault"] for suspect in found["suspects"]] == [fault]


def test_a_whole_shard_or_one_of_its_traces_can_be_read(tmp_path: Path) -> None:
    machines = [(), ("stuck:H.0=1",), (), ("off-by-one:ADD=+1",), ("swap-opcode:ADD=SUB",)]
    path = shard(tmp_path / "a.shard", *machines)
    lines = diagnose(path, "--show", 1, code=1).stdout.splitlines()
    assert lines[0] == f"{path}[1]: faulty, 1 of 9 records impossible"
    assert lines[-5:] == [
        "  record  blamed        fault                   trace",
        f"       4  ADD           off-by-one:ADD=+1       {path}[3]",
        f"       4  ADD           swap-opcode:ADD=SUB     {path}[4]",
        "",
        "5 traces: 3 faulty, 2 healthy",
    ]
    assert diagnose(f"{path}[2]").stdout.startswith(f"{path}[2]: healthy")
    single = trace(tmp_path / "t.bin")
    assert diagnose(single, f"{path}[0]").stdout == "2 traces: 0 faulty, 2 healthy\n"


def test_a_shard_without_traces_is_no_healthy_machine(tmp_path: Path) -> None:
    path = tmp_path / "none.shard"
    with write_shard(path):
        pass
    for name in (path, f"{path}[0]"):
        told = diagnose(name, code=2).stderr
        assert told == f"{name}: the shard holds no traces; name another\n"


def test_json_holds_the_surprisal_of_every_byte_and_the_suspects(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.bin", "off-by-one:ADD=+1")
    report = json.loads(diagnose(path, "--json", "-", code=1).stdout)
    assert (report["traces"], report["faulty"], report["threshold"]) == (1, 1, 10.0)
    (found,) = report["diagnoses"]
    assert (found["trace"], found["faulty"], found["end_checked"]) == (str(path), True, True)
    assert found["first"] == {"record": 4, "blames": "ADD A B"}
    bits = np.array(found["bits"])
    assert bits.shape == (9, STATE_SIZE)
    assert np.argwhere(bits > 10).tolist() == [[3, FIELDS.index("A")], [5, FIELDS.index("D")]]
    (suspect,) = found["suspects"]
    assert suspect["blames"] == "ADD"
    assert (suspect["fault"], suspect["kind"]) == ("off-by-one:ADD=+1", "off-by-one")
    assert suspect["explains"] == 2
    first = found["impossible"][0]
    assert (first["record"], first["executed"], list(first["fields"])) == (4, "ADD A B", ["A"])
    assert (first["fields"]["A"]["observed"], first["fields"]["A"]["expected"]) == (141, 140)
    healthy = json.loads(diagnose(trace(tmp_path / "h.bin"), "--json", "-").stdout)
    assert (healthy["faulty"], healthy["diagnoses"][0]["first"]) == (0, None)


def test_json_and_plot_go_to_files_and_replace_nothing_unasked(tmp_path: Path) -> None:
    path = trace(tmp_path / "t$_^\\.bin", "stuck:H.0=1")
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    words = [path, "--json", out, "--plot", picture]
    assert "faulty" in diagnose(*words, code=1).stdout
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert json.loads(out.read_text())["faulty"] == 1
    assert "already exists; use --force" in diagnose(*words, code=2).stderr
    diagnose(*words, "--force", code=1)


def test_a_reader_that_goes_away_still_leaves_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "stdout", ReaderGone)
    path = trace(tmp_path / "t.bin", "stuck:H.0=1")
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    diagnose(path, "--json", out, "--plot", picture, code=141)
    assert json.loads(out.read_text())["faulty"] == 1
    assert picture.is_file()
    diagnose(path, path, "--json", out, "--force", code=141)
    assert json.loads(out.read_text())["faulty"] == 2


def test_interrupted_it_shows_what_was_found_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cli.diagnose._diagnoses

    def cut_off(*words: Any) -> Iterator[Diagnosis]:
        yield next(iter(whole(*words)))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.diagnose, "_diagnoses", cut_off)
    path = trace(tmp_path / "t.bin", "stuck:H.0=1")
    result = diagnose(path, path, "--json", tmp_path / "out.json", code=130)
    assert "blamed: bit 0 of H is stuck at 1" in result.stdout
    assert "traces:" not in result.stdout
    assert list(tmp_path.iterdir()) == [path]


def test_a_first_state_alone_is_no_healthy_machine(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(MEMORY + START)
    assert "faulty" in diagnose(path, code=1).stdout
    assert diagnose("--open", path, code=2).stderr == (
        f"{path}: holds nothing but a first state, which tells nothing with --open;"
        " leave that out, or name a longer recording\n"
    )


def test_the_threshold_decides_what_is_impossible(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.bin", "off-by-one:ADD=+1")
    # The certain model gives a wrong byte a probability of 1e-6 / 256: 27.9 bits.
    assert "healthy" in diagnose(path, "--threshold", 28).stdout
    assert "# above 27" in diagnose(path, "--threshold", 27, code=1).stdout


def test_a_trace_beyond_what_the_model_can_follow_is_said_to_be_cut(
    tmp_path: Path, certain: CertainModel
) -> None:
    certain.max_records = 4
    lines = diagnose(trace(tmp_path / "t.bin", "off-by-one:ADD=+1")).stdout.splitlines()
    assert lines[1] == "its end is not checked: model:cpu-small (shipped) can follow 4 records"


def test_output_fits_80_columns(tmp_path: Path) -> None:
    faults = ["flip:ACC.7@3", "swap-opcode:ADD=SUB", "stuck:J.0=1"]
    path = trace(tmp_path / "t.bin", *faults)
    lines = diagnose(path, code=1).stdout.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert len([line for line in lines if line.startswith(("blamed", "also"))]) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Missing argument"),
        (["{t}", "--threshold", "0"], "--threshold"),
        (["{t}", "--threshold", "nan"], "is no number of bits; write one such as 12.5"),
        (["{t}", "{t}", "--plot", "{new}"], "--plot draws one trace, and these are 2"),
        (["{t}", "--plot", "{new}", "--json", "{new}"], "--plot and --json name the same file"),
        (["{t}", "--plot", "{new}", "--json", "{again}"], "--plot and --json name the same file"),
        (["{t}", "--json", "{new}/no.json"], "does not exist; create it"),
        (["{new}"], "new: no such file; check the name"),
    ],
)
def test_bad_usage_is_refused_with_the_way_out(tmp_path: Path, words: list[str], told: str) -> None:
    path = trace(tmp_path / "t.bin", "stuck:H.0=1")
    again = tmp_path / ".." / tmp_path.name / "new"
    filled = [word.format(t=path, new=tmp_path / "new", again=again) for word in words]
    assert told in diagnose(*filled, code=2).stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_trace_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(bytes(1030))
    code = (
        "import sys\n"
        "from cli.cpusim import main\n"
        "try:\n"
        f"    main(['diagnose', {str(path)!r}])\n"
        "except SystemExit as exit:\n"
        "    print(exit.code, sorted({'torch', 'numba', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert done.stdout == "2 []\n"
    assert "1,030 bytes is too short for a trace" in done.stderr


@pytest.mark.parametrize("is_open", [False, True])
def test_a_model_that_never_learned_the_cpu_may_not_judge(
    is_open: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ignorant = ByteModelStepper(ByteModel(preset("tiny")), name="model:random.pt")
    monkeypatch.setattr(bytemodel.cpu, "load_stepper", lambda *_: ignorant)
    path = trace(tmp_path / "healthy.bin")
    words = ["--json", tmp_path / "report.json", *(["--open"] if is_open else [])]
    sentence = diagnose(path, *words, code=2).stderr.strip()
    assert ": has not learned the CPU, since a byte of healthy traces costs it " in sentence
    assert not (tmp_path / "report.json").exists()
