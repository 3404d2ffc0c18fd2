"""The state of a run: its weights, tuned and locked, and its optimiser, each where it belongs on a mesh."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array

from lit_jax.parallel.sharding import RULES, put, shardings
from lit_jax.parallel.sharding import Rules as Layout
from lit_jax.train.partition import partition
from lit_jax.utils.path_rules import Rules
from lit_jax.utils.typing import Params


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
    (`sharding.fsdp_rules`). Raises ConfigError as `partition.partition` does.
    """
    tuned, locked = partition(params, rules)
    locked = _held(locked, locked_dtype)
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
    locked_dtype: DTypeLike | None = None,
    layout: Layout = RULES,
) -> State:
    """What `init_state` would make, as shapes with shardings: nothing is computed, and `mesh` need not exist here."""
    tuned, locked = partition(params, rules)
    locked = jax.eval_shape(partial(_held, dtype=locked_dtype), locked)
    opt = jax.eval_shape(tx.init, tuned)
    state = State(jax.ShapeDtypeStruct((), jnp.int32), tuned, locked, opt)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        shardings(state, mesh, layout),
    )


def _held(locked: Params, dtype: DTypeLike | None) -> Params:
    if dtype is None:
        return locked
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, locked)


def _place(leaf: Any, sharding: NamedSharding) -> Array:
    # A step gives its state's buffers away, and device_put shares those that lie in the right place already, even
    # with may_alias=False (jax 0.10). Leaf by leaf, so that no second set of parameters is ever held.
    return jnp.copy(put(leaf, sharding))
