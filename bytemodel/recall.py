"""Bytes that look up single bytes of the files before their own, such as a conversion's source.

`Retrieval` finds whole patches; but what a converted file needs next of its source, say, stands at
any place of a patch. A byte is found by itself and the three before it, which are a key that any
place gives alike (as n-grams in Pagnoni et al. 2024, arXiv 2412.09871), by what the patch level
knows of its patch, and by what has been counted up to it since its file began: each head learns how
much each byte counts, so that notes, say, or time, are found by how many there were, whatever bytes
spell them (contextual positions: Golovneva et al. 2024, arXiv 2405.18719). What is counted turns
keys and queries, as rotary positions do.

Shape suffixes: B batch, P patches, S patch size, N predicted patches, V vocabulary (257), L bytes,
T queries, H heads, D head width, R turned width, M rows of `Recall.mixes`, E width of the byte
level, C of the patch level, G lookups of counterparts, K bytes of a patch that are looked up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bytemodel.layers import Dropout, KeyValueCache, norm, rotate
from bytemodel.patches import PAD

_GENTLY = 0.2
"""What the logits of gates are multiplied by."""
_FASTEST, _SLOWEST = 1.5, 300.0
"""Radians that one more turns a head's fastest pair by, and how many times less its slowest."""
HEADS = 4
"""How many look up together. Each has its count, which is the same at all times."""
HEAD_WIDTH = 32
TURNED = 16
"""How much of a head's width is turned by what is counted."""
BEFORE = 3
"""How many bytes in front of each are part of its key."""
COUNTERPARTS = 2
"""How often counterparts are looked up: roughly, then near where that says they are."""
_FEW_QUERIES = 16
"""Of a row, that are looked up at once: a byte's, or a few that were guessed. To prepare so long
keys and values for them costs more than it saves."""
_ROW_BY_ROW = ("cpu",)
"""Devices that look up for one sequence after the other, where not all ask as much; others fill up
what those ask that ask for less."""
HEEDED = 6
"""Of how many bytes of a patch they are looked up again: those that were trusted most before."""


