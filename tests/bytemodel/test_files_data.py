"""Files as training data: every byte once, nothing on both sides, and hostile folders."""

from __future__ import annotations

import math
import os
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel.config import ModelConfig
from bytemodel.data import collate
from bytemodel.files import loss_and_hits
from bytemodel.files_data import (
    PREDICTED,
    Conversion,
    FileBatch,
    FileSource,
    Item,
    MadeFile,
    Pair,
    Part,
    Skipped,
    StoredFile,
    _shape_lengths,
    find_items,
)
from bytemodel.labelled import LabelledBatch
from bytemodel.patches import PAD, encode_conversion, encode_file
from bytemodel.score import score_file
from cpusim.errors import UserError
from tests.bytemodel.models import SMALLEST, random_model

SIZE = SMALLEST.patch_size
LONGEST = SMALLEST.max_patches


def made(name: str, data: bytes, part: Part | None = None) -> MadeFile:
    return MadeFile(name, name.rpartition(".")[2], lambda: data, part)


def source_of(
    entries: Iterable[Item | Pair], *, seed: int = 0, longest: int = LONGEST, **options: Any
) -> FileSource:
    config = ModelConfig.from_dict({**SMALLEST.to_dict(), "max_patches": longest})
    return FileSource(entries, config, seed=seed, about={"folder": "DATA"}, **options)


def content(number: int, size: int) -> bytes:
    """Bytes in whose patches the file's number and the patch's stand, so that each is unique."""
    patches = (bytes([number, p >> 8, p & 255]).ljust(SIZE, b"\0") for p in range(size // SIZE + 1))
    return b"".join(patches)[:size]


def asked(batch: FileBatch) -> Iterator[tuple[int, ...]]:
    """The patches that a batch asks for, with -1 where it asks for nothing."""
    wanted = batch.patches_BPS.flatten(0, 1)[batch.targets_N]
    shown = torch.where(batch.asked_NS, wanted, -1)
    return (tuple(row) for row in shown.tolist() if any(token >= 0 for token in row))


def expected(data: bytes) -> list[tuple[int, ...]]:
    """The patches of a whole file as they are to be asked for: its bytes, and where it ends."""
    rows = []
    for patch in encode_file(data, "bin", SIZE)[1:].tolist():
        end = patch.index(PAD) if PAD in patch else SIZE
        rows.append(tuple([*patch[: end + 1], *[-1] * SIZE][:SIZE]))
    return rows


def assert_in_order(batch: FileBatch) -> None:
    """What a batch asks for is in the order of its rows, and its grid says which is whose."""
    rows = batch.targets_N // batch.patches_BPS.shape[1]
    assert rows.tolist() == sorted(rows.tolist())
    asked_N = batch.asked_NS.any(1)
    assert len(batch.grid_BR) == len(batch.patches_BPS)
    for row, own in enumerate(batch.grid_BR.tolist()):
        there = [target for target in own if target < len(rows) and asked_N[target]]
        assert there == (asked_N & (rows == row)).nonzero()[:, 0].tolist()
        assert sorted(own) == own
        assert all(target == len(rows) for target in own[len(there) :])


def epoch(source: FileSource, number: int = 0) -> list[FileBatch]:
    count = source.steps_per_epoch
    return [source.batch(step) for step in range(number * count, (number + 1) * count)]


# What is learned ----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=12),
    longest=st.integers(3, 30),
    seed=st.integers(0, 3),
)
def test_every_byte_of_every_file_is_asked_for_once_an_epoch(
    sizes: list[int], longest: int, seed: int
) -> None:
    contents = [content(number, size) for number, size in enumerate(sizes)]
    files = [made(f"{number}.bin", data, "train") for number, data in enumerate(contents)]
    source = source_of([*files, made("t.bin", b"\xff", "test")], longest=longest, seed=seed)
    wanted = Counter(row for data in contents for row in expected(data))
    for number in (0, 1):
        batches = epoch(source, number)
        assert Counter(row for batch in batches for row in asked(batch)) == wanted
        assert len({batch.patches_BPS.shape + batch.asked_NS.shape for batch in batches}) <= 8
        for batch in batches:
            # What a sequence begins with is given, and no window reaches beyond the model.
            assert batch.patches_BPS.shape[1] <= longest
            assert bool((batch.targets_N % batch.patches_BPS.shape[1] > 0).all())
            assert_in_order(batch)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(100, 400), longest=st.integers(3, 20))
