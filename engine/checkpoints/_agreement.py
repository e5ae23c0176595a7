"""Whether checkpoints can be merged at all: one architecture, one set of tensors and shapes, one vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.checkpoints._tokenizer import compare_tokenizers, read_tokenizer
from engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.checkpoints._reader import Checkpoint

_MAX_ROWS = 12
# Stacked layers share no tensor whose shapes could be compared, so these settings have to agree as well.
_SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)

_UNSET = "-"
_Row = tuple[str, tuple[str, ...]]


def check_tensors(sources: Mapping[str, Checkpoint], groups: Sequence[Sequence[tuple[str, str]]]) -> tuple[str, ...]:
    """Check that the tensors of each group have one shape and that all sources have one architecture.

    Args:
        sources: the checkpoints by name.
        groups: for each merged tensor the (source, tensor) pairs that go into it.

    Returns:
        Warnings: settings that differ and that a merge of weights cannot reconcile.

    Raises:
        PlanError: they do not fit; the message is a table of what differs.
    """
    names = tuple(sources)
    rows = [_row("architecture", [_architecture(sources[name].config) for name in names])]
    rows += [_row(key, [sources[name].config.get(key, _UNSET) for name in names]) for key in _SHAPE_KEYS]
    rows = [row for row in rows if len({value for value in row[1] if value != _UNSET}) > 1]
    rows += [row for row in (_shapes(sources, group) for group in groups) if row]
    if rows:
        raise PlanError(
            f"The sources of this merge do not fit each other:\n{_table(names, rows)}",
            hint="Merge models of one architecture and size, or take layers from each with `slices`.",
        )
    return _setting_warnings(sources)


def check_tokenizers(sources: Mapping[str, Checkpoint], tokenizer_source: str | None) -> tuple[str, ...]:
    """Check that ids mean the same in every source; with `tokenizer_source`, that no common token has moved.

    Returns:
        Warnings: what differs and does not forbid the merge.

    Raises:
        PlanError: vocabularies or special tokens differ and `tokenizer_source` does not say whose to take, or common
            tokens have different ids, in which case no tokenizer fits the merged embeddings.
    """
    facts = {name: read_tokenizer(checkpoint) for name, checkpoint in sources.items()}
    warnings = [
        f"{name} has no tokenizer; its token ids cannot be checked." for name, fact in facts.items() if not fact
    ]
    known = {name: fact for name, fact in facts.items() if fact is not None}
    if not known:
        return tuple(warnings)
    reference = tokenizer_source if tokenizer_source in known else next(iter(known))
    first = known[reference]
    for name, fact in known.items():
        difference = compare_tokenizers(first, fact)
        if difference and (difference.moved or tokenizer_source is None):
            raise _other_tokenizer(name, reference, difference.text, moved=difference.moved)
        if difference:
            warnings.append(
                f"The tokenizer of {name} differs from that of {reference}, which is taken: {difference.text}."
            )
        elif fact.rules != first.rules:
            warnings.append(f"The tokenizers of {name} and {reference} have one vocabulary and cut text differently.")
        if fact.chat_template != first.chat_template:
            warnings.append(f"The chat template of {name} differs from that of {reference}.")
    return tuple(warnings)


def _other_tokenizer(name: str, reference: str, text: str, *, moved: bool) -> PlanError:
    hint = "Set `tokenizer_source` to the model whose tokenizer the result should have, if the shared ids suffice."
    if moved:
        hint = "Row i of the embeddings is another token in each model; merge models that share a vocabulary."
    return PlanError(f"The tokenizer of {name} does not match that of {reference}: {text}.", hint=hint)


def _architecture(config: Mapping[str, Any]) -> str:
    return ", ".join(config.get("architectures") or [str(config.get("model_type", "unknown"))])


def _setting_warnings(sources: Mapping[str, Checkpoint]) -> tuple[str, ...]:
    rows = [
        _row("rope_theta", [_rope_theta(checkpoint.config) for checkpoint in sources.values()]),
        _row("rms_norm_eps", [checkpoint.config.get("rms_norm_eps") for checkpoint in sources.values()]),
    ]
    return tuple(
        f"{what} differs between the sources ({', '.join(map(': '.join, zip(sources, values, strict=True)))})."
        for what, values in rows
        if len(set(values)) > 1
    )


def _rope_theta(config: Mapping[str, Any]) -> object:
    # transformers 5 writes it inside `rope_parameters`, older versions at the top.
    return config.get("rope_theta", (config.get("rope_parameters") or {}).get("rope_theta"))


def _shapes(sources: Mapping[str, Checkpoint], group: Sequence[tuple[str, str]]) -> _Row | None:
    found = {source: sources[source].tensors.get(tensor) for source, tensor in group}
    shapes = {source: "missing" if info is None else _times(info.shape) for source, info in found.items()}
    if len(set(shapes.values())) == 1 and "missing" not in shapes.values():
        return None
    return _row(group[0][1], [shapes.get(name, _UNSET) for name in sources])


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _row(what: str, values: Sequence[object]) -> _Row:
    return what, tuple(map(str, values))


def _table(names: Sequence[str], rows: Sequence[_Row]) -> str:
    lines = [("", *names), *((what, *values) for what, values in rows[:_MAX_ROWS])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    if len(rows) > _MAX_ROWS:
        text.append(f"  and {len(rows) - _MAX_ROWS} more")
    return "\n".join(text)
