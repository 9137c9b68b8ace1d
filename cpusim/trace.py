"""Traces: what a run left behind, one to a file or packed by the thousand into shards.

A trace file (`.bin`, the published format) is the memory, 1,024 bytes, then the state
records, 16 bytes each, and nothing else. Record 0 is the initial state.

A packed shard (`.shard`) holds many traces in one file that is used memory-mapped. All
numbers are little-endian, and the sections follow one another without gaps:

    header   64 bytes: magic `CPUTRACE`, u32 version (1), u32 zero, u64 N traces,
             u64 R records, u64 M bytes of memory, u32 CRC-32 of the records and memory
             sections, u32 CRC-32 of the index, 12 bytes zero, u32 CRC-32 of the 60
             bytes before
    records  R x 16 bytes, the records of all traces one after the other
    memory   M bytes, each trace's memory without the zero slots at its end
    index    u64[N + 1]: where each trace's records start, in records, and R
             u64[N + 1]: where each trace's memory starts, in bytes, and M
             u64[N]: each instance's hash (see `instance_hash`)
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from cpusim.errors import UserError
from cpusim.files import atomic_write, read_bytes
from cpusim.isa import FIELDS, INSTRUCTION_SIZE, IR, MEMORY_SIZE, PC, SLOTS, STATE_SIZE

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

TRACE_SUFFIX = ".bin"
SHARD_SUFFIX = ".shard"
MAGIC = b"CPUTRACE"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQQII12xI")
_HASH_SIZE = 8
MUST_BE_ZERO = (PC, *range(IR, IR + INSTRUCTION_SIZE))
"""The bytes of record 0 that are 0 in every trace."""
_RULE = f"{MEMORY_SIZE:,} + a multiple of {STATE_SIZE}"


@dataclass(frozen=True)
class Trace:
    """One run: `memory` (1,024 bytes) and `records` (uint8[n + 1, 16] for n instructions)."""

    memory: bytes
    records: Bytes

    @property
    def initial_state(self) -> bytes:
        """Record 0, 16 bytes."""
        return bytes(self.records[0])

    def to_bytes(self) -> bytes:
        """The trace as its file holds it."""
        return self.memory + self.records.tobytes()


def count_records(size: int, name: str) -> int:
    """The records of a trace of so many bytes. Raises `UserError`, with `name` as the file's name,
    if no trace has that size."""
    if size < MEMORY_SIZE + STATE_SIZE:
        raise UserError(
            f"{name}: {size:,} bytes is too short for a trace, which has {_RULE},"
            f" at least {MEMORY_SIZE + STATE_SIZE:,}; it is truncated or no trace"
        )
    if (size - MEMORY_SIZE) % STATE_SIZE:
        raise UserError(f"{name}: {size:,} bytes is not {_RULE}; it is truncated or no trace")
    return (size - MEMORY_SIZE) // STATE_SIZE


def parse_trace(data: bytes, name: str) -> Trace:
    """The trace that a file's bytes are. Raises `UserError`, with `name` as the file's name.

    Whether the records are what the program does is not this function's question (see
    `dataset.verify`), but record 0 must be a state that a run can start from: PC 0, IR 0.
    """
    if data[: len(MAGIC)] == MAGIC:
        raise UserError(f"{name}: is a packed shard, not one trace; export it to single files")
    count_records(len(data), name)
    records = np.frombuffer(data, np.uint8, offset=MEMORY_SIZE).reshape(-1, STATE_SIZE)
    wrong = impossible_start(records[0])
    if wrong is not None:
        raise UserError(f"{name}: {wrong}; it is damaged or no trace")
    return Trace(data[:MEMORY_SIZE], records)


def impossible_start(state: Bytes) -> str | None:
    """What is wrong with a record 0 that no run can start from, or None."""
    for field in MUST_BE_ZERO:
        if state[field]:
            return (
                f"record 0 has {FIELDS[field]} {state[field]}, but every run starts with PC and"
                " IR at 0"
            )
    return None


def read_trace(path: Path) -> Trace:
    """Read a trace file. Raises `UserError` if it cannot be read or is no trace."""
    return parse_trace(read_bytes(path), str(path))


def write_trace(path: Path, memory: bytes, records: Bytes, *, force: bool = False) -> None:
    """Write a trace file whole or not at all. Raises `UserError` like `atomic_write`."""
    with atomic_write(path, force=force) as file:
        file.write(Trace(memory, records).to_bytes())


def instance_hashes(memories: Bytes, states: Bytes) -> Hashes:
    """The hash of each instance: BLAKE2b, 8 bytes, of memory and first state; uint64[P]."""
    rows = np.concatenate([memories, states], axis=1).tobytes()
    size = MEMORY_SIZE + STATE_SIZE
    digests = [
        hashlib.blake2b(rows[at : at + size], digest_size=_HASH_SIZE).digest()
        for at in range(0, len(rows), size)
    ]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Shard:
    """A packed shard, memory-mapped.

    `records`: uint8[R, 16], all records; trace i's are `records[offsets[i]:offsets[i + 1]]`.
    `offsets`: int64[N + 1]. `hashes`: uint64[N], see `instance_hashes`.
    """

    path: Path
    records: Bytes
    offsets: Offsets
    hashes: Hashes
    _memory: Bytes
    _memory_offsets: Offsets
    _data_checksum: int

    def __len__(self) -> int:
        return len(self.hashes)

    def trace(self, index: int) -> Trace:
        """Trace `index` (0 <= index < len)."""
        records = self.records[self.offsets[index] : self.offsets[index + 1]]
        return Trace(self.memories(index, index + 1).tobytes(), records)

    def memories(self, first: int, last: int) -> Bytes:
        """The memories of traces `first` to `last - 1`: uint8[last - first, 1024], a copy."""
        memories = np.zeros((last - first, MEMORY_SIZE), np.uint8)
        bounds = self._memory_offsets[first : last + 1].tolist()
        for row, start, end in zip(memories, bounds[:-1], bounds[1:], strict=True):
            row[: end - start] = self._memory[start:end]
        return memories

    def states(self, first: int, last: int) -> Bytes:
        """The initial states of traces `first` to `last - 1`: uint8[last - first, 16], a copy."""
        return self.records[self.offsets[first:last]]

    def check(self) -> None:
        """Read everything once. Raises `UserError` if a byte changed since it was written."""
        checksum = zlib.crc32(self._memory.data, zlib.crc32(self.records.data))
        if checksum != self._data_checksum:
            raise UserError(
                f"{self.path}: its checksum does not match; it is damaged, make it anew"
            )


def is_shard(path: Path) -> bool:
    """Whether a file starts like a shard. Raises `UserError` if it cannot be read.

    A pipe is none: what is read of it is gone.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        return False
    return read_bytes(path, limit=len(MAGIC) - 1) == MAGIC


