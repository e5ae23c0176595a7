"""The store: an output is whole or absent, damage is named with its remedy, and one process at a time holds a key."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.files import sha256_of
from engine.store import Store

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def fill(store: Store, key: str = KEY, text: str = "weights") -> Path:
    with store.write(key, {"kind": "merge"}) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text)
        (folder / "note.txt").write_text("調合")
    return store.output(key)


def in_another_process(store: Store, body: str, **options: object) -> subprocess.Popen[str]:
    """Start a process that runs `body` with `store` and `KEY` at hand."""
    head = f"import os, sys; from pathlib import Path; from engine.store import Store\nKEY = {KEY!r}\n"
    script = f"{head}store = Store(Path({str(store.root)!r}))\n{body}"
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, **options)


def test_opening_a_store_creates_nothing(store: Store) -> None:
    assert store.find(KEY) is None
    assert not store.root.exists()


def test_what_was_written_is_found_with_its_record(store: Store) -> None:
    folder = fill(store)
    assert store.find(KEY) == folder
    assert (folder / "model" / "weights").read_text() == "weights"
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert (record["key"], record["kind"]) == (KEY, "merge")
    assert record["files"] == {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in ("model/weights", "note.txt")
    }
    assert store.find(OTHER) is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_stage_that_fails_leaves_nothing(store: Store, error: type[BaseException]) -> None:
    def write() -> None:
        with store.write(KEY, {}) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert store.find(KEY) is None
    assert list((store.root / "outputs").iterdir()) == []


def test_a_kill_while_files_are_written_leaves_nothing_that_counts(store: Store) -> None:
    body = "with store.write(KEY, {}) as folder:\n    (folder / 'half').write_text('half')\n    os.kill(os.getpid(), 9)"
    assert in_another_process(store, body).wait() == -signal.SIGKILL
    assert store.find(KEY) is None
    assert list((store.root / "outputs").iterdir())  # what was written is there, and is not taken for whole
    folder = fill(store)
    assert sorted(path.name for path in folder.iterdir()) == ["model", "note.txt", "record.json"]
    assert list((store.root / "outputs").iterdir()) == [folder]


def test_a_kill_between_the_record_and_the_move_leaves_nothing_that_counts(store: Store) -> None:
    """What is not in its place is not there, however complete it looks."""
    folder = fill(store, text="old")
    folder.rename(folder.with_name(f".tmp-{folder.name}"))
    assert store.find(KEY) is None
    assert (fill(store, text="new") / "model" / "weights").read_text() == "new"


def test_a_folder_without_a_record_is_not_whole_and_gives_way(store: Store) -> None:
    folder = store.output(KEY)
    folder.mkdir(parents=True)
    (folder / "stranger").write_text("left by a crash of the file system")
    assert store.find(KEY) is None
    fill(store)
    assert not (folder / "stranger").exists()


@pytest.mark.parametrize("damage", ["shorten", "remove"])
def test_a_damaged_output_is_named_with_the_command_that_removes_it(store: Store, damage: str) -> None:
    folder = fill(store)
    file = folder / "model" / "weights"
    if damage == "remove":
        file.unlink()
    else:
        file.write_text("weight")
    with pytest.raises(StoreError) as caught:
        store.find(KEY)
    assert str(caught.value) == (
        f"The stored output {folder} is damaged: model/weights is missing or not 7 bytes long.\n"
        f"  Remove it and run the recipe again: rm -r {folder}"
    )
    assert caught.value.exit_code == 1


def test_scratch_stays_until_it_is_dropped(store: Store) -> None:
    (store.scratch(KEY) / "checkpoint").write_text("half way")
    assert (store.scratch(KEY) / "checkpoint").read_text() == "half way"
    assert list(store.scratch(OTHER).iterdir()) == []
    store.drop_scratch(KEY)
    store.drop_scratch(KEY)
    assert list(store.scratch(KEY).iterdir()) == []


def test_a_lock_that_is_held_names_its_holder(store: Store) -> None:
    body = "with store.lock(KEY):\n    print('held', flush=True)\n    sys.stdin.read()"
    holder = in_another_process(store, body, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError) as caught, store.lock(KEY):
        pass
    message = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()}, since 2" in message
    assert message.endswith("Wait for it to end, or stop it; then run the same command again.")
    with store.lock(OTHER):  # another key is free
        pass
    holder.communicate("")
    with store.lock(KEY):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(store: Store) -> None:
    body = "with store.lock(KEY):\n    os.kill(os.getpid(), 9)"
    assert in_another_process(store, body).wait() == -signal.SIGKILL
    with store.lock(KEY):
        holders = [json.loads(file.read_text()) for file in (store.root / "locks").glob("*.json")]
    assert [holder["pid"] for holder in holders] == [os.getpid()]


def test_a_lock_is_let_go_of_when_its_block_fails(store: Store) -> None:
    def fail() -> None:
        with store.lock(KEY):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    with store.lock(KEY):
        pass


def test_locks_of_names_that_begin_alike_are_two(store: Store) -> None:
    with store.lock("run " + "x" * 90 + "1"), store.lock("run " + "x" * 90 + "2"):
        pass
