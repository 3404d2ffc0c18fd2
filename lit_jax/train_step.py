"""One step of training, and the embedding of pictures and texts, on a mesh."""

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from lit_jax.accumulate import accumulated, check_micro_batch
from lit_jax.errors import ConfigError
from lit_jax.losses import LOSSES
from lit_jax.monitors import monitors, now_and_then
from lit_jax.optim import TOWERS, Rules, merge, split
from lit_jax.processing import Pixels
from lit_jax.sharding import AXES, BATCH, RULES, put, shardings
from lit_jax.sharding import Rules as Layout
from lit_jax.typing import Batch, Params

Embedded = tuple[Array, Array]  # Unit embeddings of images and of texts, [B E] each.


class State(NamedTuple):
    """All that a checkpoint holds. Locked weights never meet the optimiser."""

    step: Any  # int32 []: steps done.
    tuned: Params
    locked: Params
    opt: optax.OptState  # Of the tuned weights alone.


def init_state(
    params: Params,
    rules: Rules,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    locked_dtype: DTypeLike | None = None,
    layout: Layout = RULES,
) -> State:
    """The state before the first step, on `mesh`; `params` are copied and stay the caller's.

    Locked floating-point leaves are held in `locked_dtype` where one is given; `layout` says what lies where
    (`sharding.fsdp_rules`). Raises ConfigError as `optim.split` does.
    """
    tuned, locked = split(params, rules)
    if locked_dtype is not None:
        locked = jax.tree.map(
            lambda x: x.astype(locked_dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, locked
        )
    opt = jax.eval_shape(tx.init, tuned)
    placed = shardings(State(jax.ShapeDtypeStruct((), jnp.int32), tuned, locked, opt), mesh, layout)
    tuned, locked = (jax.tree.map(_place, *pair) for pair in ((tuned, placed.tuned), (locked, placed.locked)))
    opt = jax.jit(tx.init, out_shardings=placed.opt)(tuned)
    return State(_place(np.int32(0), placed.step), tuned, locked, opt)


def abstract_state(
    params: Params,
    rules: Rules,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    locked_dtype: DTypeLike,
    layout: Layout = RULES,
) -> State:
    """What `init_state` would make, as shapes with shardings: nothing is computed, and `mesh` need not exist here."""
    tuned, locked = split(params, rules)
    locked = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, locked_dtype), locked)
    opt = jax.eval_shape(tx.init, tuned)
    state = State(jax.ShapeDtypeStruct((), jnp.int32), tuned, locked, opt)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        shardings(state, mesh, layout),
    )


def _place(leaf: Any, sharding: NamedSharding) -> Array:
    # A step gives its state's buffers away, and device_put shares those that lie in the right place already, even
    # with may_alias=False (jax 0.10). Leaf by leaf, so that no second set of parameters is ever held.
    return jnp.copy(put(leaf, sharding))


def make_train_step(
    module: nn.Module,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    pixels: Pixels | None = None,
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
    (see `accumulate`). `how`, `chunk` and `label_smoothing` are those of `losses.contrastive_loss`; with
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
            {"params": merge(tuned, locked)},
            **normalised(inputs),
            train=tuple(tower for tower in train if tower in tuned),
            rngs={"dropout": key},
        )
        return outputs[:2]

    def pool(tuned: Params, locked: Params, images: Array) -> Array:
        params = {"params": merge(tuned, locked)}
        pooled: Any = module.apply(params, normalised({"images": images})["images"], method="pool_images")
        return pooled

    def compare(
        images: Array, texts: Array, groups: tuple[Array, ...], tuned: Params, locked: Params
    ) -> Float[Array, ""]:
        params = merge(tuned, locked)
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
        scale = merge(tuned, state.locked)["logit_scale"]
        metrics = {
            "loss": value,
            "grad_norm": norm,
            "skipped": skipped.astype(jnp.float32),
            "logit_scale": jnp.exp(scale.astype(jnp.float32)),
        }
        if monitor_every:
            used = jnp.exp(merge(state.tuned, state.locked)["logit_scale"])
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


class Embed(NamedTuple):
    """Jitted functions of a model on a mesh. Rows come in and go out split over its devices; dropout is off."""

    images: Callable[[Params, Array], Array]  # uint8 [B S S 3] -> unit embeddings [B E], float32.
    texts: Callable[[Params, Mapping[str, Array]], Array]  # int32 [B N] each -> unit embeddings [B E].
    pool: Callable[[Params, Array], Array]  # uint8 [B S S 3] -> the image tower's pooled output [B Dv].
    pooled: Callable[[Params, Array], Array]  # What `pool` gave -> unit embeddings [B E], float32.


def make_embed_step(module: nn.Module, mesh: Mesh, pixels: Pixels, dtype: DTypeLike = jnp.float32) -> Embed:
    """The functions that embed with `module`; `mesh`'s devices must divide B (`sharding.check_batch`)."""
    rows = NamedSharding(mesh, BATCH)

    def split_rows(tree: Any) -> Any:
        return lax.with_sharding_constraint(tree, jax.tree.map(lambda _: rows, tree))

    def normalise(images: UInt8[Array, "B S S 3"]) -> Float[Array, "B S S 3"]:
        return pixels.normalise(split_rows(images), dtype)

    @jax.jit
    def images(params: Params, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B E"]:
        return split_rows(module.apply({"params": params}, images=normalise(images))[0])

    @jax.jit
    def texts(params: Params, texts: Mapping[str, Array]) -> Float[Array, "B E"]:
        return split_rows(module.apply({"params": params}, texts=split_rows(dict(texts)))[1])

    @jax.jit
    def pool(params: Params, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B Dv"]:
        return split_rows(module.apply({"params": params}, normalise(images), method="pool_images"))

    @jax.jit
    def pooled(params: Params, pooled: Float[Array, "B Dv"]) -> Float[Array, "B E"]:
        return split_rows(module.apply({"params": params}, pooled_images=split_rows(pooled))[0])

    return Embed(images, texts, pool, pooled)
