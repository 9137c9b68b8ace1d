"""Trace files and packed shards: round trips, damage anywhere, what they import."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim import reference
from cpusim.assembler import assemble
from cpusim.dataset import export
from cpusim.errors import UserError
from cpusim.isa import FIELDS, MEMORY_SIZE, STATE_SIZE
from cpusim.trace import (
    MAGIC,
    MUST_BE_ZERO,
    Trace,
    instance_hashes,
    is_shard,
    open_shard,
    parse_trace,
    read_trace,
    write_shard,
    write_trace,
)
from tests.strategies import initial_states, memories, programs

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "cpu_traces").glob("*.bin"))
HEADER_SIZE = 64


def recorded(records: list[bytes]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(records), np.uint8).reshape(-1, STATE_SIZE)


def traces() -> st.SearchStrategy[Trace]:
    """Any memory but a shard's first bytes, a possible first state, and 0 to 20 other records."""
    later = st.lists(st.binary(min_size=STATE_SIZE, max_size=STATE_SIZE), max_size=20)
    return st.builds(
        lambda memory, first, rest: Trace(memory, recorded([first, *rest])),
        (memories() | programs()).filter(lambda memory: not memory.startswith(MAGIC)),
        initial_states(),
        later,
    )


def same(one: Trace, other: Trace) -> bool:
    return one.memory == other.memory and np.array_equal(one.records, other.records)


def short_trace(source: str = "INC A\nHLT", state: bytes = bytes(STATE_SIZE)) -> Trace:
    memory = assemble(source)
    return Trace(memory, recorded(list(reference.run(memory, state).records)))


def save_shard(path: Path, traces: list[Trace]) -> None:
    with write_shard(path) as writer:
        for trace in traces:
            writer.add(
                np.frombuffer(trace.memory, np.uint8)[None],
                trace.records,
                np.array([0, len(trace.records)]),
            )


@pytest.fixture
def shard_path(tmp_path: Path) -> Path:
    """A shard of three small traces."""
    path = tmp_path / "three.shard"
    save_shard(path, [short_trace(), short_trace("HLT"), short_trace("NOT\nNOT A\nLOADI 7\nHLT")])
    return path


# Trace files ----------------------------------------------------------------------------


@given(traces())
def test_a_trace_is_its_bytes_and_back(trace: Trace) -> None:
    data = trace.to_bytes()
    assert data[:MEMORY_SIZE] == trace.memory
    assert data[MEMORY_SIZE:] == trace.records.tobytes()
    parsed = parse_trace(data, "t.bin")
    assert same(parsed, trace)
    assert parsed.initial_state == data[MEMORY_SIZE : MEMORY_SIZE + STATE_SIZE]


def test_a_trace_file_holds_memory_and_records_and_reads_back(tmp_path: Path) -> None:
    trace, path = short_trace(), tmp_path / "t.bin"
    write_trace(path, trace.memory, trace.records)
    assert path.read_bytes() == trace.memory + trace.records.tobytes()
    assert same(read_trace(path), trace)


def test_a_trace_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path, old, new = tmp_path / "t.bin", short_trace("HLT"), short_trace()
    write_trace(path, old.memory, old.records)
    with pytest.raises(UserError, match=r"t\.bin: already exists; use --force"):
        write_trace(path, new.memory, new.records)
    assert same(read_trace(path), old)
    write_trace(path, new.memory, new.records, force=True)
    assert same(read_trace(path), new)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_published_trace_reads_and_writes_back_as_it_is(path: Path) -> None:
    assert read_trace(path).to_bytes() == path.read_bytes()


