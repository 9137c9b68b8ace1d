"""Pictures of what a model makes of files: bits by position, a map of a file's bits, confusion.

Each draws one PNG, written atomically.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bytemodel.score import Score, mean_by_position
from cpusim.files import atomic_write, printable_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ROWS, _MOST_COLUMNS = 96, 128
"""Cells of a map; a longer file gets several bytes a cell."""
_WRITTEN_CELLS = 2048
"""Up to here a map has room for each byte's own text."""
_TEXT = {byte: chr(byte) for byte in range(32, 127)} | {9: "\u21e5", 10: "\u21b5", 13: "\u240d"}
"""How the bytes of ASCII text are written."""
_CLIP = 16.0
"""Bits from which on the colour stays the same, unless all is far below."""


def plot_positions(
    path: Path,
    surprisals: Sequence[npt.NDArray[np.float32]],
    *,
    first: int,
    patch_size: int,
    force: bool = False,
) -> None:
    """Mean bits of the n-th byte over files, and of the n-th patch; `first` is n's first value."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    mean, files = mean_by_position(surprisals)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    if len(mean):
        positions = first + np.arange(len(mean))
        dots = len(mean) <= 2 * _WRITTEN_CELLS
        axes.plot(
            positions,
            mean,
            ".",
            color="C0",
            alpha=0.5 if dots else 0.25,
            markersize=3 if dots else 1.5,
            label="each byte",
        )
        # The patches are the model's own, so the first and the last one may be cut short.
        patch = positions // patch_size - first // patch_size
        bits, counts = np.bincount(patch, mean * files), np.bincount(patch, files)
        starts = np.maximum(first, (np.arange(len(bits)) + first // patch_size) * patch_size)
        axes.stairs(
            bits / counts,
            [*starts, positions[-1] + 1],
            color="C3",
            linewidth=1.6,
            baseline=None,
            label=f"mean of each patch of {patch_size}",
        )
        total = sum(float(values.sum(dtype=np.float64)) for values in surprisals) / files.sum()
        axes.axhline(total, color="0.3", linewidth=1, linestyle="--", label=f"all: {total:.3f}")
        if mean.max() > 4:
            axes.axhline(8, color="0.6", linewidth=1, linestyle=":", label="8: knowing nothing")
        axes.legend(loc="upper right")
        axes.set_xlim(first, positions[-1] + 1)
    count = len(surprisals)
    title = f"{count:,} file{'' if count == 1 else 's'}"
    if len(mean) and files[-1] < count:
        title += f", {files[-1]:,} of them as long as the plot"
    axes.set(title=title, xlabel="position in the file, bytes", ylabel="bits per byte")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.3)
    _save(figure, path, force=force)


def draw_bits(
    path: Path, score: Score, data: bytes, *, name: str, patch_size: int, force: bool = False
) -> None:
    """A file as a map, row by row: each byte's colour is what it costs, in bits.

    Rows hold whole patches. Bars sum up each row and each place of a patch. In a small file
    each cell shows its byte: a character where all of it is text, else two hexadecimal digits.
    A cell of a long file is the mean of several bytes in a row.
    """
    from matplotlib.figure import Figure

    bits = score.surprisal
    columns, per_cell = _shape(len(bits), patch_size)
    row_bytes = columns * per_cell
    rows = max(1, -(-len(bits) // row_bytes))
    padded = np.full(rows * row_bytes, np.nan)
    padded[: len(bits)] = bits
    by_row = padded.reshape(rows, row_bytes)
    cells = _mean(padded.reshape(rows, columns, per_cell), axis=2)

    width, height = 10.5, max(3.6, min(16.0, 1.9 + 7.2 * rows / columns * 1.35))
    figure = Figure(figsize=(width, height), layout="constrained")
    top = 1.0 / max(height - 1.9, 1.0)
    grid = figure.add_gridspec(2, 3, width_ratios=(7, 1.3, 0.25), height_ratios=(top, 1))
    main = figure.add_subplot(grid[1, 0])
    side = figure.add_subplot(grid[1, 1], sharey=main)
    above = figure.add_subplot(grid[0, 0])

    highest = float(np.nanmax(cells)) if len(bits) else 8.0
    limit = min(_CLIP, max(8.0, math.ceil(highest)))
    extent = (0, row_bytes, rows * row_bytes, 0)
    image = main.imshow(
        cells, cmap="magma_r", vmin=0, vmax=limit, aspect="auto", extent=extent, rasterized=True
    )
    main.set_facecolor("0.92")
    _offsets(main, rows, row_bytes)
    for edge in range(patch_size, row_bytes, patch_size):
        if row_bytes // patch_size <= 16:
            main.axvline(edge, color="0.55", linewidth=0.5)
    step = patch_size * max(1, row_bytes // patch_size // 8)
    main.set_xticks(range(0, row_bytes + 1, step))
    main.set(xlabel="place in the row, bytes", ylabel="offset")
    if per_cell == 1 and rows * columns <= _WRITTEN_CELLS:
        # A cell's share of the width that the layout leaves to the map, in points.
        size = min(9.0, 0.62 * 72 * 0.66 * width / columns)
        _write_bytes(main, cells, data[: len(bits)], limit, size)

    sums = np.nansum(by_row, axis=1)
    centres = (np.arange(rows) + 0.5) * row_bytes
    side.barh(centres, sums / 8, height=row_bytes * (0.92 if rows <= 64 else 1.0), color="C3")
    side.set(xlabel="bytes a row needs", xlim=(0, max(float(sums.max()) / 8 * 1.08, 1e-9)))
    side.tick_params(labelleft=False)
    side.grid(axis="x", alpha=0.3)

    places = _mean(padded.reshape(-1, patch_size), axis=0)
    above.bar(np.arange(patch_size), np.nan_to_num(places), width=0.9, color="C3")
    above.set(xlim=(-0.5, patch_size - 0.5), ylabel="bits")
    above.set_title("mean by place in the patch", fontsize=9)
    above.set_xticks(range(0, patch_size, max(1, patch_size // 16)))
    above.tick_params(labelsize=8)
    above.grid(axis="y", alpha=0.3)

    bar = figure.colorbar(image, cax=figure.add_subplot(grid[1, 2]))
    bar.set_label("bits of a byte" if per_cell == 1 else f"bits a byte, mean of {per_cell:,}")
    ticks = [*range(0, math.ceil(limit), 2), limit]
    labels = [f"{tick:.3g}" for tick in ticks]
    if highest > limit:
        labels[-1] += " or more"
    bar.set_ticks(ticks, labels=labels)
    figure.suptitle(_headline(_plain(name, 60), score), fontsize=11, parse_math=False)
    _save(figure, path, force=force)


def draw_confusion(
    path: Path,
    counts: npt.NDArray[np.int64],
    labels: Sequence[str],
    *,
    title: str,
    force: bool = False,
) -> None:
    """A confusion matrix (true label, predicted label): shares of the row, counts written in."""
    from matplotlib.figure import Figure

    count = len(labels)
    side = max(4.0, min(16.0, 2.6 + 0.55 * count))
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = max(4, min(10, 150 // max(count, 1)))
    if count <= 40:
        for (row, column), number in np.ndenumerate(counts):
            if number:
                axes.text(
                    column,
                    row,
                    f"{number:,}",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="white" if shares[row, column] > 0.55 else "black",
                )
    shown = [_plain(label, 24) for label in labels]
    style: dict[str, Any] = {"fontsize": size, "parse_math": False}
    axes.set_xticks(range(count), shown, rotation=45, ha="right", **style)
    axes.set_yticks(range(count), shown, **style)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, shrink=0.8).set_label("share of the true label's files")
    _save(figure, path, force=force)


def _shape(length: int, patch_size: int) -> tuple[int, int]:
    """Cells a row, and bytes a cell, so that the map is about as high as wide."""
    patches = max(1, -(-length // patch_size))
    per_row = max(1, round(math.sqrt(patches / patch_size * 0.8)))
    columns = per_row * patch_size
    if columns <= _MOST_COLUMNS and -(-length // columns) <= _MOST_ROWS:
        return columns, 1
    per_cell = 1
    while length > per_cell * _MOST_COLUMNS * _MOST_ROWS:
        per_cell *= 2
    # A row holds whole patches and whole cells.
    least = math.lcm(per_cell, patch_size)
    return max(1, _MOST_COLUMNS * per_cell // least) * least // per_cell, per_cell


def _mean(values: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    """Mean of what is there; NaN where nothing is."""
    counts = (~np.isnan(values)).sum(axis=axis)
    sums = np.nansum(values, axis=axis)
    means: npt.NDArray[np.float64] = np.where(counts, sums / np.maximum(counts, 1), np.nan)
    return means


def _headline(name: str, score: Score) -> str:
    count = len(score.surprisal)
    if not count:
        return f"{name}: no bytes; its end needs {score.end_bits:,.1f} bits"
    return (
        f"{name}: {count:,} bytes need {score.bits:,.0f} bits ({score.end_bits:,.1f} of them for"
        f" the end), {score.bits_per_byte:.3f} a byte"
    )


def _offsets(axes: Axes, rows: int, row_bytes: int) -> None:
    """The rows' offsets as tick labels, about 16 of them."""
    step = 1
    while rows / step > 17:
        step *= 2
    places = np.arange(0, rows, step)
    digits = max(4, len(f"{rows * row_bytes:x}"))
    labels = [f"{place * row_bytes:0{digits}x}" for place in places]
    axes.set_yticks((places + 0.5) * row_bytes, labels, family="monospace", fontsize=8)


def _write_bytes(
    axes: Axes, cells: npt.NDArray[np.float64], data: bytes, limit: float, size: float
) -> None:
    """Each byte in its cell: a character where all of them are text, else two digits."""
    text = all(byte in _TEXT for byte in data)
    row_bytes = cells.shape[1]
    for offset, byte in enumerate(data):
        row, column = divmod(offset, row_bytes)
        axes.text(
            column + 0.5,
            (row + 0.53) * row_bytes,
            _TEXT[byte] if text else f"{byte:02x}",
            ha="center",
            va="center",
            family="monospace",
            fontsize=size,
            color="white" if cells[row, column] > 0.45 * limit else "0.25",
            parse_math=False,
        )


def _plain(text: str, longest: int) -> str:
    """A file name or a label as a picture can show it."""
    text = printable_name(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _save(figure: Figure, path: Path, *, force: bool) -> None:
    with warnings.catch_warnings(), atomic_write(path, force=force) as file:
        # A name in a script that the font lacks is shown as boxes, and that is all right.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, format="png", dpi=120)
