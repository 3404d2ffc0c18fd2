"""Swin (arXiv:2103.14030), as transformers' SwinModel: shifted windows with a table of relative positions."""

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import BACKBONE, own_names, read_config
from lit_jax.models.encoders.stages import check, tower, tower_weights
from lit_jax.models.layers.blocks import DropPath, Mlp, layer_norm
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.windows import Windows, attend
from lit_jax.models.weight_map import table
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import Sides
from lit_jax.utils.typing import Params

# Fields of transformers' config that follow from other fields (see `check`), or belong to heads.
DERIVED = BACKBONE | {"hidden_size", "num_layers", "encoder_stride"}
RESPELLED = frozenset({"hidden_size", "num_layers", "num_hidden_layers", "num_attention_heads"})
ALIASES = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' SwinConfig."""

    image_size: Sides = 224
    patch_size: Sides = 4
    num_channels: int = 3
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        hf = own_names(hf, ALIASES)
        config = read_config(cls, "swin", hf, inert=DERIVED)
        check(config, "swin", hf)
        return config

    @property
    def hidden_size(self) -> int:
        """The width of the last stage and of the pooled output."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)

    def stage(self, i: int) -> BlockSpec:
        width = self.embed_dim * 2**i
        return BlockSpec(
            heads=self.num_heads[i],
            hidden=int(self.mlp_ratio * width),
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            biases="qkvo" if self.qkv_bias else "o",
            dropout=self.hidden_dropout_prob,
            attention_dropout=self.attention_probs_dropout_prob,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )

    def windows(self, i: int, rows: int, columns: int) -> Windows:
        """Raises ConfigError if a grid is smaller than a window, for which the table has no positions."""
        side = self.window_size
        if min(rows, columns) < side:
            raise ConfigError(
                f"images give stage {i} a grid of {rows}x{columns} tokens, smaller than one window of {side}x{side}; "
                "use larger images"
            )
        return Windows(rows, columns, side, shift=side // 2 if min(rows, columns) > side else 0)


class Attention(nn.Module):
    """Attention within windows, with a learned bias for each relative position."""

    spec: BlockSpec
    windows: Windows
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B W M D"], shifted: Bool[Array, ""], *, train: bool
    ) -> tuple[Float[Array, "B W M D"], Float[Array, "B W H M M"]]:
        spec, width = self.spec, x.shape[-1]
        init = nn.initializers.normal(spec.init_std)
        dense = partial(Dense, dtype=self.compute.dtype, kernel_init=init)
        q, k, v = (
            dense((spec.heads, width // spec.heads), use_bias=name[0] in spec.biases, name=name)(x)
            for name in ("query", "key", "value")
        )  # B W M H K
        shape = ((2 * self.windows.side - 1) ** 2, spec.heads)
        positions = self.param("positions", nn.initializers.zeros, shape)
        bias = jnp.moveaxis(positions[self.windows.relative], -1, 0) + self.windows.mask(-100.0, shifted)
        drop = nn.Dropout(spec.attention_dropout, deterministic=not train)
        y, weights = attend(q, k, v, q.shape[-1] ** -0.5, bias, drop)
        return dense(width, axis=(-2, -1), name="out")(y), weights


class Block(nn.Module):
    """Attention within windows and MLP, each after a LayerNorm and with a residual."""

    spec: BlockSpec
    windows: Windows
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        shifted: Bool[Array, ""],
        drop_path: Float[Array, ""],
        *,
        train: bool,
        attentions: bool,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B W H M M"] | None]:
        spec, windows = self.spec, self.windows
        attn = Attention(spec, windows, self.compute, name="attn")
        mlp = Mlp(spec, self.compute, name="mlp")
        norm1, norm2 = (layer_norm(spec, self.compute, name) for name in ("norm1", "norm2"))
        drop = nn.Dropout(spec.dropout, deterministic=not train)

        y, weights = attn(windows.split(norm1(x), shifted), shifted, train=train)
        x = x + DropPath(spec.drop_path)(drop(windows.join(y, shifted)), drop_path, train)
        x = x + drop(mlp(norm2(x)))  # transformers never drops this branch as a whole.
        return x, weights if attentions else None


class Model(nn.Module):
    """Equals transformers' SwinModel, with NHWC images of any size that gives each stage a whole window."""

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
        """Raises ConfigError for images that are too small, and, with absolute positions, for another size.

        The latter is allowed with `interpolate`.
        """
        return tower(
            self.config,
            self.compute,
            Block,
            images,
            train=train,
            interpolate=interpolate,
            hidden_states=hidden_states,
            attentions=attentions,
        )


_OWN = table("""
    blocks.{l}.attention.self.key.bias                     | layers/attn/key/bias  | (h k) -> h k
    blocks.{l}.attention.self.relative_position_bias_table | layers/attn/positions | n h
""")


def buffers(config: Config, params: Params) -> dict[str, np.ndarray]:
    """The indices into the tables of relative positions, which transformers 4 stores for every block."""
    side = config.window_size
    rows = Windows(side, side, side, shift=0).relative.astype(np.int64)
    return {
        f"encoder.layers.{i}.blocks.{j}.attention.self.relative_position_index": rows
        for i, depth in enumerate(config.depths)
        for j in range(depth)
    }


ENCODER = Encoder(
    respelled=RESPELLED,
    buffers=buffers,
    tower="vision",
    Config=Config,
    Model=Model,
    weights=lambda config: tower_weights(_OWN, config),
    pooling="mean(tokens)",
    prefix="swin.",
    image_processor="ViTImageProcessor",
    dropped=r"classifier\..*|decoder\..*|embeddings\.mask_token|.*\.relative_position_index",
    renames=(
        (r"\battention\.q_proj\.", "attention.self.query."),
        (r"\battention\.k_proj\.", "attention.self.key."),
        (r"\battention\.v_proj\.", "attention.self.value."),
        (r"\battention\.o_proj\.", "attention.output.dense."),
        (r"\battention\.relative_position_bias\.", "attention.self."),
        (r"\bmlp\.fc1\.", "intermediate.dense."),
        (r"\bmlp\.fc2\.", "output.dense."),
    ),
)
