"""How many tokens a tokenizer needs for Japanese, before and after tokenizers are put together.

Tokens that are added to a byte-level tokenizer are looked for in the text as they are spelt, and Japanese is spelt
there in bytes: the union has the tokens of the Japanese tokenizer and never uses them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from engine.checkpoints import extended_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.checkpoints import AddedToken, TokenizerFacts

SENTENCES = (
    "六十八歳の女性が、三日前から続く発熱と咳を主訴に来院した。",
    "胸部エックス線写真では右下肺野に浸潤影を認める。",
    "既往に高血圧と2型糖尿病があり、メトホルミンを内服している。",
    "まず行うべき検査として最も適切なのはどれか。",
    "きょうは天気がよいので、昼休みに近くの公園まで歩いて行きました。",
)
# Below this the difference may come from the few sentences.
_CLEARLY = 1.1


def fertility(tokenizer_json: str) -> float:
    """Measure tokens a character on SENTENCES, for the text of a `tokenizer.json`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokens = sum(len(tokenizer.encode(sentence, add_special_tokens=False).ids) for sentence in SENTENCES)
    return tokens / sum(map(len, SENTENCES))


def fertility_warning(
    facts: Mapping[str, TokenizerFacts], start: str, added: Sequence[AddedToken], tokens: Mapping[str, int]
) -> list[str]:
    """Warn where the union needs clearly more tokens for Japanese than the best of its sources.

    Args:
        facts: the sources' tokenizers; those without a `tokenizer.json` are not measured.
        start: the source that the others' tokens are added to.
        added: what is added.
        tokens: the ids of the union.
    """
    files = {name: found.file for name, found in facts.items() if found.file is not None}
    measured = {name: fertility(file.read_text(encoding="utf-8")) for name, file in files.items()}
    merged = fertility(json.dumps(extended_tokenizer(files[start], added, tokens)))
    best = min(measured, key=lambda name: measured[name])
    if merged < measured[best] * _CLEARLY:
        return []
    listed = ", ".join(f"{name} {figure:.2f}" for name, figure in measured.items())
    longer = merged / measured[best]
    text = (
        f"The union of the tokenizers needs {merged:.2f} tokens for a character of Japanese ({listed}): texts become "
        f"{longer:.1f} times as long as with that of {best}, and are cut as no model has learnt it. "
        "Set `tokenizer_source` to the model whose Japanese matters."
    )
    return [text]
