"""What is measured for the gate, and the commands that ask it: publish, and promote at home and on the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click import Command
from click.testing import CliRunner
from huggingface_hub import HfApi

from registry import channels
from registry.card import Card
from registry.hub import Hub
from registry.server import HubServer
from registry.store import Store, Version
from router import publishing
from router.arms import Tools
from router.vouch import BOTH, ROUTED, SAMPLE, vouch
from specialists.domain import items, load
from specialists.errors import BadInput, Refused, RouterError

from .scripted import FakeEngine, right, toy_domain  # noqa: F401 - toy_domain is a fixture of every test

GOOD = {"accuracy": 1.0, "interval": [0.98, 1.0], "unparsed": 0, "truncated": 0, "errored": 0}
POOR = {"accuracy": 0.1, "interval": [0.05, 0.2], "unparsed": 0, "truncated": 0, "errored": 0}
REPORT = {
    "domain": "sums",
    "split": "test",
    "n": 100,
    "arms": {"specialist": GOOD, "base": POOR},
    "baselines": {},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", bundled=tmp_path / "none")


@pytest.fixture
def add(store: Store, tiny_adapter: Callable[..., Path]) -> Callable[..., Version]:
    """Publish a version of a specialist into the store."""

    def made(
        name: str = "sums",
        version: str = "1.0.0",
        exemplars: tuple[str, ...] = ("What is 1 + 1?",),
        **more: Any,
    ) -> Version:
        folder = tiny_adapter(f"{name}-{version}")
        card = Card(
            name=name, version=version, description="adds", base="toy", base_weights="unknown", prompt="plain",
            adapter=sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest(), parser="answer_line",
            exemplars=exemplars, max_new_tokens=20, report=REPORT, **more,
        )  # fmt: skip
        return store.publish(folder, card)

    return made


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def tools(store: Store, engine: FakeEngine) -> Tools:
    return Tools(engine, "toy@00", store, lambda: pytest.fail("no router is needed"), lambda version: None)


def test_a_first_version(add: Callable[..., Version], store: Store, tools: Tools, fake_encoder: Any) -> None:
    evidence = vouch(add(), None, store, lambda: tools, lambda: fake_encoder, progress=False)
    assert (evidence.again, evidence.paired, evidence.routed) == ((SAMPLE, SAMPLE), None, {})
    assert len(set(evidence.tested_on)) == 100


def test_the_sample_is_answered_anew(
    add: Callable[..., Version], store: Store, tools: Tools, engine: FakeEngine, fake_encoder: Any
) -> None:
    version = add()
    for times in (1, 2):
        vouch(version, None, store, lambda: tools, lambda: fake_encoder, progress=False)
        assert len(engine.asked) == times * SAMPLE


def test_a_worse_version_is_seen_on_the_same_questions(
    add: Callable[..., Version], store: Store, tools: Tools, engine: FakeEngine, fake_encoder: Any
) -> None:
    before, after = add(), add(version="1.1.0")

    def says(question: str) -> tuple[str, bool]:
        asked = engine.adapters[engine.asked[-1][1] or ""]
        return ("Answer: 0", False) if asked == after.path and len(question) % 2 else right(question)

    engine.specialist = says
    evidence = vouch(after, before, store, lambda: tools, lambda: fake_encoder, progress=False)
    assert evidence.paired and evidence.paired.b == 0 and evidence.paired.c > BOTH / 10
    assert evidence.again and evidence.again[0] < SAMPLE


def test_exemplars_that_take_others_questions(
    add: Callable[..., Version], store: Store, tools: Tools, fake_encoder: Any
) -> None:
    """A specialist whose exemplars are the other's test questions takes them away, and that is counted."""
    questions = tuple(task.question for task in items(load("cron"), "test", ROUTED))
    cron = add("cron", exemplars=tuple(load("cron").exemplars()))
    assert cron.channel == "stable"
    evidence = vouch(
        add(exemplars=questions), None, store, lambda: tools, lambda: fake_encoder, progress=False
    )
    assert evidence.routed and evidence.routed["cron"][2] == ROUTED
    before, after, _ = evidence.routed["cron"]
    assert after < before


