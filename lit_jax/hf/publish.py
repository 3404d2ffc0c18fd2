"""Uploads a model folder to a repository on the Hugging Face Hub, in one commit: all of it or nothing.

The token, the content of the repository and the model card are checked first. The files of two models are never mixed.
"""

import hashlib
import io
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

from lit_jax.hf import hub, model_folder
from lit_jax.hf.conversions.sentence_modules import MODULES
from lit_jax.hf.layouts import open_clip
from lit_jax.hf.model_card import CARD, HERE, LOCAL
from lit_jax.utils import checksums, strict_json
from lit_jax.utils.errors import ConfigError, WeightError, first_line

MESSAGE = "Upload from lit_jax"
# Files that tell one model from another: configs and weights, of any framework.
_MODEL = re.compile(
    r"(?:.*/)?(?:(?:open_clip_)?config\.json|[^/]+\.(?:safetensors|msgpack|bin|h5|onnx|gguf|pth?|ckpt)(?:\.index\.json)?)"
)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Place:
    """The state of a repository on the Hub: see `open_place`."""

    api: Any
    repo_id: str  # "owner/name"
    revision: str | None
    private: bool
    overwrite: bool
    message: str
    head: str | None  # Its newest commit; None if there is no repository yet.
    branch: bool  # Whether `revision` exists.
    files: Mapping[str, str]  # Path -> sha256 of a large file, git's hash of any other.

    def check(self, folder: str | Path) -> None:
        """Raises ConfigError if the repository holds another model, or the Hub refuses the folder's model card."""
        card = Path(folder) / CARD
        if card.is_file():
            check_card(card)
        if self.overwrite or not self.branch:
            return
        named = _named(Path(folder), self.repo_id)
        for name in sorted(name for name in self.files if _MODEL.fullmatch(name)):
            if not _same(Path(folder) / name, named.get(name), self.files[name]):
                raise ConfigError(
                    f"{self.repo_id} on the Hugging Face Hub holds another model: its {name} differs; "
                    "choose another id or branch, or replace that model with --overwrite (overwrite=True)"
                )

    def upload(self, folder: str | Path) -> str:
        """Creates the repository or branch if it does not exist, commits the folder, and returns the address.

        The same commit deletes weights and configs of an earlier model. Raises ConfigError; if somebody else has
        committed since the place was opened, it does so before it changes anything.
        """
        folder = Path(folder)
        head, created = self.head, False
        try:
            with _explained(self.repo_id):
                if head is None:
                    self.api.create_repo(self.repo_id, private=self.private or None)
                    created, head = True, self.api.model_info(self.repo_id).sha
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
                f"{error}; the repository was created and is empty" if created else str(error)
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
    """Uploads a model folder, for instance one of `lit-jax export`, to `owner/name` on the Hub. Returns its address.

    A repository or branch that does not exist is created; `private` makes a new repository private. A repository that
    holds another model, with other weights or another config, is refused unless `overwrite` is set. `token` is by
    default HF_TOKEN or that of `hf auth login`. Raises ConfigError for a repository that cannot be written to,
    WeightError for a folder that is damaged or is not a model folder.
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
    """Reads the state of a repository without changing it. A name without an owner belongs to the token's owner.

    Raises ConfigError if there is no token, if the token is refused or may only read, if there is no connection, and
    if the repository is public although `private` is set.
    """
    if not message.strip():
        raise ConfigError("the commit message is empty; give one, or leave it out")
    hub.check_access(revision, token)
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
            except RevisionNotFoundError:  # It will start as a copy of the main branch.
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
            f"{repo_id} exists and is public; make it private in its settings first, or choose another id"
        )
    return Place(api, repo_id, revision, private, overwrite, message, head, branch, files)


def check_folder(folder: str | Path) -> None:
    """Raises WeightError if it is not a model folder, or has SHA256SUMS that its files do not match."""
    folder = Path(folder)
    configs = model_folder.CONFIG, f"vision/{model_folder.CONFIG}", open_clip.CONFIG, MODULES
    if not any((folder / config).is_file() for config in configs):
        raise WeightError(
            f"{folder} is not a model folder: it has no {model_folder.CONFIG}; export a model first"
        )
    if (folder / checksums.NAME).exists() and (damage := checksums.damage(folder)):
        raise WeightError(f"{folder} is damaged: {damage}; export it again")


def check_card(path: Path) -> None:
    """Raises ConfigError for a model card that cannot be read, or that the Hub, which it asks, refuses."""
    try:
        card = ModelCard.load(path)
    except Exception as error:  # YAML's errors, and those of huggingface_hub for results that lack a field.
        raise ConfigError(f"the metadata of {path} cannot be read: {_first(error)}") from error
    with _explained(path):
        try:
            card.validate()
        except ValueError as error:
            raise ConfigError(
                f"the Hugging Face Hub refuses the metadata of {path}: {_problems(error)}"
            ) from error


def _operations(folder: Path, repo_id: str, stored: Mapping[str, str]) -> list[Any]:
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    # Hidden folders belong to tools such as git and `hf download`; the Hub refuses theirs.
    paths = {
        name.as_posix(): path
        for name, path in found.items()
        if not any(part.startswith(".") for part in name.parent.parts)
    }
    stale = [name for name in sorted(stored) if _MODEL.fullmatch(name) and name not in paths]
    adds, named = [], _named(folder, repo_id)
    for name, path in paths.items():
        content: Path | bytes = path
        if name in named:
            content = named[name]
        adds.append(CommitOperationAdd(name, content))
    return [*adds, *(CommitOperationDelete(name) for name in stale)]


def _named(folder: Path, repo_id: str) -> dict[str, bytes]:
    """The files that name their own place, now `repo_id`: the card, whose examples may be older, and open_clip's.

    The sums are those of the files as published.
    """
    found: dict[str, bytes] = {}
    if (folder / CARD).is_file():
        text = (folder / CARD).read_text(encoding="utf-8").replace(LOCAL + HERE, f"hf-hub:{repo_id}")
        found[CARD] = text.replace(HERE, repo_id).encode()
    if (folder / open_clip.CONFIG).is_file():
        found[open_clip.CONFIG] = open_clip.published(folder, repo_id)
        if (folder / checksums.NAME).is_file():
            text = (folder / checksums.NAME).read_text(encoding="utf-8")
            old = hashlib.sha256((folder / open_clip.CONFIG).read_bytes()).hexdigest()
            new = hashlib.sha256(found[open_clip.CONFIG]).hexdigest()
            found[checksums.NAME] = text.replace(old, new).encode()
    return found


def _same(path: Path, content: bytes | None, wanted: str) -> bool:
    """Whether a file, or its new `content` if that is given, has the hash `wanted`."""
    if not path.is_file():
        return False
    size = path.stat().st_size if content is None else len(content)
    # The hash of a large file, and git's.
    digests = (hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))
    with path.open("rb") if content is None else io.BytesIO(content) as file:
        while chunk := file.read(1 << 22):
            for digest in digests:
                digest.update(chunk)
    return wanted in [digest.hexdigest() for digest in digests]


@contextmanager
def _explained(what: object) -> Iterator[None]:
    """Turns the errors of huggingface_hub into ConfigErrors of one sentence."""
    place = "the Hugging Face Hub"
    try:
        yield
    except ConfigError:
        raise
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"there is no token for {place}; {_LOGIN}") from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(
            f"HF_HUB_OFFLINE is set, so {place} is not contacted; unset it to publish"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            text = f"{place} refuses the token; {_LOGIN}"
        elif status == 403:
            text = f"the token may not write to {what} on {place}; use an id of your own or another token"
        elif status in (409, 412):
            text = f"{what} on {place} has changed in the meantime; look at it and start again"
        else:
            text = f"{what} cannot be written on {place}: {_first(error)}"
        raise ConfigError(text) from error
    except (HTTPError, ConnectionError) as error:
        raise ConfigError(
            f"{place} cannot be reached: {_first(error)}; try again when there is a connection"
        ) from error
    except (ValueError, RuntimeError, OSError) as error:  # A bad id, or an upload, whose cause says more.
        raise ConfigError(
            f"{what} cannot be written on {place}: {_first(error.__cause__ or error)}"
        ) from error


def _first(error: BaseException) -> str:
    """What the Hub says about an error, which is not in the first line of huggingface_hub's message; or that line."""
    said = " ".join((getattr(error, "server_message", None) or "").split())
    return (said or first_line(error)).rstrip(".")


def _problems(error: ValueError) -> str:
    try:
        return "; ".join(problem["message"] for problem in strict_json.parse(str(error))["errors"])
    except (ValueError, KeyError, TypeError):
        return _first(error)