class Recalled(NamedTuple):
    """What `Recall` may look up: of each time keys and values of the bytes of B sequences,
    (B, H, L, D) and, but for the last time, with bearings behind, (B, H, L, D + R), and of each of
    N predicted patches the sequence, int64 (N,), how many bytes stand before its file,
    int64 (N,), what each head has counted before it, (N, H), and what `Counterparts` says of that,
    (N, H, R). `mixes_ME`: of `Recall.mixes`, for what is yet to be counted. `grid_BR`: which of the
    N are of each sequence, in their order, N where there are no more, if that is known."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    rows_N: Tensor
    known_N: Tensor
    counts_NH: Tensor
    turns_NHR: Tensor
    mixes_ME: Tensor
    grid_BR: Tensor | None = None

    def at(self, index: Tensor, grid_BR: Tensor | None = None) -> Recalled:
        """Of some of the patches."""
        return self._replace(
            rows_N=self.rows_N[index],
            known_N=self.known_N[index],
            counts_NH=self.counts_NH[index],
            turns_NHR=self.turns_NHR[index],
            grid_BR=grid_BR,
        )

    @property
    def one_each(self) -> bool:
        """Whether it is known that each sequence has one patch, in their order."""
        return self.grid_BR is not None and self.grid_BR.shape == (len(self.rows_N), 1)

    @staticmethod
    def beside(several: Sequence[Recalled]) -> Recalled:
        """That of sequences that were read apart, in the order given."""
        # What stands in no file before is never looked up.
        longest = max(int(recalled.known_N.max()) for recalled in several)

        def together(parts: Sequence[Tensor]) -> Tensor:
            known = [part_BHLD[:, :, :longest] for part_BHLD in parts]
            return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[2])) for part in known])

        rows, first = [], 0
        for recalled in several:
            rows.append(recalled.rows_N + first)
            first += len(recalled.keys[0])
        one_each = all(recalled.one_each for recalled in several)
        return Recalled(
            tuple(map(together, zip(*(recalled.keys for recalled in several), strict=True))),
            tuple(map(together, zip(*(recalled.values for recalled in several), strict=True))),
            torch.cat(rows),
            torch.cat([recalled.known_N for recalled in several]),
            torch.cat([recalled.counts_NH for recalled in several]),
            torch.cat([recalled.turns_NHR for recalled in several]),
            several[0].mixes_ME,
            torch.cat(rows)[:, None] if one_each else None,
        )


class _Behind(NamedTuple):
    """What reading on needs of the patches read: the last few bytes, the last one's features, what
    had been counted behind it, how many bytes stand before the file of what comes, and the sums
    of each of the `Counterparts`."""

    bytes_BT: Tensor
    features_BC: Tensor
    counts_BH: Tensor
    known_B: Tensor
    sums_BGHR: Tensor


class RecallCache(KeyValueCache):
    """Keys and values of the bytes read, and what reading on needs besides."""

    def __init__(self) -> None:
        super().__init__()
        self.behind: _Behind | None = None

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        if self.behind is not None:
            self.behind = _Behind(*(tensor[rows] for tensor in self.behind))


class Recall(nn.Module):
    """Lets each byte that is to be predicted look up single bytes of the files before its own.

    Heads look up one time after another. Those of a later time know what was found before, and some
    of them look up not where their own count is but at the sum of that and the count where they
    found something before, or at the difference: where a mark says that all before it is to be
    played twice, the one who writes it out has counted as much more as stands in front of the mark.
    """

    shifts_H11: Tensor
    shifts = (0, 0, -1, 1)
    """How often each of the heads, from the second time on, adds to its count that of what it
    found."""

    def __init__(self, width: int, patch_width: int, *, times: int, dropout: float) -> None:
        """`times`: how often is looked up."""
        super().__init__()
        self.times = times
        heads, asked = times * HEADS, HEADS * HEAD_WIDTH
        self.mix = nn.Linear((1 + BEFORE) * width, width, bias=False)
        self.key_value = nn.Linear(2 * width, 2 * times * asked, bias=False)
        self.patch_key = nn.Linear(patch_width, times * asked, bias=False)
        self.gate = nn.Linear(2 * width, HEADS)
        self.patch_gate = nn.Linear(patch_width, HEADS, bias=False)
        # Added before turning, so that counts alone can tell what is near.
        self.key_place_HR = nn.Parameter(torch.ones(heads, TURNED))
        self.query_place_HR = nn.Parameter(torch.ones(heads, TURNED))
        self.scale_H = nn.Parameter(torch.ones(heads))
        self.norms = nn.ModuleList(norm(width, modern=True) for _ in range(times))
        self.queries = nn.ModuleList(nn.Linear(width, asked, bias=False) for _ in range(times))
        self.outs = nn.ModuleList(nn.Linear(asked, width, bias=False) for _ in range(times))
        self.counterparts = nn.ModuleList(
            Counterparts(width, patch_width) for _ in range(COUNTERPARTS)
        )
        self.dropout = Dropout(dropout)
        # On the model's device from the start: recorded graphs of a GPU can copy nothing there.
        shifts_H = torch.tensor(self.shifts, dtype=torch.float32)
        self.register_buffer("shifts_H11", shifts_H[:, None, None], persistent=False)

    def mixes(self, table_VE: Tensor) -> Tensor:
        """What `mix` makes of each embedded byte in each place of a run, and of none, one place
        after the other, (M, E): worked out once, not wherever the byte stands."""
        padded = F.pad(table_VE, (0, 0, 0, 1))
        maps = self.mix.weight.chunk(1 + BEFORE, 1)
        return torch.cat([F.linear(padded, weight) for weight in maps]).float()

    def _mixed(self, text_BL: Tensor, mixes_ME: Tensor) -> Tensor:
        """What each byte and those before it make together, (B, L - BEFORE, E), of all bytes but
        the first `BEFORE`, which may be V: nothing stands there."""
        runs_BLK = text_BL.unfold(1, 1 + BEFORE, 1)
        places = 1 + BEFORE
        first_K = torch.arange(places, device=text_BL.device) * (len(mixes_ME) // places)
        rows = (runs_BLK + first_K).flatten(0, 1)
        mixed = F.embedding_bag(rows, mixes_ME, mode="sum").view(*runs_BLK.shape[:2], -1)
        return mixed.relu().square()

    def _gates(self, runs: _Runs, before_BLC: Tensor) -> Tensor:
        """How much each byte counts, (B, L, H). `before_BLC`: features of the patch before its."""
        logits = runs.mapped(self.gate.weight) + self.patch_gate(before_BLC)
        # Muon's steps are as long whatever the gradient: what counts would be settled before
        # anything is known.
        gates = F.softplus(_GENTLY * logits.float() + self.gate.bias)
        return gates * (runs.tokens_BL != PAD)[..., None]

    def _shift(self, found_NHTR: Tensor) -> Tensor:
        """The bearings by which each head turns on, or back, for what was found, (N, H, T, R)."""
        cosines, sines = _pair(found_NHTR)
        cosines = cosines.where(self.shifts_H11 != 0, 1.0)
        return torch.cat((cosines, sines * self.shifts_H11), -1)

    def read(
        self,
        patches_BPS: Tensor,
        features_BPC: Tensor,
        table_VE: Tensor,
        cache: RecallCache | None = None,
    ) -> Recalled:
        """What may be looked up behind each patch, in rows b * P + p; of all bytes, those that the
        cache holds first, the keys and values.

        `table_VE`: what each byte is embedded as.
        """
        batch, count, size = patches_BPS.shape
        tokens_BL = patches_BPS.flatten(1)
        mixes_ME = self.mixes(table_VE)
        if cache is None or cache.behind is None:
            behind = _Behind(
                # Nothing stands before the first.
                tokens_BL.new_full((batch, BEFORE), len(table_VE)),
                torch.zeros_like(features_BPC[:, 0]),
                features_BPC.new_zeros(batch, HEADS, dtype=torch.float32),
                # The first patch names the first file, so nothing stands before that.
                tokens_BL.new_full((batch,), size),
                features_BPC.new_zeros(batch, COUNTERPARTS, HEADS, TURNED + 1, dtype=torch.float32),
            )
        else:
            behind = cache.behind
        text_BL = torch.cat((behind.bytes_BT, tokens_BL), 1)
        runs = _Runs(tokens_BL, self._mixed(text_BL, mixes_ME), table_VE)
        keys, values = runs.mapped(self.key_value.weight).chunk(2, -1)
        keys = keys + self.patch_key(features_BPC).repeat_interleave(size, 1)

        before_BPC = torch.cat((behind.features_BC[:, None], features_BPC[:, :-1]), 1)
        gates = self._gates(runs, before_BPC.repeat_interleave(size, 1))
        counts_BLH = behind.counts_BH[:, None] + gates.cumsum(1)
        # Padding ends a file or its name; what comes is counted anew.
        ended = counts_BLH.where((tokens_BL == PAD)[..., None], 0.0).cummax(1).values
        counts_BLH = counts_BLH - ended
        bearings = _bearings(counts_BLH)
        places = torch.unflatten(self.key_place_HR, 0, (self.times, HEADS))
        by_time = torch.unflatten(_heads(keys), 1, (self.times, HEADS))
        keys_by_time = _placed(by_time, places, bearings[:, None]).unbind(1)
        values_by_time = _split(values).chunk(self.times, 1)
        start = 0
        if cache is None:
            *earlier, last = values_by_time
            values_by_time = *(torch.cat((of_time, bearings), -1) for of_time in earlier), last
            to_be_found = bearings
        else:
            start = cache.length // size
            keys, values = cache.append(
                torch.cat(keys_by_time, 1),
                torch.cat([torch.cat((of_time, bearings), -1) for of_time in values_by_time], 1),
            )
            keys_by_time, values_by_time = keys.chunk(self.times, 1), values.chunk(self.times, 1)
            to_be_found = values_by_time[0][..., HEAD_WIDTH:]
            values_by_time = *values_by_time[:-1], values_by_time[-1][..., :HEAD_WIDTH]
        known_BP = _known(patches_BPS, start, behind.known_B)
        known_in_BP = torch.cat((behind.known_B[:, None], known_BP[:, :-1]), 1)
        turns_BPHR, heeded_BHPK = _no_turn(features_BPC).expand(batch, count, HEADS, -1), None
        sums = []
        for counterparts, sums_BHR in zip(
            self.counterparts, behind.sums_BGHR.unbind(1), strict=True
        ):
            turns_BPHR, sums_BHR, heeded_BHPK = counterparts(
                runs,
                features_BPC,
                bearings,
                known_in_BP,
                keys_by_time[0],
                to_be_found,
                turns_BPHR,
                heeded_BHPK,
                sums_BHR,
            )
            sums.append(sums_BHR)
        if cache is not None:
            cache.behind = _Behind(
                text_BL[:, -BEFORE:],
                features_BPC[:, -1],
                counts_BLH[:, -1],
                known_BP[:, -1],
                torch.stack(sums, 1),
            )
        return Recalled(
            keys_by_time,
            values_by_time,
            torch.arange(batch, device=tokens_BL.device).repeat_interleave(count),
            known_BP.flatten(),
            counts_BLH[:, size - 1 :: size].flatten(0, 1),
            turns_BPHR.flatten(0, 1),
            mixes_ME,
        )

    def counts(
        self,
        bytes_NT: Tensor,
        previous_NS: Tensor,
        features_NC: Tensor,
        recalled: Recalled,
        table_VE: Tensor,
    ) -> Tensor:
        """What has been counted before each of the bytes that follow `bytes_NT` one by one in N
        patches, (N, T + 1, H).

        `previous_NS`, `features_NC`: the patches before these and their features.
        """
        counts_NH = recalled.counts_NH
        if bytes_NT.shape[1] == 0:
            return counts_NH[:, None]
        last_NT = previous_NS[:, -BEFORE:]
        last_NT = F.pad(last_NT, (BEFORE - last_NT.shape[1], 0), value=len(table_VE))
        mixed = self._mixed(torch.cat((last_NT, bytes_NT), 1), recalled.mixes_ME)
        gates = self._gates(_Runs(bytes_NT, mixed, table_VE), features_NC[:, None])
        return counts_NH[:, None] + F.pad(gates.cumsum(1), (0, 0, 1, 0))

    def forward(
        self,
        x_NTE: Tensor,
        recalled: Recalled,
        counts_NTH: Tensor,
        time: int,
        found_NHTR: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """What is added to `x_NTE`, (N, T, E), states of bytes of N patches, and the bearings of
        what was found, (N, H, T, R): means of unit vectors, so the less sure, the shorter.

        `counts_NTH`: what has been counted before each. `time`: 0, or a later one; then
        `found_NHTR` are the bearings that the time before it gave. The last time gives none.
        """
        heads = slice(time * HEADS, (time + 1) * HEADS)
        asked_NTI = self.queries[time](self.norms[time](x_NTE))
        bearings_NHTR = _sum(_bearings(counts_NTH), recalled.turns_NHR[:, :, None])
        if found_NHTR is not None:
            bearings_NHTR = _sum(bearings_NHTR, self._shift(found_NHTR))
        queries = _placed(_heads(asked_NTI), self.query_place_HR[heads], bearings_NHTR)
        queries = (queries * self.scale_H[heads, None, None]).to(asked_NTI.dtype)
        found = self._found(queries, recalled.keys[time], recalled.values[time], recalled)
        values, bearings = found.tensor_split([HEAD_WIDTH], -1)
        return self.dropout(self.outs[time](values.transpose(1, 2).flatten(2))), bearings

    def _found(
        self, queries_NHTD: Tensor, keys_BHLD: Tensor, values_BHLD: Tensor, recalled: Recalled
    ) -> Tensor:
        rows_N, known_N, grid_BR = recalled.rows_N, recalled.known_N, recalled.grid_BR
        rows, count = len(keys_BHLD), len(rows_N)
        if rows == 1:
            grid_BR = torch.arange(count, device=rows_N.device)[None]
        elif not recalled.one_each and rows_N.device.type in _ROW_BY_ROW:
            return _found_row_by_row(queries_NHTD, keys_BHLD, values_BHLD, rows_N, known_N)
        if grid_BR is None:
            grid_BR = _grid(rows_N, rows)
        # What is none of them looks up something, and that is left out again.
        places = grid_BR.flatten()
        known_BR = F.pad(known_N, (0, 1), value=1)[places].view_as(grid_BR)
        asked = F.pad(queries_NHTD, (0, 0, 0, 0, 0, 0, 0, 1))[places]
        queries_BHQD = torch.unflatten(asked, 0, grid_BR.shape).transpose(1, 2).flatten(2, 3)
        known_BQ = known_BR.repeat_interleave(queries_NHTD.shape[2], 1)
        found_BHQD = _look_up(queries_BHQD, keys_BHLD, values_BHLD, known_BQ)
        found_BHRTD = torch.unflatten(found_BHQD, 2, (grid_BR.shape[1], -1))
        found = found_BHRTD.transpose(1, 2).flatten(0, 1)
        return found.new_zeros(count + 1, *found.shape[1:]).index_copy(0, places, found)[:count]


def _found_row_by_row(
    queries_NHTD: Tensor,
    keys_BHLD: Tensor,
    values_BHLD: Tensor,
    rows_N: Tensor,
    known_N: Tensor,
) -> Tensor:
    """Where as much is not asked of every sequence: of each by itself."""
    order = rows_N.argsort(stable=True)
    counts = torch.bincount(rows_N, minlength=len(keys_BHLD)).tolist()
    asked = torch.split(queries_NHTD[order], counts)
    known = torch.split(known_N[order], counts)
    found = []
    # Split, not chosen: the gradient of each would be as large as all of them.
    for asked_NHTD, keys_1HLD, values_1HLD, known_N in zip(
        asked, torch.split(keys_BHLD, 1), torch.split(values_BHLD, 1), known, strict=True
    ):
        if len(known_N):
            queries_1HQD = asked_NHTD.transpose(0, 1).flatten(1, 2)[None]
            known_1Q = known_N.repeat_interleave(asked_NHTD.shape[2])[None]
            found_HQD = _look_up(queries_1HQD, keys_1HLD, values_1HLD, known_1Q)[0]
            found.append(torch.unflatten(found_HQD, 1, (len(known_N), -1)).transpose(0, 1))
    return torch.cat(found)[order.argsort()]


def _grid(rows_N: Tensor, rows: int) -> Tensor:
    """Which of the patches are of each sequence, as `Recalled` has it."""
    order = rows_N.argsort(stable=True)
    counts_B = torch.bincount(rows_N, minlength=rows)
    places_R = torch.arange(int(counts_B.max()), device=rows_N.device)
    first_B1 = (counts_B.cumsum(0) - counts_B)[:, None]
    index_BR = (first_B1 + places_R).clamp(max=len(rows_N) - 1)
    return order[index_BR].where(places_R < counts_B[:, None], len(rows_N))


class Counterparts(nn.Module):
    """Says how far what is counted in a file has come away from what was counted before it.

    Counts that differ by a little for each note, say, are of another note after a hundred. So each
    byte that is read looks up what it stands for in the files before its own, which is easier than
    to foresee it, since it knows itself. The difference of the two counts there is a turn; those of
    all bytes, weighted by how much each is to be trusted and the less the more patches ago it was,
    and what was believed so far, at first no turn, are added up. As these are unit vectors, or
    shorter ones where something else may be meant, those that disagree cancel out. What is left
    tells roughly where counterparts are; who looks them up again begins from there and finds fewer
    others that look alike.
    """

    def __init__(self, width: int, patch_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(2 * width, HEADS * HEAD_WIDTH, bias=False)
        self.patch_query = nn.Linear(patch_width, HEADS * HEAD_WIDTH, bias=False)
        self.query_place_HR = nn.Parameter(torch.ones(HEADS, TURNED))
        self.scale_H = nn.Parameter(torch.ones(HEADS))
        self.trust = nn.Linear(2 * width, HEADS)
        self.prior_H = nn.Parameter(torch.full((HEADS,), 1.4))
        """Logarithms of what the turn weighs that is believed so far."""
        self.kept_H = nn.Parameter(torch.ones(HEADS))
        """Of the shares of all sums that are left after a patch, the logits."""

    def forward(
        self,
        runs: _Runs,
        features_BPC: Tensor,
        bearings_BHTR: Tensor,
        known_BP: Tensor,
        keys_BHLD: Tensor,
        bearings_BHLR: Tensor,
        believed_BPHR: Tensor,
        heeded_BHPK: Tensor | None,
        sums_BHR: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What queries are to be turned by behind each patch: (B, P, H, R), cosines, then sines;
        the sums of turns and weights behind the last, (B, H, R + 1); and which bytes of each patch
        to look up again, (B, H, P, K): those given, else those that are trusted most.

        `bearings_BHTR`: of what is counted in these patches. `known_BP`: how many bytes stand
        before each one's file. `keys_BHLD`, `bearings_BHLR`: of all bytes that may be looked up.
        `believed_BPHR`: what queries were to be turned by so far. `heeded_BHPK`: which bytes of
        each patch to look up, if not all. `sums_BHR`: those behind the patch before.
        """
        count, size = known_BP.shape[1], runs.tokens_BL.shape[1] // known_BP.shape[1]
        # Bytes of the first file look up nothing. On a GPU, to ask which are would be to wait.
        first = 0
        if known_BP.device.type == "cpu":
            first = min(int(((known_BP == size).all(0)).cumprod(0).sum()), count - 1)
        runs = runs.since(first * size)
        known_BP, turns_BHPR = known_BP[:, first:], believed_BPHR[:, first:].transpose(1, 2)
        of_patches = self.patch_query(features_BPC[:, first:])
        queries = _heads(runs.mapped(self.query.weight) + of_patches.repeat_interleave(size, 1))
        trust_BTH = F.softplus(runs.mapped(self.trust.weight).float() + self.trust.bias)
        trust_BTH = trust_BTH * (runs.tokens_BL != PAD)[..., None]
        trust_BHT1 = trust_BTH.transpose(1, 2)[..., None]
        bearings_BHTR = bearings_BHTR[:, :, first * size :]
        if heeded_BHPK is None:
            trust_BHPS = torch.unflatten(trust_BHT1[..., 0], 2, (-1, size))
            heeded_BHPK = F.pad(trust_BHPS.topk(min(HEEDED, size))[1], (0, 0, first, 0))
        else:
            queries, bearings_BHTR, trust_BHT1 = (
                _chosen(of_bytes, heeded_BHPK[:, :, first:])
                for of_bytes in (queries, bearings_BHTR, trust_BHT1)
            )
        looked_up = queries.shape[2] // known_BP.shape[1]

        believed_BHTR = turns_BHPR.repeat_interleave(looked_up, 2)
        queries = _placed(queries, self.query_place_HR, _sum(bearings_BHTR, believed_BHTR))
        queries = (queries * self.scale_H[:, None, None]).to(of_patches.dtype)
        # What only fills a batch stands for nothing.
        said_BP = runs.tokens_BL[:, ::size] != PAD
        known_BT = (known_BP * said_BP).repeat_interleave(looked_up, 1)
        found = _look_up(queries, keys_BHLD, bearings_BHLR, known_BT).float()
        # Beside each turn how much it weighs.
        turns = F.pad(_difference(found, bearings_BHTR), (0, 1), value=1.0)
        turns = turns * trust_BHT1 * (known_BT > size)[:, None, :, None]
        sums_BHPR = self._faded(torch.unflatten(turns, 2, (-1, looked_up)).sum(3), sums_BHR)
        told, weight = sums_BHPR.tensor_split([TURNED], -1)
        prior = self.prior_H.exp()[:, None, None]
        told = (prior * turns_BHPR + told) / (prior + weight)
        told = torch.cat((believed_BPHR[:, :first], told.transpose(1, 2)), 1)
        return told, sums_BHPR[:, :, -1], heeded_BHPK

    def _faded(self, sums_BHPR: Tensor, before_BHR: Tensor) -> Tensor:
        """What is left behind each patch of its own sums and all those before."""
        places_P = torch.arange(sums_BHPR.shape[2], device=sums_BHPR.device)
        ago_PP = places_P[:, None] - places_P
        kept_H11 = F.logsigmoid(self.kept_H)[:, None, None]
        left_HPP = (kept_H11 * ago_PP.clamp(min=0)).exp() * (ago_PP >= 0)
        left_HP1 = (kept_H11 * (places_P[:, None] + 1)).exp()
        return left_HPP @ sums_BHPR + left_HP1 * before_BHR[:, :, None]


