"""An image tower with its head as the `vision_cfg` and the tensors of open_clip: in its own form, or as timm's."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions import timm_convnext_tables, timm_tables
from lit_jax.hf.conversions.open_clip_vit import BIAS, vit_rows
from lit_jax.hf.conversions.renames import Rows, bound, returned, under
from lit_jax.hf.conversions.timm_names import CONVNEXTS, name_of
from lit_jax.models import heads
from lit_jax.models.dual_encoder import DualEncoderConfig, encoder_of
from lit_jax.models.heads import Head
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import in_words
from lit_jax.utils.typing import Params

Tensors = dict[str, np.ndarray]
_ACTS = {"quick_gelu": None, "gelu": None, "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}
_EPS = 1e-5  # The eps of open_clip's norms, unless another is given.
_POS, _CLS, _REGISTERS = (
    f"embeddings.{name}" for name in ("position_embeddings", "cls_token", "register_tokens")
)


class Written(NamedTuple):
    """A tower and its head, as open_clip has them."""

    cfg: dict[str, Any]
    tensors: Tensors
    act: str = ""  # The activation, if the quick_gelu of the whole model applies to the tower, else "".
    custom: bool = True  # Whether the class CLIP cannot hold it.


def hf_tensors(tower: str, config: DualEncoderConfig, params: Params) -> tuple[Tensors, Tensors]:
    """The tensors of a tower and those of its head, with the names of transformers; both without a prefix."""
    model_type, own = config.towers[tower]
    encoder, name = encoder_of(tower, model_type), heads.NAMES[tower]
    found = encoder.weights(own).to_hf(params[tower])
    head = head_of(tower, config)
    return (
        {key.removeprefix(encoder.nest): array for key, array in found.items()},
        heads.weights(head, tower).to_hf({name: params[name]}) if name in params else {},
    )


def head_of(tower: str, config: DualEncoderConfig) -> Head:
    """The head of a tower; the identity in a model without projections. Raises ConfigError for one that rescales."""
    head: Head = Head("identity") if config.projection_dim is None else getattr(config, f"{tower}_head")
    if head.standardise:
        raise ConfigError(f"its {tower} head standardises the features, which no head there does")
    return head


def plain_mlp(head: Head, features: int, hidden: int) -> bool:
    """Whether a head is one hidden layer of that width with the exact gelu, and nothing else."""
    return (
        head.kind == "mlp"
        and head.widths(features) == (hidden,)
        and head.activation == "gelu"
        and not (head.norm or head.skip)
    )


def sizes(config: Any, hidden: int, act: str) -> dict[str, Any]:
    """The fields of one of open_clip's own transformers. Raises ConfigError for an activation that it does not have."""
    if act not in _ACTS:
        raise ConfigError(f"it computes {act}, and open_clip has {', '.join(_ACTS)}")
    width, eps = config.hidden_size, config.layer_norm_eps
    ratio = hidden / width
    if int(width * ratio) != hidden:
        ratio = (hidden + 0.5) / width  # open_clip rounds down.
    return {
        "width": width,
        "layers": config.num_hidden_layers,
        "mlp_ratio": ratio,
        **({"norm_kwargs": {"eps": eps}} if eps != _EPS else {}),
        **({"act_kwargs": {"approximate": "tanh"}} if _ACTS[act] else {}),
    }


