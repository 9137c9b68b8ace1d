"""Sets of traces: the same bytes however they are made, nothing half-written, all verified."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpusim import dataset, reference
from cpusim.assembler import assemble
from cpusim.dataset import (
    MANIFEST,
    PARTS,
    Failure,
    SetReport,
    VerifyReport,
    export,
    generate_set,
    verify,
)
from cpusim.errors import UserError
from cpusim.isa import FIELDS, FIRST_REGISTER, MEMORY_SIZE, STATE_SIZE
from cpusim.programs import Programs, generate
from cpusim.trace import ShardWriter, Trace, instance_hashes, open_shard, read_trace, write_shard

GOLDEN = Path(__file__).parent.parent / "golden" / "cpu_traces"
# A set small enough to make often, in several shards of several chunks (see `small_pieces`).
SMALL: dict[str, Any] = {"count": 60, "test_count": 15, "max_length": 40, "seed": 11}
both_layouts = pytest.mark.parametrize("layout", dataset.LAYOUTS)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 25 traces, made 10 at a time."""
    monkeypatch.setattr(dataset, "_SHARD_TRACES", 25)
    monkeypatch.setattr(dataset, "_CHUNK", 10)


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder but the manifest, temporary ones included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def manifest(out: Path) -> dict[str, Any]:
    """The manifest, without what differs from call to call."""
    found: dict[str, Any] = json.loads((out / MANIFEST).read_bytes())
    if found["report"] is not None:
        del found["report"]["seconds"], found["report"]["resumed"]
    return found


