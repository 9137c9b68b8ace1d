"""The documentation is part of the product: it exists, it is complete, and it shows examples."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def commands() -> Iterator[tuple[str, click.Command, list[str]]]:
    """Every command of every console script: program, the program's group, words."""
    for program, target in PROJECT["scripts"].items():
        module, attribute = target.split(":")
        group = getattr(importlib.import_module(module), attribute)
        yield from walk(program, group, group, [])


def walk(
    program: str, group: click.Command, command: click.Command, words: list[str]
) -> Iterator[tuple[str, click.Command, list[str]]]:
    yield program, group, words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            yield from walk(program, group, below, [*words, name])


COMMANDS = list(commands())
every_command = pytest.mark.parametrize(
    ("program", "group", "words"), COMMANDS, ids=[" ".join([c[0], *c[2]]) for c in COMMANDS]
)


@every_command
def test_help_shows_examples_of_the_very_command_and_describes_every_option(
    program: str, group: click.Command, words: list[str]
) -> None:
    result = CliRunner().invoke(group, [*words, "--help"], prog_name=program)
    assert result.exit_code == 0
    name = " ".join([program, *words])
    assert re.search(rf"Examples:\n(.*\n)*?    {name}( |$)", result.stdout, re.MULTILINE)
    assert max(map(len, result.stdout.splitlines())) <= 80
    options = result.stdout.partition("\nOptions:\n")[2].partition("\n\n")[0]
    for entry in re.split(r"\n  (?=-)", "\n" + options)[1:]:
        assert len(entry.split()) > 2, f"an option without help: {entry}"


@every_command
def test_the_readme_mentions_the_command(
    program: str, group: click.Command, words: list[str]
) -> None:
    assert group.name is not None
    name = " ".join([program, *words])
    assert name in (ROOT / "README.md").read_text()
