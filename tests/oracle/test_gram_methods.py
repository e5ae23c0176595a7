"""nuslerp, multislerp, karcher, model_stock, nearswap and arcee_fusion against mergekit 0.1.5 where it gets special.

Opposite, parallel, equal and zero vectors; few models; rows and columns; and the places where we differ on purpose.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from engine import merging
from tests.merging import complete, streamed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    Numbers = Mapping[str, float]

pytestmark = pytest.mark.slow

SHAPES = [(300,), (12, 33), (1, 40), (6, 5, 8), (30, 1, 4), (20, 1)]


def ours(
    name: str, tensors: Sequence[Tensor], each: Sequence[Numbers], shared: Numbers | None = None, *, size: int = 64
) -> Tensor:
    """Merge; a base stands first where there are more tensors than `each`."""
    method = merging.load(name)
    numbers = [complete(method, entry, per_model=True) for entry in each]
    others = complete(method, shared or {}, per_model=False)
    return streamed(tensors, lambda chunks: method.merge(chunks, numbers, others, "0/x"), size=size)


def theirs(name: str, tensors: Sequence[Tensor], each: Sequence[Numbers], shared: Numbers | None = None) -> Tensor:
    from mergekit.merge_methods import merge_tensors

    first = len(tensors) - len(each)
    per_model = {key: {first + place: entry[key] for place, entry in enumerate(each)} for key in each[0]}
    base_index = 0 if first else None
    return merge_tensors(tensors, name, base_index=base_index, parameters={**(shared or {}), **per_model})


def check(name: str, tensors: Sequence[Tensor], each: Sequence[Numbers], shared: Numbers | None = None) -> None:
    found, expected = ours(name, tensors, each, shared), theirs(name, tensors, each, shared)
    difference, scale = float((found - expected).abs().max()), float(expected.abs().max())
    assert difference <= 1e-6 * scale, f"{difference} at a scale of {scale}"


def drawn(shape: Sequence[int], count: int, *, spread: float = 1.0, seed: int = 0) -> list[Tensor]:
    """Draw normal tensors that lie `spread` times the first one's size from it."""
    generator = torch.Generator().manual_seed(seed)
    first, *others = (torch.randn(tuple(shape), generator=generator) * 0.05 for _ in range(count))
    return [first, *(first + other * spread for other in others)]


def weights(*values: float) -> list[Numbers]:
    return [{"weight": value} for value in values]


# Vectors whose norms are powers of two, so that mergekit's unit vectors are exact in float32.
ONES = torch.ones(4, 4)
STRIPES = torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(4, 4).contiguous()
ZERO = torch.zeros(4, 4)

DIRECTIONS = {
    "opposite": [ONES, -ONES],
    "opposite of other lengths": [ONES * 0.5, ONES * -4],
    "equal": [STRIPES, STRIPES],
    "parallel": [ONES, ONES * 8],
    "orthogonal": [ONES, STRIPES],
    "first zero": [ZERO, STRIPES],
    "second zero": [ONES, ZERO],
    "both zero": [ZERO, ZERO],
}


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("base", [None, drawn((4, 4), 1)[0].mul(8).round()], ids=["alone", "on a base"])
class TestDirections:
    """Two vectors, or two differences from a base of integers, which subtract exactly."""

    @pytest.mark.parametrize("options", [(True, False), (False, False), (False, True)])
    def test_nuslerp(self, base, directions, options):
        tensors = directions if base is None else [base, *(base + direction for direction in directions)]
        shared = dict(zip(("nuslerp_flatten", "nuslerp_row_wise"), options, strict=True))
        for pair in ((0.5, 0.5), (0.75, 0.25), (1.0, 0.0), (0.0, 1.0), (1.5, -0.5)):
            check("nuslerp", tensors, weights(*pair), shared)

    def test_multislerp(self, base, directions):
        tensors = directions if base is None else [base, *(base + direction for direction in directions)]
        for pair in ((0.5, 0.5), (0.75, 0.25), (1.0, 0.0)):
            check("multislerp", tensors, weights(*pair))

    def test_karcher(self, base, directions):
        tensors = directions if base is None else [base, *directions]
        check("karcher", tensors, [{}] * len(tensors))

    def test_model_stock(self, base, directions):
        base = ZERO if base is None else base
        for filter_wise in (False, True):
            tensors = [base, *(base + direction for direction in directions)]
            check("model_stock", tensors, [{}] * 2, {"filter_wise": filter_wise})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("row_wise", [True, False])
