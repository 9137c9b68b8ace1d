"""Put the figures of benchmarks/results/*.json into README.md, between its two markers.

python benchmarks/figures.py          writes README.md
python benchmarks/figures.py --check  exits with 1 if README.md says something else
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent.parent / "bytemodel" / "weights"
RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- figures: written by benchmarks/figures.py from benchmarks/results/*.json -->\n"
END = "<!-- end of figures -->"


def percent(share: float) -> str:
    """A share as a percentage that is never rounded up to 100."""
    return f"{int(share * 1e6 + 1e-6) / 1e4:.4f}".rstrip("0").rstrip(".") + " %"


def where(result: dict[str, Any]) -> str:
    """Machine and commit of a result, for the line below its table."""
    machine = result["environment"]
    kind = "with AMX" if machine["amx"] else "without AMX"
    cores = f"{machine['cores']} cores"
    if machine.get("cores_used", machine["cores"]) < machine["cores"]:
        cores = f"{machine['cores_used']} of {cores}"
    place = f"{machine['cpu']}, {cores}, {kind}"
    if machine.get("gpu"):
        place = f"a GPU, {machine['gpu']}"
    place += f", commit {machine['commit']}"
    return place + (f", {_BEFORE}" if _older(result.get("checkpoint") or {}) else "")


_BEFORE = "with the checkpoint that shipped before this one"


def _older(checkpoint: dict[str, Any]) -> bool:
    """Whether what was measured is a checkpoint that no longer ships."""
    if not {"sha256", "file"} <= checkpoint.keys():
        return False
    return bool(_digest(WEIGHTS / checkpoint["file"]) != checkpoint["sha256"])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trained_on(trained: dict[str, Any]) -> str:
    """What kind of machine a checkpoint's record names."""
    return "a GPU" if trained.get("device") == "cuda" else "CPU cores"


def measured_on(results: list[dict[str, Any]]) -> str:
    """The line below a table of several results, each machine and commit once."""
    return f"Measured on {'; '.join(dict.fromkeys(where(result) for result in results))}."


