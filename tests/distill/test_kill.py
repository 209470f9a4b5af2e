"""A whole run by the command line with a paid teacher, killed at ten random points: nothing is paid or lost twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from router.ledger import Ledger
from specialists.domain import items, load

from ..router.claude_server import ClaudeServer
from .teachers import BAD, GOOD, solution

NAME = "scheduling:half-hour"
POINTS = 10


def respond() -> Any:
    """What an apt teacher says to the Messages API."""
    domain = load(NAME)
    known = [*items(domain, "train", 60), *items(domain, "dev", 30), *items(domain, "test", 20)]
    by_question = {task.question: task for task in known}

    def answer(body: dict[str, Any]) -> str:
        system, text = body["system"][0]["text"], body["messages"][0]["content"]
        if system.startswith("You write strategies"):
            return GOOD if BAD[0] in text or "n2" in text else BAD[0]
        if system.startswith("You keep the journal"):
            return json.dumps({"marks": [], "notes": [f"Write times down, {len(text) % 97}."]})
        return solution(domain, by_question[text], system)

    return answer


def start(server: ClaudeServer, home: Path, base: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "router.cli", "distill", "run", NAME, "--teacher", "claude", "--batches"]
    command += ["--base", str(base), "--out", str(out), "--examples", "4", "--problems", "20", "--dev", "30"]
    command += ["--checks", "0", "-n", "4", "--epochs", "2", "--rank", "2", "--budget", "5"]
    env = {**os.environ, "ROUTER_HOME": str(home), "ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": server.url}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()


def kill(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_at_ten_random_points(tiny_base: Path, tmp_path: Path) -> None:
    with ClaudeServer(respond()) as server:
        finish(start(server, tmp_path / "home-whole", tiny_base, tmp_path / "whole"))
        asked, events = server.billed.copy(), sum(server.seen.values())
    assert set(asked.values()) == {1} and len(asked) > 40
    rng = random.Random(7)
    points = sorted(rng.sample(range(events), POINTS - 2))
    with ClaudeServer(respond()) as server:
        for point in points:  # after so many requests in all, and a moment
            process = start(server, tmp_path / "home", tiny_base, tmp_path / "out")
            while sum(server.seen.values()) <= point and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.2))
            kill(process)
        for _ in range(2):  # once nothing is asked any more
            process = start(server, tmp_path / "home", tiny_base, tmp_path / "out")
            while not (tmp_path / "out" / "4-examples.json").exists() and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(1, 8))
            kill(process)
        finish(start(server, tmp_path / "home", tiny_base, tmp_path / "out"))
        assert server.billed == asked
    for name in ("data/examples.jsonl", "strategy/strategy.json", "strategy/strategy.md"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    weights = "train/specialist/adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    charges, damaged = Ledger(tmp_path / "home" / "ledger.jsonl").charges()
    assert len(charges) == len(asked) and damaged == 0
    stages = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]
    assert sum(stage["calls"] for stage in stages) == len(asked)
    assert sum(stage["dollars"] for stage in stages) == pytest.approx(
        sum(charge.dollars for charge in charges)
    )
