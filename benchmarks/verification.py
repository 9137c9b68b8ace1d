"""How long the verdict on 2,000 programs takes: by one parallel pass, beside cached rollout.

The verdict on a program is the step at which the model, running free, first leaves the CPU's
trace, or none. The parallel pass reads the traces and checks every step at once. A rollout
generates state by state, with a cache, and stops a program at its first mistake: behind it
there is nothing to learn for the verdict, and it would only cost more. It is timed twice:
program by program, and as `cpusim compare --rollout` does it, 64 programs side by side.

All give their verdicts on programs of the published distribution with the same model,
precision and threads, and the verdicts are compared. The parallel pass checks all programs, and is
timed three times (the median counts; the first time it also compiles). The rollouts would take
hours for all of them: each is timed once, on the first programs only, and set beside the parallel
pass's time for as many states of traces. Writes benchmarks/results/verification.json.

python benchmarks/verification.py
python benchmarks/verification.py --programs 20 --max-length 12 --out /tmp/try.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import report

from bytemodel import checkpoint
from bytemodel.cpu import ByteModelStepper, load_stepper, shipped_checkpoint
from cpusim import lockstep
from cpusim.programs import generate

SEED = 20_260_102
Verdicts = list[int | None]


def programs(count: int, longest: int) -> list[lockstep.Case]:
    """Traces of programs of the published distribution."""
    drawn = generate(count, distribution="published", seed=SEED, min_length=1, max_length=longest)
    starts = [
        lockstep.Case(f"program {i}", memory, state[None])
        for i, (memory, state) in enumerate(zip(drawn.memories, drawn.states, strict=True))
    ]
    return lockstep.record(lockstep.OracleStepper(), starts)


def first_wrong(said: lockstep.Tokens, case: lockstep.Case) -> int | None:
    """The first step that differs from the trace; `said`: int16 [steps so far, 16]."""
    wrong = np.flatnonzero((said != case.expected_steps()[: len(said)]).any(axis=1))
    return int(wrong[0]) + 1 if len(wrong) else None


def by_parallel_pass(
    stepper: ByteModelStepper, cases: Sequence[lockstep.Case]
) -> tuple[Verdicts, int]:
    """Each program's verdict, and how many states the model predicted for them."""
    verdicts: Verdicts = [None] * len(cases)
    states = 0
    for index, predictions in lockstep.verify(stepper, cases):
        states += len(predictions.tokens)
        verdicts[index] = first_wrong(predictions.tokens[: cases[index].steps], cases[index])
    return verdicts, states


def by_rollout(
    stepper: ByteModelStepper, cases: Sequence[lockstep.Case], known: Verdicts, together: int
) -> tuple[Verdicts, int]:
    """The same from running free, `together` programs given at a time, each no further than the
    step that is `known` to be wrong; were it right there, that would show as another verdict."""
    starts = [lockstep.Case(case.name, case.memory, case.records[:1]) for case in cases]
    limits = [step or case.steps for step, case in zip(known, cases, strict=True)]
    verdicts: Verdicts = [None] * len(cases)
    states = done = told = 0
    began = time.perf_counter()
    for first in range(0, len(cases), together):
        lot = slice(first, first + together)
        for index, rollout in lockstep.run_free(stepper, starts[lot], limits[lot]):
            states += len(rollout.tokens)
            done += 1
            verdicts[first + index] = first_wrong(rollout.tokens, cases[first + index])
            if done >= told + 50:
                told, rate = done, states / (time.perf_counter() - began)
                print(f"  {done:,} programs, {states:,} states, {rate:,.1f}/s", flush=True)
    return verdicts, states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--max-length", type=int, default=255)
    parser.add_argument("--side-by-side", type=int, default=128, help="programs rolled out so")
    parser.add_argument("--one-by-one", type=int, default=16, help="programs rolled out so")
    parser.add_argument("--model", type=Path, help="default: the shipped checkpoint")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, help="write here instead of benchmarks/results")
    given = parser.parse_args()
    path = given.model or shipped_checkpoint()
    stepper = load_stepper(path, given.dtype)
    cases = programs(given.programs, given.max_length)

    by_parallel_pass(stepper, cases[:8])  # warm up
    times = []
    for _ in range(3):
        began = time.perf_counter()
        verified, verified_states = by_parallel_pass(stepper, cases)
        times.append(time.perf_counter() - began)
    parallel = statistics.median(times)
    print(f"parallel pass: {verified_states:,} states in {parallel:,.1f} s", flush=True)

    by_rollout(stepper, cases[:2], verified[:2], 1)  # warm up
    rollouts: dict[str, dict[str, Any]] = {}
    for name, count in (("side_by_side", given.side_by_side), ("one_by_one", given.one_by_one)):
        print(f"rollout {name}", flush=True)
        some, known = cases[:count], verified[:count]
        began = time.perf_counter()
        rolled, states = by_rollout(stepper, some, known, count if name == "side_by_side" else 1)
        seconds = time.perf_counter() - began
        share = sum(len(case.records) for case in some) / verified_states
        rollouts[name] = {
            "programs": len(some),
            "states": states,
            "seconds": round(seconds, 2),
            "states_per_second": round(states / seconds, 1),
            "same_verdicts": sum(a == b for a, b in zip(known, rolled, strict=True)),
            "parallel_seconds_by_share_of_states": round(share * parallel, 3),
            "ratio": round(seconds / (share * parallel), 1),
        }
        print(rollouts[name], flush=True)

    figures: dict[str, Any] = {
        "checkpoint": {"file": path.name, "sha256": checkpoint.file_hash(path)},
        "programs": given.programs,
        "lengths": [1, given.max_length],
        "distribution": "published",
        "seed": SEED,
        "dtype": given.dtype,
        "threads": torch.get_num_threads(),
        "exact_programs": sum(verdict is None for verdict in verified),
        "parallel": {
            "states": verified_states,
            "seconds": [round(seconds, 2) for seconds in times],
            "states_per_second": round(verified_states / parallel, 1),
        },
        "rollout": rollouts,
    }
    if given.out:
        given.out.write_text(json.dumps({"environment": report.environment(), **figures}) + "\n")
    else:
        print(report.write("verification", figures))


if __name__ == "__main__":
    main()
