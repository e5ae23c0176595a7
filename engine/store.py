"""Stage outputs by content address: whole or absent, one lock a key, scratch that survives a crash.

    outputs/<key>/    complete: moved into place in one step, record.json written last
    scratch/<key>/    what a stage that was killed can go on from
    locks/<digest>    held while a stage runs; the operating system lets go of it when its holder dies

An output is written in `outputs/.tmp-<key>`, flushed to the disk and renamed, so a kill at any instant leaves either
the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout

from engine.errors import StoreError
from engine.files import sha256_of_all, sync_folder, write_atomically

_RECORD = "record.json"


class Store:
    """A folder of stage outputs. Opening it creates nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Path | None:
        """Give the folder of a complete output, or None.

        Raises:
            StoreError: The output is there but a file of it is missing or has another size than its record says.
        """
        folder = self.output(key)
        record = folder / _RECORD
        if not record.is_file():
            return None
        for name, entry in json.loads(record.read_text(encoding="utf-8"))["files"].items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != entry["size"]:
                raise StoreError(
                    f"The stored output {folder} is damaged: {name} is missing or not {entry['size']} bytes long.",
                    hint=f"Remove it and run the recipe again: rm -r {folder}",
                )
        return folder

    def output(self, key: str) -> Path:
        """Name the folder of an output, complete or not."""
        return self.root / "outputs" / key[:32]

    def scratch(self, key: str) -> Path:
        """Give the scratch folder of a key; what is in it survives a crash."""
        folder = self.root / "scratch" / key[:32]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_scratch(self, key: str) -> None:
        """Remove the scratch of a stage that is complete."""
        shutil.rmtree(self.root / "scratch" / key[:32], ignore_errors=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of a key; it is let go of when this process ends, however it ends.

        Raises:
            StoreError: Another process holds it; the message says which and since when.
        """
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        holder = folder / f"{name}.json"
        lock = FileLock(folder / name)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StoreError(
                f"Another process is at work on the same thing: {_describe(holder)}.",
                hint="Wait for it to end, or stop it; then run the same command again.",
            ) from error
        try:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
            yield
        finally:
            lock.release()

    @contextmanager
    def write(
        self, key: str, about: Mapping[str, Any], known: Mapping[Path, str] = MappingProxyType({})
    ) -> Iterator[Path]:
        """Give an empty folder to fill; it becomes the output of the key when the block ends without an error.

        Args:
            key: The stage's key; its lock must be held.
            about: What is recorded beside the files' sizes and digests (kind, versions, …); JSON values.
            known: Digests of files that were taken while they were written; asked for when the block ends.
        """
        final, temporary = self.output(key), self.root / "outputs" / f".tmp-{key[:32]}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _seal(temporary, {"key": key, **about}, known)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)  # without a record it was never complete
        temporary.replace(final)
        sync_folder(final.parent)


def _seal(folder: Path, about: Mapping[str, Any], known: Mapping[Path, str]) -> None:
    """Flush every file, then write the record that makes the folder complete."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fresh = [path for path in paths if path not in known]
    digests = {**known, **dict(zip(fresh, sha256_of_all(fresh), strict=True))}
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": digests[path]} for path in paths
    }
    write_atomically(folder / _RECORD, json.dumps({**about, "files": files}, indent=1, ensure_ascii=False) + "\n")
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync_folder(path)


def _describe(holder: Path) -> str:
    try:
        who = json.loads(holder.read_text())
    except (OSError, ValueError):
        return "its holder left no name"
    return f"process {who['pid']} on {who['host']}, since {who['since']}"
