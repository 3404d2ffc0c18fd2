"""A model folder -> a repository on the Hugging Face Hub, in one commit: all of it is there, or nothing of it.

What can be wrong is asked first: the token, what lies there already, the model card. Files of another model are never
mixed with these.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lit_jax.hf import model_folder
from lit_jax.hf.model_card import HERE
from lit_jax.utils import checksums
from lit_jax.utils.errors import ConfigError, WeightError, first_line

CARD, MESSAGE = "README.md", "Upload from lit_jax"
# What makes a repository this model and not another one: configs and weights, of whatever framework.
_MODEL = re.compile(
    r"(?:.*/)?(?:config\.json|[^/]+\.(?:safetensors|msgpack|bin|h5|onnx|gguf|pth?|ckpt)(?:\.index\.json)?)"
)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Place:
    """A repository on the Hub as it was found: see `open_place`."""

    api: Any
    repo_id: str  # "owner/name"
    revision: str | None
    private: bool
    overwrite: bool
    message: str
    head: str | None  # The commit that was found; None where there is no repository yet.
    branch: bool  # Whether `revision` is there.
    files: Mapping[str, str]  # Path -> sha256 of what is stored as a large file, git's hash of what is not.

    def check(self, folder: str | Path) -> None:
        """Raises ConfigError if the folder may not go there: another model does, or the Hub refuses its model card."""
        card = Path(folder) / CARD
        if card.is_file():
            check_card(card)
        if self.overwrite or not self.branch:
            return
        found = sorted(name for name in self.files if _MODEL.fullmatch(name))
        for name in found:
            if not _same(Path(folder) / name, self.files[name]):
                raise ConfigError(
                    f"{self.repo_id} on the Hugging Face Hub holds another model: its {name} is not this one's; "
                    "choose another id or branch, or say that it is to be replaced (--overwrite, overwrite=True)"
                )

    def upload(self, folder: str | Path) -> str:
        """Makes the repository or branch if need be, commits the folder, and returns its address. Raises ConfigError.

        Weights and configs that an earlier model left there go with the same commit. It fails, and changes nothing, if
        somebody else has written there since the place was opened.
        """
        folder = Path(folder)
        head, made = self.head, False
        try:
            with _explained(self.repo_id):
                if head is None:
                    self.api.create_repo(self.repo_id, private=self.private or None)
                    made, head = True, self.api.model_info(self.repo_id).sha
                if self.revision and not self.branch:
                    self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
                self.api.create_commit(
                    self.repo_id,
                    _operations(folder, self.repo_id, self.files),
                    commit_message=self.message,
                    revision=self.revision,
                    parent_commit=head,
                )
        except ConfigError as error:
            raise ConfigError(
                f"{error}; the repository was made and is empty" if made else str(error)
            ) from error
        url = f"{self.api.endpoint}/{self.repo_id}" + (f"/tree/{self.revision}" if self.revision else "")
        return url


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = MESSAGE,
    overwrite: bool = False,
    token: str | None = None,
) -> str:
    """Uploads a model folder, for instance of `lit-jax export`, to `owner/name` on the Hub. Returns its address.

    A repository or branch that is missing is made, `private` if so asked. One that holds another model, of other
    weights or config, is refused but with `overwrite`. `token` is by default HF_TOKEN or that of `hf auth login`.
    Raises ConfigError for a place that cannot be written to, WeightError for a folder that is damaged or no model.
    """
    check_folder(folder)
    place = open_place(
        repo_id, private=private, revision=revision, message=message, overwrite=overwrite, token=token
    )
    place.check(folder)
    return place.upload(folder)


def open_place(
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = MESSAGE,
    overwrite: bool = False,
    token: str | None = None,
) -> Place:
    """Looks at a repository without changing it. A name without owner is one of the token's own.

    Raises ConfigError for no token, one that is refused or may only read, no connection, and a repository that is
    public where `private` is asked for.
    """
    if not message.strip():
        raise ConfigError("the commit message is empty; give one, or leave it out")
    api = huggingface_hub.HfApi(token=token)
    head, branch, files = None, revision is None, {}
    with _explained(repo_id):
        huggingface_hub.utils.validate_repo_id(repo_id)
        who = api.whoami()
        if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ConfigError(f"the token may only read on the Hugging Face Hub; {_LOGIN}")
        repo_id = repo_id if "/" in repo_id else f"{who['name']}/{repo_id}"
        try:
            try:
                info, branch = api.model_info(repo_id, revision=revision), True
            except RevisionNotFoundError:  # It will begin as a copy of the main one.
                info = api.model_info(repo_id)
        except RepositoryNotFoundError:
            info = None
        if info is not None:
            head = info.sha
            tree = api.list_repo_tree(repo_id, recursive=True, revision=head)
            files = {
                entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
                for entry in tree
                if isinstance(entry, huggingface_hub.hf_api.RepoFile)
            }
    if info is not None and private and not info.private:
        raise ConfigError(
            f"{repo_id} is there and public; make it private in its settings first, or choose another id"
        )
    return Place(api, repo_id, revision, private, overwrite, message, head, branch, files)


def check_folder(folder: str | Path) -> None:
    """Raises WeightError if a folder is no model, or not as its SHA256SUMS, if it has them, say."""
    folder = Path(folder)
    if not any((folder / part / model_folder.CONFIG).is_file() for part in (".", "vision")):
        raise WeightError(
            f"{folder} is no model folder: it has no {model_folder.CONFIG}; export a model first"
        )
    if (folder / checksums.NAME).exists() and (damage := checksums.damage(folder)):
        raise WeightError(f"{folder} is damaged: {damage}; export it anew")


def check_card(path: Path) -> None:
    """Raises ConfigError for a model card that cannot be read or that the Hub refuses; asks the Hub."""
    try:
        card = ModelCard.load(path)
    except Exception as error:  # YAML's errors, and what huggingface_hub says of results that lack a field.
        raise ConfigError(f"the metadata of {path} cannot be read: {_first(error)}") from error
    with _explained(path):
        try:
            card.validate()
        except ValueError as error:
            raise ConfigError(
                f"the Hugging Face Hub refuses the metadata of {path}: {_said(error)}"
            ) from error


def _operations(folder: Path, repo_id: str, there: Mapping[str, str]) -> list[Any]:
    paths = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    stale = [name for name in sorted(there) if _MODEL.fullmatch(name) and name not in paths]
    adds = []
    for name, path in paths.items():
        content: Path | bytes = path
        if name == CARD:  # Its examples may be of the time before it had a name.
            content = path.read_text(encoding="utf-8").replace(HERE, repo_id).encode()
        adds.append(CommitOperationAdd(name, content))
    return [*adds, *(CommitOperationDelete(name) for name in stale)]


def _same(path: Path, wanted: str) -> bool:
    if not path.is_file():
        return False
    size = path.stat().st_size
    digests = (
        hashlib.sha256(),
        hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False),
    )  # As a large file, or in git.
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            for digest in digests:
                digest.update(chunk)
    return wanted in [digest.hexdigest() for digest in digests]


@contextmanager
def _explained(what: object) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence."""
    place = "the Hugging Face Hub"
    try:
        yield
    except ConfigError:
        raise
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"there is no token for {place}; {_LOGIN}") from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(f"{place} may not be asked: HF_HUB_OFFLINE is set; unset it to publish") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            text = f"{place} refuses the token; {_LOGIN}"
        elif status == 403:
            text = (
                f"the token may not write to {what} on {place}; take an id of your own, or a token that may"
            )
        elif status in (409, 412):
            text = f"{what} on {place} has changed meanwhile; look at it and start again"
        else:
            text = f"{what} cannot be written on {place}: {_first(error)}"
        raise ConfigError(text) from error
    except (HTTPError, ConnectionError) as error:
        raise ConfigError(
            f"{place} cannot be reached: {_first(error)}; start again with a connection"
        ) from error
    except (ValueError, RuntimeError, OSError) as error:  # A bad id; an upload, whose cause says more.
        raise ConfigError(
            f"{what} cannot be written on {place}: {_first(error.__cause__ or error)}"
        ) from error


def _first(error: BaseException) -> str:
    return first_line(error).rstrip(".")


def _said(error: ValueError) -> str:
    try:
        return "; ".join(one["message"] for one in json.loads(str(error))["errors"])
    except (ValueError, KeyError, TypeError):
        return _first(error)
