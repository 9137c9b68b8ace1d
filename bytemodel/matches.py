"""What came next when the last few bytes stood together before.

General compressors live on repetition: of the bytes just seen they look up the last occurrence and
bet on what followed it. Attention over patches finds a repetition well only where it begins at the
same place of a patch. So the byte level may be told, at every byte, what a lookup of its last 3,
5, 8 ... bytes says, up to as many as its configuration names (an "induction head", Olsson et al.
2022, arXiv 2209.11895, that need not be learned, and that reads n-grams as in Pagnoni et al. 2024,
arXiv 2412.09871). The longer the run that stood before, the surer is what followed it.

Shape suffixes: B rows, L tokens of a row, T tokens of a patch, K orders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bytemodel.config import SHORTEST_MATCH
from bytemodel.patches import PAD, VOCABULARY

ORDERS = (SHORTEST_MATCH, 5, 8, 12, 20, 32, 64, 128)
"""How many bytes must have stood together, for each of the lookups there may be."""
NONE = VOCABULARY
"""Said where they never did. A run of bytes ends at a token 256, whatever stands beyond it."""

_FACTOR = 6364136223846793005
"""Odd, of Knuth's MMIX; hashes are polynomials in it modulo 2^64."""
_INVERSE = pow(_FACTOR, -1, 1 << 64) - (1 << 64)
"""The product of the two is 1, modulo 2^64; as a signed number."""


def orders(longest: int) -> tuple[int, ...]:
    """The lookups of up to so many bytes, the shortest first."""
    return tuple(order for order in ORDERS if order <= longest)


@torch.library.custom_op("bytemodel::matches", mutates_args=())
def matches(tokens_BL: Tensor, longest: int) -> Tensor:
    """What the lookups of up to `longest` bytes say of each token from those before it in its row:
    int64 (B, L, K).

    Two runs of bytes are taken to be equal if their 64-bit hashes are.
    """
    rows, length = tokens_BL.shape
    places_L = torch.arange(length, device=tokens_BL.device)
    # How many tokens in a row before each place are bytes.
    breaks_BL = torch.where(tokens_BL == PAD, places_L + 1, 0).cummax(1).values
    bytes_BL = places_L - torch.cat((breaks_BL.new_zeros(rows, 1), breaks_BL[:, :-1]), 1)
    found_BLK = tokens_BL.new_full((rows, length, len(orders(longest))), NONE)
    # A hash is the sum of the tokens before a place, each times the factor to the power of how far
    # back it is: of sums from the first token on the difference, brought to that power.
    powers_L = places_L.new_full((length,), _FACTOR).cumprod(0)
    inverse_L = places_L.new_full((length,), _INVERSE).cumprod(0)
    sums_BL = F.pad(((tokens_BL + 1) * inverse_L).cumsum(1), (1, 0))[:, :-1]
    for number, order in enumerate(orders(longest)):
        if order >= length:
            break
        before_BL = F.pad(sums_BL[:, :-order], (order, 0))
        hashes, sorted_BL = ((sums_BL - before_BL) * powers_L).sort(dim=1, stable=True)
        last_BL = torch.full_like(sorted_BL, -1)
        same = hashes[:, 1:] == hashes[:, :-1]
        last_BL.scatter_(1, sorted_BL[:, 1:], torch.where(same, sorted_BL[:, :-1], -1))
        last_BL.masked_fill_(bytes_BL < order, -1)
        # An equal hash of a shorter run is no match.
        valid = (last_BL >= 0) & (bytes_BL.gather(1, last_BL.clamp(min=0)) >= order)
        said_BL = tokens_BL.gather(1, last_BL.clamp(min=0))
        found_BLK[:, :, number] = torch.where(valid, said_BL, NONE)
    return found_BLK


@matches.register_fake
def _(tokens_BL: Tensor, longest: int) -> Tensor:
    return tokens_BL.new_empty((*tokens_BL.shape, len(orders(longest))))


