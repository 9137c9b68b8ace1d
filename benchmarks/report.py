"""What every benchmark result carries: the machine, the commit, the date; and how it is written."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Machine, commit and versions, as they stand beside every figure."""
    import numpy
    import torch

    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    flags = Path("/proc/cpuinfo").read_text()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "amx": "amx_tile" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def without_places(info: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's history without the folders that it names: where things lay helps nobody."""
    places = {"data": ("folder", "data"), "task": ("file",)}
    return {
        section: {key: value for key, value in values.items() if key not in places[section]}
        if section in places and isinstance(values, dict)
        else values
        for section, values in info.items()
    }


def said(*words: str, cwd: Path | None = None) -> dict[str, Any]:
    """What `cpusim WORDS --json -` prints. A difference that it finds (exit code 1) is a result."""
    program = str(Path(sys.executable).with_name("cpusim"))
    command = [program, *words, "--json", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, cwd=cwd)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    ).stdout.strip()


def beside_others(name: str, figures: dict[str, Any], beginnings: Sequence[str]) -> dict[str, Any]:
    """The figures, with the rows of beginnings that only a former result on these files has."""
    try:
        before = json.loads((RESULTS / f"{name}.json").read_text())
    except OSError:
        return figures
    measured = {row["start"]: row for row in figures["rows"]}
    if (before["set"], before["files"]) == (figures["set"], figures["files"]):
        measured = {row["start"]: row for row in before["rows"]} | measured
    return {**figures, "rows": [measured[start] for start in beginnings if start in measured]}


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write `figures` with the environment to `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **figures}, indent=2) + "\n")
    return path
