"""Lossless compression: the model's probabilities, a range coder, and checks all around.

The range coder codes every byte at the model's probability for it, so a file costs what
`bytemodel.score` says its bytes cost. Decoding must compute the very same probabilities, bit
for bit. So both sides take one path: a cached session, byte after byte, in float32, on the
CPU, on one thread (how many threads add up a sum changes its last bits).

A file is cut into up to 64 streams of equal length that are coded in step, for speed. Each
begins without the context of the one before, so only as many are taken as cost less than 1 %
more. Within a stream the model reads in windows, as it does when it scores.

Format, version 1; numbers are little-endian:

    4   magic "bgpt"
    1   version
    1   streams; 0: the bytes follow as they are, since the model would need more than that
    8   the model: the first bytes of its `fingerprint`
    4   the arithmetic: a hash of what this machine computes for a fixed sequence; 0 if stored
    8   the content: the first bytes of its SHA-256
    1+e the file's extension, its length first
    1-9 the content's length, 7 bits a byte, the lowest first (LEB128)
    n   the range coder's 32-bit words, or the content
    4   CRC-32 of all before

Damage anywhere is found by the CRC before anything is decoded, another model by its
fingerprint, other arithmetic by its hash and, should that not tell, by the content's hash.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bytemodel.checkpoint import fingerprint
from bytemodel.generate import Session
from bytemodel.model import ByteModel
from bytemodel.patches import PAD, Patches, extension_patch, fitting_extension, pad_to_patches
from bytemodel.score import predict_sequence
from cpusim.errors import UserError

MAGIC, VERSION = b"bgpt", 1
_FIXED = struct.Struct("<4sBB8s4s8s")
_STREAMS = (64, 32, 16, 8, 4, 2)
_TOLERANCE = 1.01
"""What streams may cost, by what one stream costs."""
_MOST_BITS = 24.0
"""What the coder takes for a byte at most: no probability is below 2**-24 to it."""
_LEAST_BITS = -math.log2(1 - 256 * 2**-24)
"""What it takes at least: the other 256 tokens keep that probability each."""
_WORD = 4  # bytes; the coder writes whole words

Tokens = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called with how many bytes of how many are done."""


class CompressionError(UserError):
    """A compressed file that cannot be decoded here; the sentence lacks the file's name."""


class OtherModelError(CompressionError):
    """A compressed file that another model wrote. `written_by`: that model's name, as `bgpt info`
    prints it."""

    def __init__(self, written_by: str, this: str) -> None:
        super().__init__(
            f"was compressed with the model {written_by}, and this one is {this}; name the right"
            " one (bgpt info prints what each is)"
        )
        self.written_by = written_by


def compressed_size(bits: npt.NDArray[np.float32], extension: str, patch_size: int) -> int:
    """Bytes that a file takes compressed, header included, by the surprisal of its bytes.

    The real size lies within 2 % and two words of it.
    """
    header = _FIXED.size + len(_name(extension, patch_size)) + 5
    return header + len(_varint(len(bits))) + min(len(bits), math.ceil(_cost(bits)))


def compress(
    model: ByteModel, data: bytes, extension: str, *, progress: Progress | None = None
) -> bytes:
    """The compressed file. `extension`: as in the file's name; it tells the model what to expect.

    One that does not fit into a patch is left out. Raises `UserError` if the model is not on
    the CPU or the coder is not installed.
    """
    constriction = _constriction(model)
    name = _name(extension, model.config.patch_size)
    arithmetic, payload = bytes(4), data
    with _one_thread(), torch.inference_mode():
        streams = _plan(model, data, name)
        if streams:
            arithmetic = _arithmetic(model, streams)
            encoder = _Encoder(constriction, model, data, streams)
            _run(model, name, encoder, progress)
            payload = encoder.compressed()
    fixed = _FIXED.pack(
        MAGIC, VERSION, streams, _model_hash(model), arithmetic, _content_hash(data)
    )
    packed = fixed + bytes([len(name)]) + name + _varint(len(data)) + payload
    return packed + struct.pack("<I", zlib.crc32(packed))


def is_written_by(model: ByteModel, packed: bytes) -> bool:
    """Whether the header of a compressed file names this model."""
    return len(packed) >= _FIXED.size and _FIXED.unpack_from(packed)[3] == _model_hash(model)