def test_training_examples_in_the_test(
    add: Callable[..., Version], store: Store, tools: Tools, fake_encoder: Any, tmp_path: Path
) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text("".join(json.dumps({"key": task.key}) + "\n" for task in items(load("sums"), "test", 3)))
    evidence = vouch(add(), None, store, lambda: tools, lambda: fake_encoder, file, progress=False)
    assert len(set(evidence.trained_on) & set(evidence.tested_on)) == 3
    file.write_text("{}\n")
    with pytest.raises(BadInput, match="not a file of training examples"):
        vouch(add(), None, store, lambda: tools, lambda: fake_encoder, file, progress=False)


@pytest.fixture
def here(
    store: Store, tools: Tools, engine: FakeEngine, fake_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands use this store, and everything loads at once."""

    def opened(base: str | None, found: Store, precision: str) -> Tools:
        assert precision == "bf16"  # as the reports were measured, whatever this machine is fastest with
        return replace(tools, store=found)

    def made(home: Path = store.home, bundled: Path = store.bundled) -> Store:
        return Store(home, bundled)

    monkeypatch.setattr("registry.store.Store", made)
    monkeypatch.setattr("router.embed.load_encoder", lambda **_: fake_encoder)
    monkeypatch.setattr("router.evaluate.open_tools", opened)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Hub]]:
    """Repositories of an empty Hub on loopback, which the commands use too."""
    with HubServer(tmp_path / "hub", writable=True) as server:

        def repository(id: str) -> Hub:
            return Hub(id, HfApi(endpoint=server.url, token="any"), tmp_path / "cache")

        monkeypatch.setattr("registry.hub.Hub", repository)
        yield repository


def does(command: Command, *arguments: str) -> str:
    """What a command says when it works."""
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.exception
    return done.output


def fails(command: Command, *arguments: str) -> RouterError:
    """The error that a command ends with; the console script makes one line and an exit code of it."""
    error = CliRunner().invoke(command, arguments).exception
    assert isinstance(error, RouterError)
    return error


def wrong(question: str) -> tuple[str, bool]:
    return "Answer: 0", False


@pytest.mark.usefixtures("here")
def test_promoting_asks_the_gate(add: Callable[..., Version], store: Store, engine: FakeEngine) -> None:
    """A version that cannot do what its report says is refused, and passes with a reason that stays."""
    add()
    add(version="1.2.0")
    does(publishing.promote, "sums@1.0.0")
    assert store.resolve("sums").card.version == "1.0.0"
    engine.specialist = wrong
    refused = fails(publishing.promote, "sums@1.2.0")
    assert "does not pass" in str(refused) and store.resolve("sums").card.version == "1.0.0"
    does(publishing.promote, "sums@1.2.0", "--force", "the report is of another base")
    assert store.resolve("sums").card.version == "1.2.0"
    reason = store.histories.read("sums")[-1].reason
    assert reason and reason.startswith(
        "forced: the report is of another base (in spite of: loaded from the store"
    )


@pytest.mark.usefixtures("here")
def test_publishing_compares_with_what_is_stable_on_the_hub(
    add: Callable[..., Version], store: Store, engine: FakeEngine, hub: Callable[[str], Hub]
) -> None:
    """Also where the publisher's machine never had that version; what passed once is not measured again."""
    first = add()
    assert "would be published" in does(publishing.publish, "sums", "--to", "acme/sums", "--dry-run")
    assert not hub("acme/sums").exists()
    said = does(publishing.publish, "sums", "--to", "acme/sums")
    assert said.startswith("acme/sums@1.0.0 ")
    asked = len(engine.asked)
    assert does(publishing.publish, "sums", "--to", "acme/sums") == said
    assert len(engine.asked) == asked
    store.unregister("sums")
    second = add(version="1.1.0")

    def worse(question: str) -> tuple[str, bool]:
        folder = engine.adapters[engine.asked[-1][1] or ""]
        new = (folder / "card.json").read_text() == second.card.to_json()
        return wrong(question) if new and len(question) % 2 else right(question)

    engine.specialist = worse
    refused = fails(publishing.publish, "sums", "--to", "acme/sums")
    assert isinstance(refused, Refused) and "it is worse than sums@1.0.0" in str(refused)
    assert [one.version for one in hub("acme/sums").history()] == ["1.0.0"]
    does(publishing.publish, "sums", "--to", "acme/sums", "--force", "it is faster")
    last = hub("acme/sums").history()[-1]
    assert (last.version, last.channel) == ("1.1.0", "stable")
    assert last.reason and last.reason.startswith("forced: it is faster (in spite of: ")
    assert store.names() == ["sums"] and [one.ref for one in store.versions("sums")] == ["sums@1.1.0"]
    assert first.card.adapter != second.card.adapter


@pytest.mark.usefixtures("here")
def test_a_number_that_is_taken_is_said_before_anything_is_measured(
    add: Callable[..., Version], store: Store, engine: FakeEngine, hub: Callable[[str], Hub], tmp_path: Path
) -> None:
    hub("acme/sums").publish(add(), {})
    elsewhere = Store(tmp_path / "elsewhere", tmp_path / "none")
    store.unregister("sums")
    card = replace(add(version="1.0.1").card, version="1.0.0")
    other = elsewhere.publish(store.resolve("sums").path, replace(card, description="adds much"))
    shutil.rmtree(store.home)
    store.publish(other.path, other.card)
    assert "versions never change" in str(fails(publishing.publish, "sums", "--to", "acme/sums"))
    assert engine.asked == []
    assert "alone, as acme/sums" in str(fails(publishing.publish, "sums", "--to", "acme/sums@1.0.0"))


@pytest.mark.usefixtures("here")
def test_overtaken_while_it_was_measured(
    add: Callable[..., Version], engine: FakeEngine, hub: Callable[[str], Hub]
) -> None:
    """Whoever became stable meanwhile was not compared with, so nothing is published."""
    versions = [add(), add(version="1.1.0"), add(version="1.2.0")]
    hub("acme/sums").publish(versions[0], {})

    def meanwhile(question: str) -> tuple[str, bool]:
        engine.specialist = right
        hub("acme/sums").publish(versions[1], {})
        return right(question)

    engine.specialist = meanwhile
    error = fails(publishing.publish, "sums@1.2.0", "--to", "acme/sums")
    assert "became 1.1.0 meanwhile, and 1.2.0 was compared with 1.0.0" in str(error)
    assert [one.version for one in hub("acme/sums").history()] == ["1.0.0", "1.1.0"]
    does(publishing.publish, "sums@1.2.0", "--to", "acme/sums")
    assert hub("acme/sums").state().channels == {"stable": "1.2.0"}


@pytest.mark.usefixtures("here")
def test_overtaken_at_home_while_it_was_measured(
    add: Callable[..., Version], store: Store, engine: FakeEngine
) -> None:
    """The same where two promote at home."""
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        add(version=number)
    channels.promote(store, "sums@1.0.0")

    def meanwhile(question: str) -> tuple[str, bool]:
        engine.specialist = right
        channels.promote(store, "sums@1.1.0")
        return right(question)

    engine.specialist = meanwhile
    error = fails(publishing.promote, "sums@1.2.0")
    assert "became 1.1.0 meanwhile, and 1.2.0 was compared with 1.0.0" in str(error)
    assert store.resolve("sums").card.version == "1.1.0"
    does(publishing.promote, "sums@1.2.0")
    assert store.resolve("sums").card.version == "1.2.0"


@pytest.mark.usefixtures("here")
def test_promoting_on_the_hub_asks_the_gate(
    add: Callable[..., Version], store: Store, engine: FakeEngine, hub: Callable[[str], Hub]
) -> None:
    """What is compared is what the repository has; the store at home is left as it is."""
    for version, channel in [(add(), "stable"), (add(version="1.1.0"), "candidate")]:
        hub("acme/sums").publish(version, {}, channel)
    store.unregister("sums")
    engine.specialist = wrong
    refused = fails(publishing.promote, "acme/sums@candidate")
    assert isinstance(refused, Refused) and "sums@1.1.0 does not pass" in str(refused)
    assert hub("acme/sums").state().channels["stable"] == "1.0.0"
    engine.specialist = right
    assert "acme/sums@stable is acme/sums@1.1.0 now" in does(publishing.promote, "acme/sums@candidate")
    assert hub("acme/sums").state().channels["stable"] == "1.1.0"
    asked = len(engine.asked)
    does(publishing.promote, "acme/sums@1.1.0")  # it is already
    does(publishing.promote, "acme/sums@1.0.0", "--channel", "candidate")  # which needs no gate
    assert len(engine.asked) == asked and len(hub("acme/sums").history()) == 4
    assert store.list() == []
