"""Configurations: frozen dataclasses, named presets, unknown keys refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from cpusim.errors import UserError, nearest

Family = Literal["local", "published"]


class ConfigError(UserError):
    """A configuration that names an unknown key or cannot be built."""


class Config:
    """What every configuration can do; subclasses are frozen dataclasses."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values. Raises `ConfigError` for a key that does not exist."""
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key, value in values.items():
            if key not in fields:
                close = nearest(str(key), fields)
                hint = f"; did you mean {close!r}?" if close else f"; known: {', '.join(fields)}"
                raise ConfigError(f"{cls.__name__} has no key {key!r}{hint}")
            default = fields[key].default
            if default is not dataclasses.MISSING and default is not None:
                accepted = (int, float) if isinstance(default, float) else type(default)
                wrong = not isinstance(value, accepted)
                if wrong or (isinstance(value, bool) != isinstance(default, bool)):
                    raise ConfigError(
                        f"{cls.__name__}.{key} is {value!r}; it takes a {type(default).__name__}"
                    )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they go into a checkpoint or a JSON file."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]


SHORTEST_MATCH = 3
"""Bytes; fewer say too little to be looked up."""


@dataclass(frozen=True)
class ModelConfig(Config):
    """The shape of a byte model.

    `patch_size`: bytes a patch. `max_patches`: the longest sequence, in patches.
    `*_layers`, `*_width`, `*_heads`: of the patch-level and the byte-level decoder.
    Of the local family alone: `retrieval`, whether the byte level also reads the bytes of
    earlier patches that the patch level looks up; `matching`, whether it is told what
    followed when its last few bytes, up to `longest_match`, stood together before; `recall`,
    whether each byte looks up single bytes of the files before its own, such as a conversion's
    source; `rotary_share`, the part of each head's width that is rotated by position, the rest
    being compared by content alone.
    """

    family: Family = "local"
    patch_size: int = 16
    max_patches: int = 512
    patch_layers: int = 4
    patch_width: int = 256
    patch_heads: int = 8
    byte_layers: int = 4
    byte_width: int = 192
    byte_heads: int = 6
    dropout: float = 0.0
    retrieval: bool = False
    matching: bool = False
    longest_match: int = 32
    recall: bool = False
    rotary_share: float = 1.0

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            close = nearest(str(self.family), get_args(Family)) or "local"
            raise ConfigError(f"unknown model family {self.family!r}; did you mean {close!r}?")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ConfigError(f"ModelConfig.{field.name} is {value}; it must be at least 1")
        if self.longest_match < SHORTEST_MATCH:
            raise ConfigError(
                f"ModelConfig.longest_match is {self.longest_match}; it must be at least"
                f" {SHORTEST_MATCH}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"ModelConfig.dropout is {self.dropout}; it must be in [0, 1)")
        if not 0.0 <= self.rotary_share <= 1.0:
            raise ConfigError(
                f"ModelConfig.rotary_share is {self.rotary_share}; it must be in [0, 1]"
            )
        for part in ("retrieval", "matching", "recall"):
            if getattr(self, part) and self.family == "published":
                raise ConfigError(f"the published family has no {part}; leave it out")
        for level, width, heads in (
            ("patch", self.patch_width, self.patch_heads),
            ("byte", self.byte_width, self.byte_heads),
        ):
            if width % heads or width // heads % 2:
                raise ConfigError(
                    f"{level}_width {width} does not split into {heads} heads of even width"
                )
        if self.family == "published" and self.patch_width != self.byte_width:
            raise ConfigError(
                f"the published family has one width: patch_width {self.patch_width},"
                f" byte_width {self.byte_width}"
            )


TARGETS, MOST_TARGETS = 512, 1 << 16
"""Patches of files that a training step predicts, about, unless told otherwise; and at most."""
_COMPACT = ModelConfig(
    patch_width=192,
    patch_heads=4,
    byte_layers=3,
    dropout=0.1,
    retrieval=True,
    matching=True,
    rotary_share=0.5,
)
PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        patch_layers=2,
        patch_width=64,
        patch_heads=2,
        byte_layers=2,
        byte_width=48,
        byte_heads=2,
        retrieval=True,
        rotary_share=0.5,
    ),
    "small": ModelConfig(patch_heads=4, retrieval=True, rotary_share=0.5),
    "compact": _COMPACT,
    "converter": dataclasses.replace(
        _COMPACT,
        patch_width=128,
        byte_width=96,
        byte_heads=4,
        dropout=0.0,
        longest_match=128,
        recall=True,
    ),
    "published": ModelConfig(
        family="published",
        patch_layers=12,
        patch_width=768,
        patch_heads=12,
        byte_layers=3,
        byte_width=768,
        byte_heads=12,
        dropout=0.1,
    ),
}
"""`tiny`: for tests. `small`: about 7 M parameters, learns CPU states on two cores. `compact`:
about 5 M, for files; a third faster, below 10 MB in bfloat16. `converter`: about 2 M, with
`recall`, for conversions; narrow, since it learns sooner where to look, and without dropout, since
pairs are made without end. `published`: the paper's 110 M."""


def preset(name: str) -> ModelConfig:
    """The named preset. Raises `ConfigError` with the nearest name for an unknown one."""
    if name not in PRESETS:
        close = nearest(name, PRESETS)
        hint = f"did you mean {close!r}?" if close else f"known: {', '.join(PRESETS)}"
        raise ConfigError(f"unknown preset {name!r}; {hint}")
    return PRESETS[name]
