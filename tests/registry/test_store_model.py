"""Any sequence of changes leaves the store as a few dictionaries would be, and its history says how it came to that."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry.card import Card, version_key
from registry.channels import promote, restore, rollback, yank
from registry.history import CANDIDATE, STABLE, Event, replay
from registry.register import register
from registry.store import Store, verify
from specialists.errors import BadInput

NAMES = st.sampled_from(["dates", "dates", "dates", "mine"])  # few, so that what is done to a name meets
NUMBERS = st.sampled_from(["0.9.0", "1.0.0", "1.10.0", "1.9.0"])
SEEDS = st.integers(0, 1)
CHANNEL = st.sampled_from([STABLE, STABLE, STABLE, CANDIDATE])


@dataclass
class Name:
    """What a store should hold of one name. own, ever: number -> seed; now: channel -> number."""

    bundled: dict[str, int]
    own: dict[str, int] = field(default_factory=dict)
    ever: dict[str, int] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    yanked: set[str] = field(default_factory=set)
    now: dict[str, str] = field(default_factory=dict)
    past: dict[str, list[str]] = field(default_factory=lambda: {STABLE: [], CANDIDATE: []})

    def shown(self) -> list[str]:
        """Bundled numbers that are not hidden, newest first."""
        return newest([] if "*" in self.hidden else self.bundled.keys() - self.hidden)

    def stable(self) -> str | None:
        """What the stable channel means, said or not."""
        free = [n for n in newest(self.own) + self.shown() if self.free(n)]
        return self.now.get(STABLE) or (free[0] if free else None)

    def free(self, number: str) -> bool:
        return number not in self.yanked and self.now.get(CANDIDATE) != number

    def order(self) -> list[tuple[str, str]]:
        """(number, source) as resolve prefers them, each number once."""
        own = [(number, "local") for number in newest(self.own)]
        all_ = own + [(number, "bundled") for number in self.shown() if number not in self.own]
        return sorted(all_, key=lambda one: (one[0] != self.stable(), not self.free(one[0])))

    def means(self, channel: str, number: str) -> None:
        """A channel is set to a number; what was in use unsaid counts as what it meant before."""
        before = self.stable() if channel == STABLE else self.now.get(channel)
        if before not in (None, number):
            self.past[channel].append(str(before))
        self.now[channel] = number

    def usable(self, channel: str) -> list[str]:
        """What a rollback could go to, the last one first."""
        gone = self.ever.keys() - self.own.keys() - self.bundled.keys()
        bad = gone | self.yanked | {self.now.get(channel)}
        return [number for number in reversed(self.past[channel]) if number not in bad]

    def back(self, channel: str) -> None:
        wanted = self.usable(channel)[0]
        while self.past[channel].pop() != wanted:
            pass
        self.now[channel] = wanted

    def leave(self, number: str) -> None:
        """Channels that mean a number that was taken back or away."""
        for channel in [one for one, meant in self.now.items() if meant == number]:
            if self.usable(channel):
                self.back(channel)
            else:
                del self.now[channel]


def newest(numbers: object) -> list[str]:
    return sorted(numbers, key=version_key, reverse=True)  # type: ignore[call-overload]


@pytest.fixture
def machine(make_adapter, make_card, tmp_path):  # type: ignore[no-untyped-def]
    """The state machine over two adapters, with two versions of dates bundled."""
    adapters = [make_adapter(tmp_path / f"adapter-{seed}", seed=seed) for seed in (0, 1)]
    seed_of = {make_card(adapter).adapter: seed for seed, adapter in enumerate(adapters)}
    shipped = Store(tmp_path / "bundled", bundled=tmp_path / "nothing")
    bundled: dict[str, dict[str, int]] = {"dates": {}, "mine": {}}
    for name, number in [("dates", "1.0.0"), ("dates", "1.9.0")]:
        shipped.publish(adapters[0], make_card(adapters[0], name=name, version=number))
        bundled[name][number] = 0

    class Machine(RuleBasedStateMachine):
        operations = 0  # of all machines

        def __init__(self) -> None:
            super().__init__()
            Machine.operations -= 1  # the invariant is looked at before the first, too
            self.home = Path(tempfile.mkdtemp(dir=tmp_path))
            self.store = Store(self.home, bundled=shipped.home)
            self.names = {name: Name(there) for name, there in bundled.items()}
            self.told: dict[str, list[Event]] = {name: [] for name in bundled}

        def teardown(self) -> None:
            shutil.rmtree(self.home)

        def there(self, name: str, number: str) -> bool:
            return number in [found for found, _ in self.names[name].order()]

        @rule()
        def another_process(self) -> None:
            self.store = Store(self.home, bundled=shipped.home)

        @rule(name=NAMES, number=NUMBERS, seed=SEEDS, channel=CHANNEL)
        def publish(self, name: str, number: str, seed: int, channel: str) -> None:
            model = self.names[name]
            card: Card = make_card(adapters[seed], name=name, version=number)
            if any(there.get(number, seed) != seed for there in (model.bundled, model.ever)):
                with pytest.raises(BadInput, match="other bytes"):
                    self.store.publish(adapters[seed], card, channel)
                return
            said = model.now.get(STABLE)
            rivals = [said] if said in model.own else [] if said else list(model.own)
            higher = all(version_key(number) > version_key(str(other)) for other in rivals if other != number)
            moves = higher if channel == STABLE else True
            assert self.store.publish(adapters[seed], card, channel).card == card
            if number in model.bundled:
                model.hidden -= {"*", number}
                return
            if moves and number not in model.yanked and model.now.get(channel) != number:
                model.means(channel, number)
            model.own[number] = model.ever[number] = seed

        @rule(name=NAMES, number=NUMBERS, channel=CHANNEL)
        def promote(self, name: str, number: str, channel: str) -> None:
            model = self.names[name]
            if not self.there(name, number) or number in model.yanked:
                with pytest.raises(BadInput):
                    promote(self.store, f"{name}@{number}", channel)
                return
            promote(self.store, f"{name}@{number}", channel)
            if (model.stable() if channel == STABLE else model.now.get(channel)) != number:
                model.means(channel, number)

        @rule(name=NAMES, channel=CHANNEL)
        def rollback(self, name: str, channel: str) -> None:
            model = self.names[name]
            if not model.order() or not model.usable(channel):
                with pytest.raises(BadInput):
                    rollback(self.store, name, channel)
                return
            if self.there(name, model.usable(channel)[0]):
                rollback(self.store, name, channel)
                model.back(channel)

        @rule(name=NAMES, number=NUMBERS)
        def yank(self, name: str, number: str) -> None:
            if not self.there(name, number):
                with pytest.raises(BadInput):
                    yank(self.store, f"{name}@{number}", "wrong on Sundays")
                return
            assert yank(self.store, f"{name}@{number}", "wrong on Sundays").yanked == "wrong on Sundays"
            self.names[name].yanked.add(number)
            self.names[name].leave(number)

        @rule(name=NAMES, number=NUMBERS)
        def restore(self, name: str, number: str) -> None:
            if self.there(name, number):
                assert restore(self.store, f"{name}@{number}").yanked is None
                self.names[name].yanked.discard(number)

        @rule(name=NAMES)
        def register_bundled(self, name: str) -> None:
            if not bundled[name]:
                with pytest.raises(BadInput, match="no folder"):
                    register(self.store, Path(name))
                return
            self.names[name].hidden.clear()
            if any(one not in self.names[name].yanked for one, _ in self.names[name].order()):
                assert register(self.store, Path(name)).card.name == name
            else:
                with pytest.raises(BadInput, match="taken back"):
                    register(self.store, Path(name))

        @rule(name=NAMES, number=NUMBERS | st.none())
        def unregister(self, name: str, number: str | None) -> None:
            model = self.names[name]
            meant = [one for one, _ in model.order() if number in (None, one)]
            ref = f"{name}@{number}" if number else name
            if not meant:
                with pytest.raises(BadInput):
                    self.store.unregister(ref)
                return
            self.store.unregister(ref)
            if any(one in model.shown() for one in meant):
                model.hidden.add(number or "*")
            for one in [one for one in newest(model.own) if one in meant]:
                del model.own[one]
                model.leave(one)

        @invariant()
        def as_in_the_model(self) -> None:
            Machine.operations += 1
            preferred = []
            for name, model in self.names.items():
                order = model.order()
                told = self.store.histories.read(name)
                assert told[: len(self.told[name])] == self.told[name]  # lines are only ever added
                self.told[name] = told
                assert replay(told).channels == model.now
                if not order:
                    with pytest.raises(BadInput):
                        self.store.resolve(name)
                    continue
                versions = self.store.versions(name)
                assert [(version.card.version, version.source) for version in versions] == order
                for version in versions:
                    seeds = model.own if version.source == "local" else model.bundled
                    assert seed_of[version.card.adapter] == seeds[version.card.version]
                    assert self.store.resolve(version.ref) == version
                    verify(version)
                free = [version for version in versions if version.yanked is None]
                if not free:
                    with pytest.raises(BadInput, match="taken back"):
                        self.store.resolve(name)
                    continue
                assert self.store.resolve(name) == free[0]
                preferred.append(free[0])
                if (candidate := model.now.get(CANDIDATE)) and self.there(name, candidate):
                    assert self.store.resolve(f"{name}@candidate").card.version == candidate
            assert self.store.list() == preferred
            assert self.store.problems == []

    return Machine


@pytest.mark.parametrize(
    ("examples", "steps", "operations"),
    [(12, 20, 100), pytest.param(260, 50, 10_000, marks=pytest.mark.slow, id="ten thousand")],
)
def test_the_store_is_a_dictionary(machine: Any, examples: int, steps: int, operations: int) -> None:
    """Nothing is lost, whatever is done in whatever order, and the history says how it came to that."""
    rules = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=rules)
    assert machine.operations >= operations
