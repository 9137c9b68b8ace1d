"""Classification: features, labelled files, learning, and the figures that judge it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bytemodel import checkpoint
from bytemodel.checkpoint import CheckpointError
from bytemodel.classifier import (
    BUCKETS,
    DETECTORS,
    DRAWS,
    FEWEST_CLOSELY,
    MOST_CLOSELY,
    MOST_WINDOWS,
    PARTS,
    RUNS,
    Classifier,
    classify,
    classify_all,
    counted,
    file_patches,
    read_closely,
    window,
)
from bytemodel.classify import (
    Confusion,
    classification,
    evaluate_files,
    loss_and_hits,
    mixed_loss_and_hits,
    mixtures,
    plot,
    training_config,
)
from bytemodel.labelled import _POOL, BATCH, LabelledSource, find_labelled
from bytemodel.linear import fitted
from bytemodel.metrics import read_metrics
from bytemodel.patches import PAD
from bytemodel.placed import MOST_PLACES, Placed
from bytemodel.train import Outcome, read_config, train
from cpusim.errors import UserError
from tests.bytemodel.kinds import write_files
from tests.bytemodel.models import FAMILIES, SMALLEST, random_model
from tests.bytemodel.runs import Records

SIZE = SMALLEST.patch_size


def random_classifier(labels: tuple[str, ...] = ("a", "b", "c"), **changes: int) -> Classifier:
    torch.manual_seed(3)
    return Classifier.of(random_model("local", **changes), labels).eval()


# The model ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_pooled_over_a_files_own_patches_whatever_pads_the_batch(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bytemodel.classifier.read_closely", lambda _count: 14)
    model = random_model(family)  # type: ignore[arg-type]
    classifier = Classifier.of(model, ["a", "b"]).eval()
    files = [file_patches(bytes(range(n)), "bin", SIZE) for n in (3, 30, 11)]
    batch = np.full((3, 14, SIZE), PAD)
    for row, patches in zip(batch, files, strict=True):
        row[: len(patches)] = patches
    lengths = torch.tensor([len(patches) for patches in files])
    found = classifier(torch.from_numpy(batch), lengths)
    for row, patches in zip(found, files, strict=True):
        tokens = torch.from_numpy(patches)
        features = model.patch_decoder(tokens[None])[0]
        targets = torch.arange(1, len(tokens))
        conditions = model.read(tokens[None]).at(targets - 1)
        states = model.states(conditions, tokens[targets], model.matches(tokens[None], targets))
        states = states[tokens[targets] != PAD]
        found = torch.relu(classifier.detectors(torch.rms_norm(states, states.shape[-1:])))
        parts = [features.new_zeros(0, features.shape[1])] * PARTS
        for place, feature in enumerate(features):
            part = PARTS * place // len(features)
            parts[part] = torch.cat([parts[part], feature[None]])
        means = [part.mean(0) if len(part) else features.new_zeros(part.shape[1]) for part in parts]
        whole = features.mean(0), features.amax(0), features[-1]
        read = torch.cat((*whole, *means, found.mean(0), found.amax(0)))
        torch.testing.assert_close(row, classifier.deep(read[None])[0], atol=1e-4, rtol=1e-4)


def test_what_is_not_read_closely_counts_for_nothing(tmp_path: Path) -> None:
    classifier = random_classifier()
    tokens = torch.from_numpy(file_patches(b"to be or not to be", "txt", SIZE))[None]
    lengths = torch.tensor([tokens.shape[1]])
    closely = classifier.pooled(tokens, lengths)
    classifier.leave_out_bytes()
    found = classifier.pooled(tokens, lengths)
    assert torch.equal(found[:, : -2 * DETECTORS], closely[:, : -2 * DETECTORS])
    assert found[:, -2 * DETECTORS :].count_nonzero() == 0
    checkpoint.save(tmp_path / "c.pt", classifier, info={})
    loaded = checkpoint.load_classifier(tmp_path / "c.pt").model
    assert not loaded.closely
    loaded.train()(tokens, lengths).sum().backward()
    for name, parameter in loaded.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    loaded.eval()
    assert torch.equal(loaded(tokens, lengths), classifier(tokens, lengths))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_asked_of_the_first_bytes_is_saved_with_the_rest(
    dtype: torch.dtype | None, tmp_path: Path
) -> None:
    classifier = random_classifier()
    # A number that bfloat16 does not have.
    classifier.ask_also(Placed(1027, len(classifier.labels)).eval())
    tokens = torch.from_numpy(file_patches(b"to be or not to be", "txt", SIZE))[None]
    lengths = torch.tensor([tokens.shape[1]])
    checkpoint.save(tmp_path / "c.pt", classifier, info={}, dtype=dtype)
    loaded = checkpoint.load_classifier(tmp_path / "c.pt").model
    assert loaded.placed is not None
    assert loaded.placed.places == 1027
    rounded = 0.05 if dtype else 0
    found = loaded(tokens, lengths)
    torch.testing.assert_close(found, classifier(tokens, lengths), atol=rounded, rtol=rounded)
    plain = random_classifier()
    plain.load_state_dict(classifier.state_dict())
    assert torch.equal(plain(tokens, lengths), classifier(tokens, lengths))


def test_only_the_beginning_of_a_long_file_is_asked_what_stands_where() -> None:
    classifier = random_classifier()
    longest = classifier.config.max_patches
    data = bytes(range(200))
    patches = file_patches(data, "txt", SIZE)
    plain = classify(classifier, data, "txt")
    placed = Placed(7, len(classifier.labels)).eval()
    classifier.ask_also(placed)
    starts = np.linspace(0, len(patches) - longest, 3).round().astype(int).tolist()
    windows = torch.from_numpy(np.stack([window(patches, start, longest) for start in starts]))
    lengths = torch.full((3,), longest)
    classifier.placed = None
    logits = classifier(windows, lengths)
    classifier.ask_also(placed)
    logits[0] = (logits[0] + placed(torch.arange(7, dtype=torch.uint8)[None])[0]) / 2
    found = classify(classifier, data, "txt")
    np.testing.assert_allclose(found, logits.mean(0).softmax(0).detach().numpy(), atol=1e-5)
    assert abs(found - plain).max() > 1e-3


@pytest.mark.parametrize(
    "state",
    [
        *(None, torch.tensor(1), torch.tensor([1, -1]), torch.tensor([2, 0])),
        *(torch.tensor([1.0, 0.5]), torch.tensor([1, MOST_PLACES + 1])),
        *(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.inf]), "state"),
    ],
)
def test_a_classifier_that_does_not_say_what_it_reads_is_refused(
    state: object, tmp_path: Path
) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, random_classifier(), info={})
    content = torch.load(path, weights_only=True)
    content["model"]["_extra_state"] = state
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="does not say what its classifier reads of a file"):
        checkpoint.load_classifier(path)


@given(st.lists(st.integers(1, 24), min_size=1, max_size=5), st.integers(1, 9), st.booleans())
def test_of_a_long_file_some_patches_are_read_closely_and_of_a_short_one_all(
    sizes: list[int], closely: int, training: bool
) -> None:
    classifier = random_classifier().train(training)
    longest = max(*sizes, 2)
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr("bytemodel.classifier.read_closely", lambda _count: closely)
        read, counted = classifier._read_closely(torch.tensor(sizes), longest)
    draws = 1 if training or closely >= longest - 1 else DRAWS
    assert read.shape[:2] == (len(sizes), draws)
    for size, draws, reals in zip(sizes, read, counted, strict=True):
        for places, real in zip(draws, reals, strict=True):
            chosen = places[real].tolist()
            assert len(chosen) == len(set(chosen)) == min(size - 1, closely, longest - 1)
            assert all(1 <= place < size for place in chosen)
            assert all(1 <= place < longest for place in places.tolist())
            gaps = np.diff([0, *chosen, size])
            assert gaps.max() <= 2 * max(1, (size - 1) / min(closely, longest - 1)) + 1


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_runs_are_counted_as_plainly_whatever_pads_the_batch(files: list[bytes]) -> None:
    read = [file_patches(data, "bin", SIZE) for data in files]
    batch = np.full((len(read), max(map(len, read)), SIZE), PAD)
    expected = np.zeros((len(read), len(RUNS), BUCKETS))
    for row, expected_row, patches, data in zip(batch, expected, read, files, strict=True):
        row[: len(patches)] = patches
        for run, counts in zip(RUNS, expected_row, strict=True):
            for end in range(run, len(data) + 1):
                bucket = 0
                for byte in data[end - run : end]:
                    bucket = (bucket * 0x01000193 + byte + 1) % 2**32
                counts[bucket * 0x5BD1E995 % 2**32 // (2**32 // BUCKETS)] += 1
    expected = np.log1p(expected)
    lengths = np.linalg.norm(expected, axis=2, keepdims=True)
    expected = np.divide(expected, lengths, out=expected, where=lengths > 0)
    found = counted(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(found, expected.reshape(len(read), -1), atol=1e-6)


def test_logits_are_the_sum_of_what_is_pooled_and_but_for_training_of_what_is_counted() -> None:
    classifier = random_classifier()
    torch.nn.init.normal_(classifier.wide.weight)
    tokens = torch.from_numpy(file_patches(b"to be or not to be", "txt", SIZE))[None]
    lengths = torch.tensor([tokens.shape[1]])
    scale = 8 / math.sqrt(classifier.head.in_features)
    deep = classifier.head(classifier.pooled(tokens, lengths) * scale)
    wide = counted(tokens) @ classifier.wide.weight.T
    assert wide.abs().max() > 0.1
    torch.testing.assert_close(classifier(tokens, lengths), deep + wide)
    torch.testing.assert_close(classifier.train()(tokens, lengths), deep)


def test_the_longer_a_window_the_fewer_of_its_patches_are_read_closely() -> None:
    shares = [read_closely(count) for count in range(1, 2000)]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (MOST_CLOSELY, FEWEST_CLOSELY)
    assert read_closely(100) == 20


def test_each_draw_outside_of_training_is_pooled_as_one_in_training_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bytemodel.classifier.read_closely", lambda _count: 3)
    classifier = random_classifier(max_patches=32)
    tokens = torch.from_numpy(file_patches(bytes(range(120)), "bin", SIZE))[None]
    lengths = torch.tensor([tokens.shape[1]])
    drawn, counted = classifier.eval()._read_closely(lengths, tokens.shape[1])
    assert len({tuple(places) for places in drawn[0].tolist()}) == DRAWS
    together = classifier(tokens, lengths)
    alone = []
    for places, real in zip(drawn[0], counted[0], strict=True):
        monkeypatch.setattr(
            classifier,
            "_read_closely",
            lambda *_, one=(places[None, None], real[None, None]): one,
        )
        alone.append(classifier(tokens, lengths))
    assert not torch.allclose(alone[0], alone[-1], atol=1e-5)
    torch.testing.assert_close(together, torch.stack(alone).mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("patches", [0, 5, 6, 7, 12, 13, 100])
def test_a_long_file_is_the_mean_of_windows_that_cover_it_evenly(patches: int) -> None:
    classifier = random_classifier(max_patches=8)
    data = np.random.default_rng(patches).bytes(patches * SIZE)
    whole = file_patches(data, "bin", SIZE)
    seen: list[torch.Tensor] = []
    classifier.register_forward_hook(lambda _, inputs, __: seen.extend(inputs[0]))
    chances = classify(classifier, data, "bin")
    assert chances.shape == (3,)
    assert chances.sum() == pytest.approx(1)
    assert len(seen) == min(MOST_WINDOWS, max(1, -(-(len(whole) - 1) // 7)))
    for patches in seen:
        np.testing.assert_array_equal(patches[0], whole[0])
    np.testing.assert_array_equal(seen[0], whole[: len(seen[0])])
    np.testing.assert_array_equal(seen[-1][1:], whole[1:][-(len(seen[-1]) - 1) :])
    if len(seen) < MOST_WINDOWS:
        rows = {tuple(row) for window in seen for row in window.tolist()}
        assert rows == set(map(tuple, whole.tolist()))


def test_many_files_side_by_side_get_what_each_gets_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bytemodel.classifier._WINDOWS_AT_ONCE", 7)
    monkeypatch.setattr("bytemodel.classifier._PATCHES_AT_ONCE", 40)
    monkeypatch.setattr("bytemodel.classifier.MOST_CLOSELY", 6)
    monkeypatch.setattr("bytemodel.classifier.FEWEST_CLOSELY", 2)
    monkeypatch.setattr("bytemodel.classifier._CLOSE_PRODUCT", 40)
    classifier = random_classifier(max_patches=16)
    rng = np.random.default_rng(0)
    files = [(rng.bytes(int(size)), "bin") for size in rng.integers(0, 24 * SIZE, 40)]
    told: list[int] = []
    found = classify_all(classifier, iter(files), progress=told.append)
    for chances, file in zip(found, files, strict=True):
        np.testing.assert_allclose(chances, classify(classifier, *file), atol=1e-5)
    assert told == sorted(told)
    assert told[-1] == len(files)
    assert classify_all(classifier, []).shape == (0, 3)


def test_any_extension_is_read_and_the_empty_file_has_a_label_too() -> None:
    classifier = random_classifier()
    for kind in ("", "bin", "much-too-long-for-a-patch", "\udcff"):
        assert np.isfinite(classify(classifier, b"", kind)).all()
    rough = classify(classifier, b"hello", "txt", dtype=torch.bfloat16)
    np.testing.assert_allclose(rough, classify(classifier, b"hello", "txt"), atol=0.1)


# Checkpoints --------------------------------------------------------------------------


def test_a_classifier_is_saved_with_its_labels_and_never_taken_for_a_byte_model(
    tmp_path: Path,
) -> None:
    classifier, path = random_classifier(("x", "ü", "\udcff")), tmp_path / "c.pt"
    checkpoint.save(path, classifier, info={"a": 1})
    loaded = checkpoint.load_classifier(path)
    assert loaded.model.labels == classifier.labels
    assert loaded.info == {"a": 1}
    np.testing.assert_array_equal(
        classify(loaded.model, b"data", "bin"), classify(classifier, b"data", "bin")
    )
    with pytest.raises(CheckpointError, match="is a classifier, which only tells labels"):
        checkpoint.load(path)
    checkpoint.save(tmp_path / "b.pt", random_model(), info={})
    with pytest.raises(CheckpointError, match="is a byte model and no classifier"):
        checkpoint.load_classifier(tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "no usable labels"),
        ("abc", "no usable labels"),
        ([1, 2, 3], "no usable labels"),
        (
            ["a", "b"],
            r"'head.weight' has shape \(3, 2352\) where .* says \(2, 2352\)",
        ),
        (["a"] * (1 << 15), "head.weight"),
    ],
)
def test_labels_that_do_not_fit_the_weights_are_refused(
    labels: object, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, random_classifier(), info={})
    content = torch.load(path, weights_only=True)
    torch.save(content | {"labels": labels}, path)
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load_any(path)


# Labelled files -----------------------------------------------------------------------


def test_labels_come_from_folders_or_from_names(tmp_path: Path) -> None:
    for name in ("d/cat/a.bin", "d/cat/deep/b_c.bin", "d/dog/x_y.txt", "d/.hidden/z", "d/dog/.q"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = find_labelled(tmp_path / "d")
    assert [(file.path.name, file.label) for file in found] == [
        ("a.bin", "cat"),
        ("b_c.bin", "cat"),
        ("x_y.txt", "dog"),
    ]
    (tmp_path / "f").mkdir()
    for name in ("cat_1.bin", "dog_2_3.wav"):
        (tmp_path / "f" / name).touch()
    assert [file.label for file in find_labelled(tmp_path / "f")] == ["cat", "dog"]


def test_what_has_no_clear_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder of labelled files"):
        find_labelled(tmp_path / "none")
    with pytest.raises(UserError, match="holds no files"):
        find_labelled(tmp_path)
    (tmp_path / "plain.bin").touch()
    with pytest.raises(UserError, match=r"plain\.bin: has no label in its name"):
        find_labelled(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.bin").touch()
    with pytest.raises(UserError, match=r"holds files beside folders, such as plain\.bin"):
        find_labelled(tmp_path)
    (tmp_path / "plain.bin").unlink()
    with pytest.raises(UserError, match="has 'cat' as its only label"):
        LabelledSource(tmp_path, SMALLEST, seed=0)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.bin").touch()
    with pytest.raises(UserError, match="leaves nothing of its 2 files to hold out"):
        LabelledSource(tmp_path, SMALLEST, seed=0)


def test_the_split_depends_on_the_content_alone(tmp_path: Path) -> None:
    files = find_labelled(write_files(tmp_path / "a", 200))
    share = np.mean([file.held_out for file in files])
    assert 0.13 < share < 0.27
    copies = tmp_path / "b"
    copies.mkdir()
    for number, file in enumerate(files):
        (copies / f"x_{number:03}.bin").write_bytes(file.path.read_bytes())
    assert [file.held_out for file in find_labelled(copies)] == [file.held_out for file in files]
    source = LabelledSource(tmp_path / "a", SMALLEST, seed=0)
    contents = [{f.path.read_bytes() for f in side} for side in (source.training, source.held_out)]
    assert not contents[0] & contents[1]


def test_batches_are_a_function_of_the_step_and_visit_each_file_once_an_epoch(
    tmp_path: Path,
) -> None:
    folder = write_files(tmp_path / "a", 40)
    config = dataclasses.replace(SMALLEST, max_patches=6)
    source, again = (LabelledSource(folder, config, seed=1) for _ in range(2))
    for step in (0, 7):
        for one, other in zip(source.batch(step), again.batch(step), strict=True):
            torch.testing.assert_close(one, other)
    shape = source.batch(0).patches_BPS.shape
    assert (shape[0], shape[2]) == (BATCH, SIZE)
    assert shape[1] in source._lengths
    assert source.describe() == json.loads(json.dumps(again.describe()))
    assert source.describe() != LabelledSource(folder, config, seed=2).describe()
    files = len(source.training)
    drawn = [source._order(number // files)[number % files] for number in range(2 * files)]
    assert sorted(drawn[:files]) == sorted(drawn[files:]) == list(range(files))
    assert drawn[:files] != drawn[files:]
    held_out = [label for batch in source.evaluation() for label in batch.labels_B.tolist()]
    assert sorted(held_out) == sorted(source.labels.index(f.label) for f in source.held_out)


def test_files_that_vanish_while_they_are_learned_are_left_out_with_a_note(tmp_path: Path) -> None:
    source = LabelledSource(write_files(tmp_path / "a", 40), SMALLEST, seed=1)
    notes: list[str] = []
    source.note = notes.append
    whole = [source.batch(step).patches_BPS.shape for step in range(16)]
    evaluated = sum(batch.size for batch in source.evaluation())
    gone = [*source.training[::2], source.validation[0]]
    for file in gone:
        file.path.unlink()
    for _ in range(2):
        assert [source.batch(step).patches_BPS.shape for step in range(16)] == whole
        assert sum(batch.size for batch in source.evaluation()) == evaluated - 1
    assert sorted(notes) == sorted(
        f"{file.path}: no such file; check the name; it is left out" for file in gone
    )
    for file in source.training[1::2]:
        file.path.unlink()
    with pytest.raises(UserError, match="none of the files that come next can be read any more"):
        source.batch(0)


def test_files_of_like_length_come_together_and_each_still_comes_once_an_epoch(
    tmp_path: Path,
) -> None:
    for number in range(1024):
        size = 4 if number % 8 else 80
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "big") * (size // 4))
    source = LabelledSource(tmp_path / "data", SMALLEST, seed=0)
    rows = [source.batch(step) for step in range(_POOL)]
    read = sum(batch.patches_BPS.shape[1] * BATCH for batch in rows)
    assert read < 2 * sum(int(batch.lengths_B.sum()) for batch in rows)
    for batch in rows:
        assert batch.patches_BPS.shape[1] >= int(batch.lengths_B.max())
    drawn = [source.training.index(source.training[i]) for steps in source._pool(0) for i in steps]
    assert sorted(drawn) == sorted(source._order(0)[: _POOL * BATCH])
    assert len({batch.patches_BPS.shape[1] for batch in rows}) > 1


@pytest.mark.parametrize("folders", [False, True])
def test_a_set_that_says_its_split_is_used_as_given(folders: bool, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    sides = {"train": 6, "validation": 3, "test": 4}
    for side, count in sides.items():
        for number in range(count):
            label = "ab"[number % 2]
            path = tmp_path / side / (f"{label}/x" if folders else f"{label}_x")
            path = path.with_name(f"{path.name}{number}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{side} {number}")
    source = LabelledSource(tmp_path, SMALLEST, seed=0)
    assert source.labels == ("a", "b")
    for side, files in (
        ("train", source.training),
        ("validation", source.validation),
        ("test", source.held_out),
    ):
        assert {file.path.read_text() for file in files} == {
            f"{side} {n}" for n in range(sides[side])
        }
    assert source.validates
    seen = [label for batch in source.evaluation() for label in batch.labels_B.tolist()]
    assert len(seen) == 3
    shutil.rmtree(tmp_path / "test")
    alone = LabelledSource(tmp_path, SMALLEST, seed=0)
    assert alone.validation == alone.held_out
    assert len(alone.held_out) == 3
    assert not alone.validates
    assert training_config(fine_tuning=False, validates=True, steps=1).keep == "best"
    assert training_config(fine_tuning=False, validates=False, steps=1).keep == "last"
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="to train on, since its folders say which are which"):
        LabelledSource(tmp_path, SMALLEST, seed=0)


@pytest.mark.parametrize("split", [False, True])
def test_of_many_files_some_are_validated_on_by_their_content_alone(
    split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bytemodel.labelled._LEAST_VALIDATED", 10)
    folder = tmp_path / "train" if split else tmp_path

    def add(numbers: range, folder: Path) -> LabelledSource:
        for number in numbers:
            path = folder / "ab"[number % 2] / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(number))
        return LabelledSource(tmp_path, SMALLEST, seed=0)

    if split:
        for number in range(4):
            (tmp_path / "test" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            (tmp_path / "test" / "ab"[number % 2] / "x.txt").write_text(f"test {number}")
    few = add(range(20), folder)
    assert few.validation == few.held_out
    source = add(range(20, 300), folder)
    assert source.validates
    total = 300 + 2 * split
    sides = source.training, source.validation, source.held_out
    assert sum(map(len, sides)) == len({file.path for side in sides for file in side}) == total
    assert len(source.held_out) == 2 if split else 40 < len(source.held_out) < 80
    learned = len(source.training) + len(source.validation)
    assert 0.05 < len(source.validation) / learned < 0.15
    more = add(range(300, 400), folder)
    assert set(source.validation) < set(more.validation)
    assert set(source.training) < set(more.training)


def test_long_files_are_read_at_random_places_and_short_ones_whole(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "a")
    data = bytes(range(256))
    (folder / "dna" / "long.bin").write_bytes(data)
    config = dataclasses.replace(SMALLEST, max_patches=6)
    source = LabelledSource(folder, config, seed=0)
    (file,) = (file for file in source.training if file.path.name == "long.bin")
    whole = file_patches(data, "bin", SIZE)
    starts = set()
    rng = np.random.default_rng(0)
    for _ in range(300):
        read = source._window(file, 6, rng)
        np.testing.assert_array_equal(read[0], whole[0])
        assert len(read) == 6
        (start,) = (s for s in range(61) if np.array_equal(whole[s + 1 : s + 6], read[1:]))
        starts.add(start)
    assert starts == set(range(len(whole) - 5))
    np.testing.assert_array_equal(source._window(file, 6, None), whole[:6])


# Learning -----------------------------------------------------------------------------


def learn(
    run: Path,
    folder: Path,
    *,
    head_only: bool = False,
    listener: Records | None = None,
    resume: bool = False,
) -> Outcome:
    start = random_model("local")
    source = LabelledSource(folder, SMALLEST, seed=0)
    return train(
        run,
        SMALLEST,
        training_config(fine_tuning=False, steps=40, evaluate_every=20, save_every=20),
        source,
        listener or Records(),
        device="cpu",
        dtype="float32",
        compile_model=False,
        task=classification(start, source.labels, head_only=head_only),
        resume=resume,
    )


@pytest.fixture(scope="module")
def straight(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "straight"
    assert learn(run, folder).finished
    return run


def test_a_classifier_learns_and_its_run_says_how(straight: Path, folder: Path) -> None:
    records = read_metrics(straight)
    losses = [record["loss"] for record in records if record["kind"] == "evaluation"]
    assert losses[-1] < losses[0] / 2
    assert records[-1]["accuracy"] > 0.8
    assert records[1]["files_per_second"] > 0
    assert read_config(straight)["task"]["kind"] == "classification"
    assert (straight / "training.png").stat().st_size > 0
    loaded = checkpoint.load_classifier(straight)
    assert loaded.info["data"]["labels"] == list(loaded.model.labels) == ["digits", "dna"]
    held_out = [file for file in find_labelled(folder) if file.held_out]
    confusion = evaluate_files(loaded.model, held_out)
    assert confusion.files == len(held_out)
    assert confusion.accuracy > 0.8


def test_a_run_of_any_name_is_plotted(straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "$\\frac$_\udcff"
    run.mkdir()
    (run / "metrics.jsonl").write_bytes((straight / "metrics.jsonl").read_bytes())
    plot(run)
    assert (run / "training.png").stat().st_size > 0


def test_an_interrupted_run_goes_on_to_the_same_weights(
    straight: Path, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert not learn(run, folder, listener=Records(10, "SIGINT")).finished
    assert learn(run, folder, resume=True).finished
    weights = checkpoint.load_classifier(run).model.state_dict()
    for name, tensor in checkpoint.load_classifier(straight).model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    with pytest.raises(UserError, match=r"started with task.head_only = False, not True"):
        learn(run, folder, resume=True, head_only=True)


def test_what_is_read_closely_is_the_same_when_a_run_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bytemodel.classifier.read_closely", lambda _count: 2)
    learn(tmp_path / "straight", folder)
    assert not learn(tmp_path / "run", folder, listener=Records(10, "SIGINT")).finished
    assert learn(tmp_path / "run", folder, resume=True).finished
    one, other = (
        checkpoint.load_classifier(tmp_path / name).model.state_dict()
        for name in ("straight", "run")
    )
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_training_begins_with_what_is_fitted_and_leaves_the_counts_to_it(
    folder: Path, tmp_path: Path
) -> None:
    source = LabelledSource(folder, SMALLEST, seed=0)
    begin = fitted(random_model("local"), source, seed=0)
    before = {name: tensor.clone() for name, tensor in begin.state_dict().items()}
    train(
        tmp_path / "run",
        SMALLEST,
        training_config(fine_tuning=True, steps=1, evaluate_every=1),
        source,
        Records(),
        device="cpu",
        dtype="float32",
        compile_model=False,
        task=classification(begin, source.labels),
    )
    first, *_ = read_metrics(tmp_path / "run")
    assert (first["kind"], first["step"]) == ("evaluation", 0)
    assert first["accuracy"] > 0.8
    steps = checkpoint.load_any(tmp_path / "run" / "checkpoints" / "step-00000001.pt")
    weights = steps.model.state_dict()
    assert torch.equal(weights["wide.weight"], before["wide.weight"])
    assert not torch.equal(weights["head.weight"], before["head.weight"])


def test_a_classifier_is_kept_as_exactly_as_it_was_judged(straight: Path) -> None:
    kept = checkpoint.load_classifier(straight).model.state_dict()
    last = checkpoint.load_any(straight / "checkpoints" / "step-00000040.pt").model.state_dict()
    for name, tensor in last.items():
        assert torch.equal(tensor, kept[name]), name


def test_training_the_head_alone_leaves_the_rest_as_it_was(folder: Path, tmp_path: Path) -> None:
    learn(tmp_path / "run", folder, head_only=True)
    steps = checkpoint.load_any(tmp_path / "run" / "checkpoints" / "step-00000040.pt")
    before = Classifier.of(random_model("local"), ["digits", "dna"]).state_dict()
    for name, tensor in steps.model.state_dict().items():
        kept = name.startswith(("model.", "wide.", "_extra_state"))
        assert torch.equal(tensor, before[name]) == kept, name


def test_a_head_alone_on_random_weights_is_refused() -> None:
    with pytest.raises(UserError, match="--head-only needs a model that has learned something"):
        classification(None, ["a", "b"], head_only=True)


def test_the_loss_that_is_told_is_the_cross_entropy_of_the_labels() -> None:
    classifier = random_classifier()
    patches = torch.randint(0, 256, (4, 5, SIZE))
    lengths, labels = torch.tensor([5, 4, 3, 2]), torch.tensor([0, 1, 2, 0])
    loss, told, hits = loss_and_hits(classifier, patches, lengths, labels)
    probabilities = classifier(patches, lengths).softmax(-1)
    expected = -probabilities[range(4), labels].log().mean()
    assert loss.item() == told.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss.requires_grad
    assert not told.requires_grad
    assert torch.equal(hits, probabilities.argmax(-1) == labels)


def files_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of files of which each patch tells from which file and place it is."""
    patches = torch.full((len(lengths), max(lengths), SIZE), PAD)
    for row, length in enumerate(lengths):
        patches[row, :length] = 1000 * (row + 1) + torch.arange(length)[:, None]
    return patches, torch.tensor(lengths)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 2**32))
