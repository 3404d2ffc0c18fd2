"""Folders of peft, which hold low-rank adapters (LoRA, DoRA) for a model that is elsewhere, as the merged model."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.hf import hub, model_folder
from lit_jax.hf.formats.flax_msgpack import File
from lit_jax.hf.formats.safetensors import SafetensorsFile
from lit_jax.hf.formats.torch_pickle import TorchFile
from lit_jax.hf.model_folder import ADAPTER, Tensors
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.weight_map import listed
from lit_jax.utils.errors import WeightError

CONFIG, PICKLE = "adapter_config.json", "adapter_model.bin"
# Fields of LoraConfig that are read here, or that change nothing once an adapter is trained.
_KNOWN = frozenset(
    """
    alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config
    exclude_modules inference_mode init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout
    lora_ga_config megatron_config megatron_core modules_to_save peft_type peft_version qalora_group_size r
    rank_pattern revision runtime_config target_modules task_type use_dora use_rslora
    """.split()
)
# The other values of init_lora_weights take something out of the model's own weights.
_INITS = (True, False, "gaussian", "eva", "orthogonal")
_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.weight)?"
)
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save)(?=\.)")


def _attention(inner: str) -> tuple[tuple[str, str], ...]:
    parts = {"q": "query", "k": "key", "v": "value"}
    projections = ((rf"\.attention\.{x}_proj\b", f".attention.{inner}.{part}") for x, part in parts.items())
    return (*projections, (r"\.attention\.o_proj\b", ".attention.output.dense"))


_MLP = ((r"\.mlp\.fc1\b", ".intermediate.dense"), (r"\.mlp\.fc2\b", ".output.dense"))
# How names in a model of transformers 5 become those in its files; the first row that fits all adapters counts.
_SPELLINGS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    ((r"(?<![^.])layers\.", "encoder.layer."), *_attention("attention"), *_MLP),  # ViT, DeiT, BEiT ...
    _attention("attention"),  # DINOv2.
    (*_attention("self"), *_MLP),  # Swin.
)


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter of peft, and no weights of a whole model."""
    return (folder / CONFIG).is_file() and not model_folder.has_weights(folder)


