"""A small Google Cloud Storage server on this machine: enough JSON API for gcsfs, TensorStore and Google's client.

It holds objects in memory and nothing else: no folders, no appending. An upload is visible as a whole or not at all.
`Gcs.broken` maps the beginning of "METHOD path" to the status that such a call gets. `Gcs.seen`, if it is a list,
gets the name of each object written or deleted, and what its bucket then holds: all that a kill there would leave.
"""

import base64
import contextlib
import email
import hashlib
import itertools
import json
import re
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 1000  # Objects in one answer to a listing, as on the real server.


@dataclass(frozen=True)
class Stored:
    """One version of an object."""

    data: bytes
    generation: int


class Gcs:
    """`buckets` by name, each {object name: Stored}; `url` is the address while the block runs."""

    def __enter__(self):
        self.buckets, self.calls, self.broken, self.uploads, self.seen = {}, [], {}, {}, None
        self.number, self.lock = itertools.count(1), threading.RLock()
        gcs = self

        class Handler(_Handler):
            state = gcs

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    @property
    def environ(self):
        """The variables that point gcsfs, TensorStore and Google's client to this server, without credentials."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # It would ask over gRPC what kind of bucket this is.
            "NO_GCE_CHECK": "true",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Each answer is one packet; otherwise its two parts would wait 40 ms for each other.
    wbufsize, disable_nagle_algorithm = -1, True
    state: Gcs

    def log_message(self, *_):
        pass

    def handle(self):
        # gcsfs asks in two ways and hangs up on the slower answer.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def answer(self):
        url = urlsplit(self.path)
        self.asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = f"{self.command} {url.path}"
        with self.state.lock:
            if not self.is_waited_for():
                raise ConnectionAbortedError
            self.state.calls.append(f"{self.command} {unquote(url.path)}")
            for start, status in self.state.broken.items():
                if unquote(call).startswith(start):
                    return self.error(status, "broken on purpose")
            for pattern, method in ROUTES:
                if found := re.fullmatch(pattern, call):
                    return getattr(self, method)(*map(unquote, found.groups()))
        return self.error(404, f"no route {call}")

    def is_waited_for(self):
        """Whether the client still holds the connection: an abandoned call must not count among later ones."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def send(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body, headers["content_type"] = json.dumps(body).encode(), "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        # gcsfs asks in two ways and hangs up on the slower answer.
        with contextlib.suppress(ConnectionError):
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def error(self, status, message):
        self.send(status, {"error": {"code": status, "message": message}})

    def changed(self, bucket, name):
        if self.state.seen is not None:
            self.state.seen.append((name, dict(self.state.buckets[bucket])))

    def objects(self, bucket):
        """The objects of a bucket, or None after sending an error."""
        if (found := self.state.buckets.get(bucket)) is None:
            self.error(404, f"The specified bucket does not exist: {bucket}")
        return found

    def about(self, bucket, name, stored):
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{stored.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(len(stored.data)),
            "md5Hash": base64.b64encode(hashlib.md5(stored.data).digest()).decode(),
            "etag": f"e{stored.generation}",
            "contentType": "application/octet-stream",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def refused(self, stored):
        """Whether the stored generation fails the conditions of the call; if so, this has sent the answer."""
        here = stored.generation if stored else 0
        wanted, unwanted = self.asked.get("ifGenerationMatch"), self.asked.get("ifGenerationNotMatch")
        if wanted is not None and int(wanted) != here:
            self.error(412, "conditionNotMet")
            return True
        if unwanted is not None and int(unwanted) == here:
            self.send(304) if self.command == "GET" else self.error(412, "conditionNotMet")
            return True
        return False

    def bucket(self, bucket):
        if self.objects(bucket) is not None:
            self.send(200, {"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "US"})

    def list(self, bucket):
        if (objects := self.objects(bucket)) is None:
            return
        prefix, delimiter = self.asked.get("prefix", ""), self.asked.get("delimiter", "")
        start, end = self.asked.get("startOffset", ""), self.asked.get("endOffset")
        found = {}  # Prefix or name -> object, or None for a prefix.
        for name in sorted(objects):
            if name.startswith(prefix) and name >= start and (not end or name < end):
                head, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
                found.setdefault(prefix + head + mark if mark else name, None if mark else objects[name])
        rows, at = list(found.items()), int(self.asked.get("pageToken", 0))
        page = rows[at : at + int(self.asked.get("maxResults", PAGE))]
        more = {"nextPageToken": str(at + len(page))} if at + len(page) < len(rows) else {}
        items = [self.about(bucket, name, stored) for name, stored in page if stored]
        prefixes = [name for name, stored in page if not stored]
        self.send(200, {"kind": "storage#objects", "items": items, "prefixes": prefixes, **more})

    def get(self, bucket, name):
        if (objects := self.objects(bucket)) is None:
            return
        if (stored := objects.get(name)) is None:
            self.error(404, f"No such object: {bucket}/{name}")
        elif self.refused(stored):
            pass
        elif self.asked.get("alt") != "media":
            self.send(200, self.about(bucket, name, stored))
        else:
            self.media(stored)

    def media(self, stored):
        size, about = len(stored.data), {"X_Goog_Generation": stored.generation}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.send(200, stored.data, **about)
        first, last = asked.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= stop:
            return self.send(416, **about)
        self.send(206, stored.data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{size}", **about)

    def delete(self, bucket, name):
        if (objects := self.objects(bucket)) is None or self.refused(objects.get(name)):
            return
        if objects.pop(name, None) is None:
            return self.error(404, f"No such object: {bucket}/{name}")
        self.changed(bucket, name)
        self.send(204)

    def upload(self, bucket):
        if (objects := self.objects(bucket)) is None:
            return
        kind, name = self.asked["uploadType"], self.asked.get("name")
        if kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            about, data = email.message_from_bytes(head + self.body).get_payload()
            name, body = name or json.loads(about.get_payload())["name"], data.get_payload(decode=True)
        elif kind == "resumable":
            name = name or json.loads(self.body)["name"]
            if not self.refused(objects.get(name)):
                session = str(next(self.state.number))
                self.state.uploads[session] = (bucket, name, b"")
                self.send(200, {}, Location=f"{self.state.url}/upload/session/{session}")
            return
        else:
            body = self.body
        self.put(bucket, name, body)

    def put(self, bucket, name, data):
        objects = self.state.buckets[bucket]
        if not self.refused(objects.get(name)):
            objects[name] = Stored(data, next(self.state.number))
            self.changed(bucket, name)
            self.send(200, self.about(bucket, name, objects[name]))

    def part(self, session):
        bucket, name, data = self.state.uploads[session]
        data += self.body
        if self.headers.get("Content-Range", "").endswith("/*"):
            self.state.uploads[session] = (bucket, name, data)
            return self.send(308, Range=f"bytes=0-{len(data) - 1}")
        del self.state.uploads[session]
        self.put(bucket, name, data)

    def copy(self, bucket, name, _, to_bucket, to_name):
        if (objects := self.objects(bucket)) is None or self.objects(to_bucket) is None:
            return
        if name not in objects:
            return self.error(404, f"No such object: {bucket}/{name}")
        new = Stored(objects[name].data, next(self.state.number))
        self.state.buckets[to_bucket][to_name] = new
        self.send(200, {"done": True, "resource": self.about(to_bucket, to_name, new)})

    def move(self, bucket, name, to_name):
        self.copy(bucket, name, "moveTo", bucket, to_name)
        self.state.buckets.get(bucket, {}).pop(name, None)

    def batch(self):
        """Answers a batch, which consists of deletions only."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        out = []
        for one in email.message_from_bytes(head + self.body).get_payload():
            bucket, name = re.search(r"DELETE \S*/b/([^/]+)/o/([^/?\s]+)", one.get_payload()).groups()
            there = self.state.buckets.get(bucket, {}).pop(unquote(name), None)
            self.changed(bucket, unquote(name))
            status = "204 No Content" if there else "404 Not Found"
            out.append(f"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n")
        self.send(200, ("".join(out) + "--b--").encode(), Content_Type="multipart/mixed; boundary=b")


_OBJECT = r"/b/([^/]+)/o/([^/]+)"
ROUTES = (
    (r"GET /storage/v1/b/([^/]+)", "bucket"),
    (r"GET /storage/v1/b/([^/]+)/o", "list"),
    (rf"GET (?:/download)?/storage/v1{_OBJECT}", "get"),
    (rf"DELETE /storage/v1{_OBJECT}", "delete"),
    (r"POST /upload/storage/v1/b/([^/]+)/o", "upload"),
    (r"(?:PUT|POST) /upload/session/(\d+)", "part"),
    (rf"POST /storage/v1{_OBJECT}/(rewriteTo|copyTo){_OBJECT}", "copy"),
    (rf"POST /storage/v1{_OBJECT}/moveTo/o/([^/]+)", "move"),
    (r"POST /batch/storage/v1", "batch"),
)
