"""The model card and the report, in Markdown. Every number in them is read from the run's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.recipe import Recipe
from engine.yaml_source import to_yaml

_NOTICE = (
    "Compounded by Chogo from the models below. **Not for clinical use.** "
    "医療機器プログラムではありません。診療には使えません。"
)
_SPLITS = {"test": "Test (read once)", "select": "Select", "dev": "Dev (what the search saw; not a result)"}


@dataclass(frozen=True)
class Facts:
    """What a card may say."""

    recipe: Recipe
    scores: Mapping[str, Any]
    mergekit: str
    lineage: Sequence[Mapping[str, str]]


def model_card(facts: Facts) -> str:
    """Write the README.md of the published folder."""
    hub = sorted({one["hub"] for one in facts.lineage if one["hub"]})
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "language": ["ja", "en"]}
    if hub:
        head |= {"base_model": hub}
    head |= {"base_model_relation": "merge", "tags": ["merge", "mergekit", "medical", "chogo"]}
    lineage = "\n".join(f"| {one['name']} | `{one['what']}` |" for one in facts.lineage)
    return "\n".join(
        [
            f"---\n{to_yaml(head)}---\n",
            f"# {facts.recipe.name}\n",
            f"{_NOTICE}\n",
            "## What it is made of\n",
            f"| model | pinned as |\n|---|---|\n{lineage}\n",
            "## Results\n",
            _results(facts, ("test",)),
            "## The merge\n",
            f"```yaml\n{facts.mergekit}```\n",
            "## How to verify\n",
            "`sha256sum -c SHA256SUMS` in this folder; `recipe.lock.yaml` repeats the run.\n",
        ]
    )


def report(facts: Facts) -> str:
    """Write report.md: every split, and every paired difference."""
    parts = [f"# {facts.recipe.name}\n", _results(facts, ("test", "select", "dev"))]
    if facts.scores["differences"]:
        parts += ["## Differences on the test (paired, clustered bootstrap; exact McNemar p)\n", _differences(facts)]
    search = facts.scores["search"]
    if search:
        parts.append(f"Search: {search['sampler']}, {search['n_trials']} trials, {search['seconds']:.0f} s.\n")
    return "\n".join(parts)


def percent(value: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * value:.1f}"


def interval(row: Mapping[str, Any]) -> str:
    """Write a row's 95 % interval in percent."""
    low, high = row["ci95"]
    return f"{percent(low)} to {percent(high)}"


def _results(facts: Facts, splits: Sequence[str]) -> str:
    parts: list[str] = []
    for split in splits:
        rows = [row for row in facts.scores["rows"] if row["split"] == split]
        if not rows:
            continue
        lines = [
            f"| {row['model']} | {row['role']} | {row['evaluator']} | {row['lang']} | {row['n']} "
            f"| {percent(row['accuracy'])} | {interval(row)} | {row['mean_logprob']:.3f} |"
            for row in rows
        ]
        head = "| model | role | evaluator | lang | n | accuracy % | 95 % interval | mean logprob |"
        parts.append(f"### {_SPLITS[split]}\n\n{head}\n{'|---' * 8}|\n" + "\n".join(lines) + "\n")
    return "\n".join(parts) if parts else "This recipe evaluates nothing.\n"


def _differences(facts: Facts) -> str:
    lines = [
        f"| {row['a']} − {row['b']} | {row['evaluator']} | {row['lang']} | {row['n']} "
        f"| {100 * row['difference']:+.1f} | {interval(row)} | {row['p']:.2g} |"
        for row in facts.scores["differences"]
    ]
    head = "| pair | evaluator | lang | n | difference, points | 95 % interval | p |\n|---|---|---|---|---|---|---|"
    return f"{head}\n" + "\n".join(lines) + "\n"
