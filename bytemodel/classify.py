"""Learning to classify files, and how well it went: accuracy, macro-F1, confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bytemodel.checkpoint import fingerprint
from bytemodel.classifier import Classifier, classify_all
from bytemodel.config import ModelConfig
from bytemodel.labelled import LabelledFile
from bytemodel.metrics import read_metrics
from bytemodel.model import ByteModel
from bytemodel.train import FINE_TUNING, Task, TrainConfig
from cpusim.errors import UserError, nearest
from cpusim.files import atomic_write, printable_name, read_bytes

_SCHEDULE = {"warmup_steps": 20, "evaluate_every": 200}
_NEW_HEAD = {"matrix_lr": 4e-3, "other_lr": 3e-3}
_FITTED_HEAD = {"matrix_lr": 3e-4, "other_lr": 4e-5}
"""To go on from a head that is fitted; at higher ones a long run fell apart."""
_MIXED = 0.5
"""The share of files that hold a stretch of another, where they are mixed."""


def classification(
    start: ByteModel | Classifier | None,
    labels: Sequence[str],
    *,
    head_only: bool = False,
    mixed: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Task:
    """Classification as something that `train.train` can learn.

    `start`: the byte model that the classifier begins with, or a classifier such as `fitted` makes
    of one; None: random weights. `head_only`: the byte model stays as it is. `mixed`: half of what
    is learned from are mixtures of two files, see `mixtures`. `about`: what else the run's record
    should say, and, to go on with a run whose own weights are there, what it says; `start` there is
    the fingerprint of what the classifier begins with, None for random weights.
    Raises `UserError` if the byte model would stay random.
    """
    known = start.model if isinstance(start, Classifier) else start
    told = {"start": None if known is None else fingerprint(known), **(about or {})}
    if head_only and told["start"] is None:
        raise UserError("--head-only needs a model that has learned something; name one (--model)")

    def build(config: ModelConfig) -> Classifier:
        if isinstance(start, Classifier):
            classifier = start
        else:
            classifier = Classifier.of(start or ByteModel(config), labels)
        if head_only:
            classifier.model.requires_grad_(False)
        return classifier

    return Task(
        build=build,
        loss=mixed_loss_and_hits if mixed else loss_and_hits,
        measures=lambda loss, hits: {"loss": loss, "accuracy": hits.float().mean().item()},
        rate="files_per_second",
        plot=plot,
        about={
            "kind": "classification",
            "head_only": head_only,
            "mixed": mixed,
            **told,
        },
        many_shapes=True,
        # A head that is fitted tells small differences apart, which rounding would blur.
        dtype=torch.float32,
    )


def training_config(
    *, fine_tuning: bool, new_head: bool = False, validates: bool = False, **chosen: Any
) -> TrainConfig:
    """How to train a classifier, where `chosen` says nothing else.

    `fine_tuning`: from a model that has learned something; `new_head`: with a head that is not
    fitted. `validates`: whether the source has files to choose by. Then the weights are kept that
    were evaluated best; else the last ones, since the files to judge by should decide nothing.
    """
    rates = {**FINE_TUNING, **(_NEW_HEAD if new_head else _FITTED_HEAD)} if fine_tuning else {}
    keep = {"keep": "best" if validates else "last"}
    return TrainConfig.from_dict({**_SCHEDULE, **keep, **rates, **chosen})


def loss_and_hits(
    classifier: Classifier, patches_BPS: Tensor, lengths_B: Tensor, labels_B: Tensor
) -> tuple[Tensor, ...]:
    """The loss, cross-entropy (nats a file), twice: to minimise and to tell; and which labels are
    right: bool (B,)."""
    logits_BL = classifier(patches_BPS, lengths_B).float()
    return _told(F.cross_entropy(logits_BL, labels_B), logits_BL, labels_B)


def mixed_loss_and_hits(
    classifier: Classifier, patches_BPS: Tensor, lengths_B: Tensor, labels_B: Tensor
) -> tuple[Tensor, ...]:
    """`loss_and_hits`, in training of `mixtures`: each asks for both labels, as much as it holds of
    each file. What is right is the label of the file that holds the stretch."""
    if not classifier.training:
        return loss_and_hits(classifier, patches_BPS, lengths_B, labels_B)
    patches_BPS, others_B, own_B = mixtures(patches_BPS, lengths_B)
    logits_BL = classifier(patches_BPS, lengths_B).float()
    own_loss_B = F.cross_entropy(logits_BL, labels_B, reduction="none")
    other_loss_B = F.cross_entropy(logits_BL, labels_B[others_B], reduction="none")
    return _told(torch.lerp(other_loss_B, own_loss_B, own_B).mean(), logits_BL, labels_B)


def _told(loss: Tensor, logits_BL: Tensor, labels_B: Tensor) -> tuple[Tensor, ...]:
    return loss, loss.detach(), logits_BL.detach().argmax(-1) == labels_B


def mixtures(patches_BPS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Half of the files with a stretch of patches, of any length and anywhere behind the extension,
    in place of which those of another file of the batch stand; what is read a few times is then
    not learned by heart (Yun et al. 2019, arXiv 1905.04899).

    The patches, which file of the batch each may hold a stretch of (B,), and the share of its own
    patches that each still holds (B,).
    """
    others_B = torch.rand(len(lengths_B), device=lengths_B.device).argsort()
    shorter_B = torch.minimum(lengths_B, lengths_B[others_B])
    mixed_B, share_B, place_B = torch.rand(3, len(lengths_B), device=lengths_B.device)
    width_B = (shorter_B * share_B * (mixed_B < _MIXED)).long()
    first_B = 1 + ((shorter_B - width_B) * place_B).long()
    places_P = torch.arange(patches_BPS.shape[1], device=lengths_B.device)
    behind_BP = places_P - first_B[:, None]
    taken_BP = (behind_BP >= 0) & (behind_BP < width_B[:, None])
    mixed_BPS = torch.where(taken_BP[..., None], patches_BPS[others_B], patches_BPS)
    return mixed_BPS, others_B, 1 - width_B / (lengths_B - 1).clamp(min=1)


