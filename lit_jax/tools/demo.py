"""A small web page of a model: a picture and labels in, probabilities out; and a search in the pictures of an index.

It is for the person at this machine. It listens on the loopback address unless told otherwise, answers only to names of
the address that it listens on (another page cannot rebind its own name to it), accepts no more than MOST bytes and
`image_files.MAX_PIXELS` pixels, and loads nothing from elsewhere.
"""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.in_memory import InMemorySource
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.inference.classify import classify
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.inference.prompts import TEMPLATES
from lit_jax.inference.search import search
from lit_jax.tools import pages
from lit_jax.utils.errors import ConfigError, DataError, LitJaxError

MOST = 20_000_000  # Bytes of a request, at most.
LABELS = 1000  # The most of one request.
SHOWN, FOUND = 20, 12  # Labels above "more"; pictures that a search shows.
SIDE = 256  # Pixels of such a picture, at most.
_TOO_LARGE = f"The file is larger than {MOST // 1_000_000} MB; give a smaller picture."
_ANYWHERE = ("0.0.0.0", "::", "")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_ASSETS = {"style.css": "text/css", "demo.css": "text/css", "demo.js": "text/javascript"}


def make_app(model: Embedder, index: Index | None = None, *, host: str = "127.0.0.1") -> Starlette:
    """The page as an ASGI application, which answers to the names of `host` alone.

    Raises DataError for an index of another model.
    """
    if index is not None:
        index.check_model(model)
    page = _Page(model, index)
    hosts = ["*"] if host in _ANYWHERE else ["127.0.0.1", "localhost", "[::1]", host]
    return Starlette(
        routes=[
            Route("/", page.home),
            Route("/classify", page.classify, methods=["POST"]),
            Route("/search", page.search, methods=["POST"]),
            Route("/picture/{number:int}", page.picture),
            Route("/{name}", page.asset),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(_Bounded),
        ],
        exception_handlers={HTTPException: _refused},
    )


def serve(
    model: Embedder,
    index: Index | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], Any] = print,
) -> None:
    """Serves the page until it is interrupted; `ready(address)` is called when it can be opened.

    Port 0 is any free one. Raises ConfigError for an unusable address or port, and DataError as `make_app`.
    """
    import uvicorn

    app = make_app(model, index, host=host)
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = socket.create_server((host, port), family=addresses[0][0])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host}:{port} ({reason}); give another --port, or 0 for any that is free"
        ) from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}/")
        settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(settings).run(sockets=[listening])


