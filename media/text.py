"""Text: natural language with case and punctuation, as UTF-8.

Default: the English fortunes of Debian and the Free On-line Dictionary of Computing. Both are
collections of short entries; entries of one side of the split are put together in pages that
just fill a model's sequence, so that there is context to learn from.
"""

from __future__ import annotations

import codecs
import gzip
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media.modality import SIDES, Debian, Item, LeftOut, Progress, PyPI
from media.split import assign

_PAGE = 8_000
"""Bytes of a page: 500 patches of 16."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""What a text may begin with, and what it is then. UTF-32's must be looked for first."""
_SHINGLE = 32
_SKETCH = 4


@dataclass(frozen=True)
class Text:
    name: str = "text"
    summary: str = "UTF-8 text, pages of 8,000 bytes or one longer entry"
    extensions: tuple[str, ...] = ("txt",)
    shown_as: tuple[str, ...] = ()
    packages: tuple[Debian | PyPI, ...] = (
        Debian("fortunes-min"),
        Debian("fortunes"),
        Debian("dict-foldoc"),
    )
    source: str = "Debian's English fortunes and the Free On-line Dictionary of Computing"
    licence: str = "fortunes: BSD, quotations their authors'; FOLDOC: GFDL 1.1 or later"
    sample: Path = Path(__file__).parent / "samples" / "text"
    sample_source: str = "entries of the Jargon File 4.4.7"
    sample_licence: str = "public domain"
    recipe: int = 1

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        """Pages of the entries in fortune files (`games/fortunes/*`) and dictionaries."""
        paths = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and not path.is_symlink()
            and (path.name.endswith(".dict.dz") or path.parts[-3:-1] == ("games", "fortunes"))
            and path.suffix != ".dat"
        ]
        entries = [
            (path.name.removesuffix(".dict.dz"), entry)
            for path in paths
            for entry in _entries(path)
        ]
        sides, _ = assign([likeness(entry) for _, entry in entries], [None] * len(entries))
        for side in SIDES:
            chosen = [entry for entry, at in zip(entries, sides, strict=True) if at == side]
            done = 0
            for source in dict.fromkeys(source for source, _ in chosen):
                texts = [entry for origin, entry in chosen if origin == source]
                for number, page in enumerate(_pages(texts), 1):
                    progress(done, len(chosen))
                    yield Item(f"{source}_{side}-{number:04d}.txt", page, (), side)
                done += len(texts)

    def read(self, path: Path) -> Sequence[Item]:
        """A text in UTF-8, a long one in pages that end with a line. Each page is by itself: one
        book is enough to learn from, and to be judged by pages of it that were not learned."""
        text = decode(read_bytes(path), str(path))
        if not text.strip():
            raise UserError(f"{path}: holds no text; leave it out")
        pages = list(_pages(text.splitlines(keepends=True), between=b""))
        if len(pages) == 1:
            return [Item(f"{path.stem}.txt", pages[0], _keys(text))]
        return [
            Item(f"{path.stem}-{number:04d}.txt", page, _keys(page.decode()))
            for number, page in enumerate(pages, 1)
        ]

    def show(self, data: bytes, extension: str) -> Mapping[str, bytes]:  # noqa: ARG002
        return {}

    def judge(self, data: bytes, extension: str) -> str | None:  # noqa: ARG002
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            return f"no UTF-8 at byte {error.start:,}"
        if not text.strip():
            return "empty"
        return next(
            (
                f"holds the control character U+{ord(sign):04X}"
                for sign in text
                if unicodedata.category(sign) == "Cc" and sign not in "\n\t\r\f"
            ),
            None,
        )


TEXT = Text()


def decode(data: bytes, name: str) -> str:
    """Text of any Unicode encoding, line ends as one `\\n`.

    UTF-16 and UTF-32 are known by the mark they begin with, UTF-16 without one by its zeros.
    Raises `UserError` for anything else: which of the many older encodings a file has cannot be
    seen from its bytes.
    """
    encoding, start = "utf-8", 0
    for mark, kind in _MARKS.items():
        if data.startswith(mark):
            encoding, start = kind, len(mark)
            break
    even, odd = data[::2].count(0), data[1::2].count(0)
    zeros = "holds zero bytes, so it is no text; leave it out"
    if not start and not min(even, odd):
        # Latin letters in UTF-16 have a zero byte each, all of them before or all behind; in other
        # scripts spaces and line ends alone do, and so may what is no text.
        if max(even, odd) > len(data) // 4:
            encoding = "utf-16-be" if even else "utf-16-le"
        zeros = (
            "holds zero bytes; if it is UTF-16 without a mark, convert it with"
            f" iconv -f UTF-16{'BE' if even else 'LE'} -t UTF-8, else leave it out"
        )
    if encoding == "utf-8" and 0 in data:
        raise UserError(f"{name}: {zeros}")
    try:
        text = data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        what, way = "is no", "convert it, for example with iconv -f LATIN1 -t UTF-8"
        if encoding != "utf-8":
            what = "is cut short, as" if start + error.end == len(data) else "is damaged, as"
            way = "restore it or leave it out"
        raise UserError(
            f"{name}: {what} {encoding.upper()} text at byte {start + error.start:,}; {way}"
        ) from None
    if "\0" in text:
        raise UserError(f"{name}: {zeros}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _entries(path: Path) -> Iterator[str]:
    """The entries of a fortune file, or of a dictionary in dictd's format."""
    data = read_bytes(path)
    if path.suffix == ".dz":
        try:
            text = decode(gzip.decompress(data), str(path))
        except (OSError, EOFError, zlib.error):
            raise UserError(f"{path}: is damaged; fetch it again") from None
        # A headword stands at the margin behind an empty line; what it means is indented.
        parts = re.split(r"\n\n+(?=\S)", text)
        parts = [part.replace("%%%", "\n") for part in parts if not part.startswith("00-database")]
    else:
        # Old terminals underlined by a line, a backspace and the letter.
        text = re.sub(".\b", "", decode(data, str(path)))
        parts = re.split(r"^%\n", text, flags=re.MULTILINE)
    for part in parts:
        if part.strip():
            yield part.strip("\n") + "\n"


def _pages(parts: Sequence[str], *, between: bytes = b"\n") -> Iterator[bytes]:
    """Parts put together up to the size of a page; one that is longer is a page of its own."""
    page = b""
    for part in parts:
        added = part.encode()
        if page and len(page) + len(between) + len(added) > _PAGE:
            yield page
            page = b""
        page += (between if page else b"") + added
    if page:
        yield page


def _keys(text: str) -> tuple[str, ...]:
    """Those of `likeness`; where letters are few, as in tables of numbers, none."""
    letters = sum(sign.isalpha() for sign in text)
    return likeness(text) if 4 * letters > len("".join(text.split())) else ()


def likeness(text: str) -> tuple[str, ...]:
    """Keys that a text most probably shares with one that differs from it in little.

    Its letters alone count. The least hashes of its runs of 32 letters are a sketch of it: texts
    that share most runs share one of the least (Broder 1997).
    """
    letters = "".join(sign for sign in text.casefold() if sign.isalpha())
    if len(letters) <= _SHINGLE:
        return (f"letters {letters}",)
    hashes = {
        zlib.crc32(letters[start : start + _SHINGLE].encode())
        for start in range(len(letters) - _SHINGLE + 1)
    }
    return tuple(f"run {value:08x}" for value in sorted(hashes)[:_SKETCH])
