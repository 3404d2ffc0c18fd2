"""HTML as an answer: a page, a part of one, or a mistake in one sentence."""

import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from lit_jax.tools import pages


def html(
    template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: object
) -> Response:
    """The template of that name as an answer; what UTF-8 cannot say, as in the names of some files, becomes `?`."""
    text = pages.render(template, **values).encode("utf-8", "replace")
    return HTMLResponse(text, status_code=status, headers=headers)


def mistake(sentence: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A sentence for the person at the page."""
    sentence = re.sub(r"\s+", " ", sentence).strip()
    sentence = sentence[:1].upper() + sentence[1:]
    return html("mistake.html", status=status, headers=headers, sentence=sentence)


def refused(request: Request, error: Exception) -> Response:
    """The answer to a request that ended in an HTTPException."""
    assert isinstance(error, HTTPException)
    return mistake(error.detail, error.status_code, error.headers)
