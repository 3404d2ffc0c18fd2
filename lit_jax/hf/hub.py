"""Where a model folder is: on this machine, or on the Hugging Face Hub, whose files are cached."""

import re
from pathlib import Path

from lit_jax.hf.model_folder import FLAX, WEIGHTS, has
from lit_jax.utils.errors import WeightError, first_line

_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")  # 96 characters are the most that the Hub allows.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANTED = [
    "*.json",
    "*.txt",
    "*.model",
    "*.codes",
    "*.safetensors",
]  # A pickle only if allowed, and never code.


def find(
    folder_or_id: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> Path:
    """A local folder as it is, or the cached (else downloaded) copy of a Hub repository.

    The copy has the first kind of weights that the repository offers: safetensors, else Flax's msgpack, else, with
    `allow_pickle`, PyTorch's pickle. A path is never taken for a Hub id: what is not of the form `name` or
    `owner/name`, or has a parent folder that exists, is a path. Raises WeightError.
    """
    if folder_or_id == "":  # As a path it would be the current folder.
        raise WeightError("the name of the model folder is empty; give an existing folder or a Hub id")
    try:
        path = Path(folder_or_id).expanduser()
        if path.is_dir():
            return path
    except (OSError, RuntimeError):  # Too long for a path, or in the home of a user that does not exist.
        pass
    text = str(folder_or_id)
    if isinstance(folder_or_id, Path) or not is_id(text):
        raise WeightError(f"model folder {text} does not exist; give an existing folder or a Hub id")
    copy = _download(text, revision, token, _WANTED)
    if _COMMIT.fullmatch(copy.name):
        revision = copy.name  # The next downloads are of the same commit, whatever is pushed in the meantime.
    if not has(copy, WEIGHTS):
        copy = _download(text, revision, token, ["flax_model*.msgpack"])
        if allow_pickle and not has(copy, FLAX):
            copy = _download(text, revision, token, ["pytorch_model*.bin"])
    return copy


def is_id(name: str) -> bool:
    """Whether `name` would be looked up on the Hub if there is no folder of that name."""
    return bool(_ID.fullmatch(name)) and not name.startswith(".") and not Path(name.split("/")[0]).exists()


def _download(repository: str, revision: str | None, token: str | None, patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            token=token,
            allow_patterns=patterns,
            ignore_patterns=["onnx/*", "*/*"],
        )
    except (HFValidationError, HTTPError, OSError) as error:
        raise WeightError(
            f"model {repository} is neither a local folder nor available on the Hugging Face Hub: {first_line(error)}"
        ) from error
    return Path(folder)
