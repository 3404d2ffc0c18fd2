"""One step of training, on a mesh."""

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.losses.contrastive import LOSSES
from lit_jax.parallel.sharding import AXES, BATCH, RULES, shardings
from lit_jax.parallel.sharding import Rules as Layout
from lit_jax.train.grad_cache import accumulated, check_micro_batch
from lit_jax.train.monitors import monitors, now_and_then
from lit_jax.train.partition import TOWERS, combine
from lit_jax.train.state import State
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Batch, Params

Embedded = tuple[Array, Array]  # Unit embeddings of images and of texts, [B E] each.


def make_train_step(
    module: nn.Module,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    pixels: PixelNormalizer | None = None,
    loss: str = "softmax",
    seed: int = 0,
    train: Collection[str] = ("vision", "text"),
    dtype: DTypeLike = jnp.float32,
    max_logit_scale: float | None = None,
    micro_batch: int | None = None,
    how: str = "gathered",
    chunk: int | None = None,
    label_smoothing: float = 0.0,
    mask_duplicates: bool = False,
    layout: Layout = RULES,
    monitor_every: int = 0,
) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """The jitted `step(state, batch) -> (state, metrics)`; it gives away the buffers of `state`.

    `batch` comes from `sharding.put_batch`. Its uint8 images are normalised by `pixels` to `dtype` on the
    device; with "pooled_images" in their place `pixels` may be None. `train` names the towers that use
    dropout; one without a tuned leaf never does. Masks depend on `seed` and the step, not on the mesh.
    `max_logit_scale` bounds exp(logit_scale), if that is tuned, after the update: a bound inside the
    forward pass would end its gradient.
    `micro_batch` pairs, over all devices, are in memory at once; the loss is that of the whole batch all the same
    (see `accumulate`). `how`, `chunk` and `label_smoothing` are those of `losses.contrastive.contrastive_loss`; with
    `mask_duplicates` pairs of one picture (the batch's "index") or of one text are no negatives of each other.

    Metrics, float32 [] on the device: `loss` (nats), `grad_norm` (of all tuned leaves, before clipping),
    `logit_scale` (the factor exp(logit_scale) after the step), `skipped` (1 if the loss or a gradient is not finite:
    then weights, moments and the optimiser's count stay as they were). Nothing waits for the device. With
    `monitor_every` those of `monitors` too, computed in every so many steps and NaN in the others.
    Raises ConfigError for an unknown loss or tower and a bound that is not above 0, and when first called for a sigmoid
    loss without `logit_bias` in the params or images without `pixels`.
    """
    if loss not in LOSSES:
        raise ConfigError(f"loss {loss!r} is unknown: wanted one of {', '.join(LOSSES)}")
    if not set(train) <= set(TOWERS):
        raise ConfigError(f"train={train!r} names what is no tower: wanted a tuple of {', '.join(TOWERS)}")
    if max_logit_scale is not None and not max_logit_scale > 0:
        raise ConfigError(
            f"max_logit_scale={max_logit_scale} bounds exp(logit_scale): wanted above 0, or None"
        )
    own_loss = partial(LOSSES[loss], axis=AXES, how=how, chunk=chunk, label_smoothing=label_smoothing)
    global_loss = jax.shard_map(
        lambda images, texts, scale, bias, groups: own_loss(images, texts, scale, bias, groups=groups),
        mesh=mesh,
        in_specs=(BATCH, BATCH, PartitionSpec(), PartitionSpec(), BATCH),
        out_specs=PartitionSpec(),
    )

    def inputs_of(batch: Batch) -> dict[str, Any]:
        inputs = {name: batch[name] for name in ("texts", "pooled_images") if name in batch}
        if "images" in batch:
            if pixels is None:
                raise ConfigError("the batch holds images and not pooled_images: make the step with pixels")
            inputs["images"] = batch["images"]
        return inputs

    def normalised(inputs: dict[str, Any]) -> dict[str, Any]:
        if "images" not in inputs:
            return inputs
        assert pixels is not None  # `inputs_of` has asked.
        return inputs | {"images": pixels.normalise(inputs["images"], dtype)}

    def embed(tuned: Params, locked: Params, inputs: dict[str, Any], key: Array) -> Embedded:
        # Only the tuned subtree is differentiated, so a locked tower is a constant here: forward, nothing else.
        outputs: Any = module.apply(
            {"params": combine(tuned, locked)},
            **normalised(inputs),
            train=tuple(tower for tower in train if tower in tuned),
            rngs={"dropout": key},
        )
        return outputs[:2]

    def pool(tuned: Params, locked: Params, images: Array) -> Array:
        params = {"params": combine(tuned, locked)}
        pooled: Any = module.apply(params, normalised({"images": images})["images"], method="pool_images")
        return pooled

    def compare(
        images: Array, texts: Array, groups: tuple[Array, ...], tuned: Params, locked: Params
    ) -> Float[Array, ""]:
        params = combine(tuned, locked)
        if loss == "sigmoid" and "logit_bias" not in params:
            raise ConfigError(
                "the sigmoid loss needs params['logit_bias'] (SigLIP starts it at -10): found none"
            )
        scale = jnp.exp(params["logit_scale"])
        return global_loss(images, texts, scale, params.get("logit_bias", jnp.float32(0)), groups)

    def groups_of(batch: Batch) -> tuple[Array, ...]:
        return (batch["index"], fingerprint(batch["texts"]["input_ids"])) if mask_duplicates else ()

    def whole(tuned: Params, locked: Params, batch: Batch, key: Array) -> tuple[Array, Params, Embedded]:
        inputs = inputs_of(batch)
        if "images" in inputs and "vision" not in tuned:
            inputs["pooled_images"] = pool(tuned, locked, inputs.pop("images"))
            # Else XLA may run the locked tower between the text tower's passes, on top of all that those keep.
            inputs = lax.optimization_barrier(inputs)

        def loss_of(tuned: Params) -> tuple[Float[Array, ""], Embedded]:
            embedded = embed(tuned, locked, inputs, key)
            return compare(*embedded, groups_of(batch), tuned, locked), embedded

        (value, embedded), grads = jax.value_and_grad(loss_of, has_aux=True)(tuned)
        return value, grads, embedded

    def loss_and_gradient(
        tuned: Params, locked: Params, batch: Batch, key: Array
    ) -> tuple[Array, Params, Embedded]:
        inputs = inputs_of(batch)
        rows = len(jax.tree.leaves(inputs)[0])
        if micro_batch is None or micro_batch == rows:
            return whole(tuned, locked, batch, key)
        check_micro_batch(micro_batch, rows, mesh)
        return accumulated(
            tuned,
            locked,
            inputs,
            key,
            embed=embed,
            pool=pool,
            compare=lambda images, texts, *params: compare(images, texts, groups_of(batch), *params),
            parts=rows // micro_batch,
            mesh=mesh,
        )

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        value, grads, embedded = loss_and_gradient(state.tuned, state.locked, batch, key)
        norm = optax.tree.norm(grads)
        # Whatever of the gradients is not finite makes their norm so: one number tells.
        skipped = ~(jnp.isfinite(value) & jnp.isfinite(norm))
        updates, opt = tx.update(grads, state.opt, state.tuned)
        tuned = optax.apply_updates(state.tuned, updates)
        if max_logit_scale is not None and "logit_scale" in tuned:
            bound = jnp.minimum(tuned["logit_scale"], math.log(max_logit_scale))
            tuned = tuned | {"logit_scale": bound}
        # Also the optimiser's own count of steps, which the schedule goes by; `state.step` counts the batches.
        tuned, opt = jax.tree.map(
            lambda old, new: jnp.where(skipped, old, new), (state.tuned, state.opt), (tuned, opt)
        )
        after = State(state.step + 1, tuned, state.locked, opt)
        # Without this XLA may lay the new state out otherwise, and the next call would compile again.
        after = lax.with_sharding_constraint(after, shardings(after, mesh, layout))
        scale = combine(tuned, state.locked)["logit_scale"]
        metrics = {
            "loss": value,
            "grad_norm": norm,
            "skipped": skipped.astype(jnp.float32),
            "logit_scale": jnp.exp(scale.astype(jnp.float32)),
        }
        if monitor_every:
            used = jnp.exp(combine(state.tuned, state.locked)["logit_scale"])
            watched = partial(monitors, *embedded, used, grads, mesh)
            metrics |= now_and_then(after.step % monitor_every == 0, watched)
        return after, metrics

    return step


def fingerprint(ids: Int[Array, "B N"]) -> Int[Array, "B"]:
    """A number for each row, equal for equal rows and, but for one pair in 2^32, for no others."""
    weights = np.random.default_rng(0).integers(1 << 32, size=ids.shape[1], dtype=np.uint32) | 1
    mixed = (ids.astype(jnp.uint32) + 1) * np.uint32(
        2_654_435_761
    )  # Knuth's multiplier, then a shift, for a mix.
    return ((mixed ^ (mixed >> 15)) * weights).sum(axis=1, dtype=jnp.uint32).astype(jnp.int32)
