"""bytemodel: a hierarchical transformer that reads and writes raw bytes.

What a program needs is imported from here, as docs/library.md shows: `from bytemodel import
load, score_file, ...`. It is loaded when it is first asked for, since torch takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bytemodel.checkpoint import (
        Checkpoint,
        CheckpointError,
        fingerprint,
        load,
        load_classifier,
        save,
    )
    from bytemodel.classifier import Classifier
    from bytemodel.classifier import classify as classify_file
    from bytemodel.classify import (
        Confusion,
        classification,
        evaluate_files,
        training_config,
    )
    from bytemodel.compression import CompressionError, compress, compressed_size, decompress
    from bytemodel.config import ModelConfig, preset
    from bytemodel.conversion import Converted, convert
    from bytemodel.cpu import load_stepper, shipped_checkpoint
    from bytemodel.generate import GREEDY, Generated, Sampling
    from bytemodel.generate import generate as generate_files
    from bytemodel.labelled import LabelledSource, find_labelled
    from bytemodel.model import ByteModel
    from bytemodel.pictures import draw_bits, draw_confusion, plot_positions
    from bytemodel.score import Score, mean_by_position, score_file
    from bytemodel.train import TrainConfig
    from bytemodel.train import train as train_model

_PLACES = {
    "ByteModel": "model:ByteModel",
    "Checkpoint": "checkpoint:Checkpoint",
    "CheckpointError": "checkpoint:CheckpointError",
    "Classifier": "classifier:Classifier",
    "CompressionError": "compression:CompressionError",
    "Confusion": "classify:Confusion",
    "Converted": "conversion:Converted",
    "GREEDY": "generate:GREEDY",
    "Generated": "generate:Generated",
    "LabelledSource": "labelled:LabelledSource",
    "ModelConfig": "config:ModelConfig",
    "Sampling": "generate:Sampling",
    "Score": "score:Score",
    "TrainConfig": "train:TrainConfig",
    "classification": "classify:classification",
    "classify_file": "classifier:classify",
    "compress": "compression:compress",
    "compressed_size": "compression:compressed_size",
    "convert": "conversion:convert",
    "decompress": "compression:decompress",
    "draw_bits": "pictures:draw_bits",
    "draw_confusion": "pictures:draw_confusion",
    "evaluate_files": "classify:evaluate_files",
    "find_labelled": "labelled:find_labelled",
    "fingerprint": "checkpoint:fingerprint",
    "generate_files": "generate:generate",
    "load": "checkpoint:load",
    "load_classifier": "checkpoint:load_classifier",
    "load_stepper": "cpu:load_stepper",
    "mean_by_position": "score:mean_by_position",
    "plot_positions": "pictures:plot_positions",
    "preset": "config:preset",
    "save": "checkpoint:save",
    "score_file": "score:score_file",
    "shipped_checkpoint": "cpu:shipped_checkpoint",
    "train_model": "train:train",
    "training_config": "classify:training_config",
}
"""Name -> "module:name there". None is called like a module, which would hide it."""

__all__ = [
    "GREEDY",
    "ByteModel",
    "Checkpoint",
    "CheckpointError",
    "Classifier",
    "CompressionError",
    "Confusion",
    "Converted",
    "Generated",
    "LabelledSource",
    "ModelConfig",
    "Sampling",
    "Score",
    "TrainConfig",
    "classification",
    "classify_file",
    "compress",
    "compressed_size",
    "convert",
    "decompress",
    "draw_bits",
    "draw_confusion",
    "evaluate_files",
    "find_labelled",
    "fingerprint",
    "generate_files",
    "load",
    "load_classifier",
    "load_stepper",
    "mean_by_position",
    "plot_positions",
    "preset",
    "save",
    "score_file",
    "shipped_checkpoint",
    "train_model",
    "training_config",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _PLACES[name].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), there)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
