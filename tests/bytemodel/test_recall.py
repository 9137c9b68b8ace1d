"""Bytes looked up by what stands in front of them: against a plain computation, however cut."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel.layers import Recall, Recalled
from bytemodel.model import ByteModel
from bytemodel.patches import VOCABULARY
from tests.bytemodel.models import SMALLEST, random_model

WIDTH, PATCH_WIDTH, SIZE, PATCHES = 12, 8, 4, 5


@pytest.fixture(scope="module")
def recall() -> Recall:
    torch.manual_seed(0)
    made = Recall(WIDTH, PATCH_WIDTH, dropout=0.0).eval()
    with torch.no_grad():
        made.scale_H.copy_(torch.linspace(1.5, 3.0, made.heads))
    return made


TABLE = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(2))


def text(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes and patch features of some sequences."""
    torch.manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (batch, PATCHES * SIZE))
    return tokens, torch.randn(batch, PATCHES, PATCH_WIDTH)


@torch.inference_mode()
def plainly(
    recall: Recall, states: torch.Tensor, tokens: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """What is added to one state (C,), of the bytes (L,) it may look up, one by one."""
    embedded = TABLE[tokens]
    width, heads = recall.head_width, recall.heads
    query = recall.query(recall.norm(states)).view(heads, width)
    found = []
    for head in range(heads):
        scores, values = [], []
        for place in range(len(embedded)):
            run = [
                embedded[back] if back >= 0 else torch.zeros(WIDTH)
                for back in range(place - recall.before, place + 1)
            ]
            mixed = F.relu(recall.mix(torch.cat(run))) ** 2
            key, value = recall.key_value(torch.cat((embedded[place], mixed))).chunk(2)
            key = (key + recall.patch_key(features[place // SIZE])).view(heads, width)[head]
            norms = [v / v.square().mean().sqrt() for v in (query[head], key)]
            scores.append(recall.scale_H[head] * (norms[0] @ norms[1]) / math.sqrt(width))
            values.append(value.view(heads, width)[head])
        found.append(torch.stack(scores).softmax(0) @ torch.stack(values))
    return recall.out(torch.cat(found))  # type: ignore[no-any-return]


@torch.inference_mode()
def test_a_state_gets_what_a_plain_computation_gives(recall: Recall) -> None:
    tokens, features = text()
    keys, values = recall.keys_and_values(tokens, features, SIZE, TABLE)
    rows, known = torch.tensor([0, 0, 1]), torch.tensor([SIZE, 3 * SIZE, 2 * SIZE])
    states = torch.randn(3, SIZE, WIDTH)
    added = recall(states, Recalled(keys, values, rows, known))
    for number, (row, count) in enumerate(zip(rows, known, strict=True)):
        for place in range(SIZE):
            expected = plainly(
                recall, states[number, place], tokens[row, :count], features[row, : count // SIZE]
            )
            torch.testing.assert_close(added[number, place], expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_knowing_the_rows_changes_nothing(recall: Recall) -> None:
    tokens, features = text(batch=3)
    keys, values = recall.keys_and_values(tokens, features, SIZE, TABLE)
    known = SIZE * torch.tensor([1, 2, 3, 3, 5, 4])
    of_rows = Recalled(keys, values, torch.arange(3).repeat_interleave(2), known)
    states = torch.randn(6, SIZE, WIDTH)
    told = recall(states, of_rows._replace(per_row=2))
    torch.testing.assert_close(told, recall(states, of_rows), atol=1e-5, rtol=1e-5)
    # In another order the rows are no longer known.
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(
        recall(states[order], of_rows.at(order)), told[order], atol=1e-5, rtol=1e-5
    )


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [[1], [1, 2], [4], [1, 2, 3, 4]])
def test_a_text_that_grows_has_the_keys_of_the_whole(recall: Recall, cuts: list[int]) -> None:
    tokens, features = text()
    whole = recall.keys_and_values(tokens, features, SIZE, TABLE)
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, PATCHES], strict=True):
        text_of_part = tokens[:, max(0, start * SIZE - recall.before) : stop * SIZE]
        parts.append(recall.keys_and_values(text_of_part, features[:, start:stop], SIZE, TABLE))
    for place, tensor in enumerate(whole):
        grown = torch.cat([part[place] for part in parts], 2)
        torch.testing.assert_close(grown, tensor, atol=1e-5, rtol=1e-5)


@settings(max_examples=25)
@given(st.integers(3, 12), st.integers(0, 99))
def test_equal_runs_of_bytes_have_equal_keys_wherever_they_stand(place: int, seed: int) -> None:
    """In patches of which the patch level thinks alike."""
    torch.manual_seed(seed)
    recall = Recall(WIDTH, PATCH_WIDTH, dropout=0.0).eval()
    tokens, features = text(batch=1)
    tokens[:, -4:] = tokens[:, place - 3 : place + 1].clone()
    with torch.inference_mode():
        keys, values = recall.keys_and_values(tokens, torch.zeros_like(features), SIZE, TABLE)
    torch.testing.assert_close(keys[:, :, -1], keys[:, :, place])
    torch.testing.assert_close(values[:, :, -1], values[:, :, place])


def test_a_new_model_says_the_same_with_it_and_it_learns() -> None:
    torch.manual_seed(3)
    model = ByteModel(SMALLEST)
    patches, targets = torch.randint(0, 256, (2, 6, SMALLEST.patch_size)), torch.arange(1, 6)
    recall = model.byte_decoder.recall
    assert recall is not None
    assert not recall.out.weight.any()
    loss = F.cross_entropy(
        model(patches, targets).flatten(0, 1), patches.flatten(0, 1)[targets].flatten()
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert recall.out.weight.grad is not None
    assert recall.out.weight.grad.any()


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
