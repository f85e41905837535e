"""The files of a saved backbone: their names, and functions to read and write safetensors files."""

import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import WeightsError

__all__ = [
    "CARD",
    "CONFIG",
    "DETECTOR",
    "EXPORTED",
    "EXPORTS",
    "FILES",
    "FINGERPRINT",
    "HINT",
    "MANIFEST",
    "PULLED",
    "SIGNATURE",
    "WEIGHTS",
    "read_header",
    "read_metadata",
    "read_tensors",
    "write_safetensors",
]

WEIGHTS, CONFIG, FINGERPRINT = "model.safetensors", "config.json", "fingerprint.safetensors"
CARD, SIGNATURE, MANIFEST = "README.md", "model.sig", "SHA256SUMS"
PULLED = (WEIGHTS, CONFIG, FINGERPRINT)
FILES = (*PULLED, CARD, MANIFEST)
DETECTOR = ("detector.json", "detector.safetensors")
"""Further files in the folder of a trained detector; they are pushed with its backbone."""
EXPORTS = {
    "onnx": ("onnx/model.onnx",),
    "openvino": ("openvino/openvino_model.xml", "openvino/openvino_model.bin"),
}
"""Paths in a repo of files for other runtimes, by format: the Hub's usual names, which optimum writes and reads."""
EXPORTED = tuple(name for names in EXPORTS.values() for name in names)
HINT = "needs_pip_install_timm-backbones-ext"
"""Text after the architecture in a saved config. timm ignores it if it knows the name, and prints it if not."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""Dtypes of the tensors of a backbone: floats, and int64 for the batch counts of batch norms."""
THREADS, SHARE = min(4, os.cpu_count() or 1), 32 << 20
"""Largest number of threads that read a file, and the bytes for each thread."""
LARGEST_HEADER = 10_000_000
"""Bytes; the header of a backbone with 1,000 tensors has 100,000."""


def read_header(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the device `meta`; no data is read.

    Raises:
        WeightsError: The file is damaged, or holds tensors of a type that no backbone has.
    """
    try:
        with Path(path).open("rb") as raw:
            if (size := int.from_bytes(raw.read(8), "little")) > LARGEST_HEADER:
                raise SafetensorError(f"its header has {size:,} bytes; expected at most {LARGEST_HEADER:,}")
        with safe_open(path, framework="pt") as file:
            parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  it has no other iteration
            kinds = {key: part.get_dtype() for key, part in parts.items()}
            shapes = {key: part.get_shape() for key, part in parts.items()}
    except SafetensorError as error:
        raise WeightsError(f"{Path(path).name} is damaged or is not a safetensors file ({error})") from error
    if strange := [key for key, kind in kinds.items() if kind not in DTYPES]:
        raise WeightsError(f"{Path(path).name} holds {kinds[strange[0]]} in {strange[0]}; expected {', '.join(DTYPES)}")
    return {key: torch.empty(shapes[key], dtype=DTYPES[kinds[key]], device="meta") for key in parts}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file into memory.

    The safetensors library maps the file instead. Mapped tensors are not aligned, which changes the last bits of matrix
    products; and the process crashes if the mapped file is truncated later.

    Raises:
        WeightsError: The file is damaged, or holds tensors of a type that no backbone has.
    """
    tensors = {key: torch.empty(value.shape, dtype=value.dtype) for key, value in read_header(path).items()}
    with Path(path).open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))

    def read(keys: list[str]) -> None:
        with Path(path).open("rb", buffering=0) as file:
            for key in keys:
                file.seek(8 + size + header[key]["data_offsets"][0])
                if file.readinto(memoryview(tensors[key].reshape(-1).view(torch.uint8).numpy())) != tensors[key].nbytes:
                    raise WeightsError(f"{Path(path).name} is damaged: it ends inside {key}")

    threads = min(THREADS, 1 + Path(path).stat().st_size // SHARE)
    with ThreadPoolExecutor(threads) as pool:  # the first access to new memory takes longer than the copy
        list(pool.map(read, [list(tensors)[index::threads] for index in range(threads)]))
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none or cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}


def write_safetensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """Write tensors and metadata; the same content gives the same bytes.

    The safetensors library writes metadata in a random order; here it is sorted.
    """
    save_file(tensors, path, metadata=metadata)
    with Path(path).open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(size))
