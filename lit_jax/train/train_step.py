"""One step of training, on a mesh."""

import logging
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array

from lit_jax.config import TrainConfig
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.parallel.sharding import compiler_options, fsdp_rules, shardings
from lit_jax.train import ema
from lit_jax.train.loss_and_grad import LossAndGrad
from lit_jax.train.monitors import monitors, now_and_then
from lit_jax.train.partition import combine
from lit_jax.train.state import State
from lit_jax.utils.typing import Batch

log = logging.getLogger(__name__)

Metrics = dict[str, Array]
Step = Callable[[State, Batch], tuple[State, Metrics]]


def make_train_step(
    module: nn.Module,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    config: TrainConfig,
    pixels: PixelNormalizer | None = None,
) -> Step:
    """The jitted `step(state, batch) -> (state, metrics)`; the buffers of `state` are donated.

    `batch` comes from `sharding.put_batch`. On the device, `pixels` normalises its uint8 images in the dtype that the
    module computes in; with "pooled_images" instead, `pixels` can be None. Dropout masks depend on `config.seed` and
    the step, not on the mesh. If exp(logit_scale) is tuned, `config.model.max_logit_scale` bounds it after the update:
    a bound inside the forward pass would make its gradient zero. `config.micro_batch` pairs, over all devices, are in
    memory at once; the loss is still that of the whole batch (`grad_cache`). With `config.mask_duplicates`, pairs with
    the same picture (the batch's "index") or the same text are not negatives of each other.

    Metrics, float32 [] on the device: `loss` (nats), `grad_norm` (of all tuned leaves, before clipping), `logit_scale`
    (the factor exp(logit_scale) after the step), `skipped` (1 if the loss or a gradient is not finite: then weights,
    their average, moments and the optimiser's count stay as they were). Nothing waits for the device. With
    `config.monitor_every` the metrics of `monitors` are added, computed in every such step and NaN in the others.
    When first called, raises ConfigError for a sigmoid loss without `logit_bias` in the params and for images without
    `pixels`. A second compilation of the step gives a warning.
    """
    loss_and_grad = LossAndGrad(module, mesh, config, pixels)
    layout, bound = fsdp_rules(config.mesh.fsdp_rules), config.model.max_logit_scale

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(mesh))
    @_told_when_traced_again
    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        value, grads, embedded = loss_and_grad(state.tuned, state.locked, batch, key)
        norm = optax.tree.norm(grads)
        # If any gradient is not finite, neither is their norm, so one number tells.
        skipped = ~(jnp.isfinite(value) & jnp.isfinite(norm))
        with jax.named_scope("update"):
            updates, opt = tx.update(grads, state.opt, state.tuned)
            tuned = optax.apply_updates(state.tuned, updates)
            if bound is not None and "logit_scale" in tuned:
                tuned = tuned | {"logit_scale": jnp.minimum(tuned["logit_scale"], math.log(bound))}
            average = ema.moved(state.ema, tuned, config.optim.ema) if config.optim.ema else {}
            # `opt` includes the optimiser's count of steps, which the schedule follows; `state.step` counts batches.
            tuned, opt, average = jax.tree.map(
                lambda old, new: jnp.where(skipped, old, new),
                (state.tuned, state.opt, state.ema),
                (tuned, opt, average),
            )
            after = State(step=state.step + 1, tuned=tuned, locked=state.locked, opt=opt, ema=average)
            # Without this XLA can shard the new state in another way, and the next call would compile again.
            after = lax.with_sharding_constraint(after, shardings(after, mesh, layout))
        scale = combine(tuned, state.locked)["logit_scale"]
        metrics = {
            "loss": value,
            "grad_norm": norm,
            "skipped": skipped.astype(jnp.float32),
            "logit_scale": jnp.exp(scale.astype(jnp.float32)),
        }
        if config.monitor_every:
            used = jnp.exp(combine(state.tuned, state.locked)["logit_scale"])
            images, texts = embedded
            first = texts if texts.ndim == 2 else texts[:, 0]  # The first of several captions.
            watched = partial(monitors, images, first, used, grads, mesh)
            metrics |= now_and_then(after.step % config.monitor_every == 0, watched)
        return after, metrics

    return step


def _told_when_traced_again(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with a warning at a second trace, which means that its inputs changed; this costs time."""
    chex.clear_trace_counter()  # It counts by the place in the code, which an earlier run's step shares.
    once = chex.assert_max_traces(function, n=1)

    @wraps(function)
    def traced(*args: Any) -> Any:
        try:
            return once(*args)
        except AssertionError as error:
            if " is traced > " not in str(error):
                raise
            shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", args[1:])
            log.warning(
                "the step is compiled again, since its inputs have changed: the batch is now %s", shapes
            )
            return function(*args)

    return traced
