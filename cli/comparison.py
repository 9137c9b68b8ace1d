"""How a comparison looks: diffs, the list of programs, the summary, JSON and JUnit.

Every line is at most 80 columns wide (but for the command that replays a difference, and
long names), and nothing depends on colour.
"""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.text import Text

from cli import render
from cpusim.assembler import disassemble_word
from cpusim.isa import FIELDS, INSTRUCTION_SIZE, IR, ISA, PC
from cpusim.lockstep import (
    RESULT_FIELDS,
    Comparison,
    Difference,
    FormTally,
    Kind,
    ProgramResult,
    is_state,
)

Replay = Callable[[ProgramResult], Sequence[str]]
"""The command that shows a program's first difference again, as words."""

_LISTED_PROGRAMS = 20
_LISTED_STEPS = 8


def report_lines(
    comparison: Comparison, what: Sequence[str], *, window: int, show: int, replay: Replay
) -> Iterator[Text]:
    """The whole report: `show` diffs, earliest first, the other programs, forms, summary."""
    differing = sorted(comparison.differing, key=lambda result: result.matched)
    for result in differing[:show]:
        yield from diff_lines(result, window, replay(result))
        yield Text()
    if len(differing) > show:
        others = "other programs" if show else "programs"
        yield Text(f"{others} that differ: {len(differing) - show:,}", style="bold")
        yield from program_lines(differing[show:])
        yield Text()
    yield from form_lines(comparison.by_form)
    yield Text()
    yield from summary_lines(comparison, what)


def diff_lines(result: ProgramResult, window: int, replay: Sequence[str]) -> Iterator[Text]:
    """The first difference of a program that is not exact, with `window` states before it."""
    case, difference = result.case, result.difference
    assert difference is not None
    step = difference.step
    last = result.from_step + result.checked - 1
    yield Text(f"{case.name}: {difference.kind} at step {step:,} of {last:,}", style=render.WRONG)
    given = f"from step {result.from_step:,} on, " if result.from_step > 1 else ""
    yield Text(f"free-running: {given}{render.count(result.matched, 'step')} before it match")
    first = max(0, step - window)
    records = [record.tobytes() for record in case.records[first:step]]
    if records:
        *lines, newest = render.state_lines(records, first=first)
        for line in lines:
            yield Text("  ").append_text(line)
        yield Text("> ").append_text(newest)
    yield from _said_lines(result, difference)
    wrong = result.wrong_steps
    listed = ", ".join(f"{number:,}" for number in wrong[:_LISTED_STEPS])
    more = f" and {len(wrong) - _LISTED_STEPS:,} more" if len(wrong) > _LISTED_STEPS else ""
    yield Text(
        f"resynchronised: {len(wrong):,} of {render.count(result.checked, 'step')} wrong"
        + (f": {listed}{more}" if wrong else "")
    )
    yield Text(f"replay: {shlex.join(replay)}")


def _said_lines(result: ProgramResult, difference: Difference) -> Iterator[Text]:
    """What was expected and what the candidate said instead."""
    executed = executed_text(result, difference.step)
    if difference.kind is Kind.REFUSED:
        yield Text(f"after {executed} it has no next state: {difference.refusal}")
        return
    if difference.kind in (Kind.EARLY_END, Kind.MISSING_END):
        expected, predicted = "a state", "the end of the trace"
        if difference.kind is Kind.MISSING_END:
            expected, predicted = predicted, expected
        yield Text(
            f"after {executed}: expected {expected}{_first_p(difference.expected_probability)},"
            f" predicted {predicted}{_first_p(difference.predicted_probability)}"
        )
        if difference.kind is Kind.MISSING_END:
            said = difference.predicted
            word = said[IR : IR + INSTRUCTION_SIZE].astype(np.uint8).tobytes()
            yield Text(f"that state: PC {said[PC]}, {disassemble_word(word)}")
        return
    width = 10 if difference.expected_probability is None else 18
    yield Text(
        f"  {'field':<7}{'expected':<{width}}{'predicted':<{width + 2}}after", style=render.HEADING
    )
    for field in difference.fields:
        expected = _token(difference.expected, difference.expected_probability, field)
        predicted = _token(difference.predicted, difference.predicted_probability, field)
        line = Text(f"  {FIELDS[field]:<7}{expected:<{width}}")
        line.append(f"{predicted:<{width + 2}}", style=render.WRONG)
        line.append(_source(result, difference, field))
        yield line
    if difference.kind is Kind.MIXED:
        yield Text("  256 pads and ends; a state has none, the end nothing else")


def executed_text(result: ProgramResult, step: int) -> str:
    """The instruction whose result step `step` shows."""
    word = result.case.executed(step)
    return "(start)" if word is None else disassemble_word(word)


def _source(result: ProgramResult, difference: Difference, field: int) -> str:
    """Where the value of a field comes from: a fetch, or what executed in the record before."""
    before = result.case.records[difference.step - 1]
    if not RESULT_FIELDS[field]:
        if not is_state(difference.expected):
            return "HLT"
        fetched = difference.expected[IR : IR + INSTRUCTION_SIZE].astype(np.uint8).tobytes()
        return f"fetch from slot {before[PC]}: {disassemble_word(fetched)}"
    word = result.case.executed(difference.step)
    if word is None:
        return "(start), nothing changes it"
    does = "writes" if field in ISA.written(word) else "leaves"
    return f"{disassemble_word(word)}, which {does} it"


