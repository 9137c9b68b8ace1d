"""Bytes looked up by what stands in front of them: against a plain computation, however cut."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel.layers import Recall, RecallCache, Recalled
from bytemodel.model import ByteModel
from bytemodel.patches import PAD, VOCABULARY
from tests.bytemodel.models import SMALLEST, random_model

WIDTH, PATCH_WIDTH, SIZE, PATCHES = 12, 8, 4, 5


@pytest.fixture(scope="module")
def recall() -> Recall:
    torch.manual_seed(0)
    made = Recall(WIDTH, PATCH_WIDTH, times=2, dropout=0.0).eval()
    with torch.no_grad():
        made.scale_H.copy_(torch.linspace(1.5, 3.0, len(made.scale_H)))
    return made


TABLE = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(2))


def text(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches, some with padding, and their features."""
    torch.manual_seed(1)
    patches = torch.randint(0, PAD, (batch, PATCHES, SIZE))
    patches[0, 1, 2:] = PAD
    return patches, torch.randn(batch, PATCHES, PATCH_WIDTH)


def run_at(recall: Recall, tokens: list[int], place: int) -> torch.Tensor:
    """What a byte is taken as: itself, and what it makes with those before it, (2 E,)."""
    embedded = [
        TABLE[tokens[back]] if back >= 0 else torch.zeros(WIDTH)
        for back in range(place - recall.before, place + 1)
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


@torch.inference_mode()
def plainly(
    recall: Recall,
    states: torch.Tensor,
    time: int,
    found_before: torch.Tensor | None,
    said: list[int],
    tokens: list[int],
    features: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to one state (C,) behind the bytes `said` of a patch the first or second time,
    of the bytes before this patch, one by one; and the bearings of what is found."""
    width = recall.head_width
    query = recall.queries[time](recall.norms[time](states)).view(4, width)
    found, bearings = [], []
    for number in range(4):
        head = 4 * time + number
        counts = counted(recall, tokens + said, features, number)
        asked = placed(query[number], recall.query_place_HR[head], counts[-1])
        if found_before is not None and number >= 2:
            cosines, sines = found_before[number].chunk(2)
            asked = turned(asked, torch.cat((cosines, sines if number == 3 else -sines)))
        scores, values = [], []
        for place in range(len(tokens)):
            key, value = recall.key_value(run_at(recall, tokens, place)).chunk(2)
            key = (key + recall.patch_key(features[place // SIZE])).view(8, width)[head]
            key = placed(key, recall.key_place_HR[head], counts[place + 1])
            scores.append(recall.scale_H[head] * (asked @ key) / math.sqrt(width))
            values.append(torch.cat((value.view(8, width)[head], bearing(counts[place + 1]))))
        mean = torch.stack(scores).softmax(0) @ torch.stack(values)
        found.append(mean[:width])
        bearings.append(mean[width:])
    return recall.outs[time](torch.cat(found)), torch.stack(bearings)


def recalled(
    recall: Recall,
    patches: torch.Tensor,
    features: torch.Tensor,
    rows: torch.Tensor,
    known: torch.Tensor,
) -> Recalled:
    """What may be looked up behind the first `known` patches of each of these rows."""
    mixes = recall.mixes(TABLE)
    keys, values, counts = recall.read(patches, features, TABLE, mixes)
    return Recalled(keys, values, rows, known * SIZE, counts[rows, known - 1], mixes)


def behind(
    recall: Recall, patches: torch.Tensor, features: torch.Tensor, which: Recalled
) -> torch.Tensor:
    """What is counted before each byte of the patches behind these."""
    rows, last = which.rows_N, which.known_N // SIZE - 1
    return recall.counts(
        patches[rows, last + 1, :-1],
        patches[rows, last],
        features[rows, last],
        which.counts_NH,
        TABLE,
        which.mixes_RE,
    )


@torch.inference_mode()
def test_a_state_gets_what_a_plain_computation_gives(recall: Recall) -> None:
    patches, features = text()
    rows, known = torch.tensor([0, 0, 1]), torch.tensor([2, 4, 1])
    states = torch.randn(2, 3, SIZE, WIDTH)
    which = recalled(recall, patches, features, rows, known)
    counts = behind(recall, patches, features, which)
    first, found = recall(states[0], which, counts, 0, None)
    second, _ = recall(states[1], which, counts, 1, found)
    close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
    for number, (row, count) in enumerate(zip(rows, known, strict=True)):
        for place in range(SIZE):
            text_before = (
                patches[row, count, :place].tolist(),
                patches[row, :count].flatten().tolist(),
                features[row],
            )
            added, bearings = plainly(recall, states[0, number, place], 0, None, *text_before)
            close(first[number, place], added)
            close(found[number, :, place], bearings)
            added, _ = plainly(recall, states[1, number, place], 1, bearings, *text_before)
            close(second[number, place], added)


@torch.inference_mode()
def test_what_is_counted_in_a_patch_is_what_is_counted_when_it_is_read(recall: Recall) -> None:
    patches, features = text()
    rows, known = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 3, 1, 4])
    which = recalled(recall, patches, features, rows, known)
    within = behind(recall, patches, features, which)
    torch.testing.assert_close(within[:, 0], which.counts_NH)
    for number, (row, count) in enumerate(zip(rows.tolist(), known.tolist(), strict=True)):
        for head in range(4):
            said = patches[row, : count + 1].flatten().tolist()
            plain = counted(recall, said, features[row], head)
            assert within[number, :, head].tolist() == pytest.approx(
                plain[count * SIZE : -1], abs=1e-4
            )


@torch.inference_mode()
def test_knowing_the_rows_changes_nothing(recall: Recall) -> None:
    patches, features = text(batch=3)
    rows, known = torch.arange(3).repeat_interleave(2), torch.tensor([1, 2, 3, 3, 4, 2])
    of_rows = recalled(recall, patches, features, rows, known)
    counts = behind(recall, patches, features, of_rows)
    states = torch.randn(6, SIZE, WIDTH)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    told = recall(states, of_rows._replace(per_row=2), counts, 0, None)
    close(told, recall(states, of_rows, counts, 0, None))
    # In another order the rows are no longer known.
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    swapped = recall(states[order], of_rows.at(order), counts[order], 0, None)
    close(swapped, tuple(part[order] for part in told))


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [[1], [1, 2], [4], [1, 2, 3, 4]])
def test_a_text_that_grows_has_the_keys_of_the_whole(recall: Recall, cuts: list[int]) -> None:
    patches, features = text()
    whole_keys, whole_values, whole_counts = recall.read(
        patches, features, TABLE, recall.mixes(TABLE)
    )
    cache, counts = RecallCache(), []
    for start, stop in zip([0, *cuts], [*cuts, PATCHES], strict=True):
        keys, values, counted = recall.read(
            patches[:, start:stop], features[:, start:stop], TABLE, recall.mixes(TABLE), cache
        )
        counts.append(counted)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    close(keys, whole_keys)
    close(values, whole_values)
    close(torch.cat(counts, 1), whole_counts)


@settings(max_examples=25)
@given(st.integers(3, 12), st.integers(0, 99))
def test_equal_runs_of_bytes_have_equal_keys_wherever_they_stand(place: int, seed: int) -> None:
    """In patches of which the patch level thinks alike, where nothing counts."""
    torch.manual_seed(seed)
    recall = Recall(WIDTH, PATCH_WIDTH, times=2, dropout=0.0).eval()
    torch.nn.init.constant_(recall.gate.bias, -1000)
    patches, features = text(batch=1)
    tokens = patches.view(1, -1)
    tokens[:, -4:] = tokens[:, place - 3 : place + 1].clone()
    with torch.inference_mode():
        keys, values, _ = recall.read(
            patches, torch.zeros_like(features), TABLE, recall.mixes(TABLE)
        )
    torch.testing.assert_close(keys[:, :, -1], keys[:, :, place])
    torch.testing.assert_close(values[:, :, -1], values[:, :, place])


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
