"""The merge: a method that exists, parameters that it takes, and ranges that a search fills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.recipe_checks._find import Finding, find, nearest, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.yaml_source import Path, Source

# What mergekit 0.1.5's methods take, for those that have no kernel of ours.
_SPARSE = ("weight", "density", "normalize", "rescale", "lambda", "int8_mask")
_MERGEKIT_PARAMETERS: dict[str, tuple[str, ...]] = {
    "arcee_fusion": (),
    "breadcrumbs": (*_SPARSE, "gamma"),
    "breadcrumbs_ties": (*_SPARSE, "gamma"),
    "della": (*_SPARSE, "epsilon"),
    "della_linear": (*_SPARSE, "epsilon"),
    "karcher": ("max_iter", "tol"),
    "model_stock": ("filter_wise",),
    "multislerp": ("weight", "normalize_weights", "eps"),
    "nearswap": ("t",),
    "nuslerp": ("weight", "nuslerp_row_wise", "nuslerp_flatten"),
    "ram": ("epsilon",),
    "ramplus_tl": ("r", "alpha", "epsilon"),
    "sce": ("select_topk", "int8_mask"),
}
_PLACES = (
    ("merge",),
    ("merge", "models", "*"),
    ("merge", "slices", "*"),
    ("merge", "slices", "*", "sources", "*"),
    ("merge", "modules", "*"),
    ("merge", "modules", "*", "models", "*"),
    ("merge", "modules", "*", "slices", "*"),
    ("merge", "modules", "*", "slices", "*", "sources", "*"),
)
_INPUTS = ("models", "slices", "modules")


def check_merge(source: Source) -> Iterator[Finding]:
    """Find methods and parameters that do not exist, and ranges and searches that lack each other."""
    for path, method in find(source.data, "merge", "merge_method"):
        if isinstance(method, str) and method not in _methods():
            hint = nearest(method, _methods(), f"Methods: {', '.join(_methods())}.")
            yield Finding(path, f"there is no merge method `{method}`", hint)
    yield from unknown_parameters(source)
    yield from _inputs(source)
    yield from _ranges(source)


def unknown_parameters(source: Source) -> Iterator[Finding]:
    """Find parameters that the method of the merge does not take."""
    for _, method in find(source.data, "merge", "merge_method"):
        taken = parameters_of(method) if isinstance(method, str) else None
        if taken is None:
            continue
        for place in _PLACES:
            for path, _ in find(source.data, *place, "parameters", "{}"):
                if path[-1] not in taken:
                    listed = f"It takes {', '.join(taken)}." if taken else "It takes none."
                    hint = nearest(str(path[-1]), taken, listed)
                    yield Finding(path, f"`{method}` takes no parameter `{path[-1]}`", hint, at_key=True)


def parameters_of(method: str) -> tuple[str, ...] | None:
    """Name the parameters of a merge method; None for a method that does not exist."""
    from engine import merging

    if method in merging.names():
        return tuple(parameter.name for parameter in merging.load(method).parameters)
    return _MERGEKIT_PARAMETERS.get(method)


def _methods() -> tuple[str, ...]:
    from engine import merging

    return tuple(sorted((*merging.names(), *merging.MERGEKIT_METHODS)))


def _inputs(source: Source) -> Iterator[Finding]:
    for path, section in find(source.data, "merge"):
        if not isinstance(section, dict):
            continue
        given = [key for key in _INPUTS if key in section]
        misspelt = [key for key in section if key not in _INPUTS and "Did" in nearest(str(key), _INPUTS, "")]
        if not given and not misspelt:
            yield Finding(path, "`merge` lacks `models` (or `slices`)", "List the models to merge.", at_key=True)
        for key in given[1:]:
            message = f"`{key}` does not go together with `{given[0]}`"
            yield Finding((*path, key), message, "Keep one of the two.", at_key=True)
        if "tokenizer" in section and "tokenizer_source" in section:
            message = "`tokenizer` does not go together with `tokenizer_source`"
            yield Finding((*path, "tokenizer"), message, "Keep one of the two.", at_key=True)


def _ranges(source: Source) -> Iterator[Finding]:
    sections = source.data if isinstance(source.data, dict) else {}
    if {"merge", "search"} & set(source.unreadable):
        return
    ranges = {
        ("merge", *path): value
        for path, value in walk(sections.get("merge"))
        if isinstance(value, dict) and ("low" in value or "high" in value)
    }
    has_search = sections.get("search") is not None
    if ranges and not has_search:
        message = "this range needs a `search`, and the recipe has none"
        yield Finding(next(iter(ranges)), message, "Add a section `search`, or write a number.")
    if has_search and sections.get("merge") is None:
        message = "`search` has nothing to fill: the recipe has no `merge`"
        yield Finding(("search",), message, "Add a section `merge`, or remove `search`.", at_key=True)
    elif has_search and not ranges:
        message = "`search` has nothing to fill: no number of `merge` is a range"
        yield Finding(("search",), message, "Write {low: …, high: …} for a number of `merge`.", at_key=True)
    for path, value in ranges.items():
        yield from _division(path, value.get("by"))


def _division(path: Path, by: object) -> Iterator[Finding]:
    """Find a range by layer group in a list of layer groups, and one by module under a filter or in a list."""
    in_list, under_filter = isinstance(path[-1], int), path[-1] == "value"
    if (by == "layer_group" and in_list) or (by == "module" and (in_list or under_filter)):
        message = f"`by: {by}` would divide what is divided already"
        yield Finding((*path, "by"), message, "Give the parameter this one range, or leave `by` out.", at_key=True)
