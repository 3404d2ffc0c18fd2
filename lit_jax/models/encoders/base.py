"""What each architecture module provides."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

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
    # Where the tokens of pictures are real; None: everywhere, or the caller has a mask.
    patch_mask: Bool[Array, "B N"] | None = None


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One architecture: its parts, and how published checkpoints differ from its weight table."""

    tower: Literal["vision", "text"]
    Config: Any  # A frozen dataclass whose field names are HF's, with from_hf.
    Model: Any  # A Linen module of (config, compute).
    weights: Callable[[Any], WeightMap]
    pooling: str  # What the pooled output is, in a few words.
    prefix: str  # What a task model's checkpoint puts before each name ("vit.").
    dropped: str  # Regex of names that no dual encoder uses: task heads and buffers.
    image_processor: str = ""  # The class of transformers that published folders of a vision tower name.
    nest: str = ""  # The prefix of every name in transformers 4 that 5 does not have ("vision_model.").
    # The versions of transformers whose VisionTextDualEncoderModel can hold the tower.
    exportable: tuple[str, ...] = ("4.57", "5")
    # Whether `reader` returns the pooled output, though VisionTextDualEncoderModel cannot hold the tower.
    pooled_by_reader: bool = False
    # The path, within transformers, of the class that reads the tower by itself; "": there is none.
    reader: str = "AutoModel"
    # The largest difference from PyTorch, relative to max(1, largest value), that tests/parity allow at each layer.
    # None: not tested.
    parity: float | None = 1e-5
    renames: tuple[tuple[str, str], ...] = ()  # Regexes of other spellings -> names on disk.
    # Whether a model of this config fits its positions to every picture by itself, or has none that need it.
    any_size: Callable[[Any], bool] = lambda config: False
    # Rows for tensors with other names in the memory of transformers 5; checkpoints with these names are read too.
    also: Callable[[Any], WeightMap] = lambda config: WeightMap()
    # Regex of param paths that a checkpoint can lack, all of a module or none: they start at random and are tuned.
    fresh: str = r"(?!)"
    # Fields of config.json that Config reads but stores in other fields: other names, older and newer forms.
    respelled: frozenset[str] = frozenset()
    # Tensors beside the weights that transformers 4.57 expects in a file, though it computes them: name -> array.
    buffers: Callable[[Any, Params], Mapping[str, np.ndarray]] = lambda config, params: {}
    # Whether short texts can share a row (`layers/packing.py`): masks depend only on keys, and positions are in the
    # embeddings or depend on the distance.
    shares_rows: bool = False
    # Regex of param paths whose tensors combine all layers: a tower with fewer layers starts them at random.
    of_all_layers: str = r"(?!)"
    # Poolings besides its own that the model of the type computes, so that Hugging Face's class returns them too:
    # name -> function from a config to (config, weights) with that pooling.
    poolings: Mapping[str, Callable[[Any], tuple[Any, Params]]] = dataclasses.field(default_factory=dict)

    def config_of(self, hf: Mapping[str, Any]) -> Any:
        """`Config.from_hf` of an untrusted dict. Raises WeightError and no other error."""
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
        """The poolings that `pooled` accepts for a tower of this config; "pooler" is the type's own."""
        others = [name for name in self.poolings_of_tokens(config) if name not in self.poolings]
        return ["pooler", *self.poolings, *others]

    def poolings_of_tokens(self, config: Any) -> list[str]:
        """The `layers.pooling.POOLINGS` that suit the last hidden state of a tower of this config."""
        has_cls = self.tower == "text" or first_patch(config) > 0
        return [name for name in POOLINGS if has_cls or "cls" not in name]

    def pooled(self, config: Any, pooling: str) -> tuple[Any, Params]:
        """A config with another pooling, and the weights that this pooling fixes. Raises ConfigError.

        The config stays the same if the model does not compute this pooling itself (`rest_of`).
        """
        if pooling not in (names := self.pooling_names(config)):
            raise ConfigError(f"{self.tower}_pooling is {pooling!r}; wanted one of {', '.join(names)}")
        return self.poolings[pooling](config) if pooling in self.poolings else (config, {})

    def rest_of(self, pooling: str) -> str:
        """The pooling that is left to the dual encoder: "pooler" if the model of the type computes `pooling`."""
        return "pooler" if pooling in self.poolings else pooling


def first_patch(config: Any) -> int:
    """The number of tokens before the patches in a last hidden state; the CLS token, if there is one, is the first."""
    patches = getattr(config, "patches", None)
    return 0 if patches is None else int(patches.prefix)


def takes_any_shape(config: Any) -> bool:
    """Whether an image tower of this config takes pictures of any shape (`utils.naflex`)."""
    return hasattr(config, "num_patches")


def with_embeddings(embedded: Array, states: Array | None) -> Array | None:
    """Embeddings [B N D] and layer outputs [L B N D] -> hidden states as Hugging Face counts them, [L+1 B N D]."""
    return None if states is None else jnp.concatenate([embedded[None], states])


def drop_path_rates(largest: float, depth: int) -> Float[Array, "L"]:
    """The rates of stochastic depth, from zero in the first layer to `largest` in the last."""
    return jnp.linspace(0.0, largest, depth)


def matched(names: Collection[str], encoder: Encoder, config: Any) -> tuple[WeightMap, dict[str, str]]:
    """How a tower's checkpoint is read: the table, and a mapping from the checkpoint's names to those of the table.

    Names that the encoder drops are left out, and so are names of a head that repeat one of the tower.
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
    """The weights of a dense pooler that returns the CLS token unchanged if its activation is linear."""
    return {"pooler": {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}}
