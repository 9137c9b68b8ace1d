"""`cpusim` as its user meets it: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cli.cpusim
from cli import options, render
from cli.cpusim import main
from cpusim.assembler import assemble
from cpusim.dataset import LAYOUTS
from cpusim.isa import ISA, MEMORY_SIZE, REGISTERS, SLOTS, STATE_SIZE
from cpusim.programs import DISTRIBUTIONS
from tests.cli.calls import on_a_terminal
from tests.cpusim.test_assembler import extended

ROOT = Path(__file__).parent.parent.parent
GOLDEN = sorted((ROOT / "tests" / "golden" / "cpu_traces").glob("*.bin"))
TRACE = next(path for path in GOLDEN if path.stem == "005_008")
READERS = ["run", "disasm", "inspect"]
EXAMPLES = sorted((ROOT / "examples").glob("*.s"))


def cpusim(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def refused(*words: object) -> str:
    """The sentence that a command prints when it refuses its input, with exit code 2."""
    result = cpusim(*words, code=2)
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


def process(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A real process of its own."""
    code = "from cli.cpusim import main; main(prog_name='cpusim')"
    command = [sys.executable, "-c", code, *map(str, words)]
    settings = {"cwd": ROOT, "text": True, "timeout": 60, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, check=False, **settings)  # type: ignore[call-overload,no-any-return]


def terminal(*words: object) -> str:
    """What a real process shows on a terminal."""
    code = "from cli.cpusim import main; main(prog_name='cpusim')"
    return on_a_terminal([sys.executable, "-c", code, *map(str, words)])[1]


