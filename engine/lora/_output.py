"""A new folder that is whole or absent: filled beside its place, flushed, and moved there in one step."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import PlanError, StoreError
from engine.files import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `path` when the block ends without an error, and is removed otherwise.

    What a process that was killed has left beside `path` is cleared away. Files are the block's to flush.

    Raises:
        PlanError: `path` is there already.
        StoreError: another process is writing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    _check_absent(path)
    temporary.mkdir(exist_ok=True)
    # The lock lies on the folder itself: it needs no file, and it is let go of when its holder dies.
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        _lock(descriptor, path)
        _check_absent(path)  # whoever had the lock may have finished
        _clear(temporary)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        os.close(descriptor)


def _check_absent(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise PlanError(f"{path} is there already.", hint="Name a folder that does not exist yet, or remove it.")


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            f"Another process is writing {path}.", hint="Wait for it to end, or name another folder."
        ) from error


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
