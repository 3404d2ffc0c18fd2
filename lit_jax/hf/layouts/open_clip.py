"""A folder that open_clip 3 opens: `open_clip.create_model_and_transforms("local-dir:FOLDER")` gives our vectors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.data.transforms.tokenizer import prompt_of
from lit_jax.hf import model_folder
from lit_jax.hf.formats import safetensors
from lit_jax.hf.layouts import open_clip_images, open_clip_texts
from lit_jax.hf.processor import save_tokenizer
from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import ImageProcessor, Params, Processor

CONFIG, WEIGHTS = model_folder.OPEN_CLIP[:2]
ITSELF = "path/to/this/folder"  # For the tokenizer; a folder's own is used, whatever name is written.
_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers.
_ELSE = "save with layout='lit_jax' (--layout lit_jax), which lit_jax.load reads"


def write(
    folder: Path,
    config: DualEncoderConfig,
    hf: Mapping[str, Any],
    params: Params,
    processor: Processor | None,
    home: Path,
) -> None:
    """Writes the folder, which will be at `home`; `hf` is the config.json of the whole model.

    Raises ConfigError for what it cannot hold.
    """
    if processor is None:
        raise ConfigError("layout 'open_clip' needs the processor of the model; give it to lit_jax.save")
    try:
        if prompt := prompt_of(processor.tokenizer):
            raise ConfigError(f"its text_prompt {shown(prompt)} would not be put before the texts")
        vision = open_clip_images.written(config, params)
        text = open_clip_texts.written(config, params, processor.tokenizer)
        model_cfg = _model_cfg(config, vision, text)
        pictures = _preprocess_cfg(processor.image_processor, config.vision.image_size)
    except ConfigError as error:
        raise ConfigError(f"layout 'open_clip' cannot hold this model: {error}; {_ELSE}") from error
    prefix = "text." if "custom_text" in model_cfg else ""
    theirs = {
        name if name.startswith("text.") else prefix + name: array for name, array in text.tensors.items()
    }
    scalars: dict[str, Any] = {
        name: np.reshape(params[name], ()) for name in ("logit_scale", "logit_bias") if name in params
    }
    tensors: dict[str, Any] = {**vision.tensors, **theirs, **scalars}
    if "logit_bias" in scalars:
        model_cfg["init_logit_bias"] = float(scalars["logit_bias"])
    texts = model_cfg["text_cfg"]
    if config.text_type in open_clip_texts.TRANSFORMERS:
        texts["hf_model_name"] = str(home.resolve())
        own = _tower_config(config, hf["text_config"], processor.tokenizer.pad_token_id)
        _write_json(folder / model_folder.CONFIG, own)
    texts["hf_tokenizer_name"] = ITSELF
    safetensors.write(tensors, folder / WEIGHTS)
    save_tokenizer(folder, processor.tokenizer, alone=True)
    _write_json(folder / CONFIG, {"model_cfg": model_cfg, "preprocess_cfg": pictures})


def published(folder: Path, repo_id: str) -> bytes:
    """The config of such a folder for the repository `repo_id`, which it names as the place of its files."""
    stored = model_folder.read_json(folder / CONFIG)
    texts = dict((stored.get("model_cfg") or {}).get("text_cfg") or {})
    if (folder / model_folder.CONFIG).is_file() and "hf_model_name" in texts:
        texts["hf_model_name"] = repo_id
    if texts.get("hf_tokenizer_name") == ITSELF:
        texts["hf_tokenizer_name"] = repo_id
    named = {**stored, "model_cfg": {**stored.get("model_cfg", {}), "text_cfg": texts}}
    return _json(named).encode()


def _model_cfg(
    config: DualEncoderConfig, vision: open_clip_images.Written, text: open_clip_images.Written
) -> dict[str, Any]:
    """The model_cfg. Raises ConfigError if only one tower computes the quick gelu: there is one setting for both."""
    acts = {act for act in (vision.act, text.act) if act}
    if "quick_gelu" in acts and len(acts) > 1:
        raise ConfigError(
            f"its towers compute {' and '.join(sorted(acts))}, and quick_gelu is said of both towers there"
        )
    return {
        "embed_dim": config.width,
        **({"quick_gelu": True} if "quick_gelu" in acts else {}),
        **({"custom_text": True} if vision.custom or text.custom else {}),
        "vision_cfg": vision.cfg,
        "text_cfg": text.cfg,
    }


def _tower_config(config: DualEncoderConfig, own: Mapping[str, Any], pad: int) -> dict[str, Any]:
    """The config.json of a text tower, from which open_clip takes the encoder and the id of padding."""
    whole = {"is_encoder_decoder": True} if config.text_type in ("mt5", "m2m_100") else {}
    return {**own, **whole, "pad_token_id": pad}


def _preprocess_cfg(processor: ImageProcessor, side: int) -> dict[str, Any]:
    """How pictures become pixels. Raises ConfigError for a way that open_clip does not have."""
    stored = processor.to_dict()
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if not stored.get(name, True):
            raise ConfigError(f"its image processor has {name} False, and open_clip does that always")
    if abs(stored.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ConfigError(
            f"its image processor has rescale_factor {stored['rescale_factor']}, and open_clip 1/255"
        )
    size, crop = (
        {key: value for key, value in dict(stored.get(name) or {}).items() if value}
        for name in ("size", "crop_size")
    )
    square = {"height": side, "width": side}
    if size == {"shortest_edge": side} and stored.get("do_center_crop") and crop == square:
        mode = "shortest"
    elif size == square and not stored.get("do_center_crop"):
        mode = "squash"
    else:
        raise ConfigError(
            f"its image processor resizes to {size}"
            + (f" and crops to {crop}" if stored.get("do_center_crop") else "")
            + f"; open_clip resizes the shorter edge or both to the {side} pixels of the tower, and crops to these"
        )
    if (interpolation := _FILTERS.get(stored.get("resample", 2))) is None:
        raise ConfigError(
            f"its image processor has resample {stored['resample']}; open_clip has 2 and 3, {_FILTERS}"
        )
    mean, std = (np.broadcast_to(stored[f"image_{name}"], 3).tolist() for name in ("mean", "std"))
    return {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": mode}


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(_json(tree), encoding="utf-8")


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=2) + "\n"
