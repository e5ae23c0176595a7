"""The methods that run in mergekit itself: what a plan knows of them, and that the executor only hands tensors over."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine import merging
from engine.checkpoints import open_source
from engine.errors import PlanError
from engine.executor import Merger
from engine.merging._mergekit import METHODS
from tests.merging import merge_whole, seeded, streamed, threads

pytestmark = pytest.mark.slow

NUMBERS = {"ram": {"epsilon": 0.2}, "ramplus_tl": {"epsilon": 0.2, "r": 0.5, "alpha": 0.9}}


@pytest.fixture(scope="module")
def mergekit():
    """Import mergekit once (13 s of CPU)."""
    from mergekit import merge_methods

    return merge_methods


def test_own_methods_and_those_that_run_in_mergekit_are_all_that_it_registers(mergekit):
    registered = sorted(method.spec.name for method in mergekit.registered_methods())
    assert registered == list(merging.all_names())
    assert merging.MERGEKIT_METHODS == tuple(name for name in registered if not merging.is_own(name)) == tuple(NUMBERS)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_plan_knows_is_what_mergekit_says(mergekit, name):
    method, spec = merging.load(name), mergekit.get(name).spec
    assert [(p.name, p.default, p.kind, p.per_model) for p in method.parameters] == [
        (p.name, p.default, p.value_type, p.scope.value != "shared") for p in spec.parameters
    ]
    assert (method.name, method.paper) == (spec.name, spec.reference_url)
    assert method.needs_base == (spec.contract.base.value == "required")
    assert method.min_sources + method.needs_base == spec.contract.min_inputs
    assert method.max_sources is spec.contract.max_inputs is None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(37,), (23, 19), (3, 5, 14)], ids=str)
def test_chunks_and_threads_change_no_bit_of_mergekits_result(mergekit, name, shape):
    tensors = seeded(shape, 4)
    expected = mergekit.merge_tensors(tensors, name, base_index=0, parameters=NUMBERS[name])
    assert not expected.equal(tensors[0])
    for size in (1, 50, None):
        assert merge_whole(name, tensors, [{}] * 3, NUMBERS[name], size=size).equal(expected)
    with threads(2):
        assert merge_whole(name, tensors, [{}] * 3, NUMBERS[name], size=50).equal(expected)


def test_the_executor_runs_them_on_checkpoints(mergekit, tiny_models):
    names = ("base", "clinical", "japanese")
    models = [str(tiny_models[name]) for name in names]
    config = {"merge_method": "ram", "base_model": models[0], "models": [{"model": model} for model in models[1:]]}
    sources = {model: open_source(tiny_models[name]) for model, name in zip(models, names, strict=True)}
    merger = Merger(config, sources)
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        tensors = [source.read(name) for source in sources.values()]
        assert merger.tensor(name).equal(mergekit.merge_tensors(tensors, "ram", base_index=0))


def test_without_mergekit_the_plan_says_what_to_install(monkeypatch, tiny_models):
    base, other = str(tiny_models["base"]), str(tiny_models["clinical"])
    config = {"merge_method": "ramplus_tl", "base_model": base, "models": [{"model": other}]}
    sources = {model: open_source(tiny_models[name]) for model, name in ((base, "base"), (other, "clinical"))}
    for module in ("mergekit", "mergekit.merge_methods"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PlanError, match="mergekit is not installed") as caught:
        Merger(config, sources)
    assert caught.value.hint == "Install it: pip install chogo[mergekit]"
    with pytest.raises(PlanError, match="ram and ramplus_tl run in it"):
        streamed(seeded((3, 4), 2), lambda chunks: METHODS["ram"].merge(chunks, [{}], {"epsilon": 0.1}, "0/x"))


def test_listing_imports_neither_torch_nor_mergekit():
    code = (
        "import sys; from engine import merging\n"
        "print(*(merging.load(name).name for name in merging.all_names()))\n"
        "assert not {'torch', 'numpy', 'mergekit'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == list(merging.all_names())
    assert set(METHODS) < set(found)


def test_a_misspelt_method_is_named():
    with pytest.raises(PlanError, match="no merge method 'ramplus_lt'") as caught:
        merging.load("ramplus_lt")
    assert caught.value.hint == "Did you mean 'ramplus_tl'?"
