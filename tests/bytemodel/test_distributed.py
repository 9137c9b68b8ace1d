"""Two real processes train as one does, stop together and go on together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bytemodel import checkpoint
from bytemodel.distributed import Ranks, leads, own_device
from bytemodel.metrics import read_metrics
from cpusim.errors import UserError
from tests.bytemodel import runs
from tests.bytemodel.runs import CONFIG, Adapting

ROOT = Path(__file__).parent.parent.parent
COMPARED = {"loss", "byte_accuracy", "exact_patches", "gradient_norm", "learning_rate_scale"}
SHORT = {"steps": 8, "evaluate_every": 3}


def torchrun(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Train in two processes."""
    words = ["--standalone", "--nproc-per-node", "2", "-m", runs.__name__, str(folder)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


def test_two_processes_follow_the_losses_of_one_and_stop_and_go_on_together(
    tmp_path: Path,
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    # The signal reaches the first process alone.
    stopped = torchrun(two, adapting=True, config=SHORT, at_step=4, signal="SIGTERM")
    outcomes = [json.loads(line) for line in stopped.stdout.splitlines()]
    assert [(o["finished"], o["step"]) for o in outcomes] == [(False, 4)] * 2, stopped.stderr
    assert [path.name for path in sorted((two / "checkpoints").glob("*.pt"))] == [
        "step-00000004.pt"
    ]
    resumed = torchrun(two, adapting=True, config=SHORT, resume=True)
    outcomes = [json.loads(line) for line in resumed.stdout.splitlines()]
    assert [(o["finished"], o["step"]) for o in outcomes] == [(True, 8)] * 2, resumed.stderr
    assert sorted(o["notes"] for o in outcomes) == [
        [],
        [f"resumed from {two / 'checkpoints' / 'step-00000004.pt'} at step 4"],
    ]

    config = CONFIG.from_dict({**CONFIG.to_dict(), **SHORT})
    source = Adapting()
    runs.run(one, config=config, source=source)
    alone, together = read_metrics(one), read_metrics(two)
    assert [(r["kind"], r["step"]) for r in together] == [(r["kind"], r["step"]) for r in alone]
    for mine, theirs in zip(together, alone, strict=True):
        for name in COMPARED & theirs.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3), name
    saved = checkpoint.load(two / "checkpoints" / "step-00000008.pt").training
    assert saved is not None
    # What the source has learned comes from the answers of both.
    assert int(saved["source"]) == pytest.approx(source.wrong, abs=2)


def test_one_process_alone_asks_nobody() -> None:
    ranks = Ranks()
    assert ranks.leads
    assert ranks.of_leader(lambda: 3) == 3
    assert ranks.clock(1.5) == 1.5
    assert ranks.any_of(True, False) == (True, False)
    assert ranks.total(1.0, 2.0) == (1.0, 2.0)


def test_the_first_process_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leads()
    monkeypatch.setenv("RANK", "1")
    assert not leads()


def test_each_process_has_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 3 of this machine finds 2 GPUs; start as many"):
        own_device(torch.device("cuda"))
