"""Types that compute as RoBERTa does: LUKE (arXiv:2010.01057) without entities, I-BERT (arXiv:2101.01321) in floats.

They equal transformers' LukeModel for texts without entities and IBertModel without `quant_mode`. The weights of
entities and the buffers of quantisation are not read; transformers makes new ones when it reads an export.
"""

import dataclasses

from lit_jax.models.encoders import roberta
from lit_jax.models.encoders.hf_config import read_config


@dataclasses.dataclass(frozen=True)
class LukeConfig(roberta.Config):
    """Fields and defaults of transformers' LukeConfig."""

    vocab_size: int = 50267
    # Sizes of the entity embeddings, kept for exports.
    entity_vocab_size: int = 500000
    entity_emb_size: int = 256
    use_entity_aware_attention: bool = True

    @classmethod
    def from_hf(cls, hf: dict) -> "LukeConfig":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return read_config(cls, "luke", hf)


@dataclasses.dataclass(frozen=True)
class IBertConfig(roberta.XlmRobertaConfig):
    """Fields and defaults of transformers' IBertConfig, which accepts only gelu as the activation."""

    @classmethod
    def from_hf(cls, hf: dict) -> "IBertConfig":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return read_config(
            cls, "ibert", hf, inert=frozenset({"force_dequant"}), fixed={"quant_mode": (False,)}
        )


LUKE = dataclasses.replace(
    roberta.ENCODER,
    Config=LukeConfig,
    prefix="luke.",
    dropped=rf"{roberta.ENCODER.dropped}|entity_.*|encoder\.layer\.\d+\.attention\.self\.(w2e|e2w|e2e)_query\..*",
    exportable=(),
    pooled_by_reader=True,
)
IBERT = dataclasses.replace(
    roberta.ENCODER,
    Config=IBertConfig,
    prefix="ibert.",
    dropped=rf"{roberta.ENCODER.dropped}|.*(_integer|_scaling_factor|\.x_min|\.x_max|\.shift)",
    exportable=(),
    pooled_by_reader=True,
)
