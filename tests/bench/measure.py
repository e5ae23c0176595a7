"""Measures one process as a user would start it: CPU and wall seconds, memory by kind, bytes written.

CPU seconds and bytes written are what the kernel accounts to the process and to the children it waited for. Memory is
read from `/proc/PID/status` of the whole process tree every 20 ms. The peak resident set is the kernel's own mark; a
command starts from the small process that measures, so it is never below the size of that one (about 0.03 GB).
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.02
_SECTOR = 512
_KIBIBYTE = 1024
_KINDS = ("RssAnon", "RssFile", "RssShmem")
_TAIL = 4000
# What the caller's shell says of threads is not what a user's says.
_GONE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH", "FORCE_COLOR")


@dataclass(frozen=True)
class Usage:
    """What a process and its children took. Seconds and bytes; of each kind of memory the peak of the tree's sum."""

    started: float
    wall: float
    user: float
    system: float
    peak: int
    anon: int
    file: int
    shmem: int
    written: int

    @property
    def cpu(self) -> float:
        """Seconds of CPU, in user and in system mode."""
        return self.user + self.system


def measured(command: Sequence[str], log: Path) -> Usage:
    """Run a command to its end and tell what it took; what it says goes to `log`.

    Raises:
        SystemExit: The command failed; the message has the end of what it said.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _GONE}
    peaks = dict.fromkeys((*_KINDS, "VmHWM"), 0)
    ended = threading.Event()
    with log.open("wb") as said:
        started, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env={**environment, "HF_HUB_OFFLINE": "1"}
        )
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, ended), daemon=True)
        watcher.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            ended.set()
        wall = time.monotonic() - clock
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
        raise SystemExit(f"It ended with {process.returncode}: {' '.join(command)}\n{tail}")
    peak = max(peaks["VmHWM"], used.ru_maxrss * _KIBIBYTE)
    anon, file, shmem = (peaks[kind] for kind in _KINDS)
    return Usage(started, wall, used.ru_utime, used.ru_stime, peak, anon, file, shmem, used.ru_oublock * _SECTOR)


def _watch(pid: int, peaks: dict[str, int], ended: threading.Event) -> None:
    while not ended.is_set():
        now = dict.fromkeys(peaks, 0)
        for process in _tree(pid):
            for name, value in _status(process):
                now[name] += value
        for name, value in now.items():
            peaks[name] = max(peaks[name], value)
        ended.wait(_EVERY)


def _tree(pid: int) -> Iterator[int]:
    """Give a process and its descendants; one that ends meanwhile is left out."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    yield from _tree(int(child))


def _status(pid: int) -> Iterator[tuple[str, int]]:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in (*_KINDS, "VmHWM"):
                yield name, int(value.split()[0]) * _KIBIBYTE
