"""How tests call `bgpt`: within this process, or as one of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from cli.bgpt import main

ROOT = Path(__file__).parent.parent.parent


def bgpt(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def refused(*words: object) -> str:
    """The sentence that a command prints when it refuses its input, with exit code 2."""
    result = bgpt(*words, code=2)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return result.stderr.strip()


class ReaderGone(Console):
    """A console whose reader has gone away, as `head` does after a few lines."""

    def print(self, *_: object, **__: object) -> None:
        raise BrokenPipeError


def command(*words: object) -> list[str]:
    """The command line of a real process of its own."""
    code = "from cli.bgpt import main; main(prog_name='bgpt')"
    return [sys.executable, "-c", code, *map(str, words)]


def on_a_terminal(words: Sequence[str]) -> tuple[int, str]:
    """What a real process shows on a terminal, and its exit code."""
    pty = pytest.importorskip("pty")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        os.execv(words[0], words)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is gone
        while chunk := os.read(terminal, 65536):
            shown += chunk
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()
