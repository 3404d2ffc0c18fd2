"""EVA-02 (arXiv:2303.11331) and EVA-CLIP's towers (arXiv:2303.15389), as timm's class Eva; transformers has none.

The tensors have timm's names for layers with separate projections and gates. EVA (arXiv:2211.07636) itself is a BEiT.
"""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput, drop_path_rates
from lit_jax.models.encoders.hf_config import check_turning_heads, read_config
from lit_jax.models.encoders.vit import trunk
from lit_jax.models.layers import rotary
from lit_jax.models.layers.blocks import PerLayer, layer_norm
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import Sides, grid


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of ours, named as those of similar types or as timm's arguments; the defaults are those of EVA02-B."""

    image_size: Sides = 224
    patch_size: Sides = 14
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 2048
    hidden_act: str = "silu"
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    use_gated_mlp: bool = True
    scale_mlp: bool = True  # A norm of the hidden activations of the MLP.
    scale_attn_inner: bool = False  # A norm of the heads' outputs, before their projection.
    use_post_norm: bool = False  # Norms are applied to what attention and MLP add, not to their inputs.
    use_rot_pos_emb: bool = True  # Rotary positions of the patches, in addition to the table.
    rope_theta: float = 10000.0
    ref_feat_shape: int = 16  # Rotary positions stretch the grid of any picture to this side.
    use_mean_pooling: bool = True  # True: the norm of the patches' mean. False: the normed CLS token.
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field with an unusable value, and for heads whose width four does not divide."""
        # transformers does not have this type, so all other fields are ignored.
        config: Config = read_config(cls, "eva02", hf, inert=frozenset(hf))
        check_turning_heads("eva02", config)
        return config

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            antialias=True,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=None if self.use_post_norm else True,
            norm_after=self.use_post_norm,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            biases="qvo",
            gated=self.use_gated_mlp,
            mlp_norm=self.scale_mlp,
            attention_norm=self.scale_attn_inner,
            attention_dropout=self.attention_dropout,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
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
        rope = None
        if c.use_rot_pos_emb:
            speeds = rotary.speeds(c.rope_theta, c.head_width // 2)
            patches = grid((images.shape[1], images.shape[2]), c.patch_size)
            rope = rotary.cos_sin(rotary.of_grid(speeds, patches, stretched=c.ref_feat_shape))
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=interpolate,
            norm=not c.use_mean_pooling,
            per_layer=PerLayer(
                drop_path_rates(c.drop_path_rate, c.num_hidden_layers),
                lambda rate: {"drop_path": rate, "rope": rope},
            ),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        if c.use_mean_pooling:
            pooled = layer_norm(c.block, self.compute, "pooler_norm")(x[:, 1:].mean(axis=1))
        else:
            pooled = x[:, 0]
        return EncoderOutput(x, pooled, states, weights)


# What the models of timm's class Eva share.
COMMON = table("""
    cls_token                   | embeddings/cls          | x y d
    pos_embed                   | embeddings/pos          | x n d
    patch_embed.proj.weight     | embeddings/patch/kernel | d c p q -> p q c d
    norm.weight                 | norm/scale              | d
    norm.bias                   | norm/bias               | d
    blocks.{l}.attn.proj.bias   | layers/attn/out/bias    | d
    blocks.{l}.mlp.fc2.weight   | layers/mlp/down/kernel  | d f -> f d
    blocks.{l}.mlp.fc2.bias     | layers/mlp/down/bias    | d
""")
_ROWS = table("""
    patch_embed.proj.bias   | embeddings/patch/bias   | d
    fc_norm.weight          | pooler_norm/scale       | d
    fc_norm.bias            | pooler_norm/bias        | d
""")
# Channels of queries and keys that turn together are neighbours in timm, and in the first and second half here.
_LAYERS = table("""
    attn.{q_proj,k_proj}.weight | layers/attn/{query,key}/kernel | g (h k u) d -> g d h (u k)
    attn.q_proj.bias            | layers/attn/query/bias         | (h k u) -> h (u k)
    attn.v_proj.weight          | layers/attn/value/kernel       | (h k) d -> d h k
    attn.v_proj.bias            | layers/attn/value/bias         | (h k) -> h k
    attn.norm.weight            | layers/attn/norm/scale         | d
    attn.norm.bias              | layers/attn/norm/bias          | d
    attn.proj.weight            | layers/attn/out/kernel         | d (h k) -> h k d
    mlp.norm.weight             | layers/mlp/norm/scale          | f
    mlp.norm.bias               | layers/mlp/norm/bias           | f
""").inside("blocks.{l}")
PRE_NORM = table("""
    norm{1,2}.weight | layers/norm{1,2}/scale | g d
    norm{1,2}.bias   | layers/norm{1,2}/bias  | g d
""").inside("blocks.{l}")
_POST_NORM = table("""
    norm{1,2}.weight | layers/after{1,2}/scale | g d
    norm{1,2}.bias   | layers/after{1,2}/bias  | g d
""").inside("blocks.{l}")
_GATED = table("""
    mlp.{fc1_g,fc1_x}.weight | layers/mlp/up/kernel | g f d -> d g f
    mlp.{fc1_g,fc1_x}.bias   | layers/mlp/up/bias   | g f
""").inside("blocks.{l}")
MLP = table("""
    mlp.fc1.weight | layers/mlp/up/kernel | f d -> d f
    mlp.fc1.bias   | layers/mlp/up/bias   | f
""").inside("blocks.{l}")


def weights(config: Config) -> WeightMap:
    present = {
        "pooler_norm/": config.use_mean_pooling,
        "norm/": not config.use_mean_pooling,
        "layers/attn/norm": config.scale_attn_inner,
        "layers/mlp/norm": config.scale_mlp,
    }
    norms = _POST_NORM if config.use_post_norm else PRE_NORM
    rows = COMMON + _ROWS + _LAYERS + norms + (_GATED if config.use_gated_mlp else MLP)
    return rows.having(present).bind(depth=config.num_hidden_layers, h=config.num_attention_heads, u=2)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(mean(patches)), or cls",
    prefix="",
    dropped=r"head\..*",
    image_processor="CLIPImageProcessor",
    exportable=(),
    reader="",
)
