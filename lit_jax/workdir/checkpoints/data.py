"""What a checkpoint holds, and its JSON: what a run says about its data, and two keys of our own."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from etils import epath

import lit_jax
from lit_jax.utils import checksums, strict_json
from lit_jax.utils.errors import CheckpointError
from lit_jax.utils.typing import Params

ITEM = "data"  # The folder in a checkpoint.
VERSION = "lit_jax"  # The version that wrote the checkpoint.
STEP = "lit_jax_step"  # The step at which it was saved, whatever its folder is called now.
_FORMER_STEP = "next_batch"  # The same key in older versions.


class Saved(NamedTuple):
    """A checkpoint without its optimiser: weights as numpy arrays, and the data saved with them."""

    step: int
    tuned: Params
    locked: Params
    data: dict[str, Any]
    ema: Params  # The average of the tuned weights; {} if the run keeps none.


def with_ours(data: Mapping[str, Any], step: int) -> dict[str, Any]:
    """`data` as it is written in the checkpoint of `step`."""
    return {**data, STEP: step, VERSION: lit_jax.__version__}


def read_data(folder: epath.Path) -> tuple[dict[str, Any], int | None]:
    """(`data`, the step that it was written for) of a checkpoint; the step is None if an old version did not record it.

    Raises CheckpointError.
    """
    path = folder / ITEM / "metadata"
    try:
        data = strict_json.parse(
            checksums.retried(partial(checksums.read, path), path), odd=strict_json.refuse
        )
        step = data.get(STEP, data.get(_FORMER_STEP))
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): put a copy of it back, or move its step away to continue from the one "
            "before"
        ) from error
    ours = {key: value for key, value in data.items() if key not in (STEP, VERSION)}
    return ours, step if isinstance(step, int) else None
