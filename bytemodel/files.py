"""Learning any files: the loss over their bytes, and training that goes on from a checkpoint.

Shape suffixes: B batch, P patches, S patch size, N predicted patches, V vocabulary (257).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bytemodel.checkpoint import Checkpoint, Trainable, fingerprint
from bytemodel.classifier import Classifier
from bytemodel.config import ModelConfig
from bytemodel.metrics import plot
from bytemodel.model import ByteModel
from bytemodel.train import FINE_TUNING, Task, TrainConfig
from cpusim.errors import UserError

_WARMUP = 0.05
"""The share of a run in which the learning rate rises, at most 50 steps."""
_WEIGHT_DECAY = 0.2
"""Files are few beside what a model could remember of them."""
_LEAST_BETWEEN = 50
"""Steps between two evaluations, where an epoch is shorter."""

# What may differ from the checkpoint that training starts from.
_FREE = {"max_patches", "dropout"}


def learning_files(start: Checkpoint[Trainable] | None = None) -> Task:
    """Learning files as something that `train.train` can do.

    `start`: the checkpoint to go on from; None: random weights.
    """
    task = Task(
        build=ByteModel,
        loss=loss_and_hits,
        measures=measures,
        rate="bytes_per_second",
        plot=plot,
        about={"kind": "files", "start": None, "file": None},
        many_shapes=True,
    )
    return task if start is None else going_on(task, start)


def going_on(task: Task, start: Checkpoint[Trainable]) -> Task:
    """The task, begun with the weights of a checkpoint.

    Of a classifier, its byte model is taken.
    """

    def build(config: ModelConfig) -> ByteModel:
        model = ByteModel(config)
        _take_over(model, _byte_model(start.model))
        return model

    about = {
        **task.about,
        "start": fingerprint(start.model),
        "file": str(start.path),
        "seconds_before": _seconds_of_training(start.info),
    }
    return dataclasses.replace(task, build=build, about=about)


def _seconds_of_training(info: Mapping[str, Any]) -> float:
    """How long weights have been trained, by one run after the other, as a checkpoint says it."""
    task = info.get("task")
    before = task.get("seconds_before") if isinstance(task, Mapping) else None
    return sum(said for said in (info.get("seconds"), before) if isinstance(said, int | float))


def training_config(steps_per_epoch: int, *, fine_tuning: bool, **chosen: Any) -> TrainConfig:
    """How to train on files, where `chosen` says nothing else: warm-up and cosine, and the weights
    kept that were evaluated best, at the end of each epoch or every 1,000 steps."""
    steps = chosen.get("steps", 0)
    defaults = {
        "schedule": "cosine",
        "keep": "best",
        "weight_decay": _WEIGHT_DECAY,
        "warmup_steps": max(1, min(50, round(_WARMUP * steps))) if steps else 50,
        "evaluate_every": max(_LEAST_BETWEEN, min(1000, steps_per_epoch)),
    }
    rates = FINE_TUNING if fine_tuning else {}
    return TrainConfig.from_dict({**defaults, **rates, **chosen})


def fitting_config(
    start: Checkpoint[Trainable] | None, preset: ModelConfig | None, max_patches: int | None
) -> ModelConfig:
    """The shape of the model to train: the preset's, or else that of the checkpoint to start from.

    Raises `UserError` if that checkpoint's weights do not fit into it.
    """
    if preset is None and start is None:
        raise ValueError("neither a preset nor a checkpoint says what to train")
    config = preset or start.config  # type: ignore[union-attr]
    if max_patches is not None:
        config = dataclasses.replace(config, max_patches=max_patches)
    if start is not None:
        for field in dataclasses.fields(ModelConfig):
            if field.name in _FREE:
                continue
            old, new = getattr(start.config, field.name), getattr(config, field.name)
            if old != new:
                raise UserError(
                    f"{start.path}: its {field.name} is {old}, that of the model to train {new}, so"
                    " its weights do not fit; leave out --preset to train a model of its shape"
                )
    return config


def _byte_model(start: Trainable) -> ByteModel:
    return start.model if isinstance(start, Classifier) else start


@torch.no_grad()
def _take_over(model: ByteModel, start: ByteModel) -> None:
    """Give a model the weights of another, which may read sequences of another length."""
    chosen = start.state_dict()
    name = "patch_decoder.positions.weight"
    count, known = model.config.max_patches, chosen[name]
    # What is new begins as the positions from the first on (as Beltagy et al. 2020,
    # arXiv 2004.05150), but for that of the extension patch.
    places = torch.arange(count)
    if count > len(known) > 1:
        beyond = places >= len(known)
        places[beyond] = 1 + (places[beyond] - 1) % (len(known) - 1)
    chosen[name] = known[places.clamp(max=len(known) - 1)]
    model.load_state_dict(chosen)


def loss_and_hits(
    model: ByteModel, patches_BPS: Tensor, targets_N: Tensor, asked_NS: Tensor, grid_BR: Tensor
) -> tuple[Tensor, ...]:
    """Cross-entropy (nats a byte) to minimise and to report, over the bytes that are asked for, and
    which bytes are right, asked for or not: bool (N, S)."""
    wanted_NS = patches_BPS.flatten(0, 1)[targets_N]
    logits_NSV = model(patches_BPS, targets_N, grid_BR)
    nats_NS = F.cross_entropy(
        logits_NSV.float().flatten(0, 1), wanted_NS.flatten(), reduction="none"
    ).view(wanted_NS.shape)
    loss = (nats_NS * asked_NS).sum() / asked_NS.sum().clamp(min=1)
    right_NS = logits_NSV.detach().argmax(-1) == wanted_NS
    return loss, loss.detach(), right_NS


def measures(loss: float, hits: Tensor) -> dict[str, float]:
    """The figures of a record, by their names in `metrics.jsonl`.

    The end of a file counts as a byte, and so does the padding before it, if there is any: bits per
    byte are a little below those of `bytemodel.score`, by 0.1 % for files of 1.5 KB.
    """
    return {
        "loss": loss,
        "bits_per_byte": loss / math.log(2),
        "byte_accuracy": hits.float().mean().item(),
    }
