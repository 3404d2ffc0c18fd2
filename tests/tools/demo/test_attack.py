"""The command under attack: files stay quick, memory stays flat, and what nobody finishes ends."""

import concurrent.futures
import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from lit_jax.tools.demo.app import QUESTIONS
from tests.tools.demo.pages import asked, form_of

pytestmark = pytest.mark.slow


@pytest.fixture
def page(place, index):
    """The address of a page that a command serves, and the process."""
    options = [
        "--model",
        place / "model",
        "--index",
        index.folder,
        "--pictures",
        place / "pairs",
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_jax", "demo", *map(str, options)], stdout=subprocess.PIPE, text=True
    )
    yield re.match(r"http://\S+", process.stdout.readline())[0], psutil.Process(process.pid)
    process.terminate()
    process.wait(30)


def resident(process):
    return process.memory_info().rss


def quick(address):
    begun = time.monotonic()
    status, _, _ = asked(f"{address}style.css")
    assert status == 200
    return time.monotonic() - begun


def test_files_are_served_within_a_second_while_45_questions_wait(page):
    address, process = page
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)).save(file, "PNG")
    labels = "\n".join(f"a thing of number {i}" for i in range(500))
    body, kind = form_of(picture=file.getvalue(), labels=labels, prompts="plain")
    assert asked(f"{address}classify", body, Content_Type=kind)[0] == 200  # Compiled.
    before = resident(process)
    with concurrent.futures.ThreadPoolExecutor(45) as pool:
        waiting = [pool.submit(asked, f"{address}classify", body, Content_Type=kind) for _ in range(45)]
        slowest, highest = 0.0, before
        while not all(future.done() for future in waiting):
            slowest = max(slowest, quick(address))
            highest = max(highest, resident(process))
            time.sleep(0.05)
    answers = [future.result() for future in waiting]
    refused = [headers for status, headers, _ in answers if status == 503]
    assert {status for status, _, _ in answers} == {200, 503} and len(refused) <= 45 - QUESTIONS
    assert all(int(headers["Retry-After"]) > 0 for headers in refused)
    assert slowest < 1 and highest - before < 300_000_000, (slowest, highest - before)


def connect(address):
    host, _, port = address.removeprefix("http://").strip("/").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=40)


def test_requests_that_stop_in_the_middle_are_ended_and_the_page_is_served_meanwhile(page):
    address, process = page
    halves = [
        b"GET / HTTP/1.1\r\nHost: ",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x",
    ]
    before = resident(process)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(address)) for _ in range(300)]
        for number, connection in enumerate(connections):
            with contextlib.suppress(OSError):
                connection.sendall(halves[number % 2])
        assert quick(address) < 1
        end = time.monotonic() + 15
        for connection in connections:
            connection.settimeout(max(0.1, end - time.monotonic()))
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 16):
                    pass
    assert resident(process) - before < 100_000_000


def test_bodies_that_announce_a_terabyte_are_not_read(page):
    address, process = page
    before, sent, block = resident(process), 0, os.urandom(1 << 20)
    for _ in range(5):
        with connect(address) as connection, contextlib.suppress(OSError):
            connection.sendall(
                f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**12}\r\n\r\n".encode()
            )
            while sent < 10**10:
                sent += connection.send(block)
    assert sent < 5 * 60_000_000 and resident(process) - before < 100_000_000
    assert quick(address) < 1
