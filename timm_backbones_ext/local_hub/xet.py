"""Uploads by Xet, which the Hub's client uses for every large file and asks nobody: https://huggingface.co/docs/xet.

The client cuts files into chunks and sends them in xorbs; a shard then says which chunks make which file. Xorbs are
kept in a folder of the one upload until its shard arrives. The files are put together, become ordinary blobs if their
sha256 is right, and the xorbs are deleted. Nothing is stored or served as Xet.
"""

import contextlib
import struct
from collections.abc import Iterator

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


Term = tuple[str, int, int, int]
"""A part of a file: a xorb, a size when unpacked, and the first of its chunks and the one after the last."""
Chunk = tuple[memoryview, int, int]
"""The content of a chunk as it is packed, its compression, and its size when unpacked."""


class Scratch:
    """The folder of one upload."""

    def __init__(self, store: Store, name: str) -> None:
        self.blobs, self.folder = store.blobs, store.root / "xet" / name

    def put(self, name: str, content: bytes) -> None:
        """Keep a xorb until the shard arrives; Refused if it cannot be read."""
        _chunks(content)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)

    def register(self, shard: bytes) -> list[str]:
        """Put the files of a shard together and keep them; returns their sha256.

        Refused: a file has another sha256 than the shard says, its xorbs are not here or damaged, or it is larger than
        they can make it.
        """
        files = dict(_files(shard))
        used = {self.folder / xorb for terms in files.values() for xorb, *_ in terms}
        there = [path for path in used if path.is_file()]
        most = GROWTH * (len(shard) + sum(path.stat().st_size for path in there))
        if (total := sum(size for terms in files.values() for _, size, *_ in terms)) > most:
            raise _bad(f"the shard makes {total} bytes of content; what is here makes {most} at most")
        for sha256, terms in files.items():
            if self.blobs.size(sha256) is None:  # it is when an answer was lost and the shard is sent again
                self.blobs.put(self._unpacked(terms), sha256)
        for path in there:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other parts are on their way
            self.folder.rmdir()
        return list(files)

    def _unpacked(self, terms: list[Term]) -> Iterator[bytes]:
        """The content of a file; the xorb that was read last is kept in memory."""
        name, chunks = "", []
        for xorb, size, start, end in terms:
            if xorb != name:
                if not (path := self.folder / xorb).is_file():
                    raise _bad(f"xorb {xorb} was not uploaded")
                name, chunks = xorb, _chunks(path.read_bytes())
            run = chunks[start:end]
            if len(run) != end - start or sum(unpacked for *_, unpacked in run) != size:
                raise _bad(f"chunks {start} to {end} of xorb {name} do not make {size} bytes")
            yield from (_unpack(*chunk) for chunk in run)


def _bad(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def _chunks(xorb: bytes) -> list[Chunk]:
    """The chunks of a xorb: a version, 3 bytes of packed size, the compression, 3 bytes of size, then the data."""
    found, offset = [], 0
    while offset + 8 <= len(xorb) and xorb[offset] == 0:  # what follows the chunks begins with a letter
        packed, size = (int.from_bytes(xorb[at : at + 3], "little") for at in (offset + 1, offset + 5))
        found.append((memoryview(xorb)[offset + 8 :][:packed], xorb[offset + 4], size))
        offset += packed + 8
        if not 0 < size <= LARGEST_CHUNK:
            raise _bad(f"a chunk has {size} bytes; expected 1 to {LARGEST_CHUNK}")
    if not found or offset > len(xorb):
        raise _bad("the xorb ends in the middle of a chunk, or has none")
    return found


def _unpack(packed: memoryview, kind: int, size: int) -> bytes:
    data = bytes(packed)
    if kind not in (PLAIN, LZ4, GROUPED):
        raise _bad(f"compression {kind} is unknown")
    try:
        if kind != PLAIN:
            data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    except (RuntimeError, EOFError) as error:
        raise _bad(f"a chunk cannot be unpacked: {error}") from error
    if len(data) != size:
        raise _bad(f"a chunk has {len(data)} bytes instead of {size}")
    return _ungrouped(data) if kind == GROUPED else data


def _ungrouped(data: bytes) -> bytes:
    """Undo the grouping of bytes 0, 4, 8 ..., then 1, 5, 9 ..., and so on."""
    out, at = bytearray(len(data)), 0
    for group in range(4):
        size = len(range(group, len(data), 4))
        out[group::4] = data[at : at + size]
        at += size
    return bytes(out)


def _files(shard: bytes) -> Iterator[tuple[str, list[Term]]]:
    """Sha256 and terms of each file of a shard; no record is read that is not there."""
    at = ENTRY  # the header
    while at + ENTRY <= len(shard) and shard[at : at + 32] != END_OF_SECTION:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        records = at + ENTRY
        at = records + ENTRY * count * (2 if flags & VERIFIED else 1)
        if not flags & WITH_SHA256 or at + ENTRY > len(shard):
            raise _bad(f"a file of the shard has no sha256, or claims {count} terms that are not there")
        rows = struct.iter_unpack("<32sIIII", shard[records : records + ENTRY * count])
        yield _hex(shard[at : at + 32]), [(_hex(name), *row) for name, _, *row in rows]
        at += ENTRY


def _hex(raw: bytes) -> str:
    """A hash as the protocol writes it: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))
