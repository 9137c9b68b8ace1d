"""Put the models of finished runs among the checkpoints that come with the package.

python benchmarks/shipping.py runs/audio runs/text     writes bytemodel/weights/media-audio.pt, ...
python benchmarks/shipping.py runs/cpu                 writes bytemodel/weights/cpu-small.pt
python benchmarks/shipping.py runs/conversion          writes bytemodel/weights/convert-abc-mid.pt

Each replaces the one that shipped for its modality, its conversion, or the CPU. What a run says of
folders is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import report

from bytemodel import checkpoint
from bytemodel.cpu import shipped_checkpoint
from bytemodel.cpu_data import learned_cpu
from bytemodel.files_data import Conversion
from cpusim.errors import UserError
from media import shipped

_MOST_BYTES, _MOST_BYTES_OF_CPU = 10_000_000, 20_000_000


def ship(run: Path) -> Path:
    """Raises `UserError` if it is no finished run of a modality or the CPU, or too large."""
    loaded = checkpoint.load(run / "model.pt")
    data = loaded.info.get("data", {})
    if learned_cpu(loaded.info):
        path, most = shipped_checkpoint(), _MOST_BYTES_OF_CPU
    elif data.get("kind") != "media":
        raise UserError(f"{run}: learned no files of a modality, nor the CPU")
    elif "convert" in data:
        conversion = Conversion.parse(data["convert"], loaded.config.patch_size)
        if not conversion.both:
            raise UserError(f"{run}: learned to convert one way; what ships does it both ways")
        path = shipped.place_of_conversion(conversion.source, conversion.target)
        most = _MOST_BYTES
    else:
        path, most = shipped.place_of(data["modality"]), _MOST_BYTES
    made = path.with_suffix(".new")
    info = report.without_places(loaded.info)
    checkpoint.save(made, loaded.model, info=info, dtype=torch.bfloat16, force=True)
    size = made.stat().st_size
    if size >= most:
        made.unlink()
        raise UserError(f"{run}: its model takes {size:,} bytes; less than {most:,} ship")
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
