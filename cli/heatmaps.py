"""Where a conformance report is wrong, as pictures: one of everything, one of each form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cpusim.conformance import BINARY_FORMS, FORMS, PLACES, WRONG_FETCH, WRONG_RESULT, Report
from cpusim.files import atomic_write, printable_name
from cpusim.isa import ISA, SLOTS, variant_name
from cpusim.lockstep import FETCH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By `conformance.UNCHECKED`, `RIGHT`, `WRONG_FETCH`, `WRONG_RESULT`. They differ in lightness
# too, so they can be told apart in grey.
_COLORS = ("#ffffff", "#d6e6f2", "#f59b23", "#b2182b")
_LEGEND = ("not checked", "right", "only the next fetch wrong", "result wrong")
_QUIET = "0.35"
_FEW = 400

OVERVIEW = "overview.png"
_HALT = next(variant_name(*variant) for variant in ISA.variants if variant[0].halts)


def file_names() -> list[str]:
    """The files that `draw` writes into its folder."""
    return [OVERVIEW, *(_file_name(form) for form in FORMS)]


def _file_name(form: str) -> str:
    return form.replace(" ", "_") + ".png"


def draw(
    report: Report,
    title: str,
    folder: Path,
    *,
    force: bool,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write all pictures; `title`: what was checked. Raises `UserError` like `atomic_write`."""
    folder.mkdir(parents=True, exist_ok=True)
    title = printable_name(title)
    names = file_names()
    for done, (name, figure) in enumerate(zip(names, _figures(report, title), strict=True)):
        progress(done, len(names))
        with atomic_write(folder / name, force=force) as file:
            figure.savefig(file, format="png")


def _figures(report: Report, title: str) -> Iterator[Figure]:
    yield _overview(report, title)
    for form in FORMS:
        if form in BINARY_FORMS:
            yield _large(report, form, title, (11.6, 12.2), _draw_pairs)
        elif form == FETCH:
            yield _large(report, form, title, (12, 4), _draw_slots)
        elif form == _HALT:
            yield _large(report, form, title, (12, 4), _draw_lengths)
        else:
            yield _large(report, form, title, (12, 2.9), _draw_places)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _overview(report: Report, title: str) -> Figure:
    """All forms: pairs above, a row of panels each number of operands; below what takes one value,
    both forms of an instruction in one panel; slots and lengths at the bottom."""
    binary = [i.name for i in ISA.instructions if f"{i.name} R R R" in BINARY_FORMS]
    # `INC` has its values in ACC and `INC R` in registers: their rows never meet.
    panels: dict[str, list[str]] = {}
    for form in FORMS:
        if form not in (*BINARY_FORMS, FETCH, _HALT):
            name, _, operands = form.partition(" ")
            panels.setdefault(name if operands in ("", "R") else form, []).append(form)
    columns = len(binary)
    rows = -(-len(panels) // columns)
    figure = _figure(3.1 * columns, 10.4 + 1.15 * rows + 2.4)
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[10.4 + 1.15 * rows, 2.2])
    upper, lower = halves[:, 0]
    grid = upper.add_gridspec(3 + rows, columns, height_ratios=[3.5] * 3 + [1.0] * rows)
    for column, name in enumerate(binary):
        for row in range(3):
            form = " ".join([name, *"R" * (row + 1)])
            axes = upper.add_subplot(grid[row, column])
            _draw_pairs(axes, report, form)
            _mark_few(axes, report.map(form))
            _name(axes, form, report)
            if column:
                axes.set(ylabel="", yticklabels=[])
    for number, (name, forms) in enumerate(panels.items()):
        axes = upper.add_subplot(grid[3 + number // columns, number % columns])
        _draw_cells(axes, np.maximum.reduce([report.map(form) for form in forms]))
        _label_places(axes)
        _name(axes, name, report, forms)
        if number % columns:
            axes.set(yticklabels=[])
    left, right = lower.subplots(1, 2)
    _draw_slots(left, report, "")
    _draw_lengths(right, report, "")
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left", parse_math=False)
    _add_legend(figure)
    return figure


def _large(
    report: Report,
    form: str,
    title: str,
    size: tuple[float, float],
    painter: Callable[[Axes, Report, str], None],
) -> Figure:
    figure = _figure(*size)
    axes = figure.add_subplot()
    painter(axes, report, form)
    if painter in (_draw_pairs, _draw_places):
        _name(axes, form, report)
        _add_legend(figure)
    figure.suptitle(title, fontsize=11, color=_QUIET, x=0.01, ha="left", parse_math=False)
    return figure


def _name(axes: Axes, name: str, report: Report, forms: list[str] | None = None) -> None:
    """The panel's title: what it shows, and how many cases are wrong."""
    tallies = [report.by_form[form] for form in forms or [name] if form in report.by_form]
    wrong, count = sum(t.wrong for t in tallies), sum(t.count for t in tallies)
    axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
    verdict = f"{wrong:,} of {count:,} wrong" if wrong else f"{count:,} right" if count else "-"
    axes.set_title(
        verdict, loc="right", fontsize=8, color=_COLORS[WRONG_RESULT] if wrong else _QUIET
    )


def _add_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=color, edgecolor="0.6", linewidth=0.5, label=label)
        for color, label in zip(_COLORS, _LEGEND, strict=True)
    ]
    figure.legend(
        handles=patches, loc="outside lower left", ncols=len(patches), frameon=False, fontsize=9
    )


