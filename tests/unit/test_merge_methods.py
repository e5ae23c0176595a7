"""Properties of the merge methods on tiny tensors, their registry, and the settings that give them numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import merging
from engine.errors import PlanError
from engine.merging._reduce import dot, l1_norm
from engine.merging._settings import resolve
from engine.merging._sparsify import keep_largest, keep_random, random_mask

FAMILY = ("dare_linear", "dare_ties", "task_arithmetic", "ties")
FINITE = st.floats(-100, 100, width=32)
SHAPES = st.sampled_from([(1,), (7,), (3, 5), (2, 2, 3)])


@st.composite
def tensors(draw: st.DrawFn, count: int) -> list[torch.Tensor]:
    shape = draw(SHAPES)
    size = int(torch.Size(shape).numel())
    values = st.lists(FINITE, min_size=size, max_size=size)
    return [torch.tensor(draw(values)).reshape(shape) for _ in range(count)]


def numbers(method: merging.Method, *, per_model: bool, **given_numbers: float) -> dict[str, float]:
    parameters = [parameter for parameter in method.parameters if parameter.per_model == per_model]
    chosen = {parameter.name: given_numbers.get(parameter.name, parameter.default) for parameter in parameters}
    assert None not in chosen.values()
    return chosen


def run(name: str, sources: list[torch.Tensor], each: list[dict[str, float]], **shared: float) -> torch.Tensor:
    method = merging.load(name)
    complete = [numbers(method, per_model=True, **entry) for entry in each]
    before = [source.clone() for source in sources]
    merged = method.merge(sources, complete, numbers(method, per_model=False, **shared), "0/name")
    assert all(source.equal(old) for source, old in zip(sources, before, strict=True)), "a method wrote to its inputs"
    assert merged.shape == sources[0].shape
    assert merged.dtype == torch.float32
    return merged


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))


def default_each(name: str, count: int) -> list[dict[str, float]]:
    return [{"weight": 0.5, "density": 0.6, "scale": 1.0}] * (count - 1 if merging.load(name).needs_base else count)


@pytest.mark.parametrize("name", merging.names())
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_equal_inputs_give_that_input(name, data):
    count = 1 if name == "passthrough" else 2
    (tensor,) = data.draw(tensors(1))
    close(run(name, [tensor] * count, default_each(name, count), t=0.3), tensor)


@pytest.mark.parametrize("name", merging.names())
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_finite_inputs_give_finite_outputs(name, data):
    count = {"passthrough": 1, "slerp": 2}.get(name, 3)
    sources = data.draw(tensors(count))
    entries = len(default_each(name, count))
    each = [{"weight": data.draw(st.floats(0, 2)) + 0.1, "density": data.draw(st.floats(0, 1))} for _ in range(entries)]
    shared = {"t": data.draw(st.floats(0, 1)), "normalize": data.draw(st.booleans())}
    assert run(name, sources, each, **shared).isfinite().all()


@pytest.mark.parametrize("name", FAMILY)
@given(sources=tensors(2))
@settings(max_examples=25, deadline=None)
def test_weight_one_gives_that_model(name, sources):
    close(run(name, sources, [{"weight": 1.0}]), sources[1])


@given(sources=tensors(2))
@settings(max_examples=25, deadline=None)
def test_the_ends_of_linear_and_slerp_are_the_models(sources):
    close(run("linear", sources, [{"weight": 0.0}, {"weight": 3.0}]), sources[1])
    close(run("slerp", sources, [{}], t=0.0), sources[0])
    close(run("slerp", sources, [{}], t=1.0), sources[1])


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ties"])
@given(sources=tensors(4))
@settings(max_examples=25, deadline=None)
def test_the_order_of_models_does_not_matter(name, sources):
    base = sources[:1] if name != "linear" else []
    # Powers of two and integers add exactly, so that no sum is near zero by rounding alone.
    others = [source.round() for source in sources[1:]]
    base = [tensor.round() for tensor in base]
    each = [{"weight": weight, "density": 0.5} for weight in (0.5, -0.25, 2.0)]
    forwards = run(name, [*base, *others], each)
    close(run(name, [*base, *reversed(others)], each[::-1]), forwards)


def test_slerp_keeps_the_norm_between_orthogonal_tensors():
    ours, theirs = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    halfway = run("slerp", [ours, theirs], [{}], t=0.5)
    close(halfway, torch.full((2,), 3.0 / 2**0.5))


def test_slerp_is_linear_between_parallel_tensors():
    ours = torch.arange(1.0, 5.0)
    close(run("slerp", [ours, ours * 3], [{}], t=0.25), ours * 1.5)


def test_ties_drops_the_minority_sign():
    ours, theirs = torch.tensor([4.0, 1.0, -1.0, 0.0, 2.0]), torch.tensor([-1.0, 3.0, -3.0, 2.0, -2.0])
    merged = run("ties", [torch.zeros(5), ours, theirs], [{"weight": 1}] * 2)
    close(merged, torch.tensor([4.0, 2.0, -2.0, 2.0, 2.0]))


def test_ties_does_not_divide_by_weights_that_cancel():
    merged = run(
        "ties", [torch.zeros(1), torch.tensor([2.0]), torch.tensor([-2.0])], [{"weight": 0.5}, {"weight": -0.5}]
    )
    close(merged, torch.tensor([2.0]))


@given(
    magnitudes=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    density=st.floats(0.01, 0.99),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 3e4]),
)
@settings(max_examples=100, deadline=None)
def test_the_largest_elements_are_kept_exactly(magnitudes, density, scale):
    delta = torch.tensor([(-1.0) ** i * value * scale for i, value in enumerate(magnitudes)])
    count = max(1, int(density * len(magnitudes)))
    order = sorted(range(len(magnitudes)), key=lambda i: (-magnitudes[i], i))
    expected = torch.zeros_like(delta)
    expected[order[:count]] = delta[order[:count]]
    assert keep_largest(delta, density, rescale=False).equal(expected)


@pytest.mark.parametrize(
    "keep", [keep_largest, lambda delta, density, rescale: keep_random(delta, density, "k", rescale=rescale)]
)
def test_rescaling_keeps_the_l1_norm(keep):
    delta = torch.linspace(-1, 1, 1001)
    assert l1_norm(keep(delta, 0.4, rescale=True)) == pytest.approx(l1_norm(delta), rel=1e-6)
    assert l1_norm(keep(delta, 0.4, rescale=False)) < 0.9 * l1_norm(delta)


def test_a_mask_depends_on_its_key_and_position_alone():
    short, long = torch.empty(101), torch.empty(5, 100)
    mask = random_mask(long, 0.5, "42/layer/0")
    assert random_mask(long, 0.5, "42/layer/0").equal(mask)
    assert random_mask(short, 0.5, "42/layer/0").equal(mask.reshape(-1)[:101])
    for other in ("43/layer/0", "42/norm/0", "42/layer/1"):
        agreement = float((random_mask(long, 0.5, other) == mask).float().mean())
        assert 0.4 < agreement < 0.6
    assert random_mask(long, 0.9, "42/layer/0")[mask].all(), "a higher density keeps what a lower one kept"


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.97])
def test_a_mask_has_its_density(density):
    share = float(random_mask(torch.empty(100_000), density, "k").float().mean())
    assert share == pytest.approx(density, abs=0.006)


def test_the_first_mask_bits_never_change():
    """Published recipes depend on them: a change here is a change of every DARE result."""
    assert random_mask(torch.empty(16), 0.5, "0/x/0").int().tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0]


def test_sums_do_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(3_000_017, generator=generator) for _ in range(2))
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        merged = [
            run(name, [ours, theirs], [{"weight": 0.3, "density": 0.3}], t=0.3) for name in ("slerp", "dare_ties")
        ]
        found.append((dot(ours, theirs), l1_norm(ours), *[tensor.numpy().tobytes() for tensor in merged]))
    torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_names_are_files_and_need_no_torch():
    code = (
        "import sys; from engine import merging\n"
        "print(*merging.names()); methods = [merging.load(name) for name in merging.names()]\n"
        "assert [method.name for method in methods] == list(merging.names())\n"
        "assert all(method.summary and method.paper for method in methods)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["dare_linear", "dare_ties", "linear", "passthrough", "slerp", "task_arithmetic", "ties"]


def test_a_method_of_mergekit_alone_is_not_built_yet():
    with pytest.raises(PlanError, match="not built yet: della"):
        merging.load("della")
    with pytest.raises(PlanError, match="no merge method 'tiez'") as caught:
        merging.load("tiez")
    assert caught.value.hint == "Did you mean 'ties'?"


WEIGHT = merging.Parameter("weight", per_model=True)
SWITCH = merging.Parameter("normalize", default=False, kind=bool)


@pytest.mark.parametrize(
    ("setting", "tensor", "t", "expected"),
    [
        (2, "x", 0.5, 2.0),
        ("1e-3", "x", 0.5, 1e-3),
        ([0, 1, 4], "x", 0.75, 2.5),
        ([0, 1, 4], "x", 1.0, 4.0),
        ([{"filter": "mlp", "value": 1}, {"value": [0, 8]}], "a.mlp.b", 0.5, 1.0),
        ([{"filter": "mlp", "value": 1}, {"filter": "*", "value": [0, 8]}], "a.attn.b", 0.5, 4.0),
        ({"filter": "attn", "value": 3}, "a.attn.b", 0.0, 3.0),
        ({"filter": "mlp", "value": 3}, "a.attn.b", 0.0, 9.0),
        ([], "x", 0.0, 9.0),
    ],
)
def test_a_setting_is_read_as_mergekit_reads_it(setting, tensor, t, expected):
    assert resolve([WEIGHT], [{"weight": setting}, {}, {"weight": 9}], tensor, t, "m")["weight"] == expected


@pytest.mark.parametrize(("setting", "t", "expected"), [("true", 0, True), (0, 0, False), ([True, False], 0.9, True)])
def test_a_switch_is_not_interpolated(setting, t, expected):
    assert resolve([SWITCH], [{"normalize": setting}], "x", t, "m") == {"normalize": expected}


@pytest.mark.parametrize("setting", ["much", float("nan"), [1, "x"], [{"filter": "mlp"}], [{"value": 1}, 2][::-1]])
def test_a_setting_that_is_no_number_is_an_error(setting):
    with pytest.raises(PlanError, match="`weight` of clinical for x"):
        resolve([WEIGHT], [{"weight": setting}], "x", 0.0, "clinical")


def test_a_missing_weight_is_an_error_that_names_the_model():
    with pytest.raises(PlanError, match="`weight` of clinical has no value"):
        resolve([WEIGHT], [{"weight": {"filter": "mlp", "value": 1}}], "norm", 0.0, "clinical")