def source(folder: Path, text: str, name: str = "prog.s") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def image(folder: Path, data: bytes, name: str = "prog.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# asm, disasm --------------------------------------------------------------------------


def test_asm_writes_the_whole_memory_and_says_so_on_stderr(tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    result = cpusim("asm", source(tmp_path, "inc a\nhlt\n"), "-o", out)
    assert out.read_bytes() == bytes([2, 1, 0, 0]).ljust(MEMORY_SIZE, b"\0")
    assert result.stdout == ""
    assert result.stderr == f"wrote {out}: 2 instructions\n"


def test_disasm_prints_what_assembles_to_the_same_memory(tmp_path: Path) -> None:
    memory = bytes(range(256)) * 4
    text = cpusim("disasm", image(tmp_path, memory)).stdout
    assert assemble(text) == memory
    assert cpusim("disasm", source(tmp_path, text)).stdout == text


def test_disasm_of_a_trace_is_the_published_text() -> None:
    assert cpusim("disasm", TRACE).stdout == TRACE.with_suffix(".s").read_text()


# isa ----------------------------------------------------------------------------------


def test_isa_prints_every_form_once() -> None:
    lines = [" ".join(line.split()) for line in cpusim("isa").stdout.splitlines()]
    assert lines.index("") == 1 + len(ISA.variants) == 45  # the heading, the forms, the legend
    assert "13 ADD x ACC, x -> ACC add, at most 255" in lines
    assert "SUB x y z x, y -> z" in lines
    assert "12 SWAP x ACC, x -> ACC, x exchange two places" in lines


def test_isa_json_says_what_each_form_reads_and_writes() -> None:
    table = json.loads(cpusim("isa", "--json").stdout)
    assert [row["opcode"] for row in table] == list(range(21))
    assert table[20] == {
        "opcode": 20,
        "name": "MOV",
        "effect": "copy second to first",
        "halts": False,
        "forms": [{"operands": ["R", "R"], "reads": ["y"], "writes": ["x"]}],
    }
    assert [row["name"] for row in table if row["halts"]] == ["HLT"]


def test_a_new_row_in_the_instruction_table_prints_in_the_table_and_in_states() -> None:
    isa = extended()
    printed = [" ".join(line.plain.split()) for line in render.isa_lines(isa)]
    assert "21 NAND x ACC, x -> ACC not and" in printed
    assert render.isa_json(isa)[21]["name"] == "NAND"
    record = bytes([1, 0, 21, 1, 2, 3]) + bytes(10)
    assert "NAND A B C" in list(render.state_lines([bytes(16), record], isa))[2].plain
    assert "15 01 02 03" in list(render.state_lines([bytes(16), record]))[2].plain


# run ----------------------------------------------------------------------------------


def test_run_prints_each_state_and_marks_what_the_line_above_changed(tmp_path: Path) -> None:
    result = cpusim("run", source(tmp_path, "LOADI 7\nPOP B\nADD A B\nHLT"), "--set", "a=250")
    assert result.stdout.splitlines() == [
        "step   PC  instruction  ACC    A    B    C    D    E    F    G    H    I    J",
        "   0    0  (start)        0  250    0    0    0    0    0    0    0    0    0",
        "   1    1  LOADI 7        0  250    0    0    0    0    0    0    0    0    0",
        "   2    2  POP B          7* 250    0    0    0    0    0    0    0    0    0",
        "   3    3  ADD A B        7  250    7*   0    0    0    0    0    0    0    0",
        "   4    4  HLT            7  255*   7    0    0    0    0    0    0    0    0",
        "* changed by the instruction in the line above",
        "halted after 4 steps",
    ]
    assert result.stderr == ""


def test_run_json_holds_the_same_states(tmp_path: Path) -> None:
    path = source(tmp_path, "INC C\nHLT")
    report = json.loads(cpusim("run", path, "--format", "json", "--acc", "0x10").stdout)
    assert (report["file"], report["stop"], report["steps"]) == (str(path), "halted", 2)
    registers = dict.fromkeys(REGISTERS, 0)
    assert report["states"][1:] == [
        {
            "step": 1,
            "pc": 1,
            "ir": [2, 3, 0, 0],
            "instruction": "INC C",
            "acc": 16,
            "registers": registers,
            "changed": [],
        },
        {
            "step": 2,
            "pc": 2,
            "ir": [0, 0, 0, 0],
            "instruction": "HLT",
            "acc": 16,
            "registers": registers | {"C": 1},
            "changed": ["C"],
        },
    ]
    assert report["states"][0]["instruction"] is None


@pytest.mark.parametrize("trace", GOLDEN, ids=lambda path: path.stem)
def test_run_reproduces_a_published_trace_from_the_trace_and_from_its_text(
    trace: Path, tmp_path: Path
) -> None:
    expected = trace.read_bytes()
    cpusim("run", trace, "--trace", tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == expected
    first = expected[MEMORY_SIZE : MEMORY_SIZE + STATE_SIZE]
    registers = ",".join(f"{name}={first[6 + i]}" for i, name in enumerate(REGISTERS))
    text = trace.with_suffix(".s")
    out = tmp_path / "text.bin"
    cpusim("run", text, "--acc", first[1], "--set", registers, "--trace", out)
    assert out.read_bytes() == expected


@pytest.mark.parametrize("size", [None, MEMORY_SIZE])
def test_run_takes_from_a_pipe_what_it_takes_from_a_file(size: int | None, tmp_path: Path) -> None:
    data = TRACE.read_bytes()[:size]
    file = tmp_path / "file"
    file.write_bytes(data)
    # The pipe is the process's standard input, which is read by its name.
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with open(reading) as pipe:
        piped = process("run", "/dev/stdin", stdin=pipe, stdout=subprocess.PIPE)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert piped.stdout.replace("/dev/stdin", str(file)) == cpusim("run", file).stdout


def test_run_takes_a_short_image_and_fills_it_with_zeros(tmp_path: Path) -> None:
    path = image(tmp_path, bytes([2, 1, 0, 0]))
    assert "halted after 2 steps" in cpusim("run", path).stdout
    full = image(tmp_path, bytes([2, 1, 0, 0]).ljust(MEMORY_SIZE, b"\0"), "full.bin")
    assert cpusim("run", full).stdout == cpusim("run", path).stdout


def first_state(*options: object) -> dict[str, object]:
    report = json.loads(cpusim("run", EXAMPLES[0], "--format", "json", *options).stdout)
    state: dict[str, object] = report["states"][0]
    return state


def test_a_random_state_comes_from_its_seed_and_yields_to_acc_and_set() -> None:
    state = first_state("--random-state", 5)
    assert state == first_state("--random-state", 5)
    assert state != first_state("--random-state", 6)
    assert (state["pc"], state["ir"]) == (0, [0, 0, 0, 0])
    changed = first_state("--random-state", 5, "--set", "B=0b11,C=0xff", "--set", "D=9", "--acc", 1)
    assert changed["acc"] == 1
    given = {"B": 3, "C": 255, "D": 9}
    assert changed["registers"] == state["registers"] | given  # type: ignore[operator]


def test_options_apply_on_top_of_a_trace_s_first_state() -> None:
    recorded = json.loads(cpusim("inspect", TRACE, "--json").stdout)["states"][0]
    report = cpusim("run", TRACE, "--set", "J=200", "--format", "json").stdout
    started = json.loads(report)["states"][0]
    assert started["registers"] == recorded["registers"] | {"J": 200}
    assert started["acc"] == recorded["acc"]


def test_an_illegal_instruction_shows_the_states_before_it_and_names_slot_bytes_and_reason(
    tmp_path: Path,
) -> None:
    path = image(tmp_path, bytes([2, 1, 0, 0] * 199 + [3, 11, 0, 0]))
    result = cpusim("run", path, "--trace", tmp_path / "t.bin", code=2)
    assert result.stderr == (
        f"{path}: slot 199 holds 03 0b 00 00, which is no instruction:"
        " operand x is 11, above the last register 10 (J) (step 200)\n"
    )
    assert " 199  199  INC A          0  198*" in result.stdout
    assert " 200  200  03 0b 00 00    0  199*" in result.stdout
    assert not (tmp_path / "t.bin").exists()


def test_an_illegal_instruction_in_the_first_slot_is_step_1(tmp_path: Path) -> None:
    told = refused("run", image(tmp_path, bytes([21, 0, 0, 0])))
    assert "slot 0 holds 15 00 00 00" in told
    assert "opcode 21 is above 20" in told


def test_json_of_a_failed_run_says_why_it_stopped(tmp_path: Path) -> None:
    result = cpusim("run", image(tmp_path, bytes([21, 0, 0, 0])), "--format", "json", code=2)
    report = json.loads(result.stdout)
    assert report["stop"] == "illegal instruction"
    assert "slot 0 holds" in report["reason"]
    assert len(report["states"]) == 2


def test_a_program_without_halt_stops_at_the_limit_and_its_endless_tail_is_one_line(
    tmp_path: Path,
) -> None:
    path = source(tmp_path, "INC A\n" * SLOTS)
    result = cpusim("run", path, code=2)
    assert "no HLT in any of the 256 slots" in result.stderr
    assert "stopped after 4,096 steps" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[-2] == " ...  the same 3,840 times more, up to step 4,096"
    assert len(lines) == 1 + 257 + 1 + 1


def test_max_steps_ends_a_run_early_and_says_how_to_allow_more() -> None:
    told = refused("run", EXAMPLES[0], "--max-steps", 3)
    assert told == f"{EXAMPLES[0]}: no HLT within 3 steps; allow more with --max-steps"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "K=1"], "'K' is no register (A..J)"),
        (["--set", "AB=1"], "did you mean"),
        (["--set", "ACC=1"], "--acc sets the accumulator"),
        (["--set", "=1"], "'' is no register"),
        (["--set", "A=256"], "'256' is outside 0..255"),
        (["--set", "A=-1"], "'-1' is no number"),
        (["--set", "A"], "'A' is no assignment"),
        (["--set", ""], "'' is no assignment"),
        (["--set", "A=1,,B=2"], "'' is no assignment"),
        (["--acc", "300"], "'300' is outside 0..255"),
        (["--acc", "ten"], "'ten' is no number"),
        (["--max-steps", "0"], "--max-steps"),
        (["--format", "xml"], "'xml' is not one of"),
        (["--random-state", "x"], "--random-state"),
        (["--max-step", "3"], "--max-steps"),
    ],
)
def test_a_wrong_option_is_named_with_the_way_out(options: list[str], told: str) -> None:
    assert told in refused("run", EXAMPLES[0], *options)


