"""Configurations: what is misspelt or impossible is refused with the way out."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from bytemodel.config import PRESETS, ConfigError, ModelConfig, preset
from bytemodel.train import TrainConfig


@pytest.mark.parametrize("config", [*PRESETS.values(), TrainConfig(minutes=2.5), TrainConfig(3)])
def test_a_configuration_survives_json(config: ModelConfig | TrainConfig) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("tiny").patch_size = 8  # type: ignore[misc]


REFUSED: dict[str, tuple[type[ModelConfig | TrainConfig], dict[str, Any], str]] = {
    "a misspelt key": (
        ModelConfig,
        {"byte_layer": 3},
        "ModelConfig has no key 'byte_layer'; did you mean 'byte_layers'?",
    ),
    "a misspelt training key": (
        TrainConfig,
        {"steps": 1, "warmup": 3},
        "TrainConfig has no key 'warmup'; did you mean 'warmup_steps'?",
    ),
    "a key like no other": (ModelConfig, {"zzz": 3}, "has no key 'zzz'; known: family, patch_size"),
    "a text for a number": (ModelConfig, {"patch_size": "16"}, "is '16'; it takes a int"),
    "a truth for a number": (ModelConfig, {"patch_size": True}, "is True; it takes a int"),
    "a fraction for a number": (ModelConfig, {"patch_size": 1.5}, "is 1.5; it takes a int"),
    "no number": (ModelConfig, {"dropout": None}, "is None; it takes a float"),
    "zero": (ModelConfig, {"max_patches": 0}, "max_patches is 0; it must be at least 1"),
    "short match": (ModelConfig, {"longest_match": 2}, "longest_match is 2; it must be at least 3"),
    "a misspelt family": (
        ModelConfig,
        {"family": "publish"},
        "unknown model family 'publish'; did you mean 'published'?",
    ),
    "too much dropout": (ModelConfig, {"dropout": 1.0}, "must be in [0, 1)"),
    "heads that do not fit": (
        ModelConfig,
        {"patch_width": 100},
        "patch_width 100 does not split into 8 heads of even width",
    ),
    "two widths in the published family": (
        ModelConfig,
        {"family": "published"},
        "has one width: patch_width 256, byte_width 192",
    ),
    "no length": (TrainConfig, {}, "steps 0 and minutes 0.0: give exactly one"),
    "two lengths": (TrainConfig, {"steps": 3, "minutes": 2.0}, "give exactly one"),
    "never saving": (TrainConfig, {"steps": 3, "save_every": 0}, "save_every must be at least 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_with_a_sentence(what: str) -> None:
    kind, values, sentence = REFUSED[what]
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        kind.from_dict(values)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'smal'; did you mean 'small'\?"):
        preset("smal")
    with pytest.raises(ConfigError, match="unknown preset 'xyzzy'; known: tiny, small, compact"):
        preset("xyzzy")


@pytest.mark.parametrize("name", ["tiny", "small", "compact"])
def test_our_presets_look_up_bytes_and_compare_half_of_a_head_by_content(name: str) -> None:
    assert preset(name).family == "local"
    assert preset(name).retrieval
    assert preset(name).rotary_share == 0.5


@pytest.mark.parametrize("part", ["retrieval", "matching"])
def test_the_published_family_has_nothing_that_looks_up(part: str) -> None:
    with pytest.raises(ConfigError, match=f"no {part}"):
        ModelConfig(family="published", byte_width=256, byte_heads=8, **{part: True})  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_rotary_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="rotary_share"):
        ModelConfig(rotary_share=share)
