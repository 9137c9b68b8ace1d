"""Pictures: 32 x 32 pixels, 24-bit BMP, 3,126 bytes.

Default: Fashion-MNIST, 28 x 28 grey pixels, with a black margin of 2 and three equal colours. Its
own test pictures are the test side; training pictures that look like one of them are left out.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageOps

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media.modality import Debian, Item, LeftOut, Progress, PyPI, Side
from media.split import beside, side_of

SIZE = 32
_LABELS = (
    *("tshirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "boot"),
)
"""The ten kinds of Fashion-MNIST, in the order of their numbers."""
_PARTS = (("t10k", "test"), ("train", "train"))
_SPREAD = ("PNG", "PPM", "JPEG2000")
"""Formats whose 16 bits reach from black to white, or are made to by Pillow."""
_SAMPLE_FORMAT, _UNSIGNED = 339, 1
"""TIFF's tag, and what it says of whole numbers from 0 on."""
_DEPTHS = (8, 10, 12, 14, *range(16, 33))
"""Bits of a value: those that cameras and microscopes have, and what sums of many pictures need."""
_CELL, _SHADES = 4, 8
"""Pictures look alike if they have equal means, in so many shades, in cells of 4 x 4 pixels. Of
Fashion-MNIST's 60,000 training pictures that is so for 31 and a test picture."""

