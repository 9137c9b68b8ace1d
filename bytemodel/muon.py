"""Muon, an optimizer for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

The same steps as `torch.optim.Muon`, but for the precision of its products: that one always
multiplies in bfloat16, which processors without such units emulate. There a step of
`compact` takes eight seconds by it and a quarter of a second in float32.

Shape suffixes: G matrices, M rows, N columns.
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
            matrices = cast(list[Tensor], group["params"])
            for lot in _lots([matrix for matrix in matrices if matrix.grad is not None]):
                ahead = [self._ahead(matrix_MN, group["momentum"]) for matrix_MN in lot]
                turned = (
                    [orthogonalised(ahead[0])]
                    if len(lot) == 1
                    else orthogonalised(torch.stack(ahead)).unbind()
                )
                for matrix_MN, turned_MN in zip(lot, turned, strict=True):
                    matrix_MN.mul_(1 - group["lr"] * group["weight_decay"])
                    size = 0.2 * max(matrix_MN.shape) ** 0.5
                    matrix_MN.add_(turned_MN, alpha=-group["lr"] * size)

    def _ahead(self, matrix_MN: Tensor, momentum: float) -> Tensor:
        """The mean of the gradients as it will be after one more like the last (Nesterov's)."""
        gradient_MN = cast(Tensor, matrix_MN.grad)
        state = self.state[matrix_MN]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient_MN)
        mean_MN = state["momentum_buffer"].lerp_(gradient_MN, 1 - momentum)
        return gradient_MN.lerp(mean_MN, momentum).to(self._dtype)


def _lots(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    """What to orthogonalise at once: on a GPU, which takes as long for one matrix as for many, all
    of one shape; on a CPU, whose caches hold one, each alone."""
    lots: dict[object, list[Tensor]] = {}
    for number, matrix in enumerate(matrices):
        lots.setdefault(number if matrix.device.type == "cpu" else matrix.shape, []).append(matrix)
    return list(lots.values())


def orthogonalised(matrix_MN: Tensor) -> Tensor:
    """About U V^T, where the matrix is U S V^T: singular values come out from 0.7 to 1.2.

    By Newton-Schulz iteration, in the matrix's own precision. Of several matrices (G, M, N) each.
    """
    add_product = torch.addmm if matrix_MN.ndim == 2 else torch.baddbmm
    tall = matrix_MN.shape[-2] > matrix_MN.shape[-1]
    x = matrix_MN.mT if tall else matrix_MN
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_LEAST_NORM)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.mT if tall else x
