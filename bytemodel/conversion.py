"""Conversion: a model reads a file of one kind and writes its counterpart of another.

A conversion is one sequence (`patches.encode_conversion`): the source, then the target as a whole
file. The model is given all up to the target's extension and writes the rest. How sure it was is
what it says itself of what it wrote, at temperature 1 however that was sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch

from bytemodel.checkpoint import Checkpoint
from bytemodel.config import ModelConfig
from bytemodel.draft import rough_copy
from bytemodel.files_data import Conversion
from bytemodel.generate import GREEDY, STREAMS, Sampling, Session, write_in_step
from bytemodel.model import ByteModel
from bytemodel.patches import Patches, decode_bytes, encode_conversion
from cpusim.errors import UserError


@dataclass(frozen=True)
class Converted:
    """What a model made of a source.

    `data`: the target's bytes. `ended`: whether the model ended it; False if the limit or the
    model's longest sequence did. `surprisal`: float32, the bits that each byte cost the model,
    and behind them, if it ended the file, what that cost.
    """

    data: bytes
    ended: bool
    surprisal: npt.NDArray[np.float32]

    @property
    def bits(self) -> float:
        """Of the whole output: minus the binary logarithm of its probability."""
        return float(self.surprisal.sum(dtype=np.float64))

    @property
    def bits_per_byte(self) -> float:
        """Bits over bytes; infinite for no bytes, which still cost their end."""
        return self.bits / len(self.data) if self.data else math.inf

    @property
    def probability(self) -> float:
        """That the model writes just this, when it draws each byte as often as it says."""
        return math.exp2(-self.bits)

    @property
    def least_certain(self) -> int:
        """The offset of the byte that was least probable; `len(data)` if the end was."""
        return int(self.surprisal.argmax())


def convert(
    model: ByteModel,
    source: bytes,
    source_extension: str,
    target_extension: str,
    *,
    max_patches: int | None = None,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Converted:
    """Convert one file's bytes. `convert_prompts` says what the options are.

    Raises `UserError` if the model's longest sequence has no room for it.
    """
    prompts = [prompt(model.config, source, source_extension, target_extension)]
    [(_, converted)] = convert_prompts(
        model, prompts, max_patches=max_patches, sampling=sampling, seed=seed, dtype=dtype
    )
    return converted


def prompt(
    config: ModelConfig, source: bytes, source_extension: str, target_extension: str
) -> Patches:
    """What a model is given: the source without its end, and the extension of the target.

    Raises `UserError` if that leaves no patch to write, or an extension is longer than one.
    """
    size, longest = config.patch_size, config.max_patches
    given = encode_conversion(source, source_extension, b"", target_extension, size)[:-1]
    if len(given) >= longest:
        raise UserError(
            f"the source is too long: a conversion of it takes at least {len(given) + 1:,} patches,"
            f" and this model takes {longest:,}; shorten it or use a model with a larger"
            " max_patches"
        )
    return given


def convert_prompts(
    model: ByteModel,
    prompts: Sequence[Patches],
    *,
    max_patches: int | None = None,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[int, Converted]]:
    """Convert what `prompt` made, each with its number as soon as it is ready.

    Many are written in step, those of about the same length. `max_patches`: the most patches to
    write, at most what the model's length leaves room for (the default). The same seed and prompts
    give the same bytes.
    """
    rng = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    draft = rough_copy(model, dtype)
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for first in range(0, len(by_length), STREAMS):
        numbers = by_length[first : first + STREAMS]
        session = Session(model, dtype=dtype, draft=draft)
        heads, limits = [], []
        for length, alike in groupby((prompts[number] for number in numbers), key=len):
            heads.append(torch.from_numpy(np.stack(list(alike))))
            room = model.config.max_patches - length
            limits += [room if max_patches is None else min(max_patches, room)] * len(heads[-1])
        session.begin(*heads)
        for stream, written in write_in_step(session, limits, sampling=sampling, rng=rng):
            data = decode_bytes(written.patches)
            yield numbers[stream], Converted(data, written.ended, written.bits)


Extensions = tuple[str, str]
"""Of a source and its target, without dots."""


def trained_conversions(loaded: Checkpoint[ByteModel]) -> list[Extensions] | None:
    """The conversions that a checkpoint was trained on, as the record of its data says.

    None if there is no such record, as in one that was imported.
    """
    data = loaded.info.get("data")
    if not isinstance(data, Mapping):
        return None
    try:
        found = Conversion.parse(str(data.get("convert")), loaded.config.patch_size)
    except UserError:
        return []
    ways = [(found.source, found.target), (found.target, found.source)]
    return ways if found.both else ways[:1]


def as_trained(
    trained: Iterable[Extensions], source_extension: str, target_extension: str
) -> Extensions | None:
    """The conversion that a name asks for in upper or lower case, spelt as it was trained on."""
    asked = source_extension.lower(), target_extension.lower()
    return next((way for way in trained if (way[0].lower(), way[1].lower()) == asked), None)
