"""How content arrives and leaves: LFS and Xet, commits, and the storage that signed links lead to."""

from base64 import b64decode
from binascii import Error as NotBase64
from fnmatch import fnmatch
from functools import partial
from hashlib import sha256
from secrets import token_hex
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .._digest import git_blob_id
from . import discussions
from .access import Links
from .names import Refused, checked_hash, checked_path
from .store import Draft, File, Store
from .web import Asked, Call, chunks, endpoint, in_thread, route
from .xet import LARGEST_SHARD, LARGEST_XORB, Scratch

__all__ = ["Uploads"]

LFS_SIZE, LARGEST_FILE = 1 << 20, 1 << 40


class Uploads:
    """What a Hub does with content.

    Args:
        store: Where it is kept.
        public_url: What clients call this server, if that is not its address.
        storage_port: Port that links to content lead to, if it is another than that of the API.
    """

    def __init__(self, store: Store, public_url: str, storage_port: int | None) -> None:
        self.store, self.links = store, Links()
        self.public_url, self.storage_port = public_url.rstrip("/"), storage_port

    def storage_routes(self) -> list[Route]:
        """The routes whose permission is in the link, or in the token of one upload."""
        xet, link = "/xet/{upload}", "/storage/{sha256}"
        return [
            route("GET", link, self.may_get, self.send_blob, 0),
            Route(link, endpoint(self.receive_blob), methods=["PUT"]),
            route("POST", f"{xet}/v1/xorbs/default/{{name}}", self.may_upload, self.receive_xorb, LARGEST_XORB),
            route("POST", f"{xet}/v1/shards", self.may_upload, self.receive_shard, LARGEST_SHARD),
            route("POST", f"{xet}/shards", self.may_upload, self.receive_shard, LARGEST_SHARD),
        ]

    def origin(self, call: Call, port: int | None = None) -> str:
        """Scheme, host and port that the client called, or the public ones; with another port, if there is one."""
        netloc = call.request.headers["host"]
        if port:
            host = netloc if netloc.endswith("]") else netloc.rpartition(":")[0] or netloc
            netloc = f"{host}:{port}"
        return self.public_url or f"http://{netloc}"

    def link(self, call: Call, method: str, digest: str, size: int = 0) -> str:
        """A link to content, or to send content of a size to for a repo."""
        sign = self.links.sign(method, digest, *([size, call.repo] if method == "PUT" else []))
        bound = f"&size={size}&repo={call.repo}" if method == "PUT" else ""
        return f"{self.origin(call, self.storage_port)}/storage/{digest}?sign={sign}{bound}"

    # the storage

    def may_get(self, call: Call) -> None:
        """Refuse a link that this server did not make, or that is too old."""
        if not self.links.good(call.query.get("sign", ""), "GET", call.part("sha256")):
            raise Refused(403, "AccessDenied", "the link has expired or is not genuine")

    def send_blob(self, call: Call) -> Response:
        """Send content."""
        digest = call.part("sha256")
        if self.store.blobs.size(digest) is None:
            raise Refused(404, "EntryNotFound", f"{digest} is missing; run `timm-ext hub fsck`")
        return FileResponse(self.store.blobs.path(digest), headers={"ETag": f'"{digest}"'})

    async def receive_blob(self, request: Request) -> Response:
        """Keep content if it is what its link says; it goes to the disk as it arrives."""
        digest, query = request.path_params["sha256"], request.query_params
        size, repo = query.get("size", ""), query.get("repo", "")
        if not self.links.good(query.get("sign", ""), "PUT", digest, size, repo):
            raise Refused(403, "AccessDenied", "the link has expired or is not genuine")
        with await in_thread(self.store.blobs.incoming, digest, int(size)) as file:
            async for chunk in chunks(request, int(size)):
                await in_thread(file.write, chunk)
            await in_thread(file.keep)
        await in_thread(self.store.uploaded, repo, digest)
        return Response()

    def xet_token(self, call: Call) -> Response:
        """Where the client's Xet uploads to, a folder of this upload alone, and the token that opens it."""
        url = f"{self.origin(call, self.storage_port)}/xet/{token_hex(16)}"
        sign = self.links.sign("xet", call.name, call.repo)
        token, until = f"{sign}|{quote(call.name)}|{call.repo}", int(sign.partition("-")[0])
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
        return JSONResponse({"casUrl": url, "accessToken": token, "exp": until}, headers=headers)

    def may_upload(self, call: Call) -> None:
        """Refuse a token that was not made for an upload; find the folder that it opens."""
        token = call.request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        sign, user, call.repo = (*token.split("|"), "", "", "")[:3]
        if not self.links.good(sign, "xet", unquote(user), call.repo):
            raise Refused(401, "Unauthorized", "the token of the Xet storage has expired or is not genuine")
        call.folder = sha256(f"{user}|{call.repo}|{call.part('upload')}".encode()).hexdigest()

    def receive_xorb(self, call: Call) -> Response:
        """Keep a part of an upload until its shard arrives."""
        Scratch(self.store, call.folder).put(checked_hash(call.part("name")), call.body)
        return JSONResponse({"was_inserted": True})

    def receive_shard(self, call: Call) -> Response:
        """Put the files of an upload together."""
        self.store.uploaded(call.repo, *Scratch(self.store, call.folder).register(call.body))
        return JSONResponse({"result": 1})

    # what the API says about uploads

    def preupload(self, call: Call) -> Response:
        """Say for each file whether it goes by LFS, and what the repo holds at its place."""
        present, modes = self.store.files(call.repo, self.store.resolve(call.repo, call.part("revision"))), []
        large, attributes = [], present.get(".gitattributes")
        if attributes and attributes.size < LFS_SIZE:
            lines = self.store.blobs.path(attributes.sha256).read_text(errors="replace").splitlines()
            large = [line.split()[0] for line in lines if "filter=lfs" in line.split()[1:]]
        for item in call.asked.objects("files"):
            path, size = item.text("path"), item.get("size", int)
            names = (path, path.rpartition("/")[2])
            lfs = size >= LFS_SIZE or any(fnmatch(name, pattern) for pattern in large for name in names)
            oid = present[path].etag if path in present else None
            modes.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": modes})

    def lfs_batch(self, call: Call) -> Response:
        """Links to upload what a repo lacks, for writers; or to download what it holds."""
        upload = call.asked.text("operation", "") == "upload"
        if upload and not (call.user and call.user.writes):
            raise Refused(403 if call.user else 401, "Unauthorized", "a token that may write is needed to upload")
        objects = []
        for item in call.asked.objects("objects"):
            digest, size = checked_hash(item.text("oid")), item.get("size", int, 0)
            entry, held = {"oid": digest, "size": size}, self.store.holds(call.repo, digest)
            if not upload and held:
                entry["actions"] = {"download": {"href": self.link(call, "GET", digest)}}
            elif not upload or not 0 <= size <= LARGEST_FILE:
                entry["error"] = {"code": 422 if upload else 404, "message": f"too large, or not in {call.repo}"}
            elif not held:
                entry["actions"] = {"upload": {"href": self.link(call, "PUT", digest, size)}}
            objects.append(entry)
        answer = {"transfer": "basic", "objects": objects}
        return JSONResponse(answer, media_type="application/vnd.git-lfs+json")

    def commit(self, call: Call) -> Response:
        """Store the small files of a commit and make it, on its branch or as a pull request."""
        lines = [Asked.read(line) for line in call.body.splitlines() if line.strip()]
        values = [(line.text("key"), Asked(line.get("value", dict))) for line in lines]
        said = next((value for key, value in values if key == "header"), Asked({}))
        proposed = call.query.get("create_pr") == "1"
        ref, head = self.target(call, proposed)
        if not head.startswith(said.text("parentCommit", "")):
            head = said.text("parentCommit")  # which the store refuses
        add = {file.path: file for file in (self.file_of(key, value) for key, value in values) if file}
        delete = [value.text("path") for key, value in values if key in ("deletedFile", "deletedFolder")]
        draft = Draft(said.text("summary", ""), said.text("description", ""), call.name, add, delete)
        make = partial(discussions.proposed, repo=call.repo, title=draft.title, author=call.name)
        oid = self.store.commit(call.repo, make if proposed else ref, draft, head)
        url = f"{self.origin(call)}/{call.repo}"
        numbers = [int(name[3:]) for name, at in self.store.refs(call.repo).items() if proposed and at == oid]
        more = {"pullRequestUrl": f"{url}/discussions/{numbers[0]}"} if numbers else {}
        return JSONResponse({"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", **more})

    def target(self, call: Call, proposed: bool) -> tuple[str, str]:
        """The ref that a commit starts from and where it is; it moves for owners, and for who opened a pull request."""
        revision = call.part("revision")
        ref = revision[5:] if revision.startswith("refs/") else f"heads/{revision}"
        head = self.store.refs(call.repo).get(ref)
        if head is None or ref.startswith("tags/"):
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        author = ""
        if ref.startswith("pr/"):
            with self.store.database() as db:
                author = discussions.details(db, call.repo, int(ref[3:]))["author"]["name"]
        if not proposed and author != call.name:
            call.must_own(call.repo)
        return ref, head

    def file_of(self, key: str, value: Asked) -> File | None:
        """The file that a line of a commit adds."""
        if key not in ("file", "lfsFile"):
            return None
        path = checked_path(value.text("path"))
        if key == "file":
            content = value.text("content").encode()
            if value.text("encoding", "utf-8") == "base64":
                try:
                    content = b64decode(content)
                except NotBase64 as error:
                    raise Refused(400, "BadRequest", f"{path}: {error}") from error
            return File(path, self.store.blobs.put(content), len(content), git_blob_id(content), lfs=False)
        digest = checked_hash(value.text("oid"))
        size = value.get("size", int, self.store.blobs.size(digest) or 0)  # a copy does not say it
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
        return File(path, digest, size, git_blob_id(pointer.encode()), lfs=True)
