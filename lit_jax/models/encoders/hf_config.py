"""The reader of all Hugging Face configs."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from lit_jax.models.encoders.field_ranges import RANGES
from lit_jax.models.layers.blocks import ACTIVATIONS
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import Sides, grid, pair, plain

# Fields of transformers' PreTrainedConfig that name, count or report, but never change an encoder's numbers.
_INERT = frozenset(
    """architectures model_type dtype torch_dtype transformers_version _name_or_path id2label label2id num_labels
    problem_type output_hidden_states output_attentions return_dict use_cache tie_word_embeddings
    chunk_size_feed_forward bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id
    classifier_dropout""".split()
)
# Fields of the backbones that some vision types also have; no dual encoder uses them.
BACKBONE = frozenset(
    """apply_layernorm reshape_hidden_states stage_names out_features out_indices _out_features
    _out_indices""".split()
)

_ACTIVATION_FIELDS = ("act", "activation", "activation_function")  # Endings of the names of such fields.


def read_config(
    cls: type,
    model_type: str,
    hf: Mapping[str, Any],
    *,
    inert: frozenset[str] = frozenset(),
    fixed: Mapping[str, tuple | Callable[[Any], tuple]] = types.MappingProxyType({}),
) -> Any:
    """A dict as in config.json -> `cls`, whose field names are HF's and whose defaults are those of that type.

    `inert` fields do not change the numbers; `fixed` fields are accepted only with the given values, or with those that
    a function of the config returns. A field that transformers does not know is ignored, as it is there; one that only
    transformers knows is refused unless it has its default. Raises WeightError naming the field.
    """
    fixed = {"is_encoder_decoder": (False,), "per_layer_config": (None, {}), **fixed}
    hints = typing.get_type_hints(cls)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    values = {
        name: _checked(model_type, name, value, kinds[name])
        for name, value in hf.items()
        if name in kinds and (value is not None or type(None) in typing.get_args(kinds[name]))
    }
    config = cls(**values)
    for name, value in hf.items():
        if name in kinds:
            continue
        if name in fixed:
            given = fixed[name]
            allowed = given(config) if callable(given) else given
            if value not in allowed:
                wanted = " or ".join(map(repr, allowed))
                raise WeightError(
                    f"{model_type} config: {name}={shown(value)} is not implemented; {wanted} is"
                )
        elif name not in _INERT | inert and _transformers_differs(model_type, name, value):
            raise WeightError(f"{model_type} config: {name}={shown(value)} is not implemented")
    for width, heads in (("hidden_size", "num_attention_heads"), ("dim", "n_heads")):
        if getattr(config, "head_dim", None) is not None:
            break  # The heads have a width of their own.
        if getattr(config, width, None) and getattr(config, heads, None):
            check_heads(model_type, config, width, heads)
    for smaller, larger in (("patch_size", "image_size"), ("pad_token_id", "vocab_size")):
        few, many = getattr(config, smaller, None), getattr(config, larger, None)
        if few is None or many is None:
            continue
        if min(grid(many, few)) < 1 if larger == "image_size" else few >= many:
            raise WeightError(
                f"{model_type} config: {smaller}={few} is not usable with {larger}={many}; wanted a smaller one"
            )
    return config


def even_heads(config: Any) -> tuple[int]:
    """The `head_dim` of a type without such a field: the width, divided among the heads."""
    return (config.hidden_size // config.num_attention_heads,)


def check_heads(model_type: str, config: Any, width: str, heads: str) -> None:
    """Raises WeightError if the field `width` does not divide into as many heads as the field `heads` says."""
    size, number = getattr(config, width), getattr(config, heads)
    if size % number:
        raise WeightError(
            f"{model_type} config: {width}={size} does not divide into {heads}={number} equal heads"
        )


def check_turning_heads(model_type: str, config: Any) -> None:
    """Raises WeightError if the two halves of a head, for rows and for columns, do not consist of pairs that rotate."""
    width, heads = config.hidden_size, config.num_attention_heads
    if width // heads % 4:
        raise WeightError(
            f"{model_type} config: hidden_size={width} gives {heads} heads a width of {width // heads}; wanted a "
            "multiple of four, whose halves turn with rows and columns"
        )


def check_own_size(model_type: str, config: Any, *, patches: bool = True) -> None:
    """Raises WeightError for an image size at which transformers fails to resize a position table.

    It resizes the tables of these types for all pictures except squares of their own size, and assumes that every table
    is a square grid. `patches`: whether it can do so with patches that are not squares.
    """
    (height, width), (rows, columns) = pair(config.image_size), grid(config.image_size, config.patch_size)
    if height == width or (rows == columns and (patches or isinstance(config.patch_size, int))):
        return
    raise WeightError(
        f"{model_type} config: image_size={config.image_size} is not usable with patch_size={config.patch_size}, since "
        "transformers resizes square tables of positions alone; wanted one number, and this size as "
        "load(..., image_size=) or model.image_size"
    )


def own_names(hf: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """A config without `aliases` (other name -> field); as in transformers, an alias overrides the field itself."""
    fields = {name: value for name, value in hf.items() if name not in aliases}
    return fields | {field: hf[alias] for alias, field in aliases.items() if alias in hf}


def rope_base(model_type: str, hf: Mapping[str, Any], kind: str = "default") -> dict[str, Any]:
    """The base of the rotary positions, which transformers also reads nested. Raises WeightError for other kinds."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    found = rope.get("rope_type", rope.get("type", kind)) if isinstance(rope, Mapping) else None
    if found != kind:
        raise WeightError(
            f"{model_type} config: rope_parameters={shown(rope)} is not implemented; the rope_type {kind!r} is"
        )
    theta = rope.get("rope_theta", hf.get("rope_theta"))
    return {} if theta is None else {"rope_theta": theta}


