"""A crowd of clients who ask, leave, send nonsense, and change what is registered, all at once.

Every answer is compared with what its adapter writes alone, in float32, where neighbours change nothing.
"""

from __future__ import annotations

import gc
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import psutil
import pytest

from registry.card import Card
from registry.store import Store
from registry.version import sha256
from router import ask
from router.engine.base import find_base
from router.engine.engine import Engine
from router.prompting import ask_base, ask_specialist
from router.serving.local import Local

KEY = "a" * 16
NAMES = ("reds", "greens", "blues", "browns")
VERSIONS = ("1.0.0", "1.1.0")  # of each name, with weights of their own
QUESTIONS = ("What is warm?", "Which is it?", "And the other one, the one that was named last?")
LENGTH = 24
CLIENTS = 8


def publish(folder: Path, name: str, version: str, base: Path) -> None:
    card = Card(
        name=name, version=version, description=name, base=str(base), base_weights="unknown",
        adapter=sha256(folder / "adapter_model.safetensors"), prompt="plain", parser="answer_line",
        exemplars=(f"What about {name}?",),
    )  # fmt: skip
    Store().publish(folder, card)


class Crowd:
    """Clients of one server. expected: (ref or "base", question) -> text."""

    def __init__(self, url: str, expected: dict[tuple[str, str], str], folders: dict[str, Path]) -> None:
        self.url, self.expected, self.folders = url, expected, folders
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, seconds: float, seed: int) -> None:
        """One client, for so long."""
        rng = Random(seed)
        end = time.monotonic() + seconds
        with httpx2.Client(
            base_url=self.url, timeout=60, headers={"Authorization": f"Bearer {KEY}"}
        ) as client:
            while time.monotonic() < end:
                act = rng.choices(
                    [self.whole, self.stream, self.leave, self.nonsense, self.change], [40, 30, 20, 8, 2]
                )[0]
                try:
                    act(client, rng)
                except Exception as error:
                    self.fault(f"{act.__name__}: {error!r}")
                self.count(act.__name__)

    def whole(self, client: httpx2.Client, rng: Random) -> None:
        model, body = self.body(rng)
        found = client.post("/v1/chat/completions", json=body)
        if found.status_code == 404 and model.partition("@")[0] == NAMES[-1]:
            return self.count("not there")
        said = found.json()
        if found.status_code != 200:
            return self.fault(f"{model}: {found.status_code} {said}")
        self.compare(said["model"], model, body, said["choices"][0]["message"]["content"])

    def stream(self, client: httpx2.Client, rng: Random) -> None:
        self.read(client, rng, None)

    def leave(self, client: httpx2.Client, rng: Random) -> None:
        self.read(client, rng, rng.randrange(12))

    def read(self, client: httpx2.Client, rng: Random, most: int | None) -> None:
        model, body = self.body(rng)
        with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as found:
            if found.status_code == 404 and model.partition("@")[0] == NAMES[-1]:
                return self.count("not there")
            if found.status_code != 200:
                found.read()
                return self.fault(f"{model}: {found.status_code} {found.text}")
            text, who, ended = "", "", False
            for count, line in enumerate(line for line in found.iter_lines() if line.startswith("data: ")):
                if most is not None and count >= most:
                    return
                if line == "data: [DONE]":
                    ended = True
                    break
                chunk = httpx2.Response(200, text=line[6:]).json()
                if "error" in chunk and chunk["error"]["code"] == "notfound" and model == NAMES[-1]:
                    return self.count("gone while it waited")
                if "error" in chunk:
                    return self.fault(f"{model}: {chunk}")
                who = chunk["model"]
                text += chunk["choices"][0]["delta"].get("content") or ""
        if not ended:
            return self.fault(f"{model}: its stream had no end")
        self.compare(who, model, body, text)

    def nonsense(self, client: httpx2.Client, rng: Random) -> None:
        body = rng.choice(
            [b"", b"{", b'{"messages": []}', b'{"messages": [{"role": "user", "content": " "}]}', b"\xff"]
        )
        found = client.post(
            "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
        if found.status_code != 400:
            self.fault(f"nonsense was answered {found.status_code}")

    def change(self, client: httpx2.Client, rng: Random) -> None:
        """Take the last name away, or bring one of its versions."""
        if rng.random() < 0.5:
            found = client.delete(f"/specialists/{NAMES[-1]}")
        else:
            folder = self.folders[f"{NAMES[-1]}@{rng.choice(VERSIONS)}"]
            found = client.post("/specialists", json={"path": str(folder)})
        if found.status_code not in (200, 201, 404):
            self.fault(f"changing: {found.status_code} {found.text}")

    def body(self, rng: Random) -> tuple[str, dict[str, Any]]:
        name = rng.choice([*NAMES, "base"])
        if name not in ("base", NAMES[-1]) and rng.random() < 0.5:
            name += f"@{rng.choice(VERSIONS)}"
        message = {"role": "user", "content": rng.choice(QUESTIONS)}
        return name, {"model": name, "max_tokens": LENGTH, "messages": [message]}

    def compare(self, who: str, model: str, body: dict[str, Any], text: str) -> None:
        if who.partition("@")[0] != model.partition("@")[0] or ("@" in model and who != model):
            self.fault(f"{model} was answered by {who}")
        elif text != self.expected[who, body["messages"][0]["content"]]:
            self.fault(f"{who} wrote what it does not write alone: {text!r}")
        self.count("compared")

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def fault(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)


@pytest.fixture
def soak(
    start: Any,
    tiny_base: Path,
    tiny_adapter: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[float], Counter[str]]:
    def exact() -> Engine:
        return Engine(
            find_base(str(tiny_base)), dtype="float32", adapter_bytes=60_000
        )  # room for some of them

    monkeypatch.setattr(ask, "open_engine", lambda *_: exact())
    Store().unregister("colours")
    folders: dict[str, Path] = {}
    for name in NAMES:
        for number in VERSIONS:
            publish(tiny_adapter(f"{name}-{number}"), name, number, tiny_base)
            version = Store().resolve(f"{name}@{number}")
            folders[version.ref] = tmp_path / "copies" / version.ref
            folders[version.ref].parent.mkdir(exist_ok=True)
            shutil.copytree(version.path, folders[version.ref])
    alone = exact()
    expected: dict[tuple[str, str], str] = {}
    for question in QUESTIONS:
        asked = ask_base([{"role": "user", "content": question}], LENGTH)
        expected["base", question] = alone.generate([asked])[0].text
        for ref in folders:
            version = Store().resolve(ref)
            alone.add(ref, version.path)
            expected[ref, question] = alone.generate([ask_specialist(version, question, LENGTH)])[0].text
    assert len(set(expected.values())) > len(expected) / 2, "the adapters cannot be told apart"

    def run(seconds: float) -> Counter[str]:
        (tmp_path / "keys").write_text(f"ops: {{key: {KEY}, admin: true}}")
        running = start(tmp_path / "keys", backend=Local(rows=16, queue=8 * CLIENTS))
        engine = running.backend.scheduler.engine
        crowd = Crowd(running.url, expected, folders)
        process = psutil.Process()
        crowd.run(min(2.0, seconds / 3), seed=99)
        before, threads = process.memory_info().rss, threading.active_count()
        with ThreadPoolExecutor(CLIENTS) as pool:
            for each in [pool.submit(crowd.run, seconds, seed) for seed in range(CLIENTS)]:
                each.result()
        end = time.monotonic() + 10
        while (load := running.backend.load()).waiting + load.under_way and time.monotonic() < end:
            time.sleep(0.02)
        gc.collect()
        assert Counter(crowd.wrong) == {}
        assert (load.waiting, load.under_way) == (0, 0), "a place was not freed"
        records = engine.residency._records.values()
        assert all((record.held, record.used) == (0, 0) for record in records), "an adapter is held"
        assert threading.active_count() <= threads + 6  # the event loop has a pool of six
        assert process.memory_info().rss < before + (200 << 20)
        return crowd.counts

    return run


def test_nothing_is_wrong_lost_or_leaked(soak: Callable[[float], Counter[str]]) -> None:
    counts = soak(6.0)
    assert counts["compared"] > 50 and counts["leave"] > 5 and counts["nonsense"] and counts["change"], counts


@pytest.mark.slow
def test_nothing_is_wrong_lost_or_leaked_in_ten_minutes(soak: Callable[[float], Counter[str]]) -> None:
    counts = soak(600.0)
    print(dict(counts))
    assert counts["compared"] > 5000
