"""A training step beside the published wiring: same sizes, same batch, same precision.

python benchmarks/training_step.py          about ten minutes on two cores
python benchmarks/training_step.py --tiny   one small model and few patches, to see that it runs

Sizes: `published` is the paper's 110 M; `small` is the same family at the width and the depths
of the preset `small`. Ours is what `bgpt train` does (compiled, deterministic, gradient clipped,
fused AdamW), the peer plain eager PyTorch with AdamW and the faster of its two attentions, both
with the paper's dropout. The batch is one sequence of 512 patches of random bytes, all predicted.
Beside `small` also stands the preset `small` itself, which is of the local family.

Each side has a process of its own, whose peak memory (resident, libraries included) is the
peak over all its steps; they take turns, and figures are medians. Writes
benchmarks/results/training_step.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import report
from peers.published import PublishedModel

from bytemodel.config import ModelConfig, preset
from bytemodel.data import Batch
from bytemodel.model import ByteModel
from bytemodel.train import TrainConfig, build_optimizers, deterministic, loss_and_hits

SMALL = ModelConfig(
    family="published",
    patch_layers=4,
    patch_width=256,
    patch_heads=4,
    byte_layers=4,
    byte_width=256,
    byte_heads=4,
    dropout=0.1,
)
Step = Callable[[], object]


def memory() -> float:
    """Peak resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def our_step(config: ModelConfig, dtype: torch.dtype, patches: int) -> Step:
    torch.manual_seed(0)
    model = ByteModel(config).train()
    training = TrainConfig(steps=1)
    optimizers = build_optimizers(model, training)
    forward = torch.compile(loss_and_hits, dynamic=False)
    tokens = torch.randint(0, 256, (1, patches, config.patch_size))
    batch = Batch(tokens, torch.arange(1, patches), torch.ones(config.patch_size))

    def step() -> None:
        with deterministic(torch.device("cpu")):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = forward(model, *batch)[0]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    return step


def peer_step(config: ModelConfig, dtype: torch.dtype, patches: int, attention: str) -> Step:
    torch.manual_seed(0)
    model = PublishedModel(config, attention).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, 256, (1, patches, config.patch_size))
    masks = torch.ones(1, patches, dtype=torch.int64)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(tokens, masks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def serve(pipe: Connection, build: Callable[..., Step], *words: Any) -> None:
    """In a process of its own: a step for every number that comes in, until None."""
    step = build(*words)
    for _ in iter(pipe.recv, None):
        began = time.perf_counter()
        step()
        pipe.send((time.perf_counter() - began, memory()))


class Side:
    """A process that takes training steps when told to."""

    def __init__(self, build: Callable[..., Step], *words: Any, warm: int) -> None:
        self.pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(other, build, *words), daemon=False)
        self.process.start()
        self.times: list[float] = []
        self.peak = 0.0
        for _ in range(warm):
            self.step()
        self.times.clear()

    def step(self) -> None:
        self.pipe.send(1)
        while not self.pipe.poll(1):
            if not self.process.is_alive():
                raise SystemExit(f"a training step ended with exit code {self.process.exitcode}")
        took, self.peak = self.pipe.recv()
        self.times.append(took)

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join()

    def figures(self, patches: int) -> dict[str, Any]:
        typical = statistics.median(self.times)
        return {
            "patches_per_second": round(patches / typical, 1),
            "seconds_a_step": round(typical, 3),
            "peak_memory_gb": round(self.peak, 2),
        }


@functools.cache
def faster_attention(config: ModelConfig, dtype: torch.dtype, patches: int) -> str:
    times = {}
    for attention in ("eager", "sdpa"):
        side = Side(peer_step, config, dtype, patches, attention, warm=1)
        side.step()
        side.close()
        times[attention] = side.times[0]
    return min(times, key=times.__getitem__)


def compare(
    ours: ModelConfig, theirs: ModelConfig, dtype: torch.dtype, patches: int, steps: int
) -> dict[str, Any]:
    attention = faster_attention(theirs, dtype, patches)
    our_side = Side(our_step, ours, dtype, patches, warm=2)
    their_side = Side(peer_step, theirs, dtype, patches, attention, warm=1)
    for _ in range(steps):
        our_side.step()
        their_side.step()
    our_side.close()
    their_side.close()
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "patches": patches,
        "ours": our_side.figures(patches),
        "peer": {**their_side.figures(patches), "attention": attention},
        "ratio": round(statistics.median(their_side.times) / statistics.median(our_side.times), 2),
        "memory_ratio": round(our_side.peak / their_side.peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="see that it runs; writes nothing")
    tiny = parser.parse_args().tiny
    published, small = preset("published"), preset("small")
    pairs = {
        "published": (published, published),
        "small": (SMALL, SMALL),
        "small of the local family": (small, SMALL),
    }
    patches, steps = 512, 5
    if tiny:
        shallow = dataclasses.replace(SMALL, patch_layers=1, byte_layers=1)
        pairs, patches, steps = {"small": (shallow, shallow)}, 32, 2
    rows = []
    for name, (ours, theirs) in pairs.items():
        for dtype in (torch.float32, torch.bfloat16):
            row = {
                "size": name,
                "parameters": ByteModel(ours).parameter_count,
                **compare(ours, theirs, dtype, patches, steps),
            }
            print(row, flush=True)
            rows.append(row)
    if not tiny:
        print(report.write("training_step", {"threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
