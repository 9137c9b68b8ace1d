"""What it is worth to have learned something like it before: pre-training, then fine-tuning.

python benchmarks/fine_tuning.py --task text --minutes 20
python benchmarks/fine_tuning.py --task audio --model runs/audio --minutes 20
python benchmarks/fine_tuning.py --tiny             see that it runs; writes nothing

`text`: from a dictionary of computing to fortunes. `audio`: from all other prompts to spoken digits
and letters. Sources and prompts are told apart by the names of a prepared set's files. Measured are
the bits per byte of the target's test files: of the checkpoint as it is, of one that was trained on
the target's training files from random weights, and of one that began from the checkpoint, with the
same time or number of steps, the same code and hyperparameters for every modality (those of `bgpt
train files`, with and without --init).

Without --model the checkpoint is made here, of the other files alone, in --pretrain-minutes. One
that is given may have learned from the target's training files too, which the result then says;
test files are never learned from by either, if it was trained on the same set.

Writes benchmarks/results/fine_tuning_TASK.json.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import compressors
import learning
import report

from bytemodel import checkpoint
from bytemodel.checkpoint import Checkpoint
from bytemodel.config import ModelConfig, preset
from bytemodel.files import learning_files, training_config
from bytemodel.files_data import FileSource, Skipped, find_items
from cpusim.errors import UserError


class Target(NamedTuple):
    """`names`: what the names of the target's files match; `sample_names`: those of the sample."""

    before: str
    target: str
    names: str
    sample_names: str


TASKS = {
    "text": Target("a dictionary of computing", "fortunes", r"(?!foldoc_)", r".*[02468]\.txt"),
    "audio": Target("spoken prompts", "spoken digits and letters", r".*?_(digits|letters)-", "en_"),
}


def train_on(
    run: Path,
    data: Path,
    config: ModelConfig,
    start: Checkpoint[Any] | None,
    minutes: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train as `bgpt train files` does, and say how."""
    skipped = Skipped()
    source = FileSource(
        find_items(data, (), skipped),
        config,
        seed=0,
        about={"kind": "files", "folder": "a part of a prepared set"},
        skipped=skipped,
    )
    length = {"steps": options.steps} if options.steps else {"minutes": minutes}
    training = training_config(source.steps_per_epoch, fine_tuning=start is not None, **length)
    outcome = learning.learn(run, config, training, source, learning_files(start), options)
    return {
        "files": source.training,
        "steps": outcome.step,
        "kept_step": outcome.model_step,
        "epochs": round(outcome.step / source.steps_per_epoch, 2),
        "training": training.to_dict(),
    }


def measure(task: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    about = TASKS[task]
    found = learning.default_set(task, options, folder / "set")
    is_target = re.compile(about.sample_names if options.tiny else about.names).match
    target = learning.part_of(
        found, folder / "target", lambda name: bool(is_target(name)), options.at_most
    )
    test = sorted((target / "test").iterdir())
    before: dict[str, Any]
    if options.model is None:
        others = learning.part_of(
            found, folder / "others", lambda name: not is_target(name), options.at_most
        )
        minutes = options.pretrain_minutes
        path = folder / "pre-training"
        before = train_on(path, others, preset(options.preset), None, minutes, options)
        before["saw_target_training_files"] = False
    else:
        path = options.model
        info = checkpoint.load(path).info
        data = info.get("data") or {}
        same = data.get("set") == found.manifest["sha256"]
        before = {
            "steps": info.get("step"),
            "seconds": info.get("seconds"),
            "saw_target_training_files": True if same else "not known",
        }
    start = checkpoint.load_any(path)
    rows = [{"start": "checkpoint", **compressors.score(path, options.dtype, test)}]
    for name, begin in (("scratch", None), ("fine-tuned", start)):
        run = folder / name
        record = train_on(run, target, start.config, begin, options.minutes, options)
        rows.append({"start": name, **compressors.score(run, options.dtype, test), **record})
    for row in rows:
        print(f"{task}, {row['start']}: {row['bits_per_byte']:.4f} bits per byte", flush=True)
    return {
        "task": task,
        "before": about.before,
        "target": about.target,
        "statement": learning.STATEMENT,
        "set": learning.about(found),
        "test": {"files": len(test), "bytes": sum(path.stat().st_size for path in test)},
        "checkpoint_given": options.model is not None,
        "pre_training": before,
        "model": start.config.to_dict(),
        "budget": learning.budget(options),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    learning.add_options(parser, list(TASKS))
    parser.add_argument(
        "--pretrain-minutes", type=float, default=60.0, help="without --model; default: 60"
    )
    options = parser.parse_args()
    learning.settle(parser, options)
    for task in [options.task] if options.task else TASKS:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(task, options, Path(folder))
        if not options.tiny:
            print(report.write(f"fine_tuning_{task}", figures))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
