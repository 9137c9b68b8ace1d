"""Cached generation says what plain re-reading says, wherever it starts and however it is split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel import generate as module
from bytemodel.config import Family
from bytemodel.generate import GREEDY, Generated, Sampling, Session, generate
from bytemodel.lookup import Lookup
from bytemodel.model import ByteModel
from bytemodel.patches import (
    PAD,
    VOCABULARY,
    decode_bytes,
    encode_conversion,
    encode_file,
    extension_patch,
    pad_to_patches,
)
from cpusim.errors import UserError
from tests.bytemodel.models import FAMILIES, SMALLEST, random_model

SIZE, LONGEST = SMALLEST.patch_size, SMALLEST.max_patches
MODELS = {family: random_model(family) for family in FAMILIES}
families = pytest.mark.parametrize("family", FAMILIES)


# ---- The plain way: everything is read again for every byte


@torch.inference_mode()
def plain_next(model: ByteModel, patches_PS: torch.Tensor, known: Sequence[int] = ()) -> list[int]:
    """The greedy patch behind some patches; 256 in it ends it."""
    said = list(known)
    while len(said) < model.config.patch_size:
        conditions = model.read(patches_PS[None]).at(torch.tensor([-1]))
        contexts = model.byte_decoder.contexts(conditions)
        so_far = torch.tensor([said], dtype=torch.int64)
        whole = F.pad(so_far[None], (0, model.config.patch_size - len(said)), value=PAD)
        read = torch.cat((patches_PS[None], whole), 1)
        matches = model.matches(read, torch.tensor([len(patches_PS)]))
        if matches is not None:
            matches = matches[:, : len(said) + 1]
        counts = model.byte_decoder.counts(conditions, so_far)
        logits = model.byte_decoder(conditions.features_NC, so_far, contexts, None, matches, counts)
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == PAD:
            said += [PAD] * (model.config.patch_size - len(said))
    return said


def plain_generate(
    model: ByteModel, extension: str, prefix: bytes, max_patches: int = 10**6
) -> Generated:
    whole = len(prefix) // SIZE * SIZE
    patches = np.concatenate(
        [extension_patch(extension, SIZE), pad_to_patches(prefix[:whole], SIZE)]
    )
    known = list(prefix[whole:])
    new: list[list[int]] = []
    while len(patches) + len(new) < LONGEST and len(new) < max_patches:
        read = np.concatenate([patches, np.array(new, np.int64).reshape(-1, SIZE)])
        new.append(plain_next(model, torch.from_numpy(read), known))
        known = []
        if new[-1][-1] == PAD:
            break
    data = prefix[:whole] + decode_bytes(np.array(new))
    return Generated(data, new[-1][-1] == PAD)


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    """Random patches of real bytes, (count, SIZE)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, PAD, (count, SIZE), generator=generator)


# ---- Cached equals plain


@families
def test_cached_generation_equals_plain_at_every_patch_boundary(family: Family) -> None:
    patches = tokens(LONGEST)
    session = Session(MODELS[family])
    said = []
    for read in range(1, LONGEST + 1):
        session.append(patches[None, read - 1 : read])
        assert session.length == read
        said.append(plain_next(MODELS[family], patches[:read]))
        assert session.next_patch()[0].tolist() == said[-1]
    assert len(set(map(tuple, said))) > LONGEST // 2  # what is said depends on what was read


