"""Bytes <-> patches.

A file is: one patch with its extension (padded with 256), its bytes (the last patch
padded), one patch of all 256. Token 256 pads, begins and ends. Arrays are int64,
shape (patches, patch size), values 0..256.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cpusim.errors import UserError

PAD = 256
"""The token that pads, begins and ends; also the number of real byte values."""
VOCABULARY = 257

Patches = npt.NDArray[np.int64]


def pad_to_patches(data: bytes | npt.NDArray[Any], patch_size: int) -> Patches:
    """Bytes as whole patches, the last one padded with 256; no bytes give no patch."""
    values = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1)
    count = -(-len(values) // patch_size)
    patches = np.full(count * patch_size, PAD, np.int64)
    patches[: len(values)] = values
    return patches.reshape(count, patch_size)


def extension_patch(extension: str, patch_size: int) -> Patches:
    """The patch that names the kind of file, such as `bin` (without the dot), padded."""
    # A file name holds any bytes at all.
    name = extension.removeprefix(".").encode(errors="surrogateescape")
    if len(name) > patch_size:
        raise UserError(
            f"the file extension {extension!r} has {len(name)} bytes; a patch holds {patch_size}"
        )
    patch = np.full((1, patch_size), PAD, np.int64)
    patch[0, : len(name)] = np.frombuffer(name, np.uint8)
    return patch


def fitting_extension(extension: str, patch_size: int) -> str:
    """The extension, or none where a patch cannot hold it."""
    name = extension.removeprefix(".").encode(errors="surrogateescape")
    return extension if len(name) <= patch_size else ""


def end_patch(patch_size: int) -> Patches:
    """The patch that ends a file: all 256."""
    return np.full((1, patch_size), PAD, np.int64)


def encode_file(data: bytes, extension: str, patch_size: int) -> Patches:
    """A whole file: extension patch, its bytes, end patch."""
    return np.concatenate(
        [
            extension_patch(extension, patch_size),
            pad_to_patches(data, patch_size),
            end_patch(patch_size),
        ]
    )


def encode_conversion(
    source: bytes, source_extension: str, target: bytes, target_extension: str, patch_size: int
) -> Patches:
    """A conversion as one sequence: the source without its end patch, then the whole target."""
    return np.concatenate(
        [
            encode_file(source, source_extension, patch_size)[:-1],
            encode_file(target, target_extension, patch_size),
        ]
    )


def reading_windows(first: int, stop: int, longest: int) -> Iterator[tuple[int, int, int]]:
    """How to read the patches `first` to `stop` of a sequence, each once, `longest` at a time.

    Yields windows as start, first patch to predict, stop. They overlap by half, so that what is
    predicted has something before it. One that does not start at 0 is read behind the extension
    patch, in place of its own first.
    """
    done, start = first, max(0, first - longest // 2)
    while done < stop:
        end = min(start + longest, stop)
        yield start, done, end
        done, start = end, end - longest // 2


def decode_bytes(patches: Patches) -> bytes:
    """The bytes of data patches, up to the first 256."""
    flat = patches.reshape(-1)
    ends = np.flatnonzero(flat == PAD)
    if len(ends):
        flat = flat[: ends[0]]
    return flat.astype(np.uint8).tobytes()