class _Runs(NamedTuple):
    """Bytes and what each makes together with those before it."""

    tokens_BL: Tensor
    mixed_BLE: Tensor
    table_VE: Tensor

    def since(self, place: int) -> _Runs:
        return _Runs(self.tokens_BL[:, place:], self.mixed_BLE[:, place:], self.table_VE)

    def mapped(self, weight: Tensor) -> Tensor:
        """A linear map of each embedded byte beside what it makes with those before it."""
        of_byte, of_run = weight.tensor_split([self.table_VE.shape[1]], 1)
        own = F.embedding(self.tokens_BL, F.linear(self.table_VE, of_byte).float())
        return own + F.linear(self.mixed_BLE, of_run)


def _known(patches_BPS: Tensor, start: int, known_B: Tensor) -> Tensor:
    """How many bytes stand before the file of what comes behind each patch, (B, P).

    `start`: how many patches stand before these, `known_B`: before the file of what came first.
    """
    size = patches_BPS.shape[2]
    places_P = torch.arange(start + 1, start + 1 + patches_BPS.shape[1], device=known_B.device)
    # Padding ends a file or its name; patches of nothing else only fill a batch.
    ends_BP = (patches_BPS[..., -1] == PAD) & (patches_BPS[..., 0] != PAD)
    known_BP = (places_P * size).where(ends_BP, known_B[:, None])
    return known_BP.cummax(1).values


