"""Conversions of real tunes that were held out: ABC to MIDI and back, by one model.

Writes benchmarks/results/music.json. A converted tune is judged by its note events: each must be
right in pitch, onset and duration; ABC is judged by what abc2midi plays of it. Beside the
model stand xz, which says how many bits the target costs when the source is known, and midi2abc.

python benchmarks/music.py --model runs/music
python benchmarks/music.py --model runs/music --at-most 20 --side validation
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import report

from bytemodel import checkpoint
from bytemodel.conversion import convert_prompts, prompt
from bytemodel.decoding import prepare
from bytemodel.model import ByteModel
from bytemodel.patches import PAD, encode_conversion
from bytemodel.score import predict_patches
from bytemodel.train import pick_device, pick_dtype
from cpusim.errors import UserError
from media import abcmidi, prepared, registry
from media.modality import Modality
from media.notes import Unreadable, compare, tune_of

DIRECTIONS = (("abc", "mid"), ("mid", "abc"))


class Pair(NamedTuple):
    """`files`: what the two files hold, by extension."""

    name: str
    files: Mapping[str, bytes]


def real_pairs(
    found: prepared.Prepared, side: str, at_most: int | None, kinds: tuple[str, str]
) -> list[Pair]:
    """The pairs of a side in an order by hash, so that the first few are a fair sample."""
    paths = [path for path in found.files(side) if path.suffix == f".{kinds[0]}"]
    paths.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
    return [
        Pair(path.stem, {kind: path.with_suffix(f".{kind}").read_bytes() for kind in kinds})
        for path in paths[:at_most]
    ]


class Judge(Protocol):
    """Tallies of what was made of the targets."""

    def add(self, target: bytes, made: bytes, kind: str, *, ended: bool) -> None: ...

    def figures(self) -> dict[str, Any]: ...


class Judged:
    """Tunes by their notes; with `mend`, also by those of files whose lengths of tracks and texts
    are set right, which `bgpt generate` does too."""

    def __init__(self, mend: Callable[[bytes, str], bytes | None] | None = None) -> None:
        self._mend = mend
        self._once_mended = None if mend is None else Judged()
        self.tunes = self.valid = self.readable = self.whole = self.right = self.notes = 0
        self.exact_files = 0

    def add(self, target: bytes, made: bytes, kind: str, *, ended: bool) -> None:
        if self._mend is not None and self._once_mended is not None:
            better = self._mend(made, kind)
            mended = (made, ended) if better is None else (better, True)
            self._once_mended.add(target, mended[0], kind, ended=mended[1])
        wanted = tune_of(target, kind)
        self.tunes += 1
        self.exact_files += made == target and ended
        self.notes += len(wanted.notes)
        try:
            read = tune_of(made, kind)
        except Unreadable:
            return
        result = compare(wanted, read)
        self.readable += 1
        self.valid += ended and read.fault is None
        self.whole += result.same and ended
        self.right += result.right

    def figures(self) -> dict[str, Any]:
        return {
            "tunes": self.tunes,
            "tunes_with_every_note_right": self.whole,
            "notes_right": self.right / max(1, self.notes),
            "valid_files": self.valid,
            "readable_files": self.readable,
            "exact_files": self.exact_files,
            **({"once_mended": self._once_mended.figures()} if self._once_mended else {}),
        }


def conditional_xz(source: bytes, target: bytes) -> int:
    """Bits that the target adds to what xz makes of the source."""
    options: dict[str, Any] = {
        "format": lzma.FORMAT_RAW,
        "filters": [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}],
    }
    return 8 * (
        len(lzma.compress(source + target, **options)) - len(lzma.compress(source, **options))
    )


def convert(
    model: ByteModel, pairs: list[Pair], kinds: tuple[str, str], dtype: Any, judged: Judge
) -> dict[str, Any]:
    """Score and convert every pair that the model has room for, one direction."""
    source, target = kinds
    size, longest = model.config.patch_size, model.config.max_patches
    bits = xz = bytes_ = right = symbols = 0
    left_out = []
    waiting: list[Pair] = []
    began = time.monotonic()
    for pair in pairs:
        data = pair.files[target]
        patches = encode_conversion(pair.files[source], source, data, target, size)
        if len(patches) > longest:
            left_out.append(pair.name)
            continue
        first = 2 + -(-len(pair.files[source]) // size)
        found = predict_patches(model, patches, np.arange(first, len(patches)), dtype)
        # The bytes, the padding that ends them, and the end patch, as in training.
        asked = np.union1d(np.arange(len(data) + 1), size * -(-len(data) // size))
        wanted = np.full(len(asked), PAD)
        wanted[: len(data)] = np.frombuffer(data, np.uint8)
        hits = found.expected.ravel()[asked] == wanted
        bits += float(found.bits.ravel()[asked].sum(dtype=np.float64))
        xz += conditional_xz(pair.files[source], data)
        bytes_ += len(data)
        right += int(hits.sum())
        symbols += len(asked)
        if hits.all():
            # What a greedy model is right about throughout is what it writes.
            judged.add(data, data, target, ended=True)
        else:
            waiting.append(pair)
    scored = time.monotonic() - began
    began = time.monotonic()
    prompts = [prompt(model.config, pair.files[source], source, target) for pair in waiting]
    for number, made in convert_prompts(model, prompts, dtype=dtype):
        judged.add(waiting[number].files[target], made.data, target, ended=made.ended)
    return {
        "direction": f"{source}->{target}",
        "bits_per_byte": bits / max(1, bytes_),
        "xz_bits_per_byte": xz / max(1, bytes_),
        "bytes_right": right / max(1, symbols),
        **judged.figures(),
        "written": len(waiting),
        "left_out_for_length": len(left_out),
        "seconds_scoring": round(scored, 1),
        "seconds_writing": round(time.monotonic() - began, 1),
    }


def convert_by_midi2abc(pairs: list[Pair]) -> dict[str, Any]:
    judged = Judged()
    for pair in pairs:
        try:
            made = abcmidi.to_abc(pair.files["mid"])
        except abcmidi.Refused:
            made = b""
        judged.add(pair.files["abc"], made, "abc", ended=True)
    return {"direction": "mid->abc", **judged.figures()}


def options(description: str, name: str) -> argparse.ArgumentParser:
    """The options of a benchmark of conversions, but for the model."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--side", default="test", choices=("validation", "test"))
    parser.add_argument("--at-most", type=int, help="pairs, to be done sooner")
    parser.add_argument("--sample", action="store_true", help="of the small set that ships")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--name", default=name, help="of the result: results/NAME.json")
    return parser