def written(config: DualEncoderConfig, params: Params) -> Written:
    """The image tower and its head. Raises ConfigError if open_clip has no place for them."""
    model_type, own = config.towers["vision"]
    if model_type not in (known := (*_TRUNKS, *CONVNEXTS)):
        raise ConfigError(
            f"its image tower is a {model_type}, and open_clip has {', '.join(known)} in a form that lit_jax writes"
        )
    if own.num_channels != 3:
        raise ConfigError(f"its image tower takes {own.num_channels} channels, and open_clip's three")
    if not isinstance(own.image_size, int) or not isinstance(own.patch_size, int):
        raise ConfigError(
            f"its image tower cuts pictures of {in_words(own.image_size)} pixels into patches of "
            f"{in_words(own.patch_size)}, and lit_jax writes squares alone there"
        )
    found, head = hf_tensors("vision", config, params)
    pool = _pool(config, found)
    linear = head_of("vision", config).kind == "linear"
    native = (
        linear
        and model_type in ("clip_vision_model", "vit", "dinov2")
        and not getattr(own, "use_swiglu_ffn", False)
    )
    name = name_of(model_type, own)
    if native and (name is None or model_type == "clip_vision_model" or not found[BIAS].any()):
        return _native(model_type, own, pool, found, head)
    if name is None:
        raise ConfigError(
            f"its image tower, a {model_type} of width {own.hidden_size} for {own.image_size} pixels with "
            f"{own.hidden_act} and layer_norm_eps {own.layer_norm_eps}, and its head need one of timm, which "
            "has none of these sizes"
        )
    cfg, behind = _timm_head(config, own.hidden_size, head)
    cfg = {"timm_model_name": name, "timm_pool": pool, "image_size": own.image_size, **cfg}
    if model_type in CONVNEXTS:
        trunk = _convnext(name, model_type, own, found)
    else:
        trunk = _TRUNKS[model_type](own.num_hidden_layers, found)
    return Written(cfg, {f"visual.trunk.{key}": array for key, array in trunk.items()} | behind)


def _pool(config: DualEncoderConfig, found: Mapping[str, np.ndarray]) -> str:
    """What timm calls the pooling: token, avg or map. Raises ConfigError for another one."""
    model_type, own = config.towers["vision"]
    how = config.vision_pooling
    if how == "mean" and model_type in ("vit", "dinov2"):
        return "avg"
    if how != "pooler":
        raise ConfigError(f"vision_pooling={how!r} of a {model_type} has no place there")
    if model_type == "siglip_vision_model":
        return "map"
    if model_type in CONVNEXTS:
        return "avg"
    if model_type == "vit":
        kernel, bias = (found[f"pooler.dense.{part}"] for part in ("weight", "bias"))
        if own.pooler_act != "linear" or bias.any() or not np.array_equal(kernel, np.eye(len(kernel))):
            raise ConfigError(
                f"its image tower pools {own.pooler_act}(dense(CLS token)), which open_clip does not; "
                "vision_pooling='cls' is the CLS token itself"
            )
    return "token"


def _native(model_type: str, own: Any, pool: str, found: Tensors, head: Tensors) -> Written:
    """open_clip's own ViT, with a linear projection."""
    depth, clip = own.num_hidden_layers, model_type == "clip_vision_model"
    cfg = {
        "image_size": own.image_size,
        "patch_size": own.patch_size,
        "head_width": own.hidden_size // own.num_attention_heads,
        **sizes(own, _hidden(own), own.hidden_act),
    }
    if clip:
        table = bound(tables.VISION + under(tables.BLOCKS, "transformer.", "encoder."), depth)
    else:
        cfg |= {"no_ln_pre": True} | ({"pool_type": "avg"} if pool == "avg" else {})
        cfg |= {"ls_init_value": own.layerscale_value} if model_type == "dinov2" else {}
        table, found = vit_rows(depth, scaled=model_type == "dinov2"), _biased(_unbiased(found))
    tensors = {f"visual.{key}": array for key, array in returned(table, found).items()}
    return Written(cfg, tensors | returned(tables.VISION_HEAD, head), own.hidden_act, custom=False)


def _hidden(own: Any) -> int:
    return int(getattr(own, "intermediate_size", None) or own.hidden_size * own.mlp_ratio)


def _unbiased(found: Tensors) -> Tensors:
    """The same tower with the bias of its patches moved into the positions."""
    if not (bias := found[BIAS]).any():
        return found
    positions = found[_POS].copy()
    positions[:, 1:] += bias
    return found | {_POS: positions}