def open_shard(path: Path) -> Shard:
    """Map a shard into memory and check its index (not its data: see `Shard.check`).

    Raises `UserError` if it cannot be read, is no shard, or is damaged.
    """
    head = read_bytes(path, limit=_HEADER.size - 1)
    if head[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path}: is no packed shard (it does not start with {MAGIC.decode()})")
    if len(head) < _HEADER.size:
        raise UserError(
            f"{path}: {len(head)} bytes is too short for a packed shard; it is truncated,"
            " make it anew"
        )
    _, version, _, traces, records, memory, data_checksum, index_checksum, header_checksum = (
        _HEADER.unpack(head)
    )
    if zlib.crc32(head[:-4]) != header_checksum:
        raise UserError(f"{path}: the header is damaged; make the shard anew")
    if version != VERSION:
        raise UserError(
            f"{path}: is a shard of version {version}, and this program reads version {VERSION};"
            " make the shard anew"
        )
    index_start = _HEADER.size + STATE_SIZE * records + memory
    expected = index_start + 8 * (3 * traces + 2)
    size = path.stat().st_size
    if size != expected:
        raise UserError(
            f"{path}: {size:,} bytes where its header promises {expected:,};"
            " it is truncated or damaged, make it anew"
        )
    data: Bytes = np.memmap(path, np.uint8, "r")
    index = data[index_start:]
    if zlib.crc32(index.data) != index_checksum:
        raise UserError(f"{path}: the index is damaged; make the shard anew")
    numbers = np.frombuffer(index.tobytes(), "<u8")
    offsets = numbers[: traces + 1].astype(np.int64)
    memory_offsets = numbers[traces + 1 : 2 * traces + 2].astype(np.int64)
    trimmed = np.diff(memory_offsets)
    if (
        (offsets[0], offsets[-1]) != (0, records)
        or (memory_offsets[0], memory_offsets[-1]) != (0, memory)
        # Looked at before they are signed: differences of huge numbers may wrap and look right.
        or (numbers[: traces + 1] > records).any()
        or (numbers[traces + 1 : 2 * traces + 2] > memory).any()
        or (np.diff(offsets) < 1).any()
        or ((trimmed < 0) | (trimmed > MEMORY_SIZE)).any()
    ):
        raise UserError(f"{path}: the index contradicts itself; make the shard anew")
    memory_start = _HEADER.size + STATE_SIZE * records
    return Shard(
        path,
        data[_HEADER.size : memory_start].reshape(-1, STATE_SIZE),
        offsets,
        numbers[2 * traces + 2 :].astype(np.uint64),
        data[memory_start:index_start],
        memory_offsets,
        data_checksum,
    )


