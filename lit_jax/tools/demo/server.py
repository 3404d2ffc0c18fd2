"""Serving the page: listening, and connections that do not wait forever."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.tools.demo.access import listen
from lit_jax.tools.demo.app import make_app
from lit_jax.tools.demo.guards import HEADERS

log = logging.getLogger(__name__)

HEAD_SECONDS = 10  # For the head of a request, from its first byte or from the start of the connection.
IDLE_SECONDS = 5  # Between two requests.
UNREAD_SECONDS = 0.05  # For reading what came while the event loop was busy.
SEND_SECONDS = 30  # For a client to take some of an answer.
CONNECTIONS = 256  # If there are more, the oldest without a request is closed.

_numbers = itertools.count()  # The event loop's clock stands still while many connections are accepted.


def serve(
    model: Embedder,
    index: Index | None = None,
    *,
    pictures: str | None = None,
    has_page: bool = True,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Sequence[str] = (),
    ready: Callable[[str], Any] = print,
) -> None:
    """Serves the page and the JSON interface until it is interrupted; `ready(address)` is called when it can be opened.

    Without `has_page` it serves the interface alone. If `pictures` names the source that was embedded, its pictures are
    shown (see `open_pictures`). Port 0 means any free one. The address of all networks (0.0.0.0) needs `allow_hosts`.
    Raises ConfigError for an unusable address, port or name, and what `make_app` raises.
    """
    listening, access, address = listen(host, port, allow_hosts)
    with listening:
        app = make_app(model, index, pictures=pictures, access=access, has_page=has_page)
        if access.is_open:
            log.warning("%s It answers to the names %s", access.meaning, ", ".join(access.names))
        settings = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=IDLE_SECONDS,
        )
        settings.load()
        ready(address)
        uvicorn.Server(settings).run(sockets=[listening])


class Connection(H11Protocol):
    """A uvicorn connection that ends if the head of its request is not complete in time or its answer is not taken."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    number = -1  # Connections are numbered in the order in which they began.

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Called with a new connection."""
        super().connection_made(transport)
        self.number = next(_numbers)
        self._watch()
        there = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
        if len(there) > CONNECTIONS:
            idle = [connection for connection in there if not connection.is_busy]
            min(idle, key=lambda connection: connection.number).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection ends."""
        super().connection_lost(exc)
        for timer in filter(None, (self._deadline, self._stalled)):
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Called with each part of a request."""
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        """Called when the other side does not take the answer."""
        super().pause_writing()
        self._stalled = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Called when the other side takes the answer again."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that is not HTTP."""
        if not self.is_busy:
            head = {
                "Content-Type": "text/plain",
                "Content-Length": str(len(msg)),
                "Connection": "close",
            } | HEADERS
            lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{lines}\r\n{msg}".encode("ascii"))
        self.transport.close()

    def _watch(self) -> None:
        """Starts the timer for the head of a request, unless it is running; stops it when the head is there."""
        if self.is_busy and self._deadline:
            self._deadline.cancel()
            self._deadline = None
        elif not self.is_busy and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Waits a little at the end of the time: the rest of the head may have come without being read yet."""
        self._deadline = self.loop.call_later(UNREAD_SECONDS, self._close_unless_busy)

    def _close_unless_busy(self) -> None:
        self._deadline = None
        if not self.is_busy:
            self.transport.close()
