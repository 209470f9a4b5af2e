"""Make a version of what someone has: a version's folder, or an adapter straight from a training script."""

from __future__ import annotations

from pathlib import Path

from specialists.errors import BadInput

from .adapter import WEIGHTS
from .card import name_fault
from .history import STABLE
from .lora_config import CONFIG
from .plain import card_of_plain
from .store import Store
from .version import CARD, MANIFEST, Version, check_small, read_card


def register(
    store: Store,
    path: Path,
    name: str | None = None,
    exemplars: Path | None = None,
    prompt: str | None = None,
    parser: str | None = None,
    base: str | None = None,
    channel: str = STABLE,
    origin: str | None = None,
) -> Version:
    """Add a specialist from a folder with a card, or from a plain PEFT adapter.

    A plain adapter needs a name, exemplars (a text file, one question a line) and a prompt (a name in
    PROMPTS or "file:PATH"); parser is "answer_line" unless given, base what the adapter's configuration
    says. It becomes version 1.0.0, or the next patch of the name's highest version; the name's present
    version again changes nothing. The name of a bundled specialist, as the path, undoes its unregister.
    channel, origin: as in Store.publish.
    """
    if not path.is_dir():
        if path.exists() or name_fault(str(path)) or not store.is_bundled(str(path)):
            raise BadInput(f"There is no folder {path}; give a folder with {CONFIG} and {WEIGHTS}.")
        return store.unhide(str(path))
    if not (path / CARD).exists():
        card, prompt_file = card_of_plain(path, name, exemplars, prompt, parser, base)
        return store.publish(path, card, channel, origin, prompt_file=prompt_file, renumber=True)
    card = read_card(path)
    if exemplars or prompt or parser or base or name not in (None, card.name):
        raise BadInput(f"{path} has a card, for {card.ref}; leave out name, exemplars, prompt and the like.")
    if (path / MANIFEST).exists():
        check_small(path)
    return store.publish(path, card, channel, origin)