def accuracy(result: dict[str, Any]) -> str:
    """The table of the shipped checkpoint."""
    checkpoint = result["checkpoint"]
    trained = checkpoint["trained"]
    before = trained.get("task", {}).get("seconds_before", 0)
    begun = f", begun from one of {before / 60:.0f} minutes," if before else " from scratch"
    place = trained_on(trained)
    lines = [
        f"{checkpoint['parameters'] / 1e6:.1f} M parameters, {checkpoint['bytes'] / 1e6:.1f} MB,"
        f" trained{begun} by `bgpt train cpu --minutes {trained['training']['minutes']:g}`"
        f" ({trained['step']:,} updates) on {place}, seed {trained['training']['seed']}"
        " ([how](docs/experiments.md)).",
        "Programs of these tests could not have been drawn in training"
        f" (seed {result['seed']}, from another range); greedy decoding.",
        "",
        "| programs | lengths | begin with | precision | exact programs | instructions right |"
        " bytes right |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["results"]:
        shortest, longest = row["lengths"]
        cells = (
            f"{row['programs']:,} {row['distribution']}",
            f"{shortest} to {longest}",
            "zeros" if row.get("first_state") == "zeros" else "random bytes",
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
        measured_on(result["results"]),
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def conformance(result: dict[str, Any]) -> str:
    """The shipped checkpoint on every case, and the picture."""
    right = result["cases"] - result["wrong"]
    forms = result["by_form"]
    lines = [
        f"Every case that a CPU can get wrong (`{result['command']}`, {result['dtype']}):"
        f" {right:,} of {result['cases']:,} right"
        f" ({percent(result['accuracy'])}), in {result['programs']:,} programs and"
        f" {duration(result['seconds'])}. Operand pairs that are wrong,"
        + (" of 65,536:" if result["programs"] > 20_000 else " of about 4,000 a form:"),
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


def seeds(result: dict[str, Any]) -> str:
    """The table of one run of training a seed."""
    lines = [
        "The recipe from scratch, before it drew programs that begin with zeros, each on two CPU"
        f" cores ({result['runs'][0]['dtype']};"
        " programs of 1 to 255 instructions; minutes by the run's own clock, which counts pauses):",
        "",
        "| seed | minutes | updates | 99.99 % of bytes | published exact | uniform exact |"
        " sweep right | worst form |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        reached = run["goal_reached_after_seconds"]
        published, uniform = run["programs"]
        worst = run["conformance"]["worst_form"]
        cells = (
            f"{run['seed']}",
            f"{run['seconds'] / 60:.0f}",
            f"{run['updates']:,}",
            "not reached" if reached is None else f"after {reached / 60:.0f} minutes",
            *(f"{row['exact_programs']:,} of {row['programs']:,}" for row in (published, uniform)),
            percent(run["conformance"]["accuracy"]),
            f"{worst['form']}, {percent(worst['accuracy'])}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Measured on {where(result)}."]
    return "\n".join(lines)


def verification(checked: dict[str, Any]) -> str:
    """The row about the parallel pass and the rollouts."""
    alone, together = checked["rollout"]["one_by_one"], checked["rollout"]["side_by_side"]
    same = alone["same_verdicts"] + together["same_verdicts"]
    asked = alone["programs"] + together["programs"]
    return (
        f"| verify {checked['programs']:,} programs by the parallel pass, {checked['dtype']} |"
        f" {checked['parallel']['states_per_second']:,.0f} states/s |"
        f" {alone['ratio']:g} times faster than cached rollout program by program"
        f" ({alone['states_per_second']:,.0f} states/s), {together['ratio']:g} times than 64"
        f" programs side by side ({together['states_per_second']:,.0f} states/s);"
        f" {same:,} of {asked:,} verdicts the same"
        + (f"; {_BEFORE} |" if _older(checked["checkpoint"]) else " |")
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


def generation(results: list[dict[str, Any]]) -> str:
    """The table of generation beside the published wiring, a row for each machine."""
    first = results[0]
    rows, notes, same = [], [], True
    for result in results:
        exact = result["float32"]
        one, plain, all_ = (
            exact[key] for key in ("one_stream", "one_stream_without_guesses", "sixteen_streams")
        )
        same &= all(run["first_patch_that_differs"] is None for run in (one, plain, all_))
        low, high = exact["peer_seconds_first_and_last_patches"]
        cells = (
            where(result),
            f"{low:.2f} to {high:.2f} s",
            *(f"{run['seconds_a_patch']:.3f} s, {run['ratio']:.1f} times" for run in (one, plain)),
            f"{all_['seconds_a_patch_of_all']:.3f} s for all, {all_['ratio']:.1f} times",
            f"{all_['ratio_to_peer_in_one_batch']:.1f} times",
        )
        rows.append(f"| {' | '.join(cells)} |")
        if rough := result.get("bfloat16"):
            notes.append(
                f"With bfloat16 products, which round differently, where there is AMX, the first"
                f" {rough['new_patches']} patches: {rough['ratio']:.1f} times (nothing guessed) and"
                f" {rough['sixteen_streams_ratio']:.1f} times (16 streams)."
            )
    passes = first["float32"]["one_stream"]["byte_level_passes_a_patch"]
    return "\n".join(
        [
            f"Writing {first['new_patches']} patches behind {first['prefix_patches']} with"
            f" {first['parameters'] / 1e6:.0f} M parameters, greedily, in float32, beside the"
            f" published wiring (one stream, {first['peer_attention']} attention, no cache), in"
            " seconds a patch; "
            + ("all of them said the same bytes:" if same else "**not all said the same bytes:**"),
            "",
            "| machine | published wiring | one stream | one stream, nothing guessed"
            " | 16 streams together | 16 beside its wiring in one batch |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "The published code writes one stream at a time, so 16 streams stand beside 16 times"
            " its one, and, last, beside its wiring with all 16 in one batch. One stream guesses"
            f" bytes and checks them in {passes:.2f} passes a patch of the byte level.",
            *notes,
        ]
    )


def training_step(result: dict[str, Any]) -> str:
    """The table of training steps beside the published wiring."""
    lines = [
        "A training step on one sequence of 512 patches, all predicted (patches/s; peak memory of"
        " the process), beside the published wiring in eager PyTorch with the same batch,"
        " precision and dropout:",
        "",
        "| model | precision | patches/s | published wiring | times | memory | published wiring |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ours, peer = row["ours"], row["peer"]
        cells = (
            f"{row['size']}, {row['parameters'] / 1e6:.1f} M",
            row["dtype"],
            f"{ours['patches_per_second']:,.0f}",
            f"{peer['patches_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{ours['peak_memory_gb']:.2f} GB",
            f"{peer['peak_memory_gb']:.2f} GB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "`small` has the width and depths of the preset, in the published family; the last rows"
        " are the preset itself, beside that same peer.",
        f"Measured on {where(result)}.",
    ]
    return "\n".join(lines)


def budget(result: dict[str, Any]) -> str:
    """How long each training of a result was, and where, unless it was on CPU cores."""
    given, device = result["budget"], result.get("device", "cpu")
    length = f"{given['steps']:,} steps" if "steps" in given else f"{given['minutes']:g} minutes"
    return length + ("" if device == "cpu" else f" on {device}")


def trained_for(model: dict[str, Any]) -> str:
    """How long a scored checkpoint was trained, of the time that its last run had, and where."""
    before = model.get("seconds_before")
    return (
        f"{model['seconds_of_training'] / 60:.1f} of {model['minutes_of_the_run']:g} min"
        + (f" after {before / 60:.0f}" if before else "")
        + (" on a GPU" if model.get("device_of_training") == "cuda" else "")
    )


def compressors(results: list[dict[str, Any]]) -> str:
    """The table of held-out files beside general compressors."""
    names = list(next(iter(results[0]["extensions"].values()))["compressors"])
    lines = [
        "Bits per byte of test files, by the checkpoint that ships and by general compressors that"
        " were given the training files before, (C(train + test) - C(train)) / test. The model pays"
        " for each file alone, its end included. Best after: how many updates, the patches that"
        " each predicted, and how long that took:",
        "",
        f"| files | best after | primed with | tested on | model | {' | '.join(names)} |",
        f"|---|---|---|---|---|{'---|' * len(names)}",
    ]
    for result in results:
        for extension, found in result["extensions"].items():
            model = found.get("model")
            if model is None:
                continue  # it was stopped before, or no checkpoint ships
            given = [found["compressors"][name]["primed"] for name in names]
            figures = [f"{bits:.3f}" for bits in (model["bits_per_byte"], *given)]
            best = min(range(len(figures)), key=lambda place: float(figures[place]))
            figures[best] = f"**{figures[best]}**"
            cells = (
                f"{result['set']['modality']} {extension}",
                f"{model['steps']:,} x {model['patches_a_step']:,}, {trained_for(model)}"
                + (f", {_BEFORE}" if _older(model) else ""),
                *(
                    f"{found[side]['files']:,} files, {found[side]['bytes'] / 1e6:.1f} MB"
                    for side in ("train", "test")
                ),
                *figures,
            )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", measured_on(results)]
    return "\n".join(lines)


def converted_by(about: dict[str, Any]) -> str:
    """The model of a conversion, and how it was trained."""
    trained = about["trained"]
    place = trained_on(trained)
    shipped = {_digest(path) for path in WEIGHTS.glob("*.pt")}
    ships = "ships" if about["sha256"] in shipped else "does not ship"
    return (
        f"by one model of {about['parameters'] / 1e6:.1f} M parameters, which {ships}, after"
        f" {trained['step']:,} updates in {trained['seconds'] / 60:.0f} minutes on {place}"
    )


_BITS_OF_TARGETS = "Bits per byte of the target where the source is known, by the model and by xz"

_MENDED = (
    " Mended: with the lengths of tracks and texts that they say set right, as"
    " `bgpt convert --modality music` does."
)


def conversion(result: dict[str, Any]) -> str:
    """The table of tunes converted."""
    lines = [
        f"Tunes converted {converted_by(result['checkpoint'])}: {result['set']['tunes']} tunes of"
        f" {result['set']['side']}, {result['decoding']}. {_BITS_OF_TARGETS}; files that can be"
        " read; notes right in pitch, onset and duration, of all notes; tunes of which every note"
        f" is.{_MENDED if 'once_mended' in result['results'][0] else ''}",
        "",
        "| conversion | by | bits per byte | xz | readable | notes right | whole tunes right |",
        "|---|---|---|---|---|---|---|",
    ]
    for by, row in (
        *(("the model", row) for row in result["results"]),
        ("midi2abc", result["midi2abc"]),
    ):
        bits, xz = (
            f"{row[key]:.3f}" if key in row else "" for key in ("bits_per_byte", "xz_bits_per_byte")
        )
        mended = row.get("once_mended", row)
        cells = (
            row["direction"].replace("->", " -> "),
            by,
            bits,
            xz,
            *(
                as_it_is if then == as_it_is else f"{as_it_is}; mended {then}"
                for as_it_is, then in zip(_notes_right(row), _notes_right(mended), strict=True)
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", measured_on([result])]
    return "\n".join(lines)


def _notes_right(row: dict[str, Any]) -> tuple[str, str, str]:
    """How many files can be read, how many notes are right, and how many whole tunes."""
    return (
        f"{row['readable_files']} of {row['tunes']}",
        percent(row["notes_right"]),
        f"{row['tunes_with_every_note_right']} of {row['tunes']}",
    )


def exact_conversion(result: dict[str, Any]) -> str:
    """The table of terminfo entries converted."""
    lines = [
        f"Terminfo entries converted {converted_by(result['checkpoint'])}:"
        f" {result['set']['entries']} entries of {result['set']['side']}, {result['decoding']}."
        f" {_BITS_OF_TARGETS}; files that tic or infocmp can read; those of which they make the"
        " same as of the target; those of which each byte is right.",
        "",
        "| conversion | bits per byte | xz | bytes right | valid | say the same | exactly right |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["results"]:
        cells = (
            row["direction"].replace("->", " -> "),
            f"{row['bits_per_byte']:.3f}",
            f"{row['xz_bits_per_byte']:.3f}",
            percent(row["bytes_right"]),
            *(
                f"{row[key]} of {row['entries']}"
                for key in ("valid_files", "files_that_say_the_same", "exact_files")
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", measured_on([result])]
    return "\n".join(lines)


def classification(results: list[dict[str, Any]]) -> str:
    """The table of files told apart."""
    lines = [
        "Files told apart by `bgpt classify train`, on test files: begun from a generative"
        " checkpoint, from random weights of the same shape, by the classifier's counts of runs of"
        " bytes alone, by its perceptron of the first bytes at their places alone, where it asks"
        f" that at all, and by a linear model; {results[0]['statement']}. A min + B: A for the"
        " first look, which fits a linear model to what the weights it begins with make of files"
        " and to those counts, or, of more than 32,768 files, only settles what of them is read,"
        " and learns that perceptron where it tells more; B to go on from there, unless that did"
        " worse on validation, so that the first look was kept; B alone: by a classifier before,"
        " which looked at nothing first.",
        "",
        "| files | test files | goal | begun from | accuracy | macro-F1 |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["rows"]:
            cells = (
                f"{result['task']}: {result['what']}",
                f"{result['files']['test']:,}",
                percent(result["goal"]),
                f"{row['start']}, {learned(row) if 'steps' in row else row['features']}",
                percent(row["accuracy"]),
                f"{row['macro_f1']:.4f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", measured_on([row for result in results for row in result["rows"]])]
    return "\n".join(lines)


def learned(row: dict[str, Any]) -> str:
    """What a classifier was given to learn."""
    looked = row.get("first_look_seconds")
    if looked is None:
        return budget(row)
    kept = ", first look kept" if row["kept_step"] == 0 else ""
    return f"{looked / 60:.0f} min + {budget(row)}{kept}"


def fine_tuning(results: list[dict[str, Any]]) -> str:
    """The table of pre-training followed by fine-tuning."""
    lines = [
        "Bits per byte of held-out files, after pre-training on something else, after training on"
        " files like them from random weights, and after both, with the same budget;"
        f" {results[0]['statement']}.",
        "",
        "| learned before | files | budget | checkpoint as it is | from scratch | fine-tuned |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        bits = {row["start"]: f"{row['bits_per_byte']:.3f}" for row in result["rows"]}
        before = result["before"]
        if result["checkpoint_given"]:
            before = "a given checkpoint"
            if result["pre_training"]["saw_target_training_files"] is True:
                before += ", of such training files too"
        cells = (
            before,
            f"{result['target']}, {result['test']['files']:,}",
            budget(result),
            *(bits[start] for start in ("checkpoint", "scratch", "fine-tuned")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", measured_on(results)]
    return "\n".join(lines)


def block() -> str:
    """Everything that stands between the markers; what was not measured is left out."""
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    parts = [accuracy(results["accuracy"])]
    if "conformance" in results:
        parts.append(conformance(results["conformance"]))
    if "seeds" in results:
        parts.append(seeds(results["seeds"]))
    parts.append(speed(results["cpu_speed"], results["model_speed"], results.get("verification")))
    for name, table in (
        ("diagnosis", diagnosis),
        ("training_step", training_step),
    ):
        if name in results:
            parts.append(table(results[name]))
    for kind, tables in (
        ("generation", generation),
        ("compressors", compressors),
        ("classification", classification),
        ("fine_tuning", fine_tuning),
    ):
        chosen = [results[name] for name in sorted(results) if name.startswith(f"{kind}_")]
        if chosen:
            parts.append(tables(chosen))
    for name, table in (("music", conversion), ("terminfo", exact_conversion)):
        if name in results:
            parts.append(table(results[name]))
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
