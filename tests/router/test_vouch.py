"""What is measured for the gate: answers from the stored adapter, the version before on the same questions, routing."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry.card import Card
from registry.store import Store, Version
from router import publishing
from router.arms import Tools
from router.vouch import BOTH, ROUTED, SAMPLE, vouch
from specialists.domain import items, load
from specialists.errors import BadInput

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


def test_promoting_asks_the_gate(
    add: Callable[..., Version], store: Store, tools: Tools, engine: FakeEngine, fake_encoder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A version that cannot do what its report says is refused, and passes with a reason that stays."""
    add()
    folder = add(version="1.1.0").path
    store.unregister("sums@1.1.0")
    assert not folder.exists()
    add(version="1.2.0")
    monkeypatch.setattr("registry.store.Store", lambda: store)
    monkeypatch.setattr("router.embed.load_encoder", lambda: fake_encoder)
    monkeypatch.setattr("router.evaluate.open_tools", lambda base, store: tools)
    done = CliRunner().invoke(publishing.promote, ["sums@1.0.0"])
    assert (done.exit_code, store.resolve("sums").card.version) == (0, "1.0.0"), done.output
    engine.specialist = lambda question: ("Answer: 0", False)
    done = CliRunner().invoke(publishing.promote, ["sums@1.2.0"])
    assert "does not pass" in str(done.exception) and store.resolve("sums").card.version == "1.0.0"
    done = CliRunner().invoke(publishing.promote, ["sums@1.2.0", "--force", "the report is of another base"])
    assert (done.exit_code, store.resolve("sums").card.version) == (0, "1.2.0"), done.output
    reason = store.histories.read("sums")[-1].reason
    assert reason and reason.startswith(
        "forced: the report is of another base (in spite of: loaded from the store"
    )
