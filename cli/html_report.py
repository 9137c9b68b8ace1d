"""The HTML report of a comparison: one page that needs nothing but itself.

`report/page.html` is its skeleton, `style.css` and `viewer.js` beside it go into it as they
are. Names of programs and files may hold anything at all: the template escapes them, JSON
inside the page has no `<`, and the page's own policy lets only this one script run and
loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cli import comparison as view
from cpusim import __version__
from cpusim.assembler import disassemble, disassemble_word
from cpusim.isa import FIELDS, INSTRUCTION_SIZE, IR, ISA, Place
from cpusim.lockstep import Comparison, Predictions, ProgramResult, Stepper, verify
from cpusim.tallies import BIN_WIDTH, OperandTally, by_depth, by_operands

_EXACT = 3  # of programs that agree, when all do: enough to see what is compared
_STEPS_EACH = 512
_STEPS = 10_240
"""Most steps of one program, and of all: about 2 MB of page."""
_LISTED_FILES = 20

_SHADES = (
    (1, "all right"),
    (0.99, "99 % or more"),
    (0.95, "95 %"),
    (0.8, "80 %"),
    (0.5, "50 %"),
)
"""Least share of right steps for a shade of the heat map; a last one is for fewer."""


@dataclass(frozen=True)
class About:
    """What was compared, and how to do it again.

    `what`: the programs, in words. `settings`: further facts, in words. `inputs`: the role of each
    file that was read, its name and its path. `command`: the words that compare the same again.
    """

    what: str
    settings: Mapping[str, str]
    inputs: Sequence[tuple[str, str, Path]]
    command: Sequence[str]
    made: datetime
    seconds: float


def embedded(comparison: Comparison, most: int) -> list[ProgramResult]:
    """The programs to step through: `most` that differ, the earliest first, or a few exact ones."""
    if not comparison.differing:
        by_interest = sorted(comparison.results, key=lambda result: not result.wrong_steps)
        return by_interest[: min(most, _EXACT)]
    chosen = sorted(comparison.differing, key=lambda result: result.matched)[:most]
    total = np.cumsum([min(result.checked, _STEPS_EACH) for result in chosen])
    return [result for result, steps in zip(chosen, total, strict=True) if steps <= _STEPS]


def page(
    comparison: Comparison,
    candidate: Stepper,
    programs: Sequence[ProgramResult],
    about: About,
    *,
    window: int,
    replay: view.Replay,
    progress: Callable[[int], None] = lambda _: None,
) -> bytes:
    """The whole page, in UTF-8.

    `programs`: those to step through, from `embedded`. A comparison keeps no probabilities,
    which would fill the memory, so `candidate` is asked about these programs again; `progress`
    is called with the number of steps just done. `window`: states before a difference in text.
    """
    answers: dict[int, Predictions] = {}
    for place, said in verify(candidate, [result.case for result in programs]):
        answers[place] = said
        progress(programs[place].case.steps)
    environment = Environment(
        loader=PackageLoader("cli", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_printable,
    )
    environment.filters["share"] = view.percent
    environment.globals.update(shade=_shade, read_name=_read_name)
    script = _asset("viewer.js")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
        f" script-src 'sha256-{_digest(script)}'"
    )
    operands = by_operands(comparison.results)
    forms_reading = {
        values: {name: tally for name, tally in operands.items() if len(tally.reads) == values}
        for values in (1, 2)
    }
    text = environment.get_template("page.html").render(
        about=about,
        bins=range(0, 256, BIN_WIDTH),
        command=shlex.join(about.command),
        comparison=comparison,
        depths=by_depth(comparison.results),
        caveats=[line.plain for line in view.caveats(comparison)],
        data={
            "fields": FIELDS,
            "ir": [IR, INSTRUCTION_SIZE],
            "binWidth": BIN_WIDTH,
            "sides": _sides(comparison),
            "shades": [least for least, _ in _SHADES],
            "programs": [_program(result, answers[place]) for place, result in enumerate(programs)],
            "operands": {name: _sparse(tally) for name, tally in forms_reading[2].items()},
        },
        diffs=[
            "\n".join(line.plain for line in view.diff_lines(result, window, replay(result)))
            if result.difference
            else None
            for result in programs
        ],
        inputs=[(role, name, _sha256(path)) for role, name, path in about.inputs[:_LISTED_FILES]],
        more_inputs=max(0, len(about.inputs) - _LISTED_FILES),
        forms_reading=forms_reading,
        policy=policy,
        programs=programs,
        more_programs=len(comparison.differing) - sum(not result.exact for result in programs),
        script=Markup(script),
        shades=_SHADES,
        sides=_sides(comparison),
        style=Markup(_asset("style.css")),
        version=__version__,
        view=view,
        worst=_worst_form(forms_reading[2]),
    )
    return text.encode()


def _asset(name: str) -> str:
    return files("cli").joinpath("report", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sha256(path: Path) -> str:
    """Of a file's bytes; nothing for one trace of a shard, which is no file."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _printable(value: object) -> object:
    """Text without what a name could use to mislead: controls, reversed text, lone surrogates."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in value
    )


def _sides(comparison: Comparison) -> tuple[str, str]:
    """What the page calls reference and candidate: `oracle` and `model`, if that tells them."""
    reference, candidate = (
        name.partition(":")[0] for name in (comparison.reference, comparison.candidate)
    )
    return (reference, candidate) if reference != candidate else ("reference", "candidate")


def _shade(count: int, wrong: int) -> int:
    """The shade of a cell, 0 for all right; its text says the same to those who see none."""
    right = 1 - wrong / count
    return next((i for i, (least, _) in enumerate(_SHADES) if right >= least), len(_SHADES))


def _worst_form(operands: Mapping[str, OperandTally]) -> str:
    """The form whose two values are shown first: the one most often wrong."""
    return max(operands, key=lambda name: int(operands[name].wrong.sum()), default="")


def _read_name(place: Place) -> str:
    if place is Place.ACC:
        return "ACC"
    return "constant" if place is Place.IMMEDIATE else f"operand {place}"


def _sparse(tally: OperandTally) -> dict[str, Any]:
    """`cells`: [bin of the first value, of the second, steps, wrong steps], where there are any."""
    return {
        "reads": [_read_name(place) for place in tally.reads],
        "cells": [
            [int(row), int(column), int(tally.count[row, column]), int(tally.wrong[row, column])]
            for row, column in np.argwhere(tally.count)
        ],
    }


def _program(result: ProgramResult, answers: Predictions) -> dict[str, Any]:
    """A program's steps for the viewer.

    Steps `first` to `last` are embedded of those checked, up to `end`. `records`: the
    reference's, as hex, from number `known` on, two before `first` if there are as many; a step
    without one is the end. `said` and `saidP` hold only what differs from the reference:
    `{step: {field: token}}`.
    """
    first = result.from_step
    end = result.from_step + result.checked - 1
    difference = result.difference
    if result.checked > _STEPS_EACH and difference is not None:
        middle = difference.step - _STEPS_EACH // 2
        first = min(max(first, middle), end - _STEPS_EACH + 1)
    last = min(end, first + _STEPS_EACH - 1)
    known = max(0, first - 2)  # where the instruction executed in step `first` was fetched
    records = result.case.records[known : last + 1]
    wrong = result.wrong[first - result.from_step : last - result.from_step + 1]
    said = result.said[first - result.from_step :][: len(wrong)]
    rows = slice(first - 1, last)
    expected_p, said_p = answers.expected_probability, answers.predicted_probability
    if said_p is not None:
        # Verified in another batch, a model in low precision may decide a close call otherwise.
        said_p = np.where(answers.tokens[rows] == said, said_p[rows], np.nan)
    return {
        "name": _printable(result.case.name),
        "first": first,
        "last": last,
        "end": end,
        "difference": difference.step if difference else None,
        "kind": str(difference.kind) if difference else None,
        "refusal": _printable(difference.refusal) if difference else None,
        "open": _printable(result.case.open_because),
        "listing": disassemble(result.case.memory.tobytes()),
        "known": known,
        "records": [record.tobytes().hex() for record in records],
        "words": _words([*records[:, IR : IR + INSTRUCTION_SIZE], *_said_words(said, wrong)]),
        "said": _by_step(said, wrong, first),
        "expectedP": None
        if expected_p is None
        else [[_rounded(value) for value in row] for row in expected_p[rows]],
        "saidP": None if said_p is None else _by_step(said_p, wrong, first),
    }


def _by_step(
    values: npt.NDArray[np.int16] | npt.NDArray[np.float32],
    wrong: npt.NDArray[np.bool_],
    first: int,
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for row, field in np.argwhere(wrong):
        rows.setdefault(str(first + int(row)), {})[str(field)] = _rounded(values[row, field])
    return rows


def _rounded(value: np.float32 | np.int16) -> float | int | None:
    """A number as short as four significant digits allow: the page holds many."""
    number = value.item()
    if number != number:
        return None
    short = float(f"{number:.4g}")
    return int(short) if short.is_integer() else short


def _said_words(
    said: npt.NDArray[np.int16], wrong: npt.NDArray[np.bool_]
) -> Iterable[npt.NDArray[np.uint8]]:
    """What the candidate fetched where it fetched something else, if that is four bytes."""
    for row in np.flatnonzero(wrong[:, IR : IR + INSTRUCTION_SIZE].any(axis=1)):
        word = said[row, IR : IR + INSTRUCTION_SIZE]
        if ((word >= 0) & (word < 256)).all():
            yield word.astype(np.uint8)


def _words(words: Iterable[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    """By four bytes in hex: the instruction, and the fields that it writes."""
    unique = {word.tobytes() for word in words}
    return {
        word.hex(): [disassemble_word(word), sorted(ISA.written(word))] for word in sorted(unique)
    }
