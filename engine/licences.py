"""The licence that a model's own card states: the `license` of the front matter of its README.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAX_CHARACTERS = 200_000
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_UNSTATED = ("", "other", "unknown")


def licence_of(folder: Path) -> str | None:
    """Read the licence that a model folder's card states; None where there is no card, or it states none.

    A card that lists several gives them all, `llama3.1, gemma`; one that says `other` gives its `license_name`.
    """
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            found = _FRONT_MATTER.match(file.read(_MAX_CHARACTERS).replace("\r\n", "\n"))
        # Text alone: no dates that may not exist, no merge keys that grow.
        head = yaml.load(found[1], Loader=yaml.BaseLoader) if found else None  # noqa: S506 - the safest loader
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    if not isinstance(head, dict):
        return None
    stated = head.get("license")
    names = [one.strip() for one in (stated if isinstance(stated, list) else [stated]) if isinstance(one, str)]
    if names == ["other"]:
        names = [one.strip() for one in [head.get("license_name")] if isinstance(one, str)]
    known = [name for name in names if name.lower() not in _UNSTATED]
    return ", ".join(known) or None


def licence_warning(licences: Mapping[str, str | None]) -> str | None:
    """Say that sources state different licences, or some of them none; None where they agree or nothing is stated.

    Args:
        licences: what `licence_of` gave, by the source's name.
    """
    stated = dict.fromkeys(licence for licence in licences.values() if licence)
    if not stated or (len(stated) == 1 and all(licences.values())):
        return None
    listed = ", ".join(f"{name}: {licence or 'not stated'}" for name, licence in licences.items())
    return f"The sources' cards do not state one licence ({listed}). A merge is bound by all of them: read them first."
