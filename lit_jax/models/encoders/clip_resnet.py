"""The ResNets of CLIP (arXiv:2103.00020), as open_clip's ModifiedResNet; transformers has none.

The tensors have open_clip's names. What it calls `attnpool.c_proj` is the projection of a whole CLIP, and not part of
the tower.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import resnet
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.resnet import NARROWER, ConvNorm, conv_norm
from lit_jax.models.layers.blocks import ACTIVATIONS
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(resnet.Fields):
    """Fields of ours, named as those of a ResNet; the defaults are those of RN50."""

    model_type = "clip_resnet"
    of_transformers = False
    pooled_strides = True

    num_attention_heads: int = 32

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field with an unusable value."""
        config = super().from_hf(hf)
        config.check_bottlenecks()
        if config.embedding_size < 2:
            raise WeightError(
                f"clip_resnet config: embedding_size={config.embedding_size} is not usable; wanted 2 or more, half of "
                "which the first convolutions have"
            )
        return config

    @property
    def patch_size(self) -> int:
        """The side of a token in pixels: the stem halves the image twice, and each stage but the first once."""
        return 2 ** (len(self.depths) + 1)

    @property
    def patches(self) -> Patches:
        """The tokens of the attention pool: the mean comes first, with a position of its own."""
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=("mean",),
            antialias=True,
        )

    def units(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        narrow = width // NARROWER
        return (narrow, 1, 1), (narrow, 3, 1), (width, 1, stride)


class AttentionPool(nn.Module):
    """The first token, which is the mean of the others, attends to all tokens; positions are added before."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], grid: tuple[int, int]) -> Float[Array, "B D"]:
        """`grid` is the number of rows and columns of the tokens after the first; positions are resized to it."""
        spec, heads, width = self.config.patches, self.config.num_attention_heads, x.shape[-1]
        init = nn.initializers.normal(width**-0.5)
        pos = self.param("pos", init, (1, spec.grid[0] * spec.grid[1] + 1, width))
        x = (x + spec.fitted(pos, grid)).astype(x.dtype)

        def split(name: str, y: Array) -> Array:
            features = (heads, width // heads)
            return Dense(features, dtype=self.compute.dtype, kernel_init=init, name=name)(y)

        # Fused kernels do not suit a single query.
        y = jax.nn.dot_product_attention(
            split("query", x[:, :1]), split("key", x), split("value", x), implementation="xla"
        )
        return y.reshape(y.shape[0], width)


class Model(nn.Module):
    """Equals open_clip's ModifiedResNet in eval mode without `c_proj`, with NHWC images.

    The last hidden state is the mean of the tokens, followed by the tokens. As in our ResNet, batch norms are never
    updated, hidden states are those of the stages, and there are no attentions.
    """

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
        """`train` changes nothing.

        Raises ConfigError for another number of channels, and for an image size other than the config's unless
        `interpolate`.
        """
        c, compute = self.config, self.compute
        c.patches.check(images, interpolate=interpolate)
        x, narrow = images, c.embedding_size // 2
        for i, (width, stride) in enumerate([(narrow, 2), (narrow, 1), (c.embedding_size, 1)]):
            x = ACTIVATIONS[c.hidden_act](ConvNorm(width, 3, stride, compute, name=f"stem{i}")(x))
        grids = resnet.run_stages(c, compute, resnet.average_pool(x, 2))
        states = tuple(map(resnet.tokens, grids))
        x = jnp.concatenate([states[-1].mean(axis=1, keepdims=True), states[-1]], axis=1)
        _, rows, columns, _ = grids[-1].shape
        pooled = AttentionPool(c, compute, name="head")(x, (rows, columns))
        return EncoderOutput(x, pooled, states if hidden_states else None, () if attentions else None)


_POOL = table("""
    positional_embedding          | head/pos                      | n d -> 1 n d
    {q_proj,k_proj,v_proj}.weight | head/{query,key,value}/kernel | g (h k) d -> g d h k
    {q_proj,k_proj,v_proj}.bias   | head/{query,key,value}/bias   | g (h k) -> g h k
""").inside("attnpool")
_SHORTCUT = conv_norm("downsample.0", "downsample.1").under(hf="", jax="shortcut")


def weights(config: Config) -> WeightMap:
    rows, layer = WeightMap(), WeightMap()
    for i in range(3):  # The stem and each layer have three convolutions, counted from 1.
        unit = conv_norm(f"conv{i + 1}", f"bn{i + 1}")
        rows += unit.under(hf="", jax=f"stem{i}")
        layer += unit.under(hf="", jax=f"unit{i}")
    rows += resnet.stage_rows(config, layer, _SHORTCUT, lambda stage: f"layer{stage + 1}")
    return rows + _POOL.bind(depth=0, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="attention of the mean",
    prefix="",
    dropped=r"attnpool\.c_proj\..*|.*\.num_batches_tracked",
    image_processor="CLIPImageProcessor",
    exportable=(),
    reader="",
)
