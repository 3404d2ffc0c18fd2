"""AIMv2's image tower (arXiv:2411.14402), as transformers' Aimv2VisionModel: RMS norms, gated MLPs, a pooling head."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.encoders.vit import trunk
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' Aimv2VisionConfig."""

    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 8
    intermediate_size: int = 2816
    hidden_act: str = "silu"
    attention_dropout: float = 0.0
    rms_norm_eps: float = 1e-5
    qkv_bias: bool = False
    mlp_bias: bool = False
    is_native: bool = False
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed = {"use_head": (True,)}  # Without it there is no pooled output.
        config = read_config(cls, "aimv2_vision_model", hf, fixed=fixed)
        if config.is_native and config.hidden_size % 4:
            raise WeightError(
                f"aimv2_vision_model config: hidden_size={config.hidden_size} is not usable with is_native=True; "
                "wanted a multiple of four, for sines and cosines of rows and columns"
            )
        return config

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=(),
            rms_eps=self.rms_norm_eps,
            positions=not self.is_native,
            sinusoids=self.is_native,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.rms_norm_eps,
            rms=0.0,
            gated=True,
            biases="qkvo" if self.qkv_bias else "",
            mlp_bias=self.mlp_bias,
            attention_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )


class Head(nn.Module):
    """A learned query attends to all tokens."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        spec, width, dtype = self.spec, x.shape[-1], self.compute.dtype
        init = nn.initializers.normal(spec.init_std)
        heads = (spec.heads, width // spec.heads)

        def split(name: str) -> Array:
            biased = name[0] in spec.biases
            return Dense(heads, use_bias=biased, dtype=dtype, kernel_init=init, name=name)(x)

        query = self.param("query", init, (1, 1, width)).reshape(1, 1, *heads)
        query = jnp.broadcast_to(query, (x.shape[0], 1, *heads)).astype(x.dtype)
        # Fused kernels do not suit a single query.
        y = jax.nn.dot_product_attention(query, split("key"), split("value"), implementation="xla")
        return Dense(width, axis=(-2, -1), dtype=dtype, kernel_init=init, name="out")(y)[:, 0]


class Model(nn.Module):
    """Equals transformers' Aimv2VisionModel, with NHWC images; a native one takes any size that the patches divide."""

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
        """Raises ConfigError for an image size other than the config's, unless native or with `interpolate`."""
        c = self.config
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=interpolate or c.is_native,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, Head(c.block, self.compute, name="head")(x), states, weights)


_ROWS = table("""
    embeddings.patch_embed.weight                    | embeddings/patch/kernel  | d c p q -> p q c d
    embeddings.patch_embed.bias                      | embeddings/patch/bias    | d
    embeddings.rms_norm.weight                       | embeddings/norm/scale    | d
    embeddings.position_embedding.weight             | embeddings/pos           | n d -> 1 n d

    encoder.layers.{l}.rms_norm1.weight              | layers/norm1/scale       | d
    encoder.layers.{l}.attention.q_proj.weight       | layers/attn/query/kernel | (h k) d -> d h k
    encoder.layers.{l}.attention.q_proj.bias         | layers/attn/query/bias   | (h k) -> h k
    encoder.layers.{l}.attention.k_proj.weight       | layers/attn/key/kernel   | (h k) d -> d h k
    encoder.layers.{l}.attention.k_proj.bias         | layers/attn/key/bias     | (h k) -> h k
    encoder.layers.{l}.attention.v_proj.weight       | layers/attn/value/kernel | (h k) d -> d h k
    encoder.layers.{l}.attention.v_proj.bias         | layers/attn/value/bias   | (h k) -> h k
    encoder.layers.{l}.attention.out_proj.weight     | layers/attn/out/kernel   | d (h k) -> h k d
    encoder.layers.{l}.attention.out_proj.bias       | layers/attn/out/bias     | d
    encoder.layers.{l}.rms_norm2.weight              | layers/norm2/scale       | d
    encoder.layers.{l}.ffn.{gate_proj,up_proj}.weight | layers/mlp/up/kernel    | g f d -> d g f
    encoder.layers.{l}.ffn.{gate_proj,up_proj}.bias  | layers/mlp/up/bias       | g f
    encoder.layers.{l}.ffn.down_proj.weight          | layers/mlp/down/kernel   | d f -> f d
    encoder.layers.{l}.ffn.down_proj.bias            | layers/mlp/down/bias     | d

    rms_norm.weight                                  | norm/scale               | d

    head.cls_token                                   | head/query               | x y d
    head.k_proj.weight                               | head/key/kernel          | (h k) d -> d h k
    head.k_proj.bias                                 | head/key/bias            | (h k) -> h k
    head.v_proj.weight                               | head/value/kernel        | (h k) d -> d h k
    head.v_proj.bias                                 | head/value/bias          | (h k) -> h k
    head.output_proj.weight                          | head/out/kernel          | d (h k) -> h k d
    head.output_proj.bias                            | head/out/bias            | d
""")


def weights(config: Config) -> WeightMap:
    present = {
        "embeddings/pos": not config.is_native,
        "layers/attn/.*/bias": config.qkv_bias,
        "head/(key|value)/bias": config.qkv_bias,
        "layers/mlp/.*/bias": config.mlp_bias,
    }
    return _ROWS.having(present).bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="attention pooling head",
    prefix="vision_model.",
    image_processor="CLIPImageProcessor",
    any_size=lambda config: config.is_native,
    dropped=r"embeddings\.position_ids|visual_projection\.weight",
)
