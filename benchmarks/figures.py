"""Put the figures of benchmarks/results/*.json into README.md, between its two markers.

python benchmarks/figures.py          writes README.md
python benchmarks/figures.py --check  exits with 1 if README.md says something else
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- figures: written by benchmarks/figures.py from benchmarks/results/*.json -->\n"
END = "<!-- end of figures -->"


def percent(share: float) -> str:
    """A share as a percentage that is never rounded up to 100."""
    return f"{int(share * 1e6) / 1e4:.4f} %".replace("100.0000", "100")


def where(result: dict[str, Any]) -> str:
    """Machine and commit of a result, for the line below its table."""
    machine = result["environment"]
    kind = "with AMX" if machine["amx"] else "without AMX"
    return f"{machine['cpu']}, {machine['cores']} cores, {kind}, commit {machine['commit']}"


def accuracy(result: dict[str, Any]) -> str:
    """The table of the shipped checkpoint."""
    checkpoint = result["checkpoint"]
    trained = checkpoint["trained"]
    lines = [
        f"{checkpoint['parameters'] / 1e6:.1f} M parameters, {checkpoint['bytes'] / 1e6:.1f} MB,"
        f" trained from scratch for {trained['seconds'] / 60:.0f} minutes"
        f" ({trained['step']:,} updates) on two CPU cores, seed {trained['training']['seed']}"
        " ([how](docs/experiments.md)).",
        "Programs of these tests could not have been drawn in training"
        f" (seed {result['seed']}, from another range); greedy decoding.",
        "",
        "| programs | lengths | precision | exact programs | instructions right | bytes right |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["results"]:
        shortest, longest = row["lengths"]
        cells = (
            f"{row['programs']:,} {row['distribution']}",
            f"{shortest} to {longest}",
            row["dtype"],
            f"{row['exact_programs']:,}",
            percent(row["instruction_accuracy"]),
            percent(row["byte_accuracy"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Exact programs: free-running, from the first byte to the end. Instructions and bytes:"
        " resynchronised at each step.",
        f"Measured on {where(result)}.",
    ]
    return "\n".join(lines)


def speed(cpu: dict[str, Any], model: dict[str, Any]) -> str:
    """The two tables of speed."""
    lines = ["| speed | figure | beside |", "|---|---|---|"]
    for row in cpu["summary"]:
        lines.append(f"| {row['what']} | {row['figure']} | {row['peer']} |")
    best = max(model["training_small"], key=lambda row: row["states_per_second"])
    checked = model["verification_small"]
    rate = model["matmul_tflops"][best["dtype"]]
    lines += [
        f"| train `small`, {best['dtype']} | {best['states_per_second']:,} states/s, peak"
        f" {best['peak_memory_gb']} GB | {best['share_of_matmul_rate']:.0%} of the machine's matrix"
        f" product rate ({rate} TFLOP/s) |",
        "| verify a model by the parallel pass |"
        f" {checked['parallel_states_per_second']:,} states/s |"
        f" {checked['ratio']} times the cached rollout |",
        "",
        f"CPU: measured on {where(cpu)}. Model: on {where(model)}.",
    ]
    return "\n".join(lines)


def diagnosis(result: dict[str, Any]) -> str:
    """The table of faults found and blamed."""
    clean, (shortest, longest) = result["clean"], result["lengths"]
    lines = [
        f"`cpusim diagnose` with {result['checkpoint']['file']} ({result['dtype']}), a byte above"
        f" {result['threshold_bits']:g} bits being impossible: {clean['false_alarms']:,} false"
        f" alarms in {clean['traces']:,} clean traces ({result['distribution']} programs of"
        f" {shortest} to {longest} instructions).",
        "",
        "| fault | faulty traces | detected | blamed | the fault it names gives the very trace |",
        "|---|---|---|---|---|",
    ]
    for row in result["kinds"]:
        shares = [
            percent(row[what] / row["traces"]) for what in ("detected", "blamed", "reproduced")
        ]
        lines.append(f"| {row['kind']} | {row['traces']:,} | {' | '.join(shares)} |")
    lines += ["", f"Measured on {where(result)}."]
    return "\n".join(lines)


def block() -> str:
    """Everything that stands between the markers."""
    names = ("accuracy", "cpu_speed", "model_speed")
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in names}
    parts = [
        accuracy(results["accuracy"]),
        speed(results["cpu_speed"], results["model_speed"]),
    ]
    if (RESULTS / "diagnosis.json").is_file():
        parts.append(diagnosis(json.loads((RESULTS / "diagnosis.json").read_text())))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + block() + END + after
    if "--check" in sys.argv[1:]:
        sys.exit(text != wanted)
    README.write_text(wanted)


if __name__ == "__main__":
    main()
