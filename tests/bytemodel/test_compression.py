"""Compression: exact round trips, sizes as promised, and refusal of all that is not right."""

from __future__ import annotations

import functools
import sys
import zlib

import constriction
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel import compression
from bytemodel.checkpoint import fingerprint
from bytemodel.compression import CompressionError, compress, compressed_size, decompress
from bytemodel.config import Family
from bytemodel.model import ByteModel
from bytemodel.patches import PAD
from bytemodel.score import score_file
from cpusim.errors import UserError
from tests.bytemodel.models import FAMILIES, SMALLEST, random_model

SIZE = SMALLEST.patch_size


@functools.cache
def model_of(family: Family = "local", longest: int = 24, seed: int = 0) -> ByteModel:
    return random_model(family, seed, max_patches=longest)


class Sampler(compression._Streams):
    """Draws bytes where a coder would code them."""

    def _code(self, alive: compression.Tokens, probabilities: npt.NDArray[np.float64]) -> None:
        likely = probabilities[:, :PAD] / probabilities[:, :PAD].sum(axis=1, keepdims=True)
        self.tokens_KB[alive, self.place] = [RNG.choice(PAD, p=row) for row in likely]


RNG = np.random.default_rng(0)


@functools.cache
def likely(length: int, family: Family = "local", longest: int = 24) -> bytes:
    """Bytes that the model finds likely, since it chose them."""
    sampler = Sampler(constriction, model_of(family, longest), length, 1)
    compression._run(model_of(family, longest), b"bin", sampler, None)
    return sampler.tokens_KB.reshape(-1)[:length].astype(np.uint8).tobytes()


def code(
    monkeypatch: pytest.MonkeyPatch, model: ByteModel, data: bytes, streams: int, kind: str = "bin"
) -> bytes:
    """Compress in so many streams, whatever that costs."""
    with monkeypatch.context() as patch:
        patch.setattr(compression, "_plan", lambda *_: streams)
        return compress(model, data, kind)


def checked(packed: bytes) -> bytes:
    """With a right checksum, as somebody who alters a file on purpose would write it."""
    return packed[:-4] + zlib.crc32(packed[:-4]).to_bytes(4, "little")


def flipped(packed: bytes, place: int, bits: int = 1) -> bytes:
    return packed[:place] + bytes([packed[place] ^ bits]) + packed[place + 1 :]


# Round trips --------------------------------------------------------------------------


