"""MLCD (arXiv:2407.17331), as transformers' MLCDVisionModel: CLIP's image tower with rotary positions."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import clip
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import ROPE, check_turning_heads, read_config, rope_base
from lit_jax.models.encoders.vit import trunk
from lit_jax.models.layers import rotary
from lit_jax.models.layers.blocks import PerLayer, layer_norm
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import grid


@dataclasses.dataclass(frozen=True)
class Config(clip.Config):
    """Fields and defaults of transformers' MLCDVisionConfig; `rope_theta` is what it nests in `rope_parameters`."""

    image_size: int = 336
    patch_size: int = 14
    hidden_size: int = 1664
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    intermediate_size: int = 8192
    hidden_act: str = "gelu"
    rope_theta: float = 10000.0

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        name = hf.get("model_type", "mlcd_vision_model")
        inert = ROPE | {"projection_dim", "initializer_factor"}
        fixed = {"num_key_value_groups": (1,)}
        config = read_config(cls, name, hf | rope_base(name, hf, "axial"), inert=inert, fixed=fixed)
        check_turning_heads(name, config)
        return config

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patches(self) -> Patches:
        return dataclasses.replace(super().patches, positions=False)


class Model(nn.Module):
    """Equals transformers' MLCDVisionModel, with NHWC images of any size that the patches divide."""

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
        """`interpolate` changes nothing, since rotary positions fit any size."""
        c = self.config
        first = self.param("cls_angles", nn.initializers.normal(1.0), (1, c.head_width // 2))
        speeds = rotary.speeds(c.rope_theta, c.head_width // 2)
        patches = rotary.of_grid(speeds, grid((images.shape[1], images.shape[2]), c.patch_size))
        rope = rotary.cos_sin(jnp.concatenate([first, patches]))
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=True,
            pre_norm=True,
            norm=False,
            per_layer=PerLayer(inputs=lambda _: {"rope": rope}),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = layer_norm(c.block, self.compute, "post_norm")(x[:, 0])
        return EncoderOutput(x, pooled, states, weights)


_CLS = table("class_pos_emb | cls_angles | x k")


def weights(config: Config) -> WeightMap:
    rows = clip.VISION.without("embeddings/pos") + clip.LAYERS + _CLS
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    respelled=ROPE,
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(cls)",
    prefix="vision_model.",
    image_processor="CLIPImageProcessor",
    any_size=lambda config: True,
    exportable=("5",),  # transformers 4.57 does not know the type by this name.
    dropped=r"embeddings\.position_ids|(vision_)?rotary_pos_emb\..*|.*inv_freq",
    poolings={"cls": lambda config: (config, {})},
)