def test_a_window_in_the_middle_reads_a_patch_that_it_is_not_asked_for(
    size: int, longest: int
) -> None:
    data = content(0, size)
    whole = encode_file(data, "bin", SIZE)
    source = source_of([made("a.bin", data, "train"), made("t.bin", b"t", "test")], longest=longest)
    starts = []
    for batch in epoch(source):
        for row, patches in enumerate(batch.patches_BPS.numpy()):
            mine = batch.targets_N // longest == row
            places = (batch.targets_N % longest)[mine & batch.asked_NS[:, 0]].tolist()
            if not places:
                continue
            np.testing.assert_array_equal(patches[0], whole[0])
            count = max(places) + 1
            assert places == list(range(1 if places[0] == 1 else 2, count))
            start = next(i for i in range(1, len(whole)) if (whole[i] == patches[1]).all())
            np.testing.assert_array_equal(patches[1:count], whole[start : start + count - 1])
            assert (places[0] == 1) == (start == 1)
            starts.append(start)
    assert starts.count(1) == 1
    assert len(set(starts)) == len(starts)


def test_where_a_long_file_is_cut_differs_by_epoch() -> None:
    source = source_of([made("a.bin", content(0, 400), "train"), made("t.bin", b"t", "test")])
    cuts = {
        tuple(sorted(tuple(b.patches_BPS[:, 1].flatten().tolist()) for b in epoch(source, n)))
        for n in range(12)
    }
    assert len(cuts) > 1


def test_of_a_conversion_only_the_target_is_asked_for() -> None:
    texts = [(content(n, 5 + n), content(100 + n, 9 + 2 * n)) for n in range(12)]
    pairs = [
        Pair(made(f"{n}.abc", a, "train"), made(f"{n}.mid", b)) for n, (a, b) in enumerate(texts)
    ]
    test = Pair(made("t.abc", b"t", "test"), made("t.mid", b"u"))
    source = source_of([*pairs, test])
    batches = epoch(source)
    wanted = Counter(row for _, target in texts for row in expected(target))
    assert Counter(row for batch in batches for row in asked(batch)) == wanted
    sequences = [encode_conversion(a, "abc", b, "mid", SIZE) for a, b in texts]
    rows = {row.tobytes() for batch in batches for row in batch.patches_BPS.numpy()}
    for sequence in sequences:
        assert any(row.startswith(sequence.tobytes()) for row in rows)


def test_a_few_long_files_do_not_make_all_batches_as_long() -> None:
    short = [made(f"{n}.bin", content(n, SIZE * (1 + n % 20)), "train") for n in range(100)]
    long = [made("long.bin", content(100, 4000), "train"), made("t.bin", b"t", "test")]
    source = source_of([*short, *long], longest=1002)
    assert source.shapes[-1] == (1002, 1, 1001, 1001)
    # 512 patches are predicted at a time, and the short files have 1,150 in all.
    assert source.steps_per_epoch <= 5


def test_files_that_are_nearly_as_long_share_one_shape() -> None:
    files = [made(f"{n}.bin", content(n, 4 * (460 + n)), "train") for n in range(40)]
    source = source_of([*files, made("t.bin", b"t", "test")], longest=512)
    assert [shape.length for shape in source.shapes] == [501]


