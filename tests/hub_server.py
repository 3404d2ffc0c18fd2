"""A small Hugging Face Hub on this machine: enough of its HTTP protocol to publish a model and to load it again.

Repositories are branches of commits of files, in memory. It knows three tokens: `write` and `read`, both of the owner
"me", and `stranger`, who owns nothing here. `Hub.broken` maps the beginning of "METHOD path" to the status of the call.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKENS = {"write": ("me", "write"), "read": ("me", "read"), "stranger": ("you", "write")}
LICENSES = {"apache-2.0", "mit", "cc-by-sa-4.0", "unknown", "other"}
LARGE = (".safetensors", ".bin", ".msgpack")


@dataclass
class Repository:
    """Commits are numbered from 0, the empty one; `branches` point to them."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.safetensors\n"}])
    branches: dict[str, int] = field(default_factory=lambda: {"main": 0})
    messages: list[str] = field(default_factory=lambda: ["initial commit"])

    def files(self, revision="main"):
        return self.commits[self.number(revision)]

    def number(self, revision):
        """The number of the commit with this branch name or id. KeyError if there is none."""
        ids = {commit_id(number): number for number in range(len(self.commits))}
        return {**ids, **self.branches}[revision]


def commit_id(number):
    return hashlib.sha1(b"commit %d" % number).hexdigest()


class Hub:
    """The state of the Hub, and its address while the block runs."""

    def __enter__(self):
        self.repositories, self.large, self.calls, self.broken = {}, {}, [], {}
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *_):
        pass

    def answer(self):
        self.route = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = f"{self.command} {self.route}"
        self.state.calls.append(call)
        for start, status in self.state.broken.items():
            if call.startswith(start):
                return self.error(status, "broken on purpose")
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, call):
                return getattr(self, method)(*found.groups())
        return self.error(404, f"no route {call}")

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body, headers["content_type"] = json.dumps(body).encode(), "application/json"
        self.send_response(status)
        length = headers.pop("length", len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, message, code=None):
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.send(status, b"" if self.command == "HEAD" else {"error": message}, **headers)

    def owner(self):
        """Who asks, and in what role; (None, None) without a token or with an unknown one."""
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "), (None, None))

    def repository(self, name, write=False):
        """The repository, or None after sending an error."""
        owner, role = self.owner()
        found = self.state.repositories.get(name)
        if found is None or (found.private and owner != name.split("/")[0]):
            return self.error(404 if owner else 401, "Repository not found", "RepoNotFound")
        if write and (owner != name.split("/")[0] or role != "write"):
            return self.error(403, "You don't have the rights to do this")
        return found

    def files(self, name, revision):
        if repository := self.repository(name):
            try:
                return repository, repository.files(revision)
            except KeyError:
                self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return None, None

    def whoami(self):
        owner, role = self.owner()
        if owner is None:
            return self.error(401, "Invalid credentials in Authorization header")
        self.send(200, {"type": "user", "name": owner, "auth": {"accessToken": {"role": role}}})

    def create(self):
        asked, (owner, role) = json.loads(self.body), self.owner()
        name = f"{asked.get('organization') or owner}/{asked['name']}"
        if role != "write" or name.split("/")[0] != owner:
            return self.error(403, "You don't have the rights to create a model under this namespace")
        if name in self.state.repositories:
            return self.error(409, "You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.state.repositories[name] = Repository(private)
        self.send(200, {"url": f"{self.state.url}/{name}", "name": name})

    def branch(self, name, branch):
        if repository := self.repository(name, write=True):
            repository.branches[branch] = repository.number("main")
            self.send(201, {})

    def info(self, name, revision=None):
        repository, files = self.files(name, revision or "main")
        if files is not None:
            sha = commit_id(repository.number(revision or "main"))
            siblings = [{"rfilename": path} for path in files]
            self.send(
                200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []}
            )

    def tree(self, name, revision):
        _, files = self.files(name, revision)
        if files is None:
            return
        rows = []
        for path, data in files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            row = {"type": "file", "path": path, "size": len(data), "oid": git}
            if path.endswith(LARGE):
                oid = hashlib.sha256(data).hexdigest()
                row |= {"oid": "0" * 40, "lfs": {"oid": oid, "size": len(data), "pointerSize": 134}}
            rows.append(row)
        self.send(200, rows)

    def validate(self):
        """Validates a card as the Hub does: the licence is one that it knows, and every result has its fields."""
        text = json.loads(self.body)["content"]
        data = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        errors = []
        if data.get("license", "mit") not in LICENSES:
            errors.append({"message": f'"license" must be one of {sorted(LICENSES)}'})
        for entry in data.get("model-index", []):
            for result in entry["results"]:
                if not all({"type", "name"} <= result[part].keys() for part in ("task", "dataset")):
                    errors.append({"message": '"model-index[0].results[0]" lacks a field'})
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, name, revision):
        if self.repository(name, write=True):
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(self.body)["files"]
            ]
            self.send(200, {"files": files})

    def batch(self, name):
        if self.repository(name, write=True):
            objects = []
            for one in json.loads(self.body)["objects"]:
                entry = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in self.state.large:
                    entry["actions"] = {"upload": {"href": f"{self.state.url}/upload/{one['oid']}"}}
                objects.append(entry)
            self.send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "sha256 does not match")
        self.state.large[oid] = self.body
        self.send(200)

    def commit(self, name, revision):
        if not (repository := self.repository(name, write=True)):
            return
        if revision not in repository.branches:
            return self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        header, *rows = map(json.loads, self.body.splitlines())
        if header["value"].get("parentCommit") not in (None, commit_id(repository.number(revision))):
            return self.error(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.files(revision))
        for row in rows:
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.state.large[value["oid"]]
            else:
                del files[value["path"]]
        repository.commits.append(files)
        repository.messages.append(header["value"]["summary"])
        repository.branches[revision] = len(repository.commits) - 1
        sha = commit_id(repository.branches[revision])
        self.send(
            200, {"success": True, "commitOid": sha, "commitUrl": f"{self.state.url}/{name}/commit/{sha}"}
        )

    def resolve(self, name, revision, path):
        repository, files = self.files(name, revision)
        if files is None:
            return
        if path not in files:
            return self.error(404, "Entry not found", "EntryNotFound")
        data, commit = files[path], commit_id(repository.number(revision))
        etag = hashlib.sha256(data).hexdigest()
        self.send(200, data, ETag=f'"{etag}"', X_Repo_Commit=commit)


_NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{_NAME}/branch/(.+)", "branch"),
    (rf"POST /api/models/{_NAME}/preupload/(.+)", "preupload"),
    (rf"POST /api/models/{_NAME}/commit/(.+)", "commit"),
    (rf"GET /api/models/{_NAME}/tree/(.+)", "tree"),
    (rf"GET /api/models/{_NAME}/revision/(.+)", "info"),
    (rf"GET /api/models/{_NAME}", "info"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /upload/(\w+)", "upload"),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
)
