"""Put the models of finished runs among the checkpoints that come with the package.

python benchmarks/shipping.py runs/audio runs/text     writes bytemodel/weights/media-audio.pt, ...

Each replaces the one that shipped for its modality. What a run says of folders is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import report

from bytemodel import checkpoint
from cpusim.errors import UserError
from media import shipped

_MOST_BYTES = 10_000_000


def ship(run: Path) -> Path:
    """Raises `UserError` if it is no finished run of a modality, or too large."""
    loaded = checkpoint.load(run / "model.pt")
    data = loaded.info.get("data", {})
    if data.get("kind") != "media" or "convert" in data:
        raise UserError(f"{run}: did not learn to write the files of a modality")
    path = shipped.place_of(data["modality"])
    made = path.with_suffix(".new")
    info = report.without_places(loaded.info)
    checkpoint.save(made, loaded.model, info=info, dtype=torch.bfloat16, force=True)
    size = made.stat().st_size
    if size >= _MOST_BYTES:
        made.unlink()
        raise UserError(f"{run}: its model takes {size:,} bytes; less than {_MOST_BYTES:,} ship")
    return made.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    for run in parser.parse_args().runs:
        try:
            path = ship(run)
        except UserError as error:
            raise SystemExit(str(error)) from None
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
