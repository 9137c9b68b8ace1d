"""How fast the byte model writes, beside the published wiring with the same weights.

python benchmarks/generation.py          110 M parameters, about five minutes on two cores
python benchmarks/generation.py --tiny   a small model and few patches, to see that it runs

Both go on greedily from a prefix of 64 patches for 256 more, in float32, taking turns in one
process, and have to say the same bytes. The published code writes one stream at a time, so 16
streams together are compared with 16 times its one stream; the published wiring with all 16 in
one batch, which that code cannot do, is timed at three lengths and stands beside it. Weights are
random, with token 256 left at zero so that nothing ends. Since how well bytes can be guessed
depends on what is written, one stream is timed without guesses as well. Where the processor
has bfloat16 products, which round differently, those are timed too.

Writes benchmarks/results/generation_KIND.json, KIND telling what products the processor has, since
the ratios differ between kinds of machines.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import report
from peers.published import PublishedModel

from bytemodel.checkpoint import Checkpoint
from bytemodel.config import ModelConfig, preset
from bytemodel.decoding import prepare
from bytemodel.draft import rough_copy
from bytemodel.generate import Session
from bytemodel.lookup import Lookup
from bytemodel.model import ByteModel
from bytemodel.patches import PAD
from bytemodel.published import save_published

SEED = 20260101
STREAMS = 16
ATTENTIONS = ("eager", "sdpa")
TINY = ModelConfig(
    family="published",
    max_patches=64,
    patch_layers=2,
    patch_width=128,
    patch_heads=2,
    byte_layers=2,
    byte_width=128,
    byte_heads=2,
)


class NoGuesses(Lookup):
    def guess(self, said: list[int]) -> list[int]:  # noqa: ARG002
        return []


class Ours:
    """Streams written by our cached generation."""

    def __init__(self, model: ByteModel, prefixes_BPS: Tensor, **options: Any) -> None:
        self.session = Session(model, **options)
        self.session.append(prefixes_BPS)
        self.written: list[Tensor] = []

    def write(self) -> None:
        self.written.append(self.session.next_patch())
        self.session.append(self.written[-1][:, None])


class Peer:
    """Streams written by the published wiring."""

    def __init__(self, model: PublishedModel, prefixes_BPS: Tensor) -> None:
        self.model = model
        self.patches_BPS = prefixes_BPS
        self.written: list[Tensor] = []

    def write(self) -> None:
        self.written.append(self.model.next_patch(self.patches_BPS))
        self.patches_BPS = torch.cat((self.patches_BPS, self.written[-1][:, None]), dim=1)


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def take_turns(writers: dict[str, Ours | Peer], new: int, block: int) -> dict[str, list[float]]:
    """Seconds of each patch of each writer; they change places every `block` patches."""
    times: dict[str, list[float]] = {name: [] for name in writers}
    for done in range(0, new, block):
        for name, writer in writers.items():
            times[name] += [seconds(writer.write) for _ in range(min(block, new - done))]
        print(f"{done + block} of {new} patches", file=sys.stderr)
    return times


def build(config: ModelConfig) -> tuple[ByteModel, PublishedModel, str]:
    """Ours and the peer with the same weights; the peer with the faster of its attentions."""
    torch.manual_seed(SEED)
    model = ByteModel(config).eval()
    with torch.no_grad():
        model.byte_decoder.embedding.weight[PAD] = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        save_published(path, Checkpoint(path, model, {}, None))
        weights = torch.load(path, weights_only=True)["model"]
    peers = {name: PublishedModel(config, name).eval() for name in ATTENTIONS}
    length = config.max_patches // 2
    probe = torch.zeros(1, length, config.patch_size, dtype=torch.int64)
    times = {}
    for name, peer in peers.items():
        peer.load_weights(weights)
        times[name] = min(seconds(lambda peer=peer: peer.next_patch(probe)) for _ in range(3))
    best = min(times, key=times.__getitem__)
    return model, peers[best], best


def first_difference(one: list[Tensor], other: list[Tensor]) -> int | None:
    """The first patch in which the first streams differ."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((i for i, (a, b) in pairs if not torch.equal(a[0], b[0])), None)


