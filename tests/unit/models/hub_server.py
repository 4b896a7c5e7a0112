"""A model hub on the loopback: the endpoints of Hugging Face and ModelScope that their client libraries use.

Large files are redirected to a second server, as the hub redirects to its file store. Faults can be set; every request
is noted.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "c" * 40
#: Files of at least this many bytes are large ones (git-lfs).
LARGE_BYTES = 1000


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up, as one that is killed does, is nothing to print."""


@dataclass
class Hub:
    """The hub's content, its faults, and what was asked of it.

    Attributes:
        repositories: name -> file -> content.
        commits: revision -> commit.
        cuts: file -> after how many bytes each of the next answers with it is broken off.
        damaged: files whose bytes come altered. longer: files that come with bytes too many.
        whole: files that come from their first byte whatever range is asked.
        moved: what ``commits`` becomes after the first answer about a repository.
        refused: name -> status and X-Error-Code of every answer about it.
        locked: names whose files, but not their listing, are refused as gated.
    """

    repositories: dict[str, dict[str, bytes]]
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    moved: dict[str, str] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    store: str = ""

    def __enter__(self) -> Hub:
        self._servers = [_Server(("127.0.0.1", 0), _handler(self)) for _ in range(2)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url, self.store = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def asked(self, part: str) -> list[Request]:
        """The GET requests whose path holds ``part``."""
        return [r for r in self.requests if r.method == "GET" and part in r.path]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            hub.requests.append(Request(self.command, self.path, self.headers["range"], self.headers["authorization"]))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
                self._about(found[1], found[2], found[3] or "main")
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(found[1], found[2], found[3])
            elif found := re.fullmatch(r"/store/([^/]+/[^/]+)/(.+)", path):
                self._content(hub.repositories[found[1]][found[2]], found[2], {})
            elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo(/files)?", path):
                self._modelscope(found[1], found[2])
            else:
                self._answer(404, b"")

        def _refused(self, name: str, revision: str) -> bool:
            status, code = hub.refused.get(name, (0, ""))
            if not status and name not in hub.repositories:
                status, code = 401, "RepoNotFound"
            if not status and revision not in (*hub.commits, *hub.commits.values(), COMMIT):
                status, code = 404, "RevisionNotFound"
            if status:
                self._answer(status, b"{}", {"X-Error-Code": code} if code else {})
            return bool(status)

        def _about(self, name: str, kind: str | None, revision: str) -> None:
            if self._refused(name, revision):
                return
            commit = hub.commits.get(revision, revision)
            hub.commits.update(hub.moved)
            files = hub.repositories[name].items()
            if kind == "tree":
                self._json(
                    [
                        {"type": "file", "path": n, "size": len(c), "oid": git_hash(c), **_lfs(c, "oid")}
                        for n, c in files
                    ]
                )
                return
            siblings = [{"rfilename": n, "size": len(c), "blobId": git_hash(c), **_lfs(c, "sha256")} for n, c in files]
            self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

        def _file(self, name: str, revision: str, file: str) -> None:
            if self._refused(name, revision):
                return
            commit = {"X-Repo-Commit": hub.commits.get(revision, revision)}
            if name in hub.locked:
                self._answer(403, b"", {"X-Error-Code": "GatedRepo", **commit})
                return
            content = hub.repositories[name].get(file)
            if content is None:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound", **commit})
            elif len(content) < LARGE_BYTES:
                self._content(content, file, {"ETag": f'"{git_hash(content)}"', **commit})
            else:
                large = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content)), **commit}
                self._answer(302, b"", {"Location": f"{hub.store}/store/{name}/{file}", **large})

        def _modelscope(self, name: str, listing: str | None) -> None:
            query = {k: v[0] for k, v in parse_qs(urlparse(self.path).query).items()}
            revision = query.get("Revision", "master")
            if name in hub.refused:
                self._json({"Code": hub.refused[name][0], "Message": "refused"}, hub.refused[name][0])
            elif name not in hub.repositories or revision not in ("master", *hub.commits):
                self._json({"Code": 10010205001, "Message": "not found", "Success": False}, 404)
            elif listing:
                files = [
                    {"Path": n, "Name": n, "Size": len(c), "Sha256": sha256(c), "Type": "blob"}
                    for n, c in hub.repositories[name].items()
                ]
                self._json({"Code": 200, "Data": {"Files": files}, "Success": True})
            else:
                self._content(hub.repositories[name][query["FilePath"]], query["FilePath"], {})

        def _content(self, content: bytes, file: str, headers: dict[str, str]) -> None:
            """The bytes from where the request wants them, altered or broken off where a fault is set."""
            if file in hub.damaged:
                content = bytes(b ^ 1 for b in content)
            if file in hub.longer:
                content += bytes(100)
            ranged = None if file in hub.whole else self.headers["range"]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", ranged or "")
            start = int(asked[1]) if asked else 0
            end = min(int(asked[2]) + 1, len(content)) if asked and asked[2] else len(content)
            if asked:
                headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            body = content[start:end]
            cut = hub.cuts[file].pop(0) if self.command == "GET" and hub.cuts.get(file) else None
            self._answer(206 if asked else 200, body, headers, cut)

        def _json(self, value: Any, status: int = 200) -> None:
            self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _answer(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if cut is None else body[:cut])
            self.close_connection = True

    return Handler


def _lfs(content: bytes, key: str) -> dict[str, Any]:
    if len(content) < LARGE_BYTES:
        return {}
    return {"lfs": {key: sha256(content), "size": len(content), "pointerSize": 130}}
