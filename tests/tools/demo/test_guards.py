"""What requests of other pages, endless ones and slow ones get, and what every answer says to the browser."""

import asyncio
import socket
import time

import pytest
import uvicorn
from uvicorn.server import ServerState

from lit_jax.tools.demo import guards, server
from tests.tools.demo.pages import asked, form_of, posted


def open_socket(address):
    host, _, port = address.removeprefix("http://").strip("/").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def answer(connection):
    """All that comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def request(address, head, body=b""):
    host = address.removeprefix("http://").strip("/")
    with open_socket(address) as connection:
        connection.sendall(f"{head} HTTP/1.1\r\nHost: {host}\r\n".encode() + body)
        return answer(connection)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),  # No browser; the form is empty.
        ({"Origin": "{own}"}, 400),
        ({"Origin": "{own}", "Sec-Fetch-Site": "same-origin"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[x"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "{own}", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
    ],
)
@pytest.mark.parametrize("form", ["search", "classify"])
def test_a_form_that_another_page_sends_is_refused(address, form, headers, status):
    body, kind = form_of(query=" ")
    own = address.strip("/")
    headers = {name: value.replace("{own}", own) for name, value in headers.items()}
    assert asked(f"{address}{form}", body, Content_Type=kind, **headers)[0] == status


def test_another_page_may_link_to_this_one_and_may_not_use_its_pictures(address):
    assert asked(address, Sec_Fetch_Site="cross-site")[0] == 200
    for name in ("picture/0", "style.css", "demo.js"):
        assert asked(address + name, Sec_Fetch_Site="cross-site")[0] == 403
        assert asked(address + name, Sec_Fetch_Site="same-origin")[0] == 200
        assert asked(address + name)[1]["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("path", "data", "headers", "status"),
    [
        ("", None, {}, 200),
        ("style.css", None, {}, 200),
        ("picture/0", None, {}, 200),
        ("none", None, {}, 404),
        (f"picture/{'9' * 5000}", None, {}, 404),
        ("picture/%D9%A3", None, {}, 404),
        ("classify", None, {}, 404),
        ("", None, {"Host": "evil.example"}, 400),
        ("search", b"", {"Origin": "http://evil.example"}, 403),
        ("search", b"x", {"Content-Type": "multipart/form-data"}, 400),
        ("search", b"--x\r\nx", {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"}, 400),
        ("search", b"x", {"Content-Length": str(10**12)}, 413),
    ],
)
def test_every_answer_has_the_headers_that_protect_the_page(address, path, data, headers, status):
    found, said, _ = asked(address + path, data, **headers)
    assert found == status
    for name, value in guards.HEADERS.items():
        assert said.get_all(name) == [value]


def test_what_is_not_http_gets_the_same_headers(address):
    with open_socket(address) as connection:
        connection.sendall(b"\0\1\2 what\r\n\r\n")
        said = answer(connection).decode()
    assert said.startswith("HTTP/1.1 400 ") and all(
        f"{name}: {v}" in said for name, v in guards.HEADERS.items()
    )


def test_a_body_that_announces_too_much_is_refused_before_it_is_read(address):
    with open_socket(address) as connection:
        host = address.removeprefix("http://").strip("/")
        head = f"POST /search HTTP/1.1\r\nHost: {host}\r\nContent-Length: {10**12}\r\n\r\n"
        connection.sendall(head.encode())
        said = connection.recv(1 << 16)
        assert said.startswith(b"HTTP/1.1 413 ") and b"connection: close" in said.lower()
        sent, block = 0, bytes(1 << 20)
        with pytest.raises(OSError):
            while sent < 20 * guards.MOST:
                sent += connection.send(block)
    assert sent < 3 * guards.MOST


def test_a_body_without_an_end_is_read_to_the_limit(address):
    chunks = b"".join(b"100000\r\n" + bytes(1 << 20) + b"\r\n" for _ in range(21))
    kind = b"Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
    start = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
    head = f"{len(start):x}\r\n".encode() + start + b"\r\n"
    said = request(address, "POST /search", kind + head + chunks)
    assert said.startswith(b"HTTP/1.1 413 ") and b"larger than 20 MB" in said


def test_a_body_that_stops_is_given_up(address, monkeypatch):
    monkeypatch.setattr(guards, "GRACE", 0.2)
    head = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x"
    said = request(address, "POST /search", head)
    assert said.startswith(b"HTTP/1.1 408 ") and b"too slowly" in said


def test_a_head_that_stops_is_given_up_at_any_point_of_a_connection(address, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    host = address.removeprefix("http://").strip("/")
    whole = f"GET /style.css HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    starts = [b"", b"GET", b"GET / HTTP/1.1\r\nHost: ", whole + b"GET", whole + whole + whole[:-2]]
    connections = [open_socket(address) for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.sendall(starts[number % len(starts)])
    for number, connection in enumerate(connections):
        assert answer(connection).count(b"HTTP/1.1 200") == (0, 0, 0, 1, 2)[number % len(starts)]
        connection.close()


def test_a_head_that_comes_byte_by_byte_is_given_up(address, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with open_socket(address) as connection, pytest.raises(OSError):
        for byte in b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000:
            connection.send(bytes([byte]))
            time.sleep(0.01)


def test_a_new_connection_is_served_when_there_are_too_many_old_ones(address, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 20)
    connections = [open_socket(address) for _ in range(60)]
    assert asked(f"{address}style.css")[0] == 200
    for connection in connections:
        connection.close()


class Transport:
    """What a connection is told of its other side, and what it did to it."""

    def __init__(self):
        self.aborts = self.closes = 0

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return self.aborts + self.closes > 0

    def abort(self):
        self.aborts += 1

    def close(self):
        self.closes += 1


async def waits(scope, receive, send):
    await asyncio.sleep(60)


def connected(count):
    """So many connections of the running event loop, and their transports."""
    settings, state = uvicorn.Config(waits, log_config=None), ServerState()
    settings.load()
    transports = [Transport() for _ in range(count)]
    connections = [server.Connection(settings, state, {}, asyncio.get_running_loop()) for _ in transports]
    for connection, transport in zip(connections, transports, strict=True):
        connection.connection_made(transport)
    return connections, transports


def test_connections_that_begin_at_one_time_of_the_clock_are_closed_in_their_order(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 20)

    async def aborts():
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 0.0)
        return [transport.aborts for transport in connected(60)[1]]

    assert asyncio.run(aborts()) == [1] * 40 + [0] * 20


@pytest.mark.parametrize(("rest", "closed"), [(b"Host: a\r\n\r\n", False), (b"Host: a\r\n", True)])
def test_a_head_that_came_while_the_event_loop_was_busy_is_not_given_up(rest, closed, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0)

    async def closes():
        (connection,), (transport,) = connected(1)
        # It is read only after the end of the time has been noticed.
        asyncio.get_running_loop().call_later(0, connection.data_received, b"GET / HTTP/1.1\r\n" + rest)
        await asyncio.sleep(2 * server.UNREAD_SECONDS)
        return transport.closes

    assert asyncio.run(closes()) == closed


@pytest.mark.parametrize(
    ("form", "fields", "says"),
    [
        ("classify", {"labels": "a" * 1001}, "a label has 1,001 characters"),
        ("search", {"query": "a" * 1001}, "the text has 1,001 characters"),
    ],
)
def test_texts_beyond_any_label_are_refused(place, address, form, fields, says):
    picture = {"picture": (place / "pairs" / "000.png").read_bytes()} if form == "classify" else {}
    status, said = posted(address + form, **fields, **picture)
    assert status == 400 and says in said.lower()
