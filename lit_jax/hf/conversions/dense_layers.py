"""Converts a head to a sequence of sentence-transformers' layers, Dense and LayerNorm, and back.

A Dense layer computes activation(linear(x)), and with `use_residual` adds residual(x), which is a linear map without a
bias. No module adds two branches, so the skip of an MLP is carried along: each hidden layer outputs its own units and,
through the residual, the features beside them; the last layer reads both.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_jax.models.heads import Head
from lit_jax.utils.errors import ConfigError, WeightError

OUTPUT = "sentence_embedding"  # The name of what the modules behind a tower read and write.
ACTIVATIONS = {  # Our name -> the class of PyTorch, which sentence-transformers makes without arguments.
    "linear": "torch.nn.modules.linear.Identity",
    "gelu": "torch.nn.modules.activation.GELU",
    "relu": "torch.nn.modules.activation.ReLU",
    "silu": "torch.nn.modules.activation.SiLU",
    "swish": "torch.nn.modules.activation.SiLU",
    "tanh": "torch.nn.modules.activation.Tanh",
}


class NoHeadError(WeightError):
    """Raised for layers that form no head of ours."""


class Layer(NamedTuple):
    """A module behind a tower: the name of its class, its config.json and its tensors."""

    kind: str  # "Dense" or "LayerNorm".
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]


def dense(
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    activation: str = "linear",
    residual: np.ndarray | None = None,
) -> Layer:
    """A Dense layer with `weight` and `residual` [E D] and `bias` [E]."""
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": ACTIVATIONS[activation],
        "module_input_name": OUTPUT,
        "module_output_name": OUTPUT,
    }
    tensors = {"linear.weight": weight}
    if bias is not None:
        tensors["linear.bias"] = bias
    if residual is not None:
        tensors["residual.weight"] = residual
        config["use_residual"] = True
    return Layer("Dense", config, tensors)


def refusal(head: Head) -> str:
    """Why these layers cannot hold a head, as the beginning of a sentence; "" if they can."""
    if head.kind == "glu":
        return "a head of the kind glu multiplies two layers"
    if head.kind == "mlp" and head.activation not in ACTIVATIONS:
        return f"a head with the activation {head.activation} needs a class that PyTorch does not have"
    if head.kind == "mlp" and head.norm and head.skip:
        return "a head with norm and skip adds its features behind a LayerNorm"
    return ""


def layers(head: Head, own: Mapping[str, np.ndarray]) -> list[Layer]:
    """The layers that compute a head; `own` are its tensors by the names of `heads.weights`, without the head's name.

    Raises ConfigError for a head that they cannot hold.
    """
    if reason := refusal(head):
        raise ConfigError(f"{reason}, which no module of sentence-transformers does")
    scaled = []
    if head.standardise:  # Only an identity has it; folding merges it into other heads.
        scale = 1 / np.asarray(own["deviation"], np.float64)
        scaled = [dense(np.diag(scale).astype(np.float32), (-own["mean"] * scale).astype(np.float32))]
    if head.kind == "identity":
        return scaled
    if head.kind != "mlp":
        return [*scaled, dense(own["weight"], own.get("bias"))]
    found, count = [*scaled], len(head.hidden) or 1
    features = own["hidden.0.weight"].shape[1] if head.skip else 0
    start, width = 0, own["hidden.0.weight"].shape[1]  # Where the features start in the input, and its width.
    for i in range(count):
        weight, bias = own[f"hidden.{i}.weight"], own[f"hidden.{i}.bias"]
        if head.norm:
            norm = {"norm.weight": own[f"norm.{i}.weight"], "norm.bias": own[f"norm.{i}.bias"]}
            found += [dense(weight, bias), Layer("LayerNorm", {"dimension": len(weight)}, norm)]
            found += [dense(np.eye(len(weight), dtype=np.float32), activation=head.activation)]
        elif head.skip:
            found.append(_carrying(weight, bias, head.activation, (features, start, width)))
            start, width = len(weight), found[-1].config["out_features"]
        else:
            found.append(dense(weight, bias, head.activation))
    weight = own["out.weight"]
    if head.skip:
        weight = np.hstack([weight, own["skip.weight"]])
        weight = np.pad(weight, ((0, 0), (0, width - weight.shape[1])))
    return [*found, dense(weight, own["out.bias"])]


def _carrying(weight: np.ndarray, bias: np.ndarray, activation: str, carried: tuple[int, int, int]) -> Layer:
    """A hidden layer that also outputs the features; `carried` is their number, their start and the input's width.

    If it would be as wide as its input, it outputs one more zero: its residual would not be a map of its own.
    """
    features, start, width = carried
    units = len(weight)
    wide = units + features + (units + features == width)
    own, residual = np.zeros((2, wide, width), np.float32)
    own[:units, : weight.shape[1]] = weight
    residual[units : units + features, start : start + features] = np.eye(features)
    return dense(own, np.pad(bias, (0, wide - units)), activation, residual)


def of_patches(pooling: str, width: int, patches: int) -> Layer:
    """[CLS, mean of all tokens] -> the "mean" of the patches, or "cls_mean", if the CLS is the only other token.

    Pooling has only the mean of all tokens; the mean of the `patches` is a linear map of CLS and that mean.
    """
    eye, zero = np.eye(width), np.zeros((width, width))
    mean = np.hstack([-eye / patches, eye * (patches + 1) / patches])
    rows = mean if pooling == "mean" else np.vstack([np.hstack([eye, zero]), mean])
    return dense(rows.astype(np.float32))


def head_of(found: Sequence[Layer]) -> tuple[Head, dict[str, np.ndarray]]:
    """Anyone's Dense layers -> a head and its tensors, by the names of `heads.weights` without the head's name.

    Raises NoHeadError for layers that form no head of ours.
    """
    names = {path: name for name, path in ACTIVATIONS.items() if name != "swish"}
    acts = [names.get(layer.config["activation_function"]) for layer in found]
    if any(layer.kind != "Dense" or "residual.weight" in layer.tensors for layer in found) or None in acts:
        raise NoHeadError(
            "they are not all Dense with one of the activations linear, gelu, relu, silu and tanh"
        )
    if not found:
        return Head("identity"), {}
    parts: list[tuple[dict[str, np.ndarray], str | None]] = []
    for layer, act in zip(found, acts, strict=True):
        part = {name.removeprefix("linear."): array for name, array in layer.tensors.items()}
        if parts and parts[-1][1] == "linear":  # Two matrices in a row are one.
            part = _product(parts.pop()[0], part)
        parts.append((part, act))
    hidden, (last, act) = parts[:-1], parts[-1]
    if act != "linear" or len({act for _, act in hidden}) > 1:
        raise NoHeadError("the last Dense has an activation, or those before it have several")
    if not hidden:
        return Head("linear_bias" if "bias" in last else "linear"), last
    own: dict[str, np.ndarray] = {}
    for place, (part, _) in zip([*(f"hidden.{i}" for i in range(len(hidden))), "out"], parts, strict=True):
        own |= {f"{place}.weight": part["weight"]}
        own |= {f"{place}.bias": part.get("bias", np.zeros(len(part["weight"]), np.float32))}
    return Head("mlp", tuple(len(part["weight"]) for part, _ in hidden), str(hidden[0][1])), own


def _product(first: Mapping[str, np.ndarray], then: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two linear layers in a row, as one layer."""
    weight = np.asarray(then["weight"], np.float64)
    if first["weight"].ndim != 2 or weight.ndim != 2 or weight.shape[1] != len(first["weight"]):
        raise NoHeadError("their widths do not follow one another")
    both = {"weight": weight @ first["weight"]}
    if "bias" in first or "bias" in then:
        both["bias"] = weight @ first.get("bias", np.zeros(weight.shape[1])) + then.get("bias", 0.0)
    return {name: array.astype(np.float32) for name, array in both.items()}
