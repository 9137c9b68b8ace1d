"""What a classifier begins as: a linear model of what it reads of files, fitted to them.

Logistic regression on features that stay as they are has one best solution, so nothing that the
model has learned is spoilt by what a random head asks for (Kumar et al. 2022, arXiv 2202.10054).
Where it tells more to ask what byte stands where, too, that is learned here as well.

Shape suffixes: N files, F features of a kind, L labels; as in `classifier` for batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from bytemodel import placed
from bytemodel.classifier import (
    BUCKETS,
    DETECTORS,
    DRAWS,
    PARTS,
    RUNS,
    Classifier,
    counted,
    read_closely,
)
from bytemodel.config import ModelConfig
from bytemodel.labelled import LabelledSource
from bytemodel.model import ByteModel

WHOLE, IN_PARTS, CLOSE, COUNTS = "whole", "parts", "close", "counts"
PLACES = "places"
"""What byte stands where: no feature of a linear model, but judged beside it."""
_MOST_FITTED = 1 << 15
"""Files to learn from beyond which nothing is fitted: so many teach the model itself more than can
be read from what it knows, and a head that fits what it knows is in the way of that."""
_LOOKED_AT = 2048
"""Files by which is settled what of a file is read."""
_MOST_READ = 12_000_000
"""Patches, or what costs as much, that are read in all; a quarter of an hour of two cores for the
preset `compact`."""
_BYTE_LEVEL = 13
"""Patches that cost as much as one that the byte level reads."""
_MOST_COUNTED = 8192
"""Files whose runs are counted, in half a gigabyte. Of more files the model itself can learn more
than runs tell."""
_WHETHER_READ: dict[str, Sequence[float]] = {COUNTS: (0.0, 16.0, 64.0), CLOSE: (1.0, 0.0)}
_WHETHER_USED: dict[str, Sequence[float]] = {IN_PARTS: (1.0, 0.0)}
"""What kinds of features may be multiplied by, in the order in which that is settled: some before
the files are read, since they cost much, some when all are. The penalty is the same, so the more,
the more they say: much where they tell, nothing where they only add noise."""
_FEWEST_ASKED, _MOST_ASKED = 1024, 1 << 16
"""Files of which it is learned what byte stands where: of few each place tells too little, of so
many their first bytes are a quarter of a gigabyte."""
_PENALTIES = 0.03, 0.01, 0.003
"""On half the squares of the weights, for features of unit deviation."""
_SETTLED_BY = 8192
"""Files by which anything is settled, at most. The best penalty falls as the number of files that
are fitted grows."""


def learns_head(source: LabelledSource) -> bool:
    """Whether these files are so many that the head is learned, not fitted."""
    return len(source.training) > _MOST_FITTED


def fitted(
    start: ByteModel | None,
    source: LabelledSource,
    *,
    seed: int,
    kinds: Iterable[str] = (WHOLE, IN_PARTS, CLOSE, COUNTS, PLACES),
    new_head: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Classifier:
    """A classifier that begins with a byte model, fitted to the source's files.

    `start`: None for random weights. `kinds`: the features among which some of the files settle
    which are read. `new_head`: nothing but that is settled and the places are learned, and the
    head, still zero, is to be learned. `progress`: called with how many files of how many are read.
    """
    torch.manual_seed(seed)
    model = start or ByteModel(source.config)
    classifier = Classifier.of(model, source.labels).eval()
    some, kinds = min(_LOOKED_AT, len(source.training)), set(kinds)
    places = _places(source) if PLACES in kinds else 0
    if len(source.training) > _MOST_COUNTED:
        kinds.discard(COUNTS)
    kinds.discard(PLACES)
    read = _read(classifier, source, kinds, range(some), lambda done: progress(done, some))
    scales, penalty = read.settled(_WHETHER_READ)
    read = read.of(scales)
    if CLOSE not in scales:
        classifier.leave_out_bytes()
    if places:
        first_NT, _ = _first_bytes(source, some, places, read.device)
        if not read.tells_more_with(first_NT, scales, penalty, seed):
            places = 0
    total = some if new_head else max(some, min(len(source.training), _most_files(source, scales)))
    asked = min(len(source.training), _MOST_ASKED) if places else 0

    def tell(done: float) -> None:
        progress(round(done), total + asked)

    if new_head:
        torch.nn.init.zeros_(classifier.head.weight)
        torch.nn.init.zeros_(classifier.head.bias)
    else:
        if total > some:
            read = read.and_of(_read(classifier, source, scales, range(some, total), tell))
        _fit(classifier, read, scales)
    if places:
        # It takes about as long as to read the files.
        learned = placed.learned(
            *_first_bytes(source, asked, places, read.device),
            len(source.labels),
            seed=seed,
            progress=lambda share: tell(total + share * asked),
        )
        classifier.ask_also(learned)
    tell(total + asked)
    return classifier


def _fit(classifier: Classifier, read: _Features, scales: Mapping[str, float]) -> None:
    """The head and what is beside it, to what was read of files."""
    known: dict[str, Sequence[float]] = {kind: (scale,) for kind, scale in scales.items()}
    used, penalty = read.settled({**known, **_WHETHER_USED})
    weights, bias_L = read.fit(used, penalty)
    with torch.no_grad():
        classifier.wide.weight.copy_(weights.get(COUNTS, classifier.wide.weight))
        classifier.head.weight.zero_()
        for kind, columns in _columns(classifier.config).items():
            if kind in weights:
                classifier.head.weight[:, columns] = weights[kind] / classifier.scale
        classifier.head.bias.copy_(bias_L)


def _columns(config: ModelConfig) -> dict[str, slice]:
    """Where in what is pooled each kind of features stands."""
    whole, parts = 3 * config.patch_width, PARTS * config.patch_width
    return {
        WHOLE: slice(0, whole),
        IN_PARTS: slice(whole, whole + parts),
        CLOSE: slice(whole + parts, whole + parts + 2 * DETECTORS),
    }


def _most_files(source: LabelledSource, kinds: Iterable[str]) -> int:
    """How many files may be read."""
    patches = source.mean_patches
    cost = patches
    if CLOSE in kinds:
        cost += _BYTE_LEVEL * min(patches, DRAWS * read_closely(round(patches)))
    return int(_MOST_READ / cost)


def _places(source: LabelledSource) -> int:
    """How many places of files may tell, 0 if none: where only a stretch is read of some, a byte's
    place in it is not its place in the file."""
    if len(source.training) < _FEWEST_ASKED or source.longest == source.config.max_patches:
        return 0
    return min(placed.MOST_PLACES, (source.longest - 1) * source.config.patch_size)


def _first_bytes(
    source: LabelledSource, files: int, places: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The first bytes of so many files, (N, T), and their labels."""
    first, labels = [], []
    for batch in source.beginnings(range(files)):
        first.append(placed.first_bytes(batch.patches_BPS, places))
        labels.append(batch.labels_B)
    return torch.cat(first).to(device), torch.cat(labels).to(device)


