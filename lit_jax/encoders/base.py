"""What every architecture file gives, and the one reader of Hugging Face configs."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lit_jax.errors import WeightError
from lit_jax.layers import ACTIVATIONS
from lit_jax.typing import Params
from lit_jax.weights import WeightMap

LARGEST = 10_000_000  # No size in a real config is larger; 1e9 layers are a damaged or hostile file.
DEEPEST = 1_000


class EncoderOutput(NamedTuple):
    """What a tower gives; the names are those of transformers' BaseModelOutputWithPooling."""

    last_hidden_state: Float[Array, "B N D"]
    pooler_output: Float[Array, "B D"]
    hidden_states: Float[Array, "L1 B N D"] | None  # The embeddings, then every layer's output.
    attentions: Float[Array, "L B H N N"] | None


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One architecture: its parts, and how its checkpoints in the wild differ from the table."""

    tower: Literal["vision", "text"]
    Config: Any  # A frozen dataclass with from_hf and to_hf.
    Model: Any  # A Linen module of (config, compute).
    weights: Callable[[Any], WeightMap]
    prefix: str  # What a task model's checkpoint puts before each name ("vit.").
    dropped: str  # Regex of names that no dual encoder uses: task heads and buffers.
    renames: tuple[tuple[str, str], ...] = ()  # Other spellings -> names on disk; regexes.
    fresh: str = r"(?!)"  # Regex of param paths that a checkpoint may lack: initialised anew, and tuned.
    # Config -> (config, weights) whose pooled output is the raw CLS token; for most it is that anyway.
    raw_cls: Callable[[Any], tuple[Any, Params]] = lambda config: (config, {})


def with_embeddings(embedded: Array, states: Array | None) -> Array | None:
    """[B N D] and the layers' [L B N D] -> hidden states as Hugging Face counts them, [L+1 B N D]."""
    return None if states is None else jnp.concatenate([embedded[None], states])


def canonical(names: Iterable[str], encoder: Encoder) -> dict[str, str]:
    """Names in a checkpoint -> names in the table, for all that is not dropped."""
    names = list(names)
    if any(name.startswith(encoder.prefix) for name in names):
        stripped = {
            name: name.removeprefix(encoder.prefix) for name in names if name.startswith(encoder.prefix)
        }
        left = {name: name for name in names if not name.startswith(encoder.prefix)}
        found = stripped | left
    else:
        found = {name: name for name in names}
    for pattern, replacement in encoder.renames:
        found = {name: re.sub(pattern, replacement, new) for name, new in found.items()}
    return {name: new for name, new in found.items() if not re.fullmatch(encoder.dropped, new)}


# Fields of transformers' PreTrainedConfig that name, count or report, but never change an encoder's numbers.
_INERT = frozenset(
    """architectures model_type dtype torch_dtype transformers_version _name_or_path id2label label2id num_labels
    problem_type output_hidden_states output_attentions return_dict use_cache tie_word_embeddings
    chunk_size_feed_forward bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id
    classifier_dropout""".split()
)


def read_config(
    cls: type,
    model_type: str,
    hf: Mapping[str, Any],
    *,
    inert: frozenset[str] = frozenset(),
    fixed: Mapping[str, tuple] = types.MappingProxyType({}),
) -> Any:
    """A dict as in config.json -> `cls`, whose field names are HF's and whose defaults are that type's.

    `inert` fields do not change the numbers; `fixed` ones are accepted with the given values only. A name that
    transformers does not know is ignored there, hence here too; one that it knows and we do not is refused.
    Raises WeightError naming the field.
    """
    fixed = {"is_encoder_decoder": (False,), **fixed}
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    values = {}
    for name, value in hf.items():
        if name in fields:
            if value is not None:
                values[name] = _checked(model_type, name, value, fields[name])
        elif name in fixed:
            if value not in fixed[name]:
                wanted = " or ".join(map(repr, fixed[name]))
                raise WeightError(f"{model_type} config: {name}={value!r} is not implemented; {wanted} is")
        elif name not in _INERT | inert and _transformers_differs(model_type, name, value):
            raise WeightError(f"{model_type} config: {name}={value!r} is not implemented")
    return cls(**values)


def _checked(model_type: str, name: str, value: Any, kind: type) -> Any:
    if isinstance(value, list | tuple) and kind is int and len(set(value)) == 1:
        value = value[0]  # A square image or patch, written as a pair.
    good = {
        bool: isinstance(value, bool),
        int: isinstance(value, int)
        and not isinstance(value, bool)
        and (value > 0 or (value == 0 and name.endswith("_id")))
        and value <= (DEEPEST if name.endswith("layers") else LARGEST),
        float: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
        str: isinstance(value, str) and (not name.endswith("act") or value in ACTIVATIONS),
    }[kind]
    if not good:
        wanted = "one of " + ", ".join(ACTIVATIONS) if name.endswith("act") else f"a sensible {kind.__name__}"
        raise WeightError(f"{model_type} config: {name}={value!r} is not usable; wanted {wanted}")
    return kind(value)


def _transformers_differs(model_type: str, name: str, value: Any) -> bool:
    from lit_jax._transformers import transformers

    defaults = transformers.AutoConfig.for_model(model_type).to_dict()
    return name in defaults and defaults[name] != value


def identity_pooler(width: int) -> Params:
    """A dense pooler that hands the CLS token through unchanged, given a linear activation."""
    return {"pooler": {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}}
