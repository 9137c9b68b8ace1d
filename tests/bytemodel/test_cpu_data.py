"""CPU traces as training data: right, reproducible, and never those that evaluate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bytemodel import cpu_data
from bytemodel.cpu_data import (
    CURRICULUM,
    FIRST_STATE,
    FURTHER,
    GeneratedTraces,
    RecordedTraces,
    evaluation_batches,
    sequence_length,
    source_like,
)
from bytemodel.data import Batch, Source
from bytemodel.mistakes import cases_of
from bytemodel.patches import PAD
from cpusim.dataset import generate_set
from cpusim.errors import UserError
from cpusim.isa import IR, MEMORY_SIZE, PC, SLOTS, STATE_SIZE
from cpusim.reference import Stop
from cpusim.reference import run as run_reference
from cpusim.trace import instance_hashes, open_shard, write_trace

STEPS = sorted({step for stage in CURRICULUM for step in (stage.first, stage.first + 1)})
"""Steps of every stage."""
LONGEST = sequence_length(SLOTS)


def sequences(batch: Batch) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
    """Each sequence's memory and records, after a look at extension, end and padding."""
    for patches in batch.patches_BPS.numpy():
        assert patches[0].tolist() == [*b"bin", *[PAD] * 13]
        memory = patches[1:FIRST_STATE]
        assert memory.max() < PAD
        ends = np.flatnonzero((patches == PAD).all(1))
        records = patches[FIRST_STATE : ends[0]]
        assert records.max() < PAD
        assert len(ends) == len(patches) - ends[0]  # from the end patch on, all is padding
        yield memory.astype(np.uint8).tobytes(), records


def instances(batch: Batch) -> set[int]:
    pairs = list(sequences(batch))
    memories = np.array([np.frombuffer(memory, np.uint8) for memory, _ in pairs])
    states = np.array([records[0] for _, records in pairs], np.uint8)
    return set(instance_hashes(memories, states).tolist())


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def assert_right(batch: Batch) -> None:
    """Every sequence is what its program does, and every target a record from 1 on, or the end."""
    length = batch.patches_BPS.shape[1]
    possible: list[int] = []
    for row, (memory, records) in enumerate(sequences(batch)):
        truth = run_reference(memory, bytes(records[0].astype(np.uint8)))
        assert truth.stop is Stop.HALTED
        assert tuple(bytes(r.astype(np.uint8)) for r in records) == truth.records
        first = row * length + FIRST_STATE
        possible += range(first + 1, first + len(records) + 1)
    assert set(batch.targets_N.tolist()) <= set(possible)
    if len(batch.targets_N) <= len(possible):
        assert len(set(batch.targets_N.tolist())) == len(batch.targets_N)


def assert_all_are_targets(batch: Batch) -> None:
    length = batch.patches_BPS.shape[1]
    wanted = [
        row * length + FIRST_STATE + record
        for row, (_, records) in enumerate(sequences(batch))
        for record in range(1, len(records) + 1)
    ]
    assert batch.targets_N.tolist() == wanted


# ---- Generated


@pytest.mark.parametrize("step", STEPS)
def test_a_generated_batch_holds_what_programs_do_and_predicts_their_states_and_ends(
    step: int,
) -> None:
    batch = GeneratedTraces(seed=0).batch(step)
    assert_right(batch)
    stages = [stage for stage in CURRICULUM if stage.first <= step < stage.last]
    shapes = {(s.count, sequence_length(s.padded_for), s.targets) for s in stages}
    assert (*batch.patches_BPS.shape[:2], len(batch.targets_N)) in shapes
    assert batch.patches_BPS.shape[2] == len(batch.weights_S) == STATE_SIZE


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    one, other = GeneratedTraces(seed=3), GeneratedTraces(seed=3)
    batches = [one.batch(step) for step in STEPS]
    for step, batch in reversed(list(zip(STEPS, batches, strict=True))):
        assert same(other.batch(step), batch)
    assert not same(GeneratedTraces(seed=4).batch(STEPS[0]), batches[0])


