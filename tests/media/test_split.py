"""The split: what is alike stays together, and nothing else decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from media.modality import SIDES, Side
from media.split import assign, beside, groups

SOME_KEYS = st.lists(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=3), max_size=15)


def connected(keys: list[list[str]]) -> list[set[int]]:
    """The same groups by repeated merging: slow and plain."""
    found = [({place}, set(own)) for place, own in enumerate(keys)]
    merged = True
    while merged:
        merged = False
        for i, (places, known) in enumerate(found):
            for j in range(i + 1, len(found)):
                if known & found[j][1]:
                    places |= found[j][0]
                    known |= found[j][1]
                    del found[j]
                    merged = True
                    break
            if merged:
                break
    return [places for places, _ in found]


@given(SOME_KEYS)
def test_groups_are_what_shared_keys_link(keys: list[list[str]]) -> None:
    names = groups(keys)
    for group in connected(keys):
        (name,) = {names[place] for place in group}
        assert name == min(key for place in group for key in keys[place])
    assert len(set(names)) == len(connected(keys))


@given(SOME_KEYS)
def test_what_is_linked_stands_on_one_side_and_all_sides_have_something(
    keys: list[list[str]],
) -> None:
    sides, names = assign(keys, [None] * len(keys))
    by_group: dict[str, set[Side | None]] = {}
    for name, side in zip(names, sides, strict=True):
        by_group.setdefault(name, set()).add(side)
    assert all(len(found) == 1 for found in by_group.values())
    if len(by_group) >= len(SIDES):
        assert set(sides) == set(SIDES)
    elif by_group:
        assert set(sides) == set(("train", "validation")[: len(by_group)])


def test_shares_are_those_promised_and_more_data_elsewhere_change_nothing() -> None:
    few, _ = assign([(f"key {number}",) for number in range(4000)], [None] * 4000)
    many, _ = assign([(f"key {number}",) for number in range(8000)], [None] * 8000)
    assert many[:4000] == few
    counts = Counter(few)
    assert 150 < counts["validation"] < 250
    assert 340 < counts["test"] < 460


def test_a_thing_like_one_of_the_test_is_left_out_of_training() -> None:
    keys = [("shoe",), ("boot",), ("shoe",), ("hat",), ("hat",)]
    fixed: list[Side | None] = ["train", "train", "test", "test", None]
    assert assign(keys, fixed)[0] == [None, "train", "test", "test", "test"]


def test_files_of_one_name_in_one_folder_are_beside_each_other() -> None:
    assert beside(Path("a/x.png")) == beside(Path("a/x.jpg")) == beside(Path("a/x.tar"))
    assert beside(Path("a/x.png")) != beside(Path("b/x.png"))
    assert beside(Path("a/take.1")) != beside(Path("a/take.2"))
