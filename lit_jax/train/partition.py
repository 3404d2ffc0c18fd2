"""What is tuned and what is locked: lock letters and rules, and params split into two parts and combined again.

The rules are rows of (regex over parameter paths, "lock" or "tune"): see `utils.path_rules`. A regex can also match the
path of a single layer, "text/layers/3/mlp/up/kernel": then the rows of a stacked leaf are locked one by one, and locked
rows have no gradient and no moments.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from flax import traverse_util

from lit_jax.train import adapters
from lit_jax.train.adapters import lock_rows
from lit_jax.train.layer_rows import cut, depths, joined, row_path
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.path_rules import Rules, compile_patterns, first_match
from lit_jax.utils.typing import Params

LETTERS = {
    "L": "lock",  # Pretrained and locked.
    "U": "tune",  # Pretrained and tuned.
    "A": "lock",  # Pretrained and locked, with adapters that are tuned.
    "u": "tune",  # From scratch and tuned: this tower's weights are not loaded.
}


def lock_rules(lock: str, *, first: Sequence[tuple[str, str]] = (), fresh: Iterable[str] = ()) -> Rules:
    """Two letters, image tower then text tower (LiT, arXiv:2111.07991) -> rows of (regex, "lock" or "tune").

    `L` is pretrained and locked, `U` pretrained and tuned, `A` locked with tuned adapters (`adapters`), `u` from
    scratch and tuned; projections and scalars are tuned. Rows in `first` come before all others. `fresh` names leaves
    that were in no checkpoint (a new pooler): they stay tuned inside a locked tower.
    Raises ConfigError for other letters, an action that is neither "lock" nor "tune", and a broken regex.
    """
    if len(lock) != len(TOWERS) or not set(lock) <= LETTERS.keys():
        raise ConfigError(
            f"lock_towers={lock!r} is not a lock: wanted two letters, image tower then text tower, each L (pretrained, "
            f"locked), U (pretrained, tuned), A (pretrained, locked, with adapters that are tuned) or u (from scratch, "
            f"tuned), for instance 'LU'"
        )
    for pattern, action in first:
        if action not in ("lock", "tune"):
            raise ConfigError(f"lock rule {pattern!r} says {action!r}: wanted 'lock' or 'tune'")
    rules = (
        *((pattern, action) for pattern, action in first),
        *((re.escape(path), "tune") for path in fresh),
        *(
            row
            for tower, letter in zip(TOWERS, lock, strict=True)
            if letter == adapters.LETTER
            for row in lock_rows(tower)
        ),
        *((f"{tower}/.*", LETTERS[letter]) for tower, letter in zip(TOWERS, lock, strict=True)),
        (r".*", "tune"),
    )
    compile_patterns(pattern for pattern, _ in rules)
    return rules


def partition(params: Params, rules: Rules) -> tuple[Params, Params]:
    """`params` -> (tuned, locked) by `rules`; a leaf without a rule is tuned. `combine` is the inverse.

    A stacked leaf with only some layers locked is cut in two (`layer_rows`). Raises ConfigError if no leaf would be
    tuned.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    halves: dict[str, dict[str, Any]] = {"tune": {}, "lock": {}}
    stacked = depths(flat)
    for path, leaf in flat.items():
        actions = actions_of(path, stacked.get(path), rules)
        for action in ("tune", "lock"):
            rows = [row for row, own in enumerate(actions) if own == action]
            if rows:
                name, part = (path, leaf) if len(rows) == len(actions) else cut(path, leaf, rows)
                halves[action][name] = part
    if not halves["tune"]:
        raise ConfigError("the lock rules leave no parameter to tune: unlock a tower or a projection")
    return tuple(traverse_util.unflatten_dict(half, sep="/") for half in halves.values())


def actions_of(path: str, depth: int | None, rules: Rules) -> list[str]:
    """What `rules` say about a leaf, "lock" or "tune"; for a stacked leaf of `depth` layers, about each layer."""
    if not depth:
        return [first_match(path, rules, "tune")]
    return [first_match((path, row_path(path, row)), rules, "tune") for row in range(depth)]


def combine(tuned: Params, locked: Params) -> Params:
    """The inverse of `partition`; adapters are added to their kernels, in float32."""
    flat = traverse_util.flatten_dict(locked, sep="/") | traverse_util.flatten_dict(tuned, sep="/")
    return traverse_util.unflatten_dict(adapters.merged(joined(flat)), sep="/")
