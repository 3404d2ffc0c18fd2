"""What a run holds on its mesh, and how it is made."""

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
    """All that a checkpoint holds. The optimiser never sees the locked weights."""

    step: Any  # int32 []: steps done.
    tuned: Params
    locked: Params
    opt: optax.OptState  # For the tuned weights only.
    ema: Params = dataclasses.field(default_factory=dict)  # Average of the tuned weights, if one is kept.

    @property
    def evaluated(self) -> Params:
        """The params that are evaluated: with the average of the tuned weights in their place, if there is one."""
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
    """The state before the first step, on `mesh`; what is placed there is a copy of `params`.

    The towers `on_host` stay the numpy arrays of `params`, unless they have to be cast, where they are locked whole: a
    step reads their cached outputs instead.
    Locked floating-point leaves but statistics are held in `locked_dtype` where one is given; `layout` says what lies
    where (`sharding.fsdp_rules`); with `average` the state has that of the tuned weights (`ema`). Raises ConfigError as
    `partition.partition` does.
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
    """What `init_state` would make, as shapes with shardings: nothing is computed, and `mesh` need not exist here."""
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
        # Statistics are locked in a tuned tower too, and exported with it.
        stays = re.fullmatch(STATISTICS, path) or not jnp.issubdtype(x.dtype, jnp.floating)
        return x if stays else x.astype(dtype, copy=False)

    return map_with_path(cast, locked)


def _place(leaf: Any, sharding: NamedSharding) -> Array:
    # A step gives its state's buffers away, and device_put shares those that already lie in the right place, even
    # with may_alias=False (jax 0.10). Leaf by leaf, so that no second set of parameters is ever held.
    return jnp.copy(put(leaf, sharding))
