"""What each architecture module provides."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.kept_fields import kept
from lit_jax.models.layers.pooling import POOLINGS
from lit_jax.models.weight_map import WeightMap
from lit_jax.utils.errors import ConfigError, WeightError, first_line
from lit_jax.utils.typing import Params


class EncoderOutput(NamedTuple):
    """The outputs of a tower, with the names of transformers' BaseModelOutputWithPooling."""

    last_hidden_state: Float[Array, "B N D"]
    pooler_output: Float[Array, "B D"]
    # The embeddings, then the output of each layer; a tuple if the layers differ in shape (Swin).
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
    image_processor: str = ""  # The class of transformers that published folders of a vision tower name.
    nest: str = ""  # What transformers 4 puts before every name, where 5 puts nothing ("vision_model.").
    # The versions of transformers whose VisionTextDualEncoderModel can hold it.
    exportable: tuple[str, ...] = ("4.57", "5")
    pooled_by_reader: bool = (
        False  # One that it cannot hold, whose `reader` returns the pooled output nevertheless.
    )
    reader: str = "AutoModel"  # The class of transformers that reads the tower by itself; "": it has none.
    # The largest difference from PyTorch, relative to max(1, largest value), that tests/parity allow at each layer.
    # None: not tested.
    parity: float | None = 1e-5
    renames: tuple[tuple[str, str], ...] = ()  # Other spellings -> names on disk; regexes.
    # Whether a model of this config fits its positions to every picture by itself, or has none that need it.
    any_size: Callable[[Any], bool] = lambda config: False
    # Rows for tensors that transformers 5 names otherwise in memory; a checkpoint with these names is read too.
    also: Callable[[Any], WeightMap] = lambda config: WeightMap()
    # Regex of param paths that a checkpoint may lack, all of a module or none: they start at random and are tuned.
    fresh: str = r"(?!)"
    # Fields of config.json that Config reads and says in fields of its own: other names, older and newer forms.
    respelled: frozenset[str] = frozenset()
    # Tensors beside the weights that transformers 4.57 misses in a file, though it computes them: name -> array.
    buffers: Callable[[Any, Params], Mapping[str, np.ndarray]] = lambda config, params: {}
    # Whether short texts may share a row (`layers/packing.py`): masks are of keys alone, positions of the embeddings or
    # of the distance.
    shares_rows: bool = False
    # Regex of param paths whose tensors are of all layers together: a tower of fewer layers has random ones.
    of_all_layers: str = r"(?!)"
    # Poolings that the model of the type does itself besides its own, so that Hugging Face's class returns them too:
    # name -> function from a config to (config, weights) with that pooling.
    poolings: Mapping[str, Callable[[Any], tuple[Any, Params]]] = dataclasses.field(default_factory=dict)

    def config_of(self, hf: Mapping[str, Any]) -> Any:
        """`Config.from_hf` of an untrusted dict. Raises WeightError, and no other error."""
        try:
            return self.Config.from_hf(hf)
        except WeightError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            reason = shown(first_line(error))
            raise WeightError(
                f"the config of a {shown(hf.get('model_type'))} is not usable: {reason}"
            ) from error

    def kept(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a config.json that Config does not read, since they change no number."""
        return kept(hf, self.respelled.union(field.name for field in dataclasses.fields(self.Config)))

    def pooling_names(self, config: Any) -> list[str]:
        """What `pooled` accepts for a tower of this config; "pooler" is the type's own."""
        others = [name for name in self.poolings_of_tokens(config) if name not in self.poolings]
        return ["pooler", *self.poolings, *others]

    def poolings_of_tokens(self, config: Any) -> list[str]:
        """Those of `layers.pooling.POOLINGS` that suit the last hidden state of a tower of this config."""
        has_cls = self.tower == "text" or first_patch(config) > 0
        return [name for name in POOLINGS if has_cls or "cls" not in name]

    def pooled(self, config: Any, pooling: str) -> tuple[Any, Params]:
        """A config with another pooling, and the weights that this pooling fixes. Raises ConfigError.

        The config is the same if the pooling is not the model's own work (`rest_of`).
        """
        if pooling not in (names := self.pooling_names(config)):
            raise ConfigError(f"{self.tower}_pooling is {pooling!r}; wanted one of {', '.join(names)}")
        return self.poolings[pooling](config) if pooling in self.poolings else (config, {})

    def rest_of(self, pooling: str) -> str:
        """What is left of a pooling for the dual encoder to do: "pooler" if the model of the type does it."""
        return "pooler" if pooling in self.poolings else pooling


def first_patch(config: Any) -> int:
    """Tokens before the patches in the last hidden state of a picture; the CLS token, if there is one, is the first."""
    patches = getattr(config, "patches", None)
    return 0 if patches is None else int(patches.prefix)


def with_embeddings(embedded: Array, states: Array | None) -> Array | None:
    """[B N D] and the layers' [L B N D] -> hidden states as Hugging Face counts them, [L+1 B N D]."""
    return None if states is None else jnp.concatenate([embedded[None], states])


def drop_path_rates(largest: float, depth: int) -> Float[Array, "L"]:
    """Stochastic depth's rates: from zero in the first layer to `largest` in the last."""
    return jnp.linspace(0.0, largest, depth)


def matched(names: Collection[str], encoder: Encoder, config: Any) -> tuple[WeightMap, dict[str, str]]:
    """How a tower's checkpoint is read: the table, and the checkpoint's names -> those of the table.

    Names that the encoder drops are left out, and so are those of a head that repeat one of the tower's own.
    """
    own = {name.removeprefix(encoder.prefix) for name in names if name.startswith(encoder.prefix)}
    renamed = {
        name: name.removeprefix(encoder.prefix)
        for name in names
        if name.startswith(encoder.prefix) or name not in own
    }
    for pattern, replacement in encoder.renames:
        renamed = {name: re.sub(pattern, replacement, new) for name, new in renamed.items()}
    table = encoder.weights(config).spelled(encoder.also(config), set(renamed.values()))
    wanted = table.names()
    kept = {
        name: encoder.nest + new
        for name, new in renamed.items()
        if encoder.nest + new in wanted or not re.fullmatch(encoder.dropped, new)
    }
    return table, kept


def identity_pooler(width: int) -> Params:
    """The weights of a dense pooler that, with a linear activation, returns the CLS token unchanged."""
    return {"pooler": {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}}