def test_an_unknown_command_names_the_nearest() -> None:
    assert "'disasm'" in refused("disasn", TRACE)


# inspect ------------------------------------------------------------------------------


def test_inspect_shows_what_the_trace_recorded_even_if_it_is_wrong(tmp_path: Path) -> None:
    data = bytearray(TRACE.read_bytes())
    data[MEMORY_SIZE + STATE_SIZE * 2 + 1] ^= 1  # ACC of record 2
    path = image(tmp_path, bytes(data))
    result = cpusim("inspect", path)
    assert result.stdout.startswith(f"{path}: 8 instructions in memory, 8 steps recorded\n")
    states = json.loads(cpusim("inspect", path, "--json").stdout)["states"]
    assert [state["acc"] for state in states[1:4]] == [164, 129, 128]
    assert "129*" in result.stdout


def test_inspect_and_run_print_the_same_table_of_a_right_trace() -> None:
    shown = cpusim("inspect", TRACE).stdout.splitlines()
    assert shown[2:] == cpusim("run", TRACE).stdout.splitlines()[:-1]
    report = json.loads(cpusim("inspect", TRACE, "--json").stdout)
    assert report["program"] == TRACE.with_suffix(".s").read_text().splitlines()
    assert report["states"] == json.loads(cpusim("run", TRACE, "--format", "json").stdout)["states"]


