"""A rough copy of the byte level, whose guesses the exact one checks, many in one pass.

In a large model a step of one stream takes as long as reading the weights does. With weights and
inputs of 8 bits a step reads a quarter, and is right nearly always (self-speculative decoding:
Zhang et al. 2023, arXiv 2309.08168). What is said is what the exact byte level says.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from bytemodel.decoding import replace_linear
from bytemodel.model import ByteDecoder, ByteModel

LEAST_BYTES = 16 << 20
"""Of float32 weights that every step reads; fewer stay in the processor's own cache."""


class RoughLinear(nn.Module):
    """A linear map by 8-bit integers: one scale an output, one for the inputs of a call."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach()
        scales = weight.abs().amax(1).clamp_min(1e-12) / 127
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        bias = None if bias is None else bias.detach()
        with warnings.catch_warnings():
            # Deprecated without a successor that is as fast at one row; see `available`.
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch._make_per_channel_quantized_tensor(rounded, scales.double(), zeros, 0)
        self.packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, x: Tensor) -> Tensor:
        # Seven bits for the inputs: with eight, older processors would overflow.
        return torch.ops.quantized.linear_dynamic(x, self.packed, True)  # type: ignore[no-any-return]


def available() -> bool:
    """Whether this PyTorch has the integer kernels; where it has not, nothing is drafted."""
    return (
        "fbgemm" in torch.backends.quantized.supported_engines
        and hasattr(torch, "_make_per_channel_quantized_tensor")
        and hasattr(torch.ops.quantized, "linear_dynamic")
    )


def rough_copy(model: ByteModel, dtype: torch.dtype) -> ByteDecoder | None:
    """A copy of a byte level to draft with, or None where drafting would not pay."""
    decoder = model.byte_decoder
    weights = sum(weight.nbytes for weight in decoder.blocks.parameters())
    on_cpu = next(model.parameters()).device.type == "cpu"
    if dtype != torch.float32 or weights < LEAST_BYTES or not on_cpu or not available():
        return None
    # Weights are shared, not copied: those that are many are replaced.
    rough = copy.deepcopy(decoder, {id(weight): weight for weight in decoder.parameters()})
    replace_linear(rough.blocks, RoughLinear)
    return rough
