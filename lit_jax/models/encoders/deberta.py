"""DeBERTa (arXiv:2006.03654), as transformers' DebertaModel: each distance up to the farthest has a row of its own."""

import dataclasses

from lit_jax.models.encoders import deberta_v2
from lit_jax.models.encoders.deberta_config import INERT, Shared, plain
from lit_jax.models.encoders.hf_config import read_config, shown
from lit_jax.models.layers import pooling
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(Shared):
    """Fields and defaults of transformers' DebertaConfig, fields that it reads without declaring, and how to pool."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    pooling: str = "cls"

    # What only DeBERTa v2 has.
    position_buckets = conv_kernel_size = 0
    share_att_key = norms_relative = False

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        # No published checkpoint mixes the heads.
        config = read_config(cls, "deberta", plain(hf), inert=INERT, fixed={"talking_head": (False, None)})
        kinds = config.pos_att_type or ()
        # transformers divides by the root of their number, whatever they are.
        if sorted(kinds) != sorted({"c2p", "p2c"}.intersection(kinds)):
            raise WeightError(
                f"deberta config: pos_att_type={shown(hf['pos_att_type'])} is not implemented; 'c2p', 'p2c' or both are"
            )
        return pooling.checked("deberta", config)

    @property
    def span(self) -> int:
        """The number of rows for each direction in the table of relative positions."""
        return self.farthest

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, biases="qvo")


_ATTENTION = table("""
    self.in_proj.weight     | layers/attn/{query,key,value}/kernel | (h g k) d -> g d h k
    self.q_bias             | layers/attn/query/bias               | (h k) -> h k
    self.v_bias             | layers/attn/value/bias               | (h k) -> h k
    self.pos_proj.weight    | layers/attn/pos_key/kernel           | (h k) d -> d h k
    self.pos_q_proj.weight  | layers/attn/pos_query/kernel         | (h k) d -> d h k
    self.pos_q_proj.bias    | layers/attn/pos_query/bias           | (h k) -> h k
""").inside("encoder.layer.{l}.attention")


def weights(config: Config) -> WeightMap:
    return deberta_v2.bound(_ATTENTION, config)


ENCODER = dataclasses.replace(deberta_v2.ENCODER, Config=Config, weights=weights)
