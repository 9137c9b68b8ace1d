"""How a diagnosis looks: impossible records, what is to blame, the strip, the plot, JSON.

Every line is at most 80 columns wide, but for long names, and nothing depends on colour.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from bytemodel.diagnose import Diagnosis, ImpossibleRecord, Suspect
from cli import render
from cli.options import file_word
from cpusim.assembler import disassemble_word
from cpusim.files import printable_name
from cpusim.isa import FIELDS
from cpusim.lockstep import END_TOKEN, FETCH, RESULT_FIELDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LISTED = 16  # impossible bytes of a trace
_LISTED_TRACES = 20
_STRIP = 64  # records a line
_AS_GOOD = 0.5  # bits


def report_lines(diagnosis: Diagnosis) -> Iterator[Text]:
    """Everything about one trace."""
    name, steps = diagnosis.case.name, len(diagnosis.bits)
    if not diagnosis.faulty:
        step, field, bits = diagnosis.largest
        where = f" (record {step:,}, {FIELDS[field]})" if step else ""
        yield Text(
            f"{name}: healthy, {render.count(steps, 'record')}, at most {bits:.1f} bits a byte"
            f"{where}",
            style="green",
        )
    else:
        wrong = len(diagnosis.impossible)
        yield Text(
            f"{name}: faulty, {wrong:,} of {render.count(steps, 'record')} impossible",
            style=render.WRONG,
        )
        yield from _byte_lines(diagnosis)
        yield from _strip_lines(diagnosis)
        yield from _blame_lines(diagnosis)
    if not diagnosis.case.ends:
        yield Text(f"its end is not checked: {diagnosis.case.open_because}")


def _byte_lines(diagnosis: Diagnosis) -> Iterator[Text]:
    yield Text(
        f"{'record':>8}  {'after':<14}{'field':<7}{'observed':<11}{'expected':<18}{'bits':>6}",
        style=render.HEADING,
    )
    rows = [row for record in diagnosis.impossible for row in _rows(record)]
    yield from rows[:_LISTED]
    if len(rows) > _LISTED:
        yield Text(f"and {len(rows) - _LISTED:,} more; --json FILE lists all of them")


def _rows(record: ImpossibleRecord) -> Iterator[Text]:
    for field in (0,) if record.at_end else record.fields:
        observed, expected = int(record.observed[field]), int(record.expected[field])
        made_by_result = record.at_end or RESULT_FIELDS[field]
        after = executed_text(record) if made_by_result else "(fetch)"
        if record.at_end:
            shown = ["end" if token == END_TOKEN else "a state" for token in (observed, expected)]
        else:
            shown = [f"{observed:>3}", f"{expected:>3}"]
        shown[1] += f"  p {record.probability[field]:.4f}"
        label = "-" if record.at_end else FIELDS[field]
        line = Text(f"{record.step:>8,}  {after:<14}{label:<7}")
        line.append(f"{shown[0]:<11}", style=render.WRONG)
        line.append(f"{shown[1]:<18}{record.bits[field]:>6.1f}")
        yield line


def executed_text(record: ImpossibleRecord) -> str:
    """The instruction whose result the record shows."""
    return "(start)" if record.executed is None else disassemble_word(record.executed)


def _strip_lines(diagnosis: Diagnosis) -> Iterator[Text]:
    """A character for each record: its most surprising byte."""
    most = diagnosis.bits.max(axis=1)
    impossible = most > diagnosis.threshold
    marks = np.where(impossible, "#", np.where(most > 1, "-", "."))
    yield Text(
        f"every record's most surprising byte: . up to 1 bit, - more,"
        f" # above {diagnosis.threshold:g}",
        style=render.HEADING,
    )
    for first in range(0, len(marks), _STRIP):
        if len(marks) <= 2 * _STRIP or impossible[first : first + _STRIP].any():
            yield Text(f"{first + 1:>8,}  {''.join(marks[first : first + _STRIP])}")


def _blame_lines(diagnosis: Diagnosis) -> Iterator[Text]:
    first = diagnosis.impossible[0]
    if first.wrong_fetch:
        made = "by its fetch"
    elif first.executed is None:
        made = "before any instruction"
    else:
        made = f"by {executed_text(first)}"
    yield Text(f"first: record {first.step:,}, {made}")
    for number, suspect in enumerate(diagnosis.suspects):
        line = Text("also:   " if number else "blamed: ")
        line.append(suspect.in_words, style=render.WRONG)
        line.append(f"; explains {render.count(suspect.records, 'record')}")
        yield line
        if suspect.fault is not None:
            trace = shlex.quote(file_word(Path(diagnosis.case.name)))
            yield Text(f"  reproduce: cpusim inject {trace} --fault {suspect.fault} -o again.bin")
        yield from _rival_lines(suspect)


def _rival_lines(suspect: Suspect) -> Iterator[Text]:
    """What explains it as well, or else the next best explanation."""
    as_good = [r for r in suspect.rivals if r.bits - suspect.bits <= _AS_GOOD]
    if as_good:
        names = ", ".join(rival.in_words for rival in as_good[:2])
        more = f" and {len(as_good) - 2} more" if len(as_good) > 2 else ""
        yield Text(f"  explained as well by: {names}{more}")
    others = [r for r in suspect.rivals[len(as_good) :] if r.blames != suspect.blames and r.records]
    if others:
        worse = others[0].bits - suspect.bits
        yield Text(f"  next: {others[0].in_words}, {worse:.0f} bits worse")


def trace_lines(diagnoses: Sequence[Diagnosis]) -> Iterator[Text]:
    """One line for each faulty trace, and a count of those beyond the first 20."""
    yield Text(f"{'record':>8}  {'blamed':<14}{'fault':<24}trace", style=render.HEADING)
    for diagnosis in diagnoses[:_LISTED_TRACES]:
        suspect = diagnosis.suspects[0]
        step = diagnosis.impossible[0].step
        fault = str(suspect.fault or "-")
        yield Text(f"{step:>8,}  {suspect.blames:<14}{fault:<24}{diagnosis.case.name}")
    if len(diagnoses) > _LISTED_TRACES:
        yield Text(f"and {len(diagnoses) - _LISTED_TRACES:,} more; --json FILE lists all of them")


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """One diagnosis as JSON values; `bits` holds the surprisal of every byte, a row a record."""
    step, field, bits = diagnosis.largest
    first = diagnosis.impossible[0] if diagnosis.faulty else None
    return {
        "trace": diagnosis.case.name,
        "faulty": diagnosis.faulty,
        "records": len(diagnosis.bits),
        "end_checked": diagnosis.case.ends,
        "largest": {"record": step, "field": FIELDS[field], "bits": round(bits, 3)},
        "first": None
        if first is None
        else {
            "record": first.step,
            "blames": FETCH if first.wrong_fetch else executed_text(first),
        },
        "suspects": [_suspect_json(suspect) for suspect in diagnosis.suspects],
        "impossible": [_record_json(record) for record in diagnosis.impossible],
        "bits": [[round(float(b), 3) for b in row] for row in diagnosis.bits],
    }


def _suspect_json(suspect: Suspect) -> dict[str, Any]:
    def one(s: Suspect) -> dict[str, Any]:
        return {
            "blames": s.blames,
            "fault": None if s.fault is None else str(s.fault),
            "kind": None if s.fault is None else s.fault.kind,
            "explains": s.records,
            "bits": round(s.bits, 2),
        }

    return {**one(suspect), "rivals": [one(rival) for rival in suspect.rivals]}


def _record_json(record: ImpossibleRecord) -> dict[str, Any]:
    def token(value: int) -> int | str:
        return "end" if value == END_TOKEN else value

    return {
        "record": record.step,
        "executed": None if record.executed is None else disassemble_word(record.executed),
        "fields": {
            FIELDS[field]: {
                "observed": token(int(record.observed[field])),
                "expected": token(int(record.expected[field])),
                "expected_probability": float(record.probability[field]),
                "bits": round(float(record.bits[field]), 3),
            }
            for field in record.fields
        },
    }


def plot(diagnosis: Diagnosis) -> Figure:
    """The surprisal of every byte: fields over records, and each record's largest above it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = len(diagnosis.bits)
    ceiling = max(2 * diagnosis.threshold, 1.0)
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    numbers = np.arange(1, steps + 1)
    most = diagnosis.bits.max(axis=1) if steps else np.zeros(0)
    upper.vlines(numbers, 0, most, color="0.5", linewidth=1)
    wrong = most > diagnosis.threshold
    upper.plot(numbers[wrong], most[wrong], "o", color="C3", markersize=4, label="impossible")
    upper.axhline(diagnosis.threshold, color="C3", linewidth=0.8, linestyle="--")
    upper.set(ylabel="most bits a byte", ylim=(0, None))
    upper.set_title(_title(diagnosis), parse_math=False)
    image = lower.imshow(
        diagnosis.bits.T,
        aspect="auto",
        interpolation="nearest",
        cmap="magma_r",
        vmin=0,
        vmax=ceiling,
        extent=(0.5, max(steps, 1) + 0.5, len(FIELDS) - 0.5, -0.5),
    )
    lower.set_yticks(range(len(FIELDS)), FIELDS, fontsize=7)
    lower.set(xlabel="record")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=lower, label="bits", pad=0.01, extend="max")
    return figure


def _title(diagnosis: Diagnosis) -> str:
    name = printable_name(diagnosis.case.name)
    return f"{name}: {diagnosis.suspects[0].in_words if diagnosis.faulty else 'healthy'}"
