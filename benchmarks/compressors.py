"""How many bits a byte of held-out files costs general compressors, beside a byte model.

python benchmarks/compressors.py audio                      the default data of a modality
python benchmarks/compressors.py sets/audio                 a set that `bgpt data` made
python benchmarks/compressors.py audio --model runs/audio   another checkpoint than the shipped one
python benchmarks/compressors.py --tiny                     see that it runs; writes nothing

Each compressor is given the test files of the set as one stream, cold and primed: primed is what
they cost behind the training files, (C(train + test) - C(train)) / bytes of test, which is the
fair comparison with a model that has learned from those. A model pays for its files one by one,
ends included. Files of different extensions are different tables.

All are set to their strongest, with windows that reach over everything: xz -9e, zstd -22 and brotli
11 (whose window ends at 16 MB), PPMd with model order 16, zpaq -m5 in one block. That takes hours
for a set of 200 MB; --train-files and --test-files take fewer, the same ones for everybody. What
the last result says of the compressors on the very same files is taken over, and the model alone
is measured.

Writes benchmarks/results/compressors_MODALITY.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import brotli
import pyppmd
import zpaq
import zstandard

sys.path.insert(0, str(Path(__file__).parent))
import report

from media import prepared, registry, shipped

_PPMD_MEMORY = 1 << 30
_ZSTD_WINDOW = 30


def xz(data: bytes) -> int:
    # The preset's dictionary of 64 MB would not reach over all that is learned.
    size = min(max(1 << 26, len(data)), 1536 << 20)
    filters = [
        {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size},
    ]
    return len(lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters))


def zstd(data: bytes) -> int:
    window = min(max(len(data).bit_length(), 20), _ZSTD_WINDOW)
    settings = zstandard.ZstdCompressionParameters.from_level(
        22, source_size=len(data), window_log=window, enable_ldm=window > 27
    )
    return len(zstandard.ZstdCompressor(compression_params=settings).compress(data))


def ppmd(data: bytes) -> int:
    return len(pyppmd.compress(data, max_order=16, mem_size=_PPMD_MEMORY, variant="H"))


COMPRESSORS: dict[str, Callable[[bytes], int]] = {
    "xz -9e": xz,
    "zstd -22": zstd,
    "brotli 11": lambda data: len(brotli.compress(data, quality=11, lgwin=24)),
    "PPMd o16": ppmd,
    # 5, in blocks of up to 2^11 MB; one thread, since each would start with nothing.
    "zpaq -m5": lambda data: len(zpaq.compress(data, method="511", threads=1)),
}
"""Name -> the size of what it makes of bytes."""


def some(paths: Iterable[Path], count: int | None) -> list[Path]:
    """The files, or so many of them, always the same ones, in the order of their names."""
    ranked = sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    return sorted(ranked[:count])


def measure(train: list[Path], test: list[Path]) -> dict[str, Any]:
    """Bits a byte of each compressor, cold and primed, and how long that took."""
    learned, held_out = (b"".join(path.read_bytes() for path in paths) for paths in (train, test))
    rows: dict[str, Any] = {}
    for name, size_of in COMPRESSORS.items():
        began = time.perf_counter()
        cold = size_of(held_out)
        primed = size_of(learned + held_out) - size_of(learned)
        rows[name] = {
            "cold": round(8 * cold / len(held_out), 4),
            "primed": round(8 * primed / len(held_out), 4),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(f"{name}: {rows[name]}", file=sys.stderr)
    return {
        "train": {"files": len(train), "bytes": len(learned)},
        "test": {"files": len(test), "bytes": len(held_out)},
        "compressors": rows,
    }


def score(model: Path, dtype: str, test: list[Path]) -> dict[str, Any]:
    """Bits a byte of a checkpoint on the same files."""
    from bytemodel import checkpoint
    from bytemodel.config import TARGETS
    from bytemodel.score import score_file
    from bytemodel.train import pick_device, pick_dtype

    device = pick_device("auto")
    loaded = checkpoint.load(model, device=device)
    kind = pick_dtype(dtype, device)
    bits, size = 0.0, 0
    for path in test:
        found = score_file(loaded.model, path.read_bytes(), path.suffix, dtype=kind)
        bits += found.bits
        size += len(found.surprisal)
    return {
        "bits_per_byte": round(bits / size, 4),
        "parameters": loaded.model.parameter_count,
        "file": loaded.path.name,
        "sha256": checkpoint.file_hash(loaded.path),
        "fingerprint": checkpoint.fingerprint(loaded.model)[:16],
        "dtype": str(kind).removeprefix("torch."),
        "steps": loaded.info.get("step"),
        "patches_a_step": loaded.info.get("data", {}).get("targets", TARGETS),
        "device_of_training": loaded.info.get("device"),
        "seconds_before": loaded.info.get("task", {}).get("seconds_before", 0),
        "seconds_of_training": loaded.info.get("seconds"),
        "minutes_of_the_run": loaded.info.get("training", {}).get("minutes"),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [f"{'':<20}{'cold':>8}{'primed':>8}"]
    for extension, found in figures["extensions"].items():
        for name, row in found["compressors"].items():
            lines.append(f"{extension:<8}{name:<12}{row['cold']:>8.3f}{row['primed']:>8.3f}")
        if "model" in found:
            lines.append(f"{extension:<8}{'model':<20}{found['model']['bits_per_byte']:>8.3f}")
    return "\n".join(lines)


def known(path: Path, about: dict[str, Any], extension: str) -> dict[str, Any]:
    """What an earlier result says of the compressors on the same files; nothing if they differ."""
    if not path.is_file():
        return {}
    before = json.loads(path.read_text())
    if {name: before[name] for name in about} != about:
        return {}
    found: dict[str, Any] = before["extensions"][extension]
    return {name: found[name] for name in ("train", "test", "compressors")}


def files_of(
    found: prepared.Prepared, options: argparse.Namespace, extension: str
) -> tuple[list[Path], list[Path]]:
    """The files of this extension to prime with, and those to measure."""
    sides = ("train", options.train_files), ("test", options.test_files)
    train, test = (
        some((path for path in found.files(side) if path.suffix == extension), count)
        for side, count in sides
    )
    return train, test


def measure_set(found: prepared.Prepared, options: argparse.Namespace) -> dict[str, Any]:
    """What the compressors make of a set."""
    about = {
        "set": {key: found.manifest[key] for key in ("modality", "kind", "source", "sha256")},
        "versions": {key: version(key) for key in ("brotli", "pyppmd", "zpaq", "zstandard")},
        "files": {"train": options.train_files, "test": options.test_files},
    }
    before = report.RESULTS / f"{stem(found.manifest['modality'])}.json"
    extensions = {
        extension: known(before, about, extension) or measure(*files_of(found, options, extension))
        for extension in sorted({path.suffix for path in found.files("test")})
    }
    return {**about, "extensions": extensions}


def score_set(
    figures: dict[str, Any], found: prepared.Prepared, options: argparse.Namespace
) -> None:
    """Add to them what the model makes of the same files, if there is one."""
    model = options.model or shipped.place_of(found.manifest["modality"])
    if model.exists():
        for extension, row in figures["extensions"].items():
            row["model"] = score(model, options.dtype, files_of(found, options, extension)[1])


def stem(modality: str) -> str:
    """Of the result's name."""
    return f"compressors_{modality}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", help="a modality, or the folder of a prepared set")
    parser.add_argument(
        "--model",
        type=Path,
        help="checkpoint or run to score on the same files; default: the shipped one",
    )
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--train-files", type=int, help="how many to prime with; default: all")
    parser.add_argument("--test-files", type=int, help="how many to measure; default: all")
    parser.add_argument("--tiny", action="store_true", help="see that it runs; writes nothing")
    options = parser.parse_args()
    if options.tiny:
        options.train_files, options.test_files = 8, 4
        with tempfile.TemporaryDirectory() as folder:
            for name in registry.names():
                made = Path(folder) / name
                found = prepared.from_sample(registry.load(name), made, prepared.Stages())
                figures = measure_set(found, options)
                score_set(figures, found, options)
                print(f"{name}\n{table(figures)}")
        return
    if options.set is None:
        parser.error("name a modality, a set that bgpt data made, or --tiny")
    if options.set in registry.names():
        found = prepared.default_set(registry.load(options.set), prepared.Stages(), print)
    else:
        found = prepared.read(Path(options.set))
    figures = measure_set(found, options)
    # Kept before the model, which takes long too: where that is stopped, it goes on from here.
    report.write(stem(found.manifest["modality"]), figures)
    score_set(figures, found, options)
    print(table(figures))
    print(report.write(stem(found.manifest["modality"]), figures))


if __name__ == "__main__":
    main()
