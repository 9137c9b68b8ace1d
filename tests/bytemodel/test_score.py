"""Scores against a naive computation: one byte at a time, everything read again for each."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from bytemodel import score as module
from bytemodel.config import Family
from bytemodel.model import ByteModel
from bytemodel.patches import encode_file
from bytemodel.score import score_file
from cpusim.errors import UserError
from tests.bytemodel.models import FAMILIES, SMALLEST, random_model

SIZE = SMALLEST.patch_size
families = pytest.mark.parametrize("family", FAMILIES)


def data(length: int) -> bytes:
    return np.random.default_rng(length).bytes(length)


@functools.cache
def model_of(family: Family, longest: int = SMALLEST.max_patches) -> ByteModel:
    return random_model(family, max_patches=longest)


@torch.inference_mode()
def naive_bits(model: ByteModel, patches: torch.Tensor) -> list[float]:
    """Bits of each byte of the last patch, given the others."""
    found = []
    for place in range(SIZE):
        conditions = model.read(patches[None, :-1]).at(torch.tensor([-1]))
        contexts = model.byte_decoder.contexts(conditions)
        matches = model.matches(patches[None], torch.tensor([-1]))
        if matches is not None:
            matches = matches[:, : place + 1]
        said = patches[None, -1, :place]
        counts = model.byte_decoder.counts(conditions, said)
        logits = model.byte_decoder(conditions.features_NC, said, contexts, None, matches, counts)
        probability = logits[0, -1].double().softmax(0)[patches[-1, place]]
        found.append(-math.log2(float(probability)))
    return found


def naive(model: ByteModel, content: bytes, extension: str = "bin") -> list[float]:
    """Bits of everything behind the extension patch."""
    patches = torch.from_numpy(encode_file(content, extension, SIZE))
    longest = max(model.config.max_patches, 2)
    found = []
    for target in range(1, len(patches)):
        # The first of the windows, a half apart, that the patch stands in.
        start = 0
        while target >= start + longest:
            start += longest - longest // 2
        window = torch.cat((patches[:1], patches[max(start + 1, 1) : target + 1]))
        found += naive_bits(model, window)
    return found


@families
@pytest.mark.parametrize("length", [0, 1, SIZE - 1, SIZE, SIZE + 1, 5 * SIZE + 2])
def test_every_byte_costs_what_the_naive_computation_says(family: Family, length: int) -> None:
    model, content = model_of(family), data(length)
    score = score_file(model, content, "bin")
    expected = naive(model, content)
    assert score.surprisal.dtype == np.float32
    np.testing.assert_allclose(score.surprisal, expected[:length], atol=1e-4)
    assert score.end_bits == pytest.approx(sum(expected[length:]), abs=1e-3)
    assert score.bits == pytest.approx(sum(expected), abs=1e-3)
    if length:
        assert score.bits_per_byte == pytest.approx(sum(expected) / length, abs=1e-3)
    else:
        assert score.bits_per_byte == math.inf


@families
@pytest.mark.parametrize("longest", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("patches", [3, 4, 5, 6, 7, 13, 14, 22])
def test_a_file_longer_than_the_model_reads_is_scored_in_windows(
    family: Family, longest: int, patches: int
) -> None:
    model, content = model_of(family, longest), data(patches * SIZE - 1)
    score = score_file(model, content, "bin")
    expected = naive(model, content)
    np.testing.assert_allclose(score.surprisal, expected[: len(content)], atol=1e-4)
    assert score.end_bits == pytest.approx(sum(expected[len(content) :]), abs=1e-3)


@pytest.mark.parametrize("skip", [0, 1, 9, 19])
def test_skipped_bytes_are_context_and_cost_nothing(skip: int) -> None:
    model, content = model_of("local"), data(20)
    whole, some = (score_file(model, content, "bin", skip=n) for n in (0, skip))
    np.testing.assert_array_equal(some.surprisal, whole.surprisal[skip:])
    assert some.end_bits == whole.end_bits
    assert some.bits_per_byte == pytest.approx(some.bits / (20 - skip))


@pytest.mark.parametrize("skip", [20, 21])
def test_skipping_everything_is_refused(skip: int) -> None:
    with pytest.raises(UserError, match=f"--skip {skip} leaves nothing of a file of 20 bytes"):
        score_file(model_of("local"), data(20), "bin", skip=skip)


def test_how_many_patches_are_scored_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, content = model_of("local"), data(50)
    whole = score_file(model, content, "bin")
    monkeypatch.setattr(module, "TARGETS_AT_ONCE", 3)
    parts = score_file(model, content, "bin")
    np.testing.assert_allclose(parts.surprisal, whole.surprisal, atol=1e-4)


def test_the_expected_byte_is_the_most_probable_one_whatever_came() -> None:
    model, content = model_of("local"), data(30)
    found = score_file(model, content, "bin").predictions
    for place in range(30):
        altered = content[:place] + bytes([found.expected[place] & 255]) + content[place + 1 :]
        best = score_file(model, altered, "bin").predictions
        assert best.expected[place] == found.expected[place]
        if found.expected[place] < 256:
            assert best.bits[place] == pytest.approx(-math.log2(found.confidence[place]), abs=1e-3)
            assert best.bits[place] <= found.bits[place]


def test_the_most_surprising_bytes_come_in_order() -> None:
    bits = np.array([1, 5, 2, 5, 0], np.float32)
    score = module.Score(module.Predictions(bits, np.zeros(5, np.int16), bits), 0.0)
    assert score.most_surprising(3).tolist() == [1, 3, 2]
    assert score.most_surprising(9).tolist() == [1, 3, 2, 0, 4]


def test_what_the_name_says_a_file_is_matters() -> None:
    one, other = (score_file(model_of("local"), data(20), kind) for kind in ("bin", "txt"))
    assert one.bits != other.bits


def test_bfloat16_scores_about_the_same() -> None:
    model, content = model_of("local"), data(60)
    exact, rough = (
        score_file(model, content, "bin", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.bits == pytest.approx(exact.bits, rel=0.05)
