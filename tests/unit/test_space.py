"""The search space: names, starting points, and a merge with a point's numbers in their places."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import optuna
import pytest

from engine.search.space import is_range, nearest, parent_points, ranges, uniform_point, with_point, with_sum


def span(low: float = 0.0, high: float = 1.5, **more: Any) -> dict[str, Any]:
    return {"low": low, "high": high, "log": False, **more}


def linear(*weights: Any, **more: Any) -> dict[str, Any]:
    models = [{"model": f"m{number}", "parameters": {"weight": one}} for number, one in enumerate(weights, start=1)]
    return {"merge_method": "task_arithmetic", "base_model": "m0", "models": models, "dtype": "float32", **more}


SLERP = {
    "merge_method": "slerp",
    "base_model": "m0",
    "slices": [{"sources": [{"model": "m0", "layer_range": [0, 4]}, {"model": "m1", "layer_range": [0, 4]}]}],
    "parameters": {
        "t": [
            {"filter": "self_attn", "value": [0.0, span(0, 1), 1.0]},
            {"filter": "mlp", "value": span(0.1, 0.9)},
            {"value": span(0, 1)},
        ]
    },
}
DARE = linear(span(by="layer_group", groups=2), span(by="module"))
DARE["models"][0]["parameters"]["density"] = span(0.2, 1.0)


def names(config: dict[str, Any]) -> list[str]:
    return list(ranges(config))


def test_names_follow_the_file() -> None:
    assert names(linear(span(), 0.5, span())) == ["m1.weight", "m3.weight"]
    assert names(SLERP) == ["t.self_attn.1", "t.mlp", "t.2"]
    assert names(DARE) == [
        "m1.weight.0",
        "m1.weight.1",
        "m1.density",
        "m2.weight.self_attn",
        "m2.weight.mlp",
        "m2.weight.other",
    ]
    assert names({**linear(0.5), "parameters": {"lambda": span()}}) == ["lambda"]
    assert names(linear(0.5, 1.0)) == []


def test_names_of_slices_tell_the_slices_apart() -> None:
    sources = [{"model": one, "layer_range": [0, 2], "parameters": {"weight": span()}} for one in ("m0", "m1")]
    config = {"merge_method": "linear", "slices": [{"sources": sources}, {"sources": sources}]}
    assert names(config) == ["0.m0.weight", "0.m1.weight", "1.m0.weight", "1.m1.weight"]
    assert set(uniform_point(config).values()) == {0.5}
    assert [list(point.values()) for point in parent_points(config)] == [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]


def test_a_range_is_known_by_its_ends() -> None:
    assert is_range(span())
    assert not is_range({"low": 0.0})
    assert not is_range([0.0, 1.5])
    assert ranges(DARE)["m1.density"] == span(0.2, 1.0)


def test_the_uniform_point_shares_the_weights_and_halves_the_rest() -> None:
    assert uniform_point(linear(span(), span(), span())) == dict.fromkeys(
        ("m1.weight", "m2.weight", "m3.weight"), 1 / 3
    )
    assert uniform_point(linear(span(0.6, 1.0), span())) == {"m1.weight": 0.6, "m2.weight": 0.5}
    found = uniform_point(DARE)
    assert found.pop("m1.density") == pytest.approx(0.6)
    assert set(found.values()) == {0.5}
    assert uniform_point(SLERP) == {"t.self_attn.1": 0.5, "t.mlp": 0.5, "t.2": 0.5}


def test_a_parent_has_all_the_weight_or_none() -> None:
    assert parent_points(linear(span(), span())) == [
        {"m1.weight": 1.0, "m2.weight": 0.0},
        {"m1.weight": 0.0, "m2.weight": 1.0},
    ]
    first, second = parent_points(DARE)
    assert first == {
        "m1.weight.0": 1.0,
        "m1.weight.1": 1.0,
        "m1.density": pytest.approx(0.6),
        "m2.weight.self_attn": 0.0,
        "m2.weight.mlp": 0.0,
        "m2.weight.other": 0.0,
    }
    assert [second["m1.weight.0"], second["m2.weight.mlp"]] == [0.0, 1.0]


def test_a_parent_that_the_ranges_do_not_reach_is_left_out() -> None:
    assert parent_points(linear(span(0.0, 0.8), span())) == [{"m1.weight": 0.0, "m2.weight": 1.0}]
    assert parent_points(linear(span(0.1, 1.0), span(0.1, 1.0))) == []
    assert parent_points(SLERP) == []
    # 0.0, 0.3, 0.6, 0.9, 1.2: nothing on the grid is 1.
    assert parent_points(linear(span(step=0.3), span())) == [{"m1.weight": 0.0, "m2.weight": 1.0}]


def test_sums_are_kept_within_the_ranges() -> None:
    assert with_sum(linear(span(), span(0.0, 0.6)), 1.5) == {"m1.weight": 0.75, "m2.weight": 0.6}
    assert with_sum(DARE, 2.0)["m1.density"] == uniform_point(DARE)["m1.density"]


@pytest.mark.filterwarnings("error")  # Optuna warns of a range that its step does not divide
@pytest.mark.parametrize("step", [0.05, 0.1, 0.3, 0.4, 0.7])
@pytest.mark.parametrize("low", [-0.5, 0.0, 0.2])
def test_starting_points_stand_on_the_grid(step: float, low: float) -> None:
    config = linear(span(low, 1.4, step=step), span(low, 1.5, step=step), span(low, 1.5))
    points = [uniform_point(config), *parent_points(config), with_sum(config, 1.5), with_sum(config, 9.0)]
    distributions = {
        name: optuna.distributions.FloatDistribution(
            value["low"], nearest(value["high"], value), step=value.get("step")
        )
        for name, value in ranges(config).items()
    }
    for point in points:
        # Optuna refuses a number off the grid.
        optuna.trial.create_trial(value=0.0, params=point, distributions=distributions)


def test_a_point_fills_every_range_and_nothing_else() -> None:
    config = linear(span(), 0.5)
    filled = with_point(config, {"m1.weight": 0.25}, layers=4)
    assert filled == linear(0.25, 0.5)
    assert config == linear(span(), 0.5)
    assert with_point(filled, {}, layers=4) == filled


def test_gradients_and_conditions_keep_their_shape() -> None:
    filled = with_point(SLERP, {"t.self_attn.1": 0.3, "t.mlp": 0.4, "t.2": 0.5}, layers=4)
    assert filled["parameters"]["t"] == [
        {"filter": "self_attn", "value": [0.0, 0.3, 1.0]},
        {"filter": "mlp", "value": 0.4},
        {"value": 0.5},
    ]
    assert filled["slices"] == SLERP["slices"]


def test_a_layer_group_becomes_one_number_a_layer() -> None:
    config = linear(span(by="layer_group", groups=4))
    point = {f"m1.weight.{group}": float(group) for group in range(4)}

    def layers(count: int) -> list[float]:
        weight: list[float] = with_point(config, point, layers=count)["models"][0]["parameters"]["weight"]
        return weight

    assert layers(8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert layers(6) == [0, 0, 1, 2, 2, 3]
    assert layers(4) == [0, 1, 2, 3]
    assert len(layers(30)) == 30


def test_a_module_becomes_conditions() -> None:
    point = {"m1.weight.self_attn": 0.1, "m1.weight.mlp": 0.2, "m1.weight.other": 0.3}
    filled = with_point(linear(span(by="module")), point, layers=4)
    assert filled["models"][0]["parameters"]["weight"] == [
        {"filter": "self_attn", "value": 0.1},
        {"filter": "mlp", "value": 0.2},
        {"value": 0.3},
    ]


def test_a_point_that_lacks_a_number_is_refused() -> None:
    with pytest.raises(KeyError, match=r"m2\.weight"):
        with_point(linear(span(), span()), {"m1.weight": 0.5}, layers=4)


def test_planning_a_search_loads_neither_torch_nor_optuna() -> None:
    code = "import sys, engine.search.space; print([name for name in ('torch', 'optuna') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"