def test_a_trace_cut_at_any_byte_is_refused_with_its_size_unless_whole_records_remain() -> None:
    data = short_trace("NOT\nNOT A\nLOADI 7\nHLT").to_bytes()
    for size in range(len(data)):
        if size >= MEMORY_SIZE + STATE_SIZE and size % STATE_SIZE == 0:
            assert parse_trace(data[:size], "t.bin").to_bytes() == data[:size]
            continue
        with pytest.raises(UserError) as caught:
            parse_trace(data[:size], "t.bin")
        told = str(caught.value)
        if size < MEMORY_SIZE + STATE_SIZE:
            assert told == (
                f"t.bin: {size:,} bytes is too short for a trace, which has 1,024 + a multiple"
                " of 16, at least 1,040; it is truncated or no trace"
            )
        else:
            assert told == (
                f"t.bin: {size:,} bytes is not 1,024 + a multiple of 16;"
                " it is truncated or no trace"
            )


@pytest.mark.parametrize("field", MUST_BE_ZERO, ids=lambda field: FIELDS[field])
def test_a_first_record_that_no_run_starts_from_is_refused_by_field_and_value(field: int) -> None:
    data = bytearray(short_trace().to_bytes())
    data[MEMORY_SIZE + field] = 9
    with pytest.raises(
        UserError, match=rf"^t\.bin: record 0 has {FIELDS[field]} 9, but every run starts with PC"
    ):
        parse_trace(bytes(data), "t.bin")


def test_only_pc_and_ir_of_the_first_record_are_restrained() -> None:
    assert [FIELDS[field] for field in MUST_BE_ZERO] == ["PC", "IR0", "IR1", "IR2", "IR3"]


@given(st.binary(max_size=100) | st.binary(min_size=1000, max_size=1100))
def test_any_bytes_at_all_are_a_trace_or_refused(data: bytes) -> None:
    is_trace = (
        len(data) >= MEMORY_SIZE + STATE_SIZE
        and len(data) % STATE_SIZE == 0
        and not any(data[MEMORY_SIZE + field] for field in MUST_BE_ZERO)
        and not data.startswith(MAGIC)
    )
    if is_trace:
        assert parse_trace(data, "t.bin").to_bytes() == data
    else:
        with pytest.raises(UserError, match=r"^t\.bin: "):
            parse_trace(data, "t.bin")


def test_a_shard_is_not_taken_for_a_trace_whatever_its_size(tmp_path: Path) -> None:
    path = tmp_path / "s.shard"
    # 64 + 1,040 bytes of header and records, 0 of memory, 5 * 8 of index: not a trace's size.
    save_shard(path, [short_trace("HLT")] * 65)
    data = path.read_bytes()
    for size in (MEMORY_SIZE + STATE_SIZE, len(data)):
        with pytest.raises(UserError, match="is a packed shard, not one trace; export it"):
            parse_trace(data[:size], "s.bin")


def test_a_trace_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.bin: no such file"):
        read_trace(tmp_path / "no.bin")
    with pytest.raises(UserError, match="is a directory"):
        read_trace(tmp_path)


# Instance hashes ------------------------------------------------------------------------


@given(st.lists(st.tuples(memories(), initial_states()), min_size=1, max_size=5))
def test_an_instance_hash_depends_on_memory_and_first_state_alone(
    instances: list[tuple[bytes, bytes]],
) -> None:
    def hashes(chosen: list[tuple[bytes, bytes]]) -> list[int]:
        memory = np.frombuffer(b"".join(m for m, _ in chosen), np.uint8)
        state = np.frombuffer(b"".join(s for _, s in chosen), np.uint8)
        return instance_hashes(
            memory.reshape(-1, MEMORY_SIZE), state.reshape(-1, STATE_SIZE)
        ).tolist()

    found = hashes(instances)
    assert found == [hashes([instance])[0] for instance in instances]
    assert len(set(found)) == len(set(instances))


def test_an_instance_hash_never_changes_for_sets_are_split_by_it() -> None:
    memory, state = assemble("INC A"), bytes(range(STATE_SIZE))
    [found] = instance_hashes(
        np.frombuffer(memory, np.uint8)[None], np.frombuffer(state, np.uint8)[None]
    ).tolist()
    digest = hashlib.blake2b(memory + state, digest_size=8).digest()
    assert found == int.from_bytes(digest, "little") == 5367371820670550643


