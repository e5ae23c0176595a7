"""`chat_template`: a template's text, the name of a built-in one, or `auto`. Templates are data and never run here."""

from __future__ import annotations

import difflib
from collections import Counter
from importlib import resources
from typing import TYPE_CHECKING

from engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2.parser import Parser

    from engine.checkpoints import TokenizerFacts

_SUFFIX = ".jinja"


def builtin_templates() -> tuple[str, ...]:
    """List the names of the templates that are built in; each is a file of `templates/`."""
    files = (file.name for file in resources.files(__package__).joinpath("templates").iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def choose_template(
    wanted: str | None, facts: Mapping[str, TokenizerFacts | None], taken: tuple[str, TokenizerFacts | None]
) -> tuple[str | None, list[str]]:
    """Give the template that takes the place of the one in the tokenizer's files, and warnings; None where that stays.

    `auto` is the one that most sources have, the first of them where several are as common.

    Args:
        wanted: `chat_template` of the configuration.
        facts: the tokenizers of the merge's sources.
        taken: the source whose tokenizer the result has, and that tokenizer.

    Raises:
        PlanError: a name that is not built in, a template with a syntax error, or no tokenizer to put it into.
    """
    if wanted is None:
        return None, _other_templates(facts, *taken)
    if taken[1] is None:
        raise PlanError(f"`chat_template` is a part of the tokenizer, and {taken[0]} has none.")
    if wanted == "auto":
        return _most_common(facts)
    names = builtin_templates()
    if wanted in names:
        file = resources.files(__package__).joinpath("templates", wanted + _SUFFIX)
        return file.read_text(encoding="utf-8").strip(), []
    if "{" not in wanted:
        near = difflib.get_close_matches(wanted, (*names, "auto"), n=1)
        raise PlanError(
            f"`chat_template: {wanted}` is neither a template nor the name of one.",
            hint=f"Did you mean {near[0]!r}?" if near else f"Use auto, {', '.join(names)}, or the template itself.",
        )
    _check_syntax(wanted, "`chat_template`")
    return wanted, []


def _other_templates(
    facts: Mapping[str, TokenizerFacts | None], tokenizer: str, taken: TokenizerFacts | None
) -> list[str]:
    return [
        f"The chat template of {name} differs from that of {tokenizer}, which the result has."
        for name, fact in facts.items()
        if fact and taken and fact.chat_template != taken.chat_template
    ]


def _most_common(facts: Mapping[str, TokenizerFacts | None]) -> tuple[str | None, list[str]]:
    found = {name: fact.chat_template.strip() for name, fact in facts.items() if fact and fact.chat_template}
    if not found:
        return None, ["`chat_template: auto` finds no chat template in any source."]
    counted = Counter(found.values())
    template = max(found.values(), key=lambda text: counted[text])  # the first of those that are as common
    owner = next(name for name, text in found.items() if text == template)
    _check_syntax(template, f"The chat template of {owner}")
    if len(counted) == 1:
        return template, []
    return template, [f"`chat_template: auto` takes that of {owner}, which {counted[template]} of {len(facts)} have."]


def _check_syntax(template: str, what: str) -> None:
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, with which transformers marks what an assistant says."""

        tags = {"generation"}  # noqa: RUF012 - what jinja2 asks for

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        ImmutableSandboxedEnvironment(extensions=[Generation, loopcontrols]).parse(template)
    except TemplateSyntaxError as error:
        raise PlanError(f"{what} has a syntax error in line {error.lineno}: {error.message}.") from error
    except RecursionError as error:
        raise PlanError(f"{what} is nested too deep to be read.") from error
