"""How fast the byte model trains on this machine, beside the machine's own matrix product: a
step cannot be faster than its multiplications. Every figure is a median. Writes
benchmarks/results/model_speed.json. How fast it verifies: `verification.py`.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import report
from torch import nn

from bytemodel.config import preset
from bytemodel.cpu_data import GeneratedTraces
from bytemodel.model import ByteModel
from bytemodel.train import TrainConfig, build_optimizers, loss_and_hits, pick_dtype

CPU = torch.device("cpu")


def median_seconds(action: Callable[[], object], *, warm: int, runs: int) -> float:
    """Median time of `action` over `runs`, after `warm` uncounted ones."""
    for _ in range(warm):
        action()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_rate(dtype: torch.dtype) -> float:
    """TFLOP/s of a matrix product shaped like the byte level's feed-forward."""
    a, b = torch.randn(8192, 192, dtype=dtype), torch.randn(768, 192, dtype=dtype)
    seconds = median_seconds(lambda: nn.functional.linear(a, b), warm=5, runs=30)
    return 2 * a.numel() * len(b) / seconds / 1e12


def step_flops(model: ByteModel, patches: int, targets: int) -> float:
    """Multiplications and additions of a step's matrix products (6 a weight a position)."""

    def weights(blocks: nn.ModuleList) -> int:
        return sum(p.numel() for p in blocks.parameters() if p.ndim == 2)

    config, byte = model.config, model.byte_decoder
    # The previous patch's bytes pass through the key and value maps of every layer.
    context = 2 * config.byte_layers * config.byte_width**2
    per_byte = weights(byte.blocks) + context + byte.head.weight.numel()
    per_target = config.patch_size * per_byte + byte.bridge.weight.numel()
    return 6.0 * (patches * weights(model.patch_decoder.blocks) + targets * per_target)


def training(dtype: torch.dtype, *, compiled: bool) -> dict[str, Any]:
    """Forward, backward and update of `small` on the curriculum's final mix."""
    torch.manual_seed(0)
    model = ByteModel(preset("small"))
    optimizers = build_optimizers(model, TrainConfig(steps=1))
    source = GeneratedTraces(seed=0)
    forward = torch.compile(loss_and_hits, dynamic=False) if compiled else loss_and_hits
    shapes: dict[tuple[int, ...], list[float]] = {}
    states = flops = spent = 0.0
    for number in range(18 if compiled else 10):
        batch = source.batch(1000 + number)
        shape = (*batch.patches_BPS.shape[:2], len(batch.targets_N))
        began = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = forward(model, *batch)[0]
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        shapes.setdefault(shape, []).append(time.perf_counter() - began)
    for (programs, patches, targets), times in shapes.items():
        # The first two of a shape compile and warm up.
        typical = statistics.median(times[2:] or times)
        states += targets * len(times)
        spent += typical * len(times)
        flops += step_flops(model, programs * patches, targets) * len(times)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": compiled,
        "states_per_second": round(states / spent),
        "tflops": round(flops / spent / 1e12, 3),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    rates = {dtype: matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    runs = []
    best = pick_dtype("auto", CPU)
    for dtype, compiled in ((best, True), (best, False), (torch.float32, True)):
        figures = training(dtype, compiled=compiled)
        figures["share_of_matmul_rate"] = round(figures["tflops"] / rates[dtype], 3)
        runs.append(figures)
        print(figures, flush=True)
    path = report.write(
        "model_speed",
        {
            "matmul_tflops": {
                str(dtype).removeprefix("torch."): round(rate, 3) for dtype, rate in rates.items()
            },
            "training_small": runs,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
