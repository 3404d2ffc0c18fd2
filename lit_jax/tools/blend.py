"""A model between two others: each weight is the mean of theirs, as in WiSE-FT (arXiv:2109.01903).

Between a model and its fine-tuned version, there are often models that keep the robustness of the first and have the
accuracy of the second.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from lit_jax.data.transforms.tokenizer import make_count_tokens, prompt_of
from lit_jax.evals.protocol import differences, preprocessing
from lit_jax.hf import hub, load, save
from lit_jax.hf import processor as processing
from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.tools.export import new_folder
from lit_jax.utils import checksums
from lit_jax.utils.atomic import replaced
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.shown import shown
from lit_jax.utils.typing import Params, Processor

# Fields of a config that change no embedding: what a model is saved as, and where its scalars would start.
_FREE = frozenset({"model_type", "logit_scale_init_value", "logit_bias_init_value"})


def blend(
    first: str | Path,
    second: str | Path,
    output: str | Path,
    *,
    alpha: float,
    layout: str = "hf",
    max_shard_size: int | str = "5GB",
    allow_pickle: bool = False,
) -> Path:
    """Writes the model (1 - `alpha`) `first` + `alpha` `second` into the folder `output`; returns `output`.

    Both are folders or Hub ids of models of one architecture, which read pictures and texts alike; the config and the
    processor are those of `second`, with the length to which it cuts texts. `layout` is as in `lit_jax.save`. The
    folder has weights, configs, processor and SHA256SUMS. Raises ConfigError for an `alpha` outside 0 to 1 and an
    `output` that exists and is not empty; WeightError for two different models, and as `lit_jax.load` and `save`.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; wanted 0 (all of the first model) to 1 (all of the second)")
    output = new_folder(output)
    folders = [hub.find(model, allow_pickle=allow_pickle) for model in (first, second)]
    a, b = (load.read_dual(folder, load.Compute(), allow_pickle=allow_pickle) for folder in folders)
    reads = [processing.load_processor(folder) for folder in folders]
    found = [
        *differences(_architecture(a.module.config), _architecture(b.module.config)),
        *differences(_shapes(a.params), _shapes(b.params)),
        *differences(_reading(reads[0]), _reading(reads[1])),
    ]
    if found:
        name, left, right = found[0]
        more = f" and {len(found) - 1} more fields" if len(found) > 1 else ""
        raise WeightError(
            f"{first} and {second} are not two models of one architecture that read alike: they differ in {name} "
            f"({_short(left)}, {_short(right)}){more}; a blend is of a model and what became of it by training"
        )
    params = blended(a.params, b.params, alpha)
    with replaced(output) as draft:
        save.save(draft, b.module, params, reads[1], layout=layout, max_shard_size=max_shard_size)
        checksums.write(draft)
    return output


def blended(first: Params, second: Params, alpha: float) -> Params:
    """(1 - alpha) first + alpha second, summed in float64 and rounded to float32; 0 and 1 give one of them as it is."""
    left, right = (traverse_util.flatten_dict(params, sep="/") for params in (first, second))

    def mean(a: Any, b: Any) -> np.ndarray:
        if alpha in (0, 1):  # A product with 0 would lose the sign of a zero.
            return np.asarray(b if alpha else a, np.float32)
        return np.asarray(
            (1 - alpha) * np.asarray(a, np.float64) + alpha * np.asarray(b, np.float64), np.float32
        )

    return traverse_util.unflatten_dict({path: mean(left[path], right[path]) for path in right}, sep="/")


def _architecture(config: DualEncoderConfig) -> dict[str, Any]:
    """What two configs must have in common; dropout does not matter in a finished model."""
    fields = traverse_util.flatten_dict(dataclasses.asdict(config), sep=".")
    return {name: value for name, value in fields.items() if name not in _FREE and "drop" not in name}


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {path: np.shape(leaf) for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def _reading(processor: Processor) -> Mapping[str, Any]:
    """How a model reads pictures and texts, except for the length to which it cuts texts."""
    tokenizer = processor.tokenizer
    words = make_count_tokens(tokenizer, tokenizer.model_max_length).fast.to_str()
    return {
        "image_processor": preprocessing(processor.image_processor),
        "text_prompt": prompt_of(tokenizer),
        "tokenizer": json.loads(words),
    }


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return shown(text if len(text) <= 40 else f"{text[:37]}...")
