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
    from bytemodel.files import learning_files
    from bytemodel.files import training_config as files_training_config
    from bytemodel.files_data import Conversion, FileSource, MadeFile, Pair, Skipped, find_items
    from bytemodel.generate import GREEDY, Generated, Sampling
    from bytemodel.generate import generate as generate_files
    from bytemodel.labelled import LabelledSource, find_labelled
    from bytemodel.linear import fitted as fitted_classifier
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
    "Conversion": "files_data:Conversion",
    "FileSource": "files_data:FileSource",
    "GREEDY": "generate:GREEDY",
    "Generated": "generate:Generated",
    "LabelledSource": "labelled:LabelledSource",
    "MadeFile": "files_data:MadeFile",
    "ModelConfig": "config:ModelConfig",
    "Pair": "files_data:Pair",
    "Sampling": "generate:Sampling",
    "Score": "score:Score",
    "Skipped": "files_data:Skipped",
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
    "files_training_config": "files:training_config",
    "find_items": "files_data:find_items",
    "find_labelled": "labelled:find_labelled",
    "fingerprint": "checkpoint:fingerprint",
    "fitted_classifier": "linear:fitted",
    "generate_files": "generate:generate",
    "learning_files": "files:learning_files",
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
    "Conversion",
    "Converted",
    "FileSource",
    "Generated",
    "LabelledSource",
    "MadeFile",
    "ModelConfig",
    "Pair",
    "Sampling",
    "Score",
    "Skipped",
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
    "files_training_config",
    "find_items",
    "find_labelled",
    "fingerprint",
    "fitted_classifier",
    "generate_files",
    "learning_files",
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
