"""The state of a run on its mesh, and how it is made."""

import dataclasses
import re
from collections.abc import Collection
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array

from lit_jax.models.layers.norm import STATISTICS
from lit_jax.parallel.sharding import RULES, put, shardings
from lit_jax.parallel.sharding import Rules as Layout
from lit_jax.train import ema
from lit_jax.train.partition import combine, partition
from lit_jax.utils.path_rules import Rules, map_with_path
from lit_jax.utils.typing import Params


@chex.dataclass(frozen=True, mappable_dataclass=False)
class State:
    """The state that a checkpoint stores. The optimiser never sees the locked weights."""

    step: Any  # int32 []: the number of steps done.
    tuned: Params
    locked: Params
    opt: optax.OptState  # For the tuned weights only.
    ema: Params = dataclasses.field(default_factory=dict)  # The average of the tuned weights, if it is kept.

    @property
    def evaluated(self) -> Params:
        """The params to evaluate, with the average of the tuned weights in their place if there is one."""
        return combine(self.ema or self.tuned, self.locked)


def init_state(
    params: Params,
    rules: Rules,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    locked_dtype: DTypeLike | None = None,
    layout: Layout = RULES,
    on_host: Collection[str] = (),
    average: bool = False,
) -> State:
    """The state before the first step, on `mesh`, where it is a copy of `params`.

    The towers `on_host` stay numpy arrays if they are completely locked, since a step reads their cached outputs
    instead. Locked floating-point leaves except statistics are cast to `locked_dtype`, if given; `layout` is the
    sharding (`sharding.fsdp_rules`); with `average` the state has an average of the tuned weights (`ema`). Raises
    ConfigError as `partition.partition` does.
    """
    tuned, locked = partition(params, rules)
    locked = _cast(locked, locked_dtype)
    opt = jax.eval_shape(tx.init, tuned)
    state = State(step=jax.ShapeDtypeStruct((), jnp.int32), tuned=tuned, locked=locked, opt=opt)
    placed = shardings(state, mesh, layout)
    tuned = jax.tree.map(_place, tuned, placed.tuned)
    locked = {
        name: jax.tree.map(np.asarray, part)
        if name in on_host and name not in tuned
        else jax.tree.map(_place, part, placed.locked[name])
        for name, part in locked.items()
    }
    opt = jax.jit(tx.init, out_shardings=placed.opt)(tuned)
    first = ema.begun(tuned) if average else {}
    return State(step=_place(np.int32(0), placed.step), tuned=tuned, locked=locked, opt=opt, ema=first)


def abstract_state(
    params: Params,
    rules: Rules,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    locked_dtype: DTypeLike | None = None,
    layout: Layout = RULES,
    average: bool = False,
) -> State:
    """The result of `init_state` as shapes with shardings: nothing is computed, and `mesh` need not exist here."""
    tuned, locked = partition(params, rules)
    locked = jax.eval_shape(partial(_cast, dtype=locked_dtype), locked)
    opt = jax.eval_shape(tx.init, tuned)
    first = jax.eval_shape(ema.begun, tuned) if average else {}
    state = State(step=jax.ShapeDtypeStruct((), jnp.int32), tuned=tuned, locked=locked, opt=opt, ema=first)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        shardings(state, mesh, layout),
    )


def _cast(locked: Params, dtype: DTypeLike | None) -> Params:
    if dtype is None:
        return locked

    def cast(path: str, x: Any) -> Any:
        # Statistics are locked even in a tuned tower, and exported with it.
        stays = re.fullmatch(STATISTICS, path) or not jnp.issubdtype(x.dtype, jnp.floating)
        return x if stays else x.astype(dtype, copy=False)

    return map_with_path(cast, locked)


def _place(leaf: Any, sharding: NamedSharding) -> Array:
    # A step donates the buffers of its state, and device_put shares buffers that are already in the right place, even
    # with may_alias=False (jax 0.10). This copies leaf by leaf, so that there is never a second set of parameters.
    return jnp.copy(put(leaf, sharding))
