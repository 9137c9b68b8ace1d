"""Pictures: they are drawn for any input, and show what they should."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bytemodel import pictures
from bytemodel.pictures import draw_bits, draw_confusion, plot_positions
from bytemodel.score import Predictions, Score, mean_by_position
from cpusim.errors import UserError


def score_of(bits: np.ndarray) -> Score:
    rows = bits.astype(np.float32)
    return Score(Predictions(rows, np.zeros(len(rows), np.int16), rows), 1.0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, newest last; quick, since nothing is rendered."""
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "_save", lambda figure, *_, **__: figures.append(figure))
    return figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    "length", [0, 1, 15, 16, 17, 300, 2047, 5000, 128 * 96, 128 * 96 + 1, 1_000_000]
)
@pytest.mark.parametrize("patch_size", [4, 16, 7])
def test_the_map_has_every_byte_where_it_stands(
    length: int, patch_size: int, drawn: list[Figure]
) -> None:
    bits = np.random.default_rng(length).random(length) * 12
    draw_bits(Path("x"), score_of(bits), bytes(length), name="x", patch_size=patch_size)
    axes = drawn[-1].axes
    (image,) = axes[0].images
    cells = image.get_array().filled(np.nan)
    left, row_bytes, bottom, top = image.get_extent()
    assert (left, top) == (0, 0)
    assert row_bytes % patch_size == 0
    per_cell, rest = divmod(int(row_bytes), cells.shape[1])
    assert rest == 0
    assert bottom == row_bytes * len(cells)
    flat = np.full(cells.size * per_cell, np.nan)
    flat[:length] = bits
    whole = length // per_cell
    expected = flat.reshape(-1, per_cell).mean(1)[:whole]
    np.testing.assert_allclose(cells.ravel()[:whole], expected, atol=1e-5)
    assert np.isnan(cells.ravel()[-(-length // per_cell) :]).all()
    assert len(cells) <= 100
    assert cells.shape[1] <= 128 + 16
    widths = [bar.get_width() for bar in axes[1].patches]
    assert sum(widths) * 8 == pytest.approx(bits.sum(), rel=1e-5)


def test_a_small_text_is_written_into_its_map_and_other_bytes_as_digits(
    drawn: list[Figure],
) -> None:
    for data, written in (
        (b"Hi $x\n", ["H", "i", " ", "$", "x", "\u21b5"]),
        (b"Hi\xff", ["48", "69", "ff"]),
    ):
        draw_bits(Path("x"), score_of(np.ones(len(data))), data, name="x", patch_size=16)
        assert texts(drawn[-1]) == written
    draw_bits(Path("x"), score_of(np.ones(9000)), bytes(9000), name="x", patch_size=16)
    assert texts(drawn[-1]) == []


def test_the_plot_shows_means_over_the_files_that_are_long_enough(drawn: list[Figure]) -> None:
    files = [np.array(values, np.float32) for values in ([1, 2, 3], [3], [5, 4])]
    mean, count = mean_by_position(files)
    assert mean.tolist() == [3, 3, 3]
    assert count.tolist() == [3, 2, 1]
    plot_positions(Path("x"), files, first=6, patch_size=4)
    axes = drawn[-1].axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[6, 3], [7, 3], [8, 3]]
    values, edges, _ = axes.patches[0].get_data()
    assert values.tolist() == [3, 3]
    assert list(edges) == [6, 8, 9]
    assert axes.get_title() == "3 files, 1 of them as long as the plot"
    plot_positions(Path("x"), [np.zeros(0, np.float32)], first=0, patch_size=4)
    assert drawn[-1].axes[0].get_title() == "1 file"


def test_the_confusion_matrix_has_its_counts_and_labels(drawn: list[Figure]) -> None:
    counts = np.array([[3, 1], [0, 2]])
    draw_confusion(Path("x"), counts, ["$a$", "b" * 40], title="t")
    assert texts(drawn[-1]) == ["3", "1", "2"]
    labels = [label.get_text() for label in drawn[-1].axes[0].get_yticklabels()]
    assert labels == ["$a$", "b" * 23 + "…"]


def test_names_that_no_font_and_no_formula_knows_are_drawn_all_the_same(tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    name = "$\\frac$_\udcff_\u4e2d"
    draw_bits(out, score_of(np.ones(5)), b"hello", name=name, patch_size=16)
    draw_confusion(out, np.ones((2, 2), np.int64), [name, "b"], title="t", force=True)
    assert Image.open(io.BytesIO(out.read_bytes())).format == "PNG"
    with pytest.raises(UserError, match="already exists"):
        draw_confusion(out, np.ones((1, 1), np.int64), ["a"], title="t")
