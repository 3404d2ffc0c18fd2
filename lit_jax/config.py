"""What a config may say: every field of a run with its type and default, and the reading of one."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from lit_jax.utils.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The towers and what is done with them."""

    vision: str  # Folder or Hub id of the image tower. Empty: made of vision_config, from scratch.
    text: str  # Folder or Hub id of the text tower. Empty: likewise.
    lock: str = "LU"  # Image tower, text tower: L locked, U tuned, u from scratch (LiT, arXiv:2111.07991).
    lock_rules: tuple[tuple[str, str], ...] = ()  # (regex over paths, "lock" or "tune"), before the letters.
    projection_dim: int = 512
    vision_pooling: str = "pooler"  # "cls": the raw CLS token.
    text_pooling: str = "pooler"  # "cls", "mean", "tanh": of types that have none of their own.
    allow_pickle: bool = False  # Read pytorch_model.bin where a tower has nothing else.
    logit_scale_init: float = 2.6592  # ln(1 / 0.07)
    logit_bias_init: float | None = None  # Of the sigmoid loss; None: -10 there, as in SigLIP.
    max_logit_scale: float | None = None  # Bound on exp(logit_scale); CLIP has 100.
    dtype: str = "auto"  # Of the arithmetic: bfloat16 on accelerators, float32 on CPU.
    locked_dtype: str = "float32"  # Of the locked weights in memory.
    remat: str = (
        "products"  # What is computed twice: "none", "products", "narrow", "full" (models/layers/spec.py).
    )
    # "rows": our kernel for TPUs; "splash": JAX's own there; "cudnn" for GPUs; "xla". "auto": the first that fits.
    attention: str = "auto"
    unroll: int = 1  # Layers in one turn of the loop over them.
    # Fields of the towers' configs that take the place of the folders' own (dropout); `plan`, which reads no folder,
    # knows the towers by these numbers alone.
    vision_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    text_config: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is trained and evaluated on, as source specs: tfds:..., folder:..., wds:..., parquet:..."""

    train: str | tuple[tuple[str, float], ...]  # A mixture: (spec, weight) each.
    test: str = ""  # Empty: no evaluation.
    caption: str = ""  # The feature, column or key that the captions are in; empty: it is found.
    text_length: int = 64  # Tokens, with padding.
    decode: str = "fast"  # Of training: "fast", "turbo" (an extra) or "exact"; evaluation is always exact.
    # "flip", "crop", "crop_flip" or "randaugment" (`transforms/augment.py`). A flip swaps left and right.
    augment: str = "none"
    on_bad_record: str = "skip"
    threads: int | None = None  # That decode; None: one a core.
    workers: int = (
        0  # Processes that decode, in place of threads, where one Python does not keep all cores busy.
    )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: str = "adamw"  # Or "lion", "adafactor", "muon" (train/optim.py).
    mu_dtype: str = "float32"  # Of the first moment.
    peak_lr: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 0
    end_lr: float = 0.0
    weight_decay: float = 1e-4
    clip_norm: float | None = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    lr_multipliers: tuple[tuple[str, float], ...] = ()  # (regex over paths, factor); first match wins.


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh; -1 takes what the other leaves."""

    data: int = -1
    fsdp: int = 1
    fsdp_rules: tuple[
        tuple[str, str], ...
    ] = ()  # (regex over paths, "split" or "whole"), before those of parallel/sharding.py.


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run. Everything that changes its numbers is here."""

    steps: int
    batch_size: int  # Pairs, over all devices.
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    micro_batch: int = 0  # Pairs in memory at once, all negatives kept; 0: the whole batch.
    loss: str = "softmax"
    loss_how: str = "gathered"  # Or "ring", where no device holds the texts of all.
    loss_chunk: int = 0  # Columns of logits at a time; 0: all.
    label_smoothing: float = 0.0
    mask_duplicates: bool = False  # Pairs of one picture or one text are no negatives of each other.
    cache: bool = False  # Compute the locked image tower's outputs once.
    log_every: int = 10  # Steps.
    monitor_every: int = (
        0  # Steps after which `monitors` (rank, alignment ... of the batch) are written; 0: never.
    )
    eval_every: int = 0  # Steps; 0: before the first and after the last.
    save_every: int = 100  # Steps.
    keep: int = 3  # Checkpoints, the newest.
    keep_best: int = (
        0  # And so many of the best by `best_metric`, of those at whose step there was an evaluation.
    )
    best_metric: str = "test/text_to_image_recall@1"
    best_mode: str = "max"  # Or "min".
    stall_limit: float = 1800.0  # Seconds without a step after which the run ends; 0: never.
    topology: str = (
        ""  # The TPU slice that the recipe was planned for, for instance "v5e:2x4": see `lit-jax plan`.
    )


# What may differ when a run goes on: none of it changes what is learnt, beyond rounding.
FREE = frozenset(
    """topology stall_limit log_every monitor_every eval_every save_every keep keep_best best_metric best_mode
    data.threads data.workers mesh.data mesh.fsdp mesh.fsdp_rules model.unroll model.remat model.attention""".split()
)


def read_config(config: Any, *, empty: frozenset[str] = frozenset()) -> TrainConfig:
    """A ConfigDict or dict (the former is no Mapping) -> Recipe.

    Fields in `empty` ("data.train") may be empty though a run cannot do without them. Raises ConfigError naming the
    field that is unknown, missing or of a wrong type.
    """
    recipe = _read(TrainConfig, config, "", empty | _described(config))
    for name in ("steps", "batch_size", "log_every", "save_every", "keep"):
        if getattr(recipe, name) < 1:
            raise ConfigError(f"config.{name} is {getattr(recipe, name)}; wanted at least 1")
    return recipe


def _described(config: Any) -> frozenset[str]:
    """The towers that need no folder, since their numbers are in the config."""
    model = config["model"] if "model" in config and hasattr(config["model"], "items") else {}
    return frozenset(f"model.{tower}" for tower in ("vision", "text") if model.get(f"{tower}_config"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`field: old, now new` for every field that differs and is not free to."""
    before, after = _flat(old), _flat(new)
    names = sorted((before.keys() | after.keys()) - FREE)
    return [
        f"{name}: {before.get(name)!r}, now {after.get(name)!r}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _read(cls: type, config: Any, prefix: str, empty: frozenset[str]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in config:
        if name not in fields:
            close = get_close_matches(name, fields, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(fields)}"
            raise ConfigError(f"config.{prefix}{name} does not exist; {hint}")
    values = {}
    for name, field in fields.items():
        if name in config:
            values[name] = _value(hints[name], config[name], prefix + name, empty)
            required = field.default is dataclasses.MISSING and prefix + name not in empty
            if values[name] == "" and required and field.default_factory is dataclasses.MISSING:
                raise ConfigError(f"config.{prefix}{name} is empty; the run cannot do without it")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"config.{prefix}{name} is missing; the run cannot do without it")
    return cls(**values)


