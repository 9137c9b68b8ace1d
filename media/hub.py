"""Data sets of the Hugging Face Hub, by their names, and files in their format that lie here.

    hf:NAME             a set of the Hub, or a folder or a .parquet or .arrow file here
    hf:NAME:CONFIG      one configuration of it
    hf:NAME#COLUMN      what to learn, where a row has several texts

Read by the library `datasets`, row by row, so that a set may be larger than memory or disk. Since
its version 4 it runs no code of a data set; older versions are refused.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpusim.errors import UserError
from media.breaches import Broken, read_of
from media.modality import Item, LeftOut, Missing, Modality, Progress, Side
from media.split import given_side

PREFIX = "hf:"
MOST_ROWS = 100_000
"""Of a split. Each row is a file or more, and all are read before training begins."""
_MOST_NAMED = 10
"""Of the rows that cannot be used, so many are named; the rest are counted."""
_SIDES: dict[str, Side] = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}
_FEATURES = {"image": "Image", "audio": "Audio"}
"""What holds the files of these modalities; the others are learned from text, or raw bytes."""
_TEXT = ("string", "large_string", "binary", "large_binary")
"""What a column of texts is said to hold, where its first row holds nothing."""
_TEXTS = ("text", "abc", "abc notation", "content")
"""Columns that are what to learn if a row has several texts."""


@dataclass(frozen=True)
class Opened:
    """A data set, ready to be read. `splits`: name to its rows; `counts`: how many those are,
    where that is known."""

    source: str
    licence: str
    revision: str
    splits: dict[str, Any]
    counts: dict[str, int]
    column: str | None
    home: str
    """Where files that rows name may lie: a folder here, or a place on the Hub."""


def is_named(data: Path) -> bool:
    """Whether --data names a data set in the Hub's format."""
    return str(data).startswith(PREFIX)


def local(data: Path) -> Path | None:
    """The file or folder here that is named, if it is one."""
    name, _, _ = _parts(str(data))
    return Path(name) if Path(name).exists() else None


def open_set(text: str) -> Opened:
    """The data set that `hf:...` names. Raises `Missing` without the library, and `UserError`."""
    name, config, column = _parts(text)
    here = Path(name) if name and Path(name).exists() else None
    if here is None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(
            f"{text}: names no data set; write hf:OWNER/NAME, or hf: and a folder or a file here"
        )
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise Missing(
            f"{text}: is read by the library datasets; install it with"
            " pip install 'neural-cpu-lab[datasets]'"
        ) from None
    if int(datasets.__version__.split(".")[0]) < 4:
        raise Missing(
            f"{text}: datasets {datasets.__version__} may run code of a data set; install a newer"
            " one with pip install 'neural-cpu-lab[datasets]'"
        )
    datasets.disable_progress_bars()
    licence = revision = ""
    try:
        if here is None:
            about = huggingface_hub.HfApi().dataset_info(name)
            revision = str(about.sha or "")
            licence = _words(about.card_data and about.card_data.get("license"))
            found = datasets.load_dataset(name, config, streaming=True, revision=revision or None)
        elif here.is_file():
            kind = here.suffix.removeprefix(".")
            if kind not in ("parquet", "arrow"):
                raise UserError(f"{here}: is no .parquet or .arrow file; name one, or a folder")
            found = datasets.load_dataset(kind, data_files=str(here), streaming=True)
        elif (here / "dataset_dict.json").is_file() or (here / "state.json").is_file():
            found = datasets.load_from_disk(str(here))
            found = found if hasattr(found, "items") else {"train": found}
            found = {split: rows.to_iterable_dataset() for split, rows in found.items()}
        else:
            found = datasets.load_dataset(str(here), config, streaming=True)
        if here is not None and (here / "README.md").is_file():
            with contextlib.suppress(Exception):
                card = huggingface_hub.DatasetCard.load(here / "README.md")
                licence = _words(card.data.get("license"))
        splits = {str(split): rows.decode(False) for split, rows in found.items()}
    except UserError:
        raise
    except Exception as error:
        # The library and the servers behind it raise anything at all.
        where = "on the Hugging Face Hub" if here is None else "here"
        raise UserError(
            f"{text}: cannot be read {where} ({_short(error)}); check the name, the configuration"
            " (hf:NAME:CONFIG) and the network"
        ) from None
    counts = {}
    for split, rows in splits.items():
        info = rows.info
        licence = licence or _words(info.license)
        if info.splits and split in info.splits and info.splits[split].num_examples:
            counts[split] = int(info.splits[split].num_examples)
    chosen = f", {config}" if config else ""
    return Opened(
        source=f"the data set {name}{chosen}" + (" of the Hugging Face Hub" if not here else ""),
        licence=licence or "not told by the data set; look it up",
        revision=revision,
        splits=splits,
        counts=counts,
        column=column,
        home=str(here.resolve()) if here else f"hf://datasets/{name}",
    )


