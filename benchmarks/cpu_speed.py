"""How fast the CPU runs, traces and generates on this machine, beside a C interpreter.

The peer is peers/switch_interpreter.c, compiled here with gcc -O3 -march=native. Both run the
same 20,000 programs on one thread and must write the same bytes; they take turns, so that
whatever else the machine does hits both. Times are medians of the thread's CPU time. Then the
published data set is generated as packed shards, on wall-clock time.
Writes benchmarks/results/cpu_speed.json.

python benchmarks/cpu_speed.py [--traces N]   traces of the set (default 2,100,000; 0: no set)
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import report

from cpusim.dataset import generate_set
from cpusim.isa import SLOTS, STATE_SIZE
from cpusim.machine import Bytes, RunBatch, run_batch
from cpusim.programs import Programs, generate
from cpusim.reference import DEFAULT_MAX_STEPS

PROGRAMS = 20_000
SEED = 1
# Programs generated before they run: their memories fit the caches.
CHUNK = 1_000
ROUNDS = 25


class SwitchInterpreter:
    """The peer, compiled into `folder`."""

    def __init__(self, folder: Path) -> None:
        library = folder / "switch_interpreter.so"
        source = Path(__file__).parent / "peers" / "switch_interpreter.c"
        options = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run(["gcc", *options, "-o", library, source], check=True)
        self._run_all = ctypes.CDLL(str(library)).run_all
        byte_array = np.ctypeslib.ndpointer(np.uint8, flags="C")
        number_array = np.ctypeslib.ndpointer(np.int64, flags="C")
        number = ctypes.c_int64
        self._run_all.argtypes = [
            byte_array, byte_array, number, number, byte_array, number_array, byte_array
        ]  # fmt: skip
        self._run_all.restype = None

    def run(self, programs: Programs, out: Bytes) -> RunBatch:
        """What `run_batch` does, into `out`."""
        count = len(programs.lengths)
        offsets, stops = np.empty(count + 1, np.int64), np.empty(count, np.uint8)
        self._run_all(
            programs.memories, programs.states, count, DEFAULT_MAX_STEPS, out, offsets, stops
        )
        return RunBatch(out[: offsets[-1]], offsets, stops)


def room(count: int) -> Bytes:
    """Memory for the records of `count` programs, already mapped."""
    return np.ones((count * (SLOTS + 1) + 16, STATE_SIZE), np.uint8)


def generate_and_run(out: Bytes) -> None:
    """Generate all programs and run them, some at a time."""
    for start in range(0, PROGRAMS, CHUNK):
        programs = generate(CHUNK, seed=SEED, start=start)
        run_batch(programs.memories, programs.states, out=out)


def medians(actions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds of each action; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(ROUNDS):
        for name, action in actions.items():
            began = time.thread_time()
            action()
            times[name].append(time.thread_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def single_thread() -> dict[str, Any]:
    """Run-and-trace, and generate-and-run, beside the peer."""
    programs = generate(PROGRAMS, seed=SEED)
    ours, theirs = room(PROGRAMS), room(PROGRAMS)
    with tempfile.TemporaryDirectory() as folder:
        peer = SwitchInterpreter(Path(folder))
        expected = peer.run(programs, theirs)
        found = run_batch(programs.memories, programs.states, out=ours)
        for name in ("records", "offsets", "stops"):
            if not np.array_equal(getattr(found, name), getattr(expected, name)):
                raise SystemExit(f"the {name} of kernel and C interpreter differ")
        generate_and_run(ours)
        seconds = medians(
            {
                "switch_interpreter": lambda: peer.run(programs, theirs),
                "run_and_trace": lambda: run_batch(programs.memories, programs.states, out=ours),
                "generate_and_run": lambda: generate_and_run(ours),
            }
        )
    states = len(expected.records)
    return {
        "programs": PROGRAMS,
        "states": states,
        "seconds": seconds,
        "states_per_second": {name: round(states / value) for name, value in seconds.items()},
        "ratio_to_switch_interpreter": round(
            seconds["switch_interpreter"] / seconds["run_and_trace"], 2
        ),
        "generate_and_run_to_run_and_trace": round(
            seconds["run_and_trace"] / seconds["generate_and_run"], 2
        ),
    }


def published_set(traces: int, workers: int = 2) -> dict[str, Any]:
    """The published data set in packed shards; written, checked for overlap, deleted."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        began = time.perf_counter()
        made = generate_set(
            Path(folder) / "set",
            count=traces,
            test_count=traces // 100,
            distribution="published",
            seed=SEED,
            workers=workers,
        )
        seconds = time.perf_counter() - began
    kilobytes = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        + workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    )
    return {
        "train": made.train,
        "test": made.test,
        "overlap": made.overlap,
        "workers": workers,
        "seconds": round(seconds, 1),
        "gigabytes": round(made.bytes / 1e9, 2),
        # The parent's peak, and the highest peak of a worker for each worker.
        "peak_memory_gb_at_most": round(kilobytes / 1e6, 2),
    }


def summary(one: dict[str, Any], made: dict[str, Any] | None) -> list[dict[str, str]]:
    """The rows of README's table."""
    rate = {name: f"{value / 1e6:.0f} M" for name, value in one["states_per_second"].items()}
    rows = [
        {
            "what": "run and trace, one thread",
            "figure": f"{rate['run_and_trace']} states/s",
            "peer": f"{one['ratio_to_switch_interpreter']} times a C switch interpreter"
            f" (gcc -O3 -march=native: {rate['switch_interpreter']})",
        },
        {
            "what": "generate, run and trace, one thread",
            "figure": f"{rate['generate_and_run']} states/s",
            "peer": f"{one['generate_and_run_to_run_and_trace']:.0%} of run and trace alone",
        },
    ]
    if made is not None:
        rows.append(
            {
                "what": f"{made['train']:,} + {made['test']:,} published traces to disk,"
                f" {made['workers']} workers",
                "figure": f"{made['seconds']:.0f} s, {made['gigabytes']} GB, peak memory"
                f" {made['peak_memory_gb_at_most']} GB",
                "peer": "the published script, measured elsewhere: 81 minutes",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--traces", type=int, default=2_100_000, help="traces of the set")
    traces = parser.parse_args().traces
    # The set first: what single_thread allocates would count as its memory.
    made = published_set(traces) if traces else None
    one = single_thread()
    rows = summary(one, made)
    path = report.write("cpu_speed", {"single_thread": one, "set": made, "summary": rows})
    for row in rows:
        print(f"{row['what']}: {row['figure']} ({row['peer']})")
    print(path)


if __name__ == "__main__":
    main()
