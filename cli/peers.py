"""What can stand on either side of a comparison, written `KIND` or `KIND:FILE` (a PEER)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cli.options import checkpoint_file
from cpusim.errors import UserError, nearest
from cpusim.loader import load_trace
from cpusim.lockstep import Case, OracleStepper, RecordedStepper, ReferenceStepper, Stepper

if TYPE_CHECKING:
    from bytemodel.cpu import ByteModelStepper
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

    @property
    def file(self) -> str:
        """What reports call the `source`: its path, or if it is the shipped model, its name."""
        return str(self.source) if ":" in self.text else self.stepper.name.removeprefix("model:")


def _without_file(stepper: ReferenceStepper) -> Callable[[Path | None, str], Peer]:
    def make(source: Path | None, _: str) -> Peer:
        name = stepper.name
        if source is not None:
            raise UserError(f"{name}:{source}: the {name} takes no file; write just {name}")
        return Peer(name, None, stepper)

    return make


def _model(source: Path | None, dtype: str) -> Peer:
    from bytemodel.cpu import shipped_checkpoint

    if source is None:
        return Peer("model", shipped_checkpoint(), model_stepper(None, dtype))
    file = checkpoint_file(source)
    return Peer(f"model:{source}", file, model_stepper(file, dtype))


def model_stepper(path: Path | None, dtype: str = "auto") -> ByteModelStepper:
    """The byte model in a checkpoint, or the shipped one. Raises `UserError` if there is none.

    The shipped one is called by its name: where this copy of the program lies helps nobody.
    """
    from bytemodel.cpu import display_name, load_stepper, shipped_checkpoint

    if path is not None:
        return load_stepper(path, dtype)
    shipped = shipped_checkpoint()
    stepper = load_stepper(shipped, dtype)
    stepper.name = f"model:{display_name(shipped)}"
    return stepper


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


def candidate(model: Path | None, against: str | None, dtype: str) -> Peer:
    """The peer that --model or --against names, or the shipped model. Raises `UserError`."""
    if against is None:
        against = "model" if model is None else f"model:{model}"
    return make_peer(against, dtype)


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
