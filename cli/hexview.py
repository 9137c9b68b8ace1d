"""A file's most surprising bytes: as a list, and in a hex view of where they stand.

Colour shows every byte's bits; signs show the same without colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from bytemodel.patches import PAD
from cli.render import HEADING, QUIET

if TYPE_CHECKING:
    from bytemodel.score import Score

_ROW = 16
_WORST, _COSTLY = "*", "+"
_COSTLY_BITS = 8.0
_STYLES = ((1.0, QUIET), (4.0, ""), (_COSTLY_BITS, "yellow"), (np.inf, "red"))
"""The style below so many bits."""
_WORST_STYLE = "bold white on red"


def worst_json(data: bytes, score: Score, skip: int, count: int) -> list[dict[str, Any]]:
    """The costliest bytes as JSON values, the costliest first; `expected` None: the end."""
    found = score.predictions
    return [
        {
            "offset": skip + place,
            "byte": data[skip + place],
            "bits": float(found.bits[place]),
            "expected": None if found.expected[place] == PAD else int(found.expected[place]),
            "confidence": float(found.confidence[place]),
        }
        for place in score.most_surprising(count).tolist()
    ]


def worst_lines(data: bytes, score: Score, skip: int, count: int) -> Iterator[Text]:
    """The list of the costliest bytes and, row by row, where they stand; 80 columns wide."""
    worst = worst_json(data, score, skip, count)
    yield Text(f"{'offset':>14}  {'hex':>8}  {'byte':<6}  {'bits':>6}  expected", HEADING)
    for entry in worst:
        expected = "the end" if entry["expected"] is None else _byte(entry["expected"])
        yield Text(
            f"{entry['offset']:>14,}  {entry['offset']:>8x}  {_byte(entry['byte']):<6}"
            # Never rounded up to being certain.
            f"  {entry['bits']:>6.2f}  {expected} ({math.floor(1000 * entry['confidence']) / 10}%)"
        )
    yield Text()
    places = {entry["offset"] for entry in worst}
    # The row before shows what led to it.
    rows = {row for place in places for row in (place // _ROW - 1, place // _ROW) if row >= 0}
    title = f"{'offset':>8} " + "".join(f"{place:2x} " for place in range(_ROW)) + " "
    yield Text(f"{title}{'text':<16}  bits", HEADING)
    before = -1
    for row in sorted(rows):
        if row != before + 1:
            yield Text(f"{'...':>8}", QUIET)
        yield _row(data, score, skip, row, places)
        before = row
    if before + 1 < -(-len(data) // _ROW):
        yield Text(f"{'...':>8}", QUIET)
    legend = Text.assemble(
        (f"{_WORST} the {len(places):,} listed", _WORST_STYLE),
        "   ",
        (f"{_COSTLY} {_COSTLY_BITS:g} bits or more", _STYLES[-1][1]),
        *(
            part
            for (low, _), (high, style) in pairwise(_STYLES[:-1])
            for part in ("   ", (f"{low:g} to {high:g}", style))
        ),
        "   ",
        (f"below {_STYLES[0][0]:g}", _STYLES[0][1]),
    )
    yield legend


def _row(data: bytes, score: Score, skip: int, row: int, places: set[int]) -> Text:
    line = Text.assemble((f"{row * _ROW:>8x} ", QUIET))
    text = Text()
    bits = 0.0
    for offset in range(row * _ROW, (row + 1) * _ROW):
        if offset >= len(data):
            line.append("   ")
            text.append(" ")
            continue
        cost = float(score.surprisal[offset - skip]) if offset >= skip else 0.0
        bits += cost
        style = next(style for limit, style in _STYLES if cost < limit or limit == np.inf)
        sign = _COSTLY if cost >= _COSTLY_BITS else " "
        if offset in places:
            style, sign = _WORST_STYLE, _WORST
        line.append(f"{data[offset]:02x}{sign}", style)
        text.append(chr(data[offset]) if 32 <= data[offset] < 127 else ".", style)
    line.append(" ")
    line.append_text(text)
    line.append(f" {bits:>5.0f}")
    return line


def _byte(value: int) -> str:
    return f"{value:02x} '{chr(value)}'" if 32 <= value < 127 else f"{value:02x}"