def straight(out: Path, **options: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files and manifest of a set that was made in one go."""
    generate_set(out, **options)
    return files(out), manifest(out)


def instances(folder: Path) -> list[bytes]:
    """The memory and first state of all traces below a folder."""
    found = [path.read_bytes()[: MEMORY_SIZE + STATE_SIZE] for path in folder.rglob("*.bin")]
    for path in folder.rglob("*.shard"):
        shard = open_shard(path)
        found.extend(
            shard.trace(i).memory + shard.trace(i).initial_state for i in range(len(shard))
        )
    return found


# Same seed, same bytes -----------------------------------------------------------------


@both_layouts
@pytest.mark.parametrize("distribution", ["published", "mixed"])
def test_a_set_made_twice_has_the_same_bytes(
    layout: str, distribution: str, tmp_path: Path
) -> None:
    options = SMALL | {"layout": layout, "distribution": distribution}
    assert straight(tmp_path / "one", **options) == straight(tmp_path / "two", **options)


def test_the_number_of_workers_and_the_layout_change_no_byte(tmp_path: Path) -> None:
    one, two, exported = (tmp_path / name for name in ("one", "two", "exported"))
    expected = straight(one, **SMALL)
    assert straight(two, **SMALL, workers=2) == expected
    export(one, exported)
    as_files, _ = straight(tmp_path / "files", **SMALL, layout="files", workers=2)
    assert len(as_files) == 75
    assert files(exported) == as_files


@pytest.mark.usefixtures("small_pieces")
def test_the_size_of_shards_and_chunks_changes_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = straight(tmp_path / "small", **SMALL)
    assert sorted(made) == [
        "test/00000.shard",
        *(f"train/0000{number}.shard" for number in range(3)),
    ]
    monkeypatch.undo()
    generate_set(tmp_path / "whole", **SMALL)
    for name in ("small", "whole"):
        export(tmp_path / name, tmp_path / f"{name}-files")
    assert files(tmp_path / "small-files") == files(tmp_path / "whole-files")


def test_a_longer_set_begins_with_the_traces_of_a_shorter_one(tmp_path: Path) -> None:
    short, _ = straight(tmp_path / "short", **SMALL, layout="files")
    long, _ = straight(tmp_path / "long", **SMALL | {"count": 90}, layout="files")
    assert short.items() < long.items()


@pytest.mark.parametrize(
    "change",
    [{"seed": 12}, {"distribution": "uniform"}, {"max_length": 41}, {"min_length": 2}],
    ids=str,
)
def test_each_parameter_changes_the_traces(change: dict[str, Any], tmp_path: Path) -> None:
    one, _ = straight(tmp_path / "one", **SMALL)
    other, _ = straight(tmp_path / "other", **SMALL | change)
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


def test_where_one_file_exists_no_other_is_exported(tmp_path: Path) -> None:
    source, out = tmp_path / "set", tmp_path / "bins"
    generate_set(source, count=40, test_count=20, layout="shards", max_length=3)
    (out / "test").mkdir(parents=True)
    (out / "test" / "0000007.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"0000007\.bin: already exists"):
        export(source, out)
    assert files(out) == {"test/0000007.bin": b"mine"}
    assert export(source, out, force=True) == 60
    assert verify([out]).failures == []


@both_layouts
def test_a_set_holds_what_was_asked_for_and_verifies(layout: str, tmp_path: Path) -> None:
    options = {"min_length": 3, "max_length": 9, "distribution": "uniform", "seed": 5}
    report = generate_set(tmp_path, count=130, test_count=40, layout=layout, **options)
    assert (report.train, report.test, report.resumed) == (130, 40, 0)
    found = verify([tmp_path])
    assert (found.traces, found.failures, found.errors) == (170, [], [])
    assert found.records == report.records
    assert report.bytes == sum(map(len, files(tmp_path).values()))
    assert [len(instances(tmp_path / part)) for part in PARTS] == [130, 40]
    out = tmp_path / "bins"
    if layout == "shards":
        export(tmp_path, out)
    lengths = {
        len(read_trace(path).records) - 1
        for path in (out if layout == "shards" else tmp_path).rglob("*.bin")
    }
    assert lengths == set(range(3, 10))


def test_the_manifest_says_how_the_set_was_made_and_what_it_holds(tmp_path: Path) -> None:
    report = generate_set(tmp_path, **SMALL)
    assert manifest(tmp_path) == {
        "format": "cpusim set 1",
        "count": 60,
        "test_count": 15,
        "min_length": 1,
        "max_length": 40,
        "distribution": "published",
        "seed": 11,
        "layout": "shards",
        "report": {
            "train": 60,
            "test": 15,
            "records": report.records,
            "bytes": report.bytes,
            "duplicates": 0,
            "overlap": 0,
        },
    }


@pytest.mark.usefixtures("small_pieces")
@both_layouts
def test_progress_counts_traces_up_to_the_total(layout: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    generate_set(tmp_path, **SMALL, layout=layout, progress=lambda *at: told.append(at))
    assert [done for done, _ in told] == [10, 20, 25, 35, 45, 50, 60, 70, 75]
    assert {total for _, total in told} == {75}


# Train and test --------------------------------------------------------------------------


@both_layouts
def test_train_and_test_share_no_instance_and_the_report_says_so(
    layout: str, tmp_path: Path
) -> None:
    report = generate_set(tmp_path, **SMALL, layout=layout)
    train, test = (instances(tmp_path / part) for part in PARTS)
    assert not set(train) & set(test)
    assert (report.overlap, report.duplicates) == (0, 0)
    assert len(set(train + test)) == 75


def test_train_and_test_of_different_seeds_share_no_instance_either(tmp_path: Path) -> None:
    hashes: dict[str, set[int]] = {part: set() for part in PARTS}
    for seed in range(5):
        generate_set(tmp_path / str(seed), count=100, test_count=100, max_length=2, seed=seed)
        for part in PARTS:
            shard = open_shard(tmp_path / str(seed) / part / "00000.shard")
            hashes[part].update(shard.hashes.tolist())
    # The part is a function of the hash, so any set's test can be held against any other's train.
    assert {h % 16 for h in hashes["test"]} == {0}
    assert {h % 16 for h in hashes["train"]} == set(range(1, 16))


def test_the_report_counts_an_overlap_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_part = dataset._instances

    def leak(parameters: Any, _part: str, first: int, last: int) -> tuple[Programs, dataset.Hashes]:
        return of_part(parameters, "train", first, last)

    monkeypatch.setattr(dataset, "_instances", leak)
    report = generate_set(tmp_path, **SMALL)
    assert (report.overlap, report.duplicates) == (15, 0)


def test_the_report_counts_duplicates_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_number = dataset.generate_numbered

    def repeat(numbers: Any, **options: Any) -> Programs:
        return by_number(numbers % np.uint64(20), **options)

    monkeypatch.setattr(dataset, "generate_numbered", repeat)
    report = generate_set(tmp_path, count=60, max_length=40, seed=11)
    found = Counter(instances(tmp_path / "train"))
    assert report.duplicates == 60 - len(found) > 0


# Interrupted and resumed -----------------------------------------------------------------


class Interruption(BaseException):
    """What no code of ours knows."""


def interrupt_at(number: int) -> Callable[[int, int], None]:
    def progress(done: int, _total: int) -> None:
        if done >= number:
            raise Interruption

    return progress


@pytest.mark.usefixtures("small_pieces")
@both_layouts
@pytest.mark.parametrize("number", [1, 25, 30, 62])
def test_an_interrupted_set_has_only_whole_files_and_is_completed_by_the_same_call(
    layout: str, number: int, tmp_path: Path
) -> None:
    options = SMALL | {"layout": layout}
    expected, expected_manifest = straight(tmp_path / "straight", **options)
    out = tmp_path / "out"
    with pytest.raises(Interruption):
        generate_set(out, **options, progress=interrupt_at(number))
    there = files(out)
    assert there.items() <= expected.items()
    assert manifest(out)["report"] is None
    report = generate_set(out, **options)
    assert (files(out), manifest(out)) == (expected, expected_manifest)
    if layout == "files":
        assert report.resumed == len(there) >= number
    else:
        assert report.resumed == sum(len(open_shard(out / name)) for name in there)


def test_two_workers_stop_in_the_middle_when_interrupted_and_sweep(tmp_path: Path) -> None:
    options: dict[str, Any] = {"count": 100_000, "test_count": 100, "max_length": 30}
    with pytest.raises(Interruption):
        generate_set(tmp_path / "out", **options, workers=2, progress=interrupt_at(1))
    # The large shard was begun, not finished, and its half is gone.
    there = files(tmp_path / "out")
    assert there.keys() <= {"test/00000.shard"}
    expected, _ = straight(tmp_path / "straight", **options | {"count": 1})
    assert there.items() <= expected.items()


# Run in a process of its own, which kills itself when so many traces are made.
KILLED = """
import os, signal, sys
from pathlib import Path
from cpusim import dataset

out, layout, workers, at = sys.argv[1:]
dataset._SHARD_TRACES, dataset._CHUNK = 25, 10


def progress(done, total):
    if done >= int(at):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    dataset.generate_set(
        Path(out), count=60, test_count=15, max_length=40, seed=11, layout=layout,
        workers=int(workers), progress=progress,
    )
"""


def killed(out: Path, layout: str, *, workers: int, at: int) -> None:
    script = out.with_suffix(".py")
    script.write_text(KILLED)
    # Workers hold the pipe too, so this returns only once they have ended as well.
    done = subprocess.run(
        [sys.executable, script, out, layout, str(workers), str(at)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.usefixtures("small_pieces")
@both_layouts
def test_a_set_whose_maker_was_killed_is_completed_and_swept(layout: str, tmp_path: Path) -> None:
    options = SMALL | {"layout": layout}
    out = tmp_path / "out"
    killed(out, layout, workers=1, at=30)
    there = files(out)
    halves = [name for name in there if name.endswith(".tmp")]
    # A killed process cannot sweep, but what it was writing has no trace's name.
    assert len(halves) == (layout == "shards")
    expected, expected_manifest = straight(tmp_path / "straight", **options)
    assert {name: there[name] for name in there.keys() - halves}.items() <= expected.items()
    generate_set(out, **options)
    assert (files(out), manifest(out)) == (expected, expected_manifest)


def test_workers_end_with_their_killed_maker(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed(out, "files", workers=2, at=0)
    generate_set(out, **SMALL, layout="files")
    assert files(out) == straight(tmp_path / "straight", **SMALL, layout="files")[0]


def test_a_worker_that_is_killed_is_told_of_and_the_set_can_be_completed(tmp_path: Path) -> None:
    def kill_workers(_done: int, _total: int) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    out = tmp_path / "out"
    with pytest.raises(UserError, match="out: a worker process was ended from outside") as caught:
        generate_set(out, **SMALL, workers=2, progress=kill_workers)
    assert "fewer workers goes on where this one stopped" in str(caught.value)
    generate_set(out, **SMALL)
    assert files(out) == straight(tmp_path / "straight", **SMALL)[0]


@pytest.mark.parametrize("stray", [".set.json.abc.tmp", "train/.00000.shard.abc.tmp"])
def test_what_a_killed_maker_left_before_its_first_trace_is_no_other_set(
    stray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise Interruption

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "_write_manifest", interrupt)
        with pytest.raises(Interruption):
            generate_set(out, **SMALL)
    if stray.startswith("train"):
        generate_set(out, **SMALL)
    (out / stray).write_bytes(b"half")
    generate_set(out, **SMALL)
    assert files(out) == straight(tmp_path / "straight", **SMALL)[0]


@pytest.mark.usefixtures("small_pieces")
@both_layouts
def test_what_is_missing_of_a_complete_set_is_made_again_and_the_rest_kept(
    layout: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expected, _ = straight(out, **SMALL, layout=layout)
    [gone, *_] = sorted(out.rglob("train/*1.*"))
    gone.unlink()
    for path in out.rglob("test/*"):
        path.unlink()
    (out / "test").rmdir()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("train/*")}
    report = generate_set(out, **SMALL, layout=layout)
    assert files(out) == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert report.resumed == (35 if layout == "shards" else 59)
    assert report.overlap == 0


def test_a_complete_set_is_left_alone_and_reported_again(tmp_path: Path) -> None:
    first = generate_set(tmp_path, **SMALL)
    before = (tmp_path / MANIFEST).read_bytes()
    again = generate_set(tmp_path, **SMALL)
    assert (tmp_path / MANIFEST).read_bytes() == before
    assert again == SetReport(**vars(first) | {"resumed": 75, "seconds": again.seconds})


def test_a_file_that_a_power_cut_emptied_is_made_again(tmp_path: Path) -> None:
    expected, _ = straight(tmp_path, **SMALL, layout="files")
    (tmp_path / "train" / "0000007.bin").write_bytes(b"")
    report = generate_set(tmp_path, **SMALL, layout="files")
    assert files(tmp_path) == expected
    assert report.resumed == 74


# What is in the way ----------------------------------------------------------------------


def test_another_set_in_the_folder_is_refused_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate_set(out, **SMALL)
    before = files(out), manifest(out)
    other = SMALL | {"seed": 12, "count": 20, "layout": "files"}
    with pytest.raises(UserError) as caught:
        generate_set(out, **other)
    assert str(caught.value) == (
        f"{out}: holds another set (count 60 there, 20 asked for, seed 11 there, 12 asked for,"
        " layout 'shards' there, 'files' asked for); choose another folder or use --force to"
        " replace it"
    )
    assert (files(out), manifest(out)) == before
    generate_set(out, **other, force=True)
    assert (files(out), manifest(out)) == straight(tmp_path / "straight", **other)


def test_a_folder_with_anything_else_is_refused_and_force_keeps_what_is_no_trace(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match="out: is not empty and holds no set; choose another"):
        generate_set(out, **SMALL)
    assert list(out.iterdir()) == [out / "notes.txt"]
    generate_set(out, **SMALL, force=True)
    assert (out / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "found",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "no-text", "deep"],
)
def test_a_damaged_manifest_is_refused(found: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(found)
    with pytest.raises(UserError, match=r"set\.json: is damaged; choose another folder"):
        generate_set(tmp_path, **SMALL)


def test_a_manifest_without_a_report_gets_one(tmp_path: Path) -> None:
    generate_set(tmp_path, **SMALL)
    expected = manifest(tmp_path)
    without = {key: value for key, value in expected.items() if key != "report"}
    (tmp_path / MANIFEST).write_text(json.dumps(without))
    generate_set(tmp_path, **SMALL)
    assert manifest(tmp_path) == expected


def test_a_damaged_or_foreign_shard_in_the_way_is_named(tmp_path: Path) -> None:
    generate_set(tmp_path, **SMALL)
    path = tmp_path / "train" / "00000.shard"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"00000\.shard: .* it is truncated or damaged"):
        generate_set(tmp_path, **SMALL)
    path.write_bytes((tmp_path / "test" / "00000.shard").read_bytes())
    with pytest.raises(UserError, match="holds 15 traces where 60 belong; delete it and resume"):
        generate_set(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"count": 0}, r"a set of 0 \+ 0 traces is empty; ask for at least 1"),
        ({"count": -1, "test_count": 5}, r"a set of -1 \+ 5 traces"),
        ({"count": 5, "test_count": -5}, r"a set of 5 \+ -5 traces"),
        ({"workers": 0}, "0 workers cannot work; use at least 1"),
        ({"layout": "zip"}, "layout 'zip' does not exist; choose shards or files"),
        ({"min_length": 0}, "lengths from 0 to 255 are not possible"),
        ({"max_length": 257}, "lengths from 1 to 257 are not possible"),
        ({"distribution": "normal"}, "distribution 'normal' does not exist"),
        ({"seed": -1}, "seed -1 is out of range"),
    ],
)
def test_an_impossible_set_is_refused_before_anything_is_written(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        generate_set(tmp_path / "out", **{"count": 1} | options)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"^{out}: cannot be prepared \("):
            generate_set(out, **SMALL)
    assert (tmp_path / "file").read_bytes() == b"precious"


class FullDisk(io.BufferedWriter):
    """A file on a disk with room for 1,500 bytes of it."""

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > 1_500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@both_layouts
def test_a_full_disk_is_an_error_that_leaves_only_whole_files_and_can_be_mended(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"layout": layout}
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", lambda handle, mode: FullDisk(io.FileIO(handle, mode)))
        with pytest.raises(UserError) as caught:
            generate_set(out, **options)
    name = str(caught.value).partition(": ")[0]
    assert Path(name).parent == out / "train"
    assert str(caught.value) == (
        f"{name}: cannot be written (no space left on device); what was there is unchanged"
    )
    expected, expected_manifest = straight(tmp_path / "straight", **options)
    assert files(out).items() <= expected.items()
    generate_set(out, **options)
    assert (files(out), manifest(out)) == (expected, expected_manifest)


# Verification ----------------------------------------------------------------------------

PROGRAM = """
LOADI 200
POP A
ADD A B
SWAP C
MUL A B D
SUB D
NOT
SHL J
MOV E D
DIV E A F
XOR C J
HLT
"""
START = bytes([0, 17, 0, 0, 0, 0, *range(31, 141, 11)])


def recorded(source: str, state: bytes = START, max_steps: int = 4096) -> bytes:
    """The trace file of a program."""
    memory = assemble(source)
    return memory + b"".join(reference.run(memory, state, max_steps=max_steps).records)


def changed(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([value]) + data[place + 1 :]


def saved(folder: Path, **contents: bytes) -> None:
    for name, data in contents.items():
        (folder / f"{name}.bin").write_bytes(data)


def verified(*paths: Path, **options: Any) -> tuple[list[Failure], list[str]]:
    report = verify(paths, **options)
    return report.failures, report.errors


def test_the_published_traces_verify() -> None:
    expected = VerifyReport(
        files=24,
        traces=24,
        records=sum((p.stat().st_size - MEMORY_SIZE) // 16 for p in GOLDEN.glob("*.bin")),
    )
    assert verify([GOLDEN]) == expected


def test_a_changed_byte_is_found_at_its_record_and_field_in_every_place(tmp_path: Path) -> None:
    data = recorded(PROGRAM)
    lines = PROGRAM.strip().splitlines()
    expected = []
    for record in range(1, len(lines) + 1):
        for place, field in enumerate(FIELDS):
            at = MEMORY_SIZE + STATE_SIZE * record + place
            path = tmp_path / f"{record:02d}-{place:02d}.bin"
            path.write_bytes(changed(data, at, data[at] ^ 0x41))
            # Record k shows what the instruction before the one in IR left behind.
            computed = (field == "ACC" or place >= FIRST_REGISTER) and record >= 2
            by = lines[record - 2] if computed else ""
            expected.append(Failure(path, None, record, field, data[at], data[at] ^ 0x41, by))
    report = verify([tmp_path])
    assert report.failures == expected
    assert report.errors == []
    assert (report.files, report.traces) == (len(expected), len(expected))
    assert str(expected[1]) == (
        f"{tmp_path}/01-01.bin: record 1, ACC: 80 where the program gives 17"
    )
    assert str(expected[22]).endswith(
        "02-06.bin: record 2, A: 94 where the program gives 31 (LOADI 200)"
    )


def test_a_changed_first_record_shows_in_the_one_after_it(tmp_path: Path) -> None:
    data = recorded(PROGRAM)
    path = tmp_path / "t.bin"
    path.write_bytes(changed(data, MEMORY_SIZE + FIRST_REGISTER, 99))
    assert verified(path) == ([Failure(path, None, 1, "A", 99, 31)], [])


def test_a_changed_program_shows_where_it_is_fetched(tmp_path: Path) -> None:
    data = recorded(PROGRAM)
    path = tmp_path / "t.bin"
    # ADD A B becomes ADD A C.
    path.write_bytes(changed(data, 4 * 2 + 2, 3))
    assert verified(path) == ([Failure(path, None, 3, "IR2", 3, 2)], [])


def test_only_the_first_difference_of_a_trace_is_named(tmp_path: Path) -> None:
    data = recorded(PROGRAM)
    path = tmp_path / "t.bin"
    for at in (MEMORY_SIZE + 16 * 9 + 1, MEMORY_SIZE + 16 * 5 + 15, MEMORY_SIZE + 16 * 5 + 12):
        data = changed(data, at, data[at] ^ 1)
    path.write_bytes(data)
    [failure], errors = verified(path)
    assert (failure.record, failure.field, errors) == (5, "G", [])


def test_a_trace_too_short_or_too_long_is_a_difference_in_length(tmp_path: Path) -> None:
    data = recorded(PROGRAM)
    saved(
        tmp_path,
        a=data[:-16],
        b=data[: MEMORY_SIZE + 16],
        c=data + data[-16:],
        d=data + bytes(160),
        e=data,
    )
    failures, errors = verified(tmp_path)
    assert errors == []
    assert [(f.path.stem, f.record, f.field, f.expected, f.found) for f in failures] == [
        ("a", 12, "length", 13, 12),
        ("b", 1, "length", 13, 1),
        ("c", 13, "length", 13, 14),
        ("d", 13, "length", 13, 23),
    ]
    assert str(failures[0]) == f"{tmp_path}/a.bin: 12 records where the program gives 13"


def test_a_wrong_byte_before_a_wrong_end_counts_first(tmp_path: Path) -> None:
    data = recorded(PROGRAM)
    at = MEMORY_SIZE + 16 * 4 + 1
    saved(tmp_path, a=changed(data, at, data[at] ^ 1)[:-16])
    [failure], _ = verified(tmp_path)
    assert (failure.record, failure.field) == (4, "ACC")


def test_a_program_that_never_halts_is_right_if_its_trace_ends_at_the_limit(
    tmp_path: Path,
) -> None:
    endless = "NOT A\n" * 256
    saved(
        tmp_path,
        a=recorded(endless, max_steps=300),
        b=recorded(endless, max_steps=299),
        c=recorded(endless, max_steps=301),
    )
    failures, errors = verified(tmp_path, max_steps=300)
    assert errors == []
    assert [(f.path.stem, f.record, f.expected, f.found) for f in failures] == [
        ("b", 300, 301, 300),
        ("c", 301, 301, 302),
    ]


def test_a_program_that_traps_is_right_if_its_trace_ends_there(tmp_path: Path) -> None:
    trap = recorded("INC\n.byte 99 0 0 0\nHLT")
    saved(tmp_path, a=trap, b=trap + trap[-16:], c=trap[:-16])
    failures, _ = verified(tmp_path)
    assert [(f.path.stem, f.expected, f.found) for f in failures] == [("b", 3, 4), ("c", 3, 2)]


def test_a_trace_that_comes_through_a_pipe_is_verified(tmp_path: Path) -> None:
    pipe, trace = tmp_path / "pipe", next(GOLDEN.glob("*.bin"))
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as other:
        other.submit(pipe.write_bytes, trace.read_bytes())
        report = verify([pipe])
    assert (report.errors, report.failures, report.traces) == ([], [], 1)
    assert report.records == verify([trace]).records


def test_what_cannot_be_read_is_an_error_and_the_rest_is_verified(tmp_path: Path) -> None:
    right, folder, empty = tmp_path / "right.bin", tmp_path / "folder", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    data = recorded(PROGRAM)
    saved(tmp_path, right=data)
    saved(folder, a=data[:-1], b=b"", d=changed(data, MEMORY_SIZE, 1), e=data)
    (folder / "c.bin").symlink_to(folder / "nowhere")
    (folder / "notes.txt").write_text("no trace, and nobody asked")
    (folder / "folder.bin").mkdir()
    report = verify([tmp_path / "missing", right, folder, empty, right])
    assert report.failures == []
    assert (report.files, report.traces, report.records) == (3, 3, 39)
    assert report.errors == [
        f"{empty}: holds no traces (no file below it ends in .bin or .shard)",
        f"{tmp_path}/missing: no such file; check the name",
        f"{folder}/a.bin: 1,231 bytes is not 1,024 + a multiple of 16; it is truncated or no trace",
        f"{folder}/b.bin: 0 bytes is too short for a trace, which has 1,024 + a multiple of 16,"
        " at least 1,040; it is truncated or no trace",
        f"{folder}/c.bin: no such file; check the name",
        f"{folder}/d.bin: record 0 has PC 1, but every run starts with PC and IR at 0;"
        " it is damaged or no trace",
    ]


def test_more_files_than_fit_in_one_batch_are_all_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", 7)
    data = recorded(PROGRAM)
    wrong = (0, 6, 7, 20, 22)
    for number in range(23):
        damaged = data[:-16] if number in wrong else data
        (tmp_path / f"{number:02d}.bin").write_bytes(damaged)
    told: list[tuple[int, int]] = []
    report = verify([tmp_path], progress=lambda *at: told.append(at))
    assert [int(f.path.stem) for f in report.failures] == list(wrong)
    assert (report.files, report.traces, report.records) == (23, 23, 23 * 13 - 5)
    assert told == [(done, 23) for done in range(24)]


# Verification of shards ------------------------------------------------------------------


def shard_of(path: Path, *contents: bytes, hashes: list[int] | None = None) -> ShardWriter:
    """A shard of trace files' contents; its checksums are right whatever they hold."""
    with write_shard(path) as writer:
        for index, data in enumerate(contents):
            trace = Trace(
                data[:MEMORY_SIZE],
                np.frombuffer(data, np.uint8, offset=MEMORY_SIZE).reshape(-1, STATE_SIZE),
            )
            writer.add(
                np.frombuffer(trace.memory, np.uint8)[None],
                trace.records,
                np.array([0, len(trace.records)]),
                None if hashes is None else np.array([hashes[index]], np.uint64),
            )
    return writer


@pytest.mark.parametrize("chunk", [2, 2_000])
def test_wrong_traces_in_a_shard_are_named_by_their_number(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", chunk)
    data, path = recorded(PROGRAM), tmp_path / "s.shard"
    at = MEMORY_SIZE + 16 * 5 + 1
    short, long, bent = data[:-16], data + data[-16:], changed(data, at, data[at] ^ 1)
    shard_of(path, data, short, data, bent, long)
    report = verify([tmp_path])
    assert report.errors == []
    assert (report.files, report.traces, report.records) == (1, 5, 5 * 13)
    assert report.failures == [
        Failure(path, 1, 12, "length", 13, 12),
        Failure(path, 3, 5, "ACC", data[at], data[at] ^ 1, "SWAP C"),
        Failure(path, 4, 13, "length", 13, 14),
    ]
    assert str(report.failures[0]) == f"{path}[1]: 12 records where the program gives 13"


def test_a_byte_that_changed_in_a_shard_is_an_error_and_its_trace_is_named(tmp_path: Path) -> None:
    generate_set(tmp_path / "set", count=40, max_length=20, seed=1)
    path = tmp_path / "set" / "train" / "00000.shard"
    shard = open_shard(path)
    record = int(shard.offsets[17]) + 1
    data = bytearray(path.read_bytes())
    data[64 + 16 * record + 3] ^= 1
    path.write_bytes(data)
    report = verify([tmp_path / "set"])
    assert report.errors == [f"{path}: its checksum does not match; it is damaged, make it anew"]
    [failure] = report.failures
    assert (failure.path, failure.trace, failure.record, failure.field) == (path, 17, 1, "IR1")
    assert (report.files, report.traces) == (1, 40)


def test_an_instance_that_is_not_the_one_its_shard_was_made_of_is_an_error(tmp_path: Path) -> None:
    data, path = recorded(PROGRAM), tmp_path / "s.shard"
    right = int(
        instance_hashes(
            np.frombuffer(data[:MEMORY_SIZE], np.uint8)[None],
            np.frombuffer(START, np.uint8)[None],
        )[0]
    )
    shard_of(path, data, data, hashes=[right, right ^ 1])
    assert verified(path) == ([], [f"{path}[1]: memory or first state do not fit the hash"])


def test_a_first_record_in_a_shard_that_no_run_starts_from_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.shard"
    shard_of(path, recorded("HLT"), recorded("INC\nHLT", bytes([1]) + START[1:]))
    failures, errors = verified(path)
    assert failures == []
    assert errors == [f"{path}[1]: record 0 has PC 1, but every run starts with PC and IR at 0"]


def test_a_shard_cut_anywhere_is_an_error_never_a_crash(tmp_path: Path) -> None:
    whole = tmp_path / "whole.shard"
    shard_of(whole, recorded(PROGRAM), recorded("HLT"))
    data = whole.read_bytes()
    for size in range(0, len(data), 7):
        (tmp_path / f"{size:04d}.shard").write_bytes(data[:size])
    report = verify([tmp_path])
    assert (report.files, report.traces, report.failures) == (1, 2, [])
    assert len(report.errors) == len(range(0, len(data), 7))


def test_files_and_shards_below_a_folder_are_verified_together(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    data = recorded(PROGRAM)
    shard_of(tmp_path / "a" / "s.shard", data, data[:-16])
    saved(tmp_path / "a" / "b", t=data, u=data[:-16])
    saved(tmp_path, v=data)
    report = verify([tmp_path])
    assert (report.files, report.traces, report.records) == (4, 5, 63)
    assert {str(f.path.relative_to(tmp_path)) for f in report.failures} == {
        "a/s.shard",
        "a/b/u.bin",
    }
    assert report.errors == []


def test_an_empty_shard_is_right(tmp_path: Path) -> None:
    shard_of(tmp_path / "s.shard")
    assert verify([tmp_path]) == VerifyReport(files=1)


def test_the_first_states_of_a_set_are_those_of_the_generator(tmp_path: Path) -> None:
    generate_set(tmp_path, count=50, max_length=40, seed=11)
    made = generate(200, seed=11, max_length=40)
    candidates = {
        memory.tobytes() + state.tobytes()
        for memory, state in zip(made.memories, made.states, strict=True)
    }
    in_order = instances(tmp_path / "train")
    # Most candidates belong to train at once; the others were replaced by later ones.
    assert sum(instance in candidates for instance in in_order) > 35
