"""The config of a dual encoder, its towers and heads, read from and written to the config.json of transformers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lit_jax.models import heads, own_fields
from lit_jax.models.composites import (
    COMPOSITES,
    LOGIT_SCALE,
    MODEL_TYPE,
    OWN_MODEL_TYPE,
    SIGMOID_HEADS,
    Composite,
    half,
    is_composite,
    missing_of,
    stored_halves,
)
from lit_jax.models.encoders import TEXT, VISION, Encoder
from lit_jax.models.encoders.field_ranges import LARGEST, Range
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.heads import Head
from lit_jax.models.kept_fields import Kept, kept
from lit_jax.models.left_out import reason_of
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.names import TOWERS

_SCALE = table("logit_scale | logit_scale | ").bind(depth=0)
_HEADS = {  # Field of the heads -> its type and its range.
    "projection_dim": (int, Range(1, LARGEST)),
    "logit_scale_init_value": (int | float, Range(-80, 80)),  # Its exponential is a float32.
    "logit_bias": (int | float, Range(-1e4, 1e4)),
}
_WIDTHS = "matryoshka_dimensions"  # The name that other projects use in a config.json.


def encoder_of(tower: str, model_type: str) -> Encoder:
    """The architecture of that name. Raises WeightError for one that is not implemented."""
    known, others = (VISION, TEXT) if tower == "vision" else (TEXT, VISION)
    if isinstance(model_type, str) and model_type in others and model_type not in known:
        wanted, found = ("an image", "a text") if tower == "vision" else ("a text", "an image")
        raise WeightError(
            f"a model of type {model_type!r} is {found} tower where {wanted} tower is wanted; give {wanted} tower as "
            f"the {tower} tower (lit-jax encoders lists both kinds)"
        )
    if not isinstance(model_type, str) or model_type not in known:
        reason = reason_of(model_type) if isinstance(model_type, str) else None
        why = f" ({reason})" if reason else ""
        raise WeightError(
            f"{tower} tower of type {shown(model_type)} is not implemented{why}; these are: {', '.join(known)}"
        )
    return known[model_type]


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """The configs of both towers and of the heads. `logit_bias_init_value` is for the sigmoid loss only.

    A model without projections (SigLIP) has `projection_dim=None`. `model_type` is the class of transformers that the
    model is saved as; it does not change the numbers, so it is not part of the repr, which identifies the model in an
    index.

    Poolings and heads other than the defaults have no place in transformers, so our own layout holds them. A pooling
    is applied to a tower's last hidden state (`layers.pooling`); "pooler" takes the tower's own pooled output.
    """

    vision_type: str
    vision: Any
    text_type: str
    text: Any
    projection_dim: int | None = 512
    logit_scale_init_value: float = LOGIT_SCALE
    logit_bias_init_value: float | None = None
    model_type: str = dataclasses.field(default=MODEL_TYPE, repr=False)
    # The fields from here on are not in the repr, from which older versions made the fingerprints of indexes.
    vision_pooling: str = dataclasses.field(default="pooler", repr=False)
    text_pooling: str = dataclasses.field(default="pooler", repr=False)
    vision_head: Head = dataclasses.field(default=Head(), repr=False)
    text_head: Head = dataclasses.field(default=Head(), repr=False)
    # These change no number, so they are not compared: the widths that embeddings were trained to be cut to, and the
    # other fields of the config.json.
    matryoshka: tuple[int, ...] = dataclasses.field(default=(), repr=False, compare=False)
    kept: Kept = dataclasses.field(default_factory=Kept, repr=False, compare=False)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "DualEncoderConfig":
        """Reads the config.json of a two-tower model, one of COMPOSITES. Raises WeightError."""
        whole = hf.get("model_type")
        if (missing := missing_of(whole)) is not None:
            raise WeightError(f"a model of type {whole!r} is not implemented: {missing}")
        if isinstance(whole, str) and whole in {**VISION, **TEXT}:
            raise WeightError(
                f"a model of type {whole!r} is a single tower where two are wanted; lit_jax.from_towers(VISION, TEXT) "
                "joins an image tower and a text tower"
            )
        if not is_composite(whole):
            raise WeightError(
                f"model_type is {shown(whole)} where that of two towers is wanted: one of {', '.join(COMPOSITES)}"
            )
        composite = COMPOSITES[str(whole)]
        # The inner `half` also takes a tower out of a whole CLIP, as transformers 4 does.
        vision, text = (half(tower, half(tower, hf)) for tower in TOWERS)
        vision_type, text_type = vision["model_type"], text["model_type"]
        scalars = {
            "projection_dim": hf.get("projection_dim", cls.projection_dim),
            "logit_scale_init_value": hf.get("logit_scale_init_value", composite.logit_scale),
            "logit_bias": hf.get("logit_bias"),
        }
        if composite.sigmoid:
            scalars |= {"projection_dim": None, "logit_bias": 0.0}
        without = {"logit_bias"} | (
            {"projection_dim"} if composite.sigmoid or whole == OWN_MODEL_TYPE else set()
        )
        for name, value in scalars.items():
            kind, span = _HEADS[name]
            if value is None and name in without:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not span.holds(value):
                what = "size" if kind is int else "finite number"
                raise WeightError(
                    f"{whole} config: {name}={shown(value)} is not usable; wanted a {what} of {span}"
                )
        bias, of = scalars["logit_bias"], MODEL_TYPE if composite.any_tower else str(whole)
        encoders = encoder_of("vision", vision_type), encoder_of("text", text_type)
        config = cls(
            vision_type,
            encoders[0].config_of(vision),
            text_type,
            encoders[1].config_of(text),
            scalars["projection_dim"],
            float(scalars["logit_scale_init_value"]),
            None if bias is None else float(bias),
            of,
            matryoshka=(widths := _widths(hf)),
            kept=Kept(
                of,
                kept(hf, {*_HEADS, *own_fields.NAMES, *((_WIDTHS,) if widths else ())}),
                encoders[0].kept(vision),
                encoders[1].kept(text),
            ),
        )
        return own_fields.read(config, hf) if whole == OWN_MODEL_TYPE else config

    @property
    def composite(self) -> Composite:
        """What is known about the class of transformers that the model is saved as."""
        return COMPOSITES[self.model_type]

    @property
    def heads(self) -> WeightMap:
        """The weight table of the heads and scalars; it has `logit_bias` only if transformers has a tensor for it."""
        if self.composite.sigmoid:
            return SIGMOID_HEADS
        if self.projection_dim is None:
            return _SCALE
        return heads.weights(self.vision_head, "vision") + heads.weights(self.text_head, "text") + _SCALE

    @property
    def width(self) -> int:
        """The width of an embedding."""
        return self.vision.hidden_size if self.projection_dim is None else self.projection_dim

    @property
    def own(self) -> dict[str, Any]:
        """The fields that transformers has no place for, as config.json stores them."""
        return own_fields.written(self)

    @property
    def towers(self) -> dict[str, tuple[str, Any]]:
        """The type and the config of each tower, by its name."""
        return {"vision": (self.vision_type, self.vision), "text": (self.text_type, self.text)}

    @property
    def readers(self) -> dict[str, str]:
        """The class of transformers that reads each tower by itself."""
        return {tower: encoder_of(tower, model_type).reader for tower, (model_type, _) in self.towers.items()}

    def level_of(self, tower: str) -> str:
        """The prefix that a whole checkpoint puts before the names in the tower's table.

        In a CLIP or SigLIP it is empty, since the names of these towers already begin with "vision_model" or
        "text_model".
        """
        nest = encoder_of(tower, self.towers[tower][0]).nest
        return "" if nest and not self.composite.any_tower else f"{tower}_model"

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json in the form that transformers 4.57 and 5 read, or of our own type if `own`."""
        scalars = {
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
        }
        kind = {"architectures": [self.composite.architecture], "model_type": self.model_type}
        return {
            **(self.kept.whole if self.kept.of == self.model_type else {}),
            **({"model_type": OWN_MODEL_TYPE, **self.own} if self.own else kind),
            **({} if self.composite.sigmoid else scalars),
            **({_WIDTHS: list(self.matryoshka)} if self.matryoshka else {}),
            "torch_dtype": "float32",
            **stored_halves(self.model_type, self.towers, self.projection_dim, self.kept),
        }


def _widths(hf: Mapping[str, Any]) -> tuple[int, ...]:
    """The widths that a config.json names, ascending; empty if the value is not a list of widths."""
    widths = hf.get(_WIDTHS)
    if isinstance(widths, list) and all(type(width) is int and 0 < width <= LARGEST for width in widths):
        return tuple(sorted(set(widths)))
    return ()
