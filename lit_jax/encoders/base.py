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

from lit_jax.errors import ConfigError, WeightError, first_line
from lit_jax.layers import ACTIVATIONS
from lit_jax.typing import Params
from lit_jax.weights import WeightMap

LARGEST = 10_000_000  # No size in a real config is larger; 1e9 layers are a damaged or hostile file.
DEEPEST = 1_000
ZERO = ("num_register_tokens", "type_vocab_size")  # Counts that may be zero.


class EncoderOutput(NamedTuple):
    """What a tower gives; the names are those of transformers' BaseModelOutputWithPooling."""

    last_hidden_state: Float[Array, "B N D"]
    pooler_output: Float[Array, "B D"]
    # The embeddings, then every layer's output; as tuples where the layers differ in shape (Swin).
    hidden_states: Float[Array, "L1 B N D"] | tuple[Array, ...] | None
    attentions: Float[Array, "L B H N N"] | tuple[Array, ...] | None


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One architecture: its parts, and how its checkpoints in the wild differ from the table."""

    tower: Literal["vision", "text"]
    Config: Any  # A frozen dataclass whose field names are HF's, with from_hf.
    Model: Any  # A Linen module of (config, compute).
    weights: Callable[[Any], WeightMap]
    pooling: str  # What the pooled output is, in a few words.
    prefix: str  # What a task model's checkpoint puts before each name ("vit.").
    dropped: str  # Regex of names that no dual encoder uses: task heads and buffers.
    nest: str = ""  # What transformers 4 puts before every name, where 5 puts nothing ("vision_model.").
    # The versions of transformers whose VisionTextDualEncoderModel can hold it.
    exportable: tuple[str, ...] = ("4.57", "5")
    # Largest difference to PyTorch, of max(1, largest value), that tests/parity allow at every layer; None: unproven.
    parity: float | None = 1e-5
    renames: tuple[tuple[str, str], ...] = ()  # Other spellings -> names on disk; regexes.
    # Rows of which transformers 5 makes other tensors in memory, by which they can be read as well.
    also: Callable[[Any], WeightMap] = lambda config: WeightMap()
    fresh: str = r"(?!)"  # Regex of param paths that a checkpoint may lack: initialised anew, and tuned.
    # Other poolings than the type's own: name -> config -> (config, weights) that pool so.
    poolings: Mapping[str, Callable[[Any], tuple[Any, Params]]] = dataclasses.field(default_factory=dict)

    def config_of(self, hf: Mapping[str, Any]) -> Any:
        """`Config.from_hf`, whatever a stranger wrote there. Raises WeightError, and nothing else."""
        try:
            return self.Config.from_hf(hf)
        except WeightError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            reason = shown(first_line(error))
            raise WeightError(
                f"the config of a {shown(hf.get('model_type'))} is not usable: {reason}"
            ) from error

    @property
    def pooling_names(self) -> list[str]:
        """What `pooled` accepts; "pooler" is the type's own."""
        return ["pooler", *self.poolings]

    def pooled(self, config: Any, pooling: str) -> tuple[Any, Params]:
        """A config with another pooling, and the weights that this fixes. Raises ConfigError."""
        if pooling not in self.pooling_names:
            raise ConfigError(
                f"{self.tower}_pooling is {pooling!r}; wanted one of {', '.join(self.pooling_names)}"
            )
        return (config, {}) if pooling == "pooler" else self.poolings[pooling](config)


def with_embeddings(embedded: Array, states: Array | None) -> Array | None:
    """[B N D] and the layers' [L B N D] -> hidden states as Hugging Face counts them, [L+1 B N D]."""
    return None if states is None else jnp.concatenate([embedded[None], states])


def drop_path_rates(largest: float, depth: int) -> Float[Array, "L"]:
    """Stochastic depth's rates: from zero in the first layer to `largest` in the last."""
    return jnp.linspace(0.0, largest, depth)