def set_of(modality: Modality, *, sample: bool) -> prepared.Prepared:
    """The modality's default set, or the small one that ships."""
    if not sample:
        return prepared.default_set(modality, prepared.Stages(), print)
    place = prepared.place_of(modality).with_name(f"{modality.name}-{modality.recipe}-sample")
    if prepared.is_prepared(place):
        return prepared.read(place)
    return prepared.from_sample(modality, place, prepared.Stages(), force=True)


def load(path: Path, device: torch.device) -> tuple[ByteModel, dict[str, Any]]:
    """A checkpoint's model, and what the result says of it."""
    try:
        loaded = checkpoint.load(path, device=device)
    except UserError as error:
        raise SystemExit(str(error)) from None
    return loaded.model, {
        "sha256": checkpoint.file_hash(loaded.path),
        "parameters": loaded.model.parameter_count,
        "max_patches": loaded.model.config.max_patches,
        "trained": report.without_places(loaded.info),
    }


def main() -> None:
    parser = options(str(__doc__), "music")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint or run folder")
    chosen = parser.parse_args()
    music = registry.load("music")
    found = set_of(music, sample=chosen.sample)
    pairs = real_pairs(found, chosen.side, chosen.at_most, DIRECTIONS[0])
    device = pick_device(chosen.device)
    dtype = pick_dtype(chosen.dtype, device)
    model, about = load(chosen.model, device)
    model = prepare(model, dtype)
    results = []
    for kinds in DIRECTIONS:
        result = convert(model, pairs, kinds, dtype, Judged(music.mend))
        results.append(result)
        print(
            f"{result['direction']}: {result['bits_per_byte']:.5f} bits per byte"
            f" (xz {result['xz_bits_per_byte']:.3f}), {result['tunes_with_every_note_right']} of"
            f" {result['tunes']} tunes with every note right, {result['valid_files']} valid",
            flush=True,
        )
    peer = convert_by_midi2abc(pairs)
    print(
        f"midi2abc: {peer['tunes_with_every_note_right']} of {peer['tunes']} tunes with every"
        f" note right, {peer['valid_files']} valid"
    )
    path = report.write(
        chosen.name,
        {
            "checkpoint": about,
            "set": {
                "sha256": found.manifest["sha256"],
                "kind": found.kind,
                "side": chosen.side,
                "tunes": len(pairs),
            },
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            "decoding": "greedy",
            "results": results,
            "midi2abc": peer,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
