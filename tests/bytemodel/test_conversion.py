"""Conversions say what the model says behind the source, and how sure it is of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel import conversion as module
from bytemodel.config import Family
from bytemodel.conversion import (
    Converted,
    as_trained,
    convert,
    convert_prompts,
    prompt,
    trained_conversions,
)
from bytemodel.generate import Sampling
from bytemodel.model import ByteModel
from bytemodel.patches import PAD, encode_conversion
from cpusim.errors import UserError
from tests.bytemodel.models import FAMILIES, SMALLEST, random_model
from tests.bytemodel.test_generate import always
from tests.bytemodel.toy import trained

SIZE, LONGEST = SMALLEST.patch_size, SMALLEST.max_patches
MODELS = {family: random_model(family) for family in FAMILIES}
families = pytest.mark.parametrize("family", FAMILIES)
WORDS = [b"hello", b"worlds", b"oracles", b"abcdefgh", b"zzzzz"]


@torch.inference_mode()
def plain_bits(model: ByteModel, source: bytes, found: Converted) -> list[float]:
    """The cost of each byte that was written and of the 256 behind them, all read at once."""
    given = len(prompt(model.config, source, "abc", "mid"))
    whole = encode_conversion(source, "abc", found.data, "mid", SIZE)
    patches = torch.from_numpy(whole)
    logits = model(patches[None], torch.arange(given, len(patches))).flatten(0, 1).double()
    tokens = patches[given:].flatten()
    bits = -logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0] / math.log(2)
    said = len(found.data) + found.ended
    assert found.data == bytes(tokens[: len(found.data)].tolist())
    assert tokens[len(found.data)] == PAD
    return bits[:said].tolist()


# ---- What is written


def test_what_was_learnt_is_converted_and_the_model_is_sure_of_it() -> None:
    model = trained().model
    for word in WORDS:
        found = convert(model, word, "low", "up")
        assert (found.data, found.ended) == (word.upper(), True)
        assert found.probability > 0.8
        assert found.bits_per_byte < 0.05


def test_what_was_never_seen_is_converted_with_doubt() -> None:
    sure, unsure = (convert(trained().model, word, "low", "up") for word in (b"hello", b"01234"))
    assert unsure.bits > 10 * sure.bits


@families
def test_a_conversion_is_the_continuation_of_the_source_and_the_targets_extension(
    family: Family,
) -> None:
    model = MODELS[family]
    for length in range(2 * SIZE + 1):
        source = bytes(range(length))
        found = convert(model, source, ".abc", "mid")
        # Greedy: no other byte is more probable anywhere.
        whole = encode_conversion(source, "abc", found.data, "mid", SIZE)[:LONGEST]
        given = len(prompt(model.config, source, "abc", "mid"))
        patches = torch.from_numpy(whole)
        with torch.inference_mode():
            logits = model(patches[None], torch.arange(given, len(patches))).flatten(0, 1)
        said = slice(0, len(found.data) + found.ended)
        wanted = patches[given:].flatten()[said, None]
        assert (logits[said].gather(1, wanted)[:, 0] >= logits[said].max(-1).values - 1e-4).all()


def test_the_extensions_matter() -> None:
    ways = [("abc", "mid"), ("abc", "wav"), ("mid", "mid")]
    assert len({convert(MODELS["local"], b"12345", *way).data for way in ways}) == 3


# ---- Many at once


@families
def test_those_that_are_written_together_say_what_each_says_alone(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAMS", 3)
    model = MODELS[family]
    sources = [
        np.random.default_rng(n).bytes(length) for n, length in enumerate([4, 9, 17] * 3 + [2])
    ]
    prompts = [prompt(model.config, source, "abc", "mid") for source in sources]
    found = list(convert_prompts(model, prompts))
    assert sorted(number for number, _ in found) == list(range(len(sources)))
    for number, together in found:
        alone = convert(model, sources[number], "abc", "mid")
        assert (together.data, together.ended) == (alone.data, alone.ended)
        np.testing.assert_allclose(together.surprisal, alone.surprisal, atol=1e-4)
    assert len({converted.data for _, converted in found}) > 3


def test_of_no_prompts_nothing_comes() -> None:
    assert list(convert_prompts(MODELS["local"], [])) == []


# ---- How sure it is


@settings(max_examples=25)
@given(
    st.sampled_from(FAMILIES),
    st.binary(max_size=3 * SIZE),
    st.sampled_from([Sampling(), Sampling(1.0), Sampling(3.0, top_k=40), Sampling(0.5, top_p=0.8)]),
    st.integers(0, 2**32),
)
def test_every_byte_costs_what_the_model_says_of_it_however_it_was_sampled(
    family: Family, source: bytes, sampling: Sampling, seed: int
) -> None:
    model = MODELS[family]
    found = convert(model, source, "abc", "mid", sampling=sampling, seed=seed, max_patches=5)
    expected = plain_bits(model, source, found)
    np.testing.assert_allclose(found.surprisal, expected, atol=1e-3)
    assert found.surprisal.dtype == np.float32
    assert found.bits == pytest.approx(sum(expected), abs=1e-2)
    assert found.probability == pytest.approx(2.0**-found.bits)
    assert expected[found.least_certain] == pytest.approx(max(expected), abs=1e-3)


def test_the_end_may_be_what_the_model_was_least_certain_of() -> None:
    found = Converted(b"abc", True, np.array([0.5, 1, 0.25, 2], np.float32))
    assert (found.bits, found.bits_per_byte, found.least_certain) == (3.75, 1.25, 3)
    assert found.probability == 2**-3.75
    cut_off = Converted(b"abcd", False, np.array([0.5, 1, 0.25, 1], np.float32))
    assert cut_off.least_certain == 1


def test_an_output_of_no_bytes_still_costs_its_end() -> None:
    found = convert(always(PAD), b"abc", "abc", "mid")
    assert (found.data, found.ended, found.least_certain) == (b"", True, 0)
    assert found.bits_per_byte == math.inf
    assert 0 < found.bits < 0.1


def test_the_probability_of_a_very_long_shot_is_zero_not_an_error() -> None:
    assert Converted(b"", True, np.array([5000], np.float32)).probability == 0


# ---- Seeds, limits, precision


def test_the_same_seed_writes_the_same_and_another_seed_something_else() -> None:
    def write(seed: int) -> list[bytes]:
        prompts = [prompt(SMALLEST, bytes([n] * 3), "abc", "mid") for n in range(4)]
        options = {"sampling": Sampling(1.0), "seed": seed, "max_patches": 4}
        made = convert_prompts(MODELS["local"], prompts, **options)  # type: ignore[arg-type]
        return [converted.data for _, converted in sorted(made, key=lambda one: one[0])]

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_a_model_that_never_ends_is_cut_off_at_the_limit() -> None:
    model = always(65)
    found = convert(model, b"abc", "abc", "mid", max_patches=2)
    assert (found.data, found.ended, len(found.surprisal)) == (b"A" * 2 * SIZE, False, 2 * SIZE)
    # Source and extensions take three patches.
    found = convert(model, b"abc", "abc", "mid", max_patches=10**6)
    assert (found.data, found.ended) == (b"A" * (LONGEST - 3) * SIZE, False)


def test_a_source_that_leaves_no_room_is_refused_and_the_longest_that_does_is_not() -> None:
    most = (LONGEST - 3) * SIZE
    found = convert(always(65), bytes(most), "abc", "mid")
    assert found.data == b"A" * SIZE
    with pytest.raises(UserError, match="takes at least 25 patches, and this model takes 24"):
        convert(MODELS["local"], bytes(most + 1), "abc", "mid")
    for extensions in (("abcde", "mid"), ("abc", "midid")):
        with pytest.raises(UserError, match="has 5 bytes; a patch holds 4"):
            convert(MODELS["local"], b"", *extensions)


@families
def test_bfloat16_converts_too(family: Family) -> None:
    found = convert(MODELS[family], b"abcdef", "abc", "mid", dtype=torch.bfloat16, max_patches=3)
    assert len(found.surprisal) == len(found.data) + found.ended


# ---- What a checkpoint tells


def test_a_checkpoint_tells_which_conversions_it_learnt_if_it_knows() -> None:
    loaded = trained()
    assert trained_conversions(loaded) == [("low", "up")]

    def tells(info: dict[str, Any]) -> list[tuple[str, str]] | None:
        return trained_conversions(dataclasses.replace(loaded, info=info))

    assert tells({"data": {"convert": "abc&mid"}}) == [("abc", "mid"), ("mid", "abc")]
    assert tells({"data": {}}) == []
    for odd in (None, 3, "abc", "longer->a", ["abc", "mid"]):
        assert tells({"data": {"convert": odd}}) == []
    assert tells({}) is tells({"data": 3}) is None


def test_extensions_are_spelt_as_the_model_learnt_them() -> None:
    both = [("abc", "mid"), ("MID", "abc")]
    assert as_trained(both, "ABC", "mid") == ("abc", "mid")
    assert as_trained(both, "mid", "Abc") == ("MID", "abc")
    assert as_trained(both, "mid", "txt") is None
    assert as_trained([], "mid", "abc") is None
