"""The shipped checkpoint on every case that a CPU can get wrong.

Runs `cpusim conformance` and writes benchmarks/results/conformance.json, and the picture of where
it is wrong to docs/conformance.png. Takes half an hour and more on two cores.

python benchmarks/conformance.py
python benchmarks/conformance.py --sample 20 --out /tmp/try
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import report

from bytemodel import checkpoint
from bytemodel.cpu import shipped_checkpoint
from cli.heatmaps import OVERVIEW

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, help="programs; default: the whole sweep")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, help="a folder to write to instead")
    given = parser.parse_args()
    options = ["--dtype", given.dtype, *(["--sample", str(given.sample)] if given.sample else [])]
    with tempfile.TemporaryDirectory() as folder:
        # Named from the root, so that the picture does not say where this checkout lies.
        model = str(shipped_checkpoint().relative_to(ROOT))
        words = ["conformance", "--model", model, *options, "--plots", folder]
        figures = report.said(*words, cwd=ROOT)
        picture = (given.out or DOCS) / "conformance.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / OVERVIEW, picture)
    # For people who debug, not for a table.
    for key in ("model", "candidate", "wrong_cases", "wrong_cases_listed_per_form"):
        figures.pop(key)
    shipped = shipped_checkpoint()
    result = {
        "checkpoint": {"file": shipped.name, "sha256": checkpoint.file_hash(shipped)},
        "command": " ".join(["cpusim", "conformance", *options]),
        "dtype": given.dtype,
        **figures,
    }
    if given.out:
        (given.out / "conformance.json").write_text(json.dumps(result, indent=2) + "\n")
    else:
        print(report.write("conformance", result))
    print(f"{result['wrong']:,} of {result['cases']:,} cases wrong")


if __name__ == "__main__":
    main()
