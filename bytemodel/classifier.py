"""A classifier of files: a byte model, what it knows of them pooled, one linear map.

The mean of the patch level's features is that of bGPT (Wu et al. 2024, arXiv 2402.19155, section
3.2), except that padding is left out of it. In a mean the one patch that tells is lost among many,
so their largest values, and what the last patch makes of the whole file, stand beside it (Howard
and Ruder 2018, arXiv 1801.06146). Of a picture it matters where in the file something is, so
there are means of parts of it too. A word may begin at any place of a patch, and the patch level
tells it from others poorly; so what detectors find in the states of the byte level, of some of
the patches, can be pooled as well. Nothing is written: its head is of no use here. Where it tells
more to know what byte stands where, `placed` is asked as well, and the mean of both counts.

Shape suffixes: B batch, P patches, S patch size, L labels, C width, D draws, R patches read closely
in each, E width of the byte level, K detectors, Q parts, F width of all that is pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bytemodel.config import ModelConfig
from bytemodel.model import ByteModel
from bytemodel.patches import PAD, Patches, encode_file, fitting_extension
from bytemodel.placed import MOST_PLACES, Placed, first_bytes

DETECTORS = 1024
"""What is looked for in the states of the byte level. The mean of so many, none of them linear,
tells how often each kind of state occurs; that of the states themselves, where they lie."""
PARTS = 16
"""Of a window, one behind the other, as equal as they can be."""
RUNS = 3, 4, 5, 6
"""Bytes of the runs that are counted."""
BUCKETS = 1 << 12
"""Among which the runs of each length are spread; rare ones share some."""
MOST_WINDOWS = 8
"""Windows that are read of a file longer than the model's sequence, evenly spread over it."""
FEWEST_CLOSELY, MOST_CLOSELY = 8, 32
"""Patches of a window that the byte level reads in a draw, since it costs 13 times a patch what the
patch level does: all of a short window, else some, evenly spread. What tells may be said once in a
short file; a long one says it over and over, so of it fewer are enough."""
_CLOSE_PRODUCT = 2048
"""Between the two, these patches times those of the window."""
DRAWS = 4
"""Draws of such patches that are read outside of training, side by side, where one does not hold
all. Each is pooled by itself, as in training, where one is taken at random; the mean of what is
made of them counts."""
_GAIN = 8.0
"""How many times the step of one weight of the head a step of them all moves a logit, about."""
_PATCHES_AT_ONCE = 4096
"""What is read in one pass; bounds the memory that this takes."""
_WINDOWS_AT_ONCE = 256
"""Windows among which those of like length are sought."""


