"""The tables say what the results say."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WHERE = {"environment": {"amx": True, "cpu": "A CPU", "cores": 2, "commit": "abc"}}


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures() -> Any:
    return script("figures")


def test_classification_has_a_row_for_each_beginning() -> None:
    begun = {"start": "random weights", "steps": 9, "accuracy": 0.5, "macro_f1": 0.25, **WHERE}
    rows = [
        {**begun, "budget": {"minutes": 2.5}, "device": "cpu"},
        {
            **begun,
            "budget": {"steps": 4000},
            "device": "A GPU",
            "first_look_seconds": 590,
            "kept_step": 400,
        },
        {
            **begun,
            "budget": {"steps": 9},
            "device": "cpu",
            "first_look_seconds": 60,
            "kept_step": 0,
        },
        {
            "start": "linear model",
            "features": "pixels",
            "accuracy": 0.875,
            "macro_f1": 0.75,
            **WHERE,
        },
    ]
    common = {"statement": "all the same", "files": {"test": 1234}, "goal": 0.9}
    results = [
        {"task": "image", "what": "kinds", "rows": rows, **common},
        {"task": "reuters", "what": "topics", "rows": rows, **common},
    ]
    lines = figures().classification(results).splitlines()
    assert (
        lines[4] == "| image: kinds | 1,234 | 90 % | random weights, 2.5 minutes | 50 % | 0.2500 |"
    )
    assert "| random weights, 10 min + 4,000 steps on A GPU |" in lines[5]
    assert "| random weights, 1 min + 9 steps, first look kept |" in lines[6]
    assert lines[7] == "| image: kinds | 1,234 | 90 % | linear model, pixels | 87.5 % | 0.7500 |"
    assert lines[8].startswith("| reuters: topics |")
    assert "by a linear model; all the same. A min + B: A for the first" in lines[0]
    assert lines[-1] == "Measured on A CPU, 2 cores, with AMX, commit abc."


def test_compressors_beside_which_no_model_was_measured_yet_have_no_row() -> None:
    result = json.loads((BENCHMARKS / "results" / "compressors_audio.json").read_text())
    stopped = json.loads(json.dumps(result).replace('"audio"', '"stopped"'))
    del stopped["extensions"][".wav"]["model"]
    table = figures().compressors([result, stopped])
    assert "| audio .wav |" in table
    assert "stopped" not in table


def test_fine_tuning_says_whether_the_checkpoint_knew_such_files() -> None:
    bits = {"checkpoint": 3.0, "scratch": 2.5, "fine-tuned": 2.0}
    result = {
        "before": "prompts",
        "target": "digits",
        "statement": "all the same",
        "test": {"files": 66},
        "budget": {"minutes": 20.0},
        "rows": [{"start": start, "bits_per_byte": value} for start, value in bits.items()],
        "checkpoint_given": False,
        "pre_training": {"saw_target_training_files": False},
        **WHERE,
    }
    given = result | {
        "checkpoint_given": True,
        "pre_training": {"saw_target_training_files": True},
    }
    lines = figures().fine_tuning([result, given]).splitlines()
    assert lines[4] == "| prompts | digits, 66 | 20 minutes | 3.000 | 2.500 | 2.000 |"
    assert lines[5].startswith("| a given checkpoint, of such training files too | digits, 66 |")


def test_figures_of_a_checkpoint_that_no_longer_ships_say_so() -> None:
    machine = {"cpu": "X", "cores": 2, "amx": True, "commit": "abc"}
    weights = figures().WEIGHTS / "cpu-small.pt"
    for sha256, older in (
        ("0" * 64, True),
        (hashlib.sha256(weights.read_bytes()).hexdigest(), False),
    ):
        checkpoint = {"file": weights.name, "sha256": sha256}
        told = figures().where({"environment": machine, "checkpoint": checkpoint})
        assert told.endswith("with the checkpoint that shipped before this one") == older
    assert figures().where({"environment": machine, "checkpoint": None}).endswith("commit abc")


@pytest.mark.parametrize(("used", "said"), [(2, "2 cores"), (1, "1 of 2 cores")])
def test_how_many_of_the_cores_were_used_is_said(used: int, said: str) -> None:
    machine = {**WHERE["environment"], "cores_used": used}
    assert figures().where({"environment": machine}) == f"A CPU, {said}, with AMX, commit abc"


def test_what_was_measured_of_another_checkpoint_says_so() -> None:
    module = figures()
    shipped = next(module.WEIGHTS.glob("cpu-*.pt"))
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    here = {"file": shipped.name, "sha256": digest}
    assert "shipped before" not in module.where({**WHERE, "checkpoint": here})
    before = module.where({**WHERE, "checkpoint": {**here, "sha256": "0" * 64}})
    assert before.endswith("abc, with the checkpoint that shipped before this one")


def test_a_result_keeps_what_was_measured_of_other_beginnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = script("report")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    order = ("checkpoint", "random", "linear")

    def rows(*starts: str, accuracy: float) -> dict[str, Any]:
        found = [{"start": start, "accuracy": accuracy} for start in starts]
        return {"set": {"sha256": "1"}, "files": {"test": 3}, "rows": found}

    new = rows("random", accuracy=0.5)
    assert report.beside_others("c", new, order) == new
    before = rows("linear", "random", "checkpoint", accuracy=0.9)
    (tmp_path / "c.json").write_text(json.dumps(before))
    kept = [
        (row["start"], row["accuracy"]) for row in report.beside_others("c", new, order)["rows"]
    ]
    assert kept == [("checkpoint", 0.9), ("random", 0.5), ("linear", 0.9)]
    # Of other files nothing is kept.
    other = {**new, "files": {"test": 4}}
    assert report.beside_others("c", other, order) == other


def test_conversions_have_a_row_a_direction_and_one_for_the_peer() -> None:
    judged = {
        "tunes": 60,
        "readable_files": 59,
        "tunes_with_every_note_right": 57,
        "notes_right": 0.9875,
    }
    trained = {"device": "cpu", "step": 2450, "seconds": 7080}
    result: dict[str, Any] = {
        # Of a checkpoint that does not ship there is no file to compare it with.
        "checkpoint": {"sha256": "0" * 64, "parameters": 2_240_000, "trained": trained},
        "set": {"tunes": 60, "side": "test"},
        "decoding": "greedy",
        "results": [
            {
                "direction": direction,
                "bits_per_byte": 0.0104,
                "xz_bits_per_byte": 1.25,
                **judged,
            }
            for direction in ("abc->mid", "mid->abc")
        ],
        "midi2abc": {"direction": "mid->abc", **judged, "notes_right": 0.5},
        **WHERE,
    }
    lines = figures().conversion(result).splitlines()
    assert "mended" not in lines[0].lower()
    assert "2.2 M parameters, which does not ship, after 2,450 updates in 118 minutes" in lines[0]
    assert lines[4] == "| abc -> mid | the model | 0.010 | 1.250 | 59 of 60 | 98.75 % | 57 of 60 |"
    assert lines[5] == "| mid -> abc | the model | 0.010 | 1.250 | 59 of 60 | 98.75 % | 57 of 60 |"
    assert lines[6] == "| mid -> abc | midi2abc |  |  | 59 of 60 | 50 % | 57 of 60 |"
    assert lines[-1] == "Measured on A CPU, 2 cores, with AMX, commit abc."

    better = {**judged, "readable_files": 60, "tunes_with_every_note_right": 58}
    result["results"][0]["once_mended"] = better
    lines = figures().conversion(result).splitlines()
    assert "Mended: with the lengths of tracks and texts" in lines[0]
    read, right = "59 of 60; mended 60 of 60", "57 of 60; mended 58 of 60"
    assert lines[4] == f"| abc -> mid | the model | 0.010 | 1.250 | {read} | 98.75 % | {right} |"
    assert lines[5].endswith("| 59 of 60 | 98.75 % | 57 of 60 |")


def test_exact_conversions_have_a_row_a_direction(tmp_path: Path) -> None:
    (tmp_path / "shipped.pt").write_bytes(b"weights")
    row = {
        "bits_per_byte": 0.2504,
        "xz_bits_per_byte": 1.25,
        "bytes_right": 0.9875,
        "entries": 215,
        "valid_files": 3,
        "files_that_say_the_same": 2,
        "exact_files": 1,
    }
    result = {
        "checkpoint": {
            "sha256": hashlib.sha256(b"weights").hexdigest(),
            "parameters": 2_240_000,
            "trained": {"device": "cuda", "step": 2450, "seconds": 7080},
        },
        "set": {"entries": 215, "side": "test"},
        "decoding": "greedy",
        "results": [{"direction": name, **row} for name in ("a->b", "b->a")],
        **WHERE,
    }
    module = figures()
    module.WEIGHTS = tmp_path
    lines = module.exact_conversion(result).splitlines()
    assert "which ships, after 2,450 updates in 118 minutes on a GPU: 215 entries" in lines[0]
    figures_of_row = "0.250 | 1.250 | 98.75 % | 3 of 215 | 2 of 215 | 1 of 215"
    assert lines[4:6] == [f"| a -> b | {figures_of_row} |", f"| b -> a | {figures_of_row} |"]
    assert lines[-1] == "Measured on A CPU, 2 cores, with AMX, commit abc."
