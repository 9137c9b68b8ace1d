"""The hierarchy: patch embedding -> patch-level decoder -> byte-level decoder.

Shape suffixes: B batch, P patches, S patch size, N predicted patches, V vocabulary
(257), C width. Everything is causal, so padding on the right needs no mask.

Two families from the same classes (Wu et al. 2024, arXiv 2402.19155):

- `published`: the paper's. The byte level sees only the patch-level output of the
  patch before: S+1 positions, that output first, then the embeddings of the S bytes.
- `local`: the byte level also attends to the bytes of the previous patch, and the
  patch-level output reaches each byte position through a projection of its own
  (as in MEGABYTE, Yu et al. 2023). The patch level uses rotary positions and QK-norm. With
  `retrieval` the byte level also reads the bytes of patches that the patch level looks up, with
  `matching` it is told at every byte what followed the last few before (`matches.py`), and with
  `recall` every byte looks up single bytes of the files before its own (`recall.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bytemodel.config import ModelConfig
from bytemodel.layers import (
    Block,
    Dropout,
    KeyValueCache,
    Retrieval,
    norm,
    rotary_table,
)
from bytemodel.matches import matches, orders
from bytemodel.patches import PAD, VOCABULARY
from bytemodel.recall import Counterparts, Recall, RecallCache, Recalled


class Conditions(NamedTuple):
    """What the byte level is told about N patches that it is to predict.

    `features_NC`: patch-level output of the patch before. `previous_NS`: that patch's bytes.
    `found_NSE`: embedded bytes that were looked up in earlier patches, if the model does that.
    `recalled`: what bytes may look up, likewise.
    """

    features_NC: Tensor
    previous_NS: Tensor
    found_NSE: Tensor | None
    recalled: Recalled | None = None

    def at(self, index: Tensor, grid_BR: Tensor | None = None) -> Conditions:
        """Those of some of the patches only; `index` chooses rows, by number or by mask.

        `grid_BR`: see `Recalled`.
        """
        found = None if self.found_NSE is None else self.found_NSE[index]
        recalled = None if self.recalled is None else self.recalled.at(index, grid_BR)
        return Conditions(self.features_NC[index], self.previous_NS[index], found, recalled)

    @staticmethod
    def beside(several: Sequence[Conditions]) -> Conditions:
        """Those of sequences that were read apart, in the order given."""
        if len(several) == 1:
            return several[0]
        features, previous, found, recalled = zip(*several, strict=True)
        return Conditions(
            torch.cat(features),
            torch.cat(previous),
            None if found[0] is None else torch.cat(found),
            None if recalled[0] is None else Recalled.beside(recalled),
        )


class Contexts(NamedTuple):
    """What the byte level's layers attend to besides the bytes of a patch: each layer's keys and
    values, None where there are none; and what single bytes may look up."""

    layers: list[tuple[Tensor, Tensor] | None]
    recalled: Recalled | None


class PatchDecoder(nn.Module):
    """Patches in, one causal feature vector a patch out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        modern = config.family == "local"
        width = config.patch_width
        self.patch_size = config.patch_size
        self.head_width = width // config.patch_heads
        # One linear map of the concatenated one-hot bytes, kept as a table of its columns:
        # row i * 257 + byte is what `byte` at place i of a patch adds.
        self.embedding = nn.Parameter(torch.empty(config.patch_size * VOCABULARY, width))
        self.embedding_bias = None if modern else nn.Parameter(torch.zeros(width))
        self.positions = nn.Embedding(config.max_patches, width)
        # How much of a head's width is rotated; None: positions are learned only.
        self.rotary_width = int(self.head_width * config.rotary_share) if modern else None
        self.blocks = nn.ModuleList(
            Block(width, config.patch_heads, modern=modern, dropout=config.dropout)
            for _ in range(config.patch_layers)
        )
        self.norm = norm(width, modern=modern)
        self.dropout = Dropout(config.dropout)

    def forward(self, patches_BPS: Tensor, caches: list[KeyValueCache] | None = None) -> Tensor:
        """Features (B, P, C). With `caches` (one a layer) the patches continue what they hold."""
        batch, count, size = patches_BPS.shape
        start = caches[0].length if caches else 0
        places_S = torch.arange(size, device=patches_BPS.device) * VOCABULARY
        rows = (patches_BPS + places_S).view(batch * count, size)
        x_BPC = F.embedding_bag(rows, self.embedding, mode="sum").view(batch, count, -1)
        if self.embedding_bias is not None:
            x_BPC = x_BPC + self.embedding_bias
        positions_P = torch.arange(start, start + count, device=patches_BPS.device)
        rotary = None if self.rotary_width is None else rotary_table(positions_P, self.rotary_width)
        x_BPC = self.dropout(x_BPC + self.positions(positions_P))
        for layer, block in enumerate(self.blocks):
            x_BPC = block(x_BPC, rotary=rotary, cache=caches[layer] if caches else None)
        return cast(Tensor, self.norm(x_BPC))


