"""Learning rate schedules and optimisers. `lit_jax.config` checks their numbers; here they are only used."""

from collections.abc import Callable

import jax
import optax

from lit_jax.config import OptimConfig
from lit_jax.train.muon import scale_by_muon
from lit_jax.utils.path_rules import Rules, by_path

# BERT (arXiv:1810.04805) and CLIP (arXiv:2103.00020) decay what multiplies: kernels and embedding tables.
# They do not decay what shifts or scales: biases, norms, logit_scale and logit_bias. Layer scales belong to these,
# and so do a vision tower's class token and position table, as in the usual ViT recipes (DeiT, arXiv:2012.12877).
DECAY: Rules = (
    (r"(.*/)?(kernel|embedding)", True),
    (r".*", False),
)
TIMESCALE = 10_000  # The time scale of the rsqrt schedule, in steps.

# The schedules after the warm-up: (config, steps from there to the end) -> schedule of the steps since the warm-up.
SCHEDULES: dict[str, Callable[[OptimConfig, int], optax.Schedule]] = {
    "cosine": lambda c, steps: optax.cosine_decay_schedule(c.peak_lr, steps, alpha=c.end_lr / c.peak_lr),
    "linear": lambda c, steps: optax.linear_schedule(c.peak_lr, c.end_lr, steps),
    "rsqrt": lambda c, steps: lambda step: c.peak_lr * (1 + step / TIMESCALE) ** -0.5,
    "constant": lambda c, steps: optax.constant_schedule(c.peak_lr),
}

# The transformations of a gradient into a direction.
OPTIMISERS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps, mu_dtype=c.mu_dtype),
    "lion": lambda c: optax.scale_by_lion(c.b1, c.b2, mu_dtype=c.mu_dtype),
    # Second moments by rows and columns, no first moment: about 0 bytes per weight instead of 8 (arXiv:1804.04235).
    "adafactor": lambda c: optax.scale_by_factored_rms(decay_rate=0.8),
    "muon": lambda c: scale_by_muon(c.b1, c.b2, c.eps, c.mu_dtype),
}
MU_DTYPES = ("float32", "bfloat16")


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: from 0 to `peak_lr` over `warmup_steps`, then by `config.schedule` until `steps`.

    "cosine" and "linear" end at `end_lr` after `steps`; "rsqrt" falls with the inverse square root of the steps since
    the warm-up, in units of TIMESCALE, and has no end; "constant" stays. The last `cooldown_steps` fall linearly to
    `end_lr`; before them, "rsqrt" and "constant" do not depend on `steps`.
    """
    warmup, cooldown = config.warmup_steps, config.cooldown_steps
    schedule = SCHEDULES[config.schedule](config, steps - warmup)
    if warmup:
        rise = optax.linear_schedule(0.0, config.peak_lr, warmup)
        schedule = optax.join_schedules([rise, schedule], [warmup])
    if cooldown:
        top = float(schedule(steps - cooldown))
        fall = optax.linear_schedule(top, config.end_lr, cooldown)
        schedule = optax.join_schedules([schedule, fall], [steps - cooldown])
    return schedule


def make_optimizer(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser `config.name` for the tuned parameters, after clipping the global norm of their gradient.

    "adamw" is arXiv:1711.05101; Lion (arXiv:2302.06675) has one moment, Adafactor hardly any, and Muon
    (`muon.scale_by_muon`) one moment for matrices; `mu_dtype` is the dtype of the first moment. As in PyTorch, the
    decay is decoupled and multiplied by the learning rate. A row of `lr_multipliers` scales the whole update of its
    leaves, including the decay; `clip_norm=None` does not clip.
    """
    clip = config.clip_norm
    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        OPTIMISERS[config.name](config),
        optax.add_decayed_weights(config.weight_decay, mask=lambda tree: by_path(tree, DECAY)),
        optax.stateless(
            lambda updates, _: jax.tree.map(
                lambda u, factor: u * factor, updates, by_path(updates, config.lr_multipliers, 1.0)
            )
        ),
        optax.scale_by_learning_rate(schedule),
    )
