"""TIPSv2's image tower, as transformers' Tipsv2VisionModel: a DINOv2 whose registers are further class tokens."""

import dataclasses

from lit_jax.models.encoders import dinov2, dinov2_with_registers
from lit_jax.models.encoders.base import Encoder
from lit_jax.models.encoders.hf_config import BACKBONE, even_heads, read_config
from lit_jax.models.layers.patches import Patches
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config(dinov2_with_registers.Config):
    """Fields and defaults of transformers' Tipsv2VisionConfig, which always has a mask token."""

    image_size: int = 448
    patch_size: int = 14
    mlp_ratio: float = 4.0  # type: ignore[assignment]
    num_register_tokens: int = 1

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        hf = {name: value for name, value in hf.items() if name != "use_mask_token"}
        return read_config(cls, "tipsv2_vision_model", hf, inert=BACKBONE, fixed={"head_dim": even_heads})

    @property
    def patches(self) -> Patches:
        return dataclasses.replace(super().patches, linear=True)


_ROWS = table("""
    cls_token               | embeddings/cls          | x y d
    register_tokens         | embeddings/registers    | x n d
    mask_token              | mask_token              | x d
    pos_embed               | embeddings/pos          | x n d
    patch_embed.proj.weight | embeddings/patch/kernel | d c p q -> p q c d
    patch_embed.proj.bias   | embeddings/patch/bias   | d
    norm.weight             | norm/scale              | d
    norm.bias               | norm/bias               | d
""")
_LAYERS = table("""
    norm1.weight     | layers/norm1/scale                   | d
    norm1.bias       | layers/norm1/bias                    | d
    attn.qkv.weight  | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    attn.qkv.bias    | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    attn.proj.weight | layers/attn/out/kernel               | d (h k) -> h k d
    attn.proj.bias   | layers/attn/out/bias                 | d
    ls1.gamma        | layers/scale1                        | d
    norm2.weight     | layers/norm2/scale                   | d
    norm2.bias       | layers/norm2/bias                    | d
    ls2.gamma        | layers/scale2                        | d
""").inside("blocks.{l}")
_MLP = table("""
    c_fc.weight   | layers/mlp/up/kernel   | f d -> d f
    c_fc.bias     | layers/mlp/up/bias     | f
    c_proj.weight | layers/mlp/down/kernel | d f -> f d
    c_proj.bias   | layers/mlp/down/bias   | d
""").inside("blocks.{l}.mlp")
_SWIGLU = table("""
    w12.weight | layers/mlp/up/kernel   | (u f) d -> d u f
    w12.bias   | layers/mlp/up/bias     | (u f) -> u f
    w3.weight  | layers/mlp/down/kernel | d f -> f d
    w3.bias    | layers/mlp/down/bias   | d
""").inside("blocks.{l}.mlp")
# The rows with transformers 5's names in memory.
_IN_MEMORY = table("""
    embeddings.cls_token                          | embeddings/cls          | x y d
    register_tokens                               | embeddings/registers    | x n d
    embeddings.mask_token                         | mask_token              | x d
    embeddings.position_embeddings                | embeddings/pos          | x n d
    embeddings.patch_embeddings.projection.weight | embeddings/patch/kernel | d c p q -> p q c d
    embeddings.patch_embeddings.projection.bias   | embeddings/patch/bias   | d
    layernorm.weight                              | norm/scale              | d
    layernorm.bias                                | norm/bias               | d
""")
_LAYERS_IN_MEMORY = table("""
    norm1.weight                         | layers/norm1/scale                   | d
    norm1.bias                           | layers/norm1/bias                    | d
    attention.{q,k,v}_proj.weight        | layers/attn/{query,key,value}/kernel | g (h k) d -> g d h k
    attention.{q,k,v}_proj.bias          | layers/attn/{query,key,value}/bias   | g (h k) -> g h k
    attention.o_proj.weight              | layers/attn/out/kernel               | d (h k) -> h k d
    attention.o_proj.bias                | layers/attn/out/bias                 | d
    layer_scale1.lambda1                 | layers/scale1                        | d
    norm2.weight                         | layers/norm2/scale                   | d
    norm2.bias                           | layers/norm2/bias                    | d
    layer_scale2.lambda1                 | layers/scale2                        | d
""").inside("encoder.layer.{l}")
_MLP_IN_MEMORY = table("""
    fc1.weight | layers/mlp/up/kernel   | f d -> d f
    fc1.bias   | layers/mlp/up/bias     | f
    fc2.weight | layers/mlp/down/kernel | d f -> f d
    fc2.bias   | layers/mlp/down/bias   | d
""").inside("encoder.layer.{l}.mlp")
_SWIGLU_IN_MEMORY = table("""
    {gate_proj,up_proj}.weight | layers/mlp/up/kernel   | g f d -> d g f
    {gate_proj,up_proj}.bias   | layers/mlp/up/bias     | g f
    down_proj.weight           | layers/mlp/down/kernel | d f -> f d
    down_proj.bias             | layers/mlp/down/bias   | d
""").inside("encoder.layer.{l}.mlp")


def _bound(rows: WeightMap, config: Config) -> WeightMap:
    present = {
        r"layers/attn/\{.*/bias": config.qkv_bias,
        "embeddings/registers": config.registers > 0,
    }
    none = WeightMap(empty=() if config.registers else (("register_tokens", (1, 0, config.hidden_size)),))
    sizes = {"depth": config.num_hidden_layers, "h": config.num_attention_heads, "u": 2}
    return rows.having(present).bind(**sizes) + none


def weights(config: Config) -> WeightMap:
    return _bound(_ROWS + _LAYERS + (_SWIGLU if config.use_swiglu_ffn else _MLP), config)


def _also(config: Config) -> WeightMap:
    mlp = _SWIGLU_IN_MEMORY if config.use_swiglu_ffn else _MLP_IN_MEMORY
    return _bound(_IN_MEMORY + _LAYERS_IN_MEMORY + mlp, config)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=dinov2.Model,
    weights=weights,
    also=_also,
    pooling="cls",
    prefix="vision_encoder.",
    image_processor="Tipsv2ImageProcessor",
    dropped=r"classifier\..*|head\..*",
    renames=((r"^embeddings\.register_tokens$", "register_tokens"),),  # Stored even if there are none.
    exportable=("5",),
    any_size=lambda config: True,
    fresh=r"mask_token",
    poolings={"cls": lambda config: (config, {})},
)
