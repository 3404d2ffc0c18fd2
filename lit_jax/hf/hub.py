"""Where a model folder is: on this machine, or on the Hugging Face Hub, whose files are cached."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from lit_jax.hf import folder_sums
from lit_jax.hf.hub_names import hint
from lit_jax.hf.model_folder import ADAPTER, FLAX, OPEN_CLIP, SUFFIXES, WEIGHTS, has
from lit_jax.hf.other_formats import hint_of_file, hint_of_names
from lit_jax.utils.arguments import check_path
from lit_jax.utils.errors import ConfigError, WeightError, first_line
from lit_jax.utils.inside import denied
from lit_jax.utils.reachable import by_proxy, unreachable

_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")  # 96 characters are the most that the Hub allows.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION, _TOKEN = re.compile(r"[^\s\x00-\x1f\x7f\ud800-\udfff]+"), re.compile("[!-~]+")
# A pickle only if allowed, and never code.
_WITHOUT_WEIGHTS = ("*.json", "*.txt", "*.model", "*.codes")
_WANTED = (*_WITHOUT_WEIGHTS, "*.safetensors")
# The same weights once more, in another precision or for another library; and folders of the repository.
_UNWANTED = ("model.*.safetensors", "model-*.*.safetensors", "open_clip_*.safetensors", "*/*")
# Folders of the modules of sentence-transformers; other folders hold the same model for other programs.
_MODULES, _MODULE_FOLDERS = "modules.json", ("[0-9]*_*", "image_*", "text_*", "heads")


def find(
    folder_or_id: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    subfolder: str = "",
    allow_pickle: bool = False,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """A local folder (or npz file) as it is, or the cached (else downloaded) copy of a Hub repository.

    The copy has the first kind of weights that the repository offers: safetensors, else Flax's msgpack, else, with
    `allow_pickle`, PyTorch's pickle. With `subfolder`, it is that folder inside the folder or repository. A path is
    never taken for a Hub id: what is not of the form `name` or `owner/name`, or has a parent folder that exists, is a
    path. The last three arguments are those of huggingface_hub's snapshot_download. Raises WeightError, also for a
    folder whose files differ from its SHA256SUMS, and ConfigError as `check_access` does.
    """
    local = _local(folder_or_id, subfolder)
    if local is not None:
        return local
    check_access(revision, token)
    options: dict[str, Any] = {"revision": revision, "token": token}
    options |= {"cache_dir": cache_dir} if cache_dir else {}
    options |= {"local_files_only": True} if local_files_only else {}
    fresh: dict[str, Any] = {"force_download": True} if force_download else {}
    download = partial(_download, str(folder_or_id), f"{subfolder}/" if subfolder else "")
    copy = download(_WANTED, **options, **fresh)
    if _COMMIT.fullmatch(copy.name):
        # The next downloads are of the same commit, whatever is pushed meanwhile.
        options["revision"] = copy.name
    if (copy / subfolder / _MODULES).is_file():
        copy = download(
            _of_modules((*_WANTED, "pytorch_model.bin") if allow_pickle else _WANTED), **options, **fresh
        )
    if not has(copy / subfolder, WEIGHTS) and not (copy / subfolder / ADAPTER).is_file():
        if (copy / subfolder / OPEN_CLIP[0]).is_file():
            copy = download(OPEN_CLIP[1:2], **options, **fresh)
            if allow_pickle and not (copy / subfolder / OPEN_CLIP[1]).is_file():
                copy = download(OPEN_CLIP[2:], **options, **fresh)
            return _inside(copy, subfolder)
        copy = download(("flax_model.msgpack", "flax_model-*.msgpack"), **options, **fresh)
        if allow_pickle and not has(copy / subfolder, FLAX):
            copy = download(
                ("pytorch_model.bin", "pytorch_model-*.bin", "adapter_model.bin"), **options, **fresh
            )
    if not any(path.suffix in SUFFIXES for path in copy.rglob("*")):
        _say_instead(str(folder_or_id), copy, options)
    return _inside(copy, subfolder)


def check_access(revision: str | None, token: str | bool | None) -> None:
    """Raises ConfigError for a revision or a token that no request can hold; the message does not show the token."""
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ConfigError(
            f"the revision is {revision!r}; wanted the name of a branch or a tag, or a commit, or leave it out"
        )
    if isinstance(token, str) and not _TOKEN.fullmatch(token):
        raise ConfigError(
            "the token is empty, or has a space or another character that no token has; give the one that "
            "huggingface.co/settings/tokens shows, or leave it out"
        )


def find_processor(folder_or_id: str | Path) -> Path:
    """Like `find`, for callers that read no weights: none are downloaded from a Hub repository.

    The exception is a repository with a config of open_clip, perhaps beside one of transformers: the weights show which
    of them counts.
    """
    local = _local(folder_or_id, "")
    if local is not None:
        return local
    options: dict[str, Any] = {"revision": None, "token": None}
    copy = _download(str(folder_or_id), "", _WITHOUT_WEIGHTS, **options)
    if (copy / OPEN_CLIP[0]).is_file():
        return find(folder_or_id)
    if (copy / _MODULES).is_file():
        options["revision"] = copy.name if _COMMIT.fullmatch(copy.name) else None
        copy = _download(str(folder_or_id), "", _of_modules(_WITHOUT_WEIGHTS), **options)
    return copy


def _say_instead(repository: str, copy: Path, options: Mapping[str, Any]) -> None:
    """Raises WeightError for a repository with nothing to read, or with weights for another program."""
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    try:
        names = huggingface_hub.list_repo_files(
            repository, revision=options["revision"], token=options["token"]
        )
    except (HTTPError, OSError):
        names = []
    names = [name for name in names if not name.startswith(".")]
    # For a pickle there is another message.
    is_pickle = any(re.search(r"(pytorch|adapter)_model", name) for name in names)
    if (what := "" if is_pickle else hint_of_names(names)) or not copy.is_dir():
        shown = ", ".join(names[:5]) or "no files"
        way = what or f"it holds {shown}; give a repository with a config and weights"
        raise WeightError(f"model {repository} on the Hub has no {WEIGHTS}; {way}")


def _of_modules(names: Sequence[str]) -> list[str]:
    return [f"{folder}/{name}" for folder in _MODULE_FOLDERS for name in names]


def _local(folder_or_id: str | Path, subfolder: str) -> Path | None:
    """The path of a folder or npz file on this machine; None for the id of a Hub repository. Raises WeightError."""
    check_path(folder_or_id, "the model")
    if folder_or_id == "":  # As a path it would be the current folder.
        raise WeightError("the name of the model folder is empty; give an existing folder or a Hub id")
    if subfolder and (Path(subfolder).is_absolute() or {"..", "."} & set(subfolder.split("/"))):
        raise WeightError(f"subfolder is {subfolder!r}; wanted the path of a folder inside {folder_or_id}")
    try:
        path = Path(os.path.expanduser(folder_or_id))
        if path.is_dir():
            folder = _inside(path, subfolder)
            for place in {path, folder}:
                folder_sums.check(place)
            return folder
        if path.suffix == ".npz" and path.is_file() and not subfolder:
            return path
        if path.is_file():
            if what := hint_of_file(path):
                raise WeightError(f"{path} is {what}")
            raise WeightError(f"{path} is a file; give the folder that it is in, {path.parent}, or a Hub id")
        if why := denied(path):
            raise PermissionError(errno.EACCES, why)
    except PermissionError as error:
        raise WeightError(
            f"model folder {folder_or_id} cannot be read: {error.strerror}; see to its permissions"
        ) from error
    except OSError:  # Too long for a path.
        pass
    if isinstance(folder_or_id, Path) or not is_id(folder_or_id):
        way = hint(str(folder_or_id)) or "give an existing folder or a Hub id"
        raise WeightError(f"model folder {folder_or_id} does not exist; {way}")
    return None


def _inside(folder: Path, subfolder: str) -> Path:
    """The subfolder of `folder`. Raises WeightError if there is none of that name."""
    if not subfolder:
        return folder
    if not (folder / subfolder).is_dir():
        names = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "none"
        raise WeightError(f"{folder} has no subfolder {subfolder}; its folders are: {names}")
    return folder / subfolder


def cached(repository: str) -> Path | None:
    """The copy of a Hub repository that an earlier `find` left on this machine, or None. Nothing is fetched."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, RuntimeError):
        return None