@given(
    sizes=st.lists(st.integers(2, 12), min_size=1, max_size=30),
    shapes=st.integers(1, 4),
)
def test_shapes_are_those_that_take_the_least_time(sizes: list[int], shapes: int) -> None:
    def time(cuts: Sequence[int]) -> float:
        total = 0.0
        for shorter, length in pairwise((0, *cuts)):
            asked = sorted((size - 1 for size in sizes if shorter < size <= length), reverse=True)
            # As many rows as predict no more than 24 patches, whichever come together.
            for rows in range(len(asked), 0, -1):
                batches = -(-len(asked) // rows)
                targets = sum(asked[::batches])
                if targets <= 24:
                    break
            total += batches * (len(asked[::batches]) * length + PREDICTED * (targets + 2.4))
        return total

    every = sorted(set(sizes))
    possible = [
        (*cuts, every[-1])
        for count in range(min(shapes, len(every)))
        for cuts in combinations(every[:-1], count)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bytemodel.files_data._SHAPES", shapes)
        patch.setattr("bytemodel.files_data._WORTH", 1.0)
        found = _shape_lengths(np.array(sizes), np.array(sizes) - 1, 24)
    assert tuple(found) in possible
    assert time(found) == pytest.approx(min(map(time, possible)))


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=80),
    targets=st.integers(1, 40),
    seed=st.integers(0, 3),
)
def test_no_batch_asks_for_more_than_its_shape_has_room_for(
    sizes: list[int], targets: int, seed: int
) -> None:
    files = [made(f"{n}.bin", content(n, size), "train") for n, size in enumerate(sizes)]
    source = source_of([*files, made("t.bin", b"\xff", "test")], targets=targets, seed=seed)
    filled = Counter[tuple[int, ...]]()
    for batch in epoch(source):
        most = max(-(-size // SIZE) + 1 for size in sizes)
        assert len(batch.targets_N) <= max(targets, most)
        filled[tuple(batch.patches_BPS.shape)] += 1
    assert sum(filled.values()) == source.steps_per_epoch


def test_batches_of_files_of_any_length_are_nearly_full() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, 2000) * SIZE
    files = [made(f"{n}.bin", content(n % 256, int(s)), "train") for n, s in enumerate(sizes)]
    batches = epoch(source_of([*files, made("t.bin", b"\xff", "test")], longest=64))
    slots = sum(len(batch.targets_N) for batch in batches)
    assert sum(int(batch.asked_NS.any(1).sum()) for batch in batches) > 0.9 * slots
    assert slots > 450 * len(batches)


def test_windows_that_ask_for_as_much_come_together_in_every_way() -> None:
    files = [made(f"{n}.bin", content(n, 80), "train") for n in range(40)]
    source = source_of([*files, made("t.bin", b"\xff", "test")], targets=2 * 21)
    together = Counter[tuple[int, ...]]()
    for number in range(200):
        for batch in epoch(source, number):
            together[tuple(sorted(batch.patches_BPS[:, 1, 0].tolist()))] += 1
    # 780 pairs there are, of 4,000 drawn.
    assert len(together) > 700


def test_batches_are_a_function_of_seed_and_step() -> None:
    files = [made(f"{n}.bin", content(n, 20 + n)) for n in range(60)]
    one, again, other = source_of(files), source_of(files), source_of(files, seed=1)
    for step in (0, 3, one.steps_per_epoch, 1000):
        for mine, same in zip(one.batch(step), again.batch(step), strict=True):
            assert torch.equal(mine, same)
    assert not torch.equal(one.batch(0).patches_BPS, other.batch(0).patches_BPS)
    assert one.describe() == again.describe() != other.describe()


def test_a_step_predicts_as_many_patches_as_asked_for() -> None:
    files = [made(f"{n}.bin", content(n, 80)) for n in range(200)]
    usual, larger = source_of(files), source_of(files, targets=900)
    asked = [len(source.batch(0).targets_N) for source in (usual, larger)]
    assert 450 < asked[0] <= 512
    assert 750 < asked[1] <= 900
    assert larger.steps_per_epoch < usual.steps_per_epoch
    assert larger.describe()["targets"] == 900
    # No more rows than there are files.
    assert [shape.rows for shape in source_of(files, targets=60_000).shapes] == [larger.training]


# What is held out ---------------------------------------------------------------------


def test_the_same_content_is_never_on_both_sides_and_names_do_not_matter() -> None:
    contents = [content(n % 90, 30) for n in range(180)]
    source = source_of([made(f"{n}.bin", data) for n, data in enumerate(contents)])
    assert source.training + source.held_out == 180
    assert 2 <= source.held_out <= 36
    assert source.held_out % 2 == 0
    learned = {row for batch in epoch(source) for row in asked(batch)}
    held_out = {row for batch in source.evaluation() for row in asked(batch)}
    ends = {row for row in learned if PAD in row}
    assert not (learned - ends) & (held_out - ends)
    renamed = source_of([made(f"x{n}.bin", data) for n, data in enumerate(contents)])
    assert torch.equal(source.evaluation()[0].patches_BPS, renamed.evaluation()[0].patches_BPS)


def test_both_directions_of_a_pair_are_on_the_same_side() -> None:
    pairs = []
    for n in range(80):
        a, b = made(f"{n}.abc", content(n, 8)), made(f"{n}.mid", content(100 + n, 8))
        pairs += [Pair(a, b), Pair(b, a, decides=a)]
    source = source_of(pairs)
    assert source.held_out % 2 == 0
    numbers = [
        {row[0] % 100 for batch in batches for row in asked(batch) if PAD not in row}
        for batches in (epoch(source), source.evaluation())
    ]
    assert len(numbers[1]) * 2 == source.held_out
    assert not numbers[0] & numbers[1]


def test_a_content_that_the_folder_itself_puts_on_both_sides_is_only_evaluated_on() -> None:
    files = [made("a.bin", b"same", "train"), made("b.bin", b"other", "train")]
    source = source_of([*files, made("c.bin", b"same", "test")])
    assert (source.training, source.held_out) == (1, 1)
    assert source.notes == ["left out, the same content as one held out: a.bin"]
    with pytest.raises(UserError, match="nothing to train on, since all of it is held out"):
        source_of([files[0], made("c.bin", b"same", "test")])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_few_contents_one_at_least_is_on_each_side(count: int) -> None:
    for salt in range(20):
        source = source_of([made(f"{n}.bin", bytes([salt, n])) for n in range(count)])
        assert source.held_out >= 1
        assert source.training >= 1
        assert source.notes == []


def test_of_a_single_file_the_last_tenth_is_held_out() -> None:
    data = content(0, 1000)
    source = source_of([made("book.txt", data)])
    assert source.notes == ["book.txt: its last tenth is held out, as no other content is"]
    learned = [row for batch in epoch(source) for row in asked(batch)]
    held_out = [row for batch in source.evaluation() for row in asked(batch)]
    assert Counter(learned) + Counter(held_out) == Counter(expected(data))
    assert len(held_out) == 25
    assert (PAD, -1, -1, -1) in held_out


def test_what_cannot_be_split_is_evaluated_on_as_it_is_learned() -> None:
    for entries in ([made("a.txt", b"tiny")], [Pair(made("a.abc", b"1"), made("a.mid", b"2"))]):
        source = source_of(entries)
        assert source.notes == [
            "nothing else is there to evaluate on, so it is what is learned, and flatters"
        ]
        (learned,), (held_out,) = epoch(source), source.evaluation()
        assert set(asked(learned)) == set(asked(held_out))


@pytest.mark.parametrize("family", ["local", "published"])
def test_evaluation_counts_each_byte_once_and_as_scoring_does(family: Any) -> None:
    model = random_model(family)
    rng = np.random.default_rng(0)
    contents = [rng.bytes(size) for size in (1, SIZE, 61, 90, 91, 95, 300)]
    files = [made(f"{n}.bin", data, "test") for n, data in enumerate(contents)]
    source = source_of([*files, made("t.bin", b"t", "train")])
    bits, count = 0.0, 0
    for batch in source.evaluation():
        wanted = batch.patches_BPS.flatten(0, 1)[batch.targets_N]
        only_bytes = batch._replace(asked_NS=batch.asked_NS & (wanted != PAD))
        loss, mean, right = loss_and_hits(model, *only_bytes)
        assert loss == mean
        assert len(only_bytes.answers(right)) == only_bytes.size
        bits += mean.item() * only_bytes.size / math.log(2)
        count += only_bytes.size
    assert count == sum(map(len, contents))
    assert bits == pytest.approx(
        sum(score_file(model, data, "bin").surprisal.sum() for data in contents), rel=1e-4
    )


def test_a_huge_held_out_file_is_evaluated_in_part() -> None:
    files = [made("a.bin", b"a", "train"), made("b.bin", bytes(200_000), "test")]
    source = source_of(files)
    patches = sum(int(b.asked_NS.any(1).sum()) for b in source.evaluation())
    assert 8192 <= patches < 8192 + LONGEST
    assert source.notes == []


def test_how_many_of_those_held_out_are_evaluated_is_told() -> None:
    held_out = [made(f"{n}.bin", content(n, 20_000), "test") for n in range(5)]
    source = source_of([made("a.bin", b"a", "train"), *held_out])
    first, again = source.evaluation(), source.evaluation()
    assert source.notes == ["evaluated on 2 of the 5 held out, the same ones every time"] * 2
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.patches_BPS, other.patches_BPS)


