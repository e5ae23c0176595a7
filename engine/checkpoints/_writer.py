"""Writing a checkpoint as a stream: the header first, then each tensor's bytes as they come.

Shapes and dtypes are known before the first tensor is computed, so a shard is never held in memory, and the same
tensors give the same bytes on every run. The folder is the caller's to make whole or absent (see `store.py`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from engine.checkpoints._header import ITEM_BYTES, SAFETENSORS_NAMES
from engine.checkpoints._reader import INDEX, SINGLE
from engine.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

MAX_SHARD_BYTES = 5_000_000_000  # what transformers and mergekit write
_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that will be written: `dtype` is torch's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in the file, in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def write_checkpoint(
    folder: Path,
    specs: Sequence[TensorSpec],
    compute: Callable[[str], Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write `compute(name)` for every spec, in order, as `model.safetensors` or as shards with an index.

    Args:
        folder: an existing folder without weights.
        specs: names, dtypes and shapes, in the order of writing.
        compute: gives the tensor of a name, in the dtype and shape of its spec.
        max_shard_bytes: a shard is closed before it would exceed this; a larger single tensor has a shard of its own.
        written: told the bytes of each tensor after it was written.

    Raises:
        StageError: the folder holds weights already, or the disk has no room for them.
    """
    total = sum(spec.nbytes for spec in specs)
    _check_folder(folder, total)
    shards = _split(specs, max_shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [_shard_name(number, len(shards)) for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as stream:
            _write_shard(stream, shard, compute, written)
            _sync(stream)
    if len(shards) > 1:
        weight_map = {spec.name: name for name, shard in zip(names, shards, strict=True) for spec in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        with (folder / INDEX).open("wb") as stream:
            stream.write((json.dumps(index, indent=2) + "\n").encode())
            _sync(stream)


def _check_folder(folder: Path, total: int) -> None:
    old = sorted(path.name for path in folder.glob("*.safetensors"))
    if old:
        raise StageError(f"{folder} holds weights already ({old[0]}).", hint="Give an empty folder, or remove them.")
    free = shutil.disk_usage(folder).free
    if total > free:
        raise StageError(
            f"{folder} has room for {free / 1e9:.1f} GB, and the checkpoint takes {total / 1e9:.1f} GB.",
            hint="Free some space, or choose a folder on another disk.",
        )


def _split(specs: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    room = limit
    for spec in specs:
        if shards[-1] and spec.nbytes > room:
            shards.append([])
            room = limit
        shards[-1].append(spec)
        room -= spec.nbytes
    return shards


def _shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _header(shard: Sequence[TensorSpec]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for spec in shard:
        header[spec.name] = {
            "dtype": SAFETENSORS_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [position, position + spec.nbytes],
        }
        position += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _write_shard(
    stream: BinaryIO, shard: Sequence[TensorSpec], compute: Callable[[str], Tensor], written: Callable[[int], None]
) -> None:
    import torch

    stream.write(_header(shard))
    for spec in shard:
        tensor = compute(spec.name)
        if tuple(tensor.shape) != spec.shape or tensor.dtype != getattr(torch, spec.dtype):
            raise TypeError(f"{spec.name}: {tensor.dtype} {list(tensor.shape)} was computed where {spec} was announced")
        if spec.nbytes:
            stream.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        written(spec.nbytes)


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
