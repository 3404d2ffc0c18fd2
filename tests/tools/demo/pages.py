"""Pages that a thread serves, and what they answer to a program that is no browser."""

import html
import re
import threading
import urllib.error
import urllib.request

from lit_jax.tools.demo import server


def served(model, index=None, **options):
    """The address of a page that a thread serves."""
    ready, urls = threading.Event(), []

    def told(url):
        urls.append(url)
        ready.set()

    options = {"port": 0, "ready": told} | options
    threading.Thread(target=server.serve, args=(model, index), kwargs=options, daemon=True).start()
    assert ready.wait(30)
    return urls[0]


def asked(url, data=None, **headers):
    """Status, headers and text of an answer."""
    request = urllib.request.Request(url, data, {name.replace("_", "-"): v for name, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def form_of(**fields):
    """The body of a form and its type; a field of bytes is a file."""
    parts = []
    for name, value in fields.items():
        file = '; filename="a"' if isinstance(value, bytes) else ""
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value if file else value.encode()) + b"\r\n")
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


def posted(url, **fields):
    """The status and the text of what a form gets, without its tags."""
    body, kind = form_of(**fields)
    status, _, said = asked(url, body, Content_Type=kind)
    return status, html.unescape(re.sub(r"<[^>]*>", "", said)).strip()
