"""Beginnings of prompts kept: found by the adapter's bytes and the tokens only, and no answer is changed by them."""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.engine.base import find_base
from router.engine.cache import Cache, Layer
from router.engine.engine import Engine
from router.engine.prefix import KNOWN, SHARE_FROM, PrefixCache, common
from router.engine.request import Request
from router.engine.scheduler import Scheduler

WAIT = 120.0  # seconds after which a test fails instead of hanging
TOKEN = 2 * 2 * 4  # bytes that a token takes in `cache`
SYSTEM = "You answer questions of this one kind, step by step."

Make = Callable[..., Path]
Swap = Callable[[Engine, Path, Make], None]


def cache(adapter: str | None, tokens: Sequence[int]) -> Cache:
    """A cache of one layer, from which can be read whose it is: keys and values [1, 1, tokens, 2]."""
    rows = torch.tensor([[float(token), float(len(adapter or ""))] for token in tokens])
    return [Layer(rows[None, None], -rows[None, None])]


def is_of(found: Cache | None, adapter: str | None, tokens: Sequence[int]) -> bool:
    """Whether a cache begins with those of these tokens."""
    assert found is not None
    (layer,), (right,) = found, cache(adapter, tokens)
    assert layer.keys is not None and right.keys is not None and layer.values is not None
    keys, values = layer.keys[:, :, : len(tokens)], layer.values[:, :, : len(tokens)]
    return torch.equal(keys, right.keys) and torch.equal(values, -right.keys)


# The cache by itself.

PROMPT = st.tuples(st.lists(st.integers(0, 1), max_size=3), st.integers(0, 30)).map(
    lambda parts: [token for block in parts[0] for token in [block] * 20] + [2] * parts[1]
)


@given(
    st.lists(st.tuples(st.sampled_from([None, "a", "bb"]), PROMPT, st.sampled_from("kwwff!")), max_size=40)
)
def test_what_is_found_is_of_this_adapter_and_these_tokens(steps: list[Any]) -> None:
    held = PrefixCache(budget=200 * TOKEN)
    kept: dict[str | None, list[list[int]]] = {}
    hits = saved = 0
    for adapter, prompt, step in steps:
        if step == "!":
            held.forget(adapter)
            kept.pop(adapter, None)
        elif step == "f":
            tokens, found = held.find(adapter, prompt)
            best = max((common(one, prompt, len(prompt) - 1) for one in kept.get(adapter, [])), default=0)
            assert tokens == 0 or SHARE_FROM <= tokens <= best
            assert (found is not None) == (tokens > 0)
            if tokens:
                assert is_of(found, adapter, prompt[:tokens])
                hits, saved = hits + 1, saved + tokens
        else:
            held.keep(adapter, prompt, cache(adapter, prompt), whole=step == "w")
            kept.setdefault(adapter, []).append(prompt)
        entries = list(held._entries)
        assert held.bytes == sum(entry.bytes for entry in entries) <= held.budget
        assert held.bytes == TOKEN * sum(len(entry.tokens) for entry in entries)
        assert sorted(map(id, entries)) == sorted(id(one) for of in held._of.values() for one in of)
    assert (held.hits, held.tokens_saved) == (hits, saved)


def test_the_least_recently_used_goes_first() -> None:
    held = PrefixCache(budget=2 * 20 * TOKEN)
    prompts = {name: [index] * 21 for index, name in enumerate("abc")}
    for name in "ab":
        held.keep(name, prompts[name][:20], cache(name, prompts[name][:20]))
    assert held.find("a", prompts["a"])[0] == 20
    held.keep("c", prompts["c"][:20], cache("c", prompts["c"][:20]))
    assert [held.find(name, prompts[name])[0] for name in "abc"] == [20, 0, 20]
    held.keep("b", [9] * 41, cache("b", [9] * 41))  # more than there is room for: others stay
    assert [held.find(name, prompts[name])[0] for name in "abc"] == [20, 0, 20] and len(held) == 2
    held.forget("a")
    assert [held.find(name, prompts[name])[0] for name in "abc"] == [0, 0, 20]
    assert held.bytes == 20 * TOKEN


def test_what_is_held_is_not_kept_again() -> None:
    held = PrefixCache()
    for tokens in (40, 40, 30):
        held.keep("a", [1] * tokens, cache("a", [1] * tokens))
    assert len(held) == 1 and held.bytes == 40 * TOKEN
    held.keep("b", [1] * 30, cache("b", [1] * 30))
    held.keep("a", [1] * 50, cache("a", [1] * 50))
    assert len(held) == 3 and held.find("a", [1] * 60)[0] == 50


