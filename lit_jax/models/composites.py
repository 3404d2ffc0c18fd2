"""Whole models with two towers, by the model_type in their config.json: what their halves and their heads are."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.kept_fields import Kept
from lit_jax.models.weight_map import table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.sides import pair

MODEL_TYPE = "vision-text-dual-encoder"
OWN_MODEL_TYPE = "lit-jax-dual-encoder"  # The same config, for models that transformers' class cannot hold.
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), as in CLIP and HF.

SIGMOID_HEADS = table("""
    logit_scale | logit_scale | 1 ->
    logit_bias  | logit_bias  | 1 ->
""").bind(depth=0)


@dataclasses.dataclass(frozen=True)
class Composite:
    """A class of transformers whose halves our encoders compute."""

    architecture: str
    vision: str  # The model_type of our encoder of each half.
    text: str
    halves: str = ""  # The prefix of the halves' model_types on disk; "": they are the names of the encoders.
    any_tower: bool = False  # A half can name any other type.
    prefix: str = ""  # The prefix of its tensors in a model for another task that contains it.
    sigmoid: bool = False  # As SigLIP: no projections, but a logit bias and the sigmoid loss.

    @property
    def logit_scale(self) -> float:
        """The initial logit scale, if the config does not give one."""
        return 0.0 if self.sigmoid else LOGIT_SCALE

    def stored_type(self, tower: str, model_type: str) -> str:
        """What config.json calls the type of a half."""
        return f"{self.halves}_{tower}_model" if self.halves else model_type


_ANY = Composite("VisionTextDualEncoderModel", "vit", "bert", any_tower=True)
COMPOSITES = {
    MODEL_TYPE: _ANY,
    OWN_MODEL_TYPE: _ANY,
    "hybrid-clip": _ANY,  # Its name in the Flax projects of 2021 (run_hybrid_clip.py).
    "clip": Composite("CLIPModel", "clip_vision_model", "clip_text_model"),
    "metaclip_2": Composite("MetaClip2Model", "clip_vision_model", "metaclip_2_text_model", "metaclip_2"),
    "chinese_clip": Composite(
        "ChineseCLIPModel", "clip_vision_model", "chinese_clip_text_model", "chinese_clip"
    ),
    "clipseg": Composite(
        "CLIPSegModel", "clipseg_vision_model", "clip_text_model", "clipseg", prefix="clip."
    ),
    "siglip": Composite("SiglipModel", "siglip_vision_model", "siglip_text_model", sigmoid=True),
    "siglip2": Composite(
        "Siglip2Model", "siglip2_vision_model", "siglip_text_model", "siglip2", sigmoid=True
    ),
}
_MISSING = {  # Other two-tower models in transformers -> what is not implemented.
    "aimv2": "its text tower, with RMS norms and gated MLPs",
    "align": "its image tower, an EfficientNet",
    "altclip": "the norm and the linear map that its text tower has behind XLM-R",
    "blip": "its text tower, which can attend to the picture",
    "blip-2": "its Q-Former",
    "flava": "its multimodal tower",
    "groupvit": "its image tower, which merges tokens into groups",
    "owlv2": "its towers, which find objects",
    "owlvit": "its towers, which find objects",
    "tipsv2": "its temperature, by which it divides; its towers are read from folders of their own",
    "videoprism": "its towers, which read videos",
    "xclip": "its image tower, which reads videos",
}


def is_composite(model_type: Any) -> bool:
    """Whether `model_type` names a two-tower model that can be read."""
    return isinstance(model_type, str) and model_type in COMPOSITES


def missing_of(model_type: Any) -> str | None:
    """What an unsupported two-tower model would need; None for any other type."""
    return _MISSING.get(model_type) if isinstance(model_type, str) else None


def half(tower: str, hf: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's config as it is, or its half of the config of a two-tower model; always with a model_type.

    The types of the halves are those of our encoders. Fields that a half leaves out have the defaults of its type, as
    in transformers. Raises WeightError for a half that is not a config, and for a model that is not implemented.
    """
    whole = hf.get("model_type")
    if not isinstance(whole, str):
        raise WeightError(
            f"the config of the {tower} tower has no model_type; wanted one as in a config.json"
        )
    if (missing := missing_of(whole)) is not None:
        raise WeightError(f"a model of type {whole!r} is not implemented: {missing}")
    if not is_composite(whole):
        return dict(hf)
    composite = COMPOSITES[whole]
    name = f"{tower}_config"
    if not composite.any_tower and not composite.sigmoid and hf.get(f"{name}_dict") is not None:
        name = f"{name}_dict"  # Old CLIPs have both; this one counts, with defaults for what it leaves out.
    described = {} if hf.get(name) is None else hf[name]
    if not isinstance(described, Mapping):
        raise WeightError(f"{whole} config: {name}={shown(described)} is not usable; wanted a JSON object")
    own = getattr(composite, tower)
    # The halves of CLIP and SigLIP have a fixed type, whatever their configs say.
    named = described.get("model_type", own) if composite.any_tower else own
    if not isinstance(named, str) or not named:
        raise WeightError(
            f"the {tower}_config of a {whole} has the model_type {shown(named)}; "
            f"wanted the name of a type, such as {own}"
        )
    return {**described, "model_type": own if named == whole else named}


def stored_halves(
    model_type: str, towers: Mapping[str, tuple[str, Any]], width: int | None, kept: Kept
) -> dict[str, dict[str, Any]]:
    """The configs of both halves as config.json stores them, from `towers` (name -> model_type, config).

    `width` is the width of the projections, which the halves of a CLIP store too; `kept` holds fields that change no
    number.
    """
    composite = COMPOSITES[model_type]
    own = {} if composite.any_tower or width is None else {"projection_dim": width}
    return {
        f"{tower}_config": {
            **own,
            **getattr(kept, tower),
            "model_type": composite.stored_type(tower, towers[tower][0]),
            **_as_json(towers[tower][1]),
        }
        for tower in TOWERS
    }


# Fields that are left out if they are None: the classes of DeBERTa and Qwen2 read them without declaring them, and take
# null for a value.
_NEVER_NULL = ("embedding_size", "head_dim")


def _as_json(config: Any) -> dict[str, Any]:
    """The fields of a config, with lists in place of tuples: transformers accepts only lists for some of them.

    A config names in `pairs` the fields of which transformers accepts only two numbers.
    """
    pairs = getattr(config, "pairs", ())
    fields = dataclasses.asdict(config).items()
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in ((name, pair(value) if name in pairs else value) for name, value in fields)
        if value is not None or name not in _NEVER_NULL
    }