def matched(names: Iterable[str], encoder: Encoder, config: Any) -> tuple[WeightMap, dict[str, str]]:
    """How a tower's checkpoint is read: the table, and its names for the checkpoint's, for all that is not dropped."""
    found = {name: name.removeprefix(encoder.prefix) for name in names}
    for pattern, replacement in encoder.renames:
        found = {name: re.sub(pattern, replacement, new) for name, new in found.items()}
    table = encoder.weights(config).spelled(encoder.also(config), set(found.values()))
    wanted = table.names()
    kept = {
        name: encoder.nest + new
        for name, new in found.items()
        if encoder.nest + new in wanted or not re.fullmatch(encoder.dropped, new)
    }
    return table, kept


# Fields of transformers' PreTrainedConfig that name, count or report, but never change an encoder's numbers.
_INERT = frozenset(
    """architectures model_type dtype torch_dtype transformers_version _name_or_path id2label label2id num_labels
    problem_type output_hidden_states output_attentions return_dict use_cache tie_word_embeddings
    chunk_size_feed_forward bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id
    classifier_dropout""".split()
)
# Fields of the backbone that some vision types also have, which no dual encoder uses.
BACKBONE = frozenset(
    """apply_layernorm reshape_hidden_states stage_names out_features out_indices _out_features
    _out_indices""".split()
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
            optional = type(None) in typing.get_args(fields[name])
            if value is not None or optional:
                values[name] = _checked(model_type, name, value, fields[name])
        elif name in fixed:
            if value not in fixed[name]:
                wanted = " or ".join(map(repr, fixed[name]))
                raise WeightError(
                    f"{model_type} config: {name}={shown(value)} is not implemented; {wanted} is"
                )
        elif name not in _INERT | inert and _transformers_differs(model_type, name, value):
            raise WeightError(f"{model_type} config: {name}={shown(value)} is not implemented")
    config = cls(**values)
    for width, heads in (("hidden_size", "num_attention_heads"), ("dim", "n_heads")):
        if (w := getattr(config, width, None)) and (h := getattr(config, heads, None)) and w % h:
            raise WeightError(
                f"{model_type} config: {width}={w} does not divide into {heads}={h} equal heads"
            )
    return config


def shown(value: Any) -> str:
    """A value of a stranger's config for an error message, which stays one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _checked(model_type: str, name: str, value: Any, kind: Any) -> Any:
    """A field's value, brought into its `kind`: a bool, int, float or str, a tuple of them, or None where allowed."""
    parts = typing.get_args(kind)
    if type(None) in parts:
        return None if value is None else _checked(model_type, name, value, parts[0])
    if parts and isinstance(value, list | tuple) and value:  # tuple[int, ...]
        return tuple(_checked(model_type, name, part, parts[0]) for part in value)
    if isinstance(value, list | tuple) and kind is int and len(set(value)) == 1:
        value = value[0]  # A square image or patch, written as a pair.
    if not _good(name, value, kind):
        wanted = f"a sensible {'list' if parts else kind.__name__}"
        if name.endswith(("act", "activation")):
            wanted = "one of " + ", ".join(ACTIVATIONS)
        raise WeightError(f"{model_type} config: {name}={shown(value)} is not usable; wanted {wanted}")
    return kind(value)


def _good(name: str, value: Any, kind: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        most = DEEPEST if name.endswith("layers") else LARGEST
        least = 0 if name.endswith("_id") or name in ZERO else 1
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str) and (not name.endswith(("act", "activation")) or value in ACTIVATIONS)
    return False  # A tuple that is none, or has nothing in it.


def _transformers_differs(model_type: str, name: str, value: Any) -> bool:
    from lit_jax._transformers import transformers

    defaults = transformers.AutoConfig.for_model(model_type).to_dict()
    return name in defaults and defaults[name] != value


def identity_pooler(width: int) -> Params:
    """A dense pooler that hands the CLS token through unchanged, given a linear activation."""
    return {"pooler": {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}}
