"""What the whole runs share: two tiny models, and one uninterrupted run that the others are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pipeline.workspace import Workspace, prepare

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two bfloat16 Llamas of two layers, `base` and `other`; never write into their folders."""
    import torch

    from tests.tiny import tiny_model

    root = tmp_path_factory.mktemp("small")
    return {
        name: tiny_model(root / name, seed=seed, layers=2, dtype=torch.bfloat16)
        for seed, name in enumerate(("base", "other"))
    }


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Workspace:
    """The recipe after a run that nothing disturbed; look at it, and change nothing."""
    workspace = prepare(tmp_path_factory.mktemp("reference"), {"base": models["base"]})
    workspace.run()
    return workspace
