"""Attention, feed-forward and blocks, shared by both families and both levels.

Shape suffixes: B batch, T queries, K keys, H heads, D head width, C model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPLICIT_ATTENTION_KEYS = 512
"""Up to here matmul-softmax-matmul beats the fused kernel, whose CPU backward is slow
on short rows."""
_EXPLICIT_KEYS_FORWARD = 64
"""The same where a whole sequence is read without gradients: forward the fused kernel is quick."""


class KeyValueCache:
    """Keys and values of one attention layer, grown as positions are appended."""

    def __init__(self) -> None:
        self.keys_BHKD: Tensor | None = None
        self.values_BHKD: Tensor | None = None
        self.length = 0

    def append(self, keys_BHTD: Tensor, values_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions; returns all keys and values so far, as views."""
        need = self.length + keys_BHTD.shape[2]
        if self.keys_BHKD is None or self.values_BHKD is None or need > self.keys_BHKD.shape[2]:
            # Doubling keeps the copying linear in the final length.
            shape = (*keys_BHTD.shape[:2], max(2 * need, 32))
            keys = keys_BHTD.new_empty(*shape, keys_BHTD.shape[3])
            values = values_BHTD.new_empty(*shape, values_BHTD.shape[3])
            if self.keys_BHKD is not None and self.values_BHKD is not None:
                keys[:, :, : self.length] = self.keys_BHKD[:, :, : self.length]
                values[:, :, : self.length] = self.values_BHKD[:, :, : self.length]
            self.keys_BHKD, self.values_BHKD = keys, values
        self.keys_BHKD[:, :, self.length : need] = keys_BHTD
        self.values_BHKD[:, :, self.length : need] = values_BHTD
        self.length = need
        return self.keys_BHKD[:, :, :need], self.values_BHKD[:, :, :need]

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch only."""
        if self.keys_BHKD is not None and self.values_BHKD is not None:
            self.keys_BHKD, self.values_BHKD = self.keys_BHKD[rows], self.values_BHKD[rows]


def rotary_table(positions_T: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each (T, D/2), of rotary position embedding (Su et al. 2021, base 10,000)."""
    exponents = torch.arange(0, head_width, 2, device=positions_T.device) / head_width
    angles_TD = positions_T[:, None] * 10_000.0**-exponents
    return angles_TD.cos(), angles_TD.sin()


def rotate(x_BHTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x[i], x[i + R/2]) of the first R places by its position's angle.

    R is twice the width of the tables; what lies beyond is left as it is.
    """
    cos_TD, sin_TD = (table.to(x_BHTD.dtype) for table in rotary)
    half = cos_TD.shape[-1]
    first, second = x_BHTD[..., : 2 * half].chunk(2, dim=-1)
    rest = x_BHTD[..., 2 * half :]
    return torch.cat(
        (first * cos_TD - second * sin_TD, second * cos_TD + first * sin_TD, rest), dim=-1
    )


@torch.library.custom_op("bytemodel::kept", mutates_args=())
def _kept(shape: Sequence[int], share: float, seed: Tensor) -> Tensor:
    """A mask that is true for a random `share`, a function of `seed`: compilers take for granted
    that equal calls give equal results."""
    rng = torch.Generator().manual_seed(int(seed))
    count = math.prod(shape)
    # Four numbers of 16 bits of each drawn one: twice as fast as `bernoulli_`.
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=rng)
    return (drawn.view(torch.int16)[:count] < round(share * 2**16) - 2**15).view(shape)


@_kept.register_fake
def _(shape: Sequence[int], share: float, seed: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty(shape, dtype=torch.bool)


def drop(x: Tensor, share: float) -> Tensor:
    """Zero a random `share` of the values and scale the others up, as `F.dropout` does.

    On a CPU compiled code would draw its random numbers one by one, which took a quarter of a
    training step; the library's own kernel draws many at a time.
    """
    if share == 0 or x.device.type != "cpu":
        return F.dropout(x, share)
    kept: Tensor = _kept(x.shape, 1 - share, torch.randint(1 << 62, ()))
    return x * kept * (1 / (1 - share))


def gelu(x: Tensor) -> Tensor:
    """GPT-2's: by tanh, or compiled, by the logistic function, which is the same and quicker."""
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))


