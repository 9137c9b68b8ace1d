"""Two real processes train as one does, stop together and go on together, on two machines too."""

from __future__ import annotations

import json
import os
import socket
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


ONE_MACHINE = ("--standalone", "--nproc-per-node", "2")


def start(folder: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """torchrun, which trains in `folder`; `words`: how many processes it starts, and where."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", *words),
            *("-m", runs.__name__, str(folder), json.dumps(options)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def outcomes(*started: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What each process said in the end."""
    said = [process.communicate(timeout=300) for process in started]
    lines = [line for out, _ in said for line in out.splitlines()]
    assert len(lines) == 2, said
    return [json.loads(line) for line in lines]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_two_processes_follow_the_losses_of_one_and_stop_and_go_on_together(
    tmp_path: Path,
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    # The signal reaches the first process alone.
    stopped = outcomes(
        start(two, *ONE_MACHINE, adapting=True, config=SHORT, at_step=4, signal="SIGTERM")
    )
    assert [(o["finished"], o["step"]) for o in stopped] == [(False, 4)] * 2
    assert [path.name for path in sorted((two / "checkpoints").glob("*.pt"))] == [
        "step-00000004.pt"
    ]
    # It goes on on two machines, of which the second has no run folder.
    port = str(free_port())
    resumed = outcomes(
        *(
            start(
                folder,
                *("--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"),
                *("--master-addr", "127.0.0.1", "--master-port", port),
                adapting=True,
                config=SHORT,
                resume=True,
            )
            for rank, folder in enumerate((two, tmp_path / "elsewhere"))
        )
    )
    assert not (tmp_path / "elsewhere").exists()
    assert [(o["finished"], o["step"]) for o in resumed] == [(True, 8)] * 2
    assert sorted(o["notes"] for o in resumed) == [
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
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        with pytest.raises(UserError, match="3 processes of this machine find 2 GPUs; start as"):
            own_device(torch.device("cuda"))
