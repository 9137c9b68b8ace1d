"""The kernels beside their peer, for pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cpu_speed import PROGRAMS, SEED, SwitchInterpreter, generate_and_run, room
from pytest_benchmark.fixture import BenchmarkFixture

from cpusim.machine import run_batch
from cpusim.programs import Programs, generate


@pytest.fixture(scope="module")
def programs() -> Programs:
    return generate(PROGRAMS, seed=SEED)


def test_run_and_trace(benchmark: BenchmarkFixture, programs: Programs) -> None:
    out = room(PROGRAMS)
    benchmark(run_batch, programs.memories, programs.states, out=out)


def test_switch_interpreter(
    benchmark: BenchmarkFixture, programs: Programs, tmp_path: Path
) -> None:
    peer = SwitchInterpreter(tmp_path)
    batch = benchmark(peer.run, programs, room(PROGRAMS))
    expected = run_batch(programs.memories, programs.states)
    np.testing.assert_array_equal(batch.records, expected.records)


def test_generate_and_run(benchmark: BenchmarkFixture) -> None:
    benchmark(generate_and_run, room(PROGRAMS))