class Linear(nn.Linear):
    """`nn.Linear`; compiled, the bias is added with what comes next, not in a pass before."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(x)
        out = F.linear(x, self.weight)
        return out if self.bias is None else out + self.bias.to(out.dtype)


class Dropout(nn.Dropout):
    """`nn.Dropout` by `drop`."""

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.p) if self.training else x


def attend(
    queries_BHTD: Tensor,
    keys_BHKD: Tensor,
    values_BHKD: Tensor,
    scale: float,
    *,
    dropout: float = 0.0,
    places_BT: Tensor | None = None,
) -> Tensor:
    """Causal attention; the last query stands at the last key. Returns (B, H, T, D).

    `dropout`: the share of attention weights to leave out. `places_BT`: at which keys the queries
    stand, if they are only some and not the last ones.
    """
    queries, keys = queries_BHTD.shape[2], keys_BHKD.shape[2]
    if queries == 1 and places_BT is None:
        mask = None
    else:
        # Compiled, places of 64 bits would be compared at half the speed.
        places_K = torch.arange(keys, dtype=torch.int32, device=queries_BHTD.device)
        own_T1 = (
            places_K[keys - queries :, None] if places_BT is None else places_BT[:, None, :, None]
        )
        mask = places_K <= own_T1
    whole = queries == keys and places_BT is None
    forward = whole and not torch.is_grad_enabled()
    if keys > (_EXPLICIT_KEYS_FORWARD if forward else EXPLICIT_ATTENTION_KEYS):
        if whole:
            return F.scaled_dot_product_attention(
                queries_BHTD,
                keys_BHKD,
                values_BHKD,
                is_causal=True,
                scale=scale,
                dropout_p=dropout,
            )
        return F.scaled_dot_product_attention(
            queries_BHTD, keys_BHKD, values_BHKD, attn_mask=mask, scale=scale, dropout_p=dropout
        )
    scores_BHTK = (queries_BHTD @ keys_BHKD.transpose(-2, -1)).float() * scale
    if mask is not None:
        scores_BHTK = scores_BHTK.masked_fill(~mask, -torch.inf)
    weights_BHTK = drop(scores_BHTK.softmax(-1), dropout)
    return weights_BHTK.to(values_BHKD.dtype) @ values_BHKD


class Attention(nn.Module):
    """Causal multi-head self-attention, optionally over extra context keys before position 0.

    `modern` (the local family): no biases, queries and keys normalised with a learned
    scale a head, and no weights left out, since their masks would take a third of a step of the
    byte level. Otherwise GPT-2's.
    """

    def __init__(self, width: int, heads: int, *, modern: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.qkv = Linear(width, 3 * width, bias=not modern)
        self.out = Linear(width, width, bias=not modern)
        self.scale_H = nn.Parameter(torch.ones(heads)) if modern else None
        self.dropout = Dropout(dropout)
        self.share_left_out = 0.0 if modern else dropout

    def _split(self, x_BTC: Tensor) -> Tensor:
        batch, positions, _ = x_BTC.shape
        return x_BTC.view(batch, positions, self.heads, self.head_width).transpose(1, 2)

    def _normalise_keys(self, keys_BHTD: Tensor) -> Tensor:
        if self.scale_H is None:
            return keys_BHTD
        return F.rms_norm(keys_BHTD, (self.head_width,))

    def context(self, context_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, K, D) of context positions that have no queries."""
        width = self.heads * self.head_width
        both = F.linear(context_BKC, self.qkv.weight[width:])
        keys, values = both.chunk(2, dim=-1)
        return self._normalise_keys(self._split(keys)), self._split(values)

    def forward(
        self,
        x_BTC: Tensor,
        *,
        rotary: tuple[Tensor, Tensor] | None = None,
        context: tuple[Tensor, Tensor] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        queries, keys, values = (self._split(x) for x in self.qkv(x_BTC).chunk(3, dim=-1))
        keys = self._normalise_keys(keys)
        if self.scale_H is not None:
            queries = F.rms_norm(queries, (self.head_width,))
            queries = queries * self.scale_H.to(queries.dtype)[:, None, None]
        if rotary is not None:
            queries, keys = rotate(queries, rotary), rotate(keys, rotary)
        if cache is not None:
            keys, values = cache.append(keys, values)
        if context is not None:
            keys = torch.cat((context[0], keys), dim=2)
            values = torch.cat((context[1], values), dim=2)
        left_out = self.share_left_out if self.training else 0.0
        mixed = attend(queries, keys, values, 1 / math.sqrt(self.head_width), dropout=left_out)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


class Retrieval(nn.Module):
    """Looks up earlier patches and hands on the bytes they hold.

    Attention of one head over the sequence's patches whose values are not learned: they are the
    embedded bytes themselves, so that what is found can be copied byte by byte.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(
        self,
        features_BTC: Tensor,
        bytes_BTSE: Tensor,
        *,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValueCache | None = None,
        places_BR: Tensor | None = None,
    ) -> Tensor:
        """A mixture of the patches up to each one: (B, T, S, E), like `bytes_BTSE`, their bytes.

        `places_BR`: the patches to do that for, of those given; (B, R, S, E).
        """
        width = features_BTC.shape[-1]
        keys = rotate(F.rms_norm(self.key(features_BTC), (width,))[:, None], rotary)
        if places_BR is not None:
            index_BRC = places_BR[..., None].expand(-1, -1, width)
            features_BTC = features_BTC.gather(1, index_BRC)
            cosines, sines = (table[places_BR][:, None] for table in rotary)
            rotary = cosines, sines
        queries = F.rms_norm(self.query(features_BTC), (width,))[:, None]
        queries = rotate(queries * self.scale.to(queries.dtype), rotary)
        values = bytes_BTSE.to(keys.dtype).flatten(2)[:, None]
        if cache is not None:
            keys, values = cache.append(keys, values)
        found = attend(queries, keys, values, 1 / math.sqrt(width), places_BT=places_BR)
        return found[:, 0].view(*found.shape[:1], -1, *bytes_BTSE.shape[2:])


class Block(nn.Module):
    """Pre-normalised attention and feed-forward, each with a residual connection.

    `modern`: RMSNorm, squared ReLU, no biases, zero-initialised output projections.
    Otherwise GPT-2: LayerNorm (eps 1e-5), tanh GELU, biases.
    """

    def __init__(self, width: int, heads: int, *, modern: bool, dropout: float) -> None:
        super().__init__()
        self.modern = modern
        self.attention_norm = norm(width, modern=modern)
        self.attention = Attention(width, heads, modern=modern, dropout=dropout)
        self.feed_forward_norm = norm(width, modern=modern)
        self.widen = Linear(width, 4 * width, bias=not modern)
        self.narrow = Linear(4 * width, width, bias=not modern)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x_BTC: Tensor,
        *,
        rotary: tuple[Tensor, Tensor] | None = None,
        context: tuple[Tensor, Tensor] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        x_BTC = x_BTC + self.attention(
            self.attention_norm(x_BTC), rotary=rotary, context=context, cache=cache
        )
        inner = self.widen(self.feed_forward_norm(x_BTC))
        inner = inner.relu().square() if self.modern else gelu(inner)
        return x_BTC + self.dropout(self.narrow(inner))  # type: ignore[no-any-return]


def norm(width: int, *, modern: bool) -> nn.Module:
    """RMSNorm for the local family, LayerNorm with GPT-2's epsilon for the published one."""
    return nn.RMSNorm(width, eps=1e-6) if modern else nn.LayerNorm(width, eps=1e-5)