def test_groups_are_the_kinds_of_files() -> None:
    files = [
        made(f"{n}.{kind}", content(n, 30), part)
        for n, (kind, part) in enumerate(
            [("abc", "test"), ("mid", "test"), ("abc", "test"), ("abc", "train")]
        )
    ]
    source = source_of(files)
    counts: Counter[str] = Counter()
    for batch in source.evaluation():
        hits = np.ones(batch.size, bool)
        for name, (right, every) in source.groups(batch, hits).items():
            assert right == every
            counts[name] += every
    one = sum(token >= 0 for row in expected(content(0, 30)) for token in row)
    assert counts == {"kind abc": 2 * one, "kind mid": one}
    alone = source_of(files[2:])
    batch = alone.evaluation()[0]
    assert alone.groups(batch, np.ones(batch.size, bool)) == {}


# Folders ------------------------------------------------------------------------------


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def found(data: Path, *extensions: str) -> list[StoredFile]:
    return list(find_items(data, extensions, Skipped()))


def test_files_are_found_by_extension_in_upper_and_lower_case(tmp_path: Path) -> None:
    write(tmp_path, {"a.abc": b"1", "b.ABC": b"2", "c.mid": b"3", "d": b"4", "e/f.abc": b"5"})
    named = [(Path(item.name).name, item.extension) for item in found(tmp_path)]
    assert named == [
        ("a.abc", "abc"),
        ("b.ABC", "ABC"),
        ("c.mid", "mid"),
        ("d", ""),
        ("f.abc", "abc"),
    ]
    named = [(Path(item.name).name, item.extension) for item in found(tmp_path, ".abc")]
    assert named == [("a.abc", "abc"), ("b.ABC", "abc"), ("f.abc", "abc")]
    assert [item.name for item in found(tmp_path / "c.mid")] == [f"{tmp_path}/c.mid"]
    with pytest.raises(UserError, match="none: no such file or folder"):
        found(tmp_path / "none")


