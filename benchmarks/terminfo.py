"""Conversions of real terminfo entries that were held out: text to compiled and back, exactly.

Writes benchmarks/results/terminfo.json. A file is right if all of its bytes are: tic and infocmp
make the very same of each other's. One that is not may still say the same, if what they make of it
is the source. Beside the model stands xz, which says how many bits the target costs when the
source is known.

python benchmarks/terminfo.py --model runs/terminfo
python benchmarks/terminfo.py --tiny      # an untrained model and the sample: that it runs
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import music
import report

from bytemodel.config import preset
from bytemodel.decoding import prepare
from bytemodel.model import ByteModel
from bytemodel.train import pick_device, pick_dtype
from media import prepared, registry, tic
from media.terminfo import COMPILED, TEXT

DIRECTIONS = ((TEXT, COMPILED), (COMPILED, TEXT))
_TINY = 6
_TINY_PATCHES = 80


class Judged:
    """Entries by their bytes."""

    def __init__(self) -> None:
        self.entries = self.exact = self.same = self.valid = 0

    def add(self, target: bytes, made: bytes, kind: str, *, ended: bool) -> None:
        self.entries += 1
        if made == target and ended:
            self.exact += 1
            self.same += 1
            self.valid += 1
            return
        other = tic.to_compiled if kind == TEXT else tic.to_text
        try:
            said = other(made)
        except tic.Refused:
            return
        self.valid += ended
        self.same += ended and said == other(target)

    def figures(self) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "exact_files": self.exact,
            "exact_share": self.exact / max(1, self.entries),
            "files_that_say_the_same": self.same,
            "valid_files": self.valid,
        }


def main() -> None:
    parser = music.options(str(__doc__), "terminfo")
    model_options = parser.add_mutually_exclusive_group(required=True)
    model_options.add_argument("--model", type=Path, help="checkpoint or run folder")
    model_options.add_argument(
        "--tiny", action="store_true", help="an untrained model on the sample; writes no result"
    )
    chosen = parser.parse_args()
    found = music.set_of(registry.load("terminfo"), sample=chosen.sample or chosen.tiny)
    at_most = _TINY if chosen.tiny else chosen.at_most
    pairs = music.real_pairs(found, chosen.side, at_most, DIRECTIONS[0])
    device = pick_device(chosen.device)
    dtype = pick_dtype(chosen.dtype, device)
    if chosen.tiny:
        config = dataclasses.replace(preset("tiny"), max_patches=_TINY_PATCHES)
        model, about = ByteModel(config).eval().to(device), None
    else:
        model, about = music.load(chosen.model, device)
    model = prepare(model, dtype)
    results = []
    for kinds in DIRECTIONS:
        result = music.convert(model, pairs, kinds, dtype, Judged())
        results.append(result)
        print(
            f"{result['direction']}: {result['bits_per_byte']:.5f} bits per byte"
            f" (xz {result['xz_bits_per_byte']:.3f}), {result['exact_files']} of"
            f" {result['entries']} exactly right, {result['files_that_say_the_same']} say the same,"
            f" {result['valid_files']} valid; {result['left_out_for_length']} too long",
            flush=True,
        )
    if about is None:
        return
    path = report.write(
        chosen.name,
        {
            "checkpoint": about,
            "set": _set(found, chosen.side, len(pairs)),
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            "decoding": "greedy",
            "results": results,
        },
    )
    print(path)


def _set(found: prepared.Prepared, side: str, entries: int) -> dict[str, Any]:
    return {
        "sha256": found.manifest["sha256"],
        "kind": found.kind,
        "side": side,
        "entries": entries,
    }


if __name__ == "__main__":
    main()