def test_without_a_budget_nothing_is_kept() -> None:
    held = PrefixCache(budget=0)
    held.keep("a", [1] * 20, cache("a", [1] * 20))
    held.note("a", [[1] * 20])
    assert len(held) == held.bytes == 0 and held.worth("a", [[1] * 21], [0]) is None


def test_a_whole_prompt_is_cut_where_the_next_one_differs() -> None:
    held = PrefixCache()
    whole = [1] * 30 + [2] * 50
    held.keep("a", whole, cache("a", whole), whole=True)
    assert (
        held.find("a", [1] * 10 + [3] * 60) == (0, None) and held.bytes == 80 * TOKEN
    )  # too little in common
    tokens, found = held.find("a", [1] * 30 + [3] * 9)
    assert tokens == 30 and is_of(found, "a", [1] * 30) and held.bytes == 30 * TOKEN
    assert held.find("a", whole)[0] == 30  # what was cut off is gone
    assert held.find("a", [1] * 30)[0] == 29  # one token is left to go on from
    assert held.find("a", [1] * 20)[0] == 19 and held.bytes == 30 * TOKEN  # cut once only
    assert held.find("other", whole) == (0, None) and held.find(None, whole) == (0, None)


def test_what_several_prompts_share_is_worth_computing_once() -> None:
    held = PrefixCache()
    long, short = [1] * 40, [1] * 20
    prompts = [[*long, 5], [*long, 6], [*short, 7]]
    assert held.worth("a", prompts, [0, 0, 0]) == (2, 20)
    assert held.worth("a", prompts, [20, 20, 20]) == (0, 40)
    assert held.worth("a", prompts, [40, 40, 20]) is None
    assert held.worth("a", prompts[:1], [0]) is None
    held.note("a", prompts)
    assert held.worth("a", [[*long, 9]], [0]) == (0, 40)
    assert held.worth("b", [[*long, 9]], [0]) is None
    held.forget("a")
    assert held.worth("a", [[*long, 9]], [0]) is None
    for index in range(2 * KNOWN):
        held.note(str(index), [long])
    assert len(held._recent) == KNOWN


@given(st.lists(st.integers(0, 1), max_size=20), st.lists(st.integers(0, 1), max_size=20), st.integers(0, 25))
def test_common_counts_to_the_first_difference(one: list[int], other: list[int], most: int) -> None:
    count = common(array("q", one), array("q", other), most)
    assert one[:count] == other[:count]
    assert count == min(len(one), len(other), most) or one[count] != other[count]


# In an engine.


@pytest.fixture(scope="module")
def engines(tiny_base: Path) -> tuple[Engine, Engine]:
    """One that keeps beginnings, in little room, and one that does not."""
    base = find_base(str(tiny_base))
    return Engine(base, dtype="float32", prefix_bytes=1 << 17), Engine(base, dtype="float32", prefix_bytes=0)


def ask(question: str, adapter: str | None, most: int = 8, system: str = SYSTEM) -> Request:
    turns = [{"role": "system", "content": system}] if system else []
    return Request([*turns, {"role": "user", "content": question}], adapter, most)


BEGINNINGS = ["", SYSTEM, SYSTEM + " The kind is colours.", "Another text that nobody else begins with."]
QUESTIONS = ["hi", "Which of these colours is the warmest?", "Which of these colours is the coldest of all?"]


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(BEGINNINGS), st.sampled_from(QUESTIONS), st.sampled_from(["one", "two", None])
            ),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_are_the_same_with_and_without(
    engines: tuple[Engine, Engine], tiny_adapter: Make, calls: list[Any]
) -> None:
    for engine in engines:
        for name, rank in (("one", 4), ("two", 2)):
            if name not in engine.adapters:
                engine.add(name, tiny_adapter(name, rank=rank, scale=0.6))
    keeping, plain = engines
    for call in calls:
        requests = [ask(question, adapter, 6, system) for system, question, adapter in call]
        assert [one.text for one in keeping.generate(requests)] == [
            one.text for one in plain.generate(requests)
        ]
    assert keeping.prefixes.bytes <= 1 << 17 and len(plain.prefixes) == plain.prefixes.hits == 0


