"""Learning rate schedules and optimisers."""

import math
from collections.abc import Callable, Sequence

import jax
import optax

from lit_jax.train.muon import scale_by_muon
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.path_rules import Rules, by_path, compile_patterns

# BERT (arXiv:1810.04805) and CLIP (arXiv:2103.00020) decay what multiplies: kernels and the tables of embeddings.
# They leave alone what shifts or scales: biases, norms, logit_scale and logit_bias. Layer scales belong to these,
# and so do a vision tower's class token and position table, as in the usual ViT recipes (DeiT, arXiv:2012.12877).
DECAY: Rules = (
    (r"(.*/)?(kernel|embedding)", True),
    (r".*", False),
)


# What follows the warm-up: (peak, steps from there to the end, end, timescale) -> schedule of the steps since.
SCHEDULES: dict[str, Callable[[float, int, float, int], optax.Schedule]] = {
    "cosine": lambda peak, steps, end, _: optax.cosine_decay_schedule(peak, steps, alpha=end / peak),
    "linear": lambda peak, steps, end, _: optax.linear_schedule(peak, end, steps),
    "rsqrt": lambda peak, steps, end, timescale: lambda step: peak * (1 + step / timescale) ** -0.5,
    "constant": lambda peak, *_: optax.constant_schedule(peak),
}


def make_schedule(
    kind: str,
    *,
    peak_lr: float,
    steps: int,
    warmup_steps: int = 0,
    end_lr: float = 0.0,
    timescale: int = 10_000,
) -> optax.Schedule:
    """Learning rate by step: from 0 to `peak_lr` over `warmup_steps`, then by `kind` until `steps`.

    "cosine" and "linear" end at `end_lr` after `steps`; "rsqrt" falls as the inverse root of the steps since
    warm-up in units of `timescale` and knows no end; "constant" stays.
    Raises ConfigError for an unknown kind and for numbers that make no schedule.
    """
    if kind not in SCHEDULES:
        raise ConfigError(f"schedule {kind!r} is unknown: wanted one of {', '.join(SCHEDULES)}")
    if not 0 <= warmup_steps < steps:
        raise ConfigError(f"warmup_steps={warmup_steps} does not leave a step of steps={steps}: use fewer")
    if not 0 <= end_lr <= peak_lr or not math.isfinite(peak_lr) or peak_lr == 0:
        raise ConfigError(
            f"peak_lr={peak_lr} with end_lr={end_lr} is no schedule: wanted 0 <= end_lr <= peak_lr > 0"
        )
    if timescale < 1:
        raise ConfigError(f"timescale={timescale} is not a number of steps: wanted at least 1")
    after = SCHEDULES[kind](peak_lr, steps - warmup_steps, end_lr, timescale)
    if not warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak_lr, warmup_steps), after], [warmup_steps])


# What turns a gradient into a direction: (b1, b2, eps, dtype of the first moment) -> transformation.
OPTIMISERS: dict[str, Callable[[float, float, float, str], optax.GradientTransformation]] = {
    "adamw": lambda b1, b2, eps, mu: optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu),
    "lion": lambda b1, b2, eps, mu: optax.scale_by_lion(b1=b1, b2=b2, mu_dtype=mu),
    # Second moments by rows and columns, no first: 0 in place of 8 bytes a weight (arXiv:1804.04235).
    "adafactor": lambda b1, b2, eps, mu: optax.scale_by_factored_rms(decay_rate=0.8),
    "muon": lambda b1, b2, eps, mu: scale_by_muon(b1, b2, eps, mu),
}
MU_DTYPES = ("float32", "bfloat16")


def make_optimizer(
    *,
    schedule: optax.Schedule,
    name: str = "adamw",
    mu_dtype: str = "float32",
    weight_decay: float = 1e-4,
    clip_norm: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    lr_multipliers: Sequence[tuple[str, float]] = (),
    decay: Rules = DECAY,
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) on the tuned parameters, after clipping their gradient to a global norm.

    `name` takes another of OPTIMISERS: Lion (arXiv:2302.06675) has one moment, Adafactor next to none, Muon
    (`muon.scale_by_muon`) one for what is a matrix; `mu_dtype` is that of the first moment.
    As in PyTorch the decay is decoupled and multiplied by the learning rate. A multiplier in
    `lr_multipliers` scales the whole update of its leaves, decay included; `clip_norm=None` does not clip.
    Raises ConfigError for numbers that make no optimiser.
    """
    wrong = [
        f"{name}={value}"
        for name, value, good in (
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("clip_norm", clip_norm, clip_norm is None or clip_norm > 0),
            ("b1", b1, 0 <= b1 < 1),
            ("b2", b2, 0 <= b2 < 1),
            ("eps", eps, eps > 0),
            *((f"lr multiplier of {pattern!r}", factor, factor > 0) for pattern, factor in lr_multipliers),
        )
        if not good
    ]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: wanted weight_decay >= 0, clip_norm > 0 or None, 0 <= b1, b2 < 1, "
            f"eps > 0 and lr multipliers > 0 (what shall not move is locked, not multiplied by 0)"
        )
    if name not in OPTIMISERS or mu_dtype not in MU_DTYPES:
        raise ConfigError(
            f"optimiser {name!r} with mu_dtype {mu_dtype!r} is unknown: wanted one of {', '.join(OPTIMISERS)} "
            f"with {' or '.join(MU_DTYPES)}"
        )
    compile_patterns(pattern for pattern, _ in (*lr_multipliers, *decay))
    multipliers = tuple((pattern, factor) for pattern, factor in lr_multipliers)
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        OPTIMISERS[name](b1, b2, eps, mu_dtype),
        optax.add_decayed_weights(weight_decay, mask=lambda tree: by_path(tree, decay, False)),
        optax.stateless(
            lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, by_path(updates, multipliers, 1.0))
        ),
        optax.scale_by_learning_rate(schedule),
    )
