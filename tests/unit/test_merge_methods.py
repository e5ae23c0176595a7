"""Properties of the merge methods on tiny tensors, their registry, and the settings that give them numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import merging
from engine.errors import PlanError
from engine.merging import _chunks
from engine.merging._settings import resolve
from engine.merging._sparsify import keep_largest, keep_random, random_mask
from tests.merging import (
    EXAMPLES,
    bases,
    close,
    count,
    every_end,
    every_example,
    examples,
    merge_whole,
    seeded,
    streamed,
    threads,
)

FINITE = st.floats(-100, 100, width=32)
SHAPES = st.sampled_from([(1,), (7,), (3, 5), (2, 2, 3)])


@st.composite
def tensors(draw: st.DrawFn, number: int) -> list[torch.Tensor]:
    shape = draw(SHAPES)
    size = int(torch.Size(shape).numel())
    values = st.lists(FINITE, min_size=size, max_size=size)
    return [torch.tensor(draw(values)).reshape(shape) for _ in range(number)]


def test_every_method_has_an_example():
    assert sorted(EXAMPLES) == list(merging.all_names()), "EXAMPLES of tests/merging.py does not follow engine/merging"


@pytest.mark.parametrize(("name", "number"), every_example(lambda example: example.keeps_equal))
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_equal_inputs_give_that_input(name, number, data):
    example = examples(name)[number]
    (tensor,) = data.draw(tensors(1))
    found = merge_whole(name, [tensor] * count(name, example), example.each, example.shared)
    close(found, tensor)


@pytest.mark.parametrize(("name", "number"), every_example())
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_finite_inputs_give_finite_outputs(name, number, data):
    example = examples(name)[number]
    sources = data.draw(tensors(count(name, example)))
    # DELLA takes densities only where `epsilon` more and less are shares too.
    densities = st.sampled_from([0.0, 1.0]) | (st.floats(0.25, 0.75) if "della" in name else st.floats(0, 1))
    each = [redrawn(numbers, densities, data) for numbers in example.each]
    assert merge_whole(name, sources, each, redrawn(example.shared, densities, data)).isfinite().all()


def redrawn(numbers: Mapping[str, float], densities: st.SearchStrategy[float], data: st.DataObject) -> dict[str, float]:
    """Draw shares, weights and switches anew."""
    drawn = dict.fromkeys(("gamma", "select_topk", "t"), st.floats(0, 1))
    drawn |= {"density": densities, **dict.fromkeys(("weight", "lambda", "scale"), st.floats(0.1, 2))}
    drawn |= {name: st.booleans() for name, number in numbers.items() if isinstance(number, bool)}
    return {name: data.draw(drawn[name]) if name in drawn else number for name, number in numbers.items()}


@pytest.mark.parametrize(("name", "number", "end"), every_end())
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_weight_one_gives_that_model(name, number, end, data):
    example = examples(name)[number]
    each, shared, place = example.ends[end]
    sources = data.draw(tensors(len(each) + bases(name, example)))
    close(merge_whole(name, sources, each, shared), sources[place])


@pytest.mark.parametrize(("name", "number"), every_example(lambda example: len(example.each) > 1))
@pytest.mark.parametrize("shape", [(37,), (23, 19)], ids=str)
def test_the_order_of_models_does_not_matter(name, number, shape):
    example = examples(name)[number]
    sources = seeded(shape, count(name, example))
    first = bases(name, example)
    forwards = merge_whole(name, sources, example.each, example.shared)
    backwards = merge_whole(name, [*sources[:first], *reversed(sources[first:])], example.each[::-1], example.shared)
    if example.any_order:
        close(backwards, forwards)
    else:
        assert not backwards.equal(forwards), "the order does not matter: say so in the example"


@pytest.mark.parametrize(("name", "number"), every_example())
@pytest.mark.parametrize("shape", [(101, 5), (3, 40, 16), (97, 33), (257,), (80, 1), ()], ids=str)
def test_chunks_and_threads_change_no_bit(monkeypatch, name, number, shape):
    monkeypatch.setattr(_chunks, "_SAMPLED", 1)  # so that a sample is less than the whole, as it is of large tensors
    example = examples(name)[number]
    sources = seeded(shape, count(name, example))
    found = []
    for size, workers in ((1, 1), (40, 2), (300, 1), (1 << 20, 2)):
        with threads(workers):
            found.append(merge_whole(name, sources, example.each, example.shared, size=size))
    assert all(merged.numpy().tobytes() == found[0].numpy().tobytes() for merged in found[1:])


@pytest.mark.parametrize(("name", "number"), every_example())
def test_chunks_of_the_usual_size_change_no_bit(name, number):
    example = examples(name)[number]
    sources = seeded((301, 515), count(name, example))
    whole = merge_whole(name, sources, example.each, example.shared, size=1 << 20)
    with threads(2):
        assert merge_whole(name, sources, example.each, example.shared, size=None).equal(whole)


def test_slerp_keeps_the_norm_between_orthogonal_tensors():
    ours, theirs = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    close(merge_whole("slerp", [ours, theirs], [{}], {"t": 0.5}), torch.full((2,), 3.0 / 2**0.5))


def test_slerp_is_linear_between_parallel_tensors():
    ours = torch.arange(1.0, 5.0)
    close(merge_whole("slerp", [ours, ours * 3], [{}], {"t": 0.25}), ours * 1.5)


def test_ties_drops_the_minority_sign():
    ours, theirs = torch.tensor([4.0, 1.0, -1.0, 0.0, 2.0]), torch.tensor([-1.0, 3.0, -3.0, 2.0, -2.0])
    merged = merge_whole("ties", [torch.zeros(5), ours, theirs], [{"weight": 1}] * 2)
    close(merged, torch.tensor([4.0, 2.0, -2.0, 2.0, 2.0]))


def test_ties_does_not_divide_by_weights_that_cancel():
    sources = [torch.zeros(1), torch.tensor([2.0]), torch.tensor([-2.0])]
    close(merge_whole("ties", sources, [{"weight": 0.5}, {"weight": -0.5}]), torch.tensor([2.0]))


def only(delta: torch.Tensor, keep) -> torch.Tensor:
    """What is left of one task vector whose base is zero."""
    return streamed([torch.zeros_like(delta), delta], lambda chunks: lambda chunk: keep(chunks)(chunk)[0])


@given(
    magnitudes=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    density=st.floats(0.01, 0.99),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 3e4]),
)
@settings(max_examples=100, deadline=None)
def test_the_largest_elements_are_kept_exactly(magnitudes, density, scale):
    delta = torch.tensor([(-1.0) ** i * value * scale for i, value in enumerate(magnitudes)])
    number = max(1, int(density * len(magnitudes)))
    order = sorted(range(len(magnitudes)), key=lambda i: (-magnitudes[i], i))
    expected = torch.zeros_like(delta)
    expected[order[:number]] = delta[order[:number]]
    assert only(delta, lambda chunks: keep_largest(chunks, [density], rescale=False)).equal(expected)


@pytest.mark.parametrize(
    "keep",
    [keep_largest, lambda chunks, densities, rescale: keep_random(chunks, densities, "k", rescale=rescale)],
    ids=["largest", "random"],
)
def test_rescaling_keeps_the_l1_norm(keep):
    delta = torch.linspace(-1, 1, 1001)
    norm = float(delta.abs().sum())
    assert float(only(delta, lambda chunks: keep(chunks, [0.4], rescale=True)).abs().sum()) == pytest.approx(norm)
    assert float(only(delta, lambda chunks: keep(chunks, [0.4], rescale=False)).abs().sum()) < 0.9 * norm


def test_a_density_of_zero_leaves_nothing():
    delta = torch.linspace(-1, 1, 11)
    for keep in (keep_largest, lambda chunks, densities, rescale: keep_random(chunks, densities, "k", rescale=rescale)):
        assert not only(delta, lambda chunks, keep=keep: keep(chunks, [0.0], rescale=True)).any()


def test_a_mask_depends_on_its_key_and_position_alone():
    short, long = torch.empty(101), torch.empty(5, 100)
    mask = random_mask(long, 0.5, "42/layer/0")
    assert random_mask(long, 0.5, "42/layer/0").equal(mask)
    assert random_mask(short, 0.5, "42/layer/0").equal(mask.reshape(-1)[:101])
    for other in ("43/layer/0", "42/norm/0", "42/layer/1"):
        agreement = float((random_mask(long, 0.5, other) == mask).float().mean())
        assert 0.4 < agreement < 0.6
    assert random_mask(long, 0.9, "42/layer/0")[mask == 1].all(), "a higher density keeps what a lower one kept"


@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 100, 463])
@pytest.mark.parametrize("number", [1, 16, 37])
def test_a_part_of_a_mask_is_that_of_the_whole(start, number):
    whole = random_mask(torch.empty(500), 0.5, "k")
    assert random_mask(torch.empty(number), 0.5, "k", start).equal(whole[start : start + number])


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_a_mask_has_its_density(density):
    mask = random_mask(torch.empty(100_000), density, "k")
    assert set(mask.tolist()) <= {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(density, abs=0 if density in (0, 1) else 0.006)


def test_the_first_mask_bits_never_change():
    """Published recipes depend on them: a change here is a change of every DARE result."""
    first, far = (random_mask(torch.empty(16), 0.5, "0/x/0", start).int().tolist() for start in (0, (1 << 35) + 5))
    assert first == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1]
    assert far == [1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1]


def test_listing_needs_neither_torch_nor_mergekit():
    code = (
        "import sys; from engine import merging\n"
        "names = merging.all_names(); methods = [merging.load(name) for name in names]\n"
        "assert [method.name for method in methods] == list(names)\n"
        "assert all(method.summary and method.paper for method in methods)\n"
        "assert not {'torch', 'numpy', 'mergekit'} & set(sys.modules)\n"
        "print(*names)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == sorted(EXAMPLES)


def test_a_method_is_ours_or_runs_in_mergekit():
    assert sorted((*merging.names(), *merging.MERGEKIT_METHODS)) == list(merging.all_names())
    assert [name for name in merging.all_names() if merging.is_own(name)] == list(merging.names())


def test_a_method_that_is_not_there_gets_the_nearest_name():
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
