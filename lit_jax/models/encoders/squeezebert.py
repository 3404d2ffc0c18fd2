"""SqueezeBERT (arXiv:2006.11316), as transformers' SqueezeBertModel with its pooler: dense layers in groups."""

import dataclasses

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.pooling import POOLER
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' SqueezeBertConfig."""

    embedding_size: int = 768
    q_groups: int = 4
    k_groups: int = 4
    v_groups: int = 4
    intermediate_groups: int = 4
    output_groups: int = 4

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        # No published checkpoint has more groups after the attention.
        config = read_config(cls, "squeezebert", hf, fixed={"post_attention_groups": (1,)})
        if config.embedding_size != config.hidden_size:
            raise WeightError(
                f"squeezebert config: embedding_size={config.embedding_size} is not usable with "
                f"hidden_size={config.hidden_size}; wanted the same"
            )
        for name, number in config.block.groups:
            if config.hidden_size % number or config.intermediate_size % number:
                raise WeightError(
                    f"squeezebert config: {number} groups of {name} do not divide hidden_size={config.hidden_size} "
                    f"and intermediate_size={config.intermediate_size}"
                )
        return config

    @property
    def block(self) -> BlockSpec:
        groups = {
            "query": self.q_groups,
            "key": self.k_groups,
            "value": self.v_groups,
            "up": self.intermediate_groups,
            "down": self.output_groups,
        }
        # The norms of the layers have this epsilon, whatever the config says.
        return dataclasses.replace(super().block, eps=1e-12, groups=tuple(groups.items()))


_LAYERS = table("""
    attention.query.weight          | layers/attn/query/kernel | (h k) d x -> d (h x) k
    attention.query.bias            | layers/attn/query/bias   | (h k) -> h k
    attention.key.weight            | layers/attn/key/kernel   | (h k) d x -> d (h x) k
    attention.key.bias              | layers/attn/key/bias     | (h k) -> h k
    attention.value.weight          | layers/attn/value/kernel | (h k) d x -> d (h x) k
    attention.value.bias            | layers/attn/value/bias   | (h k) -> h k
    post_attention.conv1d.weight    | layers/attn/out/kernel   | d (h k) x -> (h x) k d
    post_attention.conv1d.bias      | layers/attn/out/bias     | d
    post_attention.layernorm.weight | layers/norm1/scale       | d
    post_attention.layernorm.bias   | layers/norm1/bias        | d
    intermediate.conv1d.weight      | layers/mlp/up/kernel     | f d x -> (d x) f
    intermediate.conv1d.bias        | layers/mlp/up/bias       | f
    output.conv1d.weight            | layers/mlp/down/kernel   | d f x -> (f x) d
    output.conv1d.bias              | layers/mlp/down/bias     | d
    output.layernorm.weight         | layers/norm2/scale       | d
    output.layernorm.bias           | layers/norm2/bias        | d
""").inside("encoder.layers.{l}")


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS + (bert.TYPES if config.type_vocab_size else WeightMap()) + _LAYERS + POOLER
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads, x=1)


ENCODER = dataclasses.replace(
    bert.ENCODER,
    Config=Config,
    weights=weights,
    prefix="transformer.",
    dropped=rf"{bert.ENCODER.dropped}|(cls|lm_head)\..*",
)
