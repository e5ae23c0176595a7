"""Everything about a merge that configs and headers can tell: what goes into each tensor, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.checkpoints import TensorSpec, check_tensors, check_tokenizers, layer_settings, merged_config
from engine.errors import PlanError
from engine.merging._layout import lay_out, layer_sources
from engine.merging._settings import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.checkpoints import Checkpoint
    from engine.merging._layout import MergedTensor
    from engine.merging._method import Method

_OUTPUT_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Step:
    """How one tensor is made.

    `inputs`: (source, tensor) pairs, the base first where the method needs one; `each` and `shared`: resolved numbers
    for `Method.merge`. A tensor that is not floating point is copied instead.
    """

    spec: TensorSpec
    inputs: tuple[tuple[str, str], ...]
    each: tuple[Mapping[str, float], ...]
    shared: Mapping[str, float]
    is_floating: bool


@dataclass(frozen=True)
class MergePlan:
    """A merge that fits. `tokenizer` names the source of the tokenizer, `config` is the result's config.json."""

    steps: Mapping[str, Step]
    dtype: str
    config: Mapping[str, Any]
    tokenizer: str
    warnings: tuple[str, ...]


def plan_merge(method: Method, config: Mapping[str, Any], checkpoints: Mapping[str, Checkpoint]) -> MergePlan:
    """Lay a mergekit configuration out over opened checkpoints and check that they fit; no tensor is read.

    Without `dtype` and `out_dtype` the result has the dtype that holds every source's main dtype.

    Raises:
        PlanError: the sources do not fit each other or the method, or a parameter is missing.
    """
    used = {name: _get(checkpoints, name) for name in _names(config)}
    tensors = {name: tuple(checkpoint.tensors) for name, checkpoint in used.items()}
    layout = lay_out(config, tensors)
    warnings = check_tensors(used, [[(part.source, part.tensor) for part in merged.inputs] for merged in layout])
    donor = config.get("base_model") or next(iter(used))
    tokenizer = _tokenizer_source(config)
    with_tokenizer = used if tokenizer is None else {**used, tokenizer: _get(checkpoints, tokenizer)}
    warnings += check_tokenizers(with_tokenizer, tokenizer)
    dtype = _dtype(config, used)
    layers = [layer_settings(used[name].config, layer) for name, layer in layer_sources(config, tensors)]
    taken = with_tokenizer[tokenizer or donor].config
    return MergePlan(
        {merged.name: _step(method, config, merged, dtype, used) for merged in layout},
        dtype,
        merged_config(used[donor].config, dtype=dtype, layers=layers, tokenizer=taken),
        tokenizer or donor,
        warnings,
    )


def _step(
    method: Method, config: Mapping[str, Any], merged: MergedTensor, dtype: str, checkpoints: Mapping[str, Checkpoint]
) -> Step:
    base = config.get("base_model") if method.needs_base else None
    bases = [part for part in merged.inputs if part.source == base]
    others = [part for part in merged.inputs if part.source != base]
    _check_count(method, merged.name, len(others), has_base=bool(bases))
    scopes = [merged.parameters, config.get("parameters") or {}]
    per_model = [parameter for parameter in method.parameters if parameter.per_model]
    shared = [parameter for parameter in method.parameters if not parameter.per_model]
    each = tuple(resolve(per_model, [part.parameters, *scopes], part.tensor, merged.t, part.source) for part in others)
    numbers = resolve(shared, scopes, merged.name, merged.t, "the merge")
    wrong = method.refuse(each, numbers)
    if wrong:
        raise PlanError(f"{method.name} of {merged.name}: {wrong}.", hint="Change the numbers of its `parameters`.")
    inputs = tuple((part.source, part.tensor) for part in bases + others)
    first = checkpoints[inputs[0][0]].tensors[inputs[0][1]]
    spec = TensorSpec(merged.name, dtype if first.is_floating else first.dtype, first.shape)
    return Step(spec, inputs, each, numbers, first.is_floating)


def _check_count(method: Method, tensor: str, count: int, *, has_base: bool) -> None:
    if method.needs_base and not has_base:
        raise PlanError(
            f"{method.name} needs the base model's {tensor}, and no base is given for it.",
            hint="Set `base_model`; with `slices`, list it among the `sources` of every slice.",
        )
    if method.min_sources <= count <= (count if method.max_sources is None else method.max_sources):
        return
    wanted = "at least" if count < method.min_sources else "at most"
    bound = method.min_sources if count < method.min_sources else method.max_sources
    besides = " besides the base" if method.needs_base else ""
    raise PlanError(
        f"{method.name} takes {wanted} {bound} model{'' if bound == 1 else 's'}{besides}, and {tensor} has {count}.",
        hint="A `base_model` that is not listed counts as one more model." if not method.needs_base else None,
    )


def _names(config: Mapping[str, Any]) -> tuple[str, ...]:
    entries = [*(config.get("models") or [])]
    entries += [entry for piece in config.get("slices") or [] for entry in piece["sources"]]
    names = [entry["model"] for entry in entries]
    base = config.get("base_model")
    return tuple(dict.fromkeys(names if base is None else [*names, base]))


def _get(checkpoints: Mapping[str, Checkpoint], name: str) -> Checkpoint:
    if name not in checkpoints:
        raise PlanError(f"The merge names the model {name!r}, which is not among its sources.")
    return checkpoints[name]


def _tokenizer_source(config: Mapping[str, Any]) -> str | None:
    wanted = config.get("tokenizer_source")
    if wanted == "union":
        raise PlanError(
            "not built yet: `tokenizer_source: union`, which renumbers the vocabulary of every source.",
            hint="Name the model whose tokenizer the result should have, or `base`.",
        )
    if wanted == "base":
        wanted = config.get("base_model")
        if wanted is None:
            raise PlanError("`tokenizer_source: base` needs a `base_model`, and the merge has none.")
    return wanted


def _dtype(config: Mapping[str, Any], checkpoints: Mapping[str, Checkpoint]) -> str:
    asked = config.get("out_dtype") or config.get("dtype")
    if asked is not None:
        dtype = str(asked).removeprefix("torch.")
        if dtype not in _OUTPUT_DTYPES:
            raise PlanError(f"A merge cannot be written as {asked!r}.", hint=f"Use one of {', '.join(_OUTPUT_DTYPES)}.")
        return dtype
    found = list(dict.fromkeys(_main_dtype(checkpoint) for checkpoint in checkpoints.values()))
    # bfloat16 and float16 hold each other's numbers only in float32.
    return found[0] if len(found) == 1 and found[0] in _OUTPUT_DTYPES else "float32"


def _main_dtype(checkpoint: Checkpoint) -> str:
    sizes: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        if info.is_floating:
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.stop - info.start
    return max(sizes, key=lambda dtype: sizes[dtype], default="float32")
