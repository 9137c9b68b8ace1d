"""`bgpt compare`: parse, call, print. What is compared stands in `media.notes`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cli import render
from cli.group import Failure
from cli.options import FILE, json_option
from cpusim.errors import UserError
from media.notes import (
    MIDI_SUFFIXES,
    Comparison,
    Note,
    Tune,
    compare,
    in_words,
    number,
    read_tune,
)

_KINDS = (*MIDI_SUFFIXES, ".abc")


@click.command(name="compare")
@click.argument("found", metavar="FOUND", type=FILE)
@click.argument("expected", metavar="EXPECTED", type=FILE)
@json_option
@click.pass_context
def compare_tunes(context: click.Context, found: Path, expected: Path, as_json: bool) -> None:
    """Compare tunes note by note.

    Shown is the first place where they part. FOUND and EXPECTED are two tunes, or two folders with
    tunes of the same names; each MIDI or ABC, which abc2midi plays. Every note event counts: pitch,
    onset and duration. Titles, tempo and loudness do not. Times are in quarter notes; bars are
    counted by the meter from the beginning, so that an upbeat is a part of bar 1.

    Exit code 0: every note is the same; 1: notes differ, or EXPECTED has tunes that FOUND lacks;
    2: bad usage or unreadable input.

    \b
    Examples:
      bgpt compare converted/tune.mid tune.mid
      bgpt compare converted/tune.abc tune.mid
      bgpt compare converted originals --json
    """
    records: list[dict[str, Any]] = []
    console = render.stdout()
    unreadable = 0
    for name, one, other in _pairs(found, expected):
        try:
            read = Tune(()) if one is None else read_tune(one)
            wanted = read_tune(other)
        except UserError as error:
            unreadable += 1
            click.echo(str(error), err=True)
            records.append({"name": name, "error": str(error)})
            continue
        result = compare(wanted, read)
        records.append(_record(name, result, read.fault))
        if not as_json:
            console.print(f"{name}: {in_words(result)}", style=render.WRONG if result.first else "")
            for line in _lines(result):
                console.print(line)
            if one is None:
                console.print(f"  {found} has no tune of that name")
            if read.fault:
                console.print(f"  {read.fault}; the notes were read all the same")
    compared = [record for record in records if "error" not in record]
    same = sum(record["same"] for record in compared)
    if as_json:
        click.echo(json.dumps(records))
    elif len(records) > 1:
        right = sum(record["right"] for record in compared)
        notes = sum(record["expected"] for record in compared)
        console.print(
            f"{same:,} of {len(records):,} tunes have every note right;"
            f" {right:,} of {notes:,} notes are right"
        )
    if unreadable:
        raise Failure(f"{unreadable:,} of {len(records):,} tunes could not be compared")
    context.exit(0 if same == len(records) else 1)


def _pairs(found: Path, expected: Path) -> Iterator[tuple[str, Path | None, Path]]:
    """The tunes to compare, by name; None for one that is missing from `found`.

    Raises `UserError` if there is nothing on one side.
    """
    if not found.is_dir() and not expected.is_dir():
        yield found.name, found, expected
        return
    if not (found.is_dir() and expected.is_dir()):
        raise UserError(f"{found} and {expected}: one is a folder; give two files or two folders")
    wanted = _by_stem(expected)
    names = _by_stem(found)
    if not names:
        raise UserError(f"{found}: holds no MIDI and no ABC; name a folder of tunes")
    for stem, (path, *_) in names.items():
        if stem not in wanted:
            raise UserError(f"{path}: {expected} has no tune of that name; add it or take it out")
    for stem, others in wanted.items():
        if stem not in names:
            yield stem, None, others[0]
        for path in names.get(stem, []):
            # The same kind if there is one: it is the file itself and not what a program makes
            # of it.
            same = [other for other in others if _kind(other) == _kind(path)]
            name = stem if len(names[stem]) == 1 else str(path.relative_to(found))
            yield name, path, (same or others)[0]


def _kind(path: Path) -> str:
    return "abc" if path.suffix.lower() == ".abc" else "midi"


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The tunes below a folder, by their paths without the extension."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _KINDS and path.is_file():
            found.setdefault(str(path.relative_to(folder).with_suffix("")), []).append(path)
    return found


def _lines(result: Comparison) -> Iterator[str]:
    if result.first is not None:
        yield f"  {'':<10}{'note':<6}{'pitch':>5}{'onset':>12}{'duration':>12}"
        for title, note in (("expected", result.first.expected), ("found", result.first.found)):
            if note is None:
                yield f"  {title:<10}no further note"
            else:
                times = f"{number(note.onset):>12}{number(note.duration):>12}"
                yield f"  {title:<10}{note.name:<6}{note.pitch:>5}{times}"


def _record(name: str, result: Comparison, fault: str | None) -> dict[str, Any]:
    first = result.first
    return {
        "name": name,
        "same": result.same,
        "right": result.right,
        "expected": result.expected,
        "found": result.found,
        "fault": fault,
        "first": None
        if first is None
        else {
            "bar": first.bar,
            "beat": float(first.beat),
            "expected": _note(first.expected),
            "found": _note(first.found),
        },
    }


def _note(note: Note | None) -> dict[str, Any] | None:
    if note is None:
        return None
    onset, duration = float(note.onset), float(note.duration)
    return {"name": note.name, "pitch": note.pitch, "onset": onset, "duration": duration}