def _value(hint: Any, value: Any, path: str, empty: frozenset[str] = frozenset()) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not hasattr(value, "items"):
            raise ConfigError(f"config.{path} is {value!r}; wanted a group of fields")
        return _read(hint, value, path + ".", empty)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    pairs = [kind for kind in kinds if typing.get_origin(kind) is tuple and isinstance(value, tuple | list)]
    kind = (pairs or kinds)[0]
    if typing.get_origin(kind) is dict:
        if not hasattr(value, "items"):
            raise ConfigError(f"config.{path} is {value!r}; wanted a group of fields")
        return {str(name): list(item) if isinstance(item, tuple) else item for name, item in value.items()}
    if typing.get_origin(kind) is tuple:
        return _pairs(typing.get_args(typing.get_args(kind)[0])[1], value, path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"config.{path} is {value!r}; wanted {kind.__name__}")
    return value


def _pairs(kind: type, value: Any, path: str) -> tuple[tuple[str, Any], ...]:
    """`value` as (text, `kind`) pairs; a whole number is a float too."""
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, tuple | list) or not all(
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and type(pair[0]) is str
        and type(pair[1]) in accepted
        for pair in value
    ):
        raise ConfigError(f"config.{path} is {value!r}; wanted pairs of a text and a {kind.__name__}")
    return tuple((name, kind(item)) for name, item in value)
