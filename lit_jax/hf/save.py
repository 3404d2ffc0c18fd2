"""A model -> a folder: for transformers, for lit_jax alone, or tower by tower."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from lit_jax.hf import model_folder
from lit_jax.hf.processor import save_processor
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, encoder_of
from lit_jax.models.layers.pooling import POOLER
from lit_jax.utils.atomic import replaced
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Params, Processor

LAYOUTS = ("hf", "lit_jax", "towers")


def save(
    folder: str | Path,
    module: DualEncoder,
    params: Params,
    processor: Processor | None = None,
    *,
    layout: str = "hf",
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes a folder with the model, and with `processor` if given; a kill leaves the old folder or the new one.

    Layout "hf" is the VisionTextDualEncoderModel that transformers 4.57 and 5 load; "lit_jax" is the same for towers
    that this class cannot hold, and only `load` reads it; "towers" are two folders, `vision` and `text`, that AutoModel
    loads, and a third one, `heads`, with the projections. The `logit_bias` of a sigmoid loss has no tensor there; it
    becomes a field of config.json. Raises WeightError if params are not of the module's shapes, and if the layout is
    "hf" and transformers has no place for a tower; ConfigError for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout is {layout!r}; wanted one of {', '.join(LAYOUTS)}")
    folder, params = Path(folder), dict(params)
    config = module.config.to_hf()
    if layout == "hf":
        check_exportable(module.config)
    elif layout == "lit_jax":
        config["model_type"] = dual_encoder.OWN_MODEL_TYPE
        config.pop("architectures", None)
    if "logit_bias" in params:
        config["logit_bias"] = float(params.pop("logit_bias"))
    _check_shapes(module, params)
    with replaced(folder, model_folder.WRITTEN) as draft:
        if layout == "towers":
            _save_towers(draft, module.config, config, params, processor, max_shard_size)
            return
        tensors = dual_encoder.weights(module.config).to_hf(params)
        model_folder.write(draft, config, tensors, max_shard_size=max_shard_size)
        if processor is not None:
            save_processor(draft, processor)


def check_exportable(config: DualEncoderConfig) -> None:
    """Raises WeightError for a tower, a pooling or a head that transformers' VisionTextDualEncoderModel cannot hold."""
    for name, value in config.own.items():
        kind = repr(value) if isinstance(value, str) else " ".join(map(str, value.values()))
        raise WeightError(
            f"{name}={kind} has no place in transformers' VisionTextDualEncoderModel, which projects the pooled output "
            "of a tower without a bias; save with layout='lit_jax' (--layout lit_jax), which lit_jax.load reads"
        )
    for tower, model_type in (("vision", config.vision_type), ("text", config.text_type)):
        if not encoder_of(tower, model_type).exportable:
            raise WeightError(
                f"a {tower} tower of type {model_type!r} has no place in transformers' VisionTextDualEncoderModel, "
                "which needs a pooled output from AutoModel; save with layout='lit_jax' (--layout lit_jax), which "
                "lit_jax.load reads, or with layout='towers', two folders that AutoModel reads"
            )


def _check_shapes(module: DualEncoder, params: Params) -> None:
    """Raises WeightError for a param of another shape than the module's. The weight tables check the names."""
    shapes = traverse_util.flatten_dict(dual_encoder.param_shapes(module), sep="/")
    for path, param in traverse_util.flatten_dict(params, sep="/").items():
        if path in shapes and np.shape(param) != shapes[path].shape:
            raise WeightError(
                f"param {path} has shape {np.shape(param)} where the module wants {shapes[path].shape}; "
                "the params are of another model"
            )


def _save_towers(
    folder: Path,
    config: DualEncoderConfig,
    hf: dict[str, Any],
    params: Params,
    processor: Processor | None,
    max_shard_size: int | str,
) -> None:
    heads = dual_encoder.head_weights(config)
    rest = {name: value for name, value in params.items() if name not in TOWERS}
    towers = {"vision": (config.vision_type, config.vision), "text": (config.text_type, config.text)}
    for tower, (model_type, tower_config) in towers.items():
        encoder, tower_params = encoder_of(tower, model_type), dict(params[tower])
        table = encoder.weights(tower_config)
        if not encoder.exportable and "pooler" in tower_params:  # It is ours: AutoModel has no place for it.
            heads += POOLER.under(hf=f"{tower}_pooler", jax=f"{tower}")
            rest[tower] = {"pooler": tower_params.pop("pooler")}
            table = table.without("pooler/")
        own = {key: value for key, value in hf[f"{tower}_config"].items() if key != "pooling"}
        model_folder.write(folder / tower, own, table.to_hf(tower_params), max_shard_size=max_shard_size)
    model_folder.write(folder / "heads", {**hf, "model_type": dual_encoder.OWN_MODEL_TYPE}, heads.to_hf(rest))
    if processor is not None:
        processor.image_processor.save_pretrained(folder / "vision")
        processor.tokenizer.save_pretrained(folder / "text")
