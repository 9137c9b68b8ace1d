"""Terminfo: entries as text and compiled, both files of one set; either follows from the other.

Default: the entries of Debian's ncurses-term. `.tisrc` is what `infocmp -1 -x` prints of an entry,
`.tibin` what `tic -x` makes of that: the names say which is which, where `.ti` is either.
An entry stands on one side of the split under all its names, and with all that share most of its
capabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpusim.errors import UserError
from cpusim.files import read_bytes
from media import tic
from media.capabilities import alike, name_keys, names_of, sketch_keys
from media.modality import Debian, Item, LeftOut, Missing, Progress, PyPI

TEXT, COMPILED = "tisrc", "tibin"
_AT_ONCE = 256


@dataclass(frozen=True)
class Terminfo:
    name: str = "terminfo"
    summary: str = "terminfo entries as text, and compiled"
    extensions: tuple[str, ...] = (TEXT, COMPILED)
    shown_as: tuple[str, ...] = (TEXT, COMPILED)
    packages: tuple[Debian | PyPI, ...] = (Debian("ncurses-term"),)
    source: str = "the terminals of Debian's ncurses-term"
    licence: str = "MIT/X11, (c) Free Software Foundation, Thomas E. Dickey"
    sample: Path = Path(__file__).parent / "samples" / "terminfo"
    sample_source: str = "some of the terminals of ncurses 6.4"
    sample_licence: str = "MIT/X11, (c) Free Software Foundation, Thomas E. Dickey"
    recipe: int = 1
    pair: tuple[str, str] = (TEXT, COMPILED)

    def items(self, folder: Path, progress: Progress) -> Iterator[Item | LeftOut]:
        """Every compiled entry with its text, without aliases, repeats, and those that tic makes
        other bytes of.

        A text beside a compiled file of the same name is its other form, and neither tic nor
        infocmp is asked.
        """
        paths = [
            path
            for path in sorted(folder.rglob("*"))
            if not path.is_symlink() and path.is_file() and _is_compiled(path)
        ]
        seen: set[bytes] = set()
        given: set[bytes] = set()
        entries: list[tuple[bytes, bytes]] = []
        for done, path in enumerate(paths):
            progress(done, len(paths))
            compiled = path.read_bytes()
            if compiled in seen:
                yield LeftOut("the same entry again")
                continue
            seen.add(compiled)
            beside = path.with_suffix(f".{TEXT}")
            try:
                if path.suffix == f".{COMPILED}" and beside.is_file():
                    text = beside.read_bytes()
                    given.add(compiled)
                else:
                    text = tic.to_text(compiled)
            except tic.Refused:
                yield LeftOut("infocmp cannot read it")
                continue
            entries.append((text, compiled))
        texts = [text for text, compiled in entries if compiled not in given]
        made: dict[bytes, bytes | None] = {}
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            made |= dict(zip(some, tic.to_compiled_many(some), strict=True))
        whole = [
            (text, compiled)
            for text, compiled in entries
            if compiled in given or made[text] == compiled
        ]
        for _ in range(len(entries) - len(whole)):
            yield LeftOut("tic makes other bytes of its text")
        texts = [text for text, _ in whole]
        taken: set[str] = set()
        for (text, compiled), others in zip(whole, alike(texts), strict=True):
            own = names_of(text)[0]
            like = sorted({own, *(names_of(texts[other])[0] for other in others)})
            keys = (*name_keys(text), *(f"like {name}" for name in like))
            stem = own if own not in taken else f"{own}-{len(taken)}"
            taken.add(own)
            yield Item(f"{stem}.{TEXT}", text, keys)
            yield Item(f"{stem}.{COMPILED}", compiled, keys)
        progress(len(paths), len(paths))

    def read(self, path: Path) -> Sequence[Item]:
        """The pair of a compiled entry, or the pairs of all entries of a text, written as infocmp
        and tic write them."""
        data = read_bytes(path)
        try:
            if data.startswith(tic.MAGIC):
                pairs = [_pair(data)]
            else:
                pairs = [_pair(compiled) for compiled in tic.compile_all(data)]
        except tic.Refused as error:
            kind = "compiled terminfo entry" if data.startswith(tic.MAGIC) else "terminfo text"
            raise UserError(f"{path}: is no clean {kind} ({error}); leave it out") from None
        items = []
        for number, (text, compiled) in enumerate(pairs, 1):
            stem = path.stem if len(pairs) == 1 else f"{path.stem}-{number:03d}"
            keys = (*name_keys(text), *sketch_keys(text))
            items.append(Item(f"{stem}.{TEXT}", text, keys))
            items.append(Item(f"{stem}.{COMPILED}", compiled, keys))
        return items

    def pairs(
        self, training: Sequence[bytes], held_out: Sequence[bytes], seed: int
    ) -> tuple[Callable[[int, int], Sequence[tuple[bytes, bytes]]], str]:
        """Made entries, compiled; `media.entries` says of what."""
        from media.entries import Entries

        entries = Entries(training, held_out, seed=seed)
        return entries.pairs, entries.sha256

    def show(self, data: bytes, extension: str) -> Mapping[str, bytes]:
        """The other form of an entry."""
        try:
            if extension == TEXT:
                return {COMPILED: tic.to_compiled(data)}
            return {TEXT: tic.to_text(data)}
        except (Missing, tic.Refused):
            return {}

    def judge(self, data: bytes, extension: str) -> str | None:
        """tic compiles a text, infocmp reads a compiled entry, and neither complains."""
        try:
            if extension == TEXT:
                tic.compile_all(data)
            else:
                tic.to_text(data)
        except tic.Refused as error:
            return str(error)
        return None


TERMINFO = Terminfo()


def _is_compiled(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) in tic.MAGIC


def _pair(compiled: bytes) -> tuple[bytes, bytes]:
    """The text of a compiled entry, and what tic makes of that: but for the odd order of
    capabilities that text cannot tell, the same bytes. Raises `tic.Refused`."""
    text = tic.to_text(compiled)
    made = tic.to_compiled(text)
    if made != compiled and tic.to_text(made) != text:
        raise tic.Refused("tic and infocmp do not agree on it")
    return text, made
