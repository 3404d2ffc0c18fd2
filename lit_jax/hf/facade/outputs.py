"""The outputs of the Hugging Face model, as classes of transformers' ModelOutput."""

import dataclasses
from typing import Any

from lit_jax.models.encoders import EncoderOutput
from lit_jax.utils._transformers import transformers


@dataclasses.dataclass
class TowerOutput(transformers.utils.ModelOutput):
    """Fields of transformers' BaseModelOutputWithPooling."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: tuple | None = None
    attentions: tuple | None = None


@dataclasses.dataclass
class VisionTextDualEncoderOutput(transformers.utils.ModelOutput):
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
    for name in ("hidden_states", "attentions"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return TowerOutput(**fields)
