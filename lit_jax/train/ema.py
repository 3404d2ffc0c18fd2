"""The moving average of the tuned weights, which a run with `optim.ema` evaluates and exports.

Averages over steps generalise better than the last weights, and tolerate a learning rate that is still high (Polyak and
Juditsky, 1992; arXiv:1803.05407). The average is in float32 and starts as the initial weights, which is not corrected:
after n steps, decay**n of it are the initial weights.
"""

import jax
import jax.numpy as jnp

from lit_jax.utils.typing import Params


def begun(tuned: Params) -> Params:
    """The average before the first step: a float32 copy of `tuned` with the same sharding."""
    return jax.tree.map(lambda x: jnp.copy(x.astype(jnp.float32)), tuned)


def moved(average: Params, tuned: Params, decay: float) -> Params:
    """decay * average + (1 - decay) * tuned, in the form that rounds least."""
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new.astype(jnp.float32) - old), average, tuned)
