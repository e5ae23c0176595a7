"""DELLA, Breadcrumbs and SCE against mergekit 0.1.5, tensor by tensor in float32."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
import torch

from engine import merging
from engine.merging._della import keep_probabilities, order, rank_mask
from engine.merging._sparsify import random_lanes
from engine.merging.sce import _variance
from tests.merging import complete, merge_whole, seeded, threads

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.slow

SHAPES = [(37,), (23, 19), (4, 300), (3, 5, 14)]
WEIGHTS = (0.7, -0.4, 0.5)


@pytest.fixture(scope="module")
def merge_tensors():
    """Import mergekit once (13 s of CPU)."""
    from mergekit.merge_methods import merge_tensors

    return merge_tensors


def theirs(merge_tensors, name: str, tensors: list[Tensor], each: list[dict], shared: dict) -> Tensor:
    method = merging.load(name)
    entries = [complete(method, entry, per_model=True) for entry in each]
    per_model = {parameter: [entry[parameter] for entry in entries] for parameter in entries[0]}
    parameters = {**complete(method, shared, per_model=False), **per_model}
    return merge_tensors(tensors, name, base_index=0, parameters=parameters)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def sparse_entries(densities: tuple[float, ...], **others: tuple[float, ...]) -> list[dict[str, float]]:
    names = ("weight", "density", *others)
    return [dict(zip(names, values, strict=True)) for values in zip(WEIGHTS, densities, *others.values(), strict=True)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize(
    ("densities", "gammas", "shared"),
    [
        ((0.3, 0.6, 1.0), (0.1, 0.25, 0.2), {}),
        ((0.9, 0.5, 0.0), (0.3, 0.5, 0.1), {"lambda": 0.7}),
        ((0.95, 0.2, 0.99), (0.0, 1.0, 0.01), {"rescale": True, "normalize": True}),
    ],
)
def test_breadcrumbs_agree_with_mergekit(merge_tensors, shape, name, densities, gammas, shared):
    tensors, each = seeded(shape, 4), sparse_entries(densities, gamma=gammas)
    assert_same(merge_whole(name, tensors, each, shared), theirs(merge_tensors, name, tensors, each, shared))


def test_breadcrumbs_keep_equal_magnitudes_in_the_order_of_memory():
    """mergekit keeps whichever its sort happens to put there."""
    delta = torch.tensor([1.0, 3.0, -3.0, 2.0, -2.0, 2.0, 0.0, 3.0])
    entry = {"weight": 1.0, "density": 0.375, "gamma": 0.25}
    for size in (1, 3, 64):
        columns = [tensor[:, None] for tensor in (torch.zeros(8), delta)]
        merged = merge_whole("breadcrumbs", columns, [entry], size=size)
        assert merged[:, 0].tolist() == [0.0, 0.0, 0.0, 2.0, -2.0, 0.0, 0.0, 3.0]


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) < 3], ids=str)
@pytest.mark.parametrize("name", ["della", "della_linear"])
@pytest.mark.parametrize(
    ("last", "shared"), [(1.0, {}), (0.0, {}), (1.0, {"rescale": False, "normalize": False, "lambda": 1.3})]
)
def test_della_agrees_with_mergekit_on_our_draws(merge_tensors, monkeypatch, shape, name, last, shared):
    """mergekit's last step, the Bernoulli draw, is replaced by ours; what it would draw from has to be ours too."""
    tensors, each = seeded(shape, 4), sparse_entries((0.5, 0.8, last), epsilon=(0.2, -0.1, 0.15))
    position = count()

    def draw(probabilities: Tensor) -> Tensor:
        place = next(position)
        rows = (tensors[place + 1] - tensors[0]).reshape(probabilities.shape)
        by_rank = keep_probabilities(rows.shape[1], each[place]["density"], each[place]["epsilon"])
        torch.testing.assert_close(probabilities.gather(1, order(rows)), by_rank.expand_as(rows), rtol=0, atol=1e-6)
        return rank_mask(rows, by_rank, f"0/x/{place}", 0)

    monkeypatch.setattr(torch, "bernoulli", draw)
    expected = theirs(merge_tensors, name, tensors, each, shared)
    assert next(position) == 2
    assert_same(merge_whole(name, tensors, each, shared), expected)


def test_della_keeps_each_rank_with_its_probability():
    """Each rank is drawn 2,000 times: five standard deviations of its share, and a lane, are allowed."""
    rows = torch.randn(2000, 50, generator=torch.Generator().manual_seed(1))
    probabilities = keep_probabilities(50, 0.6, 0.3)
    assert probabilities[[0, 49]].tolist() == pytest.approx([0.3, 0.9])
    shares = rank_mask(rows, probabilities, "0/x", 0).gather(1, order(rows)).mean(dim=0)
    deviations = (shares - probabilities) / (probabilities * (1 - probabilities) / 2000).sqrt()
    assert float(deviations.abs().max()) < 5


def test_della_ranks_equal_magnitudes_in_the_order_of_memory():
    rows = torch.tensor([[0.5, -0.25, 0.25, 0.0, -0.5, 1e-42, 0.0], [0.0] * 7])
    assert order(rows).tolist() == [[3, 6, 5, 1, 2, 0, 4], [0, 1, 2, 3, 4, 5, 6]]
    assert order(rows).equal(rows.abs().argsort(dim=1, stable=True))


def test_della_draws_by_sixteen_bit_lanes():
    rows, probabilities = torch.zeros(300, 400), keep_probabilities(400, 0.5, 0.25)
    lanes = random_lanes(rows, "0/x", 80).to(torch.float64)
    assert rank_mask(rows, probabilities, "0/x", 80).bool().equal((lanes + 32768) / 65536 < probabilities - 2**-17)


