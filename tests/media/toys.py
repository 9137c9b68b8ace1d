"""Modalities for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cpusim.errors import UserError
from media.modality import Debian, Item, LeftOut, Progress, PyPI


def twenty(_: Path) -> Iterator[Item | LeftOut]:
    for number in range(20):
        yield Item(f"kind_{number}.toy", b"toy %d" % number, (f"thing {number}",))
    yield LeftOut("too dull")


@dataclass(frozen=True)
class Toy:
    """A modality whose items a function makes."""

    name: str = "toy"
    summary: str = "toys"
    extensions: tuple[str, ...] = ("toy", "box")
    shown_as: tuple[str, ...] = ()
    packages: tuple[Debian | PyPI, ...] = ()
    source: str = "a toy shop"
    licence: str = "free"
    sample: Path = field(default_factory=lambda: Path(__file__).parent / "no-sample")
    sample_source: str = "a few toys"
    sample_licence: str = "free as well"
    recipe: int = 1
    make: Callable[[Path], Iterator[Item | LeftOut]] = twenty

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        progress(0, 1)
        yield from self.make(folder)

    def read(self, path: Path) -> Sequence[Item]:
        data = path.read_bytes()
        if b"broken" in data:
            raise UserError(f"{path}: is broken; mend it")
        return [Item(f"{path.stem}.toy", data, ())]

    def show(self, data: bytes, extension: str) -> Mapping[str, bytes]:
        return {"box": b"[" + data + b"]"} if extension == "toy" else {}

    def judge(self, data: bytes, extension: str) -> str | None:  # noqa: ARG002
        return None if len(data) % 2 == 0 else "odd"


TOY = Toy()
EMPTY = dataclasses.replace(TOY, make=lambda _: iter(()))
"""A modality of which nothing is left."""
