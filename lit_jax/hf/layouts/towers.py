"""Two towers as two models of transformers, and a third folder with the heads, which belong to neither."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_jax.hf import model_folder
from lit_jax.hf.processor import save_tokenizer
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoderConfig, encoder_of
from lit_jax.models.layers.pooling import POOLER
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Params, Processor, Tokenizer

HEADS = "heads"
# Text type -> the class of tokenizer that transformers 5 makes for a folder of the type, whatever its files say.
_TOKENIZERS = {"qwen2": "Qwen2Tokenizer"}
PLACES = {tower: tower for tower in TOWERS}  # Tower -> its folder.


def write(
    folder: Path,
    config: DualEncoderConfig,
    hf: dict[str, Any],
    params: Params,
    processor: Processor | None,
    max_shard_size: int | str,
    places: Mapping[str, str] = PLACES,
) -> None:
    """Writes the towers into `places` and the heads into HEADS; `hf` is the config.json of the whole model.

    Raises ConfigError for a tokenizer that transformers would read as another one.
    """
    if processor is not None:
        _check_tokenizer(config.text_type, processor.tokenizer)
    heads = config.heads
    rest = {name: value for name, value in params.items() if name not in TOWERS}
    for tower, (model_type, tower_config) in config.towers.items():
        encoder, tower_params = encoder_of(tower, model_type), dict(params[tower])
        table = encoder.weights(tower_config)
        # Types with a `pooling` have a pooler of ours, for which AutoModel has no place.
        if hasattr(tower_config, "pooling") and "pooler" in tower_params:
            heads += POOLER.under(hf=f"{tower}_pooler", jax=f"{tower}")
            rest[tower] = {"pooler": tower_params.pop("pooler")}
            table = table.without("pooler/")
        own = {key: value for key, value in hf[f"{tower}_config"].items() if key != "pooling"}
        tensors = {**table.to_hf(tower_params), **encoder.buffers(tower_config, params[tower])}
        model_folder.write(folder / places[tower], own, tensors, max_shard_size=max_shard_size)
    model_folder.write(folder / HEADS, {**hf, "model_type": dual_encoder.OWN_MODEL_TYPE}, heads.to_hf(rest))
    if processor is not None:
        processor.image_processor.save_pretrained(folder / places["vision"])
        save_tokenizer(folder / places["text"], processor.tokenizer, alone=True)


def _check_tokenizer(text_type: str, tokenizer: Tokenizer) -> None:
    found, read = type(tokenizer).__name__, _TOKENIZERS.get(text_type)
    if read is not None and found.removesuffix("Fast") != read:
        raise ConfigError(
            f"the tokenizer is a {found}, and transformers reads that of a {text_type} as a {read}, with other tokens; "
            "save with layout='lit_jax' (--layout lit_jax), which lit_jax.load reads"
        )
