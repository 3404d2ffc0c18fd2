"""The ViT of MobileCLIP-B (arXiv:2311.17049), as timm's `vit_base_mci_224`; transformers has none.

It is a ViT whose patches come from a stem of convolutions, and whose CLS token has no position. The tensors have timm's
names.
"""

import dataclasses
import math
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput, drop_path_rates
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.encoders.resnet import conv_norm
from lit_jax.models.encoders.vit import run_blocks
from lit_jax.models.layers.blocks import ACTIVATIONS, PerLayer
from lit_jax.models.layers.branches import EPS
from lit_jax.models.layers.dense import Conv
from lit_jax.models.layers.norm import FrozenBatchNorm
from lit_jax.models.layers.patches import PatchEmbed, Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import Sides, grid, plain

_STRIDES = (4, 2)  # The sides and the strides of the convolutions before the one that makes the patches.


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of ours, named as those of a ViT; the defaults are those of MobileCLIP-B."""

    patch_size: ClassVar[int] = 16

    image_size: Sides = 224
    num_channels: int = 3
    stem_sizes: tuple[int, ...] = (192, 192)  # The widths of the convolutions before the patches.
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that is not usable."""
        config: Config = read_config(cls, "mobileclip_vit", hf, inert=frozenset(hf))
        if len(config.stem_sizes) != len(_STRIDES):
            raise WeightError(
                f"mobileclip_vit config: stem_sizes={config.stem_sizes} is not usable; wanted {len(_STRIDES)} widths"
            )
        return config

    @property
    def patches(self) -> Patches:
        """The patches of the pictures; the CLS token has no position."""
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=(),
            registers=1,
            antialias=True,
            init_std=self.initializer_range,
        )

    @property
    def stem_patches(self) -> Patches:
        """The same patches, as parts of what the stem makes of the pictures."""
        smaller = math.prod(_STRIDES)
        return dataclasses.replace(
            self.patches,
            size=plain(*grid(self.image_size, smaller)),
            patch=self.patch_size // smaller,
            channels=self.stem_sizes[-1],
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
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )


class StemConv(nn.Module):
    """A convolution of squares that do not overlap, with a batch norm and an activation."""

    features: int
    side: int
    act: str
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B _ _ _"]) -> Float[Array, "B R W D"]:
        side = (self.side, self.side)
        conv = Conv(
            self.features,
            side,
            side,
            "VALID",
            use_bias=False,
            dtype=self.compute.dtype,
            as_product=self.compute.on_gpu,
            name="conv",
        )
        return ACTIVATIONS[self.act](FrozenBatchNorm(EPS, self.compute.dtype, name="norm")(conv(x)))


class Model(nn.Module):
    """Equals timm's model without its classifier, with NHWC images. Batch norms are never updated, as in our ResNet."""

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
        c.patches.check(images, interpolate=interpolate)
        x: Array = images
        for i, (width, side) in enumerate(zip(c.stem_sizes, _STRIDES, strict=True)):
            x = StemConv(width, side, c.hidden_act, self.compute, name=f"stem{i}")(x)
        embed = PatchEmbed(c.stem_patches, self.compute, name="embeddings")
        x, states, weights = run_blocks(
            c,
            self.compute,
            embed(x, interpolate=interpolate, train=train),
            train=train,
            per_layer=PerLayer(
                drop_path_rates(c.drop_path_rate, c.num_hidden_layers), lambda rate: {"drop_path": rate}
            ),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, x[:, 0], states, weights)


_ROWS = table("""
    cls_token                     | embeddings/registers                 | x y d
    pos_embed                     | embeddings/pos                       | x n d
    norm.weight                   | norm/scale                           | d
    norm.bias                     | norm/bias                            | d

    blocks.{l}.norm{1,2}.weight   | layers/norm{1,2}/scale               | g d
    blocks.{l}.norm{1,2}.bias     | layers/norm{1,2}/bias                | g d
    blocks.{l}.attn.qkv.weight    | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    blocks.{l}.attn.qkv.bias      | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    blocks.{l}.attn.proj.weight   | layers/attn/out/kernel               | d (h k) -> h k d
    blocks.{l}.attn.proj.bias     | layers/attn/out/bias                 | d
    blocks.{l}.mlp.fc1.weight     | layers/mlp/up/kernel                 | f d -> d f
    blocks.{l}.mlp.fc1.bias       | layers/mlp/up/bias                   | f
    blocks.{l}.mlp.fc2.weight     | layers/mlp/down/kernel               | d f -> f d
    blocks.{l}.mlp.fc2.bias       | layers/mlp/down/bias                 | d
""")
_PATCH = table("""
    conv.weight | kernel | d c p q -> p q c d
    conv.bias   | bias   | d
""")


def weights(config: Config) -> WeightMap:
    rows = _ROWS.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)
    stem = "patch_embed.backbone"
    for i, _ in enumerate(_STRIDES):
        rows += conv_norm("conv", "bn").under(hf=f"{stem}.{i}", jax=f"stem{i}")
    return rows + _PATCH.under(hf=f"{stem}.{len(_STRIDES)}", jax="embeddings/patch")


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="cls",
    prefix="",
    dropped=r"head\..*|.*\.num_batches_tracked",
    image_processor="CLIPImageProcessor",
    exportable=(),
    reader="",
)
