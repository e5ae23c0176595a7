"""Plain mergekit files run unchanged, and what a run writes for mergekit gives the same model there."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.tiny import tiny_adapter

pytestmark = pytest.mark.slow

FACTS = Path(__file__).parents[2] / "recipes" / "quickstart" / "facts.yaml"
Tensors = dict[str, torch.Tensor]

FILES = {
    "linear": """\
models:
  - model: ./clinical
    parameters:
      weight: 0.7
  - model: ./japanese
    parameters:
      weight: 0.5
merge_method: linear
dtype: float32
""",
    "slerp": """\
slices:
  - sources:
      - model: ./clinical
        layer_range: [0, 4]
      - model: ./japanese
        layer_range: [0, 4]
merge_method: slerp
base_model: ./clinical
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float32
""",
    "dare-ties": """\
models:
  - model: ./base
    # no parameters necessary for base model
  - model: ./clinical
    parameters:
      density: 1.0
      weight: 0.6
  - model: ./japanese
    parameters:
      density: 1.0
      weight: [0.1, 0.4, -0.3]
merge_method: dare_ties
base_model: ./base
parameters:
  int8_mask: true
dtype: float32
""",
}
RECIPE = """\
name: winner
models:
  small: ./base
merge:
  merge_method: task_arithmetic
  base_model: small
  models:
    - model: ./base+./first
      parameters: {weight: {low: 0.0, high: 1.5, by: layer_group, groups: 2}}
    - model: ./base+./second
      parameters: {weight: {low: 0.0, high: 1.5, by: module}}
  dtype: float32
search:
  n_trials: 4
  warm_start: false
  objective:
    - {evaluator: fact_table, path: facts.yaml, split: dev, limit: 8}
evaluate:
  - {evaluator: fact_table, path: facts.yaml, split: test, limit: 8}
"""


@pytest.fixture(scope="session")
def run_merge() -> Callable[[Path, Path], Tensors]:
    """Import mergekit once and run a file of its own language by its own executor."""
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def run(file: Path, folder: Path) -> Tensors:
        config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        run_merge(config, str(folder), MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False))
        return tensors(folder)

    return run


@pytest.fixture
def workspace(tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with copies of the models; the paths in the files start there."""
    for name in ("base", "clinical", "japanese"):
        shutil.copytree(tiny_models[name], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tensors(folder: Path) -> Tensors:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    executable = str(Path(sys.executable).with_name(name))
    done = subprocess.run([executable, *arguments], env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def assert_same(found: Tensors, expected: Tensors, tolerance: float) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype == torch.float32
        scale, difference = float(tensor.abs().max()), float((found[name] - tensor).abs().max())
        assert difference <= tolerance * scale, f"{name} differs by {difference} at a scale of {scale}"


def flat(node: object) -> Iterator[float]:
    """List the numbers of a parameter, however it is written."""
    if isinstance(node, float):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from flat(child)


@pytest.mark.parametrize("name", FILES)
def test_a_plain_file_runs_unchanged_and_agrees_with_mergekit(
    run_merge: Callable[[Path, Path], Tensors], workspace: Path, name: str
) -> None:
    file = workspace / f"{name}.yml"
    file.write_text(FILES[name], encoding="utf-8")
    command("recipe", "run", file.name)
    assert file.read_text(encoding="utf-8") == FILES[name]
    found, expected = tensors(workspace / "merged" / name / "model"), run_merge(file, workspace / "theirs")
    assert_same(found, expected, 1e-6)
    # What comes out is a merge, and none of its sources.
    for source in ("base", "clinical", "japanese"):
        assert any(not torch.equal(found[one], tensor) for one, tensor in tensors(workspace / source).items())


def test_mergekit_makes_the_winner_of_a_search_from_what_the_run_wrote(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("first", "second")):
        tiny_adapter(workspace / name, workspace / "base", seed=seed)
    shutil.copy(FACTS, workspace / "facts.yaml")
    (workspace / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    command("recipe", "run", "recipe.yaml")
    folder = workspace / "merged" / "winner"
    written = (folder / "model" / "mergekit_config.yml").read_text(encoding="utf-8")
    assert str(workspace) not in written
    # The first line says how mergekit is called, and from where.
    (told,) = re.findall("from the run directory, `(.*)`", written.splitlines()[0])
    monkeypatch.chdir(folder)
    command(*shlex.split(told))
    assert_same(tensors(folder / "model"), tensors(folder / "OUT"), 1e-5)
    numbers = [0.0, 1.0]
    assert not any(
        value in numbers for model in yaml.safe_load(written)["models"] for value in flat(model["parameters"])
    )
