"""Layers that attend to all tokens and layers that attend to near ones, as named in transformers' `layer_types`."""

from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def check_layer_types(model_type: str, kinds: tuple[str, ...] | None, layers: int) -> None:
    """Raises WeightError unless there is one of the two kinds for each layer, or `kinds` is None."""
    if kinds is not None and (len(kinds) != layers or set(kinds) - {GLOBAL, LOCAL}):
        raise WeightError(
            f"{model_type} config: layer_types={shown(list(kinds))} is not usable; wanted {GLOBAL!r} or {LOCAL!r} "
            f"for each of the {layers} layers"
        )
