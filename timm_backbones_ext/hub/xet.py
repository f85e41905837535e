"""Xet for a local Hub: the content-addressed storage that the Hub's client uploads to and downloads from by default.

A file is cut into chunks by its content; chunks travel in xorbs, and a shard says which chunks make which file. The
formats are those of https://huggingface.co/docs/xet. Each file is put together when its shard arrives, and is kept only
if its sha256 is right, so that it can be served by LFS as well.
"""

import hashlib
import json
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.frame
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from .store import Conflict, NotFound, Store

__all__ = ["Xet"]

ENTRY = 48  # bytes of every record of a shard
END_OF_SECTION = b"\xff" * 32
VERIFIED, WITH_SHA256 = 1 << 31, 1 << 30  # flags of a file's record
PLAIN, LZ4, GROUPED = 0, 1, 2  # compression of a chunk; grouped: every fourth byte together
LARGEST_XORB = 80 << 20
_HASH = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Term:
    """A run of chunks of one xorb; one part of a file."""

    xorb: str
    start: int
    end: int
    """Index of the first chunk after the run."""
    size: int
    """Bytes when unpacked."""


@dataclass(frozen=True)
class Chunk:
    """Where a chunk is in its xorb."""

    offset: int
    packed: int
    """Bytes in the xorb, with the header."""
    kind: int
    size: int


class Xet:
    """The xorbs and files of a local Hub."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.folder = store.root / "xet"
        for name in ("xorbs", "files", "sha256"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    async def answer(self, request: Request, parts: list[str], link: Callable[[str], str]) -> Response | None:
        """Answer a request of a client that has shown its permission; None if there is no such thing.

        Args:
            request: The request.
            parts: Its path.
            link: Makes a link to a xorb that is good for a while.
        """
        match request.method, parts:
            case "POST", ["v1", "xorbs", "default", name]:
                self.put_xorb(name, await request.body())
                return JSONResponse({"was_inserted": True})
            case "POST", ["v1", "shards"] | ["shards"]:
                self.register(await request.body())
                return JSONResponse({"result": 1})
            case "GET", ["v1", "reconstructions", name]:
                asked = _RANGE.fullmatch(request.headers.get("range", "bytes=0-"))
                first, last = (asked[1], asked[2]) if asked else ("0", "")
                try:
                    found = self.reconstruction(name, int(first), int(last) if last else None)
                except IndexError:
                    return Response(status_code=416)
                for xorb, places in found["fetch_info"].items():
                    for place in places:
                        place["url"] = link(xorb)
                return JSONResponse(found)
        return None

    def send_xorb(self, name: str) -> Response:
        """A xorb, or the part of it that is asked for."""
        if not self.xorb(name).is_file():
            raise NotFound(name)
        return FileResponse(self.xorb(name), media_type="application/octet-stream")

    def xorb(self, name: str) -> Path:
        """Where a xorb is kept."""
        return self._path("xorbs", name)

    def put_xorb(self, name: str, content: bytes) -> None:
        """Keep a xorb.

        Raises:
            Conflict: It cannot be read, or is larger than the protocol allows.
        """
        if len(content) > LARGEST_XORB:
            raise Conflict(f"xorb {name} has {len(content)} bytes; expected at most {LARGEST_XORB}")
        _chunks(content)
        _write(self.xorb(name), content)

    def register(self, shard: bytes) -> None:
        """Put the files of a shard together and keep those whose content is right.

        Raises:
            Conflict: A file has another sha256 than the shard says, or its xorbs are not here or damaged.
        """
        for name, terms, sha256 in _files(shard):
            digest = hashlib.sha256()
            with tempfile.TemporaryFile() as draft:
                for term in terms:
                    for data in self._unpacked(term):
                        digest.update(data)
                        draft.write(data)
                got = digest.hexdigest()
                if sha256 not in (None, got):
                    raise Conflict(f"expected content with sha256 {sha256}; the chunks make {got}")
                draft.seek(0)
                with self.store.incoming(got) as file:
                    while data := draft.read(1 << 20):
                        file.write(data)
            _write(self._path("files", name), json.dumps([vars(term) for term in terms]).encode())
            _write(self._path("sha256", got), name.encode())

    def name_of(self, sha256: str) -> str | None:
        """Xet's hash of a file, if it came by Xet."""
        path = self._path("sha256", sha256)
        return path.read_text() if path.is_file() else None

    def damage(self) -> dict[str, str]:
        """What is wrong with content that came by Xet, by its sha256: the chunks are not here, or make another."""
        problems = {}
        for path in sorted((self.folder / "sha256").iterdir()):
            digest = hashlib.sha256()
            try:
                for item in json.loads(self._path("files", path.read_text()).read_text()):
                    for data in self._unpacked(Term(**item)):
                        digest.update(data)
            except (OSError, ValueError, TypeError) as error:
                problems[path.name] = str(error)
                continue
            if digest.hexdigest() != path.name:
                problems[path.name] = "the chunks make other content"
        return problems

    def reconstruction(self, name: str, first: int, last: int | None) -> dict[str, Any]:
        """Which chunks of which xorbs make the bytes `first` to `last` of a file, as the protocol writes it.

        Raises:
            NotFound: There is no such file.
            IndexError: It ends before `first`.
        """
        path = self._path("files", name)
        if not path.is_file():
            raise NotFound(name)
        terms: list[dict[str, Any]] = []
        wanted: dict[str, list[dict[str, Any]]] = {}
        skipped, position = 0, 0
        for term in (Term(**item) for item in json.loads(path.read_text())):
            chunks = _chunks(self.xorb(term.xorb).read_bytes())[term.start : term.end]
            starts = [position + sum(chunk.size for chunk in chunks[:i]) for i in range(len(chunks) + 1)]
            kept = [i for i in range(len(chunks)) if starts[i + 1] > first and (last is None or starts[i] <= last)]
            position = starts[-1]
            if not kept:
                continue
            if not terms:
                skipped = first - starts[kept[0]]
            run = {"start": term.start + kept[0], "end": term.start + kept[-1] + 1}
            size = starts[kept[-1] + 1] - starts[kept[0]]
            terms.append({"hash": term.xorb, "unpacked_length": size, "range": run})
            until = chunks[kept[-1]].offset + chunks[kept[-1]].packed - 1
            where = {"range": run, "url_range": {"start": chunks[kept[0]].offset, "end": until}}
            wanted.setdefault(term.xorb, []).append(where)
        if not terms and (first > 0 or position > 0):
            raise IndexError(f"{name} has {position} bytes")
        return {"offset_into_first_range": skipped, "terms": terms, "fetch_info": wanted}

    def _unpacked(self, term: Term) -> Iterator[bytes]:
        if not self.xorb(term.xorb).is_file():
            raise Conflict(f"xorb {term.xorb} was not uploaded")
        content = self.xorb(term.xorb).read_bytes()
        for chunk in _chunks(content)[term.start : term.end]:
            yield _unpack(content, chunk)

    def _path(self, kind: str, name: str) -> Path:
        if not _HASH.fullmatch(name):
            raise Conflict(f"{name!r} is no hash")
        return self.folder / kind / name


