"""The front matter of a model card, which is YAML from anyone."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

MAX_CARD = 1 << 20  # bytes
_MAX_FRONT_MATTER = 64 << 10  # characters; the parser is slow
_MAX_DEPTH = 50
_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---[ \t\r]*(?:\n|$)", re.DOTALL)


def front_matter(text: str) -> dict[str, Any]:
    """What a model card says of itself, as JSON has it; empty without front matter. Raises ValueError."""
    match = _FRONT_MATTER.match(text)
    if not match:
        return {}
    if len(match[1]) > _MAX_FRONT_MATTER:
        raise ValueError("The front matter is too long.")
    try:
        _require_plain(match[1])
        found = yaml.safe_load(match[1])
        found = json.loads(json.dumps(found, default=str, allow_nan=False))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        place = f" (line {where.line + 2})" if where else ""
        raise ValueError(f"The front matter is not plain YAML{place}.") from error
    if found is not None and not isinstance(found, dict):
        raise ValueError("The front matter holds no names and values.")
    return found or {}


def _require_plain(text: str) -> None:
    """Raises ValueError for what makes much out of little, and which nobody needs here: aliases and deep nesting."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise ValueError


def tags_of(card: dict[str, Any]) -> list[str]:
    """The tags by which a model is found: those of its card, and its library."""
    given = card.get("tags")
    listed = [str(tag) for tag in given] if isinstance(given, list) else []
    library = card.get("library_name")
    return list(dict.fromkeys([*listed, library] if isinstance(library, str) else listed))