class Classifier(nn.Module):
    """Files in, a logit a label out. `config` is that of the byte model it began as. `closely`:
    whether any patches are read by the byte level; where that tells nothing, it need not be.
    `placed`: what is asked about the first bytes too, if anything."""

    STATE = "_extra_state"
    """The name under which the state of a module says what its weights do not."""

    def __init__(self, config: ModelConfig, labels: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.labels = tuple(labels)
        self.closely = True
        self.model = ByteModel(config)
        if self.model.byte_decoder.modern:
            self.model.byte_decoder.head.requires_grad_(False)
        self.detectors = nn.Linear(config.byte_width, DETECTORS)
        # Each answers to some of the states, as different ones as they can be.
        nn.init.normal_(self.detectors.weight, std=1.5 * config.byte_width**-0.5)
        nn.init.normal_(self.detectors.bias, mean=-1.0)
        self.head = nn.Linear((3 + PARTS) * config.patch_width + 2 * DETECTORS, len(self.labels))
        # Fitted, never trained: rates that suit all else would make noise of it.
        self.wide = nn.Linear(len(RUNS) * BUCKETS, len(self.labels), bias=False)
        self.wide.requires_grad_(False)
        nn.init.zeros_(self.wide.weight)
        self.placed: Placed | None = None

    @classmethod
    def of(cls, model: ByteModel, labels: Sequence[str]) -> Classifier:
        """A classifier that begins with a byte model's weights, and a new head."""
        classifier = cls(model.config, labels)
        classifier.model.load_state_dict(model.state_dict())
        return classifier.to(next(model.parameters()).device)

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def scale(self) -> float:
        """What all that is pooled is multiplied by, so that a small step of each of so many weights
        is a small step of a logit, too (Yang et al. 2022, arXiv 2203.03466); else a fitted head
        would be lost at once."""
        return _GAIN / math.sqrt(self.head.in_features)

    def get_extra_state(self) -> Tensor:
        """Whether patches are read closely, and how many places `placed` knows; 0 without it."""
        return torch.tensor([self.closely, 0 if self.placed is None else self.placed.places])

    @staticmethod
    def is_state(state: Tensor) -> bool:
        """Whether it is such a state."""
        if state.shape != (2,):
            return False
        closely, places = state.tolist()
        return closely in (0, 1) and places in range(MOST_PLACES + 1)

    def set_extra_state(self, state: Tensor) -> None:
        closely, places = map(int, state.tolist())
        self.closely = True
        if not closely:
            self.leave_out_bytes()
        self.ask_also(Placed(places, len(self.labels)) if places else None)

    def ask_also(self, placed: Placed | None) -> None:
        """What the first bytes tell, as it is: it is learned already."""
        self.placed = placed
        if placed is not None:
            placed.to(self.head.weight.device).train(self.training).requires_grad_(False)

    def leave_out_bytes(self) -> None:
        """Read nothing closely, and learn nothing about it."""
        self.closely = False
        # Of several processes each waits for the gradients of all that is learned.
        self.detectors.requires_grad_(False)
        for name, part in self.model.named_children():
            if name != "patch_decoder":
                part.requires_grad_(False)

    def forward(
        self, patches_BPS: Tensor, lengths_B: Tensor, begins_B: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L). `lengths_B`: the patches of each row that are no padding. `begins_B`:
        whether each is the beginning of its file; if not given, all are."""
        deep_BL = self.deep(self.pooled(patches_BPS, lengths_B))
        if self.training:
            # The others know what they were fitted to by heart; nothing would be left to learn.
            return deep_BL
        logits_BL = deep_BL + self.wide(counted(patches_BPS))
        if self.placed is not None:
            placed_BL = self.placed(first_bytes(patches_BPS, self.placed.places))
            mean_BL = (logits_BL + placed_BL) / 2
            # Further on in a file no byte stands where those did that it was learned from.
            logits_BL = mean_BL if begins_B is None else mean_BL.where(begins_B[:, None], logits_BL)
        return cast(Tensor, logits_BL)

    def deep(self, pooled_BF: Tensor) -> Tensor:
        """Logits (B, L) of what is pooled."""
        return cast(Tensor, self.head(pooled_BF * self.scale))

    def pooled(self, patches_BPS: Tensor, lengths_B: Tensor) -> Tensor:
        """What the head reads, (B, F): of the patch level the mean, the largest, the last, and the
        means of the parts; of what is found closely the mean and the largest, zeros if nothing is
        read so."""
        features_BPC = self.model.patch_decoder(patches_BPS)
        places_P = torch.arange(patches_BPS.shape[1], device=patches_BPS.device)
        real_BP = places_P < lengths_B[:, None]
        last_BC = (features_BPC * (places_P == lengths_B[:, None] - 1)[..., None]).sum(1)
        parts_BQC = _means_of_parts(features_BPC, lengths_B)
        if self.closely:
            close_BK = self._found(patches_BPS, lengths_B, features_BPC)
        else:
            close_BK = features_BPC.new_zeros(len(patches_BPS), 2 * DETECTORS)
        whole = _mean_and_largest(features_BPC, real_BP)
        return torch.cat((*whole, last_BC, parts_BQC.flatten(1), close_BK), 1)

    def _found(self, patches_BPS: Tensor, lengths_B: Tensor, features_BPC: Tensor) -> Tensor:
        """What detectors find in the patches that are read closely, its mean and its largest over
        their bytes, (B, 2K)."""
        places_BDR, read_BDR = self._read_closely(lengths_B, patches_BPS.shape[1])
        starts_B1 = patches_BPS.shape[1] * torch.arange(len(patches_BPS), device=lengths_B.device)
        rows_N = (starts_B1[:, None] + places_BDR.flatten(1)).flatten()
        bytes_NS = patches_BPS.flatten(0, 1)[rows_N]
        states_NSE = self.model.states(
            self.model.conditions(patches_BPS, features_BPC, places_BR=places_BDR.flatten(1) - 1),
            bytes_NS,
            self.model.matches(patches_BPS, rows_N),
        )
        # A state is of a byte that comes, from all before it.
        real_NS = read_BDR.flatten()[:, None] & (bytes_NS != PAD)
        drawn = places_BDR.shape[:2]
        found_NSK = F.relu(self.detectors(F.rms_norm(states_NSE, states_NSE.shape[-1:])))
        close = _mean_and_largest(
            found_NSK.reshape(drawn.numel(), -1, DETECTORS), real_NS.view(drawn.numel(), -1)
        )
        return torch.cat([values.view(*drawn, -1).mean(1) for values in close], 1)

    def _read_closely(self, lengths_B: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Places of patches of each row, (B, D, R), from 1 to `count` - 1, and which of them count.

        In training they are others each time.
        """
        places_R = torch.arange(min(read_closely(count), count - 1), device=lengths_B.device)
        stride_B11 = ((lengths_B - 1) / len(places_R)).clamp(min=1)[:, None, None]
        if self.training:
            shift_BD1 = torch.rand_like(stride_B11)
        else:
            draws = DRAWS if len(places_R) < count - 1 else 1
            shift_BD1 = ((torch.arange(draws, device=lengths_B.device) + 0.5) / draws)[:, None]
        chosen_BDR = 1 + (places_R * stride_B11 + shift_BD1 * (stride_B11 - 1)).long()
        return chosen_BDR.clamp(max=count - 1), chosen_BDR < lengths_B[:, None, None]


def counted(patches_BPS: Tensor) -> Tensor:
    """How often each bucket's runs of bytes occur in windows, (B, N), those of each of the `RUNS`
    behind one another: logarithms of one more than their numbers, of unit length for each; zeros
    for what is shorter than a run."""
    bytes_BT = patches_BPS[:, 1:].flatten(1)
    found = []
    for run in RUNS:
        count = max(bytes_BT.shape[1] - run + 1, 0)
        hashes_BT = torch.zeros_like(bytes_BT[:, :count])
        for place in range(run):
            hashes_BT = (
                hashes_BT * 0x01000193 + bytes_BT[:, place : place + count] + 1
            ) & 0xFFFFFFFF
        buckets_BT = ((hashes_BT * 0x5BD1E995) & 0xFFFFFFFF) >> (32 - BUCKETS.bit_length() + 1)
        # Padding stands behind the last byte, so a run that ends with a byte has none.
        whole_BT = (bytes_BT[:, run - 1 :][:, :count] != PAD).float()
        counts_BN = whole_BT.new_zeros(len(bytes_BT), BUCKETS)
        counts_BN = counts_BN.scatter_add_(1, buckets_BT, whole_BT)
        found.append(F.normalize(counts_BN.log1p()))
    return torch.cat(found, 1)


def read_closely(count: int) -> int:
    """How many of a window's `count` patches the byte level reads in a draw, if it has so many."""
    return max(FEWEST_CLOSELY, min(MOST_CLOSELY, _CLOSE_PRODUCT // count))


def _mean_and_largest(values_BTC: Tensor, real_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Over those of T that are real, each (B, C); zeros where none is."""
    real_BT1 = real_BT[..., None]
    mean_BC = (values_BTC * real_BT1).sum(1) / real_BT1.sum(1).clamp(min=1)
    largest_BC = values_BTC.masked_fill(~real_BT1, -torch.inf).amax(1)
    return mean_BC, largest_BC.masked_fill(~real_BT1.any(1), 0)


def _means_of_parts(values_BPC: Tensor, lengths_B: Tensor) -> Tensor:
    """The mean over each of `PARTS` parts of a row's first `lengths_B`, (B, Q, C); zeros where a
    part is empty."""
    places_P = torch.arange(values_BPC.shape[1], device=values_BPC.device)
    part_BP = places_P * PARTS // lengths_B[:, None]
    within_BQP = (part_BP[:, None] == torch.arange(PARTS, device=places_P.device)[:, None]).float()
    shares_BQP = within_BQP / within_BQP.sum(2, keepdim=True).clamp(min=1)
    return shares_BQP.to(values_BPC.dtype) @ values_BPC


def file_patches(data: bytes, extension: str, patch_size: int) -> Patches:
    """A file as the classifier reads it; an extension that no patch can hold is left out."""
    return encode_file(data, fitting_extension(extension, patch_size), patch_size)


def window(patches: Patches, start: int, longest: int) -> Patches:
    """`longest` patches of a file from `start` on; every window begins with the extension."""
    return np.concatenate([patches[:1], patches[start + 1 : start + longest]])


def classify(
    classifier: Classifier, data: bytes, extension: str, *, dtype: torch.dtype = torch.float32
) -> npt.NDArray[np.float32]:
    """The probability of each label, float32 (L,), for a file's bytes; see `classify_all`."""
    found: npt.NDArray[np.float32] = classify_all(classifier, [(data, extension)], dtype=dtype)[0]
    return found


@torch.inference_mode()
def classify_all(
    classifier: Classifier,
    files: Iterable[tuple[bytes, str]],
    *,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int], None] = lambda _done: None,
) -> npt.NDArray[np.float32]:
    """The probability of each label, float32 (N, L), for files given as bytes and extension.

    A long file's logits are the mean over up to `MOST_WINDOWS` windows. Files of like length are
    read side by side; `progress` is called with how many are done.
    """
    windows: list[_Window] = []
    counts: list[int] = []
    found = [np.zeros((0, len(classifier.labels)), np.float32)]
    done = 0

    def read() -> None:
        nonlocal done
        means = _sums(classifier, windows, len(counts), dtype) / torch.tensor(counts)[:, None]
        found.append(means.softmax(1).numpy())
        done += len(counts)
        progress(done)
        windows.clear()
        counts.clear()

    longest = classifier.config.max_patches
    for data, extension in files:
        patches = file_patches(data, extension, classifier.config.patch_size)
        last = max(len(patches) - longest, 0)
        count = min(MOST_WINDOWS, -(-(last + longest - 1) // max(longest - 1, 1)) if last else 1)
        for start in np.linspace(0, last, count).round().astype(int).tolist():
            windows.append(_Window(len(counts), start == 0, window(patches, start, longest)))
        counts.append(count)
        if len(windows) >= _WINDOWS_AT_ONCE:
            read()
    if counts:
        read()
    return np.concatenate(found)


class _Window(NamedTuple):
    """`file`: its number. `begins`: whether it is the beginning of that."""

    file: int
    begins: bool
    patches: Patches


def _sums(
    classifier: Classifier, windows: Sequence[_Window], files: int, dtype: torch.dtype
) -> Tensor:
    """The sum of the logits (files, L) over the windows of each file."""
    device = next(classifier.parameters()).device
    waiting = sorted(windows, key=lambda entry: len(entry.patches))
    sums = torch.zeros(files, len(classifier.labels))
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        while waiting:
            longest = len(waiting[-1].patches)
            # Side by side a window is read as closely as alone.
            chosen = [
                entry
                for entry in waiting[-max(1, _PATCHES_AT_ONCE // longest) :]
                if read_closely(len(entry.patches)) == read_closely(longest)
            ]
            del waiting[-len(chosen) :]
            lengths = torch.tensor([len(entry.patches) for entry in chosen])
            shape = (len(chosen), int(lengths.max()), classifier.config.patch_size)
            tokens = np.full(shape, PAD, np.int64)
            for row, entry in zip(tokens, chosen, strict=True):
                row[: len(entry.patches)] = entry.patches
            begins = torch.tensor([entry.begins for entry in chosen])
            logits = classifier(
                torch.from_numpy(tokens).to(device), lengths.to(device), begins.to(device)
            )
            owners = torch.tensor([entry.file for entry in chosen])
            sums.index_add_(0, owners, logits.float().cpu())
    return sums
