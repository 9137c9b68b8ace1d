"""A draft guesses well, and whatever it guesses, the model says what it would have said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bytemodel import draft as module
from bytemodel.config import Family
from bytemodel.draft import RoughLinear, rough_copy
from bytemodel.generate import GREEDY, Sampling, Session, generate
from bytemodel.model import ByteDecoder, ByteModel
from tests.bytemodel.models import FAMILIES, random_model

families = pytest.mark.parametrize("family", FAMILIES)
samplings = pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, top_k=40, top_p=0.9)])


@pytest.fixture(autouse=True)
def _every_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_BYTES", 0)


def rough(model: ByteModel) -> ByteDecoder:
    found = rough_copy(model, torch.float32)
    assert found is not None
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_a_rough_linear_map_is_off_by_little(bias: bool) -> None:
    plain = nn.Linear(64, 40, bias=bias)
    x = torch.randn(5, 1, 64)
    with torch.inference_mode():
        exact = plain(x)
        error = (RoughLinear(plain.weight, plain.bias)(x) - exact).norm() / exact.norm()
    assert 0 < error < 0.03


def test_a_row_of_zeros_stays_zero() -> None:
    found = RoughLinear(torch.zeros(3, 8), torch.tensor([1.0, 2.0, 3.0]))(torch.randn(2, 8))
    assert torch.equal(found, torch.tensor([[1.0, 2.0, 3.0]] * 2))


def drafted(
    model: ByteModel, draft: ByteDecoder | None, sampling: Sampling
) -> tuple[list[list[int]], int]:
    """Six patches behind a prefix that ends inside a patch, and the model's byte-level passes."""
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    handle = model.byte_decoder.register_forward_hook(count)
    rng = torch.Generator().manual_seed(4)
    session = Session(model, draft=draft)
    session.append(torch.arange(12).view(1, 3, 4))
    known = torch.tensor([[5]])
    said = []
    for _ in range(6):
        said.append(session.next_patch(sampling, rng=rng, known_BT=known))
        session.append(said[-1][:, None])
        known = known[:, :0]
    handle.remove()
    return [patch[0].tolist() for patch in said], passes


@families
@samplings
def test_with_a_draft_the_same_bytes_are_said_in_fewer_passes(
    family: Family, sampling: Sampling
) -> None:
    model = random_model(family)
    with_draft, passes = drafted(model, rough(model), sampling)
    without, _ = drafted(model, None, sampling)
    assert with_draft == without
    assert passes <= 14  # of 24 bytes; 6 if all guesses were right


@families
@samplings
def test_with_a_draft_that_knows_nothing_the_same_bytes_are_said(
    family: Family, sampling: Sampling
) -> None:
    model = random_model(family)
    stranger = random_model(family, seed=1).byte_decoder
    assert drafted(model, stranger, sampling)[0] == drafted(model, None, sampling)[0]


def test_a_draft_that_ends_the_file_too_early_ends_nothing() -> None:
    model = random_model("published")
    ending = rough(model)
    ending.norm.weight = nn.Parameter(torch.zeros(16))  # type: ignore[assignment]
    ending.norm.bias = nn.Parameter(1000 * model.byte_decoder.embedding.weight[256])  # type: ignore[assignment]
    with_draft, _ = drafted(model, ending, GREEDY)
    assert with_draft == drafted(model, None, GREEDY)[0]
    assert any(256 not in patch for patch in with_draft)


def test_files_are_the_same_whether_a_draft_was_worth_it_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model("published")
    sampling = Sampling(1.0, top_k=30)
    found = list(generate(model, "bin", prefix=b"abcde", sampling=sampling, seed=3))
    monkeypatch.setattr(module, "LEAST_BYTES", 1 << 40)
    assert found == list(generate(model, "bin", prefix=b"abcde", sampling=sampling, seed=3))


def test_small_models_and_other_precisions_go_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("published")
    assert rough_copy(model, torch.bfloat16) is None
    monkeypatch.setattr(module, "LEAST_BYTES", 1 << 20)
    assert rough_copy(model, torch.float32) is None


def test_a_draft_leaves_the_model_as_it_is() -> None:
    model = random_model("local")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rough(model)
    assert any(isinstance(part, nn.Linear) for part in model.byte_decoder.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
