"""`cpusim inject` as its user meets it: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.cpusim import main
from cpusim.assembler import assemble
from cpusim.faults import GRAMMAR, parse_fault, run_faulty
from cpusim.isa import MEMORY_SIZE, STATE_SIZE
from cpusim.reference import run
from cpusim.trace import ShardWriter, read_trace

SOURCE = "LOADI 5\nPOP A\nADD A B\nSWAP A\nHLT\n"
MEMORY = assemble(SOURCE)
START = bytes([0, 253, 0, 0, 0, 0, 63, 235, *[7] * 8])


def inject(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["inject", *map(str, words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "prog.s"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.bin"
    path.write_bytes(MEMORY + b"".join(run(MEMORY, START).records))
    return path


def test_it_writes_the_trace_of_the_faulty_machine_and_says_where_it_first_shows(
    trace: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.bin"
    done = inject(trace, "--fault", "off-by-one:ADD=-1", "-o", out)
    assert done.stdout == (
        "off-by-one:ADD=-1: first shows in record 4: A is 239, not 240, after ADD A B\n"
    )
    assert done.stderr == f"wrote {out}: 6 states\n"
    records = run_faulty(MEMORY, START, [parse_fault("off-by-one:ADD=-1")]).records
    assert out.read_bytes() == MEMORY + b"".join(records)
    assert read_trace(out).initial_state == START


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("stuck:J.7=1", "first shows in record 1: J is 135, not 7, before any instruction"),
        ("flip:PC.1@3", "first shows in record 3: PC is 1, not 3, as it is fetched"),
        ("swap-opcode:ADD=INC", "first shows in record 4, which is missing, after ADD A B"),
        ("no-saturation:ADD", "never shows here, the trace is that of a healthy machine"),
        ("flip:A.0@6", "never shows here, the trace is that of a healthy machine"),
    ],
)
def test_where_each_fault_first_shows_is_said_in_words(
    trace: Path, tmp_path: Path, fault: str, said: str
) -> None:
    out = inject(trace, "--fault", fault, "-o", tmp_path / "out.bin").stdout
    assert out.splitlines()[0] == f"{fault}: {said}"


def test_a_machine_that_never_halts_is_recorded_up_to_the_limit_and_said_to_be(
    trace: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.bin"
    words = ["--fault", "swap-opcode:HLT=CLR", "--max-steps", 300, "-o", out]
    assert inject(trace, *words).stdout.splitlines() == [
        "swap-opcode:HLT=CLR: first shows in record 6, where the program has ended, after HLT",
        "the faulty machine does not halt; its trace ends at the step limit",
        "`cpusim diagnose --open` does not take that for a fault",
    ]
    assert out.stat().st_size == MEMORY_SIZE + 301 * STATE_SIZE


def test_json_holds_the_truth_for_a_program_too(program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    words = ["--set", "A=63,B=235", "--acc", 253, "--fault", "flip:b.7@3", "-o", out, "--json"]
    assert json.loads(inject(program, *words).stdout) == {
        "file": str(program),
        "output": str(out),
        "faults": ["flip:B.7@3"],
        "first_visible": 3,
        "responsible": "POP A",
        "fields": {"B": {"healthy": 235, "faulty": 107}},
        "records": 6,
        "healthy_records": 6,
        "stop": "halted",
    }
    never = inject(program, "--fault", "flip:b.7@9", "-o", out, "--json", "--force").stdout
    truth = json.loads(never)
    assert (truth["first_visible"], truth["responsible"], truth["fields"]) == (None, None, {})


def test_several_faults_act_together(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    faults = ["off-by-one:ADD=-1", "stuck:H.3=1"]
    done = inject(trace, *(f"--fault={fault}" for fault in faults), "-o", out)
    assert done.stdout.startswith("off-by-one:ADD=-1, stuck:H.3=1: first shows in record 1: H")
    records = run_faulty(MEMORY, START, [parse_fault(fault) for fault in faults]).records
    assert out.read_bytes()[MEMORY_SIZE:] == b"".join(records)


def test_one_trace_of_a_shard_can_be_the_program(trace: Path, tmp_path: Path) -> None:
    shard, out = tmp_path / "a.shard", tmp_path / "out.bin"
    read = read_trace(trace)
    with shard.open("wb") as file:
        writer = ShardWriter(file)
        import numpy as np

        memory = np.frombuffer(read.memory, np.uint8)[None]
        writer.add(memory, read.records, np.array([0, len(read.records)]))
        writer.finish()
    done = inject(f"{shard}[0]", "--fault", "stuck:A.0=0", "-o", out)
    assert "first shows in record 1: A is 62, not 63" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fault", "stuk:A.1=1"], f"did you mean stuck? the kinds are {GRAMMAR}"),
        (["--fault", "stuck:A.9=1"], "write stuck:PLACE.BIT=0|1, such as stuck:C.3=1"),
        (["--fault", "stuck:A.1=1", "--fault", "stuck:A.1=0"], "one of them, not both"),
        ([], "Missing option '--fault'"),
    ],
)
def test_a_bad_fault_is_refused_and_nothing_is_written(
    trace: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    out = tmp_path / "out.bin"
    assert told in inject(trace, *words, "-o", out, code=2).stderr
    assert not out.exists()


def test_a_program_that_does_not_halt_is_refused_by_its_name(tmp_path: Path) -> None:
    source = tmp_path / "endless.s"
    source.write_text("INC\n" * 256)
    words = ["--fault", "stuck:A.1=1", "-o", tmp_path / "out.bin"]
    told = inject(source, *words, code=2).stderr
    assert told.startswith(f"{source}: does not halt on a healthy machine either: there is no HLT")
