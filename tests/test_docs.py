"""The documentation is part of the product: it exists, it is complete, and it shows examples."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
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
    cut = [
        line for line in result.stdout.partition("\nCommands:\n")[2].splitlines() if "..." in line
    ]
    assert not cut, "what a command does must fit into its line"


@every_command
def test_the_examples_of_a_command_can_be_typed_as_they_stand(
    program: str, group: click.Command, words: list[str]
) -> None:
    text = CliRunner().invoke(group, [*words, "--help"], prog_name=program).stdout
    examples = re.findall(rf"^    ({program} .+?)(?:   .*)?$", text, re.MULTILINE)
    assert examples
    for example in examples:
        parse(group, example)


def parse(command: click.Command, line: str) -> None:
    """Raises click's errors if a command line names what does not exist, or leaves out a must."""
    # A redirection or a comment is the shell's.
    _, *words = shlex.split(re.split(r" [>|] ", line)[0], comments=True)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        _, below, words = command.resolve_command(click.Context(command), words)
        assert below is not None
        command = below
    if not isinstance(command, click.Group):
        command.make_context(line, words)


@pytest.mark.parametrize(("program", "words"), [(c[0], c[2]) for c in COMMANDS])
def test_the_readme_mentions_the_command(program: str, words: list[str]) -> None:
    assert " ".join([program, *words]) in README.read_text()


def test_the_commands_in_the_readme_can_be_typed_as_they_stand() -> None:
    groups = {program: group for program, group, words in COMMANDS if not words}
    blocks = re.findall(
        r"^```(?:sh|bash|console|shell)?\n(.*?)^```", README.read_text(), re.M | re.S
    )
    lines = [
        line.strip().removeprefix("$ ")
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]
    typed = [line for line in lines if line.split(" ")[0] in groups]
    assert typed
    for line in typed:
        parse(groups[line.split(" ")[0]], line)


def test_the_readme_states_the_figures_that_the_benchmarks_wrote() -> None:
    script = ROOT / "benchmarks" / "figures.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "run python benchmarks/figures.py"


def test_the_library_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"\d+ of 20 exact\n", capsys.readouterr().out)
