"""Checks that readers of timm's architectures share. All of them raise WeightError."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError


def check_architecture(where: Path, architecture: str, known: Sequence[str], what: str) -> None:
    """Raises WeightError for an architecture that is none of the `known` ones; `what` is their family, in plural."""
    if architecture not in known:
        raise WeightError(
            f"{where}: the architecture {shown(architecture)} of timm is not implemented; of its {what}, "
            f"{', '.join(known)} are"
        )


def check_arguments(
    where: Path, architecture: str, args: Mapping[str, Any], shown_or_inert: frozenset[str]
) -> None:
    """Raises WeightError for an argument that the tensors do not show and that changes the numbers."""
    for name, value in args.items():
        if name not in shown_or_inert:
            raise WeightError(f"{where}: {architecture} with {name}={shown(value)} is not implemented")


def check_pooling(where: Path, architecture: str, pooling: str, known: Sequence[str]) -> None:
    """Raises WeightError for a pooling that is none of the `known` ones."""
    if pooling not in known:
        *others, last = known
        names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise WeightError(
            f"{where}: {architecture} with the pooling {shown(pooling)} is not implemented; {names}"
        )


def kernel_shape(where: Path, source: Mapping[str, np.ndarray], name: str, what: str) -> tuple[int, ...]:
    """The shape of a convolution's kernel. Raises WeightError if it is missing, or not that of `what`."""
    if (tensor := source.get(name)) is None:
        raise WeightError(f"{where}: missing from the checkpoint: {name}")
    if tensor.ndim != 4:
        raise WeightError(f"{where}: the tensors of the image tower are not those of {what}")
    return tensor.shape
