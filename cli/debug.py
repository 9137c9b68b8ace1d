"""`cpusim debug`: the CPU and the model side by side, one step at a time. Parse, call, show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.group import INTERNAL_ERROR
from cli.options import FILE, cpu_model_option, max_steps_option, start_options, start_state
from cli.peers import model_stepper
from cpusim.errors import UserError
from cpusim.loader import load_program

if TYPE_CHECKING:
    from cli.debugger import DebuggerApp


@click.command()
@click.argument("program", type=FILE)
@cpu_model_option
@start_options
@max_steps_option()
def debug(
    program: Path,
    model: Path | None,
    acc: int | None,
    registers: dict[str, int],
    random_state: int | None,
    max_steps: int,
) -> None:
    """Step through a program, CPU and byte model side by side.

    PROGRAM is assembly (.s), a memory image or a trace, whose memory and first state are used.
    The screen shows the state, what the CPU says comes next, what the model says, and
    the model's guesses for any byte. Press ? there for its keys.

    \b
    Examples:
      cpusim debug examples/divide.s
      cpusim debug examples/sort.s --model runs/cpu/model.pt
      cpusim debug sort.bin --random-state 7 --set A=3
    """
    # Cheap refusals come first: reading the model takes seconds.
    start = load_program(program)
    app = _app()
    if not _on_terminal():
        raise UserError(
            "the debugger needs a terminal, and standard input or error is none;"
            " `cpusim compare` prints where the two differ"
        )
    from cpusim.debugger import Debugger

    state = start_state(start.state, acc, registers, random_state)
    stepper = model_stepper(model)
    screen = app(Debugger(stepper, str(program), start.memory, state, max_steps=max_steps))
    screen.run()
    if screen.return_code:  # it has printed what went wrong
        raise click.exceptions.Exit(INTERNAL_ERROR)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()  # Textual draws on standard error


def _app() -> type[DebuggerApp]:
    """The screen. Raises `UserError` without Textual, which is an extra."""
    try:
        from cli.debugger import DebuggerApp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "textual":
            raise
        raise UserError(
            "the debugger needs Textual, which is not installed;"
            " pip install 'neural-cpu-lab[debug]' installs it"
        ) from None
    return DebuggerApp
