"""What every request to the page passes: limits on bytes and time, a check of who asks, and headers on its answer."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_jax.tools.demo.answers import failure

MOST = 20_000_000  # Most bytes of a request.
GRACE, RATE = 10, 250_000  # A body may take GRACE seconds, and one more for every RATE bytes received.
LINGER = 2  # Seconds for which the rest of a refused body is read, so that its sender sees the answer.
TOO_LARGE = f"The file is larger than {MOST // 1_000_000} MB; give a smaller picture."
_PORT = re.compile(r":[0-9]*\Z")
_POLICY = "Content-Security-Policy"
HEADERS = {
    _POLICY: "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Bounded:
    """Reads at most MOST bytes of a request, whatever length it states, and waits for them no longer than allowed.

    An answer that comes before the end of the request closes the connection.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "0")
        body = _Body(receive, send, is_whole=stated == "0" and "transfer-encoding" not in headers)
        if not stated.isdecimal() or len(stated) > 12 or int(stated) > MOST:
            await failure(scope["path"], TOO_LARGE, 413)(scope, body.receive, body.send)
            return
        with suppress(ClientDisconnect):
            await self._app(scope, body.receive, body.send)


class _Body:
    """The body of a request, and the answer to it."""

    def __init__(self, receive: Receive, send: Send, *, is_whole: bool):
        self._receive, self._send, self._is_whole = receive, send, is_whole
        self._read, self._begun = 0, asyncio.get_running_loop().time()

    async def receive(self) -> Message:
        """The next part. Raises HTTPException if there are too many bytes or they come too late."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._begun + GRACE + self._read / RATE):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "The request came too slowly; send it again.") from error
        self._read += len(message.get("body", b""))
        if self._read > MOST:
            raise HTTPException(413, TOO_LARGE)
        self._is_whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Sends a part of the answer."""
        if not self._is_whole and message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self._is_whole:
            await self._send({**message, "more_body": True})
            await self._discard()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _discard(self) -> None:
        left = MOST
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while left > 0 and (message := await self._receive()).get("more_body", False):
                    left -= len(message["body"])


class OwnHostsOnly:
    """Answers only requests under the host `names` that the user of this machine knows, without regard to the port.

    A page from elsewhere can give its own host name the address of this machine, but that name gives it away.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self._app, self._names = app, frozenset(map(str.lower, names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = _PORT.sub("", Headers(scope=scope).get("host", ""))
            if name.lower() not in self._names:
                says = (
                    f"this server does not answer to the name {name[:80]!r}; start it with --allow-host NAME"
                )
                await failure(scope["path"], says, 400)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OwnPageOnly:
    """Answers only the page itself, so that no other page open in the browser can ask or look.

    A browser says in Sec-Fetch-Site or in Origin which page asks; other programs need not say anything.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_own(scope["method"], scope["path"], Headers(scope=scope)):
            await failure(scope["path"], "Only this page itself may ask.", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_own(method: str, path: str, headers: Headers) -> bool:
    is_reading = method in ("GET", "HEAD")
    if is_reading and path == "/":
        return True  # Any page may have a link to this one.
    sites = (None, "same-origin", "none") if is_reading else (None, "same-origin")
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") not in sites or len(headers.getlist("origin")) > 1:
        return False
    try:
        return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


class WithHeaders:
    """Sets HEADERS on every answer; the sites `framed_by` may show it within their own pages."""

    def __init__(self, app: ASGIApp, framed_by: Sequence[str] = ()):
        self._app, self._headers = app, dict(HEADERS)
        if framed_by:
            policy = f"frame-ancestors {' '.join(framed_by)}"
            self._headers[_POLICY] = self._headers[_POLICY].replace("frame-ancestors 'none'", policy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, with_headers)
