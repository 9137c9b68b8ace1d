"""How the debugger's panels read: what `cpusim.debugger` knows, as text.

Nothing depends on colour: a difference is marked with ≠, what an instruction changed with *,
an edited value with =, the CPU's byte among the guesses with ✓.
"""

from __future__ import annotations

import math

import numpy as np
from rich.text import Text

from cli import render
from cpusim.assembler import disassemble_word
from cpusim.debugger import EDITABLE, Answer, Debugger, differing
from cpusim.isa import FIELDS, INSTRUCTION_SIZE, IR, ISA, PC
from cpusim.lockstep import END, END_TOKEN, Probabilities, Tokens, is_state

GUESSES = 5
LISTING_COLUMNS = (("", 2), ("slot", 5), ("", 11))
"""Of the listing: headings and widths in cells."""

_THINKING = "…"
_STEP_LIMIT = "step limit"
_BITS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"


def state_columns(debugger: Debugger) -> tuple[tuple[str, int], ...]:
    """Of the table of states: headings and widths in cells."""
    if debugger.free:
        return (
            ("", 5),
            (" now", 6),
            ("  CPU", 6),
            (" own", 5),
            ("model", 7),
            ("sure", 5),
        )
    return (("", 5), (" now", 7), ("  CPU", 8), ("  model", 9), ("sure", 5))


def state_row(debugger: Debugger, field: int, answer: Answer | None) -> list[Text]:
    """A row of the table of states: the present, then what each side says comes next.

    `answer`: the model's; None while it thinks.
    """
    now, expected = int(debugger.record[field]), debugger.expected
    edited = field in debugger.timeline.edits.get(debugger.position, {})
    row = [
        Text(FIELDS[field], style="bold" if field in EDITABLE else ""),
        Text(f"{'=' if edited else ' '}{now:>3}", style=render.HEADING if edited else ""),
    ]
    if expected is None:
        row.append(Text("    -", style=render.QUIET))
    else:
        changed = field in EDITABLE and expected[field] != now and is_state(expected)
        text = f"  {_token(int(expected[field]))}{'*' if changed else ''}"
        row.append(Text(text, style=render.CHANGED if changed else ""))
    if debugger.free:
        own = debugger.free.state(debugger.position)
        if own is None:
            row.append(Text("   -", style=render.QUIET))
        else:
            wrong = own[field] != now
            row.append(Text(f" {own[field]:>3}", style=render.WRONG if wrong else ""))
    row += _model_cells(field, expected, answer)
    return row


def _model_cells(field: int, expected: Tokens | None, answer: Answer | None) -> list[Text]:
    if answer is None:
        return [Text(f"    {_THINKING}", style=render.QUIET), Text()]
    if answer.tokens is None:
        return [Text("    -", style=render.QUIET), Text()]
    token = int(answer.tokens[field])
    wrong = field in differing(expected, answer)
    style = render.WRONG if wrong else ""
    sure = ""
    if answer.probabilities is not None:
        sure = percent(float(answer.probabilities[field, token]))
    return [
        Text(f"{'≠' if wrong else ' '} {_token(token)}", style=style),
        Text(f"{sure:>5}", style=style or render.QUIET),
    ]


def _token(token: int) -> str:
    """Three cells wide."""
    if token == END_TOKEN:
        return "end"
    return f"{token:>3}" if token >= 0 else "  -"


def percent(probability: float) -> str:
    """Rounded down, so that 100% is certainty; at most five cells."""
    if probability >= 1:
        return "100%"
    tenths = math.floor(probability * 1000) / 10
    return f"{tenths:.1f}%" if tenths else "<0.1%"