def _write(path: Path, content: bytes) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(draft, path)


def _chunks(xorb: bytes) -> list[Chunk]:
    """The chunks of a xorb: a version, 3 bytes of packed size, the compression, 3 bytes of size, then the data."""
    found, offset = [], 0
    while offset + 8 <= len(xorb) and xorb[offset] == 0:  # what follows the chunks begins with a letter
        packed, size = (int.from_bytes(xorb[at : at + 3], "little") for at in (offset + 1, offset + 5))
        found.append(Chunk(offset, packed + 8, xorb[offset + 4], size))
        offset += packed + 8
    if not found or offset > len(xorb):
        raise Conflict("the xorb ends in the middle of a chunk, or has none")
    return found


def _unpack(xorb: bytes, chunk: Chunk) -> bytes:
    data = xorb[chunk.offset + 8 : chunk.offset + chunk.packed]
    try:
        if chunk.kind in (LZ4, GROUPED):
            data = lz4.frame.decompress(data)
        elif chunk.kind != PLAIN:
            raise Conflict(f"compression {chunk.kind} is unknown")
    except RuntimeError as error:
        raise Conflict(f"a chunk cannot be unpacked: {error}") from error
    if len(data) != chunk.size:
        raise Conflict(f"a chunk has {len(data)} bytes instead of {chunk.size}")
    return _ungrouped(data) if chunk.kind == GROUPED else data


def _ungrouped(data: bytes) -> bytes:
    """Undo the grouping of bytes 0, 4, 8 ..., then 1, 5, 9 ..., and so on."""
    out, at = bytearray(len(data)), 0
    for group in range(4):
        size = len(range(group, len(data), 4))
        out[group::4] = data[at : at + size]
        at += size
    return bytes(out)


def _files(shard: bytes) -> Iterator[tuple[str, list[Term], str | None]]:
    """Name, terms and sha256 of each file of a shard."""
    at = ENTRY  # the header
    while at + ENTRY <= len(shard) and shard[at : at + 32] != END_OF_SECTION:
        name, (flags, count) = _hex(shard[at : at + 32]), struct.unpack_from("<II", shard, at + 32)
        records = [shard[at + ENTRY * i : at + ENTRY * (i + 1)] for i in range(1, count + 1)]
        fields = [struct.unpack("<IIII", record[32:]) for record in records]  # flags, size, first and last chunk
        terms = [Term(_hex(record[:32]), f[2], f[3], f[1]) for record, f in zip(records, fields, strict=True)]
        at += ENTRY * (1 + count * (2 if flags & VERIFIED else 1))
        sha256 = _hex(shard[at : at + 32]) if flags & WITH_SHA256 else None
        at += ENTRY if flags & WITH_SHA256 else 0
        yield name, terms, sha256


def _hex(raw: bytes) -> str:
    """A hash as the protocol writes it: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))
