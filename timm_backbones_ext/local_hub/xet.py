"""Uploads by Xet, which the Hub's client uses for every large file and asks nobody: https://huggingface.co/docs/xet.

The client cuts files into chunks and sends them in xorbs; a shard then says which chunks make which file. Xorbs are
kept in a folder of the one upload until its shard arrives. The files are put together, become ordinary blobs if their
sha256 is right, and the xorbs are deleted. Nothing is stored or served as Xet.
"""

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lz4.frame

from .names import Refused
from .store import Store

__all__ = ["LARGEST_SHARD", "LARGEST_XORB", "Scratch"]

LARGEST_XORB, LARGEST_SHARD = 80 << 20, 64 << 20
LARGEST_CHUNK = 1 << 20  # clients make 128 KB at most
GROWTH = 2000
"""A file of zeros is 1,300 times as large as what describes it; one that is more than this is an attack."""
ENTRY = 48  # bytes of every record of a shard
END_OF_SECTION = b"\xff" * 32
VERIFIED, WITH_SHA256 = 1 << 31, 1 << 30  # flags of a file's record
PLAIN, LZ4, GROUPED = 0, 1, 2  # compression of a chunk; grouped: every fourth byte together


@dataclass(frozen=True)
class Term:
    """A run of chunks of one xorb; one part of a file."""

    xorb: str
    size: int
    """Bytes when unpacked."""
    start: int
    end: int
    """Index of the first chunk after the run."""


@dataclass(frozen=True)
class Chunk:
    """Where the content of a chunk is in its xorb."""

    offset: int
    packed: int
    kind: int
    size: int


class Scratch:
    """The folder of one upload."""

    def __init__(self, store: Store, name: str) -> None:
        self.blobs, self.folder = store.blobs, store.root / "xet" / name

    def put(self, name: str, content: bytes) -> None:
        """Keep a xorb until the shard arrives; Refused if it cannot be read."""
        _chunks(content)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as draft:
            draft.write(content)
        Path(draft.name).replace(self.folder / name)

    def register(self, shard: bytes) -> list[str]:
        """Put the files of a shard together and keep them; returns their sha256.

        Raises:
            Refused: A file has another sha256 than the shard says, its xorbs are not here or damaged, or it is larger
                than they can make it.
        """
        files = list(_files(shard))
        used = {term.xorb for terms, _ in files for term in terms}
        there = {name: path for name in used if (path := self.folder / name).is_file()}
        most = GROWTH * (len(shard) + sum(path.stat().st_size for path in there.values()))
        if (size := sum(term.size for terms, _ in files for term in terms)) > most:
            raise Refused(
                400, "BadRequest", f"the shard makes {size} bytes of content; what is here makes {most} at most"
            )
        read = Xorbs(there)
        for terms, sha256 in files:
            if self.blobs.size(sha256) is None:  # it is when an answer was lost and the shard is sent again
                with self.blobs.incoming(sha256, sum(term.size for term in terms)) as file:
                    for term in terms:
                        for data in read.unpacked(term):
                            file.write(data)
                    file.keep()
        for path in there.values():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other parts are on their way
            self.folder.rmdir()
        return [sha256 for _, sha256 in files]


class Xorbs:
    """Reads chunks of the xorbs of an upload; the one that was read last is kept in memory."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths, self.name, self.content, self.chunks = paths, "", b"", []

    def unpacked(self, term: Term) -> Iterator[bytes]:
        """The content of a run of chunks."""
        if term.xorb != self.name:
            if term.xorb not in self.paths:
                raise Refused(400, "BadRequest", f"xorb {term.xorb} was not uploaded")
            self.name, self.content = term.xorb, self.paths[term.xorb].read_bytes()
            self.chunks = _chunks(self.content)
        run = self.chunks[term.start : term.end]
        if len(run) != term.end - term.start or sum(chunk.size for chunk in run) != term.size:
            raise Refused(
                400,
                "BadRequest",
                f"chunks {term.start} to {term.end} of xorb {term.xorb} do not make {term.size} bytes",
            )
        for chunk in run:
            yield _unpack(self.content, chunk)


def _chunks(xorb: bytes) -> list[Chunk]:
    """The chunks of a xorb: a version, 3 bytes of packed size, the compression, 3 bytes of size, then the data."""
    found, offset = [], 0
    while offset + 8 <= len(xorb) and xorb[offset] == 0:  # what follows the chunks begins with a letter
        packed, size = (int.from_bytes(xorb[at : at + 3], "little") for at in (offset + 1, offset + 5))
        found.append(Chunk(offset + 8, packed, xorb[offset + 4], size))
        offset += packed + 8
        if not 0 < size <= LARGEST_CHUNK:
            raise Refused(400, "BadRequest", f"a chunk has {size} bytes; expected 1 to {LARGEST_CHUNK}")
    if not found or offset > len(xorb):
        raise Refused(400, "BadRequest", "the xorb ends in the middle of a chunk, or has none")
    return found


def _unpack(xorb: bytes, chunk: Chunk) -> bytes:
    data = xorb[chunk.offset : chunk.offset + chunk.packed]
    try:
        if chunk.kind in (LZ4, GROUPED):
            data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=chunk.size + 1)
        elif chunk.kind != PLAIN:
            raise Refused(400, "BadRequest", f"compression {chunk.kind} is unknown")
    except (RuntimeError, EOFError) as error:
        raise Refused(400, "BadRequest", f"a chunk cannot be unpacked: {error}") from error
    if len(data) != chunk.size:
        raise Refused(400, "BadRequest", f"a chunk has {len(data)} bytes instead of {chunk.size}")
    return _ungrouped(data) if chunk.kind == GROUPED else data


def _ungrouped(data: bytes) -> bytes:
    """Undo the grouping of bytes 0, 4, 8 ..., then 1, 5, 9 ..., and so on."""
    out, at = bytearray(len(data)), 0
    for group in range(4):
        size = len(range(group, len(data), 4))
        out[group::4] = data[at : at + size]
        at += size
    return bytes(out)


def _files(shard: bytes) -> Iterator[tuple[list[Term], str]]:
    """Terms and sha256 of each file of a shard; no record is read that is not there."""
    at = ENTRY  # the header
    while at + ENTRY <= len(shard) and shard[at : at + 32] != END_OF_SECTION:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        records = at + ENTRY
        at = records + ENTRY * count * (2 if flags & VERIFIED else 1)
        if not flags & WITH_SHA256 or at + ENTRY > len(shard):
            raise Refused(
                400, "BadRequest", f"a file of the shard has no sha256, or claims {count} terms that are not there"
            )
        fields = (struct.unpack_from("<IIII", shard, records + ENTRY * i + 32) for i in range(count))
        names = (_hex(shard[records + ENTRY * i :][:32]) for i in range(count))
        yield [Term(name, *field[1:]) for name, field in zip(names, fields, strict=True)], _hex(shard[at : at + 32])
        at += ENTRY


def _hex(raw: bytes) -> str:
    """A hash as the protocol writes it: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))