def guesses(debugger: Debugger, field: int, answer: Answer | None, width: int) -> Text:
    """The model's most probable bytes for a field of the next state, `width` cells wide."""
    lines = []
    expected = debugger.expected
    right = None if expected is None else int(expected[field])
    if right is None:
        lines.append(Text("the CPU says nothing", style=render.QUIET))
    else:
        lines.append(_said("CPU", right, field))
    if answer is None:
        lines.append(Text(f"the model thinks {_THINKING}", style=render.QUIET))
        return Text("\n").join(lines)
    if answer.tokens is None:
        lines.append(Text(f"no guess: {answer.because}", style=render.QUIET))
        return Text("\n").join(lines)
    said = _said("model", int(answer.tokens[field]), field)
    if field in differing(expected, answer):
        said.stylize(render.WRONG)
    lines.append(said)
    if answer.because:
        lines.append(Text(answer.because, style=render.QUIET))
    if answer.probabilities is not None:
        lines += [Text(), *_bars(answer.probabilities[field], right, width)]
    return Text("\n").join(lines)


def _said(who: str, token: int, field: int) -> Text:
    meaning = ""
    if field == PC and token < END_TOKEN:
        meaning = f"slot {token}"
    elif field == IR and 0 <= token < len(ISA.instructions):
        meaning = ISA.instructions[token].name
    elif 0 <= token < END_TOKEN:
        meaning = f"{token:0{_BITS}b}"
    return Text(f"{who:<6}{_token(token)}  {meaning}".rstrip())


def _bars(probabilities: Probabilities, right: int | None, width: int) -> list[Text]:
    """The most probable tokens, and the right one if it is not among them, a bar each."""
    order = probabilities.argsort(kind="stable")[::-1].tolist()
    lines = [_bar(token, float(probabilities[token]), right, width) for token in order[:GUESSES]]
    if right is not None and right not in order[:GUESSES]:
        lines.append(Text(f"CPU's, guess {order.index(right) + 1}:", style=render.QUIET))
        lines.append(_bar(right, float(probabilities[right]), right, width))
    return lines


def _bar(token: int, probability: float, right: int | None, width: int) -> Text:
    room = max(width - len("end  99.9% ✓"), 1)
    eighths = round(probability * room * 8)
    bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    line = Text(f"{_token(token)} {bar:<{room}} {percent(probability):>5}")
    if token == right:
        line.append(" ✓")
        line.stylize(render.CHANGED)
    return line


def listing_row(debugger: Debugger, slot: int) -> list[Text]:
    """A row of the listing: marks, slot, instruction."""
    memory = debugger.timeline.case.memory
    word = memory[slot * INSTRUCTION_SIZE : (slot + 1) * INSTRUCTION_SIZE].tobytes()
    return [
        marks(debugger, slot),
        Text(f"{slot:>4}", style=render.QUIET),
        render.instruction_text(bytes(IR) + word),
    ]


def marks(debugger: Debugger, slot: int) -> Text:
    """● a breakpoint, ▶ about to execute, ▷ about to be fetched as the first."""
    marks = Text("●" if slot in debugger.breakpoints else " ", style=render.WRONG)
    here = slot == (debugger.slot or 0)
    arrow = "▷" if debugger.slot is None else "▶"
    return marks.append(arrow if here else " ", style=render.CHANGED)


def strip(debugger: Debugger, width: int) -> Text:
    """The whole run on one line.

    ≠ marks where the next step is one that the model, put back on the CPU's state, gets wrong.
    """
    head, cells, tail = _strip_parts(debugger, width)
    timeline = debugger.timeline
    wrong = timeline.known_wrong_steps
    here = _cell(debugger.position, timeline.last, cells)
    seen = -1 if wrong is None else _cell(timeline.horizon, timeline.last, cells)
    marked = {_cell(step - 1, timeline.last, cells) for step in wrong or ()}
    line = Text(head)
    for cell in range(cells):
        if cell in marked:
            mark, style = "≠", render.WRONG
        elif cell == here:
            mark, style = "●", "bold"
        else:
            mark, style = ("─" if cell <= seen else "·"), render.QUIET
        line.append(mark, style=f"{style} reverse" if cell == here else style)
    return line.append(tail, style=render.WRONG if wrong else "")


def record_at(debugger: Debugger, cell: int, width: int) -> int:
    """The record that a cell of the strip stands for."""
    head, cells, _ = _strip_parts(debugger, width)
    return round((cell - len(head)) * debugger.timeline.last / max(cells - 1, 1))


