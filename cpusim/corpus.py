"""A corpus: a folder of programs on which a candidate was once wrong, to be tried again.

Each program has two files, named after its bucket and a hash of memory and initial state.
The trace (`.bin`), as the oracle runs it, is what is replayed, by `cpusim compare FOLDER/*.bin`
or by the next fuzzing run. The assembly (`.s`) is for people: its comments say what was
expected, what was predicted, and how to see it again. Any other traces and memory images put
into the folder are replayed too. Nothing that is there is ever changed or removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpusim.assembler import disassemble, disassemble_word
from cpusim.errors import UserError
from cpusim.failures import Failure
from cpusim.files import atomic_write, describe_os_error
from cpusim.isa import FIELDS, VALUE_FIELDS
from cpusim.loader import load_program
from cpusim.lockstep import END_TOKEN, NO_TOKEN, Case, Tokens
from cpusim.trace import TRACE_SUFFIX, instance_hashes, write_trace

ASSEMBLY_SUFFIX = ".s"

Replays = Callable[[Path, Failure], Sequence[str]]
"""The commands that show a failure again, given its `.s` file."""


@dataclass(frozen=True)
class Corpus:
    """A folder, and the programs that were in it when it was opened, each about to start."""

    folder: Path
    known: tuple[tuple[Path, Case], ...]

    def make(self) -> None:
        """Make the folder if it is not there. Raises `UserError` if that cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_be(self.folder, error) from None

    def path(self, failure: Failure) -> Path:
        """Where a failure's trace belongs."""
        memory, state = failure.case.memory[None], failure.case.records[:1]
        name = f"{failure.bucket.slug}-{instance_hashes(memory, state)[0] >> np.uint64(32):08x}"
        return self.folder / f"{name}{TRACE_SUFFIX}"

    def add(self, failure: Failure, story: Sequence[str], replays: Replays) -> bool:
        """Write a failure's two files; False if it was there already.

        `story`: sentences on where it comes from. Raises `UserError` if they cannot be written.
        """
        path = self.path(failure)
        if path.exists():
            return False
        assembly = path.with_suffix(ASSEMBLY_SUFFIX)
        # The trace, which makes it known, comes last. Another run may be saving the very same
        # failure just now: either one's files do, which is why they may replace each other.
        if not assembly.exists():
            text = as_assembly(failure, story, replays(assembly, failure))
            with atomic_write(assembly, force=True) as file:
                file.write(text.encode())
        write_trace(path, failure.case.memory.tobytes(), failure.case.records, force=True)
        return True


def open_corpus(folder: Path) -> Corpus:
    """The corpus in a folder, which need not be there: `Corpus.make` makes it.

    Raises `UserError` if there can be no such folder, it cannot be written to, or a `.bin` file
    in it cannot be read as a program.
    """
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(
            f"{there}: is no folder, and a corpus is one; choose another name with --out"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}: cannot be written to; check its permissions")
    try:
        paths = sorted(folder.glob(f"*{TRACE_SUFFIX}"))
    except OSError as error:
        raise _cannot_be(folder, error) from None
    return Corpus(folder, tuple((path, _start(path)) for path in paths))


def _cannot_be(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"{folder}: cannot be a corpus ({describe_os_error(error)}); choose another name with --out"
    )


def _start(path: Path) -> Case:
    try:
        program = load_program(path)
    except UserError as error:
        raise UserError(f"{error}; every {TRACE_SUFFIX} file in a corpus is replayed") from None
    state = np.frombuffer(program.state, np.uint8)
    return Case(str(path), np.frombuffer(program.memory, np.uint8), state[None])


def as_assembly(failure: Failure, story: Sequence[str], replays: Sequence[str]) -> str:
    """A failing program as text that assembles to it, with all about the failure in comments."""
    comments = [f"{failure.bucket}", *story, _first_values(failure), "", *replays, ""]
    comments += _step_lines(failure)
    lines = [f"; {_one_line(comment)}".rstrip() for comment in comments]
    return "\n".join([*lines, "", *disassemble(failure.case.memory.tobytes()), ""])


def _one_line(text: str) -> str:
    """Names of files hold line ends and worse, which must not end a comment."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _first_values(failure: Failure) -> str:
    state = failure.case.records[0]
    values = [f"{FIELDS[n]} {state[n]}" for n in VALUE_FIELDS]
    set_values = [value for value in values if not value.endswith(" 0")]
    return f"starts with {', '.join(set_values)}" if set_values else "starts with all values 0"


def _step_lines(failure: Failure) -> Iterator[str]:
    case, step = failure.case, failure.step
    word = case.executed(step)
    executed = "the start" if word is None else disassemble_word(word)
    yield f"step {step:,} of {case.steps:,}, after {executed}:"
    yield " " * 9 + "".join(f"{name:>4}" for name in FIELDS)
    yield _row("before", case.records[step - 1].astype(np.int16))
    yield _row("expected", failure.expected)
    yield _row("predicted", failure.predicted)
    if failure.predicted[0] != NO_TOKEN:
        marks = failure.expected != failure.predicted
        yield " " * 9 + "".join(f"{'^' * 3 if mark else '':>4}" for mark in marks)


def _row(label: str, tokens: Tokens) -> str:
    if np.all(tokens == END_TOKEN):
        return f"{label:<9} the end of the trace"
    if np.all(tokens == NO_TOKEN):
        return f"{label:<9} no next state"
    return f"{label:<9}" + "".join(f"{token:>4}" for token in tokens)
