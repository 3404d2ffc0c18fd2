"""Whether a run can be resumed with another number of steps: only if the steps already done would be the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax.config import TrainConfig
from lit_jax.train.optim import make_schedule
from lit_jax.utils.errors import ConfigError


def check_steps(before: TrainConfig, now: TrainConfig, done: int, workdir: Any) -> None:
    """Raises ConfigError unless a run with the config `before` can be resumed with `now` after `done` steps.

    The two may differ in the fields `config.OF_SCHEDULE`. The run then ends in the same bits as one that began with
    `now`, since the learning rate of every step done is the same in both.
    """
    if now.steps < done:
        raise ConfigError(
            f"{workdir} has done {done} steps, and config.steps is {now.steps}; want {done} or more"
        )
    if (before.steps, before.optim) == (now.steps, now.optim):
        return
    was, would = (_rates(config, done) for config in (before, now))
    if not len(other := np.flatnonzero(was != would)):
        return
    step, schedule = int(other[0]), before.optim.schedule
    why = f"{schedule} depends on the number of steps"
    if schedule in ("rsqrt", "constant"):
        why = (
            f"its cooldown began after step {before.steps - before.optim.cooldown_steps}, now after "
            f"{now.steps - now.optim.cooldown_steps}"
        )
    raise ConfigError(
        f"{workdir} has done {done} of {before.steps} steps and cannot go on with config.steps={now.steps}: the "
        f"learning rate of step {step + 1} was {was[step]:.4g} and would have been {would[step]:.4g}, since {why}; the "
        "schedules rsqrt and constant can go on until their cooldown has begun: bring the old values back or begin "
        "in another workdir"
    )


def _rates(config: TrainConfig, steps: int) -> np.ndarray:
    """The learning rate of each of the first `steps` steps."""
    schedule = make_schedule(config.optim, config.steps)
    return np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(jnp.arange(steps)))