class ByteDecoder(nn.Module):
    """The bytes of one patch, each predicted from those before it and from its conditions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.modern = modern = config.family == "local"
        width = config.byte_width
        self.patch_size = config.patch_size
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(config.patch_size + (not modern), width)
        if modern:
            places = config.patch_size * (2 if config.retrieval else 1)
            self.context_positions = nn.Embedding(places, width)
            self.context_norm = norm(width, modern=True)
            # The patch-level output's own projection for each byte position.
            self.bridge = nn.Linear(config.patch_width, config.patch_size * width, bias=False)
            self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.matching = Matching(width, config.longest_match) if config.matching else None
        # Behind the first blocks, so that others can make use of what is found.
        self.recalls = min(2, config.byte_layers) if config.recall else 0
        self.recall = (
            Recall(width, config.patch_width, times=self.recalls, dropout=config.dropout)
            if config.recall
            else None
        )
        self.blocks = nn.ModuleList(
            Block(width, config.byte_heads, modern=modern, dropout=config.dropout)
            for _ in range(config.byte_layers)
        )
        self.norm = norm(width, modern=modern)
        self.dropout = Dropout(config.dropout)

    def contexts(self, conditions: Conditions) -> Contexts:
        """A layer's keys and values are of the previous patch's bytes, then of those looked up."""
        if not self.modern:
            return Contexts([None] * len(self.blocks), None)
        embedded = self.embedding(conditions.previous_NS)
        if conditions.found_NSE is not None:
            embedded = torch.cat((embedded.to(conditions.found_NSE.dtype), conditions.found_NSE), 1)
        embedded = self.context_norm(embedded + self.context_positions.weight)
        layers = [cast(Block, block).attention.context(embedded) for block in self.blocks]
        return Contexts([*layers], conditions.recalled)

    def counts(self, conditions: Conditions, bytes_NT: Tensor) -> Tensor | None:
        """What `Recall` has counted before each of the T+1 positions of patches that begin with
        these bytes, (N, T+1, H); None of a byte level without it."""
        if self.recall is None:
            return None
        assert conditions.recalled is not None
        found: Tensor = self.recall.counts(
            bytes_NT,
            conditions.previous_NS,
            conditions.features_NC,
            conditions.recalled,
            self.embedding.weight,
        )
        return found

    def forward(
        self,
        features_NC: Tensor,
        bytes_NT: Tensor,
        contexts: Contexts,
        caches: list[KeyValueCache] | None = None,
        matches_NTK: Tensor | None = None,
        counts_NTH: Tensor | None = None,
    ) -> Tensor:
        """Logits (N, T', V) for the positions that follow what `caches` hold.

        The parameters are those of `states`, which they are made of.
        """
        return self.logits(
            self.states(features_NC, bytes_NT, contexts, caches, matches_NTK, counts_NTH)
        )

    def logits(self, states_NTC: Tensor) -> Tensor:
        """What is read from `states`: logits (N, T', V)."""
        return F.linear(states_NTC, self.head.weight if self.modern else self.embedding.weight)

    def states(
        self,
        features_NC: Tensor,
        bytes_NT: Tensor,
        contexts: Contexts,
        caches: list[KeyValueCache] | None = None,
        matches_NTK: Tensor | None = None,
        counts_NTH: Tensor | None = None,
    ) -> Tensor:
        """What logits are read from, (N, T', C), for the positions that follow what `caches` hold.

        `features_NC`: patch-level output of the patch before. `bytes_NT`: the bytes already
        known and not yet in the caches; a first call gives T+1 states, since the features
        alone predict byte 0, a call that continues gives T. For as many positions, of a model that
        has them, `matches_NTK`: what the lookups say, and `counts_NTH`: what `counts` gives.
        """
        start = caches[0].length if caches else 0
        embedded_NTC = self.embedding(bytes_NT)
        stop = start + bytes_NT.shape[1] + (start == 0)
        if self.modern:
            bridged = self.bridge(features_NC).view(len(features_NC), self.patch_size, -1)
            x_NTC = bridged[:, start:stop] + self.positions.weight[start:stop]
            if start == 0:
                x_NTC = x_NTC + F.pad(embedded_NTC, (0, 0, 1, 0))
            else:
                x_NTC = x_NTC + embedded_NTC
            if self.matching is not None:
                assert matches_NTK is not None
                x_NTC = x_NTC + self.matching(matches_NTK)
        else:
            x_NTC = embedded_NTC
            if start == 0:
                x_NTC = torch.cat((features_NC[:, None].to(x_NTC.dtype), x_NTC), dim=1)
            x_NTC = x_NTC + self.positions.weight[start:stop]
        x_NTC = self.dropout(x_NTC)
        found = None
        for layer, block in enumerate(self.blocks):
            x_NTC = block(
                x_NTC, context=contexts.layers[layer], cache=caches[layer] if caches else None
            )
            if layer < self.recalls:
                assert self.recall is not None
                assert contexts.recalled is not None
                assert counts_NTH is not None
                added, found = self.recall(x_NTC, contexts.recalled, counts_NTH, layer, found)
                x_NTC = x_NTC + added
        return cast(Tensor, self.norm(x_NTC))


class Matching(nn.Module):
    """What lookups say, as vectors of one table, which each order scales in its own way."""

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY + 1, width)
        self.gains = nn.Parameter(torch.ones(len(orders(longest)), width))

    def forward(self, matches_NTK: Tensor) -> Tensor:
        table = (self.gains[:, None] * self.table.weight).flatten(0, 1)
        first_K = torch.arange(len(self.gains), device=table.device) * (VOCABULARY + 1)
        rows = (matches_NTK + first_K).flatten(0, 1)
        return F.embedding_bag(rows, table, mode="sum").view(*matches_NTK.shape[:2], -1)


class ByteModel(nn.Module):
    """A hierarchical byte model: next-byte prediction over patches of bytes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_decoder = PatchDecoder(config)
        self.byte_decoder = ByteDecoder(config)
        self.retrieval = Retrieval(config.patch_width) if config.retrieval else None
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        if self.patch_decoder.embedding.is_meta:
            return  # only shapes are wanted; there is nothing to set
        modern = self.config.family == "local"
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5 if modern else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.2 if modern else 0.02)
        patch_table = self.patch_decoder.embedding
        if not modern:
            nn.init.normal_(patch_table, std=0.02)
            return
        if self.byte_decoder.recall is not None:
            for out in self.byte_decoder.recall.outs:
                nn.init.zeros_(cast(nn.Linear, out).weight)
            # So that at first hardly anything is counted.
            nn.init.constant_(self.byte_decoder.recall.gate.bias, -2.0)
            # And that little is made of where counterparts are found.
            for counterparts in self.byte_decoder.recall.counterparts:
                nn.init.constant_(cast(Counterparts, counterparts).trust.bias, -4.0)
        for block in (*self.patch_decoder.blocks, *self.byte_decoder.blocks):
            # Each block starts as the identity; the attention of the byte level is set below.
            nn.init.zeros_(cast(Block, block).attention.out.weight)
            nn.init.zeros_(cast(Block, block).narrow.weight)

        # Numbers start as the sum of their bits, each +-1 times a direction, plus a little
        # noise: those that share bits begin as neighbours. Bytes and positions are such numbers.
        byte_signs = _signs(PAD, 8)
        table = self.byte_decoder.embedding.weight
        table[:PAD] += byte_signs @ torch.randn(8, table.shape[1]) * 0.2
        if self.byte_decoder.matching is not None:
            # A byte that is foretold begins as that byte, which is to be said.
            foretold = self.byte_decoder.matching.table.weight
            foretold[:VOCABULARY] = table
            foretold[VOCABULARY:] = 0
        self._initialise_as_copier()
        # In the patch embedding every bit has a direction of its own, orthogonal to the others
        # while the width lasts, so that any byte of a patch can be read out linearly.
        size, width = self.config.patch_size, self.config.patch_width
        position_bits = (self.config.max_patches - 1).bit_length()
        directions = torch.randn(-(-(size * 8 + position_bits) // width) * width, width)
        for group in torch.split(directions, width):
            nn.init.orthogonal_(group)
        directions *= 1.4
        nn.init.normal_(patch_table, std=0.02)
        for place, rows in enumerate(patch_table.view(size, VOCABULARY, width)):
            rows[:PAD] += byte_signs @ directions[8 * place : 8 * (place + 1)]
        positions = self.patch_decoder.positions.weight
        nn.init.normal_(positions, std=0.02)
        # Counted from the first patch after the header, which holds the extension.
        positions[1:] += (
            _signs(len(positions) - 1, position_bits)
            @ directions[8 * size : 8 * size + position_bits]
        )

    @torch.no_grad()
    def _initialise_as_copier(self) -> None:
        """Let the byte level lean to what stands at the same place of the patch before.

        Queries equal keys, values are handed on as they are, and bytes are read out as they
        are written in ("mimetic" initialisation: Trockman and Kolter 2023, arXiv 2305.09828).
        Copying is then learned in half the updates, and looking up soon after.
        """
        decoder = self.byte_decoder
        size = self.config.patch_size
        decoder.positions.weight *= 3
        decoder.context_positions.weight *= 3
        decoder.context_positions.weight[:size] = decoder.positions.weight
        decoder.head.weight.copy_(0.3 * F.normalize(decoder.embedding.weight))
        for block in decoder.blocks:
            attention = cast(Block, block).attention
            query, key, value = attention.qkv.weight.chunk(3)
            key.copy_(query)
            nn.init.orthogonal_(value)
            attention.out.weight.copy_(0.3 * value.T)
            if attention.scale_H is not None:
                attention.scale_H.fill_(2.0)

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self, patches_BPS: Tensor, targets_N: Tensor, grid_BR: Tensor | None = None
    ) -> Tensor:
        """Teacher-forced logits (N, S, V) of the patches to predict.

        `patches_BPS`: int64 tokens 0..256. `targets_N`: flat indexes b * P + p of the
        patches to predict, each p >= 1; choosing only some makes the byte level cheaper.
        `grid_BR`: see `Recalled`.
        """
        conditions = self.read(patches_BPS).at(targets_N - 1, grid_BR)
        patches_NS = patches_BPS.flatten(0, 1)[targets_N]
        return self.predict(conditions, patches_NS, self.matches(patches_BPS, targets_N))

    def matches(self, patches_BPS: Tensor, targets_N: Tensor) -> Tensor | None:
        """What lookups say of each byte of these patches: int64 (N, S, K); None of a model without
        `matching`."""
        if self.byte_decoder.matching is None:
            return None
        matches_BLK: Tensor = matches(patches_BPS.flatten(1), self.config.longest_match)
        return matches_BLK.view(-1, patches_BPS.shape[2], matches_BLK.shape[2])[targets_N]

    def read(self, patches_BPS: Tensor, caches: list[KeyValueCache] | None = None) -> Conditions:
        """What each patch tells of the one after it, in rows b * P + p.

        With `caches` (`new_caches`) the patches continue what those hold.
        """
        start = caches[0].length if caches else 0
        layers = len(self.patch_decoder.blocks)
        features_BPC = self.patch_decoder(patches_BPS, caches[:layers] if caches else None)
        return self.conditions(patches_BPS, features_BPC, start=start, caches=caches)

    def conditions(
        self,
        patches_BPS: Tensor,
        features_BPC: Tensor,
        *,
        start: int = 0,
        caches: list[KeyValueCache] | None = None,
        places_BR: Tensor | None = None,
    ) -> Conditions:
        """What patches tell, in rows b * P + p, or of the patches `places_BR` of each sequence
        alone, in rows b * R + r.

        `features_BPC`: what the patch level makes of them. `start`: the place of the first one.
        """
        found = recalled = None
        if self.retrieval is not None:
            width = int(features_BPC.shape[-1] * self.config.rotary_share)
            positions_P = torch.arange(
                start, start + patches_BPS.shape[1], device=patches_BPS.device
            )
            found = self.retrieval(
                features_BPC,
                self.byte_decoder.embedding(patches_BPS),
                rotary=rotary_table(positions_P, width),
                cache=caches[len(self.patch_decoder.blocks)] if caches else None,
                places_BR=places_BR,
            ).flatten(0, 1)
        if self.byte_decoder.recall is not None:
            recalled = self.byte_decoder.recall.read(
                patches_BPS,
                features_BPC,
                self.byte_decoder.embedding.weight,
                cast(RecallCache, caches[-1]) if caches else None,
            )
        features_NC, patches_NS = features_BPC.flatten(0, 1), patches_BPS.flatten(0, 1)
        if places_BR is not None:
            count = patches_BPS.shape[1]
            rows_B1 = torch.arange(len(places_BR), device=places_BR.device)[:, None] * count
            index_N = (rows_B1 + places_BR).flatten()
            grid_BR = torch.arange(len(index_N), device=index_N.device).view_as(places_BR)
            features_NC, patches_NS = features_NC[index_N], patches_NS[index_N]
            if recalled is not None:
                recalled = recalled.at(index_N, grid_BR)
        return Conditions(features_NC, patches_NS, found, recalled)

    def new_caches(self) -> list[KeyValueCache]:
        """Empty caches for `read`: one a patch layer, one for retrieval, one for recall."""
        count = len(self.patch_decoder.blocks) + (self.retrieval is not None)
        caches = [KeyValueCache() for _ in range(count)]
        return caches if self.byte_decoder.recall is None else [*caches, RecallCache()]

    def predict(
        self, conditions: Conditions, patches_NS: Tensor, matches_NSK: Tensor | None
    ) -> Tensor:
        """Byte-level logits (N, S, V) of patches whose bytes, and `matches`, are known."""
        return self.byte_decoder.logits(self.states(conditions, patches_NS, matches_NSK))

    def states(
        self, conditions: Conditions, patches_NS: Tensor, matches_NSK: Tensor | None
    ) -> Tensor:
        """What those logits are read from, (N, S, E)."""
        contexts = self.byte_decoder.contexts(conditions)
        known_NT = patches_NS[:, :-1]
        counts_NSH = self.byte_decoder.counts(conditions, known_NT)
        return self.byte_decoder.states(
            conditions.features_NC, known_NT, contexts, None, matches_NSK, counts_NSH
        )


def _signs(count: int, bits: int) -> Tensor:
    """The bits of 0..count-1 as +-1, (count, bits), the lowest first."""
    return (torch.arange(count)[:, None] >> torch.arange(bits) & 1) * 2.0 - 1.0
