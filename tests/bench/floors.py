"""The bare floors of a merge: what the same bytes cost without a merge around them.

    python floors.py lerp A B OUT     stream torch.lerp over two checkpoints of the same layout
    python floors.py sha256 FOLDER    digest the weights of a checkpoint

A script of its own that imports only what it needs: its start is part of what is measured. One thread, 64 Ki numbers
at a time, no checks, no names, no metadata; whatever lies in the files is taken for bfloat16.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import sys
from pathlib import Path

CHUNK = 1 << 16
AMOUNT = 0.4
"""The weight of the second model."""


def lerp(one: Path, other: Path, out: Path) -> None:
    """Write the linear interpolation of two checkpoints whose shards have the same names and headers."""
    import torch

    torch.set_num_threads(1)
    out.mkdir(parents=True)
    for file in sorted(one.glob("*.safetensors")):
        first, second = _mapped(file), _mapped(other / file.name)
        start = 8 + struct.unpack("<Q", first[:8])[0]
        with (out / file.name).open("wb", buffering=0) as sink:
            sink.write(first[:start])
            for offset in range(start, len(first), 2 * CHUNK):
                count = min(CHUNK, (len(first) - offset) // 2)
                a, b = (
                    torch.frombuffer(mapped, dtype=torch.bfloat16, count=count, offset=offset).float()
                    for mapped in (first, second)
                )
                sink.write(torch.lerp(a, b, AMOUNT).bfloat16().view(torch.uint8).numpy().data)


def sha256(folder: Path) -> None:
    """Digest every weight file of a folder."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def _mapped(path: Path) -> mmap.mmap:
    """Map a file copy-on-write: torch asks for a buffer that could be written, and nobody writes."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[2:]]
    if sys.argv[1] == "lerp":
        lerp(*folders)
    else:
        sha256(*folders)
