"""Cached generation: each patch is read once, each byte extends a cache of its patch.

A single stream also guesses bytes and lets the model check several at once (`lookup.py`,
`draft.py`).

Shape suffixes: B streams, P patches, S patch size, V vocabulary (257).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bytemodel.draft import rough_copy
from bytemodel.layers import KeyValueCache
from bytemodel.lookup import Lookup
from bytemodel.matches import Matcher
from bytemodel.model import ByteDecoder, ByteModel, Conditions, Contexts
from bytemodel.patches import PAD, Patches, decode_bytes, extension_patch, pad_to_patches
from cpusim.errors import UserError

_COLDEST = 1e-6
"""A temperature below is greedy: logits divided by it could be beyond any number."""


class Chooser(Protocol):
    """Who says which byte comes next."""

    def choose(self, logits_BV: Tensor, rng: torch.Generator | None) -> Tensor:
        """One token a stream, int64 (B,)."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How a byte is chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep all."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature {self.temperature} is not 0 (greedy) or above")
        if self.top_k < 0:
            raise UserError(f"top-k {self.top_k} is negative; 0 keeps every byte")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p} is outside (0, 1]; 1 keeps every byte")

    def choose(self, logits_BV: Tensor, rng: torch.Generator | None) -> Tensor:
        """One token a stream, int64 (B,)."""
        if self.temperature < _COLDEST:
            return logits_BV.argmax(-1)
        logits_BV = logits_BV.float() / self.temperature
        if 0 < self.top_k < logits_BV.shape[-1]:
            # By place, not by value: of equal ones, no more than k are kept either.
            best, places = logits_BV.topk(self.top_k)
            logits_BV = torch.full_like(logits_BV, -torch.inf).scatter(1, places, best)
        probabilities_BV = logits_BV.softmax(-1)
        if self.top_p < 1:
            ordered, places = probabilities_BV.sort(descending=True)
            # A byte is kept while those more likely than it have not reached top_p.
            ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0
            probabilities_BV = torch.zeros_like(ordered).scatter(1, places, ordered)
        return torch.multinomial(probabilities_BV, 1, generator=rng)[:, 0]


GREEDY = Sampling()


