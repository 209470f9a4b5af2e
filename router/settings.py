"""Choices a user keeps: $ROUTER_HOME/config.yaml, overruled by the environment, overruled by options."""

from __future__ import annotations

import os
from typing import Any

from specialists.errors import BadInput
from specialists.paths import home


def load() -> dict[str, Any]:
    """The config file as a mapping, empty when there is none. Raises BadInput when it is not one."""
    path = home() / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Could not read the settings {path} ({error}); mend or remove it.") from error
    import yaml

    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" (line {place.line + 1})" if place else ""
        raise BadInput(f"The settings {path} are not valid YAML{line}; mend or remove it.") from error
    if not isinstance(found, dict):
        raise BadInput(f"The settings {path} must be lines of `key: value`; mend or remove it.")
    return found


def setting(key: str) -> str | None:
    """One setting: environment variable ROUTER_KEY, else `key` of the config file, else None."""
    value = os.environ.get(f"ROUTER_{key.upper()}") or load().get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float):
        raise BadInput(f"The setting {key!r} in {home() / 'config.yaml'} must be one plain value.")
    return str(value)
