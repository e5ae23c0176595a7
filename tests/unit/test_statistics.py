"""Intervals and paired tests against cases that are known, and against the definitions worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binom, norm

from evaluators._statistics import accuracy_interval, paired_difference
from evaluators._types import ItemResult


def results(correct: Sequence[bool], clusters: Sequence[str] | None = None) -> list[ItemResult]:
    names = clusters or [f"c{number}" for number in range(len(correct))]
    return [
        ItemResult(f"i{number}", "ja", cluster, ("A",), bool(right), -1.0, {"A": -1.0})
        for number, (right, cluster) in enumerate(zip(correct, names, strict=True))
    ]


def width(bounds: tuple[float, float]) -> float:
    return bounds[1] - bounds[0]


def test_the_interval_is_that_of_the_binomial_where_items_are_independent() -> None:
    correct = [number % 10 < 7 for number in range(400)]
    estimate = accuracy_interval(results(correct), seed=0)
    half = norm.ppf(0.975) * math.sqrt(0.7 * 0.3 / 400)
    assert (estimate.value, estimate.n) == (pytest.approx(0.7), 400)
    assert estimate.ci95 == (pytest.approx(0.7 - half, abs=0.006), pytest.approx(0.7 + half, abs=0.006))


def test_what_is_always_right_has_no_width() -> None:
    estimate = accuracy_interval(results([True] * 30), seed=0)
    assert (estimate.value, estimate.ci95) == (1.0, (1.0, 1.0))


def test_four_copies_of_an_item_widen_the_interval_to_that_of_one() -> None:
    correct = [number % 2 == 0 for number in range(100)]
    alone = accuracy_interval(results(correct), seed=0)
    repeated = [right for right in correct for _ in range(4)]
    clusters = [f"c{number // 4}" for number in range(400)]
    clustered = accuracy_interval(results(repeated, clusters), seed=0)
    naive = accuracy_interval(results(repeated), seed=0)
    assert clustered.value == alone.value
    assert clustered.n == 400
    assert width(clustered.ci95) == pytest.approx(width(alone.ci95), rel=0.05)
    assert width(naive.ci95) == pytest.approx(width(clustered.ci95) / 2, rel=0.1)


def test_clusters_of_unequal_size_weigh_by_their_items() -> None:
    correct = [True] * 9 + [False]
    clusters = ["large"] * 9 + ["small"]
    estimate = accuracy_interval(results(correct, clusters), seed=0)
    assert estimate.value == pytest.approx(0.9)
    assert estimate.ci95 == (0.0, 1.0)


def test_a_seed_gives_its_interval_again_and_the_order_of_clusters_is_that_of_the_items() -> None:
    one = results([number % 3 == 0 for number in range(90)])
    assert accuracy_interval(one, seed=7) == accuracy_interval(one, seed=7)
    assert accuracy_interval(one, seed=7) != accuracy_interval(one, seed=8)


def test_the_paired_difference_pairs_by_item() -> None:
    a = results([True] * 60 + [False] * 40)
    b = results([True] * 50 + [False] * 50)
    difference, p = paired_difference(a, list(reversed(b)), seed=0)
    assert difference.value == pytest.approx(0.1)
    assert difference.n == 100
    # Ten items changed, all to the better: 2 * 0.5 ** 10.
    assert p == pytest.approx(2 * 0.5**10)
    assert 0 < difference.ci95[0] < 0.1 < difference.ci95[1]


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (3, 3), (8, 2), (2, 8), (25, 11), (11, 40)])
def test_mcnemar_is_exact_and_two_sided(gained: int, lost: int) -> None:
    a = results([True] * gained + [False] * lost + [True] * 20)
    b = results([False] * gained + [True] * lost + [True] * 20)
    _, p = paired_difference(a, b, seed=0)
    assert p == pytest.approx(min(1.0, 2 * binom.cdf(min(gained, lost), gained + lost, 0.5)))


def test_the_difference_turns_around_with_its_sides() -> None:
    generator = np.random.default_rng(3)
    a, b = (results(list(generator.random(200) < share)) for share in (0.6, 0.5))
    there, p = paired_difference(a, b, seed=0)
    back, same = paired_difference(b, a, seed=0)
    assert back.value == -there.value
    assert p == same
    assert back.ci95 == (pytest.approx(-there.ci95[1]), pytest.approx(-there.ci95[0]))


def test_pairing_narrows_the_interval_of_two_models_that_agree() -> None:
    a = results([number % 2 == 0 for number in range(200)])
    b = results([number % 2 == 0 or number < 4 for number in range(200)])
    paired, _ = paired_difference(b, a, seed=0)
    assert width(paired.ci95) < width(accuracy_interval(a, seed=0).ci95) / 3


def test_equal_answers_differ_by_nothing() -> None:
    a = results([True, False, True])
    difference, p = paired_difference(a, a, seed=0)
    assert (difference.value, difference.ci95, p) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize("other", [results([True] * 4), results([True] * 6), []])
def test_different_items_are_refused(other: list[ItemResult]) -> None:
    with pytest.raises(ValueError, match="the same items on both sides"):
        paired_difference(results([True] * 5), other, seed=0)


def test_items_of_another_name_are_refused() -> None:
    one = results([True] * 3)
    other = [ItemResult(f"x{each.id}", *list(vars(each).values())[1:]) for each in one]
    with pytest.raises(ValueError, match="the same items on both sides"):
        paired_difference(one, other, seed=0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for seed in range(300):
        estimate = accuracy_interval(results(list(generator.random(300) < 0.6)), seed=seed)
        covered += estimate.ci95[0] <= 0.6 <= estimate.ci95[1]
    # 95 % of 300, give or take two standard errors and the lattice of 1/300.
    assert 0.92 <= covered / 300 <= 0.98
