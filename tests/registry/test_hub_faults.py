"""What can happen to a pull: killed, no space, two at once, a very large adapter; and PEFT alone reads what came."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.card import Card
from registry.server import HubServer
from registry.store import Store, Version, verify

ID = "acme/rooms"
ROOT = Path(__file__).parents[2]

PULL = """
import sys
from pathlib import Path
from registry.pull import pull
from registry.store import Store
from specialists.errors import RouterError

try:
    print(pull(Store(Path(sys.argv[1])), sys.argv[2]).ref)
except RouterError as error:
    sys.exit(str(error))
"""
PUBLISH = """
import sys
from pathlib import Path
from registry.hub import Hub
from registry.store import Store

print(Hub(sys.argv[2]).publish(Store(Path(sys.argv[1])).resolve("rooms"), {}))
"""


@pytest.fixture
def environment(server: HubServer, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "any",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def rooms(
    store: Store, adapter: Path, make_card: Callable[..., Card], environment: dict[str, str]
) -> Version:
    """rooms@1.0.0, in the store and on the Hub."""
    version = store.publish(adapter, make_card(adapter, name="rooms"))
    assert run(PUBLISH, environment, store.home).returncode == 0
    return version


def run(
    script: str, environment: dict[str, str], home: Path, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    def small_files() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-c", script, str(home), ID]
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=small_files,
    )


@pytest.mark.parametrize("points", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_points(
    points: int, rooms: Version, environment: dict[str, str], tmp_path: Path
) -> None:
    """Never half a version: killed at any time, the store has it whole or not at all, and the next pull brings it."""
    home = tmp_path / "other"
    started = time.monotonic()
    assert run(PULL, environment, home).returncode == 0
    whole = time.monotonic() - started
    rng = random.Random(0)
    for _ in range(points):
        shutil.rmtree(home)
        shutil.rmtree(environment["HF_HOME"])
        command = [sys.executable, "-c", PULL, str(home), ID]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(whole * rng.uniform(0.3, 1.1))
            process.kill()
        for version in Store(home, bundled=tmp_path / "bundled").list():
            verify(version)
        done = run(PULL, environment, home)
        assert done.stdout == "rooms@1.0.0\n", done.stderr
        verify(Store(home, bundled=tmp_path / "bundled").resolve("rooms"))


def test_two_pulls_at_once(rooms: Version, environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PULL, str(tmp_path / "other"), ID]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["rooms@1.0.0\n"] * 2
    store = Store(tmp_path / "other", bundled=tmp_path / "bundled")
    assert [event.action for event in store.histories.read("rooms")] == ["publish"]


def test_no_space(rooms: Version, environment: dict[str, str], tmp_path: Path) -> None:
    """Files may not grow beyond a few hundred bytes, as on a full disk: one sentence, and nothing is left."""
    done = run(PULL, environment, tmp_path / "other", limit=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "acme/rooms" in done.stderr
    assert Store(tmp_path / "other", bundled=tmp_path / "bundled").list() == []
    assert run(PULL, environment, tmp_path / "other").stdout == "rooms@1.0.0\n"


@pytest.mark.slow
def test_two_hundred_megabytes(
    store: Store, environment: dict[str, str], make_card: Callable[..., Card], tmp_path: Path
) -> None:
    """By plain LFS, in blocks: neither side holds it all in memory more than a few times."""
    from benchmarks.hub import adapter as large

    folder = large(tmp_path / "large", 200)
    card = make_card(folder, name="rooms")
    version = store.publish(folder, card)
    done = run(PUBLISH, environment, store.home)
    assert done.returncode == 0, done.stderr
    assert run(PULL, environment, tmp_path / "other").stdout == "rooms@1.0.0\n"
    came = Store(tmp_path / "other", bundled=tmp_path / "bundled").resolve("rooms")
    verify(came)
    assert came.manifest == version.manifest


@pytest.mark.slow
def test_peft_alone_loads_it(
    environment: dict[str, str],
    tiny_base: Path,
    tiny_adapter: Callable[..., Path],
    make_card: Callable[..., Card],
    store: Store,
) -> None:
    """`PeftModel.from_pretrained` by id and tag, as the model card says; the base's revision is no obstacle."""
    folder = tiny_adapter("colours")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"revision": "main"}))
    store.publish(folder, make_card(folder, name="rooms"))
    assert run(PUBLISH, environment, store.home).returncode == 0
    script = f"""
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({str(tiny_base)!r})
print(PeftModel.from_pretrained(base, {ID!r}, revision="v1.0.0").peft_config["default"].revision)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "main", done.stderr[-500:]