class Session:
    """Streams that grow in step.

    `append` reads known patches; `next_patch` says what follows them, without reading it. Streams
    of different lengths may `begin` side by side: each length is read by itself, which costs
    little, and the bytes of all are said together.
    """

    def __init__(
        self,
        model: ByteModel,
        *,
        dtype: torch.dtype = torch.float32,
        draft: ByteDecoder | None = None,
    ) -> None:
        """`draft`: guesses what a single stream says; without one, guesses are looked up."""
        self.model = model
        self.dtype = dtype
        self.draft = draft
        self.device = next(model.parameters()).device
        self.lookup = Lookup(model.config.patch_size)
        self._read: list[_Read] = []
        self._conditions = Conditions(torch.empty(0), torch.empty(0, dtype=torch.int64), None)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def length(self) -> int:
        """Patches of the longest stream."""
        return max((streams.length for streams in self._read), default=0)

    def begin(self, *lots_BPS: Tensor) -> None:
        """More streams, those of each lot of one length, which begin with these patches. Raises
        `UserError` as `append` does."""
        for patches_BPS in lots_BPS:
            self._refuse_longer(0, patches_BPS)
        begun = [_Read(self.model) for _ in lots_BPS]
        self._read += begun
        self._go_on(list(zip(begun, lots_BPS, strict=True)))

    def append(self, patches_BPS: Tensor) -> None:
        """Read patches that are known. Raises `UserError` past the model's longest sequence."""
        if not self._read:
            self.begin(patches_BPS)
            return
        self._refuse_longer(self.length, patches_BPS)
        self._go_on(self._parts(patches_BPS))

    def _parts(self, rows: Tensor) -> list[tuple[_Read, Tensor]]:
        """Which of the rows, one a stream, belong to those of each length."""
        counts = [streams.count for streams in self._read]
        return list(zip(self._read, torch.split(rows, counts), strict=True))

    def _refuse_longer(self, read: int, patches_BPS: Tensor) -> None:
        limit, length = self.model.config.max_patches, read + patches_BPS.shape[1]
        if length > limit:
            raise UserError(
                f"a sequence of {length:,} patches is longer than the {limit:,} that this"
                " model takes; shorten it or use a model with a larger max_patches"
            )

    @torch.inference_mode()
    def _go_on(self, parts: Sequence[tuple[_Read, Tensor]]) -> None:
        for streams, patches_BPS in parts:
            with self._autocast():
                streams.read(patches_BPS.to(self.device))
        self._conditions = Conditions.beside([streams.conditions for streams in self._read])
        if len(self._conditions.previous_NS) == 1:
            self.lookup.read(parts[0][1].flatten().tolist())

    @torch.inference_mode()
    def next_patch(
        self,
        sampling: Chooser = GREEDY,
        *,
        rng: torch.Generator | None = None,
        known_BT: Tensor | None = None,
        logits: list[Tensor] | None = None,
    ) -> Tensor:
        """The patch that follows, int64 (B, S); `known_BT`: its first bytes, if they are given.

        Token 256 inside a patch ends the file, so the rest of the patch is 256 too.
        `logits`: gets what each byte was chosen from, (B, V) a byte, in their order; nothing for
        bytes that were given, nor once every stream has ended.
        """
        batch, size = self._conditions.previous_NS.shape
        decoder = self.model.byte_decoder
        caches = [KeyValueCache() for _ in decoder.blocks]
        draft_caches = [KeyValueCache() for _ in decoder.blocks]
        patch_BS = torch.full((batch, size), PAD, dtype=torch.int64, device=self.device)
        place = 0
        if known_BT is not None:
            place = known_BT.shape[1]
            patch_BS[:, :place] = known_BT.to(self.device)
        ended_B = torch.zeros(batch, dtype=torch.bool, device=self.device)
        with self._autocast():
            contexts = decoder.contexts(self._conditions)
            while place < size:
                tokens_BT = patch_BS[:, :place]
                guesses: list[int] = []
                if batch == 1 and self.draft is not None:
                    guesses = self._drafted(tokens_BT, contexts, draft_caches, sampling, rng)
                elif batch == 1:
                    guesses = self.lookup.guess(tokens_BT[0].tolist())
                if guesses:
                    tokens_BT = torch.cat((tokens_BT, tokens_BT.new_tensor([guesses])), dim=1)
                logits_BTV = self._logits(decoder, tokens_BT, contexts, caches)
                right = 0
                for logits_BV in logits_BTV[:, -1 - len(guesses) :].unbind(1):
                    if logits is not None:
                        logits.append(logits_BV)
                    token_B = sampling.choose(logits_BV, rng).masked_fill(ended_B, PAD)
                    ended_B = token_B == PAD
                    patch_BS[:, place] = token_B
                    place += 1
                    if bool(ended_B.all()):
                        return patch_BS
                    if guesses[right : right + 1] != token_B.tolist():
                        break
                    right += 1
                self.lookup.learn(len(guesses), right)
                for cache in (*caches, *draft_caches):
                    # The byte said last was not read, nor are wrong guesses to be remembered.
                    cache.length = min(cache.length, place)
        return patch_BS

    def _drafted(
        self,
        tokens_BT: Tensor,
        contexts: Contexts,
        caches: list[KeyValueCache],
        sampling: Chooser,
        rng: torch.Generator | None,
    ) -> list[int]:
        """What the draft says behind `tokens_BT`, all but the patch's last byte."""
        assert self.draft is not None
        known = tokens_BT.shape[1]
        # With the same random numbers it draws what the model is going to draw.
        twin = torch.Generator(self.device)
        if rng is not None:
            twin.set_state(rng.get_state())
        while tokens_BT.shape[1] < self.model.config.patch_size - 1:
            logits_BTV = self._logits(self.draft, tokens_BT, contexts, caches)
            token_B = sampling.choose(logits_BTV[:, -1], twin)
            tokens_BT = torch.cat((tokens_BT, token_B[:, None]), dim=1)
            if int(token_B) == PAD:
                break
        return tokens_BT[0, known:].tolist()

    def _logits(
        self,
        decoder: ByteDecoder,
        tokens_BT: Tensor,
        contexts: Contexts,
        caches: list[KeyValueCache],
    ) -> Tensor:
        """What a byte level says behind each of a patch's tokens that its caches do not hold."""
        read = caches[0].length
        matches = None
        if decoder.matching is not None:
            found = [streams.look_up(part_BT) for streams, part_BT in self._parts(tokens_BT)]
            matches = torch.cat(found)[:, read:]
        # The first position is no byte's.
        unread_BT = tokens_BT[:, max(read - 1, 0) :]
        counts = decoder.counts(self._conditions, tokens_BT)
        counts = None if counts is None else counts[:, read:]
        features = self._conditions.features_NC
        logits: Tensor = decoder(features, unread_BT, contexts, caches, matches, counts)
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these streams only (int64 or boolean indexes), in the order they have."""
        self.lookup.forget()
        kept_B = torch.zeros(len(self._conditions.previous_NS), dtype=torch.bool)
        kept_B[rows.cpu()] = True
        for streams, part_B in self._parts(kept_B):
            streams.keep(part_B.to(self.device))
        self._read = [streams for streams in self._read if streams.count]
        self._conditions = self._conditions.at(kept_B.to(self.device))


class _Read:
    """Streams of the same length, as far as they were read."""

    def __init__(self, model: ByteModel) -> None:
        config = model.config
        self.model = model
        self.length = 0
        self.conditions = Conditions(torch.empty(0), torch.empty(0, dtype=torch.int64), None)
        self._matcher = Matcher(config.longest_match) if config.matching else None
        self._caches = model.new_caches()

    @property
    def count(self) -> int:
        return len(self.conditions.previous_NS)

    def read(self, patches_BPS: Tensor) -> None:
        count = patches_BPS.shape[1]
        read = self.model.read(patches_BPS, self._caches)
        rows_B = torch.arange(len(patches_BPS), device=patches_BPS.device)
        self.conditions = read.at((rows_B + 1) * count - 1, rows_B[:, None])
        self.length += count
        if self._matcher is not None:
            self._matcher.read(patches_BPS)

    def look_up(self, tokens_BT: Tensor) -> Tensor:
        """What `Matcher` says behind each of the first tokens of the next patch."""
        assert self._matcher is not None
        return self._matcher.look_up(tokens_BT)

    def keep(self, rows_B: Tensor) -> None:
        if self._matcher is not None:
            self._matcher.keep(rows_B)
        for cache in self._caches:
            cache.select(rows_B)
        self.conditions = self.conditions.at(rows_B)


@dataclass(frozen=True)
class Generated:
    """`data`: the file's bytes, the prefix included. `ended`: False if the limit cut it off."""

    data: bytes
    ended: bool


