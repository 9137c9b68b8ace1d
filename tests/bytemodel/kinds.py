"""Files of two kinds that are easy to tell apart."""

from __future__ import annotations

import random
from pathlib import Path

ALPHABETS = {"digits": b"0123456789", "dna": b"ACGT"}


def write_files(folder: Path, count: int = 20) -> Path:
    """Files of two kinds that are easy to tell apart, a folder a kind."""
    rng = random.Random(0)
    for label, alphabet in ALPHABETS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            content = bytes(rng.choices(alphabet, k=rng.randrange(1, 60)))
            (folder / label / f"{number}.txt").write_bytes(content)
    return folder