def test_short_programs_that_begin_with_zeros_are_among_those_drawn() -> None:
    source = GeneratedTraces(seed=0, curriculum=FURTHER)
    first = np.concatenate(
        [source.batch(step).patches_BPS[:, FIRST_STATE].numpy() for step in range(60)]
    )
    lengths = np.concatenate(
        [(source.batch(step).patches_BPS[:, :, 0] != PAD).sum(1).numpy() for step in range(60)]
    )
    from_zero = ~first.any(1)  # PC 0: a program, no drill
    assert 0.02 < from_zero.mean() < 0.2
    assert lengths[from_zero].min() <= sequence_length(4)


def test_what_was_computed_wrongly_is_drawn_again() -> None:
    source, other = GeneratedTraces(seed=3), GeneratedTraces(seed=3)
    batch = source.batch(1200)
    source.note(batch, np.ones((len(batch.targets_N), STATE_SIZE), bool))
    assert len(source.mistakes) == 0
    hits = np.ones((len(batch.targets_N), STATE_SIZE), bool)
    hits[:, PC] = False  # wrongly fetched, rightly computed
    source.note(batch, hits)
    assert len(source.mistakes) == 0
    hits[:, STATE_SIZE - 1] = False
    source.note(batch, hits)
    assert len(source.mistakes) > 100
    noted = {tuple(row) for row in source.state()[:, :3].tolist()}
    drills_at = next(s for s in range(1201, 1300) if source.batch(s).patches_BPS.shape[0] == 24)
    again, without = source.batch(drills_at), other.batch(drills_at)
    assert_right(again)

    def asked(batch: Batch) -> int:
        states = np.concatenate([records for _, records in sequences(batch)]).astype(np.uint8)
        return len(noted & {tuple(row) for row in cases_of(states).tolist()})

    assert asked(again) > asked(without) + 30
    other.restore(source.state())
    assert same(other.batch(drills_at), again)


def test_no_program_of_eight_instructions_or_more_is_drawn_twice() -> None:
    # Of shorter ones that begin with zeros there are few.
    source = GeneratedTraces(seed=0)
    drawn = [instances(source.batch(step)) for step in range(260, 290)]
    assert len(set.union(*drawn)) == sum(map(len, drawn))


def test_evaluation_is_the_same_for_every_run_and_complete() -> None:
    batches = GeneratedTraces(seed=0, evaluation_programs=8).evaluation()
    for batch, again in zip(batches, evaluation_batches(8), strict=True):
        assert same(batch, again)
        assert_right(batch)
        assert_all_are_targets(batch)
        assert (batch.weights_S == 1).all()


def test_training_evaluation_and_users_never_share_a_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def spy(*args: Any, seed: int, **options: Any) -> Any:
        asked.append(seed)
        return generate(*args, seed=seed, **options)

    generate = cpu_data.generate
    monkeypatch.setattr(cpu_data, "generate", spy)
    most = (1 << 32) - 1  # what --seed takes
    programs = tuple(stage for stage in CURRICULUM if stage.last_entry < 0)
    for seed in (0, most):
        GeneratedTraces(seed, curriculum=programs).batch(programs[0].first)
    training = set(asked)
    asked.clear()
    evaluation_batches(2)
    evaluating = set(asked)
    assert len(training) == 2
    assert evaluating
    assert min(training) > most
    assert max(training) < min(evaluating)
    assert max(evaluating) < 1 << 64


def test_no_evaluation_program_is_among_those_trained_on() -> None:
    source = GeneratedTraces(seed=0)
    trained = set.union(*(instances(source.batch(step)) for step in STEPS))
    evaluated = set.union(*map(instances, evaluation_batches(16)))
    assert len(evaluated) == 16
    assert not trained & evaluated


