"""The application: the page with its answers, and the JSON interface."""

import asyncio
import re
import shlex
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lit_jax.inference.classify import classify
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.inference.prompts import TEMPLATES
from lit_jax.inference.search import search
from lit_jax.tools import pages
from lit_jax.tools.demo.access import LOCAL, Access
from lit_jax.tools.demo.answers import fault, folder_of, full, html, mistake, refused, title_of
from lit_jax.tools.demo.api import Api
from lit_jax.tools.demo.api_fields import LABELS, LONGEST
from lit_jax.tools.demo.guards import MOST, TOO_LARGE, Bounded, OwnHostsOnly, OwnPageOnly, WithHeaders
from lit_jax.tools.demo.jobs import Jobs
from lit_jax.tools.demo.opener import Opener
from lit_jax.tools.demo.pictures import open_pictures
from lit_jax.utils.errors import ConfigError, DataError, LitJaxError

SHOWN, FOUND = 20, 12  # Labels above "more"; pictures that a search shows.
SIDE, LARGE = 256, 1280  # Most pixels along the longer edge of such a picture, and of one that is opened.
EXAMPLES = 6  # Pictures of the index to click.
QUESTIONS, THUMBNAILS = 16, 64  # How many of each may wait.
_FIELD = 1 << 20  # Most bytes of a field of a form that is not a file.
_NUMBER = re.compile("[0-9]{1,13}", re.ASCII)
_ASSETS = {"style.css": "text/css", "demo.css": "text/css", "demo.js": "text/javascript"}
_NOTHING = "There is nothing here."


def make_app(
    model: Embedder,
    index: Index | None = None,
    *,
    pictures: str | None = None,
    access: Access = LOCAL,
    has_page: bool = True,
) -> ASGIApp:
    """The JSON interface below /api, and with `has_page` the page, as an ASGI application.

    `pictures` is the source that was embedded; without it, a search shows ids and scores alone. Raises DataError for an
    index of another model, ConfigError for pictures without an index, and what `open_pictures` raises.
    """
    if index is not None:
        index.check_model(model)
    elif pictures is not None:
        raise ConfigError(f"--pictures {pictures} belongs to an index; give it as --index")
    api = Api(model, index)
    routes = api.routes()
    if has_page:
        page = _Page(model, index, pictures, access)
        routes += [
            Route("/", page.home),
            Route("/classify", page.classify, methods=["POST"]),
            Route("/search", page.search, methods=["POST"]),
            Route("/picture/{number}", page.picture),
            Route("/picture/{number}/large", page.large),
        ]
    routes.append(Route("/{name}", asset))
    hosts = Middleware(OwnHostsOnly, names=access.names)
    handlers = {HTTPException: refused, RuntimeError: full, MemoryError: full, Exception: fault}
    app = Starlette(routes=routes, middleware=[hosts, Middleware(OwnPageOnly)], exception_handlers=handlers)
    return WithHeaders(Bounded(app), access.framed_by)


async def asset(request: Request) -> Response:
    """A style sheet or a script."""
    name = request.path_params["name"]
    if name not in _ASSETS:
        raise HTTPException(404, _NOTHING)
    return Response(pages.asset(name), media_type=_ASSETS[name])


