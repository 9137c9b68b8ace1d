"""The click group of both programs: lazy commands, and every failure as one sentence.

Exit codes: 0 fine, 1 a difference was found, 2 bad usage or unreadable input,
70 a bug of ours (so that a crash never reads as "they differ"), 130 interrupted, 141
the reader of our output went away.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import traceback
from typing import IO, Any

import click

from cpusim.errors import UserError
from cpusim.files import describe_os_error, visible

INTERNAL_ERROR, BROKEN_PIPE = 70, 141


def say(text: str, file: IO[Any] | None = None) -> None:
    """Print a line, by default on stdout; a terminal is steered by no file's name."""
    file = file or sys.stdout
    click.echo(visible(text) if file.isatty() else text, file=file)


class Failure(click.ClickException):
    """Bad input: the sentence is printed on stderr as it is."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        if int(os.environ.get("LOCAL_RANK", "0")) > 0:
            return  # of the processes that torchrun starts on a machine, the first says it
        say(self.message, file or sys.stderr)


class Interrupted(Failure):
    """Ctrl-C."""

    exit_code = 130


class CommandGroup(click.Group):
    """A click group that turns whatever its commands raise into an exit code.

    `lazy`: command name -> "module:attribute", imported when the command is asked
    for, so that a command with heavy imports costs the others nothing.
    """

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, _: click.Context) -> list[str]:
        return [*self.commands, *self.lazy]  # in the order of definition, not of the alphabet

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.lazy[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # File names hold any bytes at all; what cannot be printed is escaped, as on stderr.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # so that a full disk or a closed pipe is noticed here
        except UserError as error:
            raise Failure(str(error)) from None
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except BrokenPipeError:
            _abandon_stdout()
            raise click.exceptions.Exit(BROKEN_PIPE) from None
        except OSError as error:
            # The library names the file in a UserError, so this is our own output.
            _abandon_stdout()
            place = error.filename or "standard output"
            raise Failure(f"{place}: {describe_os_error(error)}") from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:
            traceback.print_exc()
            raise click.exceptions.Exit(INTERNAL_ERROR) from None


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere, or Python complains about it while exiting."""
    with contextlib.suppress(OSError, ValueError):  # a captured stdout has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
