"""What can stand on either side of a comparison, written `KIND` or `KIND:FILE` (a PEER)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpusim.errors import UserError, nearest
from cpusim.loader import load_trace
from cpusim.lockstep import Case, OracleStepper, RecordedStepper, ReferenceStepper, Stepper

if TYPE_CHECKING:
    from cpusim.trace import Trace


@dataclass(frozen=True)
class Peer:
    """One side of a comparison.

    `source`: the file it was made from. `programs`: what it brings along to compare.
    """

    text: str
    source: Path | None
    stepper: Stepper
    programs: tuple[Case, ...] = ()

    @property
    def kind(self) -> str:
        """`oracle`, `reference`, `model` or `trace`."""
        return self.text.partition(":")[0]


def _without_file(stepper: ReferenceStepper) -> Callable[[Path | None, str], Peer]:
    def make(source: Path | None, _: str) -> Peer:
        name = stepper.name
        if source is not None:
            raise UserError(f"{name}:{source}: the {name} takes no file; write just {name}")
        return Peer(name, None, stepper)

    return make


def _model(source: Path | None, dtype: str) -> Peer:
    from bytemodel.cpu import load_stepper, shipped_checkpoint

    path = source or shipped_checkpoint()
    return Peer("model" if source is None else f"model:{path}", path, load_stepper(path, dtype))


def _recording(source: Path | None, _: str) -> Peer:
    if source is None:
        raise UserError("trace: names no file; write trace:FILE")
    cases = tuple(recordings(source))
    text = f"trace:{source}"
    return Peer(text, source, RecordedStepper(text, cases), cases)


_PEERS: dict[str, Callable[[Path | None, str], Peer]] = {
    "oracle": _without_file(OracleStepper()),
    "reference": _without_file(ReferenceStepper()),
    "model": _model,
    "trace": _recording,
}


def make_peer(text: str, dtype: str) -> Peer:
    """The peer that a PEER names; `dtype`: a byte model's precision. Raises `UserError`."""
    kind, colon, source = text.partition(":")
    if kind not in _PEERS:
        close = nearest(kind, _PEERS)
        known = "oracle, reference, model:CKPT or trace:FILE"
        hint = f"did you mean {close}?" if close else f"write {known}"
        raise UserError(f"{text!r} names nothing to compare; {hint}")
    if colon and not source:
        raise UserError(f"{text!r} names no file; write it behind the colon")
    return _PEERS[kind](Path(source) if source else None, dtype)


def recordings(path: Path) -> Iterator[Case]:
    """The trace in a file, one of a packed shard's (`SHARD[17]`), or all of a shard's."""
    from cpusim.trace import is_shard, open_shard

    if path.is_file() and is_shard(path):
        shard = open_shard(path)
        shard.check()
        if not len(shard):
            raise UserError(f"{path}: the shard holds no traces; name another")
        for index in range(len(shard)):
            yield recording(f"{path}[{index}]", shard.trace(index))
    else:
        yield recording(str(path), load_trace(path))


def recording(name: str, trace: Trace) -> Case:
    """A recorded trace as a case."""
    return Case(name, np.frombuffer(trace.memory, np.uint8), trace.records)
