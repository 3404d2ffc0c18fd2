"""A folder that SentenceTransformer(FOLDER) opens: pictures and texts -> our unit vectors, with only PyTorch.

A model of two free towers becomes a Router (sentence-transformers 5.7 or newer) with two routes, `text` and `image`:
a Transformer, a Pooling unless transformers' class pools, Dense layers, Normalize. A CLIP or SigLIP stays one model of
transformers, which has both modalities. The folder `heads`, as in the layout "towers", has what else lit_jax reads: the
config, the heads as they are, the temperature and the bias.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_jax.data.transforms.image_processor import size_of
from lit_jax.data.transforms.tokenizer import makes_mask, prompt_of
from lit_jax.hf import model_folder
from lit_jax.hf.conversions import dense_layers
from lit_jax.hf.conversions.dense_layers import OUTPUT, Layer
from lit_jax.hf.conversions.sentence_modules import MODULES, POOLINGS, ROUTER, ROUTES, SETTINGS, TRANSFORMER
from lit_jax.hf.formats import safetensors
from lit_jax.hf.layouts import towers
from lit_jax.hf.processor import save_processor
from lit_jax.hf.text_length import PADDED, default_length
from lit_jax.models import dual_encoder, heads
from lit_jax.models.dual_encoder import DualEncoderConfig, encoder_of
from lit_jax.models.encoders import bart
from lit_jax.models.encoders.base import first_patch
from lit_jax.models.heads import Head
from lit_jax.models.layers.pooling import POOLER
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import grid
from lit_jax.utils.typing import Params, Processor

CLASSES = "sentence_transformers.sentence_transformer.modules"
PLACES = {tower: f"{route}_0_Transformer" for tower, route in ROUTES.items()}
# AutoModel, and the classes that sentence-transformers uses instead for some types; a BART's decoder would also run.
_ENCODERS = ("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel", bart.M2M_100.reader, bart.MARIAN.reader)
_READERS = ("AutoModel", *_ENCODERS)
# Types whose last hidden state is not a list of tokens in transformers, or is not returned.
_GRIDS = ("convnext", "convnextv2", "resnet", "bit", "dpr")
_PILLOW = {"backend": "pil"}  # Reads pictures as lit_jax does, even if torchvision is installed.
_NORMALIZE = Layer("Normalize", {"module_input_name": OUTPUT, "module_output_name": OUTPUT}, {})
_ELSE = "save with layout='lit_jax' (--layout lit_jax), which lit_jax.load reads"


def write(
    folder: Path,
    config: DualEncoderConfig,
    hf: dict[str, Any],
    params: Params,
    processor: Processor | None,
    max_shard_size: int | str,
) -> None:
    """Writes the folder; `hf` is the config.json of the whole model. Raises ConfigError for what it cannot hold."""
    if processor is None:
        raise ConfigError(
            "layout 'sentence_transformers' needs the processor of the model; give it to lit_jax.save"
        )
    prompt = prompt_of(processor.tokenizer)
    settings = {
        "similarity_fn_name": "cosine",
        "prompts": dict.fromkeys(("query", "document"), prompt) if prompt else {},
        "default_prompt_name": "query" if prompt else None,
    }
    reading = {"text": _text_settings(config, processor.tokenizer), "image": {"processor_kwargs": _PILLOW}}
    if config.composite.any_tower:
        patches = math.prod(grid(size_of(processor.image_processor), config.vision.patch_size))
        routes = {route: _route(tower, config, params, patches) for tower, route in ROUTES.items()}
        towers.write(folder, config, hf, params, processor, max_shard_size, PLACES)
        _write_router(folder, routes, reading)
        # Any other program that writes the folder leaves this out.
        settings["lit_jax"] = {"heads": towers.HEADS}
    else:
        model_folder.write(folder, hf, dual_encoder.tensors(config, params), max_shard_size=max_shard_size)
        save_processor(folder, processor)
        both = {route: f"get_{route}_features" for route in ROUTES.values()}
        _write_json(
            folder / TRANSFORMER, _transformer(both, "pooler_output") | reading["text"] | reading["image"]
        )
        _write_layer(folder / "1_Normalize", _NORMALIZE)
        _write_json(folder / MODULES, [_module(0, "Transformer", ""), _module(1, "Normalize", "1_Normalize")])
    _write_json(folder / SETTINGS, settings)


def _write_router(folder: Path, routes: Mapping[str, list[Layer]], reading: Mapping[str, Any]) -> None:
    """Writes the modules of every route behind its tower, which already exists, and the files that name them."""
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for tower, route in ROUTES.items():
        found = routes[route]
        output = "last_hidden_state" if found[0].kind == "Pooling" else "pooler_output"
        _write_json(
            folder / PLACES[tower] / TRANSFORMER, _transformer({route: "forward"}, output) | reading[route]
        )
        structure[route] = [PLACES[tower]]
        for i, layer in enumerate(found, 1):
            structure[route].append(f"{route}_{i}_{layer.kind}")
            _write_layer(folder / structure[route][-1], layer)
        types |= {name: f"{CLASSES}.{name.rpartition('_')[2]}" for name in structure[route]}
    parameters = {
        "default_route": "text",
        "allow_empty_key": True,
        "route_mappings": {str((None, route)): route for route in structure},
    }
    _write_json(folder / ROUTER, {"types": types, "structure": structure, "parameters": parameters})
    _write_json(folder / MODULES, [_module(0, "Router", "")])
    modalities = _transformer(dict.fromkeys(structure, "forward"), "pooler_output")
    # Only mteb reads it here: it looks for the modalities.
    _write_json(folder / TRANSFORMER, modalities)


def _route(tower: str, config: DualEncoderConfig, params: Params, patches: int) -> list[Layer]:
    """The layers behind a tower: its pooling, its head and Normalize. Raises ConfigError for what no module does.

    `patches` is the number of patches in a picture.
    """
    head, name = getattr(config, f"{tower}_head"), heads.NAMES[tower]
    if config.projection_dim is None or name not in params:
        own, head = {}, Head("identity")
    else:
        own = heads.weights(head, tower).to_hf({name: params[name]})
    try:
        return [
            *_pooled(tower, config, params[tower], patches),
            *dense_layers.layers(head, {key.removeprefix(f"{name}."): array for key, array in own.items()}),
            _NORMALIZE,
        ]
    except ConfigError as error:
        raise ConfigError(
            f"layout 'sentence_transformers' cannot hold this model: {error}; {_ELSE}"
        ) from error


def _pooled(tower: str, config: DualEncoderConfig, params: Params, patches: int) -> list[Layer]:
    """The layers from a tower's last hidden state to its pooled output; none if transformers' class returns that."""
    model_type, own = config.towers[tower]
    encoder, how = encoder_of(tower, model_type), getattr(config, f"{tower}_pooling")
    if encoder.reader not in _READERS:
        raise ConfigError(
            f"its {tower} tower of type {model_type!r} is no model of AutoModel for pixels or tokens alone, with "
            "which a Transformer reads it"
        )
    if how == "pooler" and (encoder.exportable or encoder.pooled_by_reader):
        return []
    further: list[Layer] = []
    if how == "pooler":
        how = getattr(own, "pooling", encoder.pooling)
    if how == "tanh":
        tensors = POOLER.bind(depth=0).to_hf({"pooler": params["pooler"]})
        further = [dense_layers.dense(tensors["pooler.dense.weight"], tensors["pooler.dense.bias"], "tanh")]
        how = "cls"
    width = own.hidden_size
    prefix = first_patch(own) if tower == "vision" else 0
    if prefix and how in ("mean", "cls_mean", "max"):
        if prefix > 1 or how == "max":
            raise ConfigError(
                f"vision_pooling={how!r} leaves out the tokens before the patches, {prefix} of them, and Pooling none"
            )
        further, how = [dense_layers.of_patches(how, width, patches)], "cls_mean"
    if how not in POOLINGS or model_type in _GRIDS:
        raise ConfigError(
            f"its {tower} tower of type {model_type!r} pools by {how!r}, which no module of sentence-transformers does"
        )
    modes = POOLINGS[how]
    return [
        Layer("Pooling", {"embedding_dimension": width, "pooling_mode": modes, "include_prompt": True}, {}),
        *further,
    ]


def _text_settings(config: DualEncoderConfig, tokenizer: Any) -> dict[str, Any]:
    """How texts are cut and padded, if the tokenizer does not say so."""
    longest = default_length(config.text, tokenizer)
    padded = config.text_type in PADDED or not makes_mask(tokenizer)
    if not padded and tokenizer.model_max_length <= longest:
        return {}
    return {
        "processing_kwargs": {"text": {"max_length": longest} | ({"padding": "max_length"} if padded else {})}
    }


def _transformer(methods: Mapping[str, str], output: str) -> dict[str, Any]:
    """The settings of a Transformer: modality -> the method of its model, and which of its outputs is used."""
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {
            modality: {"method": method, "method_output_name": output} for modality, method in methods.items()
        },
        "module_output_name": OUTPUT if output == "pooler_output" else "token_embeddings",
    }


def _module(idx: int, kind: str, path: str) -> dict[str, Any]:
    return {"idx": idx, "name": str(idx), "path": path, "type": f"{CLASSES}.{kind}"}


def _write_layer(folder: Path, layer: Layer) -> None:
    folder.mkdir()
    _write_json(folder / model_folder.CONFIG, layer.config)
    if layer.tensors:
        safetensors.write(layer.tensors, folder / model_folder.WEIGHTS, {"format": "pt"})


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
