"""Linear maps for decoding, where every byte reads all weights of the byte level for few rows.

Nothing is computed differently: a prepared model answers as it did before, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bytemodel.model import ByteModel

_FEW_ROWS = range(3, 49)
"""For so many rows W @ x.T beats x @ W.T, whose weights the library packs anew at each call."""


class DecodingLinear(nn.Module):
    """`nn.Linear` for the few rows of a decoding step: one a stream, or one a byte."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[:-1].numel()
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if not plain or torch.is_autocast_enabled("cpu") or rows not in _FEW_ROWS:
            return F.linear(x, self.weight, self.bias)
        columns = x.reshape(rows, -1).t()
        if self.bias is None:
            out = self.weight @ columns
        else:
            out = torch.addmm(self.bias[:, None], self.weight, columns)
        return out.t().view(*x.shape[:-1], len(self.weight))


def prepare(model: ByteModel, dtype: torch.dtype) -> ByteModel:
    """Make a model that is done with training quick at decoding in `dtype`; changes it in place.

    Its linear maps are rounded to `dtype` once, where autocast would do it at every step.
    """
    replace_linear(model, lambda weight, bias: DecodingLinear(weight, bias, dtype))
    return model


def replace_linear(module: nn.Module, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Put something else in place of every linear map, made of its weight and bias."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear | DecodingLinear):
            setattr(module, name, make(child.weight, child.bias))
        else:
            replace_linear(child, make)
