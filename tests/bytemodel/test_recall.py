"""Bytes looked up by what stands in front of them: against a plain computation, however cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel.model import ByteModel
from bytemodel.patches import PAD, VOCABULARY
from bytemodel.recall import (
    BEFORE,
    HEAD_WIDTH,
    HEADS,
    TURNED,
    Counterparts,
    Recall,
    RecallCache,
    Recalled,
    _look_up,
)
from tests.bytemodel.models import SMALLEST, random_model

WIDTH, PATCH_WIDTH, SIZE, PATCHES = 12, 8, 4, 8
HEEDED = 2


@pytest.fixture(scope="module", autouse=True)
def few_are_heeded() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bytemodel.recall.HEEDED", HEEDED)
        yield


@pytest.fixture(scope="module")
def recall() -> Recall:
    torch.manual_seed(0)
    made = Recall(WIDTH, PATCH_WIDTH, times=2, dropout=0.0).eval()
    with torch.no_grad():
        made.scale_H.copy_(torch.linspace(1.5, 3.0, len(made.scale_H)))
        for number, found in enumerate(cast(Iterable[Counterparts], made.counterparts)):
            found.scale_H.copy_(torch.linspace(2.0, 3.0, HEADS) + number / 2)
            found.prior_H.copy_(torch.linspace(-1.0, 0.5, HEADS) - number / 2)
            found.kept_H.copy_(torch.linspace(-0.5, 1.0, HEADS) + number / 2)
    return made


TABLE = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(2))


def text(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of sequences of two files, each behind its name, and their features. The source of
    the first ends with padding, that of the second fills its patches; the third is one file."""
    torch.manual_seed(1)
    patches = torch.randint(0, PAD, (batch, PATCHES, SIZE))
    patches[:, 0, 2:] = PAD
    patches[0, 2, 1:] = PAD
    patches[0, 3, 3:] = PAD
    if batch > 1:
        patches[1, 4, 2:] = PAD
    return patches, torch.randn(batch, PATCHES, PATCH_WIDTH)


def files_before(patches: torch.Tensor, last: int) -> int:
    """How many bytes of a sequence stand before the file of what comes behind this patch."""
    ends = [patch for patch in range(last + 1) if patches[patch, -1] == PAD]
    return (max(ends, default=0) + 1) * SIZE


def run_at(recall: Recall, tokens: list[int], place: int) -> torch.Tensor:
    """What a byte is taken as: itself, and what it makes with those before it, (2 E,)."""
    embedded = [
        TABLE[tokens[back]] if back >= 0 else torch.zeros(WIDTH)
        for back in range(place - BEFORE, place + 1)
    ]
    return torch.cat((embedded[-1], F.relu(recall.mix(torch.cat(embedded))) ** 2))


def counted(recall: Recall, tokens: list[int], features: torch.Tensor, head: int) -> list[float]:
    """What a head has counted before each byte, and behind the last."""
    found = [0.0]
    for place, token in enumerate(tokens):
        patch = place // SIZE
        before = features[patch - 1] if patch else torch.zeros(PATCH_WIDTH)
        run = run_at(recall, tokens, place)
        logit = recall.gate.weight[head] @ run + recall.patch_gate.weight[head] @ before
        gate = math.log1p(math.exp(0.2 * float(logit) + float(recall.gate.bias[head])))
        found.append(0.0 if token == PAD else found[-1] + gate)
    return found


def bearing(count: float) -> torch.Tensor:
    """Eight cosines and eight sines."""
    angles = [count * 1.5 * 300 ** (-pair / 7) for pair in range(8)]
    return torch.tensor([*map(math.cos, angles), *map(math.sin, angles)])