class ShardWriter:
    """Collects traces into a shard; `write_shard` makes one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._records = 0
        self._checksum = 0
        self._sizes: list[Offsets] = []
        self._memory: list[bytes] = []
        self._memory_sizes: list[Offsets] = []
        self._hashes: list[Hashes] = []
        file.write(bytes(_HEADER.size))

    def add(
        self,
        memories: Bytes,
        records: Bytes,
        offsets: Offsets,
        hashes: Hashes | None = None,
    ) -> None:
        """Append P traces: memories uint8[P, 1024], records uint8[T, 16], offsets int64[P + 1].

        `hashes`: uint64[P], computed here if the caller does not have them yet.
        """
        if hashes is None:
            hashes = instance_hashes(memories, records[offsets[:-1]])
        data = np.ascontiguousarray(records).data
        self._checksum = zlib.crc32(data, self._checksum)
        self._file.write(data)
        self._records += len(records)
        self._sizes.append(np.diff(offsets))
        used = memories.view("<u4") != 0
        kept = INSTRUCTION_SIZE * np.where(
            used.any(axis=1), SLOTS - np.argmax(used[:, ::-1], axis=1), 0
        )
        self._memory.extend(
            row[:size].tobytes() for row, size in zip(memories, kept.tolist(), strict=True)
        )
        self._memory_sizes.append(kept)
        self._hashes.append(hashes)

    def finish(self) -> None:
        """Write what follows the records, then the header."""
        memory = b"".join(self._memory)
        self._checksum = zlib.crc32(memory, self._checksum)
        starts = [
            np.concatenate([[0], *sizes]).cumsum() for sizes in (self._sizes, self._memory_sizes)
        ]
        hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes])
        index = b"".join(numbers.astype("<u8").tobytes() for numbers in (*starts, hashes))
        self._file.write(memory)
        self._file.write(index)
        counts = len(hashes), self._records, len(memory)
        head = _HEADER.pack(MAGIC, VERSION, 0, *counts, self._checksum, zlib.crc32(index), 0)[:-4]
        self._file.seek(0)
        self._file.write(head + struct.pack("<I", zlib.crc32(head)))


@contextmanager
def write_shard(path: Path, *, force: bool = False) -> Iterator[ShardWriter]:
    """A writer for a shard that appears under its name whole, at the end, or not at all.

    Raises `UserError` like `atomic_write`.
    """
    with atomic_write(path, force=force) as file:
        writer = ShardWriter(file)
        yield writer
        writer.finish()
