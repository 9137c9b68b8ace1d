"""A program from whichever file holds it: assembly, a memory image or a trace.

The name decides between text and bytes, the size between the two kinds of bytes: an
image has at most 1,024 of them, a trace at least 1,024 and one state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpusim.assembler import SUFFIXES, assemble_file
from cpusim.errors import UserError
from cpusim.files import read_bytes
from cpusim.isa import INSTRUCTION_SIZE, ISA, MEMORY_SIZE, STATE_SIZE, InstructionSet


@dataclass(frozen=True)
class Program:
    """What a run starts from: memory (1024 bytes) and the first state (16 bytes)."""

    memory: bytes
    state: bytes


def load_program(path: Path, *, isa: InstructionSet = ISA) -> Program:
    """The program in an assembly file (`.s`, `.asm`), a memory image or a trace.

    An image is zero-filled to 1024 bytes. Assembly and images start from the state
    that is all zero, a trace from its first record. Raises `UserError` for a file that
    is none of the three.
    """
    if path.suffix.lower() in SUFFIXES:
        return Program(assemble_file(path, isa=isa), bytes(STATE_SIZE))
    head = read_bytes(path, limit=MEMORY_SIZE + STATE_SIZE - 1)
    if not head:
        raise UserError(f"{path}: is empty; the shortest program is HLT, four zero bytes")
    if _is_text(head):
        raise UserError(
            f"{path}: is text, not a memory image; if it is assembly, give its name the suffix .s"
        )
    if len(head) >= MEMORY_SIZE + STATE_SIZE:
        from cpusim.trace import read_trace  # numpy: an image or assembly does without

        trace = read_trace(path)
        return Program(trace.memory, trace.initial_state)
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


def _is_text(data: bytes) -> bool:
    """Whether bytes are ASCII text, which is never a program that can halt.

    Text has no zero byte, so no HLT in it and no instruction with fewer than three
    operands; and its letters are neither opcodes nor registers.
    """
    return all(32 <= byte < 127 or byte in b"\t\n\r" for byte in data) and max(data) >= 32
