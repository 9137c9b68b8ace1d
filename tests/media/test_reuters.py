"""Reuters R8: topics become labels, the standard split is kept, and a damaged table is named."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from cpusim.errors import UserError
from media import prepared
from media.modality import Item
from media.reuters import REUTERS

HEADER = "Category\tText\nd\tstring\nclass\t\n\n"


def tables(folder: Path, train: str, test: str = "earn\tprofit up \n") -> Path:
    for part, rows in (("train", train), ("test", test)):
        (folder / f"reuters-r8-{part}.tab").write_text(HEADER + rows)
    return folder


def items(folder: Path) -> list[Item]:
    found = list(REUTERS.items(folder, lambda _done, _total: None))
    assert all(isinstance(item, Item) for item in found)
    return found  # type: ignore[return-value]


def test_topics_stand_in_names_and_every_message_stands_on_its_own_side(tmp_path: Path) -> None:
    rows = "".join(
        f"money-fx\tmessage {'abcdefghij'[n % 10] * (n + 1)} ends \n" for n in range(200)
    )
    found = items(tables(tmp_path, rows))
    assert found[0] == Item("earn_test-0000.txt", b"profit up\n", (), "test")
    assert [item.name for item in found[1:3]] == [
        "money-fx_train-0000.txt",
        "money-fx_train-0001.txt",
    ]
    sides = Counter(item.side for item in found)
    assert sides["test"] == 1
    assert 0 < sides["validation"] < 40
    assert found == items(tmp_path)


def test_copies_of_a_training_message_stay_together_and_near_ones_of_a_test_message_stay(
    tmp_path: Path,
) -> None:
    many = "".join(f"acq\tfirm number {'x' * n} bought another firm today \n" for n in range(99))
    rows = many + "earn\tprofit up \nearn\tprofit up again \n" + many
    out = tmp_path / "set"
    folder = tables(tmp_path, rows)
    prepared.from_sample(dataclasses.replace(REUTERS, sample=folder), out, prepared.Stages())
    manifest = prepared.read(out).manifest
    assert manifest["left_out"] == {"too like one held out": 1}
    held = {path.read_bytes() for side in ("validation", "test") for path in (out / side).iterdir()}
    learned = {path.read_bytes() for path in (out / "train").iterdir()}
    assert not held & learned
    assert b"profit up again\n" in learned | held


@pytest.mark.parametrize(
    "rows",
    ["earn without a tab\n", "earn\tone\ttoo many\n", "a_b\ttext\n", "../up\ttext\n", "earn\t \n"],
)
def test_a_damaged_table_is_named(rows: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reuters-r8-train\.tab: is damaged; fetch it again"):
        items(tables(tmp_path, rows))


def test_what_is_no_reuters_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no reuters-r8-test\.tab, so it is not Reuters R8"):
        items(tmp_path)


def test_the_sample_has_every_topic_on_every_side_that_is_judged(tmp_path: Path) -> None:
    made = prepared.from_sample(REUTERS, tmp_path / "set", prepared.Stages())
    assert "Reuters" not in made.manifest["licence"]
    for side in ("train", "test"):
        assert len({path.name.split("_")[0] for path in made.files(side)}) == 8
    assert made.files("validation")
    for path in made.files("test"):
        assert REUTERS.judge(path.read_bytes(), "txt") is None