def _biased(found: Tensors) -> Tensors:
    """The same tower with biases of zeros where attention has none."""
    names = [name for name in found if re.search(r"\.attention\.(query|key|value)\.weight$", name)]
    zeros = {name.removesuffix("weight") + "bias": np.zeros(len(found[name]), np.float32) for name in names}
    return zeros | found


def _timm_head(config: DualEncoderConfig, features: int, head: Tensors) -> tuple[dict[str, Any], Tensors]:
    """The fields of the head behind a trunk of timm, and its tensors."""
    kind, own = head_of("vision", config), config.width
    if kind.kind == "identity":
        return {"timm_proj": "none"}, {}
    if kind.kind in ("linear", "linear_bias"):
        biased = kind.kind == "linear_bias"
        rows = tables.TIMM_LINEAR + (tables.TIMM_LINEAR_BIAS if biased else ())
        return {"timm_proj": "linear", "timm_proj_bias": biased}, returned(rows, head)
    if not plain_mlp(kind, features, 2 * own):
        raise ConfigError(
            f"its vision_head {kind.kind!r} of hidden {list(kind.widths(features))} is not one that it has behind a "
            f"tower of timm: linear, linear_bias, identity, or an mlp of hidden [{2 * own}] with gelu"
        )
    biased = bool(head["visual_projection.out.bias"].any())
    rows = tables.TIMM_MLP + (tables.TIMM_MLP_BIAS if biased else ())
    return {"timm_proj": "mlp", "timm_proj_bias": biased}, returned(rows, head)


def _attention(found: Tensors) -> Rows:
    """The rows of attention that a tower has: with or without biases."""
    biased = any(name.endswith("attention.query.bias") for name in found)
    return tuple(row for row in timm_tables.ATTENTION if biased or not row.hf.endswith("qkv.bias"))


def _vit(depth: int, found: Tensors) -> Tensors:
    rows = timm_tables.EMBEDDINGS + _attention(found) + timm_tables.VIT + timm_tables.NORM
    return returned(bound(rows, depth), found) | {"pos_embed": found[_POS]}


def _dinov2(depth: int, found: Tensors) -> Tensors:
    own = timm_tables.DINOV2 + timm_tables.MLP + timm_tables.SCALES
    rows = timm_tables.EMBEDDINGS + _attention(found) + own + timm_tables.NORM
    trunk = returned(bound(rows, depth), found)
    if _REGISTERS not in found:
        return trunk | {"pos_embed": found[_POS]}
    # There, only the patches have positions.
    first = found[_POS][:, :1]
    cls = found[_CLS] + first if first.any() else found[_CLS]
    return trunk | {"cls_token": cls, "pos_embed": found[_POS][:, 1:], "reg_token": found[_REGISTERS]}


def _clip(depth: int, found: Tensors) -> Tensors:
    return returned(bound(timm_tables.CLIP + timm_tables.CLIP_BLOCKS, depth, x=1, y=1), found)


def _siglip(depth: int, found: Tensors) -> Tensors:
    trunk = returned(bound(timm_tables.SIGLIP + timm_tables.CLIP_BLOCKS, depth, x=1, y=1), found)
    for kind in ("weight", "bias"):
        both = found[f"head.attention.in_proj_{kind}"]
        query, rest = np.split(both, [len(both) // 3])
        trunk |= {f"attn_pool.q.{kind}": query, f"attn_pool.kv.{kind}": rest}
    return trunk


def _convnext(name: str, model_type: str, own: Any, found: Tensors) -> Tensors:
    """The tensors of timm's ConvNeXt; `name` is that of the architecture."""
    table = timm_convnext_tables.rows_of(
        timm_convnext_tables.DINOV3 if model_type == "dinov3_convnext" else timm_convnext_tables.CONVNEXT,
        own.depths,
        response=own.response,
        scaled=own.scale is not None,
        as_kernels=bool(re.fullmatch(timm_convnext_tables.WITH_KERNELS, name)),
    )
    return returned(table, found)


# Type of transformers -> what makes timm's tensors.
_TRUNKS: dict[str, Callable[[int, Tensors], Tensors]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "vit": _vit,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2,
}
