"""Muon, an optimizer for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

The same steps as `torch.optim.Muon`, but for the precision of its products: that one always
multiplies in bfloat16, which processors without such units emulate. There a step of
`compact` takes eight seconds by it and a quarter of a second in float32.

Shape suffixes: M rows, N columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic whose iterates bring singular values near 1: the steepest at 0."""
_ITERATIONS = 5
_LEAST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum, with each step's matrix replaced by the nearest that turns and does not stretch.

    Steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982). `dtype`: of the
    products that orthogonalise; bfloat16 is enough, where the hardware has it.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step by the gradients; a `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for matrix_MN in cast(list[Tensor], group["params"]):
                gradient_MN = matrix_MN.grad
                if gradient_MN is None:
                    continue
                state = self.state[matrix_MN]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient_MN)
                mean_MN = state["momentum_buffer"].lerp_(gradient_MN, 1 - group["momentum"])
                ahead_MN = gradient_MN.lerp(mean_MN, group["momentum"])  # Nesterov's
                matrix_MN.mul_(1 - group["lr"] * group["weight_decay"])
                matrix_MN.add_(
                    orthogonalised(ahead_MN.to(self._dtype)),
                    alpha=-group["lr"] * 0.2 * max(matrix_MN.shape) ** 0.5,
                )


def orthogonalised(matrix_MN: Tensor) -> Tensor:
    """About U V^T, where the matrix is U S V^T: singular values come out from 0.7 to 1.2.

    By Newton-Schulz iteration, in the matrix's own precision.
    """
    tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    x = matrix_MN.T if tall else matrix_MN
    x = x / x.norm().clamp(min=_LEAST_NORM)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.T if tall else x
