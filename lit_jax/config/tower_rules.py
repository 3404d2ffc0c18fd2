"""What a config must satisfy for its towers: what they are, their heads, and whether their outputs can be cached."""

from collections.abc import Callable, Mapping
from typing import Any

from lit_jax.config.fields import caches
from lit_jax.utils.head_fields import mistake
from lit_jax.utils.names import TOWERS


def _described(name: str) -> Callable[..., str]:
    """The rule that something must say what a tower is."""

    def rule(folder: str, numbers: Mapping[str, Any], init_from: str) -> str:
        if folder or numbers or init_from:
            return ""
        return f"config.model.{name} is empty; name a folder or Hub id, or describe the tower in model.{name}_config"

    return rule


def _from_scratch(position: int, name: str) -> Callable[..., str]:
    """The rule that a tower without a folder cannot be pretrained, and that its config must have a model_type."""

    def rule(folder: str, numbers: Mapping[str, Any], letters: str, init_from: str) -> str:
        if folder or not numbers or init_from:
            return ""
        if letters[position] != "u":
            return (
                f"config.model.{name} is empty, and lock_towers={letters!r} wants its weights: name a folder or Hub "
                f"id, or write u (from scratch) for this tower"
            )
        if "model_type" in numbers:
            return ""
        return (
            f"config.model.{name}_config has no model_type, which says what the tower is where no folder or Hub id "
            "does"
        )

    return rule


def _cached_tower(cache: bool | tuple[str, ...], letters: str, rules: Any) -> str:
    if cache is True and "L" not in letters and not any(action == "lock" for _, action in rules):
        return (
            "config.cache=True needs an image tower that is locked as a whole, or a text tower, and "
            f"lock_towers={letters!r} tunes vision/ and text/; lock one, or set cache to False"
        )
    for tower in cache if isinstance(cache, tuple) else ():
        if tower not in TOWERS:
            return f"config.cache names {tower!r}; wanted True, False, or names among {', '.join(TOWERS)}"
        if letters[TOWERS.index(tower)] != "L" and not any(action == "lock" for _, action in rules):
            return (
                f"config.cache names {tower!r}, whose outputs change, since lock_towers={letters!r} tunes {tower}/; "
                f"lock it, or leave {tower!r} out"
            )
    return ""


def _cached_pictures(cache: bool | tuple[str, ...], letters: str, augment: str) -> str:
    if not caches("vision", cache, letters) or augment == "none":
        return ""
    return f"config.cache={cache} needs the same picture in every epoch; augment is {augment!r}, not 'none'"


def _standardised(tower: str) -> Callable[..., str]:
    """The rule that a head which standardises needs a cached tower, for the mean and the deviation."""

    def rule(fields: Mapping[str, Any], cache: bool | tuple[str, ...], letters: str) -> str:
        if fields.get("standardise") is not True or caches(tower, cache, letters):
            return ""
        return (
            f"config.model.{tower}_head_config standardises features that are measured on the cache, which has none of "
            f"the {tower} tower: lock that tower and set cache to True, or leave standardise out"
        )

    return rule


def _head(name: str) -> Callable[..., str]:
    """The rule that the fields of a head must be those of its kind."""

    def rule(kind: str, fields: Mapping[str, Any]) -> str:
        sentence = mistake(kind, fields)
        return f"config.model.{name}{sentence}; they stand in model.{name}_config" if sentence else ""

    return rule


def _closed_form(
    init: str,
    vision_head: str,
    vision_fields: Mapping[str, Any],
    text_head: str,
    text_fields: Mapping[str, Any],
    cache: bool | tuple[str, ...],
    letters: str,
) -> str:
    """A start in closed form needs both towers cached, and a head with a linear part that it can set."""
    if init != "cca":
        return ""
    for tower in TOWERS:
        if not caches(tower, cache, letters):
            return (
                f"config.model.init='cca' is computed from the caches of both towers, and there is none of the {tower} "
                "tower: lock both and set cache to True, or set model.init to 'random'"
            )
    for tower, kind, fields in (("vision", vision_head, vision_fields), ("text", text_head, text_fields)):
        if kind == "glu" or (kind == "mlp" and fields.get("skip") is not True):
            return (
                f"config.model.init='cca' sets the linear part of a head, and model.{tower}_head={kind!r} has none; "
                "take linear, linear_bias or mlp with skip, or set model.init to 'random'"
            )
    if vision_head == text_head == "identity":
        return "config.model.init='cca' finds nothing to set in two identity heads; set it to 'random'"
    return ""


def _warm_start(init_from: str, letters: str, init: str) -> str:
    """With a start from a whole model, no part of it can be from scratch."""
    if init_from and "u" in letters:
        return f"config.init_from brings weights, and lock_towers={letters!r} starts a tower without: write L or U"
    if init_from and init != "random":
        return f"config.init_from brings heads, and model.init={init!r} computes them anew: leave out one of the two"
    return ""


def _adapters(letters: str, targets: tuple[str, ...]) -> str:
    if "A" in letters and not targets:
        return (
            f"config.model.lora_targets is empty, and lock_towers={letters!r} trains adapters; name kernels, for "
            "instance '.*/attn/(query|value)/kernel'"
        )
    return ""


# (fields, what is wrong with their values together, or "").
RULES: tuple[tuple[tuple[str, ...], Callable[..., str]], ...] = (
    (("cache", "model.lock_towers", "model.lock_rules"), _cached_tower),
    (("cache", "model.lock_towers", "data.augment"), _cached_pictures),
    (("model.vision_head_config", "cache", "model.lock_towers"), _standardised("vision")),
    (("model.text_head_config", "cache", "model.lock_towers"), _standardised("text")),
    (
        (
            *("model.init", "model.vision_head", "model.vision_head_config", "model.text_head"),
            *("model.text_head_config", "cache", "model.lock_towers"),
        ),
        _closed_form,
    ),
    (("model.vision_head", "model.vision_head_config"), _head("vision_head")),
    (("model.text_head", "model.text_head_config"), _head("text_head")),
    (("model.vision", "model.vision_config", "init_from"), _described("vision")),
    (("model.text", "model.text_config", "init_from"), _described("text")),
    (("model.vision", "model.vision_config", "model.lock_towers", "init_from"), _from_scratch(0, "vision")),
    (("model.text", "model.text_config", "model.lock_towers", "init_from"), _from_scratch(1, "text")),
    (("init_from", "model.lock_towers", "model.init"), _warm_start),
    (("model.lock_towers", "model.lora_targets"), _adapters),
)
