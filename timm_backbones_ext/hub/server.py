"""The answers of a local Hub: the Hub's protocol as the unmodified `huggingface_hub` client speaks it.

As on the real Hub, files in LFS are redirected to another origin, the storage host, by links that carry their own
permission. Uploads and downloads go by Xet or by LFS, as the client likes.
"""

import json
from base64 import b64decode
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .._digest import git_blob_id
from .store import Conflict, File, NotFound, Store

try:
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response

    from .answers import commit_entry, model_info, origin, refs, tree_entry, validate_yaml
    from .discussions import Discussions
    from .permits import Fault, Moved, Permits, User
    from .xet import Xet
except ImportError as error:
    raise ImportError(f'{error}. A local Hub needs: pip install "timm-backbones-ext[local-hub]"') from error

__all__ = ["Hub", "User"]

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".h5", ".gz", ".zip", ".npz", ".pkl")
LFS_SIZE = 1 << 20


class Hub:
    """The ASGI application."""

    def __init__(self, root: str | Path, storage_port: int, tokens: Mapping[str, User] | None = None) -> None:
        self.store = Store(root)
        self.xet = Xet(self.store)
        self.discussions = Discussions(self.store)
        self.permits = Permits(storage_port, tokens)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; whatever is wrong with it becomes an error that the client understands."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self.answer(request, [unquote(part) for part in scope["raw_path"].decode().split("/")[1:]])
        except Fault as fault:
            response = fault.response
        except NotFound as error:
            response = Fault(404, "EntryNotFound", f"not found: {error}").response
        except Conflict as error:
            response = Fault(409, "Conflict", str(error)).response
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            response = Fault(400, "BadRequest", f"cannot read the request: {error!r}").response
        await response(scope, receive, send)

    async def answer(self, request: Request, parts: list[str]) -> Response:
        """Find what a request asks for."""
        match request.method, parts:
            case "GET", ["api", "whoami-v2"]:
                return self.whoami(request)
            case "POST", ["api", "validate-yaml"]:
                return validate_yaml(await request.json())
            case "POST", ["api", "repos", "create"]:
                return self.create_repo(request, await request.json())
            case "DELETE", ["api", "repos", "delete"]:
                return self.delete_repo(request, await request.json())
            case "POST", ["api", "repos", "move"]:
                return self.move_repo(request, await request.json())
            case "GET", ["api", "models"]:
                return self.list_models(request)
            case "POST", [owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                repo = self.readable(request, f"{owner}/{name.removesuffix('.git')}")
                return self.lfs_batch(request, repo, await request.json())
            case (("GET" | "HEAD"), [owner, name, "resolve", revision, *path]):
                return self.resolve(request, self.readable(request, f"{owner}/{name}"), revision, "/".join(path))
            case (("GET" | "HEAD"), ["storage", sha256]):
                self.permits.check_link(request, sha256)
                return FileResponse(self.store.blob(sha256), headers={"ETag": f'"{sha256}"'})
            case "PUT", ["storage", sha256]:
                return await self.receive_blob(request, sha256)
            case "GET", ["xet", "xorb", name]:
                self.permits.check_link(request, name)
                return self.xet.send_xorb(name)
            case _, ["xet", *rest]:
                self.permits.check_xet_token(request)
                link = partial(self.permits.link, request, "GET", folder="xet/xorb")
                if answer := await self.xet.answer(request, rest, link):
                    return answer
            case method, ["api", "models", owner, name, *rest]:
                return await self.repo_api(request, method, self.readable(request, f"{owner}/{name}"), rest)
        raise Fault(404, "NotFound", f"this Hub has no {request.method} {request.url.path}")

    async def repo_api(self, request: Request, method: str, repo: str, rest: list[str]) -> Response:
        """Answer a request under `/api/models/owner/name`."""
        match method, rest:
            case "GET", [] | ["revision", _]:
                return self.model_info(repo, self.revision(repo, rest[-1] if rest else "main"))
            case "GET", ["tree", revision, *path]:
                return self.tree(request, self.revision(repo, revision), "/".join(path))
            case "POST", ["paths-info", revision]:
                asked = (
                    await request.form() if "form" in request.headers.get("content-type", "") else await request.json()
                )
                paths = asked.getlist("paths") if hasattr(asked, "getlist") else asked["paths"]
                files = self.store.files(self.revision(repo, revision))
                return JSONResponse([tree_entry(files[path]) for path in paths if path in files])
            case "GET", ["xet-read-token", _]:
                return self.permits.xet_token(request, "GET")
            case "GET", ["refs"]:
                return JSONResponse(refs(self.store.refs(repo)))
            case "GET", ["discussions", *number]:
                return JSONResponse(
                    self.discussions.details(repo, int(number[0])) if number else self.discussions.all(repo)
                )
            case "GET", ["commits", revision]:
                return JSONResponse([commit_entry(item) for item in self.store.history(self.revision(repo, revision))])
        user = self.permits.writer(request)
        match method, rest:
            case "GET", ["xet-write-token", _]:
                return self.permits.xet_token(request, "PUT")
            case "POST", ["preupload", revision]:
                return self.preupload(repo, revision, await request.json())
            case "POST", ["commit", revision]:
                lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
                return self.commit(request, repo, revision, lines)
            case "POST", ["branch", branch]:
                start = json.loads(await request.body() or b"{}").get("startingPoint", "main")
                self.store.set_ref(repo, f"heads/{branch}", self.revision(repo, start))
            case "POST", ["tag", revision]:
                self.store.set_ref(repo, f"tags/{(await request.json())['tag']}", self.revision(repo, revision))
            case "DELETE", [("branch" | "tag") as kind, name]:
                self.store.set_ref(repo, f"{'heads' if kind == 'branch' else 'tags'}/{name}", None)
            case "POST", ["discussions", *path]:
                asked = json.loads(await request.body() or b"{}") or {}
                return JSONResponse(self.discussions.answer(repo, user.name, path, asked))
            case "PUT", ["settings"]:
                asked = await request.json()
                if "private" in asked or "visibility" in asked:
                    self.store.set_private(repo, asked.get("private", asked.get("visibility") == "private"))
                if "gated" in asked:
                    self.store.set_gated(repo, asked["gated"] or "")
            case _:
                raise Fault(404, "NotFound", f"this Hub has no {method} {'/'.join(rest)}")
        return JSONResponse({"success": True})

    # who may do what

    def readable(self, request: Request, repo: str) -> str:
        """The repo's id; a private one is not there for strangers."""
        user = self.permits.user(request)
        if new := self.store.moved_to(repo):
            raise Moved(request.url.path.replace(f"/{repo}", f"/{new}", 1), request.url.query)
        try:
            hidden = self.store.facts(repo)[0] and user is None
        except NotFound:
            hidden = True
        if hidden:
            raise Fault(404, "RepoNotFound", f"Repository {repo} not found")
        return repo

    def revision(self, repo: str, revision: str) -> str:
        """The commit that a revision means."""
        try:
            return self.store.resolve(repo, revision)
        except NotFound as error:
            raise Fault(404, "RevisionNotFound", f"Invalid rev id: {revision}") from error

    async def receive_blob(self, request: Request, sha256: str) -> Response:
        """Keep uploaded content if it is what its name says."""
        self.permits.check_link(request, sha256)
        try:
            with self.store.incoming(sha256) as file:
                async for chunk in request.stream():
                    file.write(chunk)
        except Conflict as error:
            raise Fault(400, "BadDigest", str(error)) from error
        return Response()

    # answers

    def whoami(self, request: Request) -> Response:
        """Who the token belongs to."""
        user = self.permits.user(request)
        if user is None:
            raise Fault(401, "Unauthorized", "no token was sent")
        role = {"displayName": "local", "role": "write" if user.writes else "read"}
        auth = {"type": "access_token", "accessToken": role}
        return JSONResponse({"type": "user", "id": user.name, "name": user.name, "orgs": [], "auth": auth})

    def create_repo(self, request: Request, asked: dict[str, Any]) -> Response:
        """Make a model repo."""
        user = self.permits.writer(request)
        repo = f"{asked.get('organization') or user.name}/{asked['name']}"
        if asked.get("type", "model") != "model":
            raise Fault(400, "BadRequest", "this Hub holds models only")
        answer = {"url": f"{origin(request)}/{repo}", "name": repo, "id": repo}
        if repo in self.store.repos():
            return JSONResponse({"error": "You already created this model repo", **answer}, 409)
        self.store.create_repo(repo, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return JSONResponse(answer)

    def delete_repo(self, request: Request, asked: dict[str, Any]) -> Response:
        """Forget a repo."""
        user = self.permits.writer(request)
        self.store.delete_repo(self.readable(request, f"{asked.get('organization') or user.name}/{asked['name']}"))
        return JSONResponse({})

    def move_repo(self, request: Request, asked: dict[str, Any]) -> Response:
        """Rename a repo; the old id leads to it."""
        self.permits.writer(request)
        self.store.move_repo(self.readable(request, asked["fromRepo"]), asked["toRepo"])
        return JSONResponse({})

    def list_models(self, request: Request) -> Response:
        """Public repos whose id contains what is searched for."""
        search, author = request.query_params.get("search", ""), request.query_params.get("author")
        found = [repo for repo in self.store.repos() if search in repo and not self.store.facts(repo)[0]]
        return JSONResponse([{"id": repo} for repo in found if author in (None, repo.partition("/")[0])])

    def model_info(self, repo: str, oid: str) -> Response:
        """A repo at a commit."""
        newest = next(self.store.history(oid))
        return JSONResponse(model_info(repo, newest, self.store.files(oid), self.store.facts(repo)))

    def tree(self, request: Request, oid: str, folder: str) -> Response:
        """Files below a folder; folders too, unless asked to go into them."""
        prefix, query = f"{folder}/" if folder else "", request.query_params
        files = {path: file for path, file in self.store.files(oid).items() if path.startswith(prefix)}
        if query.get("recursive", "").lower() in ("1", "true"):
            return JSONResponse([tree_entry(file) for file in files.values()])
        here = [tree_entry(file) for path, file in files.items() if "/" not in path[len(prefix) :]]
        folders = {path[len(prefix) :].partition("/")[0] for path in files if "/" in path[len(prefix) :]}
        below = [{"type": "directory", "path": prefix + name, "oid": oid, "size": 0} for name in sorted(folders)]
        return JSONResponse([*below, *here])

    def preupload(self, repo: str, revision: str, asked: dict[str, Any]) -> Response:
        """Say for each file whether it goes by LFS, and what the repo holds at its place."""
        present = self.store.files(self.revision(repo, revision))
        modes = [
            {
                "path": item["path"],
                "uploadMode": "lfs" if item["size"] >= LFS_SIZE or item["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": present[item["path"]].etag if item["path"] in present else None,
            }
            for item in asked["files"]
        ]
        return JSONResponse({"files": modes})

    def lfs_batch(self, request: Request, repo: str, asked: dict[str, Any]) -> Response:
        """Where to upload the content that is not here yet."""
        if asked.get("operation") == "upload":
            self.permits.writer(request)
        objects = []
        for item in asked["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if not self.store.blob(item["oid"]).is_file():
                entry["actions"] = {"upload": {"href": self.permits.link(request, "PUT", item["oid"])}}
            objects.append(entry)
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    def commit(self, request: Request, repo: str, revision: str, lines: list[dict[str, Any]]) -> Response:
        """Store the small files of a commit and make it, on its branch or as a pull request."""
        head = self.revision(repo, revision)
        said = {"header": {}, **{line["key"]: line["value"] for line in lines if line["key"] == "header"}}["header"]
        add = {line["value"]["path"]: self.file_of(line) for line in lines if line["key"] in ("file", "lfsFile")}
        delete = [
            line["value"]["path"].rstrip("/") + ("/" if line["key"] == "deletedFolder" else "")
            for line in lines
            if line["key"] in ("deletedFile", "deletedFolder")
        ]
        number = self.discussions.next_number(repo)
        proposed = request.query_params.get("create_pr") == "1"
        ref = (
            f"pr/{number}"
            if proposed
            else revision.removeprefix("refs/")
            if "refs/" in revision
            else f"heads/{revision}"
        )
        text = {"title": said.get("summary", ""), "message": said.get("description", "")}
        if said.get("parentCommit") not in (None, head):
            raise Fault(412, "PreconditionFailed", "A commit has happened since. Please refresh and try again.")
        oid = self.store.commit(
            repo,
            ref,
            **text,
            add=add,
            delete=delete,
            parent=None if proposed else head,
            start=head if proposed else None,
        )
        if proposed:
            self.discussions.add(repo, number, "pull-request", text["title"], self.permits.writer(request).name)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{origin(request)}/{repo}/commit/{oid}"}
        return JSONResponse({**answer, "pullRequestUrl": f"{origin(request)}/{repo}/discussions/{number}"})

    def file_of(self, line: dict[str, Any]) -> File:
        """The file that a line of a commit adds."""
        value = line["value"]
        if line["key"] == "file":
            content = b64decode(value["content"])
            return File(value["path"], self.store.put(content), len(content), git_blob_id(content), lfs=False)
        stored = self.store.blob(value["oid"])
        if not stored.is_file() or stored.stat().st_size != value["size"]:
            raise Fault(400, "BadRequest", f"{value['path']}: its content was not uploaded, or is of another size")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
        return File(value["path"], value["oid"], value["size"], git_blob_id(pointer.encode()), lfs=True)

    def resolve(self, request: Request, repo: str, revision: str, path: str) -> Response:
        """A file, or a redirect to the storage host for one in LFS."""
        oid = self.revision(repo, revision)
        file = self.store.files(oid).get(path)
        if file is None:
            fault = Fault(404, "EntryNotFound", f"{path} is not in {repo}@{revision}")
            fault.response.headers["X-Repo-Commit"] = oid
            raise fault
        if not self.permits.admitted(request, self.store.facts(repo)[1]):
            raise Fault(403, "GatedRepo", f"Access to model {repo} is restricted; ask for access on its page")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if not file.lfs:
            return FileResponse(self.store.blob(file.sha256), headers=headers, media_type="text/plain")
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        if name := self.xet.name_of(file.sha256):
            token = f"{origin(request)}/api/models/{repo}/xet-read-token/{oid}"
            linked |= {"X-Xet-Hash": name, "Link": f'<{token}>; rel="xet-auth"'}
        return Response(
            status_code=302, headers={**headers, **linked, "Location": self.permits.link(request, "GET", file.sha256)}
        )
