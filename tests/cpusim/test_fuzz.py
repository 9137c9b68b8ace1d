"""Fuzzing: planted faults are found and shrunk to their cause, and the corpus is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cpusim import fuzz as module
from cpusim.assembler import assemble, disassemble
from cpusim.corpus import open_corpus
from cpusim.dataset import verify as verify_traces
from cpusim.errors import UserError
from cpusim.failures import Bucket, Failure, Field
from cpusim.fuzz import EXAMPLES, Example, Report, fuzz
from cpusim.isa import ACC, PC, STATE_SIZE
from cpusim.lockstep import (
    Bytes,
    Case,
    OracleStepper,
    Predictions,
    Stepper,
    StepperError,
    Tokens,
)
from cpusim.trace import read_trace
from tests.cpusim import planted
from tests.cpusim.planted import Fault, Planted


def search(candidate: Stepper, folder: Path, *, seed: int = 1, programs: int = 64) -> Report:
    return fuzz(
        candidate, open_corpus(folder), seed=seed, replays=lambda path, _: [], programs=programs
    )


def only(report: Report, bucket: Bucket) -> Example:
    """The one minimal program of a bucket."""
    (example,) = report.tallies[bucket].examples
    return example


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FAULTS: list[tuple[Fault, Bucket, list[str]]] = [
    (planted.product_of_256, Bucket("MUL R R", Field.TARGET), ["MUL A ?", "HLT"]),
    (planted.division_by_zero, Bucket("DIV R R", Field.TARGET), ["DIV A A", "HLT"]),
    (planted.slot_200_is_72, Bucket("fetch", Field.IR), ["MOV A A"] * 200 + ["HLT"]),
    (planted.swap_with_itself, Bucket("SWAP R R", Field.TARGET), ["SWAP A A", "HLT"]),
    (planted.no_end_at_256, Bucket("HLT", Field.END), ["MOV A A"] * 255 + ["HLT"]),
    (planted.inc_spills, Bucket("INC R", Field.ACC), ["INC A", "HLT"]),
    (planted.rol_clears_j, Bucket("ROL", Field.OTHER), ["ROL", "HLT"]),
    (planted.counter_sticks, Bucket("fetch", Field.PC), ["MOV A A"] * 128 + ["HLT"]),
    (planted.ends_early, Bucket("fetch", Field.END), ["MOV A A"] * 20 + ["HLT"]),
    (planted.refuses_xor, Bucket("XOR R", Field.NOTHING), ["XOR A", "HLT"]),
    (planted.add_after_swap, Bucket("ADD R", Field.ACC), ["SWAP A A", "ADD A", "HLT"]),
    (planted.first_step, Bucket("fetch", Field.ACC), ["HLT"]),
]


@pytest.mark.parametrize(
    ("fault", "bucket", "cause"), FAULTS, ids=[fault.__name__ for fault, *_ in FAULTS]
)
def test_a_planted_fault_is_found_and_shrunk_to_its_cause(
    tmp_path: Path, fault: Fault, bucket: Bucket, cause: list[str]
) -> None:
    report = search(Planted((fault,)), tmp_path)
    assert report.failed
    assert set(report.tallies) == {bucket}
    examples = report.tallies[bucket].examples
    shortest = min(examples, key=lambda example: example.length)
    assert shortest.length == len(cause) == report.tallies[bucket].minimal_length
    for example in examples:
        assert example.minimal
        assert example.new
        assert example.failure.free_running
        assert example.length <= example.found_length
    program = disassemble(shortest.failure.case.memory.tobytes())
    assert all(
        line.startswith(wanted.rstrip("?")) for line, wanted in zip(program, cause, strict=True)
    )
    written = read_trace(shortest.path)
    assert (
        fault(
            np.frombuffer(written.memory, np.uint8),
            written.records[: shortest.failure.step],
            shortest.failure.expected.copy(),
        )
        is not None
    )


def test_all_faults_at_once_are_told_apart(tmp_path: Path) -> None:
    faults = [
        fault for fault, *_ in FAULTS if fault not in (planted.ends_early, planted.first_step)
    ]
    report = search(Planted(tuple(faults)), tmp_path, programs=128)
    for fault, bucket, cause in FAULTS:
        if fault in faults:
            assert report.tallies[bucket].minimal_length == len(cause), bucket
    assert {path.suffix for path in tmp_path.iterdir()} == {".s", ".bin"}
    assert not verify_traces([tmp_path]).failures


def test_two_faults_of_one_bucket_are_both_found(tmp_path: Path) -> None:
    """DIV R R by zero gives 0, and 255 by 255 gives 2."""

    def equal(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        if planted.form(states) != "DIV R R":
            return None
        _, x, y, _ = planted.word(states) or b""
        at = planted.place(x)
        if not states[-1, at] == states[-1, planted.place(y)] == 255:
            return None
        said[at] = 2
        return said

    report = search(Planted((planted.division_by_zero, equal)), tmp_path)
    examples = report.tallies[Bucket("DIV R R", Field.TARGET)].examples
    assert 2 <= len(examples) <= EXAMPLES
    assert {int(e.failure.case.records[0].max()) for e in examples} == {0, 255}


def test_two_faults_of_fetching_are_both_found(tmp_path: Path) -> None:
    """That of slot 200, and the one after each NOT, which is far more frequent."""

    def after_not(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        if planted.form(states) != "NOT":
            return None
        said[2] ^= 1
        return said

    report = search(Planted((planted.slot_200_is_72, after_not)), tmp_path)
    assert set(report.tallies) == {Bucket("fetch", Field.IR)}
    examples = report.tallies[Bucket("fetch", Field.IR)].examples
    assert {example.length for example in examples} == {2, 201}


def test_the_oracle_does_not_fail(tmp_path: Path) -> None:
    report = search(OracleStepper(), tmp_path, programs=10)
    assert not report.failed
    assert (report.programs, report.tallies, contents(tmp_path)) == (10, {}, {})


def test_the_same_seed_finds_the_same_and_another_does_not(tmp_path: Path) -> None:
    faulty = Planted((planted.product_of_256, planted.slot_200_is_72, planted.swap_with_itself))
    one = search(faulty, tmp_path / "one", programs=100)
    two = search(faulty, tmp_path / "two", programs=100)
    assert (one.programs, one.steps, one.wrong_steps) == (two.programs, two.steps, two.wrong_steps)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}
    other = search(faulty, tmp_path / "other", seed=2, programs=100)
    assert (one.steps, one.wrong_steps) != (other.steps, other.wrong_steps)
    # A longer search begins with the shorter one.
    fewer = search(faulty, tmp_path / "fewer", programs=70)
    assert fewer.steps < one.steps
    sources = [e.found for t in fewer.tallies.values() for e in t.examples]
    assert sources
    assert set(sources) <= {e.found for t in one.tallies.values() for e in t.examples}


@pytest.mark.parametrize("seconds", [20.0, 100.0, 300.0, 2000.0])
def test_a_limit_of_time_holds_for_shrinking_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    faults = planted.no_end_at_256, planted.division_by_zero, planted.slot_200_is_72
    candidate = Planted(faults)
    # Each trace takes a second.
    monkeypatch.setattr(module, "monotonic", lambda: float(candidate.asked))
    report = fuzz(
        candidate, open_corpus(tmp_path), seed=1, replays=lambda path, _: [], seconds=seconds
    )
    assert seconds <= report.seconds < seconds + 128
    assert report.programs % 64 == 0
    assert set(report.tallies) == {bucket for fault, bucket, _ in FAULTS if fault in faults}
    examples = [example for tally in report.tallies.values() for example in tally.examples]
    unfinished = [example for example in examples if not example.minimal]
    assert bool(unfinished) == bool(report.shrinking) == (seconds < 2000)
    for example in unfinished:
        assert "not shrunk to the end" in example.path.with_suffix(".s").read_text()
    assert not report.interrupted


def test_the_second_half_of_the_time_is_for_shrinking_alone_if_there_is_anything_to_shrink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = Planted((planted.slot_200_is_72,))
    monkeypatch.setattr(module, "monotonic", lambda: float(candidate.asked))
    searched: list[tuple[float, int, int]] = []
    fuzz(
        candidate,
        open_corpus(tmp_path),
        seed=1,
        replays=lambda path, _: [],
        seconds=4000.0,
        progress=lambda report: searched.append(
            (report.seconds, report.programs, report.shrinking)
        ),
    )
    late = {programs for seconds, programs, left in searched if seconds > 2064 and left}
    after = {programs for _, programs, left in searched if not left}
    assert len(late) <= 1 < len(after), (late, after)


# The corpus ---------------------------------------------------------------------------


def test_the_assembly_of_a_failure_tells_all_about_it_and_assembles(tmp_path: Path) -> None:
    report = fuzz(
        Planted((planted.division_by_zero,)),
        open_corpus(tmp_path),
        seed=1,
        replays=lambda path, _: [f"replay {path}"],
        programs=10,
    )
    example = only(report, Bucket("DIV R R", Field.TARGET))
    path = example.path.with_suffix(".s")
    text = path.read_text()
    assert text.splitlines() == [
        "; DIV R R, target register",
        "; planted",
        f"; found in {example.found}, of {example.found_length} instructions;"
        " nothing simpler fails in the same way",
        "; starts with all values 0",
        ";",
        f"; replay {path}",
        ";",
        "; step 2 of 3, after DIV A A:",
        ";            PC ACC IR0 IR1 IR2 IR3   A   B   C   D   E   F   G   H   I   J",
        "; before      1   0  16   1   1   0   0   0   0   0   0   0   0   0   0   0",
        "; expected    2   0   0   0   0   0 255   0   0   0   0   0   0   0   0   0",
        "; predicted   2   0   0   0   0   0   0   0   0   0   0   0   0   0   0   0",
        ";                                   ^^^",
        "",
        "DIV A A",
        "HLT",
    ]
    assert assemble(text) == read_trace(example.path).memory


def test_what_is_no_state_is_spelt_out(tmp_path: Path) -> None:
    search(Planted((planted.refuses_xor,)), tmp_path / "refused")
    search(Planted((planted.ends_early,)), tmp_path / "early")
    (refused,) = (tmp_path / "refused").glob("*.s")
    assert "\n; predicted no next state\n" in refused.read_text()
    (early,) = (tmp_path / "early").glob("*.s")
    assert "\n; predicted the end of the trace\n" in early.read_text()


def test_known_failures_are_replayed_first_and_nothing_is_overwritten(tmp_path: Path) -> None:
    faults = planted.division_by_zero, planted.swap_with_itself, planted.no_end_at_256
    first = search(Planted(faults), tmp_path)
    before = contents(tmp_path)
    assert not first.known
    # Users may write into the assembly, or lose it.
    edited = min(tmp_path.glob("swap*.s"))
    edited.write_text("; mine\n" + edited.read_text())
    before[edited.name] = edited.read_bytes()
    half_mended = Planted(faults[1:])
    again = search(half_mended, tmp_path)
    assert contents(tmp_path) == before
    status = {known.path.name: known.failure for known in again.known}
    assert sorted(status) == sorted(path.name for path in tmp_path.glob("*.bin"))
    for name, failure in status.items():
        assert (failure is None) == name.startswith("div"), name
    assert all(not e.new for tally in again.tallies.values() for e in tally.examples)
    mended = search(OracleStepper(), tmp_path, programs=1)
    assert [known.failure for known in mended.known] == [None] * 3
    assert not mended.failed


def test_a_known_failure_alone_is_a_failure(tmp_path: Path) -> None:
    search(Planted((planted.no_end_at_256,)), tmp_path)
    # Program 0 of seed 1 does not fill memory.
    report = search(Planted((planted.no_end_at_256,)), tmp_path, programs=1)
    assert not report.tallies
    assert report.failed
    (known,) = report.known
    assert known.failure is not None
    assert known.failure.bucket == Bucket("HLT", Field.END)


def test_a_users_own_programs_are_replayed_too(tmp_path: Path) -> None:
    (tmp_path / "image.bin").write_bytes(assemble("DIV A B\nHLT")[:8])
    (tmp_path / "endless.bin").write_bytes(assemble("DIV A B\n" * 256))
    (tmp_path / "illegal.bin").write_bytes(bytes([99, 0, 0, 0]))
    (tmp_path / "notes.txt").write_text("not mine")
    report = search(Planted((planted.division_by_zero,)), tmp_path, programs=1)
    status = {known.path.name: known for known in report.known}
    assert set(status) == {"image.bin", "endless.bin", "illegal.bin"}
    assert status["image.bin"].failure is not None
    assert status["endless.bin"].failure is not None
    assert status["illegal.bin"].failure is None


@pytest.mark.parametrize("size", [0, 3, 1025, 1041])
def test_a_file_of_the_corpus_that_is_no_program_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "bad.bin").write_bytes(bytes(size))
    with pytest.raises(UserError, match=r"bad\.bin: .* every \.bin file in a corpus is replayed"):
        open_corpus(tmp_path)


def test_two_runs_that_save_the_same_failure_at_once_both_go_on(tmp_path: Path) -> None:
    report = search(Planted((planted.division_by_zero,)), tmp_path / "found", programs=10)
    failure = only(report, Bucket("DIV R R", Field.TARGET)).failure
    corpus = open_corpus(tmp_path / "corpus")
    corpus.make()

    def meanwhile(_: Path, __: Failure) -> list[str]:
        corpus.add(failure, ["the other run"], lambda _, __: [])
        return []

    assert corpus.add(failure, ["this run"], meanwhile)
    assert len(contents(corpus.folder)) == 2
    assert open_corpus(corpus.folder).known[0][0] == corpus.path(failure)


def test_a_corpus_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir.bin").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for path, told in [
        ("file", "is no folder"),
        ("file/below", "is no folder"),
        ("loop", "is no folder"),
        (".", r"dir\.bin: is a directory"),
    ]:
        with pytest.raises(UserError, match=told):
            open_corpus(tmp_path / path)
    assert (tmp_path / "file").read_text() == "x"


# Interruptions and unsteady candidates ----------------------------------------------------


@dataclass
class Stops(Planted):
    """Raises an error when it has verified so many traces."""

    after: int = 0
    error: type[BaseException] = KeyboardInterrupt

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        for answer in super().verify(cases):
            if self.asked > self.after:
                raise self.error("stop")
            yield answer


@pytest.mark.parametrize("after", [64, 70, 80, 100])
def test_ctrl_c_saves_what_was_found_as_far_as_it_was_shrunk(tmp_path: Path, after: int) -> None:
    faults = planted.no_end_at_256, planted.division_by_zero, planted.slot_200_is_72
    report = search(Stops(faults, after=after), tmp_path, programs=1000)
    assert report.interrupted
    assert report.programs == 64
    assert set(report.tallies) == {bucket for fault, bucket, _ in FAULTS if fault in faults}
    for tally in report.tallies.values():
        assert tally.examples
        for example in tally.examples:
            story = example.path.with_suffix(".s").read_text()
            assert ("not shrunk to the end" in story) == (not example.minimal)
    # All that was saved fails.
    again = search(Planted(faults), tmp_path, programs=1)
    assert len(again.known) == sum(len(tally.examples) for tally in report.tallies.values())
    assert all(known.failure is not None for known in again.known)


def test_ctrl_c_before_anything_was_found_saves_nothing(tmp_path: Path) -> None:
    report = search(Stops((planted.division_by_zero,), after=3), tmp_path)
    assert (report.interrupted, report.failed, report.programs) == (True, False, 0)
    assert contents(tmp_path) == {}


def test_an_error_of_the_candidate_passes_and_what_was_found_is_saved(tmp_path: Path) -> None:
    failing = Stops((planted.division_by_zero,), after=70, error=StepperError)
    with pytest.raises(StepperError):
        search(failing, tmp_path)
    assert list(tmp_path.glob("div-r-r-target-*.bin"))


@dataclass
class Sociable(Planted):
    """Fails only in company, as rounding can make a model do."""

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        honest = Planted(()) if len(cases) == 1 else super()
        yield from honest.verify(cases)


def test_a_failure_that_does_not_show_alone_is_counted_and_not_saved(tmp_path: Path) -> None:
    report = search(Sociable((planted.no_end_at_256,)), tmp_path)
    tally = report.tallies[Bucket("HLT", Field.END)]
    assert tally.steps
    assert tally.unsteady == tally.attempts > 0
    assert not tally.examples
    assert contents(tmp_path) == {}


class Short(Planted):
    """Follows 40 records."""

    max_records = 40


def test_a_candidate_that_cannot_follow_long_programs_is_fuzzed_as_far_as_it_can(
    tmp_path: Path,
) -> None:
    faults = planted.ends_early, planted.no_end_at_256
    report = search(Short(faults), tmp_path)
    assert set(report.tallies) == {Bucket("fetch", Field.END)}
    assert report.steps <= 64 * 40
    assert only(report, Bucket("fetch", Field.END)).length == 21


def test_a_failure_that_never_comes_first_says_how_to_see_it(tmp_path: Path) -> None:
    told: list[Failure] = []

    def off(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        """Step 1 is always wrong; a division by 0 is, too."""
        if len(states) == 1:
            said[PC] = 7
            return said
        return planted.division_by_zero(_, states, said)

    report = fuzz(
        Planted((off,)),
        open_corpus(tmp_path),
        seed=1,
        replays=lambda _, failure: told.append(failure) or [],
        programs=10,
    )
    example = only(report, Bucket("DIV R R", Field.TARGET))
    assert not example.failure.free_running
    assert (example.length, example.failure.step) == (2, 2)
    assert "it shows when put back on the CPU's trace" in example.path.with_suffix(".s").read_text()
    assert example.failure in told
    assert only(report, Bucket("fetch", Field.PC)).failure.free_running
    assert example.failure.case.records.shape == (3, STATE_SIZE)
    assert example.failure.case.records[1, ACC] == 0