def in_float32(
    model: ByteModel, peer: PublishedModel, prefix: int, new: int, block: int
) -> dict[str, Any]:
    size = model.config.patch_size
    prefixes = torch.randint(0, PAD, (STREAMS, prefix, size))
    exact = prepare(copy.deepcopy(model), torch.float32)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    drafting = Ours(exact, prefixes[:1], draft=rough_copy(exact, torch.float32))
    plain = Ours(exact, prefixes[:1])
    plain.session.lookup = NoGuesses(size)
    together = Ours(exact, prefixes)
    alone = Peer(peer, prefixes[:1])
    writers: dict[str, Ours | Peer] = {
        "peer": alone,
        "one": drafting,
        "one_without_guesses": plain,
        "together": together,
    }
    handle = exact.byte_decoder.register_forward_hook(count)
    times = take_turns(writers, new, block)
    handle.remove()
    total = {name: sum(values) for name, values in times.items()}
    typical = {name: round(statistics.median(values), 4) for name, values in times.items()}
    batched = batched_peer(peer, prefixes, together.written)
    plain_passes = 2 * new * size  # of the two writers that read the bytes one by one
    return {
        "peer_seconds_a_patch": typical["peer"],
        "peer_seconds_first_and_last_patches": [
            round(statistics.median(part), 4) for part in (times["peer"][:8], times["peer"][-8:])
        ],
        "one_stream": {
            "seconds_a_patch": typical["one"],
            "ratio": round(total["peer"] / total["one"], 1),
            "first_patch_that_differs": first_difference(alone.written, drafting.written),
            "byte_level_passes_a_patch": round((passes - plain_passes) / new, 2),
            "distinct_patches": len({tuple(p[0].tolist()) for p in drafting.written}),
        },
        "one_stream_without_guesses": {
            "seconds_a_patch": typical["one_without_guesses"],
            "ratio": round(total["peer"] / total["one_without_guesses"], 1),
            "first_patch_that_differs": first_difference(alone.written, plain.written),
        },
        "sixteen_streams": {
            "seconds_a_patch_of_all": typical["together"],
            "ratio": round(STREAMS * total["peer"] / total["together"], 1),
            "first_patch_that_differs": first_difference(alone.written, together.written),
            "peer_in_one_batch_seconds": batched,
            "ratio_to_peer_in_one_batch": round(
                statistics.mean(batched) * new / total["together"], 1
            ),
        },
    }


def batched_peer(peer: PublishedModel, prefixes: Tensor, written: list[Tensor]) -> list[float]:
    """Seconds a patch of all streams, at the first, the middle and the last length."""
    whole = torch.cat((prefixes, torch.stack(written, dim=1)), dim=1)
    first, last = prefixes.shape[1], whole.shape[1]
    return [
        round(seconds(lambda length=length: peer.next_patch(whole[:, :length])), 3)
        for length in (first, (first + last) // 2, last)
    ]


def in_bfloat16(model: ByteModel, peer: PublishedModel, prefix: int, new: int) -> dict[str, Any]:
    """The same with bfloat16 products on both sides, which do not say the same bytes."""
    prefixes = torch.randint(0, PAD, (STREAMS, prefix, model.config.patch_size))
    rounded = prepare(copy.deepcopy(model), torch.bfloat16)
    one = Ours(rounded, prefixes[:1], dtype=torch.bfloat16)
    one.session.lookup = NoGuesses(model.config.patch_size)
    together = Ours(rounded, prefixes, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        alone = Peer(peer, prefixes[:1])
        peer_times = [seconds(alone.write) for _ in range(new)]
    times = take_turns({"one": one, "together": together}, new, new)
    return {
        "new_patches": new,
        "peer_seconds_a_patch": round(statistics.median(peer_times), 4),
        "seconds_a_patch_without_guesses": round(statistics.median(times["one"]), 4),
        "ratio": round(sum(peer_times) / sum(times["one"]), 1),
        "sixteen_streams_seconds_a_patch_of_all": round(statistics.median(times["together"]), 4),
        "sixteen_streams_ratio": round(STREAMS * sum(peer_times) / sum(times["together"]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="see that it runs; writes nothing")
    tiny = parser.parse_args().tiny
    config = TINY if tiny else dataclasses.replace(preset("published"), dropout=0.0)
    prefix, new, block = (8, 8, 4) if tiny else (64, 256, 32)
    model, peer, attention = build(config)
    machine = report.environment()
    kind = "amx" if machine["amx"] else "bfloat16" if machine["avx512_bf16"] else "no_bfloat16"
    figures = {
        "parameters": model.parameter_count,
        "prefix_patches": prefix,
        "new_patches": new,
        "threads": torch.get_num_threads(),
        "peer_attention": attention,
        "float32": in_float32(model, peer, prefix, new, block),
    }
    if tiny or machine["avx512_bf16"]:
        figures["bfloat16"] = in_bfloat16(model, peer, prefix, block)
    print(figures)
    if not tiny:
        print(report.write(f"generation_{kind}", figures))


if __name__ == "__main__":
    main()