def test_nuslerp_takes_rows_columns_or_all(shape, flatten, row_wise):
    tensors = drawn(shape, 3)
    shared = {"nuslerp_flatten": flatten, "nuslerp_row_wise": row_wise}
    check("nuslerp", tensors[1:], weights(0.7, 0.4), shared)
    check("nuslerp", tensors, weights(2.0, -0.5), shared)


def test_nuslerp_goes_halfway_where_weights_cancel():
    check("nuslerp", drawn((5, 7), 2), weights(0.5, -0.5))


def test_nuslerp_is_linear_between_opposite_vectors_of_any_length():
    """Where mergekit's cosine is -1 but for the last bit, it scales the first vector by about cos(t pi)."""
    (vector,) = drawn((5, 7), 1)
    for shared in ({}, {"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}):
        found = ours("nuslerp", [vector, vector * -3], weights(0.75, 0.25), shared)
        torch.testing.assert_close(found, torch.zeros(5, 7), atol=1e-7, rtol=0)


def test_columns_are_summed_exactly_whatever_the_chunks():
    """Columns whose elements span forty powers of two, in orders that float64 would add differently."""
    generator = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(257, 9, generator=generator) * 2.0 ** torch.randint(-20, 20, (257, 9), generator=generator)
        for _ in range(2)
    ]
    shared = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    found = [ours("nuslerp", tensors, weights(0.6, 0.4), shared, size=size) for size in (9, 64, 700, 10_000)]
    assert all(other.equal(found[0]) for other in found[1:])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("normalize", [True, False])
def test_multislerp_takes_any_number_of_models(count, normalize):
    tensors = drawn((12, 33), count + 1, spread=0.5)
    each = weights(*(0.7, 0.5, 0.0, -0.2, 0.9)[:count])
    check("multislerp", tensors[1:], each, {"normalize_weights": normalize})
    check("multislerp", tensors, each, {"normalize_weights": normalize, "eps": 1e-3})


def test_multislerp_sums_where_three_directions_cancel_out_and_mergekit_fails():
    base, other = drawn((4, 4), 2)
    with pytest.raises(ValueError, match="weighted sum of the input tensors is zero"):
        theirs("multislerp", [base] * 4, weights(1, 1, 1))
    assert ours("multislerp", [base] * 4, weights(1, 1, 1)).equal(base)
    found = ours("multislerp", [other, -other, ZERO], weights(0.5, 0.5, 1.0))
    torch.testing.assert_close(found, ZERO, atol=1e-8, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("shared", [{}, {"max_iter": 0}, {"max_iter": 1}, {"tol": 0.02}], ids=str)
def test_karcher_takes_any_number_of_models(count, shared):
    tensors = [tensor * 2.0**place for place, tensor in enumerate(drawn((12, 33), count))]
    check("karcher", tensors, [{}] * count, shared)


def test_karcher_gives_no_direction_to_a_tensor_below_its_tolerance():
    first, second = drawn((5, 7), 2)
    check("karcher", [first, torch.zeros(5, 7), second, second * 1e-6], [{}] * 4)
    check("karcher", [torch.zeros(5, 7)] * 3, [{}] * 3)


def test_karcher_between_almost_parallel_models_is_the_one_of_float64():
    """mergekit's float32 loses the mean of some: by a part of what the models differ in."""
    lost = []
    for seed in range(20):
        tensors = drawn((40, 33), 3, spread=1e-4, seed=seed)
        exact = theirs("karcher", [tensor.double() for tensor in tensors], [{}] * 3)
        scale, spread = float(exact.abs().max()), float((tensors[1] - tensors[0]).abs().max())
        assert float((ours("karcher", tensors, [{}] * 3) - exact).abs().max()) <= 2e-7 * scale
        lost.append(float((theirs("karcher", tensors, [{}] * 3) - exact).abs().max()) / spread)
    assert max(lost) > 0.02


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("filter_wise", [True, False])
def test_model_stock_takes_rows_or_all(shape, count, filter_wise):
    base, *drift = drawn(shape, count + 1)
    shared = drawn(shape, 1, seed=1)[0]
    # Updates with something in common: where there is nothing, the ratio is near its singularity.
    tensors = [base, *(base + shared + update * 0.5 for update in drift)]
    check("model_stock", tensors, [{}] * count, {"filter_wise": filter_wise})


def test_model_stock_keeps_the_base_where_the_ratio_has_no_value():
    angles = [math.tau * third / 3 for third in range(3)]
    updates = [math.cos(angle) * ONES + math.sin(angle) * STRIPES for angle in angles]
    for filter_wise in (False, True):
        found = ours("model_stock", [ZERO, *updates], [{}] * 3, {"filter_wise": filter_wise})
        assert float(found.abs().max()) < 1e-6


@pytest.mark.parametrize("t", [0.0, 1e-8, 1e-4, 0.03, 10.0, -0.1])
def test_nearswap_steps_by_t_at_the_most(t):
    base, other = drawn((12, 33), 2)
    near = base + torch.linspace(-3e-6, 3e-6, base.numel()).reshape(base.shape)
    for tensor in (other, near, base):
        check("nearswap", [base, tensor], [{}], {"t": t})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_arcee_fusion_takes_what_stands_out(shape, spread):
    check("arcee_fusion", drawn(shape, 2, spread=spread), [{}])


def test_arcee_fusion_of_equal_models_is_the_base():
    (base,) = drawn((12, 33), 1)
    assert ours("arcee_fusion", [base, base], [{}]).equal(base)


def test_arcee_fusion_counts_divergences_that_rounding_made_negative():
    tensors = drawn((5000, 3), 2, spread=1e-3)
    chances = [tensor.softmax(dim=-1) + 1e-8 for tensor in tensors]
    divergences = (chances[1] * (chances[1] / chances[0]).log()).sum(dim=-1)
    assert float((divergences < 0).float().mean()) > 0.25
    check("arcee_fusion", tensors, [{}])


def test_arcee_fusion_has_exact_quartiles_where_mergekit_draws_a_sample(monkeypatch):
    from mergekit.merge_methods import arcee_fusion

    tensors = drawn((700, 1500), 2, spread=0.1)
    # Rows that differ in importance by orders of magnitude, as those of rare and frequent tokens do.
    tensors[1] = tensors[0] + (tensors[1] - tensors[0]) * torch.logspace(-2, 1, 700)[:, None]
    found = ours("arcee_fusion", tensors, [{}], size=1 << 17)
    monkeypatch.setattr(arcee_fusion, "_QUANTILE_SAMPLE_SIZE", tensors[0].numel())
    assert found.equal(theirs("arcee_fusion", tensors, [{}]))


def test_numbers_that_cannot_work_are_refused():
    steps = merging.load("karcher").refuse([{}] * 2, {"max_iter": 2.5, "tol": 1e-5})
    assert steps == "`max_iter` is 2.5, and steps are counted in whole numbers"
    refuse = merging.load("multislerp").refuse
    assert "sum to zero" in str(refuse(weights(1, -1), {"normalize_weights": True, "eps": 1e-8}))
    assert refuse(weights(1, -1), {"normalize_weights": False, "eps": 1e-8}) is None
