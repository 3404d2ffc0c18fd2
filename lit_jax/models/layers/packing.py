"""Token packing: short texts share the rows of a text tower, and no token attends to one of another text.

A tower embeds and pools its texts one to a row, as usual; only its layers run on packed rows. `scan_layers` moves the
tokens there and back, so towers need no code for it. The host decides where each token goes (`data/packing.py`).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The keys of a packing in a batch of texts, int32 [T N] each.
SOURCE, TARGET = "packed_from", "packed_to"


def rows_for(texts: int, share: float) -> int:
    """The number of rows for `texts` texts; a share of 1 is one row for each."""
    return math.ceil(share * texts)


class Packing(NamedTuple):
    """The places of the tokens of T texts of N tokens in R rows of N slots, separately in G groups (the devices)."""

    source: Int[Array, "G RN"]  # Slot -> token, counted within its group; -1: the slot is empty.
    target: Int[Array, "G TN"]  # Token -> slot; -1: padding, which has none.
    length: int  # N

    def pack(self, x: Float[Array, "B N D"]) -> Float[Array, "P N D"]:
        """Moves tokens from their texts to the packed rows; empty slots are zero."""
        return self._moved(x, self.source, self.target)

    def unpack(self, x: Float[Array, "P N D"]) -> Float[Array, "B N D"]:
        """Undoes `pack`; padding is zero."""
        return self._moved(x, self.target, self.source)

    @property
    def mask(self) -> Bool[Array, "P 1 N N"]:
        """Which slots attend to each other: those of the same text, and empty slots among themselves."""
        texts = (self.source // self.length).reshape(-1, self.length)
        return (texts[:, :, None] == texts[:, None, :])[:, None]

    def _moved(self, x: Array, to: Array, back: Array) -> Array:
        groups, width = to.shape[0], x.shape[-1]
        return _moved(x.reshape(groups, -1, width), to, back).reshape(-1, self.length, width)


def packing_of(texts: Mapping[str, Array], groups: int, share: float) -> Packing | None:
    """The packing in a batch of texts, if there is one."""
    if SOURCE not in texts:
        return None
    count, length = texts[SOURCE].shape
    rows = rows_for(count // groups, share)
    source = texts[SOURCE].reshape(groups, -1, length)[:, :rows]
    return Packing(source.reshape(groups, -1), texts[TARGET].reshape(groups, -1), length)


def without_packing(texts: Mapping[str, Array]) -> dict[str, Any]:
    """The same texts without their packing, one to a row."""
    return {name: array for name, array in texts.items() if name not in (SOURCE, TARGET)}


@contextmanager
def shared_rows(packing: Packing | None) -> Iterator[None]:
    """A context in which `scan_layers` packs its inputs."""
    token = _CURRENT.set(packing)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Packing | None:
    """The packing of the tower that is being called."""
    return _CURRENT.get()


_CURRENT: ContextVar[Packing | None] = ContextVar("packing", default=None)


@jax.custom_vjp
def _moved(x: Float[Array, "G S D"], to: Int[Array, "G U"], back: Int[Array, "G S"]) -> Float[Array, "G U D"]:
    """Row u is row to[u] of `x`, or zero; `back` is the inverse, so that gradients are gathered, not scattered."""
    take = jax.vmap(lambda x, to: jnp.where(to[:, None] >= 0, x[jnp.maximum(to, 0)], 0))
    return take(x, to)


def _forward(x: Array, to: Array, back: Array) -> tuple[Array, tuple[Array, Array]]:
    return _moved(x, to, back), (to, back)


def _backward(indices: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    to, back = indices
    return _moved(gradient, back, to), None, None


_moved.defvjp(_forward, _backward)
