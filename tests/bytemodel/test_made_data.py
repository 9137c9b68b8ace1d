"""Made conversions among real ones: every batch a function of the step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytemodel import ahead
from bytemodel.files_data import Conversion, FileBatch, FileSource, MadeFile, Pair, Part
from bytemodel.made_data import MixedSource
from bytemodel.patches import PAD, encode_conversion, encode_file
from cpusim.errors import UserError
from tests.bytemodel.models import SMALLEST

SIZE = SMALLEST.patch_size
REAL = [bytes([97 + n % 26]) * (3 + n % 9) for n in range(60)]


def make(first: int, count: int) -> Sequence[tuple[bytes, bytes]]:
    """Pairs whose bytes tell their number; every tenth is too long for the model."""
    numbers = range(first, first + count)
    return [
        (b"%06d" % n, b"MADE%06d" % n + b"." * (200 if n % 10 == 0 else n % 7)) for n in numbers
    ]


def real(conversion: Conversion | None, seed: int = 0) -> FileSource:
    def item(name: str, data: bytes, part: Part) -> MadeFile:
        return MadeFile(name, name.rpartition(".")[2], lambda: data, part)

    entries: list[Pair | MadeFile] = []
    for number, data in enumerate(REAL):
        part: Part = "test" if number % 10 == 0 else "train"
        low = item(f"{number}.low", data + b"%d" % number, part)
        up = item(f"{number}.up", data.upper() + b"%d" % number, part)
        if conversion is None:
            entries += [low, up]
        if conversion is not None and (conversion.both or conversion.source == "low"):
            entries.append(Pair(low, up))
        if conversion is not None and (conversion.both or conversion.source == "up"):
            entries.append(Pair(up, low, decides=low))
    return FileSource(entries, SMALLEST, seed=seed, about={"kind": "files", "folder": "DATA"})


def mixed(share: float = 0.5, convert: str | None = "low&up", *, seed: int = 0) -> MixedSource:
    conversion = None if convert is None else Conversion.parse(convert, SIZE)
    about = {"sha256": "0"}
    kinds = "low", "up"
    return MixedSource(real(conversion, seed), make, kinds, conversion, share=share, about=about)


def equal(one: FileBatch, other: FileBatch) -> bool:
    return all(bool((a == b).all()) for a, b in zip(one, other, strict=True))


def targets(batch: FileBatch) -> list[bytes]:
    """What each row of a batch asks for."""
    rows = batch.targets_N // batch.patches_BPS.shape[1]
    wanted = batch.patches_BPS.flatten(0, 1)[batch.targets_N].numpy()
    asked = batch.asked_NS.numpy()
    found = []
    for row in range(len(batch.patches_BPS)):
        chosen = (rows == row).numpy()
        symbols = wanted[chosen][asked[chosen]]
        if len(symbols):
            assert symbols[-1] == PAD
            found.append(bytes(symbols[symbols != PAD].astype(np.uint8)))
    return found


def test_the_share_of_made_batches_is_what_was_asked() -> None:
    for share in (0.25, 0.5, 0.75):
        source = mixed(share, "low->up")
        made = [b"MADE" in targets(source.batch(step))[0] for step in range(80)]
        assert sum(made) == 80 * share


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
def test_other_processes_make_each_block_once(share: float, tmp_path: Path) -> None:
    source = mixed(share)
    expected = [source.batch(step) for step in range(200)]
    make_block = source._block

    def noted(block: int) -> list[FileBatch]:
        (tmp_path / f"{block}-{os.getpid()}").touch()
        return make_block(block)

    source._block = noted  # type: ignore[assignment]
    with contextlib.closing(ahead.batches(source, 0, 2)) as found:
        assert all(map(equal, islice(found, 200), expected))
    made = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert len(made) == len(set(made)) >= (1 if share else 0)


def test_real_batches_come_in_their_own_order() -> None:
    source = mixed(0.5)
    alone = real(Conversion.parse("low&up", SIZE))
    for step in range(0, 20, 2):
        assert equal(source.batch(step), alone.batch(step // 2))
    none = mixed(0.0)
    assert all(equal(none.batch(step), alone.batch(step)) for step in range(5))


def test_a_batch_is_a_function_of_the_step() -> None:
    one, other = mixed(0.75), mixed(0.75)
    steps = [500, 3, 40, 499, 2, 41]
    before = {step: other.batch(step) for step in steps}
    assert all(equal(one.batch(step), before[step]) for step in sorted(steps))
    assert one.describe() == other.describe()
    assert one.describe()["made"] == {"sha256": "0", "share": 0.75}
    assert not all(equal(mixed(0.75, seed=1).batch(step), before[step]) for step in steps)


def test_made_pairs_never_come_again_and_what_is_too_long_never() -> None:
    source = mixed(0.5, "low->up")
    seen = [target for step in range(1, 200, 2) for target in targets(source.batch(step))]
    assert all(target.startswith(b"MADE") for target in seen)
    assert len(set(seen)) == len(seen)
    assert not any(len(target) > 100 for target in seen)
    assert len(seen) > 500


def test_both_directions_are_made_and_asked_for_as_conversions() -> None:
    source = mixed(0.5)
    seen: set[bool] = set()
    for step in range(1, 60, 2):
        batch = source.batch(step)
        for target in targets(batch):
            forth = target.startswith(b"MADE")
            seen.add(forth)
            assert forth or target.isdigit()
    assert seen == {True, False}
    row = source.batch(1).patches_BPS[0].numpy()
    number = int(targets(source.batch(1))[0].removeprefix(b"MADE")[:6])
    ((low, up),) = make(number, 1)
    options: list[Any] = [
        encode_conversion(low, "low", up, "up", SIZE),
        encode_conversion(up, "up", low, "low", SIZE),
    ]
    assert any(np.array_equal(row[: len(option)], option) for option in options)


def test_a_conversion_against_the_order_of_the_pairs_is_made_as_asked() -> None:
    batch = mixed(0.5, "up->low").batch(1)
    (low, up) = make(int(targets(batch)[0]), 1)[0]
    wanted = encode_conversion(up, "up", low, "low", SIZE)
    assert np.array_equal(batch.patches_BPS[0].numpy()[: len(wanted)], wanted)


def test_without_a_conversion_each_file_of_a_pair_is_learned_whole() -> None:
    source = mixed(0.5, None)
    found: set[str] = set()
    for step in range(1, 60, 2):
        batch = source.batch(step)
        for row, data in enumerate(targets(batch)):
            kind = "up" if data.startswith(b"MADE") else "low"
            found.add(kind)
            number = int(data.removeprefix(b"MADE")[:6])
            assert data in make(number, 1)[0]
            wanted = encode_file(data, kind, SIZE)
            assert np.array_equal(batch.patches_BPS[row].numpy()[: len(wanted)], wanted)
    assert found == {"low", "up"}


def test_shapes_are_those_of_the_real_batches() -> None:
    source = mixed(0.5)
    shapes = {
        tuple(tensor.shape for tensor in source.real.batch(step))
        for step in range(source.real.steps_per_epoch)
    }
    assert {tuple(tensor.shape for tensor in source.batch(step)) for step in range(99)} <= shapes


def test_only_real_ones_are_evaluated() -> None:
    source = mixed(0.75)
    found = [target for batch in source.evaluation() for target in targets(batch)]
    assert len(found) == 12
    assert not any(b"MADE" in target for target in found)
    assert source.steps_per_epoch == 4 * source.real.steps_per_epoch
    assert (source.training, source.held_out) == (108, 12)
    notes: list[str] = []
    source.note = notes.append
    source.real.note("gone")
    assert notes == ["gone"]


def test_a_share_that_is_none_and_pairs_that_never_fit_are_refused() -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(UserError, match="is not from 0 up to less than 1"):
            mixed(share)
    conversion = Conversion.parse("low->up", SIZE)
    with pytest.raises(UserError, match="hardly anything made fits into"):
        MixedSource(
            real(conversion),
            lambda _first, count: [(b"a" * 999, b"b")] * count,
            ("low", "up"),
            conversion,
            share=0.5,
            about={},
        )
