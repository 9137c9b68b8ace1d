"""Checkpoints: atomic save, complete resume, safe load, retention.

A checkpoint is one file written by `torch.save`: a dict with `format`, `version`,
`config`, `model` (tensors), `info` (how it came to be), for a classifier `labels` and, for
one that training can resume from, `training` (step, optimizers, the configuration of the run).
One that was imported also holds `unused`: the tensors of the other format that no model here
reads.

A run folder keeps its resumable checkpoints in `checkpoints/step-00001000.pt`, each with
a marker `step-00001000.json` that holds size and SHA-256 and is written last: a file
without a fitting marker was cut short and is never picked up.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeGuard, TypeVar, cast

import torch
from torch.overrides import TorchFunctionMode

from bytemodel.classifier import Classifier
from bytemodel.config import ConfigError, ModelConfig
from bytemodel.model import ByteModel
from bytemodel.patches import VOCABULARY
from cpusim.errors import UserError
from cpusim.files import atomic_write, describe_os_error

FORMAT = "neural-cpu-lab byte model"
VERSION = 1
KEEP = 2
"""Resumable checkpoints that a run folder keeps."""


Trainable = ByteModel | Classifier
AnyModel = TypeVar("AnyModel", bound=Trainable, covariant=True)


class CheckpointError(UserError):
    """A file that is no usable checkpoint."""


@dataclass(frozen=True)
class Checkpoint(Generic[AnyModel]):
    """A loaded checkpoint. `model` is in evaluation mode and in float32.

    `unused`: tensors that an import kept only for the sake of an export.
    """

    path: Path
    model: AnyModel
    info: dict[str, Any]
    training: dict[str, Any] | None
    unused: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return self.model.config


def save(
    path: Path,
    model: Trainable,
    *,
    info: dict[str, Any],
    training: dict[str, Any] | None = None,
    unused: dict[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
) -> None:
    """Write a checkpoint atomically; `dtype` rounds the weights (bfloat16 halves the file)."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": model.config.to_dict(),
        "model": {
            name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
            for name, tensor in model.state_dict().items()
        },
        "info": info,
    }
    if isinstance(model, Classifier):
        content["labels"] = list(model.labels)
    if training is not None:
        content["training"] = training
    if unused:
        content["unused"] = unused
    with atomic_write(path, force=force) as file:
        torch.save(content, file)


def load(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
) -> Checkpoint[ByteModel]:
    """Load a byte model: a checkpoint file, or the newest good one of a run folder.

    No code in the file is run. Raises `CheckpointError` for anything that is not a byte model's
    checkpoint of ours.
    """
    loaded = load_any(path, device=device)
    if isinstance(loaded.model, Classifier):
        raise CheckpointError(
            f"{loaded.path}: is a classifier, which only tells labels; use it with bgpt classify"
        )
    return cast(Checkpoint[ByteModel], loaded)


def load_classifier(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
) -> Checkpoint[Classifier]:
    """Load a classifier; as `load` otherwise."""
    loaded = load_any(path, device=device)
    if not isinstance(loaded.model, Classifier):
        raise CheckpointError(
            f"{loaded.path}: is a byte model and no classifier; make one of it with"
            " bgpt classify train --model"
        )
    return cast(Checkpoint[Classifier], loaded)


