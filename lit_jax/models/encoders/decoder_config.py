"""The config of language models as text towers: the fields that all of them have, and how they are read."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lit_jax.models.encoders.hf_config import read_config, shown
from lit_jax.models.encoders.layer_types import GLOBAL, LOCAL, check_layer_types
from lit_jax.models.layers import rotary
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens
from lit_jax.utils.errors import WeightError

Scaling = rotary.Linear | rotary.Llama3
# Fields about rotary positions that `rope_of` reads and turns into `rope_theta` and `rope_scaling`.
ROPES = frozenset(("rope_parameters", "original_max_position_embeddings", "partial_rotary_factor"))


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Fields named as in transformers; each type has its own defaults and further fields.

    `rope_theta` and `rope_scaling` are written as in transformers 4, and read in the form of 5 as well.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None: as many as heads of queries.
    head_dim: int | None = None  # None: the heads divide the width among themselves.
    max_position_embeddings: int = 2048  # The length of texts in training; there is no position table.
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    attention_dropout: float = 0.0
    is_causal: bool = True  # A field of any config in transformers 5. False: every token sees all others.
    rope_theta: float = 10_000.0
    rope_scaling: Scaling | None = None

    model_type: ClassVar[str]
    inert: ClassVar[frozenset[str]] = frozenset()
    # Fields that are accepted only with these values.
    fixed: ClassVar[Mapping[str, tuple]] = {"partial_rotary_factor": (None, 1.0)}
    norm_offset: ClassVar[float] = 0.0  # What a norm adds to its stored scale.
    biases: ClassVar[str] = ""  # The attention projections that have a bias, whatever `attention_bias` says.
    pooling: ClassVar[str] = "last"

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        thetas, scaling = cls.rope_of(hf)
        ropes = ("rope_parameters", "rope_scaling", *thetas)
        plain = {name: value for name, value in hf.items() if name not in ropes}
        config = read_config(cls, cls.model_type, plain | thetas, inert=cls.inert, fixed=cls.fixed)
        config = dataclasses.replace(config, rope_scaling=scaling, **_heads(config))
        if config.num_attention_heads % config.kv_heads or config.head_width % 2:
            raise WeightError(
                f"{cls.model_type} config: num_attention_heads={config.num_attention_heads} with "
                f"num_key_value_heads={config.kv_heads} and head_dim={config.head_width} is not usable; wanted heads "
                "that those of keys divide, of an even width"
            )
        return config

    @classmethod
    def rope_of(cls, hf: Mapping[str, Any]) -> tuple[dict[str, Any], Scaling | None]:
        """The bases of the rotary positions by field, still unchecked, and their scaling. Raises WeightError."""
        rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
        if not isinstance(rope, Mapping) or {GLOBAL, LOCAL} & rope.keys():
            raise WeightError(
                f"{cls.model_type} config: rope_parameters={shown(rope)} is not usable; "
                "wanted one object for all layers"
            )
        context = "original_max_position_embeddings"
        if context in hf:  # It takes precedence over the one in the parameters, as in transformers.
            rope = {**rope, context: hf[context]}
        theta = rope.get("rope_theta", hf.get("rope_theta", cls.rope_theta))
        return {"rope_theta": theta}, scaling_of(cls.model_type, rope, hf, cls.max_position_embeddings)

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def kinds(self) -> tuple[str, ...]:
        """GLOBAL or LOCAL for every layer."""
        return (GLOBAL,) * self.num_hidden_layers

    @property
    def causal(self) -> bool:
        """Whether no token sees later ones."""
        return self.is_causal

    @property
    def reach(self) -> int:
        """How far a token sees to each side in a LOCAL layer; one farther without `is_causal`, as in transformers."""
        return (getattr(self, "sliding_window", None) or 0) - self.is_causal

    @property
    def speeds(self) -> np.ndarray:
        """The speeds of the rotary positions in LOCAL layers, then in GLOBAL ones, [2 K/2]."""
        same = rotary.speeds(self.rope_theta, self.head_width, self.rope_scaling)
        return np.stack([same, same])

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=0,
            width=self.hidden_size,
            norm=False,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        act: Any = getattr(self, "hidden_act", None) or getattr(self, "hidden_activation", None)
        return BlockSpec(
            heads=self.num_attention_heads,
            kv_heads=self.kv_heads,
            head_width=self.head_width,
            hidden=self.intermediate_size,
            norm_first=True,
            act=act,
            eps=self.rms_norm_eps,
            rms=self.norm_offset,
            biases="qkvo" if getattr(self, "attention_bias", False) else self.biases,
            mlp_bias=False,
            gated=True,
            attention_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )


def _heads(config: DecoderConfig) -> dict[str, int | None]:
    """The fields about heads in one form: None if the type's default is None and means the same."""
    usual = {
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
    }
    fields: dict[str, int | None] = {}
    for name, value in usual.items():
        given = getattr(config, name) or value
        fields[name] = None if getattr(type(config), name) is None and given == value else given
    return fields


def with_layer_types(config: Any, usual: tuple[str, ...]) -> Any:
    """`config` with `layer_types` only if they differ from `usual`, which follow from its other fields.

    Raises WeightError unless there is one kind for each layer, and for windows without a width.
    """
    check_layer_types(config.model_type, config.layer_types, config.num_hidden_layers)
    if LOCAL in config.kinds and config.sliding_window is None:
        raise WeightError(
            f"{config.model_type} config: sliding_window=None is not usable with layers of {LOCAL!r}; wanted a width"
        )
    return dataclasses.replace(config, layer_types=None if config.kinds == usual else config.kinds)


def scaling_of(
    model_type: str, rope: Mapping[str, Any], hf: Mapping[str, Any], longest: int
) -> Scaling | None:
    """The scaling that an object of rotary parameters describes; None: there is none.

    `longest` is the default of `max_position_embeddings`, which is in turn the default of the original context. Raises
    WeightError for a kind that is not implemented and for one that lacks a number.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor") in (None, 1)
    if not partial or rope.get("type", kind) != kind or kind not in ("default", *rotary.SCALINGS):
        raise WeightError(
            f"{model_type} config: rope_parameters={shown(dict(rope))} is not implemented; a rope_type of default or "
            f"{' or '.join(rotary.SCALINGS)} for all channels is"
        )
    if kind == "default":
        return None
    context = {"original_max_position_embeddings": hf.get("max_position_embeddings", longest)}
    given = {"rope_type": kind} | context | {n: v for n, v in rope.items() if v is not None}
    names = [field.name for field in dataclasses.fields(rotary.SCALINGS[kind])]
    if lacking := [name for name in names if name not in given]:
        raise WeightError(
            f"{model_type} config: rope_parameters={shown(dict(rope))} is not usable; {kind!r} wants "
            + " and ".join(lacking)
        )
    scaling = read_config(rotary.SCALINGS[kind], model_type, {name: given[name] for name in names})
    if kind == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        raise WeightError(
            f"{model_type} config: low_freq_factor={scaling.low_freq_factor} is not usable; wanted less than "
            f"high_freq_factor={scaling.high_freq_factor}"
        )
    return scaling
