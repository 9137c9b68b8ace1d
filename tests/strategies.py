"""Shared hypothesis strategies."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from cpusim.isa import (
    ISA,
    MEMORY_SIZE,
    REGISTERS,
    SLOTS,
    STATE_SIZE,
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


def states() -> st.SearchStrategy[bytes]:
    """Any 16 bytes to start from, PC and IR included."""
    return st.binary(min_size=STATE_SIZE, max_size=STATE_SIZE)


def endless_memories(isa: InstructionSet = ISA) -> st.SearchStrategy[bytes]:
    """Memory of one instruction over and over, but for up to 20 slots that hold anything.

    Unlike `programs` it mostly runs far and into slot 255, and traps anywhere.
    """
    anything = words(isa) | st.binary(min_size=4, max_size=4)
    slots = st.dictionaries(st.integers(0, SLOTS - 1), anything, max_size=20)
    fill = words(isa).filter(any)
    return st.builds(
        lambda fill, slots: b"".join(slots.get(slot, fill) for slot in range(SLOTS)), fill, slots
    )


@cache
def extended() -> InstructionSet:
    """The instruction set with one row more: NAND, in the forms of AND.

    Always the same object, so that what is derived from it is derived once.
    """
    forms = ISA.by_name["AND"].forms
    row = Instruction(len(ISA.instructions), "NAND", forms, "not and", lambda a, b: ~(a & b) & 255)
    return InstructionSet((*ISA.instructions, row))