def test_tokens_saved_are_tokens_not_computed(
    tiny_base: Path, tiny_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    for budget in (1 << 20, 0):
        engine = Engine(find_base(str(tiny_base)), dtype="float32", prefix_bytes=budget)
        engine.add("one", tiny_adapter("one", scale=0.6))
        logits, positions = engine.model.logits, 0

        def counted(ids: Any, *rest: Any, logits: Any = logits, **more: Any) -> Any:
            nonlocal positions
            positions += ids.numel()
            return logits(ids, *rest, **more)

        monkeypatch.setattr(engine.model, "logits", counted)
        for question in QUESTIONS:
            engine.generate([ask(question, "one", 1)])
        computed.append((positions, engine.prefixes.hits, engine.prefixes.tokens_saved))
    (less, hits, saved), (all_of_them, *none) = computed
    assert hits == 2 and saved > 2 * len(SYSTEM) and none == [0, 0]
    assert less + saved == all_of_them


class ByName(PrefixCache):
    """The fault of vllm#42125: adapters told apart by name, and nothing dropped when one is swapped."""

    def find(self, adapter: str | None, prompt: Sequence[int]) -> tuple[int, Cache | None]:
        return super().find(adapter and "name", prompt)

    def keep(self, adapter: str | None, tokens: Sequence[int], cache: Cache, *, whole: bool = False) -> None:
        super().keep(adapter and "name", tokens, cache, whole=whole)

    def forget(self, adapter: str | None) -> None:
        pass


def other_folder(engine: Engine, folder: Path, make: Make) -> None:
    engine.add("name", make("new", scale=0.9))


def same_folder(engine: Engine, folder: Path, make: Make) -> None:
    for path in make("new", scale=0.9).iterdir():
        shutil.copy(path, folder / path.name)
    engine.add("name", folder)


def removed_first(engine: Engine, folder: Path, make: Make) -> None:
    engine.remove("name")
    engine.add("name", make("new", scale=0.9))


def other_scale(engine: Engine, folder: Path, make: Make) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 1}))
    engine.add("name", folder)


@pytest.mark.parametrize("how", ["generate", "scheduler"])
@pytest.mark.parametrize("swap", [other_folder, same_folder, removed_first, other_scale])
def test_nothing_stale_after_an_adapter_is_swapped(
    tiny_base: Path, tiny_adapter: Make, swap: Swap, how: str
) -> None:
    """vllm#42125: keys and values of the old weights served under the new. The last of three engines has that fault."""
    base, said = find_base(str(tiny_base)), []
    for prefixes in (PrefixCache(), PrefixCache(0), ByName()):
        engine = Engine(base, dtype="float32")
        engine.prefixes = prefixes
        folder = tiny_adapter("name", scale=0.9)
        engine.add("name", folder)
        if how == "generate":
            before = [engine.generate([ask(question, "name")])[0].text for question in QUESTIONS]
            swap(engine, folder, tiny_adapter)
            after = [engine.generate([ask(question, "name")])[0].text for question in QUESTIONS]
        else:
            with Scheduler(engine) as scheduler:
                before = [scheduler.submit(ask(one, "name")).result(WAIT).text for one in QUESTIONS]
                waiting = [scheduler.submit(ask(one, "name")) for one in QUESTIONS]
                swap(engine, folder, tiny_adapter)
                after = [scheduler.submit(ask(one, "name")).result(WAIT).text for one in QUESTIONS]
                assert [ticket.result(WAIT).text for ticket in waiting] == before
        said.append((before, after))
        assert (prefixes.hits > 0) == (prefixes.budget > 0)
    right, without, by_name = said
    assert right == without and right[0] != right[1]
    assert by_name[0] == right[0] and by_name[1] != right[1]  # this test would show it


def test_forgotten_with_its_adapter_and_kept_while_that_is_only_out_of_memory(
    tiny_base: Path, tiny_adapter: Make
) -> None:
    engine = Engine(find_base(str(tiny_base)), dtype="float32", adapter_bytes=1)  # one at a time
    for name in ("one", "two"):
        engine.add(name, tiny_adapter(name, scale=0.6))
    for question in QUESTIONS[:2]:
        engine.generate([ask(question, "one")])
    held = engine.prefixes.bytes
    assert held and engine.prefixes.hits == 1
    engine.generate([ask("x", "two", 1, "")])
    assert engine.adapters["one"] not in engine.residency.resident
    loads = engine.residency.loads
    engine.generate([ask(QUESTIONS[2], "one")])
    assert engine.prefixes.hits == 2 and engine.residency.loads == loads + 1
    for name in ("one", "two"):
        engine.remove(name)
    engine.generate([ask("x", None, 1, "")])
    assert not [adapter for adapter in engine.prefixes._entries.values() if adapter is not None]
