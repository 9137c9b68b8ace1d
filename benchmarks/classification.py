"""How well files are told apart from their bytes: pre-trained, from scratch, and by a linear model.

python benchmarks/classification.py --task image --model runs/image --minutes 30
python benchmarks/classification.py --task reuters --model runs/text --minutes 30
python benchmarks/classification.py --task audio --model runs/audio --minutes 30
python benchmarks/classification.py --tiny          see that it runs; writes nothing

`image`: the ten kinds of Fashion-MNIST. `reuters`: the eight topics of Reuters R8. `audio`: the
language of a prompt, no prompt being on two sides; as each language has mostly one speaker, it is
also the voice. The classifier is that of `bgpt classify train`, with the same code and
hyperparameters for every task, begun from the checkpoint and from random weights of the same shape,
each after a first look at the files, for the same time or number of steps; --start measures one
beginning alone and keeps what the result holds of others. It learns from train, keeps what does
best on validation, and is judged once, on test. Beside it stands what its counts of runs of bytes
tell alone, what its network of the first bytes at their places does, where it asks that at all, and
what a linear model makes of the features that one would choose knowing what the
files are: TF-IDF of words, pixels, log spectra.

Writes benchmarks/results/classification_TASK.json.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

sys.path.insert(0, str(Path(__file__).parent))
import learning
import report

from bytemodel import checkpoint
from bytemodel.classify import Confusion, classification, evaluate_files, training_config
from bytemodel.config import preset
from bytemodel.labelled import BATCH, LabelledFile, LabelledSource
from bytemodel.linear import COUNTS as RUNS_COUNTED
from bytemodel.linear import PLACES as FIRST_BYTES
from bytemodel.linear import fitted, learns_head
from bytemodel.train import pick_device, pick_dtype
from cpusim.errors import UserError


class Goal(NamedTuple):
    """`accuracy`: what the pre-trained classifier should reach."""

    what: str
    accuracy: float
    baseline: str


STARTS = (
    *("generative checkpoint", "random weights", "counts of runs alone"),
    *("bytes at their places alone", "linear model"),
)
CHECKPOINT, RANDOM, COUNTS, PLACES, LINEAR = STARTS
TASKS = {
    "image": Goal("10 kinds of clothes", 0.90, "pixels, logistic regression"),
    "reuters": Goal("8 topics", 0.97, "TF-IDF of words, linear SVM"),
    "audio": Goal("5 languages", 0.97, "log spectra, mean and deviation, logistic regression"),
}


def grey(data: bytes) -> np.ndarray[Any, Any]:
    """A picture's pixels, 0 to 1."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("L"), np.float32).ravel() / 255


def spectra(data: bytes) -> np.ndarray[Any, Any]:
    """Mean and standard deviation over time of the log power in each band of a WAV file."""
    with wave.open(io.BytesIO(data)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.uint8) / 128 - 1
    frames = np.lib.stride_tricks.sliding_window_view(samples, 256)[::128] * np.hanning(256)
    logs = np.log(np.abs(np.fft.rfft(frames)) ** 2 + 1e-6)
    return np.concatenate([logs.mean(0), logs.std(0)])


def linear_model(task: str) -> Any:
    if task == "reuters":
        return make_pipeline(TfidfVectorizer(sublinear_tf=True), LinearSVC(random_state=0))
    features = {"image": grey, "audio": spectra}[task]
    read = FunctionTransformer(lambda files: np.stack([features(data) for data in files]))
    return make_pipeline(read, StandardScaler(), LogisticRegression(max_iter=300))


def baseline(
    task: str, train: Sequence[LabelledFile], test: Sequence[LabelledFile], labels: tuple[str, ...]
) -> Confusion:
    """The linear model on the same files."""
    model = linear_model(task)
    model.fit([file.path.read_bytes() for file in train], [file.label for file in train])
    found = model.predict([file.path.read_bytes() for file in test])
    counts = np.zeros((len(labels), len(labels)), np.int64)
    for file, label in zip(test, found, strict=True):
        counts[labels.index(file.label), labels.index(label)] += 1
    return Confusion(labels, counts)


