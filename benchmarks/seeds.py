"""What training gives with one seed and with another: the figures of a finished run.

python benchmarks/seeds.py runs/cpu

Takes the run of `bgpt train cpu`: how long it took, when 99.99 % of the bytes of its evaluation
programs were right for the first time, what its model does on programs that training could not
have drawn, and the whole conformance sweep, in bfloat16. Adds it to
benchmarks/results/seeds.json, in the place of an earlier run of its seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import report
from accuracy import SEED, compare

from bytemodel import checkpoint
from bytemodel.metrics import read_metrics

DTYPE = "bfloat16"
SETS = (("published", 2_000), ("uniform", 2_000))
GOAL = 0.9999
"""Of the bytes of the evaluation programs."""


def conformance(model: Path) -> dict[str, Any]:
    """The whole sweep, by the command that a user would type; that of the shipped checkpoint as
    benchmarks/conformance.py measured it."""
    found = json.loads((report.RESULTS / "conformance.json").read_text())
    measured = found["checkpoint"]["sha256"] == checkpoint.file_hash(model)
    if not measured or found["dtype"] != DTYPE or not found["complete"]:
        found = report.said("conformance", "--model", str(model), "--dtype", DTYPE)
    worst = min(found["by_form"], key=lambda form: found["by_form"][form]["accuracy"])
    return {
        **{name: found[name] for name in ("cases", "wrong", "accuracy")},
        "worst_form": {"form": worst, "accuracy": found["by_form"][worst]["accuracy"]},
    }


def figures(run: Path) -> dict[str, Any]:
    model = run / "model.pt"
    trained = checkpoint.load(model).info
    kept = ("step", "seconds", "bits_per_byte", "byte_accuracy", "exact_patches")
    evaluations = [
        {name: record[name] for name in kept}
        for record in read_metrics(run)
        if record["kind"] == "evaluation"
    ]
    reached = [r for r in evaluations if r["byte_accuracy"] >= GOAL]
    return {
        "seed": trained["training"]["seed"],
        "minutes": trained["training"]["minutes"],
        "seconds": evaluations[-1]["seconds"],
        "updates": trained["step"],
        "goal": GOAL,
        "goal_reached_after_seconds": reached[0]["seconds"] if reached else None,
        "sha256": checkpoint.file_hash(model),
        "dtype": DTYPE,
        "test_seed": SEED,
        "programs": [
            compare(distribution, count, 1, 255, DTYPE, model=model) for distribution, count in SETS
        ],
        "conformance": conformance(model),
        "evaluations": evaluations,
        "environment": report.environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run of bgpt train cpu that has ended")
    row = figures(parser.parse_args().run)
    for found in row["programs"]:
        found.pop("command")  # it says where the run lies, which is this machine's business
    path = report.RESULTS / "seeds.json"
    rows = json.loads(path.read_text())["runs"] if path.exists() else []
    rows = [other for other in rows if other["seed"] != row["seed"]]
    print(report.write("seeds", {"runs": sorted([*rows, row], key=lambda other: other["seed"])}))


if __name__ == "__main__":
    main()
