"""ViTs without a pooler: MSN (arXiv:2204.07141), MAE (arXiv:2111.06377) and I-JEPA (arXiv:2301.08243).

They are transformers' ViTMSNModel, ViTMAEModel and IJepaModel, and pool as their classifiers do: MSN and MAE take the
CLS token, and I-JEPA, which has none, takes the mean of all tokens.
"""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from lit_jax.models.encoders import vit
from lit_jax.models.weight_map import WeightMap


@dataclasses.dataclass(frozen=True)
class MsnConfig(vit.Fields):
    """Fields and defaults of transformers' ViTMSNConfig."""

    layer_norm_eps: float = 1e-6


@dataclasses.dataclass(frozen=True)
class MaeConfig(vit.Fields):
    """Fields and defaults of transformers' ViTMAEConfig, without those for pretraining."""

    inert: ClassVar[frozenset[str]] = frozenset(
        """mask_ratio norm_pix_loss decoder_hidden_size decoder_num_hidden_layers decoder_num_attention_heads
        decoder_intermediate_size""".split()
    )


@dataclasses.dataclass(frozen=True)
class IJepaConfig(vit.Fields):
    """Fields and defaults of transformers' IJepaConfig, without those of a pooler that AutoModel does not make."""

    tokens: ClassVar[tuple[str, ...]] = ()
    inert: ClassVar[frozenset[str]] = frozenset({"pooler_act", "pooler_output_size"})


class Msn(vit.Model):
    """Equals transformers' ViTMSNModel, pooled from the CLS token."""

    def pooled(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        """The first token."""
        return x[:, 0]


class Mae(Msn):
    """Equals transformers' ViTMAEModel without masking or shuffling of patches, pooled from the CLS token.

    The positions, which are fixed in pretraining, are tuned with the rest, as in the authors' fine-tuning.
    """


class IJepa(vit.Model):
    """Equals transformers' IJepaModel, pooled by the mean of the tokens."""

    def pooled(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        """The mean of all tokens."""
        return x.mean(axis=1)


def weights(config: vit.Fields) -> WeightMap:
    return vit.shared_weights(vit.OWN, config).having({"embeddings/cls": "cls" in config.tokens})


MSN = dataclasses.replace(
    vit.ENCODER,
    Config=MsnConfig,
    Model=Msn,
    weights=weights,
    pooling="cls",
    fresh=r"(?!)",
    exportable=(),
    poolings={"cls": lambda config: (config, {})},
)
MAE = dataclasses.replace(MSN, Config=MaeConfig, Model=Mae)
IJEPA = dataclasses.replace(
    vit.ENCODER,
    Config=IJepaConfig,
    Model=IJepa,
    weights=weights,
    pooling="mean",
    prefix="ijepa.",
    dropped=rf"{vit.ENCODER.dropped}|pooler\..*",
    fresh=r"(?!)",
    exportable=(),
    poolings={"mean": lambda config: (config, {})},
)
