"""The routes of a local Hub: the Hub's protocol as the unmodified `huggingface_hub` client speaks it.

Each route names who may call it and how long its body may be; `web` sees to both before the work begins.
"""
# ruff: noqa: D102 - the table of routes says what each method answers

from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from time import time
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .access import STRANGER, Tokens
from .names import Refused, checked_hash
from .store import File
from .uploads import LARGEST_FILE, Uploads
from .web import Call, entry, route

__all__ = ["Hub"]

SMALL, MB = 64 << 10, 1 << 20
REPO = "/api/models/{owner}/{name}"
NO_TALK = "this Hub keeps pull requests, and neither discussions nor comments"


@dataclass
class Hub(Uploads):
    """The routes and what they answer."""

    tokens: Tokens

    def routes(self) -> list[Route]:
        """All routes: method, path, who may call, what is done, and how long a body may be."""
        read, know, write, own = (partial(self.allow, right) for right in ("read", "know", "write", "own"))
        return [
            route("GET", "/api/whoami-v2", know, self.whoami),
            route("POST", "/api/validate-yaml", read, lambda call: {"errors": [], "warnings": []}, MB),
            route("POST", "/api/repos/create", write, self.create_repo, SMALL),
            route("DELETE", "/api/repos/delete", write, self.delete_repo, SMALL),
            route("POST", "/api/repos/move", write, self.move_repo),
            route("GET", "/api/models", read, self.list_models),
            route("GET", REPO, read, self.model_info),
            route("GET", REPO + "/revision/{revision}", read, self.model_info),
            route("GET", REPO + "/tree/{revision}", read, self.tree),
            route("GET", REPO + "/tree/{revision}/{path:path}", read, self.tree),
            route("POST", REPO + "/paths-info/{revision}", read, self.paths_info, MB),
            route("GET", REPO + "/refs", read, self.refs),
            route("GET", REPO + "/commits/{revision}", read, self.commits),
            route("PUT", REPO + "/settings", own, self.settings, SMALL),
            route("POST", REPO + "/branch/{ref}", own, self.create_branch, SMALL),
            route("POST", REPO + "/tag/{revision}", own, self.create_tag, SMALL),
            route("DELETE", REPO + "/branch/{ref}", own, partial(self.delete_ref, "heads")),
            route("DELETE", REPO + "/tag/{ref}", own, partial(self.delete_ref, "tags")),
            route("GET", REPO + "/discussions", read, self.list_pulls),
            route("POST", REPO + "/discussions", write, self.open_pull, SMALL),
            route("GET", REPO + "/discussions/{num:int}", read, self.pull),
            route("POST", REPO + "/discussions/{num:int}/{action}", write, self.set_status, SMALL),
            route("POST", REPO + "/preupload/{revision}", write, self.preupload, 4 * MB),
            route("POST", REPO + "/commit/{revision}", write, self.commit, 128 * MB),
            route("GET", REPO + "/xet-write-token/{revision}", write, self.xet_token),
            route("POST", "/{owner}/{name}.git/info/lfs/objects/batch", read, self.lfs_batch, MB),
            route("GET", "/{owner}/{name}/resolve/{revision}/{path:path}", read, self.resolve),
            *self.storage_routes(),
        ]

    def allow(self, right: str, call: Call) -> None:
        """Find the user and the repo of a call; Refused if the right to read, to be known, to write or to own lacks."""
        who = self.tokens.user(call.token)
        if who is None:
            raise Refused(401, "InvalidToken", "Invalid credentials in Authorization header")
        call.who = who
        if "owner" in call.path_params:
            call.repo = self.readable(call, f"{call.part('owner')}/{call.part('name')}")
        if who == STRANGER and right != "read":
            raise Refused(401, "Unauthorized", "a token is needed; run `hf auth login` or set HF_TOKEN")
        if who.role == "read" and right in ("write", "own"):
            raise Refused(403, "Forbidden", f"the token of {who.name} may read only")
        if right == "own":
            call.must_own(call.repo)

    def readable(self, call: Call, repo: str) -> str:
        """The repo's id; a private one is there for its owners only."""
        found = self.store.find(repo)
        if found is None or (found[1] and not call.who.owns(found[0])):
            raise Refused(404, "RepoNotFound", "Repository not found")
        return found[0]

    # users and repos

    def whoami(self, call: Call) -> Any:
        who, role = call.who, "read" if call.who.role == "read" else "write"
        auth = {"type": "access_token", "accessToken": {"displayName": "local", "role": role}}
        orgs = [{"type": "org", "name": team} for team in who.teams]
        return {"type": "user", "name": who.name, "fullname": who.name, "orgs": orgs, "auth": auth}

    def asked_repo(self, call: Call) -> str:
        """The id of a repo that is to be made or deleted; it is in a namespace of the user's."""
        if entry(call.asked, "type", str, "model") != "model":
            raise Refused(501, "NotImplemented", "this Hub holds models only")
        repo = f"{entry(call.asked, 'organization', str, '') or call.who.name}/{entry(call.asked, 'name')}"
        call.must_own(repo)
        return repo

    def create_repo(self, call: Call) -> Any:
        repo = self.asked_repo(call)
        answer = {"url": f"{self.origin(call)}/{repo}"}
        if self.store.create_repo(repo, asks_private(call.asked), call.who.name):
            return answer
        return JSONResponse({**answer, "error": f"A model repository called {repo!r} already exists"}, 409)

    def delete_repo(self, call: Call) -> Any:
        self.store.delete_repo(self.readable(call, self.asked_repo(call)))

    def move_repo(self, call: Call) -> Any:
        raise Refused(501, "NotImplemented", "this Hub does not rename repos; push to the new id and delete the old")

    def settings(self, call: Call) -> Any:
        if call.asked.get("gated"):
            raise Refused(501, "NotImplemented", "this Hub does not gate repos; make it private, and give out tokens")
        if {"visibility", "private"} & call.asked.keys():
            self.store.run("UPDATE repos SET private = ? WHERE id = ?", asks_private(call.asked), call.repo)

    def list_models(self, call: Call) -> Any:
        search, author = call.query_params.get("search", "").lower(), call.query_params.get("author")
        return [
            {"id": repo, "private": private, "tags": []}
            for repo, private in self.store.repos().items()
            if (not private or call.who.owns(repo))
            and search in repo.lower()
            and author in (None, repo.partition("/")[0])
        ]

    # what a repo holds

    def revision(self, call: Call) -> str:
        return self.store.resolve(call.repo, call.part("revision") or "main")

    def model_info(self, call: Call) -> Any:
        history, private = self.store.history(call.repo, self.revision(call)), self.store.repos()[call.repo]
        files = self.store.files(call.repo, history[0].oid)
        siblings = [{"rfilename": path, "blobId": file.git, **file_entry(file)} for path, file in files.items()]
        about = {"id": call.repo, "author": call.repo.partition("/")[0], "private": private, "gated": False, "tags": []}
        dates = {"createdAt": iso(history[-1].date), "lastModified": iso(history[0].date)}
        return {**about, **dates, "sha": history[0].oid, "siblings": siblings}

    def entries(self, call: Call) -> dict[str, dict[str, Any]]:
        """Folders and files by path; folders have no id of their own here."""
        files = self.store.files(call.repo, self.revision(call))
        folders = sorted({path[:end] for path in files for end, letter in enumerate(path) if letter == "/"})
        found = {path: {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders}
        return {**found, **{path: file_entry(file) for path, file in files.items()}}

    def tree(self, call: Call) -> Any:
        found = self.entries(call)
        folder, deep = call.part("path").strip("/"), call.query_params.get("recursive", "").lower() in ("1", "true")
        if folder and found.get(folder, {}).get("type") != "directory":
            raise Refused(404, "EntryNotFound", f"{folder} is no folder of {call.part('revision')}")
        start = f"{folder}/" if folder else ""
        below = {path.removeprefix(start): item for path, item in found.items() if path.startswith(start)}
        return [item for path, item in below.items() if deep or "/" not in path]

    def paths_info(self, call: Call) -> Any:
        paths, found = parse_qs(call.content.decode()).get("paths", []), self.entries(call)
        return [found[path] for path in dict.fromkeys(paths) if path in found]

    def commits(self, call: Call) -> Any:
        return [
            {"id": commit.oid, "title": commit.title, "message": commit.message, "date": iso(commit.date)}
            | {"authors": [{"user": commit.author}]}
            for commit in self.store.history(call.repo, self.revision(call))
        ]

    def refs(self, call: Call) -> Any:
        found: dict[str, list[dict[str, str]]] = {"heads": [], "tags": [], "pr": []}
        for name, oid in self.store.refs(call.repo).items():
            kind, _, short = name.partition("/")
            found[kind].append({"name": short, "ref": f"refs/{name}", "targetCommit": oid})
        return {"branches": found["heads"], "tags": found["tags"], "converts": [], "pullRequests": found["pr"]}

    def resolve(self, call: Call) -> Any:
        """A file; one in LFS by a redirect to the second port, if there is one: the client wants another origin."""
        oid, path = self.revision(call), call.part("path")
        file = self.store.files(call.repo, oid).get(path)
        headers = {"X-Repo-Commit": oid}
        if file is None:
            raise Refused(404, "EntryNotFound", f"{path} is not in {call.repo}@{call.part('revision')}", **headers)
        headers |= {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        if not (file.lfs and self.storage_port):
            return self.file(file.sha256, **headers)
        return Response(status_code=302, headers={**headers, "Location": self.link(call, "GET", file.sha256)})

    def lfs_batch(self, call: Call) -> Response:
        """Links to upload what a repo lacks, for writers; or to download what it holds."""
        upload = entry(call.asked, "operation", str, "") == "upload"
        if upload:
            self.allow("write", call)
        objects = []
        for item in entry(call.asked, "objects", list):
            digest, size = checked_hash(entry(item, "oid")), entry(item, "size", int, 0)
            answer, held = {"oid": digest, "size": size}, self.store.holds(call.repo, digest)
            if not upload and held:
                answer["actions"] = {"download": {"href": self.link(call, "GET", digest)}}
            elif not upload or not 0 <= size <= LARGEST_FILE:
                answer["error"] = {"code": 422 if upload else 404, "message": f"too large, or not in {call.repo}"}
            elif not held:
                answer["actions"] = {"upload": {"href": self.link(call, "PUT", digest, size, call.repo)}}
            objects.append(answer)
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    # branches, tags and pull requests

    def create_branch(self, call: Call) -> Any:
        start = self.store.resolve(call.repo, entry(call.asked, "startingPoint", str, "main"))
        self.store.create_ref(call.repo, "heads", call.part("ref"), start)

    def create_tag(self, call: Call) -> Any:
        self.store.create_ref(call.repo, "tags", entry(call.asked, "tag"), self.revision(call))

    def delete_ref(self, kind: str, call: Call) -> Any:
        self.store.delete_ref(call.repo, f"{kind}/{call.part('ref')}")

    def pull(self, call: Call) -> Any:
        return self.pull_entry(call.repo, call.path_params["num"])

    def list_pulls(self, call: Call) -> Any:
        found = [self.pull_entry(call.repo, num) for num in self.store.pulls(call.repo)]
        return {"discussions": found, "count": len(found), "start": 0}

    def pull_entry(self, repo: str, num: int) -> dict[str, Any]:
        title, author, date, status = self.store.pull(repo, num)
        about = {"num": num, "title": title, "createdAt": iso(date), "author": {"name": author}, "status": status}
        merged = self.store.resolve(repo, f"refs/pr/{num}") if status == "merged" else None
        changes = {"base": "refs/heads/main", "mergeCommitId": merged}
        behind = status == "open" and self.store.behind(repo, num)
        state = {"isPullRequest": True, "changes": changes, "filesWithConflicts": behind, "diff": "", "events": []}
        return {**about, **state, "repo": {"name": repo, "type": "model"}}

    def open_pull(self, call: Call) -> Any:
        if not entry(call.asked, "pullRequest", bool, False):
            raise Refused(501, "NotImplemented", NO_TALK)
        head, title = self.store.resolve(call.repo, "main"), entry(call.asked, "title")
        return {"num": self.store.open_pull(call.repo, title, call.who.name, head)}

    def set_status(self, call: Call) -> Any:
        """Close or reopen a pull request, for owners and for who opened it; or merge it, for owners."""
        num, action = call.path_params["num"], call.part("action")
        status = {"merge": "merged", "status": entry(call.asked, "status", str, "")}.get(action)
        if status is None or entry(call.asked, "comment", str, ""):
            raise Refused(501, "NotImplemented", NO_TALK)
        if status not in ("merged" if action == "merge" else "open", "closed"):
            raise Refused(400, "BadRequest", f"expected the status open or closed; got {status!r}")
        if status == "merged" or self.store.pull(call.repo, num)[1] != call.who.name:
            call.must_own(call.repo)
        self.store.set_status(call.repo, num, status)
        event = {"id": "0", "type": "status-change", "createdAt": iso(time()), "author": {"name": call.who.name}}
        return {"newStatus": {**event, "data": {"status": status}}}


def asks_private(asked: Any) -> bool:
    """Whether a repo is to be private, as clients of huggingface_hub 2 and 1 say it."""
    return entry(asked, "visibility", str, "") == "private" or entry(asked, "private", bool, False)


def iso(seconds: float) -> str:
    """A date as the Hub writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def file_entry(file: File) -> dict[str, Any]:
    """A file as the Hub lists it; a tree calls the hash by one name, and a model by the other."""
    about: dict[str, Any] = {"type": "file", "oid": file.git, "size": file.size, "path": file.path}
    lfs = {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return {**about, "lfs": lfs} if file.lfs else about
