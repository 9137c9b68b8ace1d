"""Shared hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st

from cpusim.isa import (
    ISA,
    MEMORY_SIZE,
    REGISTERS,
    SLOTS,
    Form,
    Instruction,
    InstructionSet,
    Operand,
)


def _encode(instruction: Instruction, form: Form) -> st.SearchStrategy[bytes]:
    operands = [
        st.integers(0, 255) if kind is Operand.IMMEDIATE else st.integers(1, len(REGISTERS))
        for kind in form.operands
    ]
    return st.tuples(st.just(instruction.opcode), *operands).map(lambda w: bytes(w).ljust(4, b"\0"))


def words(isa: InstructionSet = ISA) -> st.SearchStrategy[bytes]:
    """Four bytes that are an instruction, HLT included."""
    return st.one_of([_encode(instruction, form) for instruction, form in isa.variants])


def programs(isa: InstructionSet = ISA) -> st.SearchStrategy[bytes]:
    """Memory (1024 bytes) that begins with 1 to 256 instructions and is zero (HLT) behind."""
    return st.lists(words(isa), min_size=1, max_size=SLOTS).map(
        lambda instructions: b"".join(instructions).ljust(MEMORY_SIZE, b"\0")
    )


def memories() -> st.SearchStrategy[bytes]:
    """Any memory (1024 bytes), most of it no instruction."""
    return st.binary(max_size=MEMORY_SIZE).map(lambda data: data.ljust(MEMORY_SIZE, b"\0"))


def initial_states() -> st.SearchStrategy[bytes]:
    """A first state (16 bytes): any ACC and registers, PC and IR zero."""
    return st.binary(min_size=11, max_size=11).map(
        lambda values: bytes([0, values[0], 0, 0, 0, 0]) + values[1:]
    )
