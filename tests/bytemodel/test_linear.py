"""The linear model that a classifier begins as: what it reads, and that it is the best there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bytemodel.classifier import counted
from bytemodel.classify import evaluate_files
from bytemodel.labelled import BATCH, LabelledSource
from bytemodel.linear import (
    _WHETHER_READ,
    _WHETHER_USED,
    CLOSE,
    COUNTS,
    IN_PARTS,
    PLACES,
    WHOLE,
    _columns,
    _Features,
    fitted,
)
from bytemodel.placed import first_bytes
from tests.bytemodel.models import SMALLEST, random_model


def test_what_is_fitted_is_the_best_for_what_it_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bytemodel.linear._LOOKED_AT", 7)
    monkeypatch.setattr("bytemodel.linear._PENALTIES", (0.02,))
    scales = {IN_PARTS: (1.0,), COUNTS: (8.0,), CLOSE: (1.0,)}
    monkeypatch.setattr("bytemodel.linear._WHETHER_READ", scales)
    monkeypatch.setattr("bytemodel.linear._WHETHER_USED", {})
    source = LabelledSource(folder, SMALLEST, seed=0)
    told: list[tuple[int, int]] = []
    start = random_model("local")
    classifier = fitted(start, source, seed=4, progress=lambda *pair: told.append(pair))
    assert told == sorted(told)
    assert told[-1] == (len(source.training),) * 2
    for name, tensor in start.state_dict().items():
        assert torch.equal(tensor, classifier.model.state_dict()[name]), name
    again = fitted(start, source, seed=4)
    assert torch.equal(again.head.weight, classifier.head.weight)
    assert torch.equal(again.wide.weight, classifier.wide.weight)
    batches = [*source.beginnings(range(7)), *source.beginnings(range(7, 10**6))]
    assert sum(batch.size for batch in batches) == len(source.training)
    with torch.no_grad():
        pooled = torch.cat([classifier.pooled(*batch[:2]) for batch in batches])
        counts = torch.cat([counted(batch.patches_BPS) for batch in batches])
        labels = torch.cat([batch.labels_B for batch in batches])
        logits = classifier.deep(pooled) + classifier.wide(counts)
        assert (logits.argmax(1) == labels).float().mean() > 0.95
    # The sum that is least has one minimum, where its slope is zero.
    deviation = pooled.std(0, correction=0)
    for columns in _columns(SMALLEST).values():
        deviation[columns] += 1e-3 * pooled[:, columns].std(correction=0)
    read = classifier.head.weight * 8 * classifier.head.in_features**-0.5
    weight = (read * deviation).detach().requires_grad_()
    # What few files hold counts for more.
    rarity = ((1 + len(counts)) / (1 + (counts > 0).sum(0))).log() + 1
    wide = (classifier.wide.weight / (8 * rarity)).detach().requires_grad_()
    bias = (classifier.head.bias + read @ pooled.mean(0)).detach().requires_grad_()
    logits = F.linear((pooled - pooled.mean(0)) / deviation, weight, bias)
    logits = logits + F.linear(counts * 8 * rarity, wide)
    squares = weight.square().sum() + wide.square().sum()
    (F.cross_entropy(logits, labels) + 0.02 / 2 * squares).backward()
    for slope in (weight.grad, wide.grad, bias.grad):
        assert slope is not None
        assert slope.norm() < 1e-3


def test_counts_alone_tell_all_where_nothing_else_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bytemodel.linear._WHETHER_READ", {COUNTS: (16.0,)})
    source = LabelledSource(folder, SMALLEST, seed=0)
    classifier = fitted(None, source, seed=4, kinds=[COUNTS])
    assert classifier.head.weight.count_nonzero() == 0
    assert torch.equal(
        fitted(None, source, seed=4, kinds=[COUNTS]).wide.weight, classifier.wide.weight
    )
    batch = next(source.beginnings(range(BATCH)))
    logits = classifier(*batch[:2])
    expected = classifier.wide(counted(batch.patches_BPS)) + classifier.head.bias
    torch.testing.assert_close(logits, expected)
    assert evaluate_files(classifier, source.training).accuracy > 0.9


@pytest.mark.parametrize("telling", [WHOLE, IN_PARTS, COUNTS, CLOSE])
def test_what_tells_is_read_and_what_does_not_is_left_out(telling: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) // 2 % 2
    features = {
        kind: torch.randn(200, 60, generator=generator) for kind in (WHOLE, IN_PARTS, CLOSE)
    }
    runs = torch.rand(200, 60, generator=generator)
    if telling == COUNTS:
        # Each file has some of the runs of its own label alone.
        runs *= (runs > 0.7) & (torch.arange(60) % 2 == labels[:, None])
    else:
        features[telling][:, 0] += 4 * labels
    read = _Features({**features, COUNTS: F.normalize(runs)}, labels, 2)
    scales, _ = read.settled({**_WHETHER_READ, **_WHETHER_USED})
    assert set(scales) == {WHOLE, telling}
    assert scales[telling] == (64 if telling == COUNTS else 1)


def test_the_more_there_is_to_fit_to_the_smaller_the_penalty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bytemodel.linear._SETTLED_BY", 400)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3200, 50, generator=generator)
    labels = (features[:, 0] > 0).long()
    few, many = (
        _Features({WHOLE: features[::step]}, labels[::step], 2).settled({})[1] for step in (8, 1)
    )
    assert few == pytest.approx(8 * many)


@pytest.mark.parametrize("closely", [True, False])
def test_nothing_is_read_closely_where_that_tells_nothing(
    closely: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = {COUNTS: (0.0,), CLOSE: (float(closely),)}
    monkeypatch.setattr("bytemodel.linear._WHETHER_READ", scales)
    monkeypatch.setattr("bytemodel.linear._WHETHER_USED", {IN_PARTS: (0.0,)})
    classifier = fitted(random_model("local"), LabelledSource(folder, SMALLEST, seed=0), seed=4)
    assert classifier.closely == closely
    read = {k for k, v in _columns(SMALLEST).items() if classifier.head.weight[:, v].any()}
    assert read == ({WHOLE, CLOSE} if closely else {WHOLE})
    assert not classifier.wide.weight.any()


@pytest.mark.parametrize(("kinds", "files"), [([WHOLE], 19), ([WHOLE, CLOSE], 7)])
def test_what_costs_more_is_fitted_to_fewer_files(
    kinds: list[str], files: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LabelledSource(folder, SMALLEST, seed=0)
    monkeypatch.setattr("bytemodel.linear._LOOKED_AT", 5)
    monkeypatch.setattr("bytemodel.linear._MOST_READ", int(19.5 * source.mean_patches))
    monkeypatch.setattr("bytemodel.linear._BYTE_LEVEL", 19.5 / 7.5 - 1)
    monkeypatch.setattr("bytemodel.linear._WHETHER_READ", {CLOSE: (1.0,)})
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    fitted(random_model("local"), source, seed=4, kinds=kinds, progress=tell)
    assert told[-1] == (files, files)


@pytest.mark.parametrize("many", [True, False])
def test_runs_are_counted_unless_there_are_many_files(
    many: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LabelledSource(folder, SMALLEST, seed=0)
    monkeypatch.setattr("bytemodel.linear._MOST_COUNTED", len(source.training) - many)
    monkeypatch.setattr("bytemodel.linear._WHETHER_READ", {COUNTS: (16.0,)})
    classifier = fitted(random_model("local"), source, seed=4, kinds=[WHOLE, COUNTS])
    assert bool(classifier.wide.weight.any()) != many
    assert classifier.head.weight.any()


@pytest.mark.parametrize("closely", [True, False])
def test_for_a_new_head_only_what_to_read_is_settled(
    closely: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LabelledSource(folder, SMALLEST, seed=0)
    monkeypatch.setattr("bytemodel.linear._LOOKED_AT", 9)
    monkeypatch.setattr("bytemodel.linear._WHETHER_READ", {CLOSE: (float(closely),)})
    told: list[tuple[int, int]] = []
    classifier = fitted(
        random_model("local"),
        source,
        seed=4,
        new_head=True,
        progress=lambda *pair: told.append(pair),
    )
    assert told[-1] == (9, 9)
    assert classifier.closely == closely
    head = (classifier.head.weight, classifier.head.bias, classifier.wide.weight)
    assert not any(weight.any() for weight in head)


def test_the_first_look_is_at_the_same_files_whatever_the_order(folder: Path) -> None:
    looks = [
        [
            batch.patches_BPS
            for batch in LabelledSource(folder, SMALLEST, seed=seed).beginnings(range(20))
        ]
        for seed in (0, 1)
    ]
    assert sum(len(batch) for batch in looks[0]) == 20
    for one, other in zip(*looks, strict=True):
        assert torch.equal(one, other)


def placed_source(tmp_path: Path, name: str, *, telling: bool, size: int = 40) -> LabelledSource:
    """Files of random bytes, whose byte 3 tells the label, or none does."""
    random = np.random.default_rng(0)
    (tmp_path / name).mkdir()
    for number in range(2000):
        data = random.integers(0, 256, size, np.uint8)
        label = "ab"[int(data[3] > 127) if telling else number % 2]
        (tmp_path / name / f"{label}_{number}.bin").write_bytes(data.tobytes())
    return LabelledSource(tmp_path / name, SMALLEST, seed=0)


def test_what_byte_stands_where_is_asked_where_it_tells_more(tmp_path: Path) -> None:
    kinds = [WHOLE, PLACES]
    source = placed_source(tmp_path, "tell", telling=True)
    told: list[tuple[int, int]] = []
    classifier = fitted(
        random_model("local"),
        source,
        seed=4,
        kinds=kinds,
        progress=lambda *pair: told.append(pair),
    )
    assert told == sorted(told)
    assert told[-1] == (2 * len(source.training),) * 2
    assert classifier.placed is not None
    assert evaluate_files(classifier, source.held_out).accuracy > 0.9
    batch = next(source.beginnings(range(BATCH)))
    placed = classifier.placed(first_bytes(batch.patches_BPS, classifier.placed.places))
    deep = classifier.deep(classifier.pooled(*batch[:2]))
    torch.testing.assert_close(classifier(*batch[:2]), (deep + placed) / 2)
    # It is no part of what is learned from there.
    torch.testing.assert_close(classifier.train()(*batch[:2]), deep)
    assert not any(weight.requires_grad for weight in classifier.placed.parameters())

    noise = placed_source(tmp_path, "noise", telling=False)
    assert fitted(random_model("local"), noise, seed=4, kinds=kinds).placed is None


def test_places_are_not_asked_of_few_files_or_of_stretches_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = (SMALLEST.max_patches - 1) * SMALLEST.patch_size
    source = placed_source(tmp_path, "long", telling=True, size=longest)
    assert fitted(random_model("local"), source, seed=4, kinds=[WHOLE, PLACES]).placed is None
    source = placed_source(tmp_path, "short", telling=True)
    monkeypatch.setattr("bytemodel.linear._FEWEST_ASKED", len(source.training) + 1)
    assert fitted(random_model("local"), source, seed=4, kinds=[WHOLE, PLACES]).placed is None


@pytest.mark.parametrize("most", [1400, 10**6])
def test_for_a_new_head_places_are_asked_of_all_files_that_memory_holds(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bytemodel.linear._MOST_ASKED", most)
    monkeypatch.setattr("bytemodel.linear._LOOKED_AT", 1300)
    source = placed_source(tmp_path, "tell", telling=True)
    told: list[tuple[int, int]] = []
    classifier = fitted(
        None,
        source,
        seed=4,
        kinds=[PLACES],
        new_head=True,
        progress=lambda *pair: told.append(pair),
    )
    assert told[-1] == (1300 + min(most, len(source.training)),) * 2
    assert classifier.placed is not None
    assert not classifier.head.weight.any()
    assert evaluate_files(classifier, source.held_out).accuracy > 0.85
