"""The shipped checkpoint against the emulator, on programs that training could not have drawn.

Writes benchmarks/results/accuracy.json. Training draws from seeds above 2**32, these programs
come from seeds below; the seed here is for reporting alone, nothing was tuned on it.

python benchmarks/accuracy.py
python benchmarks/accuracy.py --at-most 1000
python benchmarks/accuracy.py --missing     only what was not measured of this checkpoint yet
python benchmarks/accuracy.py --dtype float32     what this machine is fast in; keeps the rest

Programs begin with random registers, as the published ones do, or with zeros, as assembly does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import report

from cpusim.isa import REGISTERS

SEED = 20_260_101
ZEROS = ("--acc", "0", "--set", ",".join(f"{name}=0" for name in REGISTERS))
SETS = (
    # distribution, programs, shortest, longest, precision, first state
    ("published", 21_000, 1, 255, "bfloat16", "random"),
    ("uniform", 2_000, 1, 255, "bfloat16", "random"),
    ("published", 500, 256, 256, "bfloat16", "random"),
    ("uniform", 500, 256, 256, "bfloat16", "random"),
    ("published", 2_000, 1, 255, "float32", "random"),
    ("uniform", 2_000, 1, 255, "float32", "random"),
    ("published", 500, 256, 256, "float32", "random"),
    ("uniform", 500, 256, 256, "float32", "random"),
    *(
        (distribution, 2_000, 1, longest, dtype, "zeros")
        for dtype in ("bfloat16", "float32")
        for distribution in ("published", "uniform")
        for longest in (16, 255)
    ),
)


def compare(
    distribution: str,
    programs: int,
    shortest: int,
    longest: int,
    dtype: str,
    first_state: str = "random",
    model: Path | None = None,
) -> dict[str, Any]:
    """One comparison, by the command that a user would type. `model`: None is the shipped one."""
    words = [
        "compare",
        *(() if model is None else ("--model", str(model))),
        *("--programs", str(programs), "--seed", str(SEED), "--distribution", distribution),
        *("--min-length", str(shortest), "--max-length", str(longest)),
        *("--dtype", dtype),
        *(ZEROS if first_state == "zeros" else ()),
    ]
    began = time.monotonic()
    figures = report.said(*words)
    # The first difference of each program is for people who debug, and where the model lies
    # is this machine's business.
    for key in ("first_difference", "model", "candidate"):
        figures.pop(key, None)
    return {
        **{k: v for k, v in figures.items() if not isinstance(v, list)},
        "lengths": [shortest, longest],
        "dtype": dtype,
        "first_state": first_state,
        "seconds": round(time.monotonic() - began, 1),
        "environment": report.environment(),
        "command": " ".join(["cpusim", *words[1:]]),
    }


def known(sha256: str) -> list[dict[str, Any]]:
    """What was measured of this checkpoint before."""
    path = report.RESULTS / "accuracy.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("checkpoint", {}).get("sha256") != sha256 or before["seed"] != SEED:
        return []
    rows: list[dict[str, Any]] = before["results"]
    return rows


def main() -> None:
    from bytemodel import checkpoint
    from bytemodel.cpu import shipped_checkpoint

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--at-most", type=int, help="programs of each set, to be done sooner")
    parser.add_argument("--missing", action="store_true", help="keep what was measured before")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="keep the other's rows")
    options = parser.parse_args()
    shipped = shipped_checkpoint()
    sha256 = checkpoint.file_hash(shipped)
    before = {
        (row["distribution"], *row["lengths"], row["dtype"], row.get("first_state", "random")): row
        for row in (known(sha256) if options.missing or options.dtype else [])
    }
    results = []
    for distribution, count, shortest, longest, dtype, first_state in SETS:
        programs = min(count, options.at_most or count)
        result = before.get((distribution, shortest, longest, dtype, first_state))
        if options.dtype not in (None, dtype):
            if result is None:
                continue
        elif result is None or not options.missing or result["programs"] < programs:
            result = compare(distribution, programs, shortest, longest, dtype, first_state)
        results.append(result)
        print(
            f"{distribution:9} {shortest}..{longest:<4} {dtype:8} {first_state:6}"
            f" exact programs {result['exact_programs']}/{result['programs']}"
            f"  instructions {result['instruction_accuracy']:.4%}"
            f"  bytes {result['byte_accuracy']:.4%}",
            flush=True,
        )
    loaded = checkpoint.load(shipped)
    path = report.write(
        "accuracy",
        {
            "checkpoint": {
                "file": shipped.name,
                "sha256": sha256,
                "bytes": shipped.stat().st_size,
                "parameters": loaded.model.parameter_count,
                "trained": loaded.info,
            },
            "seed": SEED,
            "decoding": "greedy, free-running and resynchronised by one parallel pass",
            "results": results,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
