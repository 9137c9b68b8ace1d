"""The hierarchy: nothing looks ahead, and what is not asked for changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel.config import PRESETS, Family
from bytemodel.model import ByteModel, Conditions
from bytemodel.patches import PAD, VOCABULARY
from tests.bytemodel.models import FAMILIES, SMALLEST, random_model

SIZE = SMALLEST.patch_size
MODELS = {family: random_model(family) for family in FAMILIES}
families = pytest.mark.parametrize("family", FAMILIES)
BATCH, COUNT = 2, 7


def tokens(seed: int = 0, batch: int = BATCH, count: int = COUNT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (batch, count, SIZE), generator=generator)


def all_targets(batch: int = BATCH, count: int = COUNT) -> torch.Tensor:
    """Every patch but the first of each sequence."""
    return torch.arange(batch * count).view(batch, count)[:, 1:].flatten()


@torch.inference_mode()
def logits(model: ByteModel, patches: torch.Tensor) -> torch.Tensor:
    """Of all patches but the first: (B, P - 1, S, V)."""
    batch, count, _ = patches.shape
    return model(patches, all_targets(batch, count)).view(batch, count - 1, SIZE, VOCABULARY)


@settings(max_examples=40)
@given(
    st.sampled_from(FAMILIES),
    st.integers(0, COUNT - 1),
    st.integers(0, SIZE - 1),
    st.integers(1, PAD),
    st.integers(0, 99),
)
def test_a_byte_changes_no_logits_before_or_at_its_place_and_some_after_it(
    family: Family, patch: int, place: int, change: int, seed: int
) -> None:
    patches = tokens(seed)
    other = patches.clone()
    other[0, patch, place] = (other[0, patch, place] + change) % VOCABULARY
    one, two = (logits(MODELS[family], p) for p in (patches, other))
    torch.testing.assert_close(one[1], two[1])  # the other sequence of the batch
    moved = ((one - two)[0].abs().amax(-1) > 1e-3).flatten()  # bytes of patches 1..P-1
    # Position i predicts byte i from those before it.
    at = (patch - 1) * SIZE + place
    assert not moved[: max(0, at + 1)].any()
    if at + 1 < len(moved):
        assert moved[max(0, at + 1) :].any()


@settings(max_examples=20)
@given(st.sampled_from(FAMILIES), st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_choosing_targets_gives_what_a_full_run_gives(family: Family, chosen: list[int]) -> None:
    patches = tokens()
    everything = all_targets()
    with torch.inference_mode():
        full = MODELS[family](patches, everything)
        some = MODELS[family](patches, everything[chosen])
    torch.testing.assert_close(some, full[chosen], atol=1e-5, rtol=1e-5)


@settings(max_examples=20)
@given(
    st.sampled_from(FAMILIES),
    st.lists(st.lists(st.integers(0, COUNT - 2), min_size=3, max_size=3), min_size=2, max_size=2),
)
def test_reading_on_behind_some_patches_gives_what_all_give(
    family: Family, places: list[list[int]]
) -> None:
    model, patches, places_BR = MODELS[family], tokens(), torch.tensor(places)
    rows_N = (places_BR + torch.tensor([[0], [COUNT]])).flatten()
    with torch.inference_mode():
        full = model(patches, rows_N + 1)
        some = model.predict(
            model.conditions(patches, model.patch_decoder(patches), places_BR=places_BR),
            patches.flatten(0, 1)[rows_N + 1],
            model.matches(patches, rows_N + 1),
        )
    torch.testing.assert_close(some, full, atol=1e-5, rtol=1e-5)


@families
@pytest.mark.parametrize("more", [1, 5])
def test_padding_on_the_right_changes_nothing(family: Family, more: int) -> None:
    patches = tokens()
    padding = torch.full((BATCH, more, SIZE), PAD)
    padded = logits(MODELS[family], torch.cat((patches, padding), 1))
    torch.testing.assert_close(
        padded[:, : COUNT - 1], logits(MODELS[family], patches), atol=1e-4, rtol=1e-4
    )


@families
def test_a_sequence_says_the_same_alone_as_in_a_batch(family: Family) -> None:
    patches = tokens(batch=3)
    together = logits(MODELS[family], patches)
    for row in range(3):
        torch.testing.assert_close(
            together[row : row + 1],
            logits(MODELS[family], patches[row : row + 1]),
            atol=1e-5,
            rtol=1e-5,
        )


@families
def test_every_byte_of_the_past_matters(family: Family) -> None:
    patches = tokens(batch=1)
    last = logits(MODELS[family], patches)[0, -1, -1]
    for patch in range(COUNT):
        for place in range(SIZE):
            if (patch, place) == (COUNT - 1, SIZE - 1):
                continue
            other = patches.clone()
            other[0, patch, place] = (other[0, patch, place] + 1) % VOCABULARY
            assert not torch.equal(logits(MODELS[family], other)[0, -1, -1], last)


def test_presets_have_the_size_that_is_said_of_them() -> None:
    with torch.device("meta"):
        counts = {name: ByteModel(config).parameter_count for name, config in PRESETS.items()}
    assert counts["tiny"] < 1e6
    assert 6e6 < counts["small"] < 8e6
    assert 105e6 < counts["published"] < 115e6


def test_a_new_local_model_attends_most_to_the_same_place_of_the_patch_before() -> None:
    torch.manual_seed(0)
    model = ByteModel(PRESETS["tiny"]).eval()
    decoder = model.byte_decoder
    attention = decoder.blocks[0].attention
    size, width = model.config.patch_size, model.config.byte_width
    previous = torch.randint(0, PAD, (50, size))
    features = torch.zeros(50, model.config.patch_width)
    looked_up = torch.zeros(50, size, width)
    with torch.inference_mode():
        keys, _ = decoder.contexts(Conditions(features, previous, looked_up)).layers[0]
        x = decoder.blocks[0].attention_norm(decoder.positions.weight)
        queries = F.linear(x, attention.qkv.weight[:width]).view(size, attention.heads, -1)
        scores = torch.einsum("ihd,nhkd->nhik", queries, keys[:, :, :size]).mean((0, 1))
    assert (scores.argmax(1) == torch.arange(size)).all()


def test_a_new_published_model_is_close_to_it() -> None:
    torch.manual_seed(0)
    model = ByteModel(random_model("published").config).eval()
    patches = tokens()
    nats = torch.nn.functional.cross_entropy(
        logits(model, patches).flatten(0, 2), patches[:, 1:].flatten()
    )
    assert float(nats) == pytest.approx(math.log(VOCABULARY), abs=0.1)


@families
def test_a_new_model_depends_on_the_seed_alone(family: Family) -> None:
    config = random_model(family).config
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(ByteModel(config).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@families
def test_every_parameter_gets_a_gradient(family: Family) -> None:
    model = random_model(family)
    # Everything is said twice, so that there is something to find again, in two files.
    ends = torch.full((BATCH, 1, SIZE), PAD)
    patches = torch.cat((*2 * [tokens(count=8) % PAD], tokens(), ends), 1)
    patches[:, [0, 4], -1] = PAD
    model(patches, all_targets(*patches.shape[:2])).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
