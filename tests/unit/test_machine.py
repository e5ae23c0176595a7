"""What a machine has left, and how sizes are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.machine import available_memory, free_disk, size

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (88_456, "88.5 kB"),
        (999_700, "1.0 MB"),
        (14_483_464_192, "14.5 GB"),
        (2.5e15, "2500.0 TB"),
    ],
)
def test_sizes_are_written_in_the_unit_that_fits(count: float, text: str) -> None:
    assert size(count) == text


def test_a_disk_is_found_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "yet") > 0


def system(root: Path, available: int, group: dict[str, str] | None = None) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99999 kB\nMemAvailable:   {available} kB\nHugePages_Total: 0\n")
    if group is not None:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        for name, text in group.items():
            (root / "sys/fs/cgroup" / name).write_text(text)
    return root


def test_memory_is_what_the_system_says(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, 2_000)) == 2_000 * 1024


def test_memory_is_bounded_by_the_container_whose_page_cache_can_go(tmp_path: Path) -> None:
    stat = "anon 500\ninactive_file 200\nactive_file 50\n"
    group = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": stat}
    assert available_memory(system(tmp_path, 2_000, group)) == 1000 - 900 + 250


def test_a_container_without_a_limit_bounds_nothing(tmp_path: Path) -> None:
    group = {"memory.max": "max\n", "memory.current": "900\n", "memory.stat": ""}
    assert available_memory(system(tmp_path, 2_000, group)) == 2_000 * 1024


def test_memory_is_unknown_where_no_system_tells(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
