"""The fields of transformers' ModernBertConfig, which versions 4 and 5 write in different ways."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.encoders.layer_types import GLOBAL, LOCAL, check_layer_types
from lit_jax.models.layers import pooling
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens
from lit_jax.utils.errors import WeightError

# Fields of version 5 that are converted to fields of version 4.
RESPELLED = frozenset(("rope_parameters", "rope_scaling", "sliding_window"))


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' ModernBertConfig, and how to pool."""

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    initializer_range: float = 0.02
    local_attention: int = 128  # The width of the window: half of it to each side.
    # The fields of transformers 4; `layer_types`, from 5, is set only if these cannot express it.
    global_attn_every_n_layers: int = 3
    layer_types: tuple[str, ...] | None = None
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    pooling: str = "cls"

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        hf = dict(hf) | _thetas(hf) | _window(hf)
        config = read_config(
            cls,
            "modernbert",
            hf,
            inert=frozenset(
                """max_position_embeddings initializer_cutoff_factor cls_token_id decoder_bias classifier_pooling
                classifier_bias classifier_activation deterministic_flash_attn sparse_prediction
                sparse_pred_ignore_index rope_parameters sliding_window""".split()
            ),
            fixed={
                "mlp_dropout": (0.0,),
                "rope_scaling": (None, {"rope_type": "default"}, {"type": "default"}),
            },
        )
        check_layer_types("modernbert", config.layer_types, config.num_hidden_layers)
        regular = dataclasses.replace(config, layer_types=None)
        return pooling.checked("modernbert", regular if regular.kinds == config.kinds else config)

    @property
    def kinds(self) -> tuple[str, ...]:
        """GLOBAL or LOCAL for every layer."""
        every = self.global_attn_every_n_layers
        return self.layer_types or tuple(
            LOCAL if layer % every else GLOBAL for layer in range(self.num_hidden_layers)
        )

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=0,
            width=self.hidden_size,
            norm_bias=self.norm_bias,
            eps=self.norm_eps,
            dropout=self.embedding_dropout,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_activation,
            eps=self.norm_eps,
            biases="qkvo" if self.attention_bias else "",
            mlp_bias=self.mlp_bias,
            norm_bias=self.norm_bias,
            gated=True,
            dropout=self.attention_dropout,
            attention_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )


def _window(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The width of the windows, twice `sliding_window`, which takes precedence in transformers 5."""
    half = hf.get("sliding_window")
    return {"local_attention": 2 * half} if isinstance(half, int) and not isinstance(half, bool) else {}


def _thetas(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The bases of the rotary positions: transformers 5 nests them in `rope_parameters`, which take precedence.

    Raises WeightError for rotary positions of another type.
    """
    nested = hf.get("rope_parameters") or {}
    plain = {"rope_type": "default", "type": "default"}
    good = isinstance(nested, Mapping) and all(
        kind in (GLOBAL, LOCAL)
        and isinstance(rope, Mapping | None)
        and all(name == "rope_theta" or plain.get(name) == value for name, value in (rope or {}).items())
        for kind, rope in nested.items()
    )
    if not good:
        raise WeightError(
            f"modernbert config: rope_parameters={nested!r} is not implemented; the default type with a "
            f"rope_theta for {GLOBAL!r} and one for {LOCAL!r} is"
        )
    everywhere, near = (
        (nested.get(kind) or {}).get("rope_theta", hf.get(name, getattr(Config, name)))
        for kind, name in ((GLOBAL, "global_rope_theta"), (LOCAL, "local_rope_theta"))
    )
    # In transformers 4, the base for layers with windows can be None: then it is the same as for the others.
    return {"global_rope_theta": everywhere, "local_rope_theta": everywhere if near is None else near}