@pytest.mark.parametrize("side", ["validation", "test"])
def test_a_folder_may_say_itself_what_to_evaluate_on(side: str, tmp_path: Path) -> None:
    write(tmp_path, {"train/a": b"1", f"{side}/b": b"2", "c": b"3"})
    assert [(Path(i.name).name, i.part) for i in found(tmp_path)] == [("a", "train"), ("b", "test")]
    write(tmp_path, {"validation/v": b"4"})
    assert {i.part: i.name for i in found(tmp_path)}["test"].endswith("/v")


def test_a_folder_with_train_alone_is_like_any_other(tmp_path: Path) -> None:
    write(tmp_path, {"train/a": b"1", "b": b"2"})
    assert [item.part for item in found(tmp_path)] == [None, None]


def test_conversions_are_pairs_by_name_and_the_rest_is_counted(tmp_path: Path) -> None:
    names = ["a.abc", "a.mid", "b/c.ABC", "b/c.Mid", "b/d.abc", "x.mid", "y.mid", "a.txt"]
    names += ["b/c.abc"]
    write(tmp_path, {name: name.encode() for name in names})
    skipped = Skipped()
    both = Conversion.parse("abc&mid", SIZE)
    kinds = (both.source, both.target)
    pairs = list(both.pairs(find_items(tmp_path, kinds, skipped), skipped))
    shown = [
        (Path(p.source.name).name, Path(p.target.name).name, p.source.extension) for p in pairs
    ]
    assert shown == [
        ("a.abc", "a.mid", "abc"),
        ("a.mid", "a.abc", "mid"),
        ("c.ABC", "c.Mid", "abc"),
        ("c.Mid", "c.ABC", "mid"),
    ]
    assert list(skipped.sentences()) == [
        f"left out, of the same name as another: {tmp_path}/b/c.abc",
        f"left out, without a partner: {tmp_path}/b/d.abc and 2 more",
    ]
    one = Conversion.parse(" .abc -> mid ", SIZE)
    assert str(one) == "abc->mid"
    assert len(list(one.pairs(found(tmp_path, "abc", "mid"), Skipped()))) == 2


