"""A fine-tune that was cut off goes on from the newest checkpoint that is whole, and ends in the same bytes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from engine.files import sha256_of
from engine.stages.sft import RowOrder
from tests.pipeline.workspace import TRAIN, Workspace, prepare, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_order_of_the_rows_follows_from_seed_and_epoch_alone() -> None:
    """A run that resumes in its third epoch takes the rows that the whole run takes there."""
    lengths = [10 + number * 7 % 31 for number in range(50)]
    whole = RowOrder(lengths, batch_size=4, seed=42)
    epochs = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        epochs.append(list(whole))
    resumed = RowOrder(lengths, batch_size=4, seed=42)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert all(sorted(order) == list(range(50)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert list(RowOrder(lengths, batch_size=4, seed=43)) != epochs[0]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(reference: Workspace, models: dict[str, Path], tmp_path: Path) -> None:
    workspace = prepare(tmp_path, {"base": models["base"]}, TRAIN)
    newest = killed_at(workspace, step=6)
    assert damaged_and_resumed(workspace, newest, truncate) == "checkpoint-4"
    newest = killed_at(workspace, step=8)
    assert damaged_and_resumed(workspace, newest, lose_state, to_the_end=True) == "checkpoint-6"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        files = [run.merged / "stages" / "sft-japanese" / name for run in (workspace, reference)]
        assert sha256_of(files[0]) == sha256_of(files[1]), name


def killed_at(workspace: Workspace, step: int) -> Path:
    """Run until the checkpoint of a step is whole, kill the run there, and give the checkpoint's folder."""
    process = workspace.start("run", "recipe.yaml")
    wait_for(process, lambda: any(workspace.store.glob(f"scratch/*/checkpoint-{step}/complete.json")))
    process.kill()
    process.communicate()
    folder = next(workspace.store.glob(f"scratch/*/checkpoint-{step}"))
    for later in folder.parent.glob("checkpoint-*"):  # it may have gone on before the kill reached it
        if int(later.name.rpartition("-")[2]) > step:
            shutil.rmtree(later)
    return folder


def damaged_and_resumed(
    workspace: Workspace, newest: Path, damage: Callable[[Path], None], *, to_the_end: bool = False
) -> str:
    """Damage a checkpoint and run on; give the name of the checkpoint that the run goes on from."""
    before = len(workspace.events())
    damage(newest)
    if to_the_end:
        workspace.run()
    else:
        process = workspace.start("run", "recipe.yaml")
        wait_for(process, lambda: any(event["event"] == "loss" for event in workspace.events()[before:]))
        process.kill()
        process.communicate()
    events = workspace.events()[before:]
    warned = [event["message"] for event in events if event["event"] == "warning"]
    assert warned == [f"{newest.name} was cut off while it was written; it is not used."]
    said = [event["text"] for event in events if event["event"] == "message"]
    return next(text.removeprefix("Going on from ") for text in said if text.startswith("Going on from "))


def truncate(checkpoint: Path) -> None:
    weights = checkpoint / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def lose_state(checkpoint: Path) -> None:
    (checkpoint / "trainer_state.json").unlink()