_DIVISIONS = 16
"""A user's pictures look alike if they have equal means in one of so many divisions into shades.
Of 1,000 pictures of Fashion-MNIST so do all and what JPEG of quality 90 makes of them, where one
division misses 391; of 20,000 different ones, 68 look like another."""
_FAINT = 4
"""Pictures whose means deviate by less, of 256, are alike only if they are equal."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Image:
    name: str = "image"
    summary: str = "24-bit BMP pictures, 32 x 32 pixels, 3,126 bytes"
    extensions: tuple[str, ...] = ("bmp",)
    shown_as: tuple[str, ...] = ("png",)
    packages: tuple[Debian | PyPI, ...] = (Debian("dataset-fashion-mnist"),)
    source: str = "Fashion-MNIST"
    licence: str = "MIT, (c) 2017 Zalando SE"
    sample: Path = Path(__file__).parent / "samples" / "image"
    sample_source: str = "300 pictures of Fashion-MNIST"
    sample_licence: str = "MIT, (c) 2017 Zalando SE"
    recipe: int = 1

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        """Pictures and labels in the IDX files of MNIST."""
        read = {part: _idx_pair(folder, part) for part, _ in _PARTS}
        total, done = sum(len(labels) for _, labels in read.values()), 0
        for part, origin in _PARTS:
            for number, (picture, label) in enumerate(zip(*read[part], strict=True)):
                if done % 100 == 0:
                    progress(done, total)
                done += 1
                grey = np.pad(picture, (SIZE - len(picture)) // 2)
                key = _likeness(grey)
                side: Side = "test"
                if origin == "train":
                    side = "validation" if side_of(key) == "validation" else "train"
                name = f"{_LABELS[label]}_{origin}-{number:05d}.bmp"
                yield Item(name, _bmp(np.dstack([grey] * 3)), (key,), side)
        progress(total, total)

    def read(self, path: Path) -> Sequence[Item]:
        """Any picture that Pillow reads, its middle square made 32 x 32."""
        try:
            with warnings.catch_warnings():
                # What a decoder says about a file's tags is of no use to whoever gives many.
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Pillow.DecompressionBombWarning)
                with Pillow.open(io.BytesIO(read_bytes(path))) as picture:
                    pixels = _to_pixels(picture)
        except UserError:
            raise
        except Exception as error:
            # Pillow's decoders raise anything at all for damaged files.
            reason = "is too large" if "Bomb" in type(error).__name__ else "cannot be read"
            raise UserError(
                f"{path}: {reason} as a picture; leave it out, or save it as PNG or JPEG"
            ) from None
        grey = pixels.astype(np.uint16).mean(2).astype(np.uint8)
        return [Item(f"{path.stem}.bmp", _bmp(pixels), (*_likenesses(grey), beside(path)))]

    def show(self, data: bytes, extension: str) -> Mapping[str, bytes]:  # noqa: ARG002
        with Pillow.open(io.BytesIO(data)) as picture:
            out = io.BytesIO()
            picture.save(out, "PNG")
        return {"png": out.getvalue()}

    def judge(self, data: bytes, extension: str) -> str | None:  # noqa: ARG002
        try:
            with Pillow.open(io.BytesIO(data), formats=["BMP"]) as picture:
                width, height = picture.size
                expected = len(_bmp(np.zeros((SIZE, SIZE, 3), np.uint8)))
                if (width, height) != (SIZE, SIZE) or picture.mode != "RGB":
                    return f"{width} x {height} pixels, {picture.mode}"
                picture.load()
        except Exception:
            # Pillow's decoders raise anything at all for damaged files.
            return "no BMP that opens"
        if len(data) != expected:
            return f"{len(data):,} bytes where such a BMP has {expected:,}"
        return None


IMAGE = Image()


def _to_pixels(picture: Any) -> Pixels:
    """(32, 32, 3) of any picture: turned as the camera was held, on white where transparent."""
    picture.seek(0)
    form, tags = picture.format, getattr(picture, "tag_v2", {})
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        # 16 bits of grey, or more, which Pillow would cut off instead of scaling down.
        values = np.asarray(picture, np.float64)
        if picture.mode == "I" and tags.get(_SAMPLE_FORMAT) == (_UNSIGNED,):
            values = values % 2**32  # Pillow takes all of 32 bits for signed.
        picture = Pillow.fromarray(_scaled(values, picture.mode, form))
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")
        picture = Pillow.alpha_composite(white, picture)
    picture = ImageOps.fit(picture.convert("RGB"), (SIZE, SIZE), Pillow.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8)


def _scaled(values: npt.NDArray[np.float64], mode: str, form: str | None) -> Pixels:
    """Grey of a picture whose values may be of any range; what is below 0, or no number, is black.

    White is what the format says. Where it says nothing, white is the largest value of as many
    bits as the picture's own largest value needs; of fractions, that value itself, at least 1.

    Raises `ValueError` if no value is a finite one from 0 on.
    """
    most = float(values[np.isfinite(values) & (values >= 0)].max())
    if mode == "F":
        white = max(most, 1.0)
    elif form in _SPREAD:
        white = 65535.0
    else:
        white = 2.0 ** next(bits for bits in _DEPTHS if most < 1 << bits) - 1
    grey = np.nan_to_num(values, nan=0, posinf=white, neginf=0) / white * 255
    return np.asarray(grey.clip(0, 255).round(), np.uint8)


def _bmp(pixels: Pixels) -> bytes:
    """(height, width, 3) as a BMP file."""
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "BMP")
    return out.getvalue()


def _likeness(grey: Pixels) -> str:
    """A key that pictures share that look alike from afar; `grey`: (32, 32)."""
    shades: Pixels = (_cells(grey) * _SHADES // 256).astype(np.uint8)
    return f"looks {shades.tobytes().hex()}"


def _likenesses(grey: Pixels) -> list[str]:
    """Keys of which a picture most probably shares one with itself saved in another form.

    A mean near the edge of a shade may fall on either side, so there are many divisions into
    shades; how wide they are follows from the contrast, or all faint pictures would be alike.
    """
    cells = _cells(grey)
    contrast = float(cells.std())
    if contrast < _FAINT:
        return [_key(cells)]
    # Two, since the contrast may be near an edge too.
    nearest = math.floor(math.log2(contrast))
    widths = {min(2.0**power, 256 / _SHADES) for power in (nearest, max(nearest - 1, 2))}
    return [
        _key(np.floor(cells / width + part / _DIVISIONS), width, part)
        for width in sorted(widths)
        for part in range(_DIVISIONS)
    ]


def _cells(grey: Pixels) -> npt.NDArray[np.float64]:
    """(8, 8) means."""
    parts = grey.reshape(SIZE // _CELL, _CELL, SIZE // _CELL, _CELL)
    return np.asarray(parts.mean((1, 3)), np.float64)


def _key(shades: npt.NDArray[np.float64], *division: float) -> str:
    digest = hashlib.sha256(repr(division).encode() + shades.astype("<f8").tobytes())
    return f"looks {digest.hexdigest()[:16]}"


def _idx_pair(folder: Path, part: str) -> tuple[Pixels, Pixels]:
    """Pictures (N, 28, 28) and labels (N) of one part."""
    pictures, labels = (
        _idx(folder, f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
    )
    if pictures.ndim != 3 or labels.ndim != 1 or len(pictures) != len(labels):
        raise UserError(f"{folder}: the {part} pictures and labels do not belong together")
    return pictures, labels


def _idx(folder: Path, name: str) -> Pixels:
    """An array of bytes in the IDX format of MNIST (LeCun et al. 1998)."""
    path = next(iter(sorted(folder.rglob(name))), None)
    if path is None:
        raise UserError(f"{folder}: holds no {name}, so it is not Fashion-MNIST")
    try:
        data = gzip.decompress(read_bytes(path))
        dimensions = data[3]
        shape = np.frombuffer(data, ">u4", dimensions, 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, IndexError):
        raise UserError(f"{path}: is damaged; fetch it again") from None
