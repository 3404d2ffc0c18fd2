"""Fields that were set but change nothing, since another field turns off what they configure."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lit_jax.config.fields import FIELDS, TrainConfig


class Group(NamedTuple):
    """Fields, when they have an effect, and why they have none otherwise."""

    fields: tuple[str, ...]
    count: Callable[[TrainConfig], bool]
    otherwise: str


GROUPS = (
    Group(
        ("model.lora_rank", "model.lora_alpha", "model.lora_targets"),
        lambda c: "A" in c.model.lock_towers,
        "no letter of model.lock_towers is A (adapters)",
    ),
    Group(
        ("model.locked_dtype",),
        lambda c: not {"L", "A"}.isdisjoint(c.model.lock_towers) or bool(c.model.lock_rules),
        "no tower is locked",
    ),
    Group(("model.logit_bias_init",), lambda c: c.loss == "sigmoid", "the loss is not 'sigmoid'"),
    Group(("cache_dtype",), lambda c: bool(c.cached), "cache is False"),
    Group(("best_metric", "best_mode"), lambda c: c.keep_best > 0, "keep_best is 0"),
    Group(("eval_every",), lambda c: bool(c.data.test), "data.test is empty"),
    Group(("data.max_broken",), lambda c: c.data.on_bad_record == "skip", "data.on_bad_record is not 'skip'"),
    Group(
        ("optim.end_lr",),
        lambda c: c.optim.schedule in ("cosine", "linear") or c.optim.cooldown_steps > 0,
        "optim.schedule does not end there without optim.cooldown_steps",
    ),
    Group(("mesh.fsdp_rules",), lambda c: c.mesh.fsdp > 1, "mesh.fsdp is 1"),
    Group(
        ("optim.b1", "optim.b2", "optim.mu_dtype"),
        lambda c: c.optim.name != "adafactor",
        "optim.name is 'adafactor', which keeps no moments but its own",
    ),
    Group(
        ("optim.eps",),
        lambda c: c.optim.name in ("adamw", "muon"),
        "optim.name is neither 'adamw' nor 'muon'",
    ),
)


def unused(config: TrainConfig) -> Iterator[str]:
    """A sentence for each field whose value is not its default but changes nothing."""
    for fields, count, otherwise in GROUPS:
        if count(config):
            continue
        for name in fields:
            value = _value(config, name)
            if value != FIELDS[name].default:
                yield f"config.{name}={value!r} changes nothing: {otherwise}"


def _value(config: TrainConfig, name: str) -> object:
    group, _, last = name.rpartition(".")
    return getattr(getattr(config, group) if group else config, last)
