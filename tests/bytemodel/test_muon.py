"""Muon beside PyTorch's own, which multiplies in bfloat16 alone, and beside the exact answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bytemodel.muon import Muon, orthogonalised

SHAPES = [(48, 16), (16, 48), (32, 32)]


def test_steps_are_those_of_pytorch() -> None:
    """Bit for bit in its precision: what is scaled, decayed and remembered is the same."""
    ours, theirs = ([nn.Parameter(torch.zeros(shape)) for shape in SHAPES] for _ in range(2))
    rng = torch.Generator().manual_seed(0)
    for mine, yours in zip(ours, theirs, strict=True):
        mine.data.normal_(generator=rng)
        yours.data.copy_(mine.data)
    one = Muon(ours, lr=0.02, weight_decay=0.3, dtype=torch.bfloat16)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, yours in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=rng)
            yours.grad = mine.grad.clone()
        one.step()
        other.step()
        for mine, yours in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, yours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_a_matrix_is_turned_and_not_stretched(shape: tuple[int, int], size: float) -> None:
    matrix = size * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    singular = torch.linalg.svdvals(orthogonalised(matrix))
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    # The directions are kept: in those of the matrix, it is diagonal.
    inner = u.T @ orthogonalised(matrix) @ v.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_several_matrices_are_turned_as_each_alone(shape: tuple[int, int]) -> None:
    several = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    each = torch.stack([orthogonalised(matrix) for matrix in several])
    torch.testing.assert_close(orthogonalised(several), each, rtol=0, atol=1e-5)


def test_nothing_is_made_of_nothing() -> None:
    assert not orthogonalised(torch.zeros(4, 8)).any()


def test_what_has_no_gradient_stays() -> None:
    still, moved = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moved.grad = torch.eye(4)
    Muon([still, moved], lr=0.1, weight_decay=0.5).step()
    assert (still == 1).all()
    assert not (moved == 1).all()