def test_a_mixture_holds_one_stretch_of_one_other_file(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    patches, lengths_B = files_of(lengths)
    mixed, others, own = mixtures(patches, lengths_B)
    assert sorted(others.tolist()) == list(range(len(lengths)))
    for row, length in enumerate(lengths):
        other = int(others[row])
        assert torch.equal(mixed[row, length:], patches[row, length:])
        taken = [i for i in range(length) if not torch.equal(mixed[row, i], patches[row, i])]
        assert 0 not in taken
        assert taken == [taken[0] + i for i in range(len(taken))]
        assert torch.equal(mixed[row, taken], patches[other, taken])
        assert all(place < lengths[other] for place in taken)
        if other != row:
            assert own[row].item() == pytest.approx(1 - len(taken) / max(length - 1, 1))


def test_half_of_the_files_are_mixed_with_stretches_of_any_length_and_anywhere() -> None:
    torch.manual_seed(0)
    patches, lengths = files_of([101] * 4000)
    mixed, _, own = mixtures(patches, lengths)
    whole = own == 1
    assert whole.float().mean() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(mixed[whole], patches[whole])
    for share in (0.1, 0.5, 0.9):
        assert (own[~whole] < share).float().mean() == pytest.approx(share, abs=0.04)
    taken = (mixed != patches).any(-1)[:, 1:].float().mean(0)
    assert taken.mean() == pytest.approx(0.25, abs=0.02)
    assert taken[:50].mean() == pytest.approx(taken[50:].mean().item(), abs=0.02)
    assert taken.min() > 0.01


def test_a_mixture_asks_for_both_labels_by_what_it_holds_of_each() -> None:
    classifier = random_classifier()
    patches = torch.randint(0, 256, (6, 9, SIZE))
    lengths, labels = torch.tensor([9, 9, 8, 9, 7, 9]), torch.tensor([0, 1, 2, 0, 1, 2])
    plain = loss_and_hits(classifier, patches, lengths, labels)
    judged = mixed_loss_and_hits(classifier, patches, lengths, labels)
    assert all(torch.equal(one, other) for one, other in zip(plain, judged, strict=True))
    # What is read closely is drawn in training.
    classifier.leave_out_bytes()
    classifier.train()
    torch.manual_seed(5)
    mixed, others, own = mixtures(patches, lengths)
    assert own.min() < 1
    logs = classifier(mixed, lengths).log_softmax(-1)
    expected = -sum(
        own[row] * logs[row, labels[row]] + (1 - own[row]) * logs[row, labels[others[row]]]
        for row in range(6)
    )
    torch.manual_seed(5)
    loss, told, hits = mixed_loss_and_hits(classifier, patches, lengths, labels)
    assert loss.item() == told.item() == pytest.approx(expected.item() / 6, rel=1e-4)
    assert loss.requires_grad
    assert torch.equal(hits, logs.argmax(-1) == labels)


# Figures ------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40),
)
def test_the_figures_are_those_of_the_plain_definitions(pairs: list[tuple[int, int]]) -> None:
    counts = np.zeros((4, 4), np.int64)
    for true, predicted in pairs:
        counts[true, predicted] += 1
    found = Confusion(("a", "b", "c", "d"), counts)
    assert found.files == len(pairs)
    assert found.accuracy == pytest.approx(sum(t == p for t, p in pairs) / len(pairs))
    scores = []
    for label in range(4):
        given = [t for t, p in pairs if p == label]
        having = [p for t, p in pairs if t == label]
        precision = given.count(label) / len(given) if given else 0
        recall = having.count(label) / len(having) if having else 0
        assert found.precision[label] == pytest.approx(precision)
        assert found.recall[label] == pytest.approx(recall)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert found.f1[label] == pytest.approx(f1)
        if given or having:
            scores.append(f1)
    assert found.macro_f1 == pytest.approx(sum(scores) / len(scores))


def test_evaluation_refuses_labels_that_the_classifier_lacks(folder: Path) -> None:
    files = find_labelled(folder)
    with pytest.raises(UserError, match="'digits' is none that the classifier knows; did you mean"):
        evaluate_files(random_classifier(("digit", "dna")), files)
    with pytest.raises(UserError, match="there are no files to evaluate"):
        evaluate_files(random_classifier(), [])
