"""What byte stands where: that it is learned, and that what is learned reads bytes as they are."""

from __future__ import annotations

import torch

from bytemodel.patches import PAD, encode_file
from bytemodel.placed import MOST_PLACES, Placed, first_bytes, learned


def some_files(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bytes whose place 3 tells the label, beside a place where all are the same."""
    first = torch.randint(0, 256, (count, 9), generator=torch.Generator().manual_seed(count))
    first[:, 5] = 200
    return first.to(torch.uint8), (first[:, 3] > 127).long()


def test_what_stands_at_one_place_is_learned_and_the_same_each_time() -> None:
    told: list[float] = []
    state = torch.random.get_rng_state()
    placed = learned(*some_files(2000), 2, seed=3, progress=told.append)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert told == sorted(told)
    assert told[0] == 0
    assert 0.99 < told[-1] < 1
    first, labels = some_files(300)
    found = placed(first)
    assert (found.argmax(1) == labels).float().mean() > 0.95
    assert torch.equal(learned(*some_files(2000), 2, seed=3)(first), found)
    assert not torch.equal(learned(*some_files(2000), 2, seed=4)(first), found)


def test_bytes_are_taken_in_the_order_of_the_file_and_zeros_behind_its_end() -> None:
    patches = torch.from_numpy(encode_file(bytes(range(1, 8)), "bin", 4))[None]
    assert (patches == PAD).any()
    assert first_bytes(patches, 9)[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0]
    assert first_bytes(patches, 3)[0].tolist() == [1, 2, 3]
    assert first_bytes(patches, MOST_PLACES).dtype == torch.uint8
    assert Placed(9, 2).eval()(first_bytes(patches, 9)).shape == (1, 2)