@settings(max_examples=20)
@given(data=st.binary(max_size=70), streams=st.integers(1, 3), kind=st.sampled_from(["", "bin"]))
def test_any_bytes_come_back_however_they_are_coded(data: bytes, streams: int, kind: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        packed = code(patch, model_of(longest=7), data, streams if data else 0, kind)
    assert decompress(model_of(longest=7), packed) == data


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("longest", [1, 2, 3, 6, 24])
@pytest.mark.parametrize("length", [1, SIZE, 5 * SIZE + 1, 11 * SIZE - 1])
def test_files_longer_than_the_model_reads_come_back(
    family: Family, longest: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = model_of(family, longest), np.random.default_rng(length).bytes(length)
    for streams in (1, 2):
        assert decompress(model, code(monkeypatch, model, data, streams)) == data


@settings(max_examples=20)
@given(data=st.binary(max_size=1000))
def test_what_the_model_cannot_foresee_is_stored_with_a_header_alone(data: bytes) -> None:
    packed = compress(model_of(), data, "bin")
    assert decompress(model_of(), packed) == data
    assert len(packed) < len(data) + 50


def test_no_bytes_and_any_name_can_be_compressed() -> None:
    for kind in ("", ".bin", "longer than a patch", "\udcff", "ü", "x" * 300):
        assert decompress(model_of(), compress(model_of(), b"", kind)) == b""
        assert decompress(model_of(), compress(model_of(), likely(30), kind)) == likely(30)


def test_the_same_file_gives_the_same_bytes_and_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    model, data = random_model(), likely(80)
    first = compress(model, data, "bin")
    model.train()  # dropout must not play a part
    assert compress(model, data, "bin") == first
    assert torch.get_num_threads() == before


def test_progress_ends_with_all_bytes_done() -> None:
    seen: list[tuple[int, int]] = []
    data = likely(10 * SIZE)
    packed = compress(model_of(), data, "bin", progress=lambda *done: seen.append(done))
    assert seen == [(SIZE * (patch + 1), len(data)) for patch in range(10)]
    seen.clear()
    decompress(model_of(), packed, progress=lambda *done: seen.append(done))
    assert seen[-1] == (len(data), len(data))


# Sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_is_what_the_score_says_within_two_per_cent(family: Family) -> None:
    model, data = model_of(family, 8), likely(800, family, 8)
    score = score_file(model, data, "bin")
    packed = compress(model, data, "bin")
    assert packed[5] > 0  # coded, not stored
    header = compression._FIXED.size + 1 + 3 + 2 + 4  # fixed, name, length, checksum
    stream = len(packed) - header
    bits = float(np.minimum(score.surprisal, 24).sum(dtype=np.float64))
    assert stream * 8 == pytest.approx(bits, rel=0.02, abs=64)
    assert len(packed) == pytest.approx(
        compressed_size(score.surprisal, "bin", SIZE), rel=0.02, abs=8
    )


def test_a_long_file_is_cut_into_streams_unless_they_cost_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = model_of(longest=3), likely(8 * 2 * 3 * SIZE, longest=3)
    assert len(compress(model, data, "bin")) < len(data)
    for tolerance, streams in ((100.0, 8), (0.0, 1)):
        monkeypatch.setattr(compression, "_TOLERANCE", tolerance)
        packed = compress(model, data, "bin")
        assert packed[5] == streams
        assert decompress(model, packed) == data
    assert compress(model, data[: 3 * SIZE], "bin")[5] < 2


# Refusals -----------------------------------------------------------------------------


@functools.cache
def sample() -> bytes:
    packed = compress(model_of(), likely(60), "bin")
    assert packed[5] == 1
    return packed


@pytest.mark.parametrize("bits", [1, 0x80, 0xFF])
def test_every_altered_byte_is_noticed_before_anything_is_decoded(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = sample()
    monkeypatch.setattr(compression, "_run", None)
    for place in range(len(packed)):
        with pytest.raises(CompressionError):
            decompress(model_of(), flipped(packed, place, bits))


def test_every_cut_and_every_addition_is_noticed() -> None:
    packed = sample()
    for length in range(len(packed)):
        with pytest.raises(CompressionError):
            decompress(model_of(), packed[:length])
    with pytest.raises(CompressionError, match="damaged or cut short"):
        decompress(model_of(), packed + b"\0")


def test_what_is_altered_on_purpose_never_decodes_to_anything_else() -> None:
    packed, data = sample(), likely(60)
    refused = 0
    for place in range(len(packed) - 4):
        try:
            assert decompress(model_of(), checked(flipped(packed, place))) == data
        except CompressionError:
            refused += 1
    # The last bits of the last word say nothing.
    assert refused > len(packed) - 4 - 8


@settings(max_examples=30)
@given(st.binary(max_size=80), st.binary(max_size=20))
def test_bytes_that_are_no_compressed_file_are_refused(data: bytes, end: bytes) -> None:
    for packed in (data, b"bgpt" + data, sample()[:26] + data, sample()[:26] + data + end):
        for sealed in (packed, checked(packed)) if len(packed) > 4 else (packed,):
            with pytest.raises(CompressionError):
                decompress(model_of(), sealed)


def test_a_length_that_no_stream_could_hold_is_refused_at_once() -> None:
    packed = sample()
    end = compression._FIXED.size + 4
    huge = packed[:end] + compression._varint(1 << 60) + packed[end + 1 :]
    with pytest.raises(CompressionError, match="header contradicts itself"):
        decompress(model_of(), checked(huge))


def test_a_length_beyond_all_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_: object) -> None:
        raise MemoryError

    packed = sample()
    monkeypatch.setattr(np, "empty", empty)
    with pytest.raises(CompressionError, match="claims to hold 60 bytes, more than this machine"):
        decompress(model_of(), packed)


def test_another_model_is_refused_by_name() -> None:
    names = [fingerprint(model_of(seed=seed))[:16] for seed in (0, 1)]
    with pytest.raises(CompressionError, match=f"the model {names[0]}, and this one is {names[1]}"):
        decompress(model_of(seed=1), sample())


def test_the_same_weights_with_other_arithmetic_are_refused() -> None:
    data = likely(60, "published")
    packed = compress(model_of("published"), data, "bin")
    assert packed[5] == 1
    other = random_model("published", patch_heads=1)
    other.load_state_dict(model_of("published").state_dict())
    with pytest.raises(CompressionError, match=f"torch {torch.__version__}".replace("+", r"\+")):
        decompress(other, packed)


def test_arithmetic_that_differs_later_is_refused_by_the_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = likely(80)
    packed = compress(model_of(), data, "bin")
    code = compression._Decoder._code

    def disturbed(self: compression._Decoder, *arguments: object) -> None:
        code(self, arguments[0], arguments[1] ** 0.5)  # type: ignore[arg-type, operator]

    monkeypatch.setattr(compression._Decoder, "_code", disturbed)
    with pytest.raises(CompressionError, match="decompress it on a machine like the one"):
        decompress(model_of(), packed)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_file_of_another_version_is_refused(version: int) -> None:
    packed = sample()
    with pytest.raises(CompressionError, match=f"format version {version} where this program"):
        decompress(model_of(), checked(packed[:4] + bytes([version]) + packed[5:]))


def test_without_the_coder_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UserError, match=r"pip install 'neural-cpu-lab\[compress\]'"):
        compress(model_of(), b"", "bin")


def test_a_fingerprint_names_weights_not_files() -> None:
    model = random_model()
    name = fingerprint(model)
    assert fingerprint(random_model()) == name
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(model) != name
