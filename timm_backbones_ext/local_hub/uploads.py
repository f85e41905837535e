"""How content arrives and leaves: LFS and Xet, commits, and the storage that signed links lead to."""

from base64 import b64decode
from binascii import Error as NotBase64
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from secrets import token_bytes, token_hex
from time import time
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .._digest import git_blob_id
from .names import Refused, checked_hash, checked_path
from .store import LFS, Draft, File, Store
from .web import Call, chunks, entry, in_thread, read, route
from .xet import LARGEST_SHARD, LARGEST_XORB, Scratch

__all__ = ["LARGEST_FILE", "Uploads"]

LFS_SIZE, LARGEST_FILE = 1 << 20, 1 << 40
LINK_SECONDS = 3600


@dataclass
class Uploads:
    """What a Hub does with content."""

    store: Store
    public_url: str
    """What clients call this server, if that is not its address."""
    storage_port: int | None
    """Port that links to content lead to, if it is another than that of the API."""
    signer: URLSafeTimedSerializer = field(init=False, default_factory=lambda: URLSafeTimedSerializer(token_bytes()))

    def storage_routes(self) -> list[Route]:
        """The routes whose permission is in the link, or in the token of one upload."""
        xet, link = "/xet/{upload}", "/storage/{sha256}"
        return [
            route("GET", link, partial(self.bound, "GET"), self.send_blob),
            Route(link, self.receive_blob, methods=["PUT"]),
            route("POST", f"{xet}/v1/xorbs/default/{{name}}", self.may_upload, self.receive_xorb, LARGEST_XORB),
            route("POST", f"{xet}/v1/shards", self.may_upload, self.receive_shard, LARGEST_SHARD),
        ]

    def origin(self, call: Call, port: int | None = None) -> str:
        """Scheme, host and port that the client called, or the public ones; with another port, if there is one."""
        called = call.base_url.replace(port=port) if port else call.base_url
        return self.public_url or str(called).rstrip("/")

    def link(self, call: Call, method: str, digest: str, *bound: object) -> str:
        """A link to content; one to send content to is bound to its size and repo."""
        signed = self.signer.dumps((digest, *bound), salt=method)
        return f"{self.origin(call, self.storage_port)}/storage/{digest}?signed={signed}"

    def signed(self, text: str, salt: str) -> Any:
        """What this server has signed less than an hour ago."""
        try:
            return self.signer.loads(text, max_age=LINK_SECONDS, salt=salt)
        except BadSignature as error:
            raise Refused(401 if salt == "xet" else 403, "AccessDenied", "expired or not genuine") from error

    # the storage

    def bound(self, method: str, request: Request) -> list[Any]:
        """What a link is bound to; Refused if this server did not make it for this content, or if it is too old."""
        digest, *bound = self.signed(request.query_params.get("signed", ""), method)
        if digest != request.path_params["sha256"]:
            raise Refused(403, "AccessDenied", "the link is for other content")
        return bound

    def send_blob(self, call: Call) -> Response:
        """Send the content of a link."""
        digest = call.part("sha256")
        if self.store.blobs.size(digest) is None:
            raise Refused(404, "EntryNotFound", f"{digest} is missing; run `timm-ext hub fsck`")
        return self.file(digest, ETag=f'"{digest}"')

    def file(self, digest: str, **headers: str) -> Response:
        """Content as a file that no browser takes for a page."""
        safe = {"X-Content-Type-Options": "nosniff", **headers}
        return FileResponse(self.store.blobs.path(digest), headers=safe, media_type="text/plain")

    async def receive_blob(self, request: Request) -> Response:
        """Keep content if it is what its link says; it goes to the disk as it arrives."""
        (size, repo), digest = self.bound("PUT", request), request.path_params["sha256"]
        with self.store.blobs.incoming() as file:
            async for chunk in chunks(request, size):
                await in_thread(file.write, chunk)
            await in_thread(self.store.blobs.keep, file, digest)
        await in_thread(self.store.uploaded, repo, digest)
        return Response()

    def xet_token(self, call: Call) -> Response:
        """Where the client's Xet uploads to, a folder of this upload alone, and the token that opens it."""
        url = f"{self.origin(call, self.storage_port)}/xet/{token_hex(16)}"
        token, until = self.signer.dumps((call.who.name, call.repo), salt="xet"), int(time()) + LINK_SECONDS
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
        return JSONResponse({"casUrl": url, "accessToken": token, "exp": until}, headers=headers)

    def may_upload(self, call: Call) -> None:
        """Find the folder of an upload, which no other user and no other repo has; Refused without a token for it."""
        name, call.repo = self.signed(call.token, "xet")
        owner = f"{name}|{call.repo}|{call.part('upload')}"
        call.state.scratch = Scratch(self.store, sha256(owner.encode()).hexdigest())

    def receive_xorb(self, call: Call) -> Any:
        """Keep a part of an upload until its shard arrives."""
        call.state.scratch.put(checked_hash(call.part("name")), call.content)
        return {"was_inserted": True}

    def receive_shard(self, call: Call) -> Any:
        """Put the files of an upload together."""
        for digest in call.state.scratch.register(call.content):
            self.store.uploaded(call.repo, digest)
        return {"result": 1}

    # what the API says about uploads

    def preupload(self, call: Call) -> Any:
        """Say for each file whether it goes by LFS, and what the repo holds at its place."""
        present, modes = self.store.files(call.repo, self.store.resolve(call.repo, call.part("revision"))), []
        for item in entry(call.asked, "files", list):
            path = entry(item, "path")
            lfs = entry(item, "size", int) >= LFS_SIZE or path.rpartition(".")[2] in LFS
            oid = present[path].etag if path in present else None
            modes.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        return {"files": modes}

    def commit(self, call: Call) -> Any:
        """Store the small files of a commit and make it, on its branch or as a pull request."""
        ref, proposed = self.target(call), call.query_params.get("create_pr") == "1"
        lines = [read(line) for line in call.content.splitlines() if line.strip()]
        values = [(entry(line, "key"), entry(line, "value", dict)) for line in lines]
        said = next((value for key, value in values if key == "header"), {})
        add = {file.path: file for file in (self.file_of(key, value) for key, value in values) if file}
        delete = [entry(value, "path") for key, value in values if key in ("deletedFile", "deletedFolder")]
        draft = Draft(entry(said, "summary", str, ""), entry(said, "description", str, ""), call.who.name, add, delete)
        url, answer = f"{self.origin(call)}/{call.repo}", {}
        with self.store.database(write=True):
            if proposed:
                head = self.store.resolve(call.repo, f"refs/{ref}")
                num = self.store.open_pull(call.repo, draft.title, call.who.name, head)
                ref, answer = f"pr/{num}", {"pullRequestUrl": f"{url}/discussions/{num}"}
            oid = self.store.commit(call.repo, ref, draft, entry(said, "parentCommit", str, ""))
        return {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", **answer}

    def target(self, call: Call) -> str:
        """The ref that a commit starts from; it moves for owners, and for who opened a pull request."""
        revision = call.part("revision")
        ref = revision[5:] if revision.startswith("refs/") else f"heads/{revision}"
        if ref.startswith("tags/") or ref not in self.store.refs(call.repo):
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        mine = ref.startswith("pr/") and self.store.pull(call.repo, int(ref[3:]))[1] == call.who.name
        if not mine and call.query_params.get("create_pr") != "1":
            call.must_own(call.repo)
        return ref

    def file_of(self, key: str, value: Any) -> File | None:
        """The file that a line of a commit adds."""
        if key not in ("file", "lfsFile"):
            return None
        path = checked_path(entry(value, "path"))
        if key == "file":
            content = entry(value, "content").encode()
            try:
                encoded = entry(value, "encoding", str, "utf-8") == "base64"
                return self.store.small(path, b64decode(content) if encoded else content)
            except NotBase64 as error:
                raise Refused(400, "BadRequest", f"{path}: {error}") from error
        digest = checked_hash(entry(value, "oid"))
        size = entry(value, "size", int, self.store.blobs.size(digest) or 0)  # a copy does not say it
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
        return File(path, digest, size, git_blob_id(pointer.encode()), lfs=True)
