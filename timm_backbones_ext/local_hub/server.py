"""The routes of a local Hub: the Hub's protocol as the unmodified `huggingface_hub` client speaks it.

Each route names who may call it and how long its body may be; `web` sees to both before the work begins.
"""
# ruff: noqa: D102 - the table of routes says what each method answers

from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import answers, discussions
from .access import Tokens
from .names import Refused
from .store import Store
from .uploads import Uploads
from .web import Call, Door, refusal, route

__all__ = ["Hub"]

KB, MB = 1 << 10, 1 << 20
REPO = "/api/models/{owner}/{name}"
MODELS_ONLY = "this Hub holds models only"
NO_GATES = "this Hub does not gate repos; make it private, and give out tokens"
NO_MOVES = "this Hub does not rename repos; push to the new id and delete the old one"
DONE = JSONResponse({"success": True})


class Hub(Uploads):
    """The routes and what they answer."""

    def __init__(self, store: Store, tokens: Tokens, public_url: str = "", storage_port: int | None = None) -> None:
        super().__init__(store, public_url, storage_port)
        self.tokens = tokens

    def app(self, hosts: Collection[str]) -> ASGIApp:
        """The ASGI application, for requests to hosts of these names."""
        return Door(Starlette(routes=self.routes(), exception_handlers={404: _unknown, 405: _unknown}), hosts)

    def routes(self) -> list[Route]:
        """All routes."""

        def get(path: str, check: Callable[[Call], None], work: Callable[[Call], Response]) -> Route:
            return route("GET", path, check, work, 0)

        return [
            get("/api/whoami-v2", self.user, self.whoami),
            route("POST", "/api/validate-yaml", self.anyone, self.validate_yaml, MB),
            route("POST", "/api/repos/create", self.writer, self.create_repo, 64 * KB),
            route("DELETE", "/api/repos/delete", self.writer, self.delete_repo, 64 * KB),
            route("POST", "/api/repos/move", self.writer, self.move_repo, 0),
            get("/api/models", self.anyone, self.list_models),
            get(REPO, self.reader, self.model_info),
            get(REPO + "/revision/{revision}", self.reader, self.model_info),
            get(REPO + "/auth-check", self.reader, lambda call: DONE),
            get(REPO + "/auth-check/write", self.owner, lambda call: DONE),
            get(REPO + "/tree/{revision}", self.reader, self.tree),
            get(REPO + "/tree/{revision}/{path:path}", self.reader, self.tree),
            route("POST", REPO + "/paths-info/{revision}", self.reader, self.paths_info, MB),
            get(REPO + "/refs", self.reader, self.refs),
            get(REPO + "/commits/{revision}", self.reader, self.commits),
            route("PUT", REPO + "/settings", self.owner, self.settings, 64 * KB),
            route("POST", REPO + "/branch/{branch}", self.owner, self.create_branch, 64 * KB),
            route("DELETE", REPO + "/branch/{branch}", self.owner, self.delete_branch, 0),
            route("POST", REPO + "/tag/{revision}", self.owner, self.create_tag, 64 * KB),
            route("DELETE", REPO + "/tag/{tag}", self.owner, self.delete_tag, 0),
            get(REPO + "/discussions", self.reader, self.discussions),
            route("POST", REPO + "/discussions", self.contributor, self.open, MB),
            get(REPO + "/discussions/{num:int}", self.reader, self.discussion),
            route("POST", REPO + "/discussions/{num:int}/{action}", self.contributor, self.act, MB),
            route("POST", REPO + "/discussions/{num:int}/comment/{id}/edit", self.contributor, self.edit, MB),
            route("POST", REPO + "/preupload/{revision}", self.contributor, self.preupload, 4 * MB),
            route("POST", REPO + "/commit/{revision}", self.contributor, self.commit, 128 * MB),
            get(REPO + "/xet-write-token/{revision}", self.contributor, self.xet_token),
            route("POST", "/{owner}/{name}.git/info/lfs/objects/batch", self.reader, self.lfs_batch, MB),
            get("/{owner}/{name}/resolve/{revision}/{path:path}", self.reader, self.resolve),
            *self.storage_routes(),
        ]

    # who may call: each finds the user, and the repo where there is one, or refuses

    def anyone(self, call: Call) -> None:
        token = call.request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        call.user = self.tokens.user(token) if token else None
        if token and call.user is None:
            raise Refused(401, "InvalidToken", "Invalid credentials in Authorization header")

    def user(self, call: Call) -> None:
        self.anyone(call)
        if call.user is None:
            raise Refused(401, "Unauthorized", "a token is needed; run `hf auth login` or set HF_TOKEN")

    def writer(self, call: Call) -> None:
        self.user(call)
        if call.user and not call.user.writes:
            raise Refused(403, "Forbidden", f"the token of {call.name} may read only")

    def reader(self, call: Call) -> None:
        self.anyone(call)
        call.repo = self.readable(call, f"{call.part('owner')}/{call.part('name')}")

    def contributor(self, call: Call) -> None:
        """One who may propose changes."""
        self.reader(call)
        self.writer(call)

    def owner(self, call: Call) -> None:
        self.contributor(call)
        call.must_own(call.repo)

    def readable(self, call: Call, repo: str) -> str:
        """The repo's id; a private one is there for its owners only."""
        found = self.store.find(repo)
        if found is None or (found[1] and not (call.user and call.user.owns(found[0]))):
            raise Refused(404, "RepoNotFound", "Repository not found")
        return found[0]

    # users and repos

    def whoami(self, call: Call) -> Response:
        role = "write" if call.user and call.user.writes else "read"
        auth = {"type": "access_token", "accessToken": {"displayName": "local", "role": role}}
        orgs = [{"type": "org", "name": team, "fullname": team} for team in (call.user.teams if call.user else ())]
        about = {"type": "user", "id": call.name, "name": call.name, "fullname": call.name}
        return JSONResponse({**about, "orgs": orgs, "auth": auth})

    def validate_yaml(self, call: Call) -> Response:
        errors, warnings = answers.problems_of_card(call.asked.text("content"))
        said = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        return JSONResponse(said, 400 if errors else 200)

    def create_repo(self, call: Call) -> Response:
        asked = call.asked
        if asked.text("type", "model") != "model":
            raise Refused(501, "NotImplemented", MODELS_ONLY)
        repo = f"{asked.text('organization', '') or call.name}/{asked.text('name')}"
        call.must_own(repo)
        answer = {"url": f"{self.origin(call)}/{repo}", "name": repo, "id": repo}
        private = asked.text("visibility", "") == "private" or asked.get("private", bool, False)
        if (known := self.store.find(repo)) and (not known[1] or (call.user and call.user.owns(known[0]))):
            message = f"A model repository called {repo!r} already exists"
            return JSONResponse({**answer, "error": message}, 409, headers={"X-Error-Message": message})
        self.store.create_repo(repo, private=private, author=call.name)
        return JSONResponse(answer)

    def delete_repo(self, call: Call) -> Response:
        asked = call.asked
        if asked.text("type", "model") != "model":
            raise Refused(404, "RepoNotFound", MODELS_ONLY)
        repo = self.readable(call, f"{asked.text('organization', '') or call.name}/{asked.text('name')}")
        call.must_own(repo)
        self.store.delete_repo(repo)
        return JSONResponse({})

    def move_repo(self, call: Call) -> Response:
        raise Refused(501, "NotImplemented", NO_MOVES)

    def settings(self, call: Call) -> Response:
        asked = call.asked
        if asked.entries.get("gated"):
            raise Refused(501, "NotImplemented", NO_GATES)
        visibility = asked.text("visibility", "private" if asked.get("private", bool, False) else "public")
        if {"visibility", "private"} & asked.entries.keys():
            self.store.set_private(call.repo, visibility == "private")
        return DONE

    def list_models(self, call: Call) -> Response:
        search, author = call.query.get("search", "").lower(), call.query.get("author")
        found = [
            {"id": repo, "modelId": repo, "private": private, "tags": []}
            for repo, private in self.store.repos().items()
            if (not private or (call.user and call.user.owns(repo)))
            and search in repo.lower()
            and author in (None, repo.partition("/")[0])
        ]
        return JSONResponse(found)

    # what a repo holds

    def revision(self, call: Call) -> str:
        return self.store.resolve(call.repo, call.part("revision") or "main")

    def model_info(self, call: Call) -> Response:
        oid = self.revision(call)
        history, files = self.store.history(call.repo, oid), self.store.files(call.repo, oid)
        _, private = self.store.find(call.repo) or ("", True)
        return JSONResponse(answers.model_info(call.repo, history, files, private))

    def tree(self, call: Call) -> Response:
        found = answers.tree(self.store.files(call.repo, self.revision(call)))
        folder, deep = call.part("path").strip("/"), call.query.get("recursive", "").lower() in ("1", "true")
        if folder and found.get(folder, {}).get("type") != "directory":
            raise Refused(404, "EntryNotFound", f"{folder} is no folder of {call.part('revision')}")
        prefix = f"{folder}/" if folder else ""
        below = [path for path in found if path.startswith(prefix) and (deep or "/" not in path[len(prefix) :])]
        return JSONResponse([found[path] for path in below])

    def paths_info(self, call: Call) -> Response:
        form = parse_qs(call.body.decode(errors="replace"))
        if "json" in call.request.headers.get("content-type", ""):
            form = {"paths": [path for path in call.asked.get("paths", list) if isinstance(path, str)]}
        oid = self.revision(call)
        found = answers.tree(self.store.files(call.repo, oid))
        items = [found[path] for path in dict.fromkeys(form.get("paths", [])) if path in found]
        if form.get("expand", ["False"])[0].lower() == "true":
            answers.add_last_commits(
                items, self.store.history(call.repo, oid), lambda at: self.store.files(call.repo, at)
            )
        return JSONResponse(items)

    def refs(self, call: Call) -> Response:
        return JSONResponse(answers.refs(self.store.refs(call.repo)))

    def commits(self, call: Call) -> Response:
        commits = self.store.history(call.repo, self.revision(call))
        formatted = call.query.get("expand[]") == "formatted"
        return JSONResponse([answers.commit_entry(commit, formatted) for commit in commits])

    def resolve(self, call: Call) -> Response:
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
            return FileResponse(self.store.blobs.path(file.sha256), headers=headers, media_type="text/plain")
        return Response(status_code=302, headers={**headers, "Location": self.link(call, "GET", file.sha256)})

    # branches, tags and discussions

    def create_branch(self, call: Call) -> Response:
        start = self.store.resolve(call.repo, call.asked.text("startingPoint", "main"))
        self.store.create_ref(call.repo, "heads", call.part("branch"), start)
        return DONE

    def create_tag(self, call: Call) -> Response:
        self.store.create_ref(call.repo, "tags", call.asked.text("tag"), self.revision(call))
        return DONE

    def delete_branch(self, call: Call) -> Response:
        if call.part("branch") == "main":
            raise Refused(403, "Forbidden", "Cannot delete refs/heads/main")
        self.store.delete_ref(call.repo, "heads", call.part("branch"))
        return DONE

    def delete_tag(self, call: Call) -> Response:
        self.store.delete_ref(call.repo, "tags", call.part("tag"))
        return DONE

    def discussions(self, call: Call) -> Response:
        with self.store.database() as db:
            return JSONResponse(discussions.listing(db, call.repo, call.query))

    def discussion(self, call: Call) -> Response:
        with self.store.database() as db:
            return JSONResponse(discussions.details(db, call.repo, call.request.path_params["num"]))

    def open(self, call: Call) -> Response:
        title, said, author = call.asked.text("title"), call.asked.text("description"), call.name
        pull_request, head = call.asked.get("pullRequest", bool, False), self.store.resolve(call.repo, "main")
        with self.store.database(write=True) as db:
            num = discussions.opened(db, call.repo, title, author, "pull-request" if pull_request else "discussion")
            if pull_request:
                db.execute("INSERT INTO refs VALUES (?, ?, ?)", (call.repo, f"pr/{num}", head))
            discussions.add(db, call.repo, num, "comment", said, author)
        return JSONResponse({"num": num})

    def act(self, call: Call) -> Response:
        """Comment on one; or rename, close, reopen (owners, and who opened it) or merge it (owners)."""
        needs = {"comment": {"comment"}, "title": {"title"}, "status": {"status"}, "merge": set[str]()}
        num, action = call.request.path_params["num"], call.part("action")
        if action not in needs:
            raise Refused(404, "NotFound", f"this Hub has no action {action!r} of discussions")
        said = {key: call.asked.text(key) for key in needs[action] | (call.asked.entries.keys() & {"comment"})}
        with self.store.database(write=True) as db:
            mine = discussions.details(db, call.repo, num)["author"]["name"] == call.name
            if action != "comment" and not (mine and action != "merge"):
                call.must_own(call.repo)
            return JSONResponse(discussions.act(db, call.repo, num, action, said, call.name))

    def edit(self, call: Call) -> Response:
        num, text = call.request.path_params["num"], call.asked.text("content")
        with self.store.database(write=True) as db:
            return JSONResponse(discussions.edit(db, call.repo, num, call.part("id"), text, call.name))


async def _unknown(request: Request, error: Any) -> Response:
    path = request.scope["path"]
    code = "RepoNotFound" if path.startswith("/api/") or "/resolve/" in path else "NotFound"
    return refusal(Refused(404, code, f"this Hub has no {request.method} {path}"))
