"""BEiT (arXiv:2106.08254), as transformers' BeitModel with its pooler: positions are a bias of the attention.

data2vec's image model (arXiv:2202.03555) is the same; AutoModel makes it without a pooler, its classifiers with one.
"""

import dataclasses
import math
from functools import lru_cache

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput, drop_path_rates
from lit_jax.models.encoders.hf_config import BACKBONE, check_own_size, even_heads, read_config
from lit_jax.models.encoders.vit import OWN, OWN_RENAMES, shared_weights, trunk
from lit_jax.models.layers.blocks import PerLayer, layer_norm
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.position_tables import resize_offsets
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import Sides, grid


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' BeitConfig and Data2VecVisionConfig."""

    image_size: Sides = 224
    patch_size: Sides = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-12
    layer_scale_init_value: float = 0.1
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    use_mean_pooling: bool = True
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        model_type = hf.get("model_type", "beit")
        config = read_config(
            cls,
            model_type,
            hf,
            # Fields of the pretraining head, of segmentation and of the backbone.
            inert=BACKBONE
            | frozenset(
                """vocab_size pool_scales use_auxiliary_head auxiliary_loss_weight auxiliary_channels
                auxiliary_num_convs auxiliary_concat_input semantic_loss_ignore_index add_fpn
                segmentation_indices""".split()
            ),
            fixed={"head_dim": even_heads},
        )
        relative = config.use_relative_position_bias or config.use_shared_relative_position_bias
        if relative and not isinstance(config.patch_size, int):
            raise WeightError(
                f"{model_type} config: patch_size={config.patch_size} is not usable with relative positions, which "
                "transformers has for square patches alone; wanted one number"
            )
        if config.use_absolute_position_embeddings:
            check_own_size(model_type, config, patches=False)
        return config

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            positions=self.use_absolute_position_embeddings,
            dropout=self.hidden_dropout_prob,
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
            biases="qvo",
            layer_scale=self.layer_scale_init_value if self.layer_scale_init_value > 0 else None,
            dropout=self.hidden_dropout_prob,
            attention_dropout=self.attention_probs_dropout_prob,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )


@lru_cache
def relative_index(rows: int, columns: int) -> np.ndarray:
    """The table's row for each query and key, [N, N], for the CLS token and `rows` x `columns` patches.

    The table has a row for each offset between patches, then for CLS to patch, patch to CLS and CLS to itself.
    """
    y, x = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    down, right = y[:, None] - y + rows - 1, x[:, None] - x + columns - 1
    offsets = (2 * rows - 1) * (2 * columns - 1)
    index = np.full((rows * columns + 1,) * 2, offsets + 1)
    index[1:, 1:] = down * (2 * columns - 1) + right
    index[0, :], index[0, 0] = offsets, offsets + 2
    return index


def relative_bias(
    relative: Float[Array, "n H"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "1 H N N"]:
    """A table made for a grid of (rows, columns) -> the bias of every query and key on another grid."""
    relative = resize_offsets(relative, old, new)
    return relative[relative_index(*new)].transpose(2, 0, 1)[None]


class Model(nn.Module):
    """Equals transformers' BeitModel(add_pooling_layer=True), with NHWC images of any size that the patches divide."""

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
        """`interpolate` is for towers that refuse other sizes; BEiT always resizes."""
        c = self.config
        if c.use_mask_token:  # Only pretraining uses it; it is kept so that an export is complete.
            self.param("mask_token", nn.initializers.zeros, (1, 1, c.hidden_size))
        own, new = (grid(size, c.patch_size) for size in (c.image_size, (images.shape[1], images.shape[2])))
        shape = (math.prod(2 * n - 1 for n in own) + 3, c.num_attention_heads)
        each = all_ = None
        if c.use_relative_position_bias:
            each = self.param("relative", nn.initializers.zeros, (c.num_hidden_layers, *shape))
        if c.use_shared_relative_position_bias:
            shared = self.param("shared_relative", nn.initializers.zeros, shape)
            all_ = relative_bias(shared, own, new)

        def inputs(layer: tuple[Array, Array | None]) -> dict[str, Array | None]:
            rate, relative = layer
            bias = all_
            if relative is not None:
                of_layer = relative_bias(relative, own, new)
                bias = of_layer if all_ is None else all_ + of_layer
            return {"drop_path": rate, "bias": bias}

        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=True,
            norm=not c.use_mean_pooling,
            per_layer=PerLayer((drop_path_rates(c.drop_path_rate, c.num_hidden_layers), each), inputs),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        if c.use_mean_pooling:
            pooled = layer_norm(c.block, self.compute, "pooler_norm")(x[:, 1:].mean(axis=1))
        else:
            pooled = x[:, 0]
        return EncoderOutput(x, pooled, states, weights)


_RELATIVE = "relative_position_bias.relative_position_bias_table"
_ROWS = table(f"""
    encoder.layer.{{l}}.lambda_1                     | layers/scale1     | d
    encoder.layer.{{l}}.lambda_2                     | layers/scale2     | d
    encoder.layer.{{l}}.attention.attention.{_RELATIVE} | relative       | n h
    encoder.{_RELATIVE}                              | shared_relative   | n h
    embeddings.mask_token                            | mask_token        | x y d
    pooler.layernorm.weight                          | pooler_norm/scale | d
    pooler.layernorm.bias                            | pooler_norm/bias  | d
""")


def weights(config: Config) -> WeightMap:
    present = {
        "layers/scale": config.layer_scale_init_value > 0,
        "relative": config.use_relative_position_bias,
        "shared_relative": config.use_shared_relative_position_bias,
        "mask_token": config.use_mask_token,
        "pooler_norm/": config.use_mean_pooling,
        "norm/": not config.use_mean_pooling,
        "embeddings/pos": config.use_absolute_position_embeddings,
    }
    return shared_weights(OWN + _ROWS, config).having(present)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(mean(patches)), or cls",
    prefix="beit.",
    image_processor="BeitImageProcessor",
    dropped=r"classifier\..*|lm_head\..*|(decode|auxiliary)_head\..*|fpn.*|layernorm_fpn.*|layernorm\..*|.*relative_position_index"
    r"|embeddings\.mask_token",
    renames=(
        (
            r"^layers\.(\d+)\.relative_position_bias\.",
            r"layers.\1.attention.attention.relative_position_bias.",
        ),
        (r"^shared_position_bias\.", "encoder.relative_position_bias."),
        *OWN_RENAMES,
    ),
    any_size=lambda config: True,
    fresh=r"pooler_norm/|mask_token",
)
DATA2VEC = dataclasses.replace(ENCODER, prefix="data2vec_vision.", exportable=())