def base_of(folder: Path, *, weights: bool = True, allow_pickle: bool = False) -> Path:
    """The folder of the model that an adapter was trained for; without `weights`, a download has none.

    Raises WeightError if it is not found.
    """
    config = model_folder.read_json(folder / CONFIG)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not isinstance(revision, str | None):
        raise WeightError(
            f"{folder / CONFIG} has {shown(name)} as base_model_name_or_path and {shown(revision)} as revision; wanted "
            "the names of the model that the adapter was trained for"
        )
    try:
        if not weights:
            return hub.find_processor(name)
        return hub.find(name, revision=revision, allow_pickle=allow_pickle)
    except WeightError as error:
        raise WeightError(
            f"{folder} is an adapter of peft, and its model is not found: {error}; {CONFIG} names it in "
            "base_model_name_or_path"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model of transformers, or of the one that an adapter in `folder` belongs to.

    Raises WeightError.
    """
    return config_of(folder, base_of(folder)) if is_adapter(folder) else model_folder.read_config(folder)


def config_of(folder: Path, base: Path) -> dict[str, Any]:
    """The config.json of the model in `base`, for which `folder` holds an adapter. Raises WeightError."""
    config = model_folder.read_config(base)
    if "model_type" not in config:
        raise WeightError(
            f"{folder} is an adapter of peft for {base}, which is no model of transformers: merge it into its model"
        )
    return config


def tensors_of(folder: Path, *, allow_pickle: bool = False) -> Tensors:
    """The tensors of a model of transformers, or those of `merged`. Raises WeightError."""
    if not is_adapter(folder):
        return Tensors.of(folder, allow_pickle=allow_pickle)
    return merged(folder, base_of(folder, allow_pickle=allow_pickle), allow_pickle=allow_pickle)


def merged(folder: Path, base: Path, *, allow_pickle: bool = False) -> Tensors:
    """The tensors of the model in `base`; those that the adapter in `folder` changes are computed on access.

    W becomes W + s B A with s = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora, in float32. With use_dora
    (arXiv:2402.09353) each row of this sum is then scaled to the norm that the adapter holds. Raises WeightError for
    other methods than LoRA, and for tensors that do not fit the model.
    """
    config, file = _checked(folder), _weights(folder, allow_pickle)
    own = Tensors.of(base, allow_pickle=allow_pickle)
    parts: dict[str, dict[str, str]] = {}  # Module -> part -> name in the file.
    whole: dict[str, str] = {}  # Name in the model -> name in the file.
    for name in file.keys():  # noqa: SIM118 - not a mapping
        if match := _TENSOR.fullmatch(name):
            part = match["part"].removeprefix("embedding_")
            parts.setdefault(_WRAPPERS.sub("", match["module"]), {})[part] = name
        else:
            whole[_WRAPPERS.sub("", name).removeprefix("base_model.model.")] = name
    names = _in_base(folder, [f"{module}.weight" for module in parts], own)
    # Tensors that are stored whole replace those of the model, or are new; the adapters come on top of them.
    kept = {_renamed(name, names.prefix, names.spelling): stored for name, stored in whole.items()}
    where: dict[str, tuple[File, str]] = {name: (file, stored) for name, stored in kept.items()}
    under = Tensors.joined(own, Tensors(where))
    pairs = {}
    wanted = {"A", "B", "magnitude_vector"} if config.is_dora else {"A", "B"}
    for module, stored in parts.items():
        if stored.keys() != wanted:
            raise WeightError(
                f"the adapter in {folder} for {module} has the parts {listed(stored)}; wanted {listed(wanted)}"
            )
        target = names.places[f"{module}.weight"]
        pairs[target] = _Pair(file, stored, config.alpha(module), config.use_rslora)
    changed = _Merged(folder, under, pairs)
    return Tensors.joined(under, Tensors({name: (changed, name) for name in pairs}))


class _Config(NamedTuple):
    """What decides the numbers of an adapter."""

    lora_alpha: float
    alphas: Mapping[str, float]  # Endings of module names -> alpha there.
    use_rslora: bool
    is_dora: bool

    def alpha(self, module: str) -> float:
        """The alpha of a module."""
        fits = (alpha for name, alpha in self.alphas.items() if f".{module}".endswith(f".{name}"))
        return next(fits, self.lora_alpha)


def _checked(folder: Path) -> _Config:
    path = folder / CONFIG
    config = model_folder.read_json(path)
    if config.get("peft_type") != "LORA":
        raise WeightError(
            f"{path} is of the peft_type {shown(config.get('peft_type'))}; LORA is read: merge the adapter into its "
            "model with merge_and_unload of peft"
        )
    unknown = [name for name in sorted(config) if name not in _KNOWN and config[name]]
    if config.get("init_lora_weights", True) not in _INITS:
        unknown.append("init_lora_weights")
    if unknown:
        name = unknown[0]
        raise WeightError(
            f"{path} has {shown(config[name])} as {name}, which is not implemented: merge the adapter into its model "
            "with merge_and_unload of peft"
        )
    alpha, alphas = config.get("lora_alpha", 8), config.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(_is_number(value) for value in (alpha, *alphas.values())):
        raise WeightError(
            f"{path} has {shown(alpha)} as lora_alpha and {shown(alphas)} as alpha_pattern; wanted numbers"
        )
    for name in alphas:
        if not re.fullmatch(r"[\w.]+", name):
            raise WeightError(f"{path} has {shown(name)} in alpha_pattern; only names of modules are read")
    alphas = {name: float(value) for name, value in alphas.items()}
    return _Config(float(alpha), alphas, bool(config.get("use_rslora")), bool(config.get("use_dora")))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _weights(folder: Path, allow_pickle: bool) -> File:
    if (folder / ADAPTER).is_file():
        return SafetensorsFile(folder / ADAPTER)
    if not (folder / PICKLE).is_file():
        raise WeightError(f"{folder} has {CONFIG}, but neither {ADAPTER} nor {PICKLE}; download it again")
    if not allow_pickle:
        raise WeightError(
            f"{folder} has its adapter only as a pickle ({PICKLE}), a format that can run code; pass allow_pickle=True "
            "(--allow-pickle) if you trust it"
        )
    return TorchFile(folder / PICKLE)


class _Names(NamedTuple):
    """How names of modules become names in the model's files."""

    prefix: tuple[str, str]  # What is removed from their beginning, and what is put there instead.
    spelling: tuple[tuple[str, str], ...]
    places: Mapping[str, str]


def _renamed(name: str, prefix: tuple[str, str], spelling: Iterable[tuple[str, str]]) -> str:
    for pattern, new in spelling:
        name = re.sub(pattern, new, name)
    return prefix[1] + name.removeprefix(prefix[0])


def _in_base(folder: Path, targets: list[str], base: Tensors) -> _Names:
    """Where the `targets` are in the model, which may be a part of the adapter's model or the reverse."""
    if not targets:
        raise WeightError(f"{folder} is an adapter of peft without low-rank weights")
    first = min(targets)
    for spelling in _SPELLINGS:
        name = _renamed(first, ("", ""), spelling)
        dots = [0, *(match.end() for match in re.finditer(r"\.", name))]
        prefixes = [(name[:end], "") for end in dots]
        prefixes += [("", other.removesuffix(name)) for other in base if other.endswith(f".{name}")]
        for prefix in prefixes:
            places = {target: _renamed(target, prefix, spelling) for target in targets}
            if all(place in base for place in places.values()):
                return _Names(prefix, spelling, places)
    raise WeightError(
        f"{folder} holds an adapter for {first.removesuffix('.weight')}, which its model does not have; the model is "
        f"another one than it was trained for, or names its tensors in another way ({listed(base)})"
    )


class _Pair(NamedTuple):
    """The adapter of one module."""

    file: File
    names: Mapping[str, str]  # Its parts A, B and magnitude_vector -> their names in the file.
    alpha: float
    use_rslora: bool

    def part(self, name: str) -> np.ndarray:
        """One of its parts in float32."""
        return np.asarray(self.file.get_tensor(self.names[name])).astype(np.float32)


class _Merged:
    """The tensors that adapters change, as a `File`."""

    def __init__(self, folder: Path, base: Tensors, pairs: Mapping[str, _Pair]) -> None:
        self.folder, self.base, self.pairs = folder, base, pairs

    def keys(self) -> Iterable[str]:
        return self.pairs.keys()

    def get_tensor(self, name: str) -> np.ndarray:
        """W + s B A, and with a magnitude vector m, the same with rows of the norm m. Raises WeightError."""
        pair, weight = self.pairs[name], np.asarray(self.base[name]).astype(np.float32)
        a, b = pair.part("A"), pair.part("B")
        rank = a.shape[0] if a.ndim else 0
        is_table = "embedding" in pair.names["A"].rpartition(".lora_")[2]
        rows = weight.shape[1 if is_table else 0]
        if not rank or b.size != rows * rank or a.size * rows != weight.size * rank:
            raise WeightError(
                f"{self.folder}: the adapter for {name} has parts of shapes {list(a.shape)} and {list(b.shape)}, which "
                f"do not fit {list(weight.shape)}"
            )
        product = b.reshape(rows, rank) @ a.reshape(rank, -1)
        scale = np.float32(pair.alpha / (math.sqrt(rank) if pair.use_rslora else rank))
        merged = weight + scale * (product.T if is_table else product.reshape(weight.shape))
        if "magnitude_vector" not in pair.names:
            return merged
        magnitude = pair.part("magnitude_vector").reshape(-1)
        if is_table or magnitude.size != rows:
            raise WeightError(
                f"{self.folder}: use_dora is not implemented for {name} of shape {list(weight.shape)}"
            )
        flat = merged.reshape(rows, -1)
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        return (flat * (magnitude[:, None] / norm)).reshape(weight.shape)
