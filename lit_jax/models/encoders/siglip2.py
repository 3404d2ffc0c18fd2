"""SigLIP 2's image tower (arXiv:2502.14786), as transformers' Siglip2VisionModel.

transformers gives it pictures as padded lists of patches (NaFlex), which `utils.naflex` packs into one array. It also
takes pictures of one height and width, as there with a mask of ones and the `spatial_shapes` of this grid.
"""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import siglip
from lit_jax.models.encoders.base import EncoderOutput, with_embeddings
from lit_jax.models.encoders.clip import LAYERS
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.patches import PatchEmbed, Patches
from lit_jax.models.layers.position_tables import resize_grid, resize_grid_to_each
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils import naflex
from lit_jax.utils.errors import ConfigError, WeightError


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' Siglip2VisionConfig, and our own field for the image size."""

    num_patches: int = 256
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_pytorch_tanh"
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-6
    image_size: int = 0  # Pixels; 0: as many patches as the position table has rows.

    def __post_init__(self) -> None:
        if not self.image_size:
            object.__setattr__(self, "image_size", self.side * self.patch_size)

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed = {"vision_use_head": (True,)}  # Without it there is no pooled output.
        config = read_config(cls, "siglip2_vision_model", hf, fixed=fixed)
        if config.side**2 != config.num_patches:
            raise WeightError(
                f"siglip2_vision_model config: num_patches={config.num_patches} is not usable; wanted a square number, "
                "of a grid of positions that is as high as it is wide"
            )
        return config

    @property
    def side(self) -> int:
        """The rows, and columns, of the square grid of positions."""
        return int(self.num_patches**0.5)

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=(),
            positions=False,
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


class Model(nn.Module):
    """Equals transformers' Siglip2VisionModel for NHWC images, whose patches it cuts itself.

    Images with one more channel than the config says are of any shape: see `utils.naflex`.
    """

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
        """`interpolate` changes nothing, since positions are always resized."""
        c, compute, real = self.config, self.compute, None
        init = nn.initializers.normal(c.hidden_size**-0.5)
        positions = self.param("positions", init, (c.num_patches, c.hidden_size))
        if images.shape[-1] == c.num_channels + 1:
            if images.shape[2] != c.patch_size:
                raise ConfigError(
                    f"pictures of any shape come in patches of {images.shape[2]} pixels; this tower takes patches of "
                    f"{c.patch_size}: set patch_size of the image processor"
                )
            kinds, images = naflex.kinds_of(images), images[..., :-1]
            positions, real = resize_grid_to_each(positions, c.side, kinds), kinds > naflex.PADDING
        else:
            grid = (images.shape[1] // c.patch_size, images.shape[2] // c.patch_size)
            positions = resize_grid(positions[None], (c.side, c.side), grid, antialias=True, linear=True)
        x = PatchEmbed(c.patches, compute, name="embeddings")(images, interpolate=True, train=train)
        x = embedded = (x + positions).astype(x.dtype)
        x, states, weights = scan_layers(
            Block(c.block, compute, name="layers"),
            c.num_hidden_layers,
            x,
            None if real is None else real[:, None, None],
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, compute, "norm")(x)
        pooled = siglip.AttentionPool(c.block, compute, name="head")(x, real)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights, real)


_ROWS = table("""
    vision_model.embeddings.position_embedding.weight | positions               | n d
    vision_model.embeddings.patch_embedding.weight    | embeddings/patch/kernel | d (p q c) -> p q c d
    vision_model.embeddings.patch_embedding.bias      | embeddings/patch/bias   | d
""")


def weights(config: Config) -> WeightMap:
    side, depth = config.patch_size, config.num_hidden_layers
    rest = (siglip.ROWS + LAYERS).without("embeddings/").inside("vision_model")
    return rest.bind(depth=depth, h=config.num_attention_heads) + _ROWS.bind(depth=depth, p=side, q=side)


ENCODER = dataclasses.replace(
    siglip.ENCODER,
    Config=Config,
    Model=Model,
    weights=weights,
    image_processor="Siglip2ImageProcessor",
    exportable=(),  # transformers' dual encoder does not pass on the shapes of the pictures.
    reader="Siglip2VisionModel",
    any_size=lambda config: True,
)