# Shards ---------------------------------------------------------------------------------


@given(parts=st.lists(st.lists(traces(), min_size=1, max_size=3), max_size=3))
def test_a_shard_gives_back_every_trace(
    parts: list[list[Trace]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("shard") / "s.shard"
    with write_shard(path) as writer:
        for part in parts:
            sizes = [len(trace.records) for trace in part]
            writer.add(
                np.frombuffer(b"".join(t.memory for t in part), np.uint8).reshape(-1, MEMORY_SIZE),
                np.concatenate([t.records for t in part]),
                np.cumsum([0, *sizes]),
            )
    every = [trace for part in parts for trace in part]
    shard = open_shard(path)
    shard.check()
    assert len(shard) == len(every)
    assert all(same(shard.trace(index), trace) for index, trace in enumerate(every))
    assert shard.memories(0, len(shard)).tobytes() == b"".join(t.memory for t in every)
    assert shard.states(0, len(shard)).tobytes() == b"".join(t.initial_state for t in every)
    assert [len(t.records) for t in every] == np.diff(shard.offsets).tolist()
    np.testing.assert_array_equal(
        shard.hashes,
        instance_hashes(shard.memories(0, len(shard)), shard.states(0, len(shard))),
    )


def test_a_shard_is_laid_out_as_its_documentation_says(shard_path: Path) -> None:
    three = [short_trace(), short_trace("HLT"), short_trace("NOT\nNOT A\nLOADI 7\nHLT")]
    records = b"".join(trace.records.tobytes() for trace in three)
    memory = assemble("INC A")[:4] + assemble("NOT\nNOT A\nLOADI 7")[:12]
    hashes = [
        int(instance_hashes(np.frombuffer(t.memory, np.uint8)[None], t.records[:1])[0])
        for t in three
    ]
    index = struct.pack("<11Q", 0, 3, 5, 10, 0, 4, 4, 16, *hashes)
    head = struct.pack(
        "<8sIIQQQII12x",
        b"CPUTRACE",
        1,
        0,
        3,
        10,
        16,
        zlib.crc32(records + memory),
        zlib.crc32(index),
    )
    assert shard_path.read_bytes() == (
        head + struct.pack("<I", zlib.crc32(head)) + records + memory + index
    )


def test_a_shard_is_mapped_not_loaded(shard_path: Path) -> None:
    shard = open_shard(shard_path)
    assert isinstance(shard.records, np.memmap)
    assert not shard.records.flags.writeable


def test_parts_of_a_shard_may_be_had_without_the_rest(shard_path: Path) -> None:
    shard = open_shard(shard_path)
    assert shard.memories(1, 3).tobytes() == shard.trace(1).memory + shard.trace(2).memory
    assert shard.states(2, 3).tobytes() == shard.trace(2).initial_state
    assert shard.memories(1, 1).shape == (0, MEMORY_SIZE)


def damage(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def assert_refused(path: Path) -> str:
    """Opening or checking the shard is refused in one sentence that names it."""
    with pytest.raises(UserError) as caught:
        open_shard(path).check()
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return told


def test_a_shard_cut_at_any_byte_is_refused(shard_path: Path) -> None:
    data = shard_path.read_bytes()
    for size in range(len(data)):
        shard_path.write_bytes(data[:size])
        told = assert_refused(shard_path)
        if size < len(MAGIC):
            assert "is no packed shard" in told
        elif size < HEADER_SIZE:
            assert f"{size} bytes is too short for a packed shard" in told
        else:
            assert (
                f": {size:,} bytes where its header promises {len(data):,}; it is truncated" in told
            )


def test_a_shard_with_bytes_behind_its_end_is_refused(shard_path: Path) -> None:
    size = shard_path.stat().st_size
    damage(shard_path, lambda data: data.extend(bytes(16)))
    assert f"{size + 16:,} bytes where its header promises {size:,}" in assert_refused(shard_path)


def test_a_changed_byte_anywhere_in_a_shard_is_noticed(shard_path: Path) -> None:
    data = shard_path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x10
        shard_path.write_bytes(changed)
        told = assert_refused(shard_path)
        if place < len(MAGIC):
            assert "does not start with CPUTRACE" in told
        elif place < HEADER_SIZE:
            assert "the header is damaged; make the shard anew" in told
        elif place < HEADER_SIZE + 10 * STATE_SIZE + 16:
            assert "its checksum does not match; it is damaged" in told
        else:
            assert "the index is damaged; make the shard anew" in told


@given(data=st.binary(max_size=200), is_named=st.booleans())
def test_any_bytes_at_all_are_no_shard(
    data: bytes, is_named: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.shard"
    path.write_bytes(MAGIC * is_named + data)
    assert is_shard(path) == (path.read_bytes()[:8] == MAGIC)
    assert_refused(path)


def reseal(data: bytearray) -> None:
    """Make all checksums of a changed shard right again."""
    _, _, _, _, records, memory = struct.unpack_from("<8sIIQQQ", data)
    index = HEADER_SIZE + STATE_SIZE * records + memory
    struct.pack_into("<II", data, 40, zlib.crc32(data[HEADER_SIZE:index]), zlib.crc32(data[index:]))
    struct.pack_into("<I", data, 60, zlib.crc32(data[:60]))


# Where the two lists of starts stand in the index of three traces.
RECORD_STARTS, MEMORY_STARTS = 0, 4


@pytest.mark.parametrize(
    ("first", "numbers"),
    [
        (RECORD_STARTS, [1, 3, 5, 10]),
        (RECORD_STARTS, [0, 3, 5, 9]),
        (RECORD_STARTS, [0, 3, 3, 10]),
        (RECORD_STARTS, [0, 5, 3, 10]),
        (RECORD_STARTS, [0, 11, 12, 10]),
        (RECORD_STARTS, [0, 2**63, 5, 10]),
        # Differences that look positive only because 64 bits wrap around.
        (RECORD_STARTS, [0, 3 << 61, 3 << 62, 10]),
        (MEMORY_STARTS, [0, 4, 2, 16]),
        (MEMORY_STARTS, [4, 4, 4, 16]),
        (MEMORY_STARTS, [0, 4, 4, 20]),
        (MEMORY_STARTS, [0, 17, 17, 16]),
        (MEMORY_STARTS, [0, 2**64 - 4, 4, 16]),
    ],
)
def test_an_index_that_contradicts_itself_is_refused_even_with_right_checksums(
    shard_path: Path, first: int, numbers: list[int]
) -> None:
    def change(data: bytearray) -> None:
        struct.pack_into("<4Q", data, len(data) - 8 * 11 + 8 * first, *numbers)
        reseal(data)

    assert "the index contradicts itself" in assert_refused(damage(shard_path, change))


def test_a_memory_of_more_than_its_slots_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.shard"
    full = Trace(assemble("NOT\n" * 256), recorded([bytes(STATE_SIZE)]))
    save_shard(path, [full, full])
    open_shard(path).check()

    def change(data: bytearray) -> None:
        struct.pack_into("<Q", data, len(data) - 8 * 4, MEMORY_SIZE + 4)
        reseal(data)

    assert "the index contradicts itself" in assert_refused(damage(path, change))


@pytest.mark.parametrize("count", [2, 4, 2**32, 2**61, 2**64 - 1])
@pytest.mark.parametrize("offset", [16, 24, 32], ids=["traces", "records", "memory"])
def test_a_header_that_promises_another_size_is_refused_even_with_a_right_checksum(
    shard_path: Path, offset: int, count: int
) -> None:
    def change(data: bytearray) -> None:
        struct.pack_into("<Q", data, offset, count)
        struct.pack_into("<I", data, 60, zlib.crc32(data[:60]))

    assert "bytes where its header promises" in assert_refused(damage(shard_path, change))


def test_a_shard_of_a_later_version_is_refused_with_both_versions(shard_path: Path) -> None:
    def change(data: bytearray) -> None:
        struct.pack_into("<I", data, 8, 2)
        reseal(data)

    told = assert_refused(damage(shard_path, change))
    assert "is a shard of version 2, and this program reads version 1" in told


def test_a_shard_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert "no such file" in assert_refused(tmp_path / "no.shard")
    assert "is a directory" in assert_refused(tmp_path)
    for path, told in ((tmp_path / "no.shard", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(UserError, match=told):
            is_shard(path)


def test_a_shard_whose_writing_fails_leaves_nothing(tmp_path: Path) -> None:
    trace = short_trace()
    memory = np.frombuffer(trace.memory, np.uint8)[None]

    def fail() -> None:
        with write_shard(tmp_path / "s.shard") as writer:
            writer.add(memory, trace.records, np.array([0, len(trace.records)]))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_shard_is_replaced_only_by_force(shard_path: Path) -> None:
    before = shard_path.read_bytes()
    with pytest.raises(UserError, match="already exists; use --force"):
        save_shard(shard_path, [])
    assert shard_path.read_bytes() == before
    with write_shard(shard_path, force=True):
        pass
    assert len(open_shard(shard_path)) == 0


# The exporter ---------------------------------------------------------------------------


def test_the_published_traces_come_out_of_a_shard_as_they_were(tmp_path: Path) -> None:
    save_shard(tmp_path / "s.shard", [read_trace(path) for path in GOLDEN])
    assert export(tmp_path / "s.shard", tmp_path / "out") == len(GOLDEN)
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [f"{n:07d}.bin" for n in range(len(GOLDEN))]
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in GOLDEN]


def test_the_shards_of_a_folder_are_numbered_through_and_folders_kept(tmp_path: Path) -> None:
    data = [path.read_bytes() for path in GOLDEN[:6]]
    of = [parse_trace(one, "t.bin") for one in data]
    for name, chosen in {"a/0": of[:2], "a/1": of[2:3], "b/0": of[3:5], "1": of[5:]}.items():
        path = tmp_path / "set" / f"{name}.shard"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_shard(path, chosen)
    told: list[tuple[int, int]] = []
    out = tmp_path / "out"
    assert export(tmp_path / "set", out, progress=lambda *at: told.append(at)) == 6
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.bin")}
    names = ["a/0000000", "a/0000001", "a/0000002", "b/0000000", "b/0000001", "0000000"]
    assert found == {f"{name}.bin": one for name, one in zip(names, data, strict=True)}
    assert told == [(done, 6) for done in range(1, 7)]


def test_export_refuses_what_it_would_overwrite_unless_forced(
    shard_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "0000001.bin").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"0000001\.bin: already exists; use --force"):
        export(shard_path, out)
    assert (out / "0000001.bin").read_bytes() == b"precious"
    assert export(shard_path, out, force=True) == 3
    assert same(read_trace(out / "0000001.bin"), short_trace("HLT"))


def test_export_refuses_damage_and_what_holds_no_shard(shard_path: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"none: no such file or folder; check the name"):
        export(tmp_path / "none", tmp_path / "out")
    with pytest.raises(UserError, match=r"empty: holds no shards"):
        export(empty, tmp_path / "out")
    with pytest.raises(UserError, match=r"golden\S*: is no packed shard"):
        export(GOLDEN[0], tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot be made \(file exists\)"):
        export(shard_path, tmp_path / "file")

    def change(data: bytearray) -> None:
        data[HEADER_SIZE + 5] ^= 1

    with pytest.raises(UserError, match="its checksum does not match"):
        export(damage(shard_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Imports --------------------------------------------------------------------------------


def test_reading_traces_needs_neither_numba_nor_torch() -> None:
    code = (
        "import sys, cpusim.trace;"
        "print([name for name in ('numba', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
