"""What a gallery shows: what models wrote beside real files, and a CPU run beside the oracle.

A room is one modality, or the CPU; a shelf in it is one kind of files. Everything follows from
the checkpoints, the sets, the seed and the settings. How it looks is no matter of this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from bytemodel import checkpoint, cpu
from bytemodel.conversion import Extensions, convert_prompts, trained_conversions
from bytemodel.cpu import ByteModelStepper
from bytemodel.decoding import prepare
from bytemodel.generate import Sampling, generate
from bytemodel.model import ByteModel
from bytemodel.patches import encode_conversion
from bytemodel.score import predict_patches, score_file
from cpusim import lockstep, programs
from cpusim.errors import UserError
from cpusim.files import read_bytes
from cpusim.isa import MEMORY_SIZE, STATE_SIZE
from media import prepared, registry, shipped
from media.breaches import Verdict, blamed, verdict
from media.modality import Compares, MakesPairs, Missing, Modality

CPU = "cpu"
"""The name of the room that is no modality."""
_LENGTHS = 6, 40
"""Instructions of the CPU programs: long enough to do something, short enough to be read."""

Tell = Callable[[], None]
"""Called after each sample."""


@dataclass(frozen=True)
class Writer:
    """A checkpoint that writes files of a modality, or converts some to others.

    `shown`: its name for people. `model`: made quick at decoding in `dtype`. `conversions`: those
    that it learned, if any: then it writes nothing else.
    """

    shown: str
    path: Path
    fingerprint: str
    parameters: int
    info: Mapping[str, Any]
    model: ByteModel
    dtype: torch.dtype
    conversions: Sequence[Extensions] = ()


@dataclass(frozen=True)
class Exhibit:
    """One file.

    `name`: a real file's, or the number of a written one. `bits_per_byte`: by the room's writer;
    None without one, and for no bytes. `forms`: other forms to open, by extension. `wrong`: why an
    ordinary program would not open it; None if it would, or if that cannot be told. `mended`: what
    it would open instead, if there is that; `forms` are then of it. Of a written file: `seed`;
    `ended`: whether the writer ended it, or the limit did. Of a converted one: `told`, how it
    compares with what it should be.
    """

    name: str
    extension: str
    data: bytes
    bits_per_byte: float | None
    forms: Mapping[str, bytes]
    wrong: str | None = None
    mended: bytes | None = None
    seed: int | None = None
    ended: bool = True
    told: str = ""


@dataclass(frozen=True)
class Shelf:
    """The files of one extension. `untold`: why it cannot be told which of them are valid.
    `source`: of conversions, the extension of the real files that were read; then `written` is
    what they were converted to, most probably, and `real` what that should be, with the bits per
    byte that it costs who knows the source."""

    extension: str
    written: Sequence[Exhibit]
    real: Sequence[Exhibit]
    untold: str | None = None
    source: str = ""

    @property
    def title(self) -> str:
        return f".{self.source} to .{self.extension}" if self.source else f".{self.extension}"

    @property
    def valid(self) -> int | None:
        """How many written files an ordinary program would open."""
        return None if self.untold else sum(one.wrong is None for one in self.written)


@dataclass(frozen=True)
class Room:
    """One modality.

    `converter`: what made the shelves of conversions. `note`: why nothing is written, or nothing
    real is shown, in a line. `source`, `licence`: of the real files. `sample`: whether they are of
    the small sample that ships. `side`: of the split, on which they stand. `held_out`: whether the
    writer learned from that set's other side. `attribution`: of a sample, the text that says in
    full whose it is.
    """

    name: str
    summary: str
    writer: Writer | None
    shelves: Sequence[Shelf]
    notes: Sequence[str]
    source: str = ""
    licence: str = ""
    sample: bool = False
    side: str = ""
    held_out: bool = False
    attribution: str = ""
    converter: Writer | None = None


@dataclass(frozen=True)
class CpuRoom:
    """The CPU: random programs, the oracle's states and what the model says of each.

    `bits_per_byte`: of the states, over all programs, given memory and the first state.
    """

    writer: Writer
    stepper: ByteModelStepper
    comparison: lockstep.Comparison
    bits_per_byte: float
    seed: int


@dataclass
class Settings:
    """How samples are made: `count` of each kind and side, the first seed, the temperature."""

    count: int = 4
    seed: int = 0
    temperature: float = 1.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32


def writer_of(name: str) -> Path:
    """Where a checkpoint for a room lies if it comes with the package."""
    return cpu.SHIPPED if name == CPU else shipped.place_of(name)


def converter_of(modality: Modality) -> Path | None:
    """Where a checkpoint that converts a modality's files lies if it comes with the package."""
    if not isinstance(modality, MakesPairs):
        return None
    path = shipped.place_of_conversion(*modality.pair)
    return path if path.is_file() else None


