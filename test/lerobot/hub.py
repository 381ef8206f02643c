# SPDX-License-Identifier: Apache-2.0
"""A stand-in of the Hub's HTTP interface on this machine: repositories with commits, uploads, downloads, tags."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

TOKEN = "hf_of_a_test"
Files = Mapping[str, bytes]


@dataclass
class Hub:
    """Repositories by kind and name (`models/me/sigma`): their commits, oldest first. `asked` are all requests."""

    url: str = ""
    commits: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, repo: str, files: Files) -> str:
        """A further commit with these files in place of or beside the earlier ones; its name."""
        history = self.commits.setdefault(repo, [])
        whole = {**(history[-1][1] if history else {}), **files}
        text = repo + str(len(history)) + str(sorted((n, hashlib.sha1(c).hexdigest()) for n, c in whole.items()))
        history.append((hashlib.sha1(text.encode()).hexdigest(), whole))
        return history[-1][0]

    def put_folder(self, repo: str, folder: Path) -> str:
        found = (path for path in folder.rglob("*") if path.is_file())
        return self.put(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in found})

    def at(self, repo: str, revision: str) -> tuple[str, Files] | None:
        history = self.commits.get(repo, [])
        name = self.tags.get(repo, {}).get(revision, revision)
        found = [commit for commit in history if name in (commit[0], "main")]
        return found[-1] if found else None

    def environment(self, home: Path) -> dict[str, str]:
        """For a child process with an empty cache."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"} | {
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub without repositories."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stays silent."""

    def do_HEAD(self) -> None:
        self._file(self._path())

    def do_GET(self) -> None:
        path = self._path()
        if found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/revision/(.+)", path):
            kind, name, revision = found.groups()
            commit = self.hub.at(f"{kind}/{name}", revision)
            siblings = [{"rfilename": file} for file in sorted(commit[1])] if commit else []
            sha = commit[0] if commit else ""
            self._json({"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": []}, commit)
        elif found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/tree/([^/]+)(/.*)?", path):
            commit = self.hub.at(f"{found[1]}/{found[2]}", found[3])
            entries = commit[1].items() if commit else ()
            tree = [{"type": "file", "path": n, "size": len(c), "oid": _etag(c)} for n, c in sorted(entries)]
            self._json(tree, commit)
        elif found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/refs", path):
            tags = self.hub.tags.get(f"{found[1]}/{found[2]}", {})
            named = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in tags.items()]
            self._json({"branches": [], "converts": [], "tags": named}, found)
        else:
            self._file(path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._path()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and path != "/api/validate-yaml":
            self._answer(401, b'{"error": "log in"}')
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made.get('organization') or 'me'}/{made['name']}"
            self.hub.commits.setdefault(f"{made.get('type') or 'model'}s/{name}", [])
            self._json({"url": f"{self.hub.url}/{name}", "name": name})
        elif found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/preupload/(.+)", path):
            asked = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._json({"files": asked})
        elif found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/commit/(.+)", path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {v["path"]: base64.b64decode(v["content"]) for v in (x["value"] for x in lines) if "content" in v}
            oid = self.hub.put(f"{found[1]}/{found[2]}", files)
            self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{found[2]}/commit/{oid}"})
        elif found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/tag/(.+)", path):
            repo = f"{found[1]}/{found[2]}"
            self.hub.tags.setdefault(repo, {})[json.loads(body)["tag"]] = self.hub.commits[repo][-1][0]
            self._json({})
        else:
            self._answer(404, b"{}")

    def do_DELETE(self) -> None:
        self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})

    def _path(self) -> str:
        path = self.path.split("?", 1)[0].replace("%2F", "/")
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _file(self, path: str) -> None:
        found = re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        commit = found and self.hub.at(f"{(found[1] or 'models/').rstrip('/')}/{found[2]}", found[3])
        if found is None or commit is None or found[4] not in commit[1]:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound" if commit else "RepoNotFound"})
        else:
            content = commit[1][found[4]]
            self._answer(200, content, {"X-Repo-Commit": commit[0], "ETag": f'"{_etag(content)}"'})

    def _json(self, value: Any, found: object = True) -> None:
        if found:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
