"""The safetensors header: which tensors a file holds and where, read with `struct` and `json` alone.

Format: eight bytes of length (little-endian), that many bytes of JSON, then the tensors' bytes
(https://huggingface.co/docs/safetensors). Everything that a truncated or forged file can get wrong is checked here,
because whoever maps the file afterwards trusts these offsets.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

# safetensors' name -> (torch's name, bytes an element)
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
SAFETENSORS_NAMES = {torch_name: name for name, (torch_name, _) in DTYPES.items()}
ITEM_BYTES = dict(DTYPES.values())

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file. `dtype` is torch's name (`bfloat16`), `start` and `stop` are byte offsets in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def is_floating(self) -> bool:
        """Whether the tensor holds weights (floating point) and no indices or masks."""
        return "float" in self.dtype


def read_header(file: Path) -> dict[str, TensorInfo]:
    """List the tensors of a safetensors file in the order of their bytes.

    Raises:
        PlanError: the file is truncated, longer than its header says, or its header is damaged.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == _LENGTH_BYTES else 0
        if length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES) or length == 0:
            raise _damaged(file, f"its header should take {length} bytes, and the file has {size}")
        text = stream.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        data = _LENGTH_BYTES + length
        entries = [_entry(file, name, entry, data) for name, entry in header.items()]
        infos = sorted(entries, key=lambda info: (info.start, info.stop))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(file, f"its header cannot be read: {error}") from error
    _check_extent(file, infos, _LENGTH_BYTES + length, size)
    return {info.name: info for info in infos}


def _entry(file: Path, name: str, entry: dict[str, Any], data: int) -> TensorInfo:
    if entry["dtype"] not in DTYPES:
        raise PlanError(
            f"{file}: tensor {name} has the dtype {entry['dtype']}, which cannot be merged or read here.",
            hint="Use a checkpoint in float32, float16 or bfloat16; quantised weights have to be dequantised first.",
        )
    dtype, item_bytes = DTYPES[entry["dtype"]]
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(extent) for extent in entry["shape"])
    if begin < 0 or min(shape, default=0) < 0 or end - begin != math.prod(shape) * item_bytes:
        raise ValueError(f"tensor {name} of shape {list(shape)} and dtype {dtype} cannot take {end - begin} bytes")
    return TensorInfo(name, dtype, shape, file, data + begin, data + end)


def _check_extent(file: Path, infos: list[TensorInfo], data: int, size: int) -> None:
    position = data
    for info in infos:
        if info.start != position:
            raise _damaged(file, f"tensor {info.name} starts at byte {info.start} where {position} was expected")
        position = info.stop
    if position > size:
        raise _damaged(file, f"it is truncated: its header describes {position} bytes, and the file has {size}")
    if position < size:
        raise _damaged(file, f"its header describes {position} bytes, and the file has {size}")


def _damaged(file: Path, what: str) -> PlanError:
    return PlanError(f"{file} is not a whole safetensors file: {what}.", hint="Download or write it again.")
