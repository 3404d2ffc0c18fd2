"""The image towers that timm has names for: open_clip describes a tower of timm only by its name."""

import re
from typing import Any, NamedTuple

from lit_jax.hf.conversions import timm_convnext
from lit_jax.hf.conversions.timm import activation_of

_SIZES = {  # Size in a name -> width, layers, heads, width of the MLPs.
    "tiny": (192, 12, 3, 768),
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "huge": (1280, 32, 16, 5120),
    "giantopt": (1536, 40, 16, 6144),
}
_IMAGE_OF_DINOV2 = 518
CONVNEXTS = ("convnext", "convnextv2", "dinov3_convnext")  # Types of transformers.
_KINDS = {  # Type of transformers -> its part in timm's names.
    "vit": "",
    "clip_vision_model": "clip",
    "siglip_vision_model": "siglip",
    "dinov2": "dinov2",
    "dinov2_with_registers": "reg4_dinov2",
}
NAMES = """
    vit_tiny_patch16_224 vit_tiny_patch16_384 vit_small_patch32_224 vit_small_patch32_384 vit_small_patch16_224
    vit_small_patch16_384 vit_small_patch8_224 vit_base_patch32_224 vit_base_patch32_384 vit_base_patch16_224
    vit_base_patch16_384 vit_base_patch8_224 vit_large_patch32_224 vit_large_patch32_384 vit_large_patch16_224
    vit_large_patch16_384 vit_large_patch14_224 vit_huge_patch14_224

    vit_base_patch32_clip_224 vit_base_patch32_clip_256 vit_base_patch32_clip_384 vit_base_patch32_clip_448
    vit_base_patch16_clip_224 vit_base_patch16_clip_384 vit_large_patch14_clip_224 vit_large_patch14_clip_336
    vit_huge_patch14_clip_224 vit_huge_patch14_clip_336 vit_huge_patch14_clip_378
    vit_base_patch32_clip_quickgelu_224 vit_base_patch16_clip_quickgelu_224 vit_large_patch14_clip_quickgelu_224
    vit_large_patch14_clip_quickgelu_336 vit_huge_patch14_clip_quickgelu_224 vit_huge_patch14_clip_quickgelu_378

    vit_base_patch32_siglip_256 vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384
    vit_base_patch16_siglip_512 vit_large_patch16_siglip_256 vit_large_patch16_siglip_384 vit_large_patch16_siglip_512
    vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_378 vit_so400m_patch14_siglip_384
    vit_so400m_patch16_siglip_256 vit_so400m_patch16_siglip_384 vit_so400m_patch16_siglip_512
    vit_giantopt_patch16_siglip_256 vit_giantopt_patch16_siglip_384

    vit_small_patch14_dinov2 vit_base_patch14_dinov2 vit_large_patch14_dinov2
    vit_small_patch14_reg4_dinov2 vit_base_patch14_reg4_dinov2 vit_large_patch14_reg4_dinov2
""".split()
_CONVNEXTS = {  # Size in a name -> depths, and the width of the first stage, which doubles with each stage.
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
    "xlarge": ((3, 3, 27, 3), 256),
    "xxlarge": ((3, 4, 30, 3), 384),
    "huge": ((3, 3, 27, 3), 352),
}
_NAME = re.compile(r"vit_([a-z0-9]+)_patch(\d+)_?(reg4_dinov2|dinov2|clip|siglip|)(?:_quickgelu)?_?(\d*)")


class Shape(NamedTuple):
    """What a name stands for, besides the parts that a tower's tensors show."""

    kind: str  # A value of _KINDS.
    patch: int
    image: int
    width: int
    depth: int
    heads: int
    hidden: int
    act: str  # As transformers calls it.
    eps: float


def name_of(model_type: str, config: Any) -> str | None:
    """The name of the tower of timm that computes what this config says; None: timm has none."""
    if model_type in CONVNEXTS:
        return _convnext(config)
    hidden = getattr(config, "intermediate_size", None) or config.hidden_size * config.mlp_ratio
    wanted = Shape(
        _KINDS[model_type],
        config.patch_size,
        config.image_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        hidden,
        config.hidden_act,
        config.layer_norm_eps,
    )
    return next((name for name in NAMES if shape_of(name) == wanted), None)


def shape_of(name: str) -> Shape:
    """What a name of NAMES stands for."""
    match = _NAME.fullmatch(name)
    assert match, name
    size, patch, kind, image = match.groups()
    eps = 1e-5 if kind == "clip" else 1e-6
    act = activation_of(name)
    return Shape(kind, int(patch), int(image or _IMAGE_OF_DINOV2), *_SIZES[size], act, eps)


def _convnext(config: Any) -> str | None:
    """The name of a ConvNeXt, if all its norms have the eps that goes with that name."""
    kind, first = "convnextv2" if config.response else "convnext", config.hidden_sizes[0]
    doubled = tuple(first << i for i in range(len(config.depths)))
    if (
        (config.hidden_act, config.patch_size, config.hidden_sizes) != ("gelu", 4, doubled)
        or config.layer_norm_eps != config.inner_eps
        or (config.scale is None) != config.response
    ):
        return None
    names = [f"{kind}_{size}" for size, shape in _CONVNEXTS.items() if shape == (config.depths, first)]
    known = (name for name in names if re.fullmatch(timm_convnext.NAMES, name))
    return next((name for name in known if timm_convnext.eps_of(name) == config.layer_norm_eps), None)
