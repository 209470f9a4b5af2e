"""The card of a newly trained adapter."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.adapter import WEIGHTS
from registry.card import Card, version_key
from registry.store import Store
from registry.version import CARD, sha256
from specialists.domain import Domain
from specialists.errors import BadInput
from specialists.paths import write_atomic

if TYPE_CHECKING:
    from router.engine.base import Base

LEFT_OUT = ("loss", "norms")  # of the facts of a training: what every step gave stays in its training.json


def card_of(
    domain: Domain,
    base: Base,
    folder: Path,
    facts: Mapping[str, Any],
    teacher: str = "solver",
    most: int | None = None,
) -> Card:
    """The card: the patch version after the newest registered, or 1.0.0; its lineage is the facts of the training.

    teacher: who wrote the examples. most: tokens of an answer, by default the domain's.
    """
    name, version = domain.name.partition(":")[0], "1.0.0"  # a variant is still that domain's specialist
    with suppress(BadInput):  # there is none of that name yet
        store = Store()
        taken = {known.card.version for known in store.versions(name)} | store.state(name).published.keys()
        newest = max(map(version_key, taken))
        version = "{}.{}.{}".format(*newest[:2], newest[2] + 1)
    who = "its own solver" if teacher == "solver" else teacher
    texts, problems = facts["examples"], facts.get("problems", facts["examples"])
    told = f"{problems} examples" if texts == problems else f"{problems} problems, told in {texts} texts,"
    return Card(
        name=name,
        version=version,
        description=f"{domain.name}: trained on {told} of {who}",
        base=base.id,
        base_weights=base.weights,
        adapter=sha256(folder / WEIGHTS),
        prompt=domain.prompt,
        parser=domain.parser,
        exemplars=tuple(domain.exemplars()),
        max_new_tokens=most or domain.max_new_tokens,
        lineage={"teacher": teacher, **{key: value for key, value in facts.items() if key not in LEFT_OUT}},
    )


def write_card(folder: Path, card: Card) -> None:
    """Write the card into the adapter's folder."""
    write_atomic(folder / CARD, card.to_json().encode())
