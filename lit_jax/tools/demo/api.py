"""The JSON interface: a program asks for vectors, probabilities and the nearest pictures of an index.

Questions that come together are computed together.
"""

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import lit_jax
from lit_jax.inference.classify import check_labels, probabilities
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.inference.prompts import TEMPLATES, class_embeddings, class_texts
from lit_jax.inference.search import Hit, find
from lit_jax.tools.demo.answers import failure, html, title_of
from lit_jax.tools.demo.api_fields import QUESTIONS, check, openapi
from lit_jax.tools.demo.batcher import Batcher, Call
from lit_jax.tools.demo.guards import MOST
from lit_jax.tools.demo.jobs import Jobs
from lit_jax.tools.demo.later import later
from lit_jax.tools.demo.opener import Opener
from lit_jax.utils import strict_json
from lit_jax.utils.errors import ConfigError, DataError, LitJaxError

WAITING = 4096  # Texts, pictures and vectors that may wait for the devices.
PICTURES = 512  # Pictures that may wait to be opened.
HELD = 512 << 20  # Bytes of all bodies at once.
_CLASSES = 32  # Sets of labels whose embeddings are kept.

Fields = dict[str, Any]


class Api:
    """The answers of the JSON interface. The devices get at most the model's `batch_size` of items at once."""

    def __init__(self, model: Embedder, index: Index | None):
        self._model, self._index = model, index
        calls: dict[str, Call] = {"images": model.pictures, "texts": model.texts, "search": self._find}
        self._batcher = Batcher(calls, most=model.batch_size, waiting=WAITING)
        self._opener, self._opening = Opener(), Jobs("pictures", PICTURES)
        self._classes: OrderedDict[tuple[str, ...], asyncio.Task[np.ndarray]] = OrderedDict()
        self._held = 0

    def routes(self) -> list[Route]:
        """The routes below /api."""
        answers = {
            "/api/embed": self._embed,
            "/api/classify": self._classify,
            "/api/search": self._search,
        }
        return [
            *(Route(path, self._answer(path, answers[path]), methods=["POST"]) for path in QUESTIONS),
            Route("/api/model", self.model),
            Route("/api/openapi.json", self.description),
            Route("/api", self.page),
        ]

    async def model(self, request: Request) -> Response:
        """Describes the model."""
        config, index = self._model.config, self._index
        return JSONResponse(
            {
                "model": title_of(self._model),
                "vision_type": config.vision_type,
                "text_type": config.text_type,
                "dimensions": self._model.width,
                "text_length": self._model.text_length,
                "pictures": index.pictures if index else None,
                "version": lit_jax.__version__,
            }
        )

    async def description(self, request: Request) -> Response:
        """The OpenAPI description."""
        return JSONResponse(openapi(title_of(self._model), lit_jax.__version__))

    async def page(self, request: Request) -> Response:
        """A page for a person that says how to ask."""
        return html(
            "api.html", name=title_of(self._model), address=str(request.base_url), questions=QUESTIONS
        )

    def _answer(
        self, path: str, ask: Callable[[Fields], Awaitable[Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            async with self._room(request):
                try:
                    return JSONResponse(await ask(check(path, _parsed(await request.body()))))
                except LitJaxError as error:
                    return failure(path, str(error), 400)

        return answer

    @asynccontextmanager
    async def _room(self, request: Request) -> AsyncIterator[None]:
        """Counts the bytes of a body while it is answered. Raises HTTPException if all bodies together are too many."""
        size = int(request.headers.get("content-length", MOST))
        if self._held + size > HELD:
            raise later("Too many questions are being answered; try again soon.")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def _embed(self, fields: Fields) -> Any:
        texts, images = fields["texts"], fields["images"]
        if not texts and not images:
            raise ConfigError("there is nothing to embed; give texts or images")
        found = await asyncio.gather(self._texts(texts or []), self._images(images or []))
        lists = [[vector.tolist() for vector in vectors] for vectors in found]
        return {"model": title_of(self._model), "texts": lists[0], "images": lists[1]}

    async def _classify(self, fields: Fields) -> Any:
        labels = check_labels(fields["labels"] or [])
        if not fields["images"]:
            raise ConfigError("there are no pictures to classify; give images")
        vectors = await self._images(fields["images"])
        classes = await self._class_embeddings(labels, fields["prompts"])
        shares = probabilities(np.stack(vectors), classes, labels, self._model.scale)
        return {"results": [[{"label": k, "probability": v} for k, v in row.items()] for row in shares]}

    async def _search(self, fields: Fields) -> Any:
        text, image = fields["text"], fields["image"]
        if self._index is None:
            raise ConfigError("there is no index to search in; start the server with --index")
        if (text is None) == (image is None) or (text is not None and not text.strip()):
            raise ConfigError("give one query: a text that is not blank, or an image")
        vectors = await (self._texts([text]) if image is None else self._images([image]))
        (hits,) = await self._batcher.run("search", [(vectors[0], fields["top"])])
        return {"hits": [hit._asdict() for hit in hits]}

    def _find(self, asked: Sequence[tuple[np.ndarray, int]]) -> list[list[Hit]]:
        """The hits of several (query, how many hits it wants)."""
        assert self._index is not None
        most = max(top for _, top in asked)
        found = find(self._index, np.stack([vector for vector, _ in asked]), most, self._model.mesh)
        return [hits[:top] for hits, (_, top) in zip(found, asked, strict=True)]

    async def _texts(self, texts: Sequence[str]) -> Sequence[np.ndarray]:
        return await self._batcher.run("texts", texts) if texts else []

    async def _images(self, images: Sequence[str]) -> Sequence[np.ndarray]:
        files = [_decoded(number, text) for number, text in enumerate(images)]
        for file in files:
            await self._opening.run(lambda file=file: self._opener.check(file))  # type: ignore[misc]
        return await self._batcher.run("images", files) if files else []

    async def _class_embeddings(self, labels: list[str], prompts: str) -> np.ndarray:
        """The embeddings of labels, which are kept for the next question with the same ones."""
        key = (prompts, *labels)
        if (task := self._classes.get(key)) is None:
            templates = TEMPLATES[prompts]

            async def embed() -> np.ndarray:
                vectors = await self._texts(class_texts(labels, templates))
                return class_embeddings(np.stack(vectors), templates=len(templates))

            task = self._classes[key] = asyncio.ensure_future(embed())
            task.add_done_callback(lambda task: self._forget_failed(key, task))
        self._classes.move_to_end(key)
        while len(self._classes) > _CLASSES:
            self._classes.popitem(last=False)
        return await asyncio.shield(task)

    def _forget_failed(self, key: tuple[str, ...], task: "asyncio.Task[np.ndarray]") -> None:
        if (task.cancelled() or task.exception()) and self._classes.get(key) is task:
            del self._classes[key]


def _parsed(body: bytes) -> Any:
    """The JSON in a body. Raises DataError."""
    try:
        return strict_json.parse(body)
    except ValueError as error:
        raise DataError(f"the body is not JSON that can be read: {error}") from error


def _decoded(number: int, text: str) -> bytes:
    """The bytes of a file in base64, in lines or in one, perhaps after the head of a data: URI. Raises DataError."""
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"image {number} is not base64 ({error}); encode the bytes of its file") from error
