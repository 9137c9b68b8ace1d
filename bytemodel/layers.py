"""Attention, feed-forward and blocks, shared by both families and both levels.

Shape suffixes: B batch, T queries, K keys, H heads, D head width, C model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bytemodel.patches import PAD

EXPLICIT_ATTENTION_KEYS = 512
"""Up to here matmul-softmax-matmul beats the fused kernel, whose CPU backward is slow
on short rows."""
_EXPLICIT_KEYS_FORWARD = 64
"""The same where a whole sequence is read without gradients: forward the fused kernel is quick."""
_GENTLY = 0.2
"""What the logits of gates are multiplied by."""
_FASTEST, _SLOWEST = 1.5, 300.0
"""Radians that one more turns a head's fastest pair by, and how many times less its slowest."""


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


class Recalled(NamedTuple):
    """What `Recall` may look up: keys and values of the bytes of B sequences, (B, H, L, D), and of
    each of N predicted patches the sequence, int64 (N,), how many bytes stand before it, int64
    (N,), and what each head has counted in these, (N, H). `mixes_RE`: of `Recall.mixes`, for what
    is yet to be counted. `per_row`: how many patches each sequence has, if that is known to be the
    same and they are in order."""

    keys_BHLD: Tensor
    values_BHLD: Tensor
    rows_N: Tensor
    known_N: Tensor
    counts_NH: Tensor
    mixes_RE: Tensor
    per_row: int | None = None

    def at(self, index: Tensor, per_row: int | None = None) -> Recalled:
        """Of some of the patches."""
        return self._replace(
            rows_N=self.rows_N[index],
            known_N=self.known_N[index],
            counts_NH=self.counts_NH[index],
            per_row=per_row,
        )