# ---- Recorded


@pytest.fixture(scope="module")
def trace_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 training and 5 test traces, in shards."""
    out = tmp_path_factory.mktemp("sets") / "set"
    generate_set(out, count=70, test_count=5, max_length=9, seed=1)
    return out


def recorded(folder: Path, seed: int = 0, **options: Any) -> RecordedTraces:
    return RecordedTraces(folder, seed=seed, max_patches=512, **options)


def part(folder: Path) -> set[int]:
    (path,) = folder.glob("*.shard")
    return set(open_shard(path).hashes.tolist())


def test_recorded_batches_are_right_and_all_of_one_shape(trace_set: Path) -> None:
    source = recorded(trace_set)
    batches = [source.batch(step) for step in range(5)]
    for batch in batches:
        assert_right(batch)
        assert batch.patches_BPS.shape[1] == sequence_length(9)
    assert len({tuple(tensor.shape for tensor in batch) for batch in batches}) == 1


def test_an_epoch_draws_every_trace_once_and_the_next_in_another_order(trace_set: Path) -> None:
    source = recorded(trace_set)
    source._count = 7
    epochs = [[instances(source.batch(step)) for step in range(n, n + 10)] for n in (0, 10)]
    for epoch in epochs:
        assert all(len(batch) == 7 for batch in epoch)
        assert set.union(*epoch) == part(trace_set / "train")
    assert epochs[0] != epochs[1]


def test_a_batch_may_reach_into_the_next_epoch(trace_set: Path) -> None:
    source = recorded(trace_set)
    source._count = 40
    first, second = instances(source.batch(0)), instances(source.batch(1))
    assert len(second - first) >= 30
    assert first | second == part(trace_set / "train")


def test_a_recorded_batch_is_a_function_of_set_seed_and_step_alone(trace_set: Path) -> None:
    one = recorded(trace_set, seed=5)
    batches = [one.batch(step) for step in range(4)]
    other = recorded(trace_set, seed=5)
    for step in (3, 0, 2, 1):
        assert same(other.batch(step), batches[step])
    assert not same(recorded(trace_set, seed=6).batch(0), batches[0])


def test_the_test_part_evaluates(trace_set: Path) -> None:
    batches = recorded(trace_set).evaluation()
    assert set.union(*map(instances, batches)) == part(trace_set / "test")
    for batch in batches:
        assert_right(batch)
        assert_all_are_targets(batch)
    few = recorded(trace_set, evaluation_programs=3).evaluation()
    assert sum(batch.patches_BPS.shape[0] for batch in few) == 3


def test_without_a_test_part_generated_programs_evaluate(trace_set: Path) -> None:
    source = recorded(trace_set / "train", evaluation_programs=4)
    for batch, generated in zip(source.evaluation(), evaluation_batches(4), strict=True):
        assert same(batch, generated)


def test_single_files_train_like_shards(trace_set: Path, tmp_path: Path) -> None:
    generate_set(tmp_path / "set", count=70, test_count=5, max_length=9, seed=1, layout="files")
    one, other = recorded(trace_set), recorded(tmp_path / "set")
    for step in range(3):
        assert same(one.batch(step), other.batch(step))


def test_a_set_is_known_by_its_content(trace_set: Path, tmp_path: Path) -> None:
    generate_set(tmp_path / "again", count=70, max_length=9, seed=1)
    generate_set(tmp_path / "other", count=70, max_length=9, seed=2)
    prints = [
        recorded(folder).describe()["fingerprint"]
        for folder in (trace_set, tmp_path / "again", tmp_path / "other")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_what_holds_no_traces_is_refused(trace_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: is no folder of traces; make one with"):
        recorded(tmp_path / "none")
    with pytest.raises(UserError, match=r"set\.json: is no folder"):
        recorded(trace_set / "set.json")
    with pytest.raises(UserError, match=r"holds no traces .* make some with `cpusim generate`"):
        recorded(tmp_path)
    (tmp_path / "00000.shard").write_bytes(b"CPUTRACE")
    with pytest.raises(UserError, match=r"00000\.shard: "):
        recorded(tmp_path)


def test_a_trace_longer_than_the_model_reads_is_refused_at_the_start(
    trace_set: Path, tmp_path: Path
) -> None:
    needed = sequence_length(9)
    RecordedTraces(trace_set, seed=0, max_patches=needed)
    with pytest.raises(UserError, match=f"is a sequence of {needed} patches, and the model takes"):
        RecordedTraces(trace_set, seed=0, max_patches=needed - 1)
    records = np.zeros((3000, STATE_SIZE), np.uint8)
    write_trace(tmp_path / "long.bin", bytes(MEMORY_SIZE), records)
    with pytest.raises(UserError, match="a sequence of 3,066 patches"):
        recorded(tmp_path)
    for side, count in (("train", 5), ("test", 3000)):
        (tmp_path / "set" / side).mkdir(parents=True)
        write_trace(tmp_path / "set" / side / "a.bin", bytes(MEMORY_SIZE), records[:count])
    with pytest.raises(UserError, match="test: its longest trace is a sequence of 3,066"):
        recorded(tmp_path / "set")
    with pytest.raises(UserError, match=r"the longest program's is 323; use a model"):
        source_like({}, seed=0, max_patches=322)


@pytest.mark.parametrize("size", [0, MEMORY_SIZE, MEMORY_SIZE + STATE_SIZE + 1])
def test_a_damaged_trace_is_refused_at_the_start(size: int, tmp_path: Path) -> None:
    write_trace(tmp_path / "a.bin", bytes(MEMORY_SIZE), np.zeros((3, STATE_SIZE), np.uint8))
    (tmp_path / "b.bin").write_bytes(bytes(size))
    with pytest.raises(UserError, match=rf"b\.bin: {size:,} bytes is .*truncated or no trace$"):
        recorded(tmp_path)


def test_a_trace_that_ends_in_an_illegal_instruction_is_counted(tmp_path: Path) -> None:
    records = np.zeros((3, STATE_SIZE), np.uint8)
    records[1, IR] = 255
    write_trace(tmp_path / "a.bin", bytes(MEMORY_SIZE), records)
    source = recorded(tmp_path)
    batch = source.batch(0)
    hits = np.ones((len(batch.targets_N), STATE_SIZE), bool)
    assert "form illegal" in source.groups(batch, hits)


# ---- Made again from what they say of themselves


def test_a_source_is_made_again_from_its_description(trace_set: Path) -> None:
    curriculum = tuple(replace(stage, count=2) for stage in CURRICULUM)
    sources: list[Source] = [
        GeneratedTraces(7),
        GeneratedTraces(7, "uniform", curriculum),
        recorded(trace_set, seed=7),
    ]
    for source in sources:
        description = json.loads(json.dumps(source.describe()))
        again = source_like(description, seed=7, max_patches=512)
        assert json.loads(json.dumps(again.describe())) == description
        assert same(again.batch(2), source.batch(2))


def test_what_is_given_goes_before_the_description(trace_set: Path) -> None:
    generated, from_set = GeneratedTraces(7).describe(), recorded(trace_set, seed=7).describe()
    one = source_like(generated, seed=8, max_patches=512, folder=trace_set)
    assert one.describe() == recorded(trace_set, seed=8).describe()
    other = source_like(from_set, seed=8, max_patches=512, distribution="published")
    assert other.describe() == GeneratedTraces(8, "published").describe()
    assert source_like({}, seed=0, max_patches=512).describe() == GeneratedTraces(0).describe()


def test_a_description_of_other_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"the run's data \(photos\) are not CPU traces"):
        source_like({"kind": "photos", "curriculum": [{"x": 1}]}, seed=0, max_patches=512)
