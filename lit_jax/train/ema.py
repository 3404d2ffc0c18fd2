"""The moving average of the tuned weights: what a run with `optim.ema` evaluates and exports.

Averages over the steps generalise better than the last weights, and forgive a learning rate that is still high (Polyak
and Juditsky, 1992; arXiv:1803.05407). The average is in float32, begins as the weights themselves, and is not corrected
for that: it holds decay**n of the first weights after n steps.
"""

import jax
import jax.numpy as jnp

from lit_jax.utils.typing import Params


def begun(tuned: Params) -> Params:
    """The average before the first step: a copy of `tuned` in float32, which lies where they lie."""
    return jax.tree.map(lambda x: jnp.copy(x.astype(jnp.float32)), tuned)


def moved(average: Params, tuned: Params, decay: float) -> Params:
    """decay * average + (1 - decay) * tuned, in the form that rounds least."""
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new.astype(jnp.float32) - old), average, tuned)