def row(name: str, confusion: Confusion, began: float, **more: Any) -> dict[str, Any]:
    made = {
        "start": name,
        "accuracy": round(confusion.accuracy, 6),
        "macro_f1": round(confusion.macro_f1, 6),
        "f1": {
            label: round(float(value), 4)
            for label, value in zip(confusion.labels, confusion.f1, strict=True)
        },
        "confusion": confusion.counts.tolist(),
        "seconds": round(time.monotonic() - began),
        "environment": report.environment(),
        **more,
    }
    print(f"{name}: accuracy {made['accuracy']:.4f}, macro-F1 {made['macro_f1']:.4f}", flush=True)
    return made


def measure(task: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found = learning.default_set(task, options, folder / "set")
    data = learning.part_of(found, folder / "data", lambda _: True, options.at_most)
    device = pick_device("auto")
    start = None if options.model is None else checkpoint.load(options.model)
    config = preset(options.preset) if start is None else start.config
    source = LabelledSource(data, config, seed=0)
    dtype = pick_dtype(options.dtype, device)
    new_head = learns_head(source)
    rows = []
    beginnings = {} if start is None else {CHECKPOINT: start.model}
    for name, model in (*beginnings.items(), (RANDOM, None)):
        if options.start not in (None, name):
            continue
        began = time.monotonic()
        training = training_config(
            fine_tuning=model is not None,
            new_head=new_head,
            validates=source.validates,
            **learning.budget(options),
        )
        run = folder / name.replace(" ", "-")
        begin = fitted(model, source, seed=training.seed, new_head=new_head)
        first_look = round(time.monotonic() - began)
        about = {"start": None if model is None else checkpoint.fingerprint(model)}
        learned = classification(begin, source.labels, mixed=new_head, about=about)
        outcome = learning.learn(run, config, training, source, learned, options)
        classifier = checkpoint.load_classifier(run, device=device).model
        rows.append(
            row(
                name,
                evaluate_files(classifier, source.held_out, dtype=dtype),
                began,
                steps=outcome.step,
                kept_step=outcome.model_step,
                epochs=round(outcome.step * BATCH / len(source.training), 2),
                budget=learning.budget(options),
                first_look_seconds=first_look,
                places=begin.placed.places if begin.placed else 0,
                device=report.device_name(device),
                dtype=str(dtype).removeprefix("torch."),
                checkpoint=None if model is None else known(start),
                model=config.to_dict(),
                training=training.to_dict(),
            )
        )
    if options.start in (None, COUNTS):
        began = time.monotonic()
        classifier = fitted(None, source, seed=0, kinds=[RUNS_COUNTED]).to(device)
        confusion = evaluate_files(classifier, source.held_out, dtype=dtype)
        rows.append(row(COUNTS, confusion, began, features="logistic regression"))
    if options.start in (None, PLACES):
        began = time.monotonic()
        classifier = fitted(None, source, seed=0, kinds=[FIRST_BYTES], new_head=True).to(device)
        if classifier.placed is not None:
            confusion = evaluate_files(classifier, source.held_out, dtype=dtype)
            rows.append(row(PLACES, confusion, began, features="perceptron"))
    if options.start in (None, LINEAR):
        began = time.monotonic()
        confusion = baseline(task, source.training, source.held_out, source.labels)
        rows.append(row(LINEAR, confusion, began, features=TASKS[task].baseline))
    return {
        "task": task,
        "what": TASKS[task].what,
        "goal": TASKS[task].accuracy,
        "statement": learning.STATEMENT,
        "set": learning.about(found),
        "files": {
            "train": len(source.training),
            "validation": len(source.validation),
            "test": len(source.held_out),
        },
        "rows": rows,
    }


def known(start: checkpoint.Checkpoint[Any]) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
        "fingerprint": checkpoint.fingerprint(start.model)[:16],
        "parameters": start.model.parameter_count,
        "steps": start.info.get("step"),
        "seconds_of_training": start.info.get("seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    learning.add_options(parser, list(TASKS))
    parser.add_argument("--start", choices=STARTS, help="measure this alone; default: all")
    options = parser.parse_args()
    learning.settle(parser, options)
    for task in [options.task] if options.task else TASKS:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(task, options, Path(folder))
        if not options.tiny:
            name = f"classification_{task}"
            print(report.write(name, report.beside_others(name, figures, STARTS)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
