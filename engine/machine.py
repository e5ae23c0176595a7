"""What this machine has left: room on a disk, memory; and how sizes are written for people."""

from __future__ import annotations

import shutil
from pathlib import Path

_SYSTEM = Path("/")
_STEP = 1000
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Write a number of bytes in the decimal units of disks: `88.5 kB`, `14.5 GB`."""
    for unit in _UNITS[:-1]:
        if count < _STEP - 0.5:
            return f"{count:.0f} {unit}" if unit == _UNITS[0] else f"{count:.1f} {unit}"
        count /= _STEP
    return f"{count:.1f} {_UNITS[-1]}"


def free_disk(folder: Path) -> int:
    """Give the bytes that are free where a folder is, or would be made."""
    place = folder.absolute()
    return shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free


def available_memory(system: Path = _SYSTEM) -> int | None:
    """Give the bytes that a process can take without swapping; None where the system does not tell.

    Linux counts the page cache as available. In a container the limit of its control group counts as well.
    """
    known = [count for count in (_of_system(system), _of_group(system)) if count is not None]
    return min(known, default=None)


def _of_system(system: Path) -> int | None:
    found = _numbers(system / "proc/meminfo").get("MemAvailable:")
    return None if found is None else found * 1024


def _of_group(system: Path) -> int | None:
    """Read the memory controller of version 2; where it has no limit, `memory.max` says `max`."""
    group = system / "sys/fs/cgroup"
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return None
    cache = _numbers(group / "memory.stat")
    return limit - used + cache.get("inactive_file", 0) + cache.get("active_file", 0)


def _numbers(file: Path) -> dict[str, int]:
    """Read the lines of a system file that hold a name and a number."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
