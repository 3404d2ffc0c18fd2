"""MLCD (arXiv:2407.17331), as transformers' MLCDVisionModel: CLIP's image tower with rotary positions."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import clip
from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.hf_config import ROPE, read_config, rope_base
from lit_jax.models.layers import rotary
from lit_jax.models.layers.blocks import Block, PerLayer, layer_norm, scan_layers
from lit_jax.models.layers.patches import PatchEmbed, Patches
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


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
        if config.head_width % 4:
            raise WeightError(
                f"{name} config: hidden_size={config.hidden_size} gives {config.num_attention_heads} heads a width of "
                f"{config.head_width}; wanted a multiple of four, whose halves turn with rows and columns"
            )
        return config

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patches(self) -> Patches:
        return dataclasses.replace(super().patches, positions=False)


def angles(config: Config, rows: int, columns: int) -> Float[np.ndarray, "M _"]:
    """The angles of each patch by its row, then by its column, for half of the channels of a head."""
    speeds = rotary.speeds(config.rope_theta, config.head_width // 2)
    y, x = (axis.reshape(-1, 1).astype(np.float32) for axis in np.mgrid[:rows, :columns])
    return np.concatenate([y * speeds, x * speeds], axis=1)


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
        x = PatchEmbed(c.patches, self.compute, name="embeddings")(images, interpolate=True, train=train)
        x = embedded = layer_norm(c.block, self.compute, "pre_norm")(x)
        first = self.param("cls_angles", nn.initializers.normal(1.0), (1, c.head_width // 2))
        patches = angles(c, *(size // c.patch_size for size in images.shape[1:3]))
        turns = jnp.tile(jnp.concatenate([first, patches]), 2)
        rope = (jnp.cos(turns), jnp.sin(turns))
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            per_layer=PerLayer(inputs=lambda _: {"rope": rope}),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = layer_norm(c.block, self.compute, "post_norm")(x[:, 0])
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


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