def room_of(path: Path, info: Mapping[str, Any]) -> str:
    """The room that a checkpoint belongs to, by what it was trained on.

    Raises `UserError` if that does not tell.
    """
    data = info.get("data")
    data = data if isinstance(data, dict) else {}
    if "CPU traces" in str(data.get("kind")):
        return CPU
    if data.get("modality") in registry.names():
        return str(data["modality"])
    extensions = data.get("extensions")
    learned = {str(one) for one in extensions} if isinstance(extensions, list) else set()
    fitting = [name for name in registry.names() if learned & set(registry.load(name).extensions)]
    if len(fitting) != 1:
        raise UserError(
            f"{path}: does not say what it learned to write; say it for it, for example"
            f" --model {(fitting or registry.names() or ['text'])[0]}={path}"
        )
    return fitting[0]


def load_writer(path: Path, shown: str, settings: Settings) -> Writer:
    """Raises `checkpoint.CheckpointError` if the file is no checkpoint of a byte model."""
    loaded = checkpoint.load(path, device=settings.device)
    return Writer(
        shown=shown,
        path=path,
        fingerprint=checkpoint.fingerprint(loaded.model),
        parameters=loaded.model.parameter_count,
        info=loaded.info,
        model=prepare(loaded.model, settings.dtype),
        dtype=settings.dtype,
        conversions=trained_conversions(loaded) or (),
    )


def samples(
    modality: Modality, writer: Writer | None, converter: Writer | None, settings: Settings
) -> int:
    """How many files `build` is going to show at most."""
    shelves = len(modality.extensions) * (1 if writer is None else 2)
    return settings.count * (shelves + (len(converter.conversions) if converter else 0))


def build(
    modality: Modality,
    writer: Writer | None,
    converter: Writer | None,
    settings: Settings,
    stages: prepared.Stages,
    tell: Tell,
) -> Room:
    """Write, choose, convert, score and judge everything in a room."""
    notes = []
    if writer is None:
        notes.append(
            f"No checkpoint for {modality.name} is here, so only real files are shown, without"
            f" bits per byte. Train one with bgpt train media --modality {modality.name}."
        )
    judges = {extension: _Judge(modality, extension) for extension in modality.extensions}
    real: dict[str, list[Exhibit]] = {extension: [] for extension in modality.extensions}
    source: dict[str, Any] = {}
    try:
        found = _real_set(modality, writer or converter, stages)
        side = "test" if found.files("test") else "validation"
        source = {
            "source": found.manifest["source"],
            "licence": found.manifest["licence"],
            "sample": found.kind == "sample",
            "side": side,
            "held_out": _is_learned(writer or converter, found),
            "attribution": _attribution(modality) if found.kind == "sample" else "",
        }
        for extension, judge in judges.items():
            for path in _chosen(found, side, extension, settings):
                real[extension].append(_real(writer, judge, path))
                tell()
    except UserError as error:
        notes.append(f"No real files are shown: {error}.")
    shelves = []
    for extension, judge in judges.items():
        written = []
        if writer is not None:
            for number in range(settings.count):
                written.append(_written(writer, judge, extension, number, settings))
                tell()
        shelves.append(Shelf(extension, written, real[extension], judge.missing))
    for way in converter.conversions if converter else ():
        if converter is not None and set(way) <= set(modality.extensions):
            shelves.append(_converted(modality, converter, judges[way[1]], way, real, tell))
    room = Room(modality.name, modality.summary, writer, shelves, notes, **source)
    return replace(room, converter=converter)


def build_cpu(writer: Writer, settings: Settings, tell: Tell) -> CpuRoom:
    """Let the CPU and the model run the same random programs."""
    least, most = _LENGTHS
    drawn = programs.generate(
        settings.count,
        distribution="published",
        seed=settings.seed % 2**32,  # training draws from seeds above
        min_length=least,
        max_length=most,
    )
    cases = lockstep.record(
        lockstep.OracleStepper(),
        [
            lockstep.Case(f"program {number}", memory, state[None])
            for number, (memory, state) in enumerate(
                zip(drawn.memories, drawn.states, strict=True), 1
            )
        ],
    )
    stepper = ByteModelStepper(writer.model, name=f"model:{writer.shown}", dtype=writer.dtype)
    comparison = lockstep.compare(cases, stepper)
    bits, size = 0.0, 0
    for case in cases:
        trace = case.memory.tobytes() + case.records.tobytes()
        given = MEMORY_SIZE + STATE_SIZE
        found = score_file(writer.model, trace, "bin", skip=given, dtype=writer.dtype)
        bits, size = bits + found.bits, size + len(trace) - given
        tell()
    return CpuRoom(writer, stepper, comparison, bits / size, settings.seed % 2**32)


def _real_set(
    modality: Modality, writer: Writer | None, stages: prepared.Stages
) -> prepared.Prepared:
    """The set that the writer learned from, or the default one, if it is here; else the sample.

    Nothing is fetched: a page of a few samples is not worth a download.
    """
    place = prepared.place_of(modality)
    sample = place.with_name(f"{place.name}-sample")
    learned = _learned(writer).get("folder")
    folders = [Path(learned)] if isinstance(learned, str) else []
    sets = [
        prepared.read(folder)
        for folder in (*folders, place, sample)
        if prepared.is_prepared(folder)
    ]
    fitting = [found for found in sets if found.manifest["modality"] == modality.name]
    if not fitting:
        return prepared.from_sample(modality, sample, stages, force=True, shared=True)
    return next((found for found in fitting if _is_learned(writer, found)), fitting[0])


