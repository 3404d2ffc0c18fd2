"""A model folder, read and written: a config, and tensors in files of one of several formats."""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf import other_formats
from lit_jax.hf.formats import safetensors
from lit_jax.hf.formats.flax_msgpack import File, InTorch, Msgpack
from lit_jax.hf.formats.safetensors import SafetensorsFile
from lit_jax.hf.formats.torch_pickle import TorchFile
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils import strict_json
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.inside import POINTER, denied, leads_out

log = logging.getLogger(__name__)

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FLAX, PICKLE = "flax_model.msgpack", "pytorch_model.bin"
OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ADAPTER = "adapter_model.safetensors"  # The adapter of peft for a model that is elsewhere.
# The names of files that `write` removes first: its own, the list of modules that marks a folder of
# sentence-transformers, the files of open_clip, and the sums of an earlier export.
WRITTEN = (
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|modules\.json|SHA256SUMS|"
    r"open_clip_config\.json|open_clip_(pytorch_)?model\.\w+"
)
# What training frameworks put into the names of a model's tensors: torch.compile, FSDP and gradient checkpointing where
# they wrap a module, and DistributedDataParallel before all names.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARALLEL = "module."
# The suffixes of weights -> the names under which they are read.
SUFFIXES = {".safetensors": WEIGHTS, ".msgpack": FLAX} | dict.fromkeys(
    (".bin", ".pt", ".pth", ".ckpt"), PICKLE
)
_MOST_TENSORS = 100_000  # The most tensors of a folder, in all files.
_MOST_SHARDS = 1_000
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT])B", re.IGNORECASE)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises WeightError if there is none or it is not a JSON object."""
    path = folder / CONFIG
    if denied(path) is None and not path.is_file():
        raise WeightError(f"{folder} has no {CONFIG}; {other_formats.instead(folder, CONFIG)}")
    stored = read_json(path)
    for config in (stored, stored.get("vision_config"), stored.get("text_config")):
        kind = config.get("model_type", "") if isinstance(config, dict) else ""
        if not isinstance(kind, str | None):
            raise WeightError(f"{path} has a model_type of type {type(kind).__name__} where a name is wanted")
    if "auto_map" in stored:
        log.warning("%s names code of its own (auto_map), which is neither read nor run", path)
    return stored


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of weight files by name, with PyTorch's names and axes, each read on access."""

    def __init__(self, where: Mapping[str, tuple[File, str]]) -> None:
        self._where = where  # Name -> (open file, name in that file).

    @classmethod
    def of(cls, folder: Path, *, allow_pickle: bool = False) -> "Tensors":
        """All tensors of a folder, in the first of `_FORMATS` that it has, in one file or in shards.

        Raises WeightError if it has none, if a file is damaged, and if it has only a pickle without `allow_pickle`.
        """
        name = next((name for name in _FORMATS if has(folder, name)), None)
        if name is None:
            raise WeightError(_without_weights(folder))
        if name == PICKLE and not allow_pickle:
            raise WeightError(
                f"{folder} has its weights only as a pickle ({PICKLE}), a format that can run code, so it is not read "
                "by default; pass allow_pickle=True (--allow-pickle) if you trust it, or convert it to safetensors"
            )
        where: dict[str, tuple[File, str]] = {}
        origin: dict[str, Path] = {}
        for path in _weight_files(folder, name):
            _refuse_pointer(path)
            file = _FORMATS[name](path)
            for tensor in file.keys():  # noqa: SIM118 - not a mapping
                if tensor in where:
                    raise WeightError(
                        f"{path} holds {tensor}, which {origin[tensor].name} in the same folder holds too"
                    )
                where[tensor], origin[tensor] = (file, tensor), path
        bare = unwrapped(where)
        return cls({bare[tensor]: place for tensor, place in where.items()})

    @classmethod
    def joined(cls, *parts: "Tensors | Mapping[str, np.ndarray]") -> "Tensors":
        """The tensors of several folders, or arrays, whose names differ."""
        where: dict[str, tuple[File, str]] = {}
        for part in parts:
            where |= (
                part._where if isinstance(part, Tensors) else {name: (_Arrays(part), name) for name in part}
            )
        return cls(where)

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """The tensors of `names` (current name -> new name), under their new names."""
        return Tensors({new: self._where[old] for old, new in names.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._where[name]
        return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class _Arrays(dict[str, np.ndarray]):
    """Arrays in memory, as a `File`."""

    def get_tensor(self, name: str) -> np.ndarray:
        return self[name]


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes config.json and model.safetensors; creates `folder` if it does not exist.

    Weights of more than `max_shard_size` (bytes, or a text such as "5GB") become shards and an index, as transformers
    writes them. Files of an earlier call are removed. Raises ConfigError for a size that is not valid.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    tensors = dict(tensors)  # Before anything is removed: they may be read from this very folder.
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=_bytes(max_shard_size),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if re.fullmatch(WRITTEN, path.name):
            path.unlink()
    for file, names in (split.filename_to_tensors or {WEIGHTS: []}).items():
        safetensors.write({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    if split.is_sharded:
        count = sum(tensor.size for tensor in tensors.values())
        metadata = {"total_parameters": count, **split.metadata}
        _write_json(folder / INDEX, {"metadata": metadata, "weight_map": split.tensor_to_filename})
    _write_json(folder / CONFIG, config)


def _open_safetensors(path: Path) -> File:
    """Opens a file. Raises WeightError if its names do not fit the format in its metadata, which decides the axes."""
    file = SafetensorsFile(path)
    said = file.metadata.get("format")
    if said not in (None, "pt", "np", "flax"):
        raise WeightError(
            f"{path} has the format {shown(said)} in its metadata; only 'pt' and 'flax' are read"
        )
    if said != "flax":
        return file
    for name in file.keys():  # noqa: SIM118 - not a mapping
        if name.rpartition(".")[2] == "weight":
            raise WeightError(
                f"{path} has the format 'flax' in its metadata and the tensor {shown(name)}, which PyTorch names so; "
                "convert the model again"
            )
    return InTorch(path, file)


_FORMATS: dict[str, Callable[[Path], File]] = {  # The first that a folder has is read.
    WEIGHTS: _open_safetensors,
    FLAX: lambda path: InTorch(path, Msgpack(path)),
    PICKLE: TorchFile,
}


def has(folder: Path, name: str) -> bool:
    """Whether the folder has weights of that name, in one file or in shards."""
    return (folder / name).is_file() or (folder / f"{name}.index.json").is_file()


def has_weights(folder: Path) -> bool:
    """Whether the folder has weights of any format that is read."""
    return any(has(folder, name) for name in _FORMATS)


def may_have_weights(folder: Path) -> bool:
    """Whether the folder has a file that may hold weights, under whatever name."""
    return any(path.suffix in SUFFIXES for path in folder.iterdir())


def _without_weights(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    found = [(name, SUFFIXES[suffix]) for name in names if (suffix := Path(name).suffix) in SUFFIXES]
    remedy = "save the model in one of these formats, for instance with save_pretrained of transformers"
    if other := other_formats.hint(folder):
        remedy = other
    elif len(found) == 1:
        remedy = "if {} holds its weights, rename it to {}".format(*found[0])
    return (
        f"{folder} has neither {WEIGHTS} nor {INDEX}, nor the same of {FLAX} or {PICKLE}; it has "
        f"{', '.join(names) or 'nothing'} (a pickle is downloaded from the Hub only with allow_pickle=True); {remedy}"
    )


def unwrapped(names: Collection[str]) -> dict[str, str]:
    """Names -> those of the model itself; unchanged if two would be the same."""
    bare = {name: _WRAPPERS.sub("", name) for name in names}
    while bare and all(name.startswith(_PARALLEL) for name in bare.values()):
        bare = {name: inner.removeprefix(_PARALLEL) for name, inner in bare.items()}
    return bare if len({*bare.values()}) == len(bare) else {name: name for name in names}


def _weight_files(folder: Path, name: str) -> list[Path]:
    if (folder / name).is_file():
        return [folder / name]
    index = folder / f"{name}.index.json"
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise WeightError(f"{index} has no weight_map, which says which file each tensor is in")
    if len(shards) > _MOST_TENSORS:
        raise WeightError(f"{index} names {len(shards)} tensors; at most {_MOST_TENSORS} are read")
    names = {shard if isinstance(shard, str) else repr(shard) for shard in shards.values()}
    if len(names) > _MOST_SHARDS:
        raise WeightError(f"{index} names {len(names)} files; at most {_MOST_SHARDS} are read")
    for shard in shards.values():
        if not isinstance(shard, str):
            raise WeightError(f"{index} names {shown(shard)}, which is not a file of that folder")
    for name in sorted(names):
        if not _is_inside(folder, name):
            raise WeightError(f"{index} names {shown(name)}, which is not a file of that folder")
    return [folder / name for name in sorted(names)]


def _is_inside(folder: Path, name: str) -> bool:
    """Whether it is a file in that folder, and not a link, except to the blobs of its cached repository."""
    path = folder / name
    try:
        if not name or "\0" in name or Path(name).name != name or not path.is_file():
            return False
    except (OSError, ValueError):  # Too long for a name, or a lone surrogate.
        return False
    return not leads_out(path, folder)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that somebody else wrote. Raises WeightError."""
    tree = read_tree(path)
    if not isinstance(tree, dict):
        raise WeightError(f"{path} holds a {type(tree).__name__} where a JSON object is wanted")
    return tree


def read_tree(path: Path) -> Any:
    """Like `read_json`, for any value."""
    _refuse_pointer(path)
    if (size := path.stat().st_size) > strict_json.LARGEST:
        raise WeightError(f"{path} has {size} bytes; a JSON file may have at most {strict_json.LARGEST}")
    try:
        return strict_json.read(path)
    except ValueError as error:
        raise WeightError(f"{path} is not valid JSON: {error}") from error


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _bytes(size: int | str) -> int:
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match:
        size = int(Decimal(match[1]) * 1000 ** (1 + "KMGT".index(match[2].upper())))
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f'max_shard_size is {size!r}; wanted a number of bytes, or a text such as "5GB"')
    return size


def _refuse_pointer(path: Path) -> None:
    if why := denied(path):
        raise WeightError(f"{path} cannot be read: {why}; see to its permissions")
    with path.open("rb") as file:
        pointer = file.read(64).startswith(POINTER)
    if pointer:
        raise WeightError(
            f"{path} cannot be read: it looks like a Git LFS pointer; fetch the file itself with `git lfs pull`"
        )
