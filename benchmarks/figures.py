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


def conformance(result: dict[str, Any]) -> str:
    """The shipped checkpoint on every case, and the picture."""
    right = result["cases"] - result["wrong"]
    forms = result["by_form"]
    lines = [
        f"Every case that a CPU can get wrong (`{result['command']}`, {result['dtype']}):"
        f" {right:,} of {result['cases']:,} right"
        f" ({percent(result['accuracy'])}), in {result['programs']:,} programs and"
        f" {result['seconds'] / 60:.0f} minutes. Operand pairs that are wrong, of 65,536:",
        "",
        "| | OP R | OP R R | OP R R R |",
        "|---|---|---|---|",
    ]
    computing = [name.split()[0] for name in forms if name.endswith(" R R R")]
    for name in computing:
        cells = [f"{forms[name + n * ' R']['wrong_pairs']:,}" for n in (1, 2, 3)]
        lines.append(f"| {' | '.join([name, *cells])} |")
    others = [form for name, form in forms.items() if name.split()[0] not in computing]
    lines += [
        "",
        f"All other forms: {sum(form['wrong'] for form in others):,} of"
        f" {sum(form['count'] for form in others):,} cases wrong."
        f" Measured on {where(result)}.",
        "",
        "![where it is wrong](docs/conformance.png)",
    ]
    return "\n".join(lines)


def verification(checked: dict[str, Any]) -> str:
    """The row about the parallel pass and the rollout."""
    same = f"{checked['same_verdicts']:,} of {checked['programs']:,} verdicts the same"
    return (
        f"| verify {checked['programs']:,} programs by the parallel pass |"
        f" {checked['parallel_states_per_second']:,.0f} states/s | {checked['ratio']} times faster"
        f" than cached rollout ({checked['rollout_states_per_second']:,.0f} states/s), {same} |"
    )


def speed(cpu: dict[str, Any], model: dict[str, Any], checked: dict[str, Any] | None) -> str:
    """The table of speed."""
    lines = ["| speed | figure | beside |", "|---|---|---|"]
    for row in cpu["summary"]:
        lines.append(f"| {row['what']} | {row['figure']} | {row['peer']} |")
    best = max(model["training_small"], key=lambda row: row["states_per_second"])
    rate = model["matmul_tflops"][best["dtype"]]
    lines += [
        f"| train `small`, {best['dtype']} | {best['states_per_second']:,} states/s, peak"
        f" {best['peak_memory_gb']} GB | {best['share_of_matmul_rate']:.0%} of the machine's matrix"
        f" product rate ({rate} TFLOP/s) |",
        *([verification(checked)] if checked else []),
        "",
        f"CPU: measured on {where(cpu)}. Training: on {where(model)}."
        + (f" Verification: on {where(checked)}." if checked else ""),
    ]
    return "\n".join(lines)


def block() -> str:
    """Everything that stands between the markers; what has not been measured yet is left out."""
    names = ("accuracy", "conformance", "cpu_speed", "model_speed", "verification")
    paths = {name: RESULTS / f"{name}.json" for name in names}
    results = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    parts = [accuracy(results["accuracy"])]
    if "conformance" in results:
        parts.append(conformance(results["conformance"]))
    parts.append(speed(results["cpu_speed"], results["model_speed"], results.get("verification")))
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
