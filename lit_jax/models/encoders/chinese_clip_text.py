"""Chinese-CLIP's text tower (arXiv:2211.01335), as in transformers' ChineseCLIPModel: BERT without a pooler."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from lit_jax.models.encoders import bert
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


class Model(bert.Model):
    """Equals transformers' ChineseCLIPTextModel(add_pooling_layer=False), pooled from the first token."""

    def pooled(self, x: Float[Array, "B N D"], attention_mask: Array | None) -> Float[Array, "B D"]:
        """The first token."""
        return x[:, 0]


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