@settings(max_examples=20)
@given(st.sampled_from(FAMILIES), st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_how_known_patches_are_split_over_calls_changes_nothing(
    family: Family, parts: list[int]
) -> None:
    patches = tokens(min(sum(parts), LONGEST), seed=1)
    session = Session(MODELS[family])
    for part in patches.split([*cut(parts, len(patches))]):
        session.append(part[None])
        session.next_patch()  # reads nothing
    assert session.next_patch()[0].tolist() == plain_next(MODELS[family], patches)


def cut(parts: list[int], total: int) -> list[int]:
    """`parts`, shortened so that their sum is `total`."""
    sizes: list[int] = []
    for part in parts:
        sizes.append(min(part, total - sum(sizes)))
    return [size for size in sizes if size]


@families
@pytest.mark.parametrize("length", range(3 * SIZE + 2))
def test_a_prefix_may_end_anywhere_in_a_patch(family: Family, length: int) -> None:
    prefix = bytes(range(7, 7 + length))
    (found,) = generate(MODELS[family], "bin", prefix=prefix, max_patches=3)
    assert found == plain_generate(MODELS[family], "bin", prefix, max_patches=3)
    assert found.data.startswith(prefix)


SOME_THAT_END = 2, 3, 4, 35, 97
"""Seeds of models."""


@pytest.mark.parametrize("seed", SOME_THAT_END)
def test_a_file_ends_where_the_model_ends_it_or_at_the_longest_sequence(seed: int) -> None:
    model = random_model("local", seed=seed)
    (found,) = generate(model, "bin")
    assert found == plain_generate(model, "bin", b"")
    if not found.ended:
        assert len(found.data) == (LONGEST - 1) * SIZE


def test_some_of_these_models_end_their_files_and_some_do_not() -> None:
    models = [random_model("local", seed=seed) for seed in SOME_THAT_END]
    ends = {next(generate(model, "bin")).ended for model in models}
    assert ends == {True, False}


def always(token: int) -> ByteModel:
    """A model that says one token, whatever it has read."""
    model = random_model("local", matching=False)
    with torch.no_grad():
        model.byte_decoder.head.weight.zero_()
        for block in model.byte_decoder.blocks:
            for parameter in block.parameters():
                parameter.zero_()
        # A constant beyond all else, of which the head reads the first place.
        model.byte_decoder.positions.weight[:] = 0
        model.byte_decoder.bridge.weight.zero_()
        model.byte_decoder.embedding.weight.zero_()
        model.byte_decoder.positions.weight[:, 0] = 1
        model.byte_decoder.norm.weight.fill_(1)
        model.byte_decoder.head.weight[token, 0] = 5
    return model


def test_the_end_patch_ends_a_file_without_a_byte_of_its_own() -> None:
    model = always(PAD)
    assert list(generate(model, "bin", prefix=bytes(SIZE))) == [Generated(bytes(SIZE), True)]
    assert list(generate(model, "bin", prefix=bytes(SIZE - 1))) == [
        Generated(bytes(SIZE - 1), True)
    ]
    assert list(generate(model, "bin")) == [Generated(b"", True)]


def test_a_model_that_never_ends_is_cut_off_at_the_limit() -> None:
    model = always(65)
    assert list(generate(model, "bin", max_patches=2)) == [Generated(b"A" * 2 * SIZE, False)]
    assert list(generate(model, "bin", prefix=b"xy", max_patches=1)) == [
        Generated(b"xy".ljust(SIZE, b"A"), False)
    ]
    (found,) = generate(model, "bin", max_patches=10**6)
    assert found == Generated(b"A" * SIZE * (LONGEST - 1), False)


# ---- Guesses


class Guesser(Lookup):
    """Guesses what a test tells it to; None: nothing."""

    def __init__(self, guesses: list[int] | None) -> None:
        super().__init__(SIZE)
        self.guesses = guesses

    def guess(self, said: list[int]) -> list[int]:
        return [] if self.guesses is None else self.guesses[len(said) : SIZE - 1]


def say(model: ByteModel, guesses: list[int] | None, sampling: Sampling) -> list[list[int]]:
    """Three patches behind a prefix that ends inside a patch."""
    rng = torch.Generator().manual_seed(4)
    session = Session(model)
    session.lookup = Guesser(guesses)
    session.append(tokens(3)[None])
    known = torch.tensor([[5]])
    said = []
    for _ in range(3):
        said.append(session.next_patch(sampling, rng=rng, known_BT=known))
        session.append(said[-1][:, None])
        known = known[:, :0]
    return [patch[0].tolist() for patch in said]


@settings(max_examples=30)
@given(
    st.sampled_from(FAMILIES),
    st.sampled_from([GREEDY, Sampling(1.0, top_k=9)]),
    st.integers(0, 2),
    st.lists(st.none() | st.integers(0, PAD), min_size=SIZE, max_size=SIZE),
)
def test_whatever_is_guessed_the_same_bytes_are_said(
    family: Family, sampling: Sampling, patch: int, wrong: list[int | None]
) -> None:
    plain = say(MODELS[family], None, sampling)
    # Right in some places, and wrong where hypothesis wants it.
    right = plain[patch]
    guesses = [r if w is None else w for r, w in zip(right, wrong, strict=True)]
    assert say(MODELS[family], guesses, sampling) == plain


def test_guesses_that_are_right_save_passes_of_the_byte_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = always(65)
    session = Session(model)
    session.append(torch.full((1, 4, SIZE), 65))
    passes = []
    forward = model.byte_decoder.forward
    monkeypatch.setattr(
        model.byte_decoder, "forward", lambda *args: passes.append(1) or forward(*args)
    )
    session.append(session.next_patch()[:, None])
    first = len(passes)
    session.next_patch()
    assert (first, len(passes) - first) == (2, 1)


# ---- Many streams


@families
def test_streams_in_one_batch_say_what_each_says_alone(family: Family) -> None:
    model, count = MODELS[family], 5
    streams = torch.stack([tokens(6, seed=seed) for seed in range(10, 10 + count)])
    session = Session(model)
    session.append(streams)
    said = session.next_patch()
    assert said.tolist() == [plain_next(model, stream) for stream in streams]
    assert len({tuple(patch) for patch in said.tolist()}) == count


@families
@pytest.mark.parametrize("boolean", [True, False])
def test_keeping_some_streams_goes_on_with_exactly_those(family: Family, boolean: bool) -> None:
    model = MODELS[family]
    streams = torch.stack([tokens(4, seed=seed) for seed in range(5)])
    session = Session(model)
    session.append(streams)
    rows = [1, 3, 4]
    index = torch.tensor([row in rows for row in range(5)]) if boolean else torch.tensor(rows)
    session.keep(index)
    assert session.next_patch().tolist() == [plain_next(model, streams[row]) for row in rows]
    more = torch.stack([tokens(3, seed=10 + row) for row in rows])
    session.append(more)
    assert session.next_patch().tolist() == [
        plain_next(model, torch.cat([streams[row], new]))
        for row, new in zip(rows, more, strict=True)
    ]


def conversions(*lengths: int) -> list[torch.Tensor]:
    """What a conversion begins with, of sources of so many random bytes."""
    random = np.random.default_rng(len(lengths))
    sources = [random.integers(0, 256, length, np.uint8).tobytes() for length in lengths]
    return [
        torch.from_numpy(encode_conversion(source, "abc", b"", "mid", SIZE)[:-1])
        for source in sources
    ]


@families
def test_streams_of_different_lengths_side_by_side_say_what_each_says_alone(
    family: Family,
) -> None:
    model = MODELS[family]
    short, long, longer, longest = conversions(3, 21, 22, 33)
    assert len({len(short), len(long), len(longest)}) == 3
    session = Session(model)
    session.append(short[None])
    session.begin(torch.stack([long, longer]))
    session.begin(longest[None])
    assert session.length == len(longest)
    streams = [short, long, longer, longest]
    for kept in ([0, 1, 2, 3], [0, 2, 3], [2]):
        keeps = torch.tensor([place for place, _ in enumerate(streams) if place in kept])
        session.keep(keeps)
        streams = [streams[place] for place in keeps.tolist()]
        said = session.next_patch()
        assert said.tolist() == [plain_next(model, stream) for stream in streams]
        # What was said may have ended a file; others go on in another one.
        more = torch.stack([tokens(2, seed=place) for place, _ in enumerate(streams)])
        session.append(more)
        streams = [torch.cat([stream, new]) for stream, new in zip(streams, more, strict=True)]
    assert session.next_patch().tolist() == [plain_next(model, stream) for stream in streams]


def test_no_stream_may_pass_the_longest_sequence() -> None:
    session = Session(MODELS["local"])
    session.begin(tokens(LONGEST - 1)[None])
    session.begin(tokens(3)[None])
    before = session.next_patch()
    with pytest.raises(UserError, match="a sequence of 25 patches is longer than the 24"):
        session.append(tokens(2)[None].expand(2, -1, -1))
    with pytest.raises(UserError, match="a sequence of 25 patches is longer than the 24"):
        session.begin(tokens(LONGEST + 1)[None])
    assert torch.equal(session.next_patch(), before)


def test_streams_that_end_leave_the_others_as_they_are() -> None:
    model, kept = MODELS["local"], 100
    sampling = Sampling(4.0, top_k=kept)
    files = list(generate(model, "bin", count=24, sampling=sampling, seed=5))
    assert len({len(file.data) for file in files if file.ended}) > 1
    assert {file.ended for file in files} == {True, False}
    for file in files:
        # Each byte must be among those that its own past makes most probable.
        patches = torch.from_numpy(encode_file(file.data, "bin", SIZE))[:LONGEST]
        with torch.inference_mode():
            logits = model(patches[None], torch.arange(1, len(patches))).flatten(0, 1)
        wanted = patches[1:].flatten()
        drawn = slice(0, len(file.data) + file.ended)
        least = logits.topk(kept).values[:, -1]
        own = logits.gather(1, wanted[:, None])[:, 0]
        assert (own >= least - 1e-4)[drawn].all()


def test_more_files_than_fit_in_memory_are_written_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STREAMS", 2)
    files = list(generate(MODELS["local"], "bin", count=5, max_patches=3))
    assert files == [plain_generate(MODELS["local"], "bin", b"", 3)] * 5
    sampled = list(generate(MODELS["local"], "bin", count=5, max_patches=3, sampling=Sampling(1.0)))
    assert len({file.data for file in sampled}) == 5


# ---- Seeds and precision


def test_the_same_seed_writes_the_same_files_and_another_seed_others() -> None:
    def write(seed: int) -> list[Generated]:
        sampling = Sampling(1.0, top_k=20, top_p=0.9)
        model = MODELS["local"]
        return list(generate(model, "bin", count=3, max_patches=4, sampling=sampling, seed=seed))

    assert write(1) == write(1)
    assert write(1) != write(2)


@families
def test_bfloat16_writes_files_too(family: Family) -> None:
    (found,) = generate(MODELS[family], "bin", prefix=b"abc", dtype=torch.bfloat16, max_patches=4)
    assert found.data.startswith(b"abc")


# ---- Limits


def test_a_prefix_that_leaves_no_room_is_refused_before_anything_is_read() -> None:
    full = bytes(SIZE * (LONGEST - 1))
    with pytest.raises(UserError, match=r"the prefix fills 24 of the 24 patches .* shorten it"):
        generate(MODELS["local"], "bin", prefix=full)
    (found,) = generate(MODELS["local"], "bin", prefix=full[:-1])
    assert len(found.data) >= len(full) - 1


def test_reading_past_the_longest_sequence_is_refused_and_changes_nothing() -> None:
    session = Session(MODELS["local"])
    session.append(tokens(LONGEST - 1)[None])
    before = session.next_patch()
    with pytest.raises(UserError, match="a sequence of 25 patches is longer than the 24"):
        session.append(tokens(2)[None])
    assert session.length == LONGEST - 1
    assert torch.equal(session.next_patch(), before)
    session.append(tokens(1)[None])
    assert session.length == LONGEST


def test_an_extension_longer_than_a_patch_is_refused() -> None:
    with pytest.raises(UserError, match="'extension' has 9 bytes; a patch holds 4"):
        generate(MODELS["local"], "extension")


# ---- Sampling

logits = st.lists(
    st.floats(-20, 20, width=32, allow_nan=False), min_size=VOCABULARY, max_size=VOCABULARY
).map(lambda row: torch.tensor([row]))
temperatures = st.floats(0.05, 5)
seeds = st.integers(0, 2**31)


def draws(sampling: Sampling, row: torch.Tensor, seed: int, count: int = 8) -> list[int]:
    rng = torch.Generator().manual_seed(seed)
    return sampling.choose(row.expand(count, -1), rng).tolist()


@settings(max_examples=50)
@given(logits, temperatures, st.integers(1, VOCABULARY + 5), seeds)
def test_top_k_draws_only_among_the_k_most_probable(
    row: torch.Tensor, temperature: float, k: int, seed: int
) -> None:
    ordered = row[0].sort(descending=True).values
    least = ordered[min(k, VOCABULARY) - 1]
    for token in draws(Sampling(temperature, top_k=k), row, seed):
        assert row[0, token] >= least


@settings(max_examples=50)
@given(logits, temperatures, st.floats(0.01, 0.99), seeds)
def test_top_p_draws_only_among_the_fewest_that_reach_p(
    row: torch.Tensor, temperature: float, p: float, seed: int
) -> None:
    probabilities = (row[0].double() / temperature).softmax(0)
    for token in draws(Sampling(temperature, top_p=p), row, seed):
        likelier = probabilities[probabilities > probabilities[token]].sum()
        assert likelier < p + 1e-5


@settings(max_examples=30)
@given(logits, seeds)
def test_greedy_a_top_k_of_one_a_tiny_top_p_and_cold_all_take_the_most_probable(
    row: torch.Tensor, seed: int
) -> None:
    best = row[0].max()
    for sampling in (
        GREEDY,
        Sampling(1.0, top_k=1),
        Sampling(1e-6, top_p=1e-9),
        Sampling(1e-300),
        Sampling(1e-9),
    ):
        # Those that differ by less than a probability can tell are as probable.
        assert all(row[0, token] >= best - 1e-9 for token in draws(sampling, row, seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_bytes_are_drawn_as_often_as_their_probability_says(temperature: float) -> None:
    row = torch.full((1, VOCABULARY), -math.inf)
    row[0, :4] = torch.tensor([2.0, 1.0, 0.0, -1.0])
    wanted = (row[0, :4] / temperature).softmax(0)
    found = torch.bincount(torch.tensor(draws(Sampling(temperature), row, 3, 40_000))) / 40_000
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


def test_top_p_keeps_the_byte_that_crosses_the_line() -> None:
    row = torch.full((1, VOCABULARY), -math.inf)
    row[0, :3] = torch.tensor([0.5, 0.3, 0.2]).log()
    for p, kept in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2})):
        assert set(draws(Sampling(1.0, top_p=p), row, 0, 500)) == kept


def test_of_equally_probable_bytes_top_k_still_keeps_k() -> None:
    assert len(set(draws(Sampling(1.0, top_k=3), torch.zeros(1, VOCABULARY), 0, 500))) == 3


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((-0.1, 0, 1.0), "temperature -0.1 is not 0"),
        ((math.nan, 0, 1.0), "temperature nan"),
        ((math.inf, 0, 1.0), "temperature inf"),
        ((1.0, -1, 1.0), "top-k -1 is negative"),
        ((1.0, 0, 0.0), "top-p 0.0 is outside"),
        ((1.0, 0, 1.5), "top-p 1.5 is outside"),
        ((1.0, 0, math.nan), "top-p nan is outside"),
    ],
)
def test_impossible_sampling_is_refused(values: tuple[float, int, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Sampling(*values)