def _look_up(
    queries_BHQD: Tensor, keys_BHLD: Tensor, values_BHLD: Tensor, known_BQ: Tensor
) -> Tensor:
    """Attention to the first `known_BQ` bytes, for each query; where none are, whatever."""
    width, wanted = queries_BHQD.shape[3], values_BHLD.shape[3]
    on_cpu = known_BQ.device.type == "cpu"
    if on_cpu:
        # A file that is being written grows, and none of it is known.
        longest = max(int(known_BQ.max()), 1)
        keys_BHLD, values_BHLD = keys_BHLD[:, :, :longest], values_BHLD[:, :, :longest]
        if queries_BHQD.shape[2] <= _FEW_QUERIES:
            scores_BHQL = (queries_BHQD @ keys_BHLD.transpose(-2, -1)).float() * width**-0.5
            unknown_B1QL = ~_mask(keys_BHLD, known_BQ.clamp(min=1))
            weights_BHQL = scores_BHQL.masked_fill(unknown_B1QL, -torch.inf).softmax(-1)
            return torch.matmul(weights_BHQL.to(values_BHLD.dtype), values_BHLD)
    # Fused: rows are long here, and the scores of all would be hundreds of megabytes. For that
    # keys have to be as wide as values.
    wide = max(width, wanted)
    queries = F.pad(queries_BHQD, (0, wide - width))
    keys = F.pad(keys_BHLD.to(queries.dtype), (0, wide - width))
    values = F.pad(values_BHLD.to(queries.dtype), (0, wide - wanted))
    if on_cpu:
        found = _attended_in_runs(queries, keys, values, known_BQ, width**-0.5)
    else:
        mask_B1QL = _mask(keys_BHLD, known_BQ.clamp(min=1))
        found = F.scaled_dot_product_attention(queries, keys, values, mask_B1QL, scale=width**-0.5)
    return found[..., :wanted]


