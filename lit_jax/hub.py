"""Model folders, local or on the Hugging Face Hub: where they are, and what lies in them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - gives numpy the bfloat16 that safetensors asks it for
import numpy as np

from lit_jax.errors import WeightError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]  # Never a pickle, never code.


def find(folder_or_id: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """A local folder as it is, or the cached (else downloaded) copy of a Hub repository.

    What looks like a path is never taken for a Hub id: it has another form than `name` or `owner/name`, or its
    parent folder exists. Raises WeightError.
    """
    path = Path(folder_or_id).expanduser()
    if path.is_dir():
        return path
    text = str(folder_or_id)
    first = Path(text.split("/")[0])
    if isinstance(folder_or_id, Path) or not _ID.fullmatch(text) or text.startswith(".") or first.exists():
        raise WeightError(f"model folder {text} does not exist; give an existing folder or a Hub id")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(
            text, revision=revision, token=token, allow_patterns=_WANTED, ignore_patterns=["onnx/*", "*/*"]
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightError(
            f"model {text} is neither a local folder nor to be had from the Hugging Face Hub: {reason}"
        ) from error
    return Path(found)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises WeightError if there is none or it is not a JSON object."""
    path = folder / CONFIG
    if not path.is_file():
        raise WeightError(f"{folder} has no {CONFIG}; it is not a Hugging Face model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise WeightError(f"{path} holds a {type(config).__name__} where a JSON object is wanted")
    return config


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of safetensors files by name, each read when it is asked for."""

    def __init__(self, where: Mapping[str, tuple[Any, str]]) -> None:
        self._where = where  # Name -> (open file, name in that file).

    @classmethod
    def of(cls, folder: Path) -> "Tensors":
        """All tensors of a folder. Raises WeightError if there are none or a file is damaged."""
        from safetensors import SafetensorError, safe_open

        where: dict[str, tuple[Any, str]] = {}
        for path in _weight_files(folder):
            try:
                file = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise WeightError(
                    f"{path} cannot be read as safetensors: {_diagnosis(path, error)}"
                ) from error
            where |= {name: (file, name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return cls(where)

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """Those of `names` (name here -> new name), under their new names."""
        return Tensors({new: self._where[old] for old, new in names.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._where[name]
        return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes config.json and model.safetensors; `folder` is made if need be."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private.
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        found = sorted(path.name for path in folder.iterdir())
        raise WeightError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; it has {', '.join(found) or 'nothing'}"
        )
    names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise WeightError(f"{folder / INDEX} names {name!r}, which is not a file of that folder")
    return [folder / name for name in sorted(names)]


def _diagnosis(path: Path, error: Exception) -> str:
    head = path.read_bytes()[:64] if path.stat().st_size < 1024 else b""
    if head.startswith(b"version https://git-lfs"):
        return "it looks like a Git LFS pointer; fetch the file itself with `git lfs pull`"
    return str(error)
