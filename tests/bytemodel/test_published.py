"""Parity with the authors' code: its logits, loss and greedy continuation of a released-format
checkpoint with random weights, recorded in tests/golden/bgpt_checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bytemodel import checkpoint
from bytemodel.checkpoint import Checkpoint, CheckpointError
from bytemodel.config import preset
from bytemodel.generate import Session, generate
from bytemodel.model import ByteModel
from bytemodel.patches import PAD, decode_bytes
from bytemodel.published import load_published, save_published
from tests.bytemodel.models import random_model

GOLDEN = Path(__file__).parent.parent / "golden" / "bgpt_checkpoint"
WEIGHTS = GOLDEN / "weights-tiny.pth"
Content = dict[str, Any]
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))


@pytest.fixture(scope="module")
def model() -> ByteModel:
    return load_published(WEIGHTS).model


def predicted() -> tuple[torch.Tensor, torch.Tensor]:
    """The recorded batch (2, 8, 16), and the flat indexes of the patches that were predicted."""
    masks = EXPECTED["masks"].astype(bool)
    patches = EXPECTED["patches"].reshape(*masks.shape, -1)
    # Patch 0 is what the first prediction starts from.
    chosen = masks.copy()
    chosen[:, 0] = False
    return torch.from_numpy(patches), torch.from_numpy(np.flatnonzero(chosen))


def test_sizes_are_read_off_the_tensors(model: ByteModel) -> None:
    config = model.config
    assert config.family == "published"
    assert config.patch_size == EXPECTED["patch_size"]
    assert config.max_patches == EXPECTED["patch_length"]
    assert config.patch_layers == EXPECTED["patch_layers"]
    assert config.byte_layers == EXPECTED["byte_layers"]
    assert config.patch_width == config.byte_width == EXPECTED["hidden_size"]
    assert config.patch_heads == config.byte_heads == EXPECTED["hidden_size"] // 64
    assert not model.training


def test_logits_are_the_authors(model: ByteModel) -> None:
    with torch.inference_mode():
        logits = model(*predicted()).numpy()
    # Their last position, behind the whole patch, predicts nothing.
    theirs = EXPECTED["logits"][:, :-1]
    assert logits.shape == theirs.shape
    np.testing.assert_allclose(logits, theirs, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(-1), theirs.argmax(-1))


def test_loss_is_the_authors_the_mean_over_all_bytes_of_predicted_patches(
    model: ByteModel,
) -> None:
    patches, targets = predicted()
    wanted = patches.flatten(0, 1)[targets]
    assert (wanted == PAD).any()  # padding inside and the end patch count as well
    with torch.inference_mode():
        loss = F.cross_entropy(model(patches, targets).flatten(0, 1), wanted.flatten())
    assert float(loss) == pytest.approx(float(EXPECTED["loss"]), abs=1e-5)


def test_cached_greedy_continuation_is_the_authors(model: ByteModel) -> None:
    size = model.config.patch_size
    prefix = torch.from_numpy(EXPECTED["prefix"].reshape(1, -1, size))
    greedy = EXPECTED["greedy"]
    # Their patches may hold 256 anywhere; ours end there, so that these must not.
    assert (greedy < PAD).all()
    session = Session(model)
    session.append(prefix)
    for patch in greedy:
        said = session.next_patch()
        np.testing.assert_array_equal(said[0], patch)
        session.append(said[:, None])


def test_the_same_continuation_comes_from_generate(model: ByteModel) -> None:
    # The recorded prefix is a text whose last patch is padded, as no file goes on; what
    # `generate` continues is whole patches, so the same two ways are compared on those.
    data = decode_bytes(EXPECTED["prefix"][:, 16:48])
    (written,) = generate(model, "txt", prefix=data, max_patches=3)
    session = Session(model)
    session.append(torch.from_numpy(EXPECTED["prefix"][:, :48].reshape(1, -1, 16)))
    patches = []
    for _ in range(3):
        patches.append(session.next_patch())
        session.append(patches[-1][:, None])
    assert written.data == data + decode_bytes(np.concatenate([p.numpy() for p in patches]))


def test_an_imported_model_is_saved_and_loaded_like_any_other(
    model: ByteModel, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "imported.pt", model, info={})
    loaded = checkpoint.load(tmp_path / "imported.pt").model
    patches, targets = predicted()
    with torch.inference_mode():
        assert torch.equal(loaded(patches, targets), model(patches, targets))


def test_the_published_preset_has_the_papers_110_million_parameters() -> None:
    with torch.device("meta"):
        count = ByteModel(preset("published")).parameter_count
    assert count == 110_083_584
    assert round(count / 1e6) == 110


# ---- Export


def exported(loaded: Checkpoint, path: Path) -> Content:
    save_published(path, loaded)
    content = torch.load(path, weights_only=True)
    assert list(content) == ["model"]
    return content["model"]  # type: ignore[no-any-return]


def same_tensors(one: Content, other: Content) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("masks", [True, False], ids=["with masks", "without masks"])
def test_an_export_gives_back_every_tensor_of_the_import(masks: bool, tmp_path: Path) -> None:
    content = torch.load(WEIGHTS, weights_only=True)
    weights = {
        name: tensor
        for name, tensor in content["model"].items()
        if masks or not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    assert (len(weights) < len(content["model"])) == (not masks)
    torch.save({"model": weights}, tmp_path / "given.pth")
    read = load_published(tmp_path / "given.pth")
    checkpoint.save(tmp_path / "ours.pt", read.model, info={}, unused=read.unused)
    written = exported(checkpoint.load(tmp_path / "ours.pt"), tmp_path / "again.pth")
    assert same_tensors(written, weights)


def test_a_model_trained_here_is_exported_in_full(tmp_path: Path) -> None:
    model = random_model("published", patch_width=128, byte_width=128)
    weights = exported(Checkpoint(tmp_path / "a.pt", model, {}, None), tmp_path / "out.pth")
    assert weights["patch_level_decoder.base.wte.weight"].shape == (1, 128)
    # The head is stored under its own name, but only once.
    head, table = weights[HEAD], weights["byte_level_decoder.base.transformer.wte.weight"]
    assert head.data_ptr() == table.data_ptr()
    again = load_published(tmp_path / "out.pth").model
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (random_model("local"), "is of the local family, which the authors' code does not have"),
        (random_model("published"), "has 2 and 2 heads a layer; the authors' code takes one for"),
    ],
)
def test_a_model_that_the_format_cannot_hold_is_not_exported(
    model: ByteModel, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "ours.pt"
    with pytest.raises(CheckpointError, match=sentence) as error:
        save_published(tmp_path / "out.pth", Checkpoint(path, model, {}, None))
    assert str(error.value).startswith(f"{path}: ")
    assert list(tmp_path.iterdir()) == []


# ---- Files that are none


QKV = "patch_level_decoder.base.h.1.attn.c_attn.weight"
EMBEDDING = "patch_level_decoder.patch_embedding.weight"
HEAD = "byte_level_decoder.base.lm_head.weight"

CHANGES: dict[str, tuple[Callable[[Content], object], str]] = {
    "no model": (lambda c: c.pop("model"), "is not one of the released bGPT checkpoints"),
    "a model of ours": (lambda c: c.update(model={"a": torch.zeros(1)}), "is not one of the"),
    "a missing tensor": (lambda c: c["model"].pop(QKV), f"the tensor '{QKV}' is missing"),
    "text for a tensor": (lambda c: c["model"].update({QKV: "x"}), f"the tensor '{QKV}' is"),
    "a transposed tensor": (
        lambda c: c["model"].update({QKV: c["model"][QKV].T}),
        rf"the tensor '{QKV}' has shape \(384, 128\), which does not fit",
    ),
    "a matrix with a dimension too many": (
        lambda c: c["model"].update({QKV: c["model"][QKV][None]}),
        rf"the tensor '{QKV}' has shape \(1, 128, 384\), which does not fit",
    ),
    "a flat embedding": (
        lambda c: c["model"].update({EMBEDDING: torch.zeros(9)}),
        f"the tensor '{EMBEDDING}' is missing or damaged",
    ),
    "an odd embedding": (
        lambda c: c["model"].update({EMBEDDING: torch.zeros(128, 100)}),
        "takes 100 inputs, which is not a multiple of 257",
    ),
    "a width without heads": (
        lambda c: c["model"].update({EMBEDDING: torch.zeros(32, 257)}),
        "patch_heads is 0",
    ),
    "an unknown tensor": (
        lambda c: c["model"].update({"value_head.weight": torch.zeros(3)}),
        "holds the tensor 'value_head.weight', which no released model of its size has",
    ),
    "a number for a name": (
        lambda c: c["model"].update({7: torch.zeros(3)}),
        "holds the tensor '7', which no",
    ),
    "a layer with a gap before it": (
        lambda c: c["model"].update({QKV.replace("h.1", "h.3"): c["model"][QKV]}),
        r"holds the tensor 'patch_level_decoder\.base\.h\.3\.attn\.c_attn\.weight'",
    ),
    "a head of its own": (
        lambda c: c["model"].update({HEAD: c["model"][HEAD] + 1}),
        "lm_head.weight differs from .*wte.weight; in a released checkpoint the head is",
    ),
    "a tensor that claims to be huge": (
        lambda c: c["model"].update({EMBEDDING: torch.zeros(1).expand(1 << 20, 257 << 20)}),
        f"the tensor '{EMBEDDING}' is missing or damaged",
    ),
    "a sparse tensor": (
        lambda c: c["model"].update({QKV: torch.eye(384).to_sparse()}),
        f"the tensor '{QKV}' is missing or damaged",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_does_not_fit_is_refused_with_the_place(what: str, tmp_path: Path) -> None:
    change, sentence = CHANGES[what]
    content = torch.load(WEIGHTS, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "altered.pth")
    with pytest.raises(CheckpointError, match=sentence) as error:
        load_published(tmp_path / "altered.pth")
    assert str(error.value).startswith(f"{tmp_path / 'altered.pth'}: ")


def test_a_checkpoint_of_this_program_is_refused(model: ByteModel, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "ours.pt", model, info={})
    with pytest.raises(CheckpointError, match="is not one of the released bGPT checkpoints"):
        load_published(tmp_path / "ours.pt")
