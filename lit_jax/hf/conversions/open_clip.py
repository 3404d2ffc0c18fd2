"""Folders of open_clip 3 (`open_clip_config.json`): which towers a model has, and what is around them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf import model_folder
from lit_jax.hf.conversions import (
    open_clip_coca,
    open_clip_resnet,
    open_clip_text,
    open_clip_towers,
    open_clip_vit,
    timm,
)
from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions.base import Format, Model, Part, field, placed
from lit_jax.hf.conversions.renames import Rows, converted, inner, rows, under
from lit_jax.hf.formats.safetensors import SafetensorsFile
from lit_jax.hf.formats.torch_pickle import TorchFile
from lit_jax.models.composites import OWN_MODEL_TYPE
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import ImageProcessor, Tokenizer

CONFIG, WEIGHTS, PICKLE = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # OpenAI's.
# Tensors of a TorchScript program that are not weights: numbers, in OpenAI's, and the causal attention mask.
_OF_PROGRAMS = r"input_resolution|context_length|vocab_size|(text\.)?attn_mask"
# Type of the text tower -> of the whole model.
_CLIP_TEXTS = {"clip_text_model": "clip", "metaclip_2_text_model": "metaclip_2"}


def _read(folder: Path, allow_pickle: bool) -> Model:
    cfg, where = _config(folder), str(folder / CONFIG)
    source = _tensors(folder, allow_pickle)
    if cfg.get("multimodal_cfg") is not None:
        source = open_clip_coca.without_decoder(str(folder), source)
    width = field(where, cfg, "embed_dim", 512)
    quick_gelu = field(where, cfg, "quick_gelu", False)
    seen, said = cfg["vision_cfg"], cfg["text_cfg"]
    if seen.get("timm_model_name"):
        vision = _timm(folder, where, seen, source, width)
    elif isinstance(seen.get("layers"), list):
        vision = open_clip_resnet.vision(where, seen)
    elif seen.get("attentional_pool"):
        vision = open_clip_coca.vision(where, seen, quick_gelu, width)
    elif field(where, seen, "no_ln_pre", False):
        vision = open_clip_vit.vision(where, seen, quick_gelu, source)
    else:
        vision = open_clip_towers.vision(where, seen, quick_gelu)
    if said.get("hf_model_name"):
        text = open_clip_text.part(folder, where, said, source, width)
    else:
        prefix = "text." if any(name.startswith("text.") for name in source) else ""
        if said.get("embed_cls"):
            text = open_clip_coca.text(where, said, quick_gelu, prefix)
        else:
            text = open_clip_towers.text(where, said, quick_gelu, width, prefix)
    config, scalars, dropped = _whole(vision, text, width, source)
    tensors = converted(
        folder,
        source,
        vision.rows + text.rows + scalars,
        made={**vision.made, **text.made},
        dropped="|".join((vision.dropped, text.dropped, dropped, _OF_PROGRAMS)),
    )
    return Model(config, tensors)


def _whole(
    vision: Part, text: Part, width: int, source: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], Rows, str]:
    """The config of the whole model, the rows of its scalars, and a regex of scalars that are in the config instead.

    It is a model of transformers if there is a class with its towers and heads, else one of our own layout.
    """
    kinds = vision.config["model_type"], text.config["model_type"]
    halves = {"vision_config": dict(vision.config), "text_config": dict(text.config)}
    plain = all(part.pooling == "pooler" for part in (vision, text))
    heads = {dict(part.head)["kind"] for part in (vision, text)}
    # 1 for an array of one number.
    one = next((source[name].ndim for name in ("logit_scale",) if name in source), 0)
    scale = rows(f"logit_scale | logit_scale | {'1 ->' if one else ''}")
    biased = "logit_bias" in source
    if kinds == ("siglip_vision_model", "siglip_text_model") and plain and heads == {"identity"} and biased:
        axes = "1" if one else "-> 1"
        both = f"logit_scale | logit_scale | {axes}\nlogit_bias | logit_bias | {axes}"
        return {"model_type": "siglip", **halves}, rows(both), r"(?!)"
    if (
        kinds[0] == "clip_vision_model"
        and kinds[1] in _CLIP_TEXTS
        and plain
        and heads == {"linear"}
        and not biased
    ):
        return {"model_type": _CLIP_TEXTS[kinds[1]], "projection_dim": width, **halves}, scale, r"(?!)"
    config = {"model_type": OWN_MODEL_TYPE, "projection_dim": width, **halves}
    for tower, part in (("vision", vision), ("text", text)):
        config |= {f"{tower}_pooling": part.pooling, f"{tower}_head": dict(part.head)}
    if biased:
        config["logit_bias"] = float(source["logit_bias"].reshape(-1)[0])
    return config, scale, "logit_bias" if biased else r"(?!)"


def _timm(
    folder: Path, where: str, cfg: Mapping[str, Any], source: Mapping[str, np.ndarray], width: int
) -> Part:
    """An image tower of timm with its head: linear, an MLP, the classifier of timm itself, or none."""
    name, pool = cfg["timm_model_name"], field(where, cfg, "timm_pool", "avg")
    args = field(where, cfg, "timm_model_kwargs", {})
    side = field(where, cfg, "image_size", 224, int | list)
    kind = cfg.get("timm_proj", "linear") or ""
    if not pool and kind in ("none", ""):
        raise WeightError(
            f"{where}: timm_pool '' with timm_proj {shown(cfg['timm_proj'])} gives no vector for a picture; wanted a "
            "pooling, or a projection behind that of the tower"
        )
    part = timm.tower(folder, str(name), args, source, prefix="visual.trunk.", pooling=pool, image_size=side)
    part = placed(part, "visual.trunk.", "vision_model.")
    biased = field(where, cfg, "timm_proj_bias", False)
    if kind == "none":
        return part
    if kind == "linear":
        own = tables.TIMM_LINEAR + (tables.TIMM_LINEAR_BIAS if biased else ())
        return part._replace(rows=part.rows + own, head={"kind": "linear_bias" if biased else "linear"})
    if kind == "mlp":
        zeros = {} if biased else {"visual_projection.out.bias": lambda: np.zeros(width, np.float32)}
        return part._replace(
            rows=part.rows + tables.TIMM_MLP + (tables.TIMM_MLP_BIAS if biased else ()),
            made={**part.made, **zeros},
            head={"kind": "mlp", "hidden": [2 * width]},
        )
    if kind == "":
        place = "fc." if "visual.trunk.head.fc.weight" in source else ""  # The place in a ConvNeXt.
        classifier = under(tables.VISION_BIASED_HEAD, f"visual.trunk.head.{place}", "")
        return part._replace(rows=part.rows + classifier, head={"kind": "linear_bias"})
    raise WeightError(f"{where}: timm_proj {shown(kind)} is not usable; wanted linear, mlp or none")


def _config(folder: Path) -> dict[str, Any]:
    """The model_cfg, in which both towers are objects. Raises WeightError."""
    where, stored = folder / CONFIG, model_folder.read_json(folder / CONFIG)
    cfg = stored.get("model_cfg", stored)
    for name in ("vision_cfg", "text_cfg"):
        if not isinstance(cfg, dict) or not isinstance(cfg.get(name), dict):
            raise WeightError(
                f"{where} has no {name} in its model_cfg, which describes a tower; wanted an object"
            )
    return cfg


def _tensors(folder: Path, allow_pickle: bool) -> model_folder.Tensors:
    """The tensors of the folder. Raises WeightError if there are none, or only a pickle that is not allowed."""
    if (folder / WEIGHTS).is_file():
        file: Any = SafetensorsFile(folder / WEIGHTS)
    elif not (folder / PICKLE).is_file():
        raise WeightError(
            f"{folder} has an {CONFIG} and no weights; wanted {WEIGHTS} or {PICKLE} beside it (a "
            "pickle is downloaded from the Hub only with allow_pickle=True)"
        )
    elif not allow_pickle:
        raise WeightError(
            f"{folder} has its weights only as a pickle ({PICKLE}), a format that can run code, so it is not read "
            "by default; pass allow_pickle=True (--allow-pickle) if you trust it, or convert it to safetensors"
        )
    else:
        file = TorchFile(folder / PICKLE)
    names = model_folder.unwrapped(file.keys())
    tensors = model_folder.Tensors({name: (file, stored) for stored, name in names.items()})
    return inner(folder, tensors, ["logit_scale"])


def _image_processor(folder: Path) -> ImageProcessor:
    from lit_jax.hf.conversions.pictures import square_processor

    where, cfg = str(folder / CONFIG), _config(folder)
    given = field(where, model_folder.read_json(folder / CONFIG), "preprocess_cfg", {})
    side = field(where, cfg["vision_cfg"], "image_size", 224, int | list)
    if isinstance(side, list):
        if len(set(map(str, side))) != 1:
            raise WeightError(f"{where}: image_size {shown(side)} is not implemented; a square is")
        side = side[0]
    return square_processor(
        folder,
        side=side,
        mode=field(where, given, "resize_mode", "shortest"),
        interpolation=field(where, given, "interpolation", "bicubic"),
        mean=field(where, given, "mean", _MEAN),
        std=field(where, given, "std", _STD),
    )


def _tokenizer(folder: Path) -> Tokenizer:
    from lit_jax.hf.conversions import texts

    where, cfg = str(folder / CONFIG), _config(folder)["text_cfg"]
    own, options = cfg.get("hf_tokenizer_name"), field(where, cfg, "tokenizer_kwargs", {})
    cleaning = options.get("clean", "whitespace" if own else "lower")
    if (
        cleaning not in texts.CLEANINGS
        or options.keys() - {"clean", "strip_sep_token"}
        or cfg.get("tokenizer_mode")
    ):
        raise WeightError(
            f"{where}: tokenizer_kwargs {shown(options)} with tokenizer_mode {shown(cfg.get('tokenizer_mode'))} is not "
            f"implemented; a clean of {', '.join(texts.CLEANINGS)} and strip_sep_token are"
        )
    if own and not texts.has_tokenizer(folder):
        raise WeightError(f"{folder} holds no tokenizer; copy the tokenizer files of {shown(own)} into it")
    found = texts.of_folder(folder) if texts.has_tokenizer(folder) else texts.clip_tokenizer(folder)
    own_tower = not (cfg.get("hf_model_name") or cfg.get("embed_cls"))
    # A SigLIP was trained without masks.
    masked = not (own_tower and cfg.get("no_causal_mask") and cfg.get("pool_type") == "last")
    length = field(where, cfg, "context_length", 77)
    # With strip_sep_token, padding takes the place of [SEP], also in a text that is cut.
    template = f"{found.cls_token} $A {found.pad_token}" if options.get("strip_sep_token") else ""
    return texts.finished(folder, found, cleaning=cleaning, length=length, masked=masked, template=template)


FORMAT = Format(
    "a model of open_clip", lambda folder: (folder / CONFIG).is_file(), _read, _image_processor, _tokenizer
)