class _Page:
    """The answers of the page, one route a public method."""

    def __init__(self, model: Embedder, index: Index | None):
        self._model, self._index = model, index
        self._thumbnails = _Thumbnails(index) if index else None
        self._busy = threading.Lock()  # One request at a time: each uses all devices.

    def home(self, request: Request) -> Response:
        """The page itself."""
        config, name = self._model.config, self._model.name
        html = pages.render(
            "demo.html",
            name=Path(name).name or name,
            about=f"A dual encoder of {config.vision_type} and {config.text_type}. Nothing leaves this machine.",
            most=MOST,
            too_large=_TOO_LARGE,
            prompts=list(TEMPLATES.items()),
            pictures=self._index.pictures if self._index else None,
        )
        return HTMLResponse(html)

    def asset(self, request: Request) -> Response:
        """A style sheet or a script."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise HTTPException(404, "There is nothing here.")
        return Response(pages.asset(name), media_type=_ASSETS[name])

    def picture(self, request: Request) -> Response:
        """A picture of the index, by its number."""
        if self._thumbnails is None:
            raise HTTPException(404, "There is nothing here.")
        return Response(self._thumbnails[request.path_params["number"]], media_type="image/webp")

    async def classify(self, request: Request) -> Response:
        """The probabilities of labels for an uploaded picture."""
        return await self._answer(request, self._labels)

    async def search(self, request: Request) -> Response:
        """The pictures of the index that are nearest to a text or to an uploaded picture."""
        return await self._answer(request, self._hits)

    async def _answer(self, request: Request, ask: Callable[[FormData, bytes | None], str]) -> Response:
        """The HTML that `ask` makes of the form and its picture; an error as one sentence."""
        if request.headers.get("sec-fetch-site") not in (None, "same-origin"):
            raise HTTPException(403, "Only this page itself may ask.")

        def locked(form: FormData, picture: bytes | None) -> str:
            with self._busy:
                return ask(form, picture)

        async with request.form(max_files=1, max_fields=8, max_part_size=1 << 20) as form:
            file = form.get("picture")
            picture = await file.read() if isinstance(file, UploadFile) and file.size else None
            try:
                return HTMLResponse(await run_in_threadpool(locked, form, picture))
            except LitJaxError as error:
                return _mistake(str(error), 400)

    def _labels(self, form: FormData, picture: bytes | None) -> str:
        if picture is None:
            raise DataError("there is no picture yet: drop one, paste one or choose one")
        open_image(picture)  # Its errors do not name the file, which `classify` would do.
        names = _split_labels(_text(form, "labels"))
        prompts = _text(form, "prompts") or "name"
        if prompts not in TEMPLATES:  # Only the command may read a file of this machine.
            raise ConfigError(f"prompts {prompts!r} are unknown; wanted one of {', '.join(TEMPLATES)}")
        (shares,) = classify(picture, names, self._model, prompts=prompts)
        return pages.render("labels.html", shares=shares, shown=SHOWN)

    def _hits(self, form: FormData, picture: bytes | None) -> str:
        if self._index is None or self._thumbnails is None:
            raise ConfigError("there is no index to search in; start the demo with --index")
        if picture is not None:
            open_image(picture)
        query = None if picture is not None else _text(form, "query")
        hits = search(self._index, query, picture=picture, model=self._model, top=FOUND)
        return pages.render("hits.html", hits=hits, seen=self._thumbnails.readable)


class _Thumbnails:
    """The pictures of an index by number, as long as their source has not changed."""

    def __init__(self, index: Index):
        self._index, self._source = index, self._open(index)
        self.readable = self._source is not None

    @staticmethod
    def _open(index: Index) -> Source | None:
        if index.source == InMemorySource.spec:
            return InMemorySource([name for shard in index for name in shard.ids])
        with suppress(LitJaxError):
            source = open_source(index.source)
            if source.fingerprint() == index.source_fingerprint:
                return source
        return None

    def __getitem__(self, number: int) -> bytes:
        """A WEBP file. Raises HTTPException for a picture that is not there."""
        try:
            if self._source is None or not 0 <= number < self._index.pictures:
                raise DataError("this picture is not there")
            ours = self._source.spec == InMemorySource.spec  # It holds the pictures of the index alone.
            record = number if ours else self._index.record(number)
            return pages.small(open_image(self._source[record]["image"]), SIDE)
        except LitJaxError as error:
            raise HTTPException(404, str(error)) from error


class _Headers:
    """Sets _HEADERS on every answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self._app(scope, receive, with_headers)


class _Bounded:
    """Stops reading a request after MOST bytes, whatever length it stated."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST:
                raise HTTPException(413, _TOO_LARGE, {"Connection": "close"})
            return message

        await self._app(scope, counted, send)


def _split_labels(text: str) -> list[str]:
    """One label a line, or a single line with commas; blank labels are left out. Raises ConfigError for too many."""
    parts = text.splitlines() if "\n" in text.strip() else text.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if len(names) > LABELS:
        raise ConfigError(f"there are {len(names):,} labels; give at most {LABELS:,}")
    return names


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _mistake(error.detail, error.status_code)


def _mistake(sentence: str, status: int) -> Response:
    sentence = re.sub(r"\s+", " ", sentence).strip()
    return HTMLResponse(
        pages.render("mistake.html", sentence=sentence[:1].upper() + sentence[1:]), status_code=status
    )
