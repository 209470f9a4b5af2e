"""The gate: each refusal for its own figure, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from registry.adapter import AdapterInfo, check
from registry.card import Card
from registry.gate import Evidence, refusals
from registry.measures import Paired
from registry.model_card import beside
from registry.store import Store, Version

from .conftest import BASE


def arm(accuracy: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "interval": [low, high],
        "unparsed": 0,
        "truncated": 0,
        "errored": 0,
        **more,
    }


POOR = arm(0.03, 0.01, 0.05)
GOOD: dict[str, Any] = {
    "domain": "scheduling",
    "split": "test",
    "n": 300,
    "command": "router eval scheduling -n 300",
    "arms": {"specialist": arm(0.95, 0.92, 0.97), "base": POOR},
    "baselines": {
        "majority": arm(0.29, 0.2, 0.3, name="most common"),
        "heuristic": arm(0.48, 0.4, 0.5, name="load"),
    },
}


@pytest.fixture
def measured(store: Store, adapter: Path, make_card: Callable[..., Card]) -> Callable[..., Version]:
    """scheduling@1.0.0 with a report like GOOD but for some parts."""

    def made(**changes: Any) -> Version:
        return store.publish(adapter, make_card(adapter, report=GOOD | changes))

    return made


def test_a_good_version_passes(measured: Callable[..., Version]) -> None:
    version = measured()
    evidence = Evidence((19, 20), Paired(5, 3), {"dates": (48, 48, 50)}, ["a"], ["b"])
    assert refusals(version, check(version.path), evidence, "scheduling@0.9.0") == []
    assert refusals(version, check(version.path), Evidence()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 40}, "has 40 questions, fewer than 100"),
        ({"arms": {"specialist": arm(0.5, 0.45, 0.55), "base": POOR}}, "begins at 45.0%, not above heuristic's 48.0%"),
        ({"arms": {"specialist": arm(0.95, 0.92, 0.97), "base": arm(0.93, 0.9, 0.95)}}, "not above base's 93.0%"),
        ({"arms": {"specialist": arm(0.95, 0.92, 0.97)}}, "does not compare it with the base"),
        ({"arms": {"specialist": arm(0.95, 0.92, 0.97, truncated=31), "base": POOR}}, "31 of its 300 answers"),
        ({"arms": {}}, "has no report"),
    ],
)  # fmt: skip
def test_what_a_report_lacks(changes: dict[str, Any], said: str, measured: Callable[..., Version]) -> None:
    version = measured(**changes)
    (reason,) = refusals(version, check(version.path), Evidence())
    assert said in reason


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (Evidence(again=(12, 20)), "it has 12 of 20 right, its report says 95.0%"),
        (Evidence(paired=Paired(1, 12)), "worse than scheduling@0.9.0: on the same questions 12 are right only with"),
        (Evidence(routed={"dates": (48, 40, 50), "cron": (50, 50, 50)}), "take 8 of 50 questions from dates (48 to 40"),
        (Evidence(trained_on=["a", "b"], tested_on=["b", "c"]), "1 of its 2 test questions are among its training"),
    ],
)  # fmt: skip
def test_what_measuring_shows(evidence: Evidence, said: str, measured: Callable[..., Version]) -> None:
    version = measured()
    (reason,) = refusals(version, check(version.path), evidence, "scheduling@0.9.0")
    assert said in reason


def test_size_and_rank(measured: Callable[..., Version]) -> None:
    info = AdapterInfo({"q": (128, 2.0)}, 70 << 20, None, "BF16")
    assert refusals(measured(), info, Evidence()) == [
        "adapter_model.safetensors has 73 MB, more than 67",
        "its rank is 128, more than 64",
    ]


def test_the_model_card(measured: Callable[..., Version]) -> None:
    """The Hub's own readers read it: front matter, results; the question with a quote can be pasted into a shell."""
    files = beside(measured(), "acme/rooms")
    card = ModelCard(files["README.md"].decode())
    front = card.data.to_dict()
    assert (front["base_model"], front["library_name"]) == ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "peft")
    assert "specialist-router" in front["tags"]
    assert (
        "| specialist | 95.0 % | 92.0 % to 97.0 % |" in card.content
        and "router register acme/rooms@1.0.0" in card.content
    )
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/scheduling.yaml"]))
    assert (entry.value, entry.dataset_id) == (95.0, "specialist-router/scheduling")
    assert len(files["exemplars.txt"].decode().splitlines()) == 2


def test_the_model_card_says_which_revision_of_the_base(
    store: Store, make_adapter: Callable[..., Path], make_card: Callable[..., Card], tmp_path: Path
) -> None:
    """As the adapter's configuration has it from its training; nothing is made up where it says none."""
    for number, revision in (("1.0.0", "ea3f2471cf1b"), ("1.1.0", None)):
        folder = make_adapter(tmp_path / number, revision=revision)
        text = beside(store.publish(folder, make_card(folder, version=number)), "acme/rooms")[
            "README.md"
        ].decode()
        assert (f'from_pretrained("{BASE}", revision="ea3f2471cf1b")' in text) == bool(revision)
        assert (f'from_pretrained("{BASE}")' in text) != bool(revision)
        assert (f"- base: {BASE} at ea3f2471cf1b\n" in text) == bool(revision)
