"""Bytes <-> patches: nothing is lost, and the conventions are the published ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemodel.patches import (
    PAD,
    decode_bytes,
    encode_conversion,
    encode_file,
    end_patch,
    extension_patch,
    pad_to_patches,
)
from cpusim.errors import UserError

sizes = st.integers(1, 20)


@given(st.binary(max_size=100), sizes)
def test_bytes_come_back_from_their_patches(data: bytes, size: int) -> None:
    patches = pad_to_patches(data, size)
    assert patches.shape == (-(-len(data) // size), size)
    assert decode_bytes(patches) == data


@given(st.binary(max_size=100), st.integers(4, 20))
def test_a_file_is_its_extension_its_bytes_and_an_end(data: bytes, size: int) -> None:
    patches = encode_file(data, "bin", size)
    assert patches.dtype == np.int64
    assert patches[0].tolist() == [*b"bin", *[PAD] * (size - 3)]
    assert decode_bytes(patches[1:-1]) == data
    assert (patches[-1] == PAD).all()
    # Padding stands in the last patch of the bytes alone.
    assert (patches[1:-2] < PAD).all()


def test_a_file_of_whole_patches_has_no_padding_but_the_end() -> None:
    assert encode_file(bytes(32), "bin", 16).shape == (4, 16)
    assert encode_file(b"", "bin", 16).shape == (2, 16)


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(3, 20))
def test_a_conversion_is_the_source_without_its_end_then_the_target(
    source: bytes, target: bytes, size: int
) -> None:
    both = encode_conversion(source, "abc", target, "wav", size)
    one, two = encode_file(source, "abc", size), encode_file(target, "wav", size)
    np.testing.assert_array_equal(both[: len(one) - 1], one[:-1])
    np.testing.assert_array_equal(both[len(one) - 1 :], two)


def test_a_dot_before_the_extension_does_not_count() -> None:
    np.testing.assert_array_equal(extension_patch(".bin", 16), extension_patch("bin", 16))


def test_an_extension_of_any_bytes_is_taken_as_it_stands() -> None:
    assert extension_patch("\udcff\udc80", 4).tolist() == [[0xFF, 0x80, PAD, PAD]]


def test_an_extension_that_fills_a_patch_fits_and_a_longer_one_is_refused() -> None:
    assert extension_patch("json", 4).tolist() == [[*b"json"]]
    with pytest.raises(UserError, match="extension 'jsonl' has 5 bytes; a patch holds 4"):
        extension_patch("jsonl", 4)


def test_what_stands_behind_the_first_256_is_not_decoded() -> None:
    assert decode_bytes(np.array([[1, 2, PAD, 3], [4, 5, 6, 7]])) == b"\1\2"
    assert decode_bytes(end_patch(4)) == b""


def test_an_array_is_taken_like_bytes() -> None:
    array = np.arange(32, dtype=np.uint8).reshape(2, 16)
    np.testing.assert_array_equal(pad_to_patches(array, 16), pad_to_patches(bytes(range(32)), 16))