@dataclass(frozen=True)
class Confusion:
    """How many files of each label (rows) were taken for each label (columns): int64 (L, L)."""

    labels: tuple[str, ...]
    counts: npt.NDArray[np.int64]

    @property
    def files(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """The share of files that got their label."""
        return float(np.trace(self.counts)) / self.files

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Of the files that were given a label, the share that have it; 0 if none were."""
        return _ratios(np.diag(self.counts), self.counts.sum(0))

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Of the files that have a label, the share that were given it; 0 if none have it."""
        return _ratios(np.diag(self.counts), self.counts.sum(1))

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """The harmonic mean of precision and recall; 0 where both are."""
        return _ratios(2 * np.diag(self.counts), self.counts.sum(0) + self.counts.sum(1))

    @property
    def macro_f1(self) -> float:
        """The mean F1 over the labels that some file has or was given."""
        occur = (self.counts.sum(0) + self.counts.sum(1)) > 0
        return float(self.f1[occur].mean())


def _ratios(parts: npt.NDArray[np.int64], wholes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Parts of wholes; 0 of nothing."""
    ratios: npt.NDArray[np.float64] = parts / np.maximum(wholes, 1)
    return ratios


def evaluate_files(
    classifier: Classifier,
    files: Sequence[LabelledFile],
    *,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Confusion:
    """Classify labelled files.

    Raises `UserError` for no files, and for a label that the classifier does not know.
    """
    if not files:
        raise UserError("there are no files to evaluate; give at least one")
    places = {label: place for place, label in enumerate(classifier.labels)}
    for file in files:
        if file.label not in places:
            close = nearest(file.label, places)
            hint = f"; did you mean {close!r}?" if close else ""
            raise UserError(
                f"{file.path}: its label {file.label!r} is none that the classifier knows{hint}"
            )
    counts = np.zeros((len(places), len(places)), np.int64)
    found = classify_all(
        classifier,
        ((read_bytes(file.path), file.path.suffix) for file in files),
        dtype=dtype,
        progress=lambda done: None if progress is None else progress(done, len(files)),
    )
    for file, place in zip(files, found.argmax(1).tolist(), strict=True):
        counts[places[file.label], place] += 1
    return Confusion(classifier.labels, counts)


def plot(run: Path) -> None:
    """Draw loss and error over time as `training.png` in the run folder."""
    from matplotlib.figure import Figure

    records = read_metrics(run)
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for kind, style in (("train", {"alpha": 0.5}), ("evaluation", {"marker": "o"})):
        chosen = [record for record in records if record["kind"] == kind]
        steps = [record["step"] for record in chosen]
        upper.plot(steps, [record["loss"] for record in chosen], label=kind, **style)
        lower.plot(steps, [100 * record["accuracy"] for record in chosen], label=kind, **style)
    upper.set(ylabel="cross-entropy, nats a file")
    upper.set_title(printable_name(run.name), parse_math=False)
    upper.set_ylim(bottom=0)
    lower.set(xlabel="step", ylabel="files with the right label, %", ylim=(-2, 102))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    upper.legend()
    with atomic_write(run / "training.png", force=True) as file:
        figure.savefig(file, format="png", dpi=120)
