"""The merge alone, as mergekit does it: read, merge, write. No digests, sums, card or lock, and nothing opened again.

python tests/bench/core.py CONFIG OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.checkpoints import open_source
from engine.executor import Merger

_SEED = 42  # a recipe that names none has this one


def main() -> None:
    """Merge the models of a configuration into a new folder."""
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    entries = [*config.get("models", []), *(one for piece in config.get("slices", []) for one in piece["sources"])]
    names = dict.fromkeys([*(entry["model"] for entry in entries), *filter(None, [config.get("base_model")])])
    out = Path(sys.argv[2])
    out.mkdir()
    Merger(config, {name: open_source(Path(name)) for name in names}, seed=_SEED).write(out)


if __name__ == "__main__":
    main()
