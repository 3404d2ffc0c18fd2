"""What a config must satisfy beyond types: choices, ranges, and rules over several fields.

Only mistakes that are certain before a folder, a source or a device is read are found here.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from lit_jax.config import tower_rules
from lit_jax.config.choices import ACTIONS, CHOICES, LETTERS, METRICS, SOURCES
from lit_jax.utils.divisors import divisors
from lit_jax.utils.sides import pair
from lit_jax.utils.suggestions import suggestion


class Range(NamedTuple):
    """What a value must be, in words and as a test."""

    wanted: str
    holds: Callable[[Any], bool]


_TOO_LARGE = 2**31  # JAX counts with 32 bits.
_POSITIVE = Range("at least 1", lambda value: value >= 1)
_NOT_NEGATIVE = Range("0 or more", lambda value: 0 <= value < math.inf)
_ABOVE_0 = Range("a finite number above 0", lambda value: 0 < value < math.inf)
_BOUND = Range("a number above 0, or None", lambda value: value is None or value > 0)
_SHARE = Range("0 or more, and below 1", lambda value: 0 <= value < 1)

RANGES: dict[str, Range] = {
    "steps": _POSITIVE,
    "batch_size": _POSITIVE,
    "seed": Range("0 or more, and below 2**32", lambda value: 0 <= value < 2**32),
    "micro_batch": _NOT_NEGATIVE,
    "loss_chunk": _NOT_NEGATIVE,
    "label_smoothing": _SHARE,
    "log_every": _POSITIVE,
    "monitor_every": _NOT_NEGATIVE,
    "eval_every": _NOT_NEGATIVE,
    "save_every": _POSITIVE,
    "keep": _POSITIVE,
    "keep_best": _NOT_NEGATIVE,
    "stall_limit": _NOT_NEGATIVE,
    "model.projection_dim": _POSITIVE,
    "model.matryoshka": Range(
        "widths of 1 or more that rise, such as (64, 128, 256, 512)",
        lambda widths: all(a < b for a, b in pairwise((0, *widths))),
    ),
    # These two as in the config.json of a model (models/dual_config.py).
    "model.logit_scale_init": Range("a number from -80 to 80", lambda value: -80 <= value <= 80),
    "model.logit_bias_init": Range(
        "a number from -10000 to 10000, or None", lambda value: value is None or -1e4 <= value <= 1e4
    ),
    "model.max_logit_scale": _BOUND,
    "model.lora_rank": _POSITIVE,
    "model.lora_alpha": Range("1 or more, and below 2**31", lambda value: 1 <= value < 2**31),
    "model.unroll": _POSITIVE,
    "model.text_rows": Range("a share above 0, and at most 1", lambda value: 0 < value <= 1),
    "model.lock_towers": Range(
        "two letters, image tower then text tower, each L (pretrained, locked), U (pretrained, tuned), A (pretrained, "
        "locked, with adapters that are tuned) or u (from scratch, tuned), for instance 'LU'",
        lambda value: len(value) == 2 and set(value) <= set(LETTERS),
    ),
    "data.text_length": Range("at least 2", lambda value: value >= 2),
    "data.captions_per_image": _POSITIVE,
    "model.image_size": Range("at least 1, or None", lambda value: value is None or min(pair(value)) >= 1),
    "data.max_broken": Range("a share from 0 to 1", lambda value: 0 <= value <= 1),
    "data.threads": Range("0 or more, or None", lambda value: value is None or value >= 0),
    "data.workers": _NOT_NEGATIVE,
    "optim.peak_lr": _ABOVE_0,
    "optim.warmup_steps": _NOT_NEGATIVE,
    "optim.end_lr": _NOT_NEGATIVE,
    "optim.cooldown_steps": _NOT_NEGATIVE,
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.clip_norm": _BOUND,
    "optim.b1": _SHARE,
    "optim.b2": _SHARE,
    "optim.eps": _ABOVE_0,
    "optim.ema": _SHARE,
    "mesh.data": Range("at least 1, or -1 for what fsdp leaves", lambda value: value >= 1 or value == -1),
    "mesh.fsdp": _POSITIVE,
}


def mistakes(values: Mapping[str, Any]) -> Iterator[str]:
    """Each mistake in one sentence. `values` has the fields, by name, that are present and of the right type."""
    sound = dict(values)
    for name, value in values.items():
        for sentence in of_field(name, value):
            sound.pop(name, None)
            yield sentence
    for names, rule in RULES:  # A rule over a field that is already wrong would only repeat that.
        if all(name in sound for name in names) and (sentence := rule(*(sound[name] for name in names))):
            yield sentence


def of_field(name: str, value: Any) -> Iterator[str]:
    """What is wrong with one field by itself."""
    numbers = value if isinstance(value, tuple) else (value,)
    if name != "seed" and any(type(number) is int and abs(number) >= _TOO_LARGE for number in numbers):
        yield f"config.{name} is too large; wanted whole numbers below 2**31"
        return
    if name in CHOICES and value not in CHOICES[name]:
        yield f"config.{name} is {value!r}; wanted one of {', '.join(CHOICES[name])}"
    if name in RANGES and not RANGES[name].holds(value):
        yield f"config.{name} is {value!r}; wanted {RANGES[name].wanted}"
    if name in ACTIONS:
        yield from _path_rules(
            name, value, lambda action: action in ACTIONS[name], " or ".join(ACTIONS[name])
        )
    if name == "optim.lr_multipliers":
        yield from _path_rules(
            name, value, _ABOVE_0.holds, "a factor above 0 (what shall not move is locked)"
        )
    if name == "model.lora_targets":
        yield from (sentence for pattern in value if (sentence := _broken(name, pattern)))
    if name in ("data.train", "data.test"):
        yield from _sources(name, value)


def _path_rules(name: str, rows: Any, holds: Callable[[Any], bool], wanted: str) -> Iterator[str]:
    for pattern, value in rows:
        if not holds(value):
            yield f"config.{name}: {pattern!r} has {value!r}; wanted {wanted}"
        if sentence := _broken(name, pattern):
            yield sentence


def _broken(name: str, pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"config.{name}: {pattern!r} is not a regex over parameter paths: {error}"
    return ""


def _sources(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, tuple) and not value:
        yield f"config.{name} is a mixture of no sources; wanted at least one"
    for spec, weight in value if isinstance(value, tuple) else ((value, 1.0),) if value else ():
        if not spec:
            yield f"config.{name} holds a source without a name; wanted for instance folder:DIR"
        if not _ABOVE_0.holds(weight):
            yield f"config.{name}: the weight of {spec!r} is {weight!r}; wanted a finite number above 0"


def unknown_sources(values: Mapping[str, Any]) -> Iterator[str]:
    """Each source of an unknown kind, in one sentence; it is a mistake of the data, as in commands without a config."""
    for name in ("data.train", "data.test"):
        value = values.get(name, "")
        for spec in [spec for spec, _ in value] if isinstance(value, tuple) else [value]:
            kind, colon, rest = spec.partition(":")
            named = colon and re.fullmatch(r"[a-z]{2,}", kind) and not rest.startswith("//")
            if named and kind not in SOURCES and not os.path.exists(spec):
                close = suggestion(kind, SOURCES)
                hint = f"did you mean {close}:{rest}?" if close else f"wanted one of {', '.join(SOURCES)}"
                yield f"config.{name} names {spec!r}, and {kind!r} is no kind of source; {hint}"


def _schedule(steps: int, warmup: int) -> str:
    if warmup < steps:
        return ""
    return f"config.optim.warmup_steps={warmup} does not leave a step of config.steps={steps}; use fewer"


def _cooldown(steps: int, warmup: int, cooldown: int, schedule: str) -> str:
    if not cooldown:
        return ""
    if schedule not in ("rsqrt", "constant"):
        return (
            f"config.optim.cooldown_steps={cooldown} is for the schedules rsqrt and constant; {schedule} falls to "
            "end_lr by itself: set it to 0"
        )
    if warmup + cooldown <= steps:
        return ""
    return (
        f"config.optim.warmup_steps={warmup} and config.optim.cooldown_steps={cooldown} are more than "
        f"config.steps={steps}; use fewer"
    )


def _rates(peak: float, end: float) -> str:
    if end <= peak:
        return ""
    return f"config.optim.end_lr={end} lies above config.optim.peak_lr={peak}; wanted 0 <= end_lr <= peak_lr"


def _micro_batch(batch: int, micro: int) -> str:
    if not micro or batch % micro == 0:
        return ""
    return (
        f"config.micro_batch={micro} does not cut a batch of {batch} pairs into equal parts; use one of "
        f"{', '.join(map(str, divisors(batch)[-8:]))}"
    )


def _mesh(batch: int, data: int, fsdp: int) -> str:
    devices = data * fsdp
    if data < 0 or batch % devices == 0:
        return ""
    fewer = batch - batch % devices
    choices = " or ".join(str(n) for n in (fewer, fewer + devices) if n > 0)
    return (
        f"config.batch_size: a batch of {batch} pairs does not divide over the {devices} devices of the mesh "
        f"(data={data} x fsdp={fsdp}); use {choices}"
    )


def _chunk(batch: int, how: str, chunk: int) -> str:
    if how != "gathered" or not chunk or chunk >= batch or batch % chunk == 0:
        return ""
    return (
        f"config.loss_chunk={chunk} does not divide the {batch} texts of the whole batch that loss_how={how!r} "
        f"compares; wanted a divisor of {batch}"
    )


def _best(keep_best: int, metric: str, test: str, widths: tuple[int, ...]) -> str:
    if not keep_best:
        return ""
    if not test:
        return (
            f"config.keep_best={keep_best} compares evaluations, and config.data.test is empty; name a source there, "
            "or set keep_best to 0"
        )
    whole, _, width = metric.rpartition("/")
    if metric in METRICS or (whole in METRICS and "_recall@" in whole and width in map(str, widths)):
        return ""
    behind = ", or a recall with a width of model.matryoshka behind it and a slash between" if widths else ""
    return f"config.best_metric is {metric!r}; wanted one of {', '.join(METRICS)}{behind}"


def _positives(positives: str, captions: int, loss: str, smoothing: float) -> str:
    if positives != "all":
        return ""
    if captions < 2:
        return (
            "config.positives='all' is about several captions of a picture, and "
            f"data.captions_per_image={captions} draws one; set it to 2 or more, or positives to 'one'"
        )
    if loss == "softmax" and smoothing:
        return (
            f"config.label_smoothing={smoothing} does not go with positives='all', which spreads the targets over the "
            "captions; set it to 0, or positives to 'one'"
        )
    return ""


def _matryoshka(widths: tuple[int, ...], width: int, init_from: str) -> str:
    if init_from or not widths or widths[-1] <= width:
        return ""
    return (
        f"config.model.matryoshka={widths} ends with {widths[-1]}, and config.model.projection_dim={width} is less: "
        "raise that, or leave out the wider ones"
    )


def _train(source: Any) -> str:
    return "" if source else "config.data.train is empty; the run cannot do without it"


# (fields, what is wrong with their values together, or "").
RULES: tuple[tuple[tuple[str, ...], Callable[..., str]], ...] = (
    (("steps", "optim.warmup_steps"), _schedule),
    (("steps", "optim.warmup_steps", "optim.cooldown_steps", "optim.schedule"), _cooldown),
    (("optim.peak_lr", "optim.end_lr"), _rates),
    (("batch_size", "micro_batch"), _micro_batch),
    (("batch_size", "mesh.data", "mesh.fsdp"), _mesh),
    (("batch_size", "loss_how", "loss_chunk"), _chunk),
    (("keep_best", "best_metric", "data.test", "model.matryoshka"), _best),
    (("model.matryoshka", "model.projection_dim", "init_from"), _matryoshka),
    (("positives", "data.captions_per_image", "loss", "label_smoothing"), _positives),
    (("data.train",), _train),
    *tower_rules.RULES,
)
