"""What is asked for of a repository on the Hub: ORG/NAME, and after an @ a version, a channel or any other revision."""

from __future__ import annotations

import re

from specialists.errors import BadInput

from .card import shown, version_key
from .history import CHANNELS, STABLE, State

_REF = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(.+))?", re.ASCII)
_SHOWN = 20  # numbers in a message


def parse_ref(ref: str) -> tuple[str, str | None]:
    """Repository and revision of "ORG/NAME[@REVISION]". Raises BadInput for anything else."""
    match = _REF.fullmatch(ref)
    if not match or ".." in match[1] or "--" in match[1] or not (match[2] or "x").isprintable():
        raise BadInput(f"{shown(ref)} is not on the Hub: write ORG/NAME, or ORG/NAME@VERSION.")
    return match[1], match[2]


def tag(number: str) -> str:
    """The Hub tag of a version."""
    return f"v{number}"


def is_number(revision: str) -> bool:
    """Whether a revision is the number of a version."""
    try:
        version_key(revision)
    except BadInput:
        return False
    return True


def number_of(id: str, revision: str | None, state: State) -> str | None:
    """The version that a revision asks for, by a repository's history; None when it asks for something else.

    Without a revision it is the stable version, or else the newest that was not taken back. Raises BadInput for a
    channel that means nothing, or a number that was never published.
    """
    if revision in (None, *CHANNELS) and state.published:
        free = [number for number in state.published if number not in state.yanked]
        number = state.channels.get(revision or STABLE)
        if number is None and revision is None and free:
            number = max(free, key=version_key)
        if number is None:
            raise BadInput(f"{id} has no {revision or STABLE} version; give one as {id}@VERSION.")
        return number
    if revision is None or not is_number(revision):
        return None
    if state.published and revision not in state.published:
        known = ", ".join(sorted(state.published, key=version_key, reverse=True)[:_SHOWN])
        raise BadInput(f"{id} has no version {revision}; it has: {known}.")
    return revision


def published_number(id: str, revision: str | None, state: State) -> str:
    """As number_of, for what only published versions can be asked. Raises BadInput for anything else."""
    number = number_of(id, revision, state)
    if number is None or not state.published:
        asked = f"{id}@{revision}" if revision else id
        raise BadInput(f"{shown(asked)} is no published version; `router registry history {id}` shows those.")
    return number