@torch.no_grad()
def _read(
    classifier: Classifier,
    source: LabelledSource,
    kinds: Iterable[str],
    files: range,
    progress: Callable[[int], None],
) -> _Features:
    """What is read of these files, each by its beginning."""
    device = next(classifier.parameters()).device
    columns = {k: place for k, place in _columns(source.config).items() if k in kinds}
    widths = {kind: place.stop - place.start for kind, place in columns.items()}
    if COUNTS in kinds:
        widths[COUNTS] = len(RUNS) * BUCKETS
    found = {k: torch.zeros(len(files), width, device=device) for k, width in widths.items()}
    labels: list[Tensor] = []
    done = 0
    for batch in source.beginnings(files):
        progress(files.start + done)
        rows = slice(done, done + batch.size)
        patches_BPS = batch.patches_BPS.to(device)
        if columns:
            pooled_BF = classifier.pooled(patches_BPS, batch.lengths_B.to(device))
            for kind, place in columns.items():
                found[kind][rows] = pooled_BF[:, place]
        if COUNTS in kinds:
            found[COUNTS][rows] = counted(patches_BPS)
        labels.append(batch.labels_B)
        done += batch.size
    # Files may have vanished.
    kept = {kind: values_NF[:done] for kind, values_NF in found.items()}
    return _Features(kept, torch.cat(labels).to(device), len(source.labels))