@pytest.mark.parametrize("text", ["abc", "abc->", "->mid", "&", "", "abc->abc", "abc&ABC", "a-b"])
def test_what_names_no_conversion_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="names no conversion; write two different extensions"):
        Conversion.parse(text, SIZE)


def test_an_extension_that_no_patch_holds_is_refused_for_conversions() -> None:
    with pytest.raises(UserError, match="'muchtoolong' has 11 bytes; a patch holds 4"):
        Conversion.parse("abc->muchtoolong", SIZE)


def test_pairs_too_long_for_the_model_are_counted_and_the_first_is_named() -> None:
    def pair(n: int, size: int) -> Pair:
        return Pair(made(f"{n}.abc", content(n, size)), made(f"{n}.mid", content(100 + n, size)))

    fits = (LONGEST - 3) // 2 * SIZE
    source = source_of([pair(0, fits), pair(1, fits + 1), pair(2, 500), pair(3, 5)])
    assert source.training + source.held_out == 2
    assert source.notes[0] == (
        f"left out, longer than the model's {LONGEST} patches: 1.abc -> 1.mid and 1 more"
    )
    with pytest.raises(UserError, match=r"DATA: leaves nothing to train on \(left out, longer"):
        source_of([pair(2, 500)])


# Hostile folders ----------------------------------------------------------------------


def test_a_folder_without_anything_to_learn_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DATA: leaves nothing to train on; name a folder with"):
        source_of(found(tmp_path))
    write(tmp_path, {"a": b"", "b": b""})
    with pytest.raises(UserError, match=r"nothing to train on \(left out, empty: .*/a and 1 more"):
        source_of(found(tmp_path))


def test_empty_and_unreadable_files_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"1", "b": b"", "c": b"2", "d": b"3", "e": b"4"})
    items = found(tmp_path)
    for name in ("d", "e"):
        (tmp_path / name).unlink()  # as good as unreadable, also to the superuser
    source = source_of(items)
    assert source.training + source.held_out == 2
    assert source.notes == [
        f"left out, empty: {tmp_path}/b",
        f"left out, unreadable: {tmp_path}/d and 1 more",
    ]


def test_names_that_are_no_text_are_learned_like_any_other(tmp_path: Path) -> None:
    for number in range(3):
        name = os.fsencode(tmp_path) + b"/\xff%d.\xfe" % number
        Path(os.fsdecode(name)).write_bytes(bytes([number]))
    source = source_of(found(tmp_path))
    assert source.training + source.held_out == 3
    assert int(source.batch(0).patches_BPS[0, 0, 0]) == 0xFE


def test_what_vanishes_or_changes_is_left_out_with_a_note(tmp_path: Path) -> None:
    write(tmp_path, {f"train/{n:02}": content(n, 90) for n in range(40)})
    write(tmp_path, {"test/t": b"t"})
    source = source_of(found(tmp_path))
    (tmp_path / "train/03").unlink()
    (tmp_path / "train/05").write_bytes(content(5, 94))
    (tmp_path / "train/07").write_bytes(content(99, 90))  # of the same size
    notes: list[str] = []
    source.note = notes.append
    for number in (0, 1):
        learned = Counter(row for batch in epoch(source, number) for row in asked(batch))
        gone = [row for n in (3, 5, 7) for row in expected(content(n, 90))[:-1]]
        assert not set(gone) & set(learned)
        assert all(learned[row] for row in expected(content(4, 90)))
    assert sorted(notes) == [
        f"{tmp_path}/train/03: cannot be read (no such file or directory); it is left out",
        f"{tmp_path}/train/05: was changed while it was being learned; it is left out",
        f"{tmp_path}/train/07: was changed while it was being learned; it is left out",
    ]


