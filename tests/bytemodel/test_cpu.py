"""The byte model as a Stepper: verification in one pass and cached generation say the same.

The models are random. What such a model writes when it runs free is as good a reference
for itself as any: it is exact against that, and a byte altered in the reference must be found.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemodel import checkpoint, cpu
from bytemodel.config import PRESETS, ModelConfig
from bytemodel.cpu import ByteModelStepper, load_stepper, shipped_checkpoint
from bytemodel.cpu_data import FIRST_STATE, trace_patches
from bytemodel.model import ByteModel
from cpusim.errors import UserError
from cpusim.isa import STATE_SIZE
from cpusim.lockstep import (
    END,
    END_TOKEN,
    Bytes,
    Case,
    Kind,
    OracleStepper,
    Predictions,
    Rollout,
    Tokens,
    compare,
    is_state,
    record,
    run_free,
)
from cpusim.programs import generate

STEPS = 20


def random_model(family: str, seed: int = 0, **changes: int) -> ByteModel:
    """A tiny model with weights so large that what it says varies a lot."""
    values = dataclasses.asdict(PRESETS["tiny"]) | {"family": family} | changes
    if family == "published":
        values |= {"byte_width": 64, "byte_heads": 2, "retrieval": False}
    torch.manual_seed(seed)
    model = ByteModel(ModelConfig.from_dict(values))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


STEPPERS = {
    family: ByteModelStepper(random_model(family), name=f"random {family}")
    for family in ("local", "published")
}
STEPPERS["matching"] = ByteModelStepper(random_model("local", seed=1, matching=True), name="random")


def starts(count: int, seed: int = 3) -> list[Case]:
    made = generate(count, seed=seed)
    return [
        Case(f"p{i}", memory, state[None])
        for i, (memory, state) in enumerate(zip(made.memories, made.states, strict=True))
    ]


class StepOnly:
    """The required part of a Stepper alone, without what its calls leave in a cache."""

    def __init__(self, stepper: ByteModelStepper) -> None:
        self.name = "fresh"
        self.model = stepper.model

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        return ByteModelStepper(self.model).step(memory, states)


@functools.cache
def own(family: str) -> list[Case]:
    """What the model itself does from three starts, up to anything that is no state."""
    prompts = starts(3)
    rollouts = dict(STEPPERS[family].run(prompts, [STEPS] * 3))
    traces = []
    for index, start in enumerate(prompts):
        states = [said for said in rollouts[index].tokens if is_state(said)]
        records = np.concatenate([start.records, np.array(states, np.uint8)])
        traces.append(dataclasses.replace(start, records=records))
    return traces


def same(one: Rollout, other: Rollout) -> bool:
    return np.array_equal(one.tokens, other.tokens) and one.refusal == other.refusal


# ---- Both answers


@pytest.mark.parametrize("family", STEPPERS)
def test_model_is_exact_against_its_own_traces_however_it_is_asked(family: str) -> None:
    stepper = STEPPERS[family]
    assert min(len(trace.records) for trace in own(family)) > STEPS // 2
    for candidate in (stepper, StepOnly(stepper)):
        for rollout in (False, True):
            result = compare(own(family), candidate, rollout=rollout)
            assert result.agree
            assert result.instructions == sum(trace.steps for trace in own(family))


@settings(max_examples=15)
@given(st.sampled_from(sorted(STEPPERS)), st.data())
def test_verification_and_free_running_name_the_same_first_difference(
    family: str, data: st.DataObject
) -> None:
    traces = []
    altered = []
    for trace in own(family):
        step = data.draw(st.integers(1, trace.steps))
        field = data.draw(st.integers(0, STATE_SIZE - 1))
        records = trace.records.copy()
        records[step, field] ^= data.draw(st.integers(1, 255))
        altered.append((step, field))
        # Behind the altered byte the trace goes on as if nothing had happened, so that what
        # the resynchronised model says there is another matter.
        traces.append(dataclasses.replace(trace, records=records))
    stepper = STEPPERS[family]
    verified, rolled = (compare(traces, stepper, rollout=rollout) for rollout in (False, True))
    for one, other, (step, field) in zip(verified.results, rolled.results, altered, strict=True):
        assert one.difference is not None
        assert other.difference is not None
        assert one.difference.step == other.difference.step == step
        assert one.difference.fields[0] == other.difference.fields[0] == field
        assert one.wrong_steps == other.wrong_steps
    assert not rolled.unconfirmed


@pytest.mark.parametrize("family", STEPPERS)
def test_against_the_cpu_both_ways_name_the_same_first_difference(family: str) -> None:
    traces = record(OracleStepper(), starts(6))
    results = [compare(traces, STEPPERS[family], rollout=rollout) for rollout in (False, True)]
    steps = [[one.difference.step for one in r.results if one.difference] for r in results]
    assert steps[0] == steps[1] == [1] * 6


@settings(max_examples=10)
@given(st.sampled_from(sorted(STEPPERS)), st.integers(1, 10))
def test_a_late_start_is_answered_the_same_both_ways(family: str, from_step: int) -> None:
    stepper = STEPPERS[family]
    for rollout in (False, True):
        assert compare(own(family), stepper, rollout=rollout, from_step=from_step).agree


def test_running_in_bulk_is_what_single_steps_give() -> None:
    # Seed 9 gives a model whose traces break off in different places.
    stepper = ByteModelStepper(random_model("local", seed=9))
    prompts, limits = starts(6), [1, 3, 30, 30, 30, 12]
    bulk = dict(stepper.run(prompts, limits))
    single = dict(run_free(StepOnly(stepper), prompts, limits))
    assert bulk.keys() == single.keys() == set(range(6))
    assert len({len(rollout.tokens) for rollout in bulk.values()}) > 2
    assert all(same(bulk[index], single[index]) for index in bulk)


def test_more_programs_than_run_at_once_are_all_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = STEPPERS["local"]
    prompts = [*starts(5), *(dataclasses.replace(t, records=t.records[:4]) for t in own("local"))]
    limits = [5, 2, 4, 5, 3, 2, 2, 2]
    whole = dict(stepper.run(prompts, limits))
    monkeypatch.setattr(cpu, "_STREAMS", 2)
    monkeypatch.setitem(cpu._PATCHES_PER_BATCH, "cpu", 1)
    split = dict(stepper.run(prompts, limits))
    assert split.keys() == whole.keys() == set(range(8))
    assert all(same(split[index], whole[index]) for index in whole)
    one_by_one = dict(stepper.verify(own("local")))
    monkeypatch.undo()
    for index, predictions in stepper.verify(own("local")):
        np.testing.assert_array_equal(predictions.tokens, one_by_one[index].tokens)


def test_a_step_does_not_depend_on_the_calls_before_it() -> None:
    stepper = ByteModelStepper(STEPPERS["local"].model)
    one, other = own("local")[:2]
    for trace, known in ((one, 3), (one, 4), (one, 4), (one, 2), (other, 4), (one, 9)):
        said = stepper.step(trace.memory, trace.records[:known])
        np.testing.assert_array_equal(said, trace.expected(known))


# ---- Guesses


@pytest.mark.parametrize("family", STEPPERS)
def test_a_guess_is_the_step_with_the_probabilities_it_was_chosen_from(family: str) -> None:
    stepper, trace = STEPPERS[family], own(family)[0]
    for known in (1, 2, 7):
        states = trace.records[:known]
        said, probabilities = stepper.guess(trace.memory, states)
        np.testing.assert_array_equal(said, StepOnly(stepper).step(trace.memory, states))
        np.testing.assert_array_equal(said, probabilities.argmax(-1))
        # One pass over what it said, each token from those before it.
        records = np.concatenate([states, said[None].astype(np.uint8)])
        patches = torch.from_numpy(trace_patches(trace.memory, records))[None]
        with torch.inference_mode():
            logits = stepper.model(patches, torch.tensor([FIRST_STATE + known]))
        np.testing.assert_allclose(probabilities, logits[0].softmax(-1).numpy(), atol=1e-5)


def test_a_guess_that_ends_leaves_nothing_but_the_end_behind() -> None:
    stepper = ByteModelStepper(random_model("local", seed=7))
    start = starts(1)[0]
    ((_, rollout),) = stepper.run([start], [30])
    states = np.concatenate([start.records, rollout.tokens[:-1].astype(np.uint8)])
    said, probabilities = stepper.guess(start.memory, states)
    np.testing.assert_array_equal(said, rollout.tokens[-1])
    ends = int(np.argmax(said == END_TOKEN))
    assert (probabilities[ends + 1 :, END_TOKEN] == 1).all()
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_a_refused_call_leaves_the_next_one_as_it_would_have_been() -> None:
    stepper = ByteModelStepper(random_model("published", max_patches=72))
    trace = own("published")[0]
    stepper.step(trace.memory, trace.records[:3])
    with pytest.raises(UserError):
        stepper.step(trace.memory, np.repeat(trace.records[:1], 12, axis=0))
    said = stepper.step(trace.memory, trace.records[:4])
    fresh = ByteModelStepper(stepper.model).step(trace.memory, trace.records[:4])
    np.testing.assert_array_equal(said, fresh)


# ---- What verification returns


@pytest.mark.parametrize("family", STEPPERS)
def test_probabilities_are_the_softmax_of_the_models_logits(family: str) -> None:
    stepper, trace = STEPPERS[family], own(family)[0]
    ((_, predictions),) = stepper.verify([trace])
    patches = torch.from_numpy(trace_patches(trace.memory, trace.records))[None]
    targets = torch.arange(66, patches.shape[1])
    with torch.inference_mode():
        probabilities = stepper.model(patches, targets).softmax(-1).numpy()
    assert predictions.expected_probability is not None
    assert predictions.predicted_probability is not None
    rows = np.arange(len(trace.records))[:, None], np.arange(STATE_SIZE)
    wanted = np.concatenate([trace.records[1:].astype(int), END[None].astype(int)])
    np.testing.assert_allclose(
        predictions.expected_probability, probabilities[*rows, wanted], atol=1e-6
    )
    np.testing.assert_allclose(predictions.predicted_probability, probabilities.max(-1), atol=1e-6)
    right = predictions.tokens == wanted
    assert right[:-1].all()
    np.testing.assert_array_equal(
        predictions.expected_probability[right], predictions.predicted_probability[right]
    )


def test_a_trace_is_verified_alone_as_among_longer_ones() -> None:
    stepper = STEPPERS["local"]
    traces = [
        dataclasses.replace(trace, records=trace.records[:length])
        for trace, length in zip(own("local"), (2, 9, 14), strict=True)
    ]
    together = dict(stepper.verify(traces))
    for index, trace in enumerate(traces):
        ((_, alone),) = stepper.verify([trace])
        assert alone.tokens.shape == trace.records.shape
        np.testing.assert_array_equal(together[index].tokens, alone.tokens)


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(1, 9), min_size=1, max_size=60)
)
def test_recut_rows_keep_their_order_in_lots_of_the_sizes_asked(
    parts: list[int], sizes: list[int]
) -> None:
    rows = torch.arange(2 * sum(parts)).view(-1, 2)
    pieces = ((part, part[:, 1]) for part in rows.split(parts))
    lots = list(cpu._recut(pieces, sizes))
    kept = sum(len(lot) for lot, _ in lots)
    assert kept == min(sum(parts), sum(sizes))
    assert [len(lot) for lot, _ in lots[:-1]] == sizes[: len(lots)][:-1]
    if lots:
        assert torch.equal(torch.cat([lot for lot, _ in lots]), rows[:kept])
        assert torch.equal(torch.cat([second for _, second in lots]), rows[:kept, 1])


# ---- Compiling


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("compiled")


@pytest.fixture
def eager_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", refuse)


def same_predictions(one: Predictions, other: Predictions) -> None:
    np.testing.assert_array_equal(one.tokens, other.tokens)
    for mine, its in (
        (one.expected_probability, other.expected_probability),
        (one.predicted_probability, other.predicted_probability),
    ):
        assert mine is not None
        assert its is not None
        np.testing.assert_allclose(mine, its, atol=1e-5)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="nothing compiles without gcc")
def test_a_compiled_byte_level_says_what_the_plain_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traces = own("local")
    plain = dict(STEPPERS["local"].verify(traces))
    states = sum(len(trace.records) for trace in traces)
    # Whole lots, one that is filled up, and one that is too small for that.
    monkeypatch.setitem(cpu._STATES_PER_PASS, "cpu", 8)
    monkeypatch.setattr(cpu, "_WORTH_COMPILING", 2 * states)
    stepper = ByteModelStepper(STEPPERS["local"].model)
    for _ in range(2):
        found = dict(stepper.verify(traces))
        assert found.keys() == plain.keys()
        for index, predictions in found.items():
            same_predictions(predictions, plain[index])
    assert stepper._predict != stepper.model.predict
    for length in (3, 6):
        cut = dataclasses.replace(traces[0], records=traces[0].records[:length])
        ((_, short),) = stepper.verify([cut])
        # Its last row is told of an end where the whole trace goes on.
        np.testing.assert_array_equal(short.tokens[:-1], plain[0].tokens[: length - 1])


@pytest.mark.usefixtures("eager_for_ever")
def test_few_states_are_not_worth_compiling() -> None:
    stepper = ByteModelStepper(STEPPERS["local"].model)
    for _ in range(3):
        list(stepper.verify(own("local")))


@pytest.mark.usefixtures("eager_for_ever")
def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_WORTH_COMPILING", 0)
    monkeypatch.setenv("PATH", "")
    list(ByteModelStepper(STEPPERS["local"].model).verify(own("local")))


def test_a_compiler_that_fails_is_tried_once_and_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = dict(STEPPERS["local"].verify(own("local")))
    tried = []

    def broken(*_: object) -> None:
        tried.append(1)
        raise torch._dynamo.exc.BackendCompilerFailed(broken, OSError("no Python.h"), None)

    monkeypatch.setattr(shutil, "which", lambda _: "gcc")
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    monkeypatch.setitem(cpu._STATES_PER_PASS, "cpu", 8)
    monkeypatch.setattr(cpu, "_WORTH_COMPILING", 0)
    stepper = ByteModelStepper(STEPPERS["local"].model)
    for _ in range(2):
        for index, predictions in stepper.verify(own("local")):
            np.testing.assert_array_equal(predictions.tokens, plain[index].tokens)
    assert tried == [1]


# ---- Breaking off


def test_a_trace_that_the_model_breaks_off_is_a_difference_of_that_kind() -> None:
    stepper = ByteModelStepper(random_model("local", seed=7))
    start = starts(1)[0]
    ((_, rollout),) = stepper.run([start], [30])
    last = rollout.tokens[-1]
    assert END_TOKEN in last
    records = np.concatenate(
        [start.records, rollout.tokens[:-1].astype(np.uint8), np.zeros((1, STATE_SIZE), np.uint8)]
    )
    # The first bytes agree, so the first difference is where the model breaks off.
    broken = int(np.argmax(last == END_TOKEN))
    records[-1, :broken] = last[:broken]
    trace = dataclasses.replace(start, records=records)
    for rolled in (False, True):
        difference = compare([trace], stepper, rollout=rolled).results[0].difference
        assert difference is not None
        assert difference.kind is (Kind.MIXED if broken else Kind.EARLY_END)
        np.testing.assert_array_equal(difference.predicted, last)


# ---- Limits and files


def test_a_trace_that_just_fits_is_verified_to_its_end_and_a_longer_one_is_cut() -> None:
    stepper = ByteModelStepper(random_model("published", max_patches=72))
    assert stepper.max_records == 6
    # 66 patches before record 1, so 6 records and the end fill 72.
    made = generate(1, seed=5, min_length=5, max_length=5)
    exact = record(OracleStepper(), [Case("p", made.memories[0], made.states)])[0]
    for rollout in (False, True):
        result = compare([exact], stepper, rollout=rollout)
        assert (len(exact.records), result.instructions) == (6, 6)
    made = generate(1, seed=5, min_length=6, max_length=6)
    longer = record(OracleStepper(), [Case("p", made.memories[0], made.states)])[0]
    for rollout in (False, True):
        result = compare([longer], stepper, rollout=rollout)
        assert (result.instructions, result.results[0].case.ends) == (5, False)
        assert "6 records" in result.results[0].case.open_because
    with pytest.raises(UserError, match="73 patches"):
        stepper.step(longer.memory, np.repeat(longer.records, 2, axis=0)[:8])


def test_a_model_whose_patches_are_no_states_is_refused() -> None:
    model = ByteModel(dataclasses.replace(PRESETS["tiny"], patch_size=8))
    with pytest.raises(UserError, match=r"odd\.pt: has patches of 8 bytes, and a CPU state has 16"):
        ByteModelStepper(model, name="odd.pt")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_a_checkpoint_is_loaded_and_answers_in_the_precision_asked(
    tmp_path: Path, dtype: str
) -> None:
    path = tmp_path / "tiny.pt"
    checkpoint.save(path, STEPPERS["local"].model, info={})
    stepper = load_stepper(path, dtype)
    assert stepper.name == f"model:{path}"
    if dtype != "auto":
        assert stepper.dtype == getattr(torch, dtype)
    ((_, found),) = stepper.verify(own("local")[:1])
    ((_, exact),) = STEPPERS["local"].verify(own("local")[:1])
    if dtype == "float32":
        np.testing.assert_array_equal(found.tokens, exact.tokens)
    assert close(found, exact)


def close(one: Predictions, other: Predictions) -> bool:
    """Whether two precisions say about the same."""
    assert one.expected_probability is not None
    assert other.expected_probability is not None
    return bool(np.abs(one.expected_probability - other.expected_probability).mean() < 0.1)


def test_an_installation_without_weights_says_how_to_make_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "SHIPPED", tmp_path / "cpu-small.pt")
    with pytest.raises(UserError, match=r"no trained weights; make some with `bgpt train cpu"):
        shipped_checkpoint()
    (tmp_path / "cpu-small.pt").touch()
    assert shipped_checkpoint() == tmp_path / "cpu-small.pt"


def test_a_model_too_short_for_two_states_is_refused() -> None:
    config = dataclasses.replace(PRESETS["tiny"], max_patches=FIRST_STATE + 2)
    with pytest.raises(UserError, match=f"two states and an end are {FIRST_STATE + 3}; use a"):
        ByteModelStepper(ByteModel(config))
    config = dataclasses.replace(config, max_patches=FIRST_STATE + 3)
    assert ByteModelStepper(ByteModel(config)).max_records == 2
