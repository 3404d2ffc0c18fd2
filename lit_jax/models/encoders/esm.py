"""ESM-2 and ESM-1b (10.1126/science.ade2574), as transformers' EsmModel with its pooler: towers for proteins."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lit_jax.models.encoders import bert, roberta
from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.encoders.pre_norm_bert import norms
from lit_jax.models.layers import rotary
from lit_jax.models.layers.blocks import ALIKE, Block, PerLayer, layer_norm, scan_layers
from lit_jax.models.layers.norm import LayerNorm
from lit_jax.models.layers.pooling import POOLER, tanh_pooler
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import Tokens, check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Params

_HIDDEN = 0.15 * 0.8  # The share of the tokens in training that were replaced by the mask token.
_POSITIONS = ("absolute", "rotary")


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' EsmConfig; that has no default vocabulary, so the default is ESM-2's."""

    vocab_size: int = 33
    mask_token_id: int = 32
    pad_token_id: int = 1
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 1026
    position_embedding_type: str = "absolute"
    rope_theta: float = 10000.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    emb_layer_norm_before: bool = False
    token_dropout: bool = False

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed = {"is_decoder": (False,), "add_cross_attention": (False,), "is_folding_model": (False, None)}
        inert = frozenset({"esmfold_config", "vocab_list"})
        config = read_config(cls, "esm", hf, fixed=fixed, inert=inert)
        if config.position_embedding_type not in _POSITIONS:
            raise WeightError(
                f"esm config: position_embedding_type={config.position_embedding_type!r} is not implemented; "
                f"{' or '.join(map(repr, _POSITIONS))} is"
            )
        if config.rotary and config.head_width % 2:
            raise WeightError(
                f"esm config: hidden_size={config.hidden_size} gives {config.num_attention_heads} heads a width of "
                f"{config.head_width}; wanted an even one, whose channels turn in pairs"
            )
        return config

    @property
    def rotary(self) -> bool:
        return self.position_embedding_type == "rotary"

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def longest(self) -> int:
        """The number of tokens of a protein that the position table, if there is one, has rows for."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=0 if self.rotary else self.max_position_embeddings,
            width=self.hidden_size,
            norm=self.emb_layer_norm_before,
            eps=self.layer_norm_eps,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            eps=self.layer_norm_eps,
            dropout=self.hidden_dropout_prob,
            attention_dropout=self.attention_probs_dropout_prob,
            init_std=self.initializer_range,
        )


class Embed(nn.Module):
    """Embeds tokens, and positions if they are a table; zero where a token is not real."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        real: Bool[Array, "B N"] | None,
        position_ids: Int[Array, "... N"] | None,
    ) -> Float[Array, "B N D"]:
        """Raises ConfigError for more tokens than the position table has rows."""
        c, dtype = self.config, self.compute.dtype
        init = nn.initializers.normal(c.initializer_range)
        x = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=init, name="word")(input_ids)
        # Training zeroed a share of the tokens; here all others are scaled to the same size as there.
        if c.token_dropout:
            hidden = input_ids == c.mask_token_id
            tokens = input_ids.shape[1] if real is None else real.sum(axis=1)
            share = hidden.sum(axis=1) / tokens
            x = jnp.where(hidden[..., None], 0, x) * ((1 - _HIDDEN) / (1 - share))[:, None, None]
        if rows := c.tokens.positions:
            if position_ids is None:
                check_length(input_ids, c.longest)
                position_ids = roberta.counted(input_ids, c.pad_token_id)
            x = x + nn.Embed(rows, c.hidden_size, embedding_init=init, name="position")(position_ids)
        x = x.astype(dtype)
        if c.emb_layer_norm_before:
            x = LayerNorm(c.layer_norm_eps, dtype=dtype, on_gpu=self.compute.on_gpu, name="norm")(x)
        return x if real is None else jnp.where(real[..., None], x, 0)


