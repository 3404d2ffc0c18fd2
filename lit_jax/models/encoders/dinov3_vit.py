"""DINOv3's ViT (arXiv:2508.10104), as transformers' DINOv3ViTModel: rotary positions on the patches."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import BACKBONE, even_heads, read_config
from lit_jax.models.encoders.vit import trunk
from lit_jax.models.layers.blocks import PerLayer
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import Sides, grid


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' DINOv3ViTConfig."""

    image_size: Sides = 224
    patch_size: Sides = 16
    num_channels: int = 3
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-5
    layerscale_value: float = 1.0
    rope_theta: float = 100.0
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    use_gated_mlp: bool = False
    num_register_tokens: int = 0
    # Random changes of the patches' coordinates, only in training. None: no change.
    pos_embed_shift: float | None = None
    pos_embed_jitter: float | None = None
    pos_embed_rescale: float | None = 2.0
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return read_config(
            cls,
            hf.get("model_type", "dinov3_vit"),
            hf,
            inert=BACKBONE | {"return_class_token"},
            fixed={"head_dim": even_heads},
        )

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            registers=self.num_register_tokens,
            positions=False,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        biased = {"q": self.query_bias, "k": self.key_bias, "v": self.value_bias, "o": self.proj_bias}
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            biases="".join(letter for letter, bias in biased.items() if bias),
            mlp_bias=self.mlp_bias,
            gated=self.use_gated_mlp,
            layer_scale=self.layerscale_value,
            attention_dropout=self.attention_dropout,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )


def centres(rows: int, columns: int) -> np.ndarray:
    """The y and x of the patches' centres, from -1 to 1, [rows * columns, 2]."""
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1 for n in (rows, columns))
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def moved(config: Config, at: Array, key: Callable[[], Array]) -> Array:
    """Coordinates in training: shifted, jittered and rescaled at random by draws from `key()`."""

    def stretch(largest: float, shape: tuple[int, ...]) -> Array:
        return jnp.exp(jax.random.uniform(key(), shape, minval=-math.log(largest), maxval=math.log(largest)))

    if (shift := config.pos_embed_shift) is not None:
        at = at + jax.random.uniform(key(), (1, 2), minval=-shift, maxval=shift)
    if config.pos_embed_jitter is not None:
        at = at * stretch(config.pos_embed_jitter, (1, 2))
    if config.pos_embed_rescale is not None:
        at = at * stretch(config.pos_embed_rescale, (1,))
    return at


def rope_of(config: Config, at: Float[Array, "M 2"]) -> tuple[Array, Array]:
    """Cosines and sines [M K] for coordinates; each half of the channels has those of y, then those of x."""
    width = config.hidden_size // config.num_attention_heads
    speed = 1 / config.rope_theta ** np.arange(0, 1, 4 / width, dtype=np.float32)
    angles = (2 * np.float32(np.pi) * at[:, :, None] * speed).reshape(len(at), -1)
    angles = jnp.tile(angles, 2)
    return jnp.cos(angles), jnp.sin(angles)


class Model(nn.Module):
    """Equals transformers' DINOv3ViTModel, with NHWC images of any size that the patches divide."""

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
        # Only pretraining uses the mask token; it is kept so that an export is complete.
        self.param("mask_token", nn.initializers.zeros, (1, 1, c.hidden_size))
        at = jnp.asarray(centres(*grid((images.shape[1], images.shape[2]), c.patch_size)))
        if train:
            at = moved(c, at, lambda: self.make_rng("dropout"))
        rope = rope_of(c, at)
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=True,
            per_layer=PerLayer(inputs=lambda _: {"rope": rope}),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, x[:, 0], states, weights)


_ROWS = table("""
    embeddings.cls_token               | embeddings/cls            | x y d
    embeddings.mask_token              | mask_token                | x y d
    embeddings.register_tokens         | embeddings/registers      | x n d
    embeddings.patch_embeddings.weight | embeddings/patch/kernel   | d c p q -> p q c d
    embeddings.patch_embeddings.bias   | embeddings/patch/bias     | d

    layer.{l}.norm1.weight             | layers/norm1/scale        | d
    layer.{l}.norm1.bias               | layers/norm1/bias         | d
    layer.{l}.attention.q_proj.weight  | layers/attn/query/kernel  | (h k) d -> d h k
    layer.{l}.attention.q_proj.bias    | layers/attn/query/bias    | (h k) -> h k
    layer.{l}.attention.k_proj.weight  | layers/attn/key/kernel    | (h k) d -> d h k
    layer.{l}.attention.k_proj.bias    | layers/attn/key/bias      | (h k) -> h k
    layer.{l}.attention.v_proj.weight  | layers/attn/value/kernel  | (h k) d -> d h k
    layer.{l}.attention.v_proj.bias    | layers/attn/value/bias    | (h k) -> h k
    layer.{l}.attention.o_proj.weight  | layers/attn/out/kernel    | d (h k) -> h k d
    layer.{l}.attention.o_proj.bias    | layers/attn/out/bias      | d
    layer.{l}.layer_scale1.lambda1     | layers/scale1             | d
    layer.{l}.norm2.weight             | layers/norm2/scale        | d
    layer.{l}.norm2.bias               | layers/norm2/bias         | d
    layer.{l}.mlp.down_proj.weight     | layers/mlp/down/kernel    | d f -> f d
    layer.{l}.mlp.down_proj.bias       | layers/mlp/down/bias      | d
    layer.{l}.layer_scale2.lambda1     | layers/scale2             | d

    norm.weight                        | norm/scale                | d
    norm.bias                          | norm/bias                 | d
""")
_MLP = table("""
    layer.{l}.mlp.up_proj.weight       | layers/mlp/up/kernel      | f d -> d f
    layer.{l}.mlp.up_proj.bias         | layers/mlp/up/bias        | f
""")
_GATED = table("""
    layer.{l}.mlp.{gate_proj,up_proj}.weight | layers/mlp/up/kernel | g f d -> d g f
    layer.{l}.mlp.{gate_proj,up_proj}.bias   | layers/mlp/up/bias   | g f
""")


def weights(config: Config) -> WeightMap:
    present = {
        ".*query/bias": config.query_bias,
        ".*key/bias": config.key_bias,
        ".*value/bias": config.value_bias,
        ".*out/bias": config.proj_bias,
        ".*(up|down)/bias": config.mlp_bias,
        "embeddings/registers": bool(config.num_register_tokens),
    }
    rows = (_ROWS + (_GATED if config.use_gated_mlp else _MLP)).having(present)
    if not config.num_register_tokens:
        rows += WeightMap(empty=(("embeddings.register_tokens", (1, 0, config.hidden_size)),))
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="cls",
    prefix="dinov3_vit.",
    image_processor="DINOv3ViTImageProcessor",
    dropped=r"classifier\..*|rope_embeddings\..*",
    renames=((r"^model\.layer\.", "layer."),),
    poolings={"cls": lambda config: (config, {})},
)
