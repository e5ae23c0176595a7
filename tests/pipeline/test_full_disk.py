"""A disk that is full: exit code 1 in prose, nothing half-written, and the same command succeeds once there is room."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.pipeline.workspace import MERGE, SEARCH, TRAIN, no_traceback, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


# What is left free, so that the run gets as far as it says and no further.
CASES = {
    "nothing": (MERGE, 0, "No space left on device"),
    "merge": (MERGE, 60_000, "has room for"),
    "search": (SEARCH.replace("400", "6"), 60_000, "search sought: the disk of"),
    "training": (TRAIN, 100_000, "sft japanese: the disk of"),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow) for case in CASES])
def test_a_full_disk_is_said_and_survived(small_disk: Path, models: dict[str, Path], case: str) -> None:
    text, left, said = CASES[case]
    workspace = prepare(small_disk.parent / "work", models, text)
    out = str(small_disk / "merged")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
    done = workspace.call("run", "recipe.yaml", "--out", out)
    assert done.returncode == 1
    assert said in no_traceback(done)
    assert "run the same command again" in done.stderr or "Free some space" in done.stderr
    assert not list(small_disk.glob("merged/.store/outputs/.tmp-*"))
    filler.unlink()
    done = workspace.call("run", "recipe.yaml", "--out", out)
    assert done.returncode == 0, done.stderr
    sums = (small_disk / "merged" / workspace.name / "model" / "SHA256SUMS").read_text()
    if case != "training":  # training that resumes is compared elsewhere
        workspace.run()
        assert sums == workspace.sums
