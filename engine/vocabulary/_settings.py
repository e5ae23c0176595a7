"""mergekit's keys `tokenizer_source` and `tokenizer`, read into one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import PlanError

_FORMS = "Write source: a model's name, {kind: model_token, model: …, token: …} or {kind: zero}."


@dataclass(frozen=True)
class Rule:
    """Where the embedding of one token comes from in models that lack it, or with `force` in all of them.

    `kind`: that of another model (`model`), one of its tokens (`model_token`: `token` or `token_id`), zeros (`zero`),
    or what holds for every other token (`default`).
    """

    token: str
    kind: Literal["model", "model_token", "zero", "default"] = "default"
    model: str | None = None
    source_token: str | None = None
    source_id: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Settings:
    """What a configuration asks of the vocabulary. `source` is `base`, `union` or the name of a model."""

    source: str
    rules: tuple[Rule, ...] = ()
    multiple: int | None = None

    def model(self, base: str | None, sources: Sequence[str]) -> str:
        """Name the source whose tokenizer the result's is made of; a union starts with the base or the first source.

        Raises:
            PlanError: `base`, and the merge has none.
        """
        if self.source not in ("base", "union"):
            return self.source
        if base is None and self.source == "base":
            raise PlanError("`tokenizer_source: base` needs a `base_model`, and the merge has none.")
        return base or sources[0]


def is_renumbered(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration says whose vocabulary the result has, so that sources may differ in theirs."""
    return config.get("tokenizer_source") is not None or config.get("tokenizer") is not None


def read_settings(config: Mapping[str, Any]) -> Settings | None:
    """Read the settings of a mergekit configuration; None where it has neither key and every source keeps its rows.

    Raises:
        PlanError: both keys, or a rule that cannot be read.
    """
    short, long = config.get("tokenizer_source"), config.get("tokenizer")
    if short is not None and long is not None:
        raise PlanError("`tokenizer` does not go together with `tokenizer_source`.", hint="Keep one of the two.")
    if long is None:
        return None if short is None else Settings(str(short))
    if not isinstance(long, Mapping):
        raise PlanError(
            f"`tokenizer: {long}` is no section.", hint="Write tokenizer: {source: …}, or tokenizer_source."
        )
    rules = tuple(_rule(token, rule or {}) for token, rule in (long.get("tokens") or {}).items())
    return Settings(str(long.get("source") or "union"), rules, _multiple(long.get("pad_to_multiple_of")))


def _rule(token: str, rule: object) -> Rule:
    if not isinstance(rule, Mapping):
        raise PlanError(f"The rule for {token!r} in `tokenizer.tokens` is no section: {rule!r}.", hint=_FORMS)
    source, force = rule.get("source"), bool(rule.get("force", False))
    if source is None:
        return Rule(token, force=force)
    if isinstance(source, str):
        return Rule(token, "model", source, force=force)
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if kind == "zero":
        return Rule(token, "zero", force=force)
    if kind != "model_token" or not source.get("model"):
        raise PlanError(f"`tokenizer.tokens` does not say where {token!r} comes from: {source!r}.", hint=_FORMS)
    given = (source.get("token"), source.get("token_id"))
    if (given[0] is None) == (given[1] is None):
        raise PlanError(f"The source of {token!r} in `tokenizer.tokens` needs a `token` or a `token_id`, and not both.")
    return Rule(token, "model_token", source["model"], *given, force=force)


def _multiple(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise PlanError(f"`pad_to_multiple_of: {value}` is no whole number above 0.")