def decompress(model: ByteModel, packed: bytes, *, progress: Progress | None = None) -> bytes:
    """The content of a compressed file, exactly.

    Raises `CompressionError` for anything that `compress` with this model, on a machine that
    computes as this one does, did not write.
    """
    constriction = _constriction(model)
    if not packed.startswith(MAGIC):
        raise CompressionError("is no file that bgpt compress wrote")
    version = packed[len(MAGIC) : len(MAGIC) + 1]
    if version and version[0] != VERSION:
        raise CompressionError(
            f"has format version {version[0]} where this program knows {VERSION}; update the"
            " program or get the file again"
        )
    if len(packed) < _FIXED.size + 6 or zlib.crc32(packed[:-4]) != int.from_bytes(
        packed[-4:], "little"
    ):
        raise CompressionError("is damaged or cut short (its checksum differs); get it again")
    _, _, streams, written_by, arithmetic, content = _FIXED.unpack_from(packed)
    if written_by != _model_hash(model):
        raise OtherModelError(written_by.hex(), _model_hash(model).hex())
    name, length, payload = _parse(packed[_FIXED.size : -4], model.config.patch_size)
    data = payload
    if streams:
        if streams > max(_STREAMS) or len(payload) % _WORD or not _can_hold(payload, length):
            raise CompressionError("is damaged (its header contradicts itself); get it again")
        with _one_thread(), torch.inference_mode():
            if arithmetic != _arithmetic(model, streams):
                raise CompressionError(
                    "was compressed where the model computes other last digits than here (torch"
                    f" {torch.__version__}, {torch.backends.cpu.get_cpu_capability()});"
                    " decompress it with that torch on a CPU of that kind"
                )
            decoder = _Decoder(constriction, model, payload, length, streams)
            _run(model, name, decoder, progress)
        data = decoder.tokens_KB[decoder.tokens_KB != PAD].astype(np.uint8).tobytes()
    if len(data) != length or _content_hash(data) != content:
        raise CompressionError(
            "decodes to something else than was compressed (the content's checksum differs), so"
            " it is refused; decompress it on a machine like the one that wrote it"
        )
    return data