STREAMS = 64
"""Files written in step: their keys and values, a few MB each, stay in memory."""


def generate(
    model: ByteModel,
    extension: str,
    *,
    prefix: bytes = b"",
    count: int = 1,
    max_patches: int | None = None,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Generated]:
    """Write `count` files that begin with `prefix`, one after the other as they are ready.

    `progress`: called with the bytes written so far, and how many they will be at most.

    `max_patches`: the most patches to add, at most what the model's length leaves room for
    (the default). A prefix may end anywhere in a patch. Raises `UserError` if it leaves no room.
    """
    size = model.config.patch_size
    whole = len(prefix) // size * size
    head = np.concatenate([extension_patch(extension, size), pad_to_patches(prefix[:whole], size)])
    room = model.config.max_patches - len(head)
    if room < 1:
        raise UserError(
            f"the prefix fills {len(head):,} of the {model.config.max_patches:,} patches that"
            " this model takes, which leaves nothing to generate; shorten it"
        )
    limit = room if max_patches is None else min(max_patches, room)
    rng = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    draft = rough_copy(model, dtype) if count == 1 else None
    known = list(prefix[whole:])
    heads_BPS = torch.from_numpy(head).expand(count, -1, -1)
    written_patches, spared = 0, 0

    def wrote(streams: int, left: int) -> None:
        nonlocal written_patches, spared
        written_patches += streams
        spared += left
        if progress is not None:
            progress(written_patches * size, (count * limit - spared) * size)

    def files() -> Iterator[Generated]:
        for some_BPS in torch.split(heads_BPS, STREAMS):
            session = Session(model, dtype=dtype, draft=draft)
            session.begin(some_BPS)
            writing = write_in_step(
                session,
                [limit] * len(some_BPS),
                known=known,
                sampling=sampling,
                rng=rng,
                wrote=wrote,
            )
            for _, written in sorted(writing, key=lambda stream: stream[0]):
                yield Generated(prefix[:whole] + decode_bytes(written.patches), written.ended)

    return files()


