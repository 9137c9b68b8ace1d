"""Lookups of what followed before, for whole rows and byte by byte, beside a plain search."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from bytemodel.matches import NONE, ORDERS, Matcher, matches, orders
from bytemodel.patches import PAD
from tests.bytemodel.models import random_model

SIZE = 16
LONGEST = ORDERS[-1]


def plain(row: list[int], longest: int) -> list[list[int]]:
    """For each token and order: what followed the last place where the same bytes ended."""

    def said(place: int, order: int) -> int:
        known = row[place - order : place]
        if place < order or PAD in known:
            return NONE
        for earlier in range(place - 1, order - 1, -1):
            if row[earlier - order : earlier] == known:
                return row[earlier]
        return NONE

    return [[said(place, order) for order in orders(longest)] for place in range(len(row))]


@st.composite
def rows(draw: st.DrawFn) -> torch.Tensor:
    """Two rows of 1 to 8 patches of few different tokens, parts of which are said again."""
    patches = draw(st.integers(1, 8))
    tokens = st.sampled_from([7, 7, 7, 8, 8, 0, 255, PAD])
    found = []
    for _ in range(2):
        row = draw(st.lists(tokens, min_size=1, max_size=40))
        while len(row) < patches * SIZE:
            start = draw(st.integers(0, len(row) - 1))
            row += [*row[start : start + draw(st.integers(1, 50))], draw(tokens)]
        found.append(row[: patches * SIZE])
    return torch.tensor(found)


@given(rows(), st.sampled_from(ORDERS))
def test_a_whole_row_is_looked_up_as_by_a_plain_search(tokens: torch.Tensor, longest: int) -> None:
    wanted = torch.tensor([plain(row, longest) for row in tokens.tolist()])
    assert torch.equal(matches(tokens, longest), wanted)


def test_a_configuration_says_how_long_the_lookups_are() -> None:
    assert orders(32) == orders(40) == (3, 5, 8, 12, 20, 32)
    assert orders(LONGEST) == ORDERS


def test_every_order_finds_what_is_as_long_and_no_longer() -> None:
    for number, order in enumerate(ORDERS):
        text = [*range(100, 100 + order), 1, 2, *range(100, 100 + order), 9]
        found = matches(torch.tensor([text]), LONGEST)[0, -1].tolist()
        assert found == [1] * (number + 1) + [NONE] * (len(ORDERS) - number - 1)


def test_the_last_occurrence_counts() -> None:
    text = b"abc1 abc2 abc"
    found = matches(torch.tensor([[*text, 0]]), LONGEST)[0, -1].tolist()
    assert found == [ord("2")] + [NONE] * (len(ORDERS) - 1)


@given(rows(), st.sampled_from(ORDERS), st.data())
def test_byte_by_byte_the_same_is_found(
    tokens: torch.Tensor, longest: int, data: st.DataObject
) -> None:
    patches_BPS = tokens.view(2, -1, SIZE)
    wanted = matches(tokens, longest).view(2, -1, SIZE, len(orders(longest)))
    first = data.draw(st.integers(1, patches_BPS.shape[1]))
    matcher = Matcher(longest)
    matcher.read(patches_BPS[:, :first])
    for patch in range(first, patches_BPS.shape[1]):
        for place in range(SIZE):
            said_BT = patches_BPS[:, patch, :place]
            if data.draw(st.booleans()):
                # Guesses that turn out wrong leave no trace.
                guesses = torch.full((2, 3), data.draw(st.sampled_from([7, 8, PAD])))
                matcher.look_up(torch.cat((said_BT, guesses), 1))
            assert torch.equal(matcher.look_up(said_BT), wanted[:, patch, : place + 1])
        matcher.read(patches_BPS[:, patch, None])


def test_rows_that_are_kept_go_on() -> None:
    text = b"the same again, the same "
    tokens = torch.tensor([list(text), list(reversed(text))])
    both, one = Matcher(LONGEST), Matcher(LONGEST)
    both.read(tokens[:, None])
    both.look_up(tokens[:, :2])
    both.keep(torch.tensor([True, False]))
    one.read(tokens[:1, None])
    for said_BT in (tokens[:1, :2], tokens[:1, :5]):
        assert torch.equal(both.look_up(said_BT), one.look_up(said_BT))


def test_a_model_hears_what_the_lookups_say() -> None:
    model = random_model()
    size = model.config.patch_size
    tokens = torch.tensor([[*b"bin.", *b"abcdefg.", *b"abcdefg."]]).view(1, -1, size)
    targets = torch.tensor([4])
    matches_NSK = model.matches(tokens, targets)
    assert matches_NSK is not None
    assert (matches_NSK != NONE).any()
    with torch.inference_mode():
        conditions = model.read(tokens).at(targets - 1)
        patches_NS = tokens[0, targets]
        told = model.predict(conditions, patches_NS, matches_NSK)
        deaf = model.predict(conditions, patches_NS, torch.full_like(matches_NSK, NONE))
    assert torch.equal(model(tokens, targets), told)
    known = (matches_NSK != NONE).any(-1)[0]
    differs = (told != deaf).any(-1)[0]
    assert torch.equal(differs, known.cumsum(0) > 0)
