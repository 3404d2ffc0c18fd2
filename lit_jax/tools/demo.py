"""A small web page of a model: a picture and labels in, probabilities out; and the pictures of an index, searched.

It is for whoever sits at this machine. It listens on the loopback unless told otherwise, answers only to names of the
address that it listens on (a page elsewhere cannot rebind its own name to it), takes no more than MOST bytes and
`image_files.MAX_PIXELS` pixels, and needs nothing from anywhere else.
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

MOST = 20_000_000  # Bytes of an upload.
LABELS = 1000  # Of one request.
SHOWN, FOUND = 20, 12  # Labels before "more"; pictures of a search.
SIDE = 256  # Pixels of a found picture.
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
    """The page as an ASGI application. Raises DataError for an index of another model."""
    if index is not None:
        index.check_model(model)
    seen = _Pictures(index) if index else None
    busy = threading.Lock()  # One question at a time: each uses all devices.

    async def answer(request: Request, ask: Callable[[FormData, bytes | None], str]) -> Response:
        """What `ask` makes of the form and its picture; a mistake as one sentence."""
        if request.headers.get("sec-fetch-site") not in (None, "same-origin"):
            raise HTTPException(403, "Only this page itself may ask.")

        def locked(form: FormData, picture: bytes | None) -> str:
            with busy:
                return ask(form, picture)

        async with request.form(max_files=1, max_fields=8, max_part_size=1 << 20) as form:
            file = form.get("picture")
            picture = await file.read() if isinstance(file, UploadFile) and file.size else None
            try:
                return HTMLResponse(await run_in_threadpool(locked, form, picture))
            except LitJaxError as error:
                return _mistake(str(error), 400)

    def labels(form: FormData, picture: bytes | None) -> str:
        if picture is None:
            raise DataError("there is no picture yet: drop one, paste one or choose one")
        open_image(picture)  # Says what is wrong without the name that `classify` would give it.
        names = _labels(_text(form, "labels"))
        prompts = _text(form, "prompts") or "name"
        if prompts not in TEMPLATES:  # A file of this machine is the command's to read.
            raise ConfigError(f"prompts {prompts!r} are none of {', '.join(TEMPLATES)}")
        (shares,) = classify(picture, names, model, prompts=prompts)
        return pages.render("labels.html", shares=shares, shown=SHOWN)

    def pictures(form: FormData, picture: bytes | None) -> str:
        if index is None or seen is None:
            raise ConfigError("there is no index to search in; start the demo with --index")
        if picture is not None:
            open_image(picture)
        query = None if picture is not None else _text(form, "query")
        hits = search(index, query, picture=picture, model=model, top=FOUND)
        return pages.render("hits.html", hits=hits, seen=seen.there)

    def home(request: Request) -> Response:
        config = model.config
        return HTMLResponse(
            pages.render(
                "demo.html",
                name=Path(model.name).name or model.name,
                about=f"A dual encoder of {config.vision_type} and {config.text_type}. Nothing leaves this machine.",
                most=MOST,
                too_large=_TOO_LARGE,
                prompts=list(TEMPLATES.items()),
                pictures=index.pictures if index else None,
            )
        )

    def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise HTTPException(404, "There is nothing here.")
        return Response(pages.asset(name), media_type=_ASSETS[name])

    def picture(request: Request) -> Response:
        if seen is None:
            raise HTTPException(404, "There is nothing here.")
        return Response(seen.small(request.path_params["number"]), media_type="image/webp")

    async def classified(request: Request) -> Response:
        return await answer(request, labels)

    async def found(request: Request) -> Response:
        return await answer(request, pictures)

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _mistake(error.detail, error.status_code)

    hosts = ["*"] if host in _ANYWHERE else ["127.0.0.1", "localhost", "[::1]", host]
    return Starlette(
        routes=[
            Route("/", home),
            Route("/classify", classified, methods=["POST"]),
            Route("/search", found, methods=["POST"]),
            Route("/picture/{number:int}", picture),
            Route("/{name}", asset),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(_Bounded),
        ],
        exception_handlers={HTTPException: refused},
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

    Port 0 is any that is free. Raises ConfigError for a place that cannot be listened on.
    """
    import uvicorn

    app = make_app(model, index, host=host)
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][
            0
        ]
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({reason}); give another --port, or 0 for any that is free"
        ) from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}/")
        settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(settings).run(sockets=[listening])


class _Pictures:
    """The pictures of an index by number, as long as its source is what it was."""

    def __init__(self, index: Index):
        self._index, self._source = index, self._find(index)
        self.there = self._source is not None

    @staticmethod
    def _find(index: Index) -> Source | None:
        if index.source == InMemorySource.spec:
            return InMemorySource([name for shard in index for name in shard.ids])
        with suppress(LitJaxError):
            source = open_source(index.source)
            if source.fingerprint() == index.source_fingerprint:
                return source
        return None

    def small(self, number: int) -> bytes:
        """A WEBP file. Raises HTTPException for a picture that is not there."""
        try:
            if self._source is None or not 0 <= number < self._index.pictures:
                raise DataError("this picture is not there")
            return pages.small(open_image(self._source[number]["image"]), SIDE)
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


def _labels(text: str) -> list[str]:
    """One a line; where there is only one line, with commas between. Blank ones are left out."""
    parts = text.splitlines() if "\n" in text.strip() else text.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if len(names) > LABELS:
        raise ConfigError(f"there are {len(names):,} labels; give at most {LABELS:,}")
    return names


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _mistake(sentence: str, status: int) -> Response:
    sentence = re.sub(r"\s+", " ", sentence).strip()
    return HTMLResponse(
        pages.render("mistake.html", sentence=sentence[:1].upper() + sentence[1:]), status_code=status
    )
