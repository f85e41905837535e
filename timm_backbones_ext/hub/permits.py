"""Who may do what on a local Hub: users by their tokens, and links that carry their own permission for an hour."""

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = ["Fault", "Moved", "Permits", "User"]

LINK_SECONDS = 3600


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and whether it may write."""

    name: str
    writes: bool = True


class Fault(Exception):
    """An answer that is an error, with the code that the client tells errors apart by."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Code": code, "X-Error-Message": message.encode("unicode_escape").decode()}
        self.response = JSONResponse({"error": message}, status, headers=headers)


class Moved(Fault):
    """The answer for a repo that has got another id."""

    def __init__(self, path: str, query: str) -> None:
        super().__init__(307, "RepoMoved", path)
        self.response.headers["Location"] = f"{path}?{query}" if query else path


class Permits:
    """Tokens of users, and what this server has signed."""

    def __init__(self, storage_port: int, tokens: Mapping[str, User] | None = None) -> None:
        self.storage_port, self.tokens = storage_port, dict(tokens or {})
        self.secret = secrets.token_bytes()

    def user(self, request: Request) -> User | None:
        """The user of the request's token; without tokens configured any token is a writer."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not token:
            return None
        if not self.tokens:
            return User("local")
        if token not in self.tokens:
            raise Fault(401, "InvalidToken", "Invalid credentials in Authorization header")
        return self.tokens[token]

    def writer(self, request: Request) -> User:
        """The user, who may write."""
        user = self.user(request)
        if user is None:
            raise Fault(401, "Unauthorized", "a token is needed to write; run `hf auth login` or set HF_TOKEN")
        if not user.writes:
            raise Fault(403, "Forbidden", f"the token of {user.name} may read only")
        return user

    def admitted(self, request: Request, gated: str) -> bool:
        """Whether the user may load the files of a gated repo: any user of an "auto" one, writers of a "manual" one."""
        user = self.user(request)
        return not gated or (user is not None and (gated == "auto" or user.writes))

    def sign(self, method: str, name: str, until: int) -> str:
        """What proves that this server made a link."""
        return hmac.new(self.secret, f"{method} {name} {until}".encode(), "sha256").hexdigest()

    def link(self, request: Request, method: str, name: str, folder: str = "storage") -> str:
        """A link to content on the storage host."""
        until = int(time.time()) + LINK_SECONDS
        query = f"until={until}&sign={self.sign(method, name, until)}"
        return f"http://{request.url.hostname}:{self.storage_port}/{folder}/{name}?{query}"

    def check_link(self, request: Request, name: str) -> None:
        """Refuse a link that this server did not make, or that is too old."""
        until = int(request.query_params.get("until", "0"))
        method = "GET" if request.method == "HEAD" else request.method
        good = hmac.compare_digest(self.sign(method, name, until), request.query_params.get("sign", ""))
        if not good or until < time.time():
            raise Fault(403, "AccessDenied", "the link has expired or is not genuine")

    def xet_token(self, request: Request, method: str) -> Response:
        """Where the Xet storage is, and what opens it: for reading ("GET") or writing ("PUT")."""
        until, url = int(time.time()) + LINK_SECONDS, f"http://{request.url.hostname}:{self.storage_port}/xet"
        token = f"{until}.{self.sign(method, 'xet', until)}"
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
        return JSONResponse({"casUrl": url, "accessToken": token, "exp": until}, headers=headers)

    def check_xet_token(self, request: Request) -> None:
        """Refuse a client without a token of this server; one that may write may read."""
        until, _, sign = request.headers.get("authorization", "").removeprefix("Bearer ").partition(".")
        methods = ("GET", "PUT") if request.method == "GET" else ("PUT",)
        good = any(hmac.compare_digest(sign, self.sign(method, "xet", int(until or 0))) for method in methods)
        if not good or int(until or 0) < time.time():
            raise Fault(401, "Unauthorized", "the token of the Xet storage has expired or is not genuine")