@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_della_ranks_along_the_last_of_three_dimensions(name):
    """mergekit ranks along the second one."""
    tensors, each = seeded((3, 5, 14), 2), [{"weight": 1.0, "density": 0.5}]
    flat = merge_whole(name, [tensor.reshape(15, 14) for tensor in tensors], each)
    assert merge_whole(name, tensors, each).reshape(15, 14).equal(flat)


def test_della_keeps_the_one_element_of_a_row_with_the_density():
    """mergekit divides by zero there."""
    entry = {"weight": 1.0, "density": 0.3}
    base, other = torch.zeros(20_000, 1), torch.ones(20_000, 1)
    merged = merge_whole("della_linear", [base, other], [entry], {"rescale": False})
    assert float(merged.mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("share", [-0.1, 0.0, 0.001, 0.1, 0.7, 1.0])
def test_sce_agrees_with_mergekit(merge_tensors, shape, models, share):
    tensors = seeded(shape, models + 1)
    expected = theirs(merge_tensors, "sce", tensors, [{}] * models, {"select_topk": share})
    assert_same(merge_whole("sce", tensors, [{}] * models, {"select_topk": share}), expected)


def test_sce_counts_only_elements_that_vary_and_weighs_small_changes_alike(merge_tensors):
    tensors = seeded((40, 25), 4)
    for place, tensor in enumerate(tensors[1:]):
        tensor[place * 10 :].copy_(tensors[0][place * 10 :])  # from here on as the base
        tensor[30:] = tensors[0][30:] + 0.1  # varies in no place
    small = [tensors[0], *(tensors[0] + (tensor - tensors[0]) * 1e-3 for tensor in tensors[1:])]
    for sources in (tensors, small):
        for share in (0.3, 1.0):
            expected = theirs(merge_tensors, "sce", sources, [{}] * 3, {"select_topk": share})
            found = merge_whole("sce", sources, [{}] * 3, {"select_topk": share})
            assert_same(found - sources[0], expected - sources[0])


@pytest.mark.parametrize("models", [1, 2, 3, 6])
def test_the_variance_of_sce_is_that_of_torch_to_the_bit(models):
    generator = torch.Generator().manual_seed(2)
    vectors = [torch.randn(50, 200, generator=generator).mul_(1e-3) for _ in range(models)]
    assert _variance(vectors).equal(torch.stack(vectors).var(dim=0, correction=0))
    # Far from zero few digits are left, so that many variances lie between two float32: torch may take the other one.
    far = [vector + 1 for vector in vectors]
    for vector in far:
        vector[:5] = far[0][:5]
    found, expected = _variance(far), torch.stack(far).var(dim=0, correction=0)
    torch.testing.assert_close(found, expected, rtol=1.2e-7, atol=0)
    assert found.count_nonzero() == expected.count_nonzero() <= 45 * 200


NUMBERS = [
    ("breadcrumbs", sparse_entries((0.3, 0.6, 0.9), gamma=(0.1, 0.25, 0.2)), {"rescale": True}),
    ("breadcrumbs_ties", sparse_entries((0.3, 0.6, 0.9), gamma=(0.1, 0.25, 0.2)), {}),
    ("della", sparse_entries((0.3, 0.6, 0.5), epsilon=(0.1, 0.25, 0.2)), {}),
    ("della_linear", sparse_entries((0.3, 0.6, 1.0), epsilon=(0.1, 0.25, 0.2)), {"rescale": False}),
    ("sce", [{}] * 3, {"select_topk": 0.4}),
]


@pytest.mark.parametrize(("name", "each", "shared"), NUMBERS, ids=[name for name, *_ in NUMBERS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_depend_neither_on_chunks_nor_on_threads(name, each, shared, shape):
    # As bfloat16 has them: many magnitudes and variances are equal.
    tensors = [tensor.to(torch.bfloat16).float() for tensor in seeded(shape, 4)]
    whole = merge_whole(name, tensors, each, shared, size=None)
    for size in (1, 50, 200):
        assert merge_whole(name, tensors, each, shared, size=size).equal(whole)
    with threads(2):
        assert merge_whole(name, tensors, each, shared, size=50).equal(whole)


@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_a_draw_depends_on_key_and_source(name):
    sources, each = seeded((50, 40), 3), [{"weight": 1.0, "density": 0.5}] * 2
    first = merge_whole(name, sources, each, key="0/x")
    assert merge_whole(name, sources, each, key="0/x").equal(first)
    assert not merge_whole(name, sources, each, key="1/x").equal(first)
    assert not merge_whole(name, [sources[0], sources[2], sources[1]], each, key="0/x").equal(first)


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("della", {"density": 0.9, "epsilon": 0.15}, "density 0.9 and epsilon 0.15 give probabilities outside"),
        ("della_linear", {"density": 0.1, "epsilon": -0.1}, "density 0.1 and epsilon -0.1 give"),
        ("della", {"density": 1.0, "epsilon": 0.15}, None),
        ("della", {"density": 0.0, "epsilon": 0.15}, None),
        ("breadcrumbs", {"density": 0.9, "gamma": -0.01}, "gamma -0.01 is no share"),
        ("breadcrumbs_ties", {"density": 0.9, "gamma": 1.5}, "gamma 1.5 is no share"),
    ],
)
def test_numbers_that_cannot_work_are_refused(name, entry, expected):
    method = merging.load(name)
    fine = complete(method, {"weight": 1.0, "density": 0.5}, per_model=True)
    found = method.refuse([fine, {"weight": 1.0, **entry}], complete(method, {}, per_model=False))
    assert found is None if expected is None else found is not None and found.startswith(expected)