def _attribution(modality: Modality) -> str:
    path = modality.sample.parent / "ATTRIBUTION.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _learned(writer: Writer | None) -> Mapping[str, Any]:
    """What a checkpoint says of its data."""
    data = writer.info.get("data") if writer is not None else None
    return data if isinstance(data, dict) else {}


def _is_learned(writer: Writer | None, found: prepared.Prepared) -> bool:
    """Whether this very set was learned from, wherever it lay."""
    return bool(_learned(writer).get("set") == found.manifest.get("sha256", ""))


def _chosen(
    found: prepared.Prepared, side: str, extension: str, settings: Settings
) -> Sequence[Path]:
    paths = [path for path in found.files(side) if path.suffix == f".{extension}"]
    # From the same places for each extension, which shows a tune in all its forms.
    rng = Random(settings.seed)
    return sorted(rng.sample(paths, min(settings.count, len(paths))))


class _Judge:
    """Judges files of one extension, and shows the valid and the mended ones in other forms.

    `missing`: why neither can be done here, once that is known; it is not tried again.
    """

    def __init__(self, modality: Modality, extension: str) -> None:
        self._modality, self._extension = modality, extension
        self.missing: str | None = None

    def __call__(self, data: bytes) -> Verdict:
        if self.missing is None:
            try:
                return verdict(self._modality, data, self._extension)
            except Missing as error:
                self.missing = str(error)
        return Verdict(None, None, {})


def _real(writer: Writer | None, judge: _Judge, path: Path) -> Exhibit:
    data, extension = read_bytes(path), path.suffix.removeprefix(".")
    bits_per_byte = _bits_per_byte(writer, data, extension)
    wrong, better, forms = judge(data)
    return Exhibit(path.name, extension, data, bits_per_byte, forms, wrong, better)


def _written(
    writer: Writer, judge: _Judge, extension: str, number: int, settings: Settings
) -> Exhibit:
    """A file, from a seed of its own, so that it can be made again alone."""
    seed = settings.seed + number
    (made,) = generate(
        writer.model,
        extension,
        sampling=Sampling(settings.temperature),
        seed=seed,
        dtype=writer.dtype,
    )
    bits_per_byte = _bits_per_byte(writer, made.data, extension)
    name = f"written-{number + 1:03d}.{extension}"
    wrong, better, forms = judge(made.data)
    return Exhibit(
        name, extension, made.data, bits_per_byte, forms, wrong, better, seed, made.ended
    )


def _converted(
    modality: Modality,
    converter: Writer,
    judge: _Judge,
    way: Extensions,
    real: Mapping[str, Sequence[Exhibit]],
    tell: Tell,
) -> Shelf:
    """What becomes of real files, greedily, beside their counterparts; those that are too long for
    the converter are left out."""
    (source, target), model, dtype = way, converter.model, converter.dtype
    size, longest = model.config.patch_size, model.config.max_patches
    counterparts = {Path(one.name).stem: one for one in real[target]}
    wanted, prompts = [], []
    for one in real[source]:
        other = counterparts.get(Path(one.name).stem)
        if other is not None:
            patches = encode_conversion(one.data, source, other.data, target, size)
            if len(patches) <= longest:
                first = 2 + -(-len(one.data) // size)
                found = predict_patches(model, patches, np.arange(first, len(patches)), dtype)
                bits = float(found.bits.sum(dtype=np.float64)) / max(1, len(other.data))
                wanted.append(replace(other, bits_per_byte=bits))
                prompts.append(patches[:first])
    written = {}
    for number, made in convert_prompts(model, prompts, dtype=dtype):
        other = wanted[number]
        wrong, better, forms = judge(made.data)
        written[number] = Exhibit(
            other.name,
            target,
            made.data,
            made.bits_per_byte if made.data else None,
            forms,
            wrong,
            better,
            ended=made.ended,
            told=_told(modality, other.data, made.data if better is None else better, target),
        )
        tell()
    made_in_order = [written[number] for number in sorted(written)]
    return Shelf(target, made_in_order, wanted, judge.missing, source)


def _told(modality: Modality, expected: bytes, found: bytes, extension: str) -> str:
    if isinstance(modality, Compares):
        with blamed(modality, "compare"):
            try:
                return str(modality.compare(expected, found, extension))
            except Missing:
                return ""
    if expected == found:
        return "every byte is right"
    alike = zip(expected, found, strict=False)
    same = next((n for n, (one, other) in enumerate(alike) if one != other), None)
    return f"they part at byte {min(len(expected), len(found)) if same is None else same:,}"


def _bits_per_byte(writer: Writer | None, data: bytes, extension: str) -> float | None:
    if writer is None:
        return None
    found = score_file(writer.model, data, extension, dtype=writer.dtype).bits_per_byte
    return found if math.isfinite(found) else None
