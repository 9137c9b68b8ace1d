"""A prepared model answers as the plain one does, whatever the number of rows and the precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bytemodel.config import Family
from bytemodel.decoding import DecodingLinear, prepare
from bytemodel.generate import Sampling, generate
from bytemodel.model import ByteModel
from tests.bytemodel.models import FAMILIES, random_model

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 1), (1, 3), (5, 1), (3, 4), (48, 1), (49, 1), (7, 9)]
)
def test_a_decoding_linear_map_is_the_plain_one(shape: tuple[int, int], bias: bool) -> None:
    plain = nn.Linear(24, 40, bias=bias)
    x = torch.randn(*shape, 24)
    with torch.inference_mode():
        found = DecodingLinear(plain.weight, plain.bias, torch.float32)(x)
        assert found.shape == (*shape, 40)
        torch.testing.assert_close(found, plain(x))
        # Heads are split off the last dimension without a copy.
        found.view(*shape, 4, 10)


def logits(model: ByteModel, dtype: torch.dtype) -> torch.Tensor:
    patches = torch.randint(0, 257, (3, 6, 4), generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([1, 2, 8, 17])
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return model(patches, targets)  # type: ignore[no-any-return]


@families
def test_a_prepared_model_gives_the_same_logits(family: Family) -> None:
    model = random_model(family)
    prepared = prepare(copy.deepcopy(model), torch.float32)
    found, expected = logits(prepared, torch.float32), logits(model, torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@families
def test_rounding_once_is_what_autocast_does_at_every_step(family: Family) -> None:
    model = random_model(family)
    prepared = prepare(copy.deepcopy(model), torch.bfloat16)
    assert torch.equal(logits(prepared, torch.bfloat16), logits(model, torch.bfloat16))


@families
def test_preparing_leaves_the_weights_as_they_are(family: Family) -> None:
    model = random_model(family)
    prepared = prepare(copy.deepcopy(model), torch.float32)
    before, after = model.state_dict(), prepared.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert prepared.parameter_count == model.parameter_count
    assert not any(isinstance(module, nn.Linear) for module in prepared.modules())


@families
@pytest.mark.parametrize("count", [1, 6])
def test_a_prepared_model_writes_the_same_files(family: Family, count: int) -> None:
    model = random_model(family)
    prepared = prepare(copy.deepcopy(model), torch.float32)
    for sampling in (Sampling(), Sampling(1.0, top_k=30)):
        wanted, found = (
            list(generate(m, "bin", prefix=b"abc", count=count, max_patches=4, sampling=sampling))
            for m in (model, prepared)
        )
        assert found == wanted
