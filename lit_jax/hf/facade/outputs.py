"""The outputs of the Hugging Face model, as classes of transformers' ModelOutput that are also pytrees of JAX."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import jax

from lit_jax.models.encoders import EncoderOutput
from lit_jax.utils._transformers import transformers


@dataclasses.dataclass
class _Output(transformers.utils.ModelOutput):
    """A ModelOutput with the `replace` of Flax's dataclasses."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        jax.tree_util.register_pytree_with_keys(
            cls, _named_parts, lambda _, parts: _joined(cls, parts), _parts
        )

    def replace(self, **changes: Any) -> Any:
        """A copy with other fields. Raises TypeError for a field that does not exist."""
        names = (field.name for field in dataclasses.fields(self))
        return type(self)(**{name: getattr(self, name) for name in names} | changes)


def _parts(output: Any) -> tuple[tuple[Any, ...], None]:
    return tuple(getattr(output, field.name) for field in dataclasses.fields(output)), None


def _named_parts(output: Any) -> tuple[tuple[tuple[Any, Any], ...], None]:
    names = (jax.tree_util.GetAttrKey(field.name) for field in dataclasses.fields(output))
    return tuple(zip(names, _parts(output)[0], strict=True)), None


def _joined(cls: Any, parts: Iterable[Any]) -> Any:
    """Bypasses the constructor, which would take a lone first field for a list of all: a part may be anything."""
    output = cls.__new__(cls)
    for field, part in zip(dataclasses.fields(cls), parts, strict=True):
        object.__setattr__(output, field.name, part)
        if part is not None:
            OrderedDict.__setitem__(output, field.name, part)
    return output


@dataclasses.dataclass
class TowerOutput(_Output):
    """Fields of transformers' BaseModelOutputWithPooling."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: tuple | None = None
    attentions: tuple | None = None


@dataclasses.dataclass
class VisionTextDualEncoderOutput(_Output):
    """Fields and order of transformers' CLIPOutput: by attribute, by key, or as a tuple of those that are not None."""

    loss: Any = None
    logits_per_image: Any = None
    logits_per_text: Any = None
    text_embeds: Any = None
    image_embeds: Any = None
    text_model_output: TowerOutput | None = None
    vision_model_output: TowerOutput | None = None

    def to_tuple(self) -> tuple:
        return tuple(v.to_tuple() if isinstance(v, TowerOutput) else v for v in super().to_tuple())


def tower_output(output: EncoderOutput) -> TowerOutput:
    """Hidden states and attentions as tuples with one entry for each layer, as in Hugging Face."""
    fields = output._asdict()
    del fields["patch_mask"]
    for name in ("hidden_states", "attentions"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return TowerOutput(**fields)
