"""Attention: two ways to compute it, with and without a cache, agree."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel import layers
from bytemodel.layers import (
    Attention,
    Block,
    KeyValueCache,
    attend,
    drop,
    gelu,
    rotary_table,
    rotate,
)

WIDTH, HEADS = 16, 2


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with random weights, zero-initialised ones included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module.eval()


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> torch.Tensor:
    """One query after the other, as the definition says."""
    behind = keys.shape[2] - queries.shape[2]
    rows = []
    for t in range(queries.shape[2]):
        seen = behind + t + 1
        scores = torch.einsum("bhd,bhkd->bhk", queries[:, :, t], keys[:, :, :seen]) * scale
        rows.append(torch.einsum("bhk,bhkd->bhd", scores.softmax(-1), values[:, :, :seen]))
    return torch.stack(rows, 2)


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 7), (3, 7), (1, 1)])
@pytest.mark.parametrize("explicit", [True, False])
def test_explicit_and_fused_attention_are_the_definition(
    queries: int, keys: int, explicit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "EXPLICIT_ATTENTION_KEYS", 512 if explicit else 0)
    q, k, v = (random(2, 3, n, 8, seed=n + i) for i, n in enumerate((queries, keys, keys)))
    found = attend(q, k, v, 0.3)
    torch.testing.assert_close(found, plain_attention(q, k, v, 0.3), atol=1e-5, rtol=1e-5)


def test_explicit_and_fused_attention_have_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradients = []
    for limit in (512, 0):
        monkeypatch.setattr(layers, "EXPLICIT_ATTENTION_KEYS", limit)
        inputs = [random(2, 3, 9, 8, seed=i).requires_grad_() for i in range(3)]
        attend(*inputs, 0.3).square().sum().backward()
        gradients.append([tensor.grad for tensor in inputs])
    for explicit, fused in zip(*gradients, strict=True):
        torch.testing.assert_close(explicit, fused, atol=1e-5, rtol=1e-5)


@settings(max_examples=20)
@given(st.booleans(), st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_a_block_with_a_cache_says_what_it_says_without(
    modern: bool, with_context: bool, parts: list[int], data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 1000))
    block = filled(Block(WIDTH, HEADS, modern=modern, dropout=0.0), seed)
    assert isinstance(block, Block)
    total = sum(parts)
    x = random(2, total, WIDTH, seed=seed)
    rotary = rotary_table(torch.arange(total), WIDTH // HEADS) if modern else None
    context = block.attention.context(random(2, 5, WIDTH)) if modern and with_context else None
    with torch.inference_mode():
        whole = block(x, rotary=rotary, context=context)
        cache, start, pieces = KeyValueCache(), 0, []
        for part in x.split(parts, dim=1):
            stop = start + part.shape[1]
            turn = rotary_table(torch.arange(start, stop), WIDTH // HEADS) if modern else None
            pieces.append(block(part, rotary=turn, context=context, cache=cache))
            start = stop
    assert cache.length == total
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)


def test_context_is_seen_by_every_position() -> None:
    attention = filled(Attention(WIDTH, HEADS, modern=True, dropout=0.0))
    assert isinstance(attention, Attention)
    x, context = random(1, 4, WIDTH), random(1, 3, WIDTH, seed=2)
    other = context.clone()
    other[0, 2] += 1
    one, two = (attention(x, context=attention.context(c)) for c in (context, other))
    assert ((one - two).abs().amax(-1) > 1e-4).all()


def test_a_cache_grows_past_its_first_size_and_keeps_chosen_rows() -> None:
    cache = KeyValueCache()
    keys, values = random(3, 2, 100, 4), random(3, 2, 100, 4, seed=2)
    for start in range(0, 100, 7):
        found = cache.append(keys[:, :, start : start + 7], values[:, :, start : start + 7])
    torch.testing.assert_close(found, (keys, values))
    cache.select(torch.tensor([2, 0]))
    found = cache.append(random(2, 2, 1, 4), random(2, 2, 1, 4))
    torch.testing.assert_close(found[0][:, :, :100], keys[[2, 0]])
    torch.testing.assert_close(found[1][:, :, :100], values[[2, 0]])
    KeyValueCache().select(torch.tensor([0]))  # nothing yet, nothing to choose


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_alone() -> None:
    query, key = random(1, 1, 1, 8), random(1, 1, 1, 8, seed=2)

    def product(first: int, second: int) -> float:
        turned = [
            rotate(x, rotary_table(torch.tensor([place]), 8))
            for x, place in ((query, first), (key, second))
        ]
        assert float(turned[0].norm()) == pytest.approx(float(query.norm()), rel=1e-5)
        return float((turned[0] * turned[1]).sum())

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert not math.isclose(product(9, 4), product(9, 5), abs_tol=1e-3)


@pytest.mark.parametrize("modern", [True, False])
def test_dropout_acts_in_training_alone(modern: bool) -> None:
    block = filled(Block(WIDTH, HEADS, modern=modern, dropout=0.5))
    x = random(1, 4, WIDTH)
    assert torch.equal(block(x), block(x))
    block.train()
    assert not torch.equal(block(x), block(x))


@pytest.mark.parametrize("explicit", [True, False])
def test_dropout_leaves_out_attention_weights_and_scales_the_others(
    explicit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "EXPLICIT_ATTENTION_KEYS", 512 if explicit else 0)
    torch.manual_seed(0)
    # All keys alike and all values 1: what comes out counts the weights that are left.
    queries, keys, values = (
        torch.zeros(2, 8, 16, 4),
        torch.zeros(2, 8, 16, 4),
        torch.ones(2, 8, 16, 4),
    )
    kept = attend(queries, keys, values, 0.3, dropout=0.25)[:, :, -1] * 16 * 0.75
    torch.testing.assert_close(kept, kept.round(), atol=1e-3, rtol=0)
    assert 0.65 * 16 < kept.mean() < 0.85 * 16
    assert kept.std() > 0.5


def test_attention_weights_are_dropped_in_training_only() -> None:
    attention = Attention(WIDTH, HEADS, modern=False, dropout=0.5)
    filled(attention)
    attention.dropout.forward = lambda x: x  # what it does to the output is its own affair
    x = random(1, 6, WIDTH)
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))


compiled = torch.compile(backend="aot_eager_decomp_partition", dynamic=False)


def test_compiled_dropout_draws_a_mask_for_every_call() -> None:
    @compiled
    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return drop(x, 0.5), drop(x, 0.5)

    torch.manual_seed(0)
    x = torch.ones(4, 64, requires_grad=True)
    one, other = both(x)
    assert not torch.equal(one, other)
    (one.sum() + other.sum()).backward()
    # The gradient passes where the value did.
    assert x.grad is not None
    assert torch.equal(x.grad, one + other)


def test_compiled_blocks_compute_what_plain_ones_do() -> None:
    block = filled(Block(WIDTH, HEADS, modern=False, dropout=0.1))
    x = random(3, 5, WIDTH)
    torch.testing.assert_close(compiled(block)(x), block(x), atol=1e-4, rtol=1e-4)
    # Under autocast, a bias adds nothing to the precision of what it is added to.
    with torch.autocast("cpu", torch.bfloat16):
        out, plain = (f(x) for f in (compiled(block.widen), block.widen))
        assert out.dtype == plain.dtype == torch.bfloat16
        torch.testing.assert_close(out, plain, atol=0.1, rtol=0.05)


@given(st.floats(-30, 30))
def test_gelu_by_the_logistic_function_is_the_one_by_tanh(value: float) -> None:
    x = torch.tensor(value, dtype=torch.float64)
    logistic = torch.compile(gelu, backend="eager")
    torch.testing.assert_close(logistic(x), gelu(x), atol=1e-12, rtol=1e-12)
