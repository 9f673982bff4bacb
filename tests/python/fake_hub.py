"""A hub on the loopback address: as much of the one of Hugging Face as a push and a pull use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


@dataclass
class FakeHub:
    """Repositories in memory: the files of each commit, and the commit of each branch.

    `requests` lists what was asked for. Of private repositories only `token` is told. Once it is
    `broken`, each answer is an internal error.
    """

    endpoint: str = ""
    token: str = "hf_right"
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    broken: bool = False

    def create(self, repo: str, *, private: bool = False) -> None:
        self.commits[repo], self.branches[repo] = {}, {}
        self.commit(repo, "main", {".gitattributes": b""})
        if private:
            self.private.add(repo)

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        whole = {**self.files(repo, branch), **files}
        text = repr((repo, branch, len(self.commits[repo]), sorted(whole.items())))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[repo][commit] = whole
        self.branches[repo][branch] = commit
        return commit

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.branches[repo].get(revision, revision)
        return self.commits[repo].get(commit, {})


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        self._resolve()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._note()
        if self.hub.broken:
            return self._refuse(500, "")
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        actions = r"/api/models/(.+?)/(preupload|commit|branch)/([^?]+)(\?.*)?"
        found = re.fullmatch(actions, self.path)
        if found is None:
            return self._refuse(404, "EntryNotFound")
        repo, action, revision = found[1], found[2], unquote(found[3])
        if not self._known(repo):
            return None
        if action == "branch":
            self.hub.branches[repo].setdefault(revision, self.hub.branches[repo]["main"])
            return self._json({})
        if revision not in self.hub.branches[repo]:
            return self._refuse(404, "RevisionNotFound")
        if action == "preupload":
            how = {"uploadMode": "regular", "shouldIgnore": False}
            files = json.loads(body)["files"]
            return self._json({"files": [{"path": one["path"], **how} for one in files]})
        parts = [json.loads(line) for line in body.splitlines()]
        new = {
            one["value"]["path"]: base64.b64decode(one["value"]["content"])
            for one in parts
            if one["key"] == "file"
        }
        commit = self.hub.commit(repo, revision, new)
        url = f"{self.hub.endpoint}/{repo}/commit/{commit}"
        return self._json({"success": True, "commitOid": commit, "commitUrl": url})

    def _create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        there = repo in self.hub.commits
        if not there:
            private = wanted.get("private") or wanted.get("visibility") == "private"
            self.hub.create(repo, private=bool(private))
        self._json({"url": f"{self.hub.endpoint}/{repo}", "name": repo}, 409 if there else 200)

    def _resolve(self) -> None:
        self._note()
        if self.hub.broken:
            return self._refuse(500, "")
        found = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", self.path)
        if found is None:
            return self._refuse(404, "EntryNotFound")
        repo, revision, name = found[1], unquote(found[2]), unquote(found[3])
        if not self._known(repo):
            return None
        files = self.hub.files(repo, revision)
        if not files:
            return self._refuse(404, "RevisionNotFound")
        commit = self.hub.branches[repo].get(revision, revision)
        if name not in files:
            return self._refuse(404, "EntryNotFound", commit)
        content = files[name]
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        return self._send(content)

    def _known(self, repo: str) -> bool:
        hidden = repo in self.hub.private
        if repo in self.hub.commits and not (
            hidden and self.headers.get("Authorization") != f"Bearer {self.hub.token}"
        ):
            return True
        self._refuse(404, "RepoNotFound")
        return False

    def _note(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self._send(b"")

    def _json(self, values: Any, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self._send(json.dumps(values).encode())

    def _send(self, content: bytes) -> None:
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running() -> Iterator[FakeHub]:
    """Run a hub in a thread."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def instead_of_the_real_one(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[FakeHub]:
    """Run a hub that huggingface_hub takes for the real one; its cache is in a folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with running() as hub:
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
        patch.delenv("HF_TOKEN", raising=False)
        yield hub
