"""Tables of (regex over parameter paths, value): the one matcher of locks, decay, learning rates, layouts and Muon.

A path names a leaf of the params: "text/layers/mlp/up/kernel". A regex must match the whole path, and in every table
the first row that matches decides.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import jax

from lit_jax.utils.errors import ConfigError

Rules = Sequence[tuple[str, Any]]
# Marks the rows in the path of a leaf with only some rows of stacked layers: see `train.layer_rows`.
ROWS = re.compile(r"@[0-9+-]+")


def first_match(path: str | tuple[str, ...], rules: Rules, default: Any = None) -> Any:
    """The value of the first row whose regex matches the whole `path`, or one of several paths; else `default`."""
    names = (path,) if isinstance(path, str) else path
    return next(
        (value for pattern, value in rules if any(re.fullmatch(pattern, name) for name in names)), default
    )


def whole_path(path: str) -> str:
    """The path of the leaf that the leaf at `path` was cut from; for any other leaf, `path` itself."""
    return ROWS.sub("", path)


def by_path(tree: Any, rules: Rules, default: Any = None) -> Any:
    """A tree like `tree`, with the value that `rules` give for its path in place of each leaf."""
    return map_with_path(lambda path, _: first_match(path, rules, default), tree)


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """`function(path, leaf)` for every leaf, as a tree like `tree`; the path is the `whole_path`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(whole_path(jax.tree_util.keystr(path, simple=True, separator="/")), leaf),
        tree,
    )


def check_patterns(patterns: Iterable[str], paths: Sequence[str], what: str) -> None:
    """Raises ConfigError for a broken regex, and for one that matches none of the `paths`, for instance with a typo.

    `what` names the setting in the message, for instance "optim.lr_multipliers".
    """
    for pattern, regex in compile_patterns(patterns):
        if not any(map(regex.fullmatch, paths)):
            close = get_close_matches(pattern, paths, n=1, cutoff=0.0)
            raise ConfigError(
                f"{what}: {pattern!r} matches none of the {len(paths)} parameter paths, the most similar "
                f"being {' '.join(close)!r}: correct the regex, which must match a whole path, or drop it"
            )


def compile_patterns(patterns: Iterable[str]) -> list[tuple[str, re.Pattern]]:
    """(pattern, compiled regex) for each pattern. Raises ConfigError for one that is not a regex."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append((pattern, re.compile(pattern)))
        except re.error as error:
            raise ConfigError(f"{pattern!r} is not a regex over parameter paths: {error}") from error
    return compiled