def items(
    opened: Opened, modality: Modality, progress: Progress, note: Callable[[str], None]
) -> Iterator[Item | LeftOut]:
    """The files that the rows become, on the sides of the set's own splits.

    Where there is but one split, chance decides as for any files; where only the validation side
    is missing, it decides which training rows go there. Raises `UserError` if no column can be
    learned, or reading breaks off.
    """
    sides: dict[str, Side | None] = {split: _SIDES.get(split.lower()) for split in opened.splits}
    if not any(sides.values()):
        sides = dict.fromkeys(sides, "train")
    for split, side in sides.items():
        if side is None:
            note(f"left out: split {split}, which is none of train, validation and test")
    used = {split: side for split, side in sides.items() if side is not None}
    total = sum(min(opened.counts.get(split, 0), MOST_ROWS) for split in used)
    done = named = 0
    with tempfile.TemporaryDirectory() as temporary:
        for split, side in used.items():
            reading = _Rows(opened, split, modality)
            for number, row in enumerate(reading):
                progress(done, max(total, done))
                if number == MOST_ROWS:
                    more = opened.counts.get(split)
                    of = f" of {more:,}" if more else ""
                    note(f"{split}: the first {MOST_ROWS:,}{of} rows are used")
                    yield LeftOut(f"rows of {split} beyond the first {MOST_ROWS:,}")
                    break
                done += 1
                content = reading.content(row)
                if content is None:
                    yield LeftOut("empty")
                    continue
                data, suffix = content
                path = Path(temporary) / f"{reading.stem(row, number)}{suffix}"
                path.write_bytes(data)
                place = f"{split}, row {number:,}"
                try:
                    found = read_of(modality, path)
                except Missing as error:
                    # The next row would need the same.
                    raise Missing(str(error).replace(str(path), place)) from None
                except Broken:
                    raise
                except UserError as error:
                    found = [LeftOut("unusable", str(error))]
                finally:
                    path.unlink()
                kept = given_side(found, side, set(used.values()))
                for item in found:
                    if not isinstance(item, LeftOut):
                        yield item._replace(side=kept)
                        continue
                    if named < _MOST_NAMED:
                        note(f"left out: {item.sentence.replace(str(path), place)}")
                    named += 1
                    yield item
    progress(done, done)


class _Rows:
    """The rows of a split, and what they hold."""

    def __init__(self, opened: Opened, split: str, modality: Modality) -> None:
        self._opened = opened
        self._split = split
        self._modality = modality
        self._rows = opened.splits[split]
        self._column = ""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            for row in self._rows:
                if not self._column:
                    self._column = self._choose(row)
                yield row
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self._opened.source}, {self._split}: breaks off ({_short(error)}); check the"
                " network, or whether its files are whole, and try again"
            ) from None

    def _choose(self, row: Mapping[str, Any]) -> str:
        """The column that holds the files."""
        features = self._rows.features or {}
        wanted = _FEATURES.get(self._modality.name)

        def fits(name: str) -> bool:
            if wanted is None:
                told = getattr(features.get(name), "dtype", None)
                return name != "label" and (
                    isinstance(row[name], str | bytes) or (row[name] is None and told in _TEXT)
                )
            kind = type(features[name]).__name__ if name in features else ""
            return kind == wanted or (
                isinstance(row[name], bytes)
                or (isinstance(row[name], Mapping) and "bytes" in row[name] and not kind)
            )

        asked = self._opened.column
        able = [name for name in row if fits(name)]
        if asked is not None:
            able = [name for name in able if name == asked]
        elif len(able) > 1:
            able = [name for name in able if name.lower() in _TEXTS][:1] or able
        if len(able) != 1:
            which = f"the columns {', '.join(row)}"
            raise UserError(
                f"{self._opened.source}: has {which}, "
                + (
                    f"of which {' and '.join(able)} may hold"
                    if able
                    else f"and {asked} does not hold"
                    if asked
                    else "none of which holds"
                )
                + f" what {self._modality.name} is learned from; name one with hf:NAME#COLUMN"
            )
        return able[0]

    def content(self, row: Mapping[str, Any]) -> tuple[bytes, str] | None:
        """The bytes of a row's file and its extension; None if there is nothing."""
        value = row.get(self._column)
        if isinstance(value, str) and value:
            return value.encode(errors="replace"), f".{self._modality.extensions[0]}"
        suffix = ""
        if isinstance(value, Mapping):
            path = str(value.get("path") or "")
            suffix = Path(path).suffix if re.fullmatch(r"\.\w{1,8}", Path(path).suffix) else ""
            value = value.get("bytes") or self._beside(path)
        return (bytes(value), suffix) if isinstance(value, bytes) and value else None

    def _beside(self, path: str) -> bytes | None:
        """A file that a row names, if it is one of the set's own: a row may name any file here."""
        home = self._opened.home
        if home.startswith("hf://"):
            if path.rpartition("::")[2].startswith((f"{home}/", f"{home}@")):
                import fsspec

                with fsspec.open(path) as file:
                    return bytes(file.read())
        elif path and Path(path).resolve().is_relative_to(home):
            return Path(path).read_bytes()
        return None

    def stem(self, row: Mapping[str, Any], number: int) -> str:
        """A file's name without its extension, its label in front."""
        features = self._rows.features or {}
        own = f"{self._split}-{number:06d}"
        for name in row:
            kind = features.get(name)
            names = getattr(kind, "names", None) if type(kind).__name__ == "ClassLabel" else None
            value = row[name]
            if names and isinstance(value, int):
                if not 0 <= value < len(names):
                    return own  # -1 is the Hub's way to say that it is not told
                value = names[value]
            elif name != "label" or not isinstance(value, str | int):
                continue
            label = re.sub(r"[\W_]+", "-", str(value))[:60].strip("-")
            return f"{label}_{own}" if label else own
        return own


def _parts(text: str) -> tuple[str, str | None, str | None]:
    """Name, configuration and column."""
    name, _, column = text.removeprefix(PREFIX).partition("#")
    if Path(name).exists():
        return name, None, column or None
    name, _, config = name.partition(":")
    return name, config or None, column or None


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _short(error: BaseException) -> str:
    """The first line of what a library says, of a readable length."""
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return first.rstrip(". ")[:160]
