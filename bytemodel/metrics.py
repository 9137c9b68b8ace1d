"""A run's figures, `metrics.jsonl`: read back, and drawn as `training.png`."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpusim.files import atomic_write, printable_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 9
"""How many groups of a family get a colour and a name of their own."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`; a line that is none, as a last one cut short, is left out."""
    records = []
    path = run / "metrics.jsonl"
    with contextlib.suppress(FileNotFoundError), open(path, errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and type(record.get("step")) is int:
                    records.append(record)
    return records


def _families(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Names of groups by their first word, which says what they have in common."""
    families: dict[str, list[str]] = {}
    for name in sorted({name for record in records for name in record.get("groups", {})}):
        families.setdefault(name.split()[0], []).append(name)
    return families


def _plot_family(axes: Axes, family: str, names: list[str], records: list[dict[str, Any]]) -> None:
    """What is wrong in each group, those named that were worst over the last half."""
    steps = [record["step"] for record in records]
    wrong = {
        name: [1 - record["groups"].get(name, math.nan) for record in records] for name in names
    }
    late = {
        name: sum(share for share in shares[len(shares) // 2 :] if share == share)
        for name, shares in wrong.items()
    }
    worst = sorted(names, key=lambda name: -late[name])[:_NAMED]
    for name in names:
        if name not in worst:
            axes.plot(steps, wrong[name], color="0.8", linewidth=0.7)
    for place, name in enumerate(worst):
        label = name.removeprefix(family).strip() or name
        axes.plot(
            steps,
            wrong[name],
            color=f"C{place}",
            marker="o",
            markersize=3,
            linewidth=1,
            label=printable_name(label),
        )
    shares = [share for every in wrong.values() for share in every if share > 0]
    axes.set(ylabel=f"share wrong, by {family}", ylim=(min([*shares, 0.01]) / 1.5, 1.6))
    if shares:  # a scale without a single value is warned of
        axes.set_yscale("log", nonpositive="clip")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    for text in axes.legend(loc="lower left", fontsize=8).get_texts():
        text.set_parse_math(False)


def plot(run: Path) -> None:
    """Draw loss and accuracy over time as `training.png` in the run folder."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    records = read_metrics(run)
    families = _families(records)
    count = 2 + len(families)
    figure = Figure(figsize=(8, 3.5 * count), layout="constrained")
    upper, lower, *others = figure.subplots(count, 1, sharex=True)
    wrong: list[float] = []
    for kind, style in (
        ("train", {"alpha": 0.35, "linewidth": 0.7}),
        ("evaluation", {"marker": "o", "markersize": 3.5, "linewidth": 1.4}),
    ):
        chosen = [record for record in records if record["kind"] == kind]
        if not chosen:
            continue
        steps = [record["step"] for record in chosen]
        upper.plot(steps, [r["bits_per_byte"] for r in chosen], color="C0", label=kind, **style)
        for name, title, color in (
            ("exact_patches", "whole patches", "C3"),
            ("byte_accuracy", "bytes", "C0"),
        ):
            if name not in chosen[0]:
                continue
            shares = [1 - record[name] for record in chosen]
            wrong += shares
            lower.plot(steps, shares, color=color, label=f"{title}, {kind}", **style)
    lower.axhline(1.0, color="0.7", linewidth=0.8)
    # Where nothing was wrong the curve leaves the plot: a logarithm has no zero.
    least = min([share for share in wrong if share > 0], default=0.1)
    lower.set_yscale("log", nonpositive="clip")
    [lower, *others][-1].set_xlabel("step")
    lower.set(ylabel="share wrong", ylim=(min(0.1, least) / 1.5, 1.6))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    # A folder's name is no formula, and may be bytes that are no text.
    upper.set_title(printable_name(run.name), parse_math=False)
    upper.set(ylabel="bits per byte", yscale="log")
    if upper.has_data():
        least, most = upper.dataLim.minposy, upper.dataLim.y1
        # A whole decade at least, so that the axis has round numbers on it.
        upper.set_ylim(min(least, most / 10) / 1.3, most * 1.3)
        upper.legend(loc="lower left")
        lower.legend(loc="lower left")
    upper.yaxis.set_major_formatter(FuncFormatter(lambda bits, _: f"{bits:g}"))
    for axes, (family, names) in zip(others, families.items(), strict=True):
        _plot_family(axes, family, names, [record for record in records if "groups" in record])
    for axes in (upper, lower, *others):
        axes.grid(which="major", alpha=0.4)
        axes.grid(which="minor", alpha=0.12)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    with atomic_write(run / "training.png", force=True) as file:
        figure.savefig(file, format="png", dpi=120)
