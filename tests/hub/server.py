"""A Hub on the loopback interface: what huggingface_hub and transformers call to create, push and load a model repo.

Standard library only. It keeps everything in memory, checks every checksum a client claims, and answers errors as the
Hub does (status and `X-Error-Code`). `fail_next` breaks requests on demand, so that a test can drop a connection in the
middle of an upload.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".npy", ".onnx", ".parquet", ".model")
CREATED_AT = "2026-01-01T00:00:00.000Z"


@dataclass
class File:
    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        """The git blob id of a regular file, the sha256 of a large one."""
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(f"blob {len(self.content)}\0".encode() + self.content).hexdigest()


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    pull_requests: list[dict] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    log: dict[str, dict] = field(default_factory=dict)  # commit -> its parent, title and description

    def __post_init__(self):
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, files: dict[str, File], message: str, description: str = "") -> str:
        listing = json.dumps([len(self.messages), {path: file.oid for path, file in sorted(files.items())}])
        sha = hashlib.sha1(listing.encode()).hexdigest()
        self.log[sha] = {"parent": self.branches.get(branch), "title": message, "message": description}
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def history(self, sha: str | None) -> Iterator[str]:
        """A commit and those before it, the newest first."""
        while sha is not None:
            yield sha
            sha = self.log[sha]["parent"]

    def last_change(self, sha: str, path: str) -> str:
        """The newest commit that touched a file."""
        for commit in self.history(sha):
            parent = self.log[commit]["parent"]
            if parent is None or self.commits[commit].get(path) != self.commits[parent].get(path):
                return commit
        raise AssertionError("the first commit has no parent")

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a pull request or a commit id; None when there is no such revision."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class HubState:
    users: dict[str, str]  # token -> user
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failures: list[list] = field(default_factory=list)  # [regular expression of "METHOD path", left, how]
    chance: random.Random | None = None
    share: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)


class HubError(Exception):
    def __init__(self, status: int, code: str | None, message: str, **details: str):
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    routes: ClassVar[list[tuple[str, re.Pattern, str]]] = []  # methods, path, name of the function
    hub: HubState

    def log_message(self, *args):
        pass

    def handle_one_request(self):
        self.body = b""
        super().handle_one_request()

    def _serve(self):
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        how = self._failure(f"{self.command} {path}")
        if how == "drop before reading":
            return self._drop()
        if how in ("page", "nothing"):  # from something in between; the Hub has not heard of it
            self._read_body()
            return self._send(b"<html>log in to this network</html>" if how == "page" else {})
        self.body = self._read_body()
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            try:
                answer = self._route(path)
            except HubError as error:
                return self._send_error(error)
            except (KeyError, ValueError) as error:
                return self._send_error(HubError(400, None, f"bad request: {error!r}"))
        if how == "drop after applying":
            return self._drop()
        if how is not None:
            return self._send_error(HubError(int(how), None, "on demand"))
        return self._send(*answer)

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def _failure(self, request: str) -> str | None:
        with self.hub.lock:
            for failure in self.hub.failures:
                if failure[1] > 0 and re.search(failure[0], request):
                    failure[1] -= 1
                    return failure[2]
            if self.hub.chance and self.hub.chance.random() < self.hub.share:
                return self.hub.chance.choice(["drop before reading", "drop after applying", "503"])
        return None

    def _drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str):
        self.user = self._authenticate()
        for method, pattern, name in self.routes:
            match = pattern.fullmatch(path)
            if match and self.command in method.split("|"):
                return getattr(self, name)(**match.groupdict())
        raise HubError(404, None, f"no such endpoint: {self.command} {path}")

    def _authenticate(self) -> str | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return user

    def _send(self, content, headers: dict[str, str] | None = None, status: int = 200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error(self, error: HubError):
        headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
        if "commit" in error.details:  # clients remember which files a commit lacks
            headers["X-Repo-Commit"] = error.details["commit"]
        self._send({"error": error.message, **error.details}, headers, error.status)

    def _json(self) -> dict:
        return json.loads(self.body or b"{}")

    def _repo(self, repo_id: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        owner = repo_id.removeprefix("datasets/").split("/")[0]
        if repo is None or (repo.private and self.user != owner):
            raise HubError(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and self.user is None:
            raise HubError(401, None, "Invalid username or password.")
        if write and self.user != owner:
            raise HubError(403, None, "You don't have the rights to write to this repository")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        sha = repo.resolve(revision)
        if sha is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    # ---- accounts and repositories

    def whoami(self):
        if self.user is None:
            raise HubError(401, None, "Invalid username or password.")
        return ({"type": "user", "name": self.user, "orgs": [], "auth": {}},)

    def create(self):
        if self.user is None:
            raise HubError(401, None, "Invalid username or password.")
        payload = self._json()
        owner = payload.get("organization") or self.user
        repo_id = f"{owner}/{payload['name']}"
        if owner != self.user:
            raise HubError(403, None, f"You don't have the rights to create a model under the namespace {owner}")
        if repo_id in self.hub.repos:
            raise HubError(409, None, "You already created this model repo", url=f"{self._origin()}/{repo_id}")
        private = payload.get("visibility") == "private" or payload.get("private") is True
        self.hub.repos[repo_id] = Repo(private=private)
        return ({"url": f"{self._origin()}/{repo_id}", "name": repo_id},)

    def _origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def info(self, repo_id: str, revision: str = "main"):
        repo = self._repo(repo_id)
        sha = self._commit_of(repo, revision)
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        return ({"_id": "1", "id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []},)

    def branch(self, repo_id: str, branch: str):
        repo = self._repo(repo_id, write=True)
        if branch.startswith("refs/"):
            raise HubError(400, None, f"Invalid reference for a branch: {branch}")
        if branch in repo.branches:
            raise HubError(409, None, f"Reference already exists: {branch}")
        repo.branches[branch] = self._commit_of(repo, self._json().get("startingPoint", "main"))
        return ({},)

    def discussions(self, repo_id: str):
        repo = self._repo(repo_id)
        if self.command == "GET":
            found = [p for p in repo.pull_requests if p["author"]["name"] in self.query.get("author", [None])]
            return ({"count": len(found), "start": 0, "discussions": found},)
        if self.user is None:
            raise HubError(401, None, "Invalid username or password.")
        num = len(repo.pull_requests) + 1
        repo.branches[f"refs/pr/{num}"] = repo.branches["main"]
        repo.pull_requests.append(
            {
                "num": num,
                "title": self._json()["title"],
                "author": {"name": self.user},
                "status": "draft",
                "isPullRequest": True,
                "createdAt": CREATED_AT,
                "repo": {"name": repo_id, "type": "model"},
                "changes": {"base": "refs/heads/main"},
                "filesWithConflicts": [],
                "events": [],
            }
        )
        return ({"num": num},)

    def discussion(self, repo_id: str, num: str):
        return (self._repo(repo_id).pull_requests[int(num) - 1],)

    def discussion_status(self, repo_id: str, num: str):
        pull_request = self._repo(repo_id).pull_requests[int(num) - 1]
        pull_request["status"] = self._json()["status"]
        event = {"id": "1", "type": "status-change", "createdAt": CREATED_AT, "author": pull_request["author"]}
        return ({"newStatus": event | {"data": {"status": pull_request["status"]}}},)

    # ---- upload

    def validate_yaml(self):
        front = re.match(r"---\n.*?\n---", self._json()["content"], re.DOTALL)
        return ({"errors": [] if front else [{"message": "no metadata"}], "warnings": []},)

    def preupload(self, repo_id: str, revision: str):
        repo = self._writable(repo_id, revision)
        stored = repo.commits[self._commit_of(repo, revision)]
        files = []
        for file in self._json()["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            oid = stored[path].oid if path in stored else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return ({"files": files},)

    def _writable(self, repo_id: str, revision: str) -> Repo:
        """The repo, if this user may write to the revision: the owner, or the author of the pull request."""
        if match := re.fullmatch(r"refs/pr/(\d+)", revision):
            repo = self._repo(repo_id)
            if any(pull["num"] == int(match[1]) and pull["author"]["name"] == self.user for pull in repo.pull_requests):
                return repo
        return self._repo(repo_id, write=True)

    def lfs_batch(self, repo_id: str):
        self._repo(repo_id)
        if self.user is None:
            raise HubError(401, None, "Invalid username or password.")
        objects = []
        for item in self._json()["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.blobs:
                answer["actions"] = {
                    "upload": {"href": f"{self._origin()}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self._origin()}/lfs/verify"},
                }
            objects.append(answer)
        return ({"transfer": "basic", "objects": objects},)

    def lfs_put(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, None, "the content does not have the announced sha256")
        self.hub.blobs[oid] = self.body
        return ({},)

    def lfs_verify(self):
        item = self._json()
        if len(self.hub.blobs.get(item["oid"], b"")) != item["size"]:
            raise HubError(422, None, "object missing or of another size")
        return ({},)

    def commit(self, repo_id: str, revision: str):
        repo = self._writable(repo_id, revision)
        parent = self._commit_of(repo, revision)
        if revision not in repo.branches:
            raise HubError(404, "RevisionNotFound", f"Not a branch: {revision}")
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        header, operations = lines[0], lines[1:]
        if header["key"] != "header" or header["value"].get("parentCommit", parent) != parent:
            raise HubError(412, None, "the parent commit is not the head of the branch")
        files = dict(repo.commits[parent])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"], validate=True), is_lfs=False)
            elif operation["key"] == "lfsFile":
                if value["algo"] != "sha256" or len(self.hub.blobs.get(value["oid"], b"")) != value["size"]:
                    raise HubError(400, None, f"unknown LFS object for {value['path']}")
                files[value["path"]] = File(self.hub.blobs[value["oid"]], is_lfs=True)
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise HubError(400, None, f"unknown operation {operation['key']}")
        value = header["value"]
        sha = repo.commit(revision, files, value["summary"], value.get("description", ""))
        return ({"success": True, "commitOid": sha, "commitUrl": f"{self._origin()}/{repo_id}/commit/{sha}"},)

    # ---- download

    def tree(self, repo_id: str, revision: str, path: str | None = None):
        repo = self._repo(repo_id)
        files = repo.commits[self._commit_of(repo, revision)]
        below = {name: file for name, file in files.items() if not path or name.startswith(f"{path}/")}
        if path and not below:
            raise HubError(404, "EntryNotFound", f"{path} does not exist")
        recursive = self.query.get("recursive", ["False"])[0].lower() in ("true", "1")
        depth = path.count("/") + 1 if path else 0
        folders = {"/".join(name.split("/")[: depth + 1]) for name in below if name.count("/") > depth}
        entries = []
        for folder in [] if recursive else sorted(folders):
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries.append({"type": "directory", "oid": oid, "size": 0, "path": folder})
        for name, file in below.items():
            if not recursive and name.count("/") > depth:
                continue
            entry = {"type": "file", "oid": file.oid, "size": len(file.content), "path": name}
            if file.is_lfs:
                entry["lfs"] = {"oid": file.oid, "size": len(file.content), "pointerSize": 130}
            entries.append(entry)
        return (entries,)

    def paths_info(self, repo_id: str, revision: str):
        wanted = parse_qs(self.body.decode())
        self.query["recursive"] = ["True"]
        (entries,) = self.tree(repo_id, revision)
        repo = self._repo(repo_id)
        for entry in entries:
            if wanted.get("expand") == ["True"] or wanted.get("expand") == ["true"]:
                commit = repo.last_change(self._commit_of(repo, revision), entry["path"])
                entry["lastCommit"] = {"id": commit, "title": repo.log[commit]["title"], "date": CREATED_AT}
        return ([entry for entry in entries if entry["path"] in wanted["paths"]],)

    def commit_list(self, repo_id: str, revision: str):
        repo = self._repo(repo_id)
        return (
            [
                {"id": sha, "authors": [{"user": "somebody"}], "date": CREATED_AT} | repo.log[sha]
                for sha in repo.history(self._commit_of(repo, revision))
            ],
        )

    def resolve(self, repo_id: str, revision: str, path: str):
        repo = self._repo(repo_id)
        sha = self._commit_of(repo, revision)
        file = repo.commits[sha].get(path)
        if file is None:
            raise HubError(404, "EntryNotFound", f"{path} does not exist at {revision}", commit=sha)
        content, headers, status = file.content, {"ETag": f'"{file.oid}"', "X-Repo-Commit": sha}, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        return content, headers, status


DATASET = r"(?P<repo_id>datasets/[^/]+/[^/]+)"  # kept under this name, with its prefix
REPO, REV = r"(?P<repo_id>[^/]+/[^/]+)", r"(?P<revision>refs/pr/\d+|[^/]+)"
Handler.routes = [
    (methods, re.compile(pattern), name)
    for methods, pattern, name in [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", rf"/api/models/{REPO}/branch/(?P<branch>.+)", "branch"),
        ("POST", rf"/api/models/{REPO}/preupload/{REV}", "preupload"),
        ("POST", rf"/api/models/{REPO}/commit/{REV}", "commit"),
        ("GET|POST", rf"/api/models/{REPO}/discussions", "discussions"),
        ("GET", rf"/api/models/{REPO}/discussions/(?P<num>\d+)", "discussion"),
        ("POST", rf"/api/models/{REPO}/discussions/(?P<num>\d+)/status", "discussion_status"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("GET", rf"/api/models/{REPO}", "info"),
        ("GET", rf"/api/models/{REPO}/revision/{REV}", "info"),
        ("GET", rf"/api/models/{REPO}/commits/{REV}", "commit_list"),
        ("POST", rf"/api/models/{REPO}/paths-info/{REV}", "paths_info"),
        ("GET", rf"/api/models/{REPO}/tree/{REV}(?:/(?P<path>.+))?", "tree"),
        ("GET|HEAD", rf"/{REPO}/resolve/{REV}/(?P<path>.+)", "resolve"),
        ("GET", rf"/api/{DATASET}", "info"),
        ("GET", rf"/api/{DATASET}/revision/{REV}", "info"),
        ("GET", rf"/api/{DATASET}/tree/{REV}(?:/(?P<path>.+))?", "tree"),
        ("POST", rf"/api/{DATASET}/paths-info/{REV}", "paths_info"),
        ("GET|HEAD", rf"/{DATASET}/resolve/{REV}/(?P<path>.+)", "resolve"),
    ]
]


class LoopbackHub:
    """`with LoopbackHub({"hf_alice": "alice"}) as hub:` serves at `hub.endpoint` until the block ends.

    `users` maps a token to its owner. `hub.repos[repo_id].commits[sha][path].content` is what was stored.
    """

    def __init__(self, users: dict[str, str]):
        self.state = HubState(users)
        handler = type("BoundHandler", (Handler,), {"hub": self.state})
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.httpd.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.httpd.shutdown()
        self.httpd.server_close()

    @property
    def repos(self) -> dict[str, Repo]:
        return self.state.repos

    @property
    def requests(self) -> list[str]:
        """Every request that was answered, as "METHOD path"."""
        return self.state.requests

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return {path: file.content for path, file in repo.commits[repo.branches[revision]].items()}

    def fail_often(self, share: float, seed: int):
        """Break that share of all requests, in a way drawn for each."""
        self.state.share, self.state.chance = share, random.Random(seed)

    def edit(self, repo_id: str, files: dict[str, bytes | None], title: str = "Edited on the website"):
        """A commit of somebody else: contents, or None for a deletion."""
        repo = self.repos[repo_id]
        stored = dict(repo.commits[repo.branches["main"]])
        for path, content in files.items():
            stored.pop(path, None)
            if content is not None:
                stored[path] = File(content, is_lfs=path.endswith(LFS_SUFFIXES))
        repo.commit("main", stored, title)

    def fail_next(self, pattern: str, how: str, times: int = 1):
        """Break the next `times` requests whose "METHOD path" matches.

        `how` is "drop before reading" (nothing arrived), "page" or "nothing" (nor then; a page or {} comes as the
        answer), "drop after applying" (the work was done but the client never hears of it), or a status such as "500"
        (after applying).
        """
        with self.state.lock:
            self.state.failures.append([pattern, times, how])
