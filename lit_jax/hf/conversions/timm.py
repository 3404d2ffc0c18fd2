"""Image towers of timm (`config.json` with an `architecture`), alone and within a model of open_clip.

Alone, they are folders of timm or of transformers' TimmWrapperModel.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.hf import model_folder
from lit_jax.hf.conversions import (
    timm_bit,
    timm_convnext,
    timm_eva,
    timm_fastvit,
    timm_hiera,
    timm_mobileclip,
    timm_perception,
    timm_resnet,
    timm_vitamin,
)
from lit_jax.hf.conversions.base import Format, Model, Part, field
from lit_jax.hf.conversions.renames import converted, inner
from lit_jax.hf.conversions.timm_checks import check_arguments
from lit_jax.hf.conversions.timm_families import FAMILIES, Trunk, clip
from lit_jax.hf.conversions.timm_tables import ACTIVATIONS
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import ImageProcessor, Tokenizer

WRAPPER = "timm_wrapper"  # The model_type of TimmWrapperModel.
_NAMES = r"(vit|deit|deit3|flexivit|test_vit\d?)_\w+|test_vit|eva_large_patch14_\d+"
# Architectures with the tensors of a ViT that are not one, or with other tensors.
_OTHERS = (
    r"\w*(distilled|_rpn_|relpos|_r26|_r50|_r_s16|resnet|_mci_|_18x2|_xp_|_sam\b|pwee_|_rope_|_pe_(core|lang|spatial)_|"
    r"_lingbot|_sapiens2|_radio_|_intern300m_|_reg\d_map_)\w*"
)
_ROTARY = r"\w*_dinov3(_qkvb)?"
_OTHER_HEADS = {  # Architectures whose number of heads does not follow from the width.
    r"vit_base_patch16_gap_224": 16,
    r"vit_giantopt_\w+": 16,
    r"vit_huge_plus_patch16_dinov3\w*": 20,
    r"vit_7b_patch16_dinov3": 32,
}
_ACTIVATIONS = {  # Architectures -> their activation; for all others it is gelu.
    r"\w*quickgelu\w*": "quick_gelu",
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip_\w+|vit_large_patch16_siglip_(gap_)?512": "gelu_tanh",
}
_MARKS = "patch_embed.proj.weight", "blocks.0.norm1.weight"  # Tensors of every ViT.
_OF_DINO = {  # Names in the files of the DINOv2 and DINOv3 projects -> in timm.
    r"\b(register|storage)_tokens$": "reg_token",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
    r"\bblocks\.\d+\.(\d+)\.": r"blocks.\1.",  # Chunks of blocks; the blocks are numbered across them.
}
_OF_DINOV3 = _OF_DINO | {r"\.ls([12])\.gamma$": r".gamma_\1"}
# Arguments that the tensors show, or that change nothing at inference.
_SHOWN = frozenset(
    """img_size embed_dim depth num_heads patch_size act_layer init_values reg_tokens in_chans num_classes global_pool
    class_token no_embed_class pre_norm fc_norm final_norm mlp_ratio qkv_bias dynamic_img_size weight_init fix_init
    drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate""".split()
)


def tower(
    where: Path,
    architecture: str,
    args: Mapping[str, Any],
    source: Mapping[str, np.ndarray],
    *,
    prefix: str = "",
    pooling: str = "",
    image_size: int | list[int] = 224,
) -> Part:
    """The image tower of that name, whose tensor names begin with `prefix`, as a type of transformers that computes it.

    `args` are the arguments in its config besides the name; `pooling` is one of timm's, "" that of the architecture;
    `image_size` is used if no tensor shows it, and for a margin of less than a patch, which is cut off. Raises
    WeightError for any other architecture.
    """
    if (kind := _kind_of(architecture)) is not None:
        return kind.tower(
            where, architecture, args, source, prefix=prefix, pooling=pooling, image_size=image_size
        )
    if not re.fullmatch(_NAMES, architecture) or re.fullmatch(_OTHERS, architecture):
        raise WeightError(
            f"{where}: the architecture {shown(architecture)} of timm is not implemented; "
            "vit, deit and deit3 with plain blocks, eva, perception encoders, fastvit, vitamin, convnext, plain "
            "resnet, bit and hiera are"
        )
    check_arguments(where, architecture, args, _SHOWN)
    trunk = Trunk(where, source, prefix, is_rotary=_is_rotary(architecture))
    family = next((family for family in FAMILIES if family.marks(trunk)), None)
    if family is None:
        raise WeightError(
            f"{where}: {architecture} with registers or layer scale and without a CLS token is not implemented"
        )
    common = _common(trunk, architecture, args)
    if trunk.is_rotary:
        common["image_size"] = args.get("img_size", image_size)
        pooling = pooling or "avg"  # Though its authors take the CLS token.
    elif isinstance(image_size, int) and image_size // trunk.patch == trunk.side:
        common["image_size"] = image_size
    part = family.part(trunk, common)
    if pooling in ("", family.pooling):
        return part
    if (pooling, family.pooling) == ("avg", "token") and family.part is not clip:
        return part._replace(pooling="mean")
    raise WeightError(f"{where}: {architecture} with the pooling {shown(pooling)} is not implemented")


class _Kind(NamedTuple):
    """Architectures that are handled in a file of their own."""

    names: str  # A regex, which includes those that are not implemented.
    marks: tuple[str, str]  # Tensors that each of them has.
    tower: Callable[..., Part]


_KINDS = tuple(
    _Kind(kind.KIND, kind.MARKS, kind.tower)
    for kind in (
        timm_bit,
        timm_convnext,
        timm_eva,
        timm_fastvit,
        timm_hiera,
        timm_mobileclip,
        timm_perception,
        timm_resnet,
        timm_vitamin,
    )
)


def _kind_of(architecture: str) -> _Kind | None:
    return next((kind for kind in _KINDS if re.fullmatch(kind.names, architecture)), None)


def _is_rotary(architecture: str) -> bool:
    return bool(re.fullmatch(_ROTARY, architecture))


def _common(trunk: Trunk, architecture: str, args: Mapping[str, Any]) -> dict[str, Any]:
    other = next(
        (number for pattern, number in _OTHER_HEADS.items() if re.fullmatch(pattern, architecture)), None
    )
    heads = trunk.heads(architecture, args.get("num_heads") or other)
    act = args.get("act_layer") or _activation(architecture)
    if act not in ACTIVATIONS:
        raise WeightError(f"{trunk.where}: {architecture} with act_layer {shown(act)} is not implemented")
    return {
        "image_size": trunk.side * trunk.patch,
        "patch_size": trunk.patch,
        "num_channels": trunk.channels,
        "hidden_size": trunk.width,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": heads,
        "intermediate_size": trunk.hidden,
        "hidden_act": ACTIVATIONS[act],
        "layer_norm_eps": 1e-5 if trunk.is_rotary or "norm_pre.weight" in trunk.names else 1e-6,
    }


def _activation(architecture: str) -> str:
    return next(
        (kind for pattern, kind in _ACTIVATIONS.items() if re.fullmatch(pattern, architecture)), "gelu"
    )


def activation_of(architecture: str) -> str:
    """The activation of an architecture, as transformers calls it."""
    return ACTIVATIONS[_activation(architecture)]


def _names_in_timm(architecture: str, names: Collection[str]) -> dict[str, str]:
    """Names -> those of timm; unchanged if two would be the same."""
    found = {name: name for name in names}
    for theirs, timms in (_OF_DINOV3 if _is_rotary(architecture) else _OF_DINO).items():
        found = {name: re.sub(theirs, timms, known) for name, known in found.items()}
    return found if len({*found.values()}) == len(found) else {name: name for name in names}


def _read_config(folder: Path) -> dict[str, Any]:
    # TimmWrapperConfig writes null for what is not set.
    config = {key: value for key, value in model_folder.read_config(folder).items() if value is not None}
    for name, wanted in (("architecture", str), ("pretrained_cfg", dict), ("model_args", dict)):
        if not isinstance(config.get(name, wanted()), wanted):
            raise WeightError(
                f"{folder / model_folder.CONFIG}: {name}={shown(config[name])} is not usable; wanted "
                f"a {wanted.__name__}"
            )
    return config


def _is_timm(folder: Path) -> bool:
    if not (folder / model_folder.CONFIG).is_file():
        return False
    config = model_folder.read_json(folder / model_folder.CONFIG)
    return "architecture" in config and config.get("model_type", WRAPPER) == WRAPPER


def _read(folder: Path, allow_pickle: bool) -> Model:
    config = _read_config(folder)
    architecture = config["architecture"]
    stored = model_folder.Tensors.of(folder, allow_pickle=allow_pickle)
    if (kind := _kind_of(architecture)) is None:
        stored = stored.renamed(_names_in_timm(architecture, stored))
    source = inner(folder, stored, _MARKS if kind is None else kind.marks)
    args = config.get("model_args", {})
    pooling = field(str(folder / model_folder.CONFIG), args | config, "global_pool", "")
    side = _pictures(folder, config).side
    part = tower(folder, architecture, args, source, pooling=pooling, image_size=side)
    # The classifier, and what only DINO's training needs.
    dropped = rf"({part.dropped}|head\.(fc\.)?(weight|bias)|mask_token)"
    tensors = converted(folder, source, part.rows, made=part.made, dropped=dropped)
    return Model(part.config | {"vision_pooling": part.pooling}, tensors)


class _Pictures(NamedTuple):
    """What the config of a folder says about its pictures."""

    where: str
    stored: Mapping[str, Any]
    side: int
    crop: float


def _pictures(folder: Path, config: Mapping[str, Any]) -> _Pictures:
    """What the config says about pictures. Raises WeightError unless they are squares."""
    where = f"{folder / model_folder.CONFIG}: pretrained_cfg"
    stored = config.get("pretrained_cfg") or config  # Old folders have its fields one level up.
    size = field(where, stored, "input_size", [3, 224, 224])
    crop = field(where, stored, "crop_pct", 0.875)
    side = size[-1] if len(size) == 3 and size[1] == size[2] else size
    if not isinstance(side, int) or not 0 < crop <= 1:
        raise WeightError(
            f"{where}: input_size {shown(size)} with crop_pct {shown(crop)} is not implemented; a square "
            "with a crop_pct of at most 1 is"
        )
    return _Pictures(where, stored, side, crop)


def _image_processor(folder: Path) -> ImageProcessor:
    from lit_jax.hf.conversions.pictures import square_processor

    where, stored, side, crop = _pictures(folder, _read_config(folder))
    mode = field(where, stored, "crop_mode", "center")
    return square_processor(
        folder,
        side=side,
        edge=math.floor(side / crop),
        mode={"center": "shortest"}.get(mode, mode),
        interpolation=field(where, stored, "interpolation", "bicubic"),
        mean=field(where, stored, "mean", [0.485, 0.456, 0.406]),
        std=field(where, stored, "std", [0.229, 0.224, 0.225]),
    )


def _no_tokenizer(folder: Path) -> Tokenizer:
    raise WeightError(f"{folder} is an image tower of timm and has no tokenizer; take that of a text tower")


FORMAT = Format("an image tower of timm", _is_timm, _read, _image_processor, _no_tokenizer)