class _Streams:
    """A `generate.Chooser` that codes each byte it chooses, over K streams in step.

    `tokens_KB`: their bytes, as far as they are known; 256 stands behind the end of a short one.
    `place`: of the byte that comes next, in every stream.
    """

    def __init__(self, constriction: Any, model: ByteModel, length: int, streams: int) -> None:
        size = model.config.patch_size
        patches = -(-length // size)
        longest = -(-patches // streams) * size
        try:
            # Memory is taken as it is written, however long a hostile header says the file is.
            self.tokens_KB = np.empty((streams, longest), np.int64)
        except MemoryError:
            raise CompressionError(
                f"claims to hold {length:,} bytes, more than this machine's memory"
            ) from None
        self.lengths_K = np.clip(length - np.arange(streams) * longest, 0, longest)
        for tokens_B, end in zip(self.tokens_KB, self.lengths_K, strict=True):
            tokens_B[end:] = PAD
        self.place = 0
        self.family = constriction.stream.model.Categorical(perfect=False)

    def choose(self, logits_BV: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Code the byte at `place` of every stream that reaches so far, and step on."""
        alive = np.flatnonzero(self.lengths_K > self.place)
        if len(alive):
            probabilities = logits_BV[torch.from_numpy(alive)].double().softmax(-1).numpy()
            self._code(alive, probabilities)
        self.place += 1
        return torch.from_numpy(self.tokens_KB[:, self.place - 1])

    def _code(self, alive: Tokens, probabilities: npt.NDArray[np.float64]) -> None:
        raise NotImplementedError


class _Encoder(_Streams):
    def __init__(self, constriction: Any, model: ByteModel, data: bytes, streams: int) -> None:
        super().__init__(constriction, model, len(data), streams)
        self.tokens_KB.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
        self._encoder = constriction.stream.queue.RangeEncoder()

    def _code(self, alive: Tokens, probabilities: npt.NDArray[np.float64]) -> None:
        symbols = self.tokens_KB[alive, self.place].astype(np.int32)
        self._encoder.encode(symbols, self.family, probabilities)

    def compressed(self) -> bytes:
        words: npt.NDArray[np.uint32] = self._encoder.get_compressed()
        return words.astype("<u4").tobytes()


class _Decoder(_Streams):
    def __init__(
        self, constriction: Any, model: ByteModel, payload: bytes, length: int, streams: int
    ) -> None:
        super().__init__(constriction, model, length, streams)
        words = np.frombuffer(payload, "<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def _code(self, alive: Tokens, probabilities: npt.NDArray[np.float64]) -> None:
        try:
            symbols = self._decoder.decode(self.family, probabilities)
        except AssertionError:  # how constriction says that these are not its bits
            symbols = np.full(len(alive), PAD)
        if (symbols == PAD).any():
            raise CompressionError(
                f"cannot be decoded beyond byte {self.place:,} of a stream, so it is refused;"
                " decompress it on a machine like the one that wrote it"
            )
        self.tokens_KB[alive, self.place] = symbols


def _run(model: ByteModel, name: bytes, coder: _Streams, progress: Progress | None) -> None:
    """Let the coder choose all bytes of its streams, patch by patch.

    The windows are those of `score.predict_sequence`.
    """
    size, longest = model.config.patch_size, model.config.max_patches
    streams, total = coder.tokens_KB.shape
    head = torch.from_numpy(_head(name, size)).expand(streams, 1, size)
    kept = max(longest // 2 - 1, 0)
    session = None
    for start in range(0, total, size):
        if session is None:
            session = Session(model)
            before = coder.tokens_KB[:, max(start - kept * size, 0) : start]
            context = torch.from_numpy(before.reshape(streams, -1, size))
            session.append(torch.cat((head, context), dim=1))
        coder.place = start
        patch_KS = session.next_patch(coder)
        if session.length + 1 < longest:
            session.append(patch_KS[:, None])
        else:
            session = None
        if progress is not None:
            progress((start + size) * streams, total * streams)


def _plan(model: ByteModel, data: bytes, name: bytes) -> int:
    """How many streams to code a file in; 0 to store it."""
    size = model.config.patch_size
    patches = pad_to_patches(data, size)

    def cost(streams: int) -> float:
        per = max(-(-len(patches) // streams), 1)
        head = _head(name, size)
        parts = [
            predict_sequence(
                model, np.concatenate([head, patches[start : start + per]]), torch.float32
            ).bits.ravel()
            for start in range(0, len(patches), per)
        ]
        return _cost(np.concatenate(parts)[: len(data)])

    # The coder ends with a word or two more.
    if not data or not (one := cost(1)) + 2 * _WORD < len(data):
        return 0
    for streams in _STREAMS:
        # A stream of less than two windows lacks context all along.
        long_enough = len(patches) // streams >= 2 * model.config.max_patches
        if long_enough and cost(streams) <= _TOLERANCE * one:
            return streams
    return 1


def _cost(bits: npt.NDArray[np.float32]) -> float:
    """Bytes that the coder takes for bytes of these surprisals."""
    return float(np.minimum(bits, _MOST_BITS).sum(dtype=np.float64)) / 8


class _Probe:
    """Hashes what the model says, and chooses as told."""

    def __init__(self, patch_BS: Tensor) -> None:
        self.digest = hashlib.sha256()
        self._bytes = iter(patch_BS.unbind(1))

    def choose(self, logits_BV: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        self.digest.update(logits_BV.numpy().astype("<f4").tobytes())
        return next(self._bytes)


def _arithmetic(model: ByteModel, streams: int) -> bytes:
    """A hash of the logits, bit for bit, that this machine computes for fixed bytes.

    Machines that agree on it add up in the same order, as far as one can tell beforehand.
    """
    size = model.config.patch_size
    count = min(4, model.config.max_patches)
    rows = torch.arange(streams * (count + 1) * size, dtype=torch.int64) * 167 % 256
    patches_KPS = rows.view(streams, count + 1, size)
    session = Session(model)
    session.append(patches_KPS[:, :count])
    probe = _Probe(patches_KPS[:, count])
    session.next_patch(probe)
    return probe.digest.digest()[:4]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _constriction(model: ByteModel) -> Any:
    """The constriction package, once all that coding needs is there."""
    try:
        import constriction
    except ImportError:
        raise UserError(
            "compression needs the constriction package; install it with"
            " pip install 'neural-cpu-lab[compress]'"
        ) from None
    if next(model.parameters()).device.type != "cpu":
        raise UserError("compression computes on the CPU alone; load the model there")
    model.eval()
    return constriction


def _name(extension: str, patch_size: int) -> bytes:
    """The extension as bytes; none if a patch cannot hold it."""
    fitting = fitting_extension(extension, min(patch_size, 255))
    return fitting.removeprefix(".").encode(errors="surrogateescape")


def _head(name: bytes, patch_size: int) -> Patches:
    return extension_patch(name.decode(errors="surrogateescape"), patch_size)


def _model_hash(model: ByteModel) -> bytes:
    return bytes.fromhex(fingerprint(model))[:8]


def _content_hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:8]


def _can_hold(payload: bytes, length: int) -> bool:
    """Whether the coder could have put this many bytes into the payload.

    A header that claims more would keep the decoder busy for ever.
    """
    return 0 < length <= 8 * len(payload) / _LEAST_BITS


def _varint(number: int) -> bytes:
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def _parse(rest: bytes, patch_size: int) -> tuple[bytes, int, bytes]:
    """Extension, length and payload from what follows the fixed part of the header."""
    name, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
    length = shift = 0
    for used, byte in enumerate(rest[:9], 1):
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            if len(name) > patch_size:
                break
            return name, length, rest[used:]
    raise CompressionError("is damaged (its header contradicts itself); get it again")
