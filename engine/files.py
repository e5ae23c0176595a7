"""Files that are whole or absent: writing beside and moving into place, flushing, digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Digest a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(paths: Sequence[Path], digest: Callable[[Path], str] = sha256_of) -> list[str]:
    """Digest files side by side, one on each processor; `digest` may be one that remembers."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(digest, paths))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside its place and move it there: readers see the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_folder(path: Path) -> None:
    """Flush a folder, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