class Written(NamedTuple):
    """What a stream wrote.

    `patches`: the bytes known of the first one included. `ended`: whether the model ended it, or
    the limit did. `bits`: float32, the surprisal of each byte that the model chose and, if it
    ended the file, of that 256; as the model says, however it was sampled.
    """

    patches: Patches
    ended: bool
    bits: npt.NDArray[np.float32]


def write_in_step(
    session: Session,
    limits: Sequence[int],
    *,
    known: Sequence[int] = (),
    sampling: Sampling,
    rng: torch.Generator,
    wrote: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Written]]:
    """Continue each stream of a session by at most so many patches, at least one; each with its
    number as soon as it is done. All continuations begin with the bytes `known`, less than a patch.

    `wrote`: called after each patch with how many streams got one, and how many patches those that
    ended with it could have got yet."""
    alive = list(range(len(limits)))
    known_BT: Tensor | None = torch.tensor(known, dtype=torch.int64).expand(len(alive), -1)
    patches: list[list[Patches]] = [[] for _ in alive]
    bits: list[list[npt.NDArray[np.float32]]] = [[] for _ in alive]
    for added in itertools.count(1):
        logits: list[Tensor] = []
        patch_BS = session.next_patch(sampling, rng=rng, known_BT=known_BT, logits=logits)
        chosen_BT = patch_BS if known_BT is None else patch_BS[:, known_BT.shape[1] :]
        costs = _surprisal(torch.stack(logits, 1), chosen_BT)
        ended_B = patch_BS[:, -1] == PAD
        if wrote is not None:
            done = itertools.compress(alive, ended_B.tolist())
            wrote(len(alive), sum(limits[stream] - added for stream in done))
        goes_on = []
        for stream, patch, cost, ended in zip(
            alive, patch_BS.cpu().numpy(), costs, ended_B.tolist(), strict=True
        ):
            patches[stream].append(patch)
            bits[stream].append(cost)
            goes_on.append(not ended and added < limits[stream])
            if not goes_on[-1]:
                all_bits = np.concatenate(bits[stream])
                yield stream, Written(np.stack(patches[stream]), ended, all_bits)
        if not any(goes_on):
            return
        if not all(goes_on):
            goes_on_B = torch.tensor(goes_on, device=patch_BS.device)
            session.keep(goes_on_B)
            patch_BS = patch_BS[goes_on_B]
        alive, known_BT = list(itertools.compress(alive, goes_on)), None
        session.append(patch_BS[:, None])


def _surprisal(logits_BTV: Tensor, tokens_BS: Tensor) -> Iterator[npt.NDArray[np.float32]]:
    """Bits of each stream's tokens up to the 256 that ends it; those behind it follow from it."""
    tokens_BT = tokens_BS[:, : logits_BTV.shape[1]]
    nats_BTV = -logits_BTV.float().log_softmax(-1)
    bits_BT = nats_BTV.gather(-1, tokens_BT[..., None])[..., 0] / math.log(2)
    chosen_BT = (tokens_BT == PAD).cumsum(1) < 2
    for bits_T, chosen_T in zip(bits_BT.cpu().numpy(), chosen_BT.cpu().numpy(), strict=True):
        yield bits_T[chosen_T]
