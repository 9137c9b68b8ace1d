"""A program from whichever file holds it: assembly, a memory image or a trace.

The name decides between text and bytes, the size between the two kinds of bytes: an
image has at most 1,024 of them, a trace at least 1,024 and one state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cpusim.assembler import SUFFIXES, assemble_file
from cpusim.errors import UserError
from cpusim.files import read_bytes
from cpusim.isa import INSTRUCTION_SIZE, ISA, MEMORY_SIZE, STATE_SIZE, InstructionSet

if TYPE_CHECKING:
    from cpusim.trace import Trace

# `cpusim.trace` needs numpy; it is imported only once a trace is at hand, so that assembly
# and images start at once.

_ONE_OF_SHARD = re.compile(r"(.+)\[(\d{1,18})\]")


@dataclass(frozen=True)
class Program:
    """What a run starts from: memory (1024 bytes) and the first state (16 bytes).

    `trace`: the recorded run, if the file was one.
    """

    memory: bytes
    state: bytes
    trace: Trace | None = field(default=None, compare=False)


def load_program(path: Path, *, isa: InstructionSet = ISA) -> Program:
    """The program in an assembly file (`.s`, `.asm`), a memory image or a trace.

    A trace may also be one of a packed shard's: see `load_trace`. An image is zero-filled to
    1024 bytes. Assembly and images start from the state that is all zero, a trace from its
    first record. Raises `UserError` for a file that is none of the three.
    """
    if path.suffix.lower() in SUFFIXES:
        return Program(assemble_file(path, isa=isa), bytes(STATE_SIZE))
    if _one_of_shard(path):
        return _start_of(load_trace(path))
    # What a pipe holds can be read but once.
    limit = None if path.is_fifo() else MEMORY_SIZE + STATE_SIZE - 1
    head = read_bytes(path, limit=limit)
    if not head:
        raise UserError(f"{path}: is empty; the shortest program is HLT, four zero bytes")
    if _is_text(head):
        raise UserError(
            f"{path}: is text, not a memory image; if it is assembly, give its name the suffix .s"
        )
    if len(head) >= MEMORY_SIZE + STATE_SIZE:
        return _start_of(load_trace(path) if limit else _piped(head, path))
    if len(head) > MEMORY_SIZE:
        raise UserError(
            f"{path}: {len(head):,} bytes is neither a memory image (at most {MEMORY_SIZE:,})"
            f" nor a trace ({MEMORY_SIZE:,} + a multiple of {STATE_SIZE})"
        )
    if len(head) % INSTRUCTION_SIZE:
        raise UserError(
            f"{path}: {len(head):,} bytes is no memory image: instructions are"
            f" {INSTRUCTION_SIZE} bytes each, so its size must be a multiple of {INSTRUCTION_SIZE}"
        )
    return Program(head.ljust(MEMORY_SIZE, b"\0"), bytes(STATE_SIZE))


def load_trace(path: Path) -> Trace:
    """The trace in a trace file, or one of a packed shard: `SHARD[17]`, counted from 0.

    Raises `UserError` if it cannot be read or is no trace.
    """
    from cpusim.trace import is_shard, open_shard, read_trace

    one = _one_of_shard(path)
    if one is None and not is_shard(path):
        return read_trace(path)
    shard = open_shard(one[0] if one else path)
    if not len(shard):
        raise UserError(f"{path}: the shard holds no traces; name another")
    if one is None or one[1] >= len(shard):
        raise UserError(
            f"{path}: the shard holds {len(shard):,} traces; name one of them,"
            f" from '{shard.path}[0]' to '{shard.path}[{len(shard) - 1}]'"
        )
    return shard.trace(one[1])


def _piped(data: bytes, path: Path) -> Trace:
    from cpusim.trace import parse_trace

    return parse_trace(data, str(path))


def source_file(path: Path) -> Path:
    """The file that a program or trace of this name is read from: of `SHARD[17]` the shard."""
    one = _one_of_shard(path)
    return one[0] if one else path


def _one_of_shard(path: Path) -> tuple[Path, int] | None:
    """The shard and number in a name like `SHARD[17]`, unless it is a file's own name."""
    match = _ONE_OF_SHARD.fullmatch(str(path))
    return (Path(match[1]), int(match[2])) if match and not path.exists() else None


def _start_of(trace: Trace) -> Program:
    return Program(trace.memory, trace.initial_state, trace)


def _is_text(data: bytes) -> bool:
    """Whether bytes are ASCII text, which is never a program that can halt.

    Text has no zero byte, so no HLT in it and no instruction with fewer than three
    operands; and its letters are neither opcodes nor registers.
    """
    return all(32 <= byte < 127 or byte in b"\t\n\r" for byte in data) and max(data) >= 32
