"""A hub on loopback: lists repositories and sends their files by ranges, keeps some behind a gate, and breaks off where
it is told.

It knows `main`, which is `commit(repository)`, and one other commit, `revision`; both hold the same.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>[^/?]+)")
FILE = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


class HubServer:
    """`with HubServer({"models/org/name": {"config.json": b"{}"}}) as hub:`"""

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]):
        everyones = {".gitattributes": b"* text"}
        self.repositories = {id: {**everyones, **files} for id, files in repositories.items()}
        self.revision = "v1"
        self.gated: set[str] = set()
        self.breaks: dict[str, int] = {}  # name of a file: bytes after which the connection ends, once
        self.sent: list[tuple[str, int]] = []  # files, and from which byte on
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def commit(self, repository: str) -> str:
        return hashlib.sha1(repository.encode()).hexdigest()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def use(hub: HubServer | None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the hub from this process asks this one, with a cache of its own; without one, there is no route."""
    from huggingface_hub import constants

    url = "http://127.0.0.1:9" if hub is None else hub.url  # where nobody listens
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if found := API.match(self.path):
                self.about(f"{found['kind']}/{found['id']}", found["what"], found["revision"])
            elif found := FILE.match(self.path):
                self.file(f"{found['kind'] or 'models'}/{found['id']}", found["revision"], found["name"])
            else:
                self.refuse("EntryNotFound")

        do_HEAD = do_GET

        def about(self, repository: str, what: str, revision: str) -> None:
            if not self.known(repository, revision):
                return
            files = hub.repositories[repository]
            if what == "revision":
                made: Any = {"id": repository.partition("/")[2], "sha": hub.commit(repository), "siblings": []}
            else:
                made = [{"type": "file", "path": n, "size": len(b), "oid": git_id(b)} for n, b in files.items()]
            self.reply(200, json.dumps(made).encode(), {"Content-Type": "application/json"})

        def file(self, repository: str, revision: str, name: str) -> None:
            if not self.known(repository, revision):
                return
            data = hub.repositories[repository].get(name)
            if data is None:
                self.refuse("EntryNotFound")
            elif repository in hub.gated:
                self.refuse("GatedRepo", 403)
            else:
                self.send(hub.revision if revision == hub.revision else hub.commit(repository), name, data)

        def send(self, commit: str, name: str, data: bytes) -> None:
            begin = int(re.sub(r"bytes=(\d+)-.*", r"\1", self.headers.get("Range", "bytes=0-")))
            headers = {"ETag": f'"{git_id(data)}"', "X-Repo-Commit": commit}
            if begin:
                headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            if self.command == "GET":
                hub.sent.append((name, begin))
            most = hub.breaks.pop(name, None) if self.command == "GET" else None
            self.reply(206 if begin else 200, data[begin:], headers, most)

        def known(self, repository: str, revision: str) -> bool:
            if repository not in hub.repositories:
                self.refuse("RepoNotFound")
            elif revision not in ("main", hub.revision, hub.commit(repository)):
                self.refuse("RevisionNotFound")
            else:
                return True
            return False

        def refuse(self, code: str, status: int = 404) -> None:
            self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def reply(self, status: int, data: bytes, headers: dict[str, str], most: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[:most])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
