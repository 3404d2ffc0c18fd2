"""DPR (arXiv:2004.04906), as transformers' DPRQuestionEncoder and DPRContextEncoder, which differ in names alone."""

import dataclasses
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import EncoderOutput
from lit_jax.models.layers.dense import Dense
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' DPRConfig."""

    pad_token_id: int = 0
    projection_dim: int = 0  # The width of the pooled output; 0: that of the tower, without a projection.

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented, and for a reader."""
        if hf.get("architectures") == ["DPRReader"]:
            raise WeightError(
                "dpr config: a DPRReader marks answers in texts and gives no vector; give a DPRQuestionEncoder or a "
                "DPRContextEncoder"
            )
        return super().from_hf(hf)


class Model(bert.Model):
    """Equals transformers' DPRQuestionEncoder. Its last hidden state, which that class does not return, is BERT's."""

    config: Config

    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Int[Array, "B N"] | None = None,
        position_ids: Array | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real; None: where it is not the token of padding.

        `position_ids` are accepted and ignored, as in transformers. Raises ConfigError for texts that are too long.
        """
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        return super().__call__(
            input_ids,
            attention_mask,
            token_type_ids,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )

    def pooled(self, x: Float[Array, "B N D"], attention_mask: Array | None) -> Float[Array, "B P"]:
        """The first token, projected if the config says so."""
        if not self.config.projection_dim:
            return x[:, 0]
        init = nn.initializers.normal(self.config.initializer_range)
        width, dtype = self.config.projection_dim, self.compute.dtype
        return Dense(width, dtype=dtype, kernel_init=init, name="head")(x[:, 0])


_HEAD = table("""
    question_encoder.encode_proj.weight | head/kernel | e d -> d e
    question_encoder.encode_proj.bias   | head/bias   | e
""")


def weights(config: Config) -> WeightMap:
    rows = bert.weights(config).without("pooler/").inside("question_encoder.bert_model")
    return rows + (_HEAD if config.projection_dim else WeightMap())


ENCODER = dataclasses.replace(
    bert.ENCODER,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="cls",
    prefix="",
    dropped=r"question_encoder\.bert_model\.(pooler\..*|embeddings\.(position_ids|token_type_ids))",
    renames=(*bert.ENCODER.renames, (r"^ctx_encoder\.", "question_encoder.")),
    fresh=r"(?!)",
    exportable=(),  # VisionTextDualEncoderModel takes the second output, and the pooled output is the first.
    pooled_by_reader=True,
)