class RecallCache(KeyValueCache):
    """Keys and values of the bytes read, the last few bytes, and, of the last patch read, its
    features and what had been counted behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        if self.last is not None:
            bytes_BT, features_BC, counts_BH = (tensor[rows] for tensor in self.last)
            self.last = bytes_BT, features_BC, counts_BH


class Recall(nn.Module):
    """Lets each byte that is to be predicted look up single bytes of all patches before its own.

    `Retrieval` finds whole patches; but what a converted file needs next of its source, say, stands
    at any place of a patch. A byte is found by itself and the three before it, which are a key
    that any place gives alike (as n-grams in Pagnoni et al. 2024, arXiv 2412.09871), by what the
    patch level knows of its patch, and by what has been counted up to it since its file began: each
    head learns how much each byte counts, so that notes, say, or time, are found by how many there
    were, whatever bytes spell them (contextual positions: Golovneva et al. 2024, arXiv 2405.18719).
    What is counted turns keys and queries, as rotary positions do.

    Heads look up one time after another. Those of a later time know what was found before, and some
    of them look up not where their own count is but at the sum of that and the count where they
    found something before, or at the difference: where a mark says that all before it is to be
    played twice, the one who writes it out has counted as much more as stands in front of the mark.
    """

    shifts_H11: Tensor
    at_once = 4
    """How many heads look up together. Each has its count, which is the same at all times."""
    shifts = (0, 0, -1, 1)
    """How often each of these, from the second time on, adds to its count that of what it found."""
    head_width = 32
    before = 3
    """How many bytes in front of each are part of its key."""
    turned = 16
    """How much of a head's width is turned by what is counted."""

    def __init__(self, width: int, patch_width: int, *, times: int, dropout: float) -> None:
        """`times`: how often is looked up."""
        super().__init__()
        self.times = times
        heads = times * self.at_once
        inner = heads * self.head_width
        self.mix = nn.Linear((1 + self.before) * width, width, bias=False)
        self.key_value = nn.Linear(2 * width, 2 * inner, bias=False)
        self.patch_key = nn.Linear(patch_width, inner, bias=False)
        self.gate = nn.Linear(2 * width, self.at_once)
        self.patch_gate = nn.Linear(patch_width, self.at_once, bias=False)
        # Added before turning, so that counts alone can tell what is near.
        self.key_place_HR = nn.Parameter(torch.ones(heads, self.turned))
        self.query_place_HR = nn.Parameter(torch.ones(heads, self.turned))
        self.scale_H = nn.Parameter(torch.ones(heads))
        asked = self.at_once * self.head_width
        self.norms = nn.ModuleList(norm(width, modern=True) for _ in range(times))
        self.queries = nn.ModuleList(nn.Linear(width, asked, bias=False) for _ in range(times))
        self.outs = nn.ModuleList(nn.Linear(asked, width, bias=False) for _ in range(times))
        self.dropout = Dropout(dropout)
        # On the model's device from the start: recorded graphs of a GPU can copy nothing there.
        shifts_H = torch.tensor(self.shifts, dtype=torch.float32)
        self.register_buffer("shifts_H11", shifts_H[:, None, None], persistent=False)

    def _split(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.view(*x_BTC.shape[:2], -1, self.head_width).transpose(1, 2)

    def _normalise(self, x_BHTD: Tensor) -> Tensor:
        return F.rms_norm(x_BHTD, (self.head_width,))

    def mixes(self, table_VE: Tensor) -> Tensor:
        """What `mix` makes of each embedded byte in each place of a run, and of none, one place
        after the other, (R, E): worked out once, not wherever the byte stands."""
        padded = F.pad(table_VE, (0, 0, 0, 1))
        maps = self.mix.weight.chunk(1 + self.before, 1)
        return torch.cat([F.linear(padded, weight) for weight in maps]).float()

    def _mixed(self, text_BL: Tensor, mixes_RE: Tensor) -> Tensor:
        """What each byte and those before it make together, (B, L - before, E), of all bytes but
        the first `before`, which may be V: nothing stands there."""
        runs_BLK = text_BL.unfold(1, 1 + self.before, 1)
        places = 1 + self.before
        first_K = torch.arange(places, device=text_BL.device) * (len(mixes_RE) // places)
        rows = (runs_BLK + first_K).flatten(0, 1)
        mixed = F.embedding_bag(rows, mixes_RE, mode="sum").view(*runs_BLK.shape[:2], -1)
        return mixed.relu().square()

    def _of_both(
        self, weight: Tensor, tokens_BL: Tensor, mixed_BLE: Tensor, table_VE: Tensor
    ) -> Tensor:
        """A linear map of each embedded byte beside what it makes with those before it."""
        of_byte, of_run = weight.tensor_split([table_VE.shape[1]], 1)
        own = F.embedding(tokens_BL, F.linear(table_VE, of_byte).float())
        return own + F.linear(mixed_BLE, of_run)

    def _gates(
        self, tokens_BL: Tensor, mixed_BLE: Tensor, before_BLC: Tensor, table_VE: Tensor
    ) -> Tensor:
        """How much each byte counts, (B, L, H). `before_BLC`: features of the patch before its."""
        logits = self._of_both(self.gate.weight, tokens_BL, mixed_BLE, table_VE)
        logits = logits + self.patch_gate(before_BLC)
        # Muon's steps are as long whatever the gradient: what counts would be settled before
        # anything is known.
        gates = F.softplus(_GENTLY * logits.float() + self.gate.bias)
        return gates * (tokens_BL != PAD)[..., None]

    def _bearings(self, counts_BTH: Tensor) -> Tensor:
        """Cosines of what pairs are turned by, then sines: (B, H, T, R)."""
        steps = torch.arange(self.turned // 2, device=counts_BTH.device) / (self.turned // 2 - 1)
        angles = counts_BTH.transpose(1, 2)[..., None] * (_FASTEST * _SLOWEST**-steps)
        return torch.cat((angles.cos(), angles.sin()), -1)

    def _place(self, x_BHTD: Tensor, place_HR: Tensor, bearings_BHTR: Tensor) -> Tensor:
        """Keys or queries turned by what is counted."""
        turned, rest = x_BHTD.tensor_split([self.turned], -1)
        placed = rotate(turned + place_HR[:, None], _pair(bearings_BHTR))
        return torch.cat((placed, rest), -1)

    def _shifted(self, queries_NHTD: Tensor, found_NHTR: Tensor) -> Tensor:
        """Turned on, or back, by as much as what was found is turned by."""
        cosines, sines = _pair(found_NHTR)
        cosines = cosines.where(self.shifts_H11 != 0, 1.0)
        return rotate(queries_NHTD, (cosines, sines * self.shifts_H11))

    def read(
        self,
        patches_BPS: Tensor,
        features_BPC: Tensor,
        table_VE: Tensor,
        mixes_RE: Tensor,
        cache: RecallCache | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What may be looked up in patches: of their bytes the keys, (B, H, L, D), and the values
        and bearings, (B, H, L, D + R), behind those that the cache holds, H heads of each time; and
        what is counted behind each patch, (B, P, at_once).

        `table_VE`: what each byte is embedded as. `mixes_RE`: the `mixes` of that.
        """
        batch, _, size = patches_BPS.shape
        tokens_BL = patches_BPS.flatten(1)
        if cache is None or cache.last is None:
            # Nothing stands before the first.
            last_BT = tokens_BL.new_full((batch, self.before), len(table_VE))
            before_BC = torch.zeros_like(features_BPC[:, 0])
            start_BH = features_BPC.new_zeros(batch, self.at_once, dtype=torch.float32)
        else:
            last_BT, before_BC, start_BH = cache.last
        text_BL = torch.cat((last_BT, tokens_BL), 1)
        mixed = self._mixed(text_BL, mixes_RE)
        keys, values = self._of_both(self.key_value.weight, tokens_BL, mixed, table_VE).chunk(2, -1)
        keys = keys + self.patch_key(features_BPC).repeat_interleave(size, 1)

        before_BPC = torch.cat((before_BC[:, None], features_BPC[:, :-1]), 1)
        gates = self._gates(tokens_BL, mixed, before_BPC.repeat_interleave(size, 1), table_VE)
        counts_BLH = start_BH[:, None] + gates.cumsum(1)
        # Padding ends a file or its name; what comes is counted anew.
        ended = counts_BLH.where((tokens_BL == PAD)[..., None], 0.0).cummax(1).values
        counts_BLH = counts_BLH - ended
        bearings = self._bearings(counts_BLH).repeat(1, self.times, 1, 1)
        keys = self._place(self._normalise(self._split(keys)), self.key_place_HR, bearings)
        values = torch.cat((self._split(values), bearings), -1)
        if cache is not None:
            cache.last = text_BL[:, -self.before :], features_BPC[:, -1], counts_BLH[:, -1]
            keys, values = cache.append(keys, values)
        return keys, values, counts_BLH[:, size - 1 :: size]

    def counts(
        self,
        bytes_NT: Tensor,
        previous_NS: Tensor,
        features_NC: Tensor,
        counts_NH: Tensor,
        table_VE: Tensor,
        mixes_RE: Tensor,
    ) -> Tensor:
        """What has been counted before each of the bytes that follow `bytes_NT` one by one in N
        patches, (N, T + 1, H).

        `previous_NS`, `features_NC`: the patches before these and their features. `counts_NH`: what
        had been counted behind those.
        """
        if bytes_NT.shape[1] == 0:
            return counts_NH[:, None]
        last_NT = previous_NS[:, -self.before :]
        last_NT = F.pad(last_NT, (self.before - last_NT.shape[1], 0), value=len(table_VE))
        mixed = self._mixed(torch.cat((last_NT, bytes_NT), 1), mixes_RE)
        gates = self._gates(bytes_NT, mixed, features_NC[:, None], table_VE)
        return counts_NH[:, None] + F.pad(gates.cumsum(1), (0, 0, 1, 0))

    def forward(
        self,
        x_NTC: Tensor,
        recalled: Recalled,
        counts_NTH: Tensor,
        time: int,
        found_NHTR: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """What is added to `x_NTC`, (N, T, C), states of bytes of N patches, and the bearings of
        what was found, (N, H, T, R): means of unit vectors, so the less sure, the shorter.

        `counts_NTH`: what has been counted before each. `time`: 0, or a later one; then
        `found_NHTR` are the bearings that the time before it gave. The last time gives none.
        """
        heads = slice(time * self.at_once, (time + 1) * self.at_once)
        asked_NTI = self.queries[time](self.norms[time](x_NTC))
        queries = self._normalise(self._split(asked_NTI))
        queries = self._place(queries, self.query_place_HR[heads], self._bearings(counts_NTH))
        if found_NHTR is not None:
            queries = self._shifted(queries, found_NHTR)
        queries = (queries * self.scale_H[heads, None, None]).to(asked_NTI.dtype)
        wanted = self.head_width + (self.turned if time < self.times - 1 else 0)
        found = self._found(
            queries,
            recalled._replace(
                keys_BHLD=recalled.keys_BHLD[:, heads],
                values_BHLD=recalled.values_BHLD[:, heads, :, :wanted],
            ),
        )
        values, bearings = found.tensor_split([self.head_width], -1)
        return self.dropout(self.outs[time](values.transpose(1, 2).flatten(2))), bearings

    def _found(self, queries_NHTD: Tensor, recalled: Recalled) -> Tensor:
        keys, values, rows_N, known_N, _, _, per_row = recalled
        if per_row is None and len(keys) == 1:
            per_row = len(rows_N)
        if per_row is None:
            found = queries_NHTD.new_empty(*queries_NHTD.shape[:3], values.shape[3])
            for row in sorted(set(rows_N.tolist())):
                chosen = (rows_N == row).nonzero()[:, 0]
                of_row = recalled.at(chosen)._replace(
                    keys_BHLD=keys[row, None], values_BHLD=values[row, None]
                )
                found[chosen] = self._found(queries_NHTD[chosen], of_row).to(found.dtype)
            return found
        batch, (_, heads, times, width) = len(keys), queries_NHTD.shape
        queries_BHQD = (
            queries_NHTD.view(batch, per_row, heads, times, width).transpose(1, 2).flatten(2, 3)
        )
        places_L = torch.arange(keys.shape[2], dtype=torch.int32, device=keys.device)
        mask_NL = places_L < known_N[:, None]
        mask_BQL = mask_NL.view(batch, per_row, 1, -1).expand(-1, -1, times, -1).flatten(1, 2)
        # Fused: rows are long here, and the scores of all would be hundreds of megabytes. For that
        # keys have to be as wide as values.
        wider = (0, values.shape[3] - width)
        found_BHQD = F.scaled_dot_product_attention(
            F.pad(queries_BHQD, wider),
            F.pad(keys.to(queries_BHQD.dtype), wider),
            values.to(queries_BHQD.dtype),
            attn_mask=mask_BQL[:, None],
            scale=width**-0.5,
        )
        found = found_BHQD.view(batch, heads, per_row, times, -1)
        return found.transpose(1, 2).flatten(0, 1)


def _pair(bearings_BHTR: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines and the sines."""
    cosines, sines = bearings_BHTR.chunk(2, -1)
    return cosines, sines


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
