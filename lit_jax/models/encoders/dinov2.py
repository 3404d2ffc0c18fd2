"""DINOv2 (arXiv:2304.07193), as transformers' Dinov2Model: layer scale, resized positions, MLP or SwiGLU."""

import dataclasses
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import BACKBONE, check_own_size, even_heads, read_config
from lit_jax.models.encoders.vit import RENAMES, shared_weights, trunk
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import Sides


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' Dinov2Config."""

    registers: ClassVar[int] = 0
    antialias: ClassVar[bool] = False

    image_size: Sides = 224
    patch_size: Sides = 14
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        model_type = hf.get("model_type", "dinov2")
        config = read_config(
            cls,
            model_type,
            hf,
            inert=BACKBONE,
            fixed={"head_dim": even_heads},
        )
        check_own_size(model_type, config)
        return config

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            registers=self.registers,
            antialias=self.antialias,
            dropout=self.hidden_dropout_prob,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        hidden = int(self.hidden_size * self.mlp_ratio)
        return BlockSpec(
            heads=self.num_attention_heads,
            # SwiGLU keeps two thirds of the width, rounded up to a multiple of eight.
            hidden=(int(hidden * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else hidden,
            norm_first=True,
            act="silu" if self.use_swiglu_ffn else self.hidden_act,
            eps=self.layer_norm_eps,
            biases="qkvo" if self.qkv_bias else "o",
            gated=self.use_swiglu_ffn,
            layer_scale=self.layerscale_value,
            attention_dropout=self.attention_probs_dropout_prob,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )


class Model(nn.Module):
    """Equals transformers' Dinov2Model, with NHWC images of any size that the patches divide."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"],
        *,
        train: bool = False,
        interpolate: bool = True,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        c = self.config
        if c.use_mask_token:  # Only pretraining uses it; it is kept so that an export is complete.
            self.param("mask_token", nn.initializers.zeros, (1, c.hidden_size))
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=True,  # DINOv2 always resizes its positions, whatever `interpolate` is.
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, x[:, 0], states, weights)


_DINOV2 = table("""
    encoder.layer.{l}.norm1.weight         | layers/norm1/scale      | d
    encoder.layer.{l}.norm1.bias           | layers/norm1/bias       | d
    encoder.layer.{l}.norm2.weight         | layers/norm2/scale      | d
    encoder.layer.{l}.norm2.bias           | layers/norm2/bias       | d
    encoder.layer.{l}.layer_scale1.lambda1 | layers/scale1           | d
    encoder.layer.{l}.layer_scale2.lambda1 | layers/scale2           | d
""")
_MLP = table("""
    encoder.layer.{l}.mlp.fc1.weight       | layers/mlp/up/kernel    | f d -> d f
    encoder.layer.{l}.mlp.fc1.bias         | layers/mlp/up/bias      | f
    encoder.layer.{l}.mlp.fc2.weight       | layers/mlp/down/kernel  | d f -> f d
    encoder.layer.{l}.mlp.fc2.bias         | layers/mlp/down/bias    | d
""")
_SWIGLU = table("""
    encoder.layer.{l}.mlp.weights_in.weight  | layers/mlp/up/kernel   | (u f) d -> d u f
    encoder.layer.{l}.mlp.weights_in.bias    | layers/mlp/up/bias     | (u f) -> u f
    encoder.layer.{l}.mlp.weights_out.weight | layers/mlp/down/kernel | d f -> f d
    encoder.layer.{l}.mlp.weights_out.bias   | layers/mlp/down/bias   | d
""")
_SWIGLU_IN_MEMORY = table("""
    encoder.layer.{l}.mlp.{gate_proj,up_proj}.weight | layers/mlp/up/kernel | g f d -> d g f
    encoder.layer.{l}.mlp.{gate_proj,up_proj}.bias   | layers/mlp/up/bias   | g f
    encoder.layer.{l}.mlp.down_proj.weight   | layers/mlp/down/kernel | d f -> f d
    encoder.layer.{l}.mlp.down_proj.bias     | layers/mlp/down/bias   | d
""")
_MASK_TOKEN = table("embeddings.mask_token | mask_token | x d")


def weights(config: Config) -> WeightMap:
    own = _DINOV2 + (_SWIGLU if config.use_swiglu_ffn else _MLP)
    return shared_weights(own + (_MASK_TOKEN if config.use_mask_token else WeightMap(())), config)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="cls",
    prefix="dinov2.",
    image_processor="BitImageProcessor",
    dropped=r"classifier\..*|head\..*|embeddings\.mask_token",
    renames=((r"^layers\.", "encoder.layer."), *RENAMES),
    any_size=lambda config: True,
    also=lambda config: _SWIGLU_IN_MEMORY.bind(depth=config.num_hidden_layers),
    fresh=r"mask_token",
    poolings={"cls": lambda config: (config, {})},
)