def _token(
    tokens: npt.NDArray[np.int16], probability: npt.NDArray[np.float32] | None, field: int
) -> str:
    shown = f"{tokens[field]:>3}"
    if probability is None or np.isnan(probability[field]):
        return shown
    return f"{shown}  p {_probability(float(probability[field]))}"


def _probability(value: float) -> str:
    """Three significant places where they matter: a p of 2e-7 is no 0."""
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _first_p(probability: npt.NDArray[np.float32] | None) -> str:
    if probability is None or np.isnan(probability[0]):
        return ""
    return f" (p {_probability(float(probability[0]))})"


def program_lines(results: Sequence[ProgramResult]) -> Iterator[Text]:
    """One line for each program that differs, and a count of those beyond the first 20."""
    yield Text(f"{'step':>6}  {'executed':<14}{'differs in':<28}program", style=render.HEADING)
    for result in results[:_LISTED_PROGRAMS]:
        difference = result.difference
        assert difference is not None
        if difference.kind is Kind.STATE:
            what = " ".join(FIELDS[field] for field in difference.fields)
        else:
            what = str(difference.kind)
        if len(what) > 26:
            what = f"{len(difference.fields)} fields"
        executed = executed_text(result, difference.step)
        yield Text(f"{difference.step:>6,}  {executed:<14}{what:<28}{result.case.name}")
    if len(results) > _LISTED_PROGRAMS:
        yield Text(f"and {len(results) - _LISTED_PROGRAMS:,} more; --json FILE lists all of them")