class _Page:
    """The answers of the page; each public method is a route."""

    def __init__(self, model: Embedder, index: Index | None, pictures: str | None, access: Access):
        self._model, self._index = model, index
        self._pictures = open_pictures(index, pictures) if index and pictures else None
        self._questions, self._thumbnails = Jobs("questions", QUESTIONS), Jobs("pictures", THUMBNAILS)
        self._opener, self._opener_of_thumbnails = Opener(), Opener()
        config = model.config
        examples, captions = self._examples()
        self._home = html(
            "demo.html",
            name=title_of(model),
            folder=shlex.quote(folder_of(model.name)),
            about=f"A dual encoder of {config.vision_type} and {config.text_type}. {access.meaning}",
            most=MOST,
            too_large=TOO_LARGE,
            prompts=list(TEMPLATES.items()),
            pictures=index.pictures if index else None,
            seen=self._pictures is not None,
            is_own=not access.is_open,
            examples=examples,
            labels="\n".join(dict.fromkeys(filter(None, captions))),
        )

    async def home(self, request: Request) -> Response:
        """The page itself."""
        return self._home

    def _examples(self) -> tuple[list[tuple[int, str]], list[str]]:
        """Numbers and names of a few pictures from all over the index, to be clicked, and their captions."""
        if self._index is None or self._pictures is None or not self._index.pictures:
            return [], []
        step = max(1, self._index.pictures // EXAMPLES)
        numbers = range(0, self._index.pictures, step)[:EXAMPLES]
        captions = [self._pictures.caption(number) for number in numbers]
        return [(n, text or f"picture {n}") for n, text in zip(numbers, captions, strict=True)], captions

    async def picture(self, request: Request) -> Response:
        """A picture of the index, by its number."""
        return await self._shown(request.path_params["number"], SIDE)

    async def large(self, request: Request) -> Response:
        """The same picture, as large as a screen."""
        return await self._shown(request.path_params["number"], LARGE)

    async def _shown(self, number: str, side: int) -> Response:
        pictures = self._pictures
        if pictures is None or not _NUMBER.fullmatch(number):
            raise HTTPException(404, _NOTHING)
        try:
            small = await self._thumbnails.run(
                lambda: self._opener_of_thumbnails.small(pictures.read(int(number)), side)
            )
        except LitJaxError as error:
            raise HTTPException(404, str(error)) from error
        return Response(small, media_type="image/webp")

    async def classify(self, request: Request) -> Response:
        """The probabilities of labels for an uploaded picture."""
        return await self._answer(request, self._labels)

    async def search(self, request: Request) -> Response:
        """The pictures of the index that are nearest to a text or to an uploaded picture."""
        return await self._answer(request, self._hits)

    async def _answer(self, request: Request, ask: Callable[[FormData], Response]) -> Response:
        """What `ask` makes of the form and its picture; an error becomes one sentence."""
        self._questions.check_room()  # This comes before anything is read.
        try:
            async with request.form(max_files=1, max_fields=8, max_part_size=_FIELD) as form:
                return await _while_there(request, self._questions.run(lambda: ask(form)))
        except LitJaxError as error:
            return mistake(str(error), 400)
        except UnicodeError:
            return mistake("The form is in an encoding that is none.", 400)

    def _labels(self, form: FormData) -> Response:
        if (picture := self._uploaded(form)) is None:
            raise DataError("there is no picture yet: drop one, paste one or choose one")
        names = _split_labels(_text(form, "labels"))
        prompts = _text(form, "prompts") or "name"
        if prompts not in TEMPLATES:  # Only the command line may name a file of this machine.
            raise ConfigError(f"prompts {prompts!r} are unknown; wanted one of {', '.join(TEMPLATES)}")
        (shares,) = classify(picture, names, self._model, prompts=prompts)
        return html("labels.html", shares=shares, shown=SHOWN)

    def _hits(self, form: FormData) -> Response:
        if self._index is None:
            raise ConfigError("there is no index to search in; start the demo with --index")
        picture = self._uploaded(form)
        query = None if picture is not None else _text(form, "query")
        if query and len(query) > LONGEST:
            raise ConfigError(f"the text has {len(query):,} characters; give at most {LONGEST:,}")
        hits = search(self._index, query, picture=picture, model=self._model, top=FOUND)
        pictures = self._pictures
        captions = {hit.number: pictures.caption(hit.number) if pictures else "" for hit in hits}
        return html("hits.html", hits=hits, seen=pictures is not None, captions=captions)

    def _uploaded(self, form: FormData) -> bytes | None:
        """The picture of a form, which can be opened. Raises DataError."""
        file = form.get("picture")
        if not isinstance(file, UploadFile) or not file.size:
            return None
        content = file.file.read()
        self._opener.check(content)  # Its errors do not name the file; those of `classify` would.
        return content


async def _while_there(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """The result of `answer`, which is cancelled if the client disconnects."""
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        leaving.result()
        raise ClientDisconnect
    finally:
        answering.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _split_labels(text: str) -> list[str]:
    """One label per line, or one line with commas, without blanks. Raises ConfigError for too many or too long ones."""
    parts = text.splitlines() if "\n" in text.strip() else text.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if len(names) > LABELS:
        raise ConfigError(f"there are {len(names):,} labels; give at most {LABELS:,}")
    if (longest := max(map(len, names), default=0)) > LONGEST:
        raise ConfigError(f"a label has {longest:,} characters; give at most {LONGEST:,}")
    return names


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""
