"""The checkpoints that the authors of bGPT (arXiv 2402.19155) released: read and written.

A file is a dict whose `model` holds tensors under Hugging Face's GPT-2 names:
`patch_level_decoder.base.*` and `byte_level_decoder.base.transformer.*`. Matrices of
GPT-2's blocks are stored input first, unlike `nn.Linear`'s. The head is the byte embedding,
stored once more. What no model here reads is kept aside, so that an export gives back what an
import was given: the patch level's unused token embedding and, in older files, the attention
masks (`attn.bias`, `attn.masked_bias`). Optimizer and schedule are left behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bytemodel.checkpoint import Checkpoint, CheckpointError, is_finite, is_whole, read_tensors
from bytemodel.config import ConfigError, ModelConfig
from bytemodel.model import ByteModel
from bytemodel.patches import VOCABULARY
from cpusim.files import atomic_write

_HEAD_WIDTH = 64
_DROPOUT = 0.1
_PATCH_LEVEL = "patch_level_decoder.base"
_BYTE_LEVEL = "byte_level_decoder.base.transformer"
_EMBEDDING = "patch_level_decoder.patch_embedding"
_BYTES = f"{_BYTE_LEVEL}.wte.weight"
_HEAD = "byte_level_decoder.base.lm_head.weight"
_TOKENS = f"{_PATCH_LEVEL}.wte.weight"
_UNUSED = re.compile(
    rf"{re.escape(_TOKENS)}"
    rf"|({re.escape(_PATCH_LEVEL)}|{re.escape(_BYTE_LEVEL)})\.h\.\d+\.attn\.(masked_)?bias"
)

# Ours -> GPT-2's; those whose weights are stored input first are marked.
_BLOCK = (
    ("attention_norm", "ln_1", False),
    ("attention.qkv", "attn.c_attn", True),
    ("attention.out", "attn.c_proj", True),
    ("feed_forward_norm", "ln_2", False),
    ("widen", "mlp.c_fc", True),
    ("narrow", "mlp.c_proj", True),
)


@dataclass(frozen=True)
class Released:
    """A released checkpoint: the model, in evaluation mode, and the tensors that it has no use
    for, by their names in the file."""

    model: ByteModel
    unused: dict[str, Tensor]


def load_published(path: Path) -> Released:
    """Read a released checkpoint without running code in the file.

    Raises `CheckpointError` if it is none, if its tensors do not fit one another, or if it
    holds one that such a model does not have.
    """
    content = read_tensors(path)
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or f"{_EMBEDDING}.weight" not in weights:
        raise CheckpointError(
            f"{path}: is not one of the released bGPT checkpoints (no {_EMBEDDING}.weight)"
        )
    given = _Given(path, weights)
    config = given.config()
    with torch.device("meta"):
        model = ByteModel(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = {}
    read = {_HEAD}
    for name, source, turned in _names(config):
        read.add(source)
        tensor = given.tensor(source)
        shape = tuple(tensor.shape)
        if (shape[::-1] if turned else shape) != wanted[name]:
            raise CheckpointError(
                f"{path}: the tensor {source!r} has shape {shape}, which does not fit the others"
            )
        tensors[name] = (tensor.t() if turned else tensor).float().contiguous()
    if _HEAD in weights and not torch.equal(
        given.tensor(_HEAD).float(), given.tensor(_BYTES).float()
    ):
        raise CheckpointError(
            f"{path}: {_HEAD} differs from {_BYTES}; in a released checkpoint the head is the"
            " byte embedding"
        )
    unused = {name: given.tensor(name) for name in weights if _is_unused(name)}
    unknown = sorted(str(name) for name in weights if name not in read and name not in unused)
    if unknown:
        raise CheckpointError(
            f"{path}: holds the tensor {unknown[0]!r}, which no released model of its size has"
        )
    model.load_state_dict(tensors, assign=True)
    return Released(model.eval(), unused)


def save_published(path: Path, loaded: Checkpoint[ByteModel], *, force: bool = False) -> None:
    """Write a checkpoint of ours as the authors' code writes and reads it, atomically.

    Raises `CheckpointError` for a model of another family, which that format cannot hold.
    """
    config = loaded.config
    if config.family != "published":
        raise CheckpointError(
            f"{loaded.path}: is of the {config.family} family, which the authors' code does not"
            " have; export one of the published family"
        )
    heads = config.patch_width // _HEAD_WIDTH
    if not config.patch_heads == config.byte_heads == heads:
        raise CheckpointError(
            f"{loaded.path}: has {config.patch_heads} and {config.byte_heads} heads a layer; the"
            f" authors' code takes one for every {_HEAD_WIDTH} of its width, which are {heads}"
        )
    ours = loaded.model.state_dict()
    weights = {_TOKENS: torch.zeros(1, config.patch_width)}
    weights.update((name, t) for name, t in loaded.unused.items() if _is_unused(name))
    for name, target, turned in _names(config):
        weights[target] = ours[name].t().contiguous() if turned else ours[name]
    weights[_HEAD] = weights[_BYTES]
    with atomic_write(path, force=force) as file:
        torch.save({"model": weights}, file)


def _is_unused(name: object) -> bool:
    return isinstance(name, str) and _UNUSED.fullmatch(name) is not None


class _Given:
    """The tensors of a file, asked for by name."""

    def __init__(self, path: Path, weights: Mapping[str, Any]) -> None:
        self.path = path
        self.weights = weights

    def tensor(self, name: str, dimensions: int | None = None) -> Tensor:
        tensor = self.weights.get(name)
        if not is_whole(tensor) or (dimensions and tensor.dim() != dimensions):
            raise CheckpointError(f"{self.path}: the tensor {name!r} is missing or damaged")
        if not is_finite(tensor):
            raise CheckpointError(f"{self.path}: the tensor {name!r} holds what is no number")
        return tensor

    def config(self) -> ModelConfig:
        """The sizes, read off the tensors."""
        width, one_hot = self.tensor(f"{_EMBEDDING}.weight", 2).shape
        size, rest = divmod(one_hot, VOCABULARY)
        if rest:
            raise CheckpointError(
                f"{self.path}: {_EMBEDDING}.weight takes {one_hot:,} inputs, which is not a"
                f" multiple of {VOCABULARY}, the number of tokens"
            )
        try:
            return ModelConfig(
                family="published",
                patch_size=size,
                max_patches=self.tensor(f"{_PATCH_LEVEL}.wpe.weight", 2).shape[0],
                patch_layers=self._layers(_PATCH_LEVEL),
                patch_width=width,
                patch_heads=width // _HEAD_WIDTH,
                byte_layers=self._layers(_BYTE_LEVEL),
                byte_width=width,
                byte_heads=width // _HEAD_WIDTH,
                dropout=_DROPOUT,
            )
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def _layers(self, level: str) -> int:
        layers = 0
        while f"{level}.h.{layers}.ln_1.weight" in self.weights:
            layers += 1
        return layers


def _names(config: ModelConfig) -> Iterator[tuple[str, str, bool]]:
    """Every tensor of ours, the name of the one it is read from, and whether that is transposed."""
    yield "patch_decoder.embedding", f"{_EMBEDDING}.weight", True
    yield "patch_decoder.embedding_bias", f"{_EMBEDDING}.bias", False
    yield "byte_decoder.embedding.weight", _BYTES, False
    for ours, theirs, layers in (
        ("patch_decoder", _PATCH_LEVEL, config.patch_layers),
        ("byte_decoder", _BYTE_LEVEL, config.byte_layers),
    ):
        yield f"{ours}.positions.weight", f"{theirs}.wpe.weight", False
        for layer in range(layers):
            for part, their_part, turned in _BLOCK:
                for kind in ("weight", "bias"):
                    yield (
                        f"{ours}.blocks.{layer}.{part}.{kind}",
                        f"{theirs}.h.{layer}.{their_part}.{kind}",
                        turned and kind == "weight",
                    )
        yield f"{ours}.norm.weight", f"{theirs}.ln_f.weight", False
        yield f"{ours}.norm.bias", f"{theirs}.ln_f.bias", False
