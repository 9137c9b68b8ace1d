"""Recorded steps are those that are computed kernel by kernel; these tests need a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bytemodel import graphs
from bytemodel.config import ModelConfig, preset
from bytemodel.distributed import _Learner
from bytemodel.files import loss_and_hits
from bytemodel.model import ByteModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LENGTHS = (40, 24, 40, 24, 40)
"""Of batches in a row."""


def batch(length: int, seed: int) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 257, (3, length, 16), generator=rng)
    targets = torch.arange(1, length)[None] + torch.arange(3)[:, None] * length
    asked = torch.rand(3 * (length - 1), 16, generator=rng) < 0.8
    return tuple(tensor.cuda() for tensor in (patches, targets.flatten(), asked))


def steps(learner: object, model: nn.Module) -> list[tuple[Tensor, ...]]:
    """Losses, answers and gradients of batches in a row, each seeded."""
    found = []
    for number, length in enumerate(LENGTHS):
        torch.manual_seed(number)
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss, mean, hits = learner(*batch(length, number))  # type: ignore[operator]
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((loss.detach().clone(), mean.clone(), hits.clone(), *gradients))
        model.zero_grad()
    return found


@pytest.mark.parametrize("name", ["compact", "converter", "published"])
def test_losses_and_gradients_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    shape = (
        preset(name)
        if name != "published"
        else ModelConfig(
            family="published",
            patch_width=64,
            byte_width=64,
            patch_heads=2,
            byte_heads=2,
            dropout=0.1,
        )
    )
    model = ByteModel(shape).cuda().train()
    learner = _Learner(model, loss_and_hits)
    for plain, recorded in zip(
        steps(learner, model), steps(graphs.Recorded(learner), model), strict=True
    ):
        for one, other in zip(plain, recorded, strict=True):
            torch.testing.assert_close(one.float(), other.float(), rtol=2e-2, atol=2e-4)


def test_more_shapes_than_are_recorded_are_computed_as_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphs, "_MOST_SHAPES", 1)
    model = ByteModel(preset("tiny")).cuda().eval()
    learner = _Learner(model, loss_and_hits)
    recorded = graphs.Recorded(learner)
    for length in LENGTHS:
        expected, found = learner(*batch(length, 1))[0], recorded(*batch(length, 1))[0]
        torch.testing.assert_close(expected, found)