def is_id(name: str) -> bool:
    """Whether `name` would be looked up on the Hub if there is no folder of that name."""
    return bool(_ID.fullmatch(name)) and not name.startswith(".") and not Path(name.split("/")[0]).exists()


def _download(repository: str, place: str, patterns: Sequence[str], **options: Any) -> Path:
    """Downloads files of a repository; `place` is "" or a folder in it, with a slash at its end."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

    download = partial(
        huggingface_hub.snapshot_download,
        repository,
        allow_patterns=[place + pattern for pattern in patterns],
        ignore_patterns=[
            place + pattern for pattern in _UNWANTED if not any(fnmatch(name, pattern) for name in patterns)
        ],
    )
    try:
        try:
            folder = download(**options)
        except (HTTPError, OSError) as error:
            # Before 2.2, huggingface_hub asks the Hub what a commit consists of, even without a connection.
            commit = _COMMIT.fullmatch(options["revision"] or "")
            if not commit or not (isinstance(error, OfflineModeIsEnabled) or unreachable("hf://")):
                raise
            folder = download(**options | {"local_files_only": True, "force_download": False})
    # RuntimeError: a user without a home.
    except (HFValidationError, HTTPError, OSError, RuntimeError) as error:
        why = unreachable("hf://") or f"{first_line(error)}{by_proxy()}"
        way = f"; {way}" if (way := hint(repository)) else ""
        raise WeightError(
            f"model {repository} is neither a local folder nor available on the Hugging Face Hub: {why}{way}"
        ) from error
    return Path(folder)
