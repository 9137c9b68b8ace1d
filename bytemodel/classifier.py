"""A classifier of files: the patch-level decoder, its features' mean, one linear map.

As in bGPT (Wu et al. 2024, arXiv 2402.19155, section 3.2), except that padding is left out
of the mean. The byte level is not needed: nothing is written.

Shape suffixes: B batch, P patches, S patch size, L labels, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bytemodel.config import ModelConfig
from bytemodel.model import ByteModel, PatchDecoder
from bytemodel.patches import Patches, encode_file, fitting_extension

MOST_WINDOWS = 8
"""Windows that are read of a file longer than the model's sequence, evenly spread over it."""


class Classifier(nn.Module):
    """Files in, a logit a label out. `config` is that of the byte model it began as."""

    def __init__(self, config: ModelConfig, labels: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.labels = tuple(labels)
        self.patch_decoder = PatchDecoder(config)
        self.head = nn.Linear(config.patch_width, len(self.labels))

    @classmethod
    def of(cls, model: ByteModel, labels: Sequence[str]) -> Classifier:
        """A classifier that begins with the patch level of a byte model, and a new head."""
        classifier = cls(model.config, labels)
        classifier.patch_decoder.load_state_dict(model.patch_decoder.state_dict())
        return classifier.to(next(model.parameters()).device)

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, patches_BPS: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, L). `lengths_B`: the patches of each row that are no padding."""
        features_BPC = self.patch_decoder(patches_BPS)
        places_P = torch.arange(patches_BPS.shape[1], device=patches_BPS.device)
        real_BP1 = (places_P < lengths_B[:, None])[..., None]
        pooled_BC = (features_BPC * real_BP1).sum(1) / lengths_B[:, None]
        return cast(Tensor, self.head(pooled_BC))


def file_patches(data: bytes, extension: str, patch_size: int) -> Patches:
    """A file as the classifier reads it; an extension that no patch can hold is left out."""
    return encode_file(data, fitting_extension(extension, patch_size), patch_size)


def window(patches: Patches, start: int, longest: int) -> Patches:
    """`longest` patches of a file from `start` on; every window begins with the extension."""
    return np.concatenate([patches[:1], patches[start + 1 : start + longest]])


@torch.inference_mode()
def classify(
    classifier: Classifier, data: bytes, extension: str, *, dtype: torch.dtype = torch.float32
) -> npt.NDArray[np.float32]:
    """The probability of each label, float32 (L,), for a file's bytes.

    A long file's features are the mean over up to `MOST_WINDOWS` windows.
    """
    longest = classifier.config.max_patches
    device = next(classifier.parameters()).device
    patches = file_patches(data, extension, classifier.config.patch_size)
    last = max(len(patches) - longest, 0)
    count = min(MOST_WINDOWS, -(-(last + longest - 1) // max(longest - 1, 1)) if last else 1)
    logits = torch.zeros(len(classifier.labels), device=device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        # One at a time: the features of many long windows would not fit into memory.
        for start in np.linspace(0, last, count).round().astype(int).tolist():
            tokens = torch.from_numpy(window(patches, start, longest)).to(device)
            lengths = torch.tensor([len(tokens)], device=device)
            # The head is linear, so the mean of the logits is that of the features.
            logits += classifier(tokens[None], lengths)[0].float() / count
    return logits.softmax(0).cpu().numpy()
