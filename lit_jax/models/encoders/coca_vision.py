"""CoCa's image tower (arXiv:2205.01917), as open_clip's ViT with `attentional_pool`; transformers has none.

It is a CLIP with another pooling. The tensors of the pooling keep their names in open_clip; the others have those of
transformers' CLIP.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import clip
from lit_jax.models.encoders.base import Encoder
from lit_jax.models.encoders.hf_config import check_heads, read_config
from lit_jax.models.layers.blocks import layer_norm
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.norm import LayerNorm
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import Sides

_EPS = 1e-5  # The eps of the norms in the pooling, whatever that of the other norms is.


@dataclasses.dataclass(frozen=True)
class Config(clip.Config):
    """Fields of ours, named as those of CLIP and of open_clip; the defaults are those of coca_ViT-B-32."""

    image_size: Sides = 224  # type: ignore[assignment]
    patch_size: Sides = 32  # type: ignore[assignment]
    hidden_act: str = "gelu"
    attn_pooler_queries: int = 256
    attn_pooler_heads: int = 8
    projection_size: int = 512  # The width of the pooled output.

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that is not usable."""
        config: Config = read_config(cls, "coca_vision", hf, inert=frozenset(hf))
        check_heads("coca_vision", config, "projection_size", "attn_pooler_heads")
        return config

    @property
    def patches(self) -> Patches:
        return dataclasses.replace(super().patches, antialias=True)


class AttentionPool(nn.Module):
    """The first of many learned queries attends to all tokens.

    The other queries are for a caption decoder; the pooled output does not depend on them.
    """

    config: Config
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B E"]:
        c, dtype, on_gpu = self.config, self.compute.dtype, self.compute.on_gpu
        init = nn.initializers.normal(c.initializer_range)

        def normed(name: str, y: Array) -> Array:
            return LayerNorm(_EPS, dtype=dtype, on_gpu=on_gpu, name=name)(y)

        def split(name: str, y: Array) -> Array:
            heads = (c.attn_pooler_heads, c.projection_size // c.attn_pooler_heads)
            return Dense(heads, dtype=dtype, kernel_init=init, name=name)(y)

        queries = self.param(
            "queries", nn.initializers.normal(1.0), (c.attn_pooler_queries, c.projection_size)
        )
        first = normed("query_norm", jnp.broadcast_to(queries[:1], (x.shape[0], 1, c.projection_size)))
        x = normed("norm", x)
        # A single query does not suit a fused kernel.
        y = jax.nn.dot_product_attention(
            split("query", first), split("key", x), split("value", x), implementation="xla"
        )
        out = Dense(c.projection_size, axis=(-2, -1), dtype=dtype, kernel_init=init, name="out")
        return out(y)[:, 0]


class Model(clip.Model):
    """Equals open_clip's VisionTransformer without `proj`, with NHWC images. The last hidden state is what it pools."""

    config: Config

    def pool(self, x: Float[Array, "B N D"]) -> Float[Array, "B E"]:
        pooled = AttentionPool(self.config, self.compute, name="head")(x)
        return layer_norm(self.config.block, self.compute, "post_norm")(pooled)


_POOL = table("""
    query                | head/queries                  | q e
    ln_q.weight          | head/query_norm/scale         | e
    ln_q.bias            | head/query_norm/bias          | e
    ln_k.weight          | head/norm/scale               | d
    ln_k.bias            | head/norm/bias                | d
    attn.in_proj_bias    | head/{query,key,value}/bias   | (g h k) -> g h k
    attn.out_proj.weight | head/out/kernel               | e (h k) -> h k e
    attn.out_proj.bias   | head/out/bias                 | e
""")
# PyTorch stores the kernels as one tensor if queries and keys have the same width, otherwise as three.
_OF_ONE_WIDTH = table("attn.in_proj_weight | head/{query,key,value}/kernel | (g h k) d -> g d h k")
_OF_TWO_WIDTHS = table("""
    attn.q_proj_weight | head/query/kernel | (h k) e -> e h k
    attn.k_proj_weight | head/key/kernel   | (h k) d -> d h k
    attn.v_proj_weight | head/value/kernel | (h k) d -> d h k
""")


def pool_weights(config: Config) -> WeightMap:
    """The rows of the pooling, with open_clip's names."""
    kernels = _OF_ONE_WIDTH if config.hidden_size == config.projection_size else _OF_TWO_WIDTHS
    return (_POOL + kernels).inside("attn_pool").bind(depth=0, h=config.attn_pooler_heads)


def weights(config: Config) -> WeightMap:
    rows = clip.VISION + clip.LAYERS
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads) + pool_weights(config)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(attention of the first query)",
    prefix="",
    dropped=r"(?!)",
    image_processor="CLIPImageProcessor",
    exportable=(),
    reader="",
)