def _mask(keys_BHLD: Tensor, known_BQ: Tensor) -> Tensor:
    """Whether each byte is among those, (B, 1, Q, L)."""
    places_L = torch.arange(keys_BHLD.shape[2], dtype=torch.int32, device=known_BQ.device)
    return (places_L < known_BQ[..., None])[:, None]


def _attended_in_runs(
    queries_BHQD: Tensor, keys_BHLD: Tensor, values_BHLD: Tensor, known_BQ: Tensor, scale: float
) -> Tensor:
    """The same, those queries of a row together that follow one another and know as much: what
    stands behind a file knows all of it, and a mask would have all others read that too."""
    found = []
    for *row, known_Q in zip(queries_BHQD, keys_BHLD, values_BHLD, known_BQ, strict=True):
        queries, keys, values = (tensor[None] for tensor in row)
        lengths, counts = (of.tolist() for of in known_Q.unique_consecutive(return_counts=True))
        runs = [
            F.scaled_dot_product_attention(
                of_run, keys[:, :, :length], values[:, :, :length], scale=scale
            )
            if length
            else of_run.new_zeros(*of_run.shape[:3], values.shape[3])
            for of_run, length in zip(queries.split(counts, 2), lengths, strict=True)
        ]
        found.append(torch.cat(runs, 2))
    return torch.cat(found)


