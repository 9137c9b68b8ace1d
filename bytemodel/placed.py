"""What the first bytes of a file, each at its place, tell of it: a small network of its own.

A transformer that reads a file patch by patch learns slowly that the same byte means something
else elsewhere, as it does in pictures; a perceptron of all places learns that first, and a step of
it costs a hundredth. So it is learned by itself, in many passes, and both are asked.

Shape suffixes: N files, B batch, T places, P patches, S patch size, L labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bytemodel.patches import PAD

MOST_PLACES = 4096
_WIDTH = 512
_DROPOUT = 0.3
_BATCH = 256
_PASSES = 16
"""Over the files, while it is learned; more of them, and few files are known by heart."""
_RATE, _RISING, _DECAY = 2e-3, 1 / 20, 1e-2
"""Of AdamW: the highest rate, the share of the steps in which it is reached, from where it falls to
zero in a line, and the decay of the weights."""


class Placed(nn.Module):
    """The first bytes of files in, uint8 (B, T), a logit a label out, (B, L)."""

    def __init__(self, places: int, labels: int) -> None:
        super().__init__()
        self.places = places
        self.layers = nn.Sequential(
            *(nn.Linear(places, _WIDTH), nn.ReLU(), nn.Dropout(_DROPOUT)),
            *(nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Dropout(_DROPOUT)),
            nn.Linear(_WIDTH, labels),
        )

    def forward(self, first_BT: Tensor) -> Tensor:
        return cast(Tensor, self.layers(first_BT.float() / 256))


def first_bytes(patches_BPS: Tensor, places: int) -> Tensor:
    """The first bytes of files, uint8 (B, T), given as tokens; zeros behind the end of a file."""
    bytes_BT = patches_BPS[:, 1:].flatten(1)[:, :places]
    whole_BT = bytes_BT.masked_fill(bytes_BT == PAD, 0).to(torch.uint8)
    return F.pad(whole_BT, (0, places - whole_BT.shape[1]))


def learned(
    first_NT: Tensor,
    labels_N: Tensor,
    labels: int,
    *,
    seed: int,
    progress: Callable[[float], None] = lambda _share: None,
) -> Placed:
    """What tells the labels of these files; the same for the same seed.

    `progress`: called with the share that is done.
    """
    files, places = first_NT.shape
    values_NT = first_NT.float()
    mean_T, deviation = values_NT.mean(0), values_NT.std().clamp(min=1)
    del values_NT  # four times as large
    steps = _PASSES * -(-files // _BATCH)
    step = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        placed = Placed(places, labels).to(first_NT.device).train()
        solver = torch.optim.AdamW(placed.parameters(), weight_decay=_DECAY)
        for _ in range(_PASSES):
            for chosen_B in torch.split(torch.randperm(files).to(first_NT.device), _BATCH):
                progress(step / steps)
                rising, falling = (step + 1) / (_RISING * steps), 1 - step / steps
                for group in solver.param_groups:
                    group["lr"] = _RATE * min(rising, falling)
                found_BL = placed.layers((first_NT[chosen_B] - mean_T) / deviation)
                solver.zero_grad()
                wrong = F.cross_entropy(found_BL, labels_N[chosen_B])
                wrong.backward()  # type: ignore[no-untyped-call]
                solver.step()
                step += 1
    # A byte is learned best as what it differs by from what is common at its place; the first layer
    # can read it as it is as well.
    first = cast(nn.Linear, placed.layers[0])
    with torch.no_grad():
        first.weight.mul_(256 / deviation)
        first.bias.sub_(first.weight @ mean_T / 256)
    return placed.eval()