def _strip_parts(debugger: Debugger, width: int) -> tuple[str, int, str]:
    """The text before the run, the cells of the run, and the text behind it."""
    timeline = debugger.timeline
    wrong = timeline.known_wrong_steps
    last = f"{timeline.last:,}"
    head = f"step {debugger.position:>{len(last)},} of {last}  "
    if wrong is None:
        tail = f"  {_THINKING}"
    elif wrong:
        tail = f"  {render.count(len(wrong), 'step')} wrong"
    else:
        tail = "  all right" if timeline.horizon == timeline.last else "  right so far"
    return head, max(width - len(head) - len(tail), 1), tail


def _cell(record: int, last: int, cells: int) -> int:
    return round(record * (cells - 1) / last) if last else 0


def message(debugger: Debugger, answer: Answer | None, notice: str) -> Text:
    """Three lines: what the last key did, what executes, how the two sides compare."""
    lines = [Text(notice, style=render.HEADING)]
    case = debugger.timeline.case
    if debugger.expected is None and not case.open_because.startswith(_STEP_LIMIT):
        lines.append(Text(f"ILLEGAL INSTRUCTION: {case.open_because}", style=render.WRONG))
        return Text("\n").join(lines)
    lines.append(_executing(debugger))
    lines.append(_verdict(debugger, answer))
    return Text("\n").join(lines)


def _executing(debugger: Debugger) -> Text:
    if debugger.slot is None:
        return Text("the initial state: nothing executes, slot 0 is fetched")
    word = debugger.record[IR : IR + INSTRUCTION_SIZE].tobytes()
    instruction, _ = ISA.decode(word)
    return Text.assemble(
        f"slot {debugger.slot} executes ",
        (disassemble_word(word), "bold"),
        f": {instruction.doc}",
    )


def _verdict(debugger: Debugger, answer: Answer | None) -> Text:
    expected, case = debugger.expected, debugger.timeline.case
    if expected is None:
        return Text(f"STOPPED, {case.open_because}; --max-steps allows more")
    halted = np.array_equal(expected, END)
    before = f"HALTED after {render.count(debugger.position, 'step')}: " if halted else ""
    fields = () if answer is None else differing(expected, answer)
    text = f"{'≠ ' if fields else ''}{before}{_compared(expected, answer, fields)}"
    return Text(text, style=render.WRONG if fields else "")


def _compared(expected: Tokens, answer: Answer | None, fields: tuple[int, ...]) -> str:
    if answer is None:
        return f"the model thinks {_THINKING}"
    said = answer.tokens
    if said is None:
        return f"no model: {answer.because}"
    if answer.because:
        return f"the model has no next state: {answer.because}"
    ends = np.array_equal(expected, END)
    if not fields:
        return "the model ends here too" if ends else "the CPU and the model agree"
    if np.array_equal(said, END):
        return "the model ends the run here"
    if not is_state(said):
        return "the model says neither a state nor the end"
    if ends:
        word = said[IR : IR + INSTRUCTION_SIZE].astype(np.uint8).tobytes()
        return f"the model goes on with PC {said[PC]}, {render.instruction_text(bytes(IR) + word)}"
    first, *others = fields
    text = f"{FIELDS[first]} (CPU {expected[first]}, model {said[first]})"
    if others:
        text += f", {FIELDS[others[0]]} ({expected[others[0]]}, {said[others[0]]})"
    if len(others) > 1:
        text += f" and {len(others) - 1} more"
    verb = "differ" if others else "differs"
    return f"{render.count(len(fields), 'byte')} {verb}: {text}"


def trail(debugger: Debugger, lines: int) -> Text:
    """The table of the records up to the present, at most `lines` lines."""
    first = max(0, debugger.position + 2 - lines)
    records = [
        record.tobytes() for record in debugger.timeline.case.records[first : debugger.position + 1]
    ]
    heading, *rows = render.state_lines(records, first=first)
    shown = [heading, *rows[-max(lines - 1, 1) :]]
    shown[-1] = Text("> ").append_text(shown[-1])
    return Text("\n").join([Text("  ").append_text(line) for line in shown[:-1]] + shown[-1:])
