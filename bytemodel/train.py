"""The training loop: evaluate, save, step, log, once each.

A run folder holds `config.json` (everything resolved), `metrics.jsonl`, `training.png`,
`checkpoints/` and, at the end, `model.pt` (weights alone, as exact as the task needs): the last
ones, or, if the configuration says so, those that were evaluated best, which are
`checkpoints/best.pt` in full.

Started by `torchrun`, several processes train one model (`bytemodel.distributed`): each takes its
share of the very batches that one alone would take.

With `steps`, a run is reproducible bit for bit on the same machine and thread count,
interrupted or not: batches are a function of the step and of the source's state, which is saved
together with weights, optimizers and the position. With `minutes`, the clock drives the schedule.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor, nn

import cpusim
from bytemodel import ahead, checkpoint
from bytemodel.checkpoint import Trainable
from bytemodel.config import MOST_TARGETS, TARGETS, Config, ConfigError, ModelConfig
from bytemodel.data import AdaptiveSource, SizedBatch, Source
from bytemodel.distributed import Ranks, joined, own_device
from bytemodel.graphs import Recorded
from bytemodel.layers import Block
from bytemodel.metrics import plot, read_metrics
from bytemodel.model import ByteModel
from bytemodel.muon import Muon
from cpusim.errors import UserError
from cpusim.files import atomic_write, refuse_file

Dtype = torch.dtype
Schedule = Literal["trapezoid", "cosine"]
Keep = Literal["last", "best"]

FINE_TUNING = {"matrix_lr": 1e-3, "other_lr": 1e-3, "published_lr": 5e-5}
"""Learning rates for a model that has learned something already."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """How to train. Exactly one of `steps` and `minutes` is above zero."""

    steps: int = 0
    minutes: float = 0.0
    seed: int = 0
    matrix_lr: float = 8e-3
    """Muon, for the matrices of the local family."""
    other_lr: float = 8e-3
    """AdamW, for the local family's embeddings, norms and head."""
    published_lr: float = 1e-4
    """AdamW, for all of the published family."""
    weight_decay: float = 0.0
    """Muon's: the share of a matrix that a step takes away at a learning rate of 1."""
    schedule: Schedule = "trapezoid"
    """How the learning rate falls after `warmup_steps`: not at all, then linearly to zero in the
    last part of the run, `cooldown`; or as half a cosine over all of it."""
    warmup_steps: int = 50
    cooldown: float = 0.8
    clip: float = 1.0
    """Largest norm of the gradient."""
    log_every: int = 10
    evaluate_every: int = 500
    save_every: int = 250
    """The last three in steps."""
    keep: Keep = "last"
    """Which weights `model.pt` gets: the last, or those with the least evaluation loss."""
    patience: int = 0
    """Stop after so many evaluations in a row that were not the best; 0: never."""

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.minutes > 0):
            raise ConfigError(f"steps {self.steps} and minutes {self.minutes}: give exactly one")
        for name in ("log_every", "evaluate_every", "save_every", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"TrainConfig.{name} must be at least 1")
        for name, kind in (("schedule", Schedule), ("keep", Keep)):
            if getattr(self, name) not in get_args(kind):
                choice = " or ".join(map(repr, get_args(kind)))
                raise ConfigError(f"TrainConfig.{name} is {getattr(self, name)!r}, not {choice}")

    def progress(self, step: int, elapsed: float) -> float:
        """How much of the run is over, 0 to 1. `elapsed` in seconds."""
        return min(1.0, step / self.steps if self.steps else elapsed / (60 * self.minutes))

    def learning_rate_scale(self, step: int, progress: float) -> float:
        """What the learning rates are multiplied by: from above 0 up to 1, and down to 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        if self.schedule == "cosine":
            return warm * (1 + math.cos(math.pi * progress)) / 2
        return min(warm, (1 - progress) / self.cooldown)


class Listener(Protocol):
    """Who wants to know how training goes; the command line draws it."""

    def logged(self, record: dict[str, Any], progress: float) -> None: ...

    def note(self, sentence: str) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """`finished` is False after Ctrl-C or SIGTERM; the state is saved either way.

    `evaluation`: of the weights in `model.pt`, which are those of step `model_step`. In a process
    that does not lead it is empty.
    """

    finished: bool
    step: int
    elapsed: float
    evaluation: dict[str, float]
    model_step: int


@dataclass(frozen=True)
class Task:
    """What a run learns.

    `build`: the model before the first step. `loss`: of model and batch: the loss to minimise, the
    mean loss to report, and which answers are right (bool; the batch's `answers` are then a row for
    each thing that its size counts); `measures` names the figures of the latter two. `rate`: the
    name of how much is seen a second. `plot`: draws a run folder's `training.png`. `about`: plain
    values for `config.json`. `many_shapes`: whether batches have more than a few shapes, each of
    which would be compiled for a minute or more. Then blocks are compiled by themselves, once for
    all layers and for shapes of any size, and steps are no slower.
    `dtype`: of the weights in `model.pt`.
    """

    build: Callable[[ModelConfig], Trainable]
    loss: Callable[..., tuple[Tensor, ...]]
    measures: Callable[[float, Tensor], dict[str, float]]
    rate: str
    plot: Callable[[Path], None]
    about: dict[str, Any]
    many_shapes: bool = False
    dtype: Dtype = torch.bfloat16


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises `UserError` if the device is missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> Dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    return native_dtype(device)


def native_dtype(device: torch.device) -> Dtype:
    """The faster of the two precisions."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # AMX or AVX512-BF16; elsewhere bfloat16 is emulated and slower than float32.
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def build_optimizers(model: Trainable, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for the published family; Muon for the local one's matrices, AdamW for the rest.

    Muon orthogonalises each update; embeddings, norms and the head are not the linear maps that
    it is meant for.
    """
    if model.config.family == "published":
        return [torch.optim.AdamW(model.parameters(), lr=config.published_lr, fused=True)]
    matrices = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] != "head"
    ]
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        Muon(
            matrices,
            lr=config.matrix_lr,
            weight_decay=config.weight_decay,
            dtype=native_dtype(next(model.parameters()).device),
        ),
        torch.optim.AdamW(
            others, lr=config.other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]


def loss_and_hits(
    model: ByteModel, patches_BPS: Tensor, targets_N: Tensor, weights_S: Tensor
) -> tuple[Tensor, ...]:
    """The loss to minimise, cross-entropy (nats a byte), and which bytes are right: bool (N, S)."""
    wanted_NS = patches_BPS.flatten(0, 1)[targets_N]
    logits_NSV = model(patches_BPS, targets_N)
    nats_NS = F.cross_entropy(
        logits_NSV.float().flatten(0, 1), wanted_NS.flatten(), reduction="none"
    ).view(wanted_NS.shape)
    nats_S = nats_NS.mean(0)
    loss = (nats_S * weights_S).sum() / weights_S.sum()
    return loss, nats_S.detach().mean(), logits_NSV.detach().argmax(-1) == wanted_NS


def measures(loss: float, hits_NS: Tensor) -> dict[str, float]:
    """The figures of a record, by their names in `metrics.jsonl`."""
    return {
        "loss": loss,
        "bits_per_byte": loss / math.log(2),
        "byte_accuracy": hits_NS.float().mean().item(),
        "exact_patches": hits_NS.all(1).float().mean().item(),
    }


@torch.no_grad()
def evaluate(
    model: Trainable,
    source: Source,
    batches: Sequence[SizedBatch],
    device: torch.device,
    dtype: Dtype,
    task: Task | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Measures over evaluation batches, each patch (or file) counting the same, and the share of
    right answers in each of the source's groups."""
    task = task or BYTES
    model.eval()
    loss, hits = 0.0, []
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for batch in batches:
        # Shapes that come once are not worth compiling.
        with _autocast(device, dtype), torch.compiler.set_stance("force_eager"):
            _, mean, found = task.loss(model, *(tensor.to(device) for tensor in batch))
        loss += mean.item() * batch.size
        hits.append(batch.answers(found.cpu()))
        for name, (good, count) in source.groups(batch, hits[-1].numpy()).items():
            right[name] += good
            asked[name] += count
    model.train()
    every = torch.cat(hits)
    shares = {name: right[name] / asked[name] for name in sorted(asked)}
    return task.measures(loss / len(every), every), shares


def train(
    run: Path,
    model_config: ModelConfig,
    config: TrainConfig,
    source: Source,
    listener: Listener,
    *,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    compile_model: bool = True,
    tensorboard: bool = False,
    task: Task | None = None,
) -> Outcome:
    """Train into the folder `run`, from scratch or, with `resume`, from its last good checkpoint.

    `task`: what is learned; `BYTES` unless given. Raises `UserError` if the folder already holds
    a run (without `resume`), holds one of another configuration, is trained in by another process,
    or if the loss stops being a number.
    """
    place = own_device(pick_device(device))
    kind = pick_dtype(dtype, place)
    with joined(place) as ranks, contextlib.ExitStack() as held:
        return _train(
            ranks,
            held,
            run,
            model_config,
            config,
            source,
            listener if ranks.leads else _Nobody(),
            resume=resume,
            place=place,
            kind=kind,
            compile_model=compile_model,
            tensorboard=tensorboard,
            task=task or BYTES,
        )


def _train(
    ranks: Ranks,
    held: contextlib.ExitStack,
    run: Path,
    model_config: ModelConfig,
    config: TrainConfig,
    source: Source,
    listener: Listener,
    *,
    resume: bool,
    place: torch.device,
    kind: Dtype,
    compile_model: bool,
    tensorboard: bool,
    task: Task,
) -> Outcome:
    resolved = {
        "model": model_config.to_dict(),
        "training": config.to_dict(),
        "data": source.describe(),
        "device": place.type,
        "dtype": str(kind).removeprefix("torch."),
        "compile": compile_model,
    }
    if task.about:
        resolved["task"] = task.about

    def claim() -> None:
        if tensorboard:
            _tensorboard_writer()  # what cannot be is said before there is a run folder
        _claim_folder(run, resolved, resume=resume)
        held.enter_context(_alone(run))

    ranks.of_leader(claim)
    _refuse_difference(
        "the first process", ranks.of_leader(lambda: resolved), resolved, "give all the same"
    )

    torch.manual_seed(config.seed)
    model = task.build(model_config).to(place).train()
    optimizers = build_optimizers(model, config)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    step, elapsed_before = 0, 0.0
    if resume:
        state = ranks.of_leader(lambda: _resumable(run, listener))
        if state is not None:
            step, elapsed_before = _restore(state, model, optimizers, source)
    if ranks.leads:
        _keep_metrics_until(run, step)

    forward = _learner(ranks, task, model, place, listener, compile_model=compile_model)
    evaluation_batches = list(source.evaluation()) if ranks.leads else []
    writer = None
    if tensorboard and ranks.leads:
        writer = _tensorboard_writer()(str(run / "tensorboard"))
    began = time.monotonic()
    evaluation: dict[str, float] = {}
    best = _Best(run) if ranks.leads and (config.keep == "best" or config.patience) else None
    last_log = began
    seen_since_log = 0

    def info(elapsed: float) -> dict[str, Any]:
        return {**resolved, "step": step, "seconds": round(elapsed, 1)}

    def save(elapsed: float) -> None:
        checkpoint.save_step(
            run,
            step,
            model,
            info=info(elapsed),
            training={
                "step": step,
                "elapsed": elapsed,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "source": source.state() if isinstance(source, AdaptiveSource) else None,
            },
        )

    def log(
        kind_of_record: str,
        values: dict[str, float],
        progress: float,
        elapsed: float,
        groups: dict[str, float] | None = None,
    ) -> None:
        record = {
            "kind": kind_of_record,
            "step": step,
            "seconds": round(elapsed, 2),
            **{name: float(f"{value:.7g}") for name, value in values.items()},
        }
        if groups:
            record["groups"] = {name: float(f"{value:.7g}") for name, value in groups.items()}
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        if writer is not None:
            for name, value in values.items():
                writer.add_scalar(f"{kind_of_record}/{name}", value, step)
        listener.logged(record, progress)

    with (
        _stop_signals() as stop,
        deterministic(place),
        contextlib.closing(ahead.batches(source, step, ahead.workers_for(place))) as upcoming,
    ):
        while True:
            elapsed = ranks.clock(elapsed_before + time.monotonic() - began)
            progress = config.progress(step, elapsed)
            finished = progress >= 1.0
            given_up = False
            if ranks.leads and (finished or step % config.evaluate_every == 0):
                evaluation, groups = evaluate(model, source, evaluation_batches, place, kind, task)
                log("evaluation", evaluation, progress, elapsed, groups)
                if best is not None:
                    best.see(step, model, {**info(elapsed), "evaluation": evaluation})
                    given_up = 0 < config.patience <= best.later
            # Asked once, so that what stops is what was saved.
            stopping, given_up = ranks.any_of(stop(), given_up)
            if given_up and not finished:
                listener.note(f"stopped early: {config.patience} evaluations were not the best")
                finished = True
            ending = finished or stopping
            if ranks.leads and (ending or (step and step % config.save_every == 0)):
                save(elapsed)
            if ending:
                break

            scale = config.learning_rate_scale(step, progress)
            for optimizer, rates in zip(optimizers, base_rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * scale
            # For whatever is drawn at random: what dropout leaves out, what a classifier reads.
            key = (config.seed, step, ranks.rank)[: 3 if ranks.rank else 2]
            torch.manual_seed(hash(key))
            batch = next(upcoming)
            share = batch.share(ranks.rank, ranks.count) if ranks.count > 1 else batch
            part = share.size / batch.size
            with _autocast(place, kind):
                loss, mean, hits = forward(*(tensor.to(place) for tensor in share))
            # Processes are averaged; those that saw more than others are to count for more.
            (loss * (part * ranks.count) if ranks.count > 1 else loss).backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            logs = (step + 1) % config.log_every == 0
            if logs or isinstance(source, AdaptiveSource):
                every = ranks.concatenated(share.answers(hits.cpu()).numpy())
            if isinstance(source, AdaptiveSource):
                source.note(batch, every)
            step += 1
            seen_since_log += batch.size

            if logs:
                whole, whole_mean = ranks.total(loss.item() * part, mean.item() * part)
                if not math.isfinite(whole):
                    raise UserError(
                        f"{run}: the loss is {whole} at step {step:,}; begin another run from the"
                        f" last checkpoint in {run / 'checkpoints'} (--init, of classifiers"
                        " --model), which takes lower learning rates"
                    )
                now = time.monotonic()
                values = task.measures(whole_mean, torch.from_numpy(every))
                values["gradient_norm"] = norm.item()
                values[task.rate] = seen_since_log / (now - last_log)
                values["learning_rate_scale"] = scale
                last_log, seen_since_log = now, 0
                if ranks.leads:
                    elapsed = elapsed_before + now - began
                    log("train", values, config.progress(step, elapsed), elapsed)

    if writer is not None:
        writer.close()
    model_step = step
    if finished and ranks.leads:
        final = info(elapsed)
        if best is not None and config.keep == "best" and best.step is not None:
            chosen = checkpoint.load_any(best.path)
            model, final, evaluation = chosen.model, chosen.info, chosen.info["evaluation"]
            model_step = best.step
        checkpoint.save(
            run / "model.pt",
            model,
            info={**final, "seconds": round(final["seconds"]), "evaluation": evaluation},
            dtype=task.dtype,
            force=True,
        )
    if ranks.leads:
        task.plot(run)
    return Outcome(finished, step, elapsed, evaluation, model_step)


class _Nobody:
    """The listener of a process that does not lead."""

    def logged(self, record: dict[str, Any], progress: float) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass


class _Best:
    """The best evaluation of a run, its weights in `path`; of equal ones, the first.

    After an interruption the file may be ahead of the checkpoint that is resumed from: the run
    will then see that evaluation again, or, led by the clock, another one, which it has to beat.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "checkpoints" / "best.pt"
        self.step: int | None = None
        self._loss = math.inf
        with contextlib.suppress(checkpoint.CheckpointError, KeyError, TypeError):
            info = checkpoint.load_any(self.path).info
            self.step, self._loss = info["step"], info["evaluation"]["loss"]
        records = (r for r in read_metrics(run) if r["kind"] == "evaluation")
        self._seen = {record["step"] for record in records}

    @property
    def later(self) -> int:
        """Evaluations since the best one."""
        return sum(step > (-1 if self.step is None else self.step) for step in self._seen)

    def see(self, step: int, model: Trainable, info: dict[str, Any]) -> None:
        """Keep the weights if they are the best so far; `info` holds their `evaluation`."""
        self._seen.add(step)
        if info["evaluation"]["loss"] < self._loss:
            self.path.parent.mkdir(exist_ok=True)
            checkpoint.save(self.path, model, info=info, force=True)
            self.step, self._loss = step, info["evaluation"]["loss"]


def _learner(
    ranks: Ranks,
    task: Task,
    model: Trainable,
    place: torch.device,
    listener: Listener,
    *,
    compile_model: bool,
) -> Callable[..., tuple[Tensor, ...]]:
    """The task's loss of the model and a batch's tensors, as quick as it can be had."""
    loss = task.loss
    if place.type == "cuda":
        learner = ranks.learner(model, loss)
        # Averaging over processes is not recorded.
        return Recorded(learner) if compile_model and ranks.count == 1 else learner
    if compile_model and shutil.which("gcc") is None:
        listener.note("no gcc found, so the model is not compiled and training is slower")
    elif compile_model:
        # Each batch shape compiles once; a curriculum has a few.
        torch._dynamo.config.recompile_limit = 32
        if not task.many_shapes:
            loss = torch.compile(loss, dynamic=False)
        else:
            for module in model.modules():
                if isinstance(module, Block):
                    # But for sizes that turn out to differ.
                    module.compile(dynamic=None)
    return ranks.learner(model, loss)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU, add up gradients in the same order every time, whatever the threads do."""
    before = torch.are_deterministic_algorithms_enabled()
    # Else every new tensor would be written twice; nothing here reads one before it is written.
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = fills


def _autocast(device: torch.device, dtype: Dtype) -> torch.autocast:
    # What is recorded must not use weights that were converted before it.
    cached = device.type != "cuda"
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=cached)


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Keep other processes from training in this folder meanwhile."""
    lock = FileLock(run / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{run}: another process is training there; wait for it, or name another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def refuse_taken(run: Path) -> None:
    """Raise `UserError` if no run can begin in this folder."""
    refuse_file(run, "name another --out")
    if run.exists() and any(run.iterdir()):
        raise UserError(f"{run}: already exists; use --resume to go on, or another --out")


def _claim_folder(run: Path, resolved: dict[str, Any], *, resume: bool) -> None:
    """Write `config.json`, or see that the one there says the same."""
    if not resume:
        refuse_taken(run)
        run.mkdir(parents=True, exist_ok=True)
        with atomic_write(run / "config.json") as file:
            file.write(json.dumps({**resolved, "version": cpusim.__version__}, indent=2).encode())
        return
    before = read_config(run)
    for section, known in (("model", ModelConfig), ("training", TrainConfig)):
        # A version that did not have a setting yet did what its default says.
        defaults = {field.name: field.default for field in dataclasses.fields(known)}
        before[section] = {**defaults, **before[section]}
    data = before["data"]
    if "targets" in resolved["data"]:
        data = before["data"] = {"targets": TARGETS, **data}
    if data.get("fingerprint") and data["fingerprint"] == resolved["data"].get("fingerprint"):
        # The same traces; the folder may have been moved.
        before["data"] = {**data, "folder": resolved["data"]["folder"]}
    _refuse_difference(
        str(run),
        {section: before.get(section, values) for section, values in resolved.items()},
        json.loads(json.dumps(resolved)),
        "resume with the same options or start a new run",
    )


def _refuse_difference(
    who: str, before: dict[str, Any], resolved: dict[str, Any], way_out: str
) -> None:
    """Raise `UserError` with the first setting in which two configurations differ."""
    for section, values in resolved.items():
        old = before.get(section)
        if old == values:
            continue
        if isinstance(values, dict) and isinstance(old, dict):
            key = next(key for key in {**old, **values} if old.get(key) != values.get(key))
            section, old, values = f"{section}.{key}", old.get(key), values.get(key)
        raise UserError(f"{who}: was started with {section} = {old}, not {values}; {way_out}")


def read_config(run: Path) -> dict[str, Any]:
    """What a run folder's `config.json` says: `model`, `training`, `data`, `device`, `dtype`,
    `compile`. Raises `UserError` if the folder holds no run."""
    path = run / "config.json"
    if run.exists() and not run.is_dir():
        raise UserError(f"{run}: is a file and no run; name the folder of one with --out")
    try:
        config = json.loads(path.read_text())
    except OSError:
        raise UserError(f"{run}: holds no run to resume; start it without --resume") from None
    except ValueError:
        config = None
    if not _is_config(config):
        raise UserError(f"{path}: is damaged; restore it or start a new run")
    found: dict[str, Any] = config
    return found


def _is_config(config: object) -> bool:
    """Whether what a file holds has the types of a run's record of itself."""
    if not isinstance(config, dict):
        return False
    sections = [config.get(name) for name in ("model", "training", "data")]
    data = config.get("data")
    return (
        isinstance(data, dict)
        and all(isinstance(section, dict) for section in sections)
        and isinstance(config.get("task", {}), dict)
        and isinstance(config.get("dtype", "auto"), str)
        and isinstance(data.get("folder", ""), str)
        and ("folder" in data or data.get("kind") != "files")
        and isinstance(data.get("extensions", []), list)
        and type(data.get("targets", TARGETS)) is int
        and 1 <= data.get("targets", TARGETS) <= MOST_TARGETS
    )


def _resumable(run: Path, listener: Listener) -> dict[str, Any] | None:
    """The state to resume from, the weights as `model`; None, and a note, if there is none."""
    path, passed_over = checkpoint.find_resumable(run)
    for sentence in passed_over:
        listener.note(sentence)
    if path is None:
        listener.note(f"{run}: holds no whole checkpoint, so training starts from the beginning")
        return None
    loaded = checkpoint.load_any(path)
    if loaded.training is None:
        raise UserError(f"{path}: holds weights alone, so training cannot resume from it")
    step, elapsed = (loaded.training.get(name) for name in ("step", "elapsed"))
    # A truth value is a number to Python.
    if type(step) is not int or step < 0 or type(elapsed) not in (int, float):
        raise _spoilt(path)
    listener.note(f"resumed from {path} at step {step:,}")
    return {**loaded.training, "model": loaded.model.state_dict(), "path": path}


def _spoilt(path: Path) -> UserError:
    return UserError(
        f"{path}: holds no state that training can go on from; delete it to go on from the one"
        " before, or start from its weights with --init"
    )


def _restore(
    state: dict[str, Any],
    model: Trainable,
    optimizers: list[torch.optim.Optimizer],
    source: Source,
) -> tuple[int, float]:
    """Put a resumable state in place; returns step and elapsed seconds."""
    try:
        model.load_state_dict(state["model"])
        for optimizer, known in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)
            _check_moments(optimizer)
        if isinstance(source, AdaptiveSource) and state.get("source") is not None:
            source.restore(state["source"])
    except UserError:
        raise
    except Exception:
        # What reads these states raises anything at all for what it does not expect.
        raise _spoilt(state["path"]) from None
    return state["step"], state["elapsed"]


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` if what an optimizer remembers of a parameter has another shape."""
    for parameter, known in optimizer.state.items():
        for value in known.values():
            if not isinstance(value, Tensor) or (value.ndim and value.shape != parameter.shape):
                raise ValueError(f"{value} for {tuple(parameter.shape)}")


def _keep_metrics_until(run: Path, step: int) -> None:
    """Drop records of steps that a resumed run is going to take again.

    A checkpoint is saved after the training record of its step, which nothing would write
    again, and after its evaluation, which is repeated.
    """
    kept = [
        record
        for record in read_metrics(run)
        if record["step"] < step or (record["step"] == step and record["kind"] == "train")
    ]
    with atomic_write(run / "metrics.jsonl", force=True) as file:
        file.writelines((json.dumps(record) + "\n").encode() for record in kept)


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop; a second one acts at once."""
    wished = False

    def wish(number: int, _: FrameType | None) -> None:
        nonlocal wished
        wished = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: wished
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tensorboard_writer() -> Any:
    """The class of what writes TensorBoard's files."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard: the tensorboard package is missing; install it with"
            " pip install 'neural-cpu-lab[tensorboard]'"
        ) from None
    return SummaryWriter


BYTES = Task(
    build=ByteModel,
    loss=loss_and_hits,
    measures=measures,
    rate="patches_per_second",
    plot=plot,
    about={},
)
"""Predicting each byte from those before it."""
