"""ViT (arXiv:2010.11929), as transformers' ViTModel with its pooler."""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput, identity_pooler, with_embeddings
from lit_jax.models.encoders.hf_config import even_heads, read_config
from lit_jax.models.layers.blocks import ACTIVATIONS, Block, layer_norm, scan_layers
from lit_jax.models.layers.patches import PatchEmbed, Patches
from lit_jax.models.layers.pooling import POOLER, tanh_pooler
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import Sides


@dataclasses.dataclass(frozen=True)
class Fields:
    """Fields and defaults that ViT shares with its descendants without a pooler."""

    tokens: ClassVar[tuple[str, ...]] = ("cls",)  # Learned tokens before the patches.
    inert: ClassVar[frozenset[str]] = frozenset({"encoder_stride"})  # Fields that do not change the numbers.

    image_size: Sides = 224
    patch_size: Sides = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return read_config(
            cls,
            hf.get("model_type", "vit"),
            hf,
            inert=cls.inert,
            fixed={
                "pooler_output_size": lambda config: (None, 0, config.hidden_size),
                "head_dim": even_heads,
            },
        )

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=self.tokens,
            dropout=self.hidden_dropout_prob,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            biases="qkvo" if self.qkv_bias else "o",
            dropout=self.hidden_dropout_prob,
            attention_dropout=self.attention_probs_dropout_prob,
            init_std=self.initializer_range,
        )


@dataclasses.dataclass(frozen=True)
class Config(Fields):
    """Fields and defaults of transformers' ViTConfig."""

    pooler_act: str = "tanh"

    def __repr__(self) -> str:
        """The fields in their former order, since indexes and caches contain the hash of it."""
        names = [field.name for field in dataclasses.fields(self)]
        names.remove("pooler_act")
        names.insert(names.index("initializer_range"), "pooler_act")
        return f"Config({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def trunk(
    config: Any,
    compute: Compute,
    images: Float[Array, "B S1 S2 C"],
    *,
    train: bool,
    interpolate: bool,
    pre_norm: bool = False,
    norm: bool = True,
    **options: Any,
) -> tuple[Array, Array | None, Array | None]:
    """Patches, blocks and last norm of ViT and its descendants; returns tokens, hidden states and attentions.

    Call it in the compact method of a model, which gets the submodules `embeddings`, `layers` and `norm`, and, if there
    is a norm before the blocks, `pre_norm`. `options` are further arguments of `scan_layers`.
    """
    x = PatchEmbed(config.patches, compute, name="embeddings")(images, interpolate=interpolate, train=train)
    if pre_norm:
        x = layer_norm(config.block, compute, "pre_norm")(x)
    return run_blocks(config, compute, x, norm=norm, train=train, **options)


def run_blocks(
    config: Any, compute: Compute, embedded: Float[Array, "B N D"], *, norm: bool = True, **options: Any
) -> tuple[Array, Array | None, Array | None]:
    """The part of `trunk` after the embeddings."""
    block = Block(config.block, compute, name="layers")
    x, states, weights = scan_layers(block, config.num_hidden_layers, embedded, **options)
    if norm:
        x = layer_norm(config.block, compute, "norm")(x)
    return x, with_embeddings(embedded, states), weights


class Model(nn.Module):
    """Equals transformers' ViTModel(add_pooling_layer=True), with NHWC images."""

    config: Any
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"],
        *,
        train: bool = False,
        interpolate: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """Raises ConfigError for an image size other than the config's, unless `interpolate`."""
        c = self.config
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=interpolate,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, self.pooled(x), states, weights)

    def pooled(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        """The pooled output of the type, from its last hidden state."""
        c = self.config
        return tanh_pooler(self.compute, x, ACTIVATIONS[c.pooler_act], c.initializer_range)


QKV_BIAS = table("""
    encoder.layer.{l}.attention.attention.query.bias   | layers/attn/query/bias    | (h k) -> h k
    encoder.layer.{l}.attention.attention.key.bias     | layers/attn/key/bias      | (h k) -> h k
    encoder.layer.{l}.attention.attention.value.bias   | layers/attn/value/bias    | (h k) -> h k
""")

# The rows that ViT shares with its descendants: patches, positions, attention and the last norm.
SHARED = table("""
    embeddings.cls_token                               | embeddings/cls            | x y d
    embeddings.position_embeddings                     | embeddings/pos            | x n d
    embeddings.patch_embeddings.projection.weight      | embeddings/patch/kernel   | d c p q -> p q c d
    embeddings.patch_embeddings.projection.bias        | embeddings/patch/bias     | d

    encoder.layer.{l}.attention.attention.query.weight | layers/attn/query/kernel  | (h k) d -> d h k
    encoder.layer.{l}.attention.attention.key.weight   | layers/attn/key/kernel    | (h k) d -> d h k
    encoder.layer.{l}.attention.attention.value.weight | layers/attn/value/kernel  | (h k) d -> d h k
    encoder.layer.{l}.attention.output.dense.weight    | layers/attn/out/kernel    | d (h k) -> h k d
    encoder.layer.{l}.attention.output.dense.bias      | layers/attn/out/bias      | d

    layernorm.weight                                   | norm/scale                | d
    layernorm.bias                                     | norm/bias                 | d
""")

OWN = table("""
    encoder.layer.{l}.layernorm_before.weight          | layers/norm1/scale        | d
    encoder.layer.{l}.layernorm_before.bias            | layers/norm1/bias         | d
    encoder.layer.{l}.layernorm_after.weight           | layers/norm2/scale        | d
    encoder.layer.{l}.layernorm_after.bias             | layers/norm2/bias         | d
    encoder.layer.{l}.intermediate.dense.weight        | layers/mlp/up/kernel      | f d -> d f
    encoder.layer.{l}.intermediate.dense.bias          | layers/mlp/up/bias        | f
    encoder.layer.{l}.output.dense.weight              | layers/mlp/down/kernel    | d f -> f d
    encoder.layer.{l}.output.dense.bias                | layers/mlp/down/bias      | d
""")


def shared_weights(own: WeightMap, config: Any) -> WeightMap:
    """The shared rows and an architecture's own, bound to the sizes of its config."""
    biases = {row for row in QKV_BIAS.rows if row.jax.split("/")[2][0] in config.block.biases}
    rows = SHARED + own + WeightMap(tuple(row for row in QKV_BIAS.rows if row in biases))
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads, u=2)


# transformers 5's names in memory -> names on disk.
RENAMES = (
    (r"\battention\.([qkv])_proj\.", r"attention.attention.\1_proj."),
    (r"attention\.attention\.q_proj\.", "attention.attention.query."),
    (r"attention\.attention\.k_proj\.", "attention.attention.key."),
    (r"attention\.attention\.v_proj\.", "attention.attention.value."),
    (r"attention\.o_proj\.", "attention.output.dense."),
)

OWN_RENAMES = (
    (r"^layers\.", "encoder.layer."),
    *RENAMES,
    (r"\bmlp\.fc1\.", "intermediate.dense."),
    (r"\bmlp\.fc2\.", "output.dense."),
)

ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=lambda config: shared_weights(OWN + POOLER, config),
    pooling="pooler_act(dense(cls))",
    prefix="vit.",
    image_processor="ViTImageProcessor",
    dropped=r"classifier\..*|decoder\..*|embeddings\.mask_token",
    renames=OWN_RENAMES,
    fresh=r"pooler/",
    poolings={
        "cls": lambda config: (
            dataclasses.replace(config, pooler_act="linear"),
            identity_pooler(config.hidden_size),
        )
    },
)
