"""Tables of (regex over parameter paths, value): the one matcher of locks, decay, learning rates and layouts.

A path is what leads to a leaf, "text/layers/mlp/up/kernel". A regex must match all of it, and in every table
the first row that matches decides.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from flax import traverse_util

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params

Rules = tuple[tuple[str, Any], ...]


def first_match(path: str, rules: Rules, default: Any) -> Any:
    """The value of the first row whose regex matches all of `path`, else `default`."""
    return next((value for pattern, value in rules if re.fullmatch(pattern, path)), default)


def check_patterns(patterns: Iterable[str], params: Params, what: str) -> None:
    """Raises ConfigError for a regex that matches no path in `params`: a typo that would go unseen.

    `what` names the setting in the message, for instance "lr_multipliers".
    """
    paths = list(traverse_util.flatten_dict(params, sep="/"))
    for pattern, regex in compile_patterns(patterns):
        if not any(map(regex.fullmatch, paths)):
            close = get_close_matches(pattern, paths, n=1, cutoff=0.0)
            raise ConfigError(
                f"{what}: {pattern!r} matches none of the {len(paths)} parameter paths, the most similar "
                f"being {' '.join(close)!r}: correct the regex, which must match a whole path, or drop it"
            )


def by_path(tree: Params, rules: Rules, default: Any) -> Params:
    """A tree like `tree` that holds in place of each leaf the value that `rules` give its path."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    values = {path: first_match(path, rules, default) for path in flat}
    return traverse_util.unflatten_dict(values, sep="/")


def compile_patterns(patterns: Iterable[str]) -> list[tuple[str, re.Pattern]]:
    compiled = []
    for pattern in patterns:
        try:
            compiled.append((pattern, re.compile(pattern)))
        except re.error as error:
            raise ConfigError(f"{pattern!r} is not a regex over parameter paths: {error}") from error
    return compiled