def form_lines(by_form: Mapping[str, FormTally]) -> Iterator[Text]:
    """Accuracy by executed form, two columns side by side."""
    cells = []
    for name, tally in by_form.items():
        text = f"{name:<11}{tally.count:>8,}{f'{tally.wrong:,}' if tally.wrong else '-':>8}"
        text += f"{percent(tally.count - tally.wrong, tally.count):>10}"
        cells.append(Text(text, style=render.WRONG if tally.wrong else ""))
    head = f"{'executed':<11}{'steps':>8}{'wrong':>8}{'right':>10}"
    half = -(-len(cells) // 2)
    yield Text(f"{head}   {head}" if len(cells) > 1 else head, style=render.HEADING)
    for row in range(half):
        line = cells[row].copy()
        if row + half < len(cells):
            line.append("   ").append_text(cells[row + half])
        yield line


def summary_lines(comparison: Comparison, what: Sequence[str]) -> Iterator[Text]:
    """The verdict and its figures; `what`: the programs in words, a line each."""
    yield Text(f"{comparison.candidate} against {comparison.reference}", style="bold")
    yield from (Text(f"  {line}") for line in what)
    right = comparison.instructions - comparison.wrong_instructions
    right_bytes = comparison.byte_count - comparison.wrong_bytes
    yield figure("exact programs", f"{comparison.exact_programs:,} of {comparison.programs:,}")
    earliest = comparison.earliest
    if earliest is None or earliest.difference is None:
        yield figure("first difference", "none")
    else:
        yield figure(
            "first difference",
            f"median step {comparison.median_first_difference:,g},"
            f" worst step {earliest.difference.step:,}",
        )
    yield figure("instruction accuracy", share(right, comparison.instructions))
    yield figure("byte accuracy", share(right_bytes, comparison.byte_count))
    if comparison.wrong_instructions:
        tallies = comparison.by_form.values()
        yield figure(
            "wrong steps",
            f"{comparison.wrong_instructions:,}, in"
            f" {render.count(sum(t.wrong_result for t in tallies), 'result')},"
            f" {render.count(sum(t.wrong_fetch for t in tallies), 'fetch', 'fetches')},"
            f" {render.count(sum(t.wrong_end for t in tallies), 'end')}",
        )
        by_field = Counter(comparison.by_field).most_common()
        worst = [f"{field} {count:,}" for field, count in by_field if count][:6]
        yield figure("most wrong fields", ", ".join(worst))
    yield from caveats(comparison)
    if comparison.agree:
        yield Text("they agree", style="bold green")
    else:
        yield Text("they differ", style=render.WRONG)


def caveats(comparison: Comparison) -> Iterator[Text]:
    """What the figures leave out, a line each."""
    if comparison.left_out:
        yield Text(f"not compared, too short: {render.count(len(comparison.left_out), 'program')}")
    reasons = Counter(
        result.case.open_because for result in comparison.results if not result.case.ends
    )
    for reason, count in reasons.items():
        yield Text(f"end not checked in {render.count(count, 'program')}: {reason}")
    if comparison.unconfirmed:
        yield Text(
            f"{render.count(len(comparison.unconfirmed), 'program')}: running free and verification"
            " first differ at other steps (rounding; try --dtype float32)"
        )


def figure(label: str, value: str) -> Text:
    """A line of a summary."""
    return Text(f"  {label:<22}{value}")


def share(right: int, total: int) -> str:
    """How many are right, in per cent and in numbers."""
    return f"{percent(right, total):<10}{right:,} of {total:,}"


def percent(right: int, total: int) -> str:
    """Rounded down, so that 100 % means all of them."""
    return f"{right * 10_000 // total / 100:.2f} %" if total else "-"


def as_json(comparison: Comparison, settings: dict[str, Any], replay: Replay) -> dict[str, Any]:
    """The whole comparison as JSON values. `settings` (model, seed, ...) come first.

    `first_difference` is the earliest one of all programs, with the median over those that
    differ; `differences` has the first one of each program that differs.
    """
    first = comparison.earliest
    first_difference = None
    if first is not None:
        first_difference = {
            "median_step": comparison.median_first_difference,
            **_difference_json(first, replay),
        }
    return {
        **settings,
        "reference": comparison.reference,
        "candidate": comparison.candidate,
        "rollout": comparison.rollout,
        "agree": comparison.agree,
        "programs": comparison.programs,
        "exact_programs": comparison.exact_programs,
        "instructions": comparison.instructions,
        "wrong_instructions": comparison.wrong_instructions,
        "instruction_accuracy": comparison.instruction_accuracy,
        "bytes": comparison.byte_count,
        "wrong_bytes": comparison.wrong_bytes,
        "byte_accuracy": comparison.byte_accuracy,
        "by_form": {name: tally_json(tally) for name, tally in comparison.by_form.items()},
        "by_field": comparison.by_field,
        "first_difference": first_difference,
        "differences": [_difference_json(result, replay) for result in comparison.differing],
        "unchecked_ends": {
            result.case.name: result.case.open_because
            for result in comparison.results
            if not result.case.ends
        },
        "left_out": list(comparison.left_out),
    }


def tally_json(tally: FormTally) -> dict[str, Any]:
    """One form's figures."""
    return {
        "count": tally.count,
        "wrong": tally.wrong,
        "accuracy": tally.accuracy,
        "wrong_result": tally.wrong_result,
        "wrong_fetch": tally.wrong_fetch,
        "wrong_end": tally.wrong_end,
    }


def _difference_json(result: ProgramResult, replay: Replay) -> dict[str, Any]:
    difference = result.difference
    assert difference is not None
    word = result.case.executed(difference.step)

    def side(tokens: npt.NDArray[np.int16], field: int) -> int | None:
        return int(tokens[field]) if tokens[field] >= 0 else None

    def probability(values: npt.NDArray[np.float32] | None, field: int) -> float | None:
        return None if values is None or np.isnan(values[field]) else float(values[field])

    return {
        "program": result.case.name,
        "step": difference.step,
        "steps": result.from_step + result.checked - 1,
        "matched_steps": result.matched,
        "kind": str(difference.kind),
        "executed": None if word is None else disassemble_word(word),
        "fields": {
            FIELDS[field]: {
                "expected": side(difference.expected, field),
                "predicted": side(difference.predicted, field),
                "expected_probability": probability(difference.expected_probability, field),
                "predicted_probability": probability(difference.predicted_probability, field),
            }
            for field in difference.fields
        },
        "refusal": difference.refusal or None,
        "wrong_steps": list(result.wrong_steps),
        "replay": shlex.join(replay(result)),
    }


def as_junit(comparison: Comparison, seconds: float, window: int, replay: Replay) -> bytes:
    """A JUnit XML report: one test case a program, the diff as the text of a failure."""
    suite = ET.Element(
        "testsuite",
        name=_xml_text(f"cpusim compare: {comparison.candidate} against {comparison.reference}"),
        tests=str(comparison.programs + len(comparison.left_out)),
        failures=str(
            sum(r.difference is not None or bool(len(r.wrong_steps)) for r in comparison.results)
        ),
        errors="0",
        skipped=str(len(comparison.left_out)),
        time=f"{seconds:.3f}",
    )
    for result in comparison.results:
        case = _case(suite, result.case.name, comparison)
        if result.difference is not None:
            message = f"{result.difference.kind} at step {result.difference.step}"
            failure = ET.SubElement(
                case, "failure", type=str(result.difference.kind), message=message
            )
            lines = diff_lines(result, window, replay(result))
            failure.text = _xml_text("\n".join(line.plain for line in lines))
        elif len(result.wrong_steps):
            # Possible where the two ways of asking round differently.
            steps = ", ".join(map(str, result.wrong_steps))
            message = f"resynchronised, wrong at step {steps}"
            ET.SubElement(case, "failure", type="resynchronised", message=message)
    for name in comparison.left_out:
        ET.SubElement(_case(suite, name, comparison), "skipped", message="no step to compare")
    ET.indent(suite)
    document: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _case(suite: ET.Element, name: str, comparison: Comparison) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", name=_xml_text(name), classname=_xml_text(comparison.candidate)
    )


def _xml_text(text: str) -> str:
    """Without what XML cannot hold: control characters and lone surrogates in file names."""
    return "".join(c if c in "\t\n" or (c.isprintable() and c not in "￾￿") else "?" for c in text)