def _draw_cells(axes: Axes, cells: npt.NDArray[np.uint8]) -> None:
    from matplotlib.colors import ListedColormap

    # "nearest" never blends a wrong cell away as long as it gets a pixel, and all panels are
    # at least as many pixels wide and high as they have cells.
    axes.imshow(
        cells,
        cmap=ListedColormap(_COLORS),
        vmin=0,
        vmax=len(_COLORS) - 1,
        interpolation="nearest",
        aspect="auto",
    )
    axes.set_xticks([0, 64, 128, 192, 255])
    _tidy(axes)


def _mark_few(axes: Axes, cells: npt.NDArray[np.uint8]) -> None:
    """Where few cells are wrong, make them large enough to be seen in a small panel."""
    for verdict in (WRONG_FETCH, WRONG_RESULT):
        row, column = np.nonzero(cells == verdict)
        if len(row) <= _FEW:
            axes.scatter(column, row, s=7, marker="s", linewidths=0, color=_COLORS[verdict])


def _draw_pairs(axes: Axes, report: Report, form: str) -> None:
    _draw_cells(axes, report.map(form))
    instruction = form.split()[0]
    row, column = ("ACC", "R") if len(form.split()) == 2 else ("first R", "second R")
    axes.set_yticks([0, 64, 128, 192, 255])
    axes.set_xlabel(f"{row} {instruction} {column}: value of {column}", fontsize=7, color=_QUIET)
    axes.set_ylabel(f"value of {row}", fontsize=7, color=_QUIET)
    axes.set_box_aspect(1)


def _draw_places(axes: Axes, report: Report, form: str) -> None:
    _draw_cells(axes, report.map(form))
    _label_places(axes)


def _label_places(axes: Axes) -> None:
    axes.set_yticks(range(len(PLACES)), PLACES)
    axes.tick_params(axis="y", labelsize=5.5, length=0)


def _draw_slots(axes: Axes, report: Report, _: str) -> None:
    _draw_shares(axes, report.slots, range(SLOTS), "fetches", "slot fetched from")


def _draw_lengths(axes: Axes, report: Report, _: str) -> None:
    _draw_shares(axes, report.lengths, range(1, SLOTS + 1), "ends", "length of the program")


def _draw_shares(
    axes: Axes, counts: npt.NDArray[np.int64], at: range, what: str, label: str
) -> None:
    """A bar for each place `at`: the share that is wrong; grey where nothing was checked."""
    count, wrong = counts
    share = 100 * wrong / np.maximum(count, 1)
    axes.bar(at, share, width=1.0, color=_COLORS[WRONG_RESULT])
    top = max(1.08 * float(share.max()), 1.0)
    axes.bar(at, np.where(count == 0, top, 0), width=1.0, color="0.85")
    axes.set(xlim=(at[0] - 0.5, at[-1] + 0.5), ylim=(0, top))
    axes.set_xticks([at[0], *range(32, SLOTS, 32), at[-1]])
    axes.set_ylabel("% wrong", fontsize=7, color=_QUIET)
    checked = int((count > 0).sum())
    verdict = f"{int(wrong.sum()):,} of {int(count.sum()):,} {what} wrong"
    axes.set_title(f"{what} by {label}", loc="left", fontsize=10, fontweight="bold")
    axes.set_title(
        f"{verdict}; {checked} of {SLOTS} {'slots' if what == 'fetches' else 'lengths'} checked",
        loc="right",
        fontsize=8,
        color=_COLORS[WRONG_RESULT] if wrong.any() else _QUIET,
    )
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.tick_params(labelsize=6.5, colors=_QUIET, length=2)
    for spine in axes.spines.values():
        spine.set(color="0.6", linewidth=0.6)