@dataclass(frozen=True)
class _Features:
    """What was read of files, by kind, each (N, F), and their labels, of which there are so many.

    What is to be settled is settled by a fit to three files of four and how well it tells the
    fourth.
    """

    kinds: dict[str, Tensor]
    labels_N: Tensor
    labels: int

    @property
    def device(self) -> torch.device:
        return self.labels_N.device

    def of(self, kinds: Iterable[str]) -> _Features:
        return replace(self, kinds={kind: self.kinds[kind] for kind in kinds})

    def and_of(self, more: _Features) -> _Features:
        """Those of other files too."""
        both = {kind: torch.cat([found, more.kinds[kind]]) for kind, found in self.kinds.items()}
        return replace(self, kinds=both, labels_N=torch.cat([self.labels_N, more.labels_N]))

    @cached_property
    def _units(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {kind: _unit(kind, found_NF) for kind, found_NF in self.kinds.items()}

    def _each(self, step: int) -> _Features:
        """Of each so manyth file."""
        kinds = {kind: found_NF[::step] for kind, found_NF in self.kinds.items()}
        return replace(self, kinds=kinds, labels_N=self.labels_N[::step])

    @property
    def _held_out(self) -> Tensor:
        """Every fourth file, bool (N,)."""
        return torch.arange(len(self.labels_N), device=self.device) % 4 == 0

    def settled(self, choices: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], float]:
        """What each kind should be multiplied by, without those that tell nothing, and the penalty
        of a fit. Kinds without choices count as they are."""
        scales = {kind: choices.get(kind, (1.0,))[0] for kind in self.kinds}
        some = self._each(-(-len(self.labels_N) // _SETTLED_BY))

        def wrong(scales: dict[str, float]) -> tuple[float, float]:
            return min((some._wrong(scales, penalty), penalty) for penalty in _PENALTIES)

        least, penalty = wrong(scales)
        for kind, others in choices.items():
            for other in others[1:] if kind in scales else ():
                tried = {**scales, kind: other}
                found, by = wrong(tried)
                if found < least:
                    scales, least, penalty = tried, found, by
        chosen = {kind: scale for kind, scale in scales.items() if scale}
        return chosen, penalty * len(some.labels_N) / len(self.labels_N)

    def _wrong(self, scales: Mapping[str, float], penalty: float) -> float:
        """The loss on every fourth file of a fit to the others; nats."""
        held_out_N = self._held_out
        if held_out_N.all():
            return 0.0
        told_NL = self._told(scales, penalty, held_out_N)
        return F.cross_entropy(told_NL, self.labels_N[held_out_N]).item()

    def _told(self, scales: Mapping[str, float], penalty: float, held_out_N: Tensor) -> Tensor:
        """The logits of these files, by a fit to the others."""
        return self._logits(*self.fit(scales, penalty, ~held_out_N))[held_out_N]

    def tells_more_with(
        self, first_NT: Tensor, scales: Mapping[str, float], penalty: float, seed: int
    ) -> bool:
        """Whether the mean of what a fit and what the first bytes of the same files tell is better
        than the fit alone, for better reasons than that a mean is less sure."""
        held_out_N = self._held_out
        learned_N = ~held_out_N
        labels_N = self.labels_N[held_out_N]
        also = placed.learned(first_NT[learned_N], self.labels_N[learned_N], self.labels, seed=seed)
        known_NL = self._told(scales, penalty, held_out_N)
        with torch.no_grad():
            mean_NL = (known_NL + also(first_NT[held_out_N])) / 2
            alone, unsure, both = (
                F.cross_entropy(logits_NL, labels_N).item()
                for logits_NL in (known_NL, known_NL / 2, mean_NL)
            )
        return both < min(alone, unsure)

    def _logits(self, weights: Mapping[str, Tensor], bias_L: Tensor) -> Tensor:
        logits_NL = bias_L.expand(len(self.labels_N), -1)
        for kind, weight_LF in weights.items():
            logits_NL = logits_NL + F.linear(self.kinds[kind], weight_LF)
        return logits_NL

    def fit(
        self, scales: Mapping[str, float], penalty: float, learned_N: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The weights (L, F) of these kinds of features and the bias (L,) that tell the labels of
        these files best, or of all."""
        learned_N = torch.ones_like(self.labels_N).bool() if learned_N is None else learned_N
        scales = {kind: scale for kind, scale in scales.items() if scale}
        units = self._units
        free = {
            kind: torch.zeros(self.labels, found.shape[1], device=found.device, requires_grad=True)
            for kind, found in self.of(scales).kinds.items()
        }
        offset_L = torch.zeros(self.labels, device=self.labels_N.device, requires_grad=True)

        def made() -> tuple[dict[str, Tensor], Tensor]:
            """Of features of unit deviation, the weights of those that were read."""
            weights = {kind: free[kind] * scales[kind] / units[kind][1] for kind in free}
            shift = [weight_LF @ units[kind][0] for kind, weight_LF in weights.items()]
            return weights, offset_L - sum(shift)

        solver = torch.optim.LBFGS(
            [*free.values(), offset_L], max_iter=100, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            logits_NL = self._logits(*made())
            wrong = F.cross_entropy(logits_NL[learned_N], self.labels_N[learned_N])
            whole = wrong + penalty / 2 * sum(weight.square().sum() for weight in free.values())
            whole.backward()  # type: ignore[no-untyped-call]
            return whole

        solver.step(loss)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            return made()


def _unit(kind: str, found_NF: Tensor) -> tuple[Tensor, Tensor]:
    """What to take for the zero and for the unit of features of a kind, each (F,)."""
    if kind == COUNTS:
        # What few files hold tells more (Spärck Jones 1972); smoothed as if one more held all.
        holding_F = (found_NF > 0).sum(0)
        rarity_F = ((1 + len(found_NF)) / (1 + holding_F)).log() + 1
        return torch.zeros_like(rarity_F), 1 / rarity_F
    deviation_F = found_NF.std(0, correction=0)
    # What hardly ever varies is not made much of.
    return found_NF.mean(0), deviation_F + 1e-3 * found_NF.std(correction=0).clamp(min=1e-9)
