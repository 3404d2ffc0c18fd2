"""Answers: a page, a part of one, or a mistake in one sentence, which programs get as JSON."""

import functools
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from lit_jax.hf import model_card
from lit_jax.inference.embedder import Embedder
from lit_jax.tools import pages
from lit_jax.tools.demo.later import AFTER
from lit_jax.utils.device_errors import is_full
from lit_jax.utils.errors import first_line
from lit_jax.utils.local_folder import name_of
from lit_jax.utils.shown import in_line, shown

log = logging.getLogger(__name__)

_NO_ROOM = "The server is out of memory; ask for less at once, or try again later."
_FAULT = "The server failed on this request; its log says why."


def title_of(model: Embedder) -> str:
    """What answers call a model: the name in its card, or the name of its folder."""
    return _title_of(model.name)


@functools.lru_cache(maxsize=16)
def _title_of(name: str) -> str:
    return in_line(model_card.name_of(Path(name)) or folder_of(name))


def folder_of(name: str) -> str:
    """The last part of a model's name, without the folders of this machine."""
    return name_of(name) if Path(name).is_dir() else Path(name).name or name


def html(
    template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: object
) -> Response:
    """A filled-in template as an answer; what UTF-8 cannot encode, as in the names of some files, becomes `?`."""
    text = pages.render(template, **values).encode("utf-8", "replace")
    return HTMLResponse(text, status_code=status, headers=headers)


def mistake(sentence: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A sentence for the person at the page."""
    return html("mistake.html", status=status, headers=headers, sentence=_sentence(sentence))


def failure(path: str, sentence: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A mistake in the form that suits `path`: {"error": sentence} below /api, HTML elsewhere."""
    if path.startswith("/api/"):
        return JSONResponse({"error": _sentence(sentence)}, status, headers)
    return mistake(sentence, status, headers)


def refused(request: Request, error: Exception) -> Response:
    """The answer to a request that ended in an HTTPException, of ours or of Starlette, which only names the status."""
    assert isinstance(error, HTTPException)
    path, says, headers = request.url.path, error.detail, error.headers
    if error.status_code == 404 and says == HTTPStatus.NOT_FOUND.phrase:
        says = f"there is nothing at {path:.80}; /api says what can be asked"
    elif error.status_code == 405:
        says = (
            f"{path} does not take {request.method:.20}; use {(headers or {}).get('Allow', 'another method')}"
        )
    return failure(path, says, error.status_code, headers)


def full(request: Request, error: Exception) -> Response:
    """The answer if a device or this machine is out of memory; the log says what to lower. Raises all other errors."""
    if not is_full(error):
        raise error
    log.warning(
        "%s; if this persists, restart the server with a lower --batch-size", in_line(first_line(error))
    )
    return failure(request.url.path, _NO_ROOM, 503, AFTER)


def fault(request: Request, error: Exception) -> Response:
    """The answer to a request that failed with an error of ours; the traceback is in the log."""
    return failure(request.url.path, _FAULT, 500)


def _sentence(text: str) -> str:
    text = re.sub(r"\s+", " ", shown(text)).strip()
    return text[:1].upper() + text[1:]
