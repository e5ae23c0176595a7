"""What the tests against other projects share: mergekit, imported once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Merge = Callable[[dict[str, Any], Path], dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def mergekit() -> Merge:
    """Give a function that runs mergekit's own executor on a configuration and reads what it wrote into a folder."""
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def run(config: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
        options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
        run_merge(MergeConfiguration.model_validate(config), str(folder), options)
        return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}

    return run