def turned(vector: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """A vector whose first 16 numbers are eight turned pairs."""
    made = vector.clone()
    for pair in range(8):
        first, second = vector[pair].item(), vector[pair + 8].item()
        cosine, sine = by[pair].item(), by[pair + 8].item()
        made[pair] = first * cosine - second * sine
        made[pair + 8] = second * cosine + first * sine
    return made


def placed(vector: torch.Tensor, places: torch.Tensor, count: float) -> torch.Tensor:
    """Of the length it has in a head, and turned by a count."""
    made = vector / vector.square().mean().sqrt()
    made[:16] += places
    return turned(made, bearing(count))


def scored(scale: torch.Tensor, query: torch.Tensor, keys: list[torch.Tensor]) -> torch.Tensor:
    """How much of each of these is found."""
    return torch.stack([scale * (query @ k) / math.sqrt(HEAD_WIDTH) for k in keys]).softmax(0)


@torch.inference_mode()
def turn(recall: Recall, patches: torch.Tensor, features: torch.Tensor, head: int) -> torch.Tensor:
    """How far, behind these patches, a head's count is from where counterparts are, (R,)."""
    tokens, width = patches.flatten().tolist(), HEAD_WIDTH
    counts = counted(recall, tokens, features, head)
    keys = []
    for place in range(len(tokens)):
        key, _ = recall.key_value(run_at(recall, tokens, place)).chunk(2)
        key = (key + recall.patch_key(features[place // SIZE])).view(-1, width)[head]
        keys.append(placed(key, recall.key_place_HR[head], counts[place + 1]))

    believed, heeded = [bearing(0.0)] * len(patches), list(range(len(tokens)))
    for own in cast(Iterable[Counterparts], recall.counterparts):
        told, weights = torch.zeros(len(patches), TURNED), torch.zeros(len(patches), 1)
        trusted = [
            float(F.softplus(own.trust(run_at(recall, tokens, place)))[head]) * (token != PAD)
            for place, token in enumerate(tokens)
        ]
        for place in heeded:
            patch = place // SIZE
            known = files_before(patches, patch - 1) if patch else SIZE
            if known == SIZE:
                continue
            query = own.query(run_at(recall, tokens, place)) + own.patch_query(features[patch])
            query = placed(query.view(-1, width)[head], own.query_place_HR[head], counts[place + 1])
            query = turned(query, believed[patch])
            found = torch.stack([bearing(count) for count in counts[1 : known + 1]])
            mean = scored(own.scale_H[head], query, keys[:known]) @ found
            told[patch] += trusted[place] * turned(mean, bearing(-counts[place + 1]))
            weights[patch] += trusted[place]
        prior, kept = own.prior_H[head].exp(), own.kept_H[head].sigmoid()
        believed = [
            (prior * believed[last] + sum(kept ** (last - p) * told[p] for p in range(last + 1)))
            / (prior + sum(kept ** (last - p) * weights[p] for p in range(last + 1)))
            for last in range(len(patches))
        ]
        ranked = sorted(range(len(tokens)), key=lambda p: (p // SIZE, -trusted[p]))
        heeded = [place for rank, place in enumerate(ranked) if rank % SIZE < HEEDED]
    return believed[-1]


@torch.inference_mode()
def plainly(
    recall: Recall,
    states: torch.Tensor,
    time: int,
    found_before: torch.Tensor | None,
    said: list[int],
    patches: torch.Tensor,
    features: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to one state (C,) behind the bytes `said` of a patch the first or second time,
    of the patches before it, byte by byte; and the bearings of what is found."""
    tokens = patches.flatten().tolist()
    query = recall.queries[time](recall.norms[time](states)).view(4, HEAD_WIDTH)
    found, bearings = [], []
    for number in range(4):
        head = 4 * time + number
        counts = counted(recall, tokens + said, features, number)
        asked = placed(query[number], recall.query_place_HR[head], counts[-1])
        asked = turned(asked, turn(recall, patches, features, number))
        if found_before is not None and number >= 2:
            cosines, sines = found_before[number].chunk(2)
            asked = turned(asked, torch.cat((cosines, sines if number == 3 else -sines)))
        keys, values = [], []
        for place in range(files_before(patches, len(patches) - 1)):
            key, value = recall.key_value(run_at(recall, tokens, place)).chunk(2)
            key = (key + recall.patch_key(features[place // SIZE])).view(8, HEAD_WIDTH)[head]
            keys.append(placed(key, recall.key_place_HR[head], counts[place + 1]))
            value = value.view(8, HEAD_WIDTH)[head]
            values.append(torch.cat((value, bearing(counts[place + 1]))))
        mean = scored(recall.scale_H[head], asked, keys) @ torch.stack(values)
        found.append(mean[:HEAD_WIDTH])
        bearings.append(mean[HEAD_WIDTH:])
    return recall.outs[time](torch.cat(found)), torch.stack(bearings)


def behind(
    recall: Recall, patches: torch.Tensor, features: torch.Tensor, index: torch.Tensor
) -> tuple[Recalled, torch.Tensor]:
    """What may be looked up behind these patches, in rows b * P + p, and what is counted before
    each byte of the ones that follow."""
    which = recall.read(patches, features, TABLE).at(index)
    counts = recall.counts(
        patches.flatten(0, 1)[index + 1, :-1],
        patches.flatten(0, 1)[index],
        features.flatten(0, 1)[index],
        which,
        TABLE,
    )
    return which, counts


@torch.inference_mode()
def test_a_state_gets_what_a_plain_computation_gives(recall: Recall) -> None:
    patches, features = text()
    places = [(0, 0), (0, 2), (0, 3), (0, 6), (1, 4), (1, 6), (2, 5)]
    index = torch.tensor([row * PATCHES + last for row, last in places])
    states = torch.randn(2, len(places), SIZE, WIDTH)
    which, counts = behind(recall, patches, features, index)
    first, found = recall(states[0], which, counts, 0, None)
    second, _ = recall(states[1], which, counts, 1, found)
    close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
    for number, (row, last) in enumerate(places):
        for place in range(SIZE):
            before = (
                patches[row, last + 1, :place].tolist(),
                patches[row, : last + 1],
                features[row],
            )
            added, bearings = plainly(recall, states[0, number, place], 0, None, *before)
            close(first[number, place], added)
            close(found[number, :, place], bearings)
            added, _ = plainly(recall, states[1, number, place], 1, bearings, *before)
            close(second[number, place], added)


def test_what_is_not_known_yet_neither_tells_nor_learns() -> None:
    torch.manual_seed(3)
    queries, keys, values = (
        torch.randn(3, 2, length, width, requires_grad=True)
        for length, width in ((6, 8), (20, 8), (20, 12))
    )
    known = torch.tensor([[4, 4, 9, 9, 9, 20], [20] * 6, [7] * 6])
    found = _look_up(queries, keys, values, known)
    scores = queries @ keys.transpose(2, 3) / math.sqrt(8)
    unknown = (torch.arange(20) >= known[..., None])[:, None]
    plain = scores.masked_fill(unknown, -torch.inf).softmax(-1) @ values
    torch.testing.assert_close(found, plain)
    weights = torch.randn_like(plain)
    for of_found, of_plain in zip(
        torch.autograd.grad((weights * found).sum(), (queries, keys, values)),
        torch.autograd.grad((weights * plain).sum(), (queries, keys, values)),
        strict=True,
    ):
        torch.testing.assert_close(of_found, of_plain)


@torch.inference_mode()
def test_a_first_file_is_turned_by_nothing_a_second_by_something(recall: Recall) -> None:
    patches, features = text()
    turns = recall.read(patches, features, TABLE).turns_NHR.view(3, PATCHES, 4, 16)
    nothing = bearing(0.0).expand(4, 16)
    for row, second in enumerate((3, 5, PATCHES)):
        assert (turns[row, :second] == nothing).all()
        for patch in range(second, PATCHES):
            assert not torch.isclose(turns[row, patch], nothing, atol=1e-3).all(1).any()


@torch.inference_mode()
def test_what_is_counted_in_a_patch_is_what_is_counted_when_it_is_read(recall: Recall) -> None:
    patches, features = text()
    places = [(0, 2), (0, 3), (1, 1), (1, 4)]
    index = torch.tensor([row * PATCHES + last for row, last in places])
    which, within = behind(recall, patches, features, index)
    torch.testing.assert_close(within[:, 0], which.counts_NH)
    for number, (row, last) in enumerate(places):
        for head in range(4):
            said = patches[row, : last + 2].flatten().tolist()
            # Behind padding nothing is said.
            stop = said.index(PAD, (last + 1) * SIZE) if PAD in said[(last + 1) * SIZE :] else -1
            plain = counted(recall, said, features[row], head)[(last + 1) * SIZE : stop]
            told = within[number, : len(plain), head].tolist()
            assert told == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("per_row", [(1, 1, 1), (2, 2, 2), (1, 3, 2), (4, 0, 1)])
@pytest.mark.parametrize("row_by_row", [("cpu",), ()], ids=["row by row", "filled up"])
def test_each_patch_looks_up_as_it_would_alone(
    recall: Recall,
    per_row: tuple[int, ...],
    row_by_row: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bytemodel.recall._ROW_BY_ROW", row_by_row)
    patches, features = text()
    places = [row * PATCHES + 1 + p for row, count in enumerate(per_row) for p in range(count)]
    of_rows, counts = behind(recall, patches, features, torch.tensor(places))
    numbers = iter(range(len(places)))
    of_each = [[next(numbers) for _ in range(count)] for count in per_row]
    width = max(per_row)
    grid = torch.tensor([own + [len(places)] * (width - len(own)) for own in of_each])
    states = torch.randn(len(places), SIZE, WIDTH, requires_grad=True)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    weights = torch.randn(len(places), SIZE, WIDTH)

    def look_up(index: torch.Tensor, grid_BR: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        told = recall(states[index], of_rows.at(index, grid_BR), counts[index], 0, None)
        (gradient,) = torch.autograd.grad(
            (told[0] * weights[index]).sum(), states, retain_graph=True
        )
        return *told, gradient[index]

    every = torch.arange(len(places))
    told = look_up(every, grid)
    alone = [look_up(every[n : n + 1], None) for n in range(len(places))]
    close(told, tuple(torch.cat(parts) for parts in zip(*alone, strict=True)))
    # In another order, of which nothing is known.
    order = torch.randperm(len(places))
    close(look_up(order, None), tuple(part[order] for part in told))


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [[1], [3], [4], [1, 2], [4, 6], [1, 2, 3, 4, 5, 6, 7]])
def test_a_text_that_grows_is_read_like_the_whole(recall: Recall, cuts: list[int]) -> None:
    patches, features = text()
    whole = recall.read(patches, features, TABLE)
    cache, parts = RecallCache(), []
    for start, stop in zip([0, *cuts], [*cuts, PATCHES], strict=True):
        grown = recall.read(patches[:, start:stop], features[:, start:stop], TABLE, cache)
        parts.append([of.unflatten(0, (3, stop - start)) for of in grown[3:6]])
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    close(grown[:2], whole[:2])
    for number, told in enumerate(zip(*parts, strict=True), 3):
        close(torch.cat(told, 1).flatten(0, 1), whole[number])


@torch.inference_mode()
def test_some_of_the_sequences_are_read_on(recall: Recall) -> None:
    patches, features = text()
    kept, cache = torch.tensor([2, 0]), RecallCache()
    recall.read(patches[:, :5], features[:, :5], TABLE, cache)
    cache.select(kept)
    grown = recall.read(patches[kept, 5:], features[kept, 5:], TABLE, cache)
    whole = recall.read(patches[kept], features[kept], TABLE)
    index = torch.tensor([5, 6, 7, PATCHES + 5, PATCHES + 6, PATCHES + 7])
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    close(grown[:2], whole[:2])
    close(grown[3:6], whole.at(index)[3:6])


@settings(max_examples=25)
@given(st.integers(3, 27), st.integers(0, 99))
def test_equal_runs_of_bytes_have_equal_keys_wherever_they_stand(place: int, seed: int) -> None:
    """In patches of which the patch level thinks alike, where nothing counts."""
    torch.manual_seed(seed)
    recall = Recall(WIDTH, PATCH_WIDTH, times=2, dropout=0.0).eval()
    torch.nn.init.constant_(recall.gate.bias, -1000)
    patches, features = text(batch=1)
    tokens = patches.view(1, -1)
    tokens[:, -4:] = tokens[:, place - 3 : place + 1].clone()
    with torch.inference_mode():
        keys, values, *_ = recall.read(patches, torch.zeros_like(features), TABLE)
    for of_time in (*keys, *values):
        torch.testing.assert_close(of_time[:, :, -1], of_time[:, :, place])


def test_a_new_model_says_the_same_with_it_and_it_learns() -> None:
    torch.manual_seed(3)
    model = ByteModel(SMALLEST)
    patches, targets = torch.randint(0, 256, (2, 6, SMALLEST.patch_size)), torch.arange(1, 6)
    recall = model.byte_decoder.recall
    assert recall is not None
    outs = [layer.weight for layer in recall.outs]
    assert outs
    assert not any(weight.any() for weight in outs)
    loss = F.cross_entropy(
        model(patches, targets).flatten(0, 1), patches.flatten(0, 1)[targets].flatten()
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and weight.grad.any() for weight in outs)


@torch.inference_mode()
def test_what_is_found_decides() -> None:
    """Bytes that neither the patch level nor the previous patch know of change what is said."""
    model = random_model(retrieval=False, matching=False)
    patches = torch.randint(0, 256, (1, 6, SMALLEST.patch_size))
    told = model.read(patches).at(torch.tensor([5]))
    other = model.read(patches.flip(2)).at(torch.tensor([5]))
    assert told.recalled is not None
    swapped = told._replace(recalled=other.recalled)
    logits = [model.predict(c, patches[0, :1], None) for c in (told, swapped)]
    assert not torch.allclose(*logits, atol=1e-3)