# verify, generate, export -------------------------------------------------------------


def wrong(folder: Path, name: str, *, record: int = 3, field: int = 1) -> Path:
    """A published trace with one byte of one record changed."""
    data = bytearray(TRACE.read_bytes())
    data[MEMORY_SIZE + STATE_SIZE * record + field] ^= 1
    return image(folder, bytes(data), name)


def test_verify_finds_the_published_traces_right() -> None:
    result = cpusim("verify", TRACE.parent)
    states = sum((path.stat().st_size - MEMORY_SIZE) // STATE_SIZE for path in GOLDEN)
    assert result.stdout == f"24 of 24 traces right: {states:,} states in 24 files\n"
    assert result.stderr == ""


def test_verify_names_the_first_wrong_record_and_field_of_each_trace_and_exits_with_1(
    tmp_path: Path,
) -> None:
    one = wrong(tmp_path, "a.bin", record=3, field=1)
    other = wrong(tmp_path, "b.bin", record=8, field=15)
    short = image(tmp_path, TRACE.read_bytes()[: -2 * STATE_SIZE], "c.bin")
    shutil.copy(TRACE, tmp_path / "d.bin")
    lines = cpusim("verify", tmp_path, code=1).stdout.splitlines()
    assert len(lines) == 4
    # The instruction that computed the field stands in the record before.
    assert lines[0] == f"{one}: record 3, ACC: 129 where the program gives 128 (MOV F A)"
    assert lines[1] == f"{other}: record 8, J: 2 where the program gives 3 (ADD F B)"
    assert lines[2] == f"{short}: 7 records where the program gives 9"
    assert lines[3] == "1 of 4 traces right: 34 states in 4 files"
    report = json.loads(cpusim("verify", tmp_path, "--json", code=1).stdout)
    assert (report["traces"], report["errors"]) == (4, [])
    failures = [(f["path"], f["record"], f["field"]) for f in report["failures"]]
    assert failures == [(str(one), 3, "ACC"), (str(other), 8, "J"), (str(short), 7, "length")]


def test_verify_exits_with_2_if_anything_cannot_be_read_and_still_verifies_the_rest(
    tmp_path: Path,
) -> None:
    bad = image(tmp_path, TRACE.read_bytes()[:-1], "cut.bin")
    missing = tmp_path / "missing.bin"
    result = cpusim("verify", wrong(tmp_path, "w.bin"), bad, missing, TRACE, code=2)
    assert result.stdout.splitlines()[-1].startswith("1 of 2 traces right")
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [str(bad), str(missing)]
    report = json.loads(cpusim("verify", bad, "--json", code=2).stdout)
    assert report["errors"] == [result.stderr.splitlines()[0]]


def test_verify_needs_a_path() -> None:
    assert "PATH" in refused("verify")


def test_generate_makes_a_set_that_verifies_and_says_what_it_holds(tmp_path: Path) -> None:
    out = tmp_path / "data"
    options = ["--count", 40, "--test-count", 10, "--seed", 3, "--workers", 1]
    told = cpusim("generate", out, *options).stdout.splitlines()
    assert told[0].startswith(f"{out}: 40 train and 10 test traces, ")
    assert "train and test share 0 instances" in told
    assert cpusim("verify", out).stdout.startswith("50 of 50 traces right")
    again = cpusim("generate", out, *options, "--json").stdout
    assert json.loads(again)["resumed"] == 50
    told = refused("generate", out, *options, "--seed", 4)
    assert "seed 3 there, 4 asked for" in told
    cpusim("generate", out, *options, "--seed", 4, "--force")


@pytest.mark.parametrize("distribution", options.DISTRIBUTIONS)
def test_generate_passes_its_options_on(distribution: str, tmp_path: Path) -> None:
    out = tmp_path / "data"
    lengths = ["--min-length", 5, "--max-length", 6, "--distribution", distribution]
    counts = ["--count", 20, "--test-count", 5, "--layout", "files", "--workers", 1]
    cpusim("generate", out, *lengths, *counts)
    traces = sorted(out.glob("*/*.bin"))
    assert len(traces) == 25
    assert {path.stat().st_size for path in traces} == {1024 + 16 * 6, 1024 + 16 * 7}
    assert json.loads((out / "set.json").read_text())["distribution"] == distribution


def test_progress_goes_to_stderr_and_only_to_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--count", 30, "--test-count", 0, "--workers", 1, "--json"]
    assert cpusim("generate", tmp_path / "pipe", *words).stderr == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    result = cpusim("generate", tmp_path / "terminal", *words)
    assert "30 of 30 traces" in result.stderr
    assert json.loads(result.stdout)["train"] == 30


def test_the_choices_are_those_of_the_library() -> None:
    assert options.DISTRIBUTIONS == DISTRIBUTIONS
    assert options.LAYOUTS == LAYOUTS


def test_an_interrupted_generate_leaves_no_half_file_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def interrupt_early(*_: object) -> Iterator[Callable[[int, int], None]]:
        yield lambda _done, _total: signal.raise_signal(signal.SIGINT)

    out, straight = tmp_path / "data", tmp_path / "straight"
    options = ["--count", 5000, "--test-count", 10, "--max-length", 4, "--workers", 1]
    with monkeypatch.context() as patch:
        patch.setattr(render, "progress", interrupt_early)
        assert cpusim("generate", out, *options, code=130).stderr == "interrupted\n"
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["set.json"]
    cpusim("generate", out, *options)
    cpusim("generate", straight, *options)
    for part in ("train", "test"):
        one, other = (folder / part / "00000.shard" for folder in (out, straight))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--count", "0", "--test-count", "0"], "ask for at least 1"),
        (["--count", "-1"], "--count"),
        (["--min-length", "9", "--max-length", "3"], "from 9 to 3"),
        (["--max-length", "257"], "--max-length"),
        (["--min-length", "0"], "--min-length"),
        (["--distribution", "normal"], "'normal' is not one of"),
        (["--layout", "tar"], "'tar' is not one of"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_an_impossible_set_is_refused_and_nothing_is_made(
    words: list[str], told: str, tmp_path: Path
) -> None:
    assert told in refused("generate", tmp_path / "data", *words)
    assert list(tmp_path.iterdir()) == []


def test_generate_and_export_refuse_a_place_that_is_taken(tmp_path: Path) -> None:
    precious = image(tmp_path, b"precious", "notes.txt")
    assert "is not empty and holds no set" in refused("generate", tmp_path)
    assert f"{precious}: " in refused("generate", precious)
    assert "holds no shards" in refused("export", tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [precious]


def test_one_trace_of_a_shard_can_be_named_wherever_a_trace_can(tmp_path: Path) -> None:
    data, files = tmp_path / "data", tmp_path / "files"
    cpusim("generate", data, "--count", 3, "--test-count", 0, "--workers", 1)
    assert cpusim("export", data, files).stderr == f"wrote 3 traces to {files}\n"
    shard = data / "train" / "00000.shard"
    for index in range(3):
        one, file = f"{shard}[{index}]", files / "train" / f"000000{index}.bin"
        shown = cpusim("inspect", one).stdout
        assert shown.splitlines()[1:] == cpusim("inspect", file).stdout.splitlines()[1:]
        assert cpusim("run", one).stdout == cpusim("run", file).stdout
        assert cpusim("disasm", one).stdout == cpusim("disasm", file).stdout
    for command in READERS:
        for name in (shard, f"{shard}[3]", f"{shard}[99999999999999]"):
            told = refused(command, name)
            assert told == (
                f"{name}: the shard holds 3 traces; name one of them,"
                f" from '{shard}[0]' to '{shard}[2]'"
            )
    assert "already exists" in refused("export", data, files)
    cpusim("export", data, files, "--force")


def test_a_file_whose_own_name_ends_like_an_index_is_that_file(tmp_path: Path) -> None:
    path = image(tmp_path, TRACE.read_bytes(), "trace[1]")
    assert "halted after 8 steps" in cpusim("run", path).stdout
    assert "no such file" in refused("run", tmp_path / "trace[2]")


# Files that are not what they should be -----------------------------------------------


@pytest.mark.parametrize("command", READERS)
def test_an_empty_file_is_refused(command: str, tmp_path: Path) -> None:
    path = image(tmp_path, b"")
    told = refused(command, path)
    assert told.startswith(f"{path}: ")
    assert "empty" in told or "0 bytes" in told


@pytest.mark.parametrize("command", [*READERS, "asm"])
def test_missing_files_folders_and_broken_links_are_refused(command: str, tmp_path: Path) -> None:
    options = ["-o", tmp_path / "out.bin"] if command == "asm" else []
    missing = tmp_path / "nothing.bin"
    assert refused(command, missing, *options) == f"{missing}: no such file; check the name"
    link = tmp_path / "link.bin"
    link.symlink_to(missing)
    assert refused(command, link, *options) == f"{link}: no such file; check the name"
    assert f"{tmp_path}: is a directory" in refused(command, tmp_path, *options)
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("command", READERS)
def test_an_unreadable_file_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: object, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = image(tmp_path, TRACE.read_bytes())
    monkeypatch.setattr("builtins.open", denied)  # chmod would not stop root
    monkeypatch.setattr("pathlib.Path.open", denied)
    told = refused(command, path)
    assert told.startswith(f"{path}: cannot be read (permission denied)")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1022, 1025, 1028, 1036, 1039])
@pytest.mark.parametrize("command", ["run", "disasm"])
def test_a_size_that_is_neither_image_nor_trace_is_refused(
    command: str, size: int, tmp_path: Path
) -> None:
    told = refused(command, image(tmp_path, bytes(size)))
    assert f"{size:,} bytes" in told
    assert ("multiple of 4" if size < MEMORY_SIZE else "neither a memory image") in told


def test_a_trace_cut_at_any_byte_is_refused_unless_it_is_a_shorter_trace(tmp_path: Path) -> None:
    data = TRACE.read_bytes()
    path = tmp_path / "cut.bin"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        if size > MEMORY_SIZE and (size - MEMORY_SIZE) % STATE_SIZE == 0:
            cpusim("inspect", path)
            cpusim("run", path)
        else:
            assert refused("inspect", path).startswith(f"{path}: {size:,} bytes")
            # Up to 1,024 bytes nothing tells a cut trace from an image.
            if size % 4 or not 0 < size <= MEMORY_SIZE:
                assert refused("run", path).startswith(f"{path}: ")


@pytest.mark.parametrize("field", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("command", READERS)
def test_a_trace_with_an_impossible_first_record_is_refused(
    command: str, field: int, tmp_path: Path
) -> None:
    data = bytearray(TRACE.read_bytes())
    data[MEMORY_SIZE + field] = 1
    told = refused(command, image(tmp_path, bytes(data)))
    assert "record 0 has" in told


@given(st.binary(max_size=1200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_at_all_run_or_are_refused_with_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = image(tmp_path, data)
    for command in READERS:
        result = CliRunner().invoke(main, [command, str(path)])
        assert result.exit_code in (0, 2)
        assert len(result.stderr.splitlines()) == (1 if result.exit_code else 0)


def test_assembly_under_another_name_is_told_from_an_image(tmp_path: Path) -> None:
    told = refused("run", source(tmp_path, "INC A\nHLT\n ", "prog.txt"))
    assert told.endswith("if it is assembly, give its name the suffix .s")


def test_an_image_of_bytes_that_happen_to_be_white_space_still_runs(tmp_path: Path) -> None:
    path = image(tmp_path, b"\r\t\n\t")  # ADD I J I
    assert "ADD I J I" in cpusim("run", path).stdout


def test_every_error_in_an_assembly_file_is_a_line_on_stderr(tmp_path: Path) -> None:
    path = source(tmp_path, "INC K\nHLT\nMVO A B\n")
    for words in (["run", path], ["disasm", path], ["asm", path, "-o", tmp_path / "out.bin"]):
        assert refused(*words).splitlines() == [
            f"{path}:1:5: 'K' is no register (A..J)",
            f"{path}:3:1: 'MVO' is no instruction; did you mean MOV?",
        ]


def test_assembly_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    path = image(tmp_path, b"INC A ; \xff\n", "prog.s")
    assert refused("run", path).startswith(f"{path}:1:9: byte 0xff is not UTF-8")


# Writing ------------------------------------------------------------------------------

WRITERS = {
    "asm": ["asm", EXAMPLES[0], "-o"],
    "run": ["run", EXAMPLES[0], "--trace"],
    "inject": ["inject", EXAMPLES[0], "--fault", "stuck:A.0=1", "-o"],
}
writers = pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS.keys())


@writers
def test_an_existing_output_is_kept_unless_forced(command: list[object], tmp_path: Path) -> None:
    out = image(tmp_path, b"precious")
    told = refused(*command, out)
    assert told == f"{out}: already exists; use --force to replace it"
    assert out.read_bytes() == b"precious"
    cpusim(*command, out, "--force")
    assert len(out.read_bytes()) >= MEMORY_SIZE


def test_what_is_read_is_not_replaced_even_with_force(tmp_path: Path) -> None:
    data = tmp_path / "data"
    cpusim("generate", data, "--count", 2, "--test-count", 0, "--workers", 1)
    (shard,) = data.rglob("*.shard")
    program, trace = source(tmp_path, "INC A\nHLT"), tmp_path / "t.bin"
    trace.write_bytes(TRACE.read_bytes())
    link, unpacked = tmp_path / "link", tmp_path / "0000001.bin"
    link.symlink_to(trace)
    unpacked.write_bytes(shard.read_bytes())
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.pt").write_bytes(b"weights")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    inject, oracle = ["--fault", "stuck:A.0=1", "-o"], ["--against", "oracle"]
    replaced: list[tuple[list[object], Path]] = [
        (["asm", program, "-o", program], program),
        (["run", program, "--trace", program], program),
        (["run", f"{shard}[1]", "--trace", shard], shard),
        (["inject", program, *inject, program], program),
        (["inject", f"{shard}[1]", *inject, shard], shard),
        (["diagnose", program, trace, "--json", trace], trace),
        (["diagnose", link, "--plot", trace], trace),
        (["diagnose", f"{shard}[1]", "--json", shard], shard),
        (["diagnose", trace, "--model", run, "--json", run / "model.pt"], run / "model.pt"),
        (["compare", program, trace, "--html", link], link),
        (["compare", f"{shard}[1]", "--junit", shard], shard),
        (["compare", "--against", f"trace:{trace}", "--json", trace], trace),
        (["compare", "--reference", f"trace:{shard}", "--html", shard, *oracle], shard),
        (["conformance", "--no-plots", "--against", f"trace:{shard}", "--json", shard], shard),
        (["export", unpacked, tmp_path], unpacked),
    ]
    for words, path in replaced:
        told = refused(*words, "--force")
        assert told == f"{path}: is the very file that is read; name another to write to"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@writers
def test_a_device_is_never_renamed_over(command: list[object], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told = refused(*command, pipe, "--force")
    assert told == f"{pipe}: is a device or a pipe where a file is expected; name a file"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@writers
def test_an_output_that_cannot_be_is_refused(command: list[object], tmp_path: Path) -> None:
    assert "is a directory" in refused(*command, tmp_path)
    assert "does not exist; create it" in refused(*command, tmp_path / "no" / "out.bin")
    assert list(tmp_path.iterdir()) == []


@writers
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = image(tmp_path, b"precious")
    monkeypatch.setattr("os.fsync", full)
    told = refused(*command, out, "--force")
    assert told == (
        f"{out}: cannot be written (no space left on device); what was there is unchanged"
    )
    assert out.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [out]


@writers
def test_a_write_that_stops_half_way_leaves_the_old_file_and_nothing_else(
    command: list[object], tmp_path: Path
) -> None:
    out = image(tmp_path, b"precious")

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    done = process(*command, out, "--force", preexec_fn=limit_files, stdout=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr == (
        f"{out}: cannot be written (file too large); what was there is unchanged\n"
    )
    assert out.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [out]


def test_results_that_do_not_fit_on_the_disk_are_an_error_in_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        for words in (["run", EXAMPLES[0]], ["isa", "--json"], ["disasm", TRACE]):
            done = process(*words, stdout=full)
            assert done.returncode == 2
            assert done.stderr == "standard output: no space left on device\n"


def test_a_file_name_of_any_bytes_can_be_printed(tmp_path: Path) -> None:
    path = image(tmp_path, TRACE.read_bytes(), os.fsdecode(b"\xff.bin"))
    escaped = f"{tmp_path}/\\udcff.bin"
    assert process("inspect", path, stdout=subprocess.PIPE).stdout.startswith(escaped)
    path.write_bytes(b"")
    assert process("inspect", path).stderr.startswith(escaped)


# The program as a whole ---------------------------------------------------------------


def test_a_reader_that_goes_away_ends_the_program_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process("run", GOLDEN[-1], stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_reader_that_goes_away_still_leaves_the_trace(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process("run", GOLDEN[-1], "--trace", tmp_path / "out.bin", stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
    cpusim("verify", tmp_path / "out.bin")


def test_ctrl_c_ends_with_130_and_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.cpusim, "run_reference", interrupted)
    assert cpusim("run", EXAMPLES[0], code=130).stderr == "interrupted\n"


def test_a_bug_of_ours_shows_its_traceback_and_is_never_taken_for_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(cli.cpusim, "run_reference", broken)
    assert "ZeroDivisionError: oops" in cpusim("run", EXAMPLES[0], code=70).stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", EXAMPLES[0]],
        ["asm", EXAMPLES[0], "-o", "{out}"],
        ["inject", EXAMPLES[0], "--fault", "stuck:A.0=1", "-o", "{out}"],
        ["isa"],
        ["disasm", TRACE],
    ],
)
def test_simple_commands_import_neither_torch_nor_numba_nor_scipy(
    words: list[object], tmp_path: Path
) -> None:
    arguments = [str(word).format(out=tmp_path / "out.bin") for word in words]
    code = (
        "import sys\n"
        "from cli.cpusim import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "print('HEAVY', sorted({'torch', 'numba', 'scipy', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_output_fits_80_columns_and_is_plain_text_in_a_pipe() -> None:
    for words in (["isa"], ["run", GOLDEN[-1]], ["inspect", TRACE], ["--help"], ["run", "--help"]):
        printed = cpusim(*words).stdout
        assert "\x1b" not in printed
        assert max(len(line) for line in printed.splitlines() if str(ROOT) not in line) <= 80


def test_a_terminal_gets_colour_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;32m" in cpusim("run", EXAMPLES[-1]).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in cpusim("run", EXAMPLES[-1]).stdout


def test_the_version_is_that_of_the_package() -> None:
    assert cpusim("--version").stdout.strip() == f"cpusim, version {cli.cpusim.__version__}"


# The examples -------------------------------------------------------------------------


def last_registers(name: str, *options: object) -> dict[str, int]:
    report = json.loads(
        cpusim("run", ROOT / "examples" / f"{name}.s", "--format", "json", *options).stdout
    )
    state = report["states"][-1]
    return {"ACC": state["acc"]} | state["registers"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_begins_with_what_it_is_and_how_to_run_it(path: Path) -> None:
    head = path.read_text().split("\n\n")[0]
    assert f"cpusim run examples/{path.name}" in head
    assert max(len(line) for line in path.read_text().splitlines()) <= 100


def test_the_fibonacci_example_fills_the_registers_and_saturates() -> None:
    assert list(last_registers("fibonacci").values())[1:] == [
        *(89, 144, 233, 255, 5),
        *(8, 13, 21, 34, 55),
    ]


def test_the_swap_example_exchanges_three_times() -> None:
    registers = last_registers("swap")
    assert (registers["A"], registers["B"]) == (240, 15)


def test_the_parity_example_counts_the_bits() -> None:
    registers = last_registers("parity")
    assert registers["A"] == 0b10110100
    assert (registers["B"], registers["E"]) == (0, 4)


def test_the_divide_example_finds_quotient_and_remainder() -> None:
    registers = last_registers("divide")
    assert (registers["C"], registers["E"]) == divmod(200, 7)
    assert (registers["F"], registers["G"]) == (0, 255)


def test_the_sort_example_sorts() -> None:
    assert [last_registers("sort")[name] for name in "ABCD"] == [4, 17, 99, 201]


@pytest.mark.parametrize("seed", range(5))
def test_the_checksum_example_rotates_and_mixes(seed: int) -> None:
    registers = last_registers("checksum", "--random-state", seed)
    expected = 0
    for name in "ABCDEFGHI":
        expected = ((expected << 1 | expected >> 7) & 255) ^ registers[name]
    assert registers["ACC"] == expected ^ registers["J"]


def test_a_terminal_is_steered_by_no_file_name(tmp_path: Path) -> None:
    name = "\x1b]0;mine\x01\x1b[2J\x9b.s"
    seen = name.translate({0x1B: "\u241b", 0x01: "\u2401", 0x9B: "\ufffd"})
    file = source(tmp_path, "HLT\n", name)
    faulty = tmp_path / f"{name}.bin"
    faulty.write_bytes(TRACE.read_bytes()[:-16] + bytes(16))
    asm = ["asm", file, "-o", tmp_path / f"{name}.out"]
    for words in (["run", tmp_path / f"no{name}"], ["verify", faulty], asm):
        shown = terminal(*words)
        assert seen in shown.replace("\r\n", ""), words
        assert "\x1b]" not in shown
        assert "\x1b[2J" not in shown
    # A program that reads the names needs them as they are.
    assert name in process("verify", faulty, stdout=subprocess.PIPE).stdout
