"""SigLIP's image tower (arXiv:2303.15343), as transformers' SiglipVisionModel; also taken out of a whole SigLIP."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.clip import LAYERS
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.encoders.vit import trunk
from lit_jax.models.layers.blocks import Mlp, layer_norm
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' SiglipVisionConfig."""

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_pytorch_tanh"
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-6

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed = {"vision_use_head": (True,)}  # Without it there is no pooled output.
        return read_config(cls, hf.get("model_type", "siglip_vision_model"), hf, fixed=fixed)

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=(),
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            attention_dropout=self.attention_dropout,
        )


class AttentionPool(nn.Module):
    """A learned query attends to all real tokens; an MLP with a residual follows (arXiv:2205.01580's MAP head)."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], real: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B D"]:
        spec, width, dtype = self.spec, x.shape[-1], self.compute.dtype
        init = nn.initializers.normal(spec.init_std)

        def split(name: str, y: Array) -> Array:
            heads = (spec.heads, width // spec.heads)
            return Dense(heads, dtype=dtype, kernel_init=init, name=name)(y)

        probe = jnp.broadcast_to(self.param("probe", init, (1, 1, width)), (x.shape[0], 1, width))
        y = jax.nn.dot_product_attention(
            split("query", probe),
            split("key", x),
            split("value", x),
            mask=None if real is None else real[:, None, None],
            # Fused kernels do not suit a single query.
            implementation="xla",
        )
        y = Dense(width, axis=(-2, -1), dtype=dtype, kernel_init=init, name="out")(y)
        y = y + Mlp(spec, self.compute, name="mlp")(layer_norm(spec, self.compute, "norm")(y))
        return y[:, 0]


class Model(nn.Module):
    """Equals transformers' SiglipVisionModel, with NHWC images."""

    config: Config
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
        return EncoderOutput(x, AttentionPool(c.block, self.compute, name="head")(x), states, weights)


ROWS = table("""
    embeddings.position_embedding.weight | embeddings/pos                  | n d -> 1 n d
    embeddings.patch_embedding.weight    | embeddings/patch/kernel         | d c p q -> p q c d
    embeddings.patch_embedding.bias      | embeddings/patch/bias           | d
    post_layernorm.weight                | norm/scale                      | d
    post_layernorm.bias                  | norm/bias                       | d

    head.probe                           | head/probe                      | x y d
    head.attention.in_proj_weight        | head/{query,key,value}/kernel   | (g h k) d -> g d h k
    head.attention.in_proj_bias          | head/{query,key,value}/bias     | (g h k) -> g h k
    head.attention.out_proj.weight       | head/out/kernel                 | d (h k) -> h k d
    head.attention.out_proj.bias         | head/out/bias                   | d
    head.layernorm.weight                | head/norm/scale                 | d
    head.layernorm.bias                  | head/norm/bias                  | d
    head.mlp.fc1.weight                  | head/mlp/up/kernel              | f d -> d f
    head.mlp.fc1.bias                    | head/mlp/up/bias                | f
    head.mlp.fc2.weight                  | head/mlp/down/kernel            | d f -> f d
    head.mlp.fc2.bias                    | head/mlp/down/bias              | d
""")


def weights(config: Config) -> WeightMap:
    rows = (ROWS + LAYERS).inside("vision_model")
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="attention pooling head",
    prefix="vision_model.",
    image_processor="SiglipImageProcessor",
    nest="vision_model.",
    dropped=r"embeddings\.position_ids|classifier\..*",
)
