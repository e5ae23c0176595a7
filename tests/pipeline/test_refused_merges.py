"""Sources that must not be merged: each is refused with the reason, and no output exists afterwards."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pipeline.workspace import Workspace, no_traceback, prepare
from tests.tiny import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LINEAR = """\
merge_method: linear
models:
  - {model: ./base, parameters: {weight: 0.5}}
  - {model: ./other, parameters: {weight: 0.5}}
dtype: bfloat16
"""


def with_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])


def with_another_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = whole["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(json.dumps(whole), encoding="utf-8")


def leading_outside(folder: Path) -> None:
    file = folder / "model.safetensors"
    names = list(load_file(file))
    shutil.move(file, folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def of_another_size(folder: Path) -> None:
    shutil.rmtree(folder)
    tiny_model(folder, layers=2, hidden_size=16)


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (with_nan, 1, "model.layers.1.mlp.up_proj.weight of ./other has NaN or infinite values"),
        (truncated, 2, "is not a whole safetensors file: it is truncated"),
        (with_another_tokenizer, 2, "2 tokens have other ids"),
        (leading_outside, 2, "'../elsewhere.safetensors', which lies outside the folder"),
        (of_another_size, 2, "hidden_size"),
    ],
)
def test_a_source_that_must_not_be_merged_leaves_no_output(
    models: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], code: int, message: str
) -> None:
    workspace = plain(tmp_path, models)
    damage(tmp_path / "other")
    done = workspace.call("run", "linear.yaml")
    assert message in " ".join(no_traceback(done).split())
    assert done.returncode == code
    assert nothing_is_there(workspace)


def test_flipped_bytes_are_known_from_the_lock(models: dict[str, Path], tmp_path: Path) -> None:
    workspace = plain(tmp_path, models)
    assert workspace.call("run", "linear.yaml").returncode == 0
    shutil.copy(workspace.merged / "recipe.lock.yaml", tmp_path / "kept.lock.yaml")
    lock = (tmp_path / "kept.lock.yaml").read_text(encoding="utf-8").replace("../../", "./")
    (tmp_path / "kept.lock.yaml").write_text(lock, encoding="utf-8")
    shutil.rmtree(tmp_path / "merged")
    file = tmp_path / "other" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    done = workspace.call("run", "kept.lock.yaml")
    told = " ".join(no_traceback(done).split())
    assert "is not what the recipe pins: sha256" in told
    assert "other" in told
    assert done.returncode == 2
    assert nothing_is_there(workspace)


def plain(folder: Path, models: dict[str, Path]) -> Workspace:
    workspace = prepare(folder, models, "name: linear\n")
    workspace.recipe.rename(folder / "linear.yaml").write_text(LINEAR)
    return workspace


def nothing_is_there(workspace: Workspace) -> bool:
    """Whether neither the run directory has a model nor the store an output, whole or not."""
    outputs = workspace.store / "outputs"
    return not workspace.model.exists() and not (outputs.exists() and any(outputs.iterdir()))
