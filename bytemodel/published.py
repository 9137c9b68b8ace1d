"""The checkpoints that the authors of bGPT (arXiv 2402.19155) released.

A file is a dict whose `model` holds tensors under Hugging Face's GPT-2 names:
`patch_level_decoder.base.*` and `byte_level_decoder.base.transformer.*`. Matrices of
GPT-2's blocks are stored input first, unlike `nn.Linear`'s. Left aside: the optimizer, the
attention masks (`attn.bias`, `attn.masked_bias`), the patch level's unused token embedding, and
the head, which is the byte embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bytemodel.checkpoint import CheckpointError, read_tensors
from bytemodel.config import ConfigError, ModelConfig
from bytemodel.model import ByteModel
from bytemodel.patches import VOCABULARY

_HEAD_WIDTH = 64
_DROPOUT = 0.1
_PATCH_LEVEL = "patch_level_decoder.base"
_BYTE_LEVEL = "byte_level_decoder.base.transformer"
_EMBEDDING = "patch_level_decoder.patch_embedding"

# Ours -> GPT-2's; those whose weights are stored input first are marked.
_BLOCK = (
    ("attention_norm", "ln_1", False),
    ("attention.qkv", "attn.c_attn", True),
    ("attention.out", "attn.c_proj", True),
    ("feed_forward_norm", "ln_2", False),
    ("widen", "mlp.c_fc", True),
    ("narrow", "mlp.c_proj", True),
)


def load_published(path: Path) -> ByteModel:
    """The model in a released checkpoint, in evaluation mode, without running code in the file.

    Raises `CheckpointError` if it is none, or if its tensors do not fit one another.
    """
    content = read_tensors(path)
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or f"{_EMBEDDING}.weight" not in weights:
        raise CheckpointError(
            f"{path}: is not one of the released bGPT checkpoints (no {_EMBEDDING}.weight)"
        )
    given = _Given(path, weights)
    config = given.config()
    model = ByteModel(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = {}
    for name, source, turned in _names(config):
        tensor = given.tensor(source)
        tensor = tensor.t() if turned else tensor
        if tensor.shape != wanted[name]:
            raise CheckpointError(
                f"{path}: the tensor {source!r} has shape {tuple(given.tensor(source).shape)},"
                " which does not fit the others"
            )
        tensors[name] = tensor.float()
    model.load_state_dict(tensors)
    return model.eval()


class _Given:
    """The tensors of a file, asked for by name."""

    def __init__(self, path: Path, weights: Mapping[str, Any]) -> None:
        self.path = path
        self.weights = weights

    def tensor(self, name: str, dimensions: int | None = None) -> Tensor:
        tensor = self.weights.get(name)
        if not isinstance(tensor, Tensor) or (dimensions and tensor.dim() != dimensions):
            raise CheckpointError(f"{self.path}: the tensor {name!r} is missing or damaged")
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
    yield "byte_decoder.embedding.weight", f"{_BYTE_LEVEL}.wte.weight", False
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