def load_any(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
) -> Checkpoint[Trainable]:
    """Load a byte model or a classifier; as `load` otherwise."""
    path = Path(path)
    if path.is_dir():
        path = newest_in_run(path)
    content = read_tensors(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of this program; see bgpt train --help")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path}: has format version {version}, newer than {VERSION}; update this program"
        )
    try:
        config = ModelConfig.from_dict(content["config"])
    except (ConfigError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: holds no usable model configuration ({error})") from None
    weights = content.get("model")
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path}: holds no weights; train or download the checkpoint again")
    labels = content.get("labels")
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if labels is not None and not (named and labels):
        raise CheckpointError(f"{path}: holds no usable labels; it was cut or altered")

    reads = weights.get(Classifier.STATE)
    if labels is not None and not (is_whole(reads) and Classifier.is_state(reads)):
        raise CheckpointError(
            f"{path}: does not say what its classifier reads of a file; it was altered, or written"
            " by an older version; train it again"
        )

    def build() -> Trainable:
        if labels is None:
            return ByteModel(config)
        classifier = Classifier(config, labels)
        classifier.set_extra_state(cast(torch.Tensor, reads))
        return classifier

    # A configuration that lies about its size must cost nothing: its layers are counted, the bytes
    # of its patches too, and the model is built without memory first.
    layers = config.patch_layers + config.byte_layers
    if layers > len(weights):
        raise CheckpointError(
            f"{path}: holds {len(weights):,} tensors where its configuration has {layers:,} layers"
        )
    numbers = sum(tensor.numel() for tensor in weights.values() if is_whole(tensor))
    if config.patch_size * VOCABULARY > numbers:
        raise CheckpointError(
            f"{path}: holds {numbers:,} numbers, too few for the patches of"
            f" {config.patch_size:,} bytes that its configuration has"
        )
    try:
        with torch.device("meta"), _Unfilled():
            expected = {key: tensor.shape for key, tensor in build().state_dict().items()}
    except (RuntimeError, TypeError):
        raise CheckpointError(
            f"{path}: holds no usable model configuration (its sizes are beyond any memory)"
        ) from None
    for name, shape in expected.items():
        tensor = weights.get(name)
        if not is_whole(tensor):
            raise CheckpointError(
                f"{path}: the tensor {name!r} is missing; it was altered, or"
                " written by an older version; train or download it again"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{path}: the tensor {name!r} has shape {tuple(tensor.shape)} where its"
                f" configuration says {tuple(shape)}"
            )
        if not is_finite(tensor):
            raise CheckpointError(
                f"{path}: the tensor {name!r} holds what is no number; its training failed, or it"
                " was altered"
            )
    unknown = sorted(set(map(str, weights)) - set(expected))
    if unknown:
        raise CheckpointError(f"{path}: holds the tensor {unknown[0]!r}, which no model here has")
    model = build()
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    info, training, unused = (content.get(key) for key in ("info", "training", "unused"))
    try:
        json.dumps(info, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: what it says of its training has no end") from None
    return Checkpoint(
        path,
        model.to(device).eval(),
        info if isinstance(info, dict) else {},
        training if isinstance(training, dict) else None,
        {str(name): tensor for name, tensor in unused.items() if is_whole(tensor)}
        if isinstance(unused, dict)
        else {},
    )


class _Unfilled(TorchFunctionMode):
    """Leaves new weights as they are, where they are shapes without numbers: to fill those, torch
    would import a compiler, which takes longer than all else that loading does."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


_DTYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
    )
)
"""Of what numbers can be made; others cannot even be copied."""


def is_whole(value: object) -> TypeGuard[torch.Tensor]:
    """Whether a value read from a file is a plain tensor that holds all its numbers.

    A few bytes can claim to be a tensor of any size whose numbers are all the same one.
    """
    return (
        isinstance(value, torch.Tensor)
        and not value.is_nested
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and value.dtype in _DTYPES
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all its numbers are numbers, and none is infinite."""
    return bool(tensor.isfinite().all())


def _is_undamaged(path: Path) -> bool:
    """Whether the checksums of a zip archive are right, which torch writes and does not check.

    What is no archive at all is left to torch.
    """
    try:
        if not zipfile.is_zipfile(path):
            return True
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except OSError:
        return True
    except Exception:
        # Names, sizes and methods of a damaged archive may be anything at all.
        return False


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote, without running code in it: tensors and plain values.

    Raises `CheckpointError` for anything else.
    """
    if not _is_undamaged(path):
        raise CheckpointError(f"{path}: is damaged; restore it or download it again")
    try:
        with warnings.catch_warnings():
            # Torch warns of pickle protocols in files that are then refused anyway.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; check the name") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: holds objects other than tensors and plain values, or is no checkpoint;"
            " it was not loaded, since doing so could run code; name a .pt file that bgpt wrote"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({describe_os_error(error)})") from None
    except Exception:
        # Bytes that are no checkpoint can make the unpickler raise anything at all.
        raise CheckpointError(
            f"{path}: is not a checkpoint, or was cut short; name a .pt file that bgpt wrote"
        ) from None


def save_step(run: Path, step: int, model: Trainable, **content: Any) -> Path:
    """Write a resumable checkpoint into a run folder, its marker last; drop the oldest ones."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    marker = path.with_suffix(".json")
    save(path, model, force=True, **content)
    with atomic_write(marker, force=True) as file:
        record = {"step": step, "size": path.stat().st_size, "sha256": file_hash(path)}
        file.write(json.dumps(record).encode())
    # Later ones are damaged, or the run would have gone on from them.
    for old in sorted(old for old in folder.glob("step-*.pt") if old <= path)[:-KEEP]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()
    for stray in folder.glob(".step-*.tmp"):
        stray.unlink()  # a run that was killed while saving left it
    return path


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(model: Trainable) -> str:
    """SHA-256 of the weights' names, shapes and float32 values, as hexadecimal digits.

    It names the weights, whichever file holds them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def find_resumable(run: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run folder, and a sentence for each one passed over."""
    passed_over: list[str] = []
    for path in sorted((run / "checkpoints").glob("step-*.pt"), reverse=True):
        try:
            record = json.loads(path.with_suffix(".json").read_text())
            whole = record["size"] == path.stat().st_size and record["sha256"] == file_hash(path)
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if whole:
            return path, passed_over
        passed_over.append(f"{path}: was cut short or altered, so an older checkpoint is used")
    return None, passed_over


def newest_in_run(run: Path) -> Path:
    """The weights to use from a run folder: its finished model, else its newest checkpoint."""
    if (run / "model.pt").is_file():
        return run / "model.pt"
    path, _ = find_resumable(run)
    if path is None:
        raise CheckpointError(f"{run}: is a folder without a checkpoint; name a .pt file or a run")
    return path
