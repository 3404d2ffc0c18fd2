"""Writes a model into a folder: for transformers, for other libraries, for lit_jax only, or tower by tower."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lit_jax.hf import model_folder
from lit_jax.hf.layouts import open_clip, sentence_transformers, towers
from lit_jax.hf.processor import save_processor
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, encoder_of
from lit_jax.utils.arguments import check_depth
from lit_jax.utils.atomic import replaced
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.local_folder import check_writable, local_folder
from lit_jax.utils.typing import Params, Processor

_WAY = "save with layout='lit_jax' (--layout lit_jax), which lit_jax.load reads"
LAYOUTS = ("hf", "dual_encoder", "lit_jax", "towers", "sentence_transformers", "open_clip")


def save(
    folder: str | Path,
    module: DualEncoder,
    params: Params,
    processor: Processor | None = None,
    *,
    layout: str = "hf",
    max_shard_size: int | str = "5GB",
    home: str | Path | None = None,
) -> None:
    """Writes a folder with the model, and with `processor` if given; a kill leaves the old folder or the new one.

    Layout "hf" is the class of transformers that the model was read from (a CLIPModel, a SiglipModel ...), else the
    VisionTextDualEncoderModel that transformers 4.57 and 5 load; "dual_encoder" is always the latter; "lit_jax" is the
    same for towers that this class cannot hold, and only `load` reads it; "towers" are two folders, `vision` and
    `text`, that AutoModel loads, and a third one, `heads`, with the projections; "sentence_transformers" is what
    SentenceTransformer opens, and needs the processor; so does "open_clip", in one file of weights. A text tower that
    open_clip takes from transformers is named there by the place of the folder, which is `home` if it is not yet there.
    The `logit_bias` of a sigmoid loss is a tensor only in SigLIP and for open_clip;
    elsewhere it becomes a field of config.json. Raises WeightError if params are not of the module's shapes, and if
    transformers has no place for a tower in its dual encoder, or no class for it alone; ConfigError for an unknown
    layout, and for what sentence-transformers or open_clip cannot hold.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout is {layout!r}; wanted one of {', '.join(LAYOUTS)}")
    folder = local_folder(folder, "the folder")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} exists and is not a folder; choose another place")
    check_writable(folder, f"the folder {folder}")
    _check_types(module, params, processor)
    params = dict(params)
    _check_shapes(module, params)
    model = module.config
    if layout not in ("hf", "sentence_transformers"):
        model = dataclasses.replace(model, model_type=dual_encoder.MODEL_TYPE)
    config = model.to_hf() | {"torch_dtype": _dtype_of(params)}
    if layout in ("hf", "dual_encoder"):
        check_exportable(model)
    elif layout == "towers":
        check_readers(model)
    elif layout == "lit_jax":
        config["model_type"] = dual_encoder.OWN_MODEL_TYPE
        config.pop("architectures", None)
    bias = {}
    if "logit_bias" in params and not model.composite.sigmoid:
        bias = {"logit_bias": params.pop("logit_bias")}
        config["logit_bias"] = float(bias["logit_bias"])
    with replaced(folder, model_folder.WRITTEN) as draft:
        if layout == "towers":
            towers.write(draft, model, config, params, processor, max_shard_size)
            return
        if layout == "sentence_transformers":
            sentence_transformers.write(draft, model, config, params, processor, max_shard_size)
            return
        if layout == "open_clip":
            open_clip.write(draft, model, config, {**params, **bias}, processor, Path(home or folder))
            return
        tensors = dual_encoder.tensors(model, params)
        model_folder.write(draft, config, tensors, max_shard_size=max_shard_size)
        if processor is not None:
            save_processor(draft, processor)


def _dtype_of(params: Params) -> str:
    """The dtype of the params; if there are several, the one that holds them all."""
    return jnp.dtype(functools.reduce(jnp.promote_types, (x.dtype for x in jax.tree.leaves(params)))).name


def check_readers(config: DualEncoderConfig) -> None:
    """Raises WeightError for a tower of a type that transformers has no class for."""
    for tower, reader in config.readers.items():
        if not reader:
            raise WeightError(
                f"a {tower} tower of type {config.towers[tower][0]!r} has no class in transformers, by which it could "
                f"be read; {_WAY}"
            )


def check_exportable(config: DualEncoderConfig) -> None:
    """Raises WeightError for a model that transformers' VisionTextDualEncoderModel cannot hold, if it becomes one."""
    for name, value in config.own.items():
        kind = repr(value) if isinstance(value, str) else " ".join(map(str, value.values()))
        raise WeightError(
            f"{name}={kind} has no place in transformers' VisionTextDualEncoderModel, which projects the pooled output "
            f"of a tower without a bias; {_WAY}"
        )
    if not config.composite.any_tower:
        return
    readers, ways = " and ".join(dict.fromkeys(config.readers.values())), _WAY
    if all(config.readers.values()):
        ways += (
            f", or with layout='towers' (--layout towers), two folders that {readers} of transformers read"
        )
    for tower, (model_type, _) in config.towers.items():
        if not encoder_of(tower, model_type).exportable:
            raise WeightError(
                f"a {tower} tower of type {model_type!r} has no place in transformers' "
                f"VisionTextDualEncoderModel, which needs a pooled output from AutoModel; {ways}"
            )
    if config.projection_dim is None:
        raise WeightError(
            f"a model without projections has no place in transformers' VisionTextDualEncoderModel; {ways}"
        )


def _check_types(module: DualEncoder, params: Params, processor: Processor | None) -> None:
    """Raises ConfigError for anything but a module, a tree of arrays and a processor."""
    if not isinstance(module, DualEncoder):
        raise ConfigError(
            f"the module is of type {type(module).__name__}; want the first of the two that lit_jax.load returns"
        )
    check_depth(params, "the tree of params")
    leaves = jax.tree.leaves(params) if isinstance(params, Mapping) else []
    if not leaves or not all(hasattr(leaf, "dtype") for leaf in leaves):
        raise ConfigError(
            f"the params are of type {type(params).__name__} and no tree of arrays; want the second of the two that "
            "lit_jax.load returns"
        )
    if processor is not None and not isinstance(processor, Processor):
        raise ConfigError(
            f"the processor is of type {type(processor).__name__}; want one with an image processor and a tokenizer, "
            "such as lit_jax.VisionTextDualEncoderProcessor"
        )


def _check_shapes(module: DualEncoder, params: Params) -> None:
    """Raises WeightError for a param whose shape is not the module's. The weight tables check the names."""
    shapes = traverse_util.flatten_dict(dual_encoder.param_shapes(module), sep="/")
    for path, param in traverse_util.flatten_dict(params, sep="/").items():
        if path in shapes and np.shape(param) != shapes[path].shape:
            raise WeightError(
                f"param {path} has shape {np.shape(param)} where the module wants {shapes[path].shape}; "
                "the params are of another model"
            )