def test_a_batch_of_what_has_vanished_gives_way_to_the_next_until_none_is_left(
    tmp_path: Path,
) -> None:
    write(tmp_path, {f"train/{n:02}": content(n, 400) for n in range(30)})
    write(tmp_path, {"test/t": b"t"})
    source = source_of(found(tmp_path))
    notes: list[str] = []
    source.note = notes.append
    for path in sorted((tmp_path / "train").iterdir())[1:]:
        path.unlink()
    for batch in epoch(source):
        assert {row[0] for row in asked(batch) if row[0] != PAD} == {0}
    assert len(notes) == 11
    assert notes[-1] == "more files may be left out without a note"
    (tmp_path / "train/00").unlink()
    with pytest.raises(UserError, match="nothing is left to train on, since every file has"):
        source.batch(0)
    (tmp_path / "test/t").unlink()
    with pytest.raises(UserError, match="nothing of what is held out can be read any more"):
        source.evaluation()


def test_made_files_are_checked_like_stored_ones() -> None:
    answers = {"a": b"first"}
    item = MadeFile("a", "bin", lambda: answers["a"])
    assert item.measure()[0] == 5
    assert item.read(1, 3) == b"ir"
    answers["a"] = b"other"
    with pytest.raises(UserError, match="a: was changed while it was being learned"):
        item.read()


def test_many_files_take_little_memory_each() -> None:
    count = 4000
    tracemalloc.start()
    files = (
        made(f"folder/of/many/files/{n:07}.bin", n.to_bytes(4, "big") * 1000) for n in range(count)
    )
    source = source_of(files, longest=3000)
    held = tracemalloc.get_traced_memory()[0]
    source.batch(0)
    tracemalloc.stop()
    # The lambda and the content that it holds are the test's own: 4 kB.
    assert held < count * (4100 + 1500)


# Shares -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=9),
    ranks=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_the_shares_of_a_batch_are_the_batch(sizes: list[int], ranks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    contents = [rng.bytes(size) for size in sizes]
    files = [made(f"{n}.bin", data, "train") for n, data in enumerate(contents)]
    whole = source_of([*files, made("t", b"t", "test")]).batch(seed)
    shares = [whole.share(rank, ranks) for rank in range(ranks)]
    assert sum(share.size for share in shares) == whole.size
    assert [row for share in shares for row in asked(share)] == list(asked(whole))
    for share in shares:
        assert_in_order(share)

    sampled = collate([encode_file(data, "bin", SIZE) for data in contents], 1, sample=11, rng=rng)
    parts = [sampled.share(rank, ranks) for rank in range(ranks)]
    assert sum(part.size for part in parts) == sampled.size == 11
    assert max(part.size for part in parts) - min(part.size for part in parts) <= 1
    predicted = [part.patches_BPS.flatten(0, 1)[part.targets_N] for part in parts]
    before = [part.patches_BPS.flatten(0, 1)[part.targets_N - 1] for part in parts]
    tokens = sampled.patches_BPS.flatten(0, 1)
    assert torch.equal(torch.cat(predicted), tokens[sampled.targets_N])
    assert torch.equal(torch.cat(before), tokens[sampled.targets_N - 1])


def test_labelled_files_are_shared_out_too_and_too_many_processes_refused() -> None:
    batch = LabelledBatch(torch.arange(60).view(5, 3, 4), torch.arange(5), torch.arange(5))
    shares = [batch.share(rank, 2) for rank in range(2)]
    assert [share.size for share in shares] == [2, 3]
    for mine, whole in zip(zip(*shares, strict=True), batch, strict=True):
        assert torch.equal(torch.cat(mine), whole)
    with pytest.raises(UserError, match="6 processes are more than the 5 files of a step"):
        batch.share(0, 6)
    few = collate([encode_file(b"1", "bin", SIZE)], 1)
    with pytest.raises(UserError, match="3 processes are more than the 2 patches that a step"):
        few.share(0, 3)