# The fields that `rope_base` reads.
ROPE = frozenset(("rope_parameters", "rope_scaling", "partial_rotary_factor"))


def shown(value: Any) -> str:
    """A value of an untrusted config, short enough for an error message of one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _checked(model_type: str, name: str, value: Any, kind: Any) -> Any:
    """A field's value, converted to its `kind`: a bool, int, float or str, a tuple of them, or None if allowed."""
    parts = typing.get_args(kind)
    if kind == Sides:
        if not isinstance(value, list | tuple):
            return _checked(model_type, name, value, int)
        if len(value) == 2 and all(_good(name, part, int) for part in value):
            return plain(*value)
        raise WeightError(
            f"{model_type} config: {name}={shown(value)} is not usable; wanted {_wanted(name, int)}, or two of them"
        )
    if type(None) in parts:
        return None if value is None else _checked(model_type, name, value, parts[0])
    if parts and isinstance(value, list | tuple) and value:  # tuple[int, ...]
        return tuple(_checked(model_type, name, part, parts[0]) for part in value)
    if isinstance(value, list | tuple) and kind is int and len(set(value)) == 1:
        value = value[0]  # A square image or patch, written as a pair.
    elif isinstance(value, list | tuple) and kind is int and name in ("image_size", "patch_size"):
        raise WeightError(
            f"{model_type} config: {name}={shown(value)} is not usable; wanted one number, since transformers makes "
            f"this type for square pictures and patches alone"
        )
    if not _good(name, value, kind):
        raise WeightError(
            f"{model_type} config: {name}={shown(value)} is not usable; wanted {_wanted(name, kind)}"
        )
    return kind(value)


def _good(name: str, value: Any, kind: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        number = int if kind is int else int | float
        return isinstance(value, number) and not isinstance(value, bool) and RANGES[name].holds(value)
    if kind is str:
        return isinstance(value, str) and (not name.endswith(_ACTIVATION_FIELDS) or value in ACTIVATIONS)
    return False  # A tuple is wanted, and the value is something else or empty.


def _wanted(name: str, kind: Any) -> str:
    if name.endswith(_ACTIVATION_FIELDS):
        return "one of " + ", ".join(ACTIVATIONS)
    if typing.get_args(kind):
        return "a sensible list"
    of = f" of {RANGES[name]}" if name in RANGES else ""
    return f"a sensible {kind.__name__}{of}"


def _transformers_differs(model_type: str, name: str, value: Any) -> bool:
    from lit_jax.utils._transformers import transformers

    defaults = transformers.AutoConfig.for_model(model_type).to_dict()
    return name in defaults and defaults[name] != value