class Matcher:
    """The same lookups for rows that grow, byte by byte."""

    def __init__(self, longest: int) -> None:
        self._orders = orders(longest)
        self._tokens_BL = torch.empty(0, 0, dtype=torch.int16)
        self._said_BT = self._tokens_BL
        # Behind each of the tokens said: how far what ends at every place but the last agrees with
        # what ends the row, up to the longest order; and what the lookups say.
        self._runs: list[Tensor] = []
        self._found: list[Tensor] = []

    def read(self, patches_BPS: Tensor) -> None:
        """Add whole patches."""
        tokens_BL = patches_BPS.flatten(1).to(torch.int16)
        longest = self._orders[-1]
        if self._runs and tokens_BL.shape[1] < longest:
            self.look_up(tokens_BL)
            self._tokens_BL = torch.cat((self._tokens_BL, tokens_BL), 1)
            del self._runs[:-1], self._found[:-1]
            self._said_BT = tokens_BL[:, :0]
            return
        if not self._runs:
            # In front stands what agrees with nothing, so that every place has enough before it.
            self._tokens_BL = tokens_BL.new_full((len(tokens_BL), longest + 1), PAD)
        self._tokens_BL = torch.cat((self._tokens_BL, tokens_BL), 1)
        stop = self._tokens_BL.shape[1] - 1
        agrees_BL = torch.ones_like(self._tokens_BL[:, longest:stop], dtype=torch.bool)
        runs_BL = torch.zeros_like(agrees_BL, dtype=torch.int16)
        for back in range(longest):
            earlier_BL = self._tokens_BL[:, longest - back : stop - back]
            agrees_BL = agrees_BL & _agree(earlier_BL, self._tokens_BL[:, stop - back, None])
            runs_BL += agrees_BL
        self._runs, self._found, self._said_BT = [], [], tokens_BL[:, :0]
        self._add(F.pad(runs_BL, (longest, 0)), self._tokens_BL)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (int64 or boolean indexes)."""
        self._tokens_BL, self._said_BT = self._tokens_BL[rows], self._said_BT[rows]
        self._runs = [runs_BL[rows] for runs_BL in self._runs]
        self._found = [found_BK[rows] for found_BK in self._found]

    def look_up(self, said_BT: Tensor) -> Tensor:
        """What the lookups say of the token behind what was read, and of the one behind each of T
        more tokens: int64 (B, T + 1, K)."""
        said_BT = said_BT.to(torch.int16)
        shorter = min(self._said_BT.shape[1], said_BT.shape[1])
        same_T = (self._said_BT[:, :shorter] == said_BT[:, :shorter]).all(0)
        same = int(same_T.cumprod(0).sum())
        del self._runs[same + 1 :], self._found[same + 1 :]
        text_BL = torch.cat((self._tokens_BL, said_BT), 1)
        for place in range(same, said_BT.shape[1]):
            stop = self._tokens_BL.shape[1] + place
            runs_BL = F.pad(self._runs[-1], (1, 0)).clamp_(max=self._orders[-1] - 1) + 1
            runs_BL *= _agree(text_BL[:, :stop], said_BT[:, place, None])
            self._add(runs_BL, text_BL[:, : stop + 1])
        self._said_BT = said_BT
        return torch.stack(self._found, 1)

    def _add(self, runs_BL: Tensor, text_BL: Tensor) -> None:
        rows_N, places_N = (runs_BL >= self._orders[0]).nonzero(as_tuple=True)
        # The longest order that each run serves; it serves the shorter ones too.
        orders_K = torch.tensor(self._orders, dtype=torch.int16, device=runs_BL.device)
        kinds_N = torch.bucketize(runs_BL[rows_N, places_N], orders_K, right=True) - 1
        last_BK = places_N.new_zeros(len(runs_BL), len(self._orders))
        cells_N = rows_N * len(self._orders) + kinds_N
        last_BK.view(-1).scatter_reduce_(0, cells_N, places_N + 1, "amax")
        last_BK = last_BK.flip(1).cummax(1).values.flip(1)
        found_BK = text_BL.gather(1, last_BK).long().masked_fill(last_BK == 0, NONE)
        self._runs.append(runs_BL)
        self._found.append(found_BK)


def _agree(tokens_BL: Tensor, other_BL: Tensor) -> Tensor:
    return (tokens_BL == other_BL) & (other_BL != PAD)
