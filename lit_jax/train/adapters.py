"""Low-rank adapters of a locked tower (LoRA, arXiv:2106.09685): its kernel W is used as W + (alpha / rank) a b.

The adapters are params of their tower. Beside "text/layers/attn/query/kernel" there are
"text/adapters/layers/attn/query/a/kernel" [L, rows, rank] and ".../b/kernel" [L, rank, columns], which are tuned, and
one "text/adapters/alpha" for all of them, which is locked. So locks, decay, learning rates, layouts, checkpoints and
averages treat them like any other leaves, and encoders need no code for them: `partition.combine` adds the products to
the kernels, within the function that is differentiated.
"""

import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lit_jax.config import ModelConfig
from lit_jax.train.muon import matrix_of
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.path_rules import Rules, check_patterns, first_match
from lit_jax.utils.typing import Params

LETTER = "A"
_NODE, _ALPHA = "adapters", "alpha"
_A, _B = "/a/kernel", "/b/kernel"  # The path endings of a pair, in place of "/kernel".


def adapted(model: ModelConfig) -> list[str]:
    """The towers that have adapters."""
    return [tower for tower, letter in zip(TOWERS, model.lock_towers, strict=True) if letter == LETTER]


def lock_rows(tower: str) -> Rules:
    """The rules that tune the adapters; they come before the rule that locks the whole `tower`."""
    return ((f"{tower}/{_NODE}/{_ALPHA}", "lock"), (f"{tower}/{_NODE}/.*", "tune"))


def with_adapters(params: Params, model: ModelConfig, seed: int = 0) -> Params:
    """`params` with adapters in the towers with the letter A, for the kernels that `model.lora_targets` match.

    As in peft, every `a` is drawn from the uniform distribution of a PyTorch layer and every `b` is zero, so that
    training starts from the unchanged model. A leaf depends only on `seed` and its path. If `params` are shapes, so is
    the result. Raises ConfigError for a target that matches no kernel or one that is not a matrix, and for a tower in
    which no kernel matches.
    """
    towers, targets, rank, alpha = adapted(model), model.lora_targets, model.lora_rank, model.lora_alpha
    flat = traverse_util.flatten_dict(params, sep="/")
    kernels = [path for path in flat if path.partition("/")[0] in towers and path.endswith("/kernel")]
    if towers:
        check_patterns(targets, kernels, "model.lora_targets")
    for tower in towers:
        chosen = [
            path for path in kernels if path.startswith(f"{tower}/") and first_match(path, _any(targets))
        ]
        if not chosen:
            raise ConfigError(
                f"config.model.lora_targets match no kernel of {tower}/, and lock_towers={model.lock_towers!r} wants "
                f"adapters there: name some, for instance '{tower}/layers/attn/.*', or write another letter"
            )
        flat[f"{tower}/{_NODE}/{_ALPHA}"] = np.int32(alpha)
        for path in chosen:
            flat |= _pair(path, flat[path], rank, seed)
    return traverse_util.unflatten_dict(flat, sep="/")


def merged(leaves: dict[str, Any]) -> dict[str, Any]:
    """The params by their paths, without adapters: what these add is in the kernels, summed in float32."""
    rest = {path: leaf for path, leaf in leaves.items() if f"/{_NODE}/" not in path}
    for path, kernel, a, b, alpha in _pairs(leaves):
        rest[path] = _sum(path, kernel, a, b, alpha)
    return rest


def _any(patterns: tuple[str, ...]) -> Rules:
    return tuple((pattern, True) for pattern in patterns)


def _pair(path: str, kernel: Any, rank: int, seed: int) -> dict[str, Any]:
    """The two leaves, a and b, for one kernel."""
    stack, rows, columns, _ = _axes(path, kernel)
    rng = np.random.default_rng((seed, zlib.crc32(path.encode())))
    # Kaiming's uniform distribution for a slope of sqrt(5), as in the initialisation of torch.nn.Linear.
    bound = rows**-0.5
    a = rng.uniform(-bound, bound, (*stack, rows, rank)).astype(np.float32)
    pair: dict[str, Any] = {_A: a, _B: np.zeros((*stack, rank, columns), np.float32)}
    if isinstance(kernel, jax.ShapeDtypeStruct):
        pair = {end: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for end, leaf in pair.items()}
    tower, _, inner = path.removesuffix("/kernel").partition("/")
    return {f"{tower}/{_NODE}/{inner}{end}": leaf for end, leaf in pair.items()}


def _pairs(leaves: dict[str, Any]) -> Iterator[tuple[str, Any, Any, Any, Any]]:
    """(path of a kernel, the kernel, its a, its b, alpha) for every adapter."""
    for path, a in leaves.items():
        tower, found, inner = path.partition(f"/{_NODE}/")
        if found and path.endswith(_A):
            name = inner.removesuffix(_A)
            kernel = f"{tower}/{name}/kernel"
            b, alpha = leaves[f"{tower}/{_NODE}/{name}{_B}"], leaves[f"{tower}/{_NODE}/{_ALPHA}"]
            yield kernel, leaves[kernel], a, b, alpha


def _sum(path: str, kernel: Any, a: Any, b: Any, alpha: Any) -> Any:
    """kernel + (alpha / rank) a b."""
    if isinstance(kernel, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(kernel.shape, jnp.float32, sharding=kernel.sharding)
    stack, _, _, order = _axes(path, kernel)
    on_host = all(isinstance(leaf, np.ndarray) for leaf in (kernel, a, b))
    scale = alpha.astype(np.float32) / np.float32(a.shape[-1])
    product = np.matmul(a, b) if on_host else jnp.matmul(a, b, precision="highest")
    split = (*stack, *(kernel.shape[axis] for axis in order[len(stack) :]))
    return kernel.astype(np.float32) + scale * product.reshape(split).transpose(np.argsort(order))


def _axes(path: str, kernel: Any) -> tuple[tuple[int, ...], int, int, list[int]]:
    """The sizes of a kernel's stacked axes, its rows and its columns, and all of its axes in this order.

    Raises ConfigError for the kernel of a convolution.
    """
    axes = len(kernel.shape)
    sides = matrix_of(path, axes) or (((-2,), (-1,)) if axes == 2 else None)
    if sides is None:
        raise ConfigError(
            f"config.model.lora_targets match {path} of shape {list(kernel.shape)}, which is no matrix of a linear "
            "layer: leave it out"
        )
    rows, columns = ([axis % axes for axis in side] for side in sides)
    stack = [axis for axis in range(axes) if axis not in (*rows, *columns)]
    size = [int(np.prod([kernel.shape[axis] for axis in side])) for side in (rows, columns)]
    return tuple(kernel.shape[axis] for axis in stack), size[0], size[1], [*stack, *rows, *columns]
