"""Models for tests: small enough to be quick, random enough to say many different things."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bytemodel.config import Family, ModelConfig
from bytemodel.matches import NONE
from bytemodel.model import ByteModel

FAMILIES: tuple[Family, ...] = ("local", "published")

SMALLEST = ModelConfig(
    patch_size=4,
    max_patches=24,
    patch_layers=2,
    patch_width=16,
    patch_heads=2,
    byte_layers=2,
    byte_width=16,
    byte_heads=2,
    retrieval=True,
    matching=True,
    recall=True,
    rotary_share=0.5,
)
SMALLEST_PUBLISHED = dataclasses.replace(
    SMALLEST, family="published", retrieval=False, matching=False, recall=False, rotary_share=1.0
)


def random_model(family: Family = "local", seed: int = 0, **changes: Any) -> ByteModel:
    """A model of the smallest configuration, changed, in evaluation mode; its weights are so
    large that what it says depends on all that it has read."""
    torch.manual_seed(seed)
    smallest = SMALLEST if family == "local" else SMALLEST_PUBLISHED
    model = ByteModel(dataclasses.replace(smallest, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            # Large biases would drown what depends on the bytes.
            parameter += torch.randn_like(parameter) * (0.5 if parameter.dim() > 1 else 0.1)
        if model.byte_decoder.matching is not None:
            model.byte_decoder.matching.table.weight[NONE] = 0
    return model.eval()
