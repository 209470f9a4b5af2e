"""Any sequence of changes leaves the store as a dictionary would be."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry.card import Card, version_key
from registry.store import Store, verify
from specialists.errors import BadInput

NAMES = st.sampled_from(["cron", "dates", "mine"])
NUMBERS = st.sampled_from(["0.9.0", "1.0.0", "1.10.0", "1.9.0"])
SEEDS = st.integers(0, 1)


@pytest.fixture
def machine(make_adapter, make_card, tmp_path):  # type: ignore[no-untyped-def]
    """The state machine over two adapters, with dates and cron bundled."""
    adapters = [make_adapter(tmp_path / f"adapter-{seed}", seed=seed) for seed in (0, 1)]
    shipped = Store(tmp_path / "bundled", bundled=tmp_path / "nothing")
    bundled: dict[tuple[str, str], str] = {}
    for name, number in [("dates", "1.0.0"), ("dates", "1.9.0"), ("cron", "1.0.0")]:
        card = shipped.publish(adapters[0], make_card(adapters[0], name=name, version=number)).card
        bundled[name, number] = card.adapter

    class Machine(RuleBasedStateMachine):
        """What a store should hold: own versions, and which bundled ones are hidden ("*": the whole name)."""

        def __init__(self) -> None:
            super().__init__()
            self.home = Path(tempfile.mkdtemp(dir=tmp_path))
            self.store = Store(self.home, bundled=shipped.home)
            self.own: dict[tuple[str, str], str] = {}
            self.hidden: set[tuple[str, str]] = set()

        def teardown(self) -> None:
            shutil.rmtree(self.home)

        def places(self, name: str) -> list[tuple[str, str]]:
            """(version, source) of a name, the preferred one first."""
            shown = set() if (name, "*") in self.hidden else bundled.keys() - self.hidden
            found = [(number, "local") for known, number in self.own if known == name]
            found += [(number, "bundled") for known, number in shown if known == name]
            found.sort(key=lambda place: version_key(place[0]), reverse=True)
            return sorted(found, key=lambda place: place[1] == "bundled")

        @rule(name=NAMES, number=NUMBERS, seed=SEEDS)
        def publish(self, name: str, number: str, seed: int) -> None:
            card: Card = make_card(adapters[seed], name=name, version=number)
            there = bundled.get((name, number), self.own.get((name, number)))
            if there not in (None, card.adapter):
                with pytest.raises(BadInput, match="other bytes"):
                    self.store.publish(adapters[seed], card)
                return
            assert self.store.publish(adapters[seed], card).card == card
            if (name, number) in bundled:
                self.hidden -= {(name, "*"), (name, number)}
            else:
                self.own[name, number] = card.adapter

        @rule(name=NAMES)
        def register_bundled(self, name: str) -> None:
            if name == "mine":
                with pytest.raises(BadInput, match="no folder"):
                    self.store.register(Path(name))
                return
            assert self.store.register(Path(name)).card.name == name
            self.hidden = {hidden for hidden in self.hidden if hidden[0] != name}

        @rule(name=NAMES, number=NUMBERS | st.none())
        def unregister(self, name: str, number: str | None) -> None:
            meant = [place for place in self.places(name) if number in (None, place[0])]
            ref = f"{name}@{number}" if number else name
            if not meant:
                with pytest.raises(BadInput):
                    self.store.unregister(ref)
                return
            self.store.unregister(ref)
            for found, source in meant:
                if source == "local":
                    del self.own[name, found]
                else:
                    self.hidden.add((name, number or "*"))

        @invariant()
        def as_in_the_model(self) -> None:
            preferred = []
            for name in ["cron", "dates", "mine"]:
                places = self.places(name)
                if not places:
                    with pytest.raises(BadInput):
                        self.store.resolve(name)
                    continue
                versions = self.store.versions(name)
                assert [(version.card.version, version.source) for version in versions] == places
                for version in versions:
                    key = (name, version.card.version)
                    assert version.card.adapter == (self.own if version.source == "local" else bundled)[key]
                    assert self.store.resolve(version.ref) == version
                    verify(version)
                assert self.store.resolve(name) == versions[0]
                preferred.append(versions[0])
            assert self.store.list() == preferred
            assert self.store.problems == []

    return Machine


def test_the_store_is_a_dictionary(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=12, stateful_step_count=20, deadline=None)
    )
