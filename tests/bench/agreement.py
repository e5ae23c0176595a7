"""Checks that two checkpoints hold the same work, so that the speeds are those of the same work.

    python -m tests.bench.agreement METHOD OURS THEIRS BASE A B     against mergekit's output
    python -m tests.bench.agreement reference OURS A B              against the interpolation that floors.py writes

Names, dtypes and shapes are compared for every tensor, values for a few. It runs in a process of its own, so that the
one that measures stays small. It ends with 1 and says why where they differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.floors import AMOUNT

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 1024
_CLOSE = {"linear": 1.0, "slerp": 1.0, "passthrough": 0.0}
"""Methods that leave no choice, and how many units in the last place of bfloat16 may lie between two results."""
_NOISE = 2.0**-20
"""Of a tensor's largest value: what two orders of float32 arithmetic leave where the sources cancel."""
_SAME_CHANGE = 0.02
"""TIES breaks ties of magnitude and DARE draws: the change from the base agrees in its length and in how much of A's
and of B's change is in it, to this share. What is drawn points where it points; what is not, points the same way."""
_SAME_WAY = {"ties": 0.99, "dare_ties": None}
"""The least cosine between the two changes."""


class Weights:
    """The tensors of a folder, by name."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        open_file: Any = safe_open
        self._files: dict[str, Any] = {}
        self.layout: dict[str, tuple[str, tuple[int, ...]]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = open_file(path, "pt")
            for name in file.keys():  # noqa: SIM118 - it is a method of the library, and no mapping
                about = file.get_slice(name)
                self._files[name] = file
                self.layout[name] = (about.get_dtype(), tuple(about.get_shape()))
        if not self.layout:
            raise SystemExit(f"{folder} has no weights.")

    def rows(self, name: str) -> Iterator[Tensor]:
        """Give a tensor a few rows at a time."""
        about = self._files[name].get_slice(name)
        for start in range(0, self.layout[name][1][0], _ROWS):
            yield about[start : start + _ROWS]

    def few(self) -> list[str]:
        """Choose the tensors whose values are compared: both ends, and one of each kind from layers in between."""
        layers = 1 + max(int(name.split(".")[2]) for name in self.layout if name.startswith("model.layers."))
        inside = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "self_attn.v_proj")
        places = [number * (layers - 1) // (len(inside) - 1) for number in range(len(inside))]
        middle = [f"model.layers.{layer}.{part}.weight" for layer, part in zip(places, inside, strict=True)]
        return ["model.embed_tokens.weight", *middle, "lm_head.weight"]


def compare(method: str, ours: Path, theirs: Path, *sources: Path) -> str:
    """Compare two outputs of one configuration over the sources base, A and B; tell how near they are.

    Raises:
        SystemExit: They are not the same work.
    """
    mine, other = Weights(ours), Weights(theirs)
    _same_layout(mine, other)
    if method not in _CLOSE:
        return _same_change(method, mine, other, [Weights(source) for source in sources])
    allowed = _CLOSE[method]
    worst = 0.0
    for name in mine.few():
        for one, two in zip(mine.rows(name), other.rows(name), strict=True):
            worst = max(worst, _distance(one, two, _NOISE if allowed else 0.0))
    return _verdict(f"{method}: ours and mergekit's", worst, allowed)


def check_reference(ours: Path, a: Path, b: Path) -> str:
    """Compare an output with the interpolation of two models, made here in float32 and rounded once.

    Raises:
        SystemExit: It is another merge than that.
    """
    import torch

    mine, one, two = Weights(ours), Weights(a), Weights(b)
    _same_layout(mine, one)
    worst = 0.0
    for name in mine.few():
        for merged, first, second in zip(mine.rows(name), one.rows(name), two.rows(name), strict=True):
            expected = torch.lerp(first.float(), second.float(), AMOUNT).to(merged.dtype)
            worst = max(worst, _distance(merged, expected))
    return _verdict("the output and torch.lerp", worst, 1.0)


def _same_layout(one: Weights, two: Weights) -> None:
    if one.layout != two.layout:
        differ = sorted(set(one.layout.items()) ^ set(two.layout.items()))
        raise SystemExit(f"{len(differ)} tensors differ in name, dtype or shape, the first {differ[0]}.")


def _same_change(method: str, mine: Weights, other: Weights, sources: Sequence[Weights]) -> str:
    import torch

    base, *others = sources
    gram = torch.zeros(2 + len(others), 2 + len(others), dtype=torch.float64)
    for name in mine.few():
        for origin, *rows in zip(*(one.rows(name) for one in (base, mine, other, *others)), strict=True):
            changes = torch.stack([(row.double() - origin.double()).flatten() for row in rows])
            gram += changes @ changes.T
    ratios = [float((gram[0, 0] / gram[1, 1]).sqrt()), *(gram[0, 2:] / gram[1, 2:]).tolist()]
    cosine = float(gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt())
    shares = " and ".join(f"{ratio:.4f}" for ratio in ratios[1:])
    said = (
        f"{method}: our change from the base has {ratios[0]:.4f} of the length of mergekit's, "
        f"{shares} of its parts along a and b, cosine {cosine:.4f}"
    )
    least = _SAME_WAY[method]
    turned = least is not None and not cosine >= least
    if turned or not all(abs(ratio - 1) <= _SAME_CHANGE for ratio in ratios):
        raise SystemExit(f"{said}; these are different merges.")
    return said


def _distance(one: Tensor, two: Tensor, noise: float = _NOISE) -> float:
    """Tell how far two tensors are apart at most, in units in the last place of the larger value, noise left out."""
    import torch

    if not (one.isfinite().all() and two.isfinite().all()):
        raise SystemExit("There are values that are not finite.")
    apart = (one.float() - two.float()).abs()
    larger = torch.maximum(one.float().abs(), two.float().abs())
    units = torch.ldexp(torch.ones_like(larger), larger.frexp().exponent - 8)  # bfloat16 has eight bits of precision
    return float(((apart - noise * larger.max()).clamp(min=0) / units).max())


def _verdict(what: str, worst: float, allowed: float) -> str:
    said = f"{what} differ by at most {worst:.2g} ulp of bfloat16"
    if not worst <= allowed:
        raise SystemExit(f"{said}, where {allowed:g} is allowed; these are different merges.")
    return said


def main() -> None:
    """Compare what the command line names."""
    method, *folders = sys.argv[1:]
    paths = [Path(folder) for folder in folders]
    sys.stdout.write((check_reference(*paths) if method == "reference" else compare(method, *paths)) + "\n")


if __name__ == "__main__":
    main()
