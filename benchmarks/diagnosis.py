"""A byte model as diagnostician: false alarms on clean traces, detection and blame by fault.

Programs are drawn from seeds below 2**32, which training never uses (its own are above).
Clean traces are those of the healthy CPU. For each kind of fault, a fault and a program are
drawn until the fault shows: a trace that equals the clean one is no faulty trace, and is
counted apart. ACC and the registers A to J are hit, and, in rows of their own, PC and IR.
Swapped opcodes are all ordered pairs of the 20 instructions that do not halt.

A faulty trace is *detected* if any byte is above the threshold, *located* if the first
impossible record is the first that differs from the clean run, *blamed* if the main suspect
is the right instruction (the right register and bit for stuck bits and flips; for those in PC
and IR, the fetch will do), *named* if it is the very fault, and *reproduced* if a machine with
the fault it names writes the very same trace (which several faults may).

Writes benchmarks/results/diagnosis.json, with the same figures at other thresholds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import report

from bytemodel import checkpoint
from bytemodel.cpu import load_stepper, shipped_checkpoint
from bytemodel.diagnose import FETCH, THRESHOLD, Diagnosis, diagnose
from cpusim.faults import (
    KINDS,
    BitFlip,
    Fault,
    StuckBit,
    SwappedOpcode,
    every_fault,
    inject,
    run_faulty,
)
from cpusim.isa import ACC, FIRST_REGISTER, ISA, STATE_SIZE
from cpusim.lockstep import Case, OracleStepper, Verifier, record
from cpusim.programs import generate
from cpusim.reference import Run, Stop

SEED = 20_260_215
MAX_STEPS = 300
"""More than any program needs; what a spoilt PC repeats beyond teaches nothing."""
THRESHOLDS = (6, 8, 10, 12, 14, 16, 18, 20, 24)
_BATCH = 200
_REGISTERS = {ACC, *range(FIRST_REGISTER, STATE_SIZE)}
_STUCK, _FLIP, *_ = KINDS
ROWS = (*KINDS, f"{_STUCK} in PC or IR", f"{_FLIP} in PC or IR")


@dataclass(frozen=True)
class Faulty:
    """A faulty trace and the truth about it."""

    fault: Fault
    case: Case
    first_visible: int


def candidates(row: str, length: int) -> list[Fault]:
    """The faults that a row of the table draws from, for a program of `length` instructions."""
    kind, _, fetch = row.partition(" in ")
    faults = every_fault(kind, steps=range(1, length + 1))
    halting = {i.name for i in ISA.instructions if i.halts}
    return [
        f
        for f in faults
        if not (isinstance(f, StuckBit | BitFlip) and (f.field in _REGISTERS) == bool(fetch))
        and not (isinstance(f, SwappedOpcode) and {f.name, f.executes} & halting)
    ]


def programs(seed: int, count: int, options: argparse.Namespace) -> Iterator[Case]:
    """Random programs about to start."""
    drawn = generate(
        count,
        distribution=options.distribution,
        seed=seed,
        min_length=options.min_length,
        max_length=options.max_length,
    )
    for number, (memory, state) in enumerate(zip(drawn.memories, drawn.states, strict=True)):
        yield Case(f"program {number}", memory, state[None])


def faulty_traces(
    row: str, count: int, seed: int, options: argparse.Namespace
) -> tuple[list[Faulty], int]:
    """`count` traces in which a fault shows, and in how many programs the one drawn did not."""
    rng = np.random.default_rng(seed)
    found: list[Faulty] = []
    invisible = 0
    for program in programs(seed, 100 * count, options):
        if len(found) == count:
            break
        length = len(record(OracleStepper(), [program])[0].records) - 1
        choices = candidates(row, length)
        fault = choices[rng.integers(len(choices))]
        memory, state = program.memory.tobytes(), program.records[0].tobytes()
        injection = inject(memory, state, [fault], max_steps=MAX_STEPS)
        if injection.first_visible is None:
            invisible += 1
            continue
        # A machine that was only stopped by the limit has no end that could be judged.
        ends = injection.faulty.stop is not Stop.STEP_LIMIT
        case = Case(program.name, program.memory, records_of(injection.faulty), ends)
        found.append(Faulty(fault, case, injection.first_visible))
    return found, invisible


def records_of(run: Run) -> np.ndarray:
    """The records of a run: uint8 [n + 1, 16]."""
    return np.frombuffer(b"".join(run.records), np.uint8).reshape(-1, STATE_SIZE)


def in_batches(model: Verifier, cases: Sequence[Case], threshold: float) -> Iterator[Diagnosis]:
    """Diagnoses in order, with a line now and then on how it goes."""
    began = time.monotonic()
    for first in range(0, len(cases), _BATCH):
        some = cases[first : first + _BATCH]
        yield from (d for _, d in sorted(diagnose(model, some, threshold=threshold)))
        done = first + len(some)
        print(
            f"\r  {done:,} of {len(cases):,} traces, {time.monotonic() - began:.0f} s ",
            end="\n" if done == len(cases) else "",
            file=sys.stderr,
            flush=True,
        )


def blamed(fault: Fault, diagnosis: Diagnosis) -> bool:
    """Whether the main suspect is the right instruction, or the right register and bit."""
    if not diagnosis.suspects:
        return False
    suspect = diagnosis.suspects[0]
    if isinstance(fault, StuckBit | BitFlip):
        named = suspect.fault
        if fault.field not in _REGISTERS and suspect.blames == FETCH:
            return True
        return isinstance(named, StuckBit | BitFlip) and (named.field, named.bit) == (
            fault.field,
            fault.bit,
        )
    return suspect.instruction == fault.name


def reproduced(trace: Faulty, diagnosis: Diagnosis) -> bool:
    """Whether a machine with the fault that is named writes the very trace."""
    named = diagnosis.suspects[0].fault if diagnosis.suspects else None
    if named is None:
        return False
    case = trace.case
    run = run_faulty(case.memory.tobytes(), case.records[0].tobytes(), [named], max_steps=MAX_STEPS)
    return np.array_equal(records_of(run), case.records)


def most_bits(diagnosis: Diagnosis) -> float:
    """Bits of the most surprising byte of a trace."""
    return diagnosis.largest[2]


def above(bits: Iterable[float]) -> dict[str, int]:
    """How many are above each of the thresholds."""
    values = np.array(list(bits))
    return {str(limit): int((values > limit).sum()) for limit in THRESHOLDS}


def clean_figures(
    model: Verifier, seed: int, count: int, options: argparse.Namespace
) -> dict[str, Any]:
    """False alarms among `count` clean traces."""
    cases = record(OracleStepper(), list(programs(seed, count, options)))
    diagnoses = list(in_batches(model, cases, options.threshold))
    alarms = [d for d in diagnoses if d.faulty]
    bits = [most_bits(d) for d in diagnoses]
    return {
        "traces": count,
        "seed": seed,
        "records": sum(len(d.bits) for d in diagnoses),
        "false_alarms": len(alarms),
        "false_alarms_per_1000": round(1000 * len(alarms) / count, 3),
        "most_bits": {f"{q:g} %": round(float(np.percentile(bits, q)), 3) for q in (50, 99, 100)},
        "above_threshold": above(bits),
        "alarms": [
            {
                "program": d.case.name,
                "record": d.impossible[0].step,
                "bits": round(most_bits(d), 2),
                "blamed": d.suspects[0].in_words,
            }
            for d in alarms[:50]
        ],
    }


def faulty_figures(
    model: Verifier, row: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Detection and blame of one kind of fault."""
    traces, invisible = faulty_traces(row, options.faulty, seed, options)
    diagnoses = list(in_batches(model, [t.case for t in traces], options.threshold))
    pairs = list(zip(traces, diagnoses, strict=True))
    counts = {
        "detected": sum(d.faulty for d in diagnoses),
        "located": sum(d.faulty and d.impossible[0].step == t.first_visible for t, d in pairs),
        "blamed": sum(blamed(t.fault, d) for t, d in pairs),
        "named": sum(bool(d.suspects) and d.suspects[0].fault == t.fault for t, d in pairs),
        "reproduced": sum(reproduced(t, d) for t, d in pairs),
    }
    return {
        "kind": row,
        "traces": len(traces),
        "seed": seed,
        "never_showed": invisible,
        **counts,
        "detection_rate": counts["detected"] / len(traces),
        "blame_accuracy": counts["blamed"] / len(traces),
        "above_threshold": above(map(most_bits, diagnoses)),
        "not_blamed": [
            {
                "fault": str(t.fault),
                "program": t.case.name,
                "record": t.first_visible,
                "said": d.suspects[0].in_words if d.suspects else "healthy",
            }
            for t, d in pairs
            if not blamed(t.fault, d)
        ][:50],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="checkpoint; default: the shipped one")
    parser.add_argument("--clean", type=int, default=1000, help="clean traces")
    parser.add_argument("--kinds", nargs="+", choices=ROWS, default=ROWS, help="which of them")
    parser.add_argument("--faulty", type=int, default=200, help="faulty traces of each kind")
    parser.add_argument("--distribution", default="published")
    parser.add_argument("--min-length", type=int, default=1, help="instructions, HLT included")
    parser.add_argument("--max-length", type=int, default=255)
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="bits")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--name", default="diagnosis", help="results/NAME.json is written")
    options = parser.parse_args()
    path = options.model or shipped_checkpoint()
    loaded = checkpoint.load(path)
    path = loaded.path  # of the file, if a run's folder was named
    model = load_stepper(path, options.dtype)

    began = time.monotonic()
    print(f"{options.clean:,} clean traces", flush=True)
    clean = clean_figures(model, SEED, options.clean, options)
    print(
        f"  false alarms: {clean['false_alarms']}, most bits of a byte: {clean['most_bits']}",
        flush=True,
    )
    kinds = []
    for number, row in enumerate(ROWS, start=1):
        if row not in options.kinds:
            continue
        print(row, flush=True)
        figures = faulty_figures(model, row, SEED + number, options)
        kinds.append(figures)
        print(
            "  "
            + ", ".join(
                f"{what} {figures[what]}"
                for what in ("traces", "detected", "located", "blamed", "named", "reproduced")
            ),
            flush=True,
        )
    written = report.write(
        options.name,
        {
            "checkpoint": {
                "file": path.name,
                "sha256": checkpoint.file_hash(path),
                "parameters": loaded.model.parameter_count,
            },
            "distribution": options.distribution,
            "lengths": [options.min_length, options.max_length],
            "dtype": str(model.dtype).removeprefix("torch."),
            "threshold_bits": options.threshold,
            "clean": clean,
            "kinds": kinds,
            "seconds": round(time.monotonic() - began, 1),
        },
    )
    print(written)


if __name__ == "__main__":
    main()