class Model(nn.Module):
    """Equals transformers' EsmModel(add_pooling_layer=True); where a token is not real, only that of transformers 5."""

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

        Raises ConfigError for more tokens than the position table has rows.
        """
        c = self.config
        self.contact()
        per_layer = self.turning(input_ids, position_ids) if c.rotary else ALIKE
        real = None if attention_mask is None else attention_mask != 0
        x = embedded = Embed(c, self.compute, name="embeddings")(input_ids, real, position_ids)
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            key_mask(attention_mask),
            per_layer=per_layer,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        states = None if states is None else states.at[-1].set(x)
        pooled = tanh_pooler(self.compute, x, std=c.initializer_range)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)

    def turning(self, input_ids: Int[Array, "B N"], position_ids: Array | None) -> PerLayer:
        """The rotation of queries and keys, with speeds that no step changes. Call it in the compact method.

        Checkpoints store the speeds, which can have been rounded to 16 bits before. If the params here have 16 bits,
        the speeds are computed instead, since with rounded speeds the angles of far tokens would be wrong.
        """
        c = self.config
        computed = rotary.speeds(c.rope_theta, c.head_width)
        speeds = self.param("speeds", lambda _: jnp.asarray(computed))
        speeds = lax.stop_gradient(speeds) if speeds.dtype == jnp.float32 else jnp.asarray(computed)
        tokens = input_ids.shape[1]
        positions = bert.in_order(input_ids) if position_ids is None else position_ids.reshape(-1, tokens)
        [cos], [sin] = rotary.tables(positions, speeds[None])
        return PerLayer(inputs=lambda _: {"rope": (cos, sin)})

    def contact(self) -> None:
        """The head that predicts contacts from all attention weights; nothing uses it, but exports keep it."""
        c = self.config
        maps = c.num_hidden_layers * c.num_attention_heads
        self.param("contact_weight", nn.initializers.normal(c.initializer_range), (1, maps))
        self.param("contact_bias", nn.initializers.zeros, (1,))


_SPEEDS = "attention.self.rotary_embeddings.inv_freq"
_ROWS = table(f"""
    embeddings.layer_norm.weight     | embeddings/norm/scale | d
    embeddings.layer_norm.bias       | embeddings/norm/bias  | d
    encoder.layer.0.{_SPEEDS}        | speeds                | k
    contact_head.regression.weight   | contact_weight        | x m
    contact_head.regression.bias     | contact_bias          | x
""")
_LAYERS = (bert.ATTENTION + bert.MLP).without("layers/norm")
_NORMS = norms("attention.LayerNorm", "LayerNorm", "encoder.emb_layer_norm_after")


def weights(config: Config) -> WeightMap:
    present = {
        "embeddings/norm": config.emb_layer_norm_before,
        "embeddings/position": not config.rotary,
        "speeds": config.rotary,
    }
    rows = bert.EMBEDDINGS.without("embeddings/norm") + _ROWS + _LAYERS + _NORMS + POOLER
    return rows.having(present).bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


def buffers(config: Config, params: Params) -> dict[str, np.ndarray]:
    """The speeds, repeated for each later layer, where transformers 4.57 stores them."""
    layers = range(1, config.num_hidden_layers if config.rotary else 0)
    return {f"encoder.layer.{layer}.{_SPEEDS}": np.asarray(params["speeds"]) for layer in layers}


ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="tanh(dense(cls))",
    prefix="esm.",
    dropped=rf"(lm_head|classifier)\..*|embeddings\.position_ids|encoder\.layer\.\d+\.{_SPEEDS}",
    # transformers 5 has the speeds once, under the first name in memory and under the second (with the star) on disk;
    # there it also names the norms as BERT's first files did.
    renames=(
        *bert.ENCODER.renames,
        (r"^rotary_embeddings\.inv_freq$", f"encoder.layer.0.{_SPEEDS}"),
        (r"^encoder\.layer\.\*\.(.*\.inv_freq)$", r"encoder.layer.0.\1"),
    ),
    buffers=buffers,
    fresh=r"pooler/|contact_",
    of_all_layers=r"contact_weight",
)
