"""The machine that a benchmark runs on: what it is, and how its disk and page cache are brought into a known state."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_BLOCK = 1 << 23
_PACKAGES = ("chogo", "mergekit", "torch", "transformers", "safetensors", "numpy")
_REPOSITORY = Path(__file__).parents[2]
_DROP = Path("/proc/sys/vm/drop_caches")


def facts(folder: Path) -> dict[str, str]:
    """Tell what was measured, where and when; `folder` is on the disk that the benchmark uses."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    cpu = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    filesystem = _said("stat", "--file-system", "--format=%T", str(folder))
    commit = _said("git", "-C", str(_REPOSITORY), "rev-parse", "--short", "HEAD")
    changed = " with changes" if _said("git", "-C", str(_REPOSITORY), "status", "--porcelain") else ""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu}, {os.cpu_count()} cores, {_meminfo('MemTotal') / 1e9:.1f} GB of memory, "
        f"{filesystem} with {shutil.disk_usage(folder).free / 1e9:.0f} GB free, Linux {platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f} (one-minute average at the start)",
        "versions": f"Python {platform.python_version()}, {versions}, commit {commit or 'unknown'}{changed}",
    }


def read_through(folders: Iterable[Path]) -> None:
    """Bring the files of folders into the page cache, as far as it holds them, after all writes are on the disk."""
    os.sync()
    block = bytearray(_BLOCK)
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass


def drop_caches(files: Sequence[Path]) -> str:
    """Empty the page cache, or where that is not allowed, take these files out of it; tell which, and what it did."""
    os.sync()
    before = _meminfo("Cached")
    try:
        _DROP.write_text("3\n")
        how = "drop_caches worked"
    except OSError as error:
        how = f"drop_caches refused ({error.strerror}), posix_fadvise(DONTNEED) on the inputs instead"
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return f"{how}: cached {before / 1e9:.1f} -> {_meminfo('Cached') / 1e9:.1f} GB"


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _said(*command: str) -> str:
    """Give what a command says; nothing where there is no such command, or no repository."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
