"""Chinese-CLIP's text tower (arXiv:2211.01335), as it is in transformers' ChineseCLIPModel: BERT without a pooler."""

import dataclasses
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import EncoderOutput
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' ChineseCLIPTextConfig, which are those of BertConfig."""

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        inert = {"initializer_factor", "projection_dim"}
        config: Any = super().from_hf(
            {n: v for n, v in hf.items() if n not in inert} | {"model_type": "bert"}
        )
        return config


class Model(nn.Module):
    """Equals transformers' ChineseCLIPTextModel(add_pooling_layer=False), pooled from the first token."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Int[Array, "B N"] | None = None,
        position_ids: Int[Array, "... N"] | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real; None: all of them are.

        Raises ConfigError for more tokens than the position table has rows.
        """
        x, states, weights = bert.trunk(
            self.config,
            self.compute,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, x[:, 0], states, weights)


def weights(config: Config) -> WeightMap:
    return bert.weights(config).without("pooler/")


ENCODER = dataclasses.replace(
    bert.ENCODER,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="cls",
    dropped=rf"{bert.ENCODER.dropped}|pooler\..*|text_projection\.weight",
    fresh=r"(?!)",
    exportable=(),
    reader="ChineseCLIPTextModel",
)
