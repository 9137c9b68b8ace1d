"""What the benchmarks that train share: parts of sets, budgets, training that tells how it goes.

There is nothing here about a modality: whatever is learned, the code and the hyperparameters are
those of `bgpt`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compressors import some

from bytemodel.config import ModelConfig
from bytemodel.train import Outcome, Task, TrainConfig, pick_device, pick_dtype, train
from media import prepared, registry
from media.modality import SIDES

STATEMENT = "the same code and hyperparameters for every modality"


class Lines:
    """A listener that prints a line for each evaluation."""

    def __init__(self, name: str) -> None:
        self._name = name

    def logged(self, record: dict[str, Any], progress: float) -> None:
        if record["kind"] == "evaluation":
            figures = {k: v for k, v in record.items() if isinstance(v, float) and k != "seconds"}
            told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            line = f"{self._name}: step {record['step']:,}, {progress:.0%}, {told}"
            print(line, file=sys.stderr, flush=True)

    def note(self, sentence: str) -> None:
        print(f"{self._name}: {sentence}", file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser, tasks: Sequence[str]) -> None:
    parser.add_argument("--task", choices=tasks, help="what to measure")
    parser.add_argument("--model", type=Path, help="generative checkpoint or run folder")
    parser.add_argument("--preset", default="small", help="shape without --model; default: small")
    parser.add_argument("--minutes", type=float, default=30.0, help="of each training; default: 30")
    parser.add_argument("--steps", type=int, help="of each training, instead of minutes")
    parser.add_argument("--at-most", type=int, help="files a side, always the same ones")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--no-compile", action="store_true", help="do not compile the model")
    parser.add_argument("--tiny", action="store_true", help="see that it runs; writes nothing")


def settle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """See that the options make sense, and make those of --tiny so."""
    if options.tiny:
        options.preset, options.steps, options.no_compile = "tiny", 2, True
        options.at_most = options.at_most or 8
    elif options.task is None:
        parser.error("name a --task, or --tiny")


def budget(options: argparse.Namespace) -> dict[str, Any]:
    """How long a training is, as `TrainConfig` takes it."""
    return {"steps": options.steps} if options.steps else {"minutes": options.minutes}


def default_set(name: str, options: argparse.Namespace, folder: Path) -> prepared.Prepared:
    """The modality's set, or, to see that it runs, one of the sample, made in `folder`."""
    modality = registry.load(name)
    if options.tiny:
        return prepared.from_sample(modality, folder, prepared.Stages())
    return prepared.default_set(modality, prepared.Stages(), print)


def part_of(
    found: prepared.Prepared, folder: Path, wanted: Callable[[str], bool], at_most: int | None
) -> Path:
    """A folder with train, validation and test of the files of a set whose names are wanted."""
    for side in SIDES:
        (folder / side).mkdir(parents=True)
        for path in some((p for p in found.files(side) if wanted(p.name)), at_most):
            (folder / side / path.name).symlink_to(path.resolve())
    return folder


def learn(
    run: Path,
    config: ModelConfig,
    training: TrainConfig,
    source: Any,
    task: Task,
    options: argparse.Namespace,
) -> Outcome:
    """Train as `bgpt` does. Ctrl-C ends the benchmark."""
    device = pick_device("auto")
    outcome = train(
        run,
        config,
        training,
        source,
        Lines(run.name),
        device=device.type,
        dtype=str(pick_dtype(options.dtype, device)).removeprefix("torch."),
        compile_model=not options.no_compile,
        task=task,
    )
    if not outcome.finished:
        sys.exit(130)
    return outcome


def about(found: prepared.Prepared) -> dict[str, Any]:
    """What a result says of its set."""
    names = ("modality", "kind", "source", "licence", "recipe", "sha256")
    return {name: found.manifest[name] for name in names}
