"""The peer is the published model: its loss and its words are those recorded from the authors'."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from peers.published import PublishedModel

from bytemodel.published import load_published

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "bgpt_checkpoint"
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def peer(request: pytest.FixtureRequest) -> PublishedModel:
    weights = torch.load(GOLDEN / "weights-tiny.pth", weights_only=True)["model"]
    model = PublishedModel(load_published(GOLDEN / "weights-tiny.pth").model.config, request.param)
    model.load_weights(weights)
    return model.eval()


def test_its_loss_is_the_authors(peer: PublishedModel) -> None:
    masks = torch.from_numpy(EXPECTED["masks"])
    patches = torch.from_numpy(EXPECTED["patches"]).view(*masks.shape, -1)
    with torch.inference_mode():
        assert float(peer(patches, masks)) == pytest.approx(float(EXPECTED["loss"]), abs=1e-5)


def test_it_goes_on_as_the_authors_code_does(peer: PublishedModel) -> None:
    patches = torch.from_numpy(EXPECTED["prefix"]).view(1, -1, peer.patch_size)
    for wanted in EXPECTED["greedy"]:
        said = peer.next_patch(patches)
        np.testing.assert_array_equal(said[0], wanted)
        patches = torch.cat((patches, said[:, None]), dim=1)
