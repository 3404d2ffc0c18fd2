"""Perception Encoder (arXiv:2504.13181), as timm's class Eva; transformers has none.

The tensors keep timm's names. PE-Core pools by attention; PE-Lang and PE-Spatial, which are meant for their hidden
states, have neither the attention pooling nor a last norm.
"""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import eva02
from lit_jax.models.encoders.base import Encoder, EncoderOutput, drop_path_rates
from lit_jax.models.encoders.hf_config import check_heads, check_turning_heads, read_config
from lit_jax.models.encoders.siglip import AttentionPool
from lit_jax.models.encoders.vit import trunk
from lit_jax.models.layers import rotary
from lit_jax.models.layers.blocks import PerLayer
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import Sides, grid


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of ours, named as those of similar types or as timm's arguments; the defaults are those of PE-Core-B."""

    image_size: Sides = 224
    patch_size: Sides = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-5
    layer_scale_init_value: float = 0.0  # 0 means no layer scale.
    class_token: bool = True
    rope_theta: float = 10000.0
    ref_feat_shape: int = 14  # Rows and columns to which every grid is stretched.
    rope_grid_offset: float = 1.0  # The position of the first row and column.
    use_post_transformer_norm: bool = True
    use_attn_pool: bool = True  # Otherwise the mean of the patches is pooled.
    attn_pool_num_heads: int = 8
    attn_pool_intermediate_size: int = 3072
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that is not usable, and for heads that cannot be rotated."""
        # transformers does not have this type, so all other fields are ignored.
        config: Config = read_config(cls, "perception_encoder", hf, inert=frozenset(hf))
        check_turning_heads("perception_encoder", config)
        if config.use_attn_pool:
            check_heads("perception_encoder", config, "hidden_size", "attn_pool_num_heads")
        return config

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=("cls",) if self.class_token else (),
            bias=False,
            antialias=True,
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
            layer_scale=self.layer_scale_init_value if self.layer_scale_init_value > 0 else None,
            attention_dropout=self.attention_dropout,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )

    @property
    def head(self) -> BlockSpec:
        """The block of the attention pooling."""
        return dataclasses.replace(
            self.block, heads=self.attn_pool_num_heads, hidden=self.attn_pool_intermediate_size
        )


class Model(nn.Module):
    """Equals timm's Eva without its classifier, with NHWC images."""

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
        angles = rotary.of_grid(
            rotary.speeds(c.rope_theta, c.hidden_size // c.num_attention_heads // 2),
            grid((images.shape[1], images.shape[2]), c.patch_size),
            stretched=c.ref_feat_shape,
            offset=c.rope_grid_offset,
            columns_first=True,
        )
        rope = rotary.cos_sin(angles)
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=interpolate,
            pre_norm=True,
            norm=c.use_post_transformer_norm,
            per_layer=PerLayer(
                drop_path_rates(c.drop_path_rate, c.num_hidden_layers),
                lambda rate: {"drop_path": rate, "rope": rope},
            ),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        if c.use_attn_pool:
            pooled = AttentionPool(c.head, self.compute, name="head")(x)
        else:
            pooled = x[:, c.patches.prefix :].mean(axis=1)
        return EncoderOutput(x, pooled, states, weights)


# timm rotates pairs of neighbouring channels of queries and keys, whereas here a pair consists of one channel in each
# half of a head. Values share their tensor, so they are reordered too, and so are the inputs of `attn.proj`.
_OWN = table("""
    norm_pre.weight             | pre_norm/scale                       | d
    norm_pre.bias               | pre_norm/bias                        | d
    blocks.{l}.attn.qkv.weight  | layers/attn/{query,key,value}/kernel | (g h k u) d -> g d h (u k)
    blocks.{l}.attn.qkv.bias    | layers/attn/{query,key,value}/bias   | (g h k u) -> g h (u k)
    blocks.{l}.attn.proj.weight | layers/attn/out/kernel               | d (h k u) -> h (u k) d
    blocks.{l}.gamma_{1,2}      | layers/scale{1,2}                    | g d
""")
_POOL = table("""
    latent         | head/probe              | x y d
    q.weight       | head/query/kernel       | (h k) d -> d h k
    q.bias         | head/query/bias         | (h k) -> h k
    kv.weight      | head/{key,value}/kernel | (g h k) d -> g d h k
    kv.bias        | head/{key,value}/bias   | (g h k) -> g h k
    proj.weight    | head/out/kernel         | d (h k) -> h k d
    proj.bias      | head/out/bias           | d
    norm.weight    | head/norm/scale         | d
    norm.bias      | head/norm/bias          | d
    mlp.fc1.weight | head/mlp/up/kernel      | f d -> d f
    mlp.fc1.bias   | head/mlp/up/bias        | f
    mlp.fc2.weight | head/mlp/down/kernel    | d f -> f d
    mlp.fc2.bias   | head/mlp/down/bias      | d
""").inside("attn_pool")


def weights(config: Config) -> WeightMap:
    present = {
        "embeddings/cls": config.class_token,
        "norm/": config.use_post_transformer_norm,
        "layers/scale": config.block.layer_scale is not None,
    }
    rows = (eva02.COMMON + eva02.PRE_NORM + eva02.MLP + _OWN).having(present)
    rows = rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads, u=2)
    return rows + _POOL.bind(depth=0, h=config.attn_pool_num_heads) if config.use_attn_pool else rows


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="attention pooling head, or mean(patches)",
    prefix="",
    dropped=r"head\..*",
    image_processor="ViTImageProcessor",
    exportable=(),
    reader="",
)
