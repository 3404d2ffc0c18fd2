"""ModernBERT (arXiv:2412.13663), as transformers' ModernBertModel: rotary positions, windows in most layers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.bert import in_order
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers import pooling
from lit_jax.models.layers.attention import Attention
from lit_jax.models.layers.blocks import Mlp, PerLayer, given_norm, layer_norm, scan_layers
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError, WeightError

GLOBAL, LOCAL = "full_attention", "sliding_attention"


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
        kinds = config.layer_types
        if kinds is not None and (len(kinds) != config.num_hidden_layers or set(kinds) - {GLOBAL, LOCAL}):
            raise WeightError(
                f"modernbert config: layer_types={list(kinds)!r} is not usable; wanted {GLOBAL!r} or {LOCAL!r} "
                f"for each of the {config.num_hidden_layers} layers"
            )
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
    """The width of the windows, which `sliding_window`, the half of it, would set again in transformers 5."""
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
    # In transformers 4, windows need not have a base of their own.
    return {"global_rope_theta": everywhere, "local_rope_theta": everywhere if near is None else near}


def rope_of(
    config: Config, positions: Int[Array, "N"]
) -> tuple[Float[Array, "2 N K"], Float[Array, "2 N K"]]:
    """Cosines and sines of the positions, each for layers with windows and for layers without."""
    width = config.hidden_size // config.num_attention_heads
    thetas = np.array([[config.local_rope_theta], [config.global_rope_theta]], np.float32)
    speeds = 1 / thetas ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles = jnp.tile(positions[:, None].astype(jnp.float32) * speeds[:, None, :], 2)
    return jnp.cos(angles), jnp.sin(angles)


class Norms(nn.Module):
    """Scales and biases of the norms before attention, for each layer but the first, which has no such norm."""

    config: Config

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "L D"], Float[Array, "L D"]]:
        """The first layer gets a row that it does not use, so that all layers form one scan."""
        c = self.config
        shape = (c.num_hidden_layers - 1, c.hidden_size)
        unused = jnp.zeros((1, c.hidden_size))
        if c.num_hidden_layers == 1:
            return unused, unused
        scale = jnp.concatenate([unused, self.param("scale", nn.initializers.ones, shape)])
        if not c.norm_bias:
            return scale, jnp.zeros_like(scale)
        return scale, jnp.concatenate([unused, self.param("bias", nn.initializers.zeros, shape)])


class Layer(nn.Module):
    """A pre-norm block that is given the scale and bias of its first norm, and whether it is the `first` layer."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 _ N"] | None = None,
        *,
        first: Bool[Array, ""],
        norm: tuple[Float[Array, "D"], Float[Array, "D"]],
        rope: tuple[Array, Array],
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        spec, compute = self.spec, self.compute
        y = jnp.where(first, x, given_norm(spec, x, *norm).astype(x.dtype))
        attn = Attention(spec, compute, name="attn")
        y, weights = attn(y, mask, rope=rope, train=train, attentions=attentions)
        x = x + nn.Dropout(spec.dropout, deterministic=not train)(y)
        y = layer_norm(spec, compute, "norm2")(x)
        return x + Mlp(spec, compute, name="mlp")(y), weights


class Model(nn.Module):
    """Equals transformers' ModernBertModel, and pools as the config says."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Int[Array, "... N"] | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real; `token_type_ids` are accepted and ignored.

        The last of the hidden states is normed, as in transformers 5; in 4 it is not.
        Raises ConfigError for position ids that are not one row for all texts.
        """
        c, tokens = self.config, input_ids.shape[1]
        positions = in_order(input_ids) if position_ids is None else position_ids
        if positions.size != tokens:
            raise ConfigError(
                f"position_ids have shape {positions.shape}; this tower wants one row of {tokens} for all texts"
            )
        cos, sin = rope_of(c, positions.reshape(tokens))
        keys = key_mask(jnp.ones_like(input_ids) if attention_mask is None else attention_mask)  # B 1 1 N
        at = np.arange(tokens)
        near = np.abs(at[:, None] - at[None, :]) <= c.local_attention // 2

        x = embedded = TokenEmbed(c.tokens, self.compute, name="embeddings")(
            input_ids, None, positions, train=train
        )
        everywhere = np.array([kind == GLOBAL for kind in c.kinds])
        first = np.arange(c.num_hidden_layers) == 0

        def inputs(layer: Any) -> dict[str, Any]:
            everywhere, first, norm = layer
            table = everywhere.astype(jnp.int32)
            mask = keys & (everywhere | near)  # B 1 N N
            return {"mask": mask, "rope": (cos[table], sin[table]), "first": first, "norm": norm}

        x, states, weights = scan_layers(
            Layer(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            per_layer=PerLayer((everywhere, first, Norms(c, name="attn_norm")()), inputs),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        if states is not None:
            states = states.at[-1].set(x)
        pooled = pooling.pool(c.pooling, self.compute, x, attention_mask, c.initializer_range)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_ROWS = table("""
    embeddings.tok_embeddings.weight | embeddings/word/embedding | v d
    embeddings.norm.weight           | embeddings/norm/scale     | d
    embeddings.norm.bias             | embeddings/norm/bias      | d

    layers.{l}.attn.Wqkv.weight      | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    layers.{l}.attn.Wqkv.bias        | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    layers.{l}.attn.Wo.weight        | layers/attn/out/kernel    | d (h k) -> h k d
    layers.{l}.attn.Wo.bias          | layers/attn/out/bias      | d
    layers.{l}.mlp_norm.weight       | layers/norm2/scale        | d
    layers.{l}.mlp_norm.bias         | layers/norm2/bias         | d
    layers.{l}.mlp.Wi.weight         | layers/mlp/up/kernel      | (two f) d -> d two f
    layers.{l}.mlp.Wi.bias           | layers/mlp/up/bias        | (two f) -> two f
    layers.{l}.mlp.Wo.weight         | layers/mlp/down/kernel    | d f -> f d
    layers.{l}.mlp.Wo.bias           | layers/mlp/down/bias      | d

    final_norm.weight                | norm/scale                | d
    final_norm.bias                  | norm/bias                 | d
""")
_LATER = table("""
    layers.{l}.attn_norm.weight      | attn_norm/scale           | d
    layers.{l}.attn_norm.bias        | attn_norm/bias            | d
""")


def weights(config: Config) -> WeightMap:
    present = {
        r".*norm2?/bias": config.norm_bias,
        "layers/attn/.*/bias": config.attention_bias,
        "layers/mlp/.*/bias": config.mlp_bias,
    }
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    rows = (_ROWS + pooling.weights(config.pooling)).bind(depth=depth, h=heads, two=2)
    later = _LATER.bind(depth=depth, first=1) if depth > 1 else WeightMap()
    return (rows + later).having(present)


ENCODER = Encoder(
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling=" or ".join(pooling.NAMES),
    prefix="model.",
    dropped=r"head\..*|decoder\..*|classifier\..*|.*inv_freq",
    fresh=r"pooler/",
    exportable=(),
    poolings=pooling.choices(),
)