def _split(x_BTI: Tensor) -> Tensor:
    return x_BTI.view(*x_BTI.shape[:2], -1, HEAD_WIDTH).transpose(1, 2)


def _heads(x_BTI: Tensor) -> Tensor:
    """Keys or queries of unit deviation, (B, H, T, D)."""
    return F.rms_norm(_split(x_BTI), (HEAD_WIDTH,))


def _bearings(counts_BTH: Tensor) -> Tensor:
    """Cosines of what pairs are turned by, then sines: (B, H, T, R)."""
    steps = torch.arange(TURNED // 2, device=counts_BTH.device) / (TURNED // 2 - 1)
    angles = counts_BTH.transpose(1, 2)[..., None] * (_FASTEST * _SLOWEST**-steps)
    return torch.cat((angles.cos(), angles.sin()), -1)


def _placed(x_BHTD: Tensor, place_HR: Tensor, bearings_BHTR: Tensor) -> Tensor:
    """Keys or queries turned by what is counted; those of several times have one dimension more."""
    place_HD = F.pad(place_HR, (0, x_BHTD.shape[-1] - TURNED))
    return rotate(x_BHTD + place_HD[..., None, :], _pair(bearings_BHTR))


def _sum(bearings: Tensor, others: Tensor) -> Tensor:
    """The bearings of the sum of what two are the bearings of."""
    return rotate(bearings, _pair(others))


def _difference(bearings: Tensor, others: Tensor) -> Tensor:
    """The bearings of the difference of what two are the bearings of."""
    (cosines, sines), (other_cosines, other_sines) = _pair(bearings), _pair(others)
    return torch.cat(
        (
            cosines * other_cosines + sines * other_sines,
            sines * other_cosines - cosines * other_sines,
        ),
        -1,
    )


def _chosen(x_BHTD: Tensor, places_BHPK: Tensor) -> Tensor:
    """Of the bytes of each patch those at these places, (B, H, P * K, D)."""
    index = places_BHPK[..., None].expand(*places_BHPK.shape, x_BHTD.shape[3])
    by_patch = torch.unflatten(x_BHTD, 2, (places_BHPK.shape[2], -1))
    return by_patch.gather(3, index).flatten(2, 3)


def _no_turn(like: Tensor) -> Tensor:
    """The bearings of nothing, (R,)."""
    return (torch.arange(TURNED, device=like.device) < TURNED // 2).float()


def _pair(bearings_BHTR: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines and the sines."""
    cosines, sines = bearings_BHTR.chunk(2, -1)
    return cosines, sines
